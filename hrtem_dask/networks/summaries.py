"""Figures of many scored scenes: means with bootstrap intervals, one summary for each condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..kernels.masks import Agreement, Matches
    from .scoring import Score

__all__ = ["interval", "percentiles_over", "summarise", "summary"]

RESAMPLES = 1000
#: of a normal distribution: standard deviation over median absolute deviation
MAD = 1.4826


def interval(values: Sequence[float], fields: Sequence[Any], statistic: Callable[..., np.ndarray] = np.mean, *,
             level: float = 0.95, resamples: int = RESAMPLES) -> list[float]:
    """Bootstrap interval of a statistic over scenes: percentiles over fields drawn with replacement.

    A field takes all its values with it: frames of one field are not independent.

    Parameters
    ----------
    values : sequence of float, or ndarray, shape (n, ...)
    fields : sequence
        Which field each value belongs to.
    statistic : callable
        ``statistic(values, axis=0)``.
    level : float
    resamples : int

    Returns
    -------
    list of float
        Lower and upper bound, the same on every call.

    References
    ----------
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13.

    Examples
    --------
    >>> interval([0.9] * 6, "aabbcc")
    [0.9, 0.9]
    """
    values = np.asarray(values, dtype=np.float64)
    names, group = np.unique(np.asarray([str(f) for f in fields]), return_inverse=True)
    members = [np.flatnonzero(group == g) for g in range(len(names))]
    return percentiles_over(len(names), lambda some: statistic(values[np.concatenate([members[g] for g in some])],
                                                               axis=0), level=level, resamples=resamples)


def percentiles_over(groups: int, statistic: Callable[[np.ndarray], Any], *, level: float = 0.95,
                     resamples: int = RESAMPLES) -> list[float]:
    """Percentiles of ``statistic(numbers of groups)`` over groups drawn with replacement."""
    rng = np.random.default_rng(0)
    found = [statistic(rng.integers(0, groups, groups)) for _ in range(resamples)]
    return [_round(q) for q in np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])]


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """Summarise the scores of one predictor under one condition.

    Parameters
    ----------
    scores : sequence of Score

    Returns
    -------
    dict
        ``mean`` and ``worst`` Dice, ``interval``, the bootstrap 95 % interval of the mean over fields,
        ``by_seed``, its mean for each seed, ``wrong_label``, the mean Dice against the mask of
        another field (what a network gets that knows nothing but how much is covered), ``images``;
        of objects, matched one to one from an intersection over union of 0.5 on: ``f1`` with
        ``f1_interval``, ``precision``, ``recall``; ``distance``, median over images of the median
        symmetric surface distance [angstrom], with ``distance_interval``, over the images where
        something was found, ``nothing_found`` counts the others; ``diameter_bias`` and
        ``diameter_scatter``, median and 1.4826 median absolute deviations of the relative error
        of the equivalent diameter of matched objects [%], with their number ``diameters``;
        ``particles``, the same F1 against single particles, where those that overlap in projection
        count singly; ``atoms``, the same against the union of all projected atoms;
        ``false_area``, the part of ``empty_images`` frames without particles that was called particle.
    """
    full = [s for s in scores if s.agreement is not None]
    empty = [s.false_area for s in scores if s.agreement is None]
    out: dict[str, Any] = {"mean": None, "worst": None, "wrong_label": None, "images": len(full),
                           "false_area": _round(np.mean(empty)) if empty else None, "empty_images": len(empty)}
    if not full:
        return out
    fields = [(s.set_seed, s.field) for s in full]
    seeds = sorted({s.seed for s in full})
    wrong = [s.wrong_label for s in full if np.isfinite(s.wrong_label)]
    out |= {"wrong_label": _round(np.mean(wrong)) if wrong else None}
    out |= _against([s.agreement for s in full], fields)
    out["by_seed"] = {str(k): _round(np.mean([s.agreement.dice for s in full if s.seed == k])) for k in seeds}
    single = _objects([s.particles for s in full], fields)
    atoms = _against([s.atoms for s in full], fields)
    return out | {"particles": single, "atoms": atoms}


def _against(found: Sequence[Agreement], fields: Sequence[Any]) -> dict[str, Any]:
    scores = [a.dice for a in found]
    out = {"mean": _round(np.mean(scores)), "interval": interval(scores, fields), "worst": _round(min(scores))}
    out |= _objects(found, fields)
    there = [(a.distance, f) for a, f in zip(found, fields, strict=True) if np.isfinite(a.distance)]
    out |= {"distance": None, "distance_interval": None, "nothing_found": len(found) - len(there)}
    if there:
        distances, where = zip(*there, strict=True)
        out |= {"distance": _round(np.median(distances)), "distance_interval": interval(distances, where, np.median)}
    errors = 100 * np.concatenate([a.diameter_errors for a in found])
    out |= {"diameter_bias": None, "diameter_scatter": None, "diameters": len(errors)}
    if len(errors):
        bias = np.median(errors)
        out |= {"diameter_bias": _round(bias), "diameter_scatter": _round(MAD * np.median(abs(errors - bias)))}
    return out


def _objects(found: Sequence[Agreement | Matches], fields: Sequence[Any]) -> dict[str, Any]:
    counts = np.array([(a.matched, a.found, a.true) for a in found], dtype=np.float64)
    matched, some, true = counts.sum(0)

    def f1(c: np.ndarray, axis: int) -> np.ndarray:
        total = c.sum(axis)
        return 2 * total[0] / max(total[1] + total[2], 1)

    return {"f1": _round(f1(counts, 0)), "f1_interval": interval(counts, fields, f1),
            "precision": _round(matched / some) if some else None, "recall": _round(matched / true) if true else None}


def _round(value: float) -> float:
    return round(float(value), 4)


def summary(scores: dict[str, dict[str, Any]]) -> str:
    """One line a dose, for the log."""
    return "\n".join(f"dose {d:>5} e/angstrom^2: Dice {s['mean']} {s.get('interval')} worst {s['worst']} wrong label "
                     f"{s['wrong_label']} F1 {s.get('f1')} distance {s.get('distance')} angstrom false area "
                     f"{s['false_area']}" for d, s in scores.items())
