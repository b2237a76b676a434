"""MoS2 sheets that repeat with the field, with sulphur vacancies, holes and flakes."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .crystals import Cluster

__all__ = ["LATTICE", "SULPHUR_DISTANCE", "disulphide_sheet", "fitting_cells"]

LATTICE = 3.16  # angstrom
SULPHUR_DISTANCE = 3.19  # angstrom between the two planes of sulphur, ASE's default
MOLYBDENUM, SULPHUR, VACANT = 42, 16, 0
TRIES = 400


def fitting_cells(box: tuple[float, float], rotation: tuple[float, float], strain: float,
                  rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Draw which lattice vectors shall be the sides of a field.

    A turned lattice does not repeat with a given field. Of random rotations the first is taken
    whose lattice does so when it is stretched by no more than `strain`.

    Parameters
    ----------
    box : (float, float)
        Field (x, y) [angstrom].
    rotation : (float, float)
        Range of the angle between a lattice vector and x [degree].
    strain : float
        Largest principal strain.
    rng : numpy.random.Generator

    Returns
    -------
    cells : ndarray, int, shape (2, 2)
        Rows: the lattice vectors that become the field's x and y side.
    strain : float
        Of the result; above what was asked for where no rotation fits.
    """
    best, least = np.zeros((2, 2), int), np.inf
    for angle in np.deg2rad(rng.uniform(*rotation, TRIES)):
        c, s = np.cos(angle), np.sin(angle)
        vectors = LATTICE * np.array([[1, 0], [-0.5, np.sqrt(3) / 2]]) @ np.array([[c, s], [-s, c]])
        cells = np.round(np.diag(box) @ np.linalg.inv(vectors)).astype(int)
        if np.linalg.det(cells) < 0.5:
            continue
        stretch = np.linalg.svd(np.linalg.inv(cells @ vectors) @ np.diag(box), compute_uv=False)
        if (size := float(np.abs(stretch - 1).max())) < least:
            best, least = cells, size
        if least <= strain:
            break
    return best, least


def disulphide_sheet(box: tuple[float, float], rng: np.random.Generator, *, single_vacancies: float = 0.0,
                     double_vacancies: float = 0.0, rotation: tuple[float, float] = (0.0, 60.0), tilt: float = 0.0,
                     strain: float = 0.01, thermal: float = 0.0, outline: str = "") -> Cluster:
    """Fill a periodic field with one layer of MoS2 (2H).

    Parameters
    ----------
    box : (float, float)
        Field (x, y) [angstrom].
    rng : numpy.random.Generator
    single_vacancies, double_vacancies : float
        Probability of each sulphur column to lack one atom (of either plane), or both.
    rotation : (float, float)
        Range of the angle between a lattice vector and x [degree].
    tilt : float
        Of the sheet out of the plane, about a random axis [degree]: moves the two sulphur planes
        against each other and slopes the sheet, which therefore has a step of less than the
        slope times the field at the border.
    strain : float
        How far the lattice may be stretched for the field to repeat.
    thermal : float
        Displacement of every atom, rms along one axis [angstrom].
    outline : {"", "hole", "flake"}
        Whether atoms inside or outside of a random polygon are missing.

    Returns
    -------
    Cluster
        Every site is there: a vacant one has the number 0 and no atom, its column stays known.
        Around z = 0. ``info`` has ``strain, tilt`` and ``rotation`` [degree] as they came out.

    Examples
    --------
    >>> sheet = disulphide_sheet((40.0, 50.0), np.random.default_rng(0), single_vacancies=0.1)
    >>> int((sheet.numbers == 42).sum()) * 2 == int((sheet.numbers != 42).sum())
    True
    """
    from ase.build import make_supercell, mx2

    cells, stretched = fitting_cells(box, rotation, strain, rng)
    unit = mx2("MoS2", kind="2H", a=LATTICE, thickness=SULPHUR_DISTANCE, vacuum=5.0)
    whole = np.eye(3, dtype=int)
    whole[:2, :2] = cells
    atoms = make_supercell(unit, whole)  # cell after cell, each in the order of the unit: Mo, S, S
    side = np.array(atoms.cell)
    side[:2], side[2] = [[box[0], 0, 0], [0, box[1], 0]], [0, 0, side[2, 2]]
    atoms.set_cell(side, scale_atoms=True)
    p = atoms.positions - [0, 0, atoms.positions[:, 2].mean()]
    p[:, :2] += rng.random(2) * box
    p[:, :2] %= box
    units = np.arange(len(p)) // 3
    column = (2 * units + np.where(atoms.numbers == MOLYBDENUM, 1, 2)).astype(np.int32)
    numbers = with_vacancies(atoms.numbers, single_vacancies, double_vacancies, rng)
    angle = float(np.rad2deg(np.arctan2(*(np.linalg.inv(cells) @ np.diag(box))[0, ::-1])))
    info = {"material": "MoS2", "strain": round(stretched, 5), "tilt": round(tilt, 4), "rotation": round(angle, 4)}
    sheet = Cluster(numbers, tilted(p, tilt, rng) + rng.normal(0, thermal, p.shape), column, 1, info)
    return cut_out(sheet, box, outline, rng) if outline else sheet


def with_vacancies(numbers: np.ndarray, single: float, double: float, rng: np.random.Generator) -> np.ndarray:
    """Empty one or both sites of random sulphur columns; the atoms come as Mo, S, S."""
    numbers = numbers.copy()
    pairs = np.flatnonzero(numbers == SULPHUR).reshape(-1, 2)
    u, plane = rng.random(len(pairs)), rng.integers(0, 2, len(pairs))
    one, both = u < single, (u >= single) & (u < single + double)
    numbers[pairs[one, plane[one]]] = VACANT
    numbers[pairs[both].ravel()] = VACANT
    return numbers


def tilted(p: np.ndarray, tilt: float, rng: np.random.Generator) -> np.ndarray:
    """Turn a sheet about an axis in its plane, keeping its period in projection."""
    azimuth = rng.uniform(0, 2 * np.pi)
    u, angle = np.array([np.cos(azimuth), np.sin(azimuth)]), np.deg2rad(tilt)
    slope = (p[:, :2] - p[:, :2].mean(0)) @ u
    return np.column_stack([p[:, :2] + np.sin(angle) * p[:, 2:] * u, np.cos(angle) * p[:, 2] - np.tan(angle) * slope])


def cut_out(sheet: Cluster, box: tuple[float, float], outline: str, rng: np.random.Generator) -> Cluster:
    """Remove a random polygon from a sheet, or all but it, and then what hangs on nothing."""
    reach = min(box) * (rng.uniform(0.12, 0.3) if outline == "hole" else rng.uniform(0.3, 0.45))
    sides = rng.integers(3, 8)
    angles = np.sort(rng.uniform(0, 2 * np.pi, sides)) + np.arange(sides) * 1e-3
    distance = reach * rng.uniform(0.6, 1.0, sides)
    d = sheet.positions[:, :2] - rng.random(2) * box
    d -= np.round(d / box) * box
    # the column decides, so that the two atoms of a column stay together
    middle = np.stack([np.bincount(sheet.column, d[:, k]) for k in range(2)], 1)
    middle = (middle / np.maximum(np.bincount(sheet.column), 1)[:, None])[sheet.column]
    across = np.stack([np.cos(angles), np.sin(angles)])
    inside = (middle @ across <= distance).all(1) & (np.hypot(*middle.T) <= reach)
    return without_loose(sheet.kept(~inside if outline == "hole" else inside), box)


def without_loose(sheet: Cluster, box: tuple[float, float]) -> Cluster:
    """Drop molybdenum with fewer than two sulphur columns next to it, and sulphur without molybdenum."""
    xy = sheet.positions[:, :2] % box
    xy = np.where(xy >= box, 0.0, xy)
    metal = sheet.numbers == MOLYBDENUM
    if not metal.any() or metal.all():
        return sheet.kept(np.zeros(len(xy), bool))
    reach = 1.25 * LATTICE / np.sqrt(3)
    near = cKDTree(xy[~metal], boxsize=box).query_ball_point(xy[metal], reach, return_length=True)
    stay = np.ones(len(xy), bool)
    stay[metal] = near >= 4  # atoms: two columns of two
    held = cKDTree(xy[metal & stay], boxsize=box).query_ball_point(xy[~metal], reach, return_length=True) \
        if (metal & stay).any() else np.zeros((~metal).sum(), int)
    stay[~metal] = held > 0
    return sheet.kept(stay)
