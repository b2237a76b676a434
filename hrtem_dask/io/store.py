"""The one writer of Zarr and Parquet.

Ownership rule: a shard belongs to exactly one write. `write_shards` is the only function that puts pixels on
disk; it refuses a block that is not aligned to whole shards, because two writers of one shard lose each other's
chunks without a warning (zarr-python #3682, dask #12583). The shard's file is removed before it is written,
because zarr 3.1 cannot overwrite a torn one, and it is read back. That a unit is done is said by its record in
the campaign's ledger, never by a file. Every chunk carries a crc32c: a flipped bit raises.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from ..core.errors import InputError, MissingInputError, ReadError, WriteError
from ..core.provenance import record, versions
from .replacing import check_shared_dims, plain, replacing
from .tables import read_json, read_table, write_csv, write_json, write_table, writing

__all__ = ["ArraySpec", "create_store", "frame_spec", "open_store", "read_json", "read_table", "remove_shards",
           "resize_frames", "shards_present", "write_coords", "write_csv", "write_json", "write_movie", "write_shards",
           "write_table"]

#: edge of an inner chunk [pixel]; a viewer reads no more than it shows
CHUNK = 512
#: codec, level and shuffle; zstd takes nine times as long for a probability and makes it 2 % smaller
FLOATS, INTEGERS = ("lz4", 5, "shuffle"), ("zstd", 3, "bitshuffle")
#: wanted uncompressed size of one shard [byte]
SHARD_BYTES = 8 << 20
#: frames of more pixels are cut into shards of this side [pixel], so that no task holds a whole one
FRAME_PIXELS, SIDE = 1 << 24, 2048


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store: what it is called, its dims, shape, dtype, chunks and shards."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fill_value(self) -> Any:
        """Value of a pixel never written: nan, or -1 where there is a sign; 0 is a valid pixel."""
        return np.array({"f": np.nan, "i": -1}.get(np.dtype(self.dtype).kind, 0), self.dtype)[()]


def frame_spec(
    name: str, dims: Sequence[str], shape: Sequence[int], dtype: Any, *, frames_per_shard: int | None = None,
    attrs: Mapping[str, Any] | None = None, blocks: tuple[Sequence[int], Sequence[int]] | None = None,
) -> ArraySpec:
    """Lay out an array whose first axis is ``frame``: whole frames in a shard, 512² pixels in a chunk.

    Frames of more than 16 million pixels have shards of 2048² pixels.

    Parameters
    ----------
    name : str
        Name of the array.
    dims : sequence of str
        Dims; the first is ``frame``, the last two are ``y`` and ``x``.
    shape : sequence of int
        Shape of the whole array.
    dtype : dtype
        What is stored.
    frames_per_shard : int, optional
        By default as many as make a shard of about 8 MB, at least 1.
    attrs : mapping, optional
        Attributes of the array.
    blocks : (sequence of int, sequence of int), optional
        Blocks along y and x in which a large frame comes; where they are even, shards are one each.

    Returns
    -------
    ArraySpec

    Examples
    --------
    >>> frame_spec("labels", ("frame", "y", "x"), (100, 600, 600), "int32").shards
    (5, 1024, 1024)
    """
    shape = tuple(int(n) for n in shape)
    sides = tuple(min(CHUNK, n) for n in shape[-2:])
    inner = tuple(-(-n // c) * c for n, c in zip(shape[-2:], sides, strict=True))
    if shape[-2] * shape[-1] > FRAME_PIXELS:
        sides, inner = zip(*(_cut(n, b) for n, b in zip(shape[-2:], blocks or ((), ()), strict=True)), strict=True)
    chunks = (*(1,) * (len(shape) - 2), *sides)
    if frames_per_shard is None:
        frame_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        frames_per_shard = max(1, min(shape[0], SHARD_BYTES // max(frame_bytes, 1)))
    return ArraySpec(name, tuple(dims), shape, np.dtype(dtype).name, chunks,
                     (int(frames_per_shard), *shape[1:-2], *inner), dict(attrs or {}))


def _cut(n: int, blocks: Sequence[int]) -> tuple[int, int]:
    """Sides of a chunk and of a shard along an axis of n pixels, such that no shard needs two blocks where that can be.

    Examples
    --------
    >>> _cut(32768, (1920,) * 16 + (2048,)), _cut(32768, (1627,) * 19 + (1855,)), _cut(32768, (9600,) * 3 + (3968,))
    ((480, 1920), (1627, 1627), (400, 3200))
    >>> _cut(9000, (3000, 1000, 5000)), _cut(9000, ())
    ((512, 2048), (512, 2048))
    """
    block = blocks[0] if len(set(blocks[:-1])) == 1 else 0
    for shard in (block // k for k in range(1, block // CHUNK + 1) if block % k == 0):
        if shard <= 2 * SIDE:
            parts = range(-(-shard // CHUNK), shard // (CHUNK // 2) + 1)
            return next((shard // k for k in parts if shard % k == 0), shard), shard
    return min(CHUNK, n), min(SIDE, -(-n // CHUNK) * CHUNK)


def create_store(
    path: str | Path, arrays: Sequence[ArraySpec], *, coords: Mapping[str, xr.Variable],
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Make a Zarr v3 group with empty arrays and their coordinates; plain xarray opens it.

    Parameters
    ----------
    path : path
        Folder of the store; an existing store there is replaced.
    arrays : sequence of ArraySpec
        Arrays to make.
    coords : mapping of str to xarray.Variable
        Coordinates, written at once.
    attrs : mapping, optional
        Attributes of the group, among them ``provenance``.

    Raises
    ------
    WriteError
        If the folder cannot be written.
    """
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    with writing(path):
        zarr.open_group(str(path), mode="w", zarr_format=3, attributes=plain(attrs or {}))
        for spec in arrays:
            # how xarray knows that time(frame) is a coordinate and no variable of its own
            beside = [n for n, v in coords.items() if n not in spec.dims and set(v.dims) <= set(spec.dims)]
            told = {"coordinates": " ".join(beside)} if beside else {}
            codec = FLOATS if np.dtype(spec.dtype).kind == "f" else INTEGERS
            zarr.create_array(
                str(path), name=spec.name, shape=spec.shape, dtype=spec.dtype, chunks=spec.chunks, shards=spec.shards,
                compressors=[BloscCodec(cname=codec[0], clevel=codec[1], shuffle=codec[2]), Crc32cCodec()],
                fill_value=spec.fill_value, dimension_names=spec.dims, attributes=plain({**spec.attrs, **told}),
            )
    write_coords(path, coords)


def write_coords(path: str | Path, coords: Mapping[str, xr.Variable]) -> None:
    """Write or replace small coordinate arrays of a store, each in one chunk."""
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    with writing(path):
        for name, variable in coords.items():
            values = np.asarray(variable.values)
            text = values.dtype.kind in "OUST"
            array = zarr.create_array(
                str(path), name=str(name), shape=values.shape, dtype=str if text else values.dtype,
                chunks=tuple(max(n, 1) for n in values.shape), compressors=[ZstdCodec(level=3), Crc32cCodec()],
                dimension_names=variable.dims, attributes=plain(variable.attrs), overwrite=True,
            )
            array[...] = values.astype(object) if text else values


def write_shards(path: str | Path, name: str, block: np.ndarray, start: Sequence[int]) -> dict[str, int | None]:
    """Write one block of whole shards, read it back, and say which files it made.

    Parameters
    ----------
    path : path
        Folder of the store.
    name : str
        Name of the array.
    block : ndarray
        Pixels to write, of the dtype of the array.
    start : sequence of int
        Index of the first element of the block along each axis.

    Returns
    -------
    dict
        File of each shard, relative to the store, and its size [byte], None where an all-empty
        shard has no file: what `shards_present` compares later.

    Raises
    ------
    InputError
        If the block does not begin and end at borders of shards (or of the array).
    WriteError
        If it cannot be written, or reads back differently.
    """
    import zarr

    array = _open_array(path, name, "r+")
    block = np.asarray(block)
    region = _aligned_region(array, name, block, start)
    files = [Path(path) / f for f in _shard_files(array, name, region)]
    with writing(path):
        for file in files:
            file.unlink(missing_ok=True)
        # to look for chunks of nothing but the fill value takes as long as to compress them, and few can be
        array.with_config({"write_empty_chunks": not _may_be_empty(array, block)})[region] = block
    try:
        back = zarr.open_array(str(Path(path) / name), mode="r")[region]
    except Exception as error:  # zarr raises many kinds for a damaged shard
        raise WriteError(f"{path}: the array {name!r} cannot be read back after writing: {error}") from error
    if not _same(back, block):
        raise WriteError(f"{path}: the array {name!r} reads back differently at {region}; check the disk")
    # zarr writes no file for a shard that holds nothing but the fill value
    return {f.relative_to(path).as_posix(): f.stat().st_size if f.exists() else None for f in files}


def _may_be_empty(array: Any, block: np.ndarray) -> bool:
    """Whether a chunk of a block could hold the fill value alone: its first pixel would be one."""
    first = block[tuple(slice(None, None, n) for n in array.chunks)]
    fill = array.fill_value
    return bool((np.isnan(first) if fill != fill else first == fill).any())


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal, nan too; by the bits first, since float16 is slow to compare as numbers."""
    def bits(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")

    real = a.dtype.kind == "f"
    return a.dtype == b.dtype and ((real and np.array_equal(bits(a), bits(b))) or np.array_equal(a, b, equal_nan=real))


def shards_present(path: str | Path, files: Mapping[str, int | None]) -> bool:
    """Whether the files that `write_shards` named are still there with their sizes."""
    def size(name: str) -> int | None:
        file = Path(path) / name
        return file.stat().st_size if file.exists() else None

    return all(size(name) == expected for name, expected in files.items())


def resize_frames(path: str | Path, names: Sequence[str], n: int) -> None:
    """Make arrays longer or shorter along ``frame``; frames never written hold the fill value."""
    import zarr

    with writing(path):
        for name in names:
            array = zarr.open_array(str(Path(path) / name), mode="r+")
            array.resize((int(n), *array.shape[1:]))


def remove_shards(path: str | Path, files: Mapping[str, int | None]) -> None:
    """Remove shards whose content is no longer wanted; they read as never written."""
    with writing(path):
        for name in files:
            (Path(path) / name).unlink(missing_ok=True)


def write_movie(path: str | Path, movie: xr.DataArray, *, name: str = "movie", **extra: xr.DataArray) -> None:
    """Write a movie and arrays of the same frames beside it, shard by shard; computes.

    Lazy arrays are computed by the current Dask client, else by threads of this process, and every
    task writes what it computed: no more than a few shards are in memory at a time, however large
    a frame is. The workers must see the path.

    Parameters
    ----------
    path : path
        Folder of the new store; an existing one is replaced at the end, also where it is what is read here.
    movie : DataArray, dims (frame, ..., y, x)
        What `open_movie` gives back when it opens this store: a movie, or what `segment` or
        `label_particles` return.
    name : str
        Name of the array.
    **extra : DataArray
        Further arrays with ``frame`` as their first and ``y``, ``x`` as their last dims.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from hrtem_dask.core.calibration import make_movie
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_movie(folder + "/m.zarr", make_movie(np.ones((3, 8, 9)), pixel_size=0.5))
    ...     open_store(folder + "/m.zarr")["movie"].sizes["x"]
    9
    """
    check_shared_dims(name, movie, extra)
    arrays = {name: movie, **{k: v for k, v in extra.items() if v.ndim >= 3}}
    specs = [frame_spec(k, a.dims, a.shape, a.dtype, attrs=a.attrs, blocks=a.chunks[-2:] if a.chunks else None)
             for k, a in arrays.items()]
    coords = {str(k): v.variable for a in (movie, *extra.values()) for k, v in a.coords.items()}
    coords |= {k: v.variable for k, v in extra.items() if v.ndim < 3}
    attrs = record(movie.attrs, "write_movie", versions=versions())
    with replacing(path) as folder:
        create_store(folder, specs, coords=coords, attrs={k: v for k, v in attrs.items() if k == "provenance"})
        dask.compute(*(_writes(folder, spec, arrays[spec.name].data) for spec in specs))


def _writes(path: Path, spec: ArraySpec, data: Any) -> Any:
    """Write what is in memory; of a lazy array, a task a shard, which writes it and leaves one number behind."""
    if not dask.is_dask_collection(data):
        for start in itertools.product(*(range(0, n, s) for n, s in zip(spec.shape, spec.shards, strict=True))):
            block = data[tuple(slice(i, i + s) for i, s in zip(start, spec.shards, strict=True))]
            write_shards(path, spec.name, np.asarray(block).astype(spec.dtype, copy=False), start)
        return None
    blocks = data.rechunk(spec.shards).astype(spec.dtype)  # the store has the byte order of this machine
    return blocks.map_blocks(_write_block, str(path.absolute()), spec.name, spec.shards, dtype=np.int64,
                             chunks=tuple((1,) * n for n in blocks.numblocks),
                             meta=np.empty((0,) * blocks.ndim, np.int64))


def _write_block(block: np.ndarray, path: str, name: str, shards: tuple[int, ...],
                 block_id: tuple[int, ...] | None = None) -> np.ndarray:
    if block_id is None:  # dask asks for the meta
        return np.empty((0,) * block.ndim, np.int64)
    files = write_shards(path, name, block, tuple(i * s for i, s in zip(block_id, shards, strict=True)))
    return np.full((1,) * block.ndim, sum(size or 0 for size in files.values()), np.int64)


def open_store(path: str | Path) -> xr.Dataset:
    """Open a store lazily with xarray, whole shards of one frame batch a chunk.

    Parameters
    ----------
    path : path
        Folder of a store that this module wrote.

    Returns
    -------
    xarray.Dataset
        Lazy arrays with their coordinates and attributes.

    Raises
    ------
    MissingInputError
        If there is no store at the path.
    ReadError
        If it cannot be read.
    """
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise MissingInputError(f"{path} is not a Zarr v3 store (no zarr.json); expected one that hrtem-dask wrote")
    try:
        data = xr.open_zarr(str(path), consolidated=False, chunks=None)
    except Exception as error:  # zarr and xarray raise many kinds for damaged metadata
        raise ReadError(f"{path} cannot be read as a Zarr store: {error}") from error
    coords = [n for n in data.data_vars if data[n].ndim < 2]
    data = data.set_coords(coords)
    # a task reads whole shards: inner chunks would open each shard many times
    return xr.Dataset({n: v.chunk(dict(zip(v.dims, v.encoding.get("shards") or v.shape, strict=True)))
                       for n, v in data.data_vars.items()}, coords=data.coords, attrs=data.attrs)


def _open_array(path: str | Path, name: str, mode: str) -> Any:
    import zarr

    try:
        return zarr.open_array(str(Path(path) / name), mode=mode)
    except FileNotFoundError as error:
        raise MissingInputError(f"{path} holds no array {name!r}; make it with create_store first") from error


def _aligned_region(array: Any, name: str, block: np.ndarray, start: Sequence[int]) -> tuple[slice, ...]:
    shards, shape = array.shards or array.chunks, array.shape
    if block.ndim != len(shape) or len(start) != len(shape) or block.dtype != array.dtype:
        raise InputError(f"a block of shape {block.shape}, dtype {block.dtype}, at {tuple(start)} does not fit the "
                         f"array {name!r} of shape {shape}, dtype {array.dtype}")
    for s, n, shard, whole in zip(start, block.shape, shards, shape, strict=True):
        if s % shard or n == 0 or s + n > whole or ((s + n) % shard and s + n != whole):
            raise InputError(
                f"a block of shape {block.shape} at {tuple(start)} is not aligned to the shards {shards} of the array "
                f"{name!r}, shape {shape}: two writers would share a shard and lose data. "
                "Begin at a multiple of the shard and write whole shards, up to the end of the array"
            )
    return tuple(slice(s, s + n) for s, n in zip(start, block.shape, strict=True))


def _shard_files(array: Any, name: str, region: tuple[slice, ...]) -> list[str]:
    shards = array.shards or array.chunks
    ranges = [range(r.start // s, -(-r.stop // s)) for r, s in zip(region, shards, strict=True)]
    return [f"{name}/{array.metadata.encode_chunk_key(index)}" for index in itertools.product(*ranges)]
