"""The perimeter of regions, counted in whole numbers that add up over the squares of a frame.

A line of pixels in one of four directions (along x, along y, and both diagonals) cuts a region in
chords. Cauchy's and Crofton's formula makes the perimeter of their number: the integral over all
directions of chords times the distance of the lines. A chord begins at every pixel whose
predecessor is not of the same region; where the predecessor lies in another square, the chord is
counted in both and taken back once the squares are known: whole numbers throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .runs import Runs

__all__ = ["STEPS", "Edges", "chords_of", "edges_of", "joined_chords", "perimeter_of"]

#: (rows, columns) from a pixel to its predecessor in each of the four directions
STEPS = ((0, -1), (-1, 0), (-1, -1), (-1, 1))


@dataclass(frozen=True)
class Edges:
    """Labels along the four sides of a square, 0 for background."""

    top: np.ndarray
    bottom: np.ndarray
    left: np.ndarray
    right: np.ndarray

    def renumber(self, final: np.ndarray) -> Edges:
        """Replace label n by ``final[n]``."""
        return Edges(*(final[line] for line in (self.top, self.bottom, self.left, self.right)))


def chords_of(runs: Runs, code: np.ndarray, count: int) -> np.ndarray:
    """Count the chords of every region of a square, as if there were nothing around it.

    Parameters
    ----------
    runs : Runs
        From `find_runs`.
    code : ndarray of int, shape (run,)
        Region of each run, from 0.
    count : int
        Number of regions.

    Returns
    -------
    ndarray of int64, shape (count, 4)
        In the directions of `STEPS`.

    Examples
    --------
    >>> from hrtem_dask.kernels.runs import find_runs
    >>> runs = find_runs(np.array([[1, 1, 0], [0, 1, 1]]))
    >>> chords_of(runs, runs.label - 1, 1).tolist()
    [[2, 3, 2, 4]]
    """
    n = np.bincount(code, runs.length, minlength=count).astype(np.int64)
    out = np.stack([np.bincount(code, minlength=count), n, n, n], axis=1).astype(np.int64)
    if not runs.start.size:
        return out
    i, j = runs.place
    first, end = j, j + runs.length
    order = np.argsort(code, kind="stable")  # runs come in raster order: each region's stay in it
    width, size = runs.shape[1], runs.shape[0] * runs.shape[1]
    key = (code.astype(np.int64) * size + runs.start)[order]
    length = runs.length[order].astype(np.int64)
    before = np.cumsum(length) - length

    def covered(place: np.ndarray) -> np.ndarray:
        """Pixels of runs before this place in the list of all pixels of region 0, of region 1, and so on."""
        at = np.searchsorted(key, place, side="right") - 1
        inside = np.clip(place - key[np.maximum(at, 0)], 0, length[np.maximum(at, 0)])
        return np.where(at < 0, 0, before[np.maximum(at, 0)] + inside)

    row = code.astype(np.int64) * size + (i - 1) * width
    for direction, (_, shift) in enumerate(STEPS[1:], start=1):
        a, b = np.maximum(first + shift, 0), np.minimum(end + shift, width)
        shared = np.where(i > 0, covered(row + np.maximum(a, b)) - covered(row + a), 0)
        out[:, direction] -= np.bincount(code, shared, minlength=count).astype(np.int64)
    return out


def edges_of(runs: Runs) -> Edges:
    """Labels along the sides of a square, from its runs."""
    rows, columns = runs.shape
    i, j = runs.place
    end = j + runs.length
    lines = []
    for row in (0, rows - 1):
        line = np.zeros(columns, dtype=runs.label.dtype)
        for k in np.flatnonzero(i == row):
            line[j[k]:end[k]] = runs.label[k]
        lines.append(line)
    for touching in (j == 0, end == columns):
        line = np.zeros(rows, dtype=runs.label.dtype)
        line[i[touching]] = runs.label[touching]
        lines.append(line)
    return Edges(*lines)


def joined_chords(squares: Sequence[Sequence[Edges]], number: np.ndarray) -> np.ndarray:
    """Count the chords that go on from one square to the next, so were counted in both.

    Parameters
    ----------
    squares : sequence of sequence of Edges
        By row and column of squares.
    number : ndarray of int, shape (n,)
        Labels, ascending.

    Returns
    -------
    ndarray of int64, shape (n, 4)
        To take away from the sum of `chords_of`.
    """
    out = np.zeros((number.size, 4), dtype=np.int64)

    def join(direction: int, here: np.ndarray, previous: np.ndarray) -> None:
        same = here[(here == previous) & (here > 0)]
        np.add.at(out[:, direction], np.searchsorted(number, same), 1)

    for row in squares:
        for a, b in pairwise(row):
            join(0, b.left, a.right)
            join(2, b.left[1:], a.right[:-1])
            join(3, a.right[1:], b.left[:-1])
    for above, below in pairwise(squares):
        # whole lines of the frame, so that corners where four squares meet are seen too
        p, q = np.concatenate([e.bottom for e in above]), np.concatenate([e.top for e in below])
        join(1, q, p)
        join(2, q[1:], p[:-1])
        join(3, q[:-1], p[1:])
    return out


def perimeter_of(chords: np.ndarray, dy: float, dx: float) -> np.ndarray:
    """Perimeter by Crofton's formula.

    Parameters
    ----------
    chords : ndarray, shape (n, 4)
        In the directions of `STEPS`.
    dy, dx : float
        Pixel size [angstrom].

    Returns
    -------
    ndarray, shape (n,)
        [angstrom]. Right for outlines that have all directions; a straight side reads from 5 % too
        short, along the pixels or their diagonal, to 3 % too long, between them. Each direction
        stands for the angles nearer to it than to the others; for square pixels that is what
        ``skimage.measure.perimeter_crofton`` computes of one region.

    Examples
    --------
    >>> round(float(perimeter_of(np.array([[40, 40, 40 * 2**0.5, 40 * 2**0.5]]), 0.5, 0.5)[0] / (np.pi * 20)), 3)
    1.0
    """
    dy, dx = abs(dy), abs(dx)
    diagonal, tilt = np.hypot(dy, dx), np.arctan2(dy, dx)
    weight = np.array([tilt * dy, (np.pi / 2 - tilt) * dx, *[np.pi / 4 * dy * dx / diagonal] * 2])
    return chords.astype(np.float64) @ weight
