"""Amorphous films: periodic blocks of relaxed points, films cut from them, and edges that end a support."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

__all__ = ["BLOCK_HEIGHT", "Edge", "amorphous_block", "carbon_film", "draw_edge", "rough_surface"]

BLOCK_HEIGHT = 40.0  # angstrom
DISTANCE = 1.35  # angstrom: that carbon atoms are pushed to
STEPS = 6  # of pushing
SEAM = 4.0  # angstrom: depth in which the atoms on both sides of a seam between blocks are pushed apart


def amorphous_block(box: tuple[float, float, float], density: float, rng: np.random.Generator, *,
                    distance: float = DISTANCE, steps: int = STEPS) -> np.ndarray:
    """Fill a fully periodic block with carbon: random points, pushed apart where too close.

    Parameters
    ----------
    box : (float, float, float)
        Size along x, y, z [angstrom].
    density : float
        [atoms/angstrom^3].
    rng : numpy.random.Generator
    distance : float
        Distance that the points are pushed to [angstrom].
    steps : int
        Number of relaxation steps; a few pairs stay slightly closer.

    Returns
    -------
    ndarray, shape (n, 3)
    """
    size = np.asarray(box, float)
    p = rng.random((round(size.prod() * density), 3)) * size
    for _ in range(steps):
        p = pushed_apart(p, size, distance)
    return p % size


def pushed_apart(p: np.ndarray, size: np.ndarray, distance: float) -> np.ndarray:
    """Push points closer than a distance to 1.1 of it; a size of 0 marks an axis along which nothing repeats."""
    period = np.where(size > 0, size, np.inf)
    p = np.where(size > 0, p % period, p)
    p = np.where(p >= period, 0.0, p)  # the remainder of a tiny negative number rounds up to the box itself
    i, j = cKDTree(p, boxsize=size).query_pairs(distance, output_type="ndarray").T
    d = p[i] - p[j]
    d -= np.where(size > 0, size * np.round(d / period), 0.0)
    length = np.linalg.norm(d, axis=1, keepdims=True)
    push = 0.5 * d / np.maximum(length, 1e-3) * (1.1 * distance - length)
    for axis in range(3):
        p[:, axis] += np.bincount(i, push[:, axis], len(p)) - np.bincount(j, push[:, axis], len(p))
    return p


def carbon_film(blocks: list[np.ndarray], box: float, thickness: float, rng: np.random.Generator, *,
                roughness: float = 0.0, roughness_length: float = 20.0) -> np.ndarray:
    """Stack transformed blocks to a film with rough surfaces; its mean lower surface is z = 0.

    Relaxing new points for every film would take longer than its multislice, so films are cut
    from a few periodic blocks, each layer shifted, mirrored and turned at random.
    """
    layers, z = [], -3 * roughness
    while z < thickness + 3 * roughness:
        p = blocks[rng.integers(len(blocks))] + rng.random(3) * [box, box, BLOCK_HEIGHT]
        p[:, :2] %= box
        p[:, 2] %= BLOCK_HEIGHT
        for axis in range(2):
            if rng.random() < 0.5:
                p[:, axis] = box - p[:, axis]
        if rng.random() < 0.5:
            p = p[:, [1, 0, 2]]
        p[:, 2] += z
        layers.append(p)
        z += BLOCK_HEIGHT
    p = np.concatenate(layers)
    for k in range(1, len(layers)):  # blocks do not fit to one another
        seam = np.abs(p[:, 2] - (k * BLOCK_HEIGHT - 3 * roughness)) < SEAM
        for _ in range(STEPS):
            p[seam] = pushed_apart(p[seam], np.array([box, box, 0.0]), DISTANCE)
    low, high = np.zeros(len(p)), np.full(len(p), thickness)
    if roughness > 0:
        n = max(16, round(box / 2))
        at = tuple((p[:, 1::-1].T / box * n).astype(int) % n)
        low += rough_surface(n, box, roughness, roughness_length, rng)[at]
        high += rough_surface(n, box, roughness, roughness_length, rng)[at]
    return p[(p[:, 2] >= low) & (p[:, 2] <= high)]


def rough_surface(n: int, box: float, rms: float, length: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a periodic Gaussian random height (y, x) of this rms [angstrom] and correlation length."""
    height = ndimage.gaussian_filter(rng.normal(size=(n, n)), length / 2 * n / box, mode="wrap")
    return (height - height.mean()) * (rms / max(height.std(), 1e-12))


@dataclass(frozen=True)
class Edge:
    """Where a support ends: a strip of it, with two wavy edges, in a periodic field.

    Parameters
    ----------
    box : (float, float)
        Field (x, y) [angstrom].
    winding : (int, int)
        How often the strip repeats along x and y: whole numbers keep the field periodic.
    phase : float
        Where the strip begins, in periods.
    cover : float
        Part of the field that the support covers.
    waves : ndarray, shape (m, 2)
        Amplitude [angstrom] and phase [radian] of the edge's waves of order 1 to m.
    """

    box: tuple[float, float]
    winding: tuple[int, int]
    phase: float
    cover: float
    waves: np.ndarray

    def outside(self, xy: np.ndarray) -> np.ndarray:
        """Distance to the nearest edge [angstrom], positive off the support, negative on it.

        Measured across the strip: exact for a straight edge, a little large on a wave's flank.
        """
        s = np.asarray(xy, float)[..., :2] / self.box
        per_angstrom = np.hypot(*np.divide(self.winding, self.box))
        along = 2 * np.pi * (s @ [-self.winding[1], self.winding[0]])
        order = np.arange(1, len(self.waves) + 1)
        bend = (self.waves[:, 0] * np.sin(along[..., None] * order + self.waves[:, 1])).sum(-1)
        f = (s @ np.asarray(self.winding, float) + self.phase + bend * per_angstrom) % 1
        d = np.where(f < self.cover, -np.minimum(f, self.cover - f), np.minimum(f - self.cover, 1 - f))
        return d / per_angstrom

    def place(self, offset: float, rng: np.random.Generator, *, tries: int = 400) -> np.ndarray:
        """Draw a point (x, y) [angstrom] about this far outside an edge."""
        points = rng.random((tries, 2)) * self.box
        return points[np.argmin(np.abs(self.outside(points) - offset))]


def draw_edge(box: tuple[float, float], cover: float, rng: np.random.Generator, *, waviness: float = 3.0) -> Edge:
    """Draw where a support ends; `waviness` is the rms of the wavy edges [angstrom]."""
    winding = ((1, 0), (0, 1), (1, 1), (1, -1))[rng.integers(4)]
    size = rng.rayleigh(waviness / 2, 3) / np.arange(1, 4)
    return Edge(box, winding, float(rng.random()), cover, np.stack([size, rng.uniform(0, 2 * np.pi, 3)], 1))
