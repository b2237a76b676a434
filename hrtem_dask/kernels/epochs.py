"""Where a movie falls into parts whose sites cannot be compared, and the registration of all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from .body import BESIDE, Body
from .registration import REGISTERED, TOO_FEW, Followed, FollowRules, follow
from .rigid import Joint, Rows, joint_motions, move, recentred, relative, unmove

__all__ = ["EpochRules", "Registered", "pattern_breaks", "register", "rotation_breaks"]

#: frames that a pattern of sites is the mean of, and sights that a site needs to be in it
WINDOW, SIGHTS = 12, 3
DOUBTFUL = "ambiguous by a lattice vector"
#: a site carries the motion where it was seen so often, at least
CARRIES = 2


@dataclass(frozen=True)
class EpochRules:
    """What begins an epoch: rotation [radian], and correlation with the pattern of the epoch's first frames."""

    max_rotation: float
    min_correlation: float


@dataclass(frozen=True)
class Registered:
    """Registration of all frames.

    Attributes
    ----------
    motion, error : ndarray, shape (frame, 3)
        Drift (y, x) [angstrom] and rotation [radian] since the first registered frame; nan where not registered.
    epoch, matched, status : ndarray of int, shape (frame,)
        Number of the epoch; columns that carry the motion; place in `registration.STATUSES`.
    residual : ndarray, shape (frame,)
        Root mean square of what those are off their mean places, along one axis [angstrom].
    centre : ndarray, shape (2,)
        Of the rotations [angstrom].
    starts : list of (int, str)
        Row of the first frame of each epoch, and why it was begun.
    """

    motion: np.ndarray
    error: np.ndarray
    epoch: np.ndarray
    matched: np.ndarray
    status: np.ndarray
    residual: np.ndarray
    centre: np.ndarray
    starts: list[tuple[int, str]]


def register(frame: np.ndarray, first: np.ndarray, at: np.ndarray, error: np.ndarray, rules: FollowRules,
             epochs: EpochRules) -> Registered:
    """Register the columns of all frames: follow them, then fit all frames together, then find the epochs.

    Parameters
    ----------
    frame : ndarray of int, shape (frame,)
        Numbers of the frames, growing.
    first : ndarray of int, shape (frame + 1,)
        Rows of frame i are ``first[i]:first[i + 1]``.
    at, error : ndarray, shape (row, 2)
        Columns of each frame and their standard errors [angstrom].
    rules, epochs
        Limits.
    """
    n = len(frame)
    followed = follow(frame, first, at, error, rules)
    motion, errors = np.full((n, 3), np.nan), np.full((n, 3), np.nan)
    matched, residual, status = np.zeros(n, np.int64), np.full(n, np.nan), followed.status.copy()
    centre = followed.centre
    if followed.bodies:
        body = followed.bodies[0]
        centre = body.at[body.good].mean(0)
    guess = recentred(followed.motion, followed.centre, centre)
    of_row = np.repeat(np.arange(n), np.diff(first))
    starts: list[tuple[int, str]] = []
    for b, reason in enumerate(followed.reasons):
        frames = np.flatnonzero(followed.body == b)
        joint = _body_motions(followed, b, frames, of_row, at, error, guess, centre)
        sure = (joint.matched >= rules.min_columns) & np.isfinite(joint.error).all(1)
        status[frames[~sure]] = TOO_FEW
        frames, good = frames[sure], np.flatnonzero(sure)
        if not frames.size:
            continue
        motion[frames], errors[frames] = joint.motion[good], joint.error[good]
        matched[frames], residual[frames] = joint.matched[good], joint.residual[good]
        rows = np.flatnonzero(np.isin(of_row, frames) & (followed.site >= 0))
        doubtful = [int(frames[k]) for f in followed.doubtful if (k := np.searchsorted(frames, f)) < frames.size
                    and followed.body[f] == b]
        begun = dict.fromkeys(doubtful, DOUBTFUL) | {int(frames[0]): reason}
        starts += _breaks(frames, begun, motion, of_row[rows], followed.site[rows], at[rows], centre,
                          followed.bodies[b], rules, epochs)
    known = np.flatnonzero(status == REGISTERED)
    if known.size:
        motion = relative(motion, motion[known[0]])
    epoch = np.clip(np.searchsorted([row for row, _ in starts], np.arange(n), side="right") - 1, 0, None)
    return Registered(motion, errors, epoch, matched, status, residual, centre, starts)


def _body_motions(followed: Followed, b: int, frames: np.ndarray, of_row: np.ndarray, at: np.ndarray,
                  error: np.ndarray, guess: np.ndarray, centre: np.ndarray) -> Joint:
    """Fit all frames of a body together, on the sites that carry it."""
    body = followed.bodies[b]
    chosen = body.number[body.good]
    rows = np.flatnonzero((followed.body[of_row] == b) & np.isin(followed.site, chosen))
    local = np.zeros(len(guess), np.int64)
    local[frames] = np.arange(frames.size)
    site = np.searchsorted(chosen, followed.site[rows])
    often = np.bincount(site, minlength=chosen.size) >= min(CARRIES, frames.size)
    rows, site = rows[often[site]], site[often[site]]
    return joint_motions(Rows(local[of_row[rows]], site, at[rows], error[rows]), guess[frames], centre, chosen.size)


def _breaks(frames: np.ndarray, found: dict[int, str], motion: np.ndarray, of_row: np.ndarray, site: np.ndarray,
            at: np.ndarray, centre: np.ndarray, body: Body, rules: FollowRules,
            epochs: EpochRules) -> list[tuple[int, str]]:
    """Rows of the frames that begin an epoch within a body, those known and others, and why."""
    tree, beside = cKDTree(body.at[body.good]), BESIDE * body.spacing
    local = np.searchsorted(frames, of_row)
    number, site = np.unique(site, return_inverse=True)
    count = np.bincount(site, minlength=number.size)
    back = unmove(motion[of_row], at, centre)
    place = np.stack([np.bincount(site, back[:, k], number.size) for k in (0, 1)], axis=1) / count[:, None]
    often = np.flatnonzero((count >= SIGHTS) & np.isfinite(tree.query(place, distance_upper_bound=beside)[0]))
    use = np.isin(site, often)
    column, place = np.searchsorted(often, site[use]), place[often]
    seen = csr_array((np.ones(column.size, np.float32), (local[use], column)), (frames.size, often.size))

    def in_view(k: int) -> np.ndarray:
        y, x = move(motion[frames[k]], place, centre).T
        y0, y1, x0, x1 = rules.view
        return (y >= y0) & (y <= y1) & (x >= x0) & (x <= x1)

    for k in pattern_breaks(seen, in_view, epochs.min_correlation):
        found[int(frames[k])] = "reconstructed"
    for k in rotation_breaks(motion[frames, 2], [int(np.searchsorted(frames, f)) for f in found], epochs.max_rotation):
        found[int(frames[k])] = "rotated"
    return sorted(found.items())


def pattern_breaks(seen: csr_array, in_view, limit: float) -> list[int]:
    """Frames from which on another pattern of sites is seen than in the first frames before.

    Parameters
    ----------
    seen : csr_array, shape (frame, site)
        1 where a site is seen.
    in_view : callable
        Of the row of a frame, the sites that it could show (bool array).
    limit : float
        Least cosine between the means of two times 12 frames, over the sites that both could show.
    """
    n, found, start, t = seen.shape[0], [], 0, WINDOW
    if n < 2 * WINDOW:
        return []
    mean = _window_means(seen)
    while t + WINDOW <= n:
        both = np.logical_and.reduce([in_view(f + k) for f in (start, t) for k in (0, WINDOW // 2, WINDOW - 1)])
        before, after = np.where(both, mean(start), 0), np.where(both, mean(t), 0)
        size = np.linalg.norm(before) * np.linalg.norm(after)
        if size > 0 and before @ after < limit * size:
            late = mean(min(t + WINDOW, n - WINDOW))
            late = np.where(both, late, 0)
            low, high = max(start + 1, t - WINDOW), min(t + 2 * WINDOW, n)
            side = seen[low:high] @ (late - before) - (late @ late - before @ before) / 2
            border = low + int(np.argmax(np.append(0, np.cumsum(-side))))  # before it the old pattern, after it the new
            start = min(max(border, start + 1), n - 1)
            found.append(start)
            t = start + WINDOW
        else:
            t += WINDOW // 3
    return found


def _window_means(seen: csr_array):
    def mean(start: int) -> np.ndarray:
        return np.asarray(seen[start:start + WINDOW].sum(axis=0)).ravel() / WINDOW
    return mean


def rotation_breaks(rotation: np.ndarray, starts: list[int], limit: float) -> list[int]:
    """Frames in which the rotation is further than the limit from that of the epoch's first frame.

    Examples
    --------
    >>> rotation_breaks(np.array([0.0, 0.05, 0.11, 0.12, 0.12, 0.3, 0.12]), [0], 0.1)
    [2]
    """
    if len(rotation) > 2:  # a frame that is alone with its rotation begins nothing
        middle = np.median(np.stack([rotation[:-2], rotation[1:-1], rotation[2:]]), axis=0)
        rotation = np.concatenate([rotation[:1], middle, rotation[-1:] if len(rotation) < 4 else middle[-1:]])
    found, base, fixed = [], rotation[0], set(starts)
    for k, turn in enumerate(rotation.tolist()):
        if k in fixed:
            base = turn
        elif abs(turn - base) > limit:
            found.append(k)
            base = turn
    return found
