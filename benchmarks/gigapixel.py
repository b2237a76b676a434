"""Memory of the workers while frames of any size go from Zarr to Zarr, to labels and to a table.

    python -m benchmarks.gigapixel --sides 8192 16384 32768 --model au-particles --folder /big/disk

A frame of side² pixels, uint16, is made block by block (seeded; fringes in discs, shot noise)
and stored with square chunks and with chunks that are bands of rows. Then, each on fresh workers,
single-threaded processes without a memory limit, so that nothing is spilt to disk:

    segment    open_movie -> segment -> write_movie
    labels     open_store -> label_particles -> write_movie
    particles  open_movie, open_store -> analyse_particles
    chain      open_movie -> segment -> analyse_particles, nothing stored in between

Peak is the highest resident memory of any worker since its start (VmHWM), base the same after the
imports and before the first task.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PIXEL = 0.25
#: side of the squares that are drawn each from its own seed [pixel]; chunks are multiples of it
CELL = 512
LAYOUTS = {"squares": lambda side: (1, min(2048, side), min(2048, side)), "rows": lambda side: (1, CELL, side)}
STAGES = ("segment", "labels", "particles", "chain")


def cell(i: int, j: int, seed: int) -> np.ndarray:
    """One square of the frame, (CELL, CELL) uint16; discs go on in the squares beside it."""
    y, x = np.arange(i * CELL, (i + 1) * CELL)[:, None], np.arange(j * CELL, (j + 1) * CELL)[None, :]
    mean = np.full((CELL, CELL), 30.0, np.float32)
    for a in (i - 1, i, i + 1):
        for b in (j - 1, j, j + 1):
            rng = np.random.default_rng([seed, 1, a + 1, b + 1])
            cy, cx = (a + rng.random()) * CELL, (b + rng.random()) * CELL
            radius, angle = rng.uniform(30, 120), rng.uniform(0, np.pi)
            box = np.ix_(abs(y[:, 0] - cy) < radius, abs(x[0] - cx) < radius)
            near = y[box[0][:, 0]], x[:, box[1][0]]
            inside = (near[0] - cy) ** 2 + (near[1] - cx) ** 2 < radius**2
            for turn in (angle, angle + np.pi / 2):  # (200) of gold, 2.04 angstrom
                phase = 2 * np.pi * PIXEL / 2.04 * (near[0] * np.sin(turn) + near[1] * np.cos(turn))
                mean[box] += inside * (3 * np.cos(phase) - 4)
    # counts of 15 to 30 are near enough to a normal distribution, which is drawn several times faster
    noise = np.random.default_rng([seed, 2, i, j]).standard_normal(mean.shape, np.float32)
    return np.rint(np.maximum(mean + np.sqrt(np.maximum(mean, 1)) * noise, 0)).astype(np.uint16)


def _block(start: tuple[int, int], shape: tuple[int, int], seed: int) -> np.ndarray:
    i, j = start[0] // CELL, start[1] // CELL
    return np.block([[cell(i + a, j + b, seed) for b in range(shape[1] // CELL)] for a in range(shape[0] // CELL)])


def _write(path: str, start: tuple[int, int], shape: tuple[int, int], seed: int) -> int:
    import zarr

    array = zarr.open_array(path, mode="r+")
    array[0, start[0]:start[0] + shape[0], start[1]:start[1] + shape[1]] = _block(start, shape, seed)
    return 1


def make_source(path: Path, side: int, chunks: tuple[int, int, int], client: Any, seed: int = 1) -> dict[str, Any]:
    """Store the frame, a task a chunk."""
    import zarr

    if side % CELL:
        raise ValueError(f"side is {side}; expected a multiple of {CELL}")
    zarr.create_array(str(path), shape=(1, side, side), chunks=chunks, dtype="uint16", overwrite=True)
    work = [((y, x), (min(chunks[1], side - y), min(chunks[2], side - x)))
            for y in range(0, side, chunks[1]) for x in range(0, side, chunks[2])]
    client.gather(client.map(lambda at: _write(str(path), *at, seed), work, pure=False))
    return {}


def model_of(name: str) -> Any:
    """Return the shipped network, or for "tiny" five smoothing layers and a threshold, for a quick look."""
    from hrtem_dask import load_model

    if name != "tiny":
        return load_model(name)
    from hrtem_dask.kernels.msdnet.weights import MSDWeights
    from hrtem_dask.networks import Model
    from hrtem_dask.networks.cards import complete_card

    layers = [np.zeros((1, 1 + k, 3, 3), np.float32) for k in range(5)]
    for k, layer in enumerate(layers):
        layer[0, -1] = 1 / 9 if k else -1 / 9  # particles are darker
    biases = [np.full(1, 4.0 if k == 0 else 0.0, np.float32) for k in range(5)]  # what is below the mean stays
    final = np.zeros((2, 6), np.float32)
    final[1, -1] = 8.0
    weights = MSDWeights(tuple(layers), tuple(biases), final, np.array([8.0 * 4.3, 0], np.float32))
    card = {"classes": ["background", "particle"], "pixel_size": PIXEL, "dose_range": [1, 1e4], "effective_radius": 16}
    return Model("tiny", complete_card(card, weights, "0" * 64), weights)


def run_stage(stage: str, folder: Path, source: Path, model: Any) -> dict[str, Any]:
    """One stage on the current client; what it makes stays in the folder."""
    from hrtem_dask import analyse_particles, label_particles, open_movie, segment
    from hrtem_dask.io.store import open_store, write_movie

    movie = open_movie(source, pixel_size=PIXEL)
    probability, labels = folder / "probability.zarr", folder / "labels.zarr"
    if stage == "segment":
        write_movie(probability, segment(movie, model), name="probability")
        return {}
    if stage == "labels":
        write_movie(labels, label_particles(open_store(probability).probability), name="labels")
        return {}
    known = segment(movie, model) if stage == "chain" else open_store(probability).probability
    table = analyse_particles(movie, known).compute()
    return {"particles": len(table), "with_spots": int((table.n_pairs > 0).sum())}


def memory() -> dict[str, float]:
    """Highest and present resident memory of this process [MB]."""
    import psutil

    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return {"peak": peak * 1024 / 1e6, "now": psutil.Process().memory_info().rss / 1e6}


def _imports() -> dict[str, float]:
    for module in ("zarr", "hrtem_dask.analysis.particles", "hrtem_dask.analysis.segment", "hrtem_dask.io.store"):
        importlib.import_module(module)
    return memory()


def on_fresh_workers(work: Callable[[Any], dict[str, Any]], workers: int) -> dict[str, Any]:
    """Call ``work(client)`` on a cluster of its own and say what its workers held."""
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, memory_limit=0,
                      dashboard_address="127.0.0.1:0") as cluster, Client(cluster) as client:
        base = client.run(_imports)
        started = time.perf_counter()
        out = work(client)
        seconds = time.perf_counter() - started
        after = client.run(memory)
    return out | {"seconds": seconds, "base": max(m["peak"] for m in base.values()),
                  "peak": max(m["peak"] for m in after.values()), "now": max(m["now"] for m in after.values())}


def measure(side: int, layout: str, model: str, *, workers: int, folder: Path, stages: tuple[str, ...] = STAGES,
            seed: int = 1, say: Callable[[dict[str, Any]], None] = lambda row: None) -> list[dict[str, Any]]:
    """Run the stages for one frame; a row a stage, each of which is also given to ``say`` when it is there."""
    work = Path(tempfile.mkdtemp(prefix="gigapixel-", dir=folder))
    try:
        source = work / "movie.zarr"
        chunks = LAYOUTS[layout](side)
        made = on_fresh_workers(lambda client: make_source(source, side, chunks, client, seed), workers)
        rows = [{"side": side, "layout": layout, "stage": "make"} | made]
        say(rows[-1])
        network = model_of(model)
        for stage in stages:
            result = on_fresh_workers(lambda _, stage=stage: run_stage(stage, work, source, network), workers)
            rows.append({"side": side, "layout": layout, "stage": stage} | result)
            say(rows[-1])
        return rows
    finally:
        shutil.rmtree(work, ignore_errors=True)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return a table of `measure`'s rows."""
    lines = ["| side | chunks | stage | base [MB] | peak [MB] | peak - base [MB] | s | Mpx/s | particles |",
             "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [f"| {r['side']} | {r['layout']} | {r['stage']} | {r['base']:.0f} | {r['peak']:.0f} | "
              f"{r['peak'] - r['base']:.0f} | {r['seconds']:.0f} | {r['side']**2 / 1e6 / r['seconds']:.1f} | "
              f"{r.get('particles', '')} |" for r in rows]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[8192, 16384, 32768], help="pixels")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES[:3]))
    parser.add_argument("--model", default="au-particles", help='shipped name, file, or "tiny"')
    parser.add_argument("--workers", type=int, default=4, help="processes of one thread")
    parser.add_argument("--folder", type=Path, default=None, help="where there are 15 byte a pixel of disk")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for side in options.sides:
        for layout in options.layouts:
            rows += measure(side, layout, options.model, workers=options.workers, folder=options.folder,
                            stages=tuple(options.stages),
                            say=lambda row: print(markdown([row]).splitlines()[-1], flush=True))
    print(markdown(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
