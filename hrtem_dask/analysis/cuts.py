"""Rectangles of frames, cut straight out of the chunks that they meet.

A task takes the chunks as they are and cuts its rectangle out of them itself: slicing and joining as
tasks of their own would make four times as many of them. Where chunks are shared by rectangles on
all sides, the task takes copies of what it needs instead (`pieces`), or every worker would keep them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask._task_spec import Task, TaskRef

__all__ = ["Cut", "Frames", "Range", "frame_groups", "pieces", "referred"]

#: size of one chunk of a result [byte]; longer chunks along `frame` are split
CHUNK = 256 * 2**20
Range = tuple[int, int]


class Frames(NamedTuple):
    """Frames that go through a task together: a chunk of the movie along ``frame``, or a part of it."""

    chunk: int
    part: slice
    count: int


def referred(source: da.Array, groups: list[Frames]) -> Iterator[tuple[int, Frames, Callable[[Cut], list[TaskRef]]]]:
    """Go through the groups of frames, each with what refers to its chunks.

    All tasks of a group share one reference a chunk: in large graphs the objects are what takes the time.
    """
    within = list(product(*(range(n) for n in source.numblocks[1:])))
    name = source.name
    for i, frames in enumerate(groups):
        refs = {chunk: TaskRef((name, frames.chunk, *chunk)) for chunk in within}
        yield i, frames, lambda cut, refs=refs: [refs[chunk] for chunk in cut.chunks]


def frame_groups(chunks: tuple[int, ...], size: int) -> list[Frames]:
    """Group frames as chunks along ``frame`` do, in parts where results of this size [byte a frame] would be large."""
    most = max(1, CHUNK // size)
    groups = []
    for i, n in enumerate(chunks):
        parts = math.ceil(n / most)
        ends = [n * k // parts for k in range(parts + 1)]
        groups += [Frames(i, slice(a, b), b - a) for a, b in pairwise(ends)]
    return groups


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


def pieces(graph: dict[Hashable, Any], key: tuple[Any, ...], cut: Cut, part: slice,
           blocks: list[TaskRef]) -> tuple[list[TaskRef], Cut]:
    """Add tasks that copy what a rectangle needs out of each chunk; return them and the cut that joins the copies.

    A worker goes through a frame row by row and keeps what the tiles of the next row need of this one:
    chunks as they are, which tiles on all sides share, would be kept on every worker, three rows of
    them, as long as the frame is wide. Of copies it keeps the rims, and of each chunk one.

    Parameters
    ----------
    graph : dict
        What the tasks are added to.
    key : tuple
        Key of the task that will take the copies; theirs follow from it.
    cut : Cut
        The rectangle.
    part : slice
        Frames of the chunks; the copies hold no others.
    blocks : list of TaskRef
        The chunks, in the order of ``cut``.
    """
    name = f"{key[0]}-piece"
    keys = [(name, *key[1:], k) for k in range(len(blocks))]
    for piece, block, (_, here) in zip(keys, blocks, cut.places, strict=True):
        graph[piece] = Task(piece, _piece_task, block, (part, *here))
    whole = tuple((there, (slice(None),) * len(here)) for there, here in cut.places)
    return [TaskRef(k) for k in keys], replace(cut, places=whole)


def _piece_task(block: np.ndarray, here: tuple[slice, ...]) -> np.ndarray:
    piece = block[here]
    return piece if piece.size == block.size else piece.copy()
