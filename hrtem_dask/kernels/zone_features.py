"""What spot pairs say about the tilt of a particle, as a few numbers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from .net import FIRST_SHELL, reduced, span_plane
from .zone_net import Fit, rank_zones

__all__ = ["CRYSTAL", "PLAIN", "zone_features"]

#: features that need no crystal, and those that one adds
PLAIN = ("evenness", "shell_detected", "shell_pairs", "detected", "dimmest", "spread", "across", "size", "frequency",
         "level", "decline", "stray")
CRYSTAL = (*PLAIN, "off_net", "missing", "family_evenness", "families")
#: spots of the net out to this are expected of a particle on an axis [1/angstrom]
FAR = 0.87
#: logarithm of the significance taken for a spot of the net that is not in the table: noise
NOISE = 1.0
#: a pair is on a place of the net within this part of abs(g), and this much more [1/angstrom]
PLACE = (0.03, 0.012)
#: pairs tried as the net's basis
BASIS_PAIRS = 8
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
        ``detected``: logarithm of the number of pairs detected at all. ``dimmest``: logarithm of the lowest
        significance in the shell. ``spread``: smaller over larger second moment of the detected places,
        weighted by the logarithm of their significance. ``across``: farthest detected pair at right angles to
        the brightest, over abs(g) of that. ``size``: logarithm of diameter times abs(g). ``frequency``: shortest
        abs(g) [1/angstrom]. Of all spots out to `FAR` of the net that the pairs span: ``level``, the mean logarithm
        of the significance; ``decline``, the coefficient [angstrom^2] with which it falls off along the
        direction in which it does so most, beyond what it does along all. ``stray``: part of the detected
        pairs off the net.

        With a crystal, for the zone axis that fits best: ``off_net``, part of the detected pairs off its net;
        ``missing``, logarithm of one more than the spots of it that were not detected, out to the farthest
        that was; ``family_evenness``, the lowest evenness among spots of one length; ``families``, how many
        lengths are complete. None without two non-collinear detected pairs.
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
    found = {
        "evenness": max(float(intensity[shell].min() - intensity[shell].max()), -MOST),
        "shell_detected": float(detected[shell].mean()), "shell_pairs": float(shell.sum()),
        "detected": float(np.log(detected.sum())), "dimmest": float(significance[shell].min()),
        "spread": float(np.sqrt(moments[0] / moments[1])), "across": float(min(across, 3.0)),
        "size": float(np.log(max(diameter, 1.0) * k.min())), "frequency": float(k.min()),
    } | _of_net(g, detected, significance)
    return found | (_of_crystal(g, detected, intensity, significance, crystal) if crystal is not None else {})


def _second(g: np.ndarray, k: np.ndarray) -> float:
    """Shortest abs(g) of the pairs that are not collinear with the shortest one."""
    first = g[k.argmin()]
    other = [k[i] for i in range(len(g)) if span_plane(np.array([first, g[i]]))]
    return float(min(other, default=k.max()))


def _of_net(g: np.ndarray, detected: np.ndarray, significance: np.ndarray) -> dict[str, float]:
    """How the significance is spread over the net that the detected pairs span."""
    order = np.flatnonzero(detected)[np.argsort(-significance[detected])]
    basis, stray = _basis(g[order])
    most = min(int(np.ceil(FAR / np.sqrt(max(abs(np.linalg.det(basis)), 1e-6)))) + 2, 8)
    i, j = np.meshgrid(np.arange(-most, most + 1), np.arange(0, most + 1))
    index = np.column_stack([i.ravel(), j.ravel()])
    spots = index[(index[:, 1] > 0) | (index[:, 0] > 0)] @ basis
    k = np.hypot(*spots.T)
    spots = spots[k <= max(FAR, np.sort(k)[1])]
    apart = np.hypot(*(np.concatenate([g, -g])[:, None] - spots[None]).transpose(2, 0, 1))
    row, distance = apart.argmin(0) % len(g), apart.min(0)
    here = distance <= PLACE[1] + PLACE[0] * np.hypot(*spots.T)
    value = np.where(here, np.maximum(significance[row], NOISE), NOISE)
    return {"level": float(value.mean()), "decline": _decline(spots, value), "stray": stray}


def _basis(g: np.ndarray) -> tuple[np.ndarray, float]:
    """Reduced basis of the net that most of the pairs lie on, and the part of them that does not."""
    best, merit = None, (-1, 0.0, 0)
    for i, j in combinations(range(min(len(g), BASIS_PAIRS)), 2):
        if not span_plane(g[[i, j]]):
            continue
        basis = reduced(g[i], g[j])
        off = g - np.rint(np.linalg.solve(basis.T, g.T).T) @ basis
        on = int((np.hypot(*off.T) <= PLACE[1] + PLACE[0] * np.hypot(*g.T)).sum())
        this = (on, round(abs(float(np.linalg.det(basis))), 3), -i - j)  # of nets that hold as many, the widest
        if this > merit:
            best, merit = basis, this
    return best, 1 - merit[0] / len(g)


def _decline(spots: np.ndarray, value: np.ndarray) -> float:
    """Most negative coefficient of (g u)^2 over directions u in value = a + b g^2 + c (g u)^2, with a little shrinkage.

    A tilt by t about an axis multiplies the amplitude of g by a function of t g u, with u across the axis.
    """
    k2 = (spots**2).sum(1)
    lowest = 0.0
    for angle in np.arange(12) * np.pi / 12:
        along = (spots @ [np.cos(angle), np.sin(angle)]) ** 2
        x = np.column_stack([np.ones(len(k2)), k2, along])
        lowest = min(lowest, float(np.linalg.solve(x.T @ x + np.diag([0.0, 0.1, 0.1]), x.T @ value)[2]))
    return lowest


def _of_crystal(g: np.ndarray, detected: np.ndarray, intensity: np.ndarray, significance: np.ndarray,
                crystal: Any) -> dict[str, float]:
    order = np.flatnonzero(detected)[np.argsort(-significance[detected])]
    fit = rank_zones(g[order], crystal)[0]
    evenness, families = _families(fit, intensity[order][: len(fit.index)])
    n = len(fit.index)
    return {"off_net": float(n - fit.indexed) / n, "missing": float(np.log1p(fit.missing)),
            "family_evenness": evenness, "families": families}


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
