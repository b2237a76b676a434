"""What a tile knows of its particles, and how tiles add up to a frame.

A frame is cut into squares of `TILE` pixels from its pixel (0, 0), however it is stored. Sizes,
moments and boxes are counted in each square in whole numbers and added up in whole numbers, so
they are the same to the last bit wherever they were counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from .crop import crop_bounds, default_taper
from .outline import Edges, chords_of, edges_of, joined_chords, perimeter_of
from .runs import Runs

__all__ = ["TILE", "Found", "Tally", "add_up", "renumber", "tally", "tiles_of"]

#: side of a square of the frame [pixel], and the widest cut-out in which spot pairs are looked for: the
#: search in one of this size takes 0.8 GB, and four times as much in one of twice the side
TILE = 2048


def tiles_of(n: int, tile: int) -> Iterator[slice]:
    """Cut an axis of n pixels into tiles."""
    return (slice(i, min(i + tile, n)) for i in range(0, n, tile))


@dataclass(frozen=True)
class Tally:
    """The particles of one tile.

    Attributes
    ----------
    number : ndarray of int, shape (n,)
        Their labels, ascending where they come from `tally`.
    sums : ndarray of int64, shape (n, 6)
        Sums of 1, i, j, i i, j j and i j over the pixels (i, j), counted from the tile's first pixel.
    probability : ndarray, shape (n,)
        Sum of the probability.
    box : ndarray of int64, shape (n, 4)
        Top, left, and one beyond bottom and right, in pixels of the frame.
    chords : ndarray of int64, shape (n, 4)
        Of their outlines, from `chords_of`.
    edges : Edges
        Labels along the sides of the tile.
    origin : (int, int)
        The tile's first pixel in the frame.
    """

    number: np.ndarray
    sums: np.ndarray
    probability: np.ndarray
    box: np.ndarray
    chords: np.ndarray
    edges: Edges
    origin: tuple[int, int]


def tally(runs: Runs, probability: np.ndarray, origin: tuple[int, int]) -> Tally:
    """Count the particles of a tile.

    Parameters
    ----------
    runs : Runs
        From `find_runs` of the tile's labels.
    probability : ndarray, shape (y, x)
        Of the tile.
    origin : (int, int)
        The tile's first pixel in the frame.

    Returns
    -------
    Tally
    """
    number, code = np.unique(runs.label, return_inverse=True)
    n = runs.length.astype(np.int64)
    i, j = runs.place
    end = j + n
    along = n * (j + end - 1) // 2
    square = ((end - 1) * end * (2 * end - 1) - (j - 1) * j * (2 * j - 1)) // 6
    sums = np.zeros((number.size, 6), dtype=np.int64)
    for column, values in enumerate((n, n * i, along, n * i * i, square, i * along)):
        np.add.at(sums[:, column], code, values)
    box = np.full((number.size, 4), np.iinfo(np.int64).max)
    box[:, 2:] = -1
    for column, (best, values) in enumerate(((np.minimum, i), (np.minimum, j), (np.maximum, i + 1),
                                             (np.maximum, end))):
        best.at(box[:, column], code, values)
    return Tally(number.astype(np.int64), sums, np.bincount(code, _sums_of(runs, probability), minlength=number.size),
                 box + np.array(origin * 2), chords_of(runs, code, number.size), edges_of(runs), origin)


def _sums_of(runs: Runs, probability: np.ndarray) -> np.ndarray:
    """Sum of the probability over each run."""
    if not runs.start.size:
        return np.zeros(0)
    flat = np.ascontiguousarray(probability).ravel()
    ends = np.stack([runs.start.astype(np.int64), runs.start.astype(np.int64) + runs.length], axis=1).ravel()
    # every second of these pieces is a run; the last run may end where the block ends
    ends = ends[:-1] if ends[-1] == flat.size else ends
    return np.add.reduceat(flat, ends, dtype=np.float64)[::2]


def renumber(counted: Tally, final: np.ndarray) -> Tally:
    """Replace label n by ``final[n]``; what becomes 0 is left out. Labels may then occur more than once."""
    number = final[counted.number]
    keep = number > 0
    return replace(counted, number=number[keep].astype(np.int64), sums=counted.sums[keep],
                   probability=counted.probability[keep], box=counted.box[keep], chords=counted.chords[keep],
                   edges=counted.edges.renumber(final))


@dataclass(frozen=True)
class Found:
    """The particles of a frame, added up; every array is in the order of ``table``, that of the labels.

    Attributes
    ----------
    table : pandas.DataFrame
        Columns ``particle, y, x, area, diameter, major_axis, minor_axis, orientation, circularity,
        probability, touches_border``.
    cut : ndarray of int64, shape (n, 4)
        Top, left, and one beyond bottom and right, of the pixels in which spot pairs are looked for.
    large : ndarray of bool, shape (n,)
        Whether that is one tile only, as the particle with its surroundings is wider than `TILE`.
    mirrored : bool
        Whether one axis of the frame runs backwards, which turns angles of pixels round.
    """

    table: pd.DataFrame
    cut: np.ndarray
    large: np.ndarray
    mirrored: bool = False

    def rows(self, inside: np.ndarray | slice = slice(None)) -> Iterator[tuple[int, list[int], bool]]:
        """Label, cut and largeness of the particles that a mask over the rows chooses."""
        return zip(self.table["particle"].to_numpy()[inside].tolist(), self.cut[inside].tolist(),
                   self.large[inside].tolist(), strict=True)


def add_up(tallies: Sequence[Tally], shape: tuple[int, int], *, y0: float, x0: float, dy: float, dx: float,
           tile: int = TILE) -> Found:
    """Add up the tiles of one frame.

    Parameters
    ----------
    tallies : sequence of Tally
        One a tile, row by row.
    shape : (int, int)
        Of the frame.
    y0, x0, dy, dx : float
        Sample (i, j) lies at (y0 + i * dy, x0 + j * dx) [angstrom].
    tile : int
        Side of a tile [pixel].

    Returns
    -------
    Found
    """
    number, code = np.unique(np.concatenate([t.number for t in tallies]), return_inverse=True)
    sums = np.zeros((number.size, 6), dtype=object)  # whole numbers without a limit: moments are small differences
    np.add.at(sums, code, np.concatenate([_in_frame(t) for t in tallies]))
    box = np.concatenate([t.box for t in tallies])
    ends = np.full((number.size, 4), np.iinfo(np.int64).max)
    ends[:, 2:] = -1
    np.minimum.at(ends[:, :2], code, box[:, :2])
    np.maximum.at(ends[:, 2:], code, box[:, 2:])
    chords = np.zeros((number.size, 4), dtype=np.int64)
    np.add.at(chords, code, np.concatenate([t.chords for t in tallies]))
    chords -= joined_chords(_by_place(tallies), number)
    shapes = _shapes(sums, y0, x0, dy, dx)
    table = pd.DataFrame(shapes | {
        "circularity": 4 * np.pi * shapes["area"] / perimeter_of(chords, dy, dx) ** 2,
        "probability": np.bincount(code, np.concatenate([t.probability for t in tallies]), minlength=number.size)
        / sums[:, 0].astype(np.float64),
        "touches_border": (ends[:, :2] == 0).any(axis=1) | (ends[:, 2:] == np.array(shape)).any(axis=1),
    })
    table.insert(0, "particle", number)
    pixel_size = abs(dy), abs(dx)
    margin = 2 * default_taper(pixel_size)  # the cut's own border stays clear of the particle's soft edge
    boxes = [crop_bounds((slice(a, c), slice(b, d)), shape, pixel_size, margin) for a, b, c, d in ends.tolist()]
    cut = np.array([(a.start, b.start, a.stop, b.stop) for a, b in boxes], dtype=np.int64).reshape(-1, 4)
    large = ((cut[:, 2:] - cut[:, :2]) > tile).any(axis=1)
    if large.any():
        cut[large] = _fullest(tallies, code, shape, tile)[large]
    return Found(table, cut, large, mirrored=dy * dx < 0)


def _by_place(tallies: Sequence[Tally]) -> list[list[Edges]]:
    """Sides of the tiles by row and column of tiles."""
    rows: dict[int, list[Tally]] = {}
    for t in sorted(tallies, key=lambda t: t.origin):
        rows.setdefault(t.origin[0], []).append(t)
    return [[t.edges for t in row] for row in rows.values()]


def _in_frame(counted: Tally) -> np.ndarray:
    """Sums over the pixels counted from the frame's first one, as whole numbers without a limit."""
    a, b = counted.origin
    n, i, j, ii, jj, ij = counted.sums.astype(object).T
    return np.stack([n, i + a * n, j + b * n, ii + 2 * a * i + a * a * n, jj + 2 * b * j + b * b * n,
                     ij + a * j + b * i + a * b * n], axis=1)


def _fullest(tallies: Sequence[Tally], code: np.ndarray, shape: tuple[int, int], tile: int) -> np.ndarray:
    """The tile that holds most pixels of each particle, the first of equals."""
    origin = np.repeat(np.array([t.origin for t in tallies], dtype=np.int64).reshape(-1, 2),
                       [t.number.size for t in tallies], axis=0)
    rows = pd.DataFrame({"code": code, "i": origin[:, 0], "j": origin[:, 1],
                         "n": np.concatenate([t.sums[:, 0] for t in tallies])})
    rows = rows.groupby(["code", "i", "j"], as_index=False)["n"].sum()
    first = rows.loc[rows.groupby("code")["n"].idxmax(), ["i", "j"]].to_numpy().reshape(-1, 2)
    return np.concatenate([first, np.minimum(first + tile, np.array(shape))], axis=1)


def _shapes(sums: np.ndarray, y0: float, x0: float, dy: float, dx: float) -> dict[str, np.ndarray]:
    """Centroid, area and the ellipse of the same second moments [angstrom, angstrom^2, radian]."""
    n, i, j, ii, jj, ij = sums.T
    count = n.astype(np.float64)
    cell = abs(dy * dx)

    def spread_of(sum_of_products: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return ((n * sum_of_products - p * q) / (n * n)).astype(np.float64)  # whole numbers up to the division

    # a pixel is a small rectangle, not a point: its own second moment keeps a thin mask from having no width
    yy, xx = (dy**2 * (spread_of(ii, i, i) + 1 / 12), dx**2 * (spread_of(jj, j, j) + 1 / 12))
    yx = dy * dx * spread_of(ij, i, j)
    half, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    return {
        "y": y0 + dy * (i / n).astype(np.float64), "x": x0 + dx * (j / n).astype(np.float64), "area": count * cell,
        "diameter": np.sqrt(4 * count * cell / np.pi),
        "major_axis": 4 * np.sqrt(half + spread), "minor_axis": 4 * np.sqrt(np.maximum(half - spread, 0.0)),
        "orientation": 0.5 * np.arctan2(2 * yx, yy - xx),
    }
