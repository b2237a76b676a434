"""Segmentation of one tile: where it reads, what it computes, what it keeps.

Three grids meet here: the camera's, the network's, and the tiles. All are anchored at pixel (0, 0)
of the frame, so a tile is a function of the frame and the layout alone. So are the regions that the
mean and standard deviation of a frame are summed over, which no tile has a say in.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from . import normalise
from .blend import Windows, blend
from .resample import input_range, resample_block, resampled_size, support

__all__ = ["Axis", "Evaluate", "Layout", "Piece", "Tile", "blended_tile_size", "frame_moments", "region_moments",
           "segment_tile", "softmax", "tile_core", "tile_image", "tile_size"]

log = logging.getLogger(__name__)

#: memory of the planes of one tile [byte]
MEMORY = 768 * 2**20
#: side of the regions that statistics are summed over [network pixel]; less where those pixels are large
REGION = 2048
#: side that a tile may have in camera pixels: what is read, and the result of each class
CAMERA = 4096
#: rows that are normalised at once, so that their float64 copies stay small
STRIP = 256
Edges = tuple[bool, bool, bool, bool]
Evaluate = Callable[[np.ndarray, Edges], np.ndarray]


def tile_size(planes: int, halo: int, ratio: float = 1.0) -> int:
    """Side of a tile [network pixel] whose planes with their halo take a bounded amount of memory.

    Counts 4 byte a plane and ten planes of working space; the side is a multiple of 128 between
    256 and 2048, however deep the network. Where a network pixel is ``ratio`` > 2 camera pixels, the
    tile has at most 4096 of those, or 256 of its own.

    Examples
    --------
    >>> tile_size(33, 64), tile_size(101, 550), tile_size(33, 64, ratio=5)
    (1920, 256, 768)
    """
    side = math.isqrt(MEMORY // (4 * (planes + 10))) - 2 * halo
    return int(min(2048, max(256, min(side, CAMERA / ratio) // 128 * 128)))


def blended_tile_size(window: int, ratio: float = 1.0) -> int:
    """Side of a tile [network pixel] whose windows are blended; a multiple of their step.

    A tile of k steps meets k + 1 windows an axis (k + 2 where it is resampled). With 16 steps that
    is 13 % (27 %) more than one pass over the whole frame would evaluate. Only one window's planes
    are held at a time, so the size does not depend on the network; for ``ratio`` see `tile_size`.

    Examples
    --------
    >>> blended_tile_size(256), blended_tile_size(512), blended_tile_size(2048), blended_tile_size(256, ratio=5)
    (2048, 4096, 4096, 768)
    """
    step = max(1, window // 2)
    return int(max(step, min(4096, max(2048, 16 * step), CAMERA / ratio) // step * step))


class Piece(NamedTuple):
    """Range of network pixels along one axis, and the camera pixels that they are made of."""

    own: tuple[int, int]
    read: tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """One axis of the layout: camera pixels, network pixels and tiles.

    Parameters
    ----------
    n : int
        Camera pixels.
    ratio : float
        Network pixel size / camera pixel size.
    tile : int
        Side of a tile [network pixel].
    halo : int
        Network pixels that the network sees beyond those a tile keeps.
    taper : str, optional
        Blend overlapping windows with this weight instead of trimming a halo.
    window : int
        Side of those windows [network pixel].
    grid : int
        Coarsest pixel of the network [network pixel]: what is evaluated begins and ends at multiples of it,
        so that every tile halves the frame in the same places.
    """

    n: int
    ratio: float
    tile: int
    halo: int
    taper: str | None = None
    window: int = 0
    grid: int = 1

    @property
    def size(self) -> int:
        """Network pixels."""
        return resampled_size(self.n, self.ratio)

    @property
    def windows(self) -> Windows | None:
        """The windows that are blended, if any."""
        return Windows(self.size, self.window, self.taper) if self.taper else None

    @property
    def cuts(self) -> tuple[int, ...]:
        """Camera pixels at which tiles begin, and the end of the axis."""
        if self.taper:
            # a cut lies just so far behind the first pixel of a window that interpolation needs none before it
            behind = 0 if self.ratio == 1 else support(1 / self.ratio)
            count = max(1, math.ceil(self.size / self.tile - 0.25))
            inner = {math.ceil((i * self.tile + behind) * self.ratio) for i in range(1, count)}
            return (0, *sorted(i for i in inner if 0 < i < self.n), self.n)
        step = max(1, round(self.tile * self.ratio))
        # a frame that is hardly larger than a tile is one tile
        count = max(1, math.ceil(self.n / step - 0.25))
        return (*(i * step for i in range(count)), self.n)

    @property
    def spans(self) -> list[Span]:
        """Every tile along this axis."""
        return [self._span(a, b) for a, b in pairwise(self.cuts)]

    @property
    def regions(self) -> list[Piece]:
        """Ranges of network pixels that statistics are summed over: a function of the frame alone."""
        side = max(256, int(REGION / max(1.0, self.ratio)))
        count = max(1, math.ceil(self.size / side - 0.25))
        ends = [self.size * i // count for i in range(count + 1)]
        return [Piece(own, input_range(*own, self.ratio, self.n)) for own in pairwise(ends)]

    def _span(self, start: int, stop: int) -> Span:
        back = 1 / self.ratio if self.ratio != 1 else 1.0
        need = input_range(start, stop, back, self.size)
        if self.windows:
            window = self.windows.reach(*need)
        else:
            window = (max(0, need[0] - self.halo) // self.grid * self.grid,
                      min(self.size, -(-(need[1] + self.halo) // self.grid) * self.grid))
        return Span((start, stop), need, window, input_range(*window, self.ratio, self.n))


@dataclass(frozen=True)
class Span:
    """Ranges of one tile along one axis."""

    core: tuple[int, int]         # camera pixels of the result
    need: tuple[int, int]         # network pixels that the core is interpolated from
    window: tuple[int, int]       # network pixels that are evaluated: need and halo, or all windows that meet need
    read: tuple[int, int]         # camera pixels that the window is made of


@dataclass(frozen=True)
class Layout:
    """Both axes: everything that a tile has to know about its frame."""

    y: Axis
    x: Axis

    @property
    def shape(self) -> tuple[int, int]:
        """Camera pixels."""
        return self.y.n, self.x.n

    @property
    def ratio(self) -> tuple[float, float]:
        """Network pixel size / camera pixel size."""
        return self.y.ratio, self.x.ratio

    @property
    def tiles(self) -> list[list[Tile]]:
        """Tiles by row and column."""
        columns = self.x.spans
        return [[Tile(self, y, x) for x in columns] for y in self.y.spans]

    @property
    def regions(self) -> list[tuple[Piece, Piece]]:
        """Regions (y, x) of the statistics, row by row."""
        columns = self.x.regions
        return [(y, x) for y in self.y.regions for x in columns]


@dataclass(frozen=True)
class Tile:
    """One tile of a layout."""

    layout: Layout
    y: Span
    x: Span

    @property
    def edges(self) -> tuple[bool, bool, bool, bool]:
        """Which sides of the window (top, bottom, left, right) are edges of the frame."""
        y, x = self.y.window, self.x.window
        return y[0] == 0, y[1] == self.layout.y.size, x[0] == 0, x[1] == self.layout.x.size


def _to_network(plane: np.ndarray, layout: Layout, rows: tuple[int, int], columns: tuple[int, int],
                origin: tuple[int, int]) -> np.ndarray:
    """Network pixels of a part of a frame that begins at ``origin``; those that are unknown are not finite."""
    if layout.ratio == (1, 1):
        return plane[rows[0] - origin[0]:rows[1] - origin[0], columns[0] - origin[1]:columns[1] - origin[1]]
    return resample_block(plane, layout.shape, layout.ratio, rows, columns, origin)


def region_moments(block: np.ndarray, layout: Layout, region: tuple[Piece, Piece]) -> np.ndarray:
    """Moments (channel, 3) of the network pixels of one region.

    ``block`` (channel, y, x) holds the camera pixels ``region[0].read`` and ``region[1].read``.
    """
    y, x = region
    origin = y.read[0], x.read[0]
    return np.stack([_moments(_to_network(plane, layout, y.own, x.own, origin)) for plane in block])


def _moments(fine: np.ndarray) -> np.ndarray:
    """Moments of an array; numpy sums a part of a larger array in another order than a copy of it."""
    return normalise.moments(np.ascontiguousarray(fine))


def frame_moments(block: np.ndarray, layout: Layout) -> np.ndarray:
    """Moments (channel, 3) of a whole frame (channel, y, x): those of its regions, in their order."""
    return normalise.combine(np.stack([
        region_moments(block[:, slice(*y.read), slice(*x.read)], layout, (y, x)) for y, x in layout.regions
    ]))


def segment_tile(block: np.ndarray, tile: Tile, evaluate: Evaluate, moments: np.ndarray | None = None) -> np.ndarray:
    """Probabilities of the core of a tile.

    Parameters
    ----------
    block : ndarray, shape (channel, y, x)
        The camera pixels ``tile.y.read`` and ``tile.x.read``. Pixels that are not finite are
        left out of the resampling and of the statistics; where too few remain, the network
        sees the mean of the frame.
    tile : Tile
        The tile.
    evaluate : callable
        ``evaluate(image, edges)`` → logits (class, y, x) of a normalised window.
    moments : ndarray, shape (channel, 3), optional
        Count, mean and sum of squared deviations of each image of the frame, as `frame_moments`
        gives them; may be left out where the block is the whole frame.

    Returns
    -------
    ndarray, float32, shape (class, y, x)
        Probabilities on the camera pixels ``tile.y.core`` and ``tile.x.core``; they sum to 1.
    """
    layout, ys, xs = tile.layout, tile.y, tile.x
    image = tile_image(block, tile, moments)

    def probabilities(window: np.ndarray, edges: Edges) -> np.ndarray:
        return softmax(evaluate(window, edges))

    if layout.y.windows:
        windows, origin = (layout.y.windows, layout.x.windows), (ys.window[0], xs.window[0])
        mean = blend(image, origin, windows, ys.need, xs.need, probabilities)
        return _to_camera(np.clip(mean, 0, 1, out=mean), tile)
    return tile_core(evaluate(image, tile.edges), tile)


def tile_core(logits: np.ndarray, tile: Tile) -> np.ndarray:
    """Probabilities of the core of a tile from the logits (class, y, x) of its image."""
    rows, columns = (slice(s.need[0] - s.window[0], s.need[1] - s.window[0]) for s in (tile.y, tile.x))
    return _to_camera(softmax(logits[:, rows, columns]), tile)


def tile_image(block: np.ndarray, tile: Tile, moments: np.ndarray | None = None) -> np.ndarray:
    """What the network sees of a tile: its window on the network's grid, as z-scores of the frame; float32."""
    layout, ys, xs = tile.layout, tile.y, tile.x
    unknown = block.size - np.count_nonzero(np.isfinite(block))
    if unknown:
        log.warning("%d of %d pixels of a frame are not finite; they are left out", unknown, block.size)
    image = np.empty((len(block), ys.window[1] - ys.window[0], xs.window[1] - xs.window[0]), dtype=np.float32)
    for k, plane in enumerate(block):
        fine = _to_network(plane, layout, ys.window, xs.window, (ys.read[0], xs.read[0]))
        if moments is None:
            own = normalise.combine(np.stack([_moments(fine[slice(*y.own), slice(*x.own)])
                                              for y, x in layout.regions]))
        else:
            own = moments[k]
        mean, std = normalise.mean_and_std(own)
        rounded = layout.ratio != (1, 1) and fine.dtype == np.float32
        constant = normalise.ROUNDED if rounded else normalise.CONSTANT
        for a in range(0, len(fine), STRIP):
            image[k, a:a + STRIP] = normalise.zscore(fine[a:a + STRIP], mean, std, constant)
    return image


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the first axis, float32."""
    if len(logits) == 2:  # the common case, in a third of the time
        e = np.empty(logits.shape, np.float32)
        with np.errstate(over="ignore"):
            np.exp(np.subtract(logits[0], logits[1], out=e[0]), out=e[0])
        np.divide(1, e[0] + 1, out=e[1])
        np.subtract(1, e[1], out=e[0])
        return e
    e = np.subtract(logits, logits.max(axis=0), dtype=np.float32)
    np.exp(e, out=e)
    e /= e.sum(axis=0)
    return e


def _to_camera(probability: np.ndarray, tile: Tile) -> np.ndarray:
    """Interpolate back; the kernel has small negative lobes, so clip and let the sum be 1 again."""
    layout = tile.layout
    if layout.ratio == (1, 1):
        return probability
    back = tuple(1 / r for r in layout.ratio)
    shape, origin = (layout.y.size, layout.x.size), (tile.y.need[0], tile.x.need[0])
    # The weights of the interpolation sum to 1, so the maps still do: the last one is what the others leave.
    out = np.empty((len(probability), *(b - a for a, b in (tile.y.core, tile.x.core))), np.float32)
    for k, plane in enumerate(probability[:-1]):
        out[k] = resample_block(plane, shape, back, tile.y.core, tile.x.core, origin, np.float32)
    out[-1] = 1 - out[:-1].sum(axis=0)
    np.clip(out, 0, 1, out=out)
    if len(out) > 2:  # of two, both are clipped at once
        out /= out.sum(axis=0)
    return out
