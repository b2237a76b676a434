"""Connected particles of one frame, or of its blocks, merged across their borders.

Pixels that touch at an edge or a corner belong together. Labels run from 1 in the raster order of
each region's first pixel, so they do not depend on how a frame is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from ..core.errors import InputError
from .runs import Runs, find_runs

__all__ = ["Summary", "label_block", "label_frame", "merge", "relabel", "summarise", "survey_block"]

CONNECTIVITY = np.ones((3, 3), dtype=bool)
#: labels are int32
MOST = 2**31 - 1


def label_block(mask: np.ndarray) -> np.ndarray:
    """Provisional labels, int32, of the regions of a mask (y, x) by itself."""
    return ndimage.label(mask, structure=CONNECTIVITY, output=np.int32)[0]


def label_frame(mask: np.ndarray, min_pixels: float = 0) -> np.ndarray:
    """Label the regions of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (y, x)
        Pixels of particles.
    min_pixels : float
        Regions of fewer pixels become background.

    Returns
    -------
    ndarray, int32, shape (y, x)
        0 is background.

    Examples
    --------
    >>> label_frame(np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=bool))
    array([[0, 0, 1],
           [2, 0, 0],
           [0, 2, 0]], dtype=int32)
    """
    labels = label_block(mask)
    return relabel(labels, merge([[summarise(labels)]], min_pixels)[0][0])


@dataclass(frozen=True)
class Summary:
    """What merging has to know of one block: its regions and its four border lines.

    ``size`` and ``first`` hold, for each label from 1, the number of pixels and the place (row,
    column) in the block of its first pixel in raster order.
    """

    shape: tuple[int, int]
    size: np.ndarray
    first: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    left: np.ndarray
    right: np.ndarray


def summarise(labels: np.ndarray, runs: Runs | None = None) -> Summary:
    """Summarise the provisional labels (y, x) of a block, of which 1 to n all occur; ``runs`` are theirs, if known."""
    runs = find_runs(labels) if runs is None else runs
    size = np.bincount(runs.label, runs.length).astype(np.int64)[1:]
    first = np.zeros((size.size, 2), dtype=np.int64)
    first[runs.label[::-1] - 1] = np.stack(runs.place, axis=1)[::-1]  # the last write to a label is its first run
    return Summary(labels.shape, size, first,
                   *(line.copy() for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1])))


def survey_block(mask: np.ndarray) -> tuple[Runs, Summary]:
    """Label the regions of a mask (y, x) by itself: the provisional labels as runs, and their summary."""
    labels = label_block(mask)
    runs = find_runs(labels)
    return runs, summarise(labels, runs)


def merge(blocks: list[list[Summary]], min_pixels: float = 0) -> list[list[np.ndarray]]:
    """Join the regions of the blocks of one frame.

    Parameters
    ----------
    blocks : list of list of Summary
        By block row and block column.
    min_pixels : float
        Regions of fewer pixels, over all blocks, become background.

    Returns
    -------
    list of list of ndarray, int32
        For each block the final label of every provisional one, from 0.
    """
    flat = [b for row in blocks for b in row]
    starts = np.concatenate([[0], np.cumsum([b.size.size for b in flat])])
    start = np.reshape(starts[:-1], (len(blocks), len(blocks[0])))
    pairs = _touching(blocks, start)
    n = int(starts[-1])
    graph = sparse.coo_matrix((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    count, component = connected_components(graph, directed=False) if n else (0, np.zeros(0, dtype=np.int64))

    size = np.bincount(component, np.concatenate([b.size for b in flat]), minlength=count)
    rows = np.cumsum([0] + [row[0].shape[0] for row in blocks])
    columns = np.cumsum([0] + [b.shape[1] for b in blocks[0]])
    place = np.concatenate([
        (b.first[:, 0] + rows[i]) * columns[-1] + b.first[:, 1] + columns[j]
        for i, row in enumerate(blocks) for j, b in enumerate(row)
    ])
    first = np.full(count, rows[-1] * columns[-1])
    np.minimum.at(first, component, place)
    order = np.argsort(first)
    order = order[size[order] >= min_pixels]
    if order.size > MOST:
        raise InputError(f"the frame has {order.size} particles; expected at most {MOST}, as labels are int32. This is "
                         f"noise: give a higher threshold, or min_area")
    final = np.zeros(count, dtype=np.int32)
    final[order] = np.arange(1, order.size + 1)
    numbers = final[component]
    return [[np.concatenate([[0], numbers[s:s + b.size.size]]).astype(np.int32)
             for s, b in zip(line, row, strict=True)] for line, row in zip(start, blocks, strict=True)]


def _touching(blocks: list[list[Summary]], start: np.ndarray) -> np.ndarray:
    """Pairs (n, 2) of regions, numbered from 0 over the frame, that touch across a border."""
    found = [np.zeros((0, 2), dtype=np.int64)]

    def number(line: np.ndarray, offset: int) -> np.ndarray:
        return np.where(line > 0, line + offset - 1, -1)

    def touch(a: np.ndarray, b: np.ndarray) -> None:
        for p, q in ((a, b), (a[1:], b[:-1]), (a[:-1], b[1:])):
            both = (p >= 0) & (q >= 0)
            found.append(np.unique(np.stack([p[both], q[both]], axis=1), axis=0))

    for i, row in enumerate(blocks):
        for j in range(1, len(row)):
            touch(number(row[j - 1].right, start[i, j - 1]), number(row[j].left, start[i, j]))
        if i:  # whole lines of the frame, so that corners where four blocks meet are seen too
            above = np.concatenate([number(b.bottom, s) for b, s in zip(blocks[i - 1], start[i - 1], strict=True)])
            touch(above, np.concatenate([number(b.top, s) for b, s in zip(row, start[i], strict=True)]))
    return np.concatenate(found)


def relabel(labels: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Replace provisional labels by final ones, int32."""
    return final[labels]
