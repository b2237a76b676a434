"""Training of an MSD-net on a simulated set, on the processors of one machine.

Every example is drawn and differentiated by one worker on its own; the gradients are added in
order. The result therefore depends on the set, the seed and the number of iterations, not on
the number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
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
from .models import Model, load_model, save_model
from .scoring import effective_radius, images_for_radius, scores_by_dose, summary
from .steps import Run, Settings

__all__ = ["Settings", "split", "train"]

HELD_OUT = 0.08  # part of the fields


def train(
    recipe_or_dataset: str | Path | dict | Recipe | Dataset,
    *,
    out: str | os.PathLike[str],
    minutes: float = 30.0,
    iterations: int | None = None,
    seed: int = 1,
    depth: int = 32,
    batch: int = 3,
    size: int = 256,
    learning_rate: float = 1e-2,
    outline: str = "half-thickness",
    start: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    fields: int = 480,
    scores: bool = True,
    report: Callable[[str], None] | None = None,
) -> Model:
    """Train a particle network and write it with its card.

    Computes at once, for `minutes`. A run that was stopped continues from its last checkpoint,
    the file ``NAME.state.npz`` beside `out`.

    Parameters
    ----------
    recipe_or_dataset : str, Path, dict, Recipe or Dataset
        A set or its store; with a recipe, a set of so many `fields` is simulated first, in
        ``NAME-set.zarr`` beside `out`.
    out : path
        File NAME.safetensors to write; the card NAME.json comes beside it.
    minutes : float
        Time to train; the learning rate falls to zero at its end.
    iterations : int, optional
        Number of steps instead of a time: the same weights on every run.
    seed : int
        Seed of initialisation and examples.
    depth, batch, size : int
        Layers; examples a step; side of an example [network pixel].
    learning_rate : float
        Highest learning rate of Adam.
    outline : {"half-thickness", "atoms"}
        What "particle" means to the network: the half-contrast line that an image shows, or the
        union of all projected atoms, some angstrom farther out. The stored truth is the latter.
    start : path, optional
        Weights to begin with, of the same depth, instead of random ones.
    workers : int, optional
        Use so many processes, which is faster; a script that asks for them needs the usual
        ``if __name__ == "__main__":``. By default threads, one for each processor.
    fields : int
        Size of the set that a recipe is turned into.
    scores : bool
        Whether to measure the held-out fields by dose afterwards, for the card.
    report : callable, optional
        Called with a line of text now and then.

    Returns
    -------
    Model
        What `load_model` gives for the file.

    Raises
    ------
    InputError
        If the set is too small, or the checkpoint belongs to other settings.
    """
    out, say = Path(out), report or (lambda _line: None)
    out = out if out.suffix == ".safetensors" else out.with_name(out.name + ".safetensors")
    if minutes <= 0 or (iterations is not None and iterations < 1):
        raise InputError(f"found minutes = {minutes}, iterations = {iterations}; expected more than zero")
    data = find_set(recipe_or_dataset, out, fields, seed)
    if data.recipe.imaging.series > 1:
        raise InputError(f"recipe {data.recipe.name!r} draws focal series of {data.recipe.imaging.series} images; this "
                         "training learns particles from single images. Give a recipe with imaging.series: 1, or "
                         "write your own loop around hrtem_dask.networks.examples.Examples")
    learn, held_out = split(replace(data, outline=outline))
    begin = load_model(start) if start else None
    settings = Settings(depth=depth, batch=batch, size=size, learning_rate=learning_rate, seed=seed, outline=outline,
                        start=begin.card["sha256"] if begin else "")
    if begin and (begin.weights.depth, begin.weights.in_channels, begin.weights.out_channels) != (depth, 1, 2):
        raise InputError(f"{start} has depth {begin.weights.depth}, {begin.weights.in_channels} channels and "
                         f"{begin.weights.out_channels} classes; expected depth {depth}, 1 and 2")
    out.parent.mkdir(parents=True, exist_ok=True)
    run = Run(settings, learn, out.with_name(out.stem + ".state.npz"), begin.module() if begin else None)
    say(f"{len(learn)} fields to learn from, {len(held_out)} held out")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run.learn(minutes * 60, iterations, workers, say)
        card = make_card(run, data, held_out)
        if begin:
            card["training"]["start"] = begin.card.get("training")
        say("measuring how far the network looks")
        card["effective_radius"] = effective_radius(run.net, images_for_radius(held_out, seed))
        save_model(run.net, card, out)
        if scores:
            say("scoring the held-out fields")
            card["scores"] = {"held_out_simulated": scores_by_dose(run.net, held_out, seed=seed)}
            say(summary(card["scores"]["held_out_simulated"]))
            save_model(run.net, card, out)
    finally:
        torch.set_num_threads(before)
    run.state.unlink(missing_ok=True)
    return load_model(out)


def find_set(source: Any, out: Path, fields: int, seed: int) -> Dataset:
    """Open the set, or simulate one from a recipe."""
    if isinstance(source, Dataset):
        return source
    if isinstance(source, str | Path) and Path(source).is_dir():
        return open_dataset(source)  # where it is none, this says how to make one
    return dataset(source, out.with_name(out.stem + "-set.zarr"), fields, seed=seed, workers=None)


def split(data: Dataset) -> tuple[Dataset, Dataset]:
    """Split a set into fields to learn from and the last ones, held out for the scores."""
    n = max(1, round(HELD_OUT * len(data)))
    if len(data) < 2:
        raise InputError(f"{data.path} holds {len(data)} field; expected at least 2, one of them for the scores. "
                         f"Make more with 'hrtem-dask simulate'")
    return replace(data, indices=data.indices[:-n]), replace(data, indices=data.indices[-n:])


def make_card(run: Run, data: Dataset, held_out: Dataset) -> dict[str, Any]:
    """Card of a finished run, without its measured values."""
    s, recipe = run.settings, data.recipe
    out = f"{run.state.name.removesuffix('.state.npz')}.safetensors"
    return {
        "name": recipe.name,
        "classes": ["background", "particle"],
        "pixel_size": s.pixel_size,
        "pixel_size_range": [recipe.imaging.pixel_size.low, recipe.imaging.pixel_size.high],
        "dose_range": [recipe.imaging.dose.low, recipe.imaging.dose.high],
        "normalisation": {"kind": "frame"},
        "training": {
            "commands": [
                f"hrtem-dask simulate {recipe.name} --out SET -n {len(data)} --seed {data.seed}",
                f"hrtem-dask train SET --out {out} --iterations {run.iteration} --depth {s.depth} --batch {s.batch} "
                f"--size {s.size} --seed {s.seed} --outline {s.outline} --learning-rate {s.learning_rate:g}"
                + (" --start START" if s.start else ""),
            ],
            "start_sha256": s.start or None,
            "recipe": recipe.name, "recipe_sha256": recipe.digest, "set_seed": data.seed,
            "fields": len(run.data), "fields_held_out": len(held_out), "settings": asdict(s),
            "iterations": run.iteration, "minutes": round(run.seconds / 60, 2), "workers": run.workers,
            "loss": round(float(np.mean(run.losses[-100:])), 5) if run.losses else None,
            "versions": versions(), "date": datetime.now(UTC).date().isoformat(),
            "real_images_used": "none",
        },
    }
