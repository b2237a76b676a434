"""Who draws and differentiates the examples of a run: processes or threads, one example each, or a device."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils import vector_to_parameters

from ..simulate.tasks import begin_worker
from .fast import fast_forward
from .msdnet import MSDNet
from .settings import Settings
from .sources import Example, Source
from .validation import Judgement

__all__ = ["OnDevice", "Submit", "Worker", "loss_of", "pool_of"]

#: submits a method of `Worker` by its name
Submit = Callable[..., Future]


def loss_of(logits: torch.Tensor, truth: torch.Tensor, dice_weight: float, *, smooth: float = 50.0) -> torch.Tensor:
    """Cross-entropy plus soft Dice of each image, mean of the batch; the cross-entropy alone for columns.

    Parameters
    ----------
    logits : torch.Tensor, shape (batch, class, y, x)
    truth : torch.Tensor, int64, shape (batch, y, x), or float32, shape (batch, class, y, x)
        Number of the class, or the probability of each.
    dice_weight : float
    smooth : float
        [pixel], keeps an image without particles finite.
    """
    if truth.ndim == 4:
        return F.cross_entropy(logits, truth)
    p = torch.softmax(logits, 1)[:, -1]
    t = truth.to(p.dtype)
    soft = 1 - (2 * (p * t).sum((1, 2)) + smooth) / (p.sum((1, 2)) + t.sum((1, 2)) + smooth)
    return F.cross_entropy(logits, truth) + dice_weight * soft.mean()


def forward(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Logits by the fastest way that has gradients."""
    return fast_forward(net, x) if isinstance(net, MSDNet) else net(x)


def tensors(examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (batch, 1, y, x) and truths as `loss_of` takes them."""
    truth = np.stack([y for _, y in examples])
    return (torch.from_numpy(np.stack([x for x, _ in examples])[:, None]),
            torch.from_numpy(truth if truth.ndim == 4 else truth.astype(np.int64)))


def judged(loss: float, logits: torch.Tensor, truth: np.ndarray) -> Judgement:
    """Compare what a network makes of one image, logits (class, y, x), with the truth: where there is anything."""
    return Judgement.of(loss, (logits.argmax(0) > 0).numpy(), truth if truth.ndim == 2 else truth[0] < 0.5)


class Worker:
    """Draws examples and differentiates the loss; one thread an example."""

    def __init__(self, settings: Settings, source: Source) -> None:
        self.settings, self.source, self.local = settings, source, threading.local()
        self.draw = source.drawer(settings)

    def validation(self, k: int) -> Example:
        """Validation image k and its truth."""
        return self.source.validation(self.settings, k)

    def loss(self, parameters: np.ndarray, image: np.ndarray, truth: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and logits of one example, all parameters in one vector."""
        if not hasattr(self.local, "net"):
            self.local.net = self.settings.build()
        net = self.local.net
        vector_to_parameters(torch.from_numpy(parameters), net.parameters())
        x, y = tensors([(image, truth)])
        logits = forward(net, x)
        return loss_of(logits, y, self.settings.dice_weight), logits

    def gradient(self, parameters: np.ndarray, image: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and its gradient for one example."""
        with torch.enable_grad():
            loss, _ = self.loss(parameters, image, truth)
            gradient = torch.autograd.grad(loss, list(self.local.net.parameters()))
            return loss.item(), torch.cat([g.reshape(-1) for g in gradient]).numpy()

    def judge(self, parameters: np.ndarray, image: np.ndarray, truth: np.ndarray) -> Judgement:
        """What the network with these parameters makes of one image."""
        with torch.no_grad():
            loss, logits = self.loss(parameters, image, truth)
            return judged(loss.item(), logits[0], truth)


_worker: Worker | None = None


def _begin(settings: Settings, source: Source) -> None:
    global _worker
    begin_worker()
    torch.set_num_threads(1)
    _worker = Worker(settings, source)


def _call(method: str, *args: Any) -> Any:
    return getattr(_worker, method)(*args)


@contextmanager
def pool_of(settings: Settings, source: Source, workers: int | None) -> Iterator[Submit]:
    """Give a function that submits a method of `Worker` to processes, or to threads where workers is None."""
    pool: Executor
    if workers is None:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        worker = Worker(settings, source)
        try:
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                yield lambda method, *args: pool.submit(getattr(worker, method), *args)
        finally:
            torch.set_num_threads(before)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (settings, source)) as pool:
        try:
            yield lambda method, *args: pool.submit(_call, method, *args)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class OnDevice:
    """Differentiates whole batches on one device, as a GPU; the parameters and the optimiser stay on the CPU.

    Parameters
    ----------
    settings : Settings
    device : str
        What torch calls it. Sums are made in an order that does not change from run to run, as far
        as torch has one.
    """

    def __init__(self, settings: Settings, device: str) -> None:
        self.settings, self.device = settings, torch.device(device)
        self.net = settings.build().to(self.device)
        if self.device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may change the order
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False

    def _load(self, parameters: np.ndarray, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        vector_to_parameters(torch.from_numpy(parameters).to(self.device), self.net.parameters())
        images, truths = tensors(examples)
        return images.to(self.device), truths.to(self.device)

    def gradient(self, parameters: np.ndarray, examples: Sequence[Example]) -> tuple[float, np.ndarray]:
        """Mean loss of a batch and its gradient."""
        images, truths = self._load(parameters, examples)
        with torch.enable_grad():
            loss = loss_of(forward(self.net, images), truths, self.settings.dice_weight)
            gradient = torch.autograd.grad(loss, list(self.net.parameters()))
        return loss.item(), torch.cat([g.reshape(-1) for g in gradient]).cpu().numpy()

    def judge(self, parameters: np.ndarray, examples: Sequence[Example]) -> list[Judgement]:
        """What the network with these parameters makes of some images."""
        out = []
        for first in range(0, len(examples), self.settings.batch):
            some = examples[first:first + self.settings.batch]
            images, truths = self._load(parameters, some)
            with torch.no_grad():
                logits = forward(self.net, images)
                losses = [loss_of(logits[i:i + 1], truths[i:i + 1], self.settings.dice_weight).item()
                          for i in range(len(some))]
            out += [judged(loss, f, y) for loss, f, (_, y) in zip(losses, logits.cpu(), some, strict=True)]
        return out
