"""Follow a rigid body through frames of columns: translation, rotation, and which column is which.

A crystal looks the same after a shift by a lattice vector, so the fit of one frame has many
solutions. What tells them apart is the outline, that is which columns exist, and continuity. Both are
probabilities: the odds of having slipped by a vector go from frame to frame, as in a hidden Markov model, so a slip is
found once a few frames have spoken, and taken back from where it began. The reference is the mean of
all frames so far, not the last one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .body import Body
from .closest import TOLERANCE, fit_one, search, sites_of
from .rigid import move, unmove

__all__ = ["EMPTY", "LOST", "REGISTERED", "STATUSES", "TOO_FEW", "FollowRules", "Followed", "follow"]

#: what a frame can be
STATUSES = ("registered", "too few", "lost", "empty")
REGISTERED, TOO_FEW, LOST, EMPTY = range(4)
#: part of the columns that must be at sites, and of the sites in view that must be seen, the larger of the two
LEAST_PART = 0.5
#: what a column at its site is worth beyond the site's own odds, in nats
PLACED = 2.0
#: part of the log likelihood that counts: columns at the surface do not come and go independently
TEMPER = 0.5
#: log odds of a slip from which it is made, and above which it cannot be excluded; frames that may be in doubt
SLIPPED, DOUBT, IN_DOUBT = 2.0, -3.0, 8
#: least step from frame to frame that counts as usual [angstrom], and steps remembered
LEAST_STEP, STEPS = 0.3, 64
#: probability that a frame jumps anywhere, by area [1/angstrom^2]
JUMP = 1e-4 / 400
#: lattice vectors that a fit may go on from its start
MOST_SHIFTS = 40
#: frames that must agree among each other, and not with what was before, to be a new body
PERSIST = 3


@dataclass(frozen=True)
class FollowRules:
    """Limits.

    Attributes
    ----------
    min_columns : int
        Columns that a registration needs at least.
    view : tuple of float
        First and last y, first and last x in which columns can be seen [angstrom].
    """

    min_columns: int
    view: tuple[float, float, float, float]


@dataclass
class Followed:
    """Where each frame is, and which body and sites its columns belong to.

    Attributes
    ----------
    motion : ndarray, shape (frame, 3)
        Drift (y, x) and rotation against the body; nan where there is none.
    body : ndarray of int, shape (frame,)
        Number of the body; -1 where the frame is not registered.
    status : ndarray of int, shape (frame,)
        Place in `STATUSES`.
    site : ndarray of int, shape (row,)
        Number of the site of each column, unique over all bodies; -1 for none.
    bodies : list of Body
        As they were at last.
    reasons : list of str
        Why each of them was begun.
    doubtful : list of int
        Frames from which on the registration may be off by a lattice vector from that before.
    centre : ndarray, shape (2,)
        Of all rotations.
    """

    motion: np.ndarray
    body: np.ndarray
    status: np.ndarray
    site: np.ndarray
    bodies: list[Body] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    doubtful: list[int] = field(default_factory=list)
    centre: np.ndarray = field(default_factory=lambda: np.zeros(2))


@dataclass
class _Fit:
    """One frame against a body.

    ``gain`` and ``fresh`` are, for every shift, its log likelihood ratio from this frame alone, and the odds that it
    happened just before this frame; ``jumped`` says that the frame was shifted from where it was found first.
    """

    motion: np.ndarray
    site: np.ndarray
    worth: float
    gain: np.ndarray
    fresh: np.ndarray
    jumped: bool
    good: bool = False


def follow(frame: np.ndarray, first: np.ndarray, at: np.ndarray, error: np.ndarray, rules: FollowRules) -> Followed:
    """Register frame after frame.

    Parameters
    ----------
    frame : ndarray of int, shape (frame,)
        Numbers of the frames, growing; what is missing in between was not read.
    first : ndarray of int, shape (frame + 1,)
        Rows of frame i are ``first[i]:first[i + 1]``.
    at, error : ndarray, shape (row, 2)
        Columns of each frame and their standard errors [angstrom].
    rules : FollowRules
        Limits.
    """
    n = len(frame)
    out = Followed(np.full((n, 3), np.nan), np.full(n, -1), np.full(n, LOST), np.full(len(at), -1))
    walk = _Walk(rules, out, int(np.gcd.reduce(np.diff(frame))) if n > 1 else 1)
    for i in range(n):
        rows = slice(first[i], first[i + 1])
        count = rows.stop - rows.start
        if count < rules.min_columns:
            out.status[i] = TOO_FEW if count else EMPTY
            continue
        walk.go_on(i, int(frame[i]), rows, at[rows], error[rows])
    walk.end()
    return out


@dataclass
class _Sight:
    """A frame that was registered lately."""

    i: int
    rows: slice
    at: np.ndarray
    error: np.ndarray


@dataclass
class _Chain:
    """A body with the last motion in which it was seen, and the odds of its having slipped by each shift."""

    body: Body
    motion: np.ndarray
    last: int
    steps: list[float] = field(default_factory=list)
    odds: np.ndarray = field(default_factory=lambda: np.zeros(0))
    since: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    lately: list[_Sight] = field(default_factory=list)

    def step(self, gap: float) -> float:
        """How far it may have come by now, as a rule [angstrom]."""
        usual = float(np.median(self.steps)) if len(self.steps) > 4 else LEAST_STEP
        return max(usual, LEAST_STEP) * np.sqrt(gap)

    def weigh(self, fit: _Fit, i: int) -> None:
        """Take in what a frame says of slips."""
        if fit.jumped or len(self.odds) != len(fit.gain):
            self.odds, self.since = np.full(len(fit.gain), -np.inf), np.full(len(fit.gain), i)
        self.since[fit.fresh > self.odds] = i
        self.odds = np.logaddexp(self.odds, fit.fresh) + fit.gain


class _Walk:
    """The pass through the frames: the body that is followed, and one that may come after it."""

    def __init__(self, rules: FollowRules, out: Followed, stride: int) -> None:
        self.rules, self.out, self.stride = rules, out, stride
        self.main: _Chain | None = None
        self.next: _Chain | None = None
        self.waiting: list[int] = []
        self.count = 0

    def go_on(self, i: int, frame: int, rows: slice, at: np.ndarray, error: np.ndarray) -> None:
        """Register one frame."""
        if self.main is None:
            self.out.centre[:] = at.mean(0)
            self.main = self._begin(at, np.zeros(3), frame)
            self.out.bodies.append(self.main.body)
            self.out.reasons.append("first frame")
            self.out.motion[i], self.out.body[i], self.out.status[i] = self.main.motion, 0, REGISTERED
            self.out.site[rows] = self.main.body.number
            return
        fit = self._fitted(self.main, frame, at, error)
        if not fit.good:
            self._wait(i, frame, rows, at, error)
            return
        self._drop()
        self.main.weigh(fit, i)
        self._learn(self.main, fit, frame, at)
        self.out.motion[i], self.out.body[i] = fit.motion, len(self.out.bodies) - 1
        self.out.status[i], self.out.site[rows] = REGISTERED, fit.site
        self._judge(_Sight(i, rows, at, error))

    def _judge(self, sight: _Sight) -> None:
        """Take back a slip, once it is sure; note where one remains possible."""
        chain = self.main
        chain.lately.append(sight)
        best = int(chain.odds.argmax()) if chain.odds.size else 0
        most = chain.odds[best] if chain.odds.size else -np.inf
        if most > SLIPPED:
            self._slip(chain, chain.body.vectors()[best], int(chain.since[best]))
        elif most < DOUBT:
            chain.lately.clear()
        elif len(chain.lately) >= IN_DOUBT:
            self.end()

    def _slip(self, chain: _Chain, shift: np.ndarray, since: int) -> None:
        """Shift the frames since a slip by a lattice vector."""
        for sight in chain.lately:
            if sight.i >= since:
                start = _shifted(self.out.motion[sight.i], shift[None])[0]
                motion = fit_one(chain.body, start, sight.at, sight.error, self.out.centre)
                site = sites_of(chain.body, motion, sight.at, self.out.centre, TOLERANCE)
                self.out.motion[sight.i] = chain.motion = motion
                self.out.site[sight.rows] = np.where(site >= 0, chain.body.number[site], -1)
        chain.odds, chain.lately = np.zeros(0), []

    def end(self) -> None:
        """No more frames, or none that could help: what is in doubt remains so."""
        if self.main is None or not self.main.lately:
            return
        first = int(self.main.since[self.main.odds.argmax()])
        self.out.doubtful.append(max(first, self.main.lately[0].i))
        self.main.odds, self.main.lately = np.zeros(0), []

    def _begin(self, at: np.ndarray, motion: np.ndarray, frame: int) -> _Chain:
        body = Body(unmove(motion, at, self.out.centre), self.count)
        self.count += len(at)
        return _Chain(body, motion, frame)

    def _wait(self, i: int, frame: int, rows: slice, at: np.ndarray, error: np.ndarray) -> None:
        """A frame that does not fit: perhaps the first of a new body, if others agree with it."""
        fit = self._fitted(self.next, frame, at, error) if self.next else None
        if fit is not None and fit.good:
            self._learn(self.next, fit, frame, at)
            self.out.motion[i], self.out.site[rows] = fit.motion, fit.site
            self.waiting.append(i)
        else:
            self._drop()
            body, old = self.main.body, self.main.motion
            seat = move(old, body.at[body.good].mean(0), self.out.centre)
            motion = old + [*(np.median(at, axis=0) - seat), 0.0]
            self.next = self._begin(at, motion, frame)
            self.out.motion[i], self.out.site[rows] = motion, self.next.body.number[:len(at)]
            self.waiting = [i]
        if len(self.waiting) >= PERSIST:
            self.out.bodies.append(self.next.body)
            self.out.reasons.append("other columns")
            self.out.body[self.waiting], self.out.status[self.waiting] = len(self.out.bodies) - 1, REGISTERED
            self.end()
            self.main, self.next, self.waiting = self.next, None, []

    def _drop(self) -> None:
        """Give up what was waiting."""
        self.out.motion[self.waiting] = np.nan
        self.next, self.waiting = None, []

    def _learn(self, chain: _Chain, fit: _Fit, frame: int, at: np.ndarray) -> None:
        gap = max((frame - chain.last) / self.stride, 1.0)
        chain.steps.append(float(np.hypot(*(fit.motion - chain.motion)[:2])) / np.sqrt(gap))
        del chain.steps[:-STEPS]
        chain.motion, chain.last = fit.motion, frame
        back = unmove(fit.motion, at, self.out.centre)
        seen = self._in_view(chain.body, fit.motion[None])[0]
        fit.site = chain.body.learn(back, fit.site, seen, self.count)
        self.count += int((fit.site >= self.count).sum())

    def _fitted(self, chain: _Chain, frame: int, at: np.ndarray, error: np.ndarray) -> _Fit:
        """Fit a frame: from the last motion, then from its neighbours by a lattice vector, at last from anywhere."""
        gap = max((frame - chain.last) / self.stride, 1.0)
        fit = self._settled(chain, chain.motion, gap, at, error)
        if not fit.good:
            starts = search(chain.body, chain.motion, at, self.out.centre)
            fits = [fit, *(self._settled(chain, s, gap, at, error) for s in starts)]
            fit = max(fits, key=lambda f: (f.good, f.worth))
        return fit

    def _settled(self, chain: _Chain, start: np.ndarray, gap: float, at: np.ndarray, error: np.ndarray) -> _Fit:
        """Fit from a start, and go on to the best of the registrations that are a lattice vector away."""
        body, centre = chain.body, self.out.centre
        motion = fit_one(body, start, at, error, centre)
        shifts = np.concatenate([np.zeros((1, 2)), body.vectors()])
        jumped = False
        for _ in range(MOST_SHIFTS):
            tried = _shifted(motion, shifts)
            likely, prior = TEMPER * self._worth(body, tried, at), self._prior(chain, tried, gap)
            worth = likely + prior
            best = int(worth.argmax())
            if best == 0:
                break
            motion, jumped = fit_one(body, tried[best], at, error, centre), True
        site = sites_of(body, motion, at, centre, TOLERANCE)
        fit = _Fit(motion, site, float(worth[0]), likely[1:] - likely[0], prior[1:] - prior[0], jumped)
        at_site = site[site >= 0]
        seen = int((self._in_view(body, motion[None])[0] & body.solid).sum())
        fit.good = bool(at_site.size >= LEAST_PART * min(len(at), seen)
                        and body.good[at_site].sum() >= self.rules.min_columns)
        return fit

    def _prior(self, chain: _Chain, motions: np.ndarray, gap: float) -> np.ndarray:
        """Log density of the step of the body's middle: a normal one, or a jump."""
        middle, step = chain.body.at[chain.body.good].mean(0), chain.step(gap)
        away = move(motions, middle, self.out.centre) - move(chain.motion, middle, self.out.centre)
        return np.log(np.exp(-(away**2).sum(1) / (2 * step**2)) / (2 * np.pi * step**2) + JUMP * gap)

    def _in_view(self, body: Body, motions: np.ndarray) -> np.ndarray:
        y0, y1, x0, x1 = self.rules.view
        places = move(motions[:, None], body.at, self.out.centre)
        y, x = places[..., 0], places[..., 1]
        return (y >= y0) & (y <= y1) & (x >= x0) & (x <= x1)

    def _worth(self, body: Body, motions: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Log likelihood of motions (k, 3), from which sites are seen and which are not."""
        limit, odds = TOLERANCE * body.spacing, body.chance()
        back = unmove(motions[:, None], at, self.out.centre)
        distance, j = body.tree.query(back.reshape(-1, 2), distance_upper_bound=limit)
        odd = np.append(np.log(odds / (1 - odds)), -PLACED)
        gain = odd[j] + PLACED * (1 - np.minimum(distance / limit, 1e3) ** 2 * (j < len(odds)))
        return gain.reshape(len(motions), -1).sum(1) + self._in_view(body, motions) @ np.log(1 - odds)


def _shifted(motion: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The motion after shifts (k, 2) of the reference: (k, 3)."""
    tried = np.tile(motion, (len(shifts), 1))
    tried[:, :2] += move(np.array([0.0, 0.0, motion[2]]), shifts, np.zeros(2))
    return tried
