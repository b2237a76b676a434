"""Fit of the coefficients of `hrtem_dask.kernels.zone`: a logistic regression with a little shrinkage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hrtem_dask.kernels.zone import Logistic
from hrtem_dask.kernels.zone_features import zone_features

__all__ = ["area", "feature_table", "fit"]

#: within so many degrees of an axis a particle counts as on it
NEAR = 2.0
#: strength of the shrinkage of weights of standardised terms
SHRINKAGE = 3.0


def feature_table(folder: Path, name: str, crystal: str | None) -> pd.DataFrame:
    """The draws of a set with the features of each, nan where pairs give none."""
    draws = pd.read_parquet(folder / f"{name}-draws.parquet")
    pairs = pd.read_parquet(folder / f"{name}-pairs.parquet")
    groups = dict(list(pairs[pairs.crystal == (crystal or "")].groupby("draw")))
    rows = [zone_features(groups[i], diameter=d, crystal=crystal) if i in groups else None
            for i, d in zip(draws.draw, draws.diameter, strict=True)]
    return pd.concat([draws, pd.DataFrame([r or {} for r in rows], index=draws.index)], axis=1)


def fit(table: pd.DataFrame, terms: Sequence[str], *, shrinkage: float = SHRINKAGE,
        weight: np.ndarray | None = None) -> Logistic:
    """Logistic regression of "within 2 degree" on terms, by Newton's method; the shrinkage spares the bias."""
    there = table["evenness"].notna().to_numpy()
    used, weight = table[there], np.ones(there.sum()) if weight is None else weight[there]
    x = Logistic.columns({c: used[c].to_numpy(float) for t in terms for c in t.split("*")}, tuple(terms))
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-9)
    x = np.column_stack([np.ones(len(x)), (x - mean) / scale])
    y = (used["tilt"].to_numpy() <= NEAR).astype(float)
    penalty = shrinkage * np.diag([0.0, *np.ones(len(terms))])
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ w))
        step = np.linalg.solve((x.T * (weight * p * (1 - p))) @ x + penalty, x.T @ (weight * (p - y)) + penalty @ w)
        w -= step
        if np.abs(step).max() < 1e-8:
            break
    slope = w[1:] / scale
    return Logistic(tuple(terms), tuple(float(v) for v in slope), float(w[0] - slope @ mean))


def area(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive is above a negative, ties counting half (Mann and Whitney)."""
    from scipy.stats import rankdata

    rank = rankdata(np.concatenate([positive, negative]))
    n, m = len(positive), len(negative)
    return float((rank[:n].sum() - n * (n + 1) / 2) / (n * m))
