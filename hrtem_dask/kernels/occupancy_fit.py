"""Rates of sites, and how well they are read, by expectation and maximisation (Baum and Welch) over many sites.

Sites of one group share the two rates. How often a column is seen where there is one, and where there is none,
belongs to each site: shared in a pool of like sites, shrunk towards it as far as sites of the pool truly differ.
A site may be static: always occupied, or always empty. How likely that is follows from what was seen of all sites of
its stratum, so that sites that never change neither dilute a rate nor are taken for movers by a misread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from .hmm import Moves, Smoothed, filter_odds, likelihood_ratio, log_evidence, moves, path_moments, smooth

__all__ = ["Chain", "Fit", "Reading", "Record", "Totals", "expectations", "fit_chain", "majority", "profile_rates",
           "start_chain"]

#: bounds of what is estimated: a column that is there is seen more often than not, one that is not seldom
TPR_BOUNDS, FPR_BOUNDS = (0.5, 1 - 1e-6), (1e-6, 0.35)
#: steps whose moves are held at once
SLAB = 64
#: least rate: so many events in the time that sites could have shown one; and what a guess of a rate weighs
LEAST_EVENTS = 0.3


@dataclass(frozen=True)
class Record:
    """What was seen of some sites in the frames of one stretch (an epoch) of the movie.

    Attributes
    ----------
    seen : ndarray of int8, shape (frame, site)
        1 a column, 0 none, -1 unknown.
    time : ndarray, shape (frame,)
        Increasing [second].
    site : ndarray of int, shape (site,)
        Which of all sites these are.
    """

    seen: np.ndarray
    time: np.ndarray
    site: np.ndarray
    gaps: np.ndarray = field(init=False)
    which: np.ndarray = field(init=False)

    @cached_property
    def looks(self) -> tuple[np.ndarray, np.ndarray]:
        """Where (frame, site) a column was seen, and where something is known; as numbers, to be summed."""
        return (self.seen == 1).astype(np.float64), (self.seen >= 0).astype(np.float64)

    def __post_init__(self) -> None:
        """Find the different gaps between frames."""
        gaps, which = np.unique(np.diff(self.time).round(9), return_inverse=True)
        object.__setattr__(self, "gaps", gaps)
        object.__setattr__(self, "which", which)


@dataclass(frozen=True)
class Reading:
    """What is known of detection.

    Attributes
    ----------
    pool : ndarray of int, shape (site,)
        Sites of one pool are alike.
    tpr, fpr : ndarray, shape (pool,), optional
        Probability to see a column where there is one, and where there is none.
    trials : float
        How many looks these were measured with: they count beside those of the movie itself; inf fixes them.
    """

    pool: np.ndarray
    tpr: np.ndarray | None = None
    fpr: np.ndarray | None = None
    trials: float = np.inf


@dataclass(frozen=True)
class Chain:
    """Parameters.

    Attributes
    ----------
    appear, disappear : ndarray, shape (group,)
        Rates of an empty and of an occupied site that can change [1/second].
    tpr, fpr : ndarray, shape (site,)
        Probability to see a column where there is one, and where there is none.
    shares : ndarray, shape (stratum, 3)
        Part of sites that can change, that are always occupied, and always empty.
    first : ndarray, shape (stratum,)
        Probability that a site that can change is occupied at first.
    group, stratum : ndarray of int, shape (site,)
        Of each site.
    """

    appear: np.ndarray
    disappear: np.ndarray
    tpr: np.ndarray
    fpr: np.ndarray
    shares: np.ndarray
    first: np.ndarray
    group: np.ndarray
    stratum: np.ndarray

    def start(self, site: np.ndarray) -> np.ndarray:
        """Odds of occupied to empty at first, of these sites."""
        return (self.first / (1 - self.first))[self.stratum[site]]


class Totals(NamedTuple):
    """Expected sums over frames, each (site,), if the site can change; of static ones what was seen.

    Attributes
    ----------
    appeared, disappeared, occupied, duration : ndarray
        Events, time occupied, and time in all [second].
    hits, on, falses, off : ndarray
        Columns seen where there is one, looks at occupied sites; columns seen where there is none, looks at empty.
    first, begins : ndarray
        Records that begin with the site occupied, and records.
    log_mobile, log_full, log_empty : ndarray
        Log-likelihoods of the three kinds of sites.
    """

    appeared: np.ndarray
    disappeared: np.ndarray
    occupied: np.ndarray
    duration: np.ndarray
    hits: np.ndarray
    on: np.ndarray
    falses: np.ndarray
    off: np.ndarray
    first: np.ndarray
    begins: np.ndarray
    log_mobile: np.ndarray
    log_full: np.ndarray
    log_empty: np.ndarray


class Fit(NamedTuple):
    """The most likely parameters.

    Attributes
    ----------
    chain : Chain
        Parameters.
    totals : Totals
        Sums under them.
    kinds : ndarray, shape (3, site)
        Probability that a site can change, is always occupied, always empty.
    log_likelihood : float
        Of all sites.
    rounds : int
        How many were made.
    """

    chain: Chain
    totals: Totals
    kinds: np.ndarray
    log_likelihood: float
    rounds: int


def step_of(record: Record, chain: Chain) -> Moves:
    """Moves (gap, site) of the sites of a record."""
    group = chain.group[record.site]
    return moves(record.gaps[:, None], chain.appear[group], chain.disappear[group])


def smooth_record(record: Record, chain: Chain) -> Smoothed:
    """States of the sites of a record, if they can change."""
    ratio = likelihood_ratio(record.seen, chain.tpr[record.site], chain.fpr[record.site])
    return smooth(ratio, step_of(record, chain), record.which, chain.start(record.site))


def expectations(records: Sequence[Record], chain: Chain) -> Totals:
    """Sum what is expected of every site over all frames."""
    out = Totals(*np.zeros((len(Totals._fields), len(chain.tpr))))
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
        out.first[at] += done.occupied[0]
        out.begins[at] += 1
        empty = log_evidence(seen, chain.fpr[at])
        out.log_empty[at] += empty
        out.log_full[at] += log_evidence(seen, chain.tpr[at])
        out.log_mobile[at] += done.log_likelihood + empty
    return out


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
    for record in records:
        state = majority(record.seen)
        known, ones = record.seen >= 0, record.seen == 1
        for row, part in enumerate((ones & state, known & state, ones & ~state, known & ~state)):
            sums[row, record.site] += part.sum(0)
        sums[4, record.site] += record.time[-1] - record.time[0]
        sums[5, record.site] += (state[1:] != state[:-1]).sum(0)
    changes, time = (np.bincount(group, row, groups) for row in (sums[5], sums[4]))
    rate = (changes + 1) / np.maximum(time, 1e-9)
    chain = Chain(rate, rate.copy(), np.full(sites, 0.9), np.full(sites, 0.05), shares,
                  np.full(len(shares), 0.5), group, stratum)
    return _read(chain, reading, *sums[:4])


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
    appear = np.maximum((up + LEAST_EVENTS) / (np.maximum(time - on, 0) + LEAST_EVENTS / both), least)
    disappear = np.maximum((down + LEAST_EVENTS) / (np.maximum(on, 0) + LEAST_EVENTS / both), least)
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
    new = replace(chain, appear=appear, disappear=disappear, shares=shares, first=(first + 0.5) / (begins + 1))
    return _read(new, reading, *counts)


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
        ratio = likelihood_ratio(record.seen, chain.tpr[at], chain.fpr[at])
        step = moves(record.gaps[:, None, None], factor[:, at] * chain.appear[group],
                     factor[:, at] * chain.disappear[group])
        first = chain.start(at)
        start = np.broadcast_to(ratio[0] * first, (len(scales), len(at)))
        _, log = filter_odds(ratio[1:], step, record.which, start, keep=False)
        logs[:, at] += log + np.log((1 + ratio[0] * first) / (1 + first)) + log_evidence(record.seen, chain.fpr[at])
    with np.errstate(divide="ignore"):
        shares = np.log(chain.shares[chain.stratum].T)
    static = np.logaddexp(shares[1] + totals.log_full, shares[2] + totals.log_empty)
    logs = np.logaddexp(shares[0] + logs, static)
    return np.stack([np.bincount(chain.group, row, scales.shape[1]) for row in logs])
