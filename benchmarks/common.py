"""What the benchmarks share: timing in pairs, the machine in words, tables as Markdown."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hrtem_dask.kernels.msdnet.weights import MSDWeights
    from hrtem_dask.networks import Model

__all__ = ["Options", "Pairs", "Spread", "Table", "bare_kernel", "counts", "draw", "head", "machine", "model_of",
           "paired", "timed", "torch_threads", "versions"]

#: after a run the threads of some runtimes spin for a while; the other of a pair must not pay for it [second]
PAUSE = 0.05
VERSIONS = ("hrtem-dask", "numpy", "torch", "dask", "distributed", "zarr", "onnx", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    threads: int
    repeats: int = 5
    quick: bool = False

    def size(self, usual: Any, quick: Any) -> Any:
        """The size of a problem: the usual one, or a small one to see that all works."""
        return quick if self.quick else usual


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of some values."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Spread of at least one value."""
        return cls(float(min(values)), float(np.median(values)), float(max(values)))

    def __str__(self) -> str:
        return " / ".join(three_digits(v) for v in (self.low, self.median, self.high))


@dataclass(frozen=True)
class Pairs:
    """Times of two things that were timed in turn [second], and the ratio within each pair."""

    a: Spread
    b: Spread
    ratio: Spread  #: b / a


def timed(call: Callable[[], Any], least: float = 0.0) -> float:
    """Seconds a call, repeated until that many seconds have passed in all."""
    count, started = 0, time.perf_counter()
    while True:
        call()
        count += 1
        passed = time.perf_counter() - started
        if passed >= least:
            return passed / count


def paired(a: Callable[[], Any], b: Callable[[], Any], pairs: int, *, per: tuple[float, float] = (1.0, 1.0),
           least: float = 0.3) -> Pairs:
    """Time two calls in turn, A B A B ..., as seconds for each of the ``per`` things that a call does."""
    times = []
    for _ in range(pairs):
        time.sleep(PAUSE)
        first = timed(a, least) / per[0]
        time.sleep(PAUSE)
        times.append((first, timed(b, least) / per[1]))
    return Pairs(Spread.of([t[0] for t in times]), Spread.of([t[1] for t in times]),
                 Spread.of([y / x for x, y in times]))


def head(text: str) -> dict[str, str]:
    """The heading that a field of a row has in the table, as metadata of the field."""
    return {"head": text}


@dataclass
class Table:
    """Rows of one dataclass, with what must be said about them."""

    title: str
    rows: Sequence[Any]
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The table as Markdown, its notes below."""
        lines = [f"### {self.title}", ""]
        if self.rows:
            heads = [f.metadata.get("head", f.name) for f in fields(self.rows[0])]
            lines += [_line(heads), _line(["---"] * len(heads))]
            lines += [_line([cell(getattr(row, f.name)) for f in fields(row)]) for row in self.rows]
            lines.append("")
        return "\n".join(lines + [f"- {note}" for note in self.notes] + ([""] if self.notes else []))


def cell(value: Any) -> str:
    """One value as the text of a cell; None is a dash."""
    if value is None:
        return "–"
    return three_digits(value) if isinstance(value, float) else str(value)


def three_digits(value: float) -> str:
    """Three significant digits, without an exponent where a person would not write one."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.{max(0, 2 - int(np.floor(np.log10(abs(value)))))}f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def draw(depth: int, seed: int = 0) -> MSDWeights:
    """Draw an MSD-net of width 1 with one input and two classes: a fresh one, whose last layer is 0, shows nothing."""
    from hrtem_dask.kernels.msdnet.weights import MSDWeights

    rng = np.random.default_rng(seed)
    scale = np.sqrt(2 / (9 * depth + 2))

    def normal(std: float, *shape: int) -> np.ndarray:
        return (std * rng.standard_normal(shape)).astype(np.float32)

    return MSDWeights(tuple(normal(scale, 1, 1 + i, 3, 3) for i in range(depth)),
                      tuple(normal(0.02, 1) for _ in range(depth)),
                      normal((1 + depth) ** -0.5, 2, 1 + depth), normal(0.1, 2))


def model_of(depth: int, effective_radius: int = 64) -> Model:
    """A network of this depth with drawn weights at 0.5 angstrom a pixel, as `segment` takes it."""
    from hrtem_dask.networks import Model
    from hrtem_dask.networks.cards import complete_card

    weights = draw(depth)
    card = {"classes": ["background", "particle"], "pixel_size": 0.5, "dose_range": [10, 1000],
            "effective_radius": min(effective_radius, weights.receptive_radius)}
    return Model(f"drawn-{depth}", complete_card(card, weights, "0" * 64), weights)


def bare_kernel(weights: MSDWeights, image: np.ndarray, threads: int) -> np.ndarray:
    """Logits of one normalised image by the fastest kernel there is, and nothing else."""
    from hrtem_dask.kernels.msdnet import compiled, torch_planes

    if compiled.instruction_sets():
        return compiled.evaluate(weights, image, threads=threads)
    with torch_threads(threads):
        return torch_planes.evaluate(weights, image)


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Give torch this many threads for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def counts(frames: int, side: int, seed: int = 0) -> np.ndarray:
    """Frames (frame, y, x) of uint16, as a camera gives them: noise on a slow background."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    slow = 200 * (1 + 0.2 * np.sin(7 * x) * np.cos(5 * y))
    return np.stack([(slow + 14 * rng.standard_normal((side, side), np.float32)).astype(np.uint16)
                     for _ in range(frames)])


def machine() -> list[str]:
    """The machine in lines: processor, cores, instruction sets, memory, system."""
    import psutil

    from hrtem_dask.core.machine import available_cores
    from hrtem_dask.kernels.msdnet import compiled

    cores = f"{available_cores()} of {os.cpu_count()} logical cores for this process"
    sets = ", ".join(compiled.instruction_sets()) or "none"
    return [f"{_processor()}; {cores}", f"instruction sets that the compiled evaluation has here: {sets}",
            f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory; load before the run: "
            f"{' '.join(f'{x:.1f}' for x in psutil.getloadavg())}",
            f"{platform.platform(terse=True)}, {platform.python_implementation()} {platform.python_version()}"]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = dict(tuple(p.strip() for p in line.split(":", 1)) for line in info.read_text().splitlines()
                     if ":" in line)
        if "model name" in found:
            more = [f"{k} {found[v]}" for k, v in (("family", "cpu family"), ("model", "model")) if v in found]
            return f"{found['model name']} ({', '.join(more)})"
    return platform.processor() or platform.machine()


def versions() -> str:
    """Versions of what was measured, in one line."""
    def one(name: str) -> str:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            return f"{name} not installed"

    return ", ".join(one(name) for name in VERSIONS)
