"""The last stage of a campaign: which particle is which, and which frames can be read.

Runs once, on the tables of all frames; what frames are fit for is measured on their pixels. Each table
carries the fingerprint of what it was made from, so a new threshold costs a new list and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..core.provenance import record
from ..core.schema import FRAME_QUALITY, PARTICLES, TRACKS, VERDICTS, Table
from ..io.tables import read_table, write_csv, write_table
from .config import CampaignConfig
from .ledger import LAST, fingerprint

if TYPE_CHECKING:
    from distributed import Client

    from .plan import Plan

__all__ = ["FOLLOWED", "judge", "linked", "listing", "thresholds", "tracks_key", "up_to_date"]

log = logging.getLogger(__name__)
#: the table of particles once they are followed
FOLLOWED = Table("particles", (*PARTICLES.columns, *TRACKS.columns))
#: least score where nothing else is asked: more likely on the zone axis than not
MIN_SCORE = 0.5


def thresholds(config: CampaignConfig) -> dict[str, Any]:
    """What `filter_frames` is given.

    Examples
    --------
    >>> thresholds(CampaignConfig("movie", "out"))
    {'max_ratio': None, 'min_score': 0.5, 'max_false_keep': None, 'track': None}
    >>> thresholds(CampaignConfig("movie", "out", max_ratio=2))["min_score"] is None
    True
    """
    asked = {n: getattr(config, n) for n in ("max_ratio", "min_score", "max_false_keep")}
    if all(v is None for v in asked.values()):
        asked["min_score"] = MIN_SCORE
    return asked | {"track": config.track}


def linked(particles: pd.DataFrame) -> pd.DataFrame:
    """Follow the particles from frame to frame."""
    from ..analysis.tracks import link_particles

    return FOLLOWED.coerce(link_particles(particles))


def tracks_key(plan: Plan) -> str:
    """Fingerprint of the table of particles that are followed."""
    return fingerprint(particles=[k["particles"] for k in plan.keys], tracks=LAST["tracks"])


def judge(config: CampaignConfig, plan: Plan, particles: pd.DataFrame, frames: pd.DataFrame,
          provenance: dict[str, Any], client: Client | None) -> bool:
    """Measure the frames and list the readable ones, unless both tables are there; say whether the list is new."""
    from ..analysis.verdicts import filter_frames

    asked, path = thresholds(config), plan.out / "verdicts.parquet"
    key = fingerprint(particles=[k["particles"] for k in plan.keys], last=LAST, inputs=plan.inputs, asked=asked,
                      failed=frames.frame[frames.status == "failed"].tolist())
    if up_to_date(path, key):
        return False
    quality = _quality(plan, frames, provenance, client)
    verdicts = filter_frames(particles, **asked, frames=quality)
    step = record({"provenance": provenance["provenance"]}, "filter_frames", **asked)["provenance"]
    applied = {k: v if v is None else float(v) for k, v in verdicts.attrs["threshold"].items()}
    write_table(path, verdicts, VERDICTS,
                provenance=provenance | {"provenance": step, "fingerprint": key, "threshold": applied})
    write_csv(path.with_suffix(".csv"), verdicts)
    return True


def _quality(plan: Plan, frames: pd.DataFrame, provenance: dict[str, Any], client: Client | None) -> pd.DataFrame:
    """Table of `frame_quality`: of the frames that could be read, the others are quarantined."""
    from ..analysis.frames import frame_quality

    path, failed = plan.out / "frame_quality.parquet", frames[frames.status == "failed"]
    key = quality_key(plan, failed.frame.tolist())
    if up_to_date(path, key):
        return read_table(path)[0]
    movie = plan.movie
    if "defocus" in movie.dims:
        movie = movie.isel(defocus=movie.sizes["defocus"] // 2, drop=True)
    log.info("measuring the fitness of %d frames", len(frames) - len(failed))
    with client.as_current() if client is not None else contextlib.nullcontext():
        table = frame_quality(movie.isel(frame=np.flatnonzero(frames.status.to_numpy() == "done")),
                              mtf=plan.settings["mtf"])
    if len(failed):
        lost = {c.name: np.nan for c in FRAME_QUALITY.columns} | {
            "frame": failed.frame.to_numpy(), "time": failed.time.to_numpy(), "saturated": 0,
            "unknown": movie.sizes["y"] * movie.sizes["x"],
            "reason": pd.Categorical(["quarantined"] * len(failed), table.reason.cat.categories)}
        table = pd.concat([table, pd.DataFrame(lost)], ignore_index=True).sort_values("frame", ignore_index=True)
    step = record({"provenance": provenance["provenance"]}, "frame_quality",
                  mtf=plan.settings["mtf"] is not None)["provenance"]
    write_table(path, table, FRAME_QUALITY, provenance=provenance | {"provenance": step, "fingerprint": key})
    write_csv(path.with_suffix(".csv"), table)
    return table


def quality_key(plan: Plan, failed: list[int]) -> str:
    """Fingerprint of the table of `frame_quality`: it knows no network and no threshold."""
    mtf = plan.settings["mtf"]
    return fingerprint(inputs=plan.inputs, failed=failed, mtf=None if mtf is None else mtf.to_json(),
                       algorithm=LAST["frame_quality"])


def up_to_date(path: Path, key: str) -> bool:
    """Whether a table is there, with its CSV, and was made from what the fingerprint stands for."""
    if not path.is_file() or not path.with_suffix(".csv").is_file():
        return False
    try:
        return read_table(path)[1].get("provenance", {}).get("fingerprint") == key
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is made anew
        return False


def listing(numbers: np.ndarray, most: int = 8) -> str:
    """Frames in words, runs of neighbours as one.

    Examples
    --------
    >>> listing(np.array([0, 1, 2, 7, 9, 10])), listing(np.arange(0, 100, 2), most=2)
    ('0-2, 7, 9-10', '0, 2 and 48 more')
    """
    numbers = np.asarray(numbers, dtype=np.int64)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else []
    said = ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs[:most])
    left = sum(len(r) for r in runs[most:])
    return said + (f" and {left} more" if left else "")
