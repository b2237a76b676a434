"""The graphs behind `peak_ratio_map`: one a window, and one a particle of frames too large for a task.

By window, of every group of frames:

    scales   the windows that begin in a tile, each measured once (needs the tile and a window beyond it)
    map      the tile's probability times the blended scales (needs those of the neighbours above and left)

A task waits for its neighbours at most, so a frame of any size streams through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import pandas as pd
from dask._task_spec import Task, TaskRef
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from ..kernels.blend import Windows
from ..kernels.ratio_map import blend_scales, measure_windows, particle_scales, scale_of, scaled
from ..kernels.runs import Runs, fill_runs, relabel_runs
from .cuts import Cut, Range, frame_groups, pieces, referred
from .graphs import read_after
from .labels import label_stages

__all__ = ["TILE", "ParticleJob", "WindowJob", "map_large_particles", "map_small_particles", "map_windows"]

#: side of a tile [pixel], about
TILE = 2048
#: arrays as large as a tile that a task has at a time, in float32
PLANES = 4


@dataclass(frozen=True)
class WindowJob:
    """What every task has to know of the windows; ``mtf`` and ``crystal`` as for `fourier_peak_pairs`."""

    windows: tuple[Windows, Windows]
    pixel_size: tuple[float, float]
    threshold: float
    crystal: Any = None
    mtf: Callable[[np.ndarray], np.ndarray] | None = None


class Span(NamedTuple):
    """A tile along one axis: its pixels, and the windows that begin in it."""

    pixels: Range
    owned: range


def _spans(windows: Windows) -> list[Span]:
    """Tiles along an axis; they begin where windows do, whatever the chunks."""
    side = max(2, TILE // windows.step) * windows.step
    count = max(1, math.ceil(windows.n / side - 0.25))  # what is left over is not worth a tile of its own
    cuts = (*(i * side for i in range(count)), windows.n)
    return [Span((a, b), _indices([i for i, start in enumerate(windows.starts) if a <= start < b]))
            for a, b in pairwise(cuts)]


def _indices(found: list[int]) -> range:
    return range(found[0], found[-1] + 1) if found else range(0)


def _owners(spans: Sequence[Span], needed: range) -> list[int]:
    """Tiles that own some of the windows needed; windows are owned in their order, so nothing lies between."""
    return [i for i, s in enumerate(spans) if s.owned and s.owned.start < needed.stop and needed.start < s.owned.stop]


def map_windows(movie: da.Array, probability: da.Array, job: WindowJob) -> da.Array:
    """Map (frame, y, x) of a movie, a chunk a group of frames and tile."""
    movie = movie.rechunk({0: probability.chunks[0]})
    ys, xs = (_spans(w) for w in job.windows)
    area = max(s.pixels[1] - s.pixels[0] for s in ys) * max(s.pixels[1] - s.pixels[0] for s in xs)
    groups = frame_groups(probability.chunks[0], 4 * PLANES * area)
    token = tokenize(movie.name, probability.name, job, ys, xs, [g.count for g in groups])
    measured, name = f"ratio-scales-{token}", f"ratio-map-{token}"
    sources = [(array, referred(array, groups), any(n > 1 for n in array.numblocks[1:]))
               for array in (movie, probability)]
    graph: dict[Any, Any] = {}
    for (i, frames, of_movie), (_, _, of_probability) in zip(*(s[1] for s in sources), strict=True):
        for (r, y), (c, x) in product(enumerate(ys), enumerate(xs)):
            reads = [(a, chunks_of, several) for (a, _, several), chunks_of in
                     zip(sources, (of_movie, of_probability), strict=True)]
            if y.owned and x.owned:
                key = (measured, i, 0, r, c)
                reach = [(w.starts[s.owned[0]], w.starts[s.owned[-1]] + w.width)
                         for w, s in zip(job.windows, (y, x), strict=True)]
                taken = [_taken(graph, (*key, k), *read, frames.part, reach) for k, read in enumerate(reads)]
                graph[key] = Task(key, _measure_task, job, (y.owned, x.owned), [t[0] for t in taken],
                                  len(taken[0][1]), *(ref for t in taken for ref in t[1]))
            key = (name, i, r, c)
            cut, blocks = _taken(graph, key, *reads[1], frames.part, [y.pixels, x.pixels])
            near = [_owners(s, w.meeting(*t.pixels)) for s, w, t in zip((ys, xs), job.windows, (y, x), strict=True)]
            which = tuple(range(s[n[0]].owned.start, s[n[-1]].owned.stop)
                          for s, n in zip((ys, xs), near, strict=True))
            scales = [TaskRef((measured, i, 0, a, b)) for a in near[0] for b in near[1]]
            graph[key] = Task(key, _map_task, job, which, (y.pixels, x.pixels), len(near[1]), cut, len(scales),
                              *scales, *blocks)
    chunks = (tuple(g.count for g in groups), *(tuple(s.pixels[1] - s.pixels[0] for s in axis) for axis in (ys, xs)))
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[movie, probability])
    return da.Array(layers, name, chunks, meta=np.empty((0, 0, 0), np.float32))


def _taken(graph: dict[Any, Any], key: tuple[Any, ...], array: da.Array, chunks_of: Callable[[Cut], list[TaskRef]],
           several: bool, part: slice, reach: Sequence[Range]) -> tuple[tuple[Cut, slice], list[TaskRef]]:
    """How a task gets a rectangle: the cut and its frames, and what refers to the chunks or to copies of them."""
    cut = Cut.of(array.chunks[1:], *reach)
    blocks = chunks_of(cut)
    if not several:
        return (cut, part), blocks
    blocks, cut = pieces(graph, key, cut, part, blocks)
    return (cut, slice(None)), blocks


def _measure_task(job: WindowJob, which: tuple[range, range], cuts: list[tuple[Cut, slice]], n: int,
                  *blocks: np.ndarray) -> np.ndarray:
    (cut, part), (other, of_other) = cuts
    images, probabilities = cut.take(blocks[:n], part)[:, 0], other.take(blocks[n:], of_other)[:, 0]
    return np.stack([measure_windows(image, probability > job.threshold, job.windows, which, job.pixel_size,
                                     crystal=job.crystal, mtf=job.mtf)
                     for image, probability in zip(images, probabilities, strict=True)])


def _map_task(job: WindowJob, which: tuple[range, range], at: tuple[Range, Range], across: int,
              cut: tuple[Cut, slice], n: int, *arrays: np.ndarray) -> np.ndarray:
    parts = [list(arrays[k:k + across]) for k in range(0, n, across)]
    scales = np.concatenate([np.concatenate(row, axis=2) for row in parts], axis=1)
    probability = cut[0].take(arrays[n:], cut[1])[:, 0]
    out = np.empty(probability.shape, np.float32)
    for i, frame in enumerate(probability):
        out[i] = scaled(frame, blend_scales(scales[i], job.windows, which, *at))
    return out


@dataclass(frozen=True)
class ParticleJob:
    """What every task has to know of the particles: pixel size, and how far from one a pixel may be its own."""

    pixel_size: tuple[float, float]
    reach: float
    threshold: float

    @property
    def halo(self) -> tuple[int, int]:
        """Pixels (y, x) beyond a tile whose particles matter to it."""
        return tuple(int(self.reach / d) + 1 for d in self.pixel_size)  # type: ignore[return-value]


def map_small_particles(probability: da.Array, labels: da.Array, tables: Sequence[Delayed],
                        job: ParticleJob) -> da.Array:
    """Map of frames that fit into a task, a batch at a time: chunks along ``frame`` as those of the tables."""
    name = f"ratio-map-{tokenize(probability.name, labels.name, [t.key for t in tables], job)}"
    graph: dict[Any, Any] = {}
    for i, (table, first) in enumerate(zip(tables, np.cumsum((0, *probability.chunks[0])), strict=False)):
        key = (name, i, 0, 0)
        graph[key] = Task(key, _batch_task, job, int(first), TaskRef((probability.name, i, 0, 0)),
                          TaskRef((labels.name, i, 0, 0)), TaskRef(table.key))
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[probability, labels, *tables])
    return da.Array(layers, name, probability.chunks, meta=np.empty((0, 0, 0), np.float32))


def _batch_task(job: ParticleJob, first: int, probability: np.ndarray, labels: np.ndarray,
                table: pd.DataFrame) -> np.ndarray:
    out = np.empty(probability.shape, np.float32)
    for i, (one, found) in enumerate(zip(probability, labels, strict=True)):
        scales = _scales_of(table[table["frame"] == first + i], int(found.max(initial=0)))
        out[i] = scaled(one, particle_scales(found, scales, job.pixel_size, job.reach))
    return out


def _scales_of(table: pd.DataFrame, most: int) -> np.ndarray:
    """Factor of each label from 0; background and a label that is not in the table have the least."""
    ratio = np.full(max(most, int(table["particle"].max()) if len(table) else 0) + 1, np.nan)
    ratio[table["particle"].to_numpy(dtype=np.int64)] = table["peak_ratio"]
    return scale_of(ratio)


def map_large_particles(probability: da.Array, tables: Sequence[Delayed], job: ParticleJob) -> da.Array:
    """Map of large frames, tile by tile; each frame has a table of its own.

    A tile waits for the table of its frame as runs of labels; the probability is read again for it.
    """
    probability = probability.rechunk({0: 1, 1: TILE, 2: TILE})
    mask = probability > job.threshold
    stages, runs, merged = label_stages(mask, 0.0)
    token = tokenize(probability.name, [t.key for t in tables], job)
    name, known = f"ratio-map-{token}", f"ratio-known-{token}"
    frames, rows, columns = probability.numblocks
    for f in range(frames):
        stages[known, f] = Task((known, f), _known_task, TaskRef(tables[f].key), TaskRef((merged, f)))
    layers = HighLevelGraph.from_collections(known, stages, dependencies=[mask, *tables])
    waits = [Delayed((known, f), layers, layer=known) for f in range(frames)]
    again = read_after(probability, [w.key for w in waits], waits)
    graph: dict[Any, Any] = {}
    for f, i, j in product(range(frames), range(rows), range(columns)):
        near = [(a, b) for a, b in product(range(i - 1, i + 2), range(j - 1, j + 2))
                if 0 <= a < rows and 0 <= b < columns]
        graph[name, f, i, j] = Task((name, f, i, j), _tile_task, job, (i, j), near, TaskRef((again.name, f, i, j)),
                                    TaskRef((known, f)), *(TaskRef((runs, f, *at)) for at in near))
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[again, *waits])
    return da.Array(layers, name, probability.chunks, meta=np.empty((0, 0, 0), np.float32))


def _known_task(table: pd.DataFrame, final: list[list[np.ndarray]]) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """All that a tile waits for: the factor of each label, and the labels of each block."""
    return _scales_of(table, 0), final


def _tile_task(job: ParticleJob, place: tuple[int, int], near: Sequence[tuple[int, int]], probability: np.ndarray,
               known: tuple[np.ndarray, list[list[np.ndarray]]], *runs: Runs) -> np.ndarray:
    scales, final = known
    shape = probability.shape[1:]
    halo = job.halo
    labels = np.zeros([n + 2 * h for n, h in zip(shape, halo, strict=True)], np.int32)
    for (a, b), block in zip(near, runs, strict=True):
        found = fill_runs(relabel_runs(block, final[a][b]))
        here, there = zip(*_meeting(place, (a, b), shape, found.shape, halo), strict=True)
        labels[there] = found[here]
    # few of a frame's particles are in a tile
    local, code = np.unique(labels, return_inverse=True)
    values = scales[local] if local[0] == 0 else np.append(scales[0], scales[local])
    code = code.reshape(labels.shape).astype(np.int32) + (0 if local[0] == 0 else 1)
    inside = tuple(slice(h, h + n) for h, n in zip(halo, shape, strict=True))
    return scaled(probability[0], particle_scales(code, values, job.pixel_size, job.reach)[inside])[None]


def _meeting(place: tuple[int, int], other: tuple[int, int], shape: tuple[int, int], found: tuple[int, int],
             halo: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """What a block beside a tile gives to it, as indices of the block and of the tile with its halo."""
    for p, q, n, m, h in zip(place, other, shape, found, halo, strict=True):
        start = h + (0 if q == p else n if q > p else -m)  # of the block, in the tile with its halo
        a, b = max(start, 0), min(start + m, n + 2 * h)
        yield slice(a - start, b - start), slice(a, b)
