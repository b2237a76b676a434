"""Training of an MSD-net on a simulated set, on the processors of one machine.

Every example is drawn, evaluated and differentiated by one thread on its own; the gradients are
added in order. The result therefore depends on the set, the seed and the number of iterations,
not on the number of threads.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..core.errors import InputError
from ..core.provenance import versions
from ..simulate.draws import draw_example
from ..simulate.recipe import Recipe
from ..simulate.sets import Dataset, dataset, open_dataset
from .fast import fast_forward
from .models import Model, load_model, save_model
from .msdnet import MSDNet
from .scoring import effective_radius, images_for_radius, normalised, scores_by_dose, summary

__all__ = ["Settings", "split", "train"]

HELD_OUT = 0.08  # part of the fields
SAVE_EVERY = 120.0  # second
REPORT_EVERY = 30.0  # second


@dataclass(frozen=True)
class Settings:
    """What defines a run.

    ``size`` [network pixel] is the side of an example, ``pixel_size`` [angstrom] that of the
    network, ``scale`` and ``offset`` the range of the changes after the z-score: the mean and
    the spread of a crop are not those of a frame, whose coverage is another.
    """

    depth: int = 32
    width: int = 1
    padding: str = "reflect"
    batch: int = 6
    size: int = 256
    pixel_size: float = 0.5
    learning_rate: float = 1e-2
    warm_up: float = 0.04
    clip: float = 1.0
    dice_weight: float = 1.0
    scale: tuple[float, float] = (0.7, 1.4)
    offset: float = 0.5
    seed: int = 1


def train(
    recipe_or_dataset: str | Path | dict | Recipe | Dataset,
    *,
    out: str | os.PathLike[str],
    minutes: float = 30.0,
    iterations: int | None = None,
    seed: int = 1,
    depth: int = 32,
    batch: int = 6,
    size: int = 256,
    learning_rate: float = 1e-2,
    threads: int | None = None,
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
        A set or its folder; with a recipe, a set of so many `fields` is simulated first, in
        ``NAME-set`` beside `out`.
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
    threads : int, optional
        By default one for each processor.
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
    learn, held_out = split(data)
    settings = Settings(depth=depth, batch=batch, size=size, learning_rate=learning_rate, seed=seed)
    threads = threads or os.cpu_count() or 1
    out.parent.mkdir(parents=True, exist_ok=True)
    run = Run(settings, learn, out.with_name(out.stem + ".state.npz"))
    say(f"{len(learn)} fields to learn from, {len(held_out)} held out, {threads} threads")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run.learn(minutes * 60, iterations, threads, say)
        card = make_card(run, data, held_out, threads)
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
    if isinstance(source, str | Path) and (Path(source) / "set.json").is_file():
        return open_dataset(source)
    if isinstance(source, str | Path) and Path(source).is_dir():
        return open_dataset(source)  # raises, and says how to make one
    return dataset(source, out.with_name(out.stem + "-set"), fields, seed=seed, workers=None)


def split(data: Dataset) -> tuple[Dataset, Dataset]:
    """Split a set into fields to learn from and the last ones, held out for the scores."""
    n = max(1, round(HELD_OUT * len(data)))
    if len(data) < 2:
        raise InputError(f"{data.path} holds {len(data)} field; expected at least 2, one of them for the scores. "
                         f"Make more with 'hrtem-dask simulate'")
    return replace(data, indices=data.indices[:-n]), replace(data, indices=data.indices[-n:])


class Run:
    """One training run: the network, its optimiser, and where it stands."""

    def __init__(self, settings: Settings, data: Dataset, state: Path) -> None:
        self.settings, self.data, self.state = settings, data, state
        torch.manual_seed(settings.seed)
        self.net = MSDNet(1, 2, settings.depth, width=settings.width, padding=settings.padding)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=settings.learning_rate)
        self.iteration, self.seconds, self.losses = 0, 0.0, []
        self.signature = json.dumps({"settings": asdict(settings), "recipe": data.recipe.digest, "seed": data.seed,
                                     "fields": list(data.indices)})
        if state.is_file():
            self.restore()

    def learn(self, seconds: float, iterations: int | None, threads: int, say: Callable[[str], None]) -> None:
        """Take steps until the time or the number of iterations is reached."""
        done, start = self.seconds, time.monotonic()
        shown = saved = start
        with ThreadPoolExecutor(threads) as pool:
            while True:
                self.seconds = done + time.monotonic() - start
                part = self.iteration / iterations if iterations else self.seconds / seconds
                if part >= 1:
                    break
                self.step(pool, part)
                now = time.monotonic()
                if now - shown > REPORT_EVERY:
                    shown = now
                    say(f"{part:6.1%}  {self.seconds / 60:5.1f} min  iteration {self.iteration}  "
                        f"loss {np.mean(self.losses[-100:]):.4f}")
                if now - saved > SAVE_EVERY:
                    saved = now
                    self.save()
        self.save()

    def step(self, pool: ThreadPoolExecutor, part: float) -> None:
        """One step of Adam on one batch; `part` is how much of the run is over."""
        s = self.settings
        results = list(pool.map(partial(self.example, self.iteration), range(s.batch)))
        for i, p in enumerate(self.net.parameters()):
            p.grad = sum((g[i] for _, g in results), torch.zeros_like(p)) / s.batch
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), s.clip, error_if_nonfinite=True)
        rate = min(1.0, (part + 1e-4) / s.warm_up) * 0.5 * (1 + np.cos(np.pi * part)) if s.warm_up else 1.0
        for group in self.optimiser.param_groups:
            group["lr"] = s.learning_rate * rate
        self.optimiser.step()
        self.losses.append(float(np.mean([loss for loss, _ in results])))
        self.iteration += 1

    def example(self, iteration: int, k: int) -> tuple[float, tuple[torch.Tensor, ...]]:
        """Loss and gradient of example k of an iteration."""
        s = self.settings
        rng = np.random.default_rng([s.seed, 1, iteration, k])
        image, truth = draw_example(self.data[int(rng.integers(len(self.data)))], self.data.recipe, rng,
                                    size=s.size, pixel_size=s.pixel_size)
        scale = np.exp(rng.uniform(*np.log(s.scale)))
        x = torch.from_numpy((normalised(image) * scale + rng.uniform(-s.offset, s.offset)).astype(np.float32))
        y = torch.from_numpy(truth.astype(np.int64))
        with torch.enable_grad():
            loss = loss_of(fast_forward(self.net, x[None, None]), y[None], s.dice_weight)
            return loss.item(), torch.autograd.grad(loss, list(self.net.parameters()))

    def save(self) -> None:
        """Write the checkpoint; plain arrays, nothing pickled."""
        arrays = {"signature": np.array(self.signature), "iteration": np.array(self.iteration),
                  "seconds": np.array(self.seconds), "losses": np.array(self.losses, dtype=np.float32)}
        for i, p in enumerate(self.net.parameters()):
            found = self.optimiser.state.get(p)
            arrays[f"p{i}"] = p.detach().numpy()
            if found:
                arrays |= {f"m{i}": found["exp_avg"].numpy(), f"v{i}": found["exp_avg_sq"].numpy()}
        part = self.state.with_name(self.state.name + ".part")
        with part.open("wb") as file:
            np.savez(file, **arrays)
        part.replace(self.state)

    def restore(self) -> None:
        """Continue from the checkpoint."""
        try:
            with np.load(self.state, allow_pickle=False) as z:
                arrays = dict(z)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"the checkpoint {self.state} cannot be read ({error}); "
                             f"delete it to begin anew") from error
        if str(arrays["signature"]) != self.signature:
            raise InputError(f"the checkpoint {self.state} belongs to another set or other settings; give another "
                             f"--out, or delete it to begin anew")
        self.iteration, self.seconds = int(arrays["iteration"]), float(arrays["seconds"])
        self.losses = arrays["losses"].tolist()
        for i, p in enumerate(self.net.parameters()):
            p.data.copy_(torch.from_numpy(arrays[f"p{i}"]))
            if f"m{i}" in arrays:
                self.optimiser.state[p] = {"step": torch.tensor(float(self.iteration)),
                                           "exp_avg": torch.from_numpy(arrays[f"m{i}"]),
                                           "exp_avg_sq": torch.from_numpy(arrays[f"v{i}"])}


def loss_of(logits: torch.Tensor, truth: torch.Tensor, dice_weight: float, *, smooth: float = 50.0) -> torch.Tensor:
    """Cross-entropy plus soft Dice; `smooth` [pixel] keeps a frame without particles finite."""
    p = torch.softmax(logits, 1)[:, -1]
    t = truth.to(p.dtype)
    soft = 1 - (2 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth)
    return F.cross_entropy(logits, truth) + dice_weight * soft


def make_card(run: Run, data: Dataset, held_out: Dataset, threads: int) -> dict[str, Any]:
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
                f"--size {s.size} --seed {s.seed}",
            ],
            "recipe": recipe.name, "recipe_sha256": recipe.digest, "set_seed": data.seed,
            "fields": len(run.data), "fields_held_out": len(held_out), "settings": asdict(s),
            "iterations": run.iteration, "minutes": round(run.seconds / 60, 2), "threads": threads,
            "loss": round(float(np.mean(run.losses[-100:])), 5) if run.losses else None,
            "versions": versions(), "date": datetime.now(UTC).date().isoformat(),
            "real_images_used": "none",
        },
    }
