"""Sites that fill and empty at known rates, and what a detector that misses and invents sees of them."""

from __future__ import annotations

import numpy as np

from .hmm import moves

__all__ = ["read_sites", "simulate_sites"]


def simulate_sites(rng: np.random.Generator, time: np.ndarray, appear: np.ndarray, disappear: np.ndarray,
                   start: np.ndarray | None = None) -> np.ndarray:
    """States of independent sites at given times; exact, whatever the gaps.

    Parameters
    ----------
    rng : Generator
        Source of chance.
    time : ndarray, shape (frame,)
        Increasing [second].
    appear, disappear : ndarray, shape (site,)
        Rates [1/second].
    start : ndarray of bool, shape (site,), optional
        First states; by default in equilibrium.

    Returns
    -------
    ndarray of int8, shape (frame, site)

    Examples
    --------
    >>> states = simulate_sites(np.random.default_rng(0), np.arange(2000.0), np.full(50, 0.3), np.full(50, 0.1))
    >>> round(float(states.mean()), 1)  # 0.3 / (0.3 + 0.1)
    0.8
    """
    appear, disappear = np.broadcast_arrays(np.asarray(appear, np.float64), disappear)
    total = appear + disappear
    state = start
    if state is None:
        state = rng.random(appear.shape) * total < appear
    gaps, which = np.unique(np.diff(time), return_inverse=True)
    step = moves(gaps[:, None], appear, disappear)
    out = np.empty((len(time), *appear.shape), np.int8)
    out[0] = state
    for t, gap in enumerate(which.tolist(), start=1):
        state = rng.random(appear.shape) < np.where(state, step.stay_occupied[gap], step.appear[gap])
        out[t] = state
    return out


def read_sites(rng: np.random.Generator, states: np.ndarray, tpr: np.ndarray, fpr: np.ndarray) -> np.ndarray:
    """What is seen of states (frame, site): 1 with the probability ``tpr`` or ``fpr``, independent in each frame.

    Examples
    --------
    >>> read_sites(np.random.default_rng(0), np.array([[1, 0, 1]], np.int8), 1.0, 0.0)
    array([[1, 0, 1]], dtype=int8)
    """
    return (rng.random(states.shape) < np.where(states, tpr, fpr)).astype(np.int8)
