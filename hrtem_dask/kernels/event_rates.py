"""A rate and its interval from a likelihood: counts of Poisson where all is seen, as exact where it is not.

Where every event is seen, n events in the exposure T have the likelihood r^n exp(-r T), and the interval of Garwood
1936 (10.1093/biomet/28.3-4.437) is exact. Where columns are missed and invented, the likelihood of the hidden chain
takes its place; it is as wide as that of a smaller number of events. Each end of the interval is that of the counts
whose likelihood falls off as far on that side: for sure events the exact interval again, for no event an upper limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.interpolate import Akima1DInterpolator
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaincinv

__all__ = ["LEVEL", "RateInterval", "exact_interval", "rate_interval", "scan_rate"]

#: of all intervals
LEVEL = 0.95
#: fall of the log-likelihood at an end of the interval of one parameter
FALL = float(gammaincinv(0.5, LEVEL))
#: scale that stands for no event at all, and the largest that is tried
NOTHING, MOST = 1e-4, 1e3


class RateInterval(NamedTuple):
    """A rate [1/second] with its interval at 95 %, and the counts it is worth.

    Attributes
    ----------
    rate, low, high : float
        Most likely rate and the interval.
    events, exposure : float
        Surely seen events in so many site-seconds that would say as much.
    """

    rate: float
    low: float
    high: float
    events: float
    exposure: float


def exact_interval(events: np.ndarray, exposure: np.ndarray = 1.0, level: float = LEVEL) -> tuple[np.ndarray, ...]:
    """Interval of Garwood for the rate of Poisson counts; of counts that are no whole numbers too.

    Examples
    --------
    >>> low, high = exact_interval(np.array([0, 10]), 1.0)
    >>> low.round(2).tolist(), high.round(2).tolist()
    ([0.0, 4.8], [3.69, 18.39])
    """
    events, exposure = np.asarray(events, np.float64), np.asarray(exposure, np.float64)
    tail = (1 - level) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        low = np.where(events > 0, gammaincinv(np.maximum(events, 1e-9), tail), 0.0) / exposure
        return low, gammaincinv(events + 1, 1 - tail) / exposure


def rate_interval(rates: np.ndarray, log_likelihood: np.ndarray) -> RateInterval:
    """Most likely rate and its interval from the log-likelihood at increasing rates, the first of them almost 0.

    Parameters
    ----------
    rates, log_likelihood : ndarray, shape (n,)
        At least four; they have to reach beyond the interval, else its upper end is inf.

    Returns
    -------
    RateInterval

    Examples
    --------
    Ten events in 100 site-seconds, all of them seen: the exact interval.

    >>> rates = np.append(1e-6, np.geomspace(0.01, 1, 60))
    >>> found = rate_interval(rates, 10 * np.log(rates) - 100 * rates)
    >>> [round(float(v), 2) for v in found[:3]], round(found.events)
    ([0.1, 0.05, 0.18], 10)
    """
    x = np.log(rates)
    curve = Akima1DInterpolator(x, log_likelihood, method="makima")
    fine = np.linspace(x[0], x[-1], 64 * len(x))
    values = curve(fine)
    best = int(np.argmax(values))
    top, at = values[best], fine[best]
    if 0 < best < len(fine) - 1:
        at = float(minimize_scalar(lambda v: -curve(v), bounds=fine[[best - 1, best + 1]], method="bounded").x)
        top = float(curve(at))
    rate = float(np.exp(at)) if best > 0 else 0.0
    fall = lambda v: float(curve(v)) - top + FALL  # noqa: E731
    events = exposure = np.nan
    high = np.inf
    if best < len(fine) - 1 and fall(fine[-1]) < 0:
        end = np.exp(brentq(fall, at, fine[best:][np.argmax(values[best:] < top - FALL)]))
        exposure = FALL / (end - rate - (rate * np.log(end / rate) if rate else 0.0))
        events = exposure * rate
        high = float(exact_interval(events, exposure)[1])
    low = 0.0
    below = np.flatnonzero(values[:best] < top - FALL)
    if below.size:
        end = np.exp(brentq(fall, fine[below[-1]], at))
        there = FALL / (end - rate + rate * np.log(rate / end))
        low = float(exact_interval(there * rate, there)[0])
        exposure = np.nanmean([exposure, there])
        events = exposure * rate
    return RateInterval(rate, low, high, float(events), float(exposure))


def scan_rate(log_likelihood: Callable[[np.ndarray], np.ndarray], events: np.ndarray, points: int = 13,
              rounds: int = 4) -> list[RateInterval]:
    """Scan the scales of several rates about their estimates, 1, until their intervals are covered.

    Parameters
    ----------
    log_likelihood : callable
        Takes scales (point, group), gives log-likelihoods of that shape.
    events : ndarray, shape (group,)
        About how many events each estimate stands on: the width of the first scan.
    points, rounds : int
        Scales a round, and rounds at most.

    Returns
    -------
    list of RateInterval
        In units of the estimates; ``exposure`` then is the number of events expected at the scale 1.
    """
    width = 3.5 / np.sqrt(np.asarray(events, np.float64) + 0.7)
    centre = np.zeros_like(width)
    scales = np.full((1, len(width)), NOTHING)
    values = log_likelihood(scales)
    out: list[RateInterval] = []
    for _ in range(rounds):
        more = np.exp(np.clip(centre + np.linspace(-1, 1, points)[:, None] * width, np.log(NOTHING), np.log(MOST)))
        scales, values = np.concatenate([scales, more]), np.concatenate([values, log_likelihood(more)])
        out = []
        for g in range(len(width)):
            s, first = np.unique(scales[:, g].round(9), return_index=True)
            out.append(rate_interval(s, values[first, g]))
            centre[g] = np.log(max(out[g].rate, 0.1 / (events[g] + 1)))
        inside = np.array([np.isfinite(o.high) for o in out])
        if inside.all():
            break
        width = np.where(inside, width, 2 * width)
    return out
