"""Frames of files as a lazy array: one small task a block, which opens its file when it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from ..core.errors import HrtemDaskError, InputError, ReadError
from .natural import family_of
from .opened import Opened, one_channel
from .readers_image import open_image, open_numpy
from .readers_records import open_mib, open_ser
from .readers_rsciio import open_rosetta
from .readers_tiff import open_tiff

__all__ = ["BLOCK_BYTES", "FrameReader", "lazy_frames", "open_file", "probe"]

#: frames of one stack are read together up to this size, so that small frames do not cost a task each
BLOCK_BYTES = 8 * 2**20
OPENERS: dict[str, Callable[..., AbstractContextManager[Opened]]] = {
    "TIFF": open_tiff, "image": open_image, "NumPy": open_numpy, "TIA": open_ser, "MIB": open_mib,
}  # fmt: skip


def open_file(path: str | Path, signal: int | str | None = None) -> AbstractContextManager[Opened]:
    """Open an image file with the reader of its family."""
    return OPENERS.get(family_of(Path(path)), open_rosetta)(str(path), signal)


def probe(path: Path, signal: int | str | None, use: Callable[[Opened], Any]) -> Any:
    """Open a file, call ``use`` on it, and turn what goes wrong into an error that names the file."""
    if path.is_file() and path.stat().st_size == 0:
        raise ReadError(f"{path}: the file is empty; expected an image. Copy it again from the microscope")
    try:
        with open_file(path, signal) as opened:
            return use(opened)
    except HrtemDaskError:
        raise
    except MemoryError as error:
        raise ReadError(f"{path}: not enough memory to read it ({error}); the header may be damaged") from error
    except Exception as error:  # the libraries raise anything at all on a damaged file
        family = family_of(path)
        raise ReadError(
            f"{path}: cannot be read as {family} ({type(error).__name__}: {str(error)[:200]}); it is damaged, "
            "truncated or of another kind. Copy it again, or rename it to the suffix of its true format"
        ) from error


@dataclass(frozen=True)
class FrameReader:
    """The task of one block: read frames ``start`` to ``stop`` of a file that must look as expected."""

    path: str
    start: int
    stop: int
    n: int
    shape: tuple[int, int]
    dtype: str
    signal: int | str | None = None

    def __call__(self) -> np.ndarray:
        """Return the frames, shape (frame, y, x), in the native byte order."""
        if not os.path.exists(self.path):  # noqa: PTH110 - the path travels as text
            raise ReadError(f"{self.path}: the file was there when the movie was opened, and is gone")
        return probe(Path(self.path), self.signal, self._read)

    def _read(self, opened: Opened) -> np.ndarray:
        if (opened.n, *opened.shape) != (self.n, *self.shape):
            raise ReadError(
                f"{self.path}: holds {opened.n} frame(s) of shape {opened.shape}; expected {self.n} of shape "
                f"{self.shape} as in the first file. Leave it out, or open it on its own"
            )
        block = one_channel(opened.fetch(self.start, self.stop), self.path, opened.advice)
        expected = (self.stop - self.start, *self.shape)
        if block.shape != expected:
            raise ReadError(f"{self.path}: gave pixels of shape {block.shape}; expected {expected}, is it truncated?")
        dtype = np.dtype(self.dtype)
        if not np.can_cast(block.dtype, dtype, "safe"):
            raise ReadError(f"{self.path}: holds {block.dtype} pixels; expected {dtype} as in the first file")
        return np.ascontiguousarray(block, dtype=dtype)


def lazy_frames(
    paths: Sequence[Path], counts: Sequence[int], shape: tuple[int, int], dtype: np.dtype, *,
    signal: int | str | None = None, frames_per_chunk: int | None = None,
) -> da.Array:  # fmt: skip
    """Return the frames of files, one after the other, as a dask array (frame, y, x) that has read nothing.

    Parameters
    ----------
    paths : sequence of Path
        The files.
    counts : sequence of int
        Number of frames in each.
    shape : (int, int)
        Shape (y, x) that every frame must have.
    dtype : dtype
        Of the pixels.
    signal : int or str, optional
        Which image of a file that holds several.
    frames_per_chunk : int, optional
        Frames in a block, within a file; by default as many as fit `BLOCK_BYTES`, at least one.
    """
    dtype = np.dtype(dtype)
    dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
    if dtype.kind not in "iuf":
        raise InputError(f"{paths[0]}: pixels of dtype {dtype}; expected integers or real numbers")
    step = frames_per_chunk or max(1, BLOCK_BYTES // max(1, dtype.itemsize * shape[0] * shape[1]))
    make = partial(FrameReader, shape=shape, dtype=dtype.str, signal=signal)
    stats = [p.stat() for p in paths]
    name = "frames-" + tokenize([(str(p), s.st_mtime_ns, s.st_size) for p, s in zip(paths, stats, strict=True)],
                                tuple(counts), shape, dtype.str, signal, step)  # fmt: skip
    tasks: dict[tuple[str, int, int, int], tuple[FrameReader]] = {}
    lengths: list[int] = []
    for path, n in zip(paths, counts, strict=True):
        absolute = os.path.abspath(path)  # noqa: PTH100 - a worker may run in another folder; links stay as given
        for start in range(0, n, step):
            stop = min(start + step, n)
            tasks[name, len(lengths), 0, 0] = (make(absolute, start, stop, n),)
            lengths.append(stop - start)
    graph = HighLevelGraph.from_collections(name, tasks)
    return da.Array(graph, name, chunks=(tuple(lengths), (shape[0],), (shape[1],)), dtype=dtype)
