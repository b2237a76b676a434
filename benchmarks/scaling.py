"""`segment` from Zarr to Zarr on a local cluster of 1, 2, 4 ... workers, against the bare kernel on the same cores."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hrtem_dask import open_movie
from hrtem_dask.analysis.segment import segment
from hrtem_dask.cluster import connect
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.io.store import write_movie
from hrtem_dask.networks import Model

from .common import Options, Spread, Table, bare_kernel, counts, draw, head, model_of, paired

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Row", "tables"]

DEPTH = 50
#: pixel size of the movie over that of the network
SCALES = (1.0, 0.5)
#: pairs; a run on one worker takes a quarter of a minute
MOST_PAIRS = 3
#: dtype of the probabilities on disk, as a campaign writes them
STORED = "float16"


@dataclass(frozen=True)
class Row:
    """One number of workers at one pixel size."""

    scale: float = field(metadata=head("pixel size / the network's"))
    workers: int = field(metadata=head("workers"))
    rate: float = field(metadata=head("`segment`, frames/s"))
    bare: float = field(metadata=head("bare kernel, frames/s"))
    ratio: Spread = field(metadata=head("`segment` / bare: min / median / max"))
    efficiency: float = field(metadata=head("efficiency of `segment` from 1 worker"))
    bare_efficiency: float = field(metadata=head("of the bare kernel"))


def tables(options: Options) -> list[Table]:
    """Measure all numbers of workers up to the cores there are, at all pixel sizes."""
    frames, side = options.size((32, 1024), (4, 96))
    model = model_of(options.size(DEPTH, 4))
    numbers = [n for n in (1, 2, 4, 8, 16) if n <= options.threads]
    times: dict[tuple[float, int], Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        stores = {scale: _movie(Path(folder), frames, side, scale, model) for scale in SCALES}
        for n in numbers:
            with connect("local", workers=n) as client:
                client.wait_for_workers(n)
                for scale, store in stores.items():
                    times[scale, n] = _measure(client, n, store, side, scale, model, options)
    rows = []
    for scale in SCALES:
        one = times[scale, 1]
        for n in numbers:
            pairs = times[scale, n]
            # A is the bare kernel, B is segment, both in seconds a frame
            rows.append(Row(scale, n, 1 / pairs.b.median, 1 / pairs.a.median,
                            Spread(1 / pairs.ratio.high, 1 / pairs.ratio.median, 1 / pairs.ratio.low),
                            one.b.median / pairs.b.median / n, one.a.median / pairs.a.median / n))
    return [Table("`segment` on a local cluster, Zarr to Zarr", rows, [
        f"{frames} frames of {side} x {side} uint16, depth {model.weights.depth}, width 1, halo and window as by "
        f"default; workers of one process and one thread each; probabilities written as {STORED} and read back by the "
        "one writer of the package. Workers are started and warm before the clock runs; the graph is built within.",
        "bare kernel: the same processes, as many frames, each worker evaluating an image of the network's size in a "
        "loop: no reading, resampling, softmax or writing.",
        "Efficiency: rate on n workers / n / rate on one, from the medians. Cores that clock lower or share a cache "
        "when all are busy lower both; the difference is Dask's.",
    ])]


def _movie(folder: Path, frames: int, side: int, scale: float, model: Model) -> Path:
    path = folder / f"movie-{scale:g}.zarr"
    write_movie(path, make_movie(counts(frames, side), pixel_size=scale * model.card["pixel_size"]))
    return path


def _measure(client: Client, workers: int, store: Path, side: int, scale: float, model: Model,
             options: Options) -> Any:
    """Pairs of bare kernel and segment, in seconds a frame."""
    frames = open_movie(store).sizes["frame"]
    image = round(side * scale)
    share = frames // workers
    names = list(client.scheduler_info(n_workers=-1)["workers"])

    def bare(share: int = share) -> None:
        client.gather([client.submit(_loop, model.weights.depth, image, share, workers=[name], pure=False)
                       for name in names])

    def whole() -> None:
        probability = segment(open_movie(store), model, device="cpu").astype(STORED)
        write_movie(store.with_name("probability.zarr"), probability, name="probability")

    bare(1)
    whole()
    time.sleep(1)  # workers end their housekeeping
    return paired(bare, whole, min(MOST_PAIRS, options.repeats), per=(share * workers, frames), least=0)


def _loop(depth: int, side: int, n: int) -> None:
    weights = draw(depth)
    image = np.random.default_rng(0).standard_normal((1, side, side), dtype=np.float32)
    for _ in range(n):
        bare_kernel(weights, image, 1)
