"""One unit of work: a batch of frames from pixels to records, inside one task of one worker.

The task calls the same public functions as a user does (`segment`, `label_particles`,
`analyse_particles`), computes them without a scheduler of their own, and hands the results to
the one writer. Particles are found in the probabilities as they were read back from the store,
so a campaign that was interrupted between the two stages gives the same table as one that was not.
"""

from __future__ import annotations

import functools
import logging
import pickle
import time
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..core.errors import CalibrationError, InputError
from ..core.provenance import record
from ..core.schema import COLUMNS, PARTICLES, Table
from ..io.store import open_store, write_shards
from ..io.tables import write_table
from .columns import columns_of_frame
from .ledger import Ledger

__all__ = ["READING", "STORED", "Unit", "certainty", "foreground", "process_unit"]

log = logging.getLogger(__name__)
#: dtype of probabilities on disk; its steps near 1 are 5e-4, far below what a network knows
STORED = "float16"
#: settings that `segment` takes
OPTIONS = ("device", "halo", "window", "window_size", "augment")
#: probability above which a pixel could be particle
MAYBE = 0.1
#: how the message of a frame begins whose file could not be read
READING = "reading"
#: errors that are not a frame's fault; the unit gets no record and is tried again by the next run
NOT_THE_FRAME = (CalibrationError, ImportError, MemoryError)


@dataclass(frozen=True)
class Unit:
    """What a worker needs to know to do one unit.

    Parameters
    ----------
    index, start : int
        Number of the unit and position of its first frame in the store.
    movie : bytes
        Pickled lazy movie of these frames only.
    out, store : str
        Folder of the campaign and of its store.
    model, sha256 : str
        Network and the sha256 that its weights must have.
    keys : dict
        Fingerprint of each stage.
    stages : tuple of str
        Stages to compute.
    settings : dict
        ``threshold, min_area, crystal, mtf, halo, window, window_size, augment, device``; ``columns``: None, or
        their network with its sha256 and ``threshold``.
    """

    index: int
    start: int
    movie: bytes
    out: str
    store: str
    model: str
    sha256: str
    keys: dict[str, str]
    stages: tuple[str, ...]
    settings: dict[str, Any]


@functools.lru_cache(maxsize=4)
def model_of(name: str, sha256: str) -> Any:
    """Load a network once per process and check that these are the weights that were asked for."""
    from ..networks.models import load_model

    model = load_model(name)
    if model.card["sha256"] != sha256:
        raise InputError(f"the worker finds the weights {model.card['sha256'][:12]} under {name!r}, "
                         f"expected {sha256[:12]}; install the same version everywhere")
    return model


def process_unit(unit: Unit) -> dict[str, Any]:
    """Do the stages of a unit and write their records; return what the runner counts.

    Raises
    ------
    WriteError, CalibrationError
        What no other frame would be spared: a full disk, impossible settings.
    """
    started = time.perf_counter()
    ledger = Ledger(unit.out, unit.store)
    movie: xr.DataArray = pickle.loads(unit.movie)
    loaded, messages = _read(movie)
    if "segment" in unit.stages:
        ledger.drop("segment", unit.index)
        probability, messages = _segment(unit, movie, loaded, messages)
        shards = write_shards(unit.store, "probability", probability, (unit.start, 0, 0, 0))
        ledger.put("segment", unit.index, {
            "fingerprint": unit.keys["segment"], "shards": shards, "messages": messages,
            "frames": movie.frame.values.tolist(), "seconds": time.perf_counter() - started,
        })
    else:
        messages |= (ledger.peek("segment", unit.index) or {}).get("messages", {})
    if "particles" in unit.stages:
        messages = _particles(unit, ledger, movie, loaded, messages)
    if "columns" in unit.stages:
        messages = _columns(unit, ledger, movie, loaded, messages)
    return {"unit": unit.index, "frames": movie.sizes["frame"], "messages": messages,
            "seconds": time.perf_counter() - started}


def _read(movie: xr.DataArray) -> tuple[dict[int, xr.DataArray], dict[str, str]]:
    """Load frame by frame, so that one unreadable file costs its own frame only."""
    loaded, messages = {}, {}
    for i, number in enumerate(movie.frame.values.tolist()):
        try:
            loaded[i] = movie.isel(frame=slice(i, i + 1)).compute(scheduler="synchronous")
        except NOT_THE_FRAME:
            raise
        except Exception as error:  # noqa: BLE001 - readers of ten formats raise what they like
            messages[str(number)] = _said(error, READING)
    return loaded, messages


def _said(error: Exception, doing: str) -> str:
    log.debug("%s", "".join(traceback.format_exception(error)))
    return f"{doing}: {type(error).__name__}: {error}"


def _segment(
    unit: Unit, movie: xr.DataArray, loaded: dict[int, xr.DataArray], messages: dict[str, str]
) -> tuple[np.ndarray, dict[str, str]]:
    from ..analysis.segment import segment

    model = model_of(unit.model, unit.sha256)
    shape = (movie.sizes["frame"], len(model.card["classes"]), movie.sizes["y"], movie.sizes["x"])
    out = np.full(shape, np.nan, STORED)
    for i, image in loaded.items():
        try:
            lazy = segment(image.chunk(), model, warn=False, **{k: unit.settings[k] for k in OPTIONS})
            out[i] = lazy.compute(scheduler="synchronous").values[0].astype(STORED)
        except NOT_THE_FRAME:
            raise
        except Exception as error:  # noqa: BLE001 - one frame that cannot be segmented costs itself only
            messages = messages | {str(image.frame.values[0]): _said(error, "segment")}
    return out, messages


def _particles(
    unit: Unit, ledger: Ledger, movie: xr.DataArray, loaded: dict[int, xr.DataArray], messages: dict[str, str]
) -> dict[str, str]:
    ledger.drop("particles", unit.index)
    n = movie.sizes["frame"]
    stored = open_store(unit.store).probability.isel(frame=slice(unit.start, unit.start + n))
    stored = stored.compute(scheduler="synchronous")
    labels = np.full((n, movie.sizes["y"], movie.sizes["x"]), -1, np.int32)
    tables, rows = [PARTICLES.empty()], []
    for i, number in enumerate(movie.frame.values.tolist()):
        probability = stored.isel(frame=slice(i, i + 1)).astype("float32")
        if str(number) not in messages:
            try:
                labels[i], table = _one_frame(unit, loaded[i], probability)
                tables.append(table)
            except NOT_THE_FRAME:
                raise
            except Exception as error:  # noqa: BLE001 - one frame that cannot be analysed costs itself only
                messages = messages | {str(number): _said(error, "particles")}
        rows.append(_frame_row(movie.isel(frame=i), loaded.get(i), probability, labels[i], messages.get(str(number))))
    shards = write_shards(unit.store, "labels", labels, (unit.start, 0, 0))
    _put(unit, ledger, "particles", tables, PARTICLES, {"shards": shards, "rows": rows, "messages": messages})
    return messages


def _put(unit: Unit, ledger: Ledger, stage: str, tables: list[pd.DataFrame], schema: Table,
         more: dict[str, Any]) -> None:
    """Write the rows of a unit, then the record that vouches for them."""
    path = ledger.path(stage, unit.index, ".parquet")
    found = pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
    write_table(path, found, schema, provenance={"fingerprint": unit.keys[stage]})
    ledger.put(stage, unit.index, {"fingerprint": unit.keys[stage], "table": path.name, **more})


def _columns(
    unit: Unit, ledger: Ledger, movie: xr.DataArray, loaded: dict[int, xr.DataArray], messages: dict[str, str]
) -> dict[str, str]:
    """Columns of the frames that can be read; what went wrong with the particles of a frame is none of theirs."""
    ledger.drop("columns", unit.index)
    settings = unit.settings["columns"]
    model = model_of(settings["model"], settings["sha256"])
    options = {k: unit.settings[k] for k in OPTIONS}
    tables, own = [COLUMNS.empty()], {}
    for i, number in enumerate(movie.frame.values.tolist()):
        if i not in loaded:
            own[str(number)] = messages[str(number)]
            continue
        try:
            tables.append(columns_of_frame(loaded[i], model, unit.settings, options))
        except NOT_THE_FRAME:
            raise
        except Exception as error:  # noqa: BLE001 - one frame whose columns cannot be found costs itself only
            own[str(number)] = _said(error, "columns")
    _put(unit, ledger, "columns", tables, COLUMNS, {"messages": own})
    return own | messages


def _one_frame(unit: Unit, image: xr.DataArray, probability: xr.DataArray) -> tuple[np.ndarray, pd.DataFrame]:
    from ..analysis.labels import label_particles
    from ..analysis.particles import analyse_particles

    s = unit.settings
    if "defocus" in image.dims:  # of a focal series the middle image is measured
        image = image.isel(defocus=image.sizes["defocus"] // 2, drop=True)
    # the coordinates of the store are the movie's own; taking them over keeps the join exact
    probability = probability.chunk().assign_coords(frame=image.frame, y=image.y, x=image.x)
    probability.attrs = record(image.attrs, "segment", model=unit.model, sha256=unit.sha256)
    labels = label_particles(probability, threshold=s["threshold"], min_area=s["min_area"])
    labels = labels.compute(scheduler="synchronous")  # from here on in memory: a task must not ask the cluster
    table = analyse_particles(image.chunk(), probability, crystal=s["crystal"], mtf=s["mtf"], threshold=s["threshold"],
                              min_area=s["min_area"], labels=labels.chunk())
    return labels.values[0].astype(np.int32), PARTICLES.coerce(table.compute(scheduler="synchronous"))


def _frame_row(
    image: xr.DataArray, loaded: xr.DataArray | None, probability: xr.DataArray, labels: np.ndarray,
    message: str | None,
) -> dict[str, Any]:
    from ..analysis.segment import unknown_pixels

    failed = message is not None
    unknown = 0 if loaded is None else int(unknown_pixels(loaded).compute(scheduler="synchronous")[0])
    return {
        "frame": int(image.frame), "time": float(image.time) if "time" in image.coords else float("nan"),
        "status": "failed" if failed else "done",
        "n_particles": 0 if failed else int(np.count_nonzero(np.unique(labels) > 0)),
        "covered": float("nan") if failed else float((labels > 0).mean()),
        "certainty": float("nan") if failed else certainty(foreground(probability).values[0]),
        "unknown_pixels": unknown,
        "message": message or "",
    }


def foreground(probability: xr.DataArray) -> xr.DataArray:
    """Probability that a pixel is particle: the class of that name, else everything but background."""
    names = [str(c) for c in probability["class"].values]
    if "particle" in names:
        return probability.isel({"class": names.index("particle")}, drop=True)
    if "background" in names:
        return 1 - probability.isel({"class": names.index("background")}, drop=True)
    raise InputError(f"the classes are {names}; expected one called 'particle' or 'background'")


def certainty(p: np.ndarray) -> float:
    """Mean of abs(2 p - 1) over the pixels that could be particle (p > 0.1); 1 where there are none.

    Examples
    --------
    >>> float(certainty(np.array([0.0, 0.5, 1.0])))
    0.5
    """
    maybe = p[p > MAYBE]
    return float(np.abs(2 * maybe.astype(np.float64) - 1).mean()) if maybe.size else 1.0


