"""Crystals of gold for tests of the physics."""

from __future__ import annotations

import itertools

import numpy as np

from hrtem_dask.simulate.structures import Specimen, assemble

GOLD = 4.078  # angstrom


def gold_crystal(size: float, z: tuple[int, int, int], x: tuple[int, int, int], height: float = np.inf) -> np.ndarray:
    """Cut a ball of fcc gold of this diameter, or its middle layer, with zone axis z along the beam and x along x."""
    z, x = np.array(z) / np.linalg.norm(z), np.array(x) / np.linalg.norm(x)
    axes = np.stack([x, np.cross(z, x), z])
    n = int(size / GOLD) + 2
    cells = np.array(list(itertools.product(range(-n, n + 1), repeat=3)))
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    p = (cells[:, None] + basis).reshape(-1, 3) @ axes.T * GOLD
    return p[(np.linalg.norm(p, axis=1) <= size / 2) & (np.abs(p[:, 2]) <= height / 2)]


def on_grid(atoms: np.ndarray, box: tuple[float, float]) -> Specimen:
    """Atoms in the middle of a cell of this size (y, x)."""
    return assemble([atoms - (atoms.max(0) + atoms.min(0)) / 2 + [box[1] / 2, box[0] / 2, 0]], [], (box[1], box[0]))
