"""The nets of spots that a crystal shows along its zone axes, and which of them fits spot pairs that were found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import gcd
from typing import Any

import numpy as np

from .crystal import UnitCell, unit_cell

__all__ = ["MAX_INDEX", "Fit", "ZoneNet", "fit_net", "rank_zones", "zone_nets"]

#: zone axes are looked for up to this index: of cubic crystals, of others (which have more that differ)
MAX_INDEX = (4, 3)
#: smallest spacing of the spots of a net [angstrom]
D_MIN = 1.0
#: error of a spot's place: part of abs(g), for the calibration and for strain, and what noise adds [1/angstrom]
RELATIVE, ABSOLUTE = 0.012, 0.006
#: a spot further from a place of the net than so many errors is not of that net
REACH = 3.0
#: what a pair off the net costs, and a spot of the net inside the farthest pair on it that was not found
#: (natural logarithms of odds; a tilted particle lacks many)
OFF_NET, MISSING = 6.0, 0.6
#: only the most significant pairs are looked at
MAX_PAIRS = 12


@dataclass(frozen=True, eq=False)
class ZoneNet:
    """Reflections of one zone axis as a beam along it shows them.

    Attributes
    ----------
    uvw : tuple of int
        The axis, which stands for all that are equivalent to it.
    hkl : ndarray of int, shape (n, 3)
        Reflections, one of each pair +g, -g, shortest first.
    spots : ndarray, shape (n, 2)
        Their places [1/angstrom]; the rotation in the plane is arbitrary.
    """

    uvw: tuple[int, int, int]
    hkl: np.ndarray
    spots: np.ndarray

    @property
    def name(self) -> str:
        """The axis in brackets, a minus sign before negative indices."""
        return "[" + "".join(str(i) for i in self.uvw) + "]"


def zone_nets(crystal: Any, d_min: float = D_MIN) -> tuple[ZoneNet, ...]:
    """Nets of all zone axes of a crystal with two non-collinear reflections, simplest axes first.

    Axes whose nets are congruent (equivalent ones, and those that no image could tell apart) are one entry.

    Examples
    --------
    >>> [n.name for n in zone_nets("Au")][:5]
    ['[100]', '[110]', '[111]', '[112]', '[310]']
    """
    cell = unit_cell(crystal)
    content = (np.ascontiguousarray(a, np.float64).tobytes() for a in (cell.cell, cell.numbers, cell.places))
    return _nets(*content, cell.periodic, float(d_min))


@lru_cache(maxsize=16)
def _nets(cell: bytes, numbers: bytes, places: bytes, periodic: tuple[bool, bool, bool],
          d_min: float) -> tuple[ZoneNet, ...]:
    """The nets by the content of the cell: asked for every particle of a movie, built once."""
    crystal = UnitCell(np.frombuffer(cell).reshape(3, 3), np.frombuffer(numbers),
                       np.frombuffer(places).reshape(-1, 3), periodic)
    hkl, g, _ = crystal.planes(d_min)
    cubic, found = crystal.is_cubic, {}
    for uvw in sorted(_axes(MAX_INDEX[0 if cubic else 1], cubic), key=lambda a: sum(i * i for i in a)):
        inside = hkl @ np.array(uvw) == 0
        net = _projected(uvw, hkl[inside], g[inside], np.array(uvw) @ crystal.cell)
        if net is not None:
            found.setdefault(_fingerprint(net.spots), net)
    return tuple(found.values())


def _axes(highest: int, cubic: bool) -> Iterator[tuple[int, int, int]]:
    """Directions without a common divisor; of equivalent cubic ones that which is usually named: 110, 310, 112."""
    for uvw in product(range(highest, -highest - 1, -1), repeat=3):
        usual = list(uvw) == sorted(uvw, reverse=0 in uvw) and min(uvw) >= 0 if cubic else True
        if usual and next((i for i in uvw if i), 0) > 0 and gcd(*uvw) == 1:
            yield uvw


def _projected(uvw: tuple[int, int, int], hkl: np.ndarray, g: np.ndarray, axis: np.ndarray) -> ZoneNet | None:
    if len(g) < 4 or np.linalg.matrix_rank(g) < 2:
        return None
    axis = axis / np.linalg.norm(axis)
    order = np.lexsort((*hkl.T[::-1], np.round((g**2).sum(1), 9)))
    hkl, g = hkl[order], g[order]
    e1 = g[0] / np.linalg.norm(g[0])
    spots = np.column_stack([g @ e1, g @ np.cross(axis, e1)]).round(12)
    half = (spots[:, 1] > 0) | ((spots[:, 1] == 0) & (spots[:, 0] > 0))
    return ZoneNet(uvw, hkl[half], spots[half])


def _fingerprint(spots: np.ndarray) -> tuple:
    """What congruent nets share: the lengths, and the angles among the shortest spots."""
    length = np.hypot(*spots.T)
    near = spots[length <= length[min(3, len(length) - 1)] * 1.3]
    dot = np.abs(near @ near.T)
    return (*np.round(length, 4), *np.sort(np.round(dot[np.triu_indices(len(near))], 4)))


@dataclass(frozen=True, eq=False)
class Fit:
    """How one net fits pairs.

    Attributes
    ----------
    net : ZoneNet
    cost : float
        Lower is better; a difference of 1 is a factor e in the odds.
    index : ndarray of int, shape (n,)
        Spot of the net of each pair; -1 where it is off the net.
    missing : int
        Spots of the net, not farther out than the farthest pair on it, that no pair lies on.
    residual : float
        Root mean square distance of the pairs on the net from its places [1/angstrom].
    rotation : float
        That turns the net's own axes to the image's (y, x) [radian].
    mirrored : bool
        Whether the net is seen from behind.
    """

    net: ZoneNet
    cost: float
    index: np.ndarray
    missing: int
    residual: float
    rotation: float
    mirrored: bool

    @property
    def indexed(self) -> int:
        """Number of pairs on the net."""
        return int((self.index >= 0).sum())


def fit_net(net: ZoneNet, g: np.ndarray) -> Fit:
    """Turn a net so that it fits the pairs at ``g`` (n, 2) best; brightest or most significant first."""
    best: Fit | None = None
    length, angle = np.hypot(*net.spots.T), np.arctan2(*net.spots.T[::-1])
    for p in g[:3]:
        k, direction = np.hypot(*p), np.arctan2(p[1], p[0])
        for s in np.flatnonzero(np.abs(length - k) <= REACH * _error(k)):
            for side in (1.0, -1.0):
                this = _at(net, g, direction - side * angle[s], side)
                if best is None or this.cost < best.cost:
                    best = this
    return best or Fit(net, OFF_NET * len(g), np.full(len(g), -1), 0, float("nan"), 0.0, False)


def _error(k: np.ndarray | float) -> np.ndarray | float:
    return ABSOLUTE + RELATIVE * k


def _at(net: ZoneNet, g: np.ndarray, rotation: float, side: float) -> Fit:
    """The fit near one rotation, which the pairs then correct."""
    error = _error(np.hypot(*g.T))
    for again in (True, False):
        c, s = np.cos(rotation), np.sin(rotation)
        places = (net.spots * [1.0, side]) @ np.array([[c, s], [-s, c]])
        both = np.concatenate([places, -places])
        apart = np.hypot(*(g[:, None] - both[None]).transpose(2, 0, 1))
        nearest = apart.argmin(1)
        distance = apart[np.arange(len(g)), nearest]
        on = distance <= REACH * error
        if again and on.any():  # the angle that the pairs on the net agree on
            at, of = g[on], both[nearest[on]]
            w = 1 / error[on] ** 2
            rotation += float(np.arctan2((w * (of[:, 0] * at[:, 1] - of[:, 1] * at[:, 0])).sum(),
                                         (w * (of * at).sum(1)).sum()))
    index = np.where(on, nearest % len(places), -1)
    length = np.hypot(*net.spots.T)
    used = np.unique(index[on])
    missing = int((length <= length[used].max() * 1.001).sum() - len(used)) if len(used) else 0
    cost = float((0.5 * (distance[on] / error[on]) ** 2).sum() + OFF_NET * (~on).sum() + MISSING * missing)
    residual = float(np.sqrt((distance[on] ** 2).mean())) if on.any() else float("nan")
    return Fit(net, cost, index, missing, residual, float(rotation), side < 0)


def rank_zones(g: np.ndarray, crystal: Any) -> list[Fit]:
    """Fits of all zone axes of a crystal to pairs (n, 2) [1/angstrom], the best first."""
    g = np.asarray(g, dtype=np.float64)[:MAX_PAIRS]
    return sorted((fit_net(net, g) for net in zone_nets(crystal)), key=lambda f: f.cost)
