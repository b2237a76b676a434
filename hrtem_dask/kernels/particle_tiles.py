"""Measure the particles of one tile of a frame, and those that lie across tiles.

A particle's spot pairs are looked for in a cut-out, the box around it and a margin. A cut-out that
lies in one tile is measured there. Every tile that another one meets hands out its pixels of it, and
the tile that holds the cut-out's first pixel puts them together: the same pixels as in the frame,
so the same numbers. No cut-out is wider than a tile, so it meets at most four of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..core.schema import PARTICLES
from .net import peak_ratio
from .peaks import peak_pairs
from .tally import Found

__all__ = ["Piece", "Spots", "TilePart", "find_spots", "measure_crossing", "measure_tile", "particle_table"]

log = logging.getLogger(__name__)


class Spots(NamedTuple):
    """What the spectrum of one particle says."""

    particle: int
    n_pairs: int
    peak_ratio: float


@dataclass(frozen=True)
class Piece:
    """The pixels of a cut-out that lie in one tile; ``cut`` is the cut-out and ``at`` the piece's first pixel."""

    particle: int
    cut: tuple[int, int, int, int]
    at: tuple[int, int]
    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class TilePart:
    """What a tile measured, and its pieces by the tile (row, column of tiles) that puts them together."""

    spots: list[Spots] = field(default_factory=list)
    pieces: dict[tuple[int, int], list[Piece]] = field(default_factory=dict)


def find_spots(
    particle: int, image: np.ndarray, mask: np.ndarray, pixel_size: tuple[float, float], *,
    crystal: str | Sequence[float] | None = None, mtf: Callable[[np.ndarray], np.ndarray] | None = None,
    part: bool = False,
) -> Spots:
    """Look for the spot pairs of one particle in its cut-out; ``part`` tells that it goes on beyond."""
    if part:
        log.warning("particle %d is wider than a tile of the frame: its spots are looked for in the %d x %d pixels "
                    "that hold most of it", particle, *image.shape)
    pairs = peak_pairs(image, mask, pixel_size, crystal=crystal, mtf=mtf)
    return Spots(particle, int(pairs["detected"].sum()), float(peak_ratio(pairs)))


def measure_tile(
    image: np.ndarray, labels: np.ndarray, found: Found, place: tuple[int, int], tile: int,
    pixel_size: tuple[float, float], *, crystal: str | Sequence[float] | None = None,
    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
) -> TilePart:
    """Measure the particles whose cut-out lies in one tile, and hand out pieces of the others.

    Parameters
    ----------
    image, labels : ndarray, shape (y, x)
        The tile.
    found : Found
        All particles of the frame.
    place : (int, int)
        Row and column of tiles.
    tile : int
        Side of a tile [pixel].
    pixel_size : (float, float)
        (y, x) [angstrom].
    crystal, mtf
        See `hrtem_dask.fourier_peak_pairs`.

    Returns
    -------
    TilePart
    """
    start = np.array(place) * tile
    stop = start + labels.shape
    met = ((found.cut[:, :2] < stop) & (found.cut[:, 2:] > start)).all(axis=1)
    out = TilePart()
    for number, cut, large in found.rows(met):
        top, left = np.maximum(cut[:2], start).tolist()
        bottom, right = np.minimum(cut[2:], stop).tolist()
        here = slice(top - start[0], bottom - start[0]), slice(left - start[1], right - start[1])
        mask = labels[here] == number
        if [top, left, bottom, right] == cut:
            out.spots.append(find_spots(number, image[here], mask, pixel_size, crystal=crystal, mtf=mtf, part=large))
        else:
            owner = cut[0] // tile, cut[1] // tile
            out.pieces.setdefault(owner, []).append(Piece(number, tuple(cut), (top, left), image[here].copy(), mask))
    return out


def measure_crossing(
    parts: Iterable[TilePart], place: tuple[int, int], pixel_size: tuple[float, float], *,
    crystal: str | Sequence[float] | None = None, mtf: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[Spots]:
    """Measure the particles across tiles that one tile has to put together.

    Parameters
    ----------
    parts : iterable of TilePart
        Of this tile and of those below, to the right, and below to the right of it.
    place : (int, int)
        Row and column of this tile.
    pixel_size : (float, float)
        (y, x) [angstrom].
    crystal, mtf
        See `hrtem_dask.fourier_peak_pairs`.
    """
    pieces: dict[int, list[Piece]] = {}
    for part in parts:
        for piece in part.pieces.get(place, ()):
            pieces.setdefault(piece.particle, []).append(piece)
    out = []
    for number, mine in pieces.items():
        top, left, bottom, right = mine[0].cut
        image = np.empty((bottom - top, right - left), mine[0].image.dtype)
        mask = np.zeros(image.shape, dtype=bool)
        for piece in mine:
            i, j = piece.at[0] - top, piece.at[1] - left
            there = slice(i, i + piece.mask.shape[0]), slice(j, j + piece.mask.shape[1])
            image[there], mask[there] = piece.image, piece.mask
        out.append(find_spots(number, image, mask, pixel_size, crystal=crystal, mtf=mtf))
    return out


def particle_table(found: Found, spots: Iterable[Spots], frame: int, time: float) -> pd.DataFrame:
    """Table `core.schema.PARTICLES` of one frame, from its shapes and the spots of all its particles."""
    if not len(found.table):
        return PARTICLES.empty()
    measured = pd.DataFrame(list(spots), columns=list(Spots._fields))
    table = found.table.merge(measured, on="particle", how="left", validate="one_to_one")
    table["zone_axis_score"] = np.where(table["peak_ratio"] >= 1, 1 / table["peak_ratio"], 0.0)
    return PARTICLES.coerce(table.assign(frame=frame, time=time))
