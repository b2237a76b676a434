"""Found columns of atoms against the true ones: matched one to one, counted, and their errors.

What is counted: a found and a true column belong together where they are matched within the radius.
True columns of fewer than ``least`` atoms are not asked for: they are neither hit nor miss, and what is
matched to one is neither hit nor false. Columns near the border of the frame are left out: a pair
goes with its true column, what is found without one goes with its own place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..core.errors import InputError

__all__ = ["LEAST_ATOMS", "RADIUS", "ColumnMatches", "f1_score", "match_columns", "match_points", "neighbour_spacing",
           "places_of_false", "pulls", "rms_error", "surface_columns"]

RADIUS = 0.5  # angstrom: a found column is the true one up to here
LEAST_ATOMS = 2  # columns of fewer atoms are not asked for
#: neighbours lie within this many nearest distances; of a square net the diagonal is 1.41, of the [110] net of an fcc
#: crystal the second distance 1.15 and the third 1.63
NEIGHBOURS = 1.3
INNER_SHARE = 0.1  # of the columns have at least as many neighbours as one inside
NEAR = 2.0  # nearest distances: farther from every true column is off the particle
PLACES = ("surface", "inside", "away")


def match_points(found: np.ndarray, true: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """Match points one to one: as many pairs as can be and, among those, the least squared distances.

    Parameters
    ----------
    found, true : ndarray, shapes (n, 2) and (m, 2)
        Positions (y, x).
    radius : float
        Largest distance of a pair.

    Returns
    -------
    ndarray of int, shape (pairs, 2)
        Rows of ``found`` and of ``true``, in the order of ``true``.

    Notes
    -----
    The Hungarian method, group by group of what lies within reach of each other: thousands of
    columns take milliseconds, since nearly all groups are one found and one true column.

    Examples
    --------
    A nearest-neighbour search would give both found points to the first true one.

    >>> match_points(np.array([[0.0, 0.1], [0.0, 0.4]]), np.array([[0.0, 0.0], [0.0, 0.8]])).tolist()
    [[0, 0], [1, 1]]
    """
    found, true = _points(found, "found"), _points(true, "true")
    if not (np.isfinite(radius) and radius > 0):
        raise InputError(f"radius is {radius!r}; expected a positive length, as 0.5")
    if not len(found) or not len(true):
        return np.zeros((0, 2), np.int64)
    near = cKDTree(found).sparse_distance_matrix(cKDTree(true), radius, output_type="ndarray")
    i, j, distance = near["i"].astype(np.int64), near["j"].astype(np.int64), near["v"]
    n, m = len(found), len(true)
    _, label = connected_components(coo_array((np.ones(len(i)), (i, n + j)), shape=(n + m, n + m)), directed=False)
    group = label[i]
    alone = np.bincount(group, minlength=1)[group] == 1 if len(i) else np.zeros(0, bool)
    pairs = [np.stack([i[alone], j[alone]], 1)]
    order = np.flatnonzero(~alone)[np.argsort(group[~alone], kind="stable")]
    pairs += [_assign(i[rows], j[rows], (distance[rows] / radius) ** 2)
              for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1)]
    out = np.concatenate(pairs)
    return out[np.argsort(out[:, 1], kind="stable")]


def _assign(i: np.ndarray, j: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Pairs of one group; costs are 1 at most."""
    (a, row), (b, column) = (np.unique(k, return_inverse=True) for k in (i, j))
    worth = np.zeros((len(a), len(b)))
    # one more pair is worth more than all distances together
    worth[row, column] = 1 + (1 - cost) / (1 + min(worth.shape))
    p, q = linear_sum_assignment(worth, maximize=True)
    good = worth[p, q] > 0
    return np.stack([a[p[good]], b[q[good]]], 1)


def _points(points: np.ndarray, name: str) -> np.ndarray:
    out = np.asarray(points, dtype=np.float64)
    out = out.reshape(-1, 2) if out.size == 0 else out
    if out.ndim != 2 or out.shape[1] != 2 or not np.isfinite(out).all():
        raise InputError(f"{name} has the shape {np.shape(points)} and {int((~np.isfinite(out)).sum())} values that "
                         f"are not finite; expected positions (n, 2), y before x")
    return out


@dataclass(frozen=True, eq=False)
class ColumnMatches:
    """Found columns of one frame against the true ones; what lies near the border is in none of the arrays.

    Attributes
    ----------
    pairs : ndarray of int, shape (n, 2)
        Rows (found, true) of all pairs, those with columns of few atoms too.
    asked : ndarray of bool, shape (n,)
        Which of them count: the true column has atoms enough.
    false : ndarray of int
        Rows of found columns that belong to no true one.
    missed : ndarray of int
        Rows of true columns with atoms enough that nothing belongs to.
    unasked : ndarray of int
        Rows of true columns with too few atoms that nothing belongs to.
    error : ndarray, shape (n, 2)
        Found minus true position (y, x) of the pairs.
    """

    pairs: np.ndarray
    asked: np.ndarray
    false: np.ndarray
    missed: np.ndarray
    unasked: np.ndarray
    error: np.ndarray

    @property
    def counts(self) -> tuple[int, int, int]:
        """Hits, false columns and misses."""
        return int(self.asked.sum()), len(self.false), len(self.missed)

    @property
    def precision(self) -> float:
        """Hits over hits and false columns; nan where nothing was found."""
        hits, false, _ = self.counts
        return hits / (hits + false) if hits + false else float("nan")

    @property
    def recall(self) -> float:
        """Hits over hits and misses; nan where there is nothing to find."""
        hits, _, missed = self.counts
        return hits / (hits + missed) if hits + missed else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; nan where there is nothing to find and nothing was found."""
        return f1_score(self.counts)

    @property
    def rms(self) -> float:
        """Root mean square distance of the hits from the truth."""
        return rms_error(self.error[self.asked])


def f1_score(counts: Sequence[float]) -> float:
    """F1 = 2 hits / (2 hits + false + missed) of counts (hits, false, missed); nan without any."""
    hits, false, missed = (float(c) for c in counts)
    return 2 * hits / (2 * hits + false + missed) if hits + false + missed else float("nan")


def match_columns(found: np.ndarray, true: np.ndarray, atoms: np.ndarray | None = None, *, radius: float = RADIUS,
                  least: int = LEAST_ATOMS, extent: tuple[float, float] | None = None,
                  margin: float = 0.0) -> ColumnMatches:
    """Match the found columns of one frame with the true ones, one to one.

    Parameters
    ----------
    found, true : ndarray, shapes (n, 2) and (m, 2)
        Positions (y, x) [angstrom].
    atoms : ndarray of int, shape (m,), optional
        Of each true column; without, all count.
    radius : float
        [angstrom]
    least : int
        Columns of fewer atoms are neither hit nor miss, nor is what is matched to one a hit or false.
    extent : (float, float), optional
        Place of the last pixel of the frame (y, x) [angstrom]; the first is at 0. Needed for a margin.
    margin : float
        Columns nearer to the border than this [angstrom] are left out; a pair is where its true column
        is, so that none is torn apart.

    Returns
    -------
    ColumnMatches

    Raises
    ------
    InputError
        If the shapes do not fit, or a margin comes without the extent.

    Examples
    --------
    >>> true = np.array([[5.0, 5.0], [5.0, 8.0], [8.0, 5.0]])
    >>> m = match_columns(true[:2] + 0.1, true, np.array([4, 1, 3]))
    >>> m.counts, round(m.f1, 3), round(m.rms, 3)
    ((1, 0, 1), 0.667, 0.141)
    """
    found, true = _points(found, "found"), _points(true, "true")
    atoms = np.full(len(true), least) if atoms is None else np.asarray(atoms)
    if atoms.shape != (len(true),):
        raise InputError(f"found {atoms.shape} numbers of atoms for {len(true)} columns; expected one a column")
    if margin and extent is None:
        raise InputError(f"margin is {margin:g} angstrom and extent is None; expected extent=(y, x), the place of the "
                         f"last pixel")
    pairs = match_points(found, true, radius)

    def within(points: np.ndarray) -> np.ndarray:
        if extent is None:
            return np.ones(len(points), bool)
        return ((points >= margin) & (points <= np.asarray(extent) - margin)).all(1)

    inside = within(true)
    lonely = [np.setdiff1d(np.arange(len(p)), pairs[:, k]) for k, p in enumerate((found, true))]
    pairs = pairs[inside[pairs[:, 1]]]
    false, alone = lonely[0][within(found[lonely[0]])], lonely[1][inside[lonely[1]]]
    enough = atoms >= least
    return ColumnMatches(pairs, enough[pairs[:, 1]], false, alone[enough[alone]], alone[~enough[alone]],
                         found[pairs[:, 0]] - true[pairs[:, 1]])


def rms_error(error: np.ndarray) -> float:
    """Root mean square length of errors (n, 2); nan of none. That along one axis is smaller by the root of 2."""
    return float(np.sqrt((error**2).sum(1).mean())) if len(error) else float("nan")


def pulls(error: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """Errors over what was stated as their standard deviation: of a right statement their spread is 1.

    Parameters
    ----------
    error, stated : ndarray, shape (n, 2)
        Found minus true, and stated standard deviations (y, x) [angstrom].

    Returns
    -------
    ndarray, shape (2 k,)
        Both coordinates of the columns whose statement is finite and positive.

    Examples
    --------
    >>> pulls(np.array([[0.1, -0.2], [0.3, 0.1]]), np.array([[0.1, 0.1], [np.nan, 0.1]]))
    array([ 1., -2.])
    """
    good = (np.isfinite(stated) & (stated > 0)).all(1)
    return (error[good] / stated[good]).ravel()


def neighbour_spacing(points: np.ndarray, period: tuple[float, float] | None = None) -> float:
    """Median distance from the nearest neighbour; nan of fewer than two points."""
    points = _points(points, "points")
    if len(points) < 2:
        return float("nan")
    tree, at = _tree(points, period)
    return float(np.median(tree.query(at, k=2)[0][:, 1]))


def _tree(points: np.ndarray, period: tuple[float, float] | None) -> tuple[cKDTree, np.ndarray]:
    if period is None:
        return cKDTree(points), points
    at = np.mod(points, period)
    at = np.where(at >= period, 0.0, at)  # the remainder of a tiny negative number is the period itself
    return cKDTree(at, boxsize=period), at


def surface_columns(points: np.ndarray, group: np.ndarray | None = None, *,
                    period: tuple[float, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Say which columns are at the rim of their projected lattice.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        True positions (y, x) [angstrom], of columns of any number of atoms.
    group : ndarray of int, shape (n,), optional
        Particle that each belongs to; neighbours are counted within a particle.
    period : (float, float), optional
        Of a periodic field (y, x) [angstrom].

    Returns
    -------
    surface : ndarray of bool, shape (n,)
        Fewer neighbours than a column inside the same particle.
    spacing : ndarray, shape (n,)
        Median nearest distance in its particle [angstrom]; nan of a single column.

    Notes
    -----
    Neighbours lie within 1.3 of the median nearest distance: six in the [110] and [111] nets of fcc, four
    in that of [100]. Inside there are as many as at least a tenth of the columns have, so that a place
    where lattices overlap does not set the number.

    Examples
    --------
    >>> yx = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0), indexing="ij"), -1).reshape(-1, 2)
    >>> surface_columns(yx)[0].reshape(4, 4).astype(int)[1].tolist()
    [1, 0, 0, 1]
    """
    points = _points(points, "points")
    group = np.zeros(len(points), int) if group is None else np.asarray(group)
    surface, spacing = np.ones(len(points), bool), np.full(len(points), np.nan)
    for one in np.unique(group):
        rows = np.flatnonzero(group == one)
        near = neighbour_spacing(points[rows], period)
        spacing[rows] = near
        if np.isnan(near):
            continue
        tree, at = _tree(points[rows], period)
        number = tree.query_ball_point(at, NEIGHBOURS * near, return_length=True) - 1
        inside = np.sort(number)[::-1][int(INNER_SHARE * len(number))]
        surface[rows] = number < inside
    return surface, spacing


def places_of_false(found: np.ndarray, true: np.ndarray, surface: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Say where columns that are not there were found.

    Parameters
    ----------
    found : ndarray, shape (n, 2)
        Positions (y, x) of the false columns [angstrom].
    true : ndarray, shape (m, 2)
        All true columns.
    surface, spacing : ndarray, shape (m,)
        From `surface_columns`.

    Returns
    -------
    ndarray of str, shape (n,)
        "surface": within twice its spacing of a true column that is at the surface, or "inside" where
        the nearest is not; "away": off every lattice, on film, in vacuum, or on a particle without columns.

    Examples
    --------
    >>> yx = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0), indexing="ij"), -1).reshape(-1, 2)
    >>> surface, spacing = surface_columns(yx)
    >>> places_of_false(np.array([[2.4, 2.4], [2.0, 5.0], [2.0, 9.0]]), yx, surface, spacing).tolist()
    ['inside', 'surface', 'away']
    """
    found, true = _points(found, "found"), _points(true, "true")
    if not len(found) or not len(true):
        return np.full(len(found), PLACES[2])
    distance, nearest = cKDTree(true).query(found)
    where = np.where(surface[nearest], PLACES[0], PLACES[1])
    reach = NEAR * np.where(np.isfinite(spacing[nearest]), spacing[nearest], 0.0)
    return np.where(distance <= reach, where, PLACES[2])
