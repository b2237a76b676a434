"""``hrtem-dask demo``: a movie that the package simulates itself, analysed and compared with its truth."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pandas as pd
import xarray as xr

from .cli_run import finish, seconds, showing
from .io.store import open_store, write_movie
from .io.tables import read_json, write_csv, write_json
from .report.diffusion import TRUE_EVENTS, TRUTH

if TYPE_CHECKING:
    from .campaign.results import Campaign

__all__ = ["MOVIE", "dice_table", "run_demo"]

#: what the demo's movie shows: a gold particle of 3 nm on thin carbon
RECIPE: dict[str, Any] = {
    "name": "demo",
    "field": {"wave_sampling": 0.14, "stored_sampling": 0.2, "slice_thickness": 2.0},
    "particles": {"shape": "wulff", "zone_axis": "110", "number": [1, 1], "coverage": [0.2, 0.2], "diameter": [27, 30],
                  "elongation": [1.0, 1.15], "height": [0.5, 0.7], "steps": [0, 2], "adatoms": [0.0, 0.05],
                  "touching_fraction": 0.0, "thermal_displacement": [0.07, 0.1]},
    "film": {"absent_fraction": 0.0, "thickness": [8, 10], "roughness": [0, 2]},
}
#: it rocks through the zone axis, see `hrtem_dask.simulate.Rock`, while columns of its surface come, go and hop
MOTION: dict[str, Any] = {"tilt": 2.8, "time": 2.0, "spin": 0.5, "wander": 0.15, "frames_per_wave": 4}
RATE = 0.1
OPTICS: dict[str, Any] = {"defocus": 60.0, "cs": -1e5, "focal_spread": 30.0, "convergence": 1e-4,
                          "absorption_length": 400.0, "blur": 0.3}
#: the movie of the demo, see `hrtem_dask.simulate.movie`, and which part of its frames is spoilt
MOVIE: dict[str, Any] = {"recipe": RECIPE, "n_frames": 200, "seed": 3, "shape": (288, 288), "pixel_size": 0.16,
                         "dose": 1000.0, "frame_time": 0.1, "drift": 0.05}
SPOILT = {"blurred": 0.02, "saturated": 0.01, "empty": 0.01}
#: the networks and the crystal that it is analysed with
MODEL, COLUMNS, CRYSTAL = "au-particles", "au-columns", "Au"
NAMES = {"movie": "movie.zarr", "truth": "truth.zarr", "tilts": "tilts.csv", "made": "movie.json",
         "simulated": "simulated.zarr"}


def run_demo(out: str | Path, workers: int | None = None) -> int:
    """Simulate (once), run the campaign, compare with the truth, and return the exit code.

    Parameters
    ----------
    out : path
        Folder for the movie, its truth and the results.
    workers : int, optional
        Number of worker processes; by default one a core.

    Returns
    -------
    int
        0, or 3 where frames failed.
    """
    from .campaign.config import CampaignConfig
    from .campaign.layout import prepare_folder
    from .campaign.runner import plan_campaign, run_campaign

    started = time.monotonic()
    out = prepare_folder(out)
    with contextlib.ExitStack() as stack:
        client = Workers(stack, workers)
        _simulated(out, client)
        config = CampaignConfig(source=str(out / NAMES["movie"]), out=out, model=MODEL, crystal=CRYSTAL,
                                columns=COLUMNS, title="Demo: a simulated gold nanoparticle on carbon")
        config, plan = plan_campaign(config)
        if plan.todo:
            click.echo(f"analysing {plan.todo_frames} of {plan.n_frames} frames ...", err=True)
            with showing("frames") as progress:
                campaign = run_campaign(config, client=client.get(), progress=progress)
        else:
            campaign = run_campaign(config)
    if campaign.computed or not (out / "truth.csv").exists():
        dice = dice_table(campaign.data.labels, open_store(out / NAMES["truth"]).truth)
        tilts = tilt_table(campaign.verdicts, pd.read_csv(out / NAMES["tilts"], keep_default_na=False))
        write_csv(out / "truth.csv", dice.merge(tilts, on="frame"))
        (out / "report.html").unlink(missing_ok=True)
    events = true_diffusion(campaign) if COLUMNS is not None else None
    click.echo(compared(campaign.verdicts, pd.read_csv(out / "truth.csv")))
    code = finish(campaign)
    if events is not None:
        click.echo(events)
    click.echo(f"took {seconds(time.monotonic() - started)}. Open the report in a browser: "
               f"{(out / 'report.html').as_uri()}")
    return code


class Workers:
    """A local cluster that starts when it is first needed and ends with the stack."""

    def __init__(self, stack: contextlib.ExitStack, workers: int | None) -> None:
        self.stack, self.workers, self.client = stack, workers, None

    def get(self) -> Any:
        """Return the client, starting the workers at the first call."""
        if self.client is None:
            from .cluster import connect, dashboard_link
            from .core.machine import available_cores

            click.echo(f"starting {self.workers or available_cores()} local workers ...", err=True)
            self.client = self.stack.enter_context(connect("local", workers=self.workers))
            click.echo(f"dashboard: {dashboard_link(self.client) or 'none'}", err=True)
        return self.client


def _simulated(out: Path, workers: Workers) -> None:
    """Make the movie and its truth, unless the same ones are there."""
    from .core.provenance import package_version
    from .simulate import movie as simulate_movie
    from .simulate.hopping import Hopping
    from .simulate.microscope import Optics
    from .simulate.scenes import Rock
    from .simulate.spoilt import spoil_kinds, spoil_movie

    wanted = {**MOVIE, "shape": list(MOVIE["shape"]), "motion": MOTION, "rate": RATE, "optics": OPTICS,
              "spoilt": SPOILT, "version": package_version()}
    if read_json(out / NAMES["made"]) == wanted:
        click.echo("the simulated movie is there already", err=True)
        return
    (out / NAMES["made"]).unlink(missing_ok=True)
    click.echo(f"simulating {MOVIE['n_frames']} frames of a gold nanoparticle (multislice) ...", err=True)
    client = workers.get()
    with _waves() as progress:
        data = simulate_movie(**MOVIE, motion=Hopping(rate=RATE, rock=Rock(**MOTION)), optics=Optics(**OPTICS),
                              client=client, progress=progress, store=out / NAMES["simulated"])
    kinds = spoil_kinds(MOVIE["n_frames"], MOVIE["seed"], SPOILT)
    write_movie(out / NAMES["movie"], spoil_movie(data.movie, kinds, MOVIE["seed"]))
    write_csv(out / NAMES["tilts"], true_tilts(data, kinds))
    write_movie(out / NAMES["truth"], data.truth.astype(np.uint8), name="truth")
    write_json(out / NAMES["made"], wanted)


@contextlib.contextmanager
def _waves() -> Iterator[Any]:
    """Yield a callback (done, total) that shows the progress of the simulation."""
    from .campaign.runner import Progress

    started = time.monotonic()
    with showing("exit waves") as draw:
        yield lambda done, total: draw(Progress(done, 0, 0, total, time.monotonic() - started, ""))


def true_tilts(data: xr.Dataset, kinds: np.ndarray) -> pd.DataFrame:
    """List where every particle truly is and how it is tilted: ``frame, y, x, tilt, spoilt``."""
    frames, count = data.frame.values, data.sizes["particle"]
    flat = {n: data[f"particle_{n}"].transpose("frame", "particle").values.ravel() for n in ("y", "x", "tilt")}
    return pd.DataFrame({"frame": np.repeat(frames, count), "particle": np.tile(np.arange(1, count + 1), len(frames)),
                         **flat, "spoilt": np.repeat(kinds, count)})


def true_diffusion(campaign: Campaign) -> str:
    """Lay the true events beside the measured ones, for the report, and say how they compare."""
    from .analysis.diffusion_truth import compare_events
    from .simulate import open_truth

    said, out = campaign.diffusion, campaign.out
    if said["rate"] is None:
        return f"diffusion events against the simulated truth: {said['text']}"
    tables = {name: campaign.table(name) for name in ("events", "sites", "drift")}
    score = compare_events(open_truth(out / NAMES["simulated"]), **tables, frames=campaign.table("diffusion_frames"),
                           frame_time=MOVIE["frame_time"])
    known = score.to_json()
    if read_json(out / TRUTH) != known or not (out / TRUE_EVENTS).exists():
        write_csv(out / TRUE_EVENTS, score.table)
        write_json(out / TRUTH, known)
        (out / "report.html").unlink(missing_ok=True)
    rate = (f"below {said['high']:.3g}" if said["limit"] else
            f"{said['rate']:.3g} (95 %: {said['low']:.3g} to {said['high']:.3g})")
    return (f"diffusion events against the simulated truth: {rate} a site and second, truly {score.rate:.3g}; of "
            f"{score.changes} true changes that the frames used show {score.recall:.0%} are found within 2 frames, and "
            f"{score.precision:.0%} of those found are true")


def tilt_table(verdicts: pd.DataFrame, tilts: pd.DataFrame) -> pd.DataFrame:
    """Return what is true of the particle that was followed: ``frame, tilt, spoilt, good``.

    It is the true particle that was nearest to it in most frames; good is a frame that is not spoilt and has
    that particle within 2 degree of a zone axis.

    Examples
    --------
    >>> tilts = pd.DataFrame({"frame": [0, 0, 1, 1], "particle": [1, 2, 1, 2], "y": [5.0, 50, 5, 50], "x": 9.0,
    ...                       "tilt": [1.0, 9, 3, 9], "spoilt": ""})
    >>> verdicts = pd.DataFrame({"frame": [0, 1], "y": [5.5, np.nan], "x": [9.0, np.nan]})
    >>> tilt_table(verdicts, tilts)[["tilt", "good"]].values.tolist()
    [[1.0, True], [3.0, False]]
    """
    from .report.timeline import GOOD_TILT

    both = tilts.merge(verdicts[["frame", "y", "x"]].dropna(), on="frame", suffixes=("", "_found"))
    both["away"] = np.hypot(both.y - both.y_found, both.x - both.x_found)
    nearest = both.sort_values("away").drop_duplicates("frame").particle
    which = nearest.mode().iloc[0] if len(nearest) else tilts.particle.min()
    mine = tilts[tilts.particle == which]
    good = (mine.tilt <= GOOD_TILT) & (mine.spoilt == "")
    return mine.assign(good=good)[["frame", "tilt", "spoilt", "good"]].reset_index(drop=True)


def compared(verdicts: pd.DataFrame, truth: pd.DataFrame) -> str:
    """Say how masks and verdicts compare with the truth."""
    from .analysis.verdicts import verdict_rates

    rates = verdict_rates(verdicts, truth.set_index("frame").good)
    said = (f"against the simulated truth: Dice {truth.dice.mean():.3f} (mean over {len(truth)} frames, worst "
            f"{truth.dice.min():.3f}); {rates['kept']} frames are kept and {rates['good']} are truly within 2 degree "
            f"of a zone axis")
    if rates["kept"] and rates["good"]:
        said += f": precision {1 - rates['false_keep']:.2f}, recall {rates['good_kept']:.2f}"
    return said


def dice_table(labels: Any, truth: Any) -> pd.DataFrame:
    """Return Dice of the labelled pixels against the truth for each frame: columns ``frame, dice``.

    Two empty masks agree: their Dice is 1.

    Examples
    --------
    >>> import xarray as xr
    >>> a = xr.DataArray(np.array([[[1, 1], [0, 0]]]), dims=("frame", "y", "x"), coords={"frame": [3]})
    >>> dice_table(a, a.copy(data=np.array([[[1, 0], [0, 0]]]))).round(3).values.tolist()
    [[3.0, 0.667]]
    """
    rows = []
    for number in labels.frame.values.tolist():
        found, true = (np.asarray(d.sel(frame=number).values) > 0 for d in (labels, truth))
        total = int(found.sum() + true.sum())
        rows.append({"frame": number, "dice": 2 * int((found & true).sum()) / total if total else 1.0})
    return pd.DataFrame(rows, columns=["frame", "dice"])
