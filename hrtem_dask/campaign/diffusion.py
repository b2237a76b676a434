"""The end of a campaign with columns: from the columns of all frames to a rate of diffusion events.

Runs once, on tables, after the list of readable frames is there. A campaign never fails for what it finds
here: where nothing can be counted, the reason is written instead of a rate.
"""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..core.errors import HrtemDaskError
from ..core.provenance import record
from ..core.schema import (
    COLUMNS,
    DIFFUSION_FRAMES,
    DIFFUSION_SITES,
    DRIFT,
    DWELL,
    EVENTS,
    OCCUPANCY,
    RATE,
    SITES,
    Column,
    Table,
)
from ..io.store import open_store
from ..io.tables import read_json, read_table, write_csv, write_json, write_table
from .config import CampaignConfig
from .layout import DIFFUSION, DIFFUSION_TABLES, STORE
from .ledger import fingerprint
from .plan import Plan

__all__ = ["FOUND", "PLACES", "Counted", "count", "follow", "summary"]

log = logging.getLogger(__name__)
#: raised when the numbers change with a new version of the code
ALGORITHM = 1
#: columns of all frames, and what became of them
FOUND = Table("columns", (
    *COLUMNS.columns,
    Column("followed", "bool", "", "whether it is of the particle that is followed, in a frame that is kept"),
    Column("site", "int64", "", "number of its site; -1 where it is on none"),
    Column("y_ref", "float64", "angstrom", "place without drift and rotation; nan where the frame is not registered"),
    Column("x_ref", "float64", "angstrom", "the same along x"),
    Column("epoch", "int64", "", "number of the epoch; -1 where the frame is not registered"),
))
#: sites with what was counted there
PLACES = Table("sites", (*(c for c in SITES.columns if c.name not in DIFFUSION_SITES.names), *DIFFUSION_SITES.columns))


@dataclass(frozen=True)
class Counted:
    """What came of the columns: each stage, None from the one on that could not be done, and why."""

    columns: pd.DataFrame
    drift: pd.DataFrame | None = None
    sites: Any = None
    diffusion: Any = None
    reason: str | None = None


def count(config: CampaignConfig, plan: Plan, verdicts: pd.DataFrame, verdicts_key: str,
          provenance: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Count the events of the particle that is followed, unless that is done; return summary, and whether it is new."""
    key = fingerprint(columns=[k["columns"] for k in plan.keys], particles=[k["particles"] for k in plan.keys],
                      verdicts=verdicts_key, margin=config.column_margin, time_bin=config.time_bin,
                      frame_time=config.frame_time, algorithm=ALGORITHM)
    before = read_json(plan.out / DIFFUSION)
    if isinstance(before, dict) and before.get("fingerprint") == key and all(
            (plan.out / name).is_file() for name in DIFFUSION_TABLES):
        return before, False
    (plan.out / DIFFUSION).unlink(missing_ok=True)
    done = [plan.ledger.get("columns", i, k["columns"]) for i, k in enumerate(plan.keys)]
    parts = [read_table(plan.ledger.folder / "columns" / one["table"])[0] for one in done if one is not None]
    columns = COLUMNS.coerce(pd.concat([p for p in parts if len(p)] or [COLUMNS.empty()], ignore_index=True))
    log.info("counting events of %d columns in %d frames", len(columns), len(verdicts))
    labels = open_store(plan.out / STORE).labels
    found = follow(columns, labels, verdicts, plan.movie, crystal=config.crystal, margin=config.column_margin,
                   time_bin=config.time_bin)
    said = summary(found, verdicts) | {"fingerprint": key}
    step = record({"provenance": provenance["provenance"]}, "count_diffusion", margin=config.column_margin,
                  time_bin=config.time_bin, algorithm=ALGORITHM)["provenance"]
    _write(plan.out, columns, found, provenance | {"provenance": step, "fingerprint": key})
    write_json(plan.out / DIFFUSION, said)
    return said, True


def follow(columns: pd.DataFrame, labels: xr.DataArray, verdicts: pd.DataFrame, movie: xr.DataArray, *,
           crystal: Any = None, margin: float = 6.0, time_bin: float | None = None) -> Counted:
    """From the columns of all frames to the events of the particle that is followed.

    Parameters
    ----------
    columns : DataFrame
        From `find_columns`.
    labels : DataArray, dims (frame, y, x)
    verdicts : DataFrame
        From `filter_frames`.
    movie : DataArray
        For its view and its times.
    crystal, margin, time_bin
        As in `CampaignConfig`.

    Returns
    -------
    Counted
        With the reason where it ends early; it raises nothing.
    """
    from ..analysis.followed import columns_of_particle

    mine = columns.iloc[:0]
    try:
        if not verdicts.keep.any():
            return Counted(mine, reason=f"none of {len(verdicts)} frames can be read")
        mine = columns_of_particle(columns, labels, verdicts, margin=margin)
        if not len(mine):
            return Counted(mine, reason=f"no column was found within {margin:g} angstrom of the particle that is "
                                        f"followed, in {int(verdicts.keep.sum())} readable frames")
        with warnings.catch_warnings():  # what they say is in the reason
            warnings.simplefilter("ignore", UserWarning)
            return _counted(mine, verdicts, movie, crystal, time_bin)
    except HrtemDaskError as error:
        return Counted(mine, reason=" ".join(str(error).split()))
    except Exception as error:  # hours of segmentation are not lost for what their tables hold
        log.warning("counting failed", exc_info=error)
        return Counted(mine, reason=f"unexpected {type(error).__name__}: {error}")


def _counted(mine: pd.DataFrame, verdicts: pd.DataFrame, movie: xr.DataArray, crystal: Any,
             time_bin: float | None) -> Counted:
    from ..analysis.diffusion import count_diffusion
    from ..analysis.registration import estimate_drift
    from ..analysis.sites import find_sites

    y, x = movie["y"].values, movie["x"].values
    view = (float(y.min()), float(y.max()), float(x.min()), float(x.max()))
    drift = estimate_drift(mine, frames=verdicts, field_of_view=view)
    sites = find_sites(mine, drift, crystal=crystal, frames=drift[drift["drift_y"].notna()], field_of_view=view)
    if not len(sites):
        return Counted(mine, drift, sites, reason=sites.reason)
    numbers = verdicts["frame"].to_numpy()
    whole = len(numbers) if np.array_equal(numbers, np.arange(len(numbers))) else None
    found = count_diffusion(mine, frames_kept=verdicts, n_frames=whole, field_of_view=view, drift=drift, sites=sites,
                            time_bin=time_bin)
    return Counted(mine, drift, sites, found, found.reason)


def _write(out: Path, columns: pd.DataFrame, found: Counted, provenance: dict[str, Any]) -> None:
    """Write the tables; the larger ones as Parquet alone."""
    counted = found.diffusion
    empty = {n: t.empty() for n, t in (("drift", DRIFT), ("events", EVENTS), ("rate", RATE), ("dwell", DWELL),
                                       ("occupancy", OCCUPANCY), ("diffusion_frames", DIFFUSION_FRAMES))}
    tables = empty | {"columns": _all_columns(columns, found), "sites": _all_sites(found)}
    if found.drift is not None:
        tables["drift"] = found.drift
    if counted is not None:
        tables |= {"events": counted.events, "rate": counted.rate, "dwell": counted.dwell,
                   "diffusion_frames": counted.frames, "occupancy": _occupancy(counted)}
    schemas = {"columns": FOUND, "drift": DRIFT, "sites": PLACES, "events": EVENTS, "rate": RATE, "dwell": DWELL,
               "occupancy": OCCUPANCY, "diffusion_frames": DIFFUSION_FRAMES}
    for name, schema in schemas.items():
        write_table(out / f"{name}.parquet", tables[name], schema, provenance=provenance)
        if f"{name}.csv" in DIFFUSION_TABLES:
            write_csv(out / f"{name}.csv", tables[name])


def _all_columns(columns: pd.DataFrame, found: Counted) -> pd.DataFrame:
    out = columns.assign(followed=False, site=-1, y_ref=np.nan, x_ref=np.nan, epoch=-1)
    out.loc[found.columns.index, "followed"] = True
    if found.sites is not None:
        for name in ("site", "y_ref", "x_ref", "epoch"):
            out.loc[found.sites.columns.index, name] = found.sites.columns[name]
    return out


def _all_sites(found: Counted) -> pd.DataFrame:
    if found.sites is None:
        return PLACES.empty()
    if found.diffusion is not None and len(found.diffusion.sites):
        return found.diffusion.sites
    table = found.sites.table
    return table.assign(edge=table["surface"], changes=False, probability=np.nan, tpr=np.nan, fpr=np.nan,
                        looks=table["frames"], exposure=np.nan, events=0, expected=np.nan)


def _occupancy(found: Any) -> pd.DataFrame:
    """Long table of the frames that were used."""
    used = (found.frames["status"] == "used").to_numpy()
    seen, occupancy = found.seen.values[used], found.occupancy.values[used]
    frame, site = np.meshgrid(found.seen["frame"].values[used], found.seen["site"].values, indexing="ij")
    here = seen.ravel() >= 0
    return pd.DataFrame({"frame": frame.ravel()[here], "site": site.ravel()[here], "seen": seen.ravel()[here],
                         "occupancy": occupancy.ravel()[here]})


def summary(found: Counted, verdicts: pd.DataFrame) -> dict[str, Any]:
    """The numbers as JSON takes them; None is unknown, and no rate is ever 0 for want of data."""
    dropped = verdicts.reason[~verdicts.keep].astype(str).value_counts()
    out: dict[str, Any] = {
        "reason": found.reason, "frames": len(verdicts), "frames_kept": int(verdicts.keep.sum()),
        "frames_dropped": {str(k): int(v) for k, v in dropped.items()}, "columns": len(found.columns),
        "epochs": [] if found.drift is None else found.drift.attrs.get("epochs", []),
        "lattices": "" if found.sites is None else found.sites.summary,
    }
    d = found.diffusion
    if d is None or d.reason is not None:
        said = f"No rate of diffusion events: {found.reason}. This is not a rate of zero."
        return out | {"text": said, "rate": None, "low": None, "high": None}
    mine = d.sites[d.sites["changes"]]
    numbers = {**{k: d.overall[k] for k in ("rate", "low", "high", "rate_raw", "low_sites", "high_sites", "exposure")},
               "tpr": mine["tpr"].mean(), "fpr": mine["fpr"].mean(), "efficiency": d.check.efficiency,
               "precision": d.check.precision, "false_rate": d.check.false_rate, "hop_rate": d.hopping.rate,
               "hop_low": d.hopping.low, "hop_high": d.hopping.high, "coefficient": d.hopping.coefficient}
    kinds = d.events["kind"].astype(str).value_counts()
    return out | {k: _finite(v) for k, v in numbers.items()} | {
        "limit": bool(d.overall["limit"]), "events": len(d.events), "sites": len(d.sites), "sites_changing": len(mine),
        "kinds": {k: int(kinds.get(k, 0)) for k in ("appear", "disappear", "hop")}, "flips": int(d.rate["flips"].sum()),
        "used": {str(k): int(v) for k, v in d.frames["status"].value_counts().items()},
        "definition": d.definition, "text": d.summary,
    }


def _finite(value: Any) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None
