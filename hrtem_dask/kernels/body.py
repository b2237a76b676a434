"""The columns of one rigid body, as mean places that are learnt frame by frame."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

__all__ = ["Body", "interior", "lattice_shifts"]

#: a site is solid where it is seen in at least this part of the frames
SOLID = 0.5
#: neighbours lie within so many times the median distance to the fourth nearest
REACH = 1.35
#: a column is inside where no gap between the directions to its neighbours is wider [radian]
GAP = np.deg2rad(130.0)
#: a place is the mean of at most so many sights, so that it can follow slow changes
REMEMBERED = 100
#: sites seen in less than this part of the frames are forgotten, at this age
RARE, AGE = 0.1, 16
#: frames that the usual chance of being seen counts as, and that chance of a site that is found late
PRIOR, LATE = 4.0, 0.2
#: deviations, and true scatter, within which sites count as equally often seen
ALIKE, SPREAD = 3.0, 0.05
#: a site is beside a part within so many spacings
BESIDE = 2.5
#: what is known of a place after so many looks; looks are counted in strips [angstrom], in so many views around
LOOKS, CELL, AROUND = 16, 0.5, 3
#: inner columns below which those of the surface are used too
FEW = 8
#: a new site is at least so many spacings from all others, so that no column is at two
APART = 0.33
#: shifts by a lattice vector that are tried, and columns that they must put on others
SHIFTS, ONTO_OTHERS = 8, 0.4


class Body:
    """Mean places of columns, with how often each was seen.

    Parameters
    ----------
    at : ndarray, shape (n, 2)
        Columns of the first frame in reference coordinates [angstrom].
    first : int
        Number of the first of the new sites.

    Attributes
    ----------
    at : ndarray, shape (m, 2)
        Places of the sites [angstrom].
    number : ndarray of int, shape (m,)
        Their numbers, unique over all bodies.
    seen, due : ndarray, shape (m,)
        Frames in which each was seen, and in which it was in view, from the first in which it was seen.
    blank : ndarray, shape (m,)
        Frames that had looked there before it was found, up to 100.
    solid, good : ndarray of bool, shape (m,)
        Seen in most frames; and of the inside of the largest connected part, which the motion follows.
    near : ndarray of bool, shape (m,)
        Of that part, or beside it.
    spacing : float
        Distance to the nearest neighbour [angstrom].
    """

    def __init__(self, at: np.ndarray, first: int) -> None:
        self.at, self.number = at.copy(), first + np.arange(len(at))
        self.seen, self.due, self.blank = np.ones(len(at)), np.ones(len(at)), np.zeros(len(at))
        self.frames, self.looks, self.corner = 1, np.zeros((2, 0), np.int32), np.zeros(2)
        self._survey()

    def _survey(self) -> None:
        """Look again at what is solid, and what is inside."""
        self.__dict__.pop("tree", None)
        self.solid = (self.seen >= SOLID * self.due) & (self.seen >= min(self.frames, 2))
        if self.solid.sum() < 3:
            self.solid = self.seen >= np.quantile(self.seen, 0.5)
        rows = np.flatnonzero(self.solid)
        inside, part, self.spacing = interior(self.at[rows])
        largest = part == np.bincount(part).argmax()
        self.good = np.zeros(len(self.at), bool)
        chosen = inside & largest
        self.good[rows[chosen if chosen.sum() >= FEW else largest]] = True
        self.near = np.isfinite(cKDTree(self.at[rows[largest]]).query(
            self.at, distance_upper_bound=BESIDE * self.spacing)[0])

    @cached_property
    def tree(self) -> cKDTree:
        """Of all sites."""
        return cKDTree(self.at)

    def chance(self) -> np.ndarray:
        """Probability that each site is seen.

        One that is seen as often as the others has their
        chance: what chance alone makes of its own would add up, frame after frame, to evidence for a slip.
        """
        usual = float(min(self.seen[self.solid].sum() / self.due[self.solid].sum(), 0.95))
        due = self.due + self.blank
        own = (self.seen + PRIOR * np.where(self.blank > 0, LATE, usual)) / (due + PRIOR)
        alike = np.abs(own - usual) < ALIKE * np.sqrt(usual * (1 - usual) / due + SPREAD**2)
        return np.clip(np.where(alike, usual, own), 0.05, 0.95)

    def middle(self) -> np.ndarray:
        """Mean place of the good sites (y, x) [angstrom]."""
        return self.at[self.good].mean(0)

    def look(self, box: np.ndarray) -> None:
        """Note what a frame has in view: least and largest (y, x) [angstrom]."""
        if not self.looks.size:
            size = box[1] - box[0]
            self.corner = box[0] - AROUND * size
            self.looks = np.zeros((2, int((1 + 2 * AROUND) * size.max() / CELL) + 1), np.int32)
        low, high = np.clip((box - self.corner) / CELL, 0, None)
        for looks, a, b in zip(self.looks, np.ceil(low).astype(int), high.astype(int), strict=True):
            looks[a:b] += 1

    def looks_at(self, at: np.ndarray) -> np.ndarray:
        """How often places (..., 2) have been in view."""
        cell = ((at - self.corner) / CELL).astype(int)
        inside = ((cell >= 0) & (cell < self.looks.shape[1])).all(-1)
        cell = np.where(inside[..., None], cell, 0)
        return np.where(inside, np.minimum(self.looks[0][cell[..., 0]], self.looks[1][cell[..., 1]]), 0)

    def known(self, at: np.ndarray) -> np.ndarray:
        """Whether places (..., 2) have been in view often enough to know which columns there are."""
        return self.looks_at(at) > min(LOOKS, self.frames // 2)

    def vectors(self) -> np.ndarray:
        """Shifts (k, 2) that put most columns on others, the shortest first [angstrom]."""
        known = self.__dict__.get("_vectors")
        if known is None or self.frames >= 4 * known[0]:
            known = self.frames, lattice_shifts(self.at[self.solid], self.spacing)
            self._vectors = known
        return known[1]

    def learn(self, at: np.ndarray, site: np.ndarray, in_view: np.ndarray, first: int) -> np.ndarray:
        """Take in the columns of a frame.

        Parameters
        ----------
        at : ndarray, shape (n, 2)
            In reference coordinates [angstrom].
        site : ndarray of int, shape (n,)
            Row of each column's site; -1 makes a new one, but not beside another.
        in_view : ndarray of bool, shape (m,)
            Sites that this frame could show.
        first : int
            Number of the first of the new sites.

        Returns
        -------
        ndarray of int, shape (n,)
            Numbers of the sites; -1 for none.
        """
        old, fresh = np.flatnonzero(site >= 0), np.flatnonzero(site < 0)
        fresh = fresh[self.tree.query(at[fresh])[0] > APART * self.spacing] if fresh.size else fresh
        rows = site[old]
        self.frames += 1
        self.due += in_view
        self.seen[rows] += in_view[rows]  # at the edge a column counts neither as seen nor as missed
        self.at[rows] += (at[old] - self.at[rows]) / np.clip(self.seen[rows], 2, REMEMBERED)[:, None]
        number = np.full(len(site), -1)
        number[old], number[fresh] = self.number[rows], first + np.arange(fresh.size)
        self.blank = np.concatenate([self.blank, np.minimum(self.looks_at(at[fresh]), REMEMBERED)])
        self.at = np.concatenate([self.at, at[fresh]])
        self.number = np.concatenate([self.number, number[fresh]])
        self.seen, self.due = (np.concatenate([a, np.ones(fresh.size)]) for a in (self.seen, self.due))
        self.solid, self.good, self.near = (np.concatenate([a, np.zeros(fresh.size, bool)])
                                            for a in (self.solid, self.good, self.near))
        self.__dict__.pop("tree", None)
        if self.frames % AGE == 0:
            keep = (self.due < AGE) | (self.seen >= RARE * self.due)
            for name in ("at", "number", "seen", "due", "solid", "good", "near", "blank"):
                setattr(self, name, getattr(self, name)[keep])
        if self.frames < 5 or self.frames % AGE == 0:
            self._survey()
        return number


def interior(at: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Say which columns are inside, and which belong together.

    Parameters
    ----------
    at : ndarray, shape (n, 2)
        [angstrom]

    Returns
    -------
    inside : ndarray of bool, shape (n,)
        Has neighbours on all sides.
    part : ndarray of int, shape (n,)
        Number of the connected part of each.
    spacing : float
        Median distance to the nearest neighbour [angstrom].

    Examples
    --------
    >>> i, j = np.mgrid[:5, :5].reshape(2, -1)
    >>> inside, part, spacing = interior(np.stack([2.0 * i, 2.0 * j], axis=1))
    >>> int(inside.sum()), int(part.max()), spacing
    (9, 0, 2.0)
    """
    n = len(at)
    if n < 2:
        return np.zeros(n, bool), np.zeros(n, int), 1.0
    tree = cKDTree(at)
    distance, _ = tree.query(at, k=min(5, n))
    spacing = float(np.median(distance[:, 1]))
    pairs = tree.query_pairs(REACH * float(np.median(distance[:, -1])), output_type="ndarray")
    i, j = np.concatenate([pairs, pairs[:, ::-1]]).T
    part = connected_components(coo_matrix((np.ones(i.size), (i, j)), (n, n)), directed=False)[1]
    angle = np.arctan2(*(at[j] - at[i]).T)
    order = np.lexsort((angle, i))
    i, angle = i[order], angle[order]
    last = np.append(i[1:] != i[:-1], True) if i.size else np.zeros(0, bool)
    first = np.append(True, last[:-1]) if i.size else last
    gap = np.diff(angle, append=0.0)
    gap[last] = angle[first] + 2 * np.pi - angle[last]
    widest = np.full(n, 2 * np.pi)
    if i.size:
        widest[i[first]] = np.maximum.reduceat(gap, np.flatnonzero(first))
    return widest <= GAP, part, spacing


def lattice_shifts(at: np.ndarray, spacing: float) -> np.ndarray:
    """Shifts that put most columns of a crystal on others.

    Parameters
    ----------
    at : ndarray, shape (n, 2)
        [angstrom]
    spacing : float
        Distance of nearest neighbours [angstrom].

    Returns
    -------
    ndarray, shape (k, 2)
        At most 8, none where the columns have no common lattice.

    Examples
    --------
    >>> i, j = np.mgrid[:9, :9].reshape(2, -1)
    >>> lattice_shifts(np.stack([2.0 * i, 3.0 * j], axis=1), 2.0)[:2].tolist()
    [[-2.0, 0.0], [2.0, 0.0]]
    """
    if len(at) < 6:
        return np.zeros((0, 2))
    tree = cKDTree(at)
    fourth = float(np.median(tree.query(at, k=5)[0][:, -1]))
    pairs = tree.query_pairs(1.6 * REACH * fourth, output_type="ndarray")
    shift = at[pairs[:, 1]] - at[pairs[:, 0]]
    if not len(shift):
        return np.zeros((0, 2))
    near = cKDTree(shift := np.concatenate([shift, -shift]))
    votes = near.query_ball_point(shift, 0.15 * spacing, return_length=True)
    left, found = np.ones(len(shift), bool), []
    while left.any() and len(found) < 3 * SHIFTS:
        best = int(np.where(left, votes, -1).argmax())
        if votes[best] < ONTO_OTHERS * len(at):
            break
        found.append(shift[near.query_ball_point(shift[best], 0.15 * spacing)].mean(0))
        left[near.query_ball_point(shift[best], 0.4 * spacing)] = False
    out = np.array(found).reshape(-1, 2)
    return out[np.lexsort((out[:, 1], out[:, 0], np.hypot(*out.T).round(1)))][:SHIFTS]
