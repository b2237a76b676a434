"""What a store needs around its writing: arrays that fit together, and a folder that is replaced only at the end."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..core.errors import InputError
from .tables import writing

__all__ = ["check_shared_dims", "plain", "replacing"]

#: tenths of a second that tasks have to end their shards when one of them has failed
GRACE = 10


def check_shared_dims(name: str, movie: xr.DataArray, extra: Mapping[str, xr.DataArray]) -> None:
    """Refuse arrays that cannot share a store: dims of one name with other sizes or other coordinates.

    Raises
    ------
    InputError
        If an array has other frames or another crop than one before it.
    """
    seen: dict[Any, tuple[str, xr.DataArray]] = {}
    for key, array in {name: movie, **extra}.items():
        for dim in array.dims:
            other, first = seen.setdefault(dim, (key, array))
            if array.sizes[dim] != first.sizes[dim]:
                raise InputError(f"{key!r} has {array.sizes[dim]} samples along {dim} and {other!r} "
                                 f"{first.sizes[dim]}; expected the same, since arrays of a store share their dims. "
                                 f"Select the same frames and the same crop of both, or write {key!r} to a store of "
                                 "its own")
            if dim not in first.coords and dim in array.coords:
                seen[dim] = key, array
            elif dim in array.coords and not np.array_equal(array[dim].values, first[dim].values):
                ends = [f"from {a[dim].values[0]} to {a[dim].values[-1]}" for a in (array, first)]
                raise InputError(f"{key!r} and {other!r} have different coordinates {dim}, {ends[0]} and {ends[1]}; "
                                 "expected equal ones, since arrays of a store share them. Select the same frames and "
                                 f"the same crop of both, or write {key!r} to a store of its own")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield the folder to write to, which is the path itself where nothing is there yet.

    Else it is a new one beside it, which takes its place when the block ends well: until then what is there can be
    read, and where the block fails it stays as it was.
    """
    path = Path(path)
    if not path.is_dir() or not any(path.iterdir()):
        yield path
        return
    target = path.resolve()  # of a link, the folder that it means
    beside = f".{target.name}.{uuid.uuid4().hex[:12]}"
    new, old = target.with_name(f"{beside}.partial"), target.with_name(f"{beside}.old")
    try:
        yield new
        with writing(path):
            target.rename(old)
            try:
                new.rename(target)
            except OSError:
                old.rename(target)
                raise
    except BaseException:
        _remove(new)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Remove a folder and what tasks still under way put there: where one of several fails, dask waits for no other.

    A task that begins its shard later finds no array and writes nothing.
    """
    for _ in range(GRACE):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as JSON takes them: numpy scalars and arrays become numbers and lists."""
    return json.loads(json.dumps(dict(attrs), default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v)))
