"""The graph behind `find_columns` for frames that are too large for one task.

Of every frame, cut into squares of `TILE` pixels:

    survey   maxima of a square, spectra of the windows that begin in it (needs a rim of its neighbours)
    merged   all maxima of a frame, with their distance kept, and its noise
    fit      Gaussians of the columns of a square (needs a rim; the image is read again)
    table    rows of the frame

Only ``merged`` and ``table`` wait for a whole frame, and what they wait for is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask._task_spec import List, Task, TaskRef
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from ..core.calibration import Grid
from ..core.schema import COLUMNS
from ..kernels.column_noise import WINDOW
from ..kernels.column_peaks import REACH as PEAK_REACH
from ..kernels.column_peaks import Peaks
from ..kernels.columns import Finder, column_rows, fit_tile, halo_pixels, merge_tiles, survey_tile
from ..kernels.gaussfit import REACH as FIT_REACH
from ..kernels.gaussfit import Fit, join_fits
from ..kernels.tally import tiles_of
from .aligned import lazy_pixels
from .cuts import Cut, pieces
from .graphs import Graph, read_after

__all__ = ["TILE", "column_table", "frame_columns"]

#: side of a tile [pixel], a multiple of the windows of the noise
TILE = 8 * WINDOW

Range = tuple[int, int]


def column_table(rows: Sequence[dict[str, Any]], grid: Grid, at: Sequence[tuple[int, float]]) -> pd.DataFrame:
    """Table of frames of these numbers and times, at least one, places on the coordinates of the grid."""
    counts = [len(one["y"]) for one in rows]
    columns: dict[str, Any] = {name: np.repeat([one[k] for one in at], counts)
                               for k, name in enumerate(("frame", "time"))}
    for name in rows[0]:
        parts = [one[name] for one in rows]
        columns[name] = pd.Categorical.from_codes(np.concatenate([p.codes for p in parts]), dtype=parts[0].dtype) \
            if isinstance(parts[0], pd.Categorical) else np.concatenate(parts)
    columns["y"] = grid.y0 + np.sign(grid.dy) * columns["y"]
    columns["x"] = grid.x0 + np.sign(grid.dx) * columns["x"]
    # one table for all frames and numpy's casts: pandas would take a third of the time of the fits
    return pd.DataFrame({c.name: columns[c.name] if c.dtype == "category" else np.asarray(columns[c.name], c.dtype)
                         for c in COLUMNS.columns})


def frame_columns(planes: xr.DataArray, image: xr.DataArray | None, finder: Finder, grid: Grid,
                  at: tuple[int, float]) -> Delayed:
    """Table of one frame, from arrays (1, class, y, x) and (1, image, y, x), tile by tile."""
    first = lazy_pixels(planes, (1, 1, TILE, TILE))
    second = first if image is None else lazy_pixels(image, (1, 1, TILE, TILE))
    frame = (grid.ny, grid.nx)
    token = tokenize(first, None if image is None else second, finder, grid, at)
    name = {s: f"columns-{s}-{token}" for s in ("survey", "merged", "fit", "table")}
    again = read_after(second, [name["merged"]])
    tiles = [[(s.start, s.stop) for s in tiles_of(n, TILE)] for n in frame]
    graph: Graph = {}
    surveys, fits = [], []
    for (i, y), (j, x) in product(*(enumerate(t) for t in tiles)):
        key = (name["survey"], i, j)
        near = _around((y, x), halo_pixels(PEAK_REACH, finder.pixel_size), frame)
        cut, blocks = _cut(graph, (*key, 0), first, near)
        below = [(a, min(b + WINDOW, n)) for (a, b), n in zip((y, x), frame, strict=True)]
        other, images = _cut(graph, (*key, 1), second, below) if image is not None else (None, [])
        graph[key] = Task(key, _survey, finder, frame, (y, x), near, cut, other, len(blocks), *blocks, *images)
        surveys.append(TaskRef(key))
        key = (name["fit"], i, j)
        near = _around((y, x), halo_pixels(FIT_REACH, finder.pixel_size), frame)
        cut, blocks = _cut(graph, key, again, near)
        graph[key] = Task(key, _fit, finder, (y, x), near, cut, image is None, TaskRef(name["merged"]), *blocks)
        fits.append(TaskRef(key))
    graph[name["merged"]] = Task(name["merged"], _merged, finder, frame, List(*surveys))
    graph[name["table"]] = Task(name["table"], _table, finder, grid, at, tiles, TaskRef(name["merged"]), List(*fits))
    layers = HighLevelGraph.from_collections(name["table"], graph, dependencies=[first, second, again])
    return Delayed(name["table"], layers, layer=name["table"])


def _around(tile: tuple[Range, Range], halo: tuple[int, int], frame: tuple[int, int]) -> list[Range]:
    return [(max(a - h, 0), min(b + h, n)) for (a, b), h, n in zip(tile, halo, frame, strict=True)]


def _cut(graph: Graph, key: tuple[Any, ...], array: da.Array, near: list[Range]) -> tuple[Cut, list[TaskRef]]:
    """How a task gets a rectangle, and what refers to copies of what it needs."""
    cut = Cut.of(array.chunks[1:], *near)
    blocks, cut = pieces(graph, key, cut, slice(None), [TaskRef((array.name, 0, *c)) for c in cut.chunks])
    return cut, blocks


def _survey(finder: Finder, frame: tuple[int, int], tile: tuple[Range, Range], near: list[Range], cut: Cut,
            other: Cut | None, n: int, *blocks: np.ndarray) -> Any:
    origin, first = (near[0][0], near[1][0]), (tile[0][0], tile[1][0])
    own = tuple(slice(a - o, b - o) for (a, b), o in zip(tile, origin, strict=True))
    images = None if other is None else other.take(blocks[n:], slice(None))[0]
    return survey_tile(cut.take(blocks[:n], slice(None))[0], images, finder, origin=origin, own=own, first=first,
                       frame=frame)


def _merged(finder: Finder, frame: tuple[int, int], surveys: list[Any]) -> Any:
    return merge_tiles(surveys, finder, frame)


def _fit(finder: Finder, tile: tuple[Range, Range], near: list[Range], cut: Cut, by_probability: bool, merged: Any,
         *blocks: np.ndarray) -> Fit | None:
    images = cut.take(blocks, slice(None))[0]
    return fit_tile(images.sum(axis=0)[None] if by_probability else images, *merged, finder,
                    origin=(near[0][0], near[1][0]), own=tuple(range(*t) for t in tile))


def _table(finder: Finder, grid: Grid, at: tuple[int, float], tiles: list[list[Range]],
           merged: tuple[Peaks, list[Any]], fits: list[Fit | None]) -> pd.DataFrame:
    found, noise = merged
    place = [np.searchsorted([a for a, _ in t], found.pixel[:, k], side="right") for k, t in enumerate(tiles)]
    order = np.lexsort((np.arange(len(found)), place[1], place[0]))  # the fits come a tile after the other
    some = [f for f in fits if f is not None]
    fit = join_fits(some).take(np.argsort(order, kind="stable")) if some else None
    return column_table([column_rows(found, fit, noise, finder)], grid, [at])
