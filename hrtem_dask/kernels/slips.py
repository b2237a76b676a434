"""Whether a registration has slipped by a lattice vector, by the odds of all frames so far.

A crystal looks the same after such a shift, but for its outline: which columns exist. That and
continuity are weighed as probabilities in a hidden Markov model of one hidden number, the shift. Every frame adds its
log likelihood ratio to the odds of each shift, and the chance that the shift happened just before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .body import Body
from .closest import TOLERANCE
from .rigid import move, unmove

__all__ = ["Sight", "Slips", "evidence", "in_view", "looked_at", "shifted"]

#: what a column at its site is worth beyond the odds of the site, in nats
PLACED = 2.0
#: part of the log likelihood that counts, as columns at the surface do not come and go independently; half of it while
#: the chances of the sites are known from so many frames only
TEMPER, YOUNG = 0.4, 16
#: log odds of a slip from which it is made, and above which it cannot be excluded; frames that may be in doubt
SLIPPED, DOUBT, IN_DOUBT = 2.0, -2.5, 5
#: log odds that a shift happens just before a frame, below which what follows is a slip or nothing, but no doubt
SUDDEN = -8.0
#: frames that can be taken back
TAKEN_BACK = 24
#: probability that a frame jumps anywhere, by area [1/angstrom^2]
JUMP = 1e-4 / 400
#: how far from the edge of the view a column is surely in it, or out of it [angstrom]
INSET = 0.5


@dataclass
class Sight:
    """A frame that was registered: its row and its columns; what was expected of its motion.

    ``before`` is the last motion and the steady ``pace`` since, ``step`` the usual deviation from that.
    """

    i: int
    rows: slice
    at: np.ndarray
    error: np.ndarray
    before: np.ndarray
    pace: np.ndarray
    step: float
    gap: float


@dataclass
class Slips:
    """Log odds of each shift, since which frame, those when it began, and the frames that could be taken back."""

    odds: np.ndarray = field(default_factory=lambda: np.zeros(0))
    since: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    prior: np.ndarray = field(default_factory=lambda: np.zeros(0))
    lately: list[Sight] = field(default_factory=list)
    doubt: int = 0

    def weigh(self, gain: np.ndarray, fresh: np.ndarray, i: int) -> None:
        """Take in a frame: ratios of its likelihood, and of the chance that the shift happened just before it."""
        if len(self.odds) != len(gain):
            self.odds, self.since, self.prior = np.full(len(gain), -np.inf), np.full(len(gain), i), fresh.copy()
        # what took so long and is not sure is no slip, but sites that differ in how well they are seen
        anew = (fresh > self.odds) | (i - self.since > TAKEN_BACK)
        self.since[anew], self.prior[anew] = i, fresh[anew]
        self.odds = np.where(anew, fresh, np.logaddexp(self.odds, fresh)) + gain

    def forget(self) -> None:
        """Begin anew."""
        self.odds, self.doubt = np.zeros(0), 0

    def sure(self) -> int | None:
        """Number of the shift that has happened, if one has."""
        best = int(self.odds.argmax()) if self.odds.size else 0
        return best if self.odds.size and self.odds[best] > SLIPPED else None

    def doubtful_since(self) -> int | None:
        """Row of the first frame that cannot be told from one that is shifted; None where that is excluded."""
        odds = np.where(self.prior > SUDDEN, self.odds, -np.inf) if self.odds.size else np.full(1, -np.inf)
        return int(self.since[odds.argmax()]) if odds.max() > DOUBT else None


def shifted(motion: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The motion after shifts (k, 2) of the reference: (k, 3)."""
    tried = np.tile(motion, (len(shifts), 1))
    tried[:, :2] += move(np.array([0.0, 0.0, motion[2]]), shifts, np.zeros(2))
    return tried


def step_density(away: np.ndarray, step: float, gap: float) -> np.ndarray:
    """Log density of steps (k, 2) of the body: normal ones, or jumps."""
    return np.log(np.exp(-(away**2).sum(1) / (2 * step**2)) / (2 * np.pi * step**2) + JUMP * gap)


def evidence(body: Body, motion: np.ndarray, sight: Sight, view: tuple[float, float, float, float],
             centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a frame says of the shifts of a body.

    Parameters
    ----------
    body : Body
    motion : ndarray, shape (3,)
        Of the frame, without a shift.
    sight : Sight
    view : tuple of float
        First and last y, first and last x in which columns can be seen [angstrom].
    centre : ndarray, shape (2,)
        Of the rotations.

    Returns
    -------
    gain : ndarray, shape (k,)
        Log likelihood ratios, from which sites are seen and which are not. Both motions are judged by the
        same part of the frame: where both put it on places at which frames have looked often enough.
    fresh : ndarray, shape (k,)
        Log ratios of the densities of the step that leads there.
    """
    shifts, n = body.vectors(), len(body.at)
    tried = shifted(motion, np.concatenate([np.zeros((1, 2)), shifts]))
    limit, chance = TOLERANCE * body.spacing, body.chance()
    back = unmove(tried[:, None], sight.at, centre)
    distance, j = body.tree.query(back.reshape(-1, 2), distance_upper_bound=limit)
    distance, j = distance.reshape(len(tried), -1), j.reshape(len(tried), -1)
    net = np.append(np.where(body.near, np.log(chance) + PLACED, 0.0), 0.0)
    worth = net[j] * (1 - np.minimum(distance / limit, 1.0) ** 2 / 2)
    seen = np.zeros((len(tried), n + 1), bool)
    seen[np.arange(len(tried))[:, None], j] = True
    missed = np.where(seen[:, :n], 0.0, np.where(body.near, np.log(1 - chance), 0.0))
    known, there = body.known(back) & _inside(sight.at, view), in_view(body, tried, view, centre) & body.known(body.at)
    gain = ((worth[1:] - worth[0]) * (known[1:] & known[0])).sum(1)
    gain += (missed[1:] * (there[1:] & body.known(body.at + shifts[:, None]))).sum(1)
    gain -= (missed[0] * (there[0] & body.known(body.at - shifts[:, None]))).sum(1)
    middle = body.middle()
    away = move(tried, middle, centre) - move(sight.before, middle, centre)
    prior = step_density(away, sight.step, sight.gap)
    return TEMPER * body.frames / (body.frames + YOUNG) * gain, prior[1:] - prior[0]


def _inside(at: np.ndarray, view: tuple[float, float, float, float]) -> np.ndarray:
    y0, y1, x0, x1 = view
    y, x = at[..., 0], at[..., 1]
    return (y >= y0 + INSET) & (y <= y1 - INSET) & (x >= x0 + INSET) & (x <= x1 - INSET)


def in_view(body: Body, motions: np.ndarray, view: tuple[float, float, float, float],
            centre: np.ndarray) -> np.ndarray:
    """Sites that frames of these motions surely have in view: (motion, site)."""
    return _inside(move(motions[:, None], body.at, centre), view)


def looked_at(motion: np.ndarray, view: tuple[float, float, float, float], centre: np.ndarray) -> np.ndarray:
    """The box of reference coordinates that a frame surely has in view: least and largest (y, x)."""
    y0, y1, x0, x1 = view
    corners = np.sort(unmove(motion, np.array([[y0, x0], [y0, x1], [y1, x0], [y1, x1]]), centre), axis=0)
    return np.stack([corners[1] + INSET, corners[2] - INSET])
