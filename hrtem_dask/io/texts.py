"""Texts in a Zarr store, one a row, each in a file of its own: what a ledger of many writers needs.

Zarr replaces a file as a whole, so that a text is either there or not, whoever dies meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import ReadError
from .tables import writing

__all__ = ["create_texts", "read_text", "resize_texts", "rows_with_text", "write_text"]


def create_texts(path: str | Path, name: str, n: int, dim: str) -> None:
    """Make an array of n empty texts in the store at `path`."""
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    with writing(path):
        zarr.create_array(str(path), name=name, shape=(n,), dtype=str, chunks=(1,), dimension_names=(dim,),
                          compressors=[ZstdCodec(level=3), Crc32cCodec()])


def resize_texts(path: str | Path, name: str, n: int) -> None:
    """Make room for n texts."""
    with writing(path):
        _open(path, name, "r+").resize((int(n),))


def write_text(path: str | Path, name: str, row: int, text: str) -> None:
    """Write one text, whole or not at all."""
    with writing(path):
        _open(path, name, "r+")[row : row + 1] = np.array([text], dtype=object)


def read_text(path: str | Path, name: str, row: int) -> str:
    """Read one text; empty where none was written.

    Raises
    ------
    ReadError
        If it cannot be read.
    """
    try:
        return str(_open(path, name, "r")[row : row + 1][0])
    except Exception as error:  # zarr raises many kinds for a damaged chunk
        raise ReadError(f"{path}: row {row} of {name!r} cannot be read: {error}") from error


def rows_with_text(path: str | Path, name: str) -> list[int]:
    """Rows that were written, in order, without reading them.

    Examples
    --------
    >>> import tempfile
    >>> from hrtem_dask.io.store import create_store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     create_store(folder, [], coords={})
    ...     create_texts(folder, "done", 5, "structure")
    ...     write_text(folder, "done", 3, "yes")
    ...     rows_with_text(folder, "done"), read_text(folder, "done", 3), read_text(folder, "done", 1)
    ([3], 'yes', '')
    """
    return sorted(_numbers(f.name for f in (Path(path) / name / "c").glob("[0-9]*")))


def _numbers(names: Iterable[str]) -> list[int]:
    return [int(n) for n in names if n.isdecimal()]


def _open(path: str | Path, name: str, mode: str) -> Any:
    import zarr

    return zarr.open_array(str(Path(path) / name), mode=mode)
