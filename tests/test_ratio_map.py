"""The map of figure 2: what it measures, against a plain numpy reference, and what it never does."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

import hrtem_dask
from hrtem_dask import analyse_particles, fourier_peak_pairs, label_particles, peak_ratio, peak_ratio_map
from hrtem_dask.analysis import ratio_graph
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.core.provenance import history_of
from hrtem_dask.kernels import ratio_map as kernel

PX = 0.5
WINDOW = 40.0
#: centre (y, x), radius [angstrom] and amplitude of the second fringe of three particles
PARTICLES = ((25, 24, 16, 1.0), (30, 74, 15, 0.35), (72, 40, 14, 0.7))


def scene(n_frames: int = 1, shape: tuple[int, int] = (190, 210), pixel: tuple[float, float] = (PX, PX),
          dtype: str = "uint16") -> tuple[xr.DataArray, xr.DataArray]:
    """Three particles with two fringes each, whose intensities differ; the probability has soft edges."""
    rng = np.random.default_rng(3)
    y, x = (np.arange(n) * p for n, p in zip(shape, pixel, strict=True))
    y = y[:, None]
    inside, fringes = np.zeros(shape), np.zeros(shape)
    for k, (cy, cx, radius, second) in enumerate(PARTICLES):
        soft = 1 / (1 + np.exp(np.minimum((np.hypot(y - cy, x - cx) - radius) / 0.4, 60)))
        inside = np.maximum(inside, soft)
        angle = 0.3 + 0.5 * k
        for amplitude, turn in ((1.0, angle), (second, angle + np.pi / 2)):
            fringes += soft * amplitude * np.cos(2 * np.pi * 0.44 * (y * np.sin(turn) + x * np.cos(turn)))
    counts = np.stack([rng.poisson(60 + 14 * fringes) for _ in range(n_frames)]).astype(dtype)
    movie = make_movie(counts, pixel_size=pixel if pixel[0] != pixel[1] else pixel[0], time=0.1 * np.arange(n_frames))
    return movie, movie.copy(data=np.repeat(inside[None], n_frames, 0).astype(np.float32))


def starts_of(n: int, size: int) -> list[int]:
    """Where windows of this size begin along an axis: half a window apart, the last one at its end."""
    size = min(size, n)
    out, start = [], 0
    while start < n - size:
        out.append(start)
        start += size // 2
    return [*out, n - size]


def reference(image: np.ndarray, probability: np.ndarray, sizes: tuple[int, int], pixel: tuple[float, float],
              crystal=None, mtf=None, threshold=0.5) -> np.ndarray:
    """The map of one frame, window after window, in plain float64."""
    total, weights = np.zeros(image.shape), np.zeros(image.shape)
    sizes = [min(s, n) for s, n in zip(sizes, image.shape, strict=True)]
    ramps = [0.54 - 0.46 * np.cos(2 * np.pi * (np.arange(s) + 0.5) / s) for s in sizes]
    for y in starts_of(image.shape[0], sizes[0]):
        for x in starts_of(image.shape[1], sizes[1]):
            here = slice(y, y + sizes[0]), slice(x, x + sizes[1])
            regions, count = ndimage.label(probability[here] > threshold, np.ones((3, 3)))
            values, areas = [0.02], [0]
            for k in range(1, count + 1):
                pairs = fourier_peak_pairs(image[here], regions == k, pixel_size=pixel, crystal=crystal, mtf=mtf)
                ratio = peak_ratio(pairs) if len(pairs) else np.nan
                values.append(0.02 if np.isnan(ratio) else max(0.02, 1 / ratio))
                areas.append((regions == k).sum())
            s = np.average(values, weights=areas) if count else 0.02
            weight = np.outer(*ramps)
            total[here] += weight * s
            weights[here] += weight
    return probability * total / weights


@pytest.mark.parametrize(("shape", "pixel", "options"), [
    ((190, 210), (PX, PX), {}),
    ((133, 250), (0.7, 0.4), {"crystal": [2.27], "threshold": 0.8}),
    ((60, 200), (PX, PX), {"mtf": lambda k: np.exp(-k)}),  # lower than a window
])
def test_it_is_what_a_plain_loop_over_the_windows_gives(shape, pixel, options, monkeypatch):
    monkeypatch.setattr(ratio_graph, "TILE", 80)
    movie, probability = scene(1, shape, pixel)
    found = peak_ratio_map(movie, probability, window=WINDOW, **options).values[0]
    sizes = tuple(round(WINDOW / p) for p in pixel)
    expected = reference(movie.values[0], probability.values[0], sizes, pixel, **options)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-30)
    assert found.max() > 0.4
    assert found.dtype == np.float32


def test_what_is_on_a_zone_axis_stands_out_and_a_lost_pair_does_not():
    movie, probability = scene()
    for by, ends in (("window", 0.6), ("particle", 0.75)):
        shown = peak_ratio_map(movie, probability, window=60.0, by=by).values[0]
        middle = [shown[round(cy / PX), round(cx / PX)] for cy, cx, *_ in PARTICLES]
        assert middle[0] > ends, by
        assert middle[1] < 0.3, by  # intensities of one to eight
        assert middle[1] < middle[2] < middle[0], by


@pytest.mark.parametrize("by", ["window", "particle"])
@pytest.mark.parametrize("chunks", [((1, 64, 37), (2, 190, 210)), ((3, 190, 210), (1, 50, 210)),
                                    ((2, 33, 100), (3, 64, 64))])
def test_result_does_not_depend_on_chunks_or_tiles(by, chunks, monkeypatch):
    movie, probability = scene(3)
    expected = peak_ratio_map(movie, probability, window=WINDOW, by=by).values
    monkeypatch.setattr(ratio_graph, "TILE", 96)
    chunked = (a.chunk(dict(zip(a.dims, c, strict=True))) for a, c in zip((movie, probability), chunks, strict=True))
    np.testing.assert_array_equal(peak_ratio_map(*chunked, window=WINDOW, by=by).values, expected)


def test_long_chunks_along_frame_are_split(monkeypatch):
    from hrtem_dask.analysis import cuts

    movie, probability = scene(3)
    expected = peak_ratio_map(movie, probability, window=WINDOW)
    assert expected.chunks[0] == (1, 1, 1)  # numpy arrays are cut up
    whole = movie.chunk({"frame": -1}), probability.chunk({"frame": -1})
    assert peak_ratio_map(*whole, window=WINDOW).chunks[0] == (3,)
    monkeypatch.setattr(cuts, "CHUNK", 2 * 16 * 190 * 210)
    split = peak_ratio_map(*whole, window=WINDOW)
    assert split.chunks[0] == (1, 2)
    np.testing.assert_array_equal(split.values, expected.values)


@pytest.mark.parametrize("crystal", [None, "Pt"])
def test_by_particle_every_particle_has_the_factor_of_its_row(crystal):
    movie, probability = scene(2)
    shown = peak_ratio_map(movie, probability, by="particle", crystal=crystal).values
    labels = label_particles(probability).values
    table = analyse_particles(movie, probability, crystal=crystal).compute()
    assert len(table) == 6
    for row in table.itertuples():
        mine = labels[row.frame] == row.particle
        factor = 0.02 if np.isnan(row.peak_ratio) else max(0.02, 1 / row.peak_ratio)
        np.testing.assert_allclose(shown[row.frame][mine], probability.values[row.frame][mine] * factor, rtol=1e-6)
    assert table.peak_ratio.notna().all()


def test_by_particle_the_soft_edge_belongs_to_the_nearest_particle_and_the_rest_to_none():
    movie, probability = scene()
    factor = peak_ratio_map(movie, probability, by="particle").values[0] / probability.values[0]
    y, x = (np.arange(n) * PX for n in factor.shape)
    y = y[:, None]
    distances = np.array([np.hypot(y - cy, x - cx) - r for cy, cx, r, _ in PARTICLES])
    middles = [factor[round(cy / PX), round(cx / PX)] for cy, cx, *_ in PARTICLES]
    nearest, two = distances.argmin(0), np.sort(distances, axis=0)
    clear = two[1] > two[0] + 1.5  # not on the line between two of them
    for k, middle in enumerate(middles):
        own = clear & (nearest == k) & (two[0] < 8.5)
        np.testing.assert_allclose(factor[own], middle, rtol=1e-5)
    np.testing.assert_allclose(factor[two[0] > 12], 0.02, rtol=1e-5)


@pytest.mark.parametrize("chunks", [(1, 50, 70), (2, 190, 210)])
def test_by_particle_large_frames_go_in_tiles_to_the_same_numbers(chunks, monkeypatch):
    from hrtem_dask.analysis import particles, ratio_map
    from hrtem_dask.kernels import tally

    movie, probability = scene(2)
    expected = peak_ratio_map(movie, probability, by="particle").values
    for module in (particles, ratio_map):
        monkeypatch.setattr(module, "PARTITION_PIXELS", 0)
    monkeypatch.setattr(tally, "TILE", 128)
    monkeypatch.setattr(ratio_graph, "TILE", 60)
    chunked = [a.chunk(dict(zip(a.dims, chunks, strict=True))) for a in (movie, probability)]
    found = peak_ratio_map(*chunked, by="particle")
    assert max(found.chunks[1]) == 60
    np.testing.assert_array_equal(found.values, expected)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float64, (12, 9), elements=st.one_of(
    st.floats(0, 1), st.sampled_from([0.0, 5e-324, 1e-300, 1e-45, 1e-39, 1e-38, 1.0]))), st.floats(0.02, 1))
def test_the_map_is_positive_exactly_where_the_probability_is(values, factor):
    for dtype in (np.float64, np.float32):
        p = values.astype(dtype)
        out = kernel.scaled(p, np.float32(factor))
        assert ((out > 0) == (p > 0)).all()
        assert (out <= np.maximum(p * 1.000001, kernel.TINY)).all()


def test_where_nothing_is_particle_the_shape_stays_and_nothing_is_transformed(monkeypatch):
    seen = []
    real = kernel.masked_crop
    monkeypatch.setattr(kernel, "masked_crop", lambda *a, **k: seen.append(a) or real(*a, **k))
    movie, probability = scene()
    faint = probability * 0.4
    np.testing.assert_allclose(peak_ratio_map(movie, faint, window=WINDOW).values, 0.02 * faint, rtol=1e-6, atol=1e-30)
    assert not seen
    one = probability.copy(data=np.zeros(probability.shape, np.float32))
    one[0, 25:75, 25:75] = 1  # reaches into 4 x 4 windows of which two an axis begin before the middle
    peak_ratio_map(movie, one, window=WINDOW).compute(scheduler="sync")
    rows = [s for s in starts_of(190, 80) if s < 75 and s + 80 > 25]
    columns = [s for s in starts_of(210, 80) if s < 75 and s + 80 > 25]
    assert len(seen) == len(rows) * len(columns)


def test_two_particles_in_a_window_are_measured_each_by_itself():
    movie, probability = scene(1, (120, 210))
    image = movie.values[0]
    particle = probability.values[0] > 0.5
    found = kernel.measure_window(image, particle, (PX, PX))
    labels, count = ndimage.label(particle)
    single = [kernel.measure_window(image, labels == k, (PX, PX)) for k in range(1, count + 1)]
    assert count == 3
    assert found == pytest.approx(np.average(single, weights=np.bincount(labels.ravel())[1:]))
    assert single[0] > 2 * single[1] > 0.04


def test_pixels_that_are_not_finite_are_left_out():
    movie, probability = scene(dtype="float32")
    whole = peak_ratio_map(movie, probability, window=WINDOW, by="particle").values
    broken = movie.copy(deep=True)
    broken[0, 50:53, 48:51] = np.nan
    broken[0, 140, 70] = np.inf
    for by in ("particle", "window"):
        found = peak_ratio_map(broken, probability, window=WINDOW, by=by).values
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found > 0, probability.values > 0)
        if by == "particle":
            np.testing.assert_allclose(found, whole, rtol=0.35)
    lost = movie.copy(data=np.full(movie.shape, np.nan, np.float32))
    np.testing.assert_allclose(peak_ratio_map(lost, probability, window=WINDOW).values, 0.02 * probability, rtol=1e-6,
                               atol=1e-30)
    unknown = probability.copy(deep=True)
    unknown[0, 0:5, 0:5] = np.nan
    for by in ("particle", "window"):
        found = peak_ratio_map(movie, unknown, window=WINDOW, by=by).values
        np.testing.assert_array_equal(np.isnan(found), np.isnan(unknown.values))


def test_scale_and_offset_of_the_counts_do_not_matter():
    movie, probability = scene()
    expected = peak_ratio_map(movie, probability, window=WINDOW).values
    found = peak_ratio_map(movie * 3.7 - 500.0, probability, window=WINDOW).values
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("by", ["window", "particle"])
def test_it_never_computes_and_says_what_was_done(by):
    def refuse(*_, **__):
        raise AssertionError("something was computed")

    movie, probability = scene(2)
    lazy = movie.chunk({"frame": 1}), probability.chunk({"frame": 1})
    with dask.config.set(scheduler=refuse):
        shown = peak_ratio_map(*lazy, by=by, crystal="Au")
    assert shown.dims == ("frame", "y", "x")
    assert shown.dtype == np.float32
    assert isinstance(shown.data, da.Array)
    for name in ("frame", "time", "y", "x"):
        xr.testing.assert_identical(shown[name], movie[name])
    step = history_of(shown.attrs)[-1]
    assert step["stage"] == "peak_ratio_map"
    assert step["parameters"] == {"by": by, "crystal": "Au", "mtf": None, "threshold": 0.5,
                                  "window": 100.0 if by == "window" else None}
    assert shown.attrs["units"] == "1"
    assert shown.attrs["pixel_size"] == PX
    assert "peak_ratio_map" in hrtem_dask.__all__


def test_frame_numbers_of_a_selection_and_crops_stay(monkeypatch):
    movie, probability = scene(3)
    chosen = {"frame": [2, 0], "y": slice(10, 180), "x": slice(4, None)}
    expected = [peak_ratio_map(movie.isel(chosen | {"frame": [i]}), probability.isel(chosen | {"frame": [i]}),
                               by="particle").values[0] for i in (2, 0)]
    some = peak_ratio_map(movie.isel(chosen), probability.isel(chosen), by="particle")
    assert some.frame.values.tolist() == [2, 0]
    assert some.y.values[0] == 10 * PX
    np.testing.assert_array_equal(some.values, expected)
    classes = xr.concat([1 - probability, probability], "class").transpose("frame", "class", "y", "x")
    named = classes.assign_coords({"class": ["background", "particle"]})
    np.testing.assert_array_equal(peak_ratio_map(movie, named, window=WINDOW).values,
                                  peak_ratio_map(movie, probability, window=WINDOW).values)


@pytest.mark.parametrize("by", ["window", "particle"])
def test_what_makes_the_probability_is_computed_once(by):
    calls = []

    def infer(block: np.ndarray) -> np.ndarray:
        calls.append(block.shape)
        return block

    movie, probability = scene(2)
    lazy = probability.chunk({"frame": 1})
    lazy = lazy.copy(data=lazy.data.map_blocks(infer, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)))
    peak_ratio_map(movie.chunk({"frame": 1}), lazy, window=WINDOW, by=by).compute(scheduler="sync")
    assert len(calls) == 2


@pytest.mark.parametrize(("change", "message"), [
    (lambda m, p: ((m, p), {"by": "windows"}), "expected 'window' or 'particle'"),
    (lambda m, p: ((m, p), {"window": 10.0}), "at least 14.4"),
    (lambda m, p: ((m, p), {"window": 9.0, "crystal": "Au"}), "at least 9.4"),
    (lambda m, p: ((m, p), {"window": -1}), "window is -1"),
    (lambda m, p: ((m, p), {"window": "100"}), "window is '100'"),
    (lambda m, p: ((m, p), {"threshold": None}), "threshold is None"),
    (lambda m, p: ((m, p), {"crystal": "Xx"}), "Xx"),
    (lambda m, p: ((m, p.isel(x=slice(1, None))), {}), "samples along x"),
    (lambda m, p: ((m, p.assign_coords(y=p.y + 0.1)), {}), "different coordinates y"),
    (lambda m, p: ((m, p.values), {}), "expected a DataArray"),
    (lambda m, p: ((m.values, p), {}), "expected"),
    (lambda m, p: ((m.expand_dims(defocus=[1.0, 2.0], axis=1), p), {}), "focal series"),
    (lambda m, p: ((m, p.astype(complex)), {}), "real numbers"),
    (lambda m, p: ((m.isel(frame=slice(0)), p.isel(frame=slice(0))), {}), "at least one frame"),
])
def test_bad_input_is_named(change, message):
    arguments, options = change(*scene())
    with pytest.raises(InputError, match=message):
        peak_ratio_map(*arguments, **options)


def test_a_window_of_too_many_pixels_and_no_calibration_are_refused():
    fine = make_movie(da.zeros((1, 4096, 4096), np.uint16, chunks=1024), pixel_size=0.02)
    with pytest.raises(InputError, match="at most 2048"):
        peak_ratio_map(fine, fine.astype(np.float32))
    assert peak_ratio_map(fine, fine.astype(np.float32), window=40.0).shape == (1, 4096, 4096)
    bare = make_movie(np.zeros((1, 40, 40)))
    with pytest.raises(CalibrationError, match="pixel size"):
        peak_ratio_map(bare, bare)


def test_a_window_larger_than_the_frame_is_the_frame():
    movie, probability = scene()
    shown = peak_ratio_map(movie, probability, window=500.0).values[0]
    factor = kernel.measure_window(movie.values[0], probability.values[0] > 0.5, (PX, PX))
    np.testing.assert_allclose(shown, probability.values[0] * factor, rtol=1e-6, atol=1e-30)
