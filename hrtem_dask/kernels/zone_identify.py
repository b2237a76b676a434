"""Which zone axis of a crystal spot pairs belong to, and which others they could."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..core.errors import InputError
from .net import span_plane
from .zone_net import Fit, rank_zones

__all__ = ["AS_WELL", "ZoneAxis", "identify"]

#: an axis fits as well where its cost is higher by no more than this: odds of one to twenty
AS_WELL = 3.0
NEEDED = ("g_y", "g_x", "d_spacing", "significance", "detected")


@dataclass(frozen=True, eq=False)
class ZoneAxis:
    """The zone axis that fits spot pairs best, and what else is known of the fit.

    Attributes
    ----------
    axis : str
        Such as "[110]", standing for all equivalent axes; "" where none fits.
    uvw : tuple of int
        Its indices; empty where none fits.
    others : tuple of str
        Axes that fit as well, best first: without them the answer is unambiguous.
    indexed, detected : int
        Pairs on the net of the axis, of so many detected ones that were looked at.
    missing : int
        Spots of the net inside the farthest indexed pair that were not detected.
    residual : float
        Root mean square distance of the indexed pairs from the net's places [1/angstrom].
    d_error, angle_error : float
        Largest deviation of a spacing (relative) and of an angle from the brightest indexed pair [degree].
    pairs : pandas.DataFrame
        The detected pairs with their indices ``h, k, l`` (-1, 0 or 1 ... and empty, ``<NA>``, off the net)
        and the crystal's ``d_crystal`` [angstrom].
    candidates : pandas.DataFrame
        All axes, best first: ``axis, cost, indexed, missing, residual``; a difference of 1 in ``cost`` is a
        factor e in the odds.
    """

    axis: str
    uvw: tuple[int, ...]
    others: tuple[str, ...]
    indexed: int
    detected: int
    missing: int
    residual: float
    d_error: float
    angle_error: float
    pairs: pd.DataFrame
    candidates: pd.DataFrame

    def __str__(self) -> str:
        if not self.axis:
            return f"no zone axis fits {self.detected} pairs"
        unsure = f", or {', '.join(self.others)}" if self.others else ""
        return (f"{self.axis}{unsure}: {self.indexed} of {self.detected} pairs within {self.residual:.3f} 1/angstrom, "
                f"spacings to {100 * self.d_error:.1f} %, angles to {self.angle_error:.1f} degree")


def identify(pairs: pd.DataFrame, crystal: Any) -> ZoneAxis:
    """Zone axis of detected pairs; see `hrtem_dask.identify_zone_axis`."""
    lacking = [c for c in NEEDED if c not in getattr(pairs, "columns", ())]
    if lacking:
        raise InputError(f"the table of pairs lacks {lacking}; expected the table that fourier_peak_pairs returns")
    rows = pairs[pairs["detected"].to_numpy(dtype=bool)]
    rows = rows.sort_values("significance", ascending=False, kind="stable", ignore_index=True)
    g = rows[["g_y", "g_x"]].to_numpy(dtype=np.float64)
    fits = rank_zones(g, crystal) if span_plane(g) else []
    candidates = pd.DataFrame([(f.net.name, f.cost, f.indexed, f.missing, f.residual) for f in fits],
                              columns=["axis", "cost", "indexed", "missing", "residual"])
    good = [f for f in fits if span_plane(g[: len(f.index)][f.index >= 0]) and 2 * f.indexed > len(f.index)]
    if not good:
        return ZoneAxis("", (), (), 0, len(rows), 0, *[float("nan")] * 3, rows, candidates)
    best = good[0]
    others = tuple(f.net.name for f in good[1:] if f.cost <= best.cost + AS_WELL)
    d_error, angle_error = _errors(best, g)
    return ZoneAxis(best.net.name, best.net.uvw, others, best.indexed, len(best.index), best.missing, best.residual,
                    d_error, angle_error, _indexed(rows, best), candidates)


def _errors(fit: Fit, g: np.ndarray) -> tuple[float, float]:
    """Largest relative error of a spacing, and of an angle between a pair and the first indexed one [degree]."""
    on = np.flatnonzero(fit.index >= 0)
    seen, spots = g[on], fit.net.spots[fit.index[on]] * [1.0, -1.0 if fit.mirrored else 1.0]
    length = np.hypot(*seen.T) / np.hypot(*spots.T)
    turn = [np.arctan2(v[:, 1], v[:, 0]) for v in (seen, spots)]
    apart = np.degrees((turn[0] - turn[0][0]) - (turn[1] - turn[1][0]))
    apart = (apart + 90) % 180 - 90  # a pair is a line, not an arrow
    return float(np.abs(1 / length - 1).max()), float(np.abs(apart).max())


def _indexed(rows: pd.DataFrame, fit: Fit) -> pd.DataFrame:
    index = np.full(len(rows), -1)
    index[: len(fit.index)] = fit.index
    on = index >= 0
    hkl = np.where(on[:, None], fit.net.hkl[index], 0)
    spacing = np.where(on, 1 / np.hypot(*fit.net.spots[index].T), np.nan)
    extra = {name: pd.array(hkl[:, i], dtype="Int64") for i, name in enumerate("hkl")}
    out = rows.assign(**extra, d_crystal=spacing)
    out.loc[~on, ["h", "k", "l"]] = pd.NA
    return out
