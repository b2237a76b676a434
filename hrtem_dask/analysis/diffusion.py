"""Diffusion events of surface columns, and their rate corrected for what was missed and invented."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..core.checks import check_number
from ..core.errors import InputError
from ..core.provenance import history_of, record
from ..core.schema import DIFFUSION_SITES, DWELL, EVENTS, RATE
from ..kernels.dwell import Dispersion, bootstrap_rate, dispersion, exponential_rate
from ..kernels.event_rates import RateInterval, exact_interval
from ..kernels.movable import (
    Decoded,
    decode,
    edge_sites,
    fit_movable,
    interval_in_bins,
    interval_of_all,
)
from ..kernels.occupancy_fit import majority
from ..kernels.occupancy_model import Fit, Reading, Record
from ..kernels.self_check import SelfCheck, check_path
from .diffusion_result import Diffusion, HopRate
from .diffusion_tables import bin_edges, chance_hops, dwell_table, event_table, rate_table, site_table, stays_of
from .site_looks import Looks, look_at_sites

__all__ = ["count_diffusion"]

#: how the sites that can change are chosen
CHANGING = ("auto", "edge", "all")
#: equal parts of the time in which counts are compared
PARTS = 10


def count_diffusion(
    columns: Any,
    *,
    frame_time: float | None = None,
    frames_kept: Any = None,
    n_frames: int | None = None,
    field_of_view: Any = None,
    drift: Any = None,
    sites: Any = None,
    crystal: Any = None,
    time_bin: float | None = None,
    changing: str | Sequence[int] = "auto",
    detection: Any = None,
    hop_distance: float | None = None,
    hop_frames: int = 1,
) -> Diffusion:
    """Count columns that appear, disappear and hop, and give their rate with an interval that holds. Computes, once.

    Every site of the lattice is a hidden two-state chain: empty or occupied, changing at two rates, seen
    with a true- and a false-positive rate of its own. All of these are fitted to all frames together, so a column
    that is missed in one frame is no event, and a rate is not the number of flips.

    Parameters
    ----------
    columns : pandas or dask DataFrame
        From `find_columns`, or any table with the columns ``frame``, ``y``, ``x`` [angstrom]; ``time`` [second],
        ``y_error``, ``x_error`` and others are used where they are there.
    frame_time : float, optional
        Time from frame to frame [second]; by default by the column ``time``.
    frames_kept : table or sequence, optional
        Verdicts of `filter_frames`, or numbers of frames, or a truth value a frame. A frame left out is missing data,
        as is one without any column.
    n_frames : int, optional
        Number of frames of the movie; by default they end with the last one in the table.
    field_of_view : DataArray or sequence of float, optional
        The movie, or first y, last y, first x, last x of its frames, or (height, width) [angstrom]. Sites
        outside it, in frames where the particle has drifted there, are unknown. By default every site is in view.
    drift : table or False, optional
        From `estimate_drift`; by default that is called, unless the table has ``y_ref``, ``x_ref``. False: positions
        are free of drift.
    sites : Sites, table or array, optional
        From `find_sites`, or places y, x [angstrom] in the coordinates of the first frame; by default that is called.
    crystal : optional
        For `find_sites`.
    time_bin : float, optional
        Length of the parts of the time in ``rate`` [second]; by default up to ten parts of about 20 events.
    changing : str or sequence of int
        Sites that can change. ``"auto"``: sites at the edge, but those that are static by what was seen, plus
        inner sites that were seen to change; ``"edge"``: all sites at the edge; ``"all"``; or their numbers.
    detection : (float, float) or mapping, optional
        True- and false-positive rate of a column at a site that can change, where they were measured: ``(0.97,
        0.004)``, or ``{"tpr": 0.97, "fpr": 0.004, "trials": 2000}`` with the number of looks they were measured
        with. By default they are fitted.
    hop_distance : float, optional
        Largest length of a hop [angstrom]; by default to the next sites, up to touching atoms.
    hop_frames : int
        A disappearance and an appearance at a neighbour are a hop if they are so many frames apart at most.

    Returns
    -------
    Diffusion
        ``events``, ``rate``, ``sites``, ``occupancy`` and more; ``summary`` says it in words. Where nothing can be
        counted (no frame, one frame, no site) the tables are empty and ``reason`` says why.

    Raises
    ------
    InputError
        If columns are missing, the time is unknown, or an argument makes no sense.

    Warns
    -----
    UserWarning
        If nothing can be counted.

    Notes
    -----
    An event is a change of the most probable path (Viterbi); no event crosses the border of an epoch. ``rate`` is the
    maximum of the likelihood, for the two rates over the time that sites spent in each state; the interval is that of
    the Poisson counts whose likelihood falls off alike (`kernels.event_rates`). A hop is one event of two
    changes, so rates of changes are multiplied by events over changes. Sites are at the edge that are occupied
    or next to an occupied site, and have an empty site next to them at some time. Exposure is the number of looks
    at sites that can change, times the time from frame to frame.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> there = np.ones((400, 6), bool)
    >>> there[100:180, 2] = there[300:, 4] = False
    >>> seen = there & (rng.random(there.shape) < 0.95)
    >>> frame, site = np.nonzero(seen)
    >>> table = pd.DataFrame({"frame": frame, "y": 0.0, "x": 2.9 * site})
    >>> found = count_diffusion(table, frame_time=0.1, drift=False, sites=[[0, 2.9 * i] for i in range(6)])
    >>> found.events[["frame", "kind", "site"]].values.tolist()
    [[100, 'disappear', 2], [180, 'appear', 2], [300, 'disappear', 4]]
    >>> bool(found.overall.low < 3 / 240 < found.overall.high)
    True
    """
    _check_options(time_bin, changing, hop_distance, hop_frames)
    known = _detection(detection)
    looks = look_at_sites(columns, frame_time=frame_time, frames_kept=frames_kept, n_frames=n_frames,
                          field_of_view=field_of_view, drift=drift, sites=sites, crystal=crystal)
    attrs = record(_history(columns), "count_diffusion", frame_time=looks.period, time_bin=time_bin,
                   changing=changing if isinstance(changing, str) else list(changing), detection=detection,
                   hop_distance=hop_distance, hop_frames=hop_frames)
    records = _records(looks)
    reason = looks.reason or _nothing_to_see(looks, records)
    if reason is not None:
        warnings.warn(f"no event can be counted: {reason}", stacklevel=2)
        return _empty(looks, reason, attrs)
    fit, edge, can = _fitted(looks, records, changing, known)
    if not can.any():
        reason = "no site can change: every one was seen to be static, or none lies at the edge of the particle"
        warnings.warn(f"no event can be counted: {reason}", stacklevel=2)
        return _empty(looks, reason, attrs)
    return _result(looks, records, fit, edge, can, attrs, _said(changing, edge, can), time_bin=time_bin,
                   hop_distance=hop_distance, hop_frames=hop_frames)


def _check_options(time_bin: Any, changing: Any, hop_distance: Any, hop_frames: Any) -> None:
    if time_bin is not None:
        check_number("time_bin", time_bin, "second", above=0)
    if hop_distance is not None:
        check_number("hop_distance", hop_distance, "angstrom", above=0)
    check_number("hop_frames", hop_frames, "frames", least=0, whole=True)
    if isinstance(changing, str) and changing not in CHANGING:
        raise InputError(f"changing is {changing!r}; expected one of {list(CHANGING)}, or numbers of sites")


def _detection(detection: Any) -> tuple[float, float, float] | None:
    """True-positive rate, false-positive rate and trials."""
    if detection is None:
        return None
    if isinstance(detection, Mapping):
        values = [detection.get("tpr"), detection.get("fpr"), detection.get("trials", np.inf)]
    else:
        values = [*np.ravel(np.asarray(detection, dtype=object)), np.inf][:3] if np.size(detection) == 2 else [None] * 3
    try:
        tpr, fpr, trials = (float(v) for v in values)
        good = 0 <= fpr < tpr <= 1 and trials > 0
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(f"detection is {detection!r}; expected the true- and the false-positive rate, as (0.97, "
                         f"0.004), or a mapping tpr=0.97, fpr=0.004, trials=2000")
    return tpr, fpr, trials


def _history(columns: Any) -> dict[str, Any]:
    attrs = getattr(columns, "attrs", {})
    return dict(attrs) if history_of(attrs) else {}


def _records(looks: Looks) -> list[Record]:
    """What was seen, epoch by epoch."""
    out = []
    epoch, time = looks.used["epoch"].to_numpy(), looks.used["time"].to_numpy()
    for number in np.unique(epoch) if len(looks.sites) else ():
        rows, at = epoch == number, np.flatnonzero(looks.sites["epoch"] == number)
        if rows.sum() > 1 and len(at):
            mark = None if looks.mark is None else looks.mark[np.ix_(rows, at)]
            out.append(Record(looks.seen[np.ix_(rows, at)], time[rows], at, mark))
    return out


def _nothing_to_see(looks: Looks, records: Sequence[Record]) -> str | None:
    """Why no change can be seen at all."""
    if not records:
        return "no epoch has two frames with sites, and no event crosses the border of an epoch"
    if len(looks.sites) == 1:
        return ("there is one site only: a frame without any column is missing data, so a single column cannot be seen "
                "to vanish")
    if not any(((r.seen >= 0).sum(0) > 1).any() for r in records):
        return "no site was in view in two frames"
    return None


def _fitted(looks: Looks, records: Sequence[Record], changing: Any,
            known: tuple[float, float, float] | None) -> tuple[Fit, np.ndarray, np.ndarray]:
    """Fit of all sites, those at the edge, and those that can change."""
    n = len(looks.sites)
    occupied, edge = np.zeros(n), np.zeros(n, bool)
    place = looks.sites[["y", "x"]].to_numpy(np.float64)
    for one in records:
        there = majority(one.seen) & (one.seen >= 0)
        occupied[one.site] = there.sum(0) / np.maximum((one.seen >= 0).sum(0), 1)
        edge[one.site] = edge_sites(place[one.site], occupied[one.site])
    if isinstance(changing, str):
        chosen = np.ones(n, bool) if changing == "all" else edge
    else:
        wanted = np.asarray(list(changing), dtype=np.int64)
        missing = np.setdiff1d(wanted, looks.sites["site"])
        if missing.size:
            raise InputError(f"changing lists site {missing[0]}, which is not in the table of sites (0 to "
                             f"{int(looks.sites['site'].max())}); expected numbers from its column site")
        chosen = np.isin(looks.sites["site"], wanted)
    # readings are shared among sites that can change, and among the others
    reading = Reading(chosen.astype(int))
    if known is not None:
        reading = Reading(chosen.astype(int), np.full(2, known[0]), np.full(2, known[1]), known[2])
    auto = isinstance(changing, str) and changing == "auto"
    fit, can = fit_movable(records, reading, chosen, occupied, mixed=auto, inner=auto)
    return fit, edge, can


def _said(changing: Any, edge: np.ndarray, can: np.ndarray) -> str:
    """Definition of the sites that can change."""
    many = f"{int(can.sum())} of {len(can)} sites can change"
    if not isinstance(changing, str):
        return f"{many}: those that were named."
    if changing == "all":
        return f"{many}: all of them."
    text = (f"{many}: those at the edge ({int(edge.sum())}; occupied or next to an occupied site, with an empty site "
            f"beside them at some time)")
    if changing == "edge":
        return text + "."
    return (f"{text}, without {int((edge & ~can).sum())} that what was seen shows to be static, and with "
            f"{int((~edge & can).sum())} others that were seen to change.")


def _result(looks: Looks, records: Sequence[Record], fit: Fit, edge: np.ndarray, can: np.ndarray,
            attrs: dict[str, Any], definition: str, *, time_bin: float | None, hop_distance: float | None,
            hop_frames: int) -> Diffusion:
    decoded = [decode(r, fit, can) for r in records]
    events = event_table(looks, records, decoded, hop_distance=hop_distance, hop_frames=hop_frames)
    hops, chance = int((events["kind"] == "hop").sum()), chance_hops(looks, records, decoded, hop_distance, hop_frames)
    # two changes that met by chance are two events
    weight = 1 - max(hops - chance, 0.0) / (len(events) + hops) if len(events) else 1.0
    edges = bin_edges(looks, len(events), time_bin)
    whole = interval_of_all(records, fit, weight)
    parts = [whole] if len(edges) == 2 else interval_in_bins(records, fit, edges, weight)
    rate = rate_table(looks, records, can, events, edges, parts)
    sites = site_table(looks, records, decoded, fit, edge, can)
    overall = _overall(rate, fit, can, whole, weight)
    stays = stays_of(records, decoded, can, looks.period)
    dwells = {name: exponential_rate(stays.duration[mine], stays.ended[mine])
              for name, mine in (("occupied", stays.occupied), ("empty", ~stays.occupied))}
    occupancy, seen = _matrices(looks, records, decoded)
    mine = sites["changes"].to_numpy()
    return Diffusion(
        events=events, rate=rate, sites=sites, occupancy=occupancy, seen=seen, overall=overall, frames=looks.frames,
        dwell=dwell_table(stays), dwell_rates=dwells, check=check_path(records, fit, can), definition=definition,
        hopping=_hopping(events, sites, overall, chance),
        between_sites=dispersion(sites["events"].to_numpy()[mine], sites["exposure"].to_numpy()[mine]),
        in_time=_in_time(looks, records, can, events), attrs=attrs)


def _overall(rate: pd.DataFrame, fit: Fit, can: np.ndarray, whole: RateInterval, weight: float) -> pd.Series:
    """Rate of the whole movie."""
    exposure, totals = float(rate["exposure"].sum()), fit.totals
    low = high = np.nan  # where no event is sure there is nothing to draw
    if whole.low > 0:
        low, high = bootstrap_rate(weight * (totals.appeared + totals.disappeared)[can], totals.duration[can])
    return pd.Series({"events": int(rate["events"].sum()), "exposure": exposure,
                      "rate_raw": rate["events"].sum() / exposure if exposure else np.nan, "rate": whole.rate,
                      "low": whole.low, "high": whole.high, "limit": bool(whole.low <= 0), "low_sites": low,
                      "high_sites": high, "events_worth": whole.events, "exposure_worth": whole.exposure}, dtype=object)


def _in_time(looks: Looks, records: Sequence[Record], can: np.ndarray, events: pd.DataFrame) -> Dispersion:
    """Scatter of the events among equal parts of the time."""
    edges = np.linspace(looks.used["time"].iloc[0], looks.used["time"].iloc[-1] + looks.period, PARTS + 1)
    none = [RateInterval(*(np.nan,) * 5)] * PARTS
    table = rate_table(looks, records, can, events, edges, none)
    return dispersion(table["events"].to_numpy(), table["exposure"].to_numpy())


def _hopping(events: pd.DataFrame, sites: pd.DataFrame, overall: pd.Series, chance: float) -> HopRate:
    """Hops of occupied sites that can change; corrected by the factor of all events."""
    rows = events[events["kind"] == "hop"]
    mine = sites["changes"].to_numpy()
    time = float((sites["occupancy"] * sites["exposure"])[mine].sum())
    factor = overall["rate"] / overall["rate_raw"] if overall["rate_raw"] else 1.0
    low, high = (float(v) * factor for v in exact_interval(len(rows), time)) if time > 0 else (np.nan, np.nan)
    length = np.hypot(rows["y_to"] - rows["y"], rows["x_to"] - rows["x"])
    rms = float(np.sqrt((length**2).mean())) if len(rows) else np.nan
    return HopRate(len(rows), chance, len(rows) / time * factor if time > 0 else np.nan, low, high, rms)


def _matrices(looks: Looks, records: Sequence[Record],
              decoded: Sequence[Decoded]) -> tuple[xr.DataArray, xr.DataArray]:
    """Probability and looks, in the order of all frames."""
    frames = looks.frames
    shape = len(frames), len(looks.sites)
    occupied, seen = np.full(shape, np.nan, np.float32), np.full(shape, -1, np.int8)
    used = (frames["status"] == "used").to_numpy()
    seen[used] = looks.seen
    for one, states in zip(records, decoded, strict=True):
        epoch = looks.sites["epoch"].iloc[one.site[0]]
        rows = np.flatnonzero(used & (frames["epoch"] == epoch).to_numpy())
        occupied[np.ix_(rows, one.site)] = states.occupied
    coords = {"frame": frames["frame"].to_numpy(), "time": ("frame", frames["time"].to_numpy()),
              "site": looks.sites["site"].to_numpy(), "y": ("site", looks.sites["y"].to_numpy()),
              "x": ("site", looks.sites["x"].to_numpy())}
    return (xr.DataArray(occupied, dims=("frame", "site"), coords=coords, name="occupancy", attrs={"units": "1"}),
            xr.DataArray(seen, dims=("frame", "site"), coords=coords, name="seen", attrs={"unknown": -1}))


def _empty(looks: Looks, reason: str, attrs: dict[str, Any]) -> Diffusion:
    """A result without anything in it, and the reason."""
    nothing = np.nan
    looks = Looks(looks.frames, looks.sites, np.full((len(looks.used), len(looks.sites)), -1, np.int8), looks.period)
    occupancy, seen = _matrices(looks, [], [])
    overall = pd.Series(dict.fromkeys(("rate_raw", "rate", "low", "high", "low_sites", "high_sites", "events_worth",
                                       "exposure_worth"), nothing) | {"events": 0, "exposure": 0.0, "limit": False},
                        dtype=object)
    return Diffusion(
        events=EVENTS.empty(), rate=RATE.empty(), sites=DIFFUSION_SITES.empty(), occupancy=occupancy, seen=seen,
        overall=overall, frames=looks.frames, dwell=DWELL.empty(), dwell_rates={},
        hopping=HopRate(0, nothing, nothing, nothing, nothing, nothing), between_sites=Dispersion(nothing, nothing, 0),
        in_time=Dispersion(nothing, nothing, 0), check=SelfCheck(nothing, nothing, nothing), definition="",
        reason=reason, attrs=attrs)
