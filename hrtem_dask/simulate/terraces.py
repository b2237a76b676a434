"""Small crystals whose columns along the beam hold every number of atoms: what contrast is calibrated with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from .columns import column_table
from .crystals import Cluster, column_ids
from .labels import gold_thickness
from .lattices import lattice_of, zone_direction
from .multislice import exit_wave
from .recipe import Field
from .structures import Specimen, assemble

__all__ = ["TerraceWave", "atom_spacing", "terrace", "terrace_waves"]

#: radius of a crystal and vacuum around it [angstrom]
RADIUS, VACUUM = 16.0, 4.0
#: rms of the steps between neighbouring columns [atoms]: surfaces of real particles are rough
ROUGHNESS = 0.7
#: rms distance of the middle of a column from that of the crystal [angstrom]
UNEVEN = 2.0
#: rms displacement of an atom along one axis [angstrom]: gold at 300 K
THERMAL = 0.085
SAMPLING, STORED, THICKNESS_SAMPLING = 0.1, 0.2, 0.4


@dataclass(frozen=True, eq=False)
class TerraceWave:
    """Exit wave (y, x) of one crystal in a periodic ``box``, with the thickness that absorbs, and its columns.

    Lengths in angstrom. The middle of the crystal lies ``height`` above the plane of the wave: a lens whose
    defocus of the middle is D has the defocus D + ``height`` of the wave.
    """

    wave: np.ndarray
    box: float
    height: float
    thickness: np.ndarray
    columns: pd.DataFrame


def atom_spacing(species: str, zone_axis: str) -> float:
    """Distance of the atoms along a column [angstrom].

    Examples
    --------
    >>> [round(atom_spacing("Au", axis), 3) for axis in ("110", "100", "111")]
    [2.884, 4.078, 7.063]
    """
    lattice = lattice_of(species)
    direction = zone_direction(lattice.cell, zone_axis)
    p = lattice.sites(3 * float(np.linalg.norm(lattice.cell, axis=1).max()))
    p = p - p[np.argmin((p**2).sum(1))]
    along = p @ direction
    same = (np.linalg.norm(p - np.outer(along, direction), axis=1) < 1e-3) & (along > 1e-3)
    return float(along[same].min())


def terrace(species: str, zone_axis: str, most: int, rng: np.random.Generator, *, tilt: float = 0.0,
            thermal: float = THERMAL) -> Specimen:
    """Build a rough round hill of a crystal, free-standing: columns of 1 to `most` atoms, beside one another.

    Parameters
    ----------
    species : str
        A metal.
    zone_axis : str
        Direction of the columns.
    most : int
        Atoms of the highest columns.
    rng : numpy.random.Generator
        Draws the place of the lattice, the roughness, how far the middle of each column lies from
        that of the crystal, the direction of the tilt, and the thermal displacements.
    tilt : float
        Of the columns from the beam [degree].
    thermal : float
        Root mean square displacement of an atom along one axis [angstrom].

    Returns
    -------
    Specimen

    Examples
    --------
    >>> hill = terrace("Au", "110", 4, np.random.default_rng(0))
    >>> sorted(column_table(hill)["atoms"].unique().tolist())
    [1, 2, 3, 4]
    """
    lattice = lattice_of(species)
    up = Rotation.align_vectors([[0.0, 0.0, 1.0]], [zone_direction(lattice.cell, zone_axis)])[0]
    half = atom_spacing(species, zone_axis) * (most + 1)
    p = lattice.sites(float(np.hypot(RADIUS, half)) + lattice.cell[0, 0])
    p = (Rotation.from_rotvec([0, 0, rng.uniform(0, 2 * np.pi)]) * up).apply(p - rng.random(3) @ lattice.cell)
    p = p[(np.hypot(p[:, 0], p[:, 1]) < RADIUS) & (np.abs(p[:, 2]) < half)]
    column = column_ids(p, np.array([0, 0, 1.0]))
    away = np.abs(p[:, 2] - rng.normal(0, UNEVEN, column.max() + 1)[column])
    order = np.lexsort((away, column))
    p, column = p[order], column[order]
    _, first, count = np.unique(column, return_index=True, return_counts=True)
    rank = np.arange(len(p)) - np.repeat(first, count)
    # a cone: as many columns of few atoms, at its rim, as there can be of many
    r = np.hypot(*p[first, :2].T) / RADIUS
    height = np.clip(np.rint((most + 1) * (1 - r) / 0.75 + rng.normal(0, ROUGHNESS, len(r))), 0, most)
    keep = rank < height[column - 1]
    azimuth = rng.uniform(0, 2 * np.pi)
    lean = Rotation.from_rotvec(np.deg2rad(tilt) * np.array([np.cos(azimuth), np.sin(azimuth), 0.0]))
    box = 2 * (RADIUS + VACUUM)
    p = lean.apply(p[keep]) + [box / 2, box / 2, 0] + rng.normal(0, thermal, (int(keep.sum()), 3))
    return assemble([Cluster(np.full(len(p), lattice.number), p, column[keep].astype(np.int32))], [], (box, box))


@lru_cache(maxsize=8)
def terrace_waves(species: str, zone_axis: str, most: int, energy: float, tilt: float, thermal: float,
                  count: int) -> tuple[TerraceWave, ...]:
    """Exit waves of so many hills; remembered, as only lenses change from one calibration to the next."""
    out = []
    for k in range(count):
        rng = np.random.default_rng([most, round(1000 * tilt), k])
        hill = terrace(species, zone_axis, most, rng, tilt=tilt, thermal=thermal)
        box = hill.box[0]
        points, stored = round(box / SAMPLING), round(box / STORED)
        field = Field(energy=energy, box=box, wave_sampling=SAMPLING, stored_sampling=STORED)
        wave = exit_wave(hill, field, points=(points, points), stored=(stored, stored))
        thickness = gold_thickness(hill.gold, (box, box), THICKNESS_SAMPLING, numbers=hill.gold_numbers)
        height = hill.box[2] - float(hill.gold[:, 2].mean())
        out.append(TerraceWave(wave, box, height, thickness.astype(np.float32), column_table(hill)))
    return tuple(out)
