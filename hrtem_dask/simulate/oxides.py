"""Crystalline supports: slabs of CeO2, one grain or several, that fill a periodic field."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from .crystals import Cluster, orient
from .lattices import zone_direction

__all__ = ["CERIA_LATTICE", "ceria_slab"]

CERIA_LATTICE = 5.411  # angstrom: Mogensen, Sammes and Tompsett, Solid State Ionics 129, 63 (2000)
#: angstrom: nearer than this, one of two formula units at a grain boundary goes; in the crystal two cerium are 3.83
#: apart, two oxygen 2.71, one of each 2.34
CLOSEST, CLOSEST_CERIUM = 1.9, 3.0
THERMAL = 0.06  # angstrom: rms along one axis


def ceria_slab(box: tuple[float, float], thickness: float, rng: np.random.Generator, *, zone_axis: str = "any",
               tilt: tuple[float, float] = (0.0, 0.0), grains: int = 1) -> Cluster:
    """Fill a periodic field with CeO2.

    Parameters
    ----------
    box : (float, float)
        Field (x, y) [angstrom].
    thickness : float
        Along the beam [angstrom]; the lowest cerium lies at z = 0 or a little above.
    rng : numpy.random.Generator
    zone_axis : str
        Direction of every grain near the beam such as "111", or "any".
    tilt : (float, float)
        Range of the angle between a named axis and the beam [degree].
    grains : int
        Grains, each the Voronoi cell of a random point; a single one meets itself at a boundary
        where the field repeats, because a turned crystal does not repeat with it.

    Returns
    -------
    Cluster
        Formula units Ce, O, O: cut as a whole, so the slab is stoichiometric. The O-Ce-O that
        makes a unit lies as much along the beam as it can: a (111) surface ends in oxygen.

    Examples
    --------
    >>> slab = ceria_slab((30.0, 20.0), 12.0, np.random.default_rng(1), zone_axis="111")
    >>> int((slab.numbers == 58).sum()) * 2 == int((slab.numbers == 8).sum())
    True
    """
    seeds = rng.random((grains, 2)) * box
    units = []
    for seed in seeds:
        turn = Rotation.random(random_state=rng) if zone_axis == "any" else \
            orient(zone_direction(np.eye(3), zone_axis), float(rng.uniform(*tilt)), rng)
        units.append(grain(seed, seeds, box, thickness, turn, rng))
    p = without_clashes(np.concatenate(units), box)
    numbers = np.tile([58, 8, 8], len(p))
    p = p.reshape(-1, 3) + rng.normal(0, THERMAL, (3 * len(p), 3))
    p[:, :2] %= box
    info = {"material": "CeO2", "zone_axis": zone_axis, "grains": grains}
    return Cluster(numbers, p, np.zeros(len(p), np.int32), 3, info)


def grain(seed: np.ndarray, seeds: np.ndarray, box: tuple[float, float], thickness: float, turn: Rotation,
          rng: np.random.Generator) -> np.ndarray:
    """Formula units (n, 3, 3) of one grain: those whose cerium is nearest to this seed."""
    from ase.build import bulk

    cell = bulk("CeO2", "fluorite", a=CERIA_LATTICE, cubic=True)
    cerium = cell.positions[cell.numbers == 58]
    reach = np.hypot(*box) / 2 + thickness
    n = int(np.ceil(reach / CERIA_LATTICE)) + 1
    steps = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    p = (steps * CERIA_LATTICE + cerium).reshape(-1, 3) + rng.random(3) * CERIA_LATTICE
    p = turn.apply(p)
    p = p[(p[:, 2] >= 0) & (p[:, 2] <= thickness) & (np.abs(p[:, :2]) <= np.divide(box, 2)).all(1)]
    d = p[:, None, :2] + seed - seeds
    d = np.hypot(*np.moveaxis(d - np.round(d / box) * box, -1, 0))
    p = p[d.argmin(1) == np.flatnonzero((seeds == seed).all(1))[0]]
    diagonals = turn.apply(np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * CERIA_LATTICE / 4)
    oxygen = diagonals[np.abs(diagonals[:, 2]).argmax()]
    return p[:, None] + np.array([np.zeros(3), oxygen, -oxygen]) + [*seed, 0.0]


def without_clashes(units: np.ndarray, box: tuple[float, float]) -> np.ndarray:
    """Drop formula units until no two come too close, across the border of the field too."""
    p = units.reshape(-1, 3).copy()
    p[:, :2] %= box
    p[:, :2] = np.where(p[:, :2] >= box, 0.0, p[:, :2])
    p[:, 2] -= p[:, 2].min()
    tree = cKDTree(p, boxsize=[*box, 0])
    cerium = cKDTree(p[::3], boxsize=[*box, 0]).query_pairs(CLOSEST_CERIUM, output_type="ndarray")
    pairs = np.concatenate([tree.query_pairs(CLOSEST, output_type="ndarray") // 3, cerium])
    gone = np.zeros(len(units), bool)
    for i, j in pairs[pairs[:, 0] != pairs[:, 1]]:
        if not gone[i]:
            gone[j] = True
    return units[~gone]
