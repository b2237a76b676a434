"""Metal particles: facets, twins, steps, adatoms, orientation, and the columns of their atoms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from .lattices import COLUMN_AXES, N111, Lattice, family_of, lattice_of, zone_direction

__all__ = ["Cluster", "column_ids", "metal_particle", "orient"]

#: a particle has columns where its axis lies so near to the beam [degree], and where tilt moves no atom of
#: a column from its centre by more than this part of the way to the next: beyond, an image shows streaks
NEAR, SMEAR = 6.0, 0.4
SAME_COLUMN = 0.3  # angstrom: atoms of one column lie closer than this in projection
HOLD = 3  # neighbours that an atom needs to stay, or to come
STICKINESS = 0.7  # an adatom prefers a site with one more neighbour by exp(this)


@dataclass(frozen=True, eq=False)
class Cluster:
    """Atoms that belong together: a particle, a support or a sheet.

    Parameters
    ----------
    numbers : ndarray, int, shape (n,)
        Atomic numbers; 0 is a vacant site, kept so that its column stays known.
    positions : ndarray, shape (n, 3)
        (x, y, z) [angstrom].
    column : ndarray, int32, shape (n,)
        Column of each atom from 1, counted in this cluster; 0 for atoms of no column.
    unit : int
        So many atoms in a row are one formula unit, removed together.
    info : dict
        What it is: numbers and texts.
    """

    numbers: np.ndarray
    positions: np.ndarray
    column: np.ndarray
    unit: int = 1
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    def moved(self, positions: np.ndarray) -> Cluster:
        """Return the same atoms elsewhere."""
        return replace(self, positions=positions)

    def kept(self, keep: np.ndarray) -> Cluster:
        """Return the formula units of which all atoms are kept (a bool for each atom)."""
        keep = np.repeat(np.asarray(keep).reshape(-1, self.unit).all(1), self.unit)
        return replace(self, numbers=self.numbers[keep], positions=self.positions[keep], column=self.column[keep])

    @staticmethod
    def of(positions: np.ndarray, number: int) -> Cluster:
        """Atoms of one element without columns."""
        return Cluster(np.full(len(positions), number), positions, np.zeros(len(positions), np.int32))


def metal_particle(diameter: float, rng: np.random.Generator, *, species: str = "Au", shape: str = "ellipsoid",
                   zone_axis: str = "any", tilt: tuple[float, float] = (0.0, 0.0), elongation: float = 1.0,
                   height: float = 1.0, twin: bool = False, steps: int = 0, adatoms: float = 0.0) -> Cluster:
    """Cut one randomly truncated and oriented particle of an fcc, bcc or hcp metal.

    Parameters
    ----------
    diameter : float
        Mean diameter in projection [angstrom].
    rng : numpy.random.Generator
        Source of all randomness.
    species : str
        Symbol of the metal.
    shape : {"ellipsoid", "wulff"}
        An ellipsoid cut by facets of the two densest families and, where it is low, by planes
        across the beam; or a polyhedron of facets alone, of all three families.
    zone_axis : str
        Direction near the beam such as "110", or "any".
    tilt : (float, float)
        Range of the angle between a named zone axis and the beam [degree].
    elongation, height : float
        Longest over shortest axis in the plane; height along the beam over the diameter.
    twin : bool
        Whether one half is mirrored at a {111} plane (fcc only). The plane contains the zone axis
        where it can, so that both halves show their columns.
    steps : int
        Facets that lose a part of their outermost layer.
    adatoms : float
        Added atoms over surface atoms; sites with more neighbours are preferred.

    Returns
    -------
    Cluster
        Around the origin, at least one atom; the columns are those along the zone axis: the named
        one, or the nearest low-index one. There are none where it is tilted by more than 6 degree,
        or so far that atoms of a column come to lie 0.4 of the way to the next column.
        ``info`` has ``species``, ``zone_axis`` ("" where there are no columns), ``tilt``, the
        angle from it to the beam [degree], ``twin``, and ``orientation``, the quaternion (x, y, z,
        w) that turns the crystal's axes into those of the field.

    Notes
    -----
    Facets lie at random distances, the densest planes nearest, as after Wulff. A low ellipsoid is
    not squeezed but cut, as by the film it lies on and by a facet on top: its rim stays steep.

    Examples
    --------
    >>> gold = metal_particle(20.0, np.random.default_rng(0), shape="wulff", zone_axis="110")
    >>> 150 < len(gold) < 300, gold.info["zone_axis"], bool((gold.column > 0).all())
    (True, '110', True)
    """
    extra, lattice = rng.spawn(1)[0], lattice_of(species)
    r = diameter / 2
    axes = r * np.array([np.sqrt(elongation), 1 / np.sqrt(elongation), 1.0])
    # an ellipsoid is only ever cut, a polyhedron's corners stand out
    reach = (1.05 * axes.max() if shape == "ellipsoid" else 1.7 * max(axes[0], height * r)) + lattice.cell[0, 0]
    p = lattice.sites(reach)
    p -= rng.random(3) @ lattice.cell
    p = p[(p**2).sum(1) < reach**2]
    normal, half = None, np.zeros(len(p), bool)
    if twin and lattice.structure == "fcc":
        normal = twin_normal(lattice, zone_axis, rng)
        p, half = twinned(p, normal, rng.uniform(-0.4, 0.4) * r)
    turn, axis, angle = draw_orientation(lattice, zone_axis, tilt, rng, extra)
    cut = cut_ellipsoid if shape == "ellipsoid" else cut_wulff
    present = cut(p, lattice, turn, axes, height, rng, extra)
    if steps or adatoms or shape == "wulff":
        present = roughened(p, present, lattice, steps, adatoms, extra)
    p, half = (p[present], half[present]) if len(present) else (np.zeros((1, 3)), np.zeros(1, bool))
    lab = p @ turn.as_matrix().T
    smear = np.ptp(lab[:, 2]) / 2 * np.sin(np.deg2rad(angle))
    if angle > NEAR or smear > SMEAR * lattice.column_spacing(axis):
        axis = ""
    column = columns_of(p, zone_direction(lattice.cell, axis), normal, half) if axis else np.zeros(len(p), np.int32)
    info = {"species": species, "zone_axis": axis, "tilt": round(angle, 4), "twin": normal is not None,
            "orientation": [round(float(q), 6) for q in turn.as_quat()]}
    return Cluster(np.full(len(p), lattice.number), lab, column, 1, info)


def cut_ellipsoid(p: np.ndarray, lattice: Lattice, turn: Rotation, axes: np.ndarray, height: float,
                  rng: np.random.Generator, _extra: np.random.Generator) -> np.ndarray:
    """Say which sites (indices) lie in a faceted ellipsoid, cut across the beam where it is low."""
    scale, normals = [], []
    for family, low, high in lattice.facets[:2]:
        normals.append(family)
        scale.append(rng.uniform(low, high, len(family)))
    at = np.flatnonzero((p @ np.concatenate(normals).T <= axes.max() * np.concatenate(scale)).all(1))
    lab = p[at] @ turn.as_matrix().T
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    inside = lab @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    inside = ((inside / (1.04 * axes)) ** 2).sum(1) <= 1
    at, lab, r = at[inside], lab[inside], axes[2]
    excess = 2 * r * max(0.0, 1 - height)
    below = rng.random() * excess
    return at[(lab[:, 2] >= below - r) & (lab[:, 2] <= r - (excess - below))]


def cut_wulff(p: np.ndarray, lattice: Lattice, turn: Rotation, axes: np.ndarray, height: float,
              _rng: np.random.Generator, extra: np.random.Generator) -> np.ndarray:
    """Say which sites (indices) lie in a polyhedron of low-index facets of the ellipsoid's volume.

    Each plane lies at a random part of the distance of the ellipsoid's tangent plane. It is the
    planes that are moved until the volume fits, so every surface stays a low-index facet.
    """
    normals = np.concatenate([family for family, *_ in lattice.facets])
    distance = np.concatenate([extra.uniform(low, high, len(family)) for family, low, high in lattice.facets])
    angle = extra.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    lab = turn.apply(normals) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    distance *= np.linalg.norm(lab * [axes[0], axes[1], height * axes[2]], axis=1)
    wanted = 4 / 3 * np.pi * height * axes.prod() / lattice.atom_volume
    need = (p @ normals.T / distance).max(1)  # the factor on all distances that lets a site in
    return np.flatnonzero(need <= np.sort(need)[min(max(round(wanted), 1), len(p)) - 1] + 1e-9)


def roughened(p: np.ndarray, present: np.ndarray, lattice: Lattice, steps: int, adatoms: float,
              rng: np.random.Generator) -> np.ndarray:
    """Take parts of outermost layers away, drop atoms that hang on fewer than three, add adatoms."""
    i, j = cKDTree(p).query_pairs(1.15 * lattice.bond, output_type="ndarray").T
    links = coo_array((np.ones(2 * len(i), np.int16), (np.concatenate([i, j]), np.concatenate([j, i]))),
                      shape=(len(p),) * 2).tocsr()
    there = np.zeros(len(p), bool)
    there[present] = True
    normals = np.concatenate([family for family, *_ in lattice.facets[:2]])
    for normal in normals[rng.permutation(len(normals))[:steps]]:
        there[stepped(p, there, normal, lattice, rng)] = False
    neighbours = links @ there.astype(np.int16)
    while (loose := there & (neighbours < HOLD)).any() and there.sum() > loose.sum():
        there &= ~loose
        neighbours = links @ there.astype(np.int16)
    surface = int((there & (neighbours < (8 if lattice.structure == "bcc" else 12))).sum())
    for _ in range(round(adatoms * surface)):
        free = np.flatnonzero(~there & (neighbours >= HOLD))
        if not len(free):
            break
        weight = np.exp(STICKINESS * neighbours[free])
        site = free[np.searchsorted(np.cumsum(weight), rng.random() * weight.sum())]
        there[site] = True
        neighbours[links.indices[links.indptr[site]:links.indptr[site + 1]]] += 1
    return np.flatnonzero(there)


def stepped(p: np.ndarray, there: np.ndarray, normal: np.ndarray, lattice: Lattice,
            rng: np.random.Generator) -> np.ndarray:
    """Say which atoms (indices) of the outermost layer along a normal lie beyond a straight line in it."""
    along = np.where(there, p @ normal, -np.inf)
    layer = np.flatnonzero(along > along.max() - 0.2 * lattice.bond)
    # the line runs along a close-packed row, as steps do
    rows = p[layer] - p[layer[0]]
    rows = rows[np.linalg.norm(rows, axis=1) > 0.1]
    if not len(rows):
        return layer
    row = rows[np.argmin(np.linalg.norm(rows, axis=1))]
    across = p[layer] @ np.cross(normal, row / np.linalg.norm(row))
    return layer[across * rng.choice([-1, 1]) > np.quantile(across, rng.uniform(0.2, 0.8))]


def twin_normal(lattice: Lattice, zone_axis: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a {111} normal; across the zone axis where there is one."""
    normals = N111
    if zone_axis != "any":
        across = np.abs(N111 @ zone_direction(lattice.cell, zone_axis)) < 1e-6
        normals = N111[across] if across.any() else N111
    return normals[rng.integers(len(normals))]


def twinned(p: np.ndarray, normal: np.ndarray, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Mirror the crystal at the plane of atoms nearest to this offset; also say which sites are mirrored ones."""
    # a layer of atoms has to lie in the mirror plane, else the two halves do not fit
    along = p @ normal
    plane = along[np.argmin(np.abs(along - offset))]
    lower = p[along <= plane + 0.1]
    upper = lower[lower @ normal < plane - 0.1]
    both = np.concatenate([lower, upper + 2 * (plane - upper @ normal)[:, None] * normal])
    return both, np.arange(len(both)) >= len(lower)


def orient(direction: np.ndarray, tilt: float, rng: np.random.Generator) -> Rotation:
    """Draw a rotation that brings `direction` to `tilt` [degree] from the beam (z), at any azimuth."""
    up = Rotation.align_vectors([[0.0, 0.0, 1.0]], [direction])[0]
    spin, azimuth = rng.uniform(0, 2 * np.pi, 2)
    lean = Rotation.from_rotvec(np.deg2rad(tilt) * np.array([np.cos(azimuth), np.sin(azimuth), 0.0]))
    return lean * Rotation.from_rotvec([0.0, 0.0, spin]) * up


def draw_orientation(lattice: Lattice, zone_axis: str, tilt: tuple[float, float], rng: np.random.Generator,
                     extra: np.random.Generator) -> tuple[Rotation, str, float]:
    """Draw an orientation; return it with the zone axis nearest to the beam and its tilt [degree]."""
    if zone_axis != "any":
        angle = float(extra.uniform(*tilt))
        return orient(zone_direction(lattice.cell, zone_axis), angle, extra), zone_axis, angle
    turn = Rotation.random(random_state=rng)
    best, name = -1.0, ""
    for axis in COLUMN_AXES[lattice.structure]:
        family = family_of(lattice.structure, axis)
        vectors = family @ lattice.cell
        cosine = turn.apply(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[:, 2]
        if cosine.max() > best:
            best, name = float(cosine.max()), "".join(str(d) for d in family[cosine.argmax()])
    angle = float(np.rad2deg(np.arccos(min(best, 1.0))))
    return turn, name, angle


def columns_of(p: np.ndarray, direction: np.ndarray, normal: np.ndarray | None, half: np.ndarray) -> np.ndarray:
    """Number the columns along a zone axis; in a mirrored half without columns there, all atoms have 0."""
    if normal is None or abs(normal @ direction) < 1e-6:
        return column_ids(p, direction)
    column = np.zeros(len(p), np.int32)
    column[~half] = column_ids(p[~half], direction)
    return column


def column_ids(p: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Number the columns (from 1) of atoms that lie above one another along a direction.

    Parameters
    ----------
    p : ndarray, shape (n, 3)
        Atoms of a perfect crystal [angstrom].
    direction : ndarray, shape (3,)
        Unit vector.

    Returns
    -------
    ndarray, int32, shape (n,)

    Examples
    --------
    >>> column_ids(np.array([[0, 0, 0], [2.0, 0, 0], [0, 0, 4.0]]), np.array([0, 0, 1.0])).tolist()
    [1, 2, 1]
    """
    across = np.linalg.svd(direction[None])[2][1:]
    i, j = cKDTree(p @ across.T).query_pairs(SAME_COLUMN, output_type="ndarray").T
    links = coo_array((np.ones(len(i), bool), (i, j)), shape=(len(p),) * 2)
    return (connected_components(links, directed=False)[1] + 1).astype(np.int32)
