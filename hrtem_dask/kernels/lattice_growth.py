"""Lattices grown over points from neighbour to neighbour, so that a strained or bent one is followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .lattice_fit import candidate_lattices, canonical, fit_lattice, neighbour_offsets

__all__ = ["MIN_COLUMNS", "TOLERANCE", "Grain", "Raster", "find_grains", "local_fit"]

#: a point is on a lattice if it is within this part of the shortest vector of where its neighbours put it
TOLERANCE = 0.27
#: neighbours up to so many times the root of the cell's area give the local lattice
WINDOW = 2.2
#: growth goes to lattice points up to so many times the longer vector away: the diagonals of a square are among them
SHELL = 1.45
#: weight of the lattice as a whole in the local one: variance of a point's place over that of a local vector
RIDGE = 5.0
#: lattice points next to fewer points of the lattice are not grown to, or next to one, if the point there has so many
#: others where the lattice has neighbours
SUPPORT, OWN_SUPPORT = 2, 3
#: a lattice of fewer columns is none
MIN_COLUMNS = 10
#: mean square distance from the place that the neighbours give, over that of points without order: less than the
#: first at 10 points, than the second at 40 and more (few points lie near a lattice by chance more easily)
DISORDER = (0.2, 0.5)
#: part of the lattice points between others, on opposite sides, that have a point
FILLED = 0.65
#: points whose differences are looked at, at most
ENOUGH = 20_000
#: lattices and starting points that are tried before a rest is said to have no lattice
TRIES, SEEDS = 4, 3


@dataclass(frozen=True, eq=False)
class Grain:
    """A lattice and the points on it.

    Attributes
    ----------
    vectors : ndarray, shape (2, 2)
        Rows u, v (y, x), canonical.
    ij : ndarray of int, shape (n, 2)
        Indices of its points.
    node : ndarray of int, shape (n,)
        Their rows in the table of points.
    """

    vectors: np.ndarray
    ij: np.ndarray
    node: np.ndarray


@dataclass(eq=False)
class Raster:
    """Points by their indices on a lattice: row of the point, -1 where there is none."""

    node: np.ndarray
    corner: np.ndarray

    @classmethod
    def of(cls, ij: np.ndarray, margin: int, node: np.ndarray | None = None) -> Raster:
        """A raster around these indices, with room for the margin; filled where rows are given."""
        corner = ij.min(0) - margin
        raster = cls(np.full(ij.max(0) - corner + 1 + margin, -1, dtype=np.int64), corner)
        if node is not None:
            raster[ij] = node
        return raster

    def __getitem__(self, ij: np.ndarray) -> np.ndarray:
        at = ij - self.corner
        inside = ((at >= 0) & (at < self.node.shape)).all(-1)
        at = np.where(inside[..., None], at, 0)
        return np.where(inside, self.node[at[..., 0], at[..., 1]], -1)

    def __setitem__(self, ij: np.ndarray, node: np.ndarray) -> None:
        at = ij - self.corner
        self.node[at[:, 0], at[:, 1]] = node

    def inside(self, ij: np.ndarray, margin: int) -> np.ndarray:
        """Which indices are in the raster and not in its margin."""
        at = ij - self.corner
        return ((at >= margin) & (at < np.array(self.node.shape) - margin)).all(-1)


def window_of(vectors: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Offsets (i, j) of the lattice points around one, nearest first, that one not among them."""
    if limit is None:
        limit = max(WINDOW * np.sqrt(abs(np.linalg.det(vectors))), SHELL * np.hypot(*vectors[1]))
    most = int(np.ceil(limit / np.hypot(*vectors[0]))) + 2
    ij = np.stack(np.meshgrid(*[np.arange(-most, most + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    length = np.hypot(*(ij @ vectors).T)
    order = np.lexsort((ij[:, 1], ij[:, 0], length.round(6)))
    return ij[order][(length[order] > 0) & (length[order] <= limit)]


def local_fit(raster: Raster, points: np.ndarray, ij: np.ndarray, vectors: np.ndarray,
              ridge: float = RIDGE) -> tuple[np.ndarray, np.ndarray]:
    """Where the neighbours of lattice points put them, from the local lattice through the neighbours.

    Parameters
    ----------
    raster : Raster
        Which lattice points have a point.
    points : ndarray, shape (p, 2)
    ij : ndarray of int, shape (n, 2)
        Lattice points; their own point is not used.
    vectors : ndarray, shape (2, 2)
        Of the lattice as a whole: what is expected where there are few neighbours.
    ridge : float
        How much that counts.

    Returns
    -------
    place : ndarray, shape (n, 2)
        nan without any neighbour.
    neighbours : ndarray of int, shape (n,)
        Points that were used.
    """
    offset = window_of(vectors)
    away = np.hypot(*(offset @ vectors).T)
    taper = np.exp(-0.5 * (away / away.max() * 1.5) ** 2)
    place, count = np.full((len(ij), 2), np.nan), np.zeros(len(ij), np.int64)
    design = np.column_stack([np.ones(len(offset)), offset])
    outer = design[:, :, None] * design[:, None, :]
    for start in range(0, len(ij), 20_000):
        s = slice(start, start + 20_000)
        node = raster[ij[s, None] + offset]
        w = (node >= 0) * taper
        rest = np.where((node >= 0)[..., None], points[node] - offset @ vectors, 0.0)
        centre = rest.sum(1) / np.maximum((node >= 0).sum(1), 1)[:, None]
        normal = np.einsum("mk,kab->mab", w, outer) + np.diag([1e-9, ridge, ridge])
        right = np.einsum("mk,ka,mkc->mac", w, design, rest - centre[:, None])
        count[s] = (node >= 0).sum(1)
        place[s] = np.where(count[s, None] > 0, np.linalg.solve(normal, right)[:, 0] + centre, np.nan)
    return place, count


def find_grains(points: np.ndarray, strong: np.ndarray, *, max_lattices: int = 8,
                min_columns: int = MIN_COLUMNS) -> list[Grain]:
    """Find the lattices that points lie on, the largest first.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        Positions (y, x) [angstrom].
    strong : ndarray of bool, shape (n,)
        Which of them lattices are looked for with; the others may then be on them.
    max_lattices : int
        Most lattices.
    min_columns : int
        Fewest strong points of a lattice.

    Returns
    -------
    list of Grain
        Empty where no lattice explains enough points better than chance.
    """
    grains: list[Grain] = []
    free = np.ones(len(points), bool)
    while len(grains) < max_lattices and (free & strong).sum() >= min_columns:
        best = _best_grain(points, free, strong, min_columns)
        if best is None:
            break
        free[best.node] = False
        grains.append(best)
    return sorted(grains, key=lambda g: (-int(strong[g.node].sum()), -len(g.node)))


def _best_grain(points: np.ndarray, free: np.ndarray, strong: np.ndarray, min_columns: int) -> Grain | None:
    use = np.flatnonzero(free & strong)
    best, most = None, 0
    for vectors in candidate_lattices(_middle(points[use]))[:TRIES]:
        score = _neighbourhood(points[use], vectors)
        for seed in _seeds(points, use, vectors, score):
            grain = _grown(points, np.flatnonzero(free), seed, vectors)
            n = int(strong[grain.node].sum())
            if n >= min_columns and n > most and is_ordered(points, grain, strong):
                best, most = grain, n
            if n > 0.5 * len(use):
                break
        if most > 0.6 * len(use):
            break
    return best


def _middle(at: np.ndarray) -> np.ndarray:
    """The points around the one that is in the middle of their list, where there are more than are needed."""
    if len(at) <= ENOUGH:
        return at
    return at[np.sort(cKDTree(at).query(at[len(at) // 2], k=ENOUGH)[1])]


def _neighbourhood(at: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """How many others are where the lattice has neighbours of a point; each counts less the further off it is."""
    limit = TOLERANCE * np.hypot(*vectors[0])
    places = at[:, None] + neighbour_offsets(vectors) @ vectors
    away = cKDTree(at).query(places.reshape(-1, 2))[0].reshape(len(at), -1)
    return np.clip(1 - (away / limit) ** 2, 0, None).sum(1)


def _seeds(points: np.ndarray, use: np.ndarray, vectors: np.ndarray, score: np.ndarray) -> list[int]:
    """Points with most neighbours where the lattice has them, well apart from each other."""
    seeds: list[int] = []
    for k in np.argsort(-score.round(9), kind="stable"):
        if score[k] < 1 or len(seeds) == SEEDS:
            break
        if all(np.hypot(*(points[use[k]] - points[s])) > 4 * np.hypot(*vectors[1]) for s in seeds):
            seeds.append(int(use[k]))
    return seeds


def _grown(points: np.ndarray, use: np.ndarray, seed: int, vectors: np.ndarray) -> Grain:
    """All points that are reached from one, each where its neighbours on the lattice put it."""
    for again in (True, False):  # the second time with the vectors that the first found
        ij, node = _grow(points, use, seed, vectors)
        if not again or len(ij) < 6 or np.linalg.matrix_rank(ij - ij[0]) < 2:
            break
        better = fit_lattice(ij, points[node]).vectors
        if np.abs(better - vectors).max() > TOLERANCE * np.hypot(*vectors[0]):
            break
        vectors = better
    basis = canonical(vectors)
    change = np.rint(vectors @ np.linalg.inv(basis)).astype(np.int64)
    return Grain(basis, ij @ change, node)


def _grow(points: np.ndarray, use: np.ndarray, seed: int, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    offset = window_of(vectors, SHELL * np.hypot(*vectors[1]))
    limit = TOLERANCE * np.hypot(*vectors[0])
    margin = int(np.abs(window_of(vectors)).max()) + 1
    index = np.rint((points[use] - points[seed]) @ np.linalg.inv(vectors)).astype(np.int64)
    raster = Raster.of(np.stack([index.min(0) * 1.15, index.max(0) * 1.15]).astype(np.int64), margin + 2)
    tree, taken = cKDTree(points[use]), np.zeros(len(points), bool)
    many = np.zeros(len(points), bool)
    many[use] = _neighbourhood(points[use], vectors) > OWN_SUPPORT - 1
    new, least = np.zeros((1, 2), dtype=np.int64), 1
    raster[new] = np.array([seed])
    taken[seed] = True
    cells, nodes = [new], [np.array([seed])]
    while len(new):
        ij = np.unique((new[:, None] + offset).reshape(-1, 2), axis=0)
        ij = ij[raster.inside(ij, margin) & (raster[ij] < 0)]
        support = (raster[ij[:, None] + offset] >= 0).sum(1)
        place = local_fit(raster, points, ij, vectors)[0]
        away, nearest = tree.query(place) if len(ij) else (np.zeros(0), np.zeros(0, np.int64))
        node = use[nearest]
        ok = (away <= limit) & ~taken[node] & ((support >= least) | many[node])
        order = np.flatnonzero(ok)[np.argsort(away[ok], kind="stable")]
        order = order[np.unique(node[order], return_index=True)[1]]  # the lattice point nearest to each point
        new, node = ij[order], node[order]
        raster[new], taken[node], least = node, True, SUPPORT
        cells.append(new)
        nodes.append(node)
    return np.concatenate(cells), np.concatenate(nodes)


def is_ordered(points: np.ndarray, grain: Grain, strong: np.ndarray) -> bool:
    """Whether points are where their neighbours put them, and nowhere near that often by chance."""
    keep = strong[grain.node]
    ij, node = grain.ij[keep], grain.node[keep]
    raster = Raster.of(ij, 4, node)
    place, _ = local_fit(raster, points, ij, grain.vectors)
    limit = TOLERANCE * np.hypot(*grain.vectors[0])
    away = np.hypot(*(points[node] - place).T) / limit
    disorder = float(np.nanmean(np.clip(away, 0, 1.5) ** 2)) / 0.5  # evenly over the disc, the mean square is 1/2
    most = np.interp(len(ij), (MIN_COLUMNS, 40), DISORDER)
    return disorder < most and filled(raster, grain.vectors) >= FILLED


def filled(raster: Raster, vectors: np.ndarray) -> float:
    """Part of the lattice points between others, on opposite sides, that have a point themselves."""
    near = neighbour_offsets(vectors)
    there = raster.node >= 0
    pad = np.pad(there, 1)
    shifted = [pad[1 + i:pad.shape[0] - 1 + i, 1 + j:pad.shape[1] - 1 + j] for i, j in near]
    half = len(near) // 2
    between = np.any([a & b for a, b in zip(shifted[:half], shifted[half:], strict=True)], axis=0)
    return float(there[between].mean()) if between.any() else 0.0
