"""Two-dimensional lattices of points: found from the differences of positions, fitted by least squares."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter
from scipy.spatial import cKDTree

__all__ = ["LatticeFit", "candidate_lattices", "canonical", "fit_lattice", "misorientation", "neighbour_offsets",
           "reduced"]

#: differences are looked at up to so many distances between neighbours
REACH = 3.3
#: samples of a distance between neighbours in the histogram of differences, and its smoothing in such distances
FINE, SMOOTHING = 20, 0.1
#: a peak of the histogram is at least this part of the highest; a lattice vector without a difference costs as much
WEAK = 0.25
#: most peaks that are combined to lattices
MOST_PEAKS = 12
#: lengths that differ by less are equal, when one of several equivalent bases is chosen
EQUAL = 1.04
#: residuals beyond so many deviations do not count (Tukey's biweight)
TUKEY = 4.685


def reduced(vectors: np.ndarray) -> np.ndarray:
    """The two shortest vectors of the lattice of two (rows of a (2, 2) array), after Lagrange and Gauss.

    Examples
    --------
    >>> reduced(np.array([[2.0, 0.0], [7.0, 3.0]])).tolist()
    [[2.0, 0.0], [-1.0, 3.0]]
    """
    u, v = np.asarray(vectors, dtype=np.float64)
    for _ in range(100):
        if u @ u > v @ v:
            u, v = v, u
        n = np.rint((u @ v) / max(u @ u, 1e-300))
        if n == 0:
            break
        v = v - n * u
    return np.stack([u, v])


def canonical(vectors: np.ndarray) -> np.ndarray:
    """One basis for all that span the same lattice, the same for a lattice that noise has changed a little.

    The first vector is that of the shortest which is nearest to +y; the second the shortest that turns
    from it towards +x, and of equal ones that which turns least.

    Examples
    --------
    >>> canonical(np.array([[-2.04, 1.44], [-4.08, 0.0]])).round(2).tolist()
    [[2.04, 1.44], [-2.04, 1.44]]
    """
    u, v = reduced(vectors)
    some = np.stack([u, -u, v, -v, u + v, -u - v, u - v, v - u])
    length = np.hypot(*some.T)
    short = some[length <= EQUAL * length.min()]
    away = np.abs(np.arctan2(short[:, 1], short[:, 0]))
    nearest = short[away <= away.min() + 0.02]  # of two at equal angles the one on the side of +x
    u = nearest[np.argmax(nearest[:, 1])]
    cross = u[0] * some[:, 1] - u[1] * some[:, 0]
    turning = cross > 1e-6 * (u @ u)
    some, length = some[turning], length[turning]
    some = some[length <= EQUAL * length.min()]
    return np.stack([u, some[np.argmax(some @ u)]])


def neighbour_offsets(vectors: np.ndarray) -> np.ndarray:
    """Indices (i, j) of the neighbours of a lattice point: six, or four where the lattice is near rectangular.

    Examples
    --------
    >>> len(neighbour_offsets(np.eye(2))), len(neighbour_offsets(np.array([[1.0, 0.0], [0.5, 0.87]])))
    (4, 6)
    """
    u, v = vectors
    diagonals = sorted([(1, -1), (1, 1)], key=lambda d: np.hypot(*(d[0] * u + d[1] * v)))
    short, long = (np.hypot(*(d[0] * u + d[1] * v)) for d in diagonals)
    near = [(1, 0), (0, 1)] + ([diagonals[0]] if long > 1.1 * short else [])
    return np.array([*near, *((-i, -j) for i, j in near)])


def candidate_lattices(points: np.ndarray) -> list[np.ndarray]:
    """Lattices that differences of points repeat with, the best first.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        Positions (y, x).

    Returns
    -------
    list of ndarray, shape (2, 2)
        Vectors as rows, `canonical`; none where no two peaks of the differences are independent.
    """
    if len(points) < 4:
        return []
    tree = cKDTree(points)
    near = float(np.median(tree.query(points, k=2)[0][:, 1]))
    if not near > 0:
        return []
    pairs = tree.query_pairs(REACH * near, output_type="ndarray")
    apart = points[pairs[:, 1]] - points[pairs[:, 0]]
    apart = np.concatenate([apart, -apart]) / near
    density, half = _difference_density(apart)
    peaks = _difference_peaks(apart, density, half)
    found: list[tuple[float, np.ndarray]] = []
    for a, b in combinations(range(len(peaks)), 2):
        u, v = peaks[a], peaks[b]
        if abs(u[0] * v[1] - u[1] * v[0]) < 0.35:
            continue
        basis = canonical(np.stack([u, v]))
        if all(np.abs(basis - other).max() > 0.12 for _, other in found):
            found.append((_support(basis, density, half), basis))
    found.sort(key=lambda f: -f[0])
    return [basis * near for score, basis in found if score > 0]


def _difference_density(apart: np.ndarray) -> tuple[np.ndarray, int]:
    half = int(np.ceil((REACH + 0.5) * FINE))
    edges = (np.arange(2 * half + 2) - half - 0.5) / FINE
    count = np.histogram2d(apart[:, 0], apart[:, 1], bins=[edges, edges])[0]
    return gaussian_filter(count, SMOOTHING * FINE, mode="constant"), half


def _difference_peaks(apart: np.ndarray, density: np.ndarray, half: int) -> np.ndarray:
    """The highest peaks in the half plane, at the mean of the differences around them."""
    top = (density == maximum_filter(density, size=FINE // 2 * 2 + 1)) & (density > WEAK * density.max())
    at = (np.argwhere(top) - half) / FINE
    height = density[top]
    right = ((at[:, 0] > 0) | ((at[:, 0] == 0) & (at[:, 1] > 0))) & (np.hypot(*at.T) <= REACH)
    at, height = at[right], height[right]
    at = at[np.argsort(-height, kind="stable")[:MOST_PEAKS]]
    if not len(at):
        return at
    nearest = cKDTree(at).query(apart, distance_upper_bound=2.5 * SMOOTHING)[1]
    use = nearest < len(at)
    n = np.maximum(np.bincount(nearest[use], minlength=len(at)), 1)
    return np.stack([np.bincount(nearest[use], apart[use, k], len(at)) for k in (0, 1)], 1) / n[:, None]


def _support(basis: np.ndarray, density: np.ndarray, half: int) -> float:
    """How much of the differences a lattice explains, less what its vectors without any differences cost."""
    most = int(np.ceil(REACH / max(np.hypot(*basis[0]) * 0.8, 0.3))) + 1
    ij = np.stack(np.meshgrid(*[np.arange(-most, most + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    at = ij @ basis
    length = np.hypot(*at.T)
    at = at[(length <= REACH - 0.3) & (length > 0)]
    value = map_coordinates(density, (at * FINE + half).T, order=1) / density.max()
    return float((value - WEAK).sum())


@dataclass(frozen=True, eq=False)
class LatticeFit:
    """A lattice fitted to points.

    Attributes
    ----------
    vectors, vector_errors : ndarray, shape (2, 2)
        Rows u and v, (y, x) [angstrom], and their standard errors.
    origin, origin_error : ndarray, shape (2,)
        Where i = j = 0 [angstrom].
    residual : ndarray, shape (n, 2)
        Of each point [angstrom].
    rms : float
        Root mean square of the residuals of those that count [angstrom].
    """

    vectors: np.ndarray
    vector_errors: np.ndarray
    origin: np.ndarray
    origin_error: np.ndarray
    residual: np.ndarray
    rms: float


def fit_lattice(ij: np.ndarray, points: np.ndarray, weight: np.ndarray | None = None) -> LatticeFit:
    """Fit origin and vectors to points with known indices, by robust least squares.

    Parameters
    ----------
    ij : ndarray of int, shape (n, 2)
    points : ndarray, shape (n, 2)
        Positions (y, x) [angstrom].
    weight : ndarray, shape (n,), optional
        Inverse variances, in any unit.

    Returns
    -------
    LatticeFit
        Errors are those of the fit: they come from the residuals, so they include strain as if
        it were noise.

    Examples
    --------
    >>> ij = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [2, 1]])
    >>> fit = fit_lattice(ij, ij @ [[2.0, 0.0], [0.0, 3.0]] + 5.0)
    >>> fit.vectors.round(6).tolist(), fit.origin.round(6).tolist()
    ([[2.0, 0.0], [0.0, 3.0]], [5.0, 5.0])
    """
    a = np.column_stack([np.ones(len(ij)), ij])
    w0 = np.ones(len(ij)) if weight is None else weight / weight.mean()
    w, least = w0, 1e-9 * (1 + np.abs(points).max())
    for _ in range(20):
        solved = np.linalg.lstsq(a * np.sqrt(w)[:, None], points * np.sqrt(w)[:, None], rcond=None)[0]
        residual = points - a @ solved
        size = np.hypot(*residual.T) * np.sqrt(w0)
        # the median of a Rayleigh distribution is 1.177 deviations of one coordinate
        scale = max(float(np.median(size)) / 1.1774, least)
        before, w = w, w0 * np.clip(1 - (size / (TUKEY * scale)) ** 2, 0, None) ** 2
        if np.abs(w - before).max() < 1e-6:
            break
    used = w > 0
    share = w / np.maximum(w0, 1e-300)
    freedom = max(float(share.sum()) - 3, 1.0)
    inverse = np.linalg.pinv((a * w[:, None]).T @ a)
    variance = (w[:, None] * residual**2).sum(0) / freedom
    error = np.sqrt(np.diag(inverse)[:, None] * variance)
    rms = float(np.sqrt((residual[used] ** 2).sum(1).mean())) if used.any() else float("nan")
    return LatticeFit(solved[1:], error[1:], solved[0], error[0], residual, rms)


def misorientation(first: np.ndarray, second: np.ndarray) -> float:
    """Smallest angle by which one lattice turns into another [radian]; positive from +y towards +x.

    Lattices look the same after half a turn at least; where vectors are of equal length within 4 %,
    they are taken as equivalent if the turn brings the whole lattice to itself.

    Examples
    --------
    >>> square = np.eye(2)
    >>> turned = square @ [[np.cos(0.2), np.sin(0.2)], [-np.sin(0.2), np.cos(0.2)]]
    >>> round(misorientation(square, turned), 6), round(misorientation(square, square[::-1]), 6)
    (0.2, 0.0)
    """
    def bases(vectors: np.ndarray) -> list[np.ndarray]:
        u, v = reduced(vectors)
        short = [u, v, u + v, u - v]
        short += [-s for s in short]
        lengths = np.hypot(*u), np.hypot(*v)
        return [np.stack([p, q]) for p in short for q in short
                if np.hypot(*p) <= EQUAL * lengths[0] and np.hypot(*q) <= EQUAL * lengths[1]
                and p[0] * q[1] - p[1] * q[0] > 1e-6 * lengths[0] ** 2]

    best, turn = np.inf, 0.0
    for p in bases(first):
        for q in bases(second):
            angle = np.arctan2((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum(), (p * q).sum())
            c, s = np.cos(angle), np.sin(angle)
            misfit = float(np.abs(p @ np.array([[c, s], [-s, c]]) - q).max())
            # a turn that does not fit is no symmetry; among those that fit, the smallest
            cost = abs(angle) + (0 if misfit < 0.12 * np.hypot(*q[0]) else 10 + misfit)
            if cost < best - 1e-9:
                best, turn = cost, float(angle)
    return turn
