"""Two-state hidden Markov chains in continuous time, many at once: filter, smoother, most probable path.

A site is empty (0) or occupied (1). It fills at the rate ``appear`` and empties at the rate ``disappear`` [1/s], so
over a gap of t seconds it moves by exp(Q t), whatever the gap: frames that were left out cost nothing and bias
nothing. What is seen of it in a frame is 1 (a column), 0 (none) or -1 (unknown: the site was not looked at).

All loops run over frames; sites, and whatever else lies on the last axes, go through them together. Two states need
one number each, the odds of occupied to empty, and odds lose no digits near certainty. Rabiner 1989
(10.1109/5.18626); moments of the path between two frames: Hobolth and Jensen 2005 (10.2202/1544-6115.1127).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = [
    "Moments",
    "Moves",
    "Smoothed",
    "backward_odds",
    "filter_odds",
    "likelihood_ratio",
    "log_evidence",
    "most_probable_path",
    "moves",
    "path_moments",
    "smooth",
]

#: products of so many frames are formed before a logarithm is taken; odds stay below 1e30 or so each
TOGETHER = 8


class Moves(NamedTuple):
    """Probabilities of what a site does over a gap: each an array (gap, ...)."""

    stay_empty: np.ndarray
    appear: np.ndarray
    disappear: np.ndarray
    stay_occupied: np.ndarray


class Moments(NamedTuple):
    """What is expected within a gap, given its ends: each an array (before, after, gap, ...).

    Attributes
    ----------
    appeared, disappeared : ndarray
        Number of such events.
    occupied : ndarray
        Time spent occupied [second].
    """

    appeared: np.ndarray
    disappeared: np.ndarray
    occupied: np.ndarray


class Smoothed(NamedTuple):
    """What all frames together say of each site.

    Attributes
    ----------
    occupied : ndarray, shape (frame, ...)
        Probability that the site is occupied.
    filtered : ndarray, shape (frame, ...)
        Odds of occupied to empty by the frames so far.
    ahead, after : ndarray, shape (frame, ...) and (step, ...)
        Odds by the frames to come, without the frame itself; and with the frame after each step.
    log_likelihood : ndarray, shape (...)
        Of all that was seen; relative to an empty site (`log_evidence`).
    """

    occupied: np.ndarray
    filtered: np.ndarray
    ahead: np.ndarray
    after: np.ndarray
    log_likelihood: np.ndarray

    def moved(self, step: Moves, which: np.ndarray, part: slice = slice(None)) -> np.ndarray:
        """Probability (before, after, step, ...) of the states at both ends of some steps."""
        before, after = self.filtered[:-1][part], self.after[part]
        out = np.empty((2, 2, *after.shape))
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            out[a, b] = step[2 * a + b][which[part]]
        out[1] *= before
        out[:, 1] *= after
        out /= out.sum((0, 1))
        return out


def moves(gap: np.ndarray, appear: np.ndarray, disappear: np.ndarray) -> Moves:
    """Probabilities exp(Q t) of a two-state chain; arguments are broadcast.

    Parameters
    ----------
    gap : ndarray
        Time t [second].
    appear, disappear : ndarray
        Rates [1/second], 0 or more.

    Returns
    -------
    Moves

    Examples
    --------
    >>> m = moves(np.array([0.1, 0.2]), 0.5, 1.0)
    >>> once, twice = (np.array([[m.stay_empty[i], m.appear[i]], [m.disappear[i], m.stay_occupied[i]]]) for i in (0, 1))
    >>> bool(np.allclose(once @ once, twice))
    True
    """
    decayed = _decayed(gap, appear, disappear)
    appeared, disappeared = appear * decayed, disappear * decayed
    return Moves(1.0 - appeared, appeared, disappeared, 1.0 - disappeared)


def _decayed(gap: np.ndarray, appear: np.ndarray, disappear: np.ndarray) -> np.ndarray:
    """(1 - exp(-s t)) / s, s the sum of the rates; t where s is 0."""
    total = np.asarray(appear, np.float64) + disappear
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, -np.expm1(-total * gap) / total, gap)


def path_moments(gap: np.ndarray, appear: np.ndarray, disappear: np.ndarray) -> Moments:
    """Events and occupied time expected between two frames, given the states in both.

    Integrals over the time s of P_ai(s) q_ij P_jb(t - s), over P_ab(t), in closed form.

    Examples
    --------
    A slow site that was seen empty, then occupied, has appeared once, at half time.

    >>> m = path_moments(np.array([0.1]), np.array([1e-3]), np.array([1e-3]))
    >>> m.appeared[0, 1].round(4), m.disappeared[0, 1].round(4), m.occupied[0, 1].round(4)
    (array([1.]), array([0.]), array([0.05]))
    """
    gap, appear, disappear = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (gap, appear, disappear)))
    total = appear + disappear
    full, empty = appear / total, disappear / total
    decay, mean = np.exp(-total * gap), _decayed(gap, appear, disappear)
    # P_ab(s) = constant + factor exp(-total s)
    shape = {(0, 0): (empty, full), (0, 1): (full, -full), (1, 0): (empty, -empty), (1, 1): (full, empty)}

    def integral(first: tuple[int, int], second: tuple[int, int]) -> np.ndarray:
        (c1, d1), (c2, d2) = shape[first], shape[second]
        return c1 * c2 * gap + (c1 * d2 + d1 * c2) * mean + d1 * d2 * gap * decay

    out = Moments(*(np.empty((2, 2, *gap.shape)) for _ in range(3)))
    for a in (0, 1):
        for b in (0, 1):
            ends = np.maximum(shape[a, b][0] + shape[a, b][1] * decay, 1e-300)
            out.appeared[a, b] = appear * integral((a, 0), (1, b)) / ends
            out.disappeared[a, b] = disappear * integral((a, 1), (0, b)) / ends
            out.occupied[a, b] = integral((a, 1), (1, b)) / ends
    return out


def likelihood_ratio(seen: np.ndarray, tpr: np.ndarray, fpr: np.ndarray) -> np.ndarray:
    """Likelihood of what was seen if the site is occupied, over that if it is empty; 1 where it is unknown.

    Parameters
    ----------
    seen : ndarray of int8, shape (frame, ..., site)
        1, 0 or -1.
    tpr, fpr : ndarray, shape (site,)
        Probability to see a column where there is one, and where there is none.

    Examples
    --------
    >>> likelihood_ratio(np.array([[1], [0], [-1]], np.int8), np.array([0.9]), np.array([0.1])).ravel().round(3)
    array([9.   , 0.111, 1.   ])
    """
    return np.where(seen == 1, tpr / fpr, np.where(seen == 0, (1.0 - tpr) / (1.0 - fpr), 1.0))


def log_evidence(seen: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Log-likelihood (site,) of what was seen of sites that are seen with this probability in every frame."""
    ones, zeros = (seen == 1).sum(0), (seen == 0).sum(0)
    return ones * np.log(probability) + zeros * np.log1p(-probability)


def filter_odds(ratio: np.ndarray, step: Moves, which: np.ndarray, start: np.ndarray, *,
                keep: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Odds of occupied to empty by the frames so far.

    Parameters
    ----------
    ratio : ndarray, shape (step, ...)
        `likelihood_ratio` of the frame after each step.
    step : Moves
        For each different gap.
    which : ndarray of int, shape (step,)
        Gap of each step.
    start : ndarray, shape (...)
        Odds before the first step.
    keep : bool
        Return the odds after each step, else only the last ones.

    Returns
    -------
    odds : ndarray, shape (step, ...) or (...)
    log_likelihood : ndarray, shape (...)
    """
    odds = np.asarray(start, np.float64)
    shape = np.broadcast_shapes(odds.shape, ratio.shape[1:], step.appear.shape[1:])
    odds, log, product = np.broadcast_to(odds, shape), np.zeros(shape), np.ones(shape)
    out = np.empty((len(ratio), *shape)) if keep else None
    tables = [(step.stay_empty[i], step.appear[i], step.disappear[i], step.stay_occupied[i])
              for i in range(len(step.appear))]
    for t, gap in enumerate(np.asarray(which).tolist()):
        stay, up, down, on = tables[gap]
        before = odds * on
        before += up
        before /= odds * down + stay
        odds = before * ratio[t]
        product *= (1.0 + odds) / (1.0 + before)
        if t % TOGETHER == TOGETHER - 1:
            log += np.log(product)
            product = np.ones(shape)
        if out is not None:
            out[t] = odds
    return (odds if out is None else out), log + np.log(product)


def backward_odds(ratio: np.ndarray, step: Moves, which: np.ndarray) -> np.ndarray:
    """Odds (step, ...) by the frames to come, at the frame before each step; shapes as in `filter_odds`."""
    shape = np.broadcast_shapes(ratio.shape[1:], step.appear.shape[1:])
    out, ahead = np.empty((len(ratio), *shape)), np.ones(shape)
    tables = [(step.stay_empty[i], step.appear[i], step.disappear[i], step.stay_occupied[i])
              for i in range(len(step.appear))]
    which = np.asarray(which).tolist()
    for t in range(len(ratio) - 1, -1, -1):
        stay, up, down, on = tables[which[t]]
        after = ahead * ratio[t]
        ahead = after * on
        ahead += down
        ahead /= after * up + stay
        out[t] = ahead
    return out


def smooth(ratio: np.ndarray, step: Moves, which: np.ndarray, start: np.ndarray | float = 1.0) -> Smoothed:
    """State of every site in every frame, by all frames.

    Parameters
    ----------
    ratio : ndarray, shape (frame, ...)
        From `likelihood_ratio`, or of any other evidence (presence probabilities).
    step : Moves
        For each different gap; (gap, ...) broadcasts with a frame of ``ratio``.
    which : ndarray of int, shape (frame - 1,)
        Gap of each step from one frame to the next.
    start : float or ndarray, shape (...)
        Odds before the first frame; 1 says nothing.

    Returns
    -------
    Smoothed

    Examples
    --------
    One missed column among many is no event.

    >>> seen = np.array([[1], [1], [0], [1], [1]], np.int8)
    >>> ratio = likelihood_ratio(seen, np.array([0.9]), np.array([0.01]))
    >>> step = moves(np.array([[0.1]]), 0.1, 0.1)
    >>> smooth(ratio, step, np.zeros(4, int)).occupied.ravel().round(3).tolist()
    [1.0, 1.0, 0.999, 1.0, 1.0]
    """
    first = start * ratio[0]
    log = np.log((1.0 + first) / (1.0 + start))
    later, more = filter_odds(ratio[1:], step, which, first)
    filtered = np.concatenate([np.broadcast_to(first, later.shape[1:])[None], later])
    ahead = np.concatenate([backward_odds(ratio[1:], step, which), np.ones((1, *later.shape[1:]))])
    odds = filtered * ahead
    return Smoothed(odds / (1.0 + odds), filtered, ahead, ratio[1:] * ahead[1:], log + more)


def most_probable_path(ratio: np.ndarray, step: Moves, which: np.ndarray,
                       start: np.ndarray | float = 1.0) -> np.ndarray:
    """States of the most probable path (Viterbi); arguments as in `smooth`.

    Returns
    -------
    ndarray of int8, shape (frame, ...)
        0 or 1. Of two paths that are equally probable, the one that changes later.

    Examples
    --------
    >>> seen = np.array([[1], [1], [0], [1], [0], [0], [0]], np.int8)
    >>> ratio = likelihood_ratio(seen, np.array([0.9]), np.array([0.01]))
    >>> most_probable_path(ratio, moves(np.array([[0.1]]), 0.1, 0.1), np.zeros(6, int)).ravel().tolist()
    [1, 1, 1, 1, 0, 0, 0]
    """
    with np.errstate(divide="ignore"):
        evidence = np.log(ratio)
        stay, up, down, on = (np.log(p) for p in step)
    shape = np.broadcast_shapes(ratio.shape[1:], up.shape[1:])
    lead = np.broadcast_to(np.log(start) + evidence[0], shape)  # how far occupied is ahead of empty
    came = np.empty((2, len(ratio), *shape), dtype=bool)  # whether the best way to [state] comes from occupied
    which = np.asarray(which).tolist()
    for t, gap in enumerate(which, start=1):
        leave, keep = lead + down[gap], lead + on[gap]
        came[0, t], came[1, t] = leave > stay[gap], keep >= up[gap]
        lead = np.maximum(keep, up[gap]) - np.maximum(leave, stay[gap]) + evidence[t]
    path = np.empty((len(ratio), *shape), dtype=np.int8)
    state = lead > 0
    for t in range(len(ratio) - 1, -1, -1):
        path[t] = state
        state = np.where(state, came[1, t], came[0, t])
    return path
