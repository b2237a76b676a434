"""The door of the package: whatever a microscopist has becomes a movie (frame, y, x)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from ..core.calibration import SQUARE_TOLERANCE, calibrated, check_pixel_size, make_movie
from ..core.errors import InputError
from ..core.provenance import record
from .frames import lazy_frames, probe
from .insitu import times_from_names
from .natural import family_of, find_files, is_zarr_store
from .opened import Description, Opened
from .sources import from_array, from_hyperspy, from_xarray, from_zarr

__all__ = ["open_movie"]

#: pixel sizes [angstrom] outside of which a warning asks whether the unit is right
USUAL = (0.02, 20.0)


def open_movie(
    source: Any,
    *,
    pixel_size: float | tuple[float, float] | None = None,
    frame_time: float | None = None,
    chunks: int | Mapping[str, Any] | None = None,
    defocus: Sequence[float] | None = None,
    signal: int | str | None = None,
) -> xr.DataArray:
    """Open a movie without reading its pixels.

    Parameters
    ----------
    source : path, pattern, folder, list of paths, Zarr store, HyperSpy signal or array
        A folder is searched recursively and taken in natural order; a list keeps its own order. A
        single image is a movie of one frame. Read are DM3, DM4, MRC, SER / EMI, TVIPS, MIB, Velox and
        NCEM EMD, HyperSpy, TIFF, PNG, JPEG, BMP, NumPy and Zarr; arrays are NumPy, dask or xarray.
    pixel_size : float or (float, float) [angstrom], optional
        Pixel size or the pair (y, x); it replaces what the file says.
    frame_time : float [second], optional
        Time from frame to frame; it replaces what the file says.
    chunks : int or mapping, optional
        Frames a chunk, or a mapping as for ``DataArray.chunk``. By default one frame a chunk for
        files of one frame, and about 8 MiB a chunk inside a stack.
    defocus : sequence of float [angstrom], optional
        The repeating cycle of a focal series, positive is underfocus.
    signal : int or str, optional
        Which image to take of a file that holds several: its number, or its title.

    Returns
    -------
    xarray.DataArray
        Lazy, dims ``(frame, y, x)``, or ``(frame, defocus, y, x)`` with ``defocus``; the dtype on disk.
        Coordinates ``y``, ``x`` [angstrom] where the pixel size is known, ``time`` [second] where the
        times are. Attributes: ``provenance``, ``source``, ``format``, ``calibration_source`` ("file" or "user"; absent
        where there is none), and where the file has them ``beam_energy`` [keV], ``exposure`` [second],
        ``microscope``, ``title``, ``date``.

    Raises
    ------
    MissingInputError
        If there is no such path, or a folder or pattern without any image.
    ReadError
        If the (first) file cannot be read. A later file that is damaged or of another shape raises
        it, with its name, when its pixels are asked for.
    InputError
        If the format is unknown, or the data are no movie.
    CalibrationError
        If ``pixel_size`` is zero, negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> movie = open_movie(np.zeros((4, 8, 8), np.uint16), pixel_size=0.59, frame_time=0.25)
    >>> movie.sizes["frame"], movie.attrs["pixel_size"], float(movie.time[-1]), str(movie.dtype)
    (4, 0.59, 0.75, 'uint16')
    """
    if pixel_size is not None:
        pixel_size = check_pixel_size(pixel_size)
    if frame_time is not None and not (np.isfinite(frame_time) and frame_time > 0):
        raise InputError(f"frame_time is {frame_time!r}; expected a positive number of seconds, as 0.25")
    movie = _open(source, signal, frame_time, chunks)
    if pixel_size is not None:
        movie = calibrated(movie, pixel_size)
        movie.attrs["calibration_source"] = "user"
    _remark(movie)
    if frame_time is not None and movie.attrs.get("times_from") != "names":  # names keep the gaps of dropped frames
        movie = movie.assign_coords(time=("frame", movie.frame.values * float(frame_time), {"units": "second"}))
    movie.attrs.pop("times_from", None)
    if defocus is not None:
        movie = _focal_series(movie, defocus)
    given = {"pixel_size": pixel_size, "frame_time": frame_time, "defocus": defocus, "signal": signal}
    given = {k: v for k, v in given.items() if v is not None}
    if given or not isinstance(source, xr.DataArray):  # a movie that is only passed through keeps its history
        movie.attrs = record(movie.attrs, "open_movie", source=movie.attrs.get("source"), **given)
    return movie if chunks is None else movie.chunk({"frame": chunks} if isinstance(chunks, int) else dict(chunks))


def _open(source: Any, signal: int | str | None, frame_time: float | None, chunks: Any) -> xr.DataArray:
    if isinstance(source, (xr.DataArray, xr.Dataset)):
        return from_xarray(source)
    if hasattr(source, "axes_manager") and hasattr(source, "data"):
        return from_hyperspy(source)
    if isinstance(source, (np.ndarray, da.Array)):
        return from_array(source)
    if not isinstance(source, (str, os.PathLike, Iterable)) or isinstance(source, Mapping):
        raise InputError(f"a source of type {type(source).__name__}; expected a path, pattern, folder, list of paths, "
                         "HyperSpy signal or array")  # fmt: skip
    files = find_files(source)
    if is_zarr_store(files[0]) and files[0].suffix.lower() != ".zspy":
        if len(files) > 1:
            raise InputError(f"{len(files)} Zarr stores; expected one. Open each, and join them with xarray.concat")
        return from_zarr(files[0])
    return _from_files(files, str(source) if isinstance(source, (str, os.PathLike)) else "", signal, frame_time, chunks)


def _from_files(
    files: list[Path], source: str, signal: int | str | None, frame_time: float | None, chunks: Any
) -> xr.DataArray:
    first, described = probe(files[0], signal, lambda opened: (opened, opened.describe()))
    counts = [first.n] * len(files)
    if first.n > 1:  # a few long stacks: the last is often shorter, and a header each is soon read
        counts = [first.n, *(probe(p, signal, lambda opened: opened.n) for p in files[1:])]
    wanted = chunks if isinstance(chunks, int) else chunks.get("frame") if isinstance(chunks, Mapping) else None
    step = wanted if isinstance(wanted, int) and wanted > 0 else None
    data = lazy_frames(files, counts, first.shape, first.dtype, signal=signal, frames_per_chunk=step)
    attrs: dict[str, Any] = {"source": source or f"{files[0]} and {len(files) - 1} more", "format": _format(files[0])}
    for text in described.warnings:
        warnings.warn(f"{files[0]}: {text}", stacklevel=5)
    if described.pixel_size is not None:
        attrs["calibration_source"] = "file"
    time, times_from = _times(files, first, described, frame_time)
    attrs |= dict(described.attrs) | ({"times_from": times_from} if times_from else {})
    return make_movie(data, pixel_size=described.pixel_size, time=time, attrs=attrs)


def _times(files: list[Path], first: Opened, described: Description, frame_time: float | None) -> tuple[Any, str]:
    """Return the times of the frames and, where they keep the gaps of a recording, what they come from."""
    if len(files) == 1:
        return described.time, ""
    if first.n > 1:
        return None, ""
    times = times_from_names(files, frame_time)
    if times is None and described.attrs.get("exposure"):  # a recording of less than a second
        times = times_from_names(files, described.attrs["exposure"])
    return times, "" if times is None else "names"


def _format(path: Path) -> str:
    family = family_of(path)
    return path.suffix[1:].upper() if family in ("image", "DigitalMicrograph", "TIA") else family


def _remark(movie: xr.DataArray) -> None:
    """Warn of pixel sizes that are possible and yet look wrong."""
    sizes = [movie.attrs.get(f"pixel_size_{axis}") for axis in ("y", "x")]
    if None in sizes:
        return
    if abs(sizes[0] / sizes[1] - 1) > SQUARE_TOLERANCE:
        warnings.warn(
            f"{movie.attrs.get('source')}: the pixels are {sizes[0]:g} angstrom high and {sizes[1]:g} wide; expected "
            "square ones. If that is wrong give open_movie(..., pixel_size=...)", stacklevel=4,
        )  # fmt: skip
    if min(sizes) < USUAL[0] or max(sizes) > USUAL[1]:
        warnings.warn(
            f"{movie.attrs.get('source')}: a pixel size of {sizes[0]:g} angstrom is unusual for HRTEM "
            f"({USUAL[0]:g} to {USUAL[1]:g}). If it is wrong give open_movie(..., pixel_size=...)", stacklevel=4,
        )  # fmt: skip


def _focal_series(movie: xr.DataArray, defocus: Sequence[float]) -> xr.DataArray:
    """Fold a repeating cycle of defoci into an axis of its own."""
    values = np.asarray(defocus, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.all(np.isfinite(values)):
        raise InputError(f"defocus is {defocus!r}; expected a list of numbers of angstrom, as [-50, 0, 50]")
    if "defocus" in movie.dims:
        if movie.sizes["defocus"] != values.size:
            raise InputError(f"{movie.sizes['defocus']} images a frame; expected {values.size}, the length of defocus")
        return movie.assign_coords(defocus=("defocus", values, {"units": "angstrom"}))
    n, k = movie.sizes["frame"], values.size
    if n % k:
        raise InputError(
            f"{movie.attrs.get('source')}: {n} images; expected a multiple of {k}, the length of defocus. "
            "Leave the last ones out, as movie[: -1], or give the right cycle"
        )
    data = da.stack([movie.data[i::k] for i in range(k)], axis=1).rechunk({1: k})
    time = movie.time.values[::k] if "time" in movie.coords else None
    out = make_movie(data, defocus=values, attrs=movie.attrs, time=time)
    spatial = {axis: movie[axis] for axis in ("y", "x") if axis in movie.coords}
    return out.assign_coords(spatial)
