"""Evaluate a network on one image by the fastest backend there is."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import InputError
from ..core.machine import available_cores
from ..kernels.msdnet import compiled, reference, torch_planes
from ..kernels.msdnet.weights import MSDWeights

if TYPE_CHECKING:
    from .models import Model
    from .msdnet import MSDNet

__all__ = ["BACKENDS", "Backend", "evaluate", "one_thread", "resolve_device", "weights_of"]

log = logging.getLogger(__name__)

ALL = (True, True, True, True)


@dataclass(frozen=True)
class Backend:
    """One way to evaluate an MSD-net.

    Parameters
    ----------
    name : str
        What ``evaluate(..., backend=...)`` calls it.
    run : callable
        ``run(weights, image, device, edges)`` → logits (class, y, x) of a checked image.
    speed : int
        The available backend with the highest speed is what "auto" takes.
    available : callable
        ``available(device)``: whether it can run here, without raising.
    """

    name: str
    run: Callable[[MSDWeights, np.ndarray, str, tuple[bool, bool, bool, bool]], np.ndarray]
    speed: int
    available: Callable[[str], bool]


def _torch(weights: MSDWeights, image: np.ndarray, device: str, edges: tuple[bool, bool, bool, bool]) -> np.ndarray:
    return torch_planes.evaluate(weights, image, device=device, edges=edges)


def _reference(weights: MSDWeights, image: np.ndarray, device: str, edges: tuple[bool, bool, bool, bool]
               ) -> np.ndarray:
    return reference.evaluate(weights, image)


def _compiled(weights: MSDWeights, image: np.ndarray, device: str, edges: tuple[bool, bool, bool, bool]) -> np.ndarray:
    # A side that is no edge of the frame gets the network's padding too: its halo is trimmed.
    if not compiled.suits(weights, image.shape):
        return torch_planes.evaluate(weights, image, device=device, edges=edges)
    threads = _wanted_threads() if _Threads.holders else available_cores()
    return compiled.evaluate(weights, image, threads=threads)


#: name -> backend
BACKENDS: dict[str, Backend] = {
    "compiled": Backend("compiled", _compiled, 20,
                        lambda device: device == "cpu" and bool(compiled.instruction_sets())),
    "torch": Backend("torch", _torch, 10, lambda device: True),
    "reference": Backend("reference", _reference, 0, lambda device: device == "cpu"),
}


def evaluate(
    net: MSDNet | Model | MSDWeights,
    image: np.ndarray,
    *,
    backend: str = "auto",
    device: str = "auto",
    edges: tuple[bool, bool, bool, bool] = ALL,
) -> np.ndarray:
    """Map an image to logits.

    Parameters
    ----------
    net : MSDNet, Model or MSDWeights
        The network.
    image : array, shape (channel, y, x)
        The normalised input; any real dtype, byte order and memory layout, computed in float32.
    backend : str
        "compiled" (C++, see `hrtem_dask.kernels.msdnet.compiled`; images smaller than its margins
        are left to torch), "torch", "reference" (plain numpy, slow), or "auto" for the fastest
        one available.
    device : str
        "cpu", "cuda", "cuda:1" or "auto" for CUDA where there is one.
    edges : (bool, bool, bool, bool)
        Which sides (top, bottom, left, right) of the image are real edges, where the network's
        padding applies; the others are those of a tile whose halo the caller trims.

    Returns
    -------
    ndarray, float32, shape (class, y, x)
        Logits.

    Raises
    ------
    InputError
        If the image has the wrong axes or channels or holds nan or infinity, or there is no such
        backend or device.

    Examples
    --------
    >>> import numpy as np
    >>> from hrtem_dask.networks import MSDNet, evaluate
    >>> evaluate(MSDNet(1, 2, 3), np.ones((1, 8, 9))).shape
    (2, 8, 9)
    """
    weights = weights_of(net)
    image = _checked(image, weights)
    device = resolve_device(device)
    out = _backend(backend, device).run(weights, image, device, tuple(edges))
    return np.ascontiguousarray(out, dtype=np.float32)


def weights_of(net: Any) -> MSDWeights:
    """Return the plain arrays of a torch module, a model, or themselves."""
    if isinstance(net, MSDWeights):
        return net
    if isinstance(getattr(net, "weights", None), MSDWeights):
        return net.weights
    if hasattr(net, "to_weights"):
        return net.to_weights()
    raise InputError(f"found a {type(net).__name__} as network; expected a networks.MSDNet, the result of load_model, "
                     f"or MSDWeights")


def _checked(image: Any, weights: MSDWeights) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or 0 in image.shape:
        raise InputError(f"the image has the shape {image.shape}; expected (channel, y, x) with at least one pixel, "
                         f"as image[None] for one channel")
    if image.dtype.kind not in "biuf":
        raise InputError(f"the image holds {image.dtype}; expected real numbers")
    if image.shape[0] != weights.in_channels:
        raise InputError(f"the image has {image.shape[0]} channel(s), shape {image.shape}; "
                         f"this network takes {weights.in_channels}")
    with np.errstate(over="ignore"):
        image = np.ascontiguousarray(image, dtype=np.float32)
    bad = image.size - np.count_nonzero(np.isfinite(image))
    if bad:
        raise InputError(f"{bad} of {image.size} pixels of the image are not finite in float32; expected finite "
                         f"numbers, as numpy.nan_to_num(image) gives them")
    return image


def resolve_device(device: str) -> str:
    """Turn "auto" into "cuda" or "cpu", and check what was asked for on this machine."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"there is no device {device!r} here ({reason}); expected 'auto', 'cpu', or 'cuda' where "
                         f"PyTorch finds a GPU") from error
    return device


def _backend(name: str, device: str) -> Backend:
    able = [b for b in BACKENDS.values() if b.available(device)]
    if name == "auto":
        if device == "cpu":
            _say_once(compiled.why_not())
        return max(able, key=lambda b: b.speed)
    if name not in BACKENDS:
        raise InputError(f"there is no backend {name!r}; expected 'auto' or one of {sorted(BACKENDS)}")
    if BACKENDS[name] not in able:
        raise InputError(f"the backend {name!r} cannot run on {device!r} here; able are {[b.name for b in able]}")
    return BACKENDS[name]


@cache
def _say_once(reason: str) -> None:
    if reason:
        log.warning("%s", reason)


def _wanted_threads() -> int:
    return max(1, int(os.environ.get("HRTEM_DASK_TASK_THREADS", "1")))


class _Threads:
    """How many tasks of this process hold torch to one thread, and what to go back to."""

    lock = threading.Lock()
    holders = 0
    before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch and the compiled kernel to one thread inside a Dask task, where Dask decides how much runs at once.

    The number of threads belongs to the process, so it is remembered when the first task enters
    and set back when the last one leaves. ``HRTEM_DASK_TASK_THREADS`` asks for more per task, for
    workers that have several cores and one thread.
    """
    import torch

    wanted = _wanted_threads()
    with _Threads.lock:
        if _Threads.holders == 0:
            _Threads.before = torch.get_num_threads()
        _Threads.holders += 1
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        with _Threads.lock:
            _Threads.holders -= 1
            if _Threads.holders == 0:
                torch.set_num_threads(_Threads.before)
