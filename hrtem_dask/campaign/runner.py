"""Run a campaign: a movie through network and particle analysis, frame batch by frame batch.

A unit of work is a batch of frames that fills one shard. Units are submitted as futures with a
small window in flight, never as one graph over the campaign: a graph of 10^5 tasks takes longer
to make than the work takes to begin. What is done is in the ledger, so a campaign that was
stopped goes on where it was, and one that is finished computes nothing.
"""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import xarray as xr

from ..core.calibration import grid_of
from ..core.errors import HrtemDaskError, InputError
from ..core.machine import available_cores
from ..io.store import write_movie
from ..kernels.crystal import d_spacings
from ..kernels.peaks import D_RANGE
from .columns import check_movie
from .config import CampaignConfig, as_config, parse_frames, source_text
from .layout import MOVIE, prepare_folder, prepare_store
from .plan import Plan, make_plan
from .results import Campaign, Outcome, collect
from .units import OPTIONS, process_unit

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Progress", "open_source", "plan_campaign", "run_campaign"]

log = logging.getLogger(__name__)
#: units in flight for each thread of the workers
WINDOW = 4


@dataclass(frozen=True)
class Progress:
    """Where a campaign is: frames done by this run, frames found done, frames failed, frames in all."""

    computed: int
    reused: int
    failed: int
    total: int
    seconds: float
    where: str

    @property
    def finished(self) -> int:
        """Frames that need no more work."""
        return self.computed + self.reused


def run_campaign(
    config: CampaignConfig | Mapping[str, Any], *, client: Client | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Campaign:
    """Run a movie through network and particle analysis, and write everything; computes.

    Parameters
    ----------
    config : CampaignConfig or mapping
        What to do, at least ``source`` and ``out``.
    client : distributed.Client, optional
        Workers to use; None means the current client, else threads of this process.
    progress : callable, optional
        Called with a `Progress` after every unit of work.

    Returns
    -------
    Campaign
        Tables, store and counts; ``campaign.computed == 0`` where everything was done before.

    Raises
    ------
    InputError, ReadError, WriteError
        If settings, source or folder cannot be used, or every frame failed.

    Examples
    --------
    >>> campaign = run_campaign({"source": "frames/", "out": "results", "pixel_size": 0.59})  # doctest: +SKIP
    """
    started = time.time()
    config, plan = plan_campaign(config)
    outcome = Outcome(total=plan.n_frames, reused=plan.n_frames - plan.todo_frames, started=started)
    if plan.todo:
        plan.clear()
        with _executor(client) as (executor, threads, outcome.where):
            log.info("%d of %d frames to do on %s", plan.todo_frames, plan.n_frames, outcome.where)
            _work(plan, executor, WINDOW * threads, outcome, progress)
    else:
        log.info("all %d frames were done before: nothing to compute", plan.n_frames)
        outcome.where = "nothing to compute"
        _report(progress, outcome)
    return collect(config, plan, outcome, client)


def plan_campaign(config: CampaignConfig | Mapping[str, Any]) -> tuple[CampaignConfig, Plan]:
    """Check settings and source, make the output folder and its store, and see what is left to do.

    Returns
    -------
    (CampaignConfig, Plan)
        The settings with absolute paths, and the units with the stages that each still needs.
    """
    config = as_config(config)
    out = prepare_folder(config.out)
    config = _with_paths(config, out)
    return config, _prepare(config, out)


def open_source(config: CampaignConfig) -> xr.DataArray:
    """Open the movie of a campaign lazily: the frames that were asked for, calibrated."""
    return select_frames(_open_whole(config), config.frames)


def _open_whole(config: CampaignConfig) -> xr.DataArray:
    from ..io.movie import open_movie

    return open_movie(config.source, pixel_size=config.pixel_size, frame_time=config.frame_time)


def select_frames(movie: xr.DataArray, frames: Any) -> xr.DataArray:
    """Choose frames by positions "start:stop:step" or by numbers."""
    if frames is None:
        return movie
    if isinstance(frames, str):
        part = movie.isel(frame=parse_frames(frames))
    elif isinstance(frames, slice):
        part = movie.isel(frame=frames)
    else:
        wanted = [int(i) for i in frames]
        missing = sorted(set(wanted) - set(movie.frame.values.tolist()))
        if missing:
            raise InputError(f"frames {missing[:5]} are not in the movie, which has {movie.frame.values[0]} to "
                             f"{movie.frame.values[-1]}; choose others with --frames")
        part = movie.sel(frame=wanted)
    if part.sizes["frame"] == 0:
        raise InputError(f"frames {frames!r} selects none of the {movie.sizes['frame']} frames; choose others")
    return part


def _with_paths(config: CampaignConfig, out: Path) -> CampaignConfig:
    """Name source and model by absolute paths; what lives only in this process gets a file in the output folder."""
    model, columns = (m if m is None else _model_path(m, out) for m in (config.model, config.columns))
    mtf = None if config.mtf is None else str(Path(config.mtf).expanduser().absolute())
    crystal = config.crystal
    if isinstance(crystal, Path) or (isinstance(crystal, str) and Path(crystal).is_file()):
        crystal = str(Path(crystal).expanduser().absolute())
    if crystal is not None:
        d_spacings(crystal, *D_RANGE)  # an unknown one stops here, and not in every frame
    config = replace(config, model=model, columns=columns, mtf=mtf, crystal=crystal)
    source = source_text(config.source)
    if source is None and not dask.is_dask_collection(getattr(config.source, "data", config.source)):
        whole = _open_whole(config)
        grid = grid_of(whole)
        path = out / f"{dask.base.tokenize(whole.values, repr(grid), whole.frame.values)[:12]}-{MOVIE}"
        if not path.exists():
            write_movie(path, whole)
        return replace(config, source=str(path), pixel_size=None, frame_time=None)
    return replace(config, source=source) if source is not None else config


def _model_path(model: Any, out: Path) -> str:
    from ..networks.models import save_model

    if isinstance(model, (str, Path)):
        return str(Path(model).absolute()) if Path(model).exists() else str(model)
    return str(save_model(model.weights, model.card, out / "model" / model.name))


def _prepare(config: CampaignConfig, out: Path) -> Plan:
    from ..analysis.segment import warn_outside
    from ..networks.models import load_model

    whole = _open_whole(config)
    grid_of(whole)  # an uncalibrated movie stops here, with the option to give
    movie = select_frames(whole, config.frames)
    model = load_model(config.model)
    channels = model.card["input_channels"]
    if channels != movie.sizes.get("defocus", 1):
        raise InputError(f"the network {config.model!r} takes {channels} image(s) a frame but the movie has "
                         f"{movie.sizes.get('defocus', 1)}; choose another with --model")
    warn_outside(movie, model)
    columns = None if config.columns is None else load_model(config.columns)
    if columns is not None:
        warn_outside(movie, columns)
    frames_per_unit = prepare_store(out, movie, model.card["classes"], config.frames_per_unit)
    plan = make_plan(config, out, movie, model, frames_per_unit, n_source=whole.sizes["frame"], columns=columns)
    if columns is not None:
        check_movie(movie, columns, plan.settings, {k: plan.settings[k] for k in OPTIONS})
    return plan


@contextlib.contextmanager
def _executor(client: Client | None) -> Iterator[tuple[cf.Executor, int, str]]:
    """The given client, else the current one, else threads of this process; none is created."""
    if client is None and "distributed" in sys.modules:
        with contextlib.suppress(ValueError):
            client = sys.modules["distributed"].client.default_client()
    if client is None:
        threads = available_cores()
        with cf.ThreadPoolExecutor(threads) as pool:
            yield pool, threads, f"{threads} threads of this process"
        return
    threads = max(1, sum(client.nthreads().values()))
    yield client.get_executor(pure=False), threads, f"{threads} Dask worker threads"


def _work(
    plan: Plan, executor: cf.Executor, window: int, outcome: Outcome, progress: Callable[[Progress], None] | None
) -> None:
    """Keep a window of units in flight; an error that concerns all frames stops the campaign."""
    todo, pending = iter(plan.todo), {}
    _report(progress, outcome)
    try:
        while True:
            for index in todo:
                pending[executor.submit(process_unit, plan.unit(index))] = index
                if len(pending) >= window:
                    break
            if not pending:
                return
            for future in cf.wait(pending, return_when=cf.FIRST_COMPLETED).done:
                index = pending.pop(future)
                _count(plan, index, future, outcome)
            _report(progress, outcome)
    finally:
        for future in pending:
            future.cancel()


def _count(plan: Plan, index: int, future: cf.Future, outcome: Outcome) -> None:
    try:
        done = future.result()
    except HrtemDaskError:
        raise
    except Exception as error:  # noqa: BLE001 - a worker that died or a message that was lost costs its unit, and is tried again
        log.warning("unit %d failed: %s: %s", index, type(error).__name__, error)
        numbers = plan.numbers(index)
        done = {"frames": len(numbers), "seconds": 0.0,
                "messages": {str(n): f"worker: {type(error).__name__}: {error}" for n in numbers}}
    outcome.add(index, done)
    for number, message in done["messages"].items():
        log.warning("frame %s failed: %s", number, message)


def _report(progress: Callable[[Progress], None] | None, outcome: Outcome) -> None:
    if progress is not None:
        progress(Progress(outcome.computed, outcome.reused, len(outcome.messages), outcome.total,
                          time.time() - outcome.started, outcome.where))
