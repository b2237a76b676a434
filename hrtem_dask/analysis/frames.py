"""Which frames of a movie are fit for use, from their raw pixels alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from scipy import optimize

from ..core.calibration import has_calibration, pixel_size_of
from ..core.checks import check_mtf, check_number
from ..core.errors import InputError
from ..core.provenance import record
from ..core.schema import FRAME_QUALITY
from ..kernels.frame_quality import (
    Bins,
    FramePart,
    Measured,
    bins_of,
    measure_part,
    pair_noise,
    reduce_frame,
    window_side,
)
from ..kernels.motion_blur import Blur, compare_frames
from .aligned import frames_and_times

__all__ = ["QUALITY_REASONS", "frame_quality"]

#: what a frame can be, worst first
QUALITY_REASONS = ("quarantined", "saturated", "empty", "blurred", "usable")
#: side of a block of a frame [pixel], and pixels and frames that a task reads at most
BLOCK, TASK_PIXELS, TASK_FRAMES = 2048, 2**22, 64
#: parts that one task adds up
FAN_IN = 8
#: neighbouring frames whose difference tells the noise
PAIRS = 16
#: deviations from which an image holds more than noise, and from which a motion is no chance
CONTRAST_LIMIT, SIGNAL_LIMIT, STRUCTURE_LIMIT, BLUR_LIMIT = 5.0, 3.0, 2.0, 3.0
#: noise below this part of that of the median frame is that of a frame without beam
DARK = 0.05
#: relative error of the noise that its own measurement leaves
NOISE_ERROR = 0.02


def frame_quality(
    movie: xr.DataArray,
    *,
    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
    spacing: float = 2.3,
    min_sharpness: float = 0.5,
    max_saturated: float = 0.01,
    max_unknown: float = 0.5,
) -> pd.DataFrame:
    """Measure every frame of a movie from its raw pixels, and name those that are unfit. Computes, once.

    Parameters
    ----------
    movie : DataArray, dims (frame, y, x)
        Counts. Without a pixel size no frame is called blurred.
    mtf : callable, optional
        Amplitude MTF of the frequency in units of Nyquist, as `fit_mtf` returns it: the shape of the noise.
        Without it the noise is measured in the movie, from the differences of neighbouring frames.
    spacing : float
        Lattice spacing that is to be seen [angstrom].
    min_sharpness : float
        A frame whose motion within the exposure leaves less than this part of the amplitude of such
        fringes, compared with the median frame of the movie, is blurred.
    max_saturated, max_unknown : float
        Part of the pixels that may be cut off at the highest value, or not finite.

    Returns
    -------
    pandas.DataFrame
        Table `core.schema.FRAME_QUALITY`, a row a frame. ``reason`` is, the first that holds:

        - ``quarantined``: too many pixels are unknown,
        - ``saturated``: too many are at the highest value of the dtype, or pile up at that of the frame,
        - ``empty``: all pixels are equal, or they hold nothing but noise,
        - ``blurred``: drift or vibration within the exposure,
        - ``usable``.

    Raises
    ------
    InputError
        If the movie has other dims, holds no real numbers, or an option is out of range.
    CalibrationError
        If the coordinates of the movie contradict its pixel size.

    Notes
    -----
    The power spectra of windows of a frame are added (`kernels.frame_quality`). Motion within the exposure
    takes power from the image, along its direction, and none from the noise; the fit of both against the
    median frame (`kernels.motion_blur`) gives the motion in angstrom (that of a steady drift over more than
    a lattice spacing comes out up to a third too large). The dose of a frame drops out. A
    lattice that goes out of the zone axis is no blur: medians over directions leave its spots out, so
    what is seen is the film and the outline of particles. A slow change of the defocus looks isotropic
    and widens the errors. Fewer than three usable frames are not compared. Where neighbouring frames do not
    show the same, as in a collection of single images, and no MTF is given, the noise is not known: no frame is
    blurred then, and one is empty where its spectrum could be that of noise (of a film at a low dose too).
    No task holds more than a few frames, or one block of a large frame; the result does not depend on
    the chunks, nor on scale or offset of the counts.

    Examples
    --------
    >>> from hrtem_dask.core.calibration import make_movie
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(100, (3, 128, 128)).astype("uint16")
    >>> counts[1] = 7
    >>> counts[2] = np.minimum(counts[2], 100)
    >>> table = frame_quality(make_movie(counts, pixel_size=0.4))
    >>> table.reason.tolist(), table.saturated.tolist()[2] > 1000
    (['empty', 'empty', 'saturated'], True)
    """
    pixel_size = _check(movie, mtf, spacing, min_sharpness, max_saturated, max_unknown)
    frames, times = frames_and_times(movie)
    data = movie.data if isinstance(movie.data, da.Array) else da.from_array(movie.values, chunks=(1, -1, -1))
    window = tuple(window_side(n, p) for n, p in zip(data.shape[1:], pixel_size or (None, None), strict=True))
    bins = bins_of(window, pixel_size, mtf)
    measured, noise = _measure(data, window, bins)
    floor = _floor(bins, noise, mtf is not None)
    pixels = float(math.prod(data.shape[1:]))
    table = _table(measured, bins, floor, spacing if pixel_size else math.nan, max_saturated * pixels)
    table["reason"] = _reasons(table, measured, pixels, min_sharpness, max_saturated, max_unknown)
    table = FRAME_QUALITY.coerce(table.drop(columns="vacuum").assign(frame=frames, time=times))
    table["reason"] = pd.Categorical(table["reason"].astype(str), QUALITY_REASONS)
    table.attrs = record({}, "frame_quality", spacing=spacing, min_sharpness=min_sharpness,
                         max_saturated=max_saturated, max_unknown=max_unknown, mtf=mtf is not None)
    return table


def _check(movie: Any, mtf: Any, spacing: float, min_sharpness: float, max_saturated: float,
           max_unknown: float) -> tuple[float, float] | None:
    if not isinstance(movie, xr.DataArray) or movie.dims != ("frame", "y", "x"):
        raise InputError(f"found {getattr(movie, 'dims', type(movie).__name__)}; expected a movie with the dims "
                         f"('frame', 'y', 'x'), as open_movie(path) returns it. Of a focal series take one image: "
                         f"movie.isel(defocus=0)")
    if 0 in movie.shape:
        raise InputError(f"the movie has the shape {movie.shape}; expected at least one frame and one pixel")
    if movie.dtype.kind not in "biuf":
        raise InputError(f"the movie holds {movie.dtype}; expected real numbers")
    check_mtf(mtf)
    check_number("spacing", spacing, "angstrom", above=0)
    for name, value in (("min_sharpness", min_sharpness), ("max_saturated", max_saturated),
                        ("max_unknown", max_unknown)):
        check_number(name, value, least=0)
        if value > 1:
            raise InputError(f"{name} is {value!r}; expected a part, from 0 to 1")
    return pixel_size_of(movie) if has_calibration(movie) else None


def _measure(data: da.Array, window: tuple[int, int], bins: Bins | None) -> tuple[list[Measured], np.ndarray]:
    """Numbers of all frames, and the noise from pairs of neighbours: (pair, ring)."""
    limit = float(np.iinfo(data.dtype).max) if data.dtype.kind in "iu" else None
    n, size = data.shape[0], int(np.clip(TASK_PIXELS // math.prod(data.shape[1:]), 1, TASK_FRAMES))
    sides = [_cuts(length, side) for length, side in zip(data.shape[1:], window, strict=True)]
    batches = [min(size, n - i) for i in range(0, n, size)]
    blocks = data.rechunk((tuple(batches), *sides)).to_delayed()
    layout = dask.delayed(bins, traverse=False)
    measure, add, finish, difference = (dask.delayed(f, pure=False, traverse=False) for f in
                                        (_measure_block, _add, _finish, _difference))
    finished = []
    for batch in blocks:
        parts = [measure(block, window) for block in batch.ravel()]
        while len(parts) > 1:
            parts = [add(*parts[i:i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
        finished.append(finish(parts[0], layout, limit))
    pairs = []
    if bins is not None and n > 1:
        y, x = blocks.shape[1] // 2, blocks.shape[2] // 2
        for i in np.unique(np.linspace(0, n - 2, min(PAIRS, n - 1)).round().astype(int)).tolist():
            (a, ia), (b, ib) = divmod(i, size), divmod(i + 1, size)
            pairs.append(difference(blocks[a, y, x], ia, blocks[b, y, x], ib, window, layout))
    done, noise = dask.compute(finished, pairs)
    return [m for batch in done for m in batch], np.array(noise)


def _cuts(length: int, window: int) -> tuple[int, ...]:
    """Blocks along an axis, each of whole windows; the last one takes the rest."""
    side = window * max(1, BLOCK // window)
    many = max(1, length // side)
    return (*[side] * (many - 1), length - side * (many - 1))


def _measure_block(block: np.ndarray, window: tuple[int, int]) -> list[FramePart]:
    return [measure_part(frame, window) for frame in block]


def _add(*parts: list[FramePart]) -> list[FramePart]:
    out = parts[0]
    for other in parts[1:]:
        out = [a + b for a, b in zip(out, other, strict=True)]
    return out


def _finish(parts: list[FramePart], bins: Bins | None, limit: float | None) -> list[Measured]:
    return [reduce_frame(part, bins, limit) for part in parts]


def _difference(first: np.ndarray, i: int, second: np.ndarray, j: int, window: tuple[int, int],
                bins: Bins) -> np.ndarray:
    return pair_noise(first[i], second[j], window, bins)


def _floor(bins: Bins | None, noise: np.ndarray, known: bool) -> np.ndarray | None:
    """Power of the noise in every bin over that in the noise band; None where nothing tells it."""
    if bins is None or known:
        return None if bins is None else bins.floor
    good = noise[np.isfinite(noise).all(axis=1)] if noise.size else noise
    if not len(good):
        return None
    rings = optimize.isotonic_regression(np.median(good, axis=0), increasing=False).x
    return rings[bins.ring]


def _table(measured: Sequence[Measured], bins: Bins | None, floor: np.ndarray | None, spacing: float,
           most: float) -> pd.DataFrame:
    table = pd.DataFrame({
        "mean": [m.mean for m in measured], "spread": [m.spread for m in measured],
        "noise": [m.noise for m in measured], "saturated": [m.clipped for m in measured],
        "unknown": [m.unknown for m in measured]})
    contrast = error = np.full(len(measured), np.nan)
    blur = Blur(*[contrast] * 5)
    if floor is not None:
        power = np.stack([m.power for m in measured])
        modes = np.array([max(m.windows, 1) for m in measured])[:, None] * bins.modes
        weight = modes / modes.sum(axis=1, keepdims=True)
        contrast = (weight * (power / floor - 1)).sum(axis=1)
        error = np.hypot(np.sqrt(1.5 / modes.sum(axis=1)), NOISE_ERROR)
        sure = contrast > CONTRAST_LIMIT * error
        fit = sure & [not m.constant and m.clipped <= most for m in measured]
        blur = compare_frames(power, bins.k, modes, floor, fit)
        # a frame that is blurred at a low dose has little left in the band, but is as the others at low frequencies
        holds = sure | (blur.signal > SIGNAL_LIMIT * blur.signal_error)
        vacuum = ~holds & _nothing(contrast, error, table["noise"].to_numpy())
        blur = Blur(*(np.where(holds & math.isfinite(spacing), v, np.nan) for v in blur))
    else:
        vacuum = np.array([m.structure for m in measured]) < STRUCTURE_LIMIT
    table["vacuum"] = vacuum
    table["contrast"], table["contrast_error"] = contrast, error
    table["sharpness"] = np.exp(np.clip(-2 * np.pi**2 * blur.variance / spacing**2, -50, 5))
    table["blur"] = np.sqrt(np.maximum(blur.variance, 0))
    table["blur_deviations"] = blur.variance / blur.variance_error
    table["blur_angle"] = blur.angle
    return table


def _nothing(contrast: np.ndarray, error: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Which frames would show something at their dose, if it were there; ask only of those that show nothing.

    The power of the noise stands for the dose. Where the typical frame would not be seen either, nothing
    follows, but for a whole movie without contrast, and for frames with next to no dose.
    """
    seen = np.isfinite(contrast)
    if not seen.any():
        return ~seen
    typical, dose = np.median(contrast[seen]), noise / np.median(noise[seen])
    if typical < CONTRAST_LIMIT * np.hypot(np.median(error[seen]) / np.sqrt(seen.sum()), NOISE_ERROR):
        return seen
    return (contrast + 2 * error < typical * np.minimum(dose, 1) / 2) | (dose < DARK)


def _reasons(table: pd.DataFrame, measured: Sequence[Measured], pixels: float, min_sharpness: float,
             max_saturated: float, max_unknown: float) -> np.ndarray:
    constant = np.array([m.constant for m in measured])
    moved = (table["sharpness"] < min_sharpness) & (table["blur_deviations"] > BLUR_LIMIT)
    return np.select([table["unknown"] > max_unknown * pixels, table["saturated"] > max_saturated * pixels,
                      constant | table["vacuum"], moved], QUALITY_REASONS[:-1], QUALITY_REASONS[-1])
