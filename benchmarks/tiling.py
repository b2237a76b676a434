"""What tiles, halos and blending windows cost: `segment` on one large frame against the bare kernel on all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np
import xarray as xr

from hrtem_dask.analysis.segment import segment
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import InputError
from hrtem_dask.core.provenance import history_of
from hrtem_dask.networks import Model
from hrtem_dask.networks.evaluation import BACKENDS, Backend

from .common import Options, Spread, Table, bare_kernel, counts, head, model_of, paired, timed

__all__ = ["Row", "tables"]

DEPTH = 50
#: keyword arguments of `segment`
CASES: tuple[dict[str, Any], ...] = (
    {}, {"tile": 1024}, {"tile": 512}, {"halo": "exact"}, {"window": "hamming"},
)
#: a frame takes seconds; more pairs than this tell little
MOST_PAIRS = 3
COUNTING = "counting"


@dataclass(frozen=True)
class Row:
    """One way to tile a frame."""

    case: str = field(metadata=head("segment(...)"))
    tile: int | None = field(metadata=head("tile"))
    halo: int | None = field(metadata=head("halo"))
    evaluations: int = field(metadata=head("evaluations"))
    pixels: float = field(metadata=head("pixels evaluated / pixels of the frame"))
    ratio: Spread = field(metadata=head("time / bare kernel: min / median / max"))
    rest: float = field(metadata=head("of it everything but the network"))
    rate: float = field(metadata=head("Mpx/s"))


def tables(options: Options) -> list[Table]:
    """Measure every case on one frame of 4096 x 4096 at the network's pixel size."""
    side = options.size(4096, 320)
    model = model_of(options.size(DEPTH, 4))
    movie = make_movie(counts(1, side), pixel_size=0.5).chunk({"frame": 1})
    frame = movie.values.astype(np.float32)
    frame = (frame - frame.mean()) / frame.std()
    timed(lambda: bare_kernel(model.weights, frame, options.threads))
    rows, notes = [], [
        f"One frame of {side} x {side} uint16 in memory, depth {model.weights.depth}, width 1, {options.threads} "
        "threads: the bare kernel has them all at one image, `segment` runs as many tiles at once. Where the "
        "evaluations are no multiple of the threads, some wait at the end of this one frame; a movie would fill that.",
        "pixels evaluated: counted by a backend that only counts; the time of `segment` with that backend, over the "
        "bare kernel's, is the column 'everything but the network' (read, resample, normalise, softmax, join).",
    ]
    for case in CASES:
        try:
            rows.append(_row(case, movie, frame, model, options))
        except InputError as error:
            notes.append(f"segment({_said(case)}) is left out: {error}")
    return [Table("Tiles, halos and windows", rows, notes)]


def _row(case: dict[str, Any], movie: xr.DataArray, frame: np.ndarray, model: Model, options: Options) -> Row:
    def run(backend: str = "auto") -> xr.DataArray:
        with dask.config.set(scheduler="threads", num_workers=options.threads):
            return segment(movie, model, device="cpu", backend=backend, **case).compute()

    def bare() -> np.ndarray:
        return bare_kernel(model.weights, frame, options.threads)

    with _counting() as seen:
        attrs = run(COUNTING).attrs
        evaluations, evaluated = len(seen), sum(seen) / frame.size
        rest = Spread.of([timed(lambda: run(COUNTING)) for _ in range(2)]).low
    pairs = paired(bare, run, min(MOST_PAIRS, options.repeats))
    step = history_of(attrs)[-1]["parameters"]
    return Row(_said(case), step.get("tile"), step.get("halo"), evaluations, evaluated, pairs.ratio,
               rest / pairs.a.median, frame.size / 1e6 / pairs.b.median)


def _said(case: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in case.items())


@contextmanager
def _counting() -> Iterator[list[int]]:
    """Offer a backend that says nothing about any pixel, and collect how many pixels it is given."""
    seen: list[int] = []

    def count(weights: Any, image: np.ndarray, device: str, edges: tuple[bool, ...]) -> np.ndarray:
        seen.append(image.size // weights.in_channels)
        return np.zeros((*image.shape[:-3], weights.out_channels, *image.shape[-2:]), np.float32)

    BACKENDS[COUNTING] = Backend(COUNTING, count, -1, lambda device: True)
    try:
        yield seen
    finally:
        del BACKENDS[COUNTING]
