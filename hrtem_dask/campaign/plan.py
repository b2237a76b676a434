"""Which units of a campaign are to be computed, and what a worker is sent for each."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from ..core.calibration import grid_of
from ..io.store import remove_shards
from ..io.tables import writing
from ..kernels.zone import COEFFICIENTS
from ..simulate.own import read_mtf
from .columns import column_key, contents
from .config import CampaignConfig
from .layout import PENDING, STATUS, STORE, TABLES, write_status
from .ledger import ALGORITHM, Ledger, fingerprint, input_fingerprints
from .units import READING, Unit

__all__ = ["Plan", "make_plan"]


@dataclass
class Plan:
    """The units of a campaign, their fingerprints, and the stages that each still needs."""

    out: Path
    movie: xr.DataArray
    model: str
    sha256: str
    settings: dict[str, Any]
    frames_per_unit: int
    keys: list[dict[str, str]]
    ledger: Ledger
    stages: list[tuple[str, ...]]
    inputs: str = ""  #: fingerprint of all frames as they lie in their files, for what needs no network

    @property
    def n_frames(self) -> int:
        """Frames in all."""
        return self.movie.sizes["frame"]

    @property
    def todo(self) -> list[int]:
        """Units that need work."""
        return [i for i, stages in enumerate(self.stages) if stages]

    @property
    def todo_frames(self) -> int:
        """Frames in the units that need work."""
        return sum(len(self.numbers(i)) for i in self.todo)

    def span(self, index: int) -> slice:
        """Positions of the frames of a unit."""
        start = index * self.frames_per_unit
        return slice(start, min(start + self.frames_per_unit, self.n_frames))

    def numbers(self, index: int) -> list[int]:
        """Numbers of the frames of a unit."""
        return self.movie.frame.values[self.span(index)].tolist()

    def unit(self, index: int) -> Unit:
        """What a worker needs for a unit: the graph of its own frames only, no weights, no pixels of others."""
        (part,) = dask.optimize(self.movie.isel(frame=self.span(index)))
        return Unit(
            index=index, start=self.span(index).start, movie=pickle.dumps(part), out=str(self.out),
            store=str(self.out / STORE), model=self.model, sha256=self.sha256, keys=self.keys[index],
            stages=self.stages[index], settings=self.settings,
        )

    def clear(self) -> None:
        """Remove whatever other settings left: shards of units to be computed, tables, records without a unit."""
        with writing(self.out):
            for name in TABLES:
                (self.out / name).unlink(missing_ok=True)
        status = np.full(self.n_frames, STATUS["done"], np.uint8)
        for index, stages in enumerate(self.stages):
            for stage in stages:
                old = self.ledger.peek(stage, index)
                self.ledger.drop(stage, index)
                remove_shards(self.out / STORE, (old or {}).get("shards", {}))
                status[self.span(index)] = PENDING
        for stage in ALGORITHM:
            for index in self.ledger.units(stage):
                if index >= len(self.stages):
                    self.ledger.drop(stage, index)
        write_status(self.out, status)


def make_plan(
    config: CampaignConfig, out: Path, movie: xr.DataArray, model: Any, frames_per_unit: int, *, n_source: int,
    columns: Any = None,
) -> Plan:
    """Compare what is asked with what the ledger says is done; `n_source` counts the frames before any choice."""
    ledger = Ledger(out, out / STORE)
    settings = {"threshold": float(config.threshold), "min_area": config.min_area, "crystal": config.crystal,
                "mtf": None if config.mtf is None else read_mtf(Path(config.mtf)),
                "halo": config.halo, "window": config.window, "window_size": config.window_size,
                "augment": config.augment, "device": config.device,
                "columns": None if columns is None else {
                    "model": config.columns, "sha256": columns.card["sha256"], "threshold": config.column_threshold}}
    plan = Plan(out, movie, config.model, model.card["sha256"], settings, frames_per_unit, [], ledger, [])
    plan.keys = _keys(config, movie, model, plan, n_source, columns)
    for index, keys in enumerate(plan.keys):
        found = {stage: ledger.get(stage, index, key) for stage, key in keys.items()}
        messages = [m for r in found.values() for m in (r or {}).get("messages", {}).values()]
        # a file stays unreadable until it changes; what else went wrong may be the machine's fault
        retry = any(config.retry_failed or not m.startswith(READING) for m in messages)
        stages = [s for s in keys if found[s] is None or retry]
        # particles are found in new probabilities, columns in those of a network of their own
        plan.stages.append(tuple(s for s in keys if s in stages or (s == "particles" and "segment" in stages)))
    return plan


def _keys(config: CampaignConfig, movie: xr.DataArray, model: Any, plan: Plan, n_source: int,
          columns: Any) -> list[dict[str, str]]:
    """Fingerprints of every unit; the particles' one holds the segmentation's, so it follows it.

    The device is left out: it may change which digits are last, not what is computed.
    """
    grid = grid_of(movie)
    token = "" if isinstance(config.source, (str, list)) else dask.base.tokenize(movie.data)
    whole = config.source if isinstance(config.source, (str, list)) else None
    by_frame = input_fingerprints(whole, n_source, token)
    numbers = movie.frame.values
    times = movie.time.values if "time" in movie.coords else np.full(len(numbers), np.nan)
    plan.inputs = fingerprint(inputs=by_frame, frames=numbers.tolist(), times=times.tolist(), grid=repr(grid))
    keys = []
    for index in range(-(-len(numbers) // plan.frames_per_unit)):
        span = plan.span(index)
        inputs = [by_frame[n] if n < len(by_frame) else by_frame[0] for n in numbers[span].tolist()]
        common = {"inputs": inputs, "frames": numbers[span].tolist(), "grid": repr(grid),
                  "weights": model.card["sha256"], "halo": config.halo, "window": config.window,
                  "window_size": config.window_size, "algorithm": ALGORITHM["segment"]}
        # what came later has no part in the fingerprint at its default: what was done before still holds
        later = {"augment": config.augment} if config.augment != 1 else {}
        segment = fingerprint(**common, **later)
        particles = fingerprint(
            segment=segment, time=times[span].tolist(), threshold=plan.settings["threshold"],
            min_area=config.min_area, crystal=repr(config.crystal), algorithm=ALGORITHM["particles"],
            zone=COEFFICIENTS.read_text(encoding="utf-8"), **contents(config.crystal),
            **({"mtf": plan.settings["mtf"].to_json()} if plan.settings["mtf"] else {}),
        )
        keys.append({"segment": segment, "particles": particles})
        if columns is not None:
            keys[-1]["columns"] = column_key(common | later, columns, plan.settings, config.crystal,
                                             times[span].tolist())
    return keys
