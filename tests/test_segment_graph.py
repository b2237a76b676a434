"""What `segment` builds: lazy, few tasks, the same on every scheduler."""

from __future__ import annotations

import collections
import pickle
import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from dask.utils import key_split
from segment_scenes import CARD, compute, network

from hrtem_dask.analysis import cuts
from hrtem_dask.analysis.segment import layout_of, segment, unknown_pixels
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.provenance import history_of
from hrtem_dask.kernels import tiles
from hrtem_dask.networks import save_model


def test_nothing_is_computed():
    def explode(*args, **kwargs):
        raise AssertionError("computed")

    def never(block):
        raise AssertionError("read")

    counts = da.zeros((3, 50, 60), chunks=(1, 25, 30)).map_blocks(never, dtype=np.uint16, meta=np.empty((0, 0, 0)))
    with dask.config.set(scheduler=explode):
        for tile in (None, 20):
            segment(make_movie(counts, pixel_size=0.5), network(), tile=tile)
        segment(make_movie(counts, pixel_size=0.5), network(), window="hann")
        unknown_pixels(make_movie(counts, pixel_size=0.5))


def test_coordinates_attributes_and_provenance():
    movie = make_movie(da.zeros((4, 30, 20)), pixel_size=0.5, time=[0, 1, 2, 4], attrs={"dose": 40, "source": "x"})
    p = segment(movie[1:, 5:], network())
    assert p.dtype == np.float32
    assert p["class"].values.tolist() == ["background", "particle"]
    for name in ("frame", "time", "y", "x"):
        xr.testing.assert_identical(p[name], movie[1:, 5:][name])
    assert p.attrs["pixel_size"] == 0.5
    assert p.attrs["dose"] == 40
    step = history_of(p.attrs)[-1]
    assert step["stage"] == "segment"
    assert step["parameters"]["model"] == "random"
    assert len(step["parameters"]["sha256"]) == 64
    assert {"halo", "tile"} <= set(step["parameters"])
    step = history_of(segment(movie, network(), window="hann", window_size=64).attrs)[-1]
    assert (step["parameters"]["window"], step["parameters"]["window_size"]) == ("hann", 64)


def test_names_of_tasks_are_the_same_every_time():
    movie = make_movie(da.zeros((2, 50, 50), chunks=(1, 20, 50)), pixel_size=0.5)
    model = network()
    for how in ({}, {"tile": 20}, {"window": "hann"}):
        assert segment(movie, model, **how).data.name == segment(movie, model, **how).data.name
    names = {segment(movie, model, **how).data.name for how in (
        {}, {"window": "hann"}, {"window": "hamming"}, {"window": "hann", "window_size": 64}, {"backend": "torch"})}
    assert len(names) == 5
    assert segment(movie, model, halo=0, tile=20).data.name != segment(movie, model, tile=20).data.name
    assert segment(movie, network(seed=1)).data.name != segment(movie, model).data.name


def test_a_small_frame_is_one_task_and_graphs_are_small():
    movie = make_movie(da.zeros((50, 400, 400), chunks=(1, 200, 400), dtype=np.uint16), pixel_size=0.5)
    one = segment(movie.chunk({"y": -1}), network()).data
    assert one.npartitions == 50
    assert one.numblocks == (50, 1, 1, 1)
    assert collections.Counter(key_split(k) for k in one.dask)["segment"] == 50
    assert not any("statistics" in str(k) for k in one.dask)
    assert segment(movie, network(), tile=100).data.numblocks == (50, 1, 4, 4)


def names_of_tasks(array):
    graph = array.__dask_optimize__(array.__dask_graph__(), array.__dask_keys__())
    return collections.Counter(key_split(k) for k in dict(graph))


def test_tasks_say_on_the_dashboard_what_they_do(monkeypatch):
    monkeypatch.setattr(tiles, "REGION", 256)
    counts = da.map_blocks(np.zeros, chunks=((1,) * 5, (150, 250), (150, 250)), name="camera-0", dtype=np.uint16,
                           meta=np.empty((0, 0, 0), np.uint16))
    movie = make_movie(counts, pixel_size=0.5)
    several = names_of_tasks(segment(movie, network(), tile=200).data)
    assert several == {"camera": 2 * 4 * 5, "frame-statistics": 5, "frame-statistics-region": 4 * 5, "segment": 4 * 5,
                       "weights": 1}
    whole = movie.chunk({"y": -1, "x": -1})
    assert {"frame-statistics", "segment", "weights"} <= set(names_of_tasks(segment(whole, network(), tile=200).data))
    blended = names_of_tasks(segment(movie, network(), window="hann").data)
    assert blended == {"camera": 4 * 5, "segment": 5, "weights": 1}
    assert "unknown-pixels" in names_of_tasks(unknown_pixels(movie.astype(float)).data)


@pytest.mark.parametrize(("side", "tasks"), [(4096, 6), (2048, 17), (1024, 41)])
def test_there_are_few_tasks_a_frame(side, tasks):
    """Four tiles a frame; with several chunks each is read twice, for four regions of statistics and for tiles."""
    movie = make_movie(da.zeros((20, 4096, 4096), chunks=(1, side, side), dtype=np.uint16), pixel_size=0.5)
    model = network(depth=32, dilations=tuple(range(1, 11)), effective_radius=80)
    p = segment(movie, model)
    assert p.data.numblocks == (20, 1, 2, 2)
    assert len(dict(p.__dask_graph__())) - 1 == 20 * tasks  # one for the weights


@pytest.mark.parametrize("how", [{}, {"tile": 7}, {"window": "hann", "window_size": 8, "tile": 5}])
def test_long_chunks_are_split(how, monkeypatch):
    movie = make_movie(np.random.default_rng(0).poisson(9, (10, 16, 16)), pixel_size=0.5)
    whole = segment(movie, network(), **how)
    assert whole.data.numblocks[0] == 1
    monkeypatch.setattr(cuts, "CHUNK", 4 * 2 * 16 * 16 * 3)
    split = segment(movie, network(), **how)
    assert split.data.numblocks[0] == 4
    np.testing.assert_array_equal(compute(split), compute(whole))


def test_the_statistics_pass_reads_chunks_by_itself():
    reads = []

    def read(block):
        reads.append(1)
        return block

    counts = da.ones((1, 60, 60), chunks=(1, 30, 30)).map_blocks(read, dtype=float, meta=np.empty((0, 0, 0)))
    compute(segment(make_movie(counts, pixel_size=0.5), network(), tile=20))
    assert len(reads) == 8


def test_threads_processes_and_a_cluster_agree():
    movie = make_movie(da.from_array(np.random.default_rng(7).poisson(20, (3, 60, 50)), chunks=(1, 30, 50)),
                       pixel_size=0.5)
    p = segment(movie, network(), tile=25)
    expected = compute(p)
    before = torch.get_num_threads()
    np.testing.assert_array_equal(p.compute(scheduler="threads", num_workers=4), expected)
    assert torch.get_num_threads() == before
    np.testing.assert_array_equal(p.compute(scheduler="processes", num_workers=2), expected)
    from distributed import Client

    with Client(n_workers=1, threads_per_worker=2, dashboard_address=":0", processes=False):
        np.testing.assert_array_equal(p.compute(), expected)


def test_building_the_graph_loads_no_torch(tmp_path):
    path = save_model(network().weights, CARD, tmp_path / "net")
    code = ("import sys, numpy as np; import hrtem_dask as h; from hrtem_dask.core.calibration import make_movie; "
            "h.label_particles(h.segment(make_movie(np.ones((1, 9, 9)), pixel_size=0.5), sys.argv[1])); "
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_tasks_travel():
    tile = layout_of(make_movie(np.ones((1, 90, 90)), pixel_size=0.5), network(), tile=30).tiles[1][2]
    assert pickle.loads(pickle.dumps(tile)) == tile
    assert len(pickle.dumps(tile)) < 2000
