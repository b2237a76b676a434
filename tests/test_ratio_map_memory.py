"""Frames of any size: no task of the ratio map holds more than its tile and what lies around it."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from dask.callbacks import Callback

from hrtem_dask import peak_ratio_map
from hrtem_dask.analysis import particles, ratio_graph, ratio_map
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.kernels import tally

TILE, WINDOW = 128, 32
PX = 0.5


def size_of(value: object) -> int:
    """Bytes of what a task gives: an array, or whatever holds arrays."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return sum(map(size_of, vars(value).values())) if hasattr(value, "__dict__") and not callable(value) else 0


class Held(Callback):
    """The largest result of any task, and the most that all results kept at a time take [byte]."""

    def __init__(self) -> None:
        self.largest, self.most, self.sizes = 0, 0, {}

    def _posttask(self, key, result, dsk, state, worker_id):
        self.sizes[key] = size_of(result)
        self.largest = max(self.largest, self.sizes[key])
        self.most = max(self.most, sum(self.sizes.get(k, 0) for k in state["cache"]))


def field(shape: tuple[int, int], chunk: int) -> da.Array:
    """A disc in every square of 128 pixels, made chunk by chunk."""
    def block(block_info: dict) -> np.ndarray:
        (a, b), (c, d) = block_info[None]["array-location"]
        y, x = np.arange(a, b)[:, None] % 128 - 64, np.arange(c, d) % 128 - 64
        return (y**2 + x**2 < 30**2).astype(np.float32)

    chunks = tuple(tuple(min(chunk, n - i) for i in range(0, n, chunk)) for n in shape)
    return da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))


def spied(task, name: str, taken: list[tuple[str, int]]):
    """The same task, which writes down how much it is given."""
    def call(*arguments):
        taken.append((name, size_of(arguments[2:])))
        return task(*arguments)

    return call


def held(shape: tuple[int, int], by: str, monkeypatch, chunk: int = 64) -> tuple[Held, list[tuple[str, int]]]:
    """Compute the map tile by tile, keep none of it, and tell what was held and what each task took."""
    taken: list[tuple[str, int]] = []
    with monkeypatch.context() as patch:
        for name in ("_measure_task", "_map_task", "_tile_task"):
            patch.setattr(ratio_graph, name, spied(getattr(ratio_graph, name), name, taken))
        movie = make_movie(field(shape, chunk)[None].astype(np.uint16), pixel_size=PX)
        probability = movie.copy(data=field(shape, chunk)[None])
        shown = peak_ratio_map(movie, probability, window=WINDOW * PX, by=by)
        sums = shown.data.map_blocks(lambda b: b.sum(keepdims=True, axis=(1, 2)), chunks=(1, 1, 1))
        with Held() as report:
            total = sums.compute(scheduler="sync").sum()
    assert total == pytest.approx(0.02 * probability.data.sum().compute(), rel=1e-3)
    return report, taken


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of a sixteenth of their usual side, so that small frames show what large ones would."""
    monkeypatch.setattr(ratio_graph, "TILE", TILE)
    monkeypatch.setattr(tally, "TILE", TILE)
    for module in (particles, ratio_map):
        monkeypatch.setattr(module, "PARTITION_PIXELS", 0)
    # what is held between tasks does not depend on what they find
    monkeypatch.setattr(ratio_graph, "measure_windows", lambda image, particle, windows, which, pixel_size, **_:
                        np.full([len(w) for w in which], 0.02))


@pytest.mark.parametrize("by", ["window", "particle"])
def test_no_task_holds_more_than_its_tile_and_what_lies_around_it(by, monkeypatch):
    report, taken = held((512, 640), by, monkeypatch)
    plane = (1.25 * TILE + WINDOW) ** 2  # the last tile of a row may be a quarter longer
    assert len(taken) >= 20
    # of the movie uint16 and of the probability float32; the factors of windows and runs of labels are small
    most = {"_measure_task": 6 * plane, "_map_task": 4.5 * plane, "_tile_task": 8 * plane}
    for name, size in taken:
        assert size <= most[name], name
    assert report.largest <= 4 * 1.25 * TILE**2 * 1.25


def test_by_window_what_is_held_grows_with_a_side_of_the_frame_not_with_its_area(monkeypatch):
    small, large = (held((n, n), "window", monkeypatch)[0].most for n in (512, 1024))
    assert large < 2.3 * small, (small, large)  # a row of tiles waits for the next one


def test_by_particle_a_frame_waits_as_runs_of_labels(monkeypatch):
    side = 768
    most = held((side, side), "particle", monkeypatch)[0].most
    # Frame and probability take 6 byte a pixel, labels 4. In which order dask takes equal tasks depends on the hash
    # seed of the process: 0.6 byte a pixel for most seeds, 1.16 at most for 40 of them.
    assert most < 2 * side**2, most


def test_the_benchmark_maps_what_it_makes(tmp_path):
    """The same steps as ``python -m benchmarks.ratio_map``, on one small frame and in this process."""
    from benchmarks import ratio_map as bench

    class Here:
        def map(self, function, *arguments, pure):
            return [function(*a) for a in zip(*arguments, strict=True)]

        def gather(self, done):
            return done

    bench.make(tmp_path, bench.Case("one", 1, 512, (1, 512, 512)), Here())
    found = bench.run(tmp_path, "window")
    assert 0.02 <= found["brightest"] <= 1
    assert bench.markdown([{"frames": 1, "side": 512, "by": "window", "seconds": 2.0, "pixels": 512**2, "base": 1.0,
                            "peak": 2.0}]).count("\n") == 2


def test_figure_two_is_a_picture_of_three_panels():
    from hrtem_dask.report.figure2 import figure_two
    from hrtem_dask.report.pictures import Scene

    rng = np.random.default_rng(0)
    disc = np.hypot(*np.mgrid[-40:40, -60:60]) < 30
    picture = figure_two(Scene(0, 0.0, rng.poisson(9, disc.shape), disc * 0.9, disc.astype(np.int32), (PX, PX)))
    assert picture.uri.startswith("data:image/jpeg")
    assert picture.width > 3 * picture.height * 0.9
