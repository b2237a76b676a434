"""Columns of atoms without a network: spots of every frame as a probability map, lazily."""

from __future__ import annotations

from dataclasses import astuple, fields
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from ..core.calibration import pixel_size_of
from ..core.checks import check_number
from ..core.errors import InputError
from ..core.provenance import record
from ..kernels.blobs import SIGNS, SIZES, SPACINGS, BlobScale, blob_probability_block, reach_of, scale_of
from .cuts import frame_groups

__all__ = ["blob_probability"]

#: side of a block of a large frame [pixel]; a frame of up to twice this is one block
BLOCK = 2048
#: side of the tiles of a large frame that tell its noise, and how many along an axis at most
TILE, TILES = 512, 8
WHOLE = 1024  # pixels: a frame up to here is one tile
CLASSES = ("background", "column")
NUMBERS = len(fields(BlobScale))
MOST = 20.0  # angstrom: no column is larger


def blob_probability(movie: xr.DataArray, *, size: float | None = None, sign: str = "auto",
                     spacings: tuple[float, float] = SPACINGS) -> xr.DataArray:
    """Find spots by a Laplacian of a Gaussian, as a map that `find_columns` takes like a network's; lazy.

    For users without a network for their material, and the classical peer that networks are measured
    against. It knows neither particle nor film: wherever a spot stands out of noise and speckle, it
    is one.

    Parameters
    ----------
    movie : DataArray, dims (frame, y, x)
        Calibrated counts of any real dtype. Pixels that are not finite hold no column.
    size : float, optional
        Standard deviation of the Gaussian [angstrom]: a little less than that of the spots. By default 0.8 of that
        at which the lattice of each frame stands out most from its noise, 0.35 where none does.
    sign : {"auto", "bright", "dark"}
        Whether columns are brighter or darker than what is around them. "auto" decides it for each frame by the
        skewness of the response; on simulated gold it was right in 8 of 10 frames, less often where the columns form a
        square lattice, which looks the same in either contrast. Name it where you know it.
    spacings : (float, float)
        Smallest and largest spacing of the lattice that "auto" sizes are found with [angstrom].

    Returns
    -------
    DataArray, float32, dims (frame, class, y, x)
        Classes ``background`` and ``column``, with the coordinates of the movie. ``column`` is z / (z + 5) with the
        response z in standard deviations of noise and speckle: 0.5 means 5 of them. It is no
        probability in the sense of frequencies, but grows with it, and is the same for any scale and offset of the
        counts.

    Raises
    ------
    InputError
        If the dims are others, or an option is none of those above.
    CalibrationError
        If the movie has no pixel size.

    Notes
    -----
    ``response = -size^2 Laplacian(Gaussian * image)`` (Lindeberg, Int. J. Comput. Vision 30, 79 (1998)). Its
    standard deviation without lattice is that of the spectrum's rings, each the median over directions, behind
    the same filter; within a frame it follows the roughness of the pixels in squares of 8 angstrom. What a
    frame of more than 1024 pixels needs comes from tiles that lie where they lie whatever the chunks are.

    Examples
    --------
    >>> import numpy as np
    >>> from hrtem_dask.core.calibration import make_movie
    >>> y, x = np.mgrid[:100, :100] * 0.2
    >>> spots = 100 + 50 * np.cos(2 * np.pi * y / 2.5) * np.cos(2 * np.pi * x / 2.5)
    >>> movie = make_movie(np.random.default_rng(0).poisson(spots)[None], pixel_size=0.2)
    >>> found = blob_probability(movie, sign="bright").sel({"class": "column"})
    >>> bool(found[0, 50, 50] > 0.5), bool(found[0, 50, 56] < 0.1)  # on a spot, and between two
    (True, True)
    """
    pixel_size = _check(movie, size, sign, spacings)
    data = movie.data if isinstance(movie.data, da.Array) else da.from_array(movie.values, chunks=(1, -1, -1))
    block = [min(n, 2 * BLOCK) for n in data.shape[1:]]
    groups = frame_groups(data.chunks[0], 4 * len(CLASSES) * block[0] * block[1])
    data = data.rechunk({0: tuple(g.count for g in groups), 1: _blocks(data.shape[1]), 2: _blocks(data.shape[2])})
    scales = _scales(data, pixel_size, size, sign, spacings)
    reach = reach_of(size or float(SIZES[-1]), pixel_size)
    one = data.numblocks[1:] == (1, 1)
    whole = data if one else da.overlap.overlap(data, {1: reach[0], 2: reach[1]}, {1: "reflect", 2: "reflect"})
    out = da.blockwise(_block, "fcyx", whole, "fyx", scales, "fs", concatenate=True, dtype=np.float32,
                       new_axes={"c": len(CLASSES)}, adjust_chunks={"y": data.chunks[1], "x": data.chunks[2]},
                       pixel_size=pixel_size, reach=(0, 0) if one else reach, align_arrays=False,
                       meta=np.empty((0, 0, 0, 0), np.float32))
    attrs = {k: v for k, v in movie.attrs.items() if k not in ("units", "long_name")}
    attrs = record(attrs | {"units": "1"}, "blob_probability", size=size, sign=sign, spacings=list(spacings))
    coords = {k: c for k, c in movie.coords.items() if set(c.dims) <= {"frame", "y", "x"}}
    result = xr.DataArray(out, dims=("frame", "class", "y", "x"), name="probability", attrs=attrs)
    return result.assign_coords(coords).assign_coords({"class": list(CLASSES)})


def _check(movie: Any, size: Any, sign: Any, spacings: Any) -> tuple[float, float]:
    if not isinstance(movie, xr.DataArray) or movie.dims != ("frame", "y", "x"):
        raise InputError(f"found {getattr(movie, 'dims', type(movie).__name__)}; expected a movie (frame, y, x), as "
                         f"open_movie(path) returns it; of a focal series choose one image, movie.isel(defocus=0)")
    if 0 in movie.shape or movie.dtype.kind not in "biuf":
        raise InputError(f"the movie holds {movie.dtype} of shape {movie.shape}; expected real numbers, at least one "
                         f"frame and one pixel")
    if size is not None:
        check_number("size", size, "angstrom", above=0)
        if size > MOST:
            raise InputError(f"size is {size!r}; expected at most {MOST:g} angstrom: a column is about 0.5 wide")
    if sign not in SIGNS:
        raise InputError(f"sign is {sign!r}; expected one of {SIGNS}")
    try:
        low, high = (float(s) for s in spacings)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not 0 < low < high:
        raise InputError(f"spacings is {spacings!r}; expected the smallest and the largest in angstrom, as (1.0, 3.6)")
    return pixel_size_of(movie)


def _blocks(n: int) -> tuple[int, ...]:
    """Blocks of an axis, whatever the chunks of the movie are; the last is at least half as long as the others."""
    if n <= 2 * BLOCK:
        return (n,)
    sizes = [BLOCK] * (n // BLOCK)
    rest = n % BLOCK
    if rest >= BLOCK // 2:
        sizes.append(rest)
    else:
        sizes[-1] += rest
    return tuple(sizes)


def _starts(n: int) -> tuple[int, list[int]]:
    """Side of the tiles along an axis and where they begin."""
    if n <= WHOLE:
        return n, [0]
    return TILE, [int(s) for s in np.linspace(0, n - TILE, min(TILES, -(-n // TILE)))]


def _scales(data: da.Array, pixel_size: tuple[float, float], size: float | None, sign: str,
            spacings: tuple[float, float]) -> da.Array:
    """What `BlobScale` holds (frame, number) of every frame."""
    (ny, ys), (nx, xs) = (_starts(n) for n in data.shape[1:])
    tiles = da.stack([data[:, y:y + ny, x:x + nx] for y, x in product(ys, xs)], axis=1).rechunk({1: -1, 2: -1, 3: -1})
    return da.blockwise(_scale_block, "fs", tiles, "ftyx", concatenate=True, dtype=np.float64, new_axes={"s": NUMBERS},
                        pixel_size=pixel_size, size=size, sign=sign, spacings=spacings,
                        meta=np.empty((0, 0), np.float64))


def _scale_block(tiles: np.ndarray, pixel_size: tuple[float, float], size: float | None, sign: str,
                 spacings: tuple[float, float]) -> np.ndarray:
    found = [scale_of(list(frame), pixel_size, size=size, sign=sign, spacings=spacings) for frame in tiles]
    return np.array([astuple(s) for s in found], np.float64).reshape(-1, NUMBERS)


def _block(frames: np.ndarray, scales: np.ndarray, pixel_size: tuple[float, float],
           reach: tuple[int, int]) -> np.ndarray:
    return np.stack([blob_probability_block(image, BlobScale(*s), pixel_size, reach)
                     for image, s in zip(frames, scales.tolist(), strict=True)])
