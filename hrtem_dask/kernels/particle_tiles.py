"""Measure the particles of one tile of a frame, and those that lie across tiles.

A particle's spot pairs are looked for in a cut-out, the box around it and a margin. A cut-out that
lies in one tile is measured there. Every tile that another one meets hands out its pixels of it, and
the tile that holds the cut-out's first pixel puts them together: the same pixels as in the frame,
so the same numbers. No cut-out is wider than a tile, so it meets at most four of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..core.schema import PARTICLES, PEAK_PAIRS
from .crop import masked_crop
from .net import FIRST_SHELL, peak_ratio, span_plane
from .peaks import find_pairs_many
from .tally import Found
from .zone import has_structure, zone_axis_score
from .zone_identify import identify

__all__ = ["Cut", "Piece", "Spots", "TilePart", "find_spots", "measure_crossing", "measure_tile", "particle_table"]

log = logging.getLogger(__name__)

#: pixels of the cut-outs that are prepared at once: 17 byte each
BATCH_PIXELS = 2**21


class Spots(NamedTuple):
    """What the spectrum of one particle says: columns of `core.schema.PARTICLES`."""

    particle: int
    n_pairs: int
    first_shell: int
    first_shell_detected: int
    g_angle: float
    d_spacing: float
    g_angle_2: float
    d_spacing_2: float
    peak_ratio: float
    zone_axis_score: float
    zone_axis: str


class Cut(NamedTuple):
    """A particle's cut-out; ``part`` tells that the particle goes on beyond."""

    particle: int
    image: np.ndarray
    mask: np.ndarray
    part: bool = False


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


def find_spots(cuts: Sequence[Cut], pixel_size: tuple[float, float], *, crystal: Any = None,
               mtf: Callable[[np.ndarray], np.ndarray] | None = None) -> list[Spots]:
    """Look for the spot pairs of particles in their cut-outs.

    Parameters
    ----------
    cuts : sequence of Cut
        Those of one tile or frame together: equal sizes share their transforms.
    pixel_size : (float, float)
        (y, x) [angstrom].
    crystal, mtf
        See `hrtem_dask.fourier_peak_pairs`.

    Returns
    -------
    list of Spots
        In any order; the angles are those in pixels of positive steps (see `particle_table`). Particles without
        a finite pixel have no pairs.
    """
    known = [bool(np.isfinite(cut.image[cut.mask]).any()) for cut in cuts]
    out = [_spots_of(cut, PEAK_PAIRS.empty(), pixel_size, crystal) for cut, k in zip(cuts, known, strict=True) if not k]
    for batch in _batches([cut for cut, k in zip(cuts, known, strict=True) if k]):
        for cut in batch:
            if cut.part:
                log.warning("particle %d is wider than a tile of the frame: its spots are looked for in the %d x %d "
                            "pixels that hold most of it", cut.particle, *cut.image.shape)
        crops = [masked_crop(cut.image, cut.mask, pixel_size) for cut in batch]
        tables = find_pairs_many(crops, crystal=crystal, mtf=mtf)
        out += [_spots_of(cut, pairs, pixel_size, crystal) for cut, pairs in zip(batch, tables, strict=True)]
    return out


def _batches(cuts: Sequence[Cut]) -> Iterator[list[Cut]]:
    """Cut-outs by size, as many at once as may be in memory with their soft edges."""
    batch: list[Cut] = []
    pixels = 0
    for cut in sorted(cuts, key=lambda c: c.mask.shape):
        if batch and pixels + cut.mask.size > BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
        batch.append(cut)
        pixels += cut.mask.size
    if batch:
        yield batch


def _spots_of(cut: Cut, pairs: pd.DataFrame, pixel_size: tuple[float, float],
              crystal: Any) -> Spots:
    g, detected = pairs[["g_y", "g_x"]].to_numpy(np.float64), pairs["detected"].to_numpy(bool)
    k, ratio = np.hypot(*g.T), float(peak_ratio(pairs))
    shell = k <= FIRST_SHELL * k.min(initial=np.inf)
    diameter = float(np.sqrt(4 / np.pi * np.count_nonzero(cut.mask) * pixel_size[0] * pixel_size[1]))
    return Spots(cut.particle, int(detected.sum()), int(shell.sum()), int((shell & detected).sum()),
                 *_directions(g[detected]), ratio, zone_axis_score(pairs, diameter=diameter, crystal=crystal),
                 identify(pairs, crystal).axis if has_structure(crystal) else "")


def _directions(g: np.ndarray) -> tuple[float, float, float, float]:
    """Angle [radian] and spacing [angstrom] of the first pair, and of the next that is not collinear with it."""
    chosen = list(g[:1]) + [v for v in g[1:] if span_plane(np.stack([g[0], v]))][:1]
    out = [float(v) for y, x in chosen for v in (np.arctan2(x, y), 1 / np.hypot(y, x))]
    return tuple(out + [float("nan")] * (4 - len(out)))  # type: ignore[return-value]


def measure_tile(
    image: np.ndarray, labels: np.ndarray, found: Found, place: tuple[int, int], tile: int,
    pixel_size: tuple[float, float], *, crystal: Any = None,
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
    out, whole = TilePart(), []
    for number, cut, large in found.rows(met):
        top, left = np.maximum(cut[:2], start).tolist()
        bottom, right = np.minimum(cut[2:], stop).tolist()
        here = slice(top - start[0], bottom - start[0]), slice(left - start[1], right - start[1])
        mask = labels[here] == number
        if [top, left, bottom, right] == cut:
            whole.append(Cut(number, image[here], mask, large))
        else:
            owner = cut[0] // tile, cut[1] // tile
            out.pieces.setdefault(owner, []).append(Piece(number, tuple(cut), (top, left), image[here].copy(), mask))
    out.spots.extend(find_spots(whole, pixel_size, crystal=crystal, mtf=mtf))
    return out


def measure_crossing(
    parts: Iterable[TilePart], place: tuple[int, int], pixel_size: tuple[float, float], *,
    crystal: Any = None, mtf: Callable[[np.ndarray], np.ndarray] | None = None,
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
    cuts = []
    for number, mine in pieces.items():
        top, left, bottom, right = mine[0].cut
        image = np.empty((bottom - top, right - left), mine[0].image.dtype)
        mask = np.zeros(image.shape, dtype=bool)
        for piece in mine:
            i, j = piece.at[0] - top, piece.at[1] - left
            there = slice(i, i + piece.mask.shape[0]), slice(j, j + piece.mask.shape[1])
            image[there], mask[there] = piece.image, piece.mask
        cuts.append(Cut(number, image, mask))
    return find_spots(cuts, pixel_size, crystal=crystal, mtf=mtf)


def particle_table(found: Found, spots: Iterable[Spots], frame: int, time: float) -> pd.DataFrame:
    """Table `core.schema.PARTICLES` of one frame, from its shapes and the spots of all its particles."""
    if not len(found.table):
        return PARTICLES.empty()
    measured = pd.DataFrame(list(spots), columns=list(Spots._fields))
    if found.mirrored:  # one axis runs backwards, and directions are those of the coordinates
        for name in ("g_angle", "g_angle_2"):
            angle = -measured[name].to_numpy(np.float64)
            measured[name] = np.where(angle <= -np.pi / 2, angle + np.pi, angle)
    table = found.table.merge(measured, on="particle", how="left", validate="one_to_one")
    return PARTICLES.coerce(table.assign(frame=frame, time=time))
