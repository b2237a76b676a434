"""Events of a path of states, and which of them are two ends of one hop to a neighbouring site."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

__all__ = ["Changes", "changes_of", "hysteresis", "pair_hops"]


class Changes(NamedTuple):
    """Changes of state, in the order of frames.

    Attributes
    ----------
    frame, before : ndarray of int
        Row of the first frame that is known in the new state, and of the last one known in the old state.
    site : ndarray of int
        Site.
    appeared : ndarray of bool
        Whether it was filled.
    """

    frame: np.ndarray
    before: np.ndarray
    site: np.ndarray
    appeared: np.ndarray


def changes_of(path: np.ndarray, known: np.ndarray) -> Changes:
    """Find where the states of a path (frame, site) change, between frames in which the site was looked at.

    Examples
    --------
    >>> path = np.array([[0, 1], [0, 1], [1, 1], [1, 0]])
    >>> changes_of(path, np.ones((4, 2), bool))
    Changes(frame=array([2, 3]), before=array([1, 2]), site=array([0, 1]), appeared=array([ True, False]))
    """
    rows = np.arange(len(path))[:, None]
    last = np.maximum.accumulate(np.where(known, rows, -1), axis=0)  # last known frame so far
    before = np.vstack([np.full((1, path.shape[1]), -1), last[:-1]])
    old = np.take_along_axis(path, np.maximum(before, 0), axis=0)
    frame, site = np.nonzero(known & (before >= 0) & (path != old))
    return Changes(frame, before[frame, site], site, path[frame, site] == 1)


def pair_hops(changes: Changes, neighbours: np.ndarray, within: int = 1) -> np.ndarray:
    """Pair disappearances with appearances at neighbouring sites in the same frame, or so many frames apart.

    Each takes part in one hop at most: most hops first, then the fewest frames apart.

    Parameters
    ----------
    changes : Changes
        From `changes_of`.
    neighbours : ndarray of int, shape (pair, 2)
        Neighbouring sites, each pair in both orders.
    within : int
        Frames.

    Returns
    -------
    ndarray of int, shape (hop, 2)
        Rows of the disappearance and of the appearance.

    Examples
    --------
    >>> path = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1]])
    >>> changes = changes_of(path, np.ones((4, 3), bool))
    >>> pair_hops(changes, np.array([[0, 1], [1, 0], [1, 2], [2, 1]]))
    array([[0, 1]])
    """
    gone, come = np.flatnonzero(~changes.appeared), np.flatnonzero(changes.appeared)
    if not (len(gone) and len(come) and len(neighbours)):
        return np.zeros((0, 2), int)
    order = np.argsort(changes.frame[come], kind="stable")
    frames = changes.frame[come][order]
    first = np.searchsorted(frames, changes.frame[gone] - within, "left")
    count = np.searchsorted(frames, changes.frame[gone] + within, "right") - first
    a = np.repeat(np.arange(len(gone)), count)
    b = order[np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)]
    sites = int(max(changes.site.max(), neighbours.max())) + 1
    near = np.isin(changes.site[gone[a]] * sites + changes.site[come[b]], neighbours[:, 0] * sites + neighbours[:, 1])
    a, b = a[near], b[near]
    apart = np.abs(changes.frame[gone[a]] - changes.frame[come[b]])
    return np.stack([gone[a], come[b]], axis=1)[_matched(a, b, apart, within)]


def _matched(a: np.ndarray, b: np.ndarray, apart: np.ndarray, within: int) -> np.ndarray:
    """Rows of the best one-to-one matching of a with b; each group that hangs together by itself."""
    if not len(a):
        return np.zeros(0, int)
    n, m = int(a.max()) + 1, int(b.max()) + 1
    graph = coo_matrix((np.ones(len(a)), (a, n + b)), shape=(n + m, n + m))
    group = connected_components(graph, directed=False)[1][a]
    chosen = []
    for rows in np.split(np.argsort(group, kind="stable"), np.flatnonzero(np.diff(np.sort(group))) + 1):
        _, i = np.unique(a[rows], return_inverse=True)
        _, j = np.unique(b[rows], return_inverse=True)
        gain = np.zeros((i.max() + 1, j.max() + 1))
        gain[i, j] = 2 * (within + 1) - apart[rows]
        place = np.full(gain.shape, -1)
        place[i, j] = rows
        taken = place[linear_sum_assignment(gain, maximize=True)]
        chosen.append(taken[taken >= 0])
    return np.sort(np.concatenate(chosen))


def hysteresis(seen: np.ndarray, dwell: int = 3) -> np.ndarray:
    """States (frame, site) by the plain rule: a site changes once so many known looks in a row say so.

    The baseline that the hidden chain is compared with. It knows no rates: where columns are missed
    often it invents events, and it never finds a stay shorter than ``dwell`` frames.

    Parameters
    ----------
    seen : ndarray of int8, shape (frame, site)
        1, 0 or -1.
    dwell : int
        Looks in a row.

    Examples
    --------
    >>> hysteresis(np.array([[1], [0], [1], [0], [-1], [0], [0], [1]], np.int8), 2).ravel().tolist()
    [1, 1, 1, 0, 0, 0, 0, 0]
    """
    known = seen >= 0
    first = np.argmax(known, axis=0)
    state = seen[first, np.arange(seen.shape[1])] == 1
    out = np.empty(seen.shape, np.int8)
    run, begin = np.zeros(state.shape, int), np.zeros(state.shape, int)
    switches = []
    for t in range(len(seen)):
        other = known[t] & ((seen[t] == 1) != state)
        begin = np.where(other & (run == 0), t, begin)
        run = np.where(other, run + 1, np.where(known[t], 0, run))
        switch = run >= dwell
        state, run = state ^ switch, np.where(switch, 0, run)
        out[t] = state
        switches += [(int(s), int(begin[s]), t) for s in np.flatnonzero(switch)]
    for s, start, stop in switches:  # a change is dated to the first look that showed it
        out[start:stop, s] = out[stop, s]
    return out
