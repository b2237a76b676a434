"""Follow a rigid body through frames of columns: translation, rotation, and which column is which.

Frames come one after the other; the reference is the mean of all frames so far, not the last one. A
frame that fits nothing is searched for anywhere, and where several frames agree among each other and not with
what was before, they begin a new body. Slips by a lattice vector are taken back (`slips`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .body import Body
from .closest import TOLERANCE, fit_one, search, sites_of
from .rigid import move, unmove
from .slips import IN_DOUBT, TAKEN_BACK, Sight, Slips, evidence, in_view, looked_at, shifted

__all__ = ["EMPTY", "LOST", "REGISTERED", "STATUSES", "TOO_FEW", "FollowRules", "Followed", "follow"]

#: what a frame can be
STATUSES = ("registered", "too few", "lost", "empty")
REGISTERED, TOO_FEW, LOST, EMPTY = range(4)
#: part of the columns that must be at sites, and of the sites in view that must be seen, the larger of the two
LEAST_PART = 0.5
#: part of the good sites that must be seen, or so many: of a particle that is about to leave nothing tells where it is
IN_SIGHT, SURELY = 0.2, 40
#: least step from frame to frame that counts as usual [angstrom], and steps remembered
LEAST_STEP, STEPS = 0.3, 64
#: steps from which a steady motion is known
PACE = 6
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
    """One frame against a body: its motion, the row of each column's site, and whether enough of them fit.

    ``part`` says that they fit, but that too little of the body is in sight.
    """

    motion: np.ndarray
    site: np.ndarray
    good: bool
    part: bool


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
class _Chain:
    """A body with the last motion in which it was seen, and what is known of slips."""

    body: Body
    motion: np.ndarray
    last: int
    steps: list[float] = field(default_factory=list)
    moves: list[np.ndarray] = field(default_factory=list)
    slips: Slips = field(default_factory=Slips)

    def step(self, gap: float) -> float:
        """How far from where it was going it may have come by now, as a rule [angstrom]."""
        usual = float(np.median(self.steps)) if len(self.steps) > 4 else LEAST_STEP
        return max(usual, LEAST_STEP) * np.sqrt(gap)

    def pace(self, gap: float) -> np.ndarray:
        """Change of the motion by now, where it is steady; else 0."""
        out = np.zeros(3)
        if len(self.moves) == PACE and gap <= PACE:
            mean, spread = np.mean(self.moves, axis=0), np.std(self.moves, axis=0)
            if np.hypot(*mean) > 3 * np.hypot(*spread) / np.sqrt(PACE):
                out[:2] = mean * gap
        return out

    def went(self, motion: np.ndarray, gap: float) -> None:
        """Note where it went."""
        away = (motion - self.motion)[:2] / gap
        self.steps = [*self.steps[1 - STEPS:], float(np.hypot(*(away * gap - self.pace(gap)[:2])) / np.sqrt(gap))]
        self.moves = [*self.moves[1 - PACE:], away]


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
            self._adopt(self.main, "first frame")
            self._enter(i, rows, self.main.motion, self.main.body.number)
            return
        gap = self._gap(self.main, frame)
        fit = self._fitted(self.main, gap, at, error)
        if not fit.good:
            if not fit.part:
                self._wait(i, frame, rows, at, error)
            return
        self._drop()
        pace = self.main.pace(gap)
        sight = Sight(i, rows, at, error, self.main.motion + pace, pace, self.main.step(gap), gap)
        self._enter(i, rows, fit.motion, np.full(len(at), -1))
        self._judge(sight)
        self._learn(self.main, frame, sight)

    def end(self) -> None:
        """No more frames, or none that could help: what is in doubt remains so."""
        if self.main is not None:
            slips = self.main.slips
            first = slips.doubtful_since()
            if slips.doubt and first is not None:
                self.out.doubtful.append(first)
            slips.forget()

    def _enter(self, i: int, rows: slice, motion: np.ndarray, number: np.ndarray) -> None:
        self.out.motion[i], self.out.body[i] = motion, len(self.out.bodies) - 1
        self.out.status[i], self.out.site[rows] = REGISTERED, number

    def _gap(self, chain: _Chain, frame: int) -> float:
        return max((frame - chain.last) / self.stride, 1.0)

    def _judge(self, sight: Sight) -> None:
        """Take back slips, once they are sure; note where one remains possible."""
        body, slips = self.main.body, self.main.slips
        slips.lately = [*slips.lately[1 - TAKEN_BACK:], sight]
        self._weigh(sight)
        for _ in range(MOST_SHIFTS):
            best = slips.sure()
            if best is None:
                break
            self._slip(body.vectors()[best], int(slips.since[best]))
        slips.doubt = slips.doubt + 1 if slips.doubtful_since() is not None else 0
        if slips.doubt >= IN_DOUBT:
            self.end()

    def _weigh(self, sight: Sight) -> None:
        motion = self.out.motion[sight.i]
        gain, fresh = evidence(self.main.body, motion, sight, self.rules.view, self.out.centre)
        self.main.slips.weigh(gain, fresh, sight.i)

    def _slip(self, shift: np.ndarray, since: int) -> None:
        """Shift the frames since a slip by a lattice vector, and weigh them again."""
        chain = self.main
        moved = [s for s in chain.slips.lately if s.i >= since]
        chain.slips.forget()
        for k, sight in enumerate(moved):
            start = shifted(self.out.motion[sight.i], shift[None])[0]
            motion = fit_one(chain.body, start, sight.at, sight.error, self.out.centre)
            site = sites_of(chain.body, motion, sight.at, self.out.centre, TOLERANCE)
            self._enter(sight.i, sight.rows, motion, np.where(site >= 0, chain.body.number[site], -1))
            if k:
                sight.before = self.out.motion[moved[k - 1].i] + sight.pace
            self._weigh(sight)

    def _begin(self, at: np.ndarray, motion: np.ndarray, frame: int) -> _Chain:
        body = Body(unmove(motion, at, self.out.centre), self.count)
        body.look(looked_at(motion, self.rules.view, self.out.centre))
        self.count += len(at)
        return _Chain(body, motion, frame)

    def _adopt(self, chain: _Chain, reason: str) -> None:
        """Go on with this body."""
        self.out.bodies.append(chain.body)
        self.out.reasons.append(reason)
        self.main, self.next = chain, None

    def _wait(self, i: int, frame: int, rows: slice, at: np.ndarray, error: np.ndarray) -> None:
        """A frame that does not fit: perhaps the first of a new body, if others agree with it."""
        gap = self._gap(self.next, frame) if self.next else 1.0
        fit = self._fitted(self.next, gap, at, error) if self.next else None
        if fit is not None and fit.good:
            self.out.motion[i] = fit.motion
            self._learn(self.next, frame, Sight(i, rows, at, error, fit.motion, np.zeros(3), LEAST_STEP, gap))
            self.waiting.append(i)
        else:
            self._drop()
            old = self.main.motion
            seat = move(old, self.main.body.middle(), self.out.centre)
            self.out.motion[i] = old + [*(np.median(at, axis=0) - seat), 0.0]
            self.next = self._begin(at, self.out.motion[i].copy(), frame)
            self.out.site[rows] = self.next.body.number
            self.waiting = [i]
        if len(self.waiting) >= PERSIST:
            self.end()
            self._adopt(self.next, "other columns")
            self.out.body[self.waiting], self.out.status[self.waiting] = len(self.out.bodies) - 1, REGISTERED
            self.waiting = []

    def _drop(self) -> None:
        """Give up what was waiting."""
        self.out.motion[self.waiting] = np.nan
        self.next, self.waiting = None, []

    def _learn(self, chain: _Chain, frame: int, sight: Sight) -> None:
        """Go on to a frame whose motion is known, and take in its columns."""
        motion, body, centre = self.out.motion[sight.i].copy(), chain.body, self.out.centre
        chain.went(motion, sight.gap)
        chain.motion, chain.last = motion, frame
        site = sites_of(body, motion, sight.at, centre, TOLERANCE)
        seen = in_view(body, motion[None], self.rules.view, centre)[0]
        number = body.learn(unmove(motion, sight.at, centre), site, seen, self.count)
        self.count = max(self.count, int(number.max()) + 1)
        self.out.site[sight.rows] = number
        body.look(looked_at(motion, self.rules.view, centre))

    def _fitted(self, chain: _Chain, gap: float, at: np.ndarray, error: np.ndarray) -> _Fit:
        """Fit a frame from where it was going, and where it does not fit there, from anywhere."""
        fit = self._tried(chain, chain.motion + chain.pace(gap), at, error)
        if not fit.good:
            starts = search(chain.body, chain.motion, at, self.out.centre)
            fits = [fit, *(self._tried(chain, start, at, error) for start in starts)]
            fit = max(fits, key=lambda f: (f.good, f.part, int((f.site >= 0).sum())))
        return fit

    def _tried(self, chain: _Chain, start: np.ndarray, at: np.ndarray, error: np.ndarray) -> _Fit:
        body, centre = chain.body, self.out.centre
        motion = fit_one(body, start, at, error, centre)
        site = sites_of(body, motion, at, centre, TOLERANCE)
        at_site = site[site >= 0]
        seen = int((in_view(body, motion[None], self.rules.view, centre)[0] & body.solid).sum())
        fits = at_site.size >= LEAST_PART * min(len(at), seen)
        count, least = int(body.good[at_site].sum()), min(IN_SIGHT * int(body.good.sum()), SURELY)
        good = fits and count >= max(self.rules.min_columns, least)
        return _Fit(motion, site, good, not good and fits and at_site.size >= LEAST_PART * len(at))
