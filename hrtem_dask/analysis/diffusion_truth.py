"""Diffusion events against the truth of a simulated movie: which were found, which were invented, and the true rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.optimize import linear_sum_assignment

from ..kernels.rigid import move
from ..simulate.hopping import true_events

__all__ = ["EventScore", "compare_events"]

#: a found site is a true one up to this distance [angstrom], and an event up to so many frames
NEAR, WITHIN = 1.2, 2


@dataclass(frozen=True)
class EventScore:
    """How events compare with the truth. A hop is a change at each of its two sites.

    Attributes
    ----------
    changes, found, hits : int
        True changes of sites from one frame that was used to the next, found changes, and those that agree.
    rate : float
        True events a site and second, over all frames: what a frame does not show is no event.
    events, sites : int
        True events, and true sites.
    kinds : dict
        True events of each kind.
    exposure : float
        True sites times the duration of the movie [site-seconds].
    table : pandas.DataFrame
        The true events as changes of found sites: ``frame, time, site, up``; ``site`` is -1 where no site was found.
    """

    changes: int
    found: int
    hits: int
    rate: float
    events: int
    sites: int
    kinds: dict[str, int]
    exposure: float
    table: pd.DataFrame

    @property
    def recall(self) -> float:
        """Part of the true changes that is found."""
        return self.hits / self.changes if self.changes else np.nan

    @property
    def precision(self) -> float:
        """Part of the found changes that is true."""
        return self.hits / self.found if self.found else np.nan

    def to_json(self) -> dict[str, Any]:
        """The numbers; None where there is nothing to divide by."""
        shares = {n: None if np.isnan(v := getattr(self, n)) else float(v) for n in ("recall", "precision")}
        return shares | {n: getattr(self, n) for n in ("changes", "found", "hits", "rate", "events", "sites", "kinds",
                                                       "exposure")}


def compare_events(truth: xr.Dataset, *, events: pd.DataFrame, sites: pd.DataFrame, drift: pd.DataFrame,
                   frames: pd.DataFrame, frame_time: float, within: int = WITHIN) -> EventScore:
    """Compare events with those of a movie of `simulate.Hopping`.

    Parameters
    ----------
    truth : xarray.Dataset
        From `simulate.open_truth`.
    events, sites : DataFrame
        Of `count_diffusion`.
    drift : DataFrame
        Of `estimate_drift`.
    frames : DataFrame
        ``frame, epoch, status`` of `count_diffusion`.
    frame_time : float
        [second]
    within : int
        Frames that an event may be off.

    Returns
    -------
    EventScore

    Raises
    ------
    MissingInputError
        If the movie has no true events.
    """
    listed = true_events(truth)
    used = frames.loc[frames["status"].astype(str) == "used", ["frame", "epoch"]]
    number = _numbers(truth, sites, drift, used)
    true = _true_changes(truth, used, number)
    found = pd.concat([
        events.assign(up=events["kind"].astype(str) == "appear")[["frame", "site", "up"]],
        events.loc[events["kind"].astype(str) == "hop", ["frame", "site_to"]].rename(
            columns={"site_to": "site"}).assign(up=True)], ignore_index=True)
    n, duration = truth.sizes["site"], truth.sizes["frame"] * frame_time
    kinds = listed["kind"].astype(str).value_counts()
    return EventScore(
        changes=len(true), found=len(found), hits=_hits(true, found, within), rate=len(listed) / (n * duration),
        events=len(listed), sites=n, kinds={k: int(kinds.get(k, 0)) for k in ("appear", "disappear", "hop")},
        exposure=n * duration, table=true.assign(time=true["frame"] * frame_time))


def _numbers(truth: xr.Dataset, sites: pd.DataFrame, drift: pd.DataFrame,
             used: pd.DataFrame) -> dict[int, dict[int, int]]:
    """For each epoch: true site -> number of the found one at its place, in the middle frame of the epoch."""
    rows = drift[drift["drift_y"].notna()].set_index("frame")
    out: dict[int, dict[int, int]] = {}
    for epoch, part in used.groupby("epoch"):
        here, of = part["frame"][part["frame"].isin(rows.index)], sites[sites["epoch"] == epoch]
        if not len(here) or not len(of):
            continue
        frame = here.iloc[len(here) // 2]
        row = rows.loc[frame]
        motion = row[["drift_y", "drift_x", "rotation"]].to_numpy(float)
        at = move(motion, of[["y", "x"]].to_numpy(), row[["centre_y", "centre_x"]].to_numpy(float))
        there = np.stack([truth[f"site_{a}"].sel(frame=frame).values for a in "yx"], axis=-1)
        away = np.hypot(*np.moveaxis(there[:, None] - at[None], -1, 0))
        first, second = linear_sum_assignment(np.minimum(away, NEAR))
        near = away[first, second] < NEAR
        out[int(epoch)] = dict(zip(first[near].tolist(), of["site"].to_numpy()[second[near]].tolist(), strict=True))
    return out


def _true_changes(truth: xr.Dataset, used: pd.DataFrame, number: dict[int, dict[int, int]]) -> pd.DataFrame:
    """Changes from one used frame to the next, within each epoch."""
    parts = []
    for epoch, part in used.groupby("epoch"):
        full = truth["site_occupied"].sel(frame=part["frame"].to_numpy()).values.astype(bool)
        step, site = np.nonzero(full[1:] != full[:-1])
        of = number.get(int(epoch), {})
        parts.append(pd.DataFrame({"frame": part["frame"].to_numpy()[step + 1], "up": full[step + 1, site],
                                   "site": np.array([of.get(s, -1) for s in site.tolist()], np.int64)}))
    empty = pd.DataFrame({"frame": np.zeros(0, np.int64), "up": np.zeros(0, bool), "site": np.zeros(0, np.int64)})
    return pd.concat(parts, ignore_index=True) if parts else empty


def _hits(true: pd.DataFrame, found: pd.DataFrame, within: int) -> int:
    """Pairs of a true and a found change of one site in one direction, each used once, most in all."""
    hits = 0
    for key, mine in true[true["site"] >= 0].groupby(["site", "up"]):
        other = found.loc[(found["site"] == key[0]) & (found["up"] == key[1]), "frame"].sort_values().to_list()
        for frame in sorted(mine["frame"]):
            # in the order of time, the first that is near enough leaves most to those that come later
            near = next((k for k in other if abs(k - frame) <= within), None)
            if near is not None:
                other.remove(near)
                hits += 1
    return hits
