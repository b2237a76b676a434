"""How near to a zone axis, window by window or particle by particle, as a factor for the probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from .blend import Windows
from .crop import masked_crop
from .labels import label_block
from .net import peak_ratio
from .peaks import find_pairs_many

__all__ = ["FLOOR", "blend_scales", "measure_window", "measure_windows", "particle_scales", "scale_of", "scaled"]

#: the least factor: what no lattice is seen in stays visible
FLOOR = 0.02
#: the least value of a map where the probability is positive: products of small numbers would round to 0
TINY = float(np.finfo(np.float32).tiny)


def scale_of(ratio: Any) -> np.ndarray:
    """Factor max(0.02, 1 / ratio) for a peak ratio; 0.02 where that is nan.

    Examples
    --------
    >>> scale_of([1.0, 4.0, 1000.0, np.nan]).tolist()
    [1.0, 0.25, 0.02, 0.02]
    """
    ratio = np.asarray(ratio, dtype=np.float64)
    known = ratio >= 1
    return np.maximum(FLOOR, np.divide(1.0, ratio, out=np.zeros_like(ratio), where=known))


def measure_window(image: np.ndarray, particle: np.ndarray, pixel_size: tuple[float, float], *,
                   crystal: str | Sequence[float] | None = None,
                   mtf: Callable[[np.ndarray], np.ndarray] | None = None) -> float:
    """Factor of one window: the mean over its particle pixels of the factor of their region.

    Each connected region of the mask is cut out with a soft edge and has a Fourier domain of its
    own, so that two particles in a window are not taken for one lattice, in which the spots of the
    smaller one are dimmer. Where nothing is particle nothing is transformed.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Counts.
    particle : ndarray of bool, shape (y, x)
        Pixels of particles.
    pixel_size : (float, float)
        (y, x) [angstrom].
    crystal, mtf
        See `hrtem_dask.fourier_peak_pairs`.

    Returns
    -------
    float
        From 0.02 to 1; 0.02 without particle.
    """
    if not particle.any():
        return FLOOR
    regions = label_block(particle)
    areas = np.bincount(regions.ravel())[1:]
    known = np.unique(regions[np.isfinite(image)])
    crops = {k: masked_crop(image, regions == k, pixel_size) for k in known[known > 0].tolist()}
    tables = find_pairs_many(list(crops.values()), crystal=crystal, mtf=mtf)
    ratios = np.full(areas.size, np.nan)
    ratios[np.array(list(crops), dtype=int) - 1] = [peak_ratio(pairs) for pairs in tables]
    return float(np.average(scale_of(ratios), weights=areas))


def measure_windows(image: np.ndarray, particle: np.ndarray, windows: tuple[Windows, Windows],
                    which: tuple[range, range], pixel_size: tuple[float, float], *,
                    crystal: str | Sequence[float] | None = None,
                    mtf: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """Factors of some windows of a frame.

    Parameters
    ----------
    image, particle : ndarray, shape (y, x)
        The part of the frame from the first pixel of the first of these windows on.
    windows : (Windows, Windows)
        Those of the frame along y and x.
    which : (range, range)
        Which of them to measure.
    pixel_size, crystal, mtf
        See `measure_window`.

    Returns
    -------
    ndarray, shape (len(which[0]), len(which[1]))
    """
    ys, xs = windows
    top, left = ys.starts[which[0][0]], xs.starts[which[1][0]]
    out = np.empty((len(which[0]), len(which[1])))
    for i, row in enumerate(which[0]):
        for j, column in enumerate(which[1]):
            y, x = ys.starts[row] - top, xs.starts[column] - left
            here = slice(y, y + ys.width), slice(x, x + xs.width)
            out[i, j] = measure_window(image[here], particle[here], pixel_size, crystal=crystal, mtf=mtf)
    return out


def blend_scales(scales: np.ndarray, windows: tuple[Windows, Windows], which: tuple[range, range],
                 rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Weighted mean of the factors of the windows that meet a rectangle of a frame.

    The weights of a pixel add up to 1 and are products of one an axis, so a row of windows is summed
    along x once and not for every row of pixels. Every pixel sums over its windows in the
    same order, whatever the rectangle.

    Parameters
    ----------
    scales : ndarray, shape (n, m)
        Factors of the windows ``which``, among them all that meet the rectangle.
    windows, which
        As for `measure_windows`.
    rows, columns : (int, int)
        The rectangle, in pixels of the frame.

    Returns
    -------
    ndarray, float32, shape (rows, columns)
        Equal bit for bit for every rectangle that holds a pixel.

    Examples
    --------
    >>> both = Windows(8, 4, "hamming"), Windows(8, 4, "hamming")
    >>> scales = np.full((3, 3), 0.02)
    >>> scales[:, 2] = 1.0
    >>> blend_scales(scales, both, (range(3), range(3)), (3, 4), (2, 8)).round(2).astype(float).round(2).tolist()
    [[0.02, 0.02, 0.21, 0.81, 1.0, 1.0]]
    """
    ys, xs = windows
    profiles = {i: np.zeros(columns[1] - columns[0]) for i in ys.meeting(*rows)}
    for i, profile in profiles.items():
        for j in xs.meeting(*columns):
            here, there = _shared(xs, j, columns)
            profile[there] += scales[i - which[0][0], j - which[1][0]] * xs.weights(j)[here].astype(np.float64)
    out = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), np.float32)
    for i, profile in profiles.items():
        here, there = _shared(ys, i, rows)
        out[there] += (ys.weights(i)[here, None].astype(np.float64) * profile).astype(np.float32)
    return np.clip(out, np.float32(FLOOR), np.float32(1), out=out)  # rounding of the weights alone goes beyond


def _shared(windows: Windows, i: int, wanted: tuple[int, int]) -> tuple[slice, slice]:
    """Return what a window and the wanted range share, as indices of the one and of the other."""
    start = windows.starts[i]
    a, b = max(start, wanted[0]), min(start + windows.width, wanted[1])
    return slice(a - start, b - start), slice(a - wanted[0], b - wanted[0])


def particle_scales(labels: np.ndarray, scales: np.ndarray, pixel_size: tuple[float, float],
                    reach: float) -> np.ndarray:
    """Factor of every pixel of a frame whose particles have one factor each.

    Around a particle its probability falls to 0 over some pixels; these belong to it, else its
    outline would change. So pixels outside take the factor of the nearest particle within reach.

    Parameters
    ----------
    labels : ndarray of int, shape (y, x)
        0 is background.
    scales : ndarray, shape (n + 1,)
        Factor of each label from 0.
    pixel_size : (float, float)
        (y, x) [angstrom].
    reach : float
        Distance from a particle up to which pixels are its own [angstrom].

    Returns
    -------
    ndarray, float32, shape (y, x)
        Of pixels equally far from two particles the one with the lower label counts. A pixel's value
        depends on the labels within its reach alone.

    Examples
    --------
    >>> labels = np.zeros((1, 9), dtype=np.int32)
    >>> labels[0, [2, 6]] = 1, 2
    >>> particle_scales(labels, np.array([0.02, 1.0, 0.5]), (1.0, 1.0), 2.0).round(2).tolist()
    [[1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]]
    """
    out = scales[labels].astype(np.float32)
    nearest = np.full(labels.shape, reach * (1 + 1e-9))
    margin = [int(reach / d) + 1 for d in pixel_size]
    for number, box in enumerate(find_objects(labels), start=1):
        if box is None:
            continue
        wide = tuple(slice(max(b.start - m, 0), min(b.stop + m, n))
                     for b, m, n in zip(box, margin, labels.shape, strict=True))
        inside = labels[wide]
        distance = distance_transform_edt(inside != number, sampling=pixel_size)
        mine = (inside == 0) & (distance < nearest[wide])
        nearest[wide][mine] = distance[mine]
        out[wide][mine] = scales[number]
    return out


def scaled(probability: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Probability times factor, float32, positive wherever the probability is.

    Examples
    --------
    >>> scaled(np.array([0.0, 0.5, 1e-45, 1e-300, np.nan]), np.float32(0.02)).tolist()
    [0.0, 0.009999999776482582, 1.1754943508222875e-38, 1.1754943508222875e-38, nan]
    """
    out = probability.astype(np.float32) * scale
    low = (probability > 0) & (out < TINY)
    out[low] = TINY
    return out
