"""Frames that nobody can read, made from good ones: what a filter of frames is tried on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from scipy import ndimage

from ..core.errors import InputError
from ..detector.mtf import MTF
from ..kernels.camera import digitise, expose, radial_frequency, read_out
from .camera import USUAL

__all__ = ["KINDS", "spoil_frame", "spoil_kinds", "spoil_movie"]

#: what a spoilt frame is, and the usual share of such frames
KINDS = {"blurred": 0.015, "saturated": 0.005, "empty": 0.005}
#: length of the drift during the exposure of a blurred frame [angstrom]
SMEAR = (8.0, 16.0)
#: share of the pixels of a saturated frame that are at the top of 16 bit
FULL = (0.1, 0.6)
READ_NOISE = 1.0  # electrons, of a frame that is made anew


def spoil_kinds(n_frames: int, seed: int, rates: Mapping[str, float] = KINDS) -> np.ndarray:
    """Draw which frames are spoilt, and how.

    Returns
    -------
    ndarray, text (frame,)
        ``blurred``, ``saturated``, ``empty``, or nothing where a frame is left as it is.

    Examples
    --------
    >>> kinds = spoil_kinds(4000, 0)
    >>> sorted(set(kinds.tolist())), bool(0.015 < (kinds != "").mean() < 0.035)
    (['', 'blurred', 'empty', 'saturated'], True)
    """
    return np.random.default_rng([seed, 11]).choice(np.array(["", *rates]), n_frames,
                                                    p=[1 - sum(rates.values()), *rates.values()])


def spoil_frame(counts: np.ndarray, kind: str, rng: np.random.Generator, *, pixel_size: float, gain: float,
                offset: float = 0.0, mtf: MTF = USUAL) -> np.ndarray:
    """Spoil one frame.

    Parameters
    ----------
    counts : ndarray, uint16, shape (y, x)
    kind : str
        ``blurred``: the image drifts along a straight line while it is taken. ``saturated``: the beam is so strong
        that part of the pixels are full. ``empty``: the beam is blanked, and only the read-out is left.
    rng : numpy.random.Generator
        What it draws decides length and direction of the drift, and the noise, which is new.
    pixel_size : float
        [angstrom]
    gain, offset : float
        Counts an electron, and counts without electrons.
    mtf : MTF
        Of the camera.

    Returns
    -------
    ndarray, uint16, shape (y, x)
    """
    if kind not in KINDS:
        raise InputError(f"found kind {kind!r}; expected one of {list(KINDS)}")
    electrons = np.clip((counts.astype(np.float64) - offset) / gain, 0, None)
    if kind == "saturated":
        level = np.quantile(electrons, 1 - rng.uniform(*FULL))
        return digitise(offset + electrons * (65535 - offset) / max(level, 1e-9), np.uint16)
    expected = np.zeros_like(electrons) if kind == "empty" else _smeared(electrons, pixel_size, rng)
    exposed = expose(expected, mtf(radial_frequency(counts.shape)), rng)
    return digitise(read_out(exposed, rng, gain=gain, offset=offset, read_noise=READ_NOISE), np.uint16)


def _smeared(image: np.ndarray, pixel_size: float, rng: np.random.Generator) -> np.ndarray:
    length, angle = rng.uniform(*SMEAR) / pixel_size, rng.uniform(0, np.pi)
    t = np.linspace(-0.5, 0.5, int(4 * length) + 2) * length
    half = int(np.ceil(length / 2)) + 1
    edges = np.arange(-half, half + 2) - 0.5
    kernel, *_ = np.histogram2d(t * np.sin(angle), t * np.cos(angle), bins=[edges, edges])
    return ndimage.convolve(image, kernel / kernel.sum(), mode="nearest")


def spoil_movie(movie: xr.DataArray, kinds: np.ndarray, seed: int, *, mtf: MTF = USUAL) -> xr.DataArray:
    """Spoil some frames of a simulated movie, lazily where it is lazy.

    Parameters
    ----------
    movie : DataArray, uint16, dims (frame, y, x)
        From `hrtem_dask.simulate.movie`, whose attributes tell gain and offset.
    kinds : ndarray, text (frame,)
        From `spoil_kinds`.
    seed : int
        Frame i depends on the seed and i alone.
    mtf : MTF
        Of the camera that took it.

    Examples
    --------
    >>> from hrtem_dask.core.calibration import make_movie
    >>> movie = make_movie(np.full((3, 32, 32), 100, np.uint16), pixel_size=0.5,
    ...                    attrs={"counts_per_electron": 5.0, "offset": 20.0})
    >>> spoilt = spoil_movie(movie, np.array(["", "empty", "saturated"]), 0)
    >>> spoilt.mean(("y", "x")).round(-2).values.tolist()
    [100.0, 0.0, 65500.0]
    """
    about: dict[str, Any] = {"gain": movie.attrs["counts_per_electron"], "offset": movie.attrs["offset"], "mtf": mtf,
                             "pixel_size": movie.attrs["pixel_size"]}

    def block(part: np.ndarray, first: int) -> np.ndarray:
        out = part.copy()
        for i in np.flatnonzero(kinds[first:first + len(part)] != ""):
            out[i] = spoil_frame(part[i], str(kinds[first + i]), np.random.default_rng([seed, 12, first + i]), **about)
        return out

    if movie.chunks is None:
        return movie.copy(data=block(movie.values, 0))
    import dask.array as da

    data = da.map_blocks(lambda part, block_info=None: block(part, block_info[0]["array-location"][0][0]),
                         movie.data.rechunk({1: -1, 2: -1}), dtype=movie.dtype, meta=np.empty((0, 0, 0), movie.dtype))
    return movie.copy(data=data)
