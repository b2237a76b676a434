"""The graph behind `segment`: one task a tile, and where a frame has several tiles, its statistics.

A task takes the chunks of the movie that its window meets as they are and cuts the window out of
them itself: slicing and joining as tasks of their own would make four times as many of them.
"""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import Task, TaskRef
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from ..kernels.normalise import combine
from ..kernels.tiles import Layout, Tile, frame_moments, region_moments, segment_tile, tile_core, tile_image
from ..networks.evaluation import evaluate, evaluate_many, one_thread, resolve_device
from ..networks.models import Model, cached_weights, pack_weights
from .graphs import read_after, read_again

__all__ = ["Network", "assemble", "count_unknown"]

#: size of one chunk of the result [byte]; longer chunks along `frame` are split
CHUNK = 256 * 2**20
#: of frames of more pixels no chunk is read for the tiles before the statistics are there: it would be kept
LARGE = 2**24
Range = tuple[int, int]


class Network:
    """What a task needs to evaluate: options as values, the weights as one key of the graph."""

    def __init__(self, payload: bytes, classes: int, device: str, backend: str) -> None:
        self.classes = classes
        self.sha256 = hashlib.sha256(payload).hexdigest()
        self.options = {"sha256": self.sha256, "device": device, "backend": backend}
        # a key of the graph, unlike scattered data, comes back when the worker that held it leaves
        self.payload = dask.delayed(payload, name=f"weights-{self.sha256}", traverse=False)

    @classmethod
    def of(cls, model: Model, device: str, backend: str) -> Network:
        """Pack a model for the way to the workers."""
        return cls(pack_weights(model.weights), len(model.classes), device, backend)


class Frames(NamedTuple):
    """Frames that go through a task together: a chunk of the movie along ``frame``, or a part of it."""

    chunk: int
    part: slice
    count: int


@dataclass(frozen=True)
class Cut:
    """How a rectangle of a frame is put together from the chunks that it meets.

    Parameters
    ----------
    shape : tuple of int
        Channels, rows and columns of the rectangle.
    chunks : tuple of tuple of int
        Index of each chunk along the axes after ``frame``.
    places : tuple of (tuple of slice, tuple of slice)
        For each chunk, the pixels of the rectangle that it fills and those of the chunk that
        they come from.
    """

    shape: tuple[int, ...]
    chunks: tuple[tuple[int, ...], ...]
    places: tuple[tuple[tuple[slice, ...], tuple[slice, ...]], ...]

    @classmethod
    def of(cls, chunks: tuple[tuple[int, ...], ...], y: Range, x: Range) -> Cut:
        """Cut all channels of some rows and columns out of the chunks along the axes after ``frame``."""
        ranges = [(0, sum(c)) for c in chunks[:-2]] + [y, x]
        axes = [_meeting(c, r) for c, r in zip(chunks, ranges, strict=True)]
        found = list(product(*axes))
        return cls(
            (*([1] if len(chunks) == 2 else []), *(b - a for a, b in ranges)),
            tuple(tuple(one[0] for one in each) for each in found),
            tuple((tuple(one[1] for one in each), tuple(one[2] for one in each)) for each in found),
        )

    def take(self, blocks: tuple[np.ndarray, ...], part: slice) -> np.ndarray:
        """Put the rectangle (frame, channel, y, x) together; a view where one chunk holds it all."""
        if len(blocks) == 1:
            out = blocks[0][(part, *self.places[0][1])]
        else:
            axes = self.shape[-len(self.chunks[0]):]
            out = np.empty((len(blocks[0][part]), *axes), np.result_type(*blocks))
            for block, (there, here) in zip(blocks, self.places, strict=True):
                out[(slice(None), *there)] = block[(part, *here)]
        return out.reshape(len(out), *self.shape)


def _meeting(chunks: tuple[int, ...], wanted: Range) -> list[tuple[int, slice, slice]]:
    """Chunks of an axis that hold some of the wanted range: index, where it goes, where it comes from."""
    found, start = [], 0
    for i, n in enumerate(chunks):
        a, b = max(start, wanted[0]), min(start + n, wanted[1])
        if a < b:
            found.append((i, slice(a - wanted[0], b - wanted[0]), slice(a - start, b - start)))
        start += n
    return found


def _referred(source: da.Array, groups: list[Frames]) -> Iterator[tuple[int, Frames, Callable[[Cut], list[TaskRef]]]]:
    """Go through the groups of frames, each with what refers to its chunks.

    All tasks of a group share one reference a chunk: in large graphs the objects are what takes the time.
    """
    within = list(product(*(range(n) for n in source.numblocks[1:])))
    name = source.name
    for i, frames in enumerate(groups):
        refs = {chunk: TaskRef((name, frames.chunk, *chunk)) for chunk in within}
        yield i, frames, lambda cut, refs=refs: [refs[chunk] for chunk in cut.chunks]


@contextmanager
def _without_collection() -> Iterator[None]:
    """Make objects without the collector looking through all of them again and again: half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_without_collection()
def assemble(movie: xr.DataArray, layout: Layout, network: Network) -> da.Array:
    """Probabilities (frame, class, y, x) of a movie, a chunk a group of frames and tile."""
    source = _lazy(movie)
    groups = _groups(source, network.classes)
    tiles = layout.tiles
    statistics = _statistics(source, layout, groups) if len(tiles) * len(tiles[0]) > 1 else None
    name = f"segment-{tokenize(source.name, layout, network.options, [g.count for g in groups])}"
    large = statistics is not None and _several(source) and source.shape[-2] * source.shape[-1] > LARGE
    if large:
        first = {g.chunk: (statistics.name, i, 0, 0) for i, g in reversed(list(enumerate(groups)))}
        source = read_after(source, [first[i] for i in range(source.numblocks[0])], [statistics])
    payload = TaskRef(network.payload.key)
    jobs = [((r, c), SegmentJob(tile, Cut.of(source.chunks[1:], tile.y.read, tile.x.read), **network.options))
            for r, row in enumerate(tiles) for c, tile in enumerate(row)]
    graph = {}
    for i, frames, chunks_of in _referred(source, groups):
        moments = TaskRef((statistics.name, i, 0, 0)) if statistics is not None else None
        for (r, c), job in jobs:
            key, part, blocks = (name, i, 0, r, c), frames.part, chunks_of(job.cut)
            if large:
                part, blocks, job = slice(None), *_pieces(graph, key, job, part, blocks)
            graph[key] = Task(key, _segment_task, job, part, payload, moments, *blocks)
    inputs = [source, network.payload] + ([statistics] if statistics is not None else [])
    chunks = (tuple(g.count for g in groups), (network.classes,), _sizes(layout.y.cuts), _sizes(layout.x.cuts))
    return da.Array(HighLevelGraph.from_collections(name, graph, dependencies=inputs), name, chunks,
                    meta=np.empty((0, 0, 0, 0), np.float32))


def count_unknown(movie: xr.DataArray) -> da.Array:
    """Pixels that are not finite, a frame."""
    source = _lazy(movie)
    if source.dtype.kind != "f":
        return da.zeros(source.shape[0], dtype=np.int64, chunks=(source.chunks[0],))
    token = tokenize(source.name)
    name, part_name = f"unknown-pixels-{token}", f"unknown-pixels-chunk-{token}"
    graph = {}
    for i in range(source.numblocks[0]):
        keys = [(part_name, i, *rest) for rest in np.ndindex(source.numblocks[1:])]
        for key in keys:
            graph[key] = Task(key, _unknown_task, TaskRef((source.name, *key[1:])))
        graph[name, i] = Task((name, i), _sum_task, *(TaskRef(k) for k in keys))
    return da.Array(HighLevelGraph.from_collections(name, graph, dependencies=[source]), name, (source.chunks[0],),
                    dtype=np.int64)


def _lazy(movie: xr.DataArray) -> da.Array:
    return movie.data if isinstance(movie.data, da.Array) else da.from_array(np.asarray(movie.data))


def _sizes(cuts: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(np.diff(cuts).tolist())


def _groups(source: da.Array, classes: int) -> list[Frames]:
    """Group the frames as the chunks of the movie do, in parts where the results would be too large."""
    most = max(1, CHUNK // (4 * classes * source.shape[-2] * source.shape[-1]))
    groups = []
    for i, n in enumerate(source.chunks[0]):
        parts = math.ceil(n / most)
        ends = [n * k // parts for k in range(parts + 1)]
        groups += [Frames(i, slice(a, b), b - a) for a, b in pairwise(ends)]
    return groups


def _statistics(source: da.Array, layout: Layout, groups: list[Frames]) -> da.Array:
    """Moments (frame, channel, 3) of whole frames.

    One chunk a frame stays until its last tile is done anyway, and one task sums over it. Several
    are better read twice, region by region, than kept until the last of them has come.
    """
    token = tokenize(source.name, layout, [g.count for g in groups])
    name, part_name = f"frame-statistics-{token}", f"frame-statistics-region-{token}"
    several = _several(source)
    graph = {}
    if several:
        source = read_again(source, "hrtem-dask-statistics")
        jobs = [RegionJob(layout, r, Cut.of(source.chunks[1:], r[0].read, r[1].read)) for r in layout.regions]
    else:
        whole = FrameJob(layout, Cut.of(source.chunks[1:], (0, layout.y.n), (0, layout.x.n)))
    for i, frames, chunks_of in _referred(source, groups):
        key = (name, i, 0, 0)
        if several:
            keys = [(part_name, i, k) for k in range(len(jobs))]
            for k, job in zip(keys, jobs, strict=True):
                graph[k] = Task(k, _region_task, job, frames.part, *chunks_of(job.cut))
            graph[key] = Task(key, _combine_task, *(TaskRef(k) for k in keys))
        else:
            graph[key] = Task(key, _frame_task, whole, frames.part, *chunks_of(whole.cut))
    channels = 1 if source.ndim == 3 else source.shape[1]
    return da.Array(HighLevelGraph.from_collections(name, graph, dependencies=[source]), name,
                    (tuple(g.count for g in groups), (channels,), (3,)), meta=np.empty((0, 0, 0)))


def _pieces(graph: dict[Any, Any], key: tuple[Any, ...], job: SegmentJob, part: slice,
            blocks: list[TaskRef]) -> tuple[list[TaskRef], SegmentJob]:
    """Tasks that copy what a tile needs out of each chunk, and the job that puts the copies together.

    A worker goes through a frame row by row and keeps what the tiles of the next row need of this one:
    chunks as they are, which tiles on all sides share, would be kept on every worker, three rows of
    them, as long as the frame is wide. Of copies it keeps the rims, and of each chunk one.
    """
    name = f"{key[0]}-piece"
    keys = [(name, *key[1:], k) for k in range(len(blocks))]
    for piece, block, (_, here) in zip(keys, blocks, job.cut.places, strict=True):
        graph[piece] = Task(piece, _piece_task, block, (part, *here))
    whole = tuple((there, (slice(None),) * len(here)) for there, here in job.cut.places)
    return [TaskRef(k) for k in keys], job._replace(cut=replace(job.cut, places=whole))


def _piece_task(block: np.ndarray, here: tuple[slice, ...]) -> np.ndarray:
    piece = block[here]
    return piece if piece.size == block.size else piece.copy()


def _several(source: da.Array) -> bool:
    """Whether a frame comes in several chunks."""
    return any(n > 1 for n in source.numblocks[1:])


class FrameJob(NamedTuple):
    """What the statistics of whole frames take."""

    layout: Layout
    cut: Cut


class RegionJob(NamedTuple):
    """What the statistics of one region take."""

    layout: Layout
    region: Any
    cut: Cut


class SegmentJob(NamedTuple):
    """What the segmentation of one tile takes, beside pixels and weights."""

    tile: Tile
    cut: Cut
    sha256: str
    device: str
    backend: str


def _unknown_task(block: np.ndarray) -> np.ndarray:
    return np.count_nonzero(~np.isfinite(block), axis=tuple(range(1, block.ndim)))


def _sum_task(*counts: np.ndarray) -> np.ndarray:
    return np.sum(counts, axis=0)


def _frame_task(job: FrameJob, part: slice, *blocks: np.ndarray) -> np.ndarray:
    return np.stack([frame_moments(frame, job.layout) for frame in job.cut.take(blocks, part)])


def _region_task(job: RegionJob, part: slice, *blocks: np.ndarray) -> np.ndarray:
    return np.stack([region_moments(frame, job.layout, job.region) for frame in job.cut.take(blocks, part)])


def _combine_task(*parts: np.ndarray) -> np.ndarray:
    return combine(np.stack(parts))


def _segment_task(job: SegmentJob, part: slice, payload: bytes, moments: np.ndarray | None, *blocks: np.ndarray
                  ) -> np.ndarray:
    weights = cached_weights(payload, job.sha256)
    with one_thread():
        where = resolve_device(job.device)

        frames = job.cut.take(blocks, part)
        if _at_once(where, job.tile):
            images = [tile_image(f, job.tile, None if moments is None else moments[i]) for i, f in enumerate(frames)]
            logits = evaluate_many(weights, images, backend=job.backend, device=where, edges=job.tile.edges)
            return np.stack([tile_core(one, job.tile) for one in logits])

        def run(image: np.ndarray, edges: tuple[bool, bool, bool, bool]) -> np.ndarray:
            return evaluate(weights, image, backend=job.backend, device=where, edges=edges)

        out = None
        for i, frame in enumerate(frames):
            one = segment_tile(frame, job.tile, run, None if moments is None else moments[i])
            if out is None:
                out = np.empty((len(frames), *one.shape), one.dtype)
            out[i] = one
        return out


def _at_once(device: str, tile: Tile) -> bool:
    """Whether all frames of a task are evaluated together: a GPU needs more work at a time than one tile is."""
    return device != "cpu" and not tile.layout.y.windows
