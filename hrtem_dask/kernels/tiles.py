"""Segmentation of one tile: where it reads, what it computes, what it keeps.

Three grids meet here: the camera's, the network's, and the tiles. All are anchored at pixel (0, 0)
of the frame, so a tile is a function of the frame and the layout alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from . import normalise
from .resample import input_range, resample_block, resampled_size

__all__ = ["Axis", "Layout", "Tile", "segment_tile", "softmax", "tile_moments", "tile_size"]

log = logging.getLogger(__name__)

#: memory of the planes of one tile [byte]
MEMORY = 768 * 2**20
Evaluate = Callable[[np.ndarray, tuple[bool, bool, bool, bool]], np.ndarray]


def tile_size(planes: int, halo: int) -> int:
    """Side of a tile [network pixel] whose planes with their halo take a bounded amount of memory.

    Counts 4 byte a plane and ten planes of working space; the side is a multiple of 128 between
    256 and 2048, however deep the network.

    Examples
    --------
    >>> tile_size(33, 64), tile_size(101, 550)
    (1920, 256)
    """
    side = math.isqrt(MEMORY // (4 * (planes + 10))) - 2 * halo
    return int(min(2048, max(256, side // 128 * 128)))


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
    """

    n: int
    ratio: float
    tile: int
    halo: int

    @property
    def size(self) -> int:
        """Network pixels."""
        return resampled_size(self.n, self.ratio)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Camera pixels at which tiles begin, and the end of the axis."""
        step = max(1, round(self.tile * self.ratio))
        # a frame that is hardly larger than a tile is one tile
        count = max(1, math.ceil(self.n / step - 0.25))
        return (*(i * step for i in range(count)), self.n)

    @property
    def spans(self) -> list[Span]:
        """Every tile along this axis."""
        return [self._span(a, b) for a, b in pairwise(self.cuts)]

    def _span(self, start: int, stop: int) -> Span:
        back = 1 / self.ratio if self.ratio != 1 else 1.0
        need = input_range(start, stop, back, self.size)
        window = max(0, need[0] - self.halo), min(self.size, need[1] + self.halo)
        # a network pixel belongs to the tile that holds it: all pixels are counted once
        own = (min(self.size, math.ceil(start / self.ratio - 1e-9)),
               self.size if stop == self.n else min(self.size, math.ceil(stop / self.ratio - 1e-9)))
        return Span((start, stop), need, window, input_range(*window, self.ratio, self.n), own,
                    input_range(*own, self.ratio, self.n) if own[1] > own[0] else (start, start + 1))


@dataclass(frozen=True)
class Span:
    """Ranges of one tile along one axis."""

    core: tuple[int, int]         # camera pixels of the result
    need: tuple[int, int]         # network pixels that the core is interpolated from
    window: tuple[int, int]       # network pixels that are evaluated: need and halo
    read: tuple[int, int]         # camera pixels that the window is made of
    own: tuple[int, int]          # network pixels that count in the statistics of this tile
    read_own: tuple[int, int]     # camera pixels that those are made of


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
        return [[Tile(self, y, x) for x in self.x.spans] for y in self.y.spans]


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


def tile_moments(block: np.ndarray, tile: Tile) -> np.ndarray:
    """Moments (channel, 3) of a tile's own network pixels.

    ``block`` (channel, y, x) holds the camera pixels ``tile.y.read_own`` and ``tile.x.read_own``.
    """
    if tile.y.own[0] == tile.y.own[1] or tile.x.own[0] == tile.x.own[1]:
        return np.zeros((len(block), 3))
    origin = tile.y.read_own[0], tile.x.read_own[0]
    return np.stack([
        normalise.moments(resample_block(plane, tile.layout.shape, tile.layout.ratio, tile.y.own, tile.x.own, origin))
        for plane in block
    ])


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
        ``evaluate(image, edges)`` → logits (class, y, x) of the normalised window.
    moments : ndarray, shape (channel, 3), optional
        Count, mean and sum of squared deviations of each image of the frame; by default those
        of the window, which is right where the window is the whole frame.

    Returns
    -------
    ndarray, float32, shape (class, y, x)
        Probabilities on the camera pixels ``tile.y.core`` and ``tile.x.core``; they sum to 1.
    """
    layout, ys, xs = tile.layout, tile.y, tile.x
    unknown = block.size - np.count_nonzero(np.isfinite(block))
    if unknown:
        log.warning("%d of %d pixels of a frame are not finite; they are left out", unknown, block.size)
    image = np.empty((len(block), ys.window[1] - ys.window[0], xs.window[1] - xs.window[0]), dtype=np.float32)
    for k, plane in enumerate(block):
        fine = resample_block(plane, layout.shape, layout.ratio, ys.window, xs.window, (ys.read[0], xs.read[0]))
        own = normalise.moments(fine) if moments is None else moments[k]
        image[k] = normalise.zscore(fine, *normalise.mean_and_std(own))
    logits = evaluate(image, tile.edges)
    rows, columns = (slice(s.need[0] - s.window[0], s.need[1] - s.window[0]) for s in (ys, xs))
    return _to_camera(softmax(logits[:, rows, columns]), tile)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the first axis, float32."""
    e = np.exp(logits - logits.max(axis=0))
    return (e / e.sum(axis=0)).astype(np.float32)


def _to_camera(probability: np.ndarray, tile: Tile) -> np.ndarray:
    """Interpolate back; the kernel has small negative lobes, so clip and let the sum be 1 again."""
    layout = tile.layout
    if layout.ratio == (1, 1):
        return probability
    back = tuple(1 / r for r in layout.ratio)
    shape, origin = (layout.y.size, layout.x.size), (tile.y.need[0], tile.x.need[0])
    out = np.stack([resample_block(p, shape, back, tile.y.core, tile.x.core, origin) for p in probability])
    np.clip(out, 0, 1, out=out)
    return (out / out.sum(axis=0)).astype(np.float32)
