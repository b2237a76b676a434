"""The lowest threshold on a score at which few enough of the frames that it keeps are false."""

from __future__ import annotations

import numpy as np
from scipy import stats

__all__ = ["CONFIDENCE", "expected_threshold", "proven_threshold", "share_interval", "share_limit"]

#: of every bound and interval
CONFIDENCE = 0.95
#: thresholds that are tried against a truth, at most: the bound pays for each
TRIED = 16


def expected_threshold(score: np.ndarray, target: float) -> tuple[float, float]:
    """Lowest threshold whose expected false-keep rate, the mean of ``1 - score`` over what it keeps, is on target.

    The expectation is right where scores are calibrated: of all frames with the score s, the part s is good.

    Parameters
    ----------
    score : ndarray
        Probabilities of the candidates.
    target : float
        Largest rate, 0 to 1.

    Returns
    -------
    (float, float)
        Keep scores of at least the first; the second is the rate that is expected there. inf and nan where
        even the best score is not good enough.

    Examples
    --------
    >>> threshold, rate = expected_threshold(np.array([0.98, 0.9, 0.8, 0.4]), 0.11)
    >>> threshold, round(rate, 3)
    (0.8, 0.107)
    >>> expected_threshold(np.array([0.7]), 0.1)
    (inf, nan)
    """
    ordered, last = _ordered(score)
    rate = np.cumsum(1 - ordered) / np.arange(1, len(ordered) + 1)
    good = np.flatnonzero(last & (rate <= target + 1e-12))
    return (float(ordered[good[-1]]), float(rate[good[-1]])) if good.size else (float("inf"), float("nan"))


def proven_threshold(score: np.ndarray, truth: np.ndarray, target: float) -> tuple[float, float]:
    """Lowest threshold at which an upper bound on the false-keep rate is on target, by frames whose truth is known.

    The bound is that of Clopper and Pearson at 95 %, shared among the (at most 16) thresholds that are
    tried, so that it holds for the chosen one too.

    Parameters
    ----------
    score, truth : ndarray
        Of the candidates; ``truth`` says which are good.
    target : float
        Largest rate, 0 to 1.

    Returns
    -------
    (float, float)
        Threshold, and the bound there; inf and nan where no threshold passes.

    Examples
    --------
    >>> score = np.linspace(0, 1, 1001)
    >>> threshold, bound = proven_threshold(score, score > 0.6, 0.05)
    >>> 0.5 < threshold < 0.65, bound <= 0.05
    (True, True)
    """
    ordered, last = _ordered(score)
    false = np.cumsum(~np.asarray(truth, bool)[np.argsort(-score, kind="stable")])
    ends = np.flatnonzero(last)
    if not ends.size:
        return float("inf"), float("nan")
    tried = np.unique(ends[np.linspace(0, len(ends) - 1, min(TRIED, len(ends))).round().astype(int)])
    best = float("inf"), float("nan")
    for end in tried:
        bound = share_limit(int(false[end]), int(end) + 1, 1 - (1 - CONFIDENCE) / len(tried))
        if bound <= target:
            best = float(ordered[end]), bound
    return best


def _ordered(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores from the highest, and where a value ends: a threshold keeps all equal scores or none."""
    ordered = np.sort(np.asarray(score, dtype=np.float64))[::-1]
    return ordered, np.append(np.diff(ordered) < 0, True) if len(ordered) else np.zeros(0, bool)


def share_limit(k: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Upper bound on a share of which k of n were seen (Clopper and Pearson, one-sided).

    Examples
    --------
    >>> round(share_limit(0, 59), 4), share_limit(3, 3)
    (0.0495, 1.0)
    """
    return 1.0 if k >= n else float(stats.beta.ppf(confidence, k + 1, n - k))


def share_interval(k: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a share of which k of n were seen (Clopper and Pearson, two-sided); 0 to 1 where n is 0.

    Examples
    --------
    >>> [round(v, 3) for v in share_interval(9, 10)]
    [0.555, 0.997]
    """
    each = 1 - (1 - confidence) / 2
    return (0.0, 1.0) if n == 0 else (1 - share_limit(n - k, n, each), share_limit(k, n, each))
