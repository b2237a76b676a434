"""Frames of any size, from Zarr to Zarr: what a process holds does not grow with the frame."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask._task_spec import convert_legacy_graph

from hrtem_dask import label_particles, segment
from hrtem_dask.analysis import tiling
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.io import store

ROOT = Path(__file__).parents[1]
#: squares, blocks and tiles are a quarter of their usual side, so that small frames show what large ones would
STREAM = """
import sys
from pathlib import Path
import dask
from benchmarks import gigapixel
from hrtem_dask import analyse_particles, label_particles, open_movie, segment
from hrtem_dask.analysis import labels, particles, tiling
from hrtem_dask.io import store
from hrtem_dask.kernels import tally

labels.PIECE = particles.PARTITION_PIXELS = store.FRAME_PIXELS = tiling.LARGE = 0
labels.WIDE, tally.TILE, store.SIDE = 1024, 512, 512
folder, side, rows = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "rows"


class Here:
    def map(self, function, work, pure):
        return [function(w) for w in work]

    def gather(self, done):
        return done


peaks = []


def done():
    peaks.append(gigapixel.memory()["peak"])
    Path("/proc/self/clear_refs").write_text("5")  # begin anew to look for the highest


chunks = (1, 512, side if rows else 512)
gigapixel.make_source(folder / "m.zarr", side, chunks, Here())
done()
movie = open_movie(folder / "m.zarr", pixel_size=gigapixel.PIXEL)
with dask.config.set(scheduler="synchronous"):
    store.write_movie(folder / "p.zarr", segment(movie, gigapixel.model_of("tiny"), tile=480), name="probability")
    done()
    probability = store.open_store(folder / "p.zarr").probability
    store.write_movie(folder / "l.zarr", label_particles(probability), name="labels")
    done()
    table = analyse_particles(movie, probability).compute()
    done()
found = store.open_store(folder / "l.zarr").labels.max().compute()
assert len(table) == found > 5, (len(table), found)
print(*peaks[1:])
"""


def peaks(folder: Path, side: int, layout: str) -> np.ndarray:
    """Highest memory of a process while it segments, labels and measures a frame [MB]."""
    folder.mkdir()
    # memory that is freed goes back at once, so that what is measured is what was held
    settings = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    out = subprocess.run([sys.executable, "-c", STREAM, str(folder), str(side), layout], cwd=ROOT, env=settings,
                         capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return np.array(out.stdout.split(), dtype=float)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux tells the peak memory of a stage")
@pytest.mark.parametrize("layout", ["squares", pytest.param("rows", marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_frame(tmp_path: Path, layout: str) -> None:
    small, large = (peaks(tmp_path / str(side), side, layout) for side in (1536, 4096))
    # 14 million pixels more: 29 MB of counts, 115 MB of probability, 58 MB of labels
    # and the largest frame has wider particles, whose spectra take more
    # and bands of rows are as wide as the frame: those that a row of tiles reads are held
    limits = [40, 30, 70] if layout == "squares" else [65, 30, 70]
    assert (large - small < limits).all(), (small, large)


@pytest.mark.parametrize("chunks", [(1, 300, 300), (2, 90, 640), (1, 640, 640)])
def test_a_large_frame_gives_the_bits_of_a_small_one(monkeypatch: pytest.MonkeyPatch, chunks) -> None:
    """How chunks reach the tiles of a large frame changes no bit, and no chunk is read early or kept for them."""
    from benchmarks import gigapixel

    counts = np.stack([gigapixel._block((0, 0), (1024, 1024), seed)[:500, :640] for seed in (1, 2, 3)])
    movie = make_movie(da.from_array(counts, chunks=chunks) + np.uint16(0), pixel_size=0.3)
    model = gigapixel.model_of("tiny")
    plain = segment(movie, model, tile=128, backend="torch")
    monkeypatch.setattr(tiling, "LARGE", 0)
    large = segment(movie, model, tile=128, backend="torch")
    np.testing.assert_array_equal(large.compute(scheduler="synchronous"), plain.compute(scheduler="synchronous"))
    if chunks == (1, 640, 640):  # in one chunk, which is one task's own
        return
    graph = convert_legacy_graph(dict(large.data.dask))
    chunks_read = {k for k in graph if isinstance(k, tuple) and "-after-" in k[0]}
    waiting = {}
    for key, task in graph.items():
        for needed in task.dependencies:
            if str(needed[0]).startswith("frame-statistics-") and not str(key[0]).startswith("segment-"):
                waiting.setdefault(needed, set()).add(key)
    frames = 3 if chunks[0] == 1 else 2
    in_frame = movie.data.npartitions // frames
    of_whole_frames = {k: v for k, v in waiting.items() if "region" not in k[0]}
    assert [len(v) for v in of_whole_frames.values()] == [in_frame] * frames
    users = {k[0] for k, t in graph.items() if t.dependencies & chunks_read and k not in chunks_read}
    assert users
    assert all(u.endswith("-piece") for u in users)


def test_the_synthetic_frame_has_no_seams() -> None:
    from benchmarks import gigapixel

    whole = gigapixel._block((0, 512), (1024, 1024), seed=3)
    np.testing.assert_array_equal(whole[512:, 512:], gigapixel.cell(1, 2, 3))
    smooth = whole.reshape(64, 16, 64, 16).mean(axis=(1, 3))
    jumps = abs(np.diff(smooth, axis=1)).mean(axis=0)
    assert jumps[31] < 3 * np.median(jumps) + 0.5  # across the border of two squares
    assert smooth.min() < 24 < 28 < smooth.max()


@pytest.fixture
def shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FRAME_PIXELS", 0)
    monkeypatch.setattr(store, "SIDE", 512)


@pytest.mark.parametrize("chunks", [(1, 600, 600), (1, 1100, 1300), (1, 37, 1300), (2, 640, 700)])
def test_a_lazy_large_frame_is_written_shard_by_shard(tmp_path: Path, shards, chunks: tuple[int, int, int]) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (2, 1100, 1300), dtype=np.uint16)
    movie = make_movie(da.from_array(counts, chunks=chunks), pixel_size=0.5)
    both = xr.concat([movie, movie + 1], "class").transpose("frame", "class", "y", "x")
    store.write_movie(tmp_path / "m.zarr", movie, probability=both.assign_coords({"class": ["a", "b"]}))
    back = xr.open_zarr(tmp_path / "m.zarr", consolidated=False)
    np.testing.assert_array_equal(back.movie, counts)
    np.testing.assert_array_equal(back.probability, np.stack([counts, counts + 1], axis=1))
    np.testing.assert_array_equal(back.x, movie.x)
    written = back.movie.encoding["shards"]
    assert chunks != (1, 600, 600) or written[1:] == chunks[1:]
    assert max(written[1:]) <= 1024
    assert len(list((tmp_path / "m.zarr" / "movie" / "c").rglob("*"))) > 4
    opened = store.open_store(tmp_path / "m.zarr").movie
    assert {c[0] for c in opened.chunks[1:]} == set(written[1:])


def test_a_block_of_a_tile_needs_no_other_tile(tmp_path: Path, shards) -> None:
    """Where blocks are even and the last is larger, as tiles are, writing joins none of them."""
    data = da.zeros((1, 2, 3 * 640 + 700, 1280), chunks=(1, 2, (640, 640, 640, 700), 640), dtype=np.float32)
    spec = store.frame_spec("p", ("frame", "class", "y", "x"), data.shape, data.dtype, blocks=data.chunks[-2:])
    assert spec.shards == (1, 2, 640, 640)
    assert [s % c for s, c in zip(spec.shards, spec.chunks, strict=True)] == [0, 0, 0, 0]
    wanted = data.rechunk(spec.shards)
    assert wanted.chunks[2] == (640, 640, 640, 640, 60)


def test_labels_of_lazy_frames_are_written_by_a_cluster(tmp_path: Path, shards, monkeypatch) -> None:
    from distributed import Client, LocalCluster

    from hrtem_dask.analysis import labels as module

    monkeypatch.setattr(module, "PIECE", 0)
    monkeypatch.setattr(module, "NARROW", 1)
    p = np.random.default_rng(4).random((1, 1200, 900)).astype(np.float32)
    p[0, 600] = 1
    labels = label_particles(make_movie(da.from_array(p, chunks=(1, 512, 512)), pixel_size=1.0), threshold=0.8)
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster, \
            Client(cluster):
        store.write_movie(tmp_path / "l.zarr", labels, name="labels")
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(store.open_store(tmp_path / "l.zarr").labels, labels)
