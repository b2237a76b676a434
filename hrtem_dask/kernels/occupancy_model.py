"""What was seen of many sites, and the parameters that explain it: the model that `occupancy_fit` fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .hmm import Moves, Smoothed, likelihood_ratio, moves, smooth

__all__ = ["Chain", "Fit", "Reading", "Record", "Totals", "count_marks", "evidence_of", "log_marks_of_empty",
           "smooth_record", "step_of"]


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
    mark : ndarray of int8, shape (frame, site), optional
        Class of a column that was seen, from 0, by how sure and how near its place it is; anything where none was seen.
    """

    seen: np.ndarray
    time: np.ndarray
    site: np.ndarray
    mark: np.ndarray | None = None
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
    group, stratum, pool : ndarray of int, shape (site,)
        Of each site.
    marks : ndarray, shape (2, pool, mark)
        How often a column that is seen where there is none [0], and where there is one [1], has each mark.
    """

    appear: np.ndarray
    disappear: np.ndarray
    tpr: np.ndarray
    fpr: np.ndarray
    shares: np.ndarray
    first: np.ndarray
    group: np.ndarray
    stratum: np.ndarray
    pool: np.ndarray
    marks: np.ndarray

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
    marks, marked : ndarray, shape (site, mark)
        Columns seen with each mark, and those of them where there is one.
    first, begins : ndarray
        Records that begin with the site occupied, and records.
    log_mobile, log_full, log_empty : ndarray
        Log-likelihoods of the three kinds of sites.
    odd : ndarray
        Log-odds that a static site is read as no other.
    """

    appeared: np.ndarray
    disappeared: np.ndarray
    occupied: np.ndarray
    duration: np.ndarray
    hits: np.ndarray
    on: np.ndarray
    falses: np.ndarray
    off: np.ndarray
    marks: np.ndarray
    marked: np.ndarray
    first: np.ndarray
    begins: np.ndarray
    log_mobile: np.ndarray
    log_full: np.ndarray
    log_empty: np.ndarray
    odd: np.ndarray


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


def evidence_of(record: Record, chain: Chain) -> np.ndarray:
    """Likelihood ratio (frame, site) of what was seen, with the marks of the columns."""
    at = record.site
    ratio = likelihood_ratio(record.seen, chain.tpr[at], chain.fpr[at])
    if record.mark is None:
        return ratio
    by_mark = (chain.marks[1] / chain.marks[0])[chain.pool[at]]
    return ratio * np.where(record.seen == 1, np.take_along_axis(by_mark.T, record.mark.astype(np.intp), axis=0), 1.0)


def count_marks(record: Record, marks: int, weight: np.ndarray | None = None) -> np.ndarray:
    """Columns (site, mark) that were seen, each with a weight (frame, site)."""
    ones = record.looks[0] if weight is None else record.looks[0] * weight
    if record.mark is None:
        return ones.sum(0)[:, None] * (np.arange(marks) == 0)
    return np.stack([(ones * (record.mark == k)).sum(0) for k in range(marks)], axis=1)


def log_marks_of_empty(record: Record, chain: Chain) -> np.ndarray:
    """Log-likelihood (site,) of the marks of what was seen, if all sites are empty."""
    return (count_marks(record, chain.marks.shape[2]) * np.log(chain.marks[0])[chain.pool[record.site]]).sum(1)


def smooth_record(record: Record, chain: Chain) -> Smoothed:
    """States of the sites of a record, if they can change."""
    ratio = evidence_of(record, chain)
    return smooth(ratio, step_of(record, chain), record.which, chain.start(record.site))
