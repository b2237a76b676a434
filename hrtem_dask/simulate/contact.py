"""How near atoms of different bodies may come, and which of them give way; fields are periodic in x and y."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from .crystals import HOLD, Cluster
from .lattices import bond_of

__all__ = ["CONTACT", "apart", "beyond", "giving_way", "wrapped"]

#: closest atoms of two particles over the distance of nearest neighbours in the metal: grain boundaries are a
#: little denser here and there than the crystal, and no site inside of a crystal is so far from its atoms
CONTACT = 0.8
GAPS = {6: 2.4, 58: 2.7, 42: 2.5}  # angstrom: closest atom of a support or a sheet to a particle, by its number
GAP = 2.1  # angstrom: the others, such as gold to the oxygen of an oxide
FILM_GAP = 2.8  # angstrom: closest atoms of two bodies that no bond holds together, as carbon and a sheet


def wrapped(p: Cluster, box: tuple[float, float]) -> Cluster:
    """Bring x and y back into the field."""
    positions = p.positions.copy()
    positions[:, :2] %= box
    positions[:, :2] = np.where(positions[:, :2] >= box, 0.0, positions[:, :2])  # a tiny negative rounds up
    return p.moved(positions)


def apart(p: Cluster, others: Sequence[Cluster], box: tuple[float, float]) -> Cluster:
    """Drop atoms of a particle that come too close to those of others, as where two grow together.

    Parameters
    ----------
    p : Cluster
        Of a metal; not wrapped, so that its neighbours across the border are known from its own atoms.
    others : sequence of Cluster
        Particles that keep all their atoms.
    box : (float, float)
        Period (x, y) [angstrom].

    Returns
    -------
    Cluster
        Without atoms nearer than `CONTACT` of the larger of the two metals' distances of nearest
        neighbours, to others or to its own images in the next periods. Where it lost some, what
        then hangs on fewer than three atoms goes too, and of several pieces the largest stays.

    Examples
    --------
    >>> row = Cluster.of(np.array([[0, 0, 0], [3.0, 0, 0]]), 79)
    >>> len(apart(row, [row.moved(row.positions + [0, 0, 2.4])], (20.0, 20.0)))
    2
    >>> len(apart(row, [row.moved(row.positions + [18.0, 0, 1.5])], (20.0, 20.0)))
    0
    """
    if not len(p):
        return p
    here, own = wrapped(p, box).positions, bond_of(int(p.numbers.max()))
    pairs = cKDTree(here, boxsize=[*box, 0]).query_pairs(CONTACT * own, output_type="ndarray")
    image = np.linalg.norm(p.positions[pairs[:, 0]] - p.positions[pairs[:, 1]], axis=1) > 2 * own
    keep = np.ones(len(p), bool)
    keep[pairs[image, 1]] = False
    bonds = [bond_of(int(c.numbers.max(initial=0))) for c in others]
    for bond in set(bonds):
        there = np.concatenate([wrapped(c, box).positions for c, b in zip(others, bonds, strict=True) if b == bond])
        reach = CONTACT * max(bond, own)
        keep &= cKDTree(there, boxsize=[*box, 0]).query(here, distance_upper_bound=reach)[0] > reach
    return p if keep.all() else p.kept(held_together(p.positions, keep, 1.2 * own))


def held_together(p: np.ndarray, keep: np.ndarray, reach: float) -> np.ndarray:
    """Say which of the atoms to keep have enough neighbours, and belong to the largest piece."""
    i, j = cKDTree(p).query_pairs(reach, output_type="ndarray").T
    links = coo_array((np.ones(2 * len(i), np.int16), (np.concatenate([i, j]), np.concatenate([j, i]))),
                      shape=(len(p),) * 2).tocsr()
    keep = keep.copy()
    while (loose := keep & (links @ keep.astype(np.int16) < HOLD)).any():
        keep &= ~loose
    at = np.flatnonzero(keep)
    if len(at):
        piece = connected_components(links[at][:, at], directed=False)[1]
        keep[at] = piece == np.bincount(piece).argmax()
    return keep


def giving_way(bases: Sequence[Cluster], particles: Sequence[Cluster], box: tuple[float, float]) -> list[Cluster]:
    """Drop atoms of films, slabs and sheets too close to a particle, or to a film or sheet named later.

    Parameters
    ----------
    bases, particles : sequence of Cluster
        Wrapped into the field.
    box : (float, float)
        Period (x, y) [angstrom].

    Returns
    -------
    list of Cluster
        The bases; formula units go as a whole.
    """
    out: list[Cluster] = []
    for base in reversed(bases):
        gap = np.full(len(base), GAP)
        for number, wanted in GAPS.items():
            gap[base.numbers == number] = wanted
        keep = clear_of(base.positions, gap, particles, box)
        keep &= clear_of(base.positions, np.full(len(base), FILM_GAP), out, box)
        out.append(base.kept(keep))
    return out[::-1]


def clear_of(p: np.ndarray, gap: np.ndarray, bodies: Sequence[Cluster], box: tuple[float, float]) -> np.ndarray:
    """Say which positions keep their gap [angstrom] to all atoms of these bodies."""
    there = [b.positions for b in bodies if len(b)]
    if not there or not len(p):
        return np.ones(len(p), bool)
    tree = cKDTree(np.concatenate(there), boxsize=[*box, 0])
    return tree.query(p, distance_upper_bound=gap.max())[0] > gap


def beyond(p: Cluster, sheet: Cluster, box: tuple[float, float], thickness: float) -> Cluster:
    """Lift a particle that lies on the sheet's side of a film of this thickness [angstrom] off the sheet."""
    middle = thickness / 2
    up = p.positions[:, 2].mean() > middle
    if up != (sheet.positions[:, 2].mean() > middle):
        return p
    d = sheet.positions[:, :2] - p.positions[:, :2].mean(0)
    d = np.hypot(*(d - np.round(d / box) * box).T)
    here = sheet.positions[d < np.ptp(p.positions[:, :2], axis=0).max() / 2, 2]
    if not len(here):
        return p
    lift = max(here.max() + GAP - p.positions[:, 2].min(), 0.0) if up \
        else min(here.min() - GAP - p.positions[:, 2].max(), 0.0)
    return p.moved(p.positions + [0.0, 0.0, lift])
