"""The noise in a power spectrum as a function of frequency, and the threshold that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Background", "detection_threshold", "radial_background"]

#: the power of noise is exponentially distributed, and its median is the mean times this
LN2 = float(np.log(2))
#: a median of n exponential values is as uncertain as a mean of this fraction of them
MEDIAN_EFFICIENCY = LN2**2
#: smallest bandwidth of the smoothing over frequency [1/angstrom]
BANDWIDTH = 0.04


@dataclass(frozen=True)
class Background:
    """Mean noise power at the radii ``k`` and the number of independent samples behind each value."""

    k: np.ndarray
    log_power: np.ndarray
    samples: np.ndarray

    def at(self, k: np.ndarray) -> np.ndarray:
        """Mean noise power at these radii."""
        return np.exp(np.interp(k, self.k, self.log_power))


def radial_background(power: np.ndarray, k: np.ndarray, valid: np.ndarray, *, resolution: float, density: float,
                      limits: tuple[float, float]) -> Background | None:
    """Robust, smooth noise level of a power spectrum over the radius.

    The median of each annulus over ln 2 is the mean of exponentially distributed noise and does
    not see a few bright spots; a local straight line through the logarithms smooths it, so a
    steep spectrum is followed without bias.

    Parameters
    ----------
    power, k : ndarray, shape (k_y, k_x)
        Power and radius [1/angstrom] of each bin.
    valid : ndarray of bool, shape (k_y, k_x)
        Bins to use (spots that are already known are left out).
    resolution : float
        Width of a spot [1/angstrom].
    density : float
        Independent samples a bin.
    limits : (float, float)
        Radii between which the level is needed [1/angstrom].

    Returns
    -------
    Background or None
        None where there is no noise to measure (a constant image) or too few bins.
    """
    h = max(BANDWIDTH, 1.5 * resolution)
    first, last = max(limits[0] - 2 * h, 1.5 * resolution), limits[1] + 2 * h
    if last <= first:
        return None
    edges = np.arange(first, last + resolution / 2, resolution / 2)
    use = valid & (k >= first) & (k < edges[-1])
    index = np.digitize(k[use], edges) - 1
    order = np.argsort(index, kind="stable")
    groups = np.split(power[use][order], np.searchsorted(index[order], np.arange(1, len(edges) - 1)))
    centres = (edges[:-1] + edges[1:]) / 2
    counts = np.array([g.size for g in groups])
    medians = np.array([np.median(g) if g.size else 0.0 for g in groups])
    good = (counts * density >= 1) & (medians > 0)
    if good.sum() < 3:
        return None
    return _smooth(centres[good], np.log(medians[good] / LN2), counts[good] * density, h)


def _smooth(k: np.ndarray, values: np.ndarray, samples: np.ndarray, h: float) -> Background:
    """Local straight-line regression with a Gaussian kernel of standard deviation h / 2."""
    offset = k[None, :] - k[:, None]
    kernel = np.exp(-2 * (offset / h) ** 2)
    w = kernel * samples
    s0, s1, s2 = w.sum(1), (w * offset).sum(1), (w * offset**2).sum(1)
    determinant = s0 * s2 - s1**2
    weights = w * (s2[:, None] - s1[:, None] * offset) / np.maximum(determinant, 1e-300)[:, None]
    # variance of the estimate, where each value has the variance 1 / samples
    variance = (weights**2 / samples).sum(1)
    return Background(k, weights @ values, MEDIAN_EFFICIENCY / variance)


def detection_threshold(trials: float, samples: np.ndarray, alpha: float) -> np.ndarray:
    """Peak power over noise level that pure noise exceeds anywhere with the probability ``alpha``.

    A single bin of noise exceeds t times its mean with the probability exp(-t); the highest of M
    independent bins exceeds ln(M / alpha) with alpha. Two things raise that: maxima between the
    bins count too, so exp(-t) becomes (t - 1/2) exp(-t) (expected Euler characteristic of a
    chi-squared field of two degrees of freedom, Worsley 1994, Adv. Appl. Probab. 26, 13); and a level
    known from n samples only turns exp(-t) into (1 + t / n)^-n.

    Parameters
    ----------
    trials : float
        Number M of independent bins searched.
    samples : ndarray
        Number n of independent samples behind the noise level.
    alpha : float
        Probability of a false alarm in the whole search.

    Returns
    -------
    ndarray
        Threshold for each entry of ``samples``.

    Examples
    --------
    >>> t = detection_threshold(500.0, np.array([1e9, 50.0]), 0.01)
    >>> t.round(1).tolist()
    [13.4, 15.5]
    """
    n = np.maximum(np.asarray(samples, dtype=np.float64), 2.0)
    ratio = max(trials, 1.0) / alpha
    t = np.full(n.shape, np.log(ratio))
    for _ in range(60):
        t = np.minimum(n * np.expm1(np.log(ratio * np.maximum(t - 0.5, 0.5)) / n), 1e9)
    return t
