"""What it costs to build the graph of `segment` for a long movie; nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass, field

import dask
import dask.array as da
import numpy as np

from hrtem_dask.analysis.segment import segment
from hrtem_dask.core.calibration import make_movie

from .common import Options, Spread, Table, head, model_of, timed

__all__ = ["Row", "tables"]

#: side of the chunks of the movie [pixel]
CHUNKS = (4096, 2048, 1024)
MOST_REPEATS = 3


@dataclass(frozen=True)
class Row:
    """One chunking of the movie."""

    chunk: str = field(metadata=head("chunks of the movie"))
    tiles: int = field(metadata=head("tiles a frame"))
    build: Spread = field(metadata=head("`segment(...)`, ms a frame: min / median / max"))
    ready: Spread = field(metadata=head("and optimised, ms a frame: min / median / max"))
    tasks: float = field(metadata=head("tasks a frame"))


def tables(options: Options) -> list[Table]:
    """Measure every chunking."""
    frames, side = options.size((2000, 4096), (20, 4096))
    model = model_of(50)
    rows = []
    for chunk in CHUNKS:
        pixels = da.zeros((frames, side, side), np.uint16, chunks=(1, chunk, chunk))
        movie = make_movie(pixels, pixel_size=0.5)
        builds, readies, tasks, tiles = [], [], 0, 0
        for _ in range(min(MOST_REPEATS, options.repeats)):
            made = []
            builds.append(1e3 * timed(lambda m=movie, out=made: out.append(segment(m, model).data)) / frames)
            tiles = made[0].numblocks[2] * made[0].numblocks[3]
            ready: list = []
            readies.append(builds[-1] + 1e3 / frames * timed(
                lambda a=made[0], out=ready: out.append(dict(dask.optimize(a)[0].__dask_graph__()))))
            tasks = len(ready[0])
        rows.append(Row(f"1 x {chunk} x {chunk}", tiles, Spread.of(builds), Spread.of(readies), tasks / frames))
    return [Table("Building the graph of `segment`", rows, [
        f"{frames} frames of {side} x {side} uint16, depth 50, halo and tile as by default, in one process.",
        "optimised: what dask does besides before the first task can run; tasks are counted after it.",
    ])]
