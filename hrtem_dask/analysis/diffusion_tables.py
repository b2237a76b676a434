"""Tables of diffusion events, rates, sites and dwells, from the states of sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..core.schema import DIFFUSION_SITES, DWELL, EVENTS, RATE
from ..kernels.dwell import survival
from ..kernels.event_rates import RateInterval
from ..kernels.hops import changes_of, pair_hops
from ..kernels.movable import Decoded, neighbour_pairs
from ..kernels.occupancy_model import Fit, Record
from .site_looks import Looks

__all__ = ["KINDS", "Stays", "bin_edges", "chance_hops", "dwell_table", "event_table", "rate_table", "site_table",
           "stays_of"]

KINDS = ("appear", "disappear", "hop")
#: steps about an event in which its change may lie
ABOUT = 3
#: events that a part of the time should hold, and most parts, where no length is given
EVENTS_A_BIN, MOST_BINS = 20, 10


def event_table(looks: Looks, records: Sequence[Record], decoded: Sequence[Decoded], *, hop_distance: float | None,
                hop_frames: int) -> pd.DataFrame:
    """Events of the most probable path, in the order of frames (`core.schema.EVENTS`)."""
    parts = [_events_of(looks, r, d, hop_distance, hop_frames) for r, d in zip(records, decoded, strict=True)]
    rows = pd.concat(parts, ignore_index=True) if parts else EVENTS.empty()
    kind = pd.Categorical(rows["kind"].astype(str), KINDS)
    out = EVENTS.coerce(rows.assign(kind=kind))
    out["kind"] = kind
    return out.sort_values(["frame", "site", "site_to"], kind="stable", ignore_index=True)


def _events_of(looks: Looks, record: Record, decoded: Decoded, hop_distance: float | None,
               hop_frames: int) -> pd.DataFrame:
    """Events of one epoch."""
    sites = looks.sites.iloc[record.site]
    place = sites[["y", "x"]].to_numpy(np.float64)
    known = record.seen >= 0
    changes = changes_of(decoded.path, known)
    hops = pair_hops(changes, neighbour_pairs(place, hop_distance), hop_frames)
    chance = np.array([decoded.changed[int(up), max(b - ABOUT, 0):f + ABOUT, s].sum() for f, b, s, up in
                       zip(changes.frame, changes.before, changes.site, changes.appeared, strict=True)])
    chance = np.minimum(chance.reshape(-1), 1.0)
    to = np.full(len(changes.frame), -1)
    to[hops[:, 0]] = hops[:, 1]
    alone = np.setdiff1d(np.arange(len(changes.frame)), hops[:, 1])
    to = to[alone]
    frame = np.where(to >= 0, np.minimum(changes.frame[alone], changes.frame[to]), changes.frame[alone])
    target, site = np.where(to >= 0, changes.site[to], -1), changes.site[alone]
    used = looks.used
    used = used[used["epoch"] == sites["epoch"].iloc[0]] if len(sites) else used
    numbers, nowhere = used["frame"].to_numpy(), np.full((1, 2), np.nan)
    y_to, x_to = np.concatenate([place, nowhere])[target].T
    return pd.DataFrame({
        "frame": numbers[frame], "time": record.time[frame],
        "kind": np.where(to >= 0, "hop", np.where(changes.appeared[alone], "appear", "disappear")),
        "site": sites["site"].to_numpy()[site], "y": place[site, 0], "x": place[site, 1],
        "site_to": np.append(sites["site"].to_numpy(), -1)[target], "y_to": y_to, "x_to": x_to,
        "probability": np.where(to >= 0, chance[alone] * chance[to], chance[alone]),
        "gap": record.time[frame] - record.time[np.minimum(changes.before[alone], frame - 1)],
        "epoch": sites["epoch"].to_numpy()[site]})


def chance_hops(looks: Looks, records: Sequence[Record], decoded: Sequence[Decoded], hop_distance: float | None,
                hop_frames: int) -> float:
    """Hops that changes of neighbouring sites that know nothing of each other would make, by their numbers."""
    out = 0.0
    for record, states in zip(records, decoded, strict=True):
        changes = changes_of(states.path, record.seen >= 0)
        pairs = neighbour_pairs(looks.sites[["y", "x"]].to_numpy(np.float64)[record.site], hop_distance)
        gone, come = (np.bincount(changes.site[changes.appeared == up], minlength=len(record.site))
                      for up in (False, True))
        out += float((gone[pairs[:, 0]] * come[pairs[:, 1]]).sum()) * (2 * hop_frames + 1) / len(record.time)
    return out


def bin_edges(looks: Looks, events: int, time_bin: float | None) -> np.ndarray:
    """Limits of the parts of the time [second], from the first look to the end of the last frame."""
    time = looks.used["time"].to_numpy()
    start, stop = time[0], time[-1] + looks.period
    if time_bin is not None:
        return start + time_bin * np.arange(max(1, int(np.ceil((stop - start) / time_bin - 1e-9))) + 1)
    return np.linspace(start, stop, int(np.clip(events // EVENTS_A_BIN, 1, MOST_BINS)) + 1)


def rate_table(looks: Looks, records: Sequence[Record], can: np.ndarray, events: pd.DataFrame, edges: np.ndarray,
               intervals: Sequence[RateInterval]) -> pd.DataFrame:
    """Rates by parts of the time (`core.schema.RATE`)."""
    bins = len(edges) - 1
    of = lambda time: np.clip(np.searchsorted(edges, time, "right") - 1, 0, bins - 1)  # noqa: E731
    exposure, flips = np.zeros(bins), np.zeros(bins)
    for record in records:
        seen = record.seen[:, can[record.site]]
        exposure += np.bincount(of(record.time), (seen >= 0).sum(1) * looks.period, bins)
        flipped = changes_of(seen, seen >= 0)
        flips += np.bincount(of(record.time[flipped.frame]), minlength=bins)
    place = of(events["time"].to_numpy())
    count = {k: np.bincount(place[(events["kind"] == k).to_numpy()], minlength=bins) for k in KINDS}
    total = np.bincount(place, minlength=bins)
    rate, low, high = (np.array([getattr(i, n) for i in intervals], np.float64) for n in ("rate", "low", "high"))
    with np.errstate(invalid="ignore", divide="ignore"):
        raw = np.where(exposure > 0, total / exposure, np.nan)
    unseen = exposure <= 0
    table = pd.DataFrame({
        "time": (edges[:-1] + edges[1:]) / 2, "start": edges[:-1], "stop": edges[1:], "events": total,
        "exposure": exposure, "rate_raw": raw, "rate": np.where(unseen, np.nan, rate),
        "low": np.where(unseen, np.nan, low), "high": np.where(unseen, np.nan, high), "limit": ~unseen & (low <= 0),
        **count, "flips": flips})
    return RATE.coerce(table)


def site_table(looks: Looks, records: Sequence[Record], decoded: Sequence[Decoded], fit: Fit, edge: np.ndarray,
               can: np.ndarray) -> pd.DataFrame:
    """What was found of each site (`core.schema.DIFFUSION_SITES`), and what was known before."""
    n = len(looks.sites)
    known, occupied, events = np.zeros(n), np.zeros(n), np.zeros(n)
    for record, states in zip(records, decoded, strict=True):
        looked = record.looks[1]
        known[record.site] += looked.sum(0)
        occupied[record.site] += (states.occupied * looked).sum(0)
        events[record.site] += np.bincount(changes_of(states.path, record.seen >= 0).site, minlength=len(record.site))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(known > 0, occupied / known, np.nan)
    table = looks.sites.assign(
        edge=edge, changes=can & (known > 0), probability=fit.kinds[0], occupancy=share,
        tpr=fit.chain.tpr, fpr=fit.chain.fpr, looks=known, exposure=known * looks.period, events=events,
        expected=fit.kinds[0] * (fit.totals.appeared + fit.totals.disappeared))
    return DIFFUSION_SITES.coerce(table)


@dataclass(frozen=True)
class Stays:
    """Dwells of sites that can change.

    Attributes
    ----------
    occupied : ndarray of bool
        State.
    duration : ndarray
        Time that was watched [second].
    begun, ended : ndarray of bool
        Whether begin and end were watched.
    """

    occupied: np.ndarray
    duration: np.ndarray
    begun: np.ndarray
    ended: np.ndarray


def stays_of(records: Sequence[Record], decoded: Sequence[Decoded], can: np.ndarray, period: float) -> Stays:
    """Dwells on the most probable paths; a gap of more than ``ABOUT`` frames ends the watch."""
    parts = []
    for record, states in zip(records, decoded, strict=True):
        for k in np.flatnonzero(can[record.site]):
            rows = np.flatnonzero(record.seen[:, k] >= 0)
            if not len(rows):
                continue
            time, path = record.time[rows], states.path[rows, k]
            gap = np.diff(time) > (ABOUT + 0.5) * period
            change = path[1:] != path[:-1]
            cut = np.flatnonzero(gap | change)
            first, last = np.append(0, cut + 1), np.append(cut, len(rows) - 1)
            sure = change & ~gap
            begun, ended = np.append(False, sure[cut]), np.append(sure[cut], False)
            # it ended between two looks: the later one is the first of the new state
            stop = np.where(ended, time[np.minimum(last + 1, len(rows) - 1)], time[last] + period)
            parts.append(np.stack([path[first], stop - time[first], begun, ended]))
    occupied, duration, begun, ended = np.concatenate([np.zeros((4, 0)), *parts], axis=1)
    return Stays(occupied == 1, duration, begun == 1, ended == 1)


def dwell_table(stays: Stays) -> pd.DataFrame:
    """Survival of dwells whose begin was watched (`core.schema.DWELL`)."""
    parts = []
    for state, mine in (("occupied", stays.occupied), ("empty", ~stays.occupied)):
        rows = mine & stays.begun
        parts.append(pd.DataFrame(survival(stays.duration[rows], stays.ended[rows])._asdict()).assign(state=state))
    out = pd.concat(parts, ignore_index=True)
    kind = pd.Categorical(out["state"], ("occupied", "empty"))
    out = DWELL.coerce(out.assign(state=kind))
    out["state"] = kind
    return out
