"""The graph behind `segment`: one task a tile, and where a frame has several tiles, its statistics."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import Task, TaskRef
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from ..kernels.contrast import evaluate_either
from ..kernels.normalise import combine
from ..kernels.tiles import Evaluate, Layout, Tile, frame_moments, region_moments, segment_tile, tile_core, tile_image
from ..kernels.turns import evaluate_turned
from ..networks.cards import DARK
from ..networks.evaluation import evaluate, evaluate_many, one_thread, resolve_device
from ..networks.models import Model, cached_weights, pack_weights
from .cuts import Cut, Frames, frame_groups, pieces, referred
from .graphs import read_after, read_again

__all__ = ["Network", "assemble", "count_unknown"]

#: of frames of more pixels no chunk is read for the tiles before the statistics are there: it would be kept
LARGE = 2**24


class Network:
    """What a task needs to evaluate: options as values, the weights as one key of the graph."""

    def __init__(self, payload: bytes, classes: int, device: str, backend: str, turns: int = 1,
                 either: float = 0.0) -> None:
        self.classes = classes
        self.sha256 = hashlib.sha256(payload).hexdigest()
        self.options = {"sha256": self.sha256, "device": device, "backend": backend, "turns": turns,
                        "either": either}
        # a key of the graph, unlike scattered data, comes back when the worker that held it leaves
        self.payload = dask.delayed(payload, name=f"weights-{self.sha256}", traverse=False)

    @classmethod
    def of(cls, model: Model, device: str, backend: str, turns: int = 1) -> Network:
        """Pack a model for the way to the workers."""
        either = float(np.min(model.card["pixel_size"])) if model.card.get("contrast") == DARK else 0.0
        return cls(pack_weights(model.weights), len(model.classes), device, backend, turns, either)


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
    groups = frame_groups(source.chunks[0], 4 * network.classes * source.shape[-2] * source.shape[-1])
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
    for i, frames, chunks_of in referred(source, groups):
        moments = TaskRef((statistics.name, i, 0, 0)) if statistics is not None else None
        for (r, c), job in jobs:
            key, part, blocks = (name, i, 0, r, c), frames.part, chunks_of(job.cut)
            if large:
                blocks, cut = pieces(graph, key, job.cut, part, blocks)
                part, job = slice(None), job._replace(cut=cut)
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
    for i, frames, chunks_of in referred(source, groups):
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
    turns: int
    either: float


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
            logits = _every_way(lambda batch, edges: evaluate_many(weights, batch, backend=job.backend, device=where,
                                                                   edges=edges),
                                np.stack(images), job.tile.edges, job, weights.grid)
            return np.stack([tile_core(one, job.tile) for one in logits])

        def run(image: np.ndarray, edges: tuple[bool, bool, bool, bool]) -> np.ndarray:
            return _every_way(lambda part, sides: evaluate(weights, part, backend=job.backend, device=where,
                                                           edges=sides), image, edges, job, weights.grid)

        out = None
        for i, frame in enumerate(frames):
            one = segment_tile(frame, job.tile, run, None if moments is None else moments[i])
            if out is None:
                out = np.empty((len(frames), *one.shape), one.dtype)
            out[i] = one
        return out


def _every_way(run: Evaluate, image: np.ndarray, edges: tuple[bool, bool, bool, bool], job: SegmentJob, grid: int
               ) -> np.ndarray:
    """Logits of an image or a batch, turned and with either contrast where that was asked for."""
    def turned(image: np.ndarray, edges: tuple[bool, bool, bool, bool]) -> np.ndarray:
        return evaluate_turned(run, image, edges, job.turns, grid)

    return evaluate_either(turned, image, edges, job.either, grid) if job.either else turned(image, edges)


def _at_once(device: str, tile: Tile) -> bool:
    """Whether all frames of a task are evaluated together: a GPU needs more work at a time than one tile is."""
    return device != "cpu" and not tile.layout.y.windows
