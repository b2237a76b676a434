"""Movies from what is already an array: NumPy, dask, xarray, Zarr stores and HyperSpy signals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from ..core.calibration import make_movie
from ..core.errors import InputError, ReadError
from ..core.units import length_to_angstrom, time_to_second
from .frames import BLOCK_BYTES
from .opened import Description, axis_order, describe_axes

__all__ = ["from_array", "from_hyperspy", "from_xarray", "from_zarr"]

#: names of the axis of frames that other programs use
FRAME_NAMES = ("frame", "time", "t", "z", "n", "image", "frames", "index")
#: what a task reads of a shard at least, where the shard holds so much [byte]
READ = 4 << 20


def _movie(data: Any, described: Description, attrs: Mapping[str, Any]) -> xr.DataArray:
    calibration = {"calibration_source": "file"} if described.pixel_size is not None else {}
    time = described.time if described.time is not None and len(described.time) == data.shape[0] else None
    return make_movie(data, pixel_size=described.pixel_size, time=time,
                      attrs=dict(attrs) | calibration | dict(described.attrs))  # fmt: skip


def _three_axes(data: Any, source: str, *, ndim: tuple[int, ...] = (2, 3)) -> Any:
    if data.ndim not in ndim or 0 in data.shape:
        raise InputError(f"{source}: shape {tuple(data.shape)}; expected (y, x) or (frame, y, x), without empty axes")
    if data.dtype.kind not in "iufb":
        raise InputError(f"{source}: dtype {data.dtype}; expected integers or real numbers")
    return data[None] if data.ndim == 2 else data


def _frames_per_block(data: Any) -> int:
    return max(1, BLOCK_BYTES // max(1, data.dtype.itemsize * int(np.prod(data.shape[1:]))))


def _mapped_block(filename: str, offset: int, dtype: str, shape: tuple[int, ...], start: int, stop: int) -> np.ndarray:
    return np.array(np.memmap(filename, mode="r", dtype=dtype, offset=offset, shape=shape)[start:stop])


def from_array(data: Any, source: str = "array") -> xr.DataArray:
    """Wrap a numpy or dask array (y, x) or (frame, y, x); a memory map is opened again in each task."""
    if isinstance(data, np.memmap) and data.filename is not None and data.flags.c_contiguous and data.base is not None:
        data = _from_memmap(data, source)
    elif not isinstance(data, da.Array):
        data = _three_axes(np.asarray(data), source)
        data = da.from_array(data, chunks=(_frames_per_block(data), -1, -1))
    data = _three_axes(data, source)
    native = np.dtype(np.uint8) if data.dtype == bool else data.dtype.newbyteorder("=")
    return make_movie(data if native == data.dtype and data.dtype.isnative else data.astype(native),
                      attrs={"source": source, "format": type(data).__module__.split(".")[0]})  # fmt: skip


def _from_memmap(data: np.memmap, source: str) -> da.Array:
    root: Any = data
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap):
        return da.from_array(np.array(_three_axes(data, source)), chunks=(1, -1, -1))
    # a slice of a map says the offset of the whole map, so its place follows from the addresses
    offset = int(root.offset) + data.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    shape = data.shape if data.ndim == 3 else (1, *data.shape)
    step = _frames_per_block(_three_axes(data, source))
    name = "memmap-" + da.core.tokenize(str(data.filename), offset, shape, data.dtype.str, Path(data.filename).stat())
    edges = list(range(0, shape[0], step))
    graph = {(name, k, 0, 0): (_mapped_block, str(data.filename), offset, data.dtype.str, list(shape), a,
                               min(a + step, shape[0])) for k, a in enumerate(edges)}  # fmt: skip
    sizes = tuple(min(a + step, shape[0]) - a for a in edges)
    return da.Array(graph, name, chunks=(sizes, (shape[1],), (shape[2],)), dtype=data.dtype)


def from_hyperspy(signal: Any) -> xr.DataArray:
    """Wrap a HyperSpy signal (anything with ``data`` and ``axes_manager``), lazy or not, with its calibration."""
    title = str(getattr(getattr(signal.metadata, "General", None), "title", "") or "HyperSpy signal")
    manager = signal.axes_manager
    axes = [{"name": str(a.name), "scale": getattr(a, "scale", None), "offset": getattr(a, "offset", 0.0),
             "units": a.units if isinstance(a.units, str) else None, "size": a.size, "navigate": bool(a.navigate)}
            for a in sorted(manager._axes, key=lambda a: a.index_in_array)]  # fmt: skip
    order = axis_order([a["name"] for a in axes], [a["navigate"] for a in axes], title, signal.data.shape)
    data, axes = signal.data.transpose(order), [axes[i] for i in order]
    movie = from_array(_three_axes(data, title), title)
    return _movie(movie.data, describe_axes(axes), {"source": title, "format": "HyperSpy"})


def from_xarray(data: xr.DataArray | xr.Dataset, source: str | None = None) -> xr.DataArray:
    """Bring a DataArray, or the only image of a Dataset, to the conventions of this package.

    Coordinates y and x in known units become the calibration; ``frame`` and ``time`` are kept.
    """
    if isinstance(data, xr.Dataset):
        images = [n for n, v in data.data_vars.items() if v.ndim >= 2 and {"y", "x"} <= set(map(str, v.dims))]
        if len(images) != 1:
            raise InputError(f"{source or 'the Dataset'}: holds {list(data.data_vars)}; expected one variable with the "
                             "dims y and x. Give that one, as dataset['movie']")  # fmt: skip
        data = data[images[0]]
    source = source or str(data.attrs.get("source") or data.name or "DataArray")
    data = _named(data, source)
    series = "defocus" in data.dims
    frame = data["frame"].values if "frame" in data.coords else None
    time = _times(data)
    if data.chunks is None:  # chunk() wraps without loading what xarray itself opened lazily
        data = data.chunk({"frame": _frames_per_block(data)})
    lazy = data.data if series else from_array(data.data, source).data
    attrs = {k: v for k, v in data.attrs.items() if not k.startswith("pixel_size")} | {"source": source}
    movie = make_movie(
        lazy, time=time, frame=frame, attrs=attrs, name=str(data.name or "movie"),
        defocus=data["defocus"].values if series else None,
    )  # fmt: skip
    return _with_coordinates(movie, data, source)


def _named(data: xr.DataArray, source: str) -> xr.DataArray:
    dims = [str(d) for d in data.dims]
    if not {"y", "x"} <= set(dims):
        if len(dims) in (2, 3):
            data = data.rename(dict(zip(data.dims, (["frame", "y", "x"])[-len(dims):], strict=True)))
        else:
            raise InputError(f"{source}: dims {dims}; expected (frame, y, x)")
    others = [str(d) for d in data.dims if d not in ("y", "x", "defocus")]
    if len(others) > 1 or (others and others[0] not in FRAME_NAMES):
        raise InputError(f"{source}: dims {tuple(data.dims)}; expected (frame, y, x). Rename or select the others")
    if not others:
        data = data.expand_dims("frame")
    elif others[0] != "frame":
        data = data.rename({others[0]: "frame"})
        if "frame" in data.coords:  # a coordinate of the old name: a time, if its unit or its name says so
            old = data["frame"]
            data = data.drop_vars("frame")
            if others[0] in ("time", "t"):
                data = data.assign_coords(time=("frame", old.values, old.attrs))
    return data.transpose(*(d for d in ("frame", "defocus", "y", "x") if d in data.dims))


def _times(data: xr.DataArray) -> np.ndarray | None:
    if "time" not in data.coords or data["time"].dims != ("frame",):
        return None
    values = data["time"].values
    if values.dtype.kind == "M":
        values = values - values[0]
    if values.dtype.kind == "m":
        return values / np.timedelta64(1, "s")
    factor = time_to_second(1.0, data["time"].attrs.get("units", "s"))
    return None if factor is None else np.asarray(values, dtype=np.float64) * factor


def _with_coordinates(movie: xr.DataArray, data: xr.DataArray, source: str) -> xr.DataArray:
    """Carry the coordinates y and x over, in angstrom, with their origin (a crop keeps its place)."""
    if not ("y" in data.coords and "x" in data.coords):
        stated = data.attrs.get("pixel_size_y", data.attrs.get("pixel_size"))
        if stated is None:
            return movie
        other = data.attrs.get("pixel_size_x", data.attrs.get("pixel_size", stated))
        return make_movie_like(movie, (float(stated), float(other)))
    out = movie
    for axis in ("y", "x"):
        values = np.asarray(data[axis].values, dtype=np.float64)
        factor = length_to_angstrom(1.0, data[axis].attrs.get("units"))
        if factor is None:
            if values.size > 1 and values[1] - values[0] != 1:
                unit = data[axis].attrs.get("units")
                warnings.warn(f"{source}: the coordinate {axis} has the unit {unit!r}; expected a length, so it is not "
                              f"used. Set data.{axis}.attrs['units'] = 'angstrom'", stacklevel=5)
            return movie
        out = out.assign_coords({axis: (axis, values * factor, {"units": "angstrom"})})
        if values.size > 1:
            out.attrs[f"pixel_size_{axis}"] = abs(float(values[-1] - values[0]) / (values.size - 1)) * factor
        elif f"pixel_size_{axis}" in data.attrs:
            out.attrs[f"pixel_size_{axis}"] = data.attrs[f"pixel_size_{axis}"]
    py, px = out.attrs.get("pixel_size_y"), out.attrs.get("pixel_size_x")
    if py and px and abs(py / px - 1) <= 1e-4:
        out.attrs["pixel_size"] = py
    out.attrs.setdefault("calibration_source", "file")
    return out


def make_movie_like(movie: xr.DataArray, pixel_size: tuple[float, float]) -> xr.DataArray:
    """Return the movie with this pixel size (y, x) [angstrom], read from attributes."""
    from ..core.calibration import calibrated

    out = calibrated(movie, pixel_size)
    out.attrs.setdefault("calibration_source", "file")
    return out


def from_zarr(path: Path) -> xr.DataArray:
    """Open a Zarr store of format 2 or 3: an xarray data set, an OME-Zarr image, or a bare array."""
    import zarr

    try:
        node = zarr.open(str(path), mode="r")
    except Exception as error:  # a damaged store raises anything
        raise ReadError(f"{path}: cannot be opened as a Zarr store ({type(error).__name__}: {error})") from error
    if isinstance(node, zarr.Array):
        return _zarr_array(node, path)
    if "multiscales" in node.attrs or "ome" in node.attrs:
        return _ome_zarr(node, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = xr.open_zarr(str(path), consolidated=False, chunks=None)
            data = data.assign({name: v.chunk(dict(zip(v.dims, _read_at_once(
                v.shape, v.dtype, v.encoding.get("chunks") or v.shape, v.encoding.get("shards")), strict=True)))
                for name, v in data.data_vars.items()})
    except Exception as error:
        raise ReadError(f"{path}: a Zarr group that xarray cannot open ({type(error).__name__}: {error}); expected "
                        "a data set with one image. Or give the path of an array inside the group") from error
    if not data.data_vars:
        raise InputError(f"{path}: a Zarr group with {sorted(node.keys())}; expected one image. Give the path of an "
                         f"array or group inside, as {path / next(iter(sorted(node.keys())), 'movie')}")  # fmt: skip
    movie = from_xarray(data, str(path))
    movie.attrs["format"] = "Zarr"
    return movie


def _read_at_once(shape: tuple[int, ...], dtype: Any, chunks: tuple[int, ...], shards: tuple[int, ...] | None
                  ) -> tuple[int, ...]:
    """What one task reads: the full width of a shard, so that its index is read once, and several frames if small."""
    if shards is None or len(shape) < 3:
        return shards or chunks
    frames = shards[0] // chunks[0]
    most = READ // (np.dtype(dtype).itemsize * math.prod(shards[1:]) * chunks[0])
    count = max(n for n in range(1, frames + 1) if frames % n == 0 and n <= max(1, most))
    return (count * chunks[0], *shards[1:])


def _lazy_zarr(array: Any, path: Path) -> da.Array:
    _three_axes(array, str(path))
    chunks = _read_at_once(array.shape, array.dtype, array.chunks, getattr(array, "shards", None))
    data = da.from_array(array, chunks=chunks, name=None)
    return data if data.ndim == 3 else data[None]


def _zarr_array(array: Any, path: Path) -> xr.DataArray:
    movie = from_array(_lazy_zarr(array, path), str(path))
    movie.attrs |= {k: v for k, v in dict(array.attrs).items() if isinstance(v, (str, int, float))}
    pixel = movie.attrs.pop("pixel_size", None)
    pair = (movie.attrs.pop("pixel_size_y", pixel), movie.attrs.pop("pixel_size_x", pixel))
    movie.attrs |= {"source": str(path), "format": "Zarr"}
    return movie if None in pair else make_movie_like(movie, (float(pair[0]), float(pair[1])))


def _ome_zarr(group: Any, path: Path) -> xr.DataArray:
    """Open the full resolution of an OME-Zarr image (NGFF 0.4 and 0.5)."""
    scales = dict(group.attrs).get("ome", dict(group.attrs)).get("multiscales") or []
    if not scales:
        raise InputError(f"{path}: an OME-Zarr group without an image; found {sorted(group.keys())}")
    axes = [a if isinstance(a, dict) else {"name": a} for a in scales[0]["axes"]]
    level = scales[0]["datasets"][0]
    array = group[level["path"]]
    scale = next((t["scale"] for t in level.get("coordinateTransformations", []) if t["type"] == "scale"), None)
    chunks = _read_at_once(array.shape, array.dtype, array.chunks, getattr(array, "shards", None))
    data = da.from_array(array, chunks=chunks)
    described = [{"name": a["name"], "units": a.get("unit"), "size": n, "scale": s, "navigate": a["name"] not in "yx"}
                 for a, n, s in zip(axes, array.shape, scale or [None] * array.ndim, strict=True)]  # fmt: skip
    keep = [i for i, a in enumerate(described) if a["size"] > 1 or a["name"] in "yx"]
    drop = tuple(0 if i not in keep else slice(None) for i in range(array.ndim))
    data, described = data[drop], [described[i] for i in keep]
    order = axis_order([a["name"] for a in described], [a["navigate"] for a in described], str(path), data.shape)
    movie = from_array(data.transpose(order), str(path))
    return _movie(movie.data, describe_axes([described[i] for i in order]), {"source": str(path), "format": "OME-Zarr"})
