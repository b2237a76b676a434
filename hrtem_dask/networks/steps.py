"""The steps of a training run: workers that draw and differentiate examples, Adam, checkpoints."""

from __future__ import annotations

import json
import os
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ..core.errors import InputError
from ..simulate.sets import Dataset
from ..simulate.tasks import one_thread
from .examples import Examples
from .fast import fast_forward
from .msdnet import MSDNet

__all__ = ["Run", "Settings", "loss_of"]

SAVE_EVERY = 60.0  # second
REPORT_EVERY = 30.0  # second
AHEAD = 2  # iterations whose examples are drawn in advance


@dataclass(frozen=True)
class Settings:
    """What defines a run.

    ``size`` [network pixel] is the side of an example, ``pixel_size`` [angstrom] that of the
    network, ``scale`` and ``offset`` the range of the changes after the z-score: the mean and
    the spread of a crop are not those of a frame, whose coverage is another. ``warm_up`` is a
    number of iterations. ``outline`` is what the network learns to outline, see `Dataset`, and
    ``start`` the sha256 of the weights that it begins with, empty for random ones.
    """

    depth: int = 32
    width: int = 1
    padding: str = "reflect"
    batch: int = 3
    size: int = 256
    pixel_size: float = 0.5
    learning_rate: float = 1e-2
    warm_up: int = 60
    clip: float = 1.0
    dice_weight: float = 1.0
    scale: tuple[float, float] = (0.7, 1.4)
    offset: float = 0.5
    seed: int = 1
    outline: str = "half-thickness"
    start: str = ""

    def network(self) -> MSDNet:
        """Return a fresh network with one input channel and two classes."""
        return MSDNet(1, 2, self.depth, width=self.width, padding=self.padding)


class Worker:
    """Draws examples and differentiates the loss; one thread an example."""

    def __init__(self, settings: Settings, data: Dataset) -> None:
        s = self.settings = settings
        examples = Examples(data, length=1, size=s.size, pixel_size=s.pixel_size, seed=s.seed, scale=s.scale,
                            offset=s.offset)
        self.draw, self.local = examples.draw, threading.local()

    def gradient(self, parameters: np.ndarray, image: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and its gradient for one example, all parameters in one vector."""
        if not hasattr(self.local, "net"):
            self.local.net = self.settings.network()
        net = self.local.net
        vector_to_parameters(torch.from_numpy(parameters), net.parameters())
        with torch.enable_grad():
            logits = fast_forward(net, torch.from_numpy(image)[None, None])
            loss = loss_of(logits, torch.from_numpy(truth.astype(np.int64))[None], self.settings.dice_weight)
            gradient = torch.autograd.grad(loss, list(net.parameters()))
            return loss.item(), torch.cat([g.reshape(-1) for g in gradient]).numpy()


_worker: Worker | None = None


def _begin(settings: Settings, data: Dataset) -> None:
    global _worker
    one_thread()
    torch.set_num_threads(1)
    _worker = Worker(settings, data)


def _call(method: str, *args: Any) -> Any:
    return getattr(_worker, method)(*args)


@contextmanager
def pool_of(settings: Settings, data: Dataset, workers: int | None) -> Iterator[Callable[..., Future]]:
    """Give a function that submits draw or gradient to processes, or to threads where workers is None."""
    pool: Executor
    if workers is None:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        worker = Worker(settings, data)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            yield lambda method, *args: pool.submit(getattr(worker, method), *args)
        torch.set_num_threads(before)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (settings, data)) as pool:
        yield lambda method, *args: pool.submit(_call, method, *args)


class Run:
    """One training run: the network, its optimiser, and where it stands."""

    def __init__(self, settings: Settings, data: Dataset, state: Path, net: MSDNet | None = None) -> None:
        self.settings, self.data, self.state = settings, data, state
        torch.manual_seed(settings.seed)
        self.net = net or settings.network()
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=settings.learning_rate)
        self.iteration, self.seconds, self.losses = 0, 0.0, []
        self.iterations: int | None = None
        self.workers: int | None = None
        self.signature = json.dumps({"settings": asdict(settings), "recipe": data.recipe.digest, "seed": data.seed,
                                     "fields": list(data.indices)})
        if state.is_file():
            self.restore()

    def learn(self, seconds: float, iterations: int | None, workers: int | None, say: Callable[[str], None]) -> None:
        """Take so many iterations, or as many as the time allows at the speed of the warm-up.

        The number is fixed once the warm-up is over, and the learning rate follows it, so that a
        run with a time and a run with the number it came to give the same weights.
        """
        done, start = self.seconds, time.monotonic()
        shown = saved = timed = start
        self.iterations, self.workers = iterations or self.iterations, workers
        with pool_of(self.settings, self.data, workers) as submit:
            drawn: deque[list[Future]] = deque()
            while True:
                self.seconds = done + time.monotonic() - start
                if self.iteration == self.settings.warm_up // 2:
                    timed = time.monotonic()
                if self.iterations is None and self.iteration == self.settings.warm_up:
                    each = 2 * (time.monotonic() - timed) / self.settings.warm_up
                    self.iterations = self.iteration + max(1, int((seconds - self.seconds) / each))
                    say(f"{each:.2f} s an iteration: {self.iterations} iterations")
                if self.iterations is not None and self.iteration >= self.iterations:
                    break
                while len(drawn) <= AHEAD:
                    at = self.iteration + len(drawn)
                    drawn.append([submit("draw", at, k) for k in range(self.settings.batch)])
                self.step(submit, [f.result() for f in drawn.popleft()])
                now = time.monotonic()
                if now - shown > REPORT_EVERY:
                    shown = now
                    say(f"{self.seconds / 60:5.1f} min  iteration {self.iteration} of {self.iterations or '?'}  "
                        f"loss {np.mean(self.losses[-200:]):.4f}")
                if now - saved > SAVE_EVERY and self.iterations is not None:
                    saved = now
                    self.save()
            for futures in drawn:
                for f in futures:
                    f.cancel()
        self.save()

    def rate(self) -> float:
        """Learning rate of this iteration: a linear warm-up, then half a cosine down to zero."""
        s, i = self.settings, self.iteration
        if i < s.warm_up:
            return s.learning_rate * (i + 1) / s.warm_up
        return s.learning_rate * 0.5 * (1 + np.cos(np.pi * (i - s.warm_up) / max(self.iterations - s.warm_up, 1)))

    def step(self, submit: Callable[..., Future], examples: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """One step of Adam on one batch."""
        s = self.settings
        parameters = parameters_to_vector(self.net.parameters()).detach().numpy().copy()
        results = [f.result() for f in [submit("gradient", parameters, x, y) for x, y in examples]]
        total = torch.from_numpy(np.sum([g for _, g in results], axis=0) / s.batch)
        first = 0
        for p in self.net.parameters():
            p.grad = total[first:first + p.numel()].view_as(p).clone()
            first += p.numel()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), s.clip, error_if_nonfinite=True)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        self.optimiser.step()
        self.losses.append(float(np.mean([loss for loss, _ in results])))
        self.iteration += 1

    def save(self) -> None:
        """Write the checkpoint; plain arrays, nothing pickled."""
        arrays = {"signature": np.array(self.signature), "iteration": np.array(self.iteration),
                  "iterations": np.array(self.iterations or 0), "seconds": np.array(self.seconds),
                  "losses": np.array(self.losses, dtype=np.float32)}
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
        self.iterations = int(arrays["iterations"]) or None
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
