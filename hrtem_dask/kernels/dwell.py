"""How long sites keep their state, how counts scatter, and how rates follow the dose rate."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq, minimize, minimize_scalar

from .event_rates import FALL, LEVEL, exact_interval

__all__ = ["Dispersion", "RateLaw", "Survival", "bootstrap_rate", "dispersion", "dose_rate_law", "exponential_rate",
           "survival"]


class Survival(NamedTuple):
    """Part of dwells that last longer than a time, by Kaplan and Meier.

    Attributes
    ----------
    time : ndarray
        Times at which dwells ended [second].
    share, low, high : ndarray
        Part that lasts longer, with its interval at 95 %.
    at_risk, ended : ndarray of int
        Dwells that were still watched, and those of them that ended then.
    """

    time: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_risk: np.ndarray
    ended: np.ndarray


def survival(duration: np.ndarray, ended: np.ndarray, entry: np.ndarray | None = None) -> Survival:
    """Survival of dwells, of which some were not watched to their end.

    Kaplan and Meier 1958 (10.1080/01621459.1958.10501452); interval by Greenwood's variance on the scale of
    log(-log), within 0 and 1.

    Parameters
    ----------
    duration : ndarray
        How long each dwell was watched, from its begin [second].
    ended : ndarray of bool
        Whether it ended then, or was only watched no longer.
    entry : ndarray, optional
        How long it had lasted when watching began [second]; 0 where it began under watch.

    Examples
    --------
    >>> found = survival(np.array([1.0, 2, 2, 3, 4]), np.array([True, True, False, True, False]))
    >>> found.time.tolist(), found.share.round(3).tolist(), found.at_risk.tolist()
    ([1.0, 2.0, 3.0], [0.8, 0.6, 0.3], [5, 4, 2])
    """
    duration, ended = np.asarray(duration, np.float64), np.asarray(ended, bool)
    entry = np.zeros_like(duration) if entry is None else np.asarray(entry, np.float64)
    time, deaths = np.unique(duration[ended], return_counts=True)
    at_risk = np.searchsorted(np.sort(entry), time, "left") - np.searchsorted(np.sort(duration), time, "left")
    share = np.cumprod(1 - deaths / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(deaths / (at_risk * (at_risk - deaths)))
        log = np.log(share)
        reach = np.exp(stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance) / -log)
        low, high = share**reach, share ** (1 / reach)
    last = share <= 0
    return Survival(time, share, np.where(last, 0, low), np.where(last, np.nan, high), at_risk, deaths)


def exponential_rate(duration: np.ndarray, ended: np.ndarray) -> tuple[float, float, float]:
    """Rate [1/second] of dwells that end by chance alone, with its exact interval; nan without any time.

    An exponential forgets: dwells whose begin was not seen count with the time that was watched.

    Examples
    --------
    >>> [round(float(v), 2) for v in exponential_rate(np.array([1.0, 2, 2, 5]), np.array([True, True, True, False]))]
    [0.3, 0.06, 0.88]
    """
    total, n = float(np.sum(duration)), float(np.sum(ended))
    if total <= 0:
        return np.nan, np.nan, np.nan
    low, high = exact_interval(n, total)
    return n / total, float(low), float(high)


class Dispersion(NamedTuple):
    """Whether counts scatter as chance alone makes them.

    Attributes
    ----------
    ratio : float
        Variance over mean: 1 for events that know nothing of each other; nan where it cannot be known.
    p_value : float
        Chance of a ratio at least this large where it is 1 in truth.
    units : int
        Sites or particles compared.
    """

    ratio: float
    p_value: float
    units: int


def dispersion(events: np.ndarray, exposure: np.ndarray) -> Dispersion:
    """Index of dispersion of counts in unequal exposures (Fisher's test; chi-squared of Pearson).

    Examples
    --------
    >>> alike = dispersion(np.array([4, 6, 5, 5]), np.ones(4))
    >>> uneven = dispersion(np.array([0, 20, 0, 0]), np.ones(4))
    >>> round(alike.ratio, 2), round(uneven.ratio, 1), uneven.p_value < 1e-6
    (0.13, 20.0, True)
    """
    events, exposure = np.asarray(events, np.float64), np.asarray(exposure, np.float64)
    events, exposure = events[exposure > 0], exposure[exposure > 0]
    if len(events) < 2 or events.sum() <= 0:
        return Dispersion(np.nan, np.nan, len(events))
    expected = events.sum() * exposure / exposure.sum()
    pearson, free = float(((events - expected) ** 2 / expected).sum()), len(events) - 1
    return Dispersion(pearson / free, float(stats.chi2.sf(pearson, free)), len(events))


def bootstrap_rate(events: np.ndarray, exposure: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Interval at 95 % of a rate by drawing whole units (sites or particles) again and again, with replacement.

    Events need not be independent within a unit. Percentiles; with few units they are too narrow, so
    they are widened by Student's t over the normal and by n / (n - 1).

    Examples
    --------
    >>> low, high = bootstrap_rate(np.array([0, 20, 0, 0, 5, 0, 1, 0]), np.full(8, 10.0))
    >>> low < 0.325 < high, high - low > 0.5
    (True, True)
    """
    events, exposure = np.asarray(events, np.float64), np.asarray(exposure, np.float64)
    n = len(events)
    if n < 2:
        return np.nan, np.nan
    picks = np.random.default_rng(seed).integers(0, n, (draws, n))
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = events[picks].sum(1) / exposure[picks].sum(1)
    rates, rate = rates[np.isfinite(rates)], events.sum() / exposure.sum()
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    wider = np.sqrt(n / (n - 1)) * stats.t.ppf(1 - tail, n - 1) / stats.norm.ppf(1 - tail)
    return float(max(rate - (rate - low) * wider, 0.0)), float(rate + (high - rate) * wider)


class RateLaw(NamedTuple):
    """Rate against dose rate: ``thermal + slope * dose_rate``, both at least 0.

    Attributes
    ----------
    thermal, thermal_low, thermal_high : float
        Rate without the beam [1/second], with its interval at 95 %.
    slope, slope_low, slope_high : float
        What the beam adds [angstrom^2/e].
    p_value : float
        Chance of a slope at least this large where the beam does nothing.
    dispersion : float
        Variance over mean about the line; where it is above 1 the intervals are widened by its root.
    """

    thermal: float
    thermal_low: float
    thermal_high: float
    slope: float
    slope_low: float
    slope_high: float
    p_value: float
    dispersion: float


def dose_rate_law(events: np.ndarray, exposure: np.ndarray, dose_rate: np.ndarray) -> RateLaw:
    """Most likely line through rates at several dose rates, of events that are counts of Poisson.

    Parameters
    ----------
    events, exposure : ndarray, shape (movie,)
        Counts, and the site-seconds they were seen in; of rates with an interval, what they are worth
        (`RateInterval`).
    dose_rate : ndarray, shape (movie,)
        [e/angstrom^2/s], at least two different.

    Examples
    --------
    >>> law = dose_rate_law(np.array([30, 52, 110]), np.full(3, 100.0), np.array([100.0, 200, 500]))
    >>> round(law.thermal, 2), round(law.slope, 4), law.slope_low > 0
    (0.11, 0.002, True)
    """
    n, t, j = (np.asarray(v, np.float64) for v in (events, exposure, dose_rate))
    unit = max(float(j.max()), 1e-300)
    x, mean = j / unit, max(float(n.sum() / t.sum()), 0.1 / float(t.sum()))

    def loss(thermal: float, slope: float) -> float:
        expected = np.maximum((thermal + slope * x) * t, 1e-12)
        return float((expected - n * np.log(expected)).sum())

    def held(fixed: int, value: float) -> tuple[float, float]:
        """Smallest loss where one of the two parameters is held, and the other one there."""
        free = lambda v: loss(value, v) if fixed == 0 else loss(v, value)  # noqa: E731
        # convex; scaled so that the tolerance of the search is one of the parameter
        found = minimize_scalar(lambda v: free(v * mean), bounds=(0.0, 20 + 10 / (mean * t.min())), method="bounded",
                                options={"xatol": 1e-5})
        return min((float(found.fun), float(found.x) * mean), (free(0.0), 0.0))

    starts = [np.array([a, b]) * mean for a, b in ((1, 0.01), (0.01, 1), (0.5, 0.5))]
    free = [minimize(lambda p: loss(*p), s, bounds=[(0, None)] * 2, method="L-BFGS-B") for s in starts]
    top, best = min(((float(f.fun), f.x) for f in free), key=lambda f: f[0])
    scatter = ((n - (best[0] + best[1] * x) * t) ** 2 / np.maximum((best[0] + best[1] * x) * t, 1e-12)).sum()
    wide = max(1.0, float(scatter / (len(n) - 2))) if len(n) > 2 else 1.0
    ends = [_ends(lambda v, k=k: held(k, v)[0] - top - FALL * wide, best[k], mean) for k in (0, 1)]
    fall = 2 * (held(1, 0.0)[0] - top) / wide
    p_value = float(stats.chi2.sf(max(fall, 0), 1) / 2) if best[1] > 0 else 1.0
    return RateLaw(float(best[0]), *ends[0], float(best[1] / unit), *(e / unit for e in ends[1]), p_value, wide)


def _ends(above: object, best: float, scale: float) -> tuple[float, float]:
    """Where a convex function crosses 0 on both sides of its least value; 0 where it does not on the left."""
    low = 0.0 if above(0.0) <= 0 else brentq(above, 0.0, best)
    step = scale
    while above(best + step) < 0:
        step *= 2
    return float(low), float(brentq(above, best, best + step))
