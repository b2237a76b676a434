"""``hrtem-dask demo``: a movie that the package simulates itself, analysed and compared with its truth."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from .cli_run import finish, seconds, showing
from .io.store import open_store, write_movie
from .io.tables import read_json, write_csv, write_json

__all__ = ["MOVIE", "dice_table", "run_demo"]

#: what the demo's movie shows: as au-particles, about as full as a real preparation, and without the
#: dust that nobody would count
RECIPE: dict[str, Any] = {
    "name": "demo",
    "field": {"wave_sampling": 0.3, "stored_sampling": 0.5, "slice_thickness": 3.0},
    "particles": {"number": [40, 40], "coverage": [0.15, 0.22], "diameter": [20, 65], "elongation": [1.0, 1.4],
                  "height": [0.4, 0.9], "touching_fraction": 0.0},
    "film": {"absent_fraction": 0.0, "thickness": [20, 50], "roughness": [0, 6]},
}
#: the movie of the demo, see `hrtem_dask.simulate.movie`
MOVIE: dict[str, Any] = {"recipe": RECIPE, "n_frames": 24, "seed": 7, "shape": (512, 512), "pixel_size": 0.4,
                         "dose": 400.0, "frames_per_wave": 4}
#: the network and the crystal that it is analysed with
MODEL, CRYSTAL = "au-particles", "Au"
NAMES = {"movie": "movie.zarr", "truth": "truth.zarr", "made": "movie.json"}


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
                                title="Demo: simulated gold nanoparticles on carbon")
        config, plan = plan_campaign(config)
        if plan.todo:
            click.echo(f"analysing {plan.todo_frames} of {plan.n_frames} frames ...", err=True)
            with showing("frames") as progress:
                campaign = run_campaign(config, client=client.get(), progress=progress)
        else:
            campaign = run_campaign(config)
    if campaign.computed or not (out / "truth.csv").exists():
        write_csv(out / "truth.csv", dice_table(campaign.data.labels, open_store(out / NAMES["truth"]).truth))
        (out / "report.html").unlink(missing_ok=True)
    dice = pd.read_csv(out / "truth.csv").dice
    click.echo(f"against the simulated truth: Dice {dice.mean():.3f} (mean over {len(dice)} frames, "
               f"worst {dice.min():.3f})")
    code = finish(campaign)
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

    wanted = {**MOVIE, "shape": list(MOVIE["shape"]), "version": package_version()}
    if read_json(out / NAMES["made"]) == wanted:
        click.echo("the simulated movie is there already", err=True)
        return
    (out / NAMES["made"]).unlink(missing_ok=True)
    click.echo(f"simulating {MOVIE['n_frames']} frames of gold nanoparticles (multislice) ...", err=True)
    client = workers.get()
    with _waves() as progress:
        progress(0, -(-MOVIE["n_frames"] // MOVIE.get("frames_per_wave", 4)))
        data = simulate_movie(**MOVIE, client=client, progress=progress)
    write_movie(out / NAMES["movie"], data.movie)
    write_movie(out / NAMES["truth"], data.truth.astype(np.uint8), name="truth")
    write_json(out / NAMES["made"], wanted)


@contextlib.contextmanager
def _waves() -> Iterator[Any]:
    """Yield a callback (done, total) that shows the progress of the simulation."""
    from .campaign.runner import Progress

    started = time.monotonic()
    with showing("exit waves") as draw:
        yield lambda done, total: draw(Progress(done, 0, 0, total, time.monotonic() - started, ""))


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
