"""How probable it is that a particle lies on a zone axis, and on which."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .zone_features import zone_features

__all__ = ["COEFFICIENTS", "Logistic", "has_structure", "shipped", "zone_axis_score"]

#: made by ``python -m benchmarks.zone_axis fit``; the file says with what
COEFFICIENTS = Path(__file__).with_name("zone_coefficients.json")


@dataclass(frozen=True)
class Logistic:
    """A logistic regression: the probability is 1 / (1 + exp(-(bias + sum of weight * term))).

    Attributes
    ----------
    terms : tuple of str
        Names of features, or of two with a ``*`` between them.
    weight : tuple of float
        Of each term.
    bias : float
    """

    terms: tuple[str, ...]
    weight: tuple[float, ...]
    bias: float

    @staticmethod
    def columns(features: Mapping[str, Any], terms: tuple[str, ...]) -> np.ndarray:
        """The terms' values, the last axis, from features that are numbers or arrays."""
        return np.stack([np.prod([features[f] for f in term.split("*")], axis=0) for term in terms], axis=-1)

    def probability(self, features: Mapping[str, Any]) -> np.ndarray:
        """Probability for features that are numbers or arrays of one shape."""
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-(self.bias + self.columns(features, self.terms) @ np.array(self.weight))))


@lru_cache(maxsize=1)
def shipped() -> dict[str, Logistic]:
    """The coefficients in the package: "plain", and "crystal" where its nets are known too."""
    content = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    return {name: Logistic(tuple(m["weight"]), tuple(m["weight"].values()), m["bias"])
            for name, m in content["models"].items()}


def has_structure(crystal: Any) -> bool:
    """Whether this is a crystal whose zone axes are known: not None, and no bare list of spacings."""
    return isinstance(crystal, str | Path) or hasattr(crystal, "get_scaled_positions") or hasattr(crystal, "planes")


def zone_axis_score(pairs: pd.DataFrame, *, diameter: float, crystal: Any = None) -> float:
    """Probability that a particle is within 2 degree of a zone axis; see `hrtem_dask.zone_axis_score`."""
    crystal = crystal if has_structure(crystal) else None
    features = zone_features(pairs, diameter=diameter, crystal=crystal)
    if features is None:
        return 0.0
    return float(shipped()["plain" if crystal is None else "crystal"].probability(features))
