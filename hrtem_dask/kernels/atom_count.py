"""Atoms of a column from its intensity: the chances of every number, under a contrast that is not known exactly.

Plain numpy. A calibration is the intensity that columns of 1 to N atoms have, with their scatter,
under several settings (tilts, foci). Which setting holds, and by which factor the contrast of
the data differs from it, is the same for all columns of a table and is weighed with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Curves", "Weighed", "interval_of", "monotonic_range", "weigh", "weigh_settings"]

#: departures of real columns from the calibration, over the calibrated intensity
MISFIT = 0.05
#: columns that decide about settings: departures are shared by neighbours, so more would decide too surely
EFFECTIVE = 40
MOST_COLUMNS = 200
#: a column that departs from every number of atoms by more than this many standard deviations fits none
FARTHEST = 4.0
#: share of columns that follow no calibration, spread evenly over the range of intensities
STRANGE = 0.02
#: settings of less weight than this part of the best one's are left out
ENOUGH = 1e-3
#: rounds in which it is found how frequent each number of atoms is, and what it begins with [columns]
ROUNDS, FEW_ROUNDS, EVEN = 20, 6, 2.0
#: settings that are weighed at once
BATCH = 256
#: rms that a support adds to the intensities, what may be
SUPPORT = (0.0, 0.04, 0.08, 0.12, 0.16, 0.2)


@dataclass(frozen=True, eq=False)
class Curves:
    """Calibrated intensity and scatter of columns of 1 to N atoms, shape (settings, N), and weights of settings."""

    mean: np.ndarray
    scatter: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Weighed:
    """Settings and scales (rows) with their weights, adding up to 1: ``mean`` and ``variance`` (rows, N) of columns."""

    mean: np.ndarray
    variance: np.ndarray
    weight: np.ndarray
    setting: np.ndarray
    scale: np.ndarray
    support: np.ndarray

    def average(self, values: np.ndarray) -> tuple[float, float]:
        """Weighted mean and standard deviation of what each row says."""
        mean = float((self.weight * values).sum())
        return mean, float(np.sqrt((self.weight * (values - mean) ** 2).sum()))


def monotonic_range(mean: np.ndarray, error: np.ndarray) -> int:
    """Return up to how many atoms the contrast grows with each atom.

    Parameters
    ----------
    mean : ndarray, shape (n,)
        Intensity of columns of 1 to n atoms.
    error : ndarray, shape (n,)
        Standard error of that mean.

    Returns
    -------
    int
        0 where even one atom has no contrast beyond its error.

    Examples
    --------
    >>> monotonic_range(np.array([0.1, 0.3, 0.4, 0.35]), np.full(4, 0.01))
    3
    >>> monotonic_range(np.array([0.0, 0.3, 0.4, 0.35]), np.full(4, 0.01))
    0
    """
    level = np.concatenate([[0.0], mean])
    sign = np.sign(level[np.argmax(np.abs(level))])
    step = np.diff(level) * sign
    noise = np.concatenate([[0.0], error])
    grows = step > np.hypot(noise[1:], noise[:-1])
    return int(np.argmin(grows)) if not grows.all() else len(mean)


def weigh_settings(intensity: np.ndarray, error: np.ndarray, curves: Curves, scales: np.ndarray,
                   scale_weight: np.ndarray) -> Weighed:
    """Weigh every setting and scale by how well the intensities of all columns fit some number of atoms each.

    Parameters
    ----------
    intensity, error : ndarray, shape (columns,)
        Finite, with the standard errors.
    curves : Curves
    scales, scale_weight : ndarray, shape (s,)
        Factors on the calibrated contrast, and their weights beforehand.

    Returns
    -------
    Weighed
        Rows of negligible weight are left out.
    """
    take = np.unique(np.linspace(0, len(intensity) - 1, min(len(intensity), MOST_COLUMNS)).astype(int))
    value, noise = intensity[take], error[take]
    shape = (len(curves.mean), len(scales), len(SUPPORT), curves.mean.shape[1])
    scaled, added = scales[:, None, None], np.array(SUPPORT)[:, None]
    mean = np.broadcast_to(curves.mean[:, None, None] * scaled, shape).reshape(-1, shape[-1])
    own = (curves.scatter**2 + (MISFIT * curves.mean) ** 2)[:, None, None]
    variance = (own * scaled**2 + added**2).reshape(mean.shape)
    logs = np.concatenate([_likelihood(value, noise, mean[i:i + BATCH], variance[i:i + BATCH])
                           for i in range(0, len(mean), BATCH)])
    logs *= min(1.0, EFFECTIVE / len(take))
    logs += np.log(np.broadcast_to(curves.weight[:, None, None] * scale_weight[:, None], shape[:3]).ravel())
    weight = np.exp(logs - logs.max())
    keep = np.flatnonzero(weight > ENOUGH)
    setting, scale, support = np.unravel_index(keep, shape[:3])
    return Weighed(mean[keep], variance[keep], weight[keep] / weight[keep].sum(), setting, scales[scale],
                   np.array(SUPPORT)[support])


def _likelihood(value: np.ndarray, noise: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Logarithm of the likelihood of the intensities in each setting (rows).

    The numbers of atoms are as frequent as suits, and a few columns may follow no calibration at all.
    """
    spread = variance[:, None] + (noise**2)[:, None]
    density = np.exp(-0.5 * (value[:, None] - mean[:, None]) ** 2 / spread) / np.sqrt(2 * np.pi * spread)
    stray = STRANGE / max(np.ptp(value), np.ptp(mean), 1e-9)
    density *= 1 - STRANGE
    share = np.full(mean.shape, 1 / mean.shape[1])
    for _ in range(FEW_ROUNDS):
        whole = (density @ share[..., None])[..., 0] + stray
        belongs = share * ((1 / whole)[:, None] @ density)[:, 0]
        share = (belongs + EVEN) / (belongs + EVEN).sum(1, keepdims=True)
    return np.log((density @ share[..., None])[..., 0] + stray).sum(1)


def weigh(intensity: np.ndarray, error: np.ndarray, found: Weighed,
          top: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chances of every number of atoms for each column.

    Parameters
    ----------
    intensity, error : ndarray, shape (columns,)
    found : Weighed
    top : ndarray, int, shape (settings,)
        Up to how many atoms the contrast grows in each setting.

    Notes
    -----
    How frequent each number is, is found in the table itself (expectation and maximisation), from
    an even distribution of `EVEN` columns a number on.

    Returns
    -------
    chance : ndarray, shape (columns, N)
        Of 1 to N atoms, adds up to 1.
    beyond : ndarray, shape (columns,)
        Of having more atoms than the contrast grows with, were thick columns as frequent as others or as
        they are in the table, whichever is more.
    distance : ndarray, shape (columns,)
        From the nearest number of atoms, in standard deviations, in the setting that suits best.
    """
    chance, rising = np.zeros((len(intensity), found.mean.shape[1])), np.zeros((len(intensity), found.mean.shape[1]))
    distance = np.full(len(intensity), np.inf)
    for mean, variance, weight, most in zip(found.mean, found.variance, found.weight, top[found.setting], strict=True):
        spread = variance + (error**2)[:, None]
        away = (intensity[:, None] - mean) ** 2 / spread
        density = np.exp(-0.5 * (away - away.min(1, keepdims=True))) / np.sqrt(spread)
        density *= weight / density.sum(1, keepdims=True)
        chance += density
        rising[:, :most] += density[:, :most]
        distance = np.minimum(distance, np.sqrt(away.min(1)))
    fits = distance < FARTHEST
    share = np.full(chance.shape[1], 1 / chance.shape[1])
    for _ in range(ROUNDS):
        posterior = chance[fits] * share
        posterior /= posterior.sum(1, keepdims=True)
        share = (posterior.sum(0) + EVEN) / (len(posterior) + EVEN * len(share))
    total = (chance * share).sum(1, keepdims=True)
    # that the table seems to hold no thick columns does not prove that this one is none
    beyond = np.maximum(1 - (rising * share).sum(1) / total[:, 0], 1 - rising.sum(1) / chance.sum(1))
    return chance * share / total, beyond, distance


def interval_of(chance: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Most probable number of atoms, and the shortest run of numbers that holds it with this probability.

    Parameters
    ----------
    chance : ndarray, shape (columns, N)
    level : float

    Returns
    -------
    best, low, high : ndarray, int, shape (columns,)

    Examples
    --------
    >>> [int(v[0]) for v in interval_of(np.array([[0.05, 0.5, 0.43, 0.02]]), 0.9)]
    [2, 2, 3]
    """
    n = chance.shape[1]
    best = chance.argmax(1)
    total = np.concatenate([np.zeros((len(chance), 1)), chance.cumsum(1)], 1)
    low, high = np.zeros(len(chance), int), np.full(len(chance), n - 1)
    held = np.full(len(chance), -1.0)
    for width in range(n, 0, -1):  # ever shorter runs: the last one that holds enough is the shortest
        inside = total[:, width:] - total[:, :-width]
        first = np.arange(inside.shape[1])
        inside = np.where((first <= best[:, None]) & (best[:, None] < first + width), inside, -1.0)
        at = inside.argmax(1)
        held = inside[np.arange(len(at)), at]
        ok = held >= level - 1e-12
        low, high = np.where(ok, at, low), np.where(ok, at + width - 1, high)
    return best + 1, low + 1, high + 1
