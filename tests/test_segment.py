"""`segment`: right, lazy, and equal for any chunks."""

from __future__ import annotations

import pickle
import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hrtem_dask.analysis import tiling
from hrtem_dask.analysis.segment import layout_of, segment
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.core.provenance import history_of
from hrtem_dask.kernels.msdnet import reference
from hrtem_dask.kernels.normalise import combine, moments
from hrtem_dask.kernels.resample import resample
from hrtem_dask.kernels.tiles import softmax
from hrtem_dask.networks import Model, MSDNet, save_model
from hrtem_dask.networks.cards import complete_card

CARD = {"classes": ["background", "particle"], "pixel_size": 0.5, "dose_range": [1, 1e4]}


def network(c_in=1, depth=4, dilations=(1, 2, 3), padding="zeros", seed=0, **card):
    torch.manual_seed(seed)
    net = MSDNet(c_in, 2, depth, dilations=dilations, padding=padding)
    with torch.no_grad():
        net.final_weight.normal_()
        net.final_bias.normal_()
    weights = net.to_weights()
    return Model("random", complete_card(CARD | card, weights, "0" * 64), weights)


def threshold_network():
    """A net that smooths over 3 x 3 pixels and calls particle what is above 1.05 standard deviations."""
    net = MSDNet(1, 2, 1)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        net.weights[0][:] = 1 / 9
        net.biases[0][:] = 10.0  # keeps the ReLU open
        net.final_weight[1, 1] = 20.0
        net.final_bias[1] = -221.0
    weights = net.to_weights()
    return Model("threshold", complete_card(CARD, weights, "0" * 64), weights)


def discs(shape, pixel, centres, radius):
    y, x = (np.arange(n) * p for n, p in zip(shape, pixel, strict=True))
    return np.any([(y[:, None] - a) ** 2 + (x - b) ** 2 <= radius**2 for a, b in centres], axis=0)


def compute(array):
    return array.compute(scheduler="sync")


@pytest.mark.parametrize("pixel", [(0.1, 0.1), (0.59, 0.59), (0.5, 0.5), (0.3, 0.65)])
@pytest.mark.parametrize("tile", [None, 37])
def test_discs_are_found_where_they_are(pixel, tile):
    centres, radius = [(20.0, 15.0), (22.0, 48.0)], 8.0
    shape = round(44 / pixel[0]), round(66 / pixel[1])
    truth = discs(shape, pixel, centres, radius)
    noise = np.random.default_rng(0).normal(size=shape) * 0.05
    movie = make_movie(((truth + noise) * 1000 + 5000)[None], pixel_size=pixel)
    p = compute(segment(movie, threshold_network(), tile=tile)).sel({"class": "particle"})[0]
    found = p.values > 0.5
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.96
    y, x = (v.ravel() for v in np.meshgrid(movie.y, movie.x, indexing="ij"))
    for a, b in centres:
        near = found.ravel() & (np.hypot(y - a, x - b) < 12)
        assert abs(y[near].mean() - a) < 0.1
        assert abs(x[near].mean() - b) < 0.1


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_chunks_give_the_same(data):
    ny, nx, frames = (data.draw(st.integers(1, n)) for n in (70, 70, 2))
    pixel = data.draw(st.tuples(*[st.sampled_from([0.1, 0.37, 0.5, 0.59, 1.3])] * 2))
    tile = data.draw(st.sampled_from([None, 16, 31]))
    halo = data.draw(st.sampled_from(["auto", "exact", 0, 3]))
    dtype = data.draw(st.sampled_from(["u2", ">u2", "f4", "f8", "i4"]))
    counts = np.random.default_rng(ny * nx).integers(0, 900, (frames, ny, nx)).astype(dtype)
    model = network(padding=data.draw(st.sampled_from(["zeros", "reflect", "symmetric"])))

    def run(chunks):
        movie = make_movie(da.from_array(counts, chunks=chunks), pixel_size=pixel)
        return compute(segment(movie, model, tile=tile, halo=halo)).values

    def chunks_of(n):
        cuts = data.draw(st.lists(st.integers(1, n), max_size=3, unique=True))
        return tuple(np.diff(sorted({0, n, *cuts})).tolist())

    whole = run(counts.shape)
    np.testing.assert_array_equal(run(tuple(chunks_of(n) for n in counts.shape)), whole)
    np.testing.assert_array_equal(run((1, max(1, ny - 1), max(1, nx - 1))), whole)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-6)
    assert whole.min() >= 0


@pytest.mark.parametrize("padding", ["zeros", "reflect", "symmetric"])
@pytest.mark.parametrize("pixel", [0.5, 0.37, 1.1])
def test_tiles_with_the_whole_halo_equal_the_whole_frame(padding, pixel):
    model = network(padding=padding, depth=5)
    movie = make_movie(np.random.default_rng(1).poisson(30, (2, 83, 61)), pixel_size=pixel)
    whole = compute(segment(movie, model, tile=4096))
    for tile in (9, 20, 41):
        tiled = segment(movie, model, tile=tile, halo="exact")
        assert tiled.data.npartitions > 1
        np.testing.assert_allclose(compute(tiled), whole, atol=5e-6)


def test_one_frame_step_by_step():
    model = network(depth=3)
    counts = np.random.default_rng(2).poisson(30, (50, 40)).astype(float)
    image = resample(counts, 0.3, 0.5).astype(np.float64)
    image = (image - image.mean()) / image.std()
    logits = reference.evaluate(model.weights, image[None])
    expected = np.clip(resample(softmax(logits), 0.5, 0.3, shape=counts.shape), 0, 1)
    found = compute(segment(make_movie(counts[None], pixel_size=0.3), model))[0]
    np.testing.assert_allclose(found, expected / expected.sum(0), atol=2e-5)


@pytest.mark.parametrize("tile", [None, 20])
def test_scale_and_offset_of_the_counts_do_not_matter(tile):
    counts = np.random.default_rng(3).poisson(30, (1, 60, 50))
    model = network()
    base = compute(segment(make_movie(counts, pixel_size=0.4), model, tile=tile))
    for other in (counts * 7 + 100_000_000, counts / 1e6 - 3.0, (counts * 13).astype(np.uint16)):
        np.testing.assert_allclose(compute(segment(make_movie(other, pixel_size=0.4), model, tile=tile)), base,
                                   atol=1e-4)


@pytest.mark.parametrize("tile", [None, 20])
def test_unknown_pixels_do_not_spread(tile, caplog):
    counts = np.random.default_rng(4).normal(100, 10, (1, 80, 80))
    bad = counts.copy()
    bad[0, 10, 12], bad[0, 5:9, 60:64] = np.nan, np.inf
    model = network()
    base, found = (compute(segment(make_movie(c, pixel_size=0.4), model, tile=tile))[0, 1].values
                   for c in (counts, bad))
    assert np.isfinite(found).all()
    assert np.abs(found - base)[40:].max() < 0.05
    assert "not finite" in caplog.text
    nothing = compute(segment(make_movie(bad * np.nan, pixel_size=0.4), model, tile=tile))
    constant = compute(segment(make_movie(counts * 0 + 7, pixel_size=0.4), model, tile=tile))
    assert np.isfinite(nothing).all()
    assert np.isfinite(constant).all()


def test_a_focal_series():
    model = network(c_in=3)
    counts = np.random.default_rng(5).poisson(30, (2, 3, 40, 44))
    movie = make_movie(counts, pixel_size=0.59, defocus=[-50, 0, 50])
    p = segment(movie, model)
    assert p.dims == ("frame", "class", "y", "x")
    whole = compute(p)
    tiled = compute(segment(movie.chunk({"defocus": 1, "y": 13}), model, tile=17, halo="exact"))
    np.testing.assert_allclose(tiled, whole, atol=5e-6)
    other = counts.copy()
    other[:, 1] = other[:, 1] * 5 + 3  # every image is normalised by itself
    np.testing.assert_allclose(compute(segment(make_movie(other, pixel_size=0.59, defocus=[-50, 0, 50]), model)),
                               whole, atol=1e-5)
    with pytest.raises(InputError, match=r"3 input channel.*defocus"):
        segment(movie.isel(defocus=0), model)
    with pytest.raises(InputError, match="2 images a frame"):
        segment(movie.isel(defocus=slice(2)), model)
    with pytest.raises(InputError, match="1 input channel"):
        segment(movie, network())


def test_nothing_is_computed():
    def explode(*args, **kwargs):
        raise AssertionError("computed")

    def never(block):
        raise AssertionError("read")

    counts = da.zeros((3, 50, 60), chunks=(1, 25, 30)).map_blocks(never, dtype=np.uint16, meta=np.empty((0, 0, 0)))
    with dask.config.set(scheduler=explode):
        for tile in (None, 20):
            segment(make_movie(counts, pixel_size=0.5), network(), tile=tile)


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


def test_names_of_tasks_are_the_same_every_time():
    movie = make_movie(da.zeros((2, 50, 50), chunks=(1, 20, 50)), pixel_size=0.5)
    model = network()
    for tile in (None, 20):
        assert segment(movie, model, tile=tile).data.name == segment(movie, model, tile=tile).data.name
    assert segment(movie, model, halo=0, tile=20).data.name != segment(movie, model, tile=20).data.name
    assert segment(movie, network(seed=1)).data.name != segment(movie, model).data.name


def test_a_model_by_path(tmp_path):
    model = network()
    path = save_model(model.weights, CARD, tmp_path / "net")
    movie = make_movie(np.random.default_rng(0).poisson(9, (1, 20, 20)), pixel_size=0.5)
    np.testing.assert_array_equal(compute(segment(movie, path)), compute(segment(movie, model)))


def test_what_does_not_fit_is_refused():
    model = network()
    movie = make_movie(np.ones((2, 20, 20)), pixel_size=0.5)
    with pytest.raises(CalibrationError, match="no pixel size"):
        segment(make_movie(np.ones((2, 20, 20))), model)
    with pytest.raises(InputError, match="open_movie"):
        segment(movie.values, model)
    with pytest.raises(InputError, match=r"takes \('frame', 'y', 'x'\)"):
        segment(movie[0], model)
    with pytest.raises(InputError, match="real numbers"):
        segment(movie.astype(complex), model)
    with pytest.raises(InputError, match="at least one frame"):
        segment(movie[:0], model)
    for bad, message in (({"window": "hann"}, "window"), ({"halo": -1}, "halo"), ({"halo": "big"}, "halo"),
                         ({"tile": 0}, "tile"), ({"tile": 1.5}, "tile"), ({"backend": "fast"}, "no backend 'fast'"),
                         ({"pixel_size_tolerance": 2}, "tolerance")):
        with pytest.raises(InputError, match=message):
            segment(movie, model, **bad)


def test_layout_covers_the_frame_once():
    for n, pixel, tile in ((1, 0.5, 9), (1000, 0.59, 100), (777, 0.1, 64), (130, 1.7, 100)):
        axis = layout_of(make_movie(da.zeros((1, n, n)), pixel_size=pixel), network(), tile=tile).y
        for name, size in (("core", n), ("own", axis.size)):
            ranges = [getattr(s, name) for s in axis.spans]
            assert [i for a, b in ranges for i in range(a, b)] == list(range(size))


def test_a_range_of_pixel_sizes_leaves_the_frame_as_it_is():
    model = network(pixel_size=[0.2, 0.8])
    for pixel, ratio in ((0.59, 1.0), (0.1, 2.0), (1.6, 0.5), (0.198, 1.0)):
        movie = make_movie(np.ones((1, 20, 20)), pixel_size=pixel)
        assert layout_of(movie, model).ratio == pytest.approx((ratio, ratio))


def test_a_small_frame_is_one_task_and_graphs_are_small():
    movie = make_movie(da.zeros((50, 400, 400), chunks=(1, 200, 400), dtype=np.uint16), pixel_size=0.5)
    one = segment(movie.chunk({"y": -1}), network()).data
    assert one.npartitions == 50
    assert one.numblocks == (50, 1, 1, 1)
    assert sum("_segment_task" in str(k) for k in one.dask) == 50
    assert not any("moments" in str(k) or "_statistics" in str(k) for k in one.dask)
    assert segment(movie, network(), tile=100).data.numblocks == (50, 1, 4, 4)


def test_long_chunks_are_split(monkeypatch):
    movie = make_movie(np.random.default_rng(0).poisson(9, (10, 16, 16)), pixel_size=0.5)
    whole = segment(movie, network())
    assert whole.data.numblocks[0] == 1
    monkeypatch.setattr(tiling, "CHUNK", 4 * 2 * 16 * 16 * 3)
    split = segment(movie, network())
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


def test_moments_combine_as_one():
    values = np.random.default_rng(0).normal(1e6, 2, (4, 30))
    values[1] = np.nan
    whole, parts = moments(values), combine(np.stack([moments(v)[None] for v in values]))[0]
    np.testing.assert_allclose(parts, whole, rtol=1e-9)
