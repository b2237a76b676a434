"""The columns at the surface of a particle that can come and go: which they are, and how they stay supported.

A particle is split into a core that never changes and sites. A site is a whole column of the lattice, in
projection at the outline: one that is there and can be taken away, or an empty one that can be
filled. Every site leans on the core alone, never on another site, so all combinations of full and empty
sites are stable, and the sites are independent of one another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from ..core.errors import InputError
from .crystals import HOLD, Cluster, column_ids
from .lattices import Lattice, lattice_of, zone_direction

__all__ = ["SurfaceSites", "surface_sites"]

REACH = 1.05  # of the distance of nearest neighbours: sites so near in projection are neighbours
BOND = 1.15  # of the same: atoms so near touch
LEAST_CORE = 2  # of the neighbours that hold an atom of a site so many belong to the core


@dataclass(frozen=True, eq=False)
class SurfaceSites:
    """A particle whose surface columns can be full or empty.

    Parameters
    ----------
    cluster : Cluster
        The particle with an atom at every place that a state can fill; `with_atoms` makes a state.
    site : ndarray, int, shape (atom,)
        Site of each of those atoms, -1 in the core.
    rank : ndarray, int, shape (atom,)
        Order in which the places of a site are filled, from 0: those of the particle as drawn first, from
        their middle outwards.
    native : ndarray, bool, shape (site,)
        Whether the column is there in the particle as drawn.
    atoms : ndarray, int, shape (site,)
        Atoms of a column that appears here; where it is native, as many as it has in the particle.
    room : ndarray, int, shape (site,)
        So many atoms find a hold here, at most.
    adjacent : ndarray, bool, shape (site, site)
        Which sites are neighbours.
    """

    cluster: Cluster
    site: np.ndarray
    rank: np.ndarray
    native: np.ndarray
    atoms: np.ndarray
    room: np.ndarray
    adjacent: np.ndarray

    def __len__(self) -> int:
        return len(self.native)

    @property
    def places(self) -> np.ndarray:
        """Mean position (x, y, z) of each site [angstrom], over all its places."""
        here = self.site >= 0
        total = np.bincount(self.site[here], minlength=len(self))
        return np.stack([np.bincount(self.site[here], p, len(self)) for p in self.cluster.positions[here].T],
                        1).reshape(-1, 3) / np.maximum(total, 1)[:, None]

    @property
    def columns(self) -> np.ndarray:
        """Number of each site's column in the cluster."""
        out = np.zeros(len(self), np.int32)
        out[self.site[self.site >= 0]] = self.cluster.column[self.site >= 0]
        return out

    def with_atoms(self, atoms: np.ndarray) -> Cluster:
        """Return the particle with so many atoms at each site; places that are left empty are vacant."""
        there = (self.site < 0) | (self.rank < np.append(atoms, 0)[self.site])
        return Cluster(np.where(there, self.cluster.numbers, 0), self.cluster.positions, self.cluster.column,
                       info=self.cluster.info)


def surface_sites(particle: Cluster, rng: np.random.Generator, *, atoms: tuple[int, int | None] = (1, None),
                  n_sites: int | None = None) -> SurfaceSites:
    """Split a particle into its core and the sites at its outline.

    Parameters
    ----------
    particle : Cluster
        Of one grain, with columns; thermal displacements may be in its positions.
    rng : numpy.random.Generator
    atoms : (int, int or None)
        Least and most atoms of a column at a site that is empty at first; as many as find a hold by default.
    n_sites : int, optional
        At most so many sites, next to one another.

    Returns
    -------
    SurfaceSites
        In the order of the angle about the middle of the particle.

    Raises
    ------
    InputError
        If the particle has no columns, is twinned, or none of its columns can change.

    Notes
    -----
    Columns of the outline are taken off the core one by one, the least bound first, as long as

    - they can be built atom by atom, where every atom finds three neighbours: in the core, or two there and
      an atom of the same column; so can the columns taken before;
    - every atom of the core keeps three neighbours in the core, and the core is one piece.

    Empty sites are the columns of the lattice without any atom that can be built on the core in the same
    way. So a column of any number of atoms up to the room of its site is held. Sites whose columns are
    within a bond of each other in projection are neighbours.

    Examples
    --------
    >>> from hrtem_dask.simulate.crystals import metal_particle
    >>> gold = metal_particle(20.0, np.random.default_rng(3), shape="wulff", zone_axis="110")
    >>> found = surface_sites(gold, np.random.default_rng(1))
    >>> bool(found.native.any()), bool((~found.native).any()), len(found.with_atoms(found.atoms * found.native))
    (True, True, 276)
    """
    if not particle.info.get("zone_axis") or particle.info.get("twin") or not (particle.column > 0).all():
        raise InputError("the particle is off a zone axis or twinned; expected one grain on a zone axis, as with "
                         "particles.zone_axis \"110\", tilt [0, 0] and twin_fraction 0: its columns are what hops")
    lattice = lattice_of(particle.info["species"])
    turn = Rotation.from_quat(particle.info["orientation"])
    points, index, spread = lattice_points(particle.positions, lattice, turn)
    grid = Grid.of(points, index, turn.apply(zone_direction(lattice.cell, particle.info["zone_axis"])), lattice)
    taken = grid.peeled(rng)
    own = grid.links @ (grid.there & ~np.isin(grid.column, taken)).astype(np.int16)
    free = np.setdiff1d(grid.column, grid.column[grid.there])
    chosen = [(c, True) for c in taken] + [(c, False) for c in free]
    runs = [(c, native, run) for c, native in chosen if len(run := grid.filling(c, own))]
    if not runs:
        raise InputError(f"no column of the particle of {len(particle)} atoms can come or go; expected a larger one")
    runs = ordered(runs, grid, n_sites, rng)
    return assembled(particle, points, index, spread, grid, runs, atoms, rng)


def lattice_points(p: np.ndarray, lattice: Lattice, turn: Rotation) -> tuple[np.ndarray, np.ndarray, float]:
    """Points of the lattice that atoms at `p` lie on, and around them.

    Returns
    -------
    points : ndarray, shape (m, 3)
        In the field's axes, to two bonds around the atoms [angstrom].
    index : ndarray, int, shape (n,)
        The point of each atom.
    spread : float
        Rms distance of the atoms from their points along one axis [angstrom].

    Raises
    ------
    InputError
        If the atoms do not lie on one lattice.
    """
    start = p[np.argmin(((p - p.mean(0)) ** 2).sum(1))]
    reach = float(np.linalg.norm(p - start, axis=1).max()) + 2 * lattice.bond
    ideal = turn.apply(lattice.sites(reach))
    best = None
    for first in turn.apply(lattice.basis @ lattice.cell):  # which atom of the cell the first one is, is not known
        shift = start - first
        for _ in range(3):  # the first atom is displaced too
            away, at = cKDTree(ideal + shift).query(p)
            shift = shift + (p - ideal[at] - shift).mean(0)
        if best is None or away.mean() < best[0]:
            best = float(away.mean()), shift
    points = ideal + best[1]
    points = points[cKDTree(p).query(points)[0] < 2 * lattice.bond]
    away, index = cKDTree(points).query(p)
    if away.max() > lattice.bond / 2 or len(np.unique(index)) < len(index):
        raise InputError(f"atoms lie up to {away.max():.2f} angstrom from the lattice of their metal; expected one "
                         "grain whose atoms are displaced by much less than half a bond, as by "
                         "particles.thermal_displacement [0.07, 0.1]")
    return points, index, float(np.sqrt((away**2).mean() / 3))


@dataclass(frozen=True, eq=False)
class Grid:
    """Points of a lattice, in columns along an axis, and which of them have an atom."""

    links: csr_array
    bond: float
    column: np.ndarray
    height: np.ndarray
    centres: np.ndarray
    near: np.ndarray
    there: np.ndarray

    @staticmethod
    def of(points: np.ndarray, index: np.ndarray, direction: np.ndarray, lattice: Lattice) -> Grid:
        """Sort points into columns."""
        column = column_ids(points, direction) - 1
        across = np.linalg.svd(direction[None])[2][1:]
        flat, total = points @ across.T, np.bincount(column)
        centres = np.stack([np.bincount(column, c) for c in flat.T], 1) / total[:, None]
        i, j = cKDTree(points).query_pairs(BOND * lattice.bond, output_type="ndarray").T
        both = np.concatenate([i, j]), np.concatenate([j, i])
        links = coo_array((np.ones(2 * len(i), np.int16), both), shape=(len(points),) * 2).tocsr()
        near = np.linalg.norm(centres[:, None] - centres, axis=2) < REACH * lattice.bond
        np.fill_diagonal(near, False)
        there = np.zeros(len(points), bool)
        there[index] = True
        return Grid(links, BOND * lattice.bond, column, points @ direction, centres, near, there)

    def peeled(self, rng: np.random.Generator) -> list[int]:
        """Columns that can leave the core, as `surface_sites` says."""
        full = np.zeros(len(self.centres), bool)
        full[self.column[self.there]] = True
        outline = np.flatnonzero(full & (self.near & ~full).any(1))
        away = self.centres[outline] - self.centres[full].mean(0)
        outline = outline[np.argsort(np.arctan2(*away.T))]  # whatever the numbers of the columns are
        outline = outline[np.lexsort((rng.random(len(outline)), (self.near & full)[outline].sum(1)))]
        core, taken = self.there.copy(), []
        weak = core & (self.links @ core.astype(np.int16) < HOLD)
        for c in outline:
            left = core & (self.column != c)
            own = self.links @ left.astype(np.int16)
            if (left & (own < HOLD) & ~weak).any() or not left.any() or not self.one_piece(left):
                continue
            if all(len(self.filling(k, own)) for k in (c, *taken)):
                core = left
                taken.append(int(c))
        return taken

    def one_piece(self, some: np.ndarray) -> bool:
        """Whether these points hang together."""
        at = np.flatnonzero(some)
        return connected_components(self.links[at][:, at], directed=False)[0] == 1

    def filling(self, column: int, own: np.ndarray) -> np.ndarray:
        """Places of a column (points) in the order in which they are filled, where that is possible.

        Each finds a hold when its turn comes, see `surface_sites`. What is there in the particle comes first.

        Parameters
        ----------
        column : int
        own : ndarray, int
            Neighbours in the core of each point.
        """
        at = np.flatnonzero(self.column == column)
        at = at[np.argsort(self.height[at])]
        hold, mine = own[at], self.there[at]
        touch = np.diff(self.height[at]) < self.bond
        first = np.flatnonzero(hold >= HOLD) if not mine.any() else np.flatnonzero((hold >= HOLD) & mine)
        if not len(first):
            return at[:0]
        if not mine.any():  # the longest run of good places
            runs = np.split(first, np.flatnonzero(np.diff(first) > 1) + 1)
            first = max(runs, key=len)
        middle = self.height[at[mine if mine.any() else first]].mean()
        away = np.round(np.abs(self.height[at] - middle), 3)
        low = high = first[np.argmin(away[first])]
        order = [low]
        while True:
            ends = [k for k, gap in ((low - 1, low - 1), (high + 1, high)) if 0 <= k < len(at)
                    and (hold[k] >= HOLD or (hold[k] >= LEAST_CORE and touch[gap]))]
            if not ends:
                break
            order.append(min(ends, key=lambda k: (not mine[k], away[k], k)))
            low, high = min(low, order[-1]), max(high, order[-1])
        return at[order] if mine[order[:mine.sum()]].all() and len(order) >= mine.sum() else at[:0]


def ordered(runs: list[tuple], grid: Grid, n_sites: int | None, rng: np.random.Generator) -> list[tuple]:
    """Sort sites by the angle about the middle, and keep so many around one of them."""
    centres = np.array([grid.centres[c] for c, *_ in runs])
    first = rng.integers(len(runs))
    if n_sites is not None and n_sites < len(runs):
        kept = np.argsort(np.linalg.norm(centres - centres[first], axis=1), kind="stable")[:n_sites]
        runs, centres = [runs[k] for k in kept], centres[kept]
    middle = np.array([grid.centres[c] for c in np.unique(grid.column[grid.there])]).mean(0)
    order = np.argsort(np.arctan2(*(centres - middle).T), kind="stable")
    return [runs[k] for k in order]


def assembled(particle: Cluster, points: np.ndarray, index: np.ndarray, spread: float, grid: Grid, runs: list[tuple],
              atoms: tuple[int, int | None], rng: np.random.Generator) -> SurfaceSites:
    """Put the particle and the places of its sites together."""
    low, high = atoms[0], atoms[1]
    owner = np.full(len(points), -1)
    owner[index] = np.arange(len(particle))
    site, rank = np.full(len(particle), -1), np.zeros(len(particle), int)
    number, room, added, more = [], [], [], []
    last = int(particle.column.max())
    for s, (_, native, run) in enumerate(runs):
        mine = owner[run]
        site[mine[mine >= 0]], rank[mine[mine >= 0]] = s, np.flatnonzero(mine >= 0)
        room.append(len(run))
        most = min(high or len(run), len(run))
        number.append(int((mine >= 0).sum()) if native else int(rng.integers(min(low, most), most + 1)))
        if native:
            of = int(particle.column[mine[mine >= 0][0]])
        else:
            last, of = last + 1, last + 1
        for k in np.flatnonzero(mine < 0):
            added.append(points[run[k]])
            more.append((s, k, of))
    new = np.array(added).reshape(-1, 3) + rng.normal(0, spread, (len(added), 3))
    sites, ranks, columns = np.array(more, int).reshape(-1, 3).T
    cluster = Cluster(np.concatenate([particle.numbers, np.full(len(new), particle.numbers[0])]),
                      np.concatenate([particle.positions, new]),
                      np.concatenate([particle.column, columns]).astype(np.int32), info=particle.info)
    at = [c for c, *_ in runs]
    return SurfaceSites(cluster, np.concatenate([site, sites]), np.concatenate([rank, ranks]),
                        np.array([n for _, n, _ in runs]), np.array(number), np.array(room),
                        grid.near[np.ix_(at, at)])
