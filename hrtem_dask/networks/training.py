"""Training of a network for particles or columns on a simulated set, on the processors of one machine or a GPU.

On processors every example is drawn and differentiated by one worker on its own; the gradients are
added in order. The result therefore depends on the set, the seed and the number of iterations, not
on the number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import InputError
from ..core.provenance import versions
from ..simulate.recipe import Recipe
from ..simulate.sets import Dataset, dataset, open_dataset
from .calibration import calibrated
from .cards import DARK, of_recipe
from .evaluation import resolve_device
from .models import Model, load_model, save_model
from .reach import reach_of
from .scoring import scores_by_dose
from .settings import BACKGROUND, PARTICLE, Settings
from .sources import COLUMN_DOSES, DOSES, Simulated
from .steps import Run
from .summaries import summary
from .validation import RULE

__all__ = ["Settings", "split", "train"]

HELD_OUT = 0.08  # part of the fields, for the scores
VALIDATION = 0.04  # part of the fields, to choose the weights by
MINUTES = 30.0
#: network -> depth and width that are taken where none are given
SHAPES = {"msdnet": (50, 1), "unet": (4, 6)}
#: network -> highest learning rate. In four minutes of one core three times as much learns more; in a run of half an
#: hour the loss of an MSD-net at 0.02 stood still until the rate had fallen to 0.012
RATES = {"msdnet": 1e-2, "unet": 5e-3}
#: whether particles are learnt -> pixel size of the network [angstrom]
PIXEL_SIZES = {True: 0.5, False: 0.2}


def train(
    recipe_or_dataset: str | Path | dict | Recipe | Dataset,
    *,
    out: str | os.PathLike[str],
    minutes: float | None = None,
    iterations: int | None = None,
    seed: int = 1,
    network: str = "msdnet",
    depth: int | None = None,
    width: int | None = None,
    batch: int = 3,
    size: int = 256,
    learning_rate: float | None = None,
    classes: Sequence[str] = (PARTICLE,),
    network_pixel_size: float | None = None,
    outline: str = "half-thickness",
    start: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    device: str = "auto",
    fields: int = 480,
    scores: bool = True,
    report: Callable[[str], None] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Model:
    """Train a network for particles or columns of atoms and write it with its card.

    Computes at once. Beside the weights come the card NAME.json, and NAME.metrics.csv and
    NAME.metrics.png with the losses and the Dice on validation images, drawn from structures of
    their own. A run that was stopped continues from its last checkpoint, the file
    ``NAME.state.npz``, as if it had not been stopped: the same weights, bit for bit.

    Parameters
    ----------
    recipe_or_dataset : str, Path, dict, Recipe or Dataset
        A set or its store; with a recipe, a set of so many `fields` is simulated first, in
        ``NAME-set.zarr`` beside `out`.
    out : path
        File NAME.safetensors to write.
    minutes : float, optional
        Alone, the time to train, 30 by default: the number of iterations follows from the speed of
        the first ones, and the learning rate falls to zero at its end. With `iterations`, the time
        after which the run is cut: the checkpoint is kept, the network as it stands is written, and
        the same call goes on.
    iterations : int, optional
        Number of steps: the same weights on every run.
    seed : int
        Seed of initialisation and examples.
    network : {"msdnet", "unet"}
    depth, width : int, optional
        Layers and planes a layer of the MSD-net (50 and 1); halvings of the U-Net and its planes at
        the finest scale (4 and 6).
    batch, size : int
        Examples a step; side of an example [network pixel].
    learning_rate : float, optional
        Highest learning rate of the optimiser, see `hrtem_dask.networks.optimiser`: 0.01 for an
        MSD-net, 0.005 for a U-Net.
    classes : sequence of str
        What to learn beside the background: "particle" alone, its mask; or classes of columns of
        atoms (`hrtem_dask.simulate.columns.COLUMN_CLASSES`), such as "column": a Gaussian of height 1
        and sigma 0.4 angstrom around each. A network for columns has neither a fitted temperature
        nor scores on its card: ``python -m benchmarks.columns NAME.safetensors --card`` adds them.
    network_pixel_size : float, optional
        [angstrom] at which the network works: 0.5 for particles, 0.2 for columns, that of `start` where given.
    outline : {"half-thickness", "atoms"}
        What "particle" means to the network: the half-contrast line that an image shows, or the
        union of all projected atoms, some angstrom farther out. The stored truth is the latter.
    start : path, optional
        Weights to begin with, of the same shape, instead of random ones; or a shipped name.
    workers : int, optional
        Use so many processes, which is faster; a script that asks for them needs the usual
        ``if __name__ == "__main__":``. By default threads, one for each processor.
    device : str
        "cpu", "cuda", or "auto" for CUDA where there is one. On a GPU the examples are drawn by
        the workers and differentiated there, a whole batch at once.
    fields : int
        Size of the set that a recipe is turned into.
    scores : bool
        Whether to measure the held-out fields by dose afterwards, for the card.
    report : callable, optional
        Called with a line of text now and then.
    progress : callable, optional
        Called with (iterations done, all, loss and Dice in words) after each.

    Returns
    -------
    Model
        What `load_model` gives for the file. Its weights are the running average at the validation
        with the lowest loss; ``card["training"]["finished"]`` says whether all iterations were taken.

    Raises
    ------
    InputError
        If the set is too small, there is no such device, or the checkpoint belongs to other settings.
    """
    out, say = Path(out), report or (lambda _line: None)
    out = out if out.suffix == ".safetensors" else out.with_name(out.name + ".safetensors")
    check_numbers(minutes, iterations)
    device = resolve_device(device)
    data = find_set(recipe_or_dataset, out, fields, seed, workers)
    if data.recipe.imaging.series > 1:
        raise InputError(f"recipe {data.recipe.name!r} draws focal series of {data.recipe.imaging.series} images; this "
                         "training learns particles from single images. Give a recipe with imaging.series: 1, or "
                         "write your own loop around hrtem_dask.networks.examples.Examples")
    learn, other, held_out = split(replace(data, outline=outline))
    begin = load_model(start) if start else None
    classes = tuple(classes)
    settings = settings_of(begin, start, network=network, depth=depth, width=width, batch=batch, size=size,
                           learning_rate=learning_rate or RATES.get(network, 1e-2), seed=seed, outline=outline,
                           classes=classes, pixel_size=network_pixel_size)
    out.parent.mkdir(parents=True, exist_ok=True)
    source = Simulated(learn, other, COLUMN_DOSES if settings.columns else DOSES)
    run = Run(settings, source, state_of(out), begin.module() if begin else None,
              None if device == "cpu" else device)
    say(f"{len(learn)} fields to learn from, {len(other)} to choose the weights by, {len(held_out)} held out")
    with one_torch_thread():
        seconds = None if minutes is None and iterations else 60 * (minutes or MINUTES)
        run.learn(seconds, iterations, workers, say, progress)
        net, card = run.result(), make_card(run, data, held_out, out)
        if begin:
            card["training"]["start"] = begin.card.get("training")
        if run.finished and not settings.columns:
            say("fitting a temperature to the probabilities")
            net, card["calibration"] = calibrated(net, other, held_out, seed=seed, pixel_size=settings.pixel_size)
        card |= reach_of(net, held_out, seed, step=step_of(settings), pixel_size=settings.pixel_size)
        write(run, card, out, say, net)
        if scores and run.finished and not settings.columns:
            say("scoring the held-out fields")
            card["scores"] = {"held_out_simulated": scores_by_dose(net, held_out, seed=seed)}
            say(summary(card["scores"]["held_out_simulated"]))
            save_model(net, card, out)
    if run.finished:
        run.state.unlink(missing_ok=True)
    return load_model(out)


def find_set(source: Any, out: Path, fields: int, seed: int, workers: int | None) -> Dataset:
    """Open the set, or simulate one from a recipe."""
    if isinstance(source, Dataset):
        return source
    if isinstance(source, str | Path) and Path(source).is_dir():
        return open_dataset(source)  # where it is none, this says how to make one
    return dataset(source, out.with_name(out.stem + "-set.zarr"), fields, seed=seed, workers=workers)


def split(data: Dataset) -> tuple[Dataset, Dataset, Dataset]:
    """Split a set into fields to learn from, to choose the weights by, and the last ones, held out for the scores.

    A set of two fields has none to choose by: the held-out one serves for both.
    """
    if len(data) < 2:
        raise InputError(f"{data.path} holds {len(data)} field; expected at least 2, one of them for the scores. "
                         f"Make more with 'hrtem-dask simulate'")
    n = max(1, round(HELD_OUT * len(data)))
    m = min(max(1, round(VALIDATION * len(data))), len(data) - n - 1)
    held_out = replace(data, indices=data.indices[-n:])
    other = replace(data, indices=data.indices[-n - m:-n]) if m else held_out
    return replace(data, indices=data.indices[:-n - m]), other, held_out


def check_numbers(minutes: float | None, iterations: int | None) -> None:
    """Refuse a time or a number of steps that is not positive."""
    if (minutes is not None and minutes <= 0) or (iterations is not None and iterations < 1):
        raise InputError(f"found minutes = {minutes}, iterations = {iterations}; expected more than zero")


def settings_of(begin: Model | None, start: Any, *, network: str, depth: int | None, width: int | None,
                classes: tuple[str, ...] = (PARTICLE,), pixel_size: float | None = None, **others: Any) -> Settings:
    """Settings of a run; the shape is that of the weights to begin with, where there are any."""
    shape = SHAPES.get(network, (1, 1))
    given = {"network": network, "depth": depth or shape[0], "width": width or shape[1]}
    others["classes"] = classes
    if begin is None:
        size = pixel_size or PIXEL_SIZES[classes == (PARTICLE,)]
        return Settings(**given, **others, pixel_size=size)
    found = begin.card["architecture"]
    has = {"network": found["kind"], "depth": found.get("depth", found.get("levels")), "width": found["width"]}
    asked = {"network": network} | {k: v for k, v in (("depth", depth), ("width", width)) if v is not None}
    if any(has[k] != v for k, v in asked.items()) or begin.card["input_channels"] != 1 \
            or tuple(begin.classes) != (BACKGROUND, *classes):
        raise InputError(f"{start} is a {found} with {begin.card['input_channels']} channel(s) and the classes "
                         f"{list(begin.classes)}; expected {asked}, 1 channel and the classes "
                         f"{[BACKGROUND, *classes]}. Leave --depth and --width out to take those of the weights")
    if np.ndim(begin.card["pixel_size"]):
        raise InputError(f"{start} takes a range of pixel sizes, {begin.card['pixel_size']}; expected weights that "
                         f"work at one")
    if pixel_size and pixel_size != begin.card["pixel_size"]:
        raise InputError(f"{start} works at {begin.card['pixel_size']:g} angstrom a pixel; found {pixel_size:g}. Leave "
                         f"--network-pixel-size out")
    return Settings(**has, **others, pixel_size=float(begin.card["pixel_size"]), start=begin.card["sha256"],
                    padding=found.get("padding", "reflect"))


def step_of(settings: Settings) -> int:
    """Multiple that the measured radius is rounded up to: the pooling of a U-Net keeps its place in every tile."""
    return 8 if settings.network == "msdnet" else 2**settings.depth


def state_of(out: Path) -> Path:
    """File of the checkpoint beside the weights."""
    return out.with_name(out.stem + ".state.npz")


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Hold torch to one thread in this process: the workers have the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write(run: Run, card: dict[str, Any], out: Path, say: Callable[[str], None],
          net: torch.nn.Module | None = None) -> None:
    """Write weights, card and figure of a run; say how to go on where it was cut."""
    save_model(run.result() if net is None else net, card, out)
    run.metrics.draw(run.beside(".metrics.png"), f"{out.stem}: {run.iteration} of {run.iterations} iterations")
    if run.finished:
        return
    say(f"cut after iteration {run.iteration} of {run.iterations} ({run.seconds / 60:.1f} min in all); the checkpoint "
        f"{run.state} is kept and the same command goes on. {out.name} holds the network as it stands")


def make_card(run: Run, data: Dataset, held_out: Dataset, out: Path) -> dict[str, Any]:
    """Card of a run, without its measured values."""
    s, recipe = run.settings, data.recipe
    return {
        "name": recipe.name,
        "classes": [BACKGROUND, *s.classes],
        "pixel_size": s.pixel_size,
        "normalisation": {"kind": "frame"},
        **of_recipe(recipe, s.columns),
        **({"contrast": DARK, "label": {"kind": "gaussian", "size": s.column_size}} if s.columns else {}),
        "training": {
            "commands": [f"hrtem-dask simulate {recipe.name} --out SET -n {len(data)} --seed {data.seed}",
                         f"hrtem-dask train SET {command_options(run, out)}"
                         + (f" --classes {','.join(s.classes)}" if s.columns else f" --outline {s.outline}")],
            "recipe": recipe.name, "recipe_sha256": recipe.digest, "set_seed": data.seed,
            "fields": len(run.source.data), "fields_validation": len(run.source.other),
            "fields_held_out": len(held_out), "real_images_used": "none",
        } | facts(run),
    }


def command_options(run: Run, out: Path) -> str:
    """Options of the command that gives the same weights."""
    s = run.settings
    return (f"--out {out.name} --network {s.network} --depth {s.depth} --width {s.width} --iterations "
            f"{run.iterations} --batch {s.batch} --size {s.size} --seed {s.seed} --learning-rate {s.learning_rate:g}"
            + (f" --network-pixel-size {s.pixel_size:g}" if s.pixel_size != PIXEL_SIZES[not s.columns] else "")
            + (" --start START" if s.start else ""))


def facts(run: Run) -> dict[str, Any]:
    """What a card says of any run."""
    s = run.settings
    return {
        "start_sha256": s.start or None, "settings": asdict(s), "iterations": run.iteration,
        "iterations_planned": run.iterations, "finished": run.finished, "weights": RULE,
        "kept_at": dict(run.metrics.best) or None, "minutes": round(run.seconds / 60, 2), "workers": run.workers,
        "device": str(run.device.device) if run.device else "cpu",
        "loss": round(float(np.mean(run.losses[-100:])), 5) if run.losses else None,
        "versions": versions(), "date": datetime.now(UTC).date().isoformat(),
    }
