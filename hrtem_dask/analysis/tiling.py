"""The graph behind `segment`: from the chunks of a movie to tiles of probability."""

from __future__ import annotations

import hashlib
import math

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import convert_legacy_graph
from dask.base import clone_key
from dask.highlevelgraph import HighLevelGraph

from ..kernels.normalise import combine
from ..kernels.tiles import Layout, Tile, segment_tile, tile_moments
from ..networks.evaluation import evaluate, one_thread, resolve_device
from ..networks.models import Model, cached_weights, pack_weights

__all__ = ["Network", "assemble", "source_of"]

#: size of one chunk of the result [byte]; longer chunks along `frame` are split
CHUNK = 256 * 2**20


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
        return cls(pack_weights(model.weights), len(model.classes), device, backend)


def source_of(movie: xr.DataArray, model: Model) -> da.Array:
    """The pixels as (frame, channel, y, x), with chunks along frame that keep results small."""
    data = movie.data if isinstance(movie.data, da.Array) else da.from_array(np.asarray(movie.data))
    if data.ndim == 3:
        data = data[:, None]
    size = 4 * len(model.classes) * data.shape[2] * data.shape[3]
    most = max(1, CHUNK // size)
    frames = [c for chunk in data.chunks[0] for c in _split(chunk, most)]
    return data if tuple(frames) == data.chunks[0] else data.rechunk({0: tuple(frames)})


def _split(n: int, most: int) -> list[int]:
    parts = math.ceil(n / most)
    return [n * (i + 1) // parts - n * i // parts for i in range(parts)] if n else []


def assemble(source: da.Array, layout: Layout, network: Network) -> da.Array:
    tiles = layout.tiles
    flat = [t for row in tiles for t in row]
    statistics = None
    if len(flat) > 1:
        # one chunk a frame stays until its last tile is done anyway; several are better read twice
        several = len(source.chunks[2]) * len(source.chunks[3]) > 1
        first = _again(source) if several else source
        statistics = _combined([_tile_statistics(first, t) for t in flat])
    rows = [da.concatenate([_tile(source, t, network, statistics) for t in row], axis=3) for row in tiles]
    return rows[0] if len(rows) == 1 else da.concatenate(rows, axis=2)


def _again(source: da.Array) -> da.Array:
    """The same array under other keys, so that its chunks are read again and not kept.

    That is what `dask.graph_manipulation.clone` is for; in dask 2026.7 it renames the keys of a
    materialised layer, as slicing makes them, but not the references inside, and so shares all.
    """
    graph = convert_legacy_graph(dict(source.dask))
    names = {k: clone_key(k, "hrtem-dask-statistics") for k in graph}
    tasks = {names[k]: v.substitute(names, key=names[k]) for k, v in graph.items()}
    name = clone_key(source.name, "hrtem-dask-statistics")
    return da.Array(HighLevelGraph.from_collections(name, tasks), name, source.chunks, meta=source._meta)


def _cut(source: da.Array, y: tuple[int, int], x: tuple[int, int]) -> da.Array:
    """A window as one chunk per group of frames: explicit, so no chunk of the caller matters."""
    part = source[:, :, slice(*y), slice(*x)]
    return part if part.numblocks[1:] == (1, 1, 1) else part.rechunk({1: -1, 2: -1, 3: -1})


def _tile_statistics(source: da.Array, tile: Tile) -> da.Array:
    part = _cut(source, tile.y.read_own, tile.x.read_own)
    return da.map_blocks(
        _statistics_task, part, tile=tile, dtype=np.float64, drop_axis=3,
        chunks=(part.chunks[0], part.chunks[1], (3,)), meta=np.empty((0, 0, 0)),
    )


def _combined(parts: list[da.Array]) -> da.Array:
    """Moments (frame, channel, 1, 3) of whole frames."""
    return da.map_blocks(_combine_task, *parts, dtype=np.float64, new_axis=2, meta=np.empty((0, 0, 0, 0)),
                         chunks=(parts[0].chunks[0], parts[0].chunks[1], (1,), (3,)))


def _tile(source: da.Array, tile: Tile, network: Network, statistics: da.Array | None) -> da.Array:
    part = _cut(source, tile.y.read, tile.x.read)
    inputs = (part,) if statistics is None else (part, statistics)
    classes = network.classes
    return da.map_blocks(
        _segment_task, *inputs, tile=tile, payload=network.payload, **network.options, dtype=np.float32,
        chunks=(part.chunks[0], (classes,), (tile.y.core[1] - tile.y.core[0],), (tile.x.core[1] - tile.x.core[0],)),
        meta=np.empty((0, 0, 0, 0), np.float32),
    )


def _statistics_task(block: np.ndarray, tile: Tile) -> np.ndarray:
    return np.stack([tile_moments(frame, tile) for frame in block])


def _combine_task(*parts: np.ndarray) -> np.ndarray:
    return combine(np.stack(parts))[:, :, None]


def _segment_task(block: np.ndarray, moments: np.ndarray | None = None, *, tile: Tile, payload: bytes, sha256: str,
                  device: str, backend: str) -> np.ndarray:
    weights = cached_weights(payload, sha256)
    with one_thread():
        where = resolve_device(device)

        def run(image: np.ndarray, edges: tuple[bool, bool, bool, bool]) -> np.ndarray:
            return evaluate(weights, image, backend=backend, device=where, edges=edges)

        return np.stack([
            segment_tile(frame, tile, run, None if moments is None else moments[i, :, 0])
            for i, frame in enumerate(block)
        ])
