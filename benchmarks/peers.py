"""Other ways to evaluate an MSD-net, each run as fast as we could make it run.

A peer is given every advantage that does not change its answer: its best tile and batch, all cores
at one batch or one tile a core, and no halo to evaluate besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from hrtem_dask.kernels.msdnet.weights import MSDWeights

from .common import timed, torch_threads
from .graphs import FORMS, onnx_bytes

__all__ = ["FORMS", "PEERS", "RUNTIMES", "Peer", "Way", "absent", "best_way", "pixels", "sample"]

#: tiles (side, batch) that are tried, and the whole image after them; on one thread a batch gains nothing
TILES = ((128, 1), (128, 4), (256, 1), (512, 1))
#: a way that would take longer than this at the best rate so far is not tried [second]
TOO_LONG = 8.0
#: a side is the last one tried where its rate is below this part of the best
LOST = 0.7


@dataclass(frozen=True)
class Way:
    """How a peer is run: tiles of this side, so many in a batch; with ``apart`` one such batch a core, at once."""

    side: int
    batch: int
    apart: bool = False

    def __str__(self) -> str:
        return f"{self.side}² x {self.batch}" + (", one a core" if self.apart else "")


#: ``run(images)`` → logits of a float32 batch (n, channel, y, x), or, apart, of a list of such batches
Run = Callable[[object], object]


@dataclass(frozen=True)
class Peer:
    """One way to evaluate an MSD-net.

    ``open(weights, form, shape, threads, apart)`` is a context manager that gives `Run` for
    batches of that shape.
    """

    name: str
    needs: tuple[str, ...]
    forms: tuple[str, ...]
    open: Callable[[MSDWeights, str, tuple[int, ...], int, bool], object]


def absent(peer: Peer) -> str:
    """Say which package a peer lacks; empty where it can run."""
    lacking = [name for name in peer.needs if find_spec(name) is None]
    return f"{peer.name} is left out: {' and '.join(lacking)} not installed (pip install 'hrtem-dask[bench]')" \
        if lacking else ""


@contextmanager
def _torch(weights: MSDWeights, form: str, shape: tuple[int, ...], threads: int, apart: bool) -> Iterator[Run]:
    import torch
    from torch.nn import functional

    from hrtem_dask.networks import MSDNet

    net = MSDNet.from_weights(weights).eval()

    def joined(x: torch.Tensor) -> torch.Tensor:
        # as MSDNet.forward, with the padding left to the convolution, which saves a copy of all planes
        for i in range(net.depth):
            d = net.dilation(i)
            y = functional.conv2d(x, net.weights[i], net.biases[i], padding=d, dilation=d)
            x = torch.cat([x, functional.relu(y)], 1)
        return functional.conv2d(x, net.final_weight[:, :, None, None], net.final_bias)

    forward = net if form == "MSDNet.forward" else joined

    def one(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return forward(torch.from_numpy(images)).numpy()

    def first() -> None:
        torch.set_num_threads(1)

    with torch_threads(1 if apart else threads), _together(one, threads if apart else 0, first) as run:
        yield run


@contextmanager
def _onnxruntime(weights: MSDWeights, form: str, shape: tuple[int, ...], threads: int, apart: bool) -> Iterator[Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if apart else threads
    session = onnxruntime.InferenceSession(onnx_bytes(weights, form), options, providers=["CPUExecutionProvider"])

    def one(images: np.ndarray) -> np.ndarray:
        return session.run(None, {"image": images})[0]

    with _together(one, threads if apart else 0) as run:
        yield run


@contextmanager
def _together(one: Run, threads: int, first: Callable[[], None] | None = None) -> Iterator[Run]:
    """Run a batch as it is, or a list of batches at once, one a thread."""
    if not threads:
        yield one
        return
    with ThreadPoolExecutor(threads, initializer=first) as pool:
        yield lambda batches: list(pool.map(one, batches))


@contextmanager
def _openvino(weights: MSDWeights, form: str, shape: tuple[int, ...], threads: int, apart: bool) -> Iterator[Run]:
    import openvino

    core = openvino.Core()
    model = core.read_model(onnx_bytes(weights, form))
    model.reshape(list(shape))
    hint = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": threads} if apart else {"PERFORMANCE_HINT": "LATENCY"}
    # float32 must be asked for: a processor with bfloat16 units would be given bfloat16
    compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32",
                                                 **hint})
    if not apart:
        request = compiled.create_infer_request()
        yield lambda images: request.infer([images])[0]
        return
    requests = [compiled.create_infer_request() for _ in range(threads)]

    def run(batches: list[np.ndarray]) -> list[np.ndarray]:
        for request, images in zip(requests, batches, strict=True):
            request.start_async([images])
        for request in requests:
            request.wait()
        return [request.get_output_tensor().data for request in requests]

    yield run


#: the peers that are made for inference
RUNTIMES = ("onnxruntime", "OpenVINO float32")
PEERS = (
    Peer("PyTorch, torch.cat", ("torch",), ("MSDNet.forward", "padded by conv2d"), _torch),
    Peer(RUNTIMES[0], ("onnx", "onnxruntime"), FORMS, _onnxruntime),
    Peer(RUNTIMES[1], ("onnx", "openvino"), FORMS, _openvino),
)


def sample(way: Way, threads: int) -> object:
    """Images for one run of a way: a batch, or one batch a core."""
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((way.batch, 1, way.side, way.side), dtype=np.float32)
               for _ in range(threads if way.apart else 1)]
    return batches if way.apart else batches[0]


def pixels(way: Way, threads: int) -> int:
    """Pixels that one run of a way evaluates."""
    return way.side ** 2 * way.batch * (threads if way.apart else 1)


def best_way(peer: Peer, weights: MSDWeights, form: str, threads: int, whole: int,
             tiles: tuple[tuple[int, int], ...] = TILES) -> tuple[Way, dict[Way, float]]:
    """Return the fastest way to run a peer, and the rate of every way that was tried [pixel/s].

    Sides are tried in ascending order up to the whole image, and no further once a side is far
    slower than the best: the planes leave the caches and do not come back.
    """
    rates: dict[Way, float] = {}
    for side in sorted({side for side, _ in tiles if side < whole} | {whole}):
        batches = [b for s, b in tiles if s == side and (threads > 1 or b == 1)] or [1]
        ways = [Way(side, b) for b in batches]
        if threads > 1 and side < whole:
            ways.append(Way(side, 1, apart=True))
        ways = [w for w in ways if not rates or pixels(w, threads) / max(rates.values()) < TOO_LONG]
        for way in ways:
            rates[way] = _rate(peer, weights, form, way, threads)
        if not ways or max(rates[w] for w in ways) < LOST * max(rates.values()):
            break
    return max(rates, key=rates.__getitem__), rates


def _rate(peer: Peer, weights: MSDWeights, form: str, way: Way, threads: int) -> float:
    images, shape = sample(way, threads), (way.batch, weights.in_channels, way.side, way.side)
    with peer.open(weights, form, shape, threads, way.apart) as run:
        seconds = timed(lambda: run(images))
        if seconds < 2:  # a first run also allocates; in a long one that does not matter
            seconds = timed(lambda: run(images), 0.2)
    return pixels(way, threads) / seconds
