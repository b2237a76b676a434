"""Which zone axis of a crystal shows columns on a given lattice, and what its ideal lattice there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .zone_net import D_MIN, rank_zones

__all__ = ["ColumnZone", "name_zone", "same_basis", "turned_onto"]

#: of a given reference lattice: vectors that differ by more than this part of the shortest are of another lattice
FAR = 0.2


@dataclass(frozen=True, eq=False)
class ColumnZone:
    """A zone axis that a lattice of columns fits.

    Attributes
    ----------
    name : str
        Such as [110].
    vectors : ndarray, shape (2, 2)
        Ideal lattice in the indices and near the directions of the one that was given [angstrom].
    mismatch : float
        Length of the given lattice over the ideal one, less 1 (root of the ratio of the areas).
    """

    name: str
    vectors: np.ndarray
    mismatch: float


def name_zone(vectors: np.ndarray, crystal: Any) -> ColumnZone | None:
    """Find the zone axis that has a lattice of columns, by its reciprocal lattice.

    Parameters
    ----------
    vectors : ndarray, shape (2, 2)
        Rows u and v (y, x) [angstrom].
    crystal : str, path or ase.Atoms
        See `kernels.crystal.unit_cell`.

    Returns
    -------
    ColumnZone or None
        None where every spot of no net lies on the reciprocal lattice and the other way round, within 4 %.

    Examples
    --------
    >>> zone = name_zone(np.array([[2.06, 1.45], [2.06, -1.45]]), "Au")
    >>> zone.name, round(zone.mismatch, 2)
    ('[110]', 0.01)
    """
    basis = np.linalg.inv(vectors).T
    most = int(np.ceil(1 / D_MIN * np.hypot(*vectors.T).max() * 1.5)) + 1
    hk = np.stack(np.meshgrid(*[np.arange(-most, most + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    hk = hk[(hk[:, 0] > 0) | ((hk[:, 0] == 0) & (hk[:, 1] > 0))]
    g = hk @ basis
    length = np.hypot(*g.T)
    order = np.argsort(length.round(9), kind="stable")
    # well inside the limit, so that no spot is in one list and beyond the limit of the other
    inside = order[length[order] <= 0.9 / D_MIN]
    if len(inside) < 2:
        return None
    for fit in rank_zones(g[inside], crystal)[:3]:
        if fit.missing or (fit.index < 0).any():
            continue
        c, s = np.cos(fit.rotation), np.sin(fit.rotation)
        spots = (fit.net.spots * [1.0, -1.0 if fit.mirrored else 1.0]) @ np.array([[c, s], [-s, c]])
        both = np.concatenate([spots, -spots])
        used = inside[:len(fit.index)]
        nearest = both[np.hypot(*(g[used][:, None] - both[None]).transpose(2, 0, 1)).argmin(1)]
        ideal = np.linalg.lstsq(hk[used].astype(float), nearest, rcond=None)[0]
        if np.linalg.matrix_rank(hk[used]) < 2 or abs(np.linalg.det(ideal)) < 1e-9:
            continue
        lattice = np.linalg.inv(ideal).T
        scale = np.sqrt(abs(np.linalg.det(vectors) / np.linalg.det(lattice)))
        return ColumnZone(fit.net.name, lattice, float(scale - 1))
    return None


def same_basis(reference: np.ndarray, vectors: np.ndarray) -> np.ndarray | None:
    """The basis of a reference lattice that is nearest to these vectors; None where it is another lattice.

    Examples
    --------
    >>> same_basis(np.array([[0.0, 2.0], [2.0, 0.0]]), np.array([[2.05, 0.0], [0.0, 2.0]])).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    change = np.rint(vectors @ np.linalg.inv(reference))
    near = change @ reference
    if abs(abs(np.linalg.det(change)) - 1) > 1e-6 or np.hypot(*(near - vectors).T).max() > FAR * np.hypot(*vectors[0]):
        return None
    return near


def turned_onto(reference: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The reference turned so that it fits these vectors best (the rotation of the polar decomposition).

    Examples
    --------
    >>> turned_onto(np.eye(2), np.array([[0.0, 1.02], [-1.02, 0.0]])).round(6).tolist()
    [[0.0, 1.0], [-1.0, 0.0]]
    """
    cross = (reference[:, 0] * vectors[:, 1] - reference[:, 1] * vectors[:, 0]).sum()
    angle = np.arctan2(cross, (reference * vectors).sum())
    c, s = np.cos(angle), np.sin(angle)
    return reference @ np.array([[c, s], [-s, c]])
