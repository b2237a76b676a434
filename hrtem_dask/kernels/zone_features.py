"""What spot pairs say about the tilt of a particle, as a few numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .net import FIRST_SHELL, span_plane
from .zone_net import Fit, rank_zones

__all__ = ["CRYSTAL", "PLAIN", "zone_features"]

#: features that need no crystal, and those that one adds
PLAIN = ("evenness", "shell_detected", "shell_pairs", "detected", "brightest", "dimmest", "spread", "across", "size",
         "size_evenness", "frequency", "shape")
CRYSTAL = (*PLAIN, "off_net", "misfit", "missing", "family_evenness", "families")
#: logarithms of ratios of intensities are cut at this: what is dimmer is lost in any case
MOST = 7.0


def zone_features(pairs: pd.DataFrame, *, diameter: float, crystal: Any = None) -> dict[str, float] | None:
    """Numbers that tell a particle on a zone axis from a tilted one.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Table `core.schema.PEAK_PAIRS`.
    diameter : float
        Of the particle [angstrom].
    crystal : str, path or ase.Atoms, optional
        Adds what the nets of its zone axes say.

    Returns
    -------
    dict or None
        ``evenness``: logarithm of the intensity of the dimmest over the brightest pair of the shell,
        at most 0; the shell is the first one, or reaches to the shortest second direction.
        ``shell_pairs`` and ``shell_detected``: pairs in it, and the part of them that is detected.
        ``detected``: logarithm of the number of pairs detected at all. ``brightest``, ``dimmest``:
        logarithm of the significance of these two of the shell. ``spread``: smaller over larger
        second moment of the detected places. ``across``: farthest detected pair at right angles to
        the brightest, over its own distance. ``size``: logarithm of diameter times abs(g).
        ``size_evenness``: product of both. ``frequency``: shortest abs(g) [1/angstrom].
        ``shape``: second over first direction's shortest abs(g). None without two non-collinear
        detected pairs.
    """
    g = pairs[["g_y", "g_x"]].to_numpy(dtype=np.float64)
    detected = pairs["detected"].to_numpy(dtype=bool)
    if not span_plane(g[detected]):
        return None
    intensity = np.log(np.maximum(pairs["intensity"].to_numpy(dtype=np.float64), 1e-300))
    significance = np.log(np.maximum(pairs["significance"].to_numpy(dtype=np.float64), 1.0))
    k = np.hypot(*g.T)
    second = _second(g, k)
    shell = k <= max(FIRST_SHELL * k.min(), second * (1 + 1e-9))
    seen = g[detected]
    moments = np.linalg.eigvalsh(seen.T @ (seen * significance[detected, None]))
    top = np.flatnonzero(detected)[intensity[detected].argmax()]
    across = np.abs(seen @ [-g[top, 1], g[top, 0]]).max() / k[top] ** 2
    evenness = max(float(intensity[shell].min() - intensity[shell].max()), -MOST)
    size = float(np.log(max(diameter, 1.0) * k.min()))
    found = {
        "evenness": evenness, "shell_detected": float(detected[shell].mean()), "shell_pairs": float(shell.sum()),
        "detected": float(np.log(detected.sum())), "brightest": float(significance[shell].max()),
        "dimmest": float(significance[shell].min()), "spread": float(np.sqrt(moments[0] / moments[1])),
        "across": float(min(across, 3.0)), "size": size, "size_evenness": size * evenness,
        "frequency": float(k.min()), "shape": float(min(second / k.min(), 3.0)),
    }
    return found | (_of_crystal(g, detected, intensity, significance, crystal) if crystal is not None else {})


def _second(g: np.ndarray, k: np.ndarray) -> float:
    """Shortest abs(g) of the pairs that are not collinear with the shortest one."""
    first = g[k.argmin()]
    other = [k[i] for i in range(len(g)) if span_plane(np.array([first, g[i]]))]
    return float(min(other, default=k.max()))


def _of_crystal(g: np.ndarray, detected: np.ndarray, intensity: np.ndarray, significance: np.ndarray,
                crystal: Any) -> dict[str, float]:
    order = np.flatnonzero(detected)[np.argsort(-significance[detected])]
    fit = rank_zones(g[order], crystal)[0]
    evenness, families = _families(fit, intensity[order][: len(fit.index)])
    n = len(fit.index)
    return {"off_net": float(n - fit.indexed) / n, "misfit": float(min(np.log1p(fit.cost), 5.0)),
            "missing": float(np.log1p(fit.missing)), "family_evenness": evenness, "families": families}


def _families(fit: Fit, intensity: np.ndarray) -> tuple[float, float]:
    """Evenness within equivalent spots of the net, and in how many families more than one was found.

    Spots of one length look alike along the axis, whatever the defocus does to that length.
    """
    length = np.round(np.hypot(*fit.net.spots.T), 6)
    least, complete = 0.0, 0
    for value in np.unique(length):
        members = np.flatnonzero(length == value)
        here = intensity[np.isin(fit.index, members)]
        if len(members) > 1 and len(here):
            gap = float(here.min() - here.max()) if len(here) == len(members) else -MOST
            least, complete = min(least, max(gap, -MOST)), complete + (len(here) == len(members))
    return least, float(complete)
