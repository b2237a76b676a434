"""Rates of sites, and how well they are read, by expectation and maximisation (Baum and Welch) over many sites.

Sites of one group share the two rates. How often a column is seen where there is one, and where there is none,
belongs to each site: shared in a pool of like sites, shrunk towards it as far as sites of the pool truly differ.
A site may be static: always occupied, or always empty. How likely that is follows from what was seen of all sites of
its stratum, so that sites that never change neither dilute a rate nor are taken for movers by a misread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import betainc, betaincc, betaln, gammaln, logsumexp

from .hmm import Moves, Smoothed, filter_odds, log_evidence, moves, path_moments
from .occupancy_model import (
    Chain,
    Fit,
    Reading,
    Record,
    Totals,
    count_marks,
    evidence_of,
    log_marks_of_empty,
    smooth_record,
    step_of,
)

__all__ = ["expectations", "fastest", "fit_chain", "kinds_of", "majority", "profile_rates", "shrunk", "start_chain"]

#: bounds of what is estimated: a column that is there is seen more often than not, one that is not seldom
TPR_BOUNDS, FPR_BOUNDS = (0.6, 1 - 1e-6), (1e-6, 0.2)
#: steps whose moves are held at once
SLAB = 64
#: least rate: so many events in the time that sites could have shown one; and what a guess of a rate weighs
LEAST_EVENTS = 0.3
#: highest rate, in the shortest gap between frames: what changes faster cannot be told from misreads
MOST_CHANGES = 0.2
#: part of the static sites that are read as no other site is: weak columns, and places where columns are invented often
ODD = 0.03
#: how many columns the mean shares of marks are worth, for those of such a site
OWN_MARKS = 8.0


def expectations(records: Sequence[Record], chain: Chain) -> Totals:
    """Sum what is expected of every site over all frames."""
    sites, marks = len(chain.tpr), chain.marks.shape[2]
    out = Totals(*(np.zeros((sites, marks) if n in ("marks", "marked") else sites) for n in Totals._fields))
    for record in records:
        at, seen = record.site, record.seen
        done, group, step = smooth_record(record, chain), chain.group[record.site], step_of(record, chain)
        means = path_moments(record.gaps[:, None], chain.appear[group], chain.disappear[group])
        moved = _moved(done, step, record.which)
        for total, mean in zip(out[:3], means, strict=True):
            total[at] += (moved * mean).sum((0, 1, 2))
        out.duration[at] += record.time[-1] - record.time[0]
        ones, known = record.looks
        hits, on = (np.einsum("ts,ts->s", mask, done.occupied) for mask in (ones, known))
        out.hits[at] += hits
        out.on[at] += on
        out.falses[at] += ones.sum(0) - hits
        out.off[at] += known.sum(0) - on
        out.marks[at] += count_marks(record, marks)
        out.marked[at] += count_marks(record, marks, done.occupied)
        out.first[at] += done.occupied[0]
        out.begins[at] += 1
        empty = log_evidence(seen, chain.fpr[at]) + log_marks_of_empty(record, chain)
        out.log_empty[at] += empty
        out.log_full[at] += log_evidence(seen, chain.tpr[at]) + log_marks_of_empty(record, chain)
        out.log_mobile[at] += done.log_likelihood + empty
    there = (out.marks * np.log(chain.marks[1] / chain.marks[0])[chain.pool]).sum(1)
    marked = log_any_marks(out.marks, chain)
    odd = [o + marked for o in log_odd(out.hits + out.falses, out.on + out.off)]
    usual = np.logaddexp(out.log_full + there, out.log_empty) + np.log((1 - ODD) / ODD)
    return out._replace(log_full=_either(out.log_full + there, odd[0]), log_empty=_either(out.log_empty, odd[1]),
                        odd=np.logaddexp(*odd) - usual)


def log_odd(ones: np.ndarray, looks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood of static sites read with an unknown probability, above and below a half (uniform there).

    Examples
    --------
    A site that shows a column in 40 of 100 looks is hardly one with a column.

    >>> full, empty = log_odd(np.array([40.0]), np.array([100.0]))
    >>> round(float(empty[0] - full[0]), 1)
    3.7
    """
    a, b = ones + 1, looks - ones + 1
    whole = betaln(a, b) + np.log(2)
    return (whole + np.log(np.maximum(betaincc(a, b, 0.5), 1e-300)),
            whole + np.log(np.maximum(betainc(a, b, 0.5), 1e-300)))


def log_any_marks(marks: np.ndarray, chain: Chain) -> np.ndarray:
    """Log-likelihood (site,) of marks whose shares are a site's own.

    The shares are integrated over a Dirichlet prior about the mean of all sites of the pool.
    """
    pools = chain.marks.shape[1]
    mean = np.full((pools, marks.shape[1]), 0.5)
    np.add.at(mean, chain.pool, marks)
    prior = (OWN_MARKS * mean / mean.sum(1, keepdims=True))[chain.pool]
    return gammaln(prior.sum(1)) - gammaln((prior + marks).sum(1)) + (gammaln(prior + marks) - gammaln(prior)).sum(1)


def _either(usual: np.ndarray, odd: np.ndarray) -> np.ndarray:
    return np.logaddexp(np.log(1 - ODD) + usual, np.log(ODD) + odd)


def _moved(done: Smoothed, step: Moves, which: np.ndarray) -> np.ndarray:
    """Steps expected (before, after, gap, site), summed over those of each gap."""
    out = np.zeros((2, 2, len(step.appear), done.occupied.shape[1]))
    for first in range(0, len(which), SLAB):
        part = slice(first, first + SLAB)
        moved = done.moved(step, which, part)
        for gap in np.unique(which[part]):
            out[:, :, gap] += moved[:, :, which[part] == gap].sum(2)
    return out


def kinds_of(totals: Totals, chain: Chain) -> tuple[np.ndarray, np.ndarray]:
    """Probability (3, site) of each kind, and the log-likelihood (site,) of what was seen."""
    with np.errstate(divide="ignore"):
        logs = np.log(chain.shares[chain.stratum].T) + np.stack([totals.log_mobile, totals.log_full, totals.log_empty])
    all_kinds = logsumexp(logs, axis=0)
    return np.exp(logs - all_kinds), all_kinds


def start_chain(records: Sequence[Record], reading: Reading, group: np.ndarray, stratum: np.ndarray,
                shares: np.ndarray) -> Chain:
    """First guess of the parameters: a column is there where most of five frames show it."""
    sites, groups = len(reading.pool), int(group.max()) + 1
    sums = np.zeros((6, sites))  # hits, on, falses, off, time, changes
    marks = max((int(r.mark.max()) + 1 for r in records if r.mark is not None and r.mark.size), default=1)
    marked = np.zeros((2, sites, marks))
    for record in records:
        state = majority(record.seen)
        known, ones = record.seen >= 0, record.seen == 1
        for row, part in enumerate((ones & state, known & state, ones & ~state, known & ~state)):
            sums[row, record.site] += part.sum(0)
        sums[4, record.site] += record.time[-1] - record.time[0]
        sums[5, record.site] += (state[1:] != state[:-1]).sum(0)
        for there in (0, 1):
            marked[there, record.site] += count_marks(record, marks, state == there)
    changes, time = (np.bincount(group, row, groups) for row in (sums[5], sums[4]))
    rate = (changes + 1) / np.maximum(time, 1e-9)
    chain = Chain(rate, rate.copy(), np.full(sites, 0.9), np.full(sites, 0.05), shares,
                  np.full(len(shares), 0.5), group, stratum, reading.pool, _shares_of_marks(marked, reading.pool))
    return _read(chain, reading, *sums[:4])


def _shares_of_marks(count: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Shares (2, pool, mark) from counts (2, site, mark); a rare mark is never impossible."""
    pools, marks = int(pool.max()) + 1, count.shape[2]
    out = np.zeros((2, pools, marks))
    for there in (0, 1):
        np.add.at(out[there], pool, count[there])
    # towards the mean of both, with the weight of as many columns as there are marks
    mean = out.sum((0, 1)) + 0.5
    out += marks * mean / mean.sum()
    return out / out.sum(2, keepdims=True)


def majority(seen: np.ndarray, width: int = 5) -> np.ndarray:
    """Whether most known looks (frame, site) at a site in a few frames about each show a column."""
    score = np.where(seen == 1, 1, np.where(seen == 0, -1, 0)).astype(np.int32)
    padded = np.pad(score, ((width // 2 + 1, width // 2), (0, 0))).cumsum(0)
    return padded[width:] - padded[:-width] > 0


def _read(chain: Chain, reading: Reading, hits: np.ndarray, on: np.ndarray, falses: np.ndarray,
          off: np.ndarray) -> Chain:
    """Rates of detection by what was seen, and what is known of them."""
    new = []
    for count, looks, known, bounds in ((hits, on, reading.tpr, TPR_BOUNDS), (falses, off, reading.fpr, FPR_BOUNDS)):
        if known is not None and not np.isfinite(reading.trials):
            new.append(np.clip(known[reading.pool], 1e-6, 1 - 1e-6))
        else:
            new.append(np.clip(shrunk(count, looks, reading.pool, known, reading.trials), *bounds))
    return replace(chain, tpr=new[0], fpr=new[1])


def shrunk(count: np.ndarray, looks: np.ndarray, pool: np.ndarray, known: np.ndarray | None = None,
           trials: float = 0.0) -> np.ndarray:
    """Share of each site: that of its pool, and its own as far as sites differ by more than chance.

    How much they differ is found by moments of the beta-binomial distribution (Kleinman 1973,
    10.1080/01621459.1973.10481332).

    Examples
    --------
    >>> shrunk(np.array([90.0, 92, 91]), np.full(3, 100.0), np.zeros(3, int)).round(3).tolist()
    [0.909, 0.909, 0.909]
    >>> shrunk(np.array([990.0, 950, 700]), np.full(3, 1000.0), np.zeros(3, int)).round(2).tolist()
    [0.99, 0.95, 0.7]
    """
    pools = int(pool.max()) + 1
    before = np.zeros(pools) if known is None else known * trials
    weight = np.zeros(pools) if known is None else np.full(pools, trials)
    summed, looked = (np.bincount(pool, v, pools) for v in (count, looks))
    mean = (summed + before + 0.5) / (looked + weight + 1)
    m = mean[pool]
    enough = looks >= 10
    spread = np.where(enough, (count - looks * m) ** 2 / np.maximum(looks * m * (1 - m), 1e-12), 0)
    sites = np.bincount(pool, enough, pools)
    excess = np.bincount(pool, spread, pools) - sites
    like = np.where(excess > 2 * np.sqrt(2 * np.maximum(sites, 1)),
                    excess / np.maximum(np.bincount(pool, np.where(enough, looks - 1, 0), pools), 1), 0)[pool]
    like = np.clip(like, 0, 0.5)
    own = np.where(like > 0, looks * like / (1 - like + looks * like), 0)
    return m + own * (count / np.maximum(looks, 1e-12) - m)


def fit_chain(records: Sequence[Record], reading: Reading, *, group: np.ndarray | None = None,
              stratum: np.ndarray | None = None, shares: np.ndarray | None = None, start: Chain | None = None,
              rounds: int = 60, tolerance: float = 2e-3) -> Fit:
    """Find the most likely rates, readings and shares.

    Parameters
    ----------
    records : sequence of Record
        What was seen.
    reading : Reading
        What is known of detection.
    group, stratum : ndarray of int, shape (site,), optional
        Sites that share rates, and shares; by default all.
    shares : ndarray, shape (stratum, 3), optional
        First shares of the three kinds; where the first is 1 it stays: all sites can change. That is the default.
    start : Chain, optional
        Where to begin.
    rounds, tolerance
        Stop after so many, or once no rate moves by more than this part.

    Returns
    -------
    Fit
    """
    sites = len(reading.pool)
    group = np.zeros(sites, int) if group is None else group
    stratum = np.zeros(sites, int) if stratum is None else stratum
    shares = np.tile([1.0, 0, 0], (int(stratum.max()) + 1, 1)) if shares is None else np.asarray(shares, np.float64)
    chain = start_chain(records, reading, group, stratum, shares) if start is None else replace(start, shares=shares)
    for done in range(1, rounds + 1):
        totals = expectations(records, chain)
        kinds, logs = kinds_of(totals, chain)
        if done == rounds:
            break
        new = _improved(records, chain, totals, kinds, reading)
        change = max(np.abs(np.log(b / a)).max() for a, b in
                     ((chain.appear, new.appear), (chain.disappear, new.disappear)))
        if change < tolerance and np.abs(new.shares - chain.shares).max() < tolerance:
            break
        chain = new
    return Fit(chain, totals, kinds, float(logs.sum()), done)


def _improved(records: Sequence[Record], chain: Chain, totals: Totals, kinds: np.ndarray, reading: Reading) -> Chain:
    """One step of maximisation."""
    groups, can = len(chain.appear), kinds[0]
    up, down, on, time = (np.bincount(chain.group, can * v, groups)
                          for v in (totals.appeared, totals.disappeared, totals.occupied, totals.duration))
    least = LEAST_EVENTS / np.maximum(np.bincount(chain.group, totals.duration, groups), 1e-9)
    # of a state that is hardly ever taken the rate is that of both, as LEAST_EVENTS of them would say
    both = np.maximum((up + down) / np.maximum(time, 1e-9), least)
    most = fastest(records)
    appear = (up + LEAST_EVENTS) / (np.maximum(time - on, 0) + LEAST_EVENTS / both)
    disappear = (down + LEAST_EVENTS) / (np.maximum(on, 0) + LEAST_EVENTS / both)
    appear, disappear = (np.clip(v, least, np.maximum(most, least)) for v in (appear, disappear))
    ones, looks = np.zeros_like(can), np.zeros_like(can)
    for record in records:
        ones[record.site] += record.looks[0].sum(0)
        looks[record.site] += record.looks[1].sum(0)
    counts = (can * totals.hits + kinds[1] * ones, can * totals.on + kinds[1] * looks,
              can * totals.falses + kinds[2] * ones, can * totals.off + kinds[2] * looks)
    strata = len(chain.shares)
    number = np.maximum(np.bincount(chain.stratum, minlength=strata), 1)
    shares = np.stack([np.bincount(chain.stratum, k, strata) for k in kinds], axis=1) / number[:, None]
    shares = np.where(chain.shares[:, :1] == 1, chain.shares, shares)
    first, begins = (np.bincount(chain.stratum, can * v, strata) for v in (totals.first, totals.begins))
    marked = np.stack([can[:, None] * (totals.marks - totals.marked) + kinds[2][:, None] * totals.marks,
                       can[:, None] * totals.marked + kinds[1][:, None] * totals.marks])
    new = replace(chain, appear=appear, disappear=disappear, shares=shares, first=(first + 0.5) / (begins + 1),
                  marks=_shares_of_marks(marked, chain.pool))
    return _read(new, reading, *counts)


def fastest(records: Sequence[Record]) -> float:
    """Highest rate that is tried [1/second]."""
    return MOST_CHANGES / min((float(r.gaps.min()) for r in records if len(r.gaps)), default=np.inf)


def profile_rates(records: Sequence[Record], chain: Chain, totals: Totals, scales: np.ndarray) -> np.ndarray:
    """Log-likelihood (point, group) where both rates of a group are multiplied by scales (point, group).

    The ratio of the two rates stays: of events that are all seen, their number tells the scale, and how many were
    of which kind the ratio, independently.
    """
    logs = np.zeros((len(scales), len(chain.tpr)))
    factor = scales[:, chain.group]
    for record in records:
        at = record.site
        group = chain.group[at]
        ratio = evidence_of(record, chain)
        step = moves(record.gaps[:, None, None], factor[:, at] * chain.appear[group],
                     factor[:, at] * chain.disappear[group])
        first = chain.start(at)
        start = np.broadcast_to(ratio[0] * first, (len(scales), len(at)))
        _, log = filter_odds(ratio[1:], step, record.which, start, keep=False)
        logs[:, at] += log + np.log((1 + ratio[0] * first) / (1 + first)) + log_evidence(record.seen, chain.fpr[at])
        logs[:, at] += log_marks_of_empty(record, chain)
    with np.errstate(divide="ignore"):
        shares = np.log(chain.shares[chain.stratum].T)
    static = np.logaddexp(shares[1] + totals.log_full, shares[2] + totals.log_empty)
    logs = np.logaddexp(shares[0] + logs, static)
    return np.stack([np.bincount(chain.group, row, scales.shape[1]) for row in logs])
