"""The noise in a power spectrum as a function of frequency, and the threshold that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .half_plane import SECTORS, HalfGrid

__all__ = ["Annuli", "Background", "cut_annuli", "detection_threshold", "fit_background", "surroundings"]

#: the power of noise is exponentially distributed, and its median is the mean times this
LN2 = float(np.log(2))
#: a median of n exponential values is as uncertain as a mean of this fraction of them
MEDIAN_EFFICIENCY = LN2**2
#: smallest bandwidth of the smoothing over frequency [1/angstrom]
BANDWIDTH = 0.03
#: the azimuthal terms vary less with the radius than the level, which follows Thon rings
HARMONIC_WIDTH = 3.0
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

    def in_cells(self, annuli: Annuli) -> np.ndarray:
        """Mean noise power in the middle of each cell, shape (rings, SECTORS)."""
        angle = (np.arange(SECTORS) + 0.5) * np.pi / SECTORS
        return self.at(annuli.centres[:, None] * np.sin(angle), annuli.centres[:, None] * np.cos(angle))


def _second_harmonic(k_y: np.ndarray, k_x: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r2 = np.maximum(radius**2, 1e-300)
    return (k_x**2 - k_y**2) / r2, 2 * k_x * k_y / r2


@dataclass(frozen=True)
class Annuli:
    """Cells of a half plane: annuli of one width, each in `SECTORS` sectors.

    Attributes
    ----------
    bins : ndarray, shape (n,)
        Flat indices of the bins.
    ring, cell : ndarray, shape (n,)
        Of each bin; cell = ring * SECTORS + sector.
    centres : ndarray, shape (rings,)
        Radii [1/angstrom].
    bandwidth : float
        Of the smoothing over the radius [1/angstrom].
    """

    bins: np.ndarray
    ring: np.ndarray
    cell: np.ndarray
    centres: np.ndarray
    bandwidth: float


def surroundings(resolution: float) -> float:
    """Frequencies beyond the search that its noise level takes in [1/angstrom]: two bandwidths of the smoothing."""
    return 2 * max(BANDWIDTH, 1.5 * resolution)


def cut_annuli(grid: HalfGrid, resolution: float, limits: tuple[float, float]) -> Annuli | None:
    """Annuli that cover the search between two radii [1/angstrom] and its surroundings; None where there are none.

    Parameters
    ----------
    grid : HalfGrid
    resolution : float
        Width of a spot [1/angstrom].
    limits : (float, float)
        Radii between which the noise level is needed [1/angstrom].
    """
    around = surroundings(resolution)
    first, last = max(limits[0] - around, 1.5 * resolution), limits[1] + around
    if last <= first:
        return None
    width = max(resolution / 2, BANDWIDTH / 8)
    n_rings = int(np.ceil((last - first) / width))
    k = grid.k.ravel()
    bins = np.flatnonzero(grid.half.ravel() & (k >= first) & (k < first + n_rings * width))
    ring = np.minimum(((k[bins] - first) / width).astype(np.int32), n_rings - 1)
    cell = ring * SECTORS + grid.sector.ravel()[bins]
    return Annuli(bins, ring, cell, first + (np.arange(n_rings) + 0.5) * width, around / 2)


def fit_background(power: np.ndarray, valid: np.ndarray, annuli: Annuli, *, density: float,
                   azimuthal: bool = True) -> Background | None:
    """Robust, smooth noise level of a power spectrum.

    The median of a cell (an annulus, or a sector of one) over ln 2 is the mean of exponentially
    distributed noise and does not see a few bright spots. A local straight line through the
    logarithms smooths it over the radius, so a steep spectrum is followed without bias. The
    second harmonic over the angle follows what drift and astigmatism do to an amorphous film;
    without it the bright side of an elliptical Thon ring passes for spots.

    Parameters
    ----------
    power : ndarray, float32, shape (n,)
        Power of the bins of the annuli.
    valid : ndarray of bool, shape (n,)
        Bins to use (spots that are already known are left out).
    annuli : Annuli
    density : float
        Independent samples a bin of the half plane.
    azimuthal : bool
        Whether to fit the second harmonic; False takes entire annuli, which is more robust while
        the spots are not known yet.

    Returns
    -------
    Background or None
        None where there is no noise to measure (a constant image) or too few bins.
    """
    n_rings, n_sectors = len(annuli.centres), SECTORS if azimuthal else 1
    cell = annuli.cell if azimuthal else annuli.ring
    counts, medians = _medians(power, np.where(valid, cell, n_rings * n_sectors), n_rings * n_sectors)
    samples = (counts * density).reshape(n_rings, n_sectors)
    medians = medians.reshape(n_rings, n_sectors)
    good = (samples >= 0.5) & (medians > 0)
    if good.any(axis=1).sum() < 3:
        return None
    # the logarithm of a median of few samples is low: by 0.21 for one, and by 0.21 / n about for n
    values = np.log(np.where(good, medians, 1.0) / LN2) + 0.21 / np.maximum(samples, 1.0)
    precision = np.where(good, MEDIAN_EFFICIENCY * samples, 0.0)
    return _smooth(annuli, np.where(good, values, 0.0), precision, azimuthal)


def _medians(values: np.ndarray, cell: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Count and median of the values of each cell (0 where there is none); cells from `n_cells` on do not count."""
    # numbers of single precision that are not negative have the order of their bits: one sort of whole
    # numbers, many times faster than one by two keys
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    order = np.sort((cell.astype(np.uint64) << np.uint64(32)) | bits)
    ends = np.searchsorted(order, np.arange(n_cells + 1, dtype=np.uint64) << np.uint64(32))
    start, counts = ends[:-1], np.diff(ends)
    if not values.size:
        return counts, counts * 0.0
    lower, upper = (((order[np.minimum(start + at, values.size - 1)] & np.uint64(0xFFFFFFFF)).astype(np.uint32))
                    .view(np.float32).astype(np.float64) for at in (np.maximum(counts - 1, 0) // 2, counts // 2))
    return counts, np.where(counts > 0, (lower + upper) / 2, 0.0)


def _smooth(annuli: Annuli, values: np.ndarray, precision: np.ndarray, azimuthal: bool) -> Background:
    """Local regressions over the radius, of the level and then of the second harmonic of what remains.

    ``values`` and ``precision`` have the shape (rings, sectors); cells without a value have no precision.
    """
    k, h = annuli.centres[precision.any(axis=1)], annuli.bandwidth
    values, precision = values[precision.any(axis=1)], precision[precision.any(axis=1)]
    # the level is smooth over h: a straight line between points a quarter of that apart is as good
    at = k if len(k) < 8 or k[1] - k[0] > h / 4 else np.linspace(k[0], k[-1], int(np.ceil(4 * (k[-1] - k[0]) / h)) + 2)
    level, variance = _local_line(at, k, values, precision, h)
    terms = np.zeros((3, at.size))
    if azimuthal:
        rest = values - np.interp(k, at, level)[:, None]
        used = rest.clip(-3.0, 2.0)  # a spot that fills a cell of its own
        terms[1:], more, known = _local_harmonic(at, k, used, precision, HARMONIC_WIDTH * h)
        level = _local_line(at, k, np.interp(k, at, level)[:, None] + used - known, precision, h)[0]
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
    weight, total = precision.sum(axis=1), (precision * values).sum(axis=1)
    w = kernel * weight
    s0, s1, s2 = w.sum(1), (w * offset).sum(1), (w * offset**2).sum(1)
    share = kernel * (s2[:, None] - s1[:, None] * offset) / np.maximum(s0 * s2 - s1**2, 1e-12)[:, None]
    return share @ total, share**2 @ weight


def _local_harmonic(at: np.ndarray, k: np.ndarray, values: np.ndarray, precision: np.ndarray,
                    h: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Local cos 2 phi and sin 2 phi terms, shrunk towards 0; the variance that they add; their sum in the cells."""
    kernel = _kernel(at, k, h)[1]
    angle = (np.arange(SECTORS) + 0.5) * np.pi / SECTORS
    c, s = np.cos(2 * angle), np.sin(2 * angle)
    cc, ss, cs = (kernel @ (precision @ t) + extra for t, extra in
                  ((c**2, HARMONIC**-2), (s**2, HARMONIC**-2), (c * s, 0.0)))
    vc, vs = (kernel @ ((precision * values) @ t) for t in (c, s))
    determinant = cc * ss - cs**2
    terms = np.array([(ss * vc - cs * vs), (cc * vs - cs * vc)]) / determinant
    known = np.interp(k, at, terms[0])[:, None] * c + np.interp(k, at, terms[1])[:, None] * s
    return terms, (cc + ss) / determinant / 2, known


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
        before = t
        t = np.minimum(n * np.expm1(np.log(ratio * np.maximum(t - 0.5, 0.5)) / n), 1e9)
        if np.abs(t - before).max() < 1e-9:
            break
    return t
