"""The steps of a training run: gradients, the optimiser, the running average, validation, checkpoints."""

from __future__ import annotations

import json
import time
import zipfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ..core.errors import InputError
from .optimiser import TurnedAdam
from .settings import Settings
from .sources import Example, Source
from .validation import Metrics
from .workers import OnDevice, Submit, Worker, loss_of, pool_of

__all__ = ["Run", "Settings", "Worker", "loss_of"]

SAVE_EVERY = 60.0  # second
AHEAD = 2  # iterations whose examples are drawn in advance
WINDOW = 200  # iterations that a shown loss is the mean of
FORMAT = 2  # of the checkpoint


class Run:
    """One training run: the network, its optimiser and average, and where it stands.

    Parameters
    ----------
    settings : Settings
    source : Source
        Gives the examples and the validation images.
    state : Path
        The checkpoint, NAME.state.npz: it is read where it exists. NAME.metrics.csv and
        NAME.metrics.png are written beside it.
    net : torch.nn.Module, optional
        The network to begin with, instead of random weights.
    device : str, optional
        Where whole batches are differentiated; without one the workers do it, an example each.
    """

    def __init__(self, settings: Settings, source: Source, state: Path, net: torch.nn.Module | None = None,
                 device: str | None = None) -> None:
        self.settings, self.source, self.state = settings, source, state
        torch.manual_seed(settings.seed)
        self.net = net or settings.build()
        self.device = OnDevice(settings, device) if device else None
        self.optimiser = TurnedAdam(self.net.pairs())
        self.average = [p.detach().clone() for p in self.net.parameters()]
        self.best: list[torch.Tensor] | None = None
        self.metrics = Metrics(source.groups, settings.size**2)
        self.iteration, self.seconds, self.losses = 0, 0.0, []
        self.iterations: int | None = None
        self.workers: int | None = None
        self.images: list[Example] = []
        self.signature = json.dumps({"format": FORMAT, "settings": asdict(settings), "source": source.identity()})
        if state.is_file():
            self.restore()

    @property
    def finished(self) -> bool:
        """Whether all iterations were taken."""
        return self.iterations is not None and self.iteration >= self.iterations

    def learn(self, seconds: float | None = None, iterations: int | None = None, workers: int | None = None,
              say: Callable[[str], None] = lambda _line: None,
              show: Callable[[int, int, str], None] | None = None) -> None:
        """Take so many iterations, or as many as the time allows at the speed of the warm-up.

        Without a number, it is fixed once the warm-up is over, and the learning rate follows it, so
        that a run with a time and a run with the number it came to give the same weights. With a
        number, the time cuts: the run stops there with its checkpoint and is not `finished`.
        """
        if iterations and self.iterations and iterations != self.iterations:
            raise InputError(f"the checkpoint {self.state} is that of a run of {self.iterations} iterations, and the "
                             f"learning rate followed them; found iterations = {iterations}. Go on with "
                             f"{self.iterations}, or give another --out")
        cut = seconds if iterations else None
        self.iterations, self.workers = iterations or self.iterations, workers
        done, start, begun = self.seconds, time.monotonic(), self.iteration
        saved = timed = start
        with pool_of(self.settings, self.source, workers) as submit:
            self.images = [f.result() for f in [submit("validation", k) for k in range(self.source.judged)]]
            drawn: deque[list[Future]] = deque()
            if show and self.iterations:
                show(self.iteration, self.iterations, "")
            while not self.finished:
                self.draw(submit, drawn, 1, self.iteration)
                examples = [f.result() for f in drawn.popleft()]
                if self.iteration == self.settings.warm_up // 2:
                    timed = time.monotonic()
                self.step(submit, examples, drawn)
                now = time.monotonic()
                self.seconds = done + now - start
                if self.iterations is None and self.iteration >= self.settings.warm_up:
                    each = (now - timed) / max(self.settings.warm_up - self.settings.warm_up // 2, 1)
                    self.iterations = self.iteration + max(1, int(((seconds or 0) - self.seconds) / each))
                    say(f"{each:.2f} s an iteration: {self.iterations} iterations")
                    if show:
                        show(begun, self.iterations, "")  # where this run began, before where it stands
                self.validate(submit)
                if show and self.iterations:
                    show(self.iteration, self.iterations, self.said())
                if now - saved > SAVE_EVERY:
                    saved = now
                    self.save()
                if cut is not None and now - start >= cut:
                    break
            for futures in drawn:
                for f in futures:
                    f.cancel()
        self.save()

    def said(self) -> str:
        """Say loss and Dice in a few words."""
        return ", ".join(filter(None, [f"loss {np.mean(self.losses[-WINDOW:]):.3f}", self.metrics.said()]))

    def rate(self) -> float:
        """Learning rate of this iteration: a linear warm-up, then half a cosine down to zero."""
        s, i = self.settings, self.iteration
        if i < s.warm_up:
            return s.learning_rate * (i + 1) / s.warm_up
        return s.learning_rate * 0.5 * (1 + np.cos(np.pi * (i - s.warm_up) / max(self.iterations - s.warm_up, 1)))

    def draw(self, submit: Submit, drawn: deque[list[Future]], count: int, first: int) -> None:
        """Have so many batches drawn, that of iteration `first` first."""
        while len(drawn) < count:
            drawn.append([submit("draw", first + len(drawn), k) for k in range(self.settings.batch)])

    def step(self, submit: Submit, examples: list[Example], drawn: deque[list[Future]]) -> None:
        """One step of the optimiser on one batch, while the next ones are drawn."""
        s = self.settings
        parameters = parameters_to_vector(self.net.parameters()).detach().numpy().copy()
        # the gradients are asked for first: what is drawn meanwhile fills the workers that they leave free
        asked = [] if self.device else [submit("gradient", parameters, x, y) for x, y in examples]
        self.draw(submit, drawn, AHEAD, self.iteration + 1)
        if self.device:
            loss, gradient = self.device.gradient(parameters, examples)
        else:
            results = [f.result() for f in asked]
            loss = float(np.mean([value for value, _ in results]))
            gradient = np.sum([g for _, g in results], axis=0) / s.batch
        total, first = torch.from_numpy(gradient), 0
        for p in self.net.parameters():
            p.grad = total[first:first + p.numel()].view_as(p).clone()
            first += p.numel()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), s.clip, error_if_nonfinite=True)
        self.optimiser.step(self.rate())
        self.iteration += 1
        self.losses.append(loss)
        # a short memory at first, or the random weights of the beginning would stay in the average
        memory = min(s.average, (1 + self.iteration) / (10 + self.iteration))
        for a, p in zip(self.average, self.net.parameters(), strict=True):
            a.lerp_(p.detach(), 1 - memory)

    def validate(self, submit: Submit) -> None:
        """Judge the averaged weights where it is due: a fixed number of times in a run, and at its end."""
        n, total = self.settings.validations, self.iterations
        if total is None or not self.images or self.iteration <= min(self.settings.warm_up, total - 1):
            return
        if self.iteration < total and self.iteration * n // total == (self.iteration - 1) * n // total:
            return
        parameters = parameters_to_vector(self.average).numpy()
        judged = self.device.judge(parameters, self.images) if self.device else [
            f.result() for f in [submit("judge", parameters, x, y) for x, y in self.images]]
        if self.metrics.add(judged, iteration=self.iteration, minutes=round(self.seconds / 60, 2),
                            learning_rate=round(float(self.rate()), 8), loss=round(self.recent(), 6)):
            self.best = [a.clone() for a in self.average]
        self.metrics.write(self.beside(".metrics.csv"))

    def recent(self) -> float:
        """Mean training loss of the iterations since the last validation."""
        last = int(self.metrics.rows[-1]["iteration"]) if self.metrics.rows else 0
        return float(np.mean(self.losses[last:]))

    def beside(self, ending: str) -> Path:
        """File beside the checkpoint that has another ending."""
        return self.state.with_name(self.state.name.removesuffix(".state.npz") + ending)

    def result(self) -> torch.nn.Module:
        """Network with the weights that the rule of `hrtem_dask.networks.validation.RULE` keeps."""
        net = self.settings.build()
        vector_to_parameters(parameters_to_vector(self.best or self.average), net.parameters())
        return net

    def save(self) -> None:
        """Write the checkpoint; plain arrays, nothing pickled."""
        arrays: dict[str, Any] = {
            "signature": np.array(self.signature), "iteration": np.array(self.iteration),
            "iterations": np.array(self.iterations or 0), "seconds": np.array(self.seconds),
            "losses": np.array(self.losses), "rows": np.array(json.dumps(self.metrics.rows))}
        for kind, values in (("p", self.net.parameters()), ("average", self.average), ("best", self.best or [])):
            arrays |= {f"{kind}{i}": v.detach().numpy() for i, v in enumerate(values)}
        arrays |= {f"optimiser-{name}": a for name, a in self.optimiser.arrays().items()}
        part = self.state.with_name(self.state.name + ".part")
        with part.open("wb") as file:
            np.savez(file, **arrays)
        part.replace(self.state)

    def restore(self) -> None:
        """Go back to where the checkpoint was written."""
        try:
            with np.load(self.state, allow_pickle=False) as z:
                arrays = dict(z)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"the checkpoint {self.state} cannot be read ({error}); "
                             f"delete it to begin anew") from error
        if str(arrays.get("signature")) != self.signature:
            raise InputError(f"the checkpoint {self.state} belongs to another set or other settings; give another "
                             f"--out, or delete it to begin anew")
        self.iteration, self.seconds = int(arrays["iteration"]), float(arrays["seconds"])
        self.iterations = int(arrays["iterations"]) or None
        self.losses, self.metrics.rows = arrays["losses"].tolist(), json.loads(str(arrays["rows"]))
        for i, (p, a) in enumerate(zip(self.net.parameters(), self.average, strict=True)):
            p.data.copy_(torch.from_numpy(arrays[f"p{i}"]))
            a.copy_(torch.from_numpy(arrays[f"average{i}"]))
        if "best0" in arrays:
            self.best = [torch.tensor(arrays[f"best{i}"]) for i in range(len(self.average))]
        self.optimiser.load({name.removeprefix("optimiser-"): a for name, a in arrays.items()
                             if name.startswith("optimiser-")})
        self.metrics.write(self.beside(".metrics.csv"))
