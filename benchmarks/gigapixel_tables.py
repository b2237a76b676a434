"""The rows of `benchmarks.gigapixel` as tables of the common file."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from . import gigapixel
from .common import Options, Table, head

__all__ = ["Row", "tables"]

SIDES = (8192, 16384, 32768)
#: disk that a frame needs while it goes through all stages [byte a pixel]
DISK = 15


@dataclass(frozen=True)
class Row:
    """One stage on one frame; peak memory is that of the worker that took most."""

    side: int = field(metadata=head("side"))
    layout: str = field(metadata=head("chunks"))
    stage: str = field(metadata=head("stage"))
    base: int = field(metadata=head("a worker before, MB"))
    peak: int = field(metadata=head("peak a worker, MB"))
    seconds: float = field(metadata=head("s"))
    rate: float = field(metadata=head("Mpx/s"))
    particles: int | None = field(metadata=head("particles"))


def tables(options: Options) -> list[Table]:
    """Measure every side that fits on the disk, in both layouts of chunks."""
    model, workers = options.size("au-particles", "tiny"), options.size(options.threads, 1)
    stages = options.size(gigapixel.STAGES[:3], ("segment", "labels"))
    rows, notes = [], [
        f"{workers} worker(s) of one thread each, fresh for every stage, network {model}, frames of uint16. 'squares' "
        "and 'rows' are the chunks of the movie on disk. 'a worker before': after the imports.",
    ]
    free = shutil.disk_usage(tempfile.gettempdir()).free
    for side in options.size(SIDES, (1024,)):
        if DISK * side ** 2 > free:
            notes.append(f"{side} x {side} is left out: it needs {DISK * side ** 2 / 1e9:.0f} GB in "
                         f"{tempfile.gettempdir()}, which has {free / 1e9:.0f} GB left")
            continue
        for layout in gigapixel.LAYOUTS:
            for row in gigapixel.measure(side, layout, model, workers=workers, folder=Path(tempfile.gettempdir()),
                                         stages=stages):
                rows.append(Row(side, layout, row["stage"], round(row["base"]), round(row["peak"]), row["seconds"],
                                side ** 2 / 1e6 / row["seconds"], row.get("particles")))
                print(rows[-1], flush=True)
    return [Table("Memory of workers, frames of any size", rows, notes)]
