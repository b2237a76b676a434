"""The commands that make a training set and train a network with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import click

__all__ = ["simulate", "train"]


@click.command()
@click.argument("recipe")
@click.option("--out", "store", required=True, type=click.Path(path_type=Path), help="Folder of the set.")
@click.option("-n", "n", required=True, type=click.IntRange(1), help="Number of simulated fields of view.")
@click.option("--seed", required=True, type=click.IntRange(0), help="Seed; the same one gives the same set.")
@click.option("--workers", type=click.IntRange(1), help="Processes; by default one for each processor.")
def simulate(recipe: str, store: Path, n: int, seed: int, workers: int | None) -> None:
    """Simulate a labelled set from RECIPE, the name of a shipped recipe or a YAML file.

    A set that is there already is continued. Images are drawn from the stored exit waves while a
    network trains.
    """
    from .simulate import dataset

    found = dataset(recipe, store, n, seed=seed, workers=workers or os.cpu_count() or 1, progress=progress("fields"))
    click.echo(f"{len(found)} fields of recipe {found.recipe.name!r} are in {store}; "
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

    model = run(store, out=out, minutes=minutes, depth=depth, seed=seed, workers=workers or os.cpu_count() or 1,
                iterations=iterations, batch=batch, size=size, learning_rate=learning_rate, outline=outline,
                start=start, scores=scores, report=click.echo)
    click.echo(f"{model!r}")


def progress(what: str) -> Callable[[int, int], None]:
    """Return a function that shows done of total: a line now and then, whatever the terminal."""
    start, shown, first = time.monotonic(), [-1e9], [-1]

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        first[0] = done if first[0] < 0 else first[0]
        if done < total and now - shown[0] < 5:
            return
        shown[0] = now
        rate = (done - first[0]) / max(now - start, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        click.echo(f"{done} of {total} {what}, {now - start:.0f} s{left}")

    return show
