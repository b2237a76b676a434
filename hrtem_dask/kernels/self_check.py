"""What the counting itself would make of known sites: events found, missed and invented, with these very readings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .hmm import most_probable_path
from .hops import Changes, changes_of
from .occupancy_model import Chain, Fit, Record, evidence_of, step_of
from .telegraph import read_sites, simulate_sites

__all__ = ["SelfCheck", "check_path", "matched_changes"]

#: simulated changes, and site-seconds of frozen sites, that are asked for; copies of the movie at most
ENOUGH, MOST_COPIES = 400, 8


class SelfCheck(NamedTuple):
    """How the most probable path does on simulated sites.

    Attributes
    ----------
    efficiency : float
        Part of the true changes that it finds, up to two frames off.
    precision : float
        Part of what it finds that is true.
    false_rate : float
        Changes that it finds at frozen sites, a site-second.
    """

    efficiency: float
    precision: float
    false_rate: float


def matched_changes(found: Changes, true: Changes, within: int = 2) -> int:
    """Number of changes found that are true ones: of the same site and kind, one to one, so many frames off at most.

    Examples
    --------
    >>> path = np.array([[0], [0], [1], [1], [1], [0]])
    >>> late = np.array([[0], [0], [0], [1], [1], [1]])
    >>> matched_changes(changes_of(late, np.ones((6, 1), bool)), changes_of(path, np.ones((6, 1), bool)))
    1
    """
    count, done = 0, set()
    order = np.lexsort((found.frame, found.site))
    by_key: dict[tuple[int, bool], list[int]] = {}
    for i in np.lexsort((true.frame, true.site)):
        by_key.setdefault((int(true.site[i]), bool(true.appeared[i])), []).append(int(i))
    for i in order:
        for j in by_key.get((int(found.site[i]), bool(found.appeared[i])), ()):
            if j not in done and abs(true.frame[j] - found.frame[i]) <= within:
                done.add(j)
                count += 1
                break
    return count


def draw_marks(rng: np.random.Generator, states: np.ndarray, chain: Chain, site: np.ndarray) -> np.ndarray:
    """Marks (frame, site) that columns seen in these states would have."""
    steps = np.cumsum(chain.marks, axis=2)[:, chain.pool[site]]
    chance = rng.random(states.shape)
    out = np.zeros(states.shape, np.int8)
    for k in range(steps.shape[2] - 1):
        out += chance > np.where(states == 1, steps[1, :, k], steps[0, :, k])
    return out


def check_path(records: Sequence[Record], fit: Fit, can: np.ndarray, seed: int = 0) -> SelfCheck:
    """Simulate the sites that can change with the fitted rates, and frozen, and count their events.

    They are read as well as the real ones, in the same frames; what is unknown there is unknown here.

    Parameters
    ----------
    records, fit, can
        As of `kernels.movable.fit_movable`.
    seed : int
        Of the simulation.

    Returns
    -------
    SelfCheck
        nan where nothing can change.
    """
    rng, chain = np.random.default_rng(seed), fit.chain
    hits = found_all = true_all = false = 0
    time = 0.0
    for copy in range(MOST_COPIES):
        for record in records:
            mine = can[record.site]
            if not mine.any():
                continue
            at, known = record.site[mine], record.seen[:, mine] >= 0
            part = Record(record.seen[:, mine], record.time, at)
            step, group = step_of(part, chain), chain.group[at]
            states = simulate_sites(rng, record.time, chain.appear[group], chain.disappear[group])
            frozen = np.broadcast_to(rng.random(len(at)) < 0.5, states.shape).astype(np.int8)
            for truth in (states, frozen):
                seen = np.where(known, read_sites(rng, truth, chain.tpr[at], chain.fpr[at]), -1)
                mark = draw_marks(rng, truth, chain, at)
                ratio = evidence_of(Record(seen, record.time, at, mark), chain)
                found = changes_of(most_probable_path(ratio, step, part.which, chain.start(at)), known)
                if truth is frozen:
                    false += len(found.frame)
                    time += float(known.sum()) / max(len(known), 1) * float(record.time[-1] - record.time[0])
                    continue
                true = changes_of(truth, known)
                hits += matched_changes(found, true)
                found_all, true_all = found_all + len(found.frame), true_all + len(true.frame)
        if copy and true_all >= ENOUGH:
            break
    return SelfCheck(hits / true_all if true_all else np.nan, hits / found_all if found_all else np.nan,
                     false / time if time else np.nan)
