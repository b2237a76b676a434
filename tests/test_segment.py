"""`segment`: right, lazy, and equal for any chunks."""

from __future__ import annotations

import collections
import pickle
import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.special
import torch
import xarray as xr
from dask.utils import key_split
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hrtem_dask.analysis import tiling
from hrtem_dask.analysis.segment import layout_of, segment, unknown_pixels
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.core.provenance import history_of
from hrtem_dask.kernels import tiles
from hrtem_dask.kernels.msdnet import compiled, reference
from hrtem_dask.kernels.normalise import combine, moments
from hrtem_dask.kernels.resample import resample
from hrtem_dask.kernels.tiles import frame_moments, segment_tile, softmax
from hrtem_dask.networks import Model, MSDNet, evaluate, save_model
from hrtem_dask.networks.cards import complete_card

CARD = {"classes": ["background", "particle"], "pixel_size": 0.5, "dose_range": [1, 1e4]}


def network(c_in=1, depth=4, dilations=(1, 2, 3), padding="zeros", seed=0, width=1, **card):
    torch.manual_seed(seed)
    net = MSDNet(c_in, 2, depth, dilations=dilations, padding=padding, width=width)
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
    window = data.draw(st.sampled_from([None, "hann", "hamming", "gaussian"]))
    how = ({"halo": data.draw(st.sampled_from(["auto", "exact", 0, 3]))} if window is None else
           {"window": window, "window_size": data.draw(st.integers(8, 40))})
    dtype = data.draw(st.sampled_from(["u2", ">u2", "f4", "f8", "i4"]))
    counts = np.random.default_rng(ny * nx).integers(0, 900, (frames, ny, nx)).astype(dtype)
    model = network(padding=data.draw(st.sampled_from(["zeros", "reflect", "symmetric"])))

    def run(chunks):
        movie = make_movie(da.from_array(counts, chunks=chunks), pixel_size=pixel)
        return compute(segment(movie, model, tile=tile, **how)).values

    def chunks_of(n):
        cuts = data.draw(st.lists(st.integers(1, n), max_size=3, unique=True))
        return tuple(np.diff(sorted({0, n, *cuts})).tolist())

    whole = run(counts.shape)
    np.testing.assert_array_equal(run(tuple(chunks_of(n) for n in counts.shape)), whole)
    np.testing.assert_array_equal(run((1, max(1, ny - 1), max(1, nx - 1))), whole)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-6)
    assert whole.min() >= 0


BACKENDS = ["torch", pytest.param("compiled", marks=pytest.mark.skipif(
    not compiled.instruction_sets(), reason="the compiled evaluation is not there"))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("shape", "pixel", "tiles_of", "net"), [
    ((83, 61), 0.5, (9, 20, 41), {"depth": 5, "padding": "zeros"}),
    ((83, 61), 0.37, (9, 20, 41), {"depth": 5, "padding": "reflect"}),
    ((83, 61), 1.1, (40, 75), {"depth": 5, "padding": "symmetric"}),
    ((201, 333), 0.5, (64, 101), {"depth": 20, "dilations": tuple(range(1, 11)), "padding": "reflect"}),
    ((601, 555), 0.5, (256,), {"depth": 3}),
    ((201, 333), (0.37, 0.6), (90,), {"depth": 21, "dilations": tuple(range(1, 11)), "width": 2}),
    ((301, 157), 0.59, (64, 128), {"depth": 50, "dilations": (1, 2, 4), "padding": "symmetric"}),
])
def test_tiles_with_the_whole_halo_equal_the_whole_frame(shape, pixel, tiles_of, net, backend, monkeypatch):
    monkeypatch.setattr(tiles, "REGION", 64)  # the smallest there are: 256 pixels
    model = network(**net)
    dtype = "f4" if net.get("padding") == "symmetric" else "f8"  # what is resampled in float32, and in float64
    counts = np.random.default_rng(1).poisson(30, (1, *shape)).astype(dtype)
    counts[0, 5:9, 50:54] = np.nan
    movie = make_movie(counts, pixel_size=pixel)
    whole = compute(segment(movie, model, tile=4096, backend=backend))
    for tile in tiles_of:
        for chunks in ({}, {"y": 50}, {"x": 70, "y": 64}):
            tiled = segment(movie.chunk(chunks), model, tile=tile, halo="exact", backend=backend)
            assert tiled.data.npartitions > 1
            np.testing.assert_array_equal(compute(tiled), whole)


def test_statistics_do_not_depend_on_tiles_and_are_those_of_the_frame(monkeypatch):
    counts = np.random.default_rng(8).poisson(30, (1, 900, 701)).astype(float)
    counts[0, :3, :400] = np.nan
    movie = make_movie(counts, pixel_size=0.4)
    one, many = (layout_of(movie, network(), tile=t) for t in (4096, 100))
    assert len(one.regions) == 1
    monkeypatch.setattr(tiles, "REGION", 256)
    assert len(one.regions) == 6
    np.testing.assert_array_equal(frame_moments(counts, one), frame_moments(counts, many))
    fine = resample(counts[0], 0.4, 0.5).astype(np.float64)
    known = np.isfinite(fine)
    np.testing.assert_allclose(frame_moments(counts, one)[0], [known.sum(), fine[known].mean(),
                                                               fine[known].var() * known.sum()], rtol=1e-5)


def blended(model, counts, pixel, kind, size):
    """One frame (channel, y, x) step by step: the whole image, window by window, in float64.

    Sides of a window inside the frame are mirrored, its others are padded as the network says.
    """
    image = np.stack([resample(plane.astype(float), pixel, 0.5).astype(np.float64) for plane in counts])
    image = np.stack([(plane - plane.mean()) / plane.std() for plane in image]).astype(np.float32)
    total = weight = 0
    starts = [sorted({*range(0, max(1, n - size), size // 2), max(0, n - size)}) for n in image.shape[1:]]
    for y in starts[0]:
        for x in starts[1]:
            part = image[:, y:y + size, x:x + size].astype(np.float64)
            edges = y == 0, y + size >= image.shape[1], x == 0, x + size >= image.shape[2]
            p = scipy.special.softmax(reference.evaluate(model.weights, part, edges), axis=0)
            edge = [{"hann": 0.5 - 0.5 * np.cos(2 * np.pi * t), "hamming": 0.54 - 0.46 * np.cos(2 * np.pi * t),
                     "gaussian": np.exp(-32 * (t - 0.5) ** 2)}[kind] for t in
                    ((np.arange(n) + 0.5) / n for n in p.shape[1:])]
            w = np.zeros(image.shape[1:])
            w[y:y + size, x:x + size] = np.outer(*edge)
            part = np.zeros((len(p), *w.shape))
            part[:, y:y + size, x:x + size] = p
            total, weight = total + w * part, weight + w
    p = total / weight
    if pixel != 0.5:
        p = np.clip(resample(p, 0.5, pixel, shape=counts.shape[1:]), 0, 1)
    return p / p.sum(0)


@pytest.mark.parametrize(("shape", "pixel", "kind", "size", "c_in"), [
    ((83, 61), 0.5, "hann", 32, 1), ((60, 95), 0.37, "hamming", 24, 1), ((40, 41), 1.1, "gaussian", 32, 1),
    ((20, 90), 0.5, "hann", 32, 1), ((13, 17), 0.5, "hamming", 32, 1), ((50, 47), 0.59, "gaussian", 16, 3),
])
def test_blended_windows_equal_a_plain_sum_over_the_frame(shape, pixel, kind, size, c_in):
    model = network(c_in=c_in)
    counts = np.random.default_rng(6).poisson(30, (2, c_in, *shape))
    movie = (make_movie(counts[:, 0], pixel_size=pixel) if c_in == 1 else
             make_movie(counts, pixel_size=pixel, defocus=[-50, 0, 50]))
    whole = compute(segment(movie, model, window=kind, window_size=size)).values
    for frame, image in zip(whole, counts, strict=True):
        np.testing.assert_allclose(frame, blended(model, image, pixel, kind, size), atol=2e-5)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-6)
    chunks = {"frame": 1, "y": 17, "x": 23} | ({"defocus": 2} if c_in == 3 else {})
    for tile in (7, 16, 25, 48):
        tiled = segment(movie.chunk(chunks), model, window=kind, window_size=size, tile=tile)
        np.testing.assert_array_equal(compute(tiled).values, whole)


@pytest.mark.parametrize("padding", ["zeros", "reflect", "symmetric"])
def test_backends_agree_about_blended_windows(padding):
    movie = make_movie(np.random.default_rng(9).poisson(30, (1, 90, 70)), pixel_size=0.5)
    model = network(padding=padding)
    found = [compute(segment(movie, model, window="hamming", window_size=32, backend=b))
             for b in ("auto", "torch", "reference")]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=2e-5)


def test_windows_wide_enough_for_the_network_by_default():
    movie = make_movie(da.zeros((1, 3000, 3000)), pixel_size=0.5)
    for radius, size in ((3, 256), (65, 320), (80, 320), (1000, 1024)):
        model = network(depth=300, dilations=(10,), effective_radius=radius)
        axis = layout_of(movie, model, window="hann").y
        assert axis.window == size
        assert axis.tile % (size // 2) == 0
    assert layout_of(movie, network(), window="hann", window_size=100).y.windows.step == 50


@pytest.mark.parametrize("how", [{}, {"window": "hann"}])
def test_tiles_of_finely_sampled_frames_stay_small_on_the_camera(how):
    movie = make_movie(da.zeros((1, 20_000, 20_000)), pixel_size=(0.08, 0.1))
    layout = layout_of(movie, network(), **how)
    assert max(b - a for axis in (layout.y, layout.x) for s in axis.spans for a, b in (s.core,)) <= 1.25 * 4096 + 32


@pytest.mark.parametrize("pixel", [0.5, 0.37, 0.77])
def test_tiles_of_blended_windows_share_few_of_them(pixel):
    """A tile of 16 steps meets 17 windows an axis, or 18 where it is resampled."""
    movie = make_movie(da.zeros((1, 20_000, 9_000)), pixel_size=pixel)
    layout = layout_of(movie, network(), window="hann", window_size=256)
    for axis in (layout.y, layout.x):
        met = [len(axis.windows.meeting(*s.need)) for s in axis.spans]
        assert len(met) > 1
        assert max(met[:-1]) <= (17 if pixel == 0.5 else 18)


def test_one_window_at_a_time_is_held():
    largest, calls = 0, 0

    def count(image, edges):
        nonlocal largest, calls
        largest, calls = max(largest, image[0].size), calls + 1
        return np.zeros((2, *image.shape[1:]), np.float32)

    movie = make_movie(np.ones((1, 200, 300)), pixel_size=0.5)
    tile = layout_of(movie, network(), window="hann", window_size=40, tile=100).tiles[0][1]
    segment_tile(movie.values[:, slice(*tile.y.read), slice(*tile.x.read)], tile, count, np.array([[2.0, 1, 1]]))
    assert largest == 40 * 40
    assert calls == 5 * 6


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


@pytest.mark.parametrize("how", [{"halo": "exact"}, {"window": "hann", "window_size": 24}])
@pytest.mark.parametrize("pixel", [0.5, 0.37])
def test_what_unknown_pixels_change_stays_near(how, pixel):
    """With the statistics held, a pixel that no kernel or window joins to an unknown one keeps every bit."""
    model = network()
    counts = np.random.default_rng(4).normal(100, 10, (1, 120, 110))
    bad = counts.copy()
    bad[0, 30:36, 40:47] = np.nan
    layout = layout_of(make_movie(counts, pixel_size=pixel), model, tile=40, **how)
    held = frame_moments(bad, layout)

    def maps(frame):
        rows = [np.concatenate([
            segment_tile(frame[:, slice(*t.y.read), slice(*t.x.read)], t,
                         lambda image, edges: evaluate(model, image, edges=edges), held)
            for t in row], axis=2) for row in layout.tiles]
        return np.concatenate(rows, axis=1)

    clean, found = maps(counts), maps(bad)
    assert np.isfinite(found).all()
    changed = np.argwhere((clean != found).any(0))
    reach = (model.weights.receptive_radius if "halo" in how else 24) + 8  # two Lanczos kernels
    reach = int(np.ceil(reach * layout.ratio[0]))
    assert changed.size
    assert (changed.min(0) >= np.array([30, 40]) - reach).all()
    assert (changed.max(0) <= np.array([36, 47]) + reach).all()


def test_how_pixels_are_unknown_does_not_matter():
    counts = np.random.default_rng(4).normal(100, 10, (1, 60, 60))
    found = []
    for value in (np.nan, np.inf, -np.inf):
        bad = counts.copy()
        bad[0, 20:30, 20:25] = value
        found.append(compute(segment(make_movie(bad, pixel_size=0.4), network(), tile=20)))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_unknown_pixels_are_counted():
    counts = np.zeros((3, 30, 40), np.float32)
    counts[1, 2, 3:6], counts[2, :, 7], counts[2, 0, 0] = np.nan, np.inf, -np.inf
    movie = make_movie(da.from_array(counts, chunks=(2, 7, 40)), pixel_size=0.5, time=[0, 1, 2])[1:]
    found = unknown_pixels(movie)
    assert isinstance(found.data, da.Array)
    assert found.dims == ("frame",)
    assert compute(found).values.tolist() == [3, 31]
    xr.testing.assert_identical(found["time"], movie["time"])
    series = make_movie(np.where(np.arange(3)[:, None, None] == 1, np.nan, np.ones((2, 3, 4, 5))), pixel_size=0.5,
                        defocus=[-50, 0, 50])
    assert compute(unknown_pixels(series)).values.tolist() == [20, 20]

    def never(block):
        raise AssertionError("read")

    whole = da.zeros((3, 5, 6), dtype=np.uint16).map_blocks(never, dtype=np.uint16, meta=np.empty((0, 0, 0), np.uint16))
    assert compute(unknown_pixels(make_movie(whole, pixel_size=0.5))).values.tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="expected a movie"):
        unknown_pixels(counts)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 4), (5, 90)])
@pytest.mark.parametrize("how", [{}, {"halo": "exact", "tile": 20}, {"window": "hann", "window_size": 16, "tile": 20}])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_frames_smaller_than_the_receptive_field(shape, how, padding):
    model = network(depth=20, dilations=tuple(range(1, 11)), padding=padding)
    movie = make_movie(np.random.default_rng(3).poisson(30, (2, *shape)), pixel_size=0.4)
    found = compute(segment(movie, model, **how))
    assert found.shape == (2, 2, *shape)
    np.testing.assert_allclose(found.sum("class"), 1, atol=1e-6)
    if "window" not in how:
        np.testing.assert_array_equal(found, compute(segment(movie, model)))


@pytest.mark.parametrize("how", [{}, {"tile": 20}, {"window": "gaussian", "window_size": 16, "tile": 20}])
def test_a_frame_of_unknown_pixels_only_spares_the_others(how):
    counts = np.random.default_rng(3).normal(30, 3, (2, 50, 60))
    bad = counts.copy()
    bad[0] = np.nan
    found = compute(segment(make_movie(bad, pixel_size=0.4), network(), **how))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[1], compute(segment(make_movie(counts, pixel_size=0.4), network(), **how))[1])


@pytest.mark.parametrize("how", [{"tile": 20}, {"window": "hann", "window_size": 16}])
def test_how_the_counts_are_stored_does_not_matter(how):
    counts = np.random.default_rng(3).integers(0, 120, (2, 50, 60))
    views = [counts.astype(t) for t in ("f4", "i1", "u2", ">u2", ">f4", "f8", ">f8", ">i4", "i8")]
    views += [np.asfortranarray(counts), np.repeat(counts, 2, axis=2)[:, :, ::2], counts[:, ::-1][:, ::-1]]
    found = [compute(segment(make_movie(v, pixel_size=0.4), network(), **how)).values for v in views]
    for v, f in zip(views, found, strict=True):  # short integers are resampled in float32
        same = found[1] if v.dtype.kind in "iu" and v.dtype.itemsize <= 2 else found[5]
        np.testing.assert_array_equal(f, same)
    np.testing.assert_allclose(found[5], found[1], atol=1e-5)


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
    for bad, message in (({"window": "tukey"}, "'tukey'.*hann"), ({"window": "Hann"}, "hann"),
                         ({"window": ["hann"]}, "window is"),
                         ({"window": "hann", "halo": 8}, "halo is 8"), ({"window_size": 64}, "window is None"),
                         *(({"window": "hann", "window_size": w}, "window_size") for w in (0, -64, 7, 1.5, "64", True)),
                         ({"halo": -1}, "halo"), ({"halo": "big"}, "halo"),
                         ({"tile": 0}, "tile"), ({"tile": 1.5}, "tile"), ({"backend": "fast"}, "no backend 'fast'"),
                         ({"pixel_size_tolerance": 2}, "tolerance")):
        with pytest.raises(InputError, match=message):
            segment(movie, model, **bad)


def test_layout_covers_the_frame_once():
    for n, pixel, tile in ((1, 0.5, 9), (1000, 0.59, 100), (777, 0.1, 64), (130, 1.7, 100)):
        axis = layout_of(make_movie(da.zeros((1, n, n)), pixel_size=pixel), network(), tile=tile).y
        for ranges, size in (([s.core for s in axis.spans], n), ([p.own for p in axis.regions], axis.size)):
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
    monkeypatch.setattr(tiling, "CHUNK", 4 * 2 * 16 * 16 * 3)
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


def test_moments_combine_as_one():
    values = np.random.default_rng(0).normal(1e6, 2, (4, 30))
    values[1] = np.nan
    whole, parts = moments(values), combine(np.stack([moments(v)[None] for v in values]))[0]
    np.testing.assert_allclose(parts, whole, rtol=1e-9)


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_softmax_is_that_of_scipy(classes):
    logits = np.random.default_rng(classes).normal(scale=40, size=(classes, 30, 20)).astype(np.float32)
    found = softmax(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scipy.special.softmax(logits.astype(np.float64), axis=0), atol=2e-7)
    np.testing.assert_allclose(found.sum(0), 1, atol=2e-7)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f2", "f4", "f8", "?", "i8", ">u2"])
@pytest.mark.parametrize("pixel", [0.1, 0.37, 0.5, 0.59, 1.1])
def test_a_blank_frame_is_all_mean(dtype, pixel):
    counts = np.full((1, 60, 47), 211).astype(dtype)
    movie = make_movie(counts, pixel_size=pixel)
    (tile,), = layout_of(movie, network()).tiles
    assert not tiles.tile_image(counts, tile).any()


@pytest.mark.parametrize(("dtype", "offset"), [("u2", 2**15), ("i4", 10**8), ("f4", 10**5), ("f8", 10**9)])
def test_an_offset_of_the_counts_changes_little(dtype, offset):
    counts = np.random.default_rng(0).poisson(40, (1, 60, 47))
    layout = layout_of(make_movie(counts, pixel_size=0.4), network())
    (tile,), = layout.tiles
    here, there = (tiles.tile_image((counts + c).astype(dtype), tile) for c in (0, offset))
    np.testing.assert_allclose(there, here, atol=5e-3 if dtype == "u2" else 1e-5)  # float32 or float64
