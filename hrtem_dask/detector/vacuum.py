"""From frames of vacuum to a noise power spectrum: find the vacuum, then stream through the frames."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from ..core.errors import InputError
from ..io.movie import open_movie
from ..kernels.frame_group import GroupNoise, frame_fault, group_noise, single_noise
from ..kernels.noise_power import detrend, outliers
from ..kernels.smooth_box import Structure, largest_rectangle, structure_of

__all__ = ["LEAST", "Noise", "check_box", "find_box", "measure", "opened"]

Box = tuple[int, int, int, int]

#: smallest side of vacuum that a spectrum can be measured from [pixel]
LEAST = 64
#: frames a group at most, and the bytes that a group may take as float64
GROUP, GROUP_BYTES = 16, 256 * 2**20
#: frames that are looked at to find the vacuum
PROBES = 8


@dataclass(frozen=True)
class Noise:
    """Noise of some frames within a box.

    Attributes
    ----------
    power : ndarray, shape (y, x // 2 + 1)
        Mean noise power [counts^2].
    spectra : float
        Independent spectra in the mean.
    shared : float
        Neighbouring modes that a window makes one.
    mean : float
        Mean counts, each frame with the weight that its noise has in ``power``.
    image : ndarray, shape (y, x)
        Mean of the good frames.
    frames : int
        Good frames.
    shape : (int, int)
        Of the box.
    remarks : tuple of str
        What was left out.
    near : ndarray or None
        Noise power from the differences of neighbouring frames [counts^2]; None of a single frame.
    pairs : int
        Neighbours in it.
    moved : (float, float)
        Largest sign in any of these differences that something moved [deviations], and its part of the noise.
    near_mean : float
        Mean counts as they weigh in ``near``.
    """

    power: np.ndarray
    spectra: float
    shared: float
    mean: float
    image: np.ndarray
    frames: int
    shape: tuple[int, int]
    remarks: tuple[str, ...]
    near: np.ndarray | None = None
    pairs: int = 0
    moved: tuple[float, float] = (0.0, 0.0)
    near_mean: float = 0.0


def opened(source: Any, what: str) -> xr.DataArray:
    """Open vacuum or dark frames as a movie (frame, y, x); a focal series becomes so many frames more."""
    if isinstance(source, np.ndarray) and source.ndim in (3, 4) and source.shape[-1] in (3, 4) and min(
            source.shape[-3:-1]) >= 16:
        raise InputError(f"the {what} has the shape {source.shape}: colour images. Expected counts (frame, y, x); "
                         "give one channel of the raw data, as vacuum[..., 0] where all are the same")
    if isinstance(source, list | tuple) and source and all(hasattr(s, "shape") for s in source):
        shapes = {tuple(s.shape) for s in source}
        if len(shapes) > 1:
            raise InputError(f"the {what} frames have the shapes {sorted(shapes)}; expected one shape")
        source = da.stack([da.asarray(s) for s in source])
    movie = open_movie(source)
    if "defocus" in movie.dims:
        n = movie.sizes["frame"] * movie.sizes["defocus"]
        data = movie.data.reshape((n, movie.sizes["y"], movie.sizes["x"]))
        movie = xr.DataArray(data, dims=("frame", "y", "x"), attrs=movie.attrs)
    return movie


def check_box(box: Sequence[int], shape: tuple[int, int]) -> Box:
    """Demand a box (y0, y1, x0, x1) within the frame that is large enough."""
    try:
        numbers = tuple(int(v) for v in box)
        whole = all(int(v) == v for v in box)
    except (TypeError, ValueError):
        numbers, whole = (), False
    example = "as box=(0, 256, 0, 256) for (y0, y1, x0, x1) in pixels, the ends not included"
    if len(numbers) != 4 or not whole:
        raise InputError(f"box is {box!r}; expected four whole numbers, {example}")
    y0, y1, x0, x1 = numbers
    if not (0 <= y0 < y1 <= shape[0] and 0 <= x0 < x1 <= shape[1]):
        raise InputError(f"box is {numbers} and the frames are {shape[0]} x {shape[1]} pixels; expected a part of "
                         f"them, {example}")
    if min(y1 - y0, x1 - x0) < LEAST:
        raise InputError(f"the box is {y1 - y0} x {x1 - x0} pixels; expected at least {LEAST} x {LEAST}")
    return y0, y1, x0, x1


def find_box(data: da.Array) -> tuple[Box, str | None]:
    """Find the largest part of the frames without structure; reads a few of them.

    Returns
    -------
    box : (y0, y1, x0, x1)
    remark : str or None
        What structure was found elsewhere.

    Raises
    ------
    InputError
        If no part of at least 64 x 64 pixels is without structure.
    """
    n, ny, nx = data.shape
    if min(ny, nx) < LEAST:
        raise InputError(f"the frames are {ny} x {nx} pixels; expected at least {LEAST} x {LEAST}. Open the frames "
                         "before they are cropped or binned")
    many = int(np.clip(GROUP_BYTES // (8 * ny * nx), 1, PROBES))
    at = np.unique(np.linspace(0, n - 1, min(n, many)).round().astype(int))
    frames = dask.compute(*(data[i] for i in at))
    # a saturated specimen or a white scale bar beside the vacuum does no harm; `measure` looks into the box
    faults = [frame_fault(f, saturated=0.5) for f in frames]
    good = [np.asarray(f, dtype=np.float64) for f, fault in zip(frames, faults, strict=True) if fault is None]
    if not good:
        said = "; ".join(f"frame {i}: {f}" for i, f in zip(at, faults, strict=True))
        raise InputError(f"no frame can be used ({said}); expected frames with noise, neither blank nor saturated, "
                         "taken with the beam on and nothing in its way")
    stack = np.stack([_mended(f) for f in good])
    looks = [structure_of(stack)] + ([structure_of(stack.mean(axis=0)[None])] if len(stack) > 1 else [])
    smooth = np.logical_and.reduce([s.smooth for s in looks])
    if smooth.all():
        return (0, ny, 0, nx), None
    return _smoothest(looks, smooth, (ny, nx))


def _mended(frame: np.ndarray) -> np.ndarray:
    """Fill what is not finite, and X-rays, with the mean."""
    finite = np.isfinite(frame)
    frame = np.where(finite, frame, frame[finite].mean())
    return np.where(outliers(detrend(frame, 2)), frame.mean(), frame)


def _smoothest(looks: list[Structure], smooth: np.ndarray, shape: tuple[int, int]) -> tuple[Box, str]:
    excess, (y0, y1, x0, x1) = max((s.worst() for s in looks), key=lambda w: w[0])
    where = f"structure up to {excess:.2g} times the noise (most in y {y0} to {y1}, x {x0} to {x1})"
    side = looks[0].side
    i0, i1, j0, j1 = largest_rectangle(smooth)
    # blocks end where a whole one no longer fits; a box that reaches the last one reaches the border
    ends = [n if last == count else last * side for last, count, n in
            zip((i1, j1), smooth.shape, shape, strict=True)]
    box = (i0 * side, ends[0], j0 * side, ends[1])
    if min(box[1] - box[0], box[3] - box[2]) < LEAST:
        raise InputError(f"this is not vacuum: found {where}, and no part of at least {LEAST} x {LEAST} pixels is free "
                         "of it. Expected frames of vacuum, or with some; give its place, as box=(y0, y1, x0, x1) in "
                         "pixels")
    return box, (f"not all of the frames is vacuum: {where}; used the smoothest part of the frames, y {box[0]} to "
                 f"{box[1]}, x {box[2]} to {box[3]} (the ends not included)")


def measure(data: da.Array, what: str, *, offset: float | None = None) -> Noise:
    """Noise power of frames; every frame is read once, a group at a time.

    Groups are of consecutive frames, counted from the first one by a rule that only knows the
    number and the size of the frames, and are added in a fixed order: the caller's chunks
    change nothing.

    Parameters
    ----------
    data : dask array, shape (frame, y, x)
        Within the box.
    what : str
        "vacuum" or "dark", for messages.
    offset : float, optional
        Counts without electrons.

    Raises
    ------
    InputError
        If no frame can be used.
    """
    n, ny, nx = data.shape
    step = int(np.clip(GROUP_BYTES // (8 * ny * nx), 2, GROUP))
    edges = np.linspace(0, n, int(np.ceil(n / step)) + 1).round().astype(int)
    token = tokenize(data, offset)
    parts = [dask.delayed(group_noise)(data[a:b], int(a), offset, dask_key_name=f"noise-of-{what}-{token}-{a}")
             for a, b in pairwise(edges)]
    while len(parts) > 1:  # in pairs, so that a distributed sum keeps few spectra in memory
        parts = [dask.delayed(operator.add)(*two) if len(two) == 2 else two[0]
                 for two in (parts[i : i + 2] for i in range(0, len(parts), 2))]
    (found,) = dask.compute(parts[0])
    return _as_noise(found, data, what)


def _as_noise(found: GroupNoise, data: da.Array, what: str) -> Noise:
    shape = (data.shape[1], data.shape[2])
    faults = "; ".join(f"frame {i} is {text}" for i, text in found.faults[:3])
    if not found.good:
        raise InputError(f"no {what} frame can be used: {faults}. Expected frames with noise, neither blank nor "
                         "saturated")
    remarks = []
    if found.faults:
        more = f" and {len(found.faults) - 3} more" if len(found.faults) > 3 else ""
        remarks.append(f"left out {len(found.faults)} of {data.shape[0]} {what} frames: {faults}{more}")
        warnings.warn(remarks[-1], stacklevel=4)
    power, spectra, shared, missing = found.power, float(found.spectra), 1.0, found.missing
    if found.spectra:
        power = np.asarray(power) / found.spectra
    else:
        power, shared, missing = single_noise(data[found.good[0]].compute())
        spectra = 1.0
    if missing:
        remarks.append(f"{missing} pixel(s) of the {what} were not finite or no noise, and left out")
    image = np.asarray(found.total) / len(found.good)
    mean = found.dose / found.spectra if found.spectra else float(np.mean(found.means))
    near = np.asarray(found.near) / found.pairs if found.pairs else None
    return Noise(np.asarray(power), spectra, shared, mean, image, len(found.good), shape,
                 tuple(remarks), near, found.pairs, max(found.moved, default=(0.0, 0.0)),
                 found.near_dose / max(found.pairs, 1))
