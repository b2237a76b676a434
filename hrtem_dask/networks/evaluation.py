"""Evaluate a network on images by the fastest backend there is, within the threads and the memory there are."""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import InputError
from ..core.machine import as_task, available_memory, in_task, task_threads, threads_here
from ..kernels import unet
from ..kernels.msdnet import compiled, reference, torch_planes
from ..kernels.msdnet.weights import MSDWeights
from ..kernels.parts import evaluate_in_batches, evaluate_in_parts
from ..kernels.unet import UNetWeights

if TYPE_CHECKING:
    from .models import Model
    from .msdnet import MSDNet

__all__ = ["BACKENDS", "Backend", "evaluate", "evaluate_many", "one_thread", "resolve_device", "weights_of"]

log = logging.getLogger(__name__)

Edges = tuple[bool, bool, bool, bool]
ALL = (True, True, True, True)
#: part of the free memory of a GPU that a batch may take: its scratch and the logits need some too
GPU_SHARE = 0.7
#: planes smaller than this are evaluated without a look at the memory there is [byte]
SMALL = 2**26

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
    run: Callable[[MSDWeights, np.ndarray, str, Edges], np.ndarray]
    speed: int
    available: Callable[[str], bool]


def _torch(weights: MSDWeights, images: np.ndarray, device: str, edges: Edges) -> np.ndarray:
    """One image or a batch; the only place where what torch says of memory becomes a MemoryError."""
    import torch

    with one_thread() if in_task() else nullcontext():
        try:
            kernel = unet if isinstance(weights, UNetWeights) else torch_planes
            return kernel.evaluate(weights, images, device=device, edges=edges)
        except torch.OutOfMemoryError as error:
            reason = _first_line(error)
        except RuntimeError as error:
            if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
                raise
            reason = _first_line(error)
    # here the error and with it the planes that its traceback holds are gone
    if device != "cpu":
        torch.cuda.empty_cache()
    raise MemoryError(reason)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _reference(weights: MSDWeights, image: np.ndarray, device: str, edges: Edges) -> np.ndarray:
    if isinstance(weights, UNetWeights):
        raise InputError("the backend 'reference' evaluates MSD-nets; this is a U-Net, expected 'torch' or 'auto'")
    return reference.evaluate(weights, image, edges)


def _compiled(weights: MSDWeights, image: np.ndarray, device: str, edges: Edges) -> np.ndarray:
    if isinstance(weights, UNetWeights) or not compiled.suits(weights):
        return _torch(weights, image, device, edges)
    return compiled.evaluate(weights, image, threads=threads_here(), edges=edges)


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
    edges: Edges = ALL,
    halo: int | None = None,
) -> np.ndarray:
    """Map an image to logits.

    Inside a Dask task it uses the threads that the task stands for (1, or what the environment
    variable ``HRTEM_DASK_TASK_THREADS`` says), elsewhere every core that the process may use.
    An image that does not fit into memory is evaluated in parts, with a warning in the log.

    Parameters
    ----------
    net : MSDNet, Model or MSDWeights
        The network.
    image : array, shape (channel, y, x)
        The normalised input; any real dtype, byte order and memory layout, computed in float32.
    backend : str
        "compiled" (C++, see `hrtem_dask.kernels.msdnet.compiled`), "torch", "reference" (plain
        numpy, slow), or "auto" for the fastest one available.
    device : str
        "cpu", "cuda", "cuda:1" or "auto" for CUDA where there is one.
    edges : (bool, bool, bool, bool)
        Which sides (top, bottom, left, right) of the image are real edges, where the network's
        padding applies; the others are those of a tile whose halo the caller trims.
    halo : int, optional
        Pixels that each part sees beyond its cuts where memory does not suffice for the image in
        one piece; by default the receptive radius, which is exact.

    Returns
    -------
    ndarray, float32, shape (class, y, x)
        Logits.

    Raises
    ------
    InputError
        If the image has the wrong axes or channels or holds nan or infinity, or there is no such
        backend or device.
    MemoryError
        If even small parts of the image do not fit.

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
    edges = _checked_parts(edges, halo)
    return _in_parts(_backend(backend, device), weights, image, device, edges, halo)


def evaluate_many(
    net: MSDNet | Model | MSDWeights,
    images: np.ndarray | Sequence[np.ndarray],
    *,
    backend: str = "auto",
    device: str = "auto",
    edges: Edges = ALL,
    halo: int | None = None,
    batch: int | None = None,
) -> np.ndarray:
    """Map images of one size to logits, several at once on a GPU.

    Parameters
    ----------
    net, backend, device, edges, halo
        As in `evaluate`.
    images : array or sequence of arrays, shape (n, channel, y, x)
        The normalised inputs.
    batch : int, optional
        Images that torch evaluates at once; by default as many as fit into the free memory of a
        GPU, and one on the CPU, where more would only take more memory. Other backends take one.
        Where memory does not suffice the batch is halved, and in the end each image (`evaluate`).

    Returns
    -------
    ndarray, float32, shape (n, class, y, x)
        Logits.

    Raises
    ------
    InputError, MemoryError
        As in `evaluate`; and InputError if there is no image or they differ in shape.

    Notes
    -----
    The speed on a GPU has not been measured yet.

    Examples
    --------
    >>> import numpy as np
    >>> from hrtem_dask.networks import MSDNet
    >>> evaluate_many(MSDNet(1, 2, 3), np.ones((5, 1, 8, 9))).shape
    (5, 2, 8, 9)
    """
    weights = weights_of(net)
    images = [_checked(image, weights) for image in images]
    if len({image.shape for image in images}) != 1:
        raise InputError(f"found images of the shapes {sorted({image.shape for image in images})}; expected at least "
                         f"one, all of the same shape (channel, y, x)")
    if batch is not None and (isinstance(batch, bool) or int(batch) != batch or batch < 1):
        raise InputError(f"batch is {batch!r}; expected a whole number of at least 1, or None")
    device, edges = resolve_device(device), _checked_parts(edges, halo)
    chosen = _backend(backend, device)
    if chosen.name != "torch":
        batch = 1
    elif batch is None:
        batch = 1 if device == "cpu" else _batch_size(weights, images[0].shape, device)
    return evaluate_in_batches(
        lambda several: chosen.run(weights, several, device, edges), np.stack(images) if batch > 1 else images,
        int(batch), alone=lambda image: _in_parts(chosen, weights, image, device, edges, halo))


def _checked_parts(edges: Any, halo: Any) -> Edges:
    if not isinstance(edges, tuple | list) or len(edges) != 4:
        raise InputError(f"edges is {edges!r}; expected four truths (top, bottom, left, right), as (True,) * 4")
    if halo is not None and (isinstance(halo, bool) or not isinstance(halo, int | np.integer) or halo < 0):
        raise InputError(f"halo is {halo!r}; expected a number of pixels, as 64, or None for the receptive radius")
    return tuple(bool(edge) for edge in edges)


def _in_parts(backend: Backend, weights: MSDWeights, image: np.ndarray, device: str, edges: Edges,
              halo: int | None) -> np.ndarray:
    # what the compiled evaluation keeps on this thread it can use again, for planes of any size: it frees them first
    kept = compiled.kept_bytes() if backend.name == "compiled" else 0
    planes_bytes = unet.image_bytes if isinstance(weights, UNetWeights) else compiled.planes_bytes
    look = device == "cpu" and planes_bytes(weights, image.shape) > max(SMALL, kept)
    out = evaluate_in_parts(
        lambda part, sides: backend.run(weights, part, device, sides), image, edges,
        weights.receptive_radius if halo is None else halo, planes=weights.planes,
        available=(lambda: available_memory() + kept) if look else None, grid=weights.grid)
    return np.ascontiguousarray(out, dtype=np.float32)


def _batch_size(weights: MSDWeights, shape: tuple[int, ...], device: str) -> int:
    """Images whose planes fit into the free memory of a GPU."""
    import torch

    # what torch has reserved and does not use is free too
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + idle
    image_bytes = (unet if isinstance(weights, UNetWeights) else torch_planes).image_bytes
    return max(1, int(GPU_SHARE * free / image_bytes(weights, shape)))


def weights_of(net: Any) -> MSDWeights:
    """Return the plain arrays of a torch module, a model, or themselves."""
    if isinstance(net, MSDWeights | UNetWeights):
        return net
    if isinstance(getattr(net, "weights", None), MSDWeights | UNetWeights):
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
    """Turn "auto" into "cuda" or "cpu", and check what was asked for on this machine.

    Where there is no driver of a GPU, "auto" is "cpu" without loading torch, which takes seconds.
    """
    if device == "cpu" or (device == "auto" and not _gpu_driver()):
        return "cpu"
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


@cache
def _gpu_driver() -> bool:
    """Whether PyTorch could find a GPU here: it reaches one through the driver's own library, or AMD's device."""
    if "torch" in sys.modules or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


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


class _Threads:
    """How many tasks of this process hold torch to their threads, and what to go back to."""

    lock = threading.Lock()
    holders = 0
    before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Count this thread as a Dask task: `evaluate` and torch, where it is loaded, use the threads of one task.

    That is 1, or what ``HRTEM_DASK_TASK_THREADS`` says, for workers that have several cores and
    one thread. `evaluate` finds out by itself whether it runs in a Dask task; this is for pools
    without Dask, and for other work of torch. Torch's number belongs to the process, so it is
    remembered when the first task enters and set back when the last one leaves.
    """
    with as_task():
        if "torch" not in sys.modules:
            yield
            return
        import torch

        wanted = task_threads()
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
