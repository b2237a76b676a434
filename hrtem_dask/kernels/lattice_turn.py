"""In-plane rotation of lattices over time, from the directions of their spot pairs.

Which pair of a net is the brightest changes with the tilt, so the direction of the brightest pair
jumps between those of the net. What a particle has shown before is remembered: its pairs, as
directions in its own frame, by their spacing. A later sight gives the rotation that its pairs agree
on with those, the smallest one, since a lattice looks the same after some rotations: after half a
turn always, and after a third of that where three equal pairs span it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Lattices"]

#: pairs remembered of each lattice
PAIRS = 8
#: relative difference of spacings, and of directions [radian], up to which pairs are the same
SPACING, DIRECTION = 0.04, np.deg2rad(4.0)
#: no rotation above this between two sights: half the angle between the pairs of a hexagonal net [radian]
MOST = np.deg2rad(30.0)
#: sights over which the direction of a pair is averaged
AVERAGED = 30


def _empty() -> np.ndarray:
    return np.full((0, PAIRS), np.nan)


def _folded(angle: np.ndarray) -> np.ndarray:
    """The same direction of a pair, from -pi/2 to pi/2."""
    return angle - np.pi * np.rint(angle / np.pi)


@dataclass
class Lattices:
    """The lattices of some tracks.

    Attributes
    ----------
    turn : ndarray, shape (n,)
        Rotation at the last sight since the first [radian]; nan before that.
    last : ndarray of int, shape (n,)
        Step of the last sight that gave a rotation.
    angle, spacing : ndarray, shape (n, PAIRS)
        Directions of the pairs without rotation [radian], and spacings [angstrom]; nan where free.
    seen : ndarray of int, shape (n, PAIRS)
        How often.
    """

    turn: np.ndarray = field(default_factory=lambda: np.zeros(0))
    last: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    angle: np.ndarray = field(default_factory=_empty)
    spacing: np.ndarray = field(default_factory=_empty)
    seen: np.ndarray = field(default_factory=lambda: np.zeros((0, PAIRS), np.int64))

    def taken(self, rows: np.ndarray) -> Lattices:
        """Those of these rows, in this order; new ones where a row is -1."""
        there = rows >= 0

        def pick(values: np.ndarray, new: float) -> np.ndarray:
            out = np.full((rows.size, *values.shape[1:]), new, values.dtype)
            out[there] = values[rows[there]]
            return out

        return Lattices(pick(self.turn, np.nan), pick(self.last, 0), pick(self.angle, np.nan),
                        pick(self.spacing, np.nan), pick(self.seen, 0))

    def joined(self, other: Lattices) -> Lattices:
        """These and then the others."""
        return Lattices(*(np.concatenate([getattr(self, name), getattr(other, name)])
                          for name in ("turn", "last", "angle", "spacing", "seen")))

    def follow(self, before: np.ndarray, angle: np.ndarray, spacing: np.ndarray, step: int,
               max_turn: float) -> tuple[Lattices, np.ndarray]:
        """Look at the particles of one frame.

        Parameters
        ----------
        before : ndarray of int, shape (n,)
            Row of each particle's lattice here, -1 for a new one.
        angle, spacing : ndarray, shape (n, p)
            Of the pairs seen [radian, angstrom]; nan where there is none.
        step : int
            Number of this frame.
        max_turn : float
            Rotation allowed between two frames [radian]; grows with the root of their number.

        Returns
        -------
        Lattices
            Of these particles.
        rotation : ndarray, shape (n,)
            Since the first sight [radian]; nan where no pair is seen that is known.
        """
        now = self.taken(before)
        fresh = np.isnan(now.turn) & np.isfinite(angle).any(1)
        now.turn[fresh] = 0.0
        limit = np.minimum(max_turn * np.sqrt(np.maximum(step - now.last, 1)), MOST)
        known, delta = _agreed(now, angle, spacing, limit)
        now.turn[known] += delta[known]
        sure = known | fresh
        now.last[sure] = step
        now._learn(sure, angle, spacing)
        return now, np.where(sure, now.turn, np.nan)

    def _learn(self, sure: np.ndarray, angle: np.ndarray, spacing: np.ndarray) -> None:
        """Average the known pairs, and remember those that were not, instead of what was seen least."""
        rows = np.arange(len(sure))
        for own, d in zip(_folded(angle - self.turn[:, None]).T, spacing.T, strict=True):
            away = _folded(own[:, None] - self.angle)
            away[~(np.abs(d[:, None] / self.spacing - 1) <= SPACING)] = np.nan
            size = np.where(np.isfinite(away), np.abs(away), np.inf)
            best = size.argmin(1)
            usable = sure & np.isfinite(own)
            old = usable & (size[rows, best] <= DIRECTION)
            i, j = rows[old], best[old]
            self.seen[i, j] += 1
            self.angle[i, j] += away[i, j] / np.minimum(self.seen[i, j], AVERAGED)
            new = usable & ~old
            i = rows[new]
            j = self.seen[i].argmin(1)
            self.angle[i, j], self.spacing[i, j], self.seen[i, j] = own[new], d[new], 1


def _agreed(known: Lattices, angle: np.ndarray, spacing: np.ndarray,
            limit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest rotation that most of the pairs seen agree on: where there is one, and how large."""
    n = len(angle)
    away = _folded(angle[:, :, None] - known.turn[:, None, None] - known.angle[:, None, :])
    same = np.abs(spacing[:, :, None] / known.spacing[:, None, :] - 1) <= SPACING
    away = np.where(same, away, np.nan)  # (particle, seen, known)
    guess = np.where(np.abs(away) <= limit[:, None, None], away, np.nan).reshape(n, -1)
    rest = away[:, None] - guess[:, :, None, None]  # (particle, guess, seen, known)
    fits = np.abs(rest) <= DIRECTION
    support = np.where(np.isfinite(guess), fits.any(3).sum(2), 0)
    order = support - np.where(np.isfinite(guess), np.abs(guess), 0) / np.pi
    best = order.argmax(1) if guess.size else np.zeros(n, int)
    rows = np.arange(n)
    some = support[rows, best] > 0 if guess.size else np.zeros(n, bool)
    agreed = np.where(fits[rows, best], away, 0).sum((1, 2)) / np.maximum(fits[rows, best].sum((1, 2)), 1)
    return some, np.where(some, agreed, 0.0)
