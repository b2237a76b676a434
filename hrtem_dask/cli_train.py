"""The commands that make a training set and train a network with it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

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
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File NAME.safetensors to write.")
@click.option("--minutes", default=30.0, show_default=True, type=click.FloatRange(0, min_open=True),
              help="Time to train; it ends where the learning rate reaches zero.")
@click.option("--depth", default=32, show_default=True, type=click.IntRange(1), help="Layers of the MSD-net.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
@click.option("--workers", type=click.IntRange(1), help="Processes; by default one for each processor.")
@click.option("--iterations", type=click.IntRange(1), help="Steps instead of minutes: the same weights every time.")
@click.option("--batch", default=3, show_default=True, type=click.IntRange(1), help="Examples a step.")
@click.option("--size", default=256, show_default=True, type=click.IntRange(32), help="Side of an example, in pixels.")
@click.option("--learning-rate", default=1e-2, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--outline", default="half-thickness", show_default=True, type=click.Choice(["half-thickness", "atoms"]),
              help="What the network learns to outline: the half-contrast line, or all projected atoms.")
@click.option("--start", type=click.Path(exists=True, path_type=Path), help="Weights to begin with.")
@click.option("--scores/--no-scores", default=True, show_default=True,
              help="Measure the held-out fields by dose afterwards (a few minutes).")
def train(store: Path, out: Path, minutes: float, depth: int, seed: int, workers: int | None,
          iterations: int | None, batch: int, size: int, learning_rate: float, outline: str, start: Path | None,
          scores: bool) -> None:
    """Train a network with the set in STORE; a run that was stopped is continued."""
    from .networks.training import train as run

    model = run(store, out=out, minutes=minutes, depth=depth, seed=seed, workers=workers or available_cores(),
                iterations=iterations, batch=batch, size=size, learning_rate=learning_rate, outline=outline,
                start=start, scores=scores, report=click.echo)
    click.echo(f"{model!r}")


def progress(what: str, there: str = "") -> Callable[[int, int], None]:
    """Return a function that shows done of total: a bar on a terminal, else a line now and then."""
    start, shown, first = time.monotonic(), [-1e9], [-1]
    bar = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if first[0] < 0:
            first[0] = done
            if done and there:
                click.echo(f"{done} of {total} {what} {there}")
        if done < total and now - shown[0] < (0.2 if bar else 5):
            return
        shown[0] = now
        rate = (done - first[0]) / max(now - start, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        line = f"{done} of {total} {what}, {now - start:.0f} s{left}"
        if not bar:
            click.echo(line)
            return
        full = round(WIDTH * done / max(total, 1))
        click.echo(f"\r[{'#' * full}{'.' * (WIDTH - full)}] {line}\x1b[K", nl=done >= total, err=True)

    return show
