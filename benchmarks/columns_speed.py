"""Time that columns take after segmentation, against one fit a column and against trackpy.

    python -m benchmarks.columns_speed [--side 512] [--repeats 5] [--quick]

One frame of gold along [110] in 0.1 angstrom pixels under the noise of a camera, with a perfect probability,
on one thread each, in turn. The loop gets the places of the maxima for nothing and fits scipy's `curve_fit` of
the same seven parameters to each column's window, without the neighbours; trackpy, where it is installed,
locates spots in the image by centroids, which is no fit and gives no error of the places. The root mean square
error of each stands beside its time. The last line is `find_columns` itself on a local cluster of one process a thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from .common import Pairs, Spread, Table, head, machine, paired, timed, versions

PIXEL_SIZE, DOSE, HALF = 0.1, 5000.0, 15
CUT = 0.5  # angstrom: a found place farther from every true one is none


@dataclass(frozen=True)
class Row:
    """One way."""

    way: str
    time: float = field(metadata=head("ms a frame"))
    ratio: str = field(metadata=head("find_columns is faster by: min / median / max"))
    found: int = field(metadata=head("columns within 0.5 angstrom"))
    error: float = field(metadata=head("rms error [angstrom]"))


@dataclass(frozen=True)
class Scene:
    """An image (y, x), the probability (1, y, x), and the true places (n, 2) [angstrom]."""

    image: np.ndarray
    planes: np.ndarray
    places: np.ndarray

    def score(self, found: np.ndarray) -> tuple[int, float]:
        """How many of the found places (n, 2) are near a true one, and their root mean square error along an axis."""
        off = found[:, None] - self.places
        off = off[np.arange(len(found)), np.hypot(off[..., 0], off[..., 1]).argmin(axis=1)]
        off = off[np.hypot(*off.T) < CUT]
        return len(off), float(np.sqrt(np.mean(off**2)))


def draw_scene(side: int, seed: int = 0) -> Scene:
    """Some 300 columns in a frame of 512 pixels."""
    import pandas as pd

    from hrtem_dask.detector.mtf import MTF
    from hrtem_dask.kernels.camera import expose, radial_frequency
    from hrtem_dask.simulate.columns import column_image

    rng = np.random.default_rng(seed)
    extent = side * PIXEL_SIZE
    n = int(extent)
    grid = np.stack(np.meshgrid(np.arange(-n, n), np.arange(-n, n)), -1).reshape(-1, 2)
    places = grid @ np.array([[1.4425, 2.04], [1.4425, -2.04]]) + extent / 2
    places = places[np.hypot(*(places - extent / 2).T) < 0.46 * extent]
    places = places + rng.normal(0, 0.05, places.shape)
    at = np.arange(side) * PIXEL_SIZE
    y, x = (np.exp(-0.5 * ((at - places[:, k:k + 1]) / 0.45) ** 2) for k in (0, 1))
    expected = (1 + (y * rng.uniform(0.3, 0.7, len(places))[:, None]).T @ x) * DOSE * PIXEL_SIZE**2
    image = expose(expected, MTF(scale=0.6, power=2.5)(radial_frequency(expected.shape)), rng)
    table = pd.DataFrame({"y": places[:, 0], "x": places[:, 1], "class": "column"})
    return Scene(image, column_image(table, image.shape, PIXEL_SIZE)[1:], places)


def ours(scene: Scene) -> np.ndarray:
    """Places that the kernel of `find_columns` finds, as the table shows them."""
    from hrtem_dask.kernels.columns import Finder, measure_columns

    rows = measure_columns(scene.planes, scene.image[None], Finder((PIXEL_SIZE, PIXEL_SIZE), 0.4, 1.25))
    return np.stack([rows["y"], rows["x"]], axis=1)


def loop(scene: Scene) -> np.ndarray:
    """One `curve_fit` a column, from the highest pixel of its hill."""
    from scipy.optimize import curve_fit

    def model(at: np.ndarray, *p: float) -> np.ndarray:
        y, x = at
        return p[2] * np.exp(-0.5 * ((y - p[0]) ** 2 + (x - p[1]) ** 2) / p[3] ** 2) + p[4] + p[5] * y + p[6] * x

    out = []
    for i, j in np.rint(scene.places / PIXEL_SIZE).astype(int):
        if not (HALF <= i < scene.image.shape[0] - HALF and HALF <= j < scene.image.shape[1] - HALF):
            continue
        part = scene.image[i - HALF:i + HALF + 1, j - HALF:j + HALF + 1]
        at = np.mgrid[-HALF:HALF + 1, -HALF:HALF + 1].reshape(2, -1) * PIXEL_SIZE
        weight = np.exp(0.25 * (at**2).sum(axis=0) / 0.8**2)  # as the weights of our windows
        try:
            found = curve_fit(model, at, part.ravel(), p0=[0, 0, np.ptp(part) / 2, 0.45, part.mean(), 0, 0],
                              sigma=weight)[0]
        except RuntimeError:  # it did not settle
            continue
        out.append(found[:2] + np.array([i, j]) * PIXEL_SIZE)
    return np.array(out)


def trackpy_places(scene: Scene) -> np.ndarray:
    """Bright spots by trackpy, of a diameter of 1.5 angstrom."""
    import trackpy

    trackpy.quiet()
    found = trackpy.locate(scene.image, 15, separation=13)
    return found[["y", "x"]].to_numpy() * PIXEL_SIZE


def movie_time(scene: Scene, frames: int, threads: int, repeats: int) -> Spread:
    """Milliseconds a frame of `find_columns` on a movie that the workers have, one process a thread."""
    import dask.array as da
    import xarray as xr
    from distributed import Client, LocalCluster

    from hrtem_dask import find_columns
    from hrtem_dask.core.calibration import make_movie

    def repeated(array: np.ndarray) -> da.Array:
        return da.broadcast_to(da.from_array(array), (frames, *array.shape), chunks=((8,) * (frames // 8), *(
            (n,) for n in array.shape)))

    def run(first: int) -> None:
        movie = make_movie(repeated(scene.image), pixel_size=PIXEL_SIZE, frame=range(first, first + frames))
        planes = xr.DataArray(repeated(scene.planes), dims=("frame", "class", "y", "x"),
                              coords={"class": ["column"], **{d: movie[d] for d in ("frame", "y", "x")}})
        find_columns(planes, image=movie, crystal="Au", frames_per_partition=8).compute()

    with LocalCluster(n_workers=threads, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        run(0)  # the workers import what they need
        # other numbers of frames, so that nothing is known from the time before
        return Spread.of([1e3 * timed(lambda k=k: run(k * frames)) / frames for k in range(1, repeats + 1)])


def tables(side: int = 512, repeats: int = 5, frames: int = 400, threads: int = 4) -> list[Table]:
    """Time all ways there are."""
    from threadpoolctl import threadpool_limits

    scene = draw_scene(side)
    ways: dict[str, Callable[[Scene], np.ndarray]] = {"scipy curve_fit, a column at a time": loop}
    if find_spec("trackpy"):
        ways["trackpy.locate (centroids)"] = trackpy_places
    rows, own = [], []
    with threadpool_limits(1):
        ours(scene)
        for name, way in ways.items():
            pairs: Pairs = paired(lambda: ours(scene), lambda way=way: way(scene), repeats)
            own.append(pairs.a.median)
            rows.append(Row(name, 1e3 * pairs.b.median, str(pairs.ratio), *scene.score(way(scene))))
        rows.insert(0, Row("find_columns, its kernel", 1e3 * float(np.median(own)), "1", *scene.score(ours(scene))))
    whole = movie_time(scene, frames, threads, max(1, repeats // 2))
    return [Table(f"Columns of a frame of {side} x {side} pixels with {len(scene.places)} of them", rows, [
        f"find_columns on {threads} processes of a local cluster, {frames} frames: {whole} ms a frame (min / median / "
        f"max), so {whole.median * 5:.0f} s for 5,000 frames; where frames come from is not part of it.",
        "The errors of the loop and of trackpy are those of the columns that they found."])]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="a small frame, to see that all works")
    o: Any = parser.parse_args(arguments)
    side, repeats, frames = (160, 1, 16) if o.quick else (o.side, o.repeats, o.frames)
    print("\n".join([*(f"- {line}" for line in (*machine(), versions())), "",
                     *(t.markdown() for t in tables(side, repeats, frames, o.threads))]))


if __name__ == "__main__":
    main()
