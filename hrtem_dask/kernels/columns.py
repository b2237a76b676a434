"""The columns of one frame: found in its probability, measured in its images; whole, or a tile at a time.

A tile goes through `survey_tile` and `fit_tile`; between them the frame is put together by
`merge_tiles`, and at the end by `column_rows`. A whole frame is one tile (`measure_columns`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from itertools import product
from operator import add

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from ..core.machine import one_blas_thread
from .column_noise import WIDTHS, WINDOW, Noise, Spectrum, fit_noise, noise_spectrum, windows_of
from .column_peaks import Peaks, find_peaks, join_peaks, thin_out
from .gaussfit import Fit, fit_gaussians

__all__ = ["Finder", "column_rows", "fit_columns", "fit_tile", "halo_pixels", "measure_columns", "merge_tiles",
           "survey_tile"]

#: a fit that ends farther from the maximum, or whose error is larger, has found something else [angstrom]
WANDERED, UNSURE = 0.6, 0.25
#: error of the place of a maximum over that of the fit, at least: measured on simulated images of gold
SEEN = 0.9
#: fitted columns nearer than this part of the least distance have found the same spot
SAME = 0.6
#: deviations from which the contrast of a frame has a sign
SIGN = 4.0
#: noise that a probability is taken to have, for the weights of the fit only
PROBABILITY_NOISE = 0.02


@dataclass(frozen=True)
class Finder:
    """Options of a search, the same for all frames.

    Attributes
    ----------
    pixel_size : (float, float)
        (y, x) [angstrom].
    threshold : float
        Least presence.
    min_distance : float
        Of two columns [angstrom].
    classes : tuple of str
        Of the columns.
    mtf : callable, optional
        Amplitude MTF of the frequency in units of Nyquist.
    offset : float
        Counts of the image without electrons.
    shift_error : float
        By how much the spot of an image lies beside the mean of its atoms, along an axis [angstrom].
    """

    pixel_size: tuple[float, float]
    threshold: float
    min_distance: float
    classes: tuple[str, ...] = ("column",)
    mtf: Callable[[np.ndarray], np.ndarray] | None = None
    offset: float = 0.0
    shift_error: float = 0.0


def halo_pixels(reach: float, pixel_size: tuple[float, float]) -> tuple[int, int]:
    """Pixels (y, x) that this many angstrom reach over, and two."""
    return int(np.ceil(reach / pixel_size[0])) + 2, int(np.ceil(reach / pixel_size[1])) + 2


@one_blas_thread()
def survey_tile(planes: np.ndarray, images: np.ndarray | None, finder: Finder, *, origin: tuple[int, int],
                own: tuple[slice, slice], first: tuple[int, int],
                frame: tuple[int, int]) -> tuple[Peaks, list[Spectrum]]:
    """Find the maxima of a tile, and the spectra of the windows of the frame that begin in it.

    Parameters
    ----------
    planes : ndarray, shape (class, y, x)
        Probability of the tile and of `column_peaks.REACH` around it, begins at ``origin``.
    images : ndarray, shape (image, y, x), optional
        The tile and `column_noise.WINDOW` pixels below and to the right, begins at ``first``.
    finder : Finder
    origin, first, frame : (int, int)
        Pixels of the frame that the arrays begin with; shape of the frame.
    own : (slice, slice)
        The tile itself in ``planes``.
    """
    found = find_peaks(planes, finder.pixel_size, finder.threshold, origin=origin, own=own, frame=frame)
    if images is None:
        return found, []
    tile = [range(o, o + s.stop - s.start) for o, s in zip(first, own, strict=True)]
    return found, [_spectrum(image, first, tile, frame) for image in images]


def _spectrum(image: np.ndarray, first: tuple[int, int], tile: Sequence[range], frame: tuple[int, int]) -> Spectrum:
    out = []
    # where a window begins, and where the one before has ended
    axes = [list(zip(s, [0, *(k + WINDOW for k in s[:-1])], strict=True)) for s in map(windows_of, frame)]
    for (i, before_i), (j, before_j) in product(*axes):
        if i in tile[0] and j in tile[1]:
            window = image[i - first[0]:i - first[0] + WINDOW, j - first[1]:j - first[1] + WINDOW]
            out.append(noise_spectrum(window, (slice(before_i - i, None), slice(before_j - j, None))))
    return reduce(add, out, Spectrum.none())


def merge_tiles(parts: Sequence[tuple[Peaks, list[Spectrum]]], finder: Finder,
                frame: tuple[int, int]) -> tuple[Peaks, list[Noise]]:
    """Maxima of a frame that keep their distance, in the order of their pixels, and the noise of its images."""
    found = thin_out(join_peaks([p for p, _ in parts]), finder.min_distance)
    window = (min(frame[0], WINDOW), min(frame[1], WINDOW))
    spectra = [reduce(add, of_image) for of_image in zip(*(s for _, s in parts), strict=True)]
    return found, [fit_noise(s, window, finder.pixel_size, finder.mtf) for s in spectra]


@one_blas_thread()
def fit_tile(images: np.ndarray, found: Peaks, noise: Sequence[Noise], finder: Finder, *,
             origin: tuple[int, int] = (0, 0), own: tuple[range, range] | None = None) -> Fit | None:
    """Fit the columns of a tile, those around it helping.

    Parameters
    ----------
    images : ndarray, shape (image, y, x)
        Of the tile and `gaussfit.REACH` around it, begins at ``origin``; without images, the probability.
    found : Peaks
        Of the frame.
    noise : sequence of Noise
        Of each image; empty for the probability.
    finder : Finder
    origin : (int, int)
    own : (range, range), optional
        Pixels of the frame whose columns are returned, in their order.
    """
    if own is not None:
        shape = images.shape[1:]
        near = ((found.pixel >= origin) & (found.pixel < np.array(origin) + shape)).all(axis=1)
        found = found.take(np.flatnonzero(near))
    if not len(found):
        return None
    start = np.array(origin) * finder.pixel_size
    if noise:
        amplitude, rough = np.stack([n.amplitude for n in noise]), np.array([n.rough for n in noise])
    else:
        amplitude, rough = np.zeros((len(images), len(WIDTHS))), None
        amplitude[:, -1] = PROBABILITY_NOISE**2
    fit = fit_gaussians(images, found.place - start, finder.pixel_size, amplitude, rough=rough)
    fit = Fit(fit.place + start, *(getattr(fit, f.name) for f in fields(Fit)[1:]))
    if own is None:
        return fit
    low, high = np.array([o.start for o in own]), np.array([o.stop for o in own])
    return fit.take(np.flatnonzero(((found.pixel >= low) & (found.pixel < high)).all(axis=1)))


def column_rows(found: Peaks, fit: Fit | None, noise: Sequence[Noise], finder: Finder) -> dict[str, np.ndarray]:
    """Put the numbers of a frame's columns together, places in angstrom from its pixel (0, 0)."""
    n = len(found)
    place, error = found.place.copy(), found.error.copy()
    rows = {"column": np.arange(1, n + 1), "probability": found.presence,
            "class": pd.Categorical.from_codes(found.label, list(finder.classes)),
            "intensity": np.full(n, np.nan), "intensity_error": np.full(n, np.nan), "width": np.full(n, np.nan),
            "fitted": np.zeros(n, bool), "contrast": np.zeros(n, np.int8)}
    if fit is not None:
        good = _good(found, fit, finder, bool(noise))
        place[good] = fit.place[good]
        if noise:
            # the network's eyes are about as good as the fit's: what is in the noise for one is for the other
            blurred = np.minimum(SEEN * fit.error, UNSURE)
            error = np.where(fit.settled[:, None], np.maximum(error, blurred), error)
            error[good] = np.hypot(fit.error[good], finder.shift_error)
        rows |= {"fitted": good} | _brightness(fit, good, noise, finder)
    return {"y": place[:, 0], "x": place[:, 1], "y_error": error[:, 0], "x_error": error[:, 1]} | rows


def _good(found: Peaks, fit: Fit, finder: Finder, by_image: bool) -> np.ndarray:
    """Which fits hold: settled near the maximum, surer than it, and no two on the same spot."""
    good = fit.settled & (np.hypot(*(fit.place - found.place).T) <= WANDERED)
    if by_image:
        error = np.hypot(fit.error, finder.shift_error)
        good &= (error <= UNSURE).all(axis=1) & ((error**2).sum(axis=1) <= (found.error**2).sum(axis=1))
    place = np.where(good[:, None], fit.place, found.place)
    same = cKDTree(place).query_pairs(SAME * finder.min_distance, output_type="ndarray")
    good[same.ravel()] = False
    return good


def _brightness(fit: Fit, good: np.ndarray, noise: Sequence[Noise], finder: Finder) -> dict[str, np.ndarray]:
    """Height, width and sign of the contrast, of the image that shows the columns best."""
    if not noise:
        return {"width": np.where(good, fit.width[0], np.nan)}
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = np.nan_to_num(fit.first / fit.first_error).sum(axis=1) / np.sqrt(len(good))
    k = int(np.abs(deviations).argmax())
    level = noise[k].mean - finder.offset
    unit = level if level > 0 else np.nan
    sign = np.sign(deviations[k]) if abs(deviations[k]) > SIGN else 0
    return {"intensity": np.where(good, fit.height[k], fit.first[k]) / unit,
            "intensity_error": np.where(good, fit.height_error[k], fit.first_error[k]) / unit,
            "width": np.where(good, fit.width[k], np.nan), "contrast": np.full(len(good), sign, np.int8)}


@one_blas_thread()
def measure_columns(planes: np.ndarray, images: np.ndarray | None, finder: Finder) -> dict[str, np.ndarray]:
    """Find and measure the columns of one frame.

    Parameters
    ----------
    planes : ndarray, shape (class, y, x)
        Probability of each class of columns.
    images : ndarray, shape (image, y, x), optional
        Counts; several of a focal series share the places.
    finder : Finder

    Returns
    -------
    dict of ndarray
        As `core.schema.COLUMNS` but without frame and time, places from pixel (0, 0).
    """
    frame = planes.shape[1:]
    whole = tuple(slice(0, n) for n in frame)
    part = survey_tile(planes, images, finder, origin=(0, 0), own=whole, first=(0, 0), frame=frame)
    found, noise = merge_tiles([part], finder, frame)
    fit = fit_tile(planes.sum(axis=0)[None] if images is None else images, found, noise, finder)
    return column_rows(found, fit, noise, finder)


@one_blas_thread()
def fit_columns(image: np.ndarray, place: np.ndarray, pixel_size: tuple[float, float], *,
                mtf: Callable[[np.ndarray], np.ndarray] | None = None, offset: float = 0.0) -> pd.DataFrame:
    """Measure columns whose places are known, as `find_columns` measures those that it finds.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Counts.
    place : ndarray, shape (n, 2)
        Where to begin (y, x) [angstrom], from pixel (0, 0).
    pixel_size : (float, float)
        (y, x) [angstrom].
    mtf : callable, optional
        Amplitude MTF of the frequency in units of Nyquist.
    offset : float
        Counts without electrons.

    Returns
    -------
    pandas.DataFrame
        ``y, x, y_error, x_error, intensity, intensity_error, width, settled``, a row a place; ``intensity`` is the
        height over the local background in units of the mean of the image, negative for dark columns.
    """
    shape = image.shape
    whole = [range(n) for n in shape]
    noise = fit_noise(_spectrum(image, (0, 0), whole, shape), (min(shape[0], WINDOW), min(shape[1], WINDOW)),
                      pixel_size, mtf)
    place = np.asarray(place, dtype=np.float64).reshape(-1, 2)
    fit = fit_gaussians(image[None], place, pixel_size, noise.amplitude[None], rough=np.array([noise.rough]))
    unit = noise.mean - offset
    return pd.DataFrame({
        "y": fit.place[:, 0], "x": fit.place[:, 1], "y_error": fit.error[:, 0], "x_error": fit.error[:, 1],
        "intensity": fit.height[0] / unit, "intensity_error": fit.height_error[0] / unit, "width": fit.width[0],
        "settled": fit.settled & (np.hypot(*(fit.place - place).T) <= WANDERED)})
