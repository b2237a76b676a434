"""Link particles from frame to frame: drift of the field, then one to one by overlap.

Frames come one after the other; all that is remembered is `Tracks`, the last sight of each
particle, so a movie of any length needs the memory of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from .lattice_turn import Lattices

__all__ = ["LinkRules", "Sight", "Tracks", "drift_of", "link_frame", "pair_up"]

#: at most so many of the largest particles vote on the drift
VOTERS = 100
#: a jump of the field by more than a particle's radius needs so many votes, and those of half the particles
JUMP_VOTES = 3
#: votes that agree up to this part of the median diameter are one, but never below [angstrom]
VOTE_WIDTH, LEAST_WIDTH = 0.2, 1.5
#: what a link without any overlap is worth at most; one with full overlap is worth 1
NEAR = 0.1
#: allowed ratio of areas where the border of the frame cuts a particle, as a multiple of the usual one
CUT = 2.0


@dataclass(frozen=True)
class LinkRules:
    """Limits of a link.

    Attributes
    ----------
    memory : int
        Frames of the table in which a particle may be missing.
    max_distance : float or None
        Distance without drift [angstrom], or the mean radius of the two.
    max_size_ratio : float
        Larger over smaller area.
    max_turn : float
        Rotation of the lattice from one frame to the next [radian].
    """

    memory: int = 3
    max_distance: float | None = None
    max_size_ratio: float = 1.7
    max_turn: float = np.deg2rad(15.0)


@dataclass(frozen=True)
class Sight:
    """The particles of one frame: positions [angstrom], areas [angstrom^2], and pairs for `Lattices`."""

    at: np.ndarray
    area: np.ndarray
    cut: np.ndarray
    angle: np.ndarray
    spacing: np.ndarray


@dataclass
class Tracks:
    """What is remembered from frame to frame.

    Attributes
    ----------
    step : int
        Frames seen.
    count : int
        Tracks begun.
    drift : ndarray, shape (2,)
        Of the field in the last frame [angstrom].
    number, at, area, cut, last : ndarray, shape (n, ...)
        Of each track that can go on: its number, position without drift, area, whether the border
        cut it, and the step of its last sight.
    lattices : Lattices
        Of the same tracks.
    """

    step: int = 0
    count: int = 0
    drift: np.ndarray = field(default_factory=lambda: np.zeros(2))
    number: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    at: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    area: np.ndarray = field(default_factory=lambda: np.zeros(0))
    cut: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    last: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    lattices: Lattices = field(default_factory=Lattices)

    def taken(self, rows: np.ndarray) -> Tracks:
        """The tracks of these rows, in this order."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self)
                  if f.name in ("number", "at", "area", "cut", "last")}
        return Tracks(self.step, self.count, self.drift, **arrays, lattices=self.lattices.taken(rows))


def link_frame(tracks: Tracks, sight: Sight, rules: LinkRules) -> tuple[Tracks, np.ndarray, np.ndarray]:
    """Go on with one frame.

    Parameters
    ----------
    tracks : Tracks
        From the frames before; ``Tracks()`` at first.
    sight : Sight
        The frame's particles.
    rules : LinkRules
        Limits.

    Returns
    -------
    tracks : Tracks
        With this frame; its ``drift`` is that of this frame.
    number : ndarray of int64, shape (n,)
        Track of each particle.
    rotation : ndarray, shape (n,)
        Of each particle's lattice since it was first seen on its track [radian]; nan where unknown.
    """
    n = len(sight.area)
    tracks = tracks.taken(np.flatnonzero(tracks.step - tracks.last <= rules.memory + 1))
    drift = drift_of(tracks, sight)
    old, new = pair_up(tracks, sight, sight.at - drift, tracks.step - tracks.last, rules)
    good = ~(tracks.cut[old] | sight.cut[new])
    if good.any():  # the border shifts the centre of what it cuts
        drift = _centre(sight.at[new[good]] - tracks.at[old[good]], drift)
    number = np.full(n, -1, np.int64)
    number[new] = tracks.number[old]
    begun = np.flatnonzero(number < 0)
    number[begun] = tracks.count + np.arange(begun.size)
    before = np.full(n, -1)
    before[new] = old
    lattices, rotation = tracks.lattices.follow(before, sight.angle, sight.spacing, tracks.step, rules.max_turn)
    lost = tracks.taken(np.setdiff1d(np.arange(tracks.number.size), old))
    return Tracks(
        tracks.step + 1, tracks.count + begun.size, drift,
        np.concatenate([number, lost.number]), np.concatenate([sight.at - drift, lost.at]),
        np.concatenate([sight.area, lost.area]), np.concatenate([sight.cut, lost.cut]),
        np.concatenate([np.full(n, tracks.step), lost.last]), lattices.joined(lost.lattices)), number, rotation


def drift_of(tracks: Tracks, sight: Sight) -> np.ndarray:
    """Where the field has drifted to, by votes: every particle with every track of like size.

    Particles that come, leave or wander on their own vote for drifts that no other supports. Where
    fewer than `JUMP_VOTES` agree, the field is taken to be where it was, but for a particle's radius.

    Returns
    -------
    ndarray, shape (2,)
        Drift (y, x) of this frame [angstrom].
    """
    a, b = _voters(tracks.area, tracks.cut), _voters(sight.area, sight.cut)
    if not a.size or not b.size:
        return tracks.drift
    move = (sight.at[b][:, None] - tracks.at[a][None] - tracks.drift).reshape(-1, 2)
    alike = np.abs(np.log(sight.area[b][:, None] / tracks.area[a][None])).ravel() < np.log(1.5)
    move = move[alike]
    if not len(move):
        return tracks.drift
    radius = float(np.sqrt(np.median(sight.area[b]) / np.pi))
    width, enough = max(VOTE_WIDTH * radius, LEAST_WIDTH), min(a.size, b.size) / 2
    near = move[np.hypot(*move.T) <= radius]
    shift, votes = _vote(near, width)
    if votes < enough:
        jump, far = _vote(move, width)
        if far >= max(JUMP_VOTES, enough) and far > votes:
            shift = jump
    return tracks.drift + shift


def _vote(move: np.ndarray, width: float) -> tuple[np.ndarray, int]:
    """The displacement that most agree with, of equals the smallest, as their mean; and how many they are."""
    if not len(move):
        return np.zeros(2), 0
    tree = cKDTree(move)
    votes = tree.query_ball_point(move, width, return_length=True)
    best = np.lexsort((np.hypot(*move.T), -votes))[0]
    return move[tree.query_ball_point(move[best], width)].mean(0), int(votes[best])


def _centre(move: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Robust mean of displacements (n, 2): Tukey's biweight, from the guess."""
    if len(move) < 3:  # no majority: as good as any
        return move.mean(0)
    centre = np.median(move, axis=0)
    for _ in range(5):
        away = np.hypot(*(move - centre).T)
        scale = max(1.4826 * float(np.median(away)), 1e-6)
        weight = np.clip(1 - (away / (5 * scale)) ** 2, 0, None) ** 2
        centre = weight @ move / weight.sum()
    return centre


def pair_up(tracks: Tracks, sight: Sight, at: np.ndarray, age: np.ndarray,
            rules: LinkRules) -> tuple[np.ndarray, np.ndarray]:
    """Assign particles to tracks one to one, so that all overlaps together are largest.

    Parameters
    ----------
    tracks : Tracks
        Those that may go on.
    sight : Sight
        The frame's particles.
    at : ndarray, shape (n, 2)
        Their positions without drift [angstrom].
    age : ndarray of int
        Frames since the last sight of each track, from 1; the distance allowed grows with its root, as in diffusion.
    rules : LinkRules
        Limits.

    Returns
    -------
    old, new : ndarray of int
        Rows of the tracks, and of the particles that continue them.

    Notes
    -----
    The overlap is that of discs of the same areas, over their union. Particles that nothing else
    could be are assigned as they are; for the others, group by group, the Hungarian method.
    """
    nothing = np.zeros(0, np.int64)
    if not len(at) or not len(tracks.at):
        return nothing, nothing
    r_old, r_new = np.sqrt(tracks.area / np.pi), np.sqrt(sight.area / np.pi)
    grow = np.sqrt(age)
    widest = rules.max_distance or (r_old.max() + r_new.max()) / 2
    close = cKDTree(tracks.at).sparse_distance_matrix(cKDTree(at), widest * grow.max(), output_type="ndarray")
    old, new, distance = close["i"], close["j"], close["v"]
    limit = grow[old] * (rules.max_distance or (r_old[old] + r_new[new]) / 2)
    ratio = np.exp(np.abs(np.log(tracks.area[old] / sight.area[new])))
    allowed = np.where(tracks.cut[old] | sight.cut[new], CUT, 1.0) * rules.max_size_ratio
    keep = (distance <= limit) & (ratio <= allowed)
    old, new, distance = old[keep], new[keep], distance[keep]
    worth = _overlap(distance, r_old[old], r_new[new]) + NEAR * (1.01 - distance / limit[keep])
    return _assign(old, new, worth / np.sqrt(grow[old]))


def _overlap(distance: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap of two discs of radii a and b over their union."""
    d = np.clip(distance, np.abs(a - b) + 1e-9, None)
    alpha = np.arccos(np.clip((d**2 + a**2 - b**2) / (2 * d * a), -1, 1))
    beta = np.arccos(np.clip((d**2 + b**2 - a**2) / (2 * d * b), -1, 1))
    both = a**2 * (alpha - np.sin(2 * alpha) / 2) + b**2 * (beta - np.sin(2 * beta) / 2)
    both = np.where(distance >= a + b, 0.0, both)
    return both / (np.pi * (a**2 + b**2) - both)


def _assign(old: np.ndarray, new: np.ndarray, worth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One to one with the largest sum of worth, group by group of what is connected."""
    if np.unique(old).size == np.unique(new).size == old.size:
        return old, new
    n, m = int(old.max()) + 1, int(new.max()) + 1
    groups, label = connected_components(coo_matrix((np.ones(old.size), (old, n + new)), (n + m, n + m)),
                                         directed=False)
    group = label[old]
    alone = np.bincount(group, minlength=groups)[group] == 1
    found = [np.stack([old[alone], new[alone]])]
    for one in np.unique(group[~alone]):
        rows = group == one
        (i, a), (j, b) = (np.unique(x[rows], return_inverse=True) for x in (old, new))
        table = np.zeros((i.size, j.size))
        table[a, b] = worth[rows]
        p, q = linear_sum_assignment(table, maximize=True)
        real = table[p, q] > 0
        found.append(np.stack([i[p[real]], j[q[real]]]))
    return tuple(np.concatenate(found, axis=1))  # type: ignore[return-value]


def _voters(area: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """The largest particles; those that the border cuts only where there are no others."""
    rows = np.flatnonzero(~cut) if not cut.all() else np.arange(cut.size)
    return rows[np.argsort(-area[rows], kind="stable")[:VOTERS]]
