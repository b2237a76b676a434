"""`segment`: right and equal for any chunks."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.special
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segment_scenes import BACKENDS, CARD, compute, discs, network, threshold_network

from hrtem_dask.analysis.segment import layout_of, segment, unknown_pixels
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.kernels import tiles
from hrtem_dask.kernels.msdnet import reference
from hrtem_dask.kernels.normalise import combine, moments
from hrtem_dask.kernels.resample import resample
from hrtem_dask.kernels.tiles import frame_moments, segment_tile, softmax
from hrtem_dask.networks import evaluate, save_model


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
