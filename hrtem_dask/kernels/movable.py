"""Which sites of a particle can change, and at which rate: in the whole movie and in parts of its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .event_rates import RateInterval, scan_rate
from .hmm import filter_odds, most_probable_path, moves, smooth
from .occupancy_fit import expectations, fastest, fit_chain, profile_rates
from .occupancy_model import Fit, Reading, Record, evidence_of, step_of

__all__ = ["Decoded", "decode", "edge_sites", "fit_movable", "interval_in_bins", "interval_of_all", "nearest_distance",
           "neighbour_pairs"]

#: a site is inner where all sites about it are occupied for this part of the time, at least
FULL = 0.9
#: sites next to each other, as a multiple of the least distance between sites
NEXT = 1.25
#: where sites lie closer than atoms that touch, as in projection, the next shell up to a bond belongs to it [angstrom]
SHELL, BOND = 1.75, 3.1
#: twice the log-likelihood that shares of static sites have to gain before sites are taken for static
GAIN = 4.0
#: a rate above this part of the highest that can be resolved is flicker of what is read, not of columns
AT_BOUND = 0.9
#: first shares (can change, always occupied, always empty) by stratum: inner and outer, edge mostly full, mostly empty
SHARES = ((0.05, 0.475, 0.475), (0.6, 0.35, 0.05), (0.6, 0.05, 0.35))


def nearest_distance(place: np.ndarray) -> float:
    """Usual distance (median) from a site to the one next to it; nan of fewer than two.

    Examples
    --------
    >>> nearest_distance(np.array([[0.0, 0], [0, 2.5], [0, 5.0]]))
    2.5
    """
    if len(place) < 2:
        return np.nan
    return float(np.median(cKDTree(place).query(place, k=2)[0][:, 1]))


def neighbour_pairs(place: np.ndarray, reach: float | None = None) -> np.ndarray:
    """Pairs (pair, 2) of neighbouring sites, in both orders.

    Parameters
    ----------
    place : ndarray, shape (site, 2)
        [angstrom]
    reach : float, optional
        Largest distance between neighbours [angstrom]; by default 1.25 of the usual least one. In the projection of a
        crystal, columns lie closer than touching atoms: up to 3.1 angstrom, but within 1.75 of the least distance,
        sites are neighbours too.

    Examples
    --------
    >>> neighbour_pairs(np.array([[0.0, 0], [0, 2.5], [0, 5.0]])).tolist()
    [[0, 1], [1, 0], [1, 2], [2, 1]]
    """
    if len(place) < 2:
        return np.zeros((0, 2), int)
    if reach is None:
        least = nearest_distance(place)
        reach = max(NEXT * least, min(SHELL * least, BOND))
    pairs = cKDTree(place).query_pairs(reach, output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return both[np.lexsort(both.T[::-1])]


def edge_sites(place: np.ndarray, occupancy: np.ndarray) -> np.ndarray:
    """Whether a site lies at the edge: an empty neighbour at some time, and something occupied there or next to it.

    A place beside a site where no site is listed is empty. Inner sites are held from all sides, and those far
    from everything hold nothing.

    Parameters
    ----------
    place : ndarray, shape (site, 2)
        [angstrom]
    occupancy : ndarray, shape (site,)
        Part of the time in which the site is occupied.

    Examples
    --------
    >>> i, j = np.mgrid[:7, :7].reshape(2, -1)
    >>> inside = (abs(i - 3) <= 1) & (abs(j - 3) <= 1)
    >>> edge = edge_sites(2.0 * np.stack([i, j], 1), inside * 1.0)
    >>> print(edge.reshape(7, 7).astype(int))
    [[0 0 0 0 0 0 0]
     [0 0 1 1 1 0 0]
     [0 1 1 1 1 1 0]
     [0 1 1 0 1 1 0]
     [0 1 1 1 1 1 0]
     [0 0 1 1 1 0 0]
     [0 0 0 0 0 0 0]]
    """
    n = len(place)
    if n < 2:
        return np.ones(n, bool)
    pairs = neighbour_pairs(place, NEXT * nearest_distance(place))
    a, b = pairs.T
    around, full = np.bincount(a, minlength=n), np.bincount(a, occupancy[b] >= FULL, n)
    most = max(int(around.max()), 3)
    near = np.zeros(n)
    np.maximum.at(near, a, occupancy[b])
    return (full < most) & (np.maximum(near, occupancy) > 1 - FULL)


@dataclass(frozen=True)
class Decoded:
    """States of the sites of one record.

    Attributes
    ----------
    path : ndarray of int8, shape (frame, site)
        The most probable path.
    occupied : ndarray, shape (frame, site)
        Probability that the site is occupied.
    changed : ndarray, shape (2, step, site)
        Probability that it disappears, and appears, in a step.
    """

    path: np.ndarray
    occupied: np.ndarray
    changed: np.ndarray


def fit_movable(records: Sequence[Record], reading: Reading, edge: np.ndarray, occupancy: np.ndarray, *,
                mixed: bool = True, inner: bool = True) -> tuple[Fit, np.ndarray]:
    """Fit rates and readings, and find the sites that can change.

    A site at the edge counts as one that can change unless what was seen says otherwise: the shares of static
    sites are fitted, and kept where they gain more than chance would (twice the log-likelihood above 4). An
    inner site can change only where it was seen to. Where all that changes does so as fast as frames come, it
    is the reading that flickers: these sites are left out.

    Parameters
    ----------
    records : sequence of Record
        What was seen.
    reading : Reading
        What is known of detection.
    edge : ndarray of bool, shape (site,)
        Sites at the edge.
    occupancy : ndarray, shape (site,)
        Part of the time in which it is occupied, about.
    mixed : bool
        Whether sites at the edge may be static; else all of them can change.
    inner : bool
        Whether sites that are not at the edge can change where they were seen to.

    Returns
    -------
    fit : Fit
        The parameters.
    can : ndarray of bool, shape (site,)
        Sites that can change.
    """
    stratum = np.where(edge, np.where(occupancy > 0.5, 1, 2), 0)
    shares = np.array(SHARES)
    if not inner:
        shares[0] = 0, 0.5, 0.5

    def fitted(*mobile: int, start: Fit | None = None) -> Fit:
        """Fit where all sites of these strata can change."""
        first = shares.copy()
        first[list(mobile)] = 1, 0, 0
        return fit_chain(records, reading, stratum=stratum, shares=first, start=None if start is None else start.chain)

    present = [k for k in (1, 2) if (stratum == k).any()]
    best = fitted(*present)
    if mixed and present:
        free = max(fitted(), fitted(start=best), key=lambda f: f.log_likelihood)
        if 2 * (free.log_likelihood - best.log_likelihood) > GAIN:
            some = [fitted(k, start=free) for k in present] if len(present) > 1 else []
            some = [f for f in some if 2 * (free.log_likelihood - f.log_likelihood) <= GAIN]
            best = max(some, key=lambda f: f.log_likelihood, default=free)
            moving, fast = best.kinds[0] > 0.5, fastest(records) * AT_BOUND
            if not (moving & edge).any() or max(best.chain.appear[0], best.chain.disappear[0]) > fast:
                # nothing changes that can be told from misreads, but some sites are read oddly: limit by the others
                usual = edge & (best.totals.odd <= 0) & ~moving
                stratum, shares[0] = np.where(usual, stratum, 0), (0, 0.5, 0.5)
                best = fitted(*(k for k in (1, 2) if (stratum == k).any()))
    # a rate near 0 explains static sites too: an inner site has to have changed
    seen = (stratum > 0) | (best.totals.appeared + best.totals.disappeared >= 0.5)
    if not ((stratum == 0) & (best.kinds[0] > 0.5) & seen).any() and best.kinds[0][stratum == 0].sum() > 0.5:
        shares[0] = 0, 0.5, 0.5
        best = fitted(*(k for k in (1, 2) if best.chain.shares[k, 0] == 1), start=best)
    return best, np.where(best.chain.shares[stratum, 0] == 1, True, (best.kinds[0] > 0.5) & seen)


def decode(record: Record, fit: Fit, can: np.ndarray) -> Decoded:
    """States of the sites of a record; those that cannot change keep the likelier of the two."""
    at, chain = record.site, fit.chain
    ratio, step = evidence_of(record, chain), step_of(record, chain)
    start = chain.start(at)
    done, path = smooth(ratio, step, record.which, start), most_probable_path(ratio, step, record.which, start)
    static = fit.kinds[1, at] > fit.kinds[2, at]
    mobile, full = fit.kinds[0, at], fit.kinds[1, at]
    changed = np.empty((2, len(record.which), len(at)))
    for first in range(0, len(record.which), 256):
        part = slice(first, first + 256)
        moved = done.moved(step, record.which, part)
        changed[0, part], changed[1, part] = moved[1, 0] * mobile, moved[0, 1] * mobile
    return Decoded(np.where(can[at], path, static).astype(np.int8), mobile * done.occupied + full, changed)


def mean_rate(fit: Fit) -> float:
    """Events a site-second of the sites that can change, by the fit: their two rates over the time in each state."""
    can, totals = fit.kinds[0], fit.totals
    time, on = float((can * totals.duration).sum()), float((can * totals.occupied).sum())
    if time <= 0:
        return float("nan")
    return float((fit.chain.appear[0] * (time - on) + fit.chain.disappear[0] * on) / time)


def interval_of_all(records: Sequence[Record], fit: Fit, weight: float = 1.0) -> RateInterval:
    """Rate of events a site-second over the whole movie, with its interval.

    ``weight`` is how many events a change of a site is, as two changes make one hop.
    """
    base = mean_rate(fit)
    events = float((fit.kinds[0] * (fit.totals.appeared + fit.totals.disappeared)).sum())
    found = scan_rate(lambda s: weight * profile_rates(records, fit.chain, fit.totals, s), np.array([weight * events]))
    return scaled(found[0], base * weight)


def scaled(found: RateInterval, unit: float) -> RateInterval:
    """An interval of a scale as one of a rate, whose estimate is ``unit``."""
    return RateInterval(found.rate * unit, found.low * unit, found.high * unit, found.events, found.exposure / unit)


def interval_in_bins(records: Sequence[Record], fit: Fit, edges: np.ndarray, weight: float = 1.0) -> list[RateInterval]:
    """Rate of events a site-second in parts of the time, each with its interval; nan where nothing was seen.

    Each part has a rate of its own; the ratio of appearing to disappearing, the readings, and what the frames
    before and after say of the states at its ends, are those of the whole movie.

    Parameters
    ----------
    records, fit, weight
        As of `interval_of_all`.
    edges : ndarray, shape (bin + 1,)
        Increasing [second]. A step belongs to the part in which it ends.
    """
    bins = len(edges) - 1
    smoothed = []
    sums = np.zeros((3, bins))  # events, occupied time, time: of sites that can change
    for record in records:
        at, chain = record.site, fit.chain
        ratio = evidence_of(record, chain)
        done = smooth(ratio, step_of(record, chain), record.which, chain.start(at))
        place = np.clip(np.searchsorted(edges, record.time[1:], "right") - 1, 0, bins - 1)
        smoothed.append((record, ratio, done.filtered, done.ahead, place))
        for b in np.unique(place):
            part = expectations([_cut(record, np.flatnonzero(place == b))], chain)
            can = fit.kinds[0]
            sums[:, b] += [(can * v).sum() for v in (part.appeared + part.disappeared, part.occupied, part.duration)]

    def likelihood(scales: np.ndarray) -> np.ndarray:
        out = np.zeros((len(scales), bins))
        for record, ratio, filtered, ahead, place in smoothed:
            up, down = fit.chain.appear[0], fit.chain.disappear[0]
            for b in np.unique(place):
                rows = np.flatnonzero(place == b)
                s = scales[:, b, None]
                step = moves(record.gaps[:, None, None], s * up, s * down)
                start = np.broadcast_to(filtered[rows[0]], (len(scales), len(record.site)))
                odds, log = filter_odds(ratio[rows + 1], step, record.which[rows], start, keep=False)
                log = log + np.log((1 + odds * ahead[rows[-1] + 1]) / (1 + odds))
                out[:, b] += log @ fit.kinds[0, record.site]
        return weight * out

    with np.errstate(invalid="ignore", divide="ignore"):
        base = (fit.chain.appear[0] * (sums[2] - sums[1]) + fit.chain.disappear[0] * sums[1]) / sums[2]
    found = scan_rate(likelihood, weight * sums[0])
    return [scaled(f, b * weight) if np.isfinite(b) else RateInterval(*(np.nan,) * 5)
            for f, b in zip(found, base, strict=True)]


def _cut(record: Record, steps: np.ndarray) -> Record:
    """The record of some steps that follow each other."""
    frames = slice(steps[0], steps[-1] + 2)
    return Record(record.seen[frames], record.time[frames], record.site,
                  None if record.mark is None else record.mark[frames])
