"""The noise in a power spectrum as a function of frequency, and the threshold that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Background", "detection_threshold", "fit_background"]

#: the power of noise is exponentially distributed, and its median is the mean times this
LN2 = float(np.log(2))
#: a median of n exponential values is as uncertain as a mean of this fraction of them
MEDIAN_EFFICIENCY = LN2**2
#: smallest bandwidth of the smoothing over frequency [1/angstrom]
BANDWIDTH = 0.03
#: the azimuthal terms vary less with the radius than the level, which follows Thon rings
HARMONIC_WIDTH = 3.0
#: sectors of the half plane in which medians are taken
SECTORS = 8
#: expected size of the azimuthal terms (natural logarithm of power); they shrink to 0 where there is little data
HARMONIC = 0.7


@dataclass(frozen=True)
class Background:
    """Mean noise power as a function of frequency: log B = a(k) + c(k) cos 2 phi + s(k) sin 2 phi.

    Attributes
    ----------
    k : ndarray, shape (n,)
        Radii [1/angstrom].
    terms : ndarray, shape (3, n)
        a, c and s at these radii.
    samples : ndarray, shape (n,)
        Number of independent samples behind the level.
    """

    k: np.ndarray
    terms: np.ndarray
    samples: np.ndarray

    def at(self, k_y: np.ndarray, k_x: np.ndarray) -> np.ndarray:
        """Mean noise power at these frequencies [1/angstrom]."""
        radius = np.hypot(k_y, k_x)
        level, cosine, sine = (np.interp(radius, self.k, t) for t in self.terms)
        cos2, sin2 = _second_harmonic(k_y, k_x, radius)
        return np.exp(level + cosine * cos2 + sine * sin2)


def _second_harmonic(k_y: np.ndarray, k_x: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r2 = np.maximum(radius**2, 1e-300)
    return (k_x**2 - k_y**2) / r2, 2 * k_x * k_y / r2


def fit_background(power: np.ndarray, k_y: np.ndarray, k_x: np.ndarray, valid: np.ndarray, *, resolution: float,
                   density: float, limits: tuple[float, float], azimuthal: bool = True) -> Background | None:
    """Robust, smooth noise level of a power spectrum.

    The median of a cell (an annulus, or a sector of one) over ln 2 is the mean of exponentially
    distributed noise and does not see a few bright spots. A local straight line through the
    logarithms smooths it over the radius, so a steep spectrum is followed without bias. The
    second harmonic over the angle follows what drift and astigmatism do to an amorphous film;
    without it the bright side of an elliptical Thon ring passes for spots.

    Parameters
    ----------
    power : ndarray, shape (k_y, k_x)
        Power of each bin.
    k_y, k_x : ndarray
        Axes [1/angstrom].
    valid : ndarray of bool, shape (k_y, k_x)
        Bins to use (spots that are already known are left out).
    resolution : float
        Width of a spot [1/angstrom].
    density : float
        Independent samples a bin of the half plane.
    limits : (float, float)
        Radii between which the level is needed [1/angstrom].
    azimuthal : bool
        Whether to fit the second harmonic; False takes entire annuli, which is more robust while
        the spots are not known yet.

    Returns
    -------
    Background or None
        None where there is no noise to measure (a constant image) or too few bins.
    """
    h = max(BANDWIDTH, 1.5 * resolution)
    first, last = max(limits[0] - 2 * h, 1.5 * resolution), limits[1] + 2 * h
    if last <= first:
        return None
    width = max(resolution / 2, BANDWIDTH / 8)
    n_rings = int(np.ceil((last - first) / width))
    outer = first + n_rings * width
    # the other half plane holds the same numbers
    rows, cols = slice(*np.searchsorted(k_y, (0.0, outer))), slice(*np.searchsorted(k_x, (-outer, outer)))
    power, valid, k_y, k_x = power[rows, cols], valid[rows, cols], k_y[rows], k_x[cols]
    radius = np.hypot(k_y[:, None], k_x[None, :])
    i, j = np.nonzero(valid & (radius >= first) & (radius < outer))
    ring = ((radius[i, j] - first) / width).astype(int).clip(0, n_rings - 1)
    n_sectors = SECTORS if azimuthal else 1
    angle = np.mod(np.arctan2(k_y[i], k_x[j]), np.pi)
    cell = ring * n_sectors + np.minimum((angle / np.pi * n_sectors).astype(int), n_sectors - 1)
    counts, medians = _medians(power[i, j], cell, n_rings * n_sectors)
    samples = counts * density
    good = (samples >= 0.5) & (medians > 0)
    if np.unique(np.flatnonzero(good) // n_sectors).size < 3:
        return None
    number = np.flatnonzero(good)
    centres = first + (number // n_sectors + 0.5) * width
    middle = (number % n_sectors + 0.5) * np.pi / n_sectors
    # the logarithm of a median of few samples is low: by 0.21 for one, and by 0.21 / n about for n
    values = np.log(medians[good] / LN2) + 0.21 / np.maximum(samples[good], 1.0)
    return _smooth(centres, middle, values, samples[good], h, azimuthal)


def _medians(values: np.ndarray, cell: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Count and median of the values of each cell (0 where there is none)."""
    order = np.argsort(values)
    # small integers are sorted by radix, which is stable and many times faster than a sort by two keys
    order = order[np.argsort(cell[order].astype(np.uint16 if n_cells < 2**16 else np.int64), kind="stable")]
    cell = cell[order]
    values, ends = values[order], np.searchsorted(cell, np.arange(n_cells + 1))
    start, counts = ends[:-1], np.diff(ends)
    safe = np.minimum(start + np.maximum(counts - 1, 0) // 2, max(values.size - 1, 0))
    upper = np.minimum(start + counts // 2, max(values.size - 1, 0))
    return counts, np.where(counts > 0, (values[safe] + values[upper]) / 2, 0.0) if values.size else counts * 0.0


def _smooth(k: np.ndarray, angle: np.ndarray, values: np.ndarray, samples: np.ndarray, h: float,
            azimuthal: bool) -> Background:
    """Local regressions over the radius, of the level and then of the second harmonic of what remains."""
    at = np.unique(k)
    precision = MEDIAN_EFFICIENCY * samples
    level, variance = _local_line(at, k, values, precision, h)
    terms = np.zeros((3, at.size))
    if azimuthal:
        rest = values - np.interp(k, at, level)
        used = rest.clip(-3.0, 2.0)  # a spot that fills a cell of its own
        terms[1:], more = _local_harmonic(at, k, angle, used, precision, HARMONIC_WIDTH * h)
        known = np.interp(k, at, terms[1]) * np.cos(2 * angle) + np.interp(k, at, terms[2]) * np.sin(2 * angle)
        level = _local_line(at, k, np.interp(k, at, level) + used - known, precision, h)[0]
        variance = variance + more
    terms[0] = level
    return Background(at, terms, 1 / variance)


def _kernel(at: np.ndarray, k: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray]:
    offset = (k[None, :] - at[:, None]) / h
    return offset, np.exp(-2 * offset**2)


def _local_line(at: np.ndarray, k: np.ndarray, values: np.ndarray, precision: np.ndarray,
                h: float) -> tuple[np.ndarray, np.ndarray]:
    """Local straight line at each radius, and the variance of its value there."""
    offset, kernel = _kernel(at, k, h)
    w = kernel * precision
    s0, s1, s2 = w.sum(1), (w * offset).sum(1), (w * offset**2).sum(1)
    share = w * (s2[:, None] - s1[:, None] * offset) / np.maximum(s0 * s2 - s1**2, 1e-12)[:, None]
    return share @ values, (share**2 / precision).sum(1)


def _local_harmonic(at: np.ndarray, k: np.ndarray, angle: np.ndarray, values: np.ndarray, precision: np.ndarray,
                    h: float) -> tuple[np.ndarray, np.ndarray]:
    """Local cos 2 phi and sin 2 phi terms, shrunk towards 0, and the variance that they add (mean over the angle)."""
    w = _kernel(at, k, h)[1] * precision
    c, s = np.cos(2 * angle), np.sin(2 * angle)
    cc, ss, cs = w @ c**2 + HARMONIC**-2, w @ s**2 + HARMONIC**-2, w @ (c * s)
    vc, vs = w @ (c * values), w @ (s * values)
    determinant = cc * ss - cs**2
    return np.array([(ss * vc - cs * vs), (cc * vs - cs * vc)]) / determinant, (cc + ss) / determinant / 2


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
