"""What a campaign leaves behind, and the object that gives access to it."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from ..core.errors import MissingInputError, ReadError
from ..core.provenance import record, versions
from ..core.schema import FRAMES, PARTICLES
from ..io.store import open_store
from ..io.tables import read_json, read_table, write_csv, write_json, write_table
from .config import CampaignConfig
from .layout import ABOUT, DIFFUSION, DIFFUSION_TABLES, STATUS, STORE, write_status
from .ledger import ALGORITHM, LAST
from .verdicts import FOLLOWED, judge, linked, tracks_key, up_to_date

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["Campaign", "Outcome", "collect", "load_campaign"]

#: runs that campaign.json remembers
HISTORY = 20


@dataclass
class Outcome:
    """What one run did: frames computed, found done, failed with their messages."""

    total: int
    reused: int
    started: float
    where: str = ""
    computed: int = 0
    messages: dict[str, str] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)

    def add(self, index: int, done: dict[str, Any]) -> None:
        """Count a unit that came back; one whose worker was lost is remembered as without result."""
        self.computed += done["frames"]
        self.messages |= done["messages"]
        if "unit" not in done:
            self.lost.add(index)


@dataclass(frozen=True)
class Campaign:
    """A campaign on disk.

    Parameters
    ----------
    out : Path
        Its folder.
    config : CampaignConfig
        Its settings.
    about : dict
        What ``campaign.json`` holds: versions, weights, provenance, runs.
    computed, reused : int
        Frames that the last run computed, and that it found done.
    """

    out: Path
    config: CampaignConfig
    about: dict[str, Any]
    computed: int = 0
    reused: int = 0

    @property
    def particles(self) -> pd.DataFrame:
        """Table of particles, columns of `hrtem_dask.core.schema.PARTICLES` and ``TRACKS``."""
        return read_table(self.out / "particles.parquet")[0]

    @property
    def frames(self) -> pd.DataFrame:
        """Table of frames, columns of `hrtem_dask.core.schema.FRAMES`."""
        return read_table(self.out / "frames.parquet")[0]

    @property
    def frame_quality(self) -> pd.DataFrame:
        """What the pixels of each frame say, columns of `hrtem_dask.core.schema.FRAME_QUALITY`."""
        return read_table(self.out / "frame_quality.parquet")[0]

    @property
    def verdicts(self) -> pd.DataFrame:
        """Which frames can be read and why not, columns of `hrtem_dask.core.schema.VERDICTS`."""
        table, about = read_table(self.out / "verdicts.parquet")
        table.attrs["threshold"] = about["provenance"]["threshold"]
        return table

    @property
    def diffusion(self) -> dict[str, Any] | None:
        """What was counted: the rate of events with its interval and what it rests on; None without columns."""
        return read_json(self.out / DIFFUSION)

    def table(self, name: str) -> pd.DataFrame:
        """Table of a campaign with columns: columns, drift, sites, events, rate, dwell, occupancy, diffusion_frames."""
        return read_table(self.out / f"{name}.parquet")[0]

    @property
    def data(self) -> xr.Dataset:
        """Lazy ``probability`` (frame, class, y, x) and ``labels`` (frame, y, x)."""
        return open_store(self.out / STORE)

    @property
    def failed(self) -> dict[int, str]:
        """Frames that failed, and why."""
        frames = self.frames
        bad = frames[frames.status == "failed"]
        return {int(n): str(m) for n, m in zip(bad.frame, bad.message, strict=True)}

    def __repr__(self) -> str:
        n = self.about.get("n_frames", 0)
        return (f"Campaign({str(self.out)!r}: {n} frames, {self.computed} computed and {self.reused} reused by the "
                f"last run, {len(self.failed)} failed)")


def load_campaign(out: str | Path) -> Campaign:
    """Open the campaign in a folder.

    Raises
    ------
    MissingInputError
        If there is none, or it was never finished.
    """
    out = Path(out).absolute()
    about = read_json(out / ABOUT)
    if about is None:
        raise MissingInputError(f"{out} holds no finished campaign (no {ABOUT}); expected the folder that was given to "
                                "hrtem-dask run ... --out DIR")
    config = CampaignConfig(**{**about["config"], "out": str(out)})
    last = about["runs"][-1]
    return Campaign(out, config, about, last["computed"], last["reused"])


def collect(config: CampaignConfig, plan: Plan, outcome: Outcome, client: Any = None) -> Campaign:
    """Put the parts of all units together: tables, tracks, status of the frames, campaign.json, verdicts."""
    out = plan.out
    particles, frames = _tables(plan, outcome)
    about = _about(config, plan, outcome, frames)
    provenance = {k: about[k] for k in ("config", "versions", "model", "provenance")}
    key = tracks_key(plan)
    if outcome.computed or not (out / "frames.parquet").exists() or not up_to_date(out / "particles.parquet", key):
        particles = linked(particles)
        for name, table, schema in (("particles", particles, FOLLOWED), ("frames", frames, FRAMES)):
            write_table(out / f"{name}.parquet", table, schema, provenance=provenance | {"fingerprint": key})
            write_csv(out / f"{name}.csv", table)
        write_status(out, frames.status.map(STATUS).to_numpy())
    else:
        particles = read_table(out / "particles.parquet")[0]
    write_json(out / ABOUT, about)
    failed = frames[frames.status == "failed"]
    if len(failed) == len(frames):
        raise ReadError(f"all {len(frames)} frames failed; frame {failed.frame.iloc[0]}: {failed.message.iloc[0]}")
    new = judge(config, plan, particles, frames, provenance, client)
    new |= _counted(config, plan, about, provenance)
    if new:
        (out / "report.html").unlink(missing_ok=True)
    return Campaign(out, config, about, outcome.computed, outcome.reused)


def _counted(config: CampaignConfig, plan: Plan, about: dict[str, Any], provenance: dict[str, Any]) -> bool:
    """Count diffusion events where columns were asked for, else remove what another run left; say what is new."""
    if config.columns is None:
        stale = [plan.out / n for n in (DIFFUSION, *DIFFUSION_TABLES) if (plan.out / n).exists()]
        for path in stale:
            path.unlink()
        return bool(stale)
    from .diffusion import count

    verdicts, known = read_table(plan.out / "verdicts.parquet")
    said, new = count(config, plan, verdicts, known["provenance"]["fingerprint"], provenance)
    about["diffusion"] = {k: v for k, v in said.items() if k not in ("fingerprint", "epochs")}
    write_json(plan.out / ABOUT, about)
    return new


def _tables(plan: Plan, outcome: Outcome) -> tuple[pd.DataFrame, pd.DataFrame]:
    parts, rows = [], []
    for index in range(len(plan.keys)):
        record = None if index in outcome.lost else plan.ledger.get("particles", index, plan.keys[index]["particles"])
        if record is None:
            times = plan.movie.time.values if "time" in plan.movie.coords else np.full(plan.n_frames, np.nan)
            rows += [{"frame": n, "time": t, "status": "failed", "n_particles": 0, "covered": np.nan,
                      "certainty": np.nan, "unknown_pixels": 0, "message": outcome.messages.get(str(n), "not computed")}
                     for n, t in zip(plan.numbers(index), times[plan.span(index)], strict=True)]
            continue
        lost = (plan.ledger.peek("columns", index) or {}).get("messages", {}) if "columns" in plan.keys[index] else {}
        rows += [r if r["message"] or str(r["frame"]) not in lost else
                 r | {"status": "failed", "message": lost[str(r["frame"])]} for r in record["rows"]]
        parts.append(read_table(plan.ledger.folder / "particles" / record["table"])[0])
    full = [p for p in parts if len(p)]
    particles = pd.concat(full, ignore_index=True) if full else PARTICLES.empty()
    return PARTICLES.coerce(particles), FRAMES.coerce(pd.DataFrame(rows))


def _provenance(plan: Plan) -> dict[str, Any]:
    """Steps that made the results: those of the movie, then those of the campaign."""
    s = plan.settings
    attrs = record(plan.movie.attrs, "segment", model=plan.model, sha256=plan.sha256, halo=s["halo"],
                   window=s["window"], window_size=s["window_size"], augment=s["augment"],
                   algorithm=ALGORITHM["segment"])
    attrs = record(attrs, "label_particles", threshold=s["threshold"], min_area=s["min_area"])
    attrs = record(attrs, "analyse_particles", crystal=s["crystal"], mtf=s["mtf"] is not None,
                   algorithm=ALGORITHM["particles"])
    attrs = record(attrs, "link_particles", algorithm=LAST["tracks"])
    if s["columns"] is None:
        return attrs
    return record(attrs, "find_columns", **s["columns"], crystal=s["crystal"], mtf=s["mtf"] is not None,
                  algorithm=ALGORITHM["columns"])


def _about(config: CampaignConfig, plan: Plan, outcome: Outcome, frames: pd.DataFrame) -> dict[str, Any]:
    from ..networks.models import load_model

    model = load_model(config.model)
    before = read_json(plan.out / ABOUT) or {}
    run = {
        "started": datetime.datetime.fromtimestamp(outcome.started).astimezone().isoformat(timespec="seconds"),
        "seconds": round(time.time() - outcome.started, 2), "where": outcome.where,
        "computed": outcome.computed, "reused": outcome.reused, "versions": versions(),
    }
    # what made the numbers that are there now: the versions of the last run that computed something
    made_by = [r for r in [*before.get("runs", []), run] if r["computed"]] or [run]
    return {
        "config": config.to_json(),
        "n_frames": len(frames),
        "shape": [plan.movie.sizes["y"], plan.movie.sizes["x"]],
        "dtype": str(plan.movie.dtype),
        "movie": {k: v for k, v in plan.movie.attrs.items() if k != "provenance"},
        "provenance": _provenance(plan)["provenance"],
        "model": {"name": config.model, "sha256": plan.sha256, "card": model.card},
        "versions": made_by[-1]["versions"],
        "frames_per_unit": plan.frames_per_unit,
        "runs": [*before.get("runs", []), run][-HISTORY:],
    }
