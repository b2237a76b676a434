"""Time and memory of the map of figure 2, from Zarr to Zarr, on frames of any size and on long stacks.

    python -m benchmarks.ratio_map --cases frame stack large --folder /big/disk

    frame    one frame of 4096 x 4096 pixels
    stack    2000 frames of 512 x 512 pixels
    large    one frame of 32,768 x 32,768 pixels (needs 11 GB of disk)

Frames and their discs are those of `benchmarks.gigapixel` at 0.25 angstrom a pixel; the probability is that
of the discs, with soft edges, so that no network's time or errors are in the figures. Each
case goes by window and by particle, on fresh workers without a memory limit. Peak is the highest
resident memory of any worker since its start (VmHWM), base the same after the imports.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .gigapixel import CELL, PIXEL, cell, on_fresh_workers

WAYS = ("window", "particle")


@dataclass(frozen=True)
class Case:
    """A stack of square frames and its chunks."""

    name: str
    frames: int
    side: int
    chunks: tuple[int, int, int]

    @property
    def pixels(self) -> int:
        """Of all frames."""
        return self.frames * self.side**2


CASES = {c.name: c for c in (
    Case("frame", 1, 4096, (1, 1024, 1024)),
    Case("stack", 2000, 512, (16, 512, 512)),
    Case("large", 1, 32768, (1, 2048, 2048)),
    Case("small", 2, 1024, (1, 512, 512)),  # to see that all works
)}


def discs(i: int, j: int, seed: int) -> np.ndarray:
    """Probability of the discs of `gigapixel.cell`, (CELL, CELL) float32; their edge is four pixels wide."""
    y, x = np.arange(i * CELL, (i + 1) * CELL)[:, None], np.arange(j * CELL, (j + 1) * CELL)[None, :]
    out = np.zeros((CELL, CELL), np.float32)
    for a in (i - 1, i, i + 1):
        for b in (j - 1, j, j + 1):
            rng = np.random.default_rng([seed, 1, a + 1, b + 1])
            cy, cx = (a + rng.random()) * CELL, (b + rng.random()) * CELL
            depth = rng.uniform(30, 120) - np.hypot(y - cy, x - cx)
            np.maximum(out, np.clip(depth / 4 + 0.5, 0, 1), out=out)
    return out


def _write(paths: tuple[str, str], at: tuple[int, int, int], shape: tuple[int, int, int], seed: int) -> int:
    import zarr

    arrays = [zarr.open_array(path, mode="r+") for path in paths]
    for frame in range(at[0], at[0] + shape[0]):
        i, j, rows, columns = at[1] // CELL, at[2] // CELL, shape[1] // CELL, shape[2] // CELL
        for array, draw in zip(arrays, (cell, discs), strict=True):
            block = np.block([[draw(i + a, j + b, seed + frame) for b in range(columns)] for a in range(rows)])
            array[frame, at[1]:at[1] + shape[1], at[2]:at[2] + shape[2]] = block
    return 1


def make(folder: Path, case: Case, client: Any, seed: int = 1) -> dict[str, Any]:
    """Store movie and probability, a task a chunk."""
    import zarr

    paths = tuple(str(folder / name) for name in ("movie.zarr", "probability.zarr"))
    shape = (case.frames, case.side, case.side)
    for path, dtype in zip(paths, ("uint16", "float32"), strict=True):
        zarr.create_array(path, shape=shape, chunks=case.chunks, dtype=dtype, overwrite=True)
    work = list(np.ndindex(*(-(-n // c) for n, c in zip(shape, case.chunks, strict=True))))
    starts = [tuple(i * c for i, c in zip(at, case.chunks, strict=True)) for at in work]
    sizes = [tuple(min(c, n - s) for c, n, s in zip(case.chunks, shape, start, strict=True)) for start in starts]
    client.gather(client.map(lambda start, size: _write(paths, start, size, seed), starts, sizes, pure=False))
    return {}


def run(folder: Path, by: str) -> dict[str, Any]:
    """Map what is stored on the current client, to a store of its own."""
    import zarr

    from hrtem_dask import open_movie, peak_ratio_map
    from hrtem_dask.io.store import write_movie

    movie = open_movie(folder / "movie.zarr", pixel_size=PIXEL)
    probability = open_movie(folder / "probability.zarr", pixel_size=PIXEL)
    write_movie(folder / f"{by}.zarr", peak_ratio_map(movie, probability, by=by), name="peak_ratio_map")
    top = zarr.open_group(folder / f"{by}.zarr", mode="r")["peak_ratio_map"][0, :512, :512]
    return {"brightest": float(top.max())}


def measure(case: Case, *, workers: int, folder: Path | None = None, ways: tuple[str, ...] = WAYS,
            say: Callable[[dict[str, Any]], None] = lambda row: None) -> list[dict[str, Any]]:
    """Run one case; a row a way, each of which is also given to ``say`` when it is there."""
    work = Path(tempfile.mkdtemp(prefix="ratio-map-", dir=folder))
    rows = []
    try:
        on_fresh_workers(lambda client: make(work, case, client), workers)
        for by in ways:
            rows.append({"case": case.name, "by": by, "pixels": case.pixels, "frames": case.frames, "side": case.side,
                         "workers": workers} | on_fresh_workers(lambda _, by=by: run(work, by), workers))
            say(rows[-1])
            shutil.rmtree(work / f"{by}.zarr", ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return a table of `measure`'s rows."""
    lines = ["| frames | side | by | s | Mpx/s | base a worker [MB] | peak a worker [MB] |",
             "| ---: | ---: | --- | ---: | ---: | ---: | ---: |"]
    lines += [f"| {r['frames']} | {r['side']} | {r['by']} | {r['seconds']:.1f} | "
              f"{r['pixels'] / 1e6 / r['seconds']:.2f} | {r['base']:.0f} | {r['peak']:.0f} |" for r in rows]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["frame", "stack", "large"])
    parser.add_argument("--by", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--workers", type=int, default=4, help="processes of one thread")
    parser.add_argument("--folder", type=Path, default=None, help="where the stores go")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for name in options.cases:
        rows += measure(CASES[name], workers=options.workers, folder=options.folder, ways=tuple(options.by),
                        say=lambda row: print(markdown([row]).splitlines()[-1], flush=True))
    print(markdown(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
