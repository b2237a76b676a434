"""Rates that README quotes: evaluation of the shipped particle networks, and the spot search in a crop.

    python -m benchmarks.rates [--sides 1024 2048] [--repeats 5]

A network's rate is that of one image on one thread, as in a Dask task, and on all cores. The spot search
takes eight crops of 256 x 256 pixels together on one thread, each of a disc with three fringes. Medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np

NETWORKS = ("au-particles-msd", "au-particles")


def median_time(work: Callable[[], object], repeats: int) -> float:
    """Seconds on the clock, after one call that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def network_rate(name: str, side: int, repeats: int, *, as_in_a_task: bool) -> float:
    """Megapixels a second."""
    from hrtem_dask import load_model
    from hrtem_dask.networks import evaluate
    from hrtem_dask.networks.evaluation import one_thread

    model = load_model(name)
    image = np.random.default_rng(0).normal(size=(1, side, side)).astype(np.float32)
    with one_thread() if as_in_a_task else nullcontext():
        return side**2 / 1e6 / median_time(lambda: evaluate(model, image), repeats)


def crop_time(pixel_size: float, repeats: int, side: int = 256, together: int = 8) -> float:
    """Milliseconds a crop."""
    from threadpoolctl import threadpool_limits

    from hrtem_dask.kernels.crop import masked_crop
    from hrtem_dask.kernels.peaks import find_pairs_many

    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:side, :side] - side / 2) * pixel_size
    disc = np.hypot(y, x) < 0.45 * side * pixel_size
    fringes = sum(np.cos(2 * np.pi * (a * y + b * x)) for a, b in ((0.2452, 0.3468), (-0.2452, 0.3468), (0.4904, 0)))
    images = [rng.poisson(30 + 4 * disc * fringes).astype(np.float32) for _ in range(together)]
    with threadpool_limits(1):
        seconds = median_time(lambda: find_pairs_many([masked_crop(i, disc, (pixel_size, pixel_size)) for i in images]),
                              repeats)
    return 1e3 * seconds / together


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    import torch  # noqa: F401 - loaded before anything is timed, and known to the count of threads

    parser = argparse.ArgumentParser(prog="python -m benchmarks.rates", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 2048], help="of the images [pixel]")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    print("| network | side | one thread, Mpx/s | all cores, Mpx/s |\n| --- | --- | --- | --- |")
    for name in NETWORKS:
        for side in options.sides:
            alone, all_cores = (network_rate(name, side, options.repeats, as_in_a_task=one) for one in (True, False))
            print(f"| {name} | {side} | {alone:.2f} | {all_cores:.2f} |", flush=True)
    print("\n| pixel size, angstrom | ms a crop of 256 x 256 |\n| --- | --- |")
    for pixel_size in (0.3, 0.59):
        print(f"| {pixel_size} | {crop_time(pixel_size, options.repeats):.1f} |", flush=True)


if __name__ == "__main__":
    main()
