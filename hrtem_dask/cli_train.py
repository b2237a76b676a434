"""The commands that make a training set and train a network with it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .cli_fine_tune import fine_tune_option, fine_tune_with
from .cli_own import own_options, split_own, train_own
from .core.machine import available_cores

__all__ = ["simulate", "train"]

WIDTH = 30  # characters of the bar


@click.command()
@click.argument("recipe")
@click.option("--out", "store", type=click.Path(path_type=Path), help="Zarr store of the set.")
@click.option("--n", "-n", "n", type=click.IntRange(1), help="Number of simulated structures.")
@click.option("--seed", type=click.IntRange(0), help="Seed; the same one gives the same set.")
@click.option("--workers", type=click.IntRange(1), help="Processes; by default one for each processor.")
@click.option("--client", "where", help='Dask cluster instead: "local", "slurm:FILE.yaml", "tcp://HOST:PORT", '
                                        '"scheduler-file:PATH".')
@click.option("--describe", is_flag=True, help="Only say what every key of the recipe holds, its unit and meaning.")
def simulate(recipe: str, store: Path | None, n: int | None, seed: int | None, workers: int | None, where: str | None,
             describe: bool) -> None:
    """Simulate a labelled set from RECIPE, the name of a shipped recipe or a YAML file.

    A set that is there already is continued. Images are drawn from the stored exit waves while a
    network trains.
    """
    from .cluster import connect
    from .simulate import dataset, describe_recipe, load_recipe

    checked = load_recipe(recipe)
    if describe:
        click.echo(describe_recipe(checked))
        return
    missing = [name for name, value in (("--out", store), ("--n", n), ("--seed", seed)) if value is None]
    if missing:
        raise click.UsageError(f"missing {', '.join(missing)}, as in: hrtem-dask simulate {recipe} --out set.zarr "
                               f"--n 100 --seed 1")
    options = {"seed": seed, "progress": progress("structures", "are there already")}
    if where is None:
        found = dataset(checked, store, n, workers=workers or available_cores(), **options)
    else:
        with connect(where, workers=workers) as client:
            found = dataset(checked, store, n, client=client, **options)
    if found.effort and found.effort.done:
        click.echo(str(found.effort))
    click.echo(f"{len(found)} structures of recipe {found.recipe.name!r} are in {store}; "
               f"next: hrtem-dask train {store} --out NAME.safetensors --minutes 30")


@click.command()
@click.argument("store", required=False)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File NAME.safetensors to write.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True),
              help="Time to train, 30 by default; the learning rate reaches zero at its end. With --iterations: cut "
                   "the run after this time; the same command goes on.")
@click.option("--iterations", type=click.IntRange(1), help="Number of steps: the same weights every time.")
@click.option("--network", default="msdnet", show_default=True, type=click.Choice(["msdnet", "unet"]))
@click.option("--depth", type=click.IntRange(1), help="Layers of the MSD-net (50), halvings of the U-Net (4).")
@click.option("--width", type=click.IntRange(1),
              help="Planes a layer of the MSD-net (1), at the finest scale of the U-Net (6).")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
@click.option("--workers", type=click.IntRange(1), help="Processes; by default one for each processor.")
@click.option("--device", default="auto", show_default=True,
              help='"cpu", "cuda", or "auto" for CUDA where there is one.')
@click.option("--batch", default=3, show_default=True, type=click.IntRange(1), help="Examples a step.")
@click.option("--size", default=256, show_default=True, type=click.IntRange(32), help="Side of an example, in pixels.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True),
              help="Highest one; 0.01 for an MSD-net, 0.005 for a U-Net.")
@click.option("--outline", default="half-thickness", show_default=True, type=click.Choice(["half-thickness", "atoms"]),
              help="What the network learns to outline: the half-contrast line, or all projected atoms.")
@click.option("--classes", default="particle", show_default=True, callback=lambda _context, _option, text:
              tuple(text.replace(",", " ").split()),
              help='What to learn: "particle", or classes of columns as "column" or "mo,s2,s1,empty".')
@click.option("--network-pixel-size", type=click.FloatRange(0, min_open=True),
              help="At which the network works, in angstrom; 0.5 for particles, 0.2 for columns.")
@click.option("--start", help="Weights to begin with: a file or a shipped name.")
@click.option("--scores/--no-scores", default=True, show_default=True,
              help="Measure the held-out fields by dose afterwards (a few minutes).")
@fine_tune_option
@own_options
@click.pass_context
def train(context: click.Context, store: str | None, out: Path, workers: int | None, fine_tune: tuple[str, str] | None,
          **options: Any) -> None:
    """Train a network with STORE, a simulated set (or a recipe, which is simulated first).

    A run that was stopped is continued. NAME.metrics.csv and NAME.metrics.png show loss and Dice on
    structures of their own.

    With any option of the own microscope, STORE is the recipe that is adapted to it (NAME.yaml): sets
    are simulated, and the Dice at each dose says which dose is enough.
    """
    show = progress("iterations", "are done already", every=30)
    context.params["workers"] = workers = workers or available_cores()
    if fine_tune:
        fine_tune_with(context, show)
        return
    if store is None:
        raise click.UsageError("missing STORE, as in: hrtem-dask train set.zarr --out NAME.safetensors")
    own = split_own(store, options)
    if own:
        train_own(store, out, own, {"workers": workers, **options},
                  lambda what: progress(what, "are done already", every=30 if what == "iterations" else 5))
        return
    from .networks.training import train as run

    model = run(store, out=out, workers=workers, report=click.echo, progress=show, **options)
    click.echo(f"{model!r}")


def progress(what: str, there: str = "", every: float = 5) -> Callable[..., None]:
    """Return a function that shows done of total: a bar on a terminal, else a line now and then (`every` second)."""
    start, shown, first = time.monotonic(), [-1e9], [-1]
    bar = sys.stderr.isatty()

    def show(done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if first[0] < 0:
            first[0] = done
            if done and there:
                click.echo(f"{done} of {total} {what} {there}")
        if done < total and now - shown[0] < (0.2 if bar else every):
            return
        shown[0] = now
        rate = (done - first[0]) / max(now - start, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        line = f"{done} of {total} {what}, {now - start:.0f} s{left}" + (f", {note}" if note else "")
        if not bar:
            click.echo(line)
            return
        full = round(WIDTH * done / max(total, 1))
        click.echo(f"\r[{'#' * full}{'.' * (WIDTH - full)}] {line}\x1b[K", nl=done >= total, err=True)

    return show
