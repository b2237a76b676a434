"""The table of particles: geometry, laziness, joins, and the independence from chunks."""

from __future__ import annotations

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from dask._task_spec import convert_legacy_graph

from hrtem_dask import analyse_particles, fourier_peak_pairs, label_particles, zone_axis_score
from hrtem_dask.analysis import particles as module
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.core.schema import PARTICLES
from hrtem_dask.kernels import tally as squares_module
from hrtem_dask.kernels.particle import measure_particles

PX = 0.5


def scene(n_frames: int = 3, n: int = 160) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """A movie with one [100]-like particle that moves 2 pixels a frame, and one cut by the border."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:n, :n] * PX
    counts, labels = [], []
    for i in range(n_frames):
        a = np.hypot(y - 40, x - 30 - 2 * i * PX) < 20
        b = np.hypot(y - 75, x - 70) < 12
        fringe = np.cos(2 * np.pi * 0.49 * x) + 0.7 * np.cos(2 * np.pi * 0.49 * y)
        counts.append(rng.poisson(40 + 9 * fringe * a))
        labels.append(a + 2 * b)
    movie = make_movie(np.array(counts, dtype=np.uint16), pixel_size=PX, time=0.1 * np.arange(n_frames))
    labels = movie.copy(data=np.array(labels, dtype=np.int32))
    return movie, labels, movie.copy(data=np.where(labels > 0, 0.8, 0.1).astype(np.float32))


def test_positions_sizes_and_pairs_are_those_of_the_scene():
    movie, labels, probability = scene()
    table = analyse_particles(movie, probability, labels=labels).compute()
    assert list(table.columns) == PARTICLES.names
    assert table.dtypes.astype(str).tolist() == [c.dtype for c in PARTICLES.columns]
    a, b = table[table.particle == 1], table[table.particle == 2]
    np.testing.assert_allclose(a.y, 40, atol=0.05)
    np.testing.assert_allclose(a.x, 30 + 2 * PX * a.frame, atol=0.05)
    np.testing.assert_allclose(a.area, np.pi * 20**2, rtol=0.01)
    np.testing.assert_allclose(a[["diameter", "major_axis", "minor_axis"]], 40, rtol=0.01)
    np.testing.assert_allclose(table.time, 0.1 * table.frame)
    np.testing.assert_allclose(table.probability, 0.8, rtol=1e-6)
    assert (a.n_pairs == 2).all()
    np.testing.assert_allclose(a.peak_ratio, 1 / 0.7**2, rtol=0.2)
    disc = labels.values[0] == 1
    pairs = fourier_peak_pairs(movie.values[0], disc, pixel_size=PX)
    assert a.zone_axis_score.iloc[0] == zone_axis_score(pairs, diameter=float(a.diameter.iloc[0]))
    assert ((a.zone_axis_score > 0) & (a.zone_axis_score <= 1)).all()
    np.testing.assert_allclose(sorted(a[["g_angle", "g_angle_2"]].abs().iloc[0]), [0, np.pi / 2], atol=0.01)
    np.testing.assert_allclose(a[["d_spacing", "d_spacing_2"]], 1 / 0.49, rtol=0.005)
    assert (a[["first_shell", "first_shell_detected"]] == 2).all(axis=None)
    assert (table.zone_axis == "").all()
    np.testing.assert_allclose(a.circularity, 1, atol=0.02)
    assert not a.touches_border.any()
    assert b.touches_border.all()
    assert (b.n_pairs == 0).all()
    assert b.peak_ratio.isna().all()
    assert (b.zone_axis_score == 0).all()
    assert b[["g_angle", "d_spacing", "g_angle_2", "d_spacing_2"]].isna().all(axis=None)
    named = analyse_particles(movie, probability, labels=labels, crystal="Au").compute()
    assert named.zone_axis.tolist() == ["[100]", ""] * 3


def test_ellipse_axes_and_orientation_follow_the_convention():
    y, x = np.mgrid[:120, :200] * np.array([0.5, 0.4])[:, None, None]
    angle = 0.4  # from +y towards +x
    along = (y - 30) * np.cos(angle) + (x - 40) * np.sin(angle)
    across = -(y - 30) * np.sin(angle) + (x - 40) * np.cos(angle)
    mask = ((along / 20) ** 2 + (across / 10) ** 2 < 1).astype(np.int32)
    row = measure_particles(np.zeros(mask.shape), mask, mask, dy=0.5, dx=0.4).iloc[0]
    assert row.major_axis == pytest.approx(40, rel=0.01)
    assert row.minor_axis == pytest.approx(20, rel=0.01)
    assert row.orientation == pytest.approx(angle, abs=0.01)
    flipped = measure_particles(np.zeros(mask.shape), mask, mask, dy=-0.5, dx=0.4).iloc[0]
    assert flipped.orientation == pytest.approx(-angle, abs=0.01)
    assert flipped.y == pytest.approx(-row.y)


@pytest.mark.parametrize("chunks", [(1, 64, 37), (3, 160, 160), (2, 50, 160)])
def test_result_does_not_depend_on_chunks_or_batches(chunks):
    movie, labels, probability = scene()
    expected = analyse_particles(movie, probability, labels=labels).compute().reset_index(drop=True)
    chunked = [a.chunk(dict(zip(a.dims, chunks, strict=True))) for a in (movie, probability, labels)]
    table = analyse_particles(chunked[0], chunked[1], labels=chunked[2], frames_per_partition=2)
    assert table.npartitions == 2
    pd.testing.assert_frame_equal(table.compute().reset_index(drop=True), expected)


def test_crop_and_stride_keep_positions():
    movie, labels, probability = scene(1)
    whole = analyse_particles(movie, probability, labels=labels).compute()
    window = {"y": slice(10, 150), "x": slice(4, 130)}
    part = analyse_particles(movie.isel(window), probability.isel(window), labels=labels.isel(window)).compute()
    pd.testing.assert_frame_equal(part.iloc[:1][["y", "x", "area", "n_pairs"]],
                                  whole.iloc[:1][["y", "x", "area", "n_pairs"]])
    strided = {"y": slice(None, None, 2), "x": slice(None, None, 2)}
    coarse = analyse_particles(movie.isel(strided), probability.isel(strided), labels=labels.isel(strided)).compute()
    np.testing.assert_allclose(coarse.loc[0, ["y", "x"]].astype(float), whole.loc[0, ["y", "x"]].astype(float),
                               atol=0.3)


def test_scale_and_offset_of_the_counts_change_nothing_but_rounding():
    movie, labels, probability = scene(1)
    plain = analyse_particles(movie, probability, labels=labels).compute()
    other = analyse_particles(movie * 3.7 - 500.0, probability, labels=labels).compute()
    pd.testing.assert_frame_equal(plain, other, rtol=1e-6)


def test_it_is_lazy_and_one_batch_is_one_partition():
    def refuse(*_, **__):
        raise AssertionError("something was computed")

    data = da.map_blocks(refuse, chunks=((1,) * 40, (64,), (64,)), dtype=np.float32, meta=np.zeros((0, 0, 0), "f4"))
    movie = make_movie(data, pixel_size=PX)
    table = analyse_particles(movie, movie, labels=movie.copy(data=data.astype(np.int32)))
    assert isinstance(table, dd.DataFrame)
    assert table.npartitions == 3  # 40 frames in batches of 16
    assert list(table.columns) == PARTICLES.names
    with pytest.raises(AssertionError, match="something was computed"):
        table.compute(scheduler="synchronous")


def test_frames_without_particles_give_an_empty_table_with_dtypes():
    movie, labels, probability = scene(2)
    with dask.config.set(scheduler="synchronous"):
        table = analyse_particles(movie, probability, labels=labels * 0).compute()
    assert len(table) == 0
    assert table.dtypes.astype(str).tolist() == [c.dtype for c in PARTICLES.columns]
    mixed = labels.copy(data=labels.values * np.array([0, 1], dtype=np.int32)[:, None, None])
    assert analyse_particles(movie, probability, labels=mixed, frames_per_partition=1).compute().frame.eq(1).all()


def test_classes_and_missing_coordinates_of_the_probability():
    movie, labels, probability = scene(1)
    classes = xr.concat([1 - probability, probability], dim="class").transpose("frame", "class", "y", "x")
    classes = classes.assign_coords({"class": ["background", "particle"]})
    bare = xr.DataArray(probability.values, dims=("frame", "y", "x"))
    for given in (classes, bare, classes.isel({"class": [0]})):
        table = analyse_particles(movie, given, labels=labels).compute()
        np.testing.assert_allclose(table.probability, 0.8, rtol=1e-6)
    with pytest.raises(InputError, match="classes called"):
        analyse_particles(movie, classes.assign_coords({"class": ["a", "b"]}), labels=labels)


def test_what_does_not_match_is_refused():
    movie, labels, probability = scene(2)
    with pytest.raises(InputError, match="different coordinates x"):
        analyse_particles(movie, probability.assign_coords(x=probability.x + 1e-3), labels=labels)
    with pytest.raises(InputError, match="samples along frame"):
        analyse_particles(movie, probability[:1], labels=labels)
    with pytest.raises(InputError, match="different coordinates frame"):
        analyse_particles(movie, probability.isel(frame=[1, 0]), labels=labels)
    with pytest.raises(InputError, match="integers"):
        analyse_particles(movie, probability, labels=labels * 1.0)
    with pytest.raises(InputError, match="isel"):
        analyse_particles(movie.expand_dims(defocus=[1.0]), probability, labels=labels)
    with pytest.raises(CalibrationError, match="pixel size"):
        analyse_particles(make_movie(movie.values), probability, labels=labels)


@pytest.fixture(scope="module")
def large_scene() -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """One frame of 300 x 260 pixels: discs with fringes, one with a hole, a frame-wide bar, specks, and a spiral."""
    rng = np.random.default_rng(11)
    i, j = np.mgrid[:300, :260]
    mask = np.zeros(i.shape, bool)
    for y, x, radius in ((50, 50, 24), (100, 98, 20), (199, 60, 22), (150, 200, 30), (0, 130, 15), (249, 249, 21)):
        mask |= np.hypot(i - y, j - x) < radius
    mask &= np.hypot(i - 150, j - 200) > 6
    mask[280:288] = True
    mask[(rng.random(mask.shape) < 0.0003)] = True
    fringe = np.cos(2 * np.pi * 0.49 * PX * j) + 0.7 * np.cos(2 * np.pi * 0.49 * PX * i)
    counts = rng.poisson(60 + 14 * fringe * mask)[None].astype(np.uint16)
    movie = make_movie(counts, pixel_size=PX, frame=[4], time=[2.0])
    p = np.where(mask, rng.uniform(0.55, 1, mask.shape), rng.uniform(0, 0.45, mask.shape)).astype(np.float32)
    probability = movie.copy(data=p[None])
    return movie, label_particles(probability), probability


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> int:
    """Frames of any size are large, and the squares small."""
    monkeypatch.setattr(module, "PARTITION_PIXELS", 0)
    monkeypatch.setattr(squares_module, "TILE", 100)
    return 100


def whole(movie: xr.DataArray, labels: xr.DataArray, probability: xr.DataArray, **options) -> pd.DataFrame:
    return measure_particles(movie.values[0], probability.values[0], labels.values[0], dy=PX, dx=PX, frame=4, time=2.0,
                             **options)


def test_large_frames_give_the_same_numbers_bit_for_bit(large_scene, squares):
    movie, labels, probability = large_scene
    expected = whole(movie, labels, probability, tile=squares)
    assert (expected.n_pairs >= 2).sum() >= 5
    for chunks in ((1, 300, 260), (1, 41, 77)):
        lazy = [a.chunk(dict(zip(a.dims, chunks, strict=True))) for a in (movie, probability, labels)]
        for given in (None, lazy[2]):
            table = analyse_particles(lazy[0], lazy[1], labels=given)
            assert isinstance(table, dd.DataFrame)
            assert table.npartitions == 1
            found = table.compute(scheduler="synchronous").reset_index(drop=True)
            pd.testing.assert_frame_equal(found, expected, check_exact=True)
    in_memory = analyse_particles(movie, probability).compute(scheduler="synchronous").reset_index(drop=True)
    pd.testing.assert_frame_equal(in_memory, expected, check_exact=True)


def test_only_the_spots_of_particles_wider_than_a_square_depend_on_squares(large_scene):
    movie, labels, probability = large_scene
    small, large = (whole(movie, labels, probability, tile=tile) for tile in (100, 4096))
    shapes = [c for c in small.loc[:, :"touches_border"] if c != "probability"]
    pd.testing.assert_frame_equal(small[shapes], large[shapes], check_exact=True)
    np.testing.assert_allclose(small.probability, large.probability, rtol=1e-14)
    side = np.array([np.ptp(np.argwhere(labels.values[0] == n), axis=0).max() + 1 for n in small.particle])
    wide = side + 2 * 17 > 100  # 17 pixels are the margin of a cut-out
    assert wide.sum() == 1  # the bar
    assert len(shapes) == 12
    pd.testing.assert_frame_equal(small[~wide], large[~wide], rtol=1e-14)


def test_shapes_agree_with_a_plain_calculation(large_scene, squares):
    movie, labels, probability = large_scene
    table = analyse_particles(movie, probability).compute(scheduler="synchronous").set_index("particle")
    assert table.index.tolist() == list(range(1, int(labels.max()) + 1))
    for n, row in table.iterrows():
        i, j = np.nonzero(labels.values[0] == n)
        p = probability.values[0][i, j].astype(np.float64)
        moments = np.cov(np.stack([i, j]) * PX, bias=True).reshape(2, 2) + np.eye(2) * PX**2 / 12
        axes = 4 * np.sqrt(np.linalg.eigvalsh(moments))
        got = row[["y", "x", "area", "minor_axis", "major_axis", "probability"]].astype(float)
        np.testing.assert_allclose(got, [i.mean() * PX, j.mean() * PX, i.size * PX**2, *axes, p.mean()], rtol=1e-10)
        edge = (i == 0) | (j == 0) | (i == 299) | (j == 259)
        assert row.touches_border == edge.any()


def test_min_area_and_thresholds_of_large_frames_are_those_of_label_particles(large_scene, squares):
    movie, _, probability = large_scene
    labels = label_particles(probability, threshold=0.6, min_area=2.0)
    expected = whole(movie, labels, probability, tile=squares)
    found = analyse_particles(movie, probability, threshold=0.6, min_area=2.0).compute(scheduler="synchronous")
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected)
    assert len(found) < labels.size
    labels = labels.copy(data=labels.values * 7 - 1)  # gaps, and -1 where there is nothing, as a campaign stores it
    sparse = analyse_particles(movie, probability, labels=labels).compute(scheduler="synchronous")
    assert sparse.particle.tolist() == (7 * expected.particle - 1).tolist()
    shown = [c for c in expected if c != "particle"]
    pd.testing.assert_frame_equal(sparse[shown].reset_index(drop=True), expected[shown])
    nothing = analyse_particles(movie, probability * 0).compute(scheduler="synchronous")
    pd.testing.assert_frame_equal(nothing, PARTICLES.empty())


def test_no_task_of_a_large_frame_waits_for_pixels_of_all_of_it():
    def refuse(*_, **__):
        raise AssertionError("something was computed")

    chunks = (1, 1), (2048,) * 5, (2048,) * 6
    data = da.map_blocks(refuse, chunks=chunks, dtype=np.float32, meta=np.zeros((0, 0, 0), "f4"))
    movie = make_movie(data, pixel_size=PX)
    table = analyse_particles(movie, movie.copy(data=data + 1))
    assert table.npartitions == 2
    graph = convert_legacy_graph(dict(table.__dask_graph__()))
    needs: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for key, task in graph.items():
        stage = str(key[0] if isinstance(key, tuple) else key).split("-")
        if stage[0] == "particles":
            needs.setdefault(stage[1], set()).update(
                d[0].split("-")[1] if d[0].startswith("particles-") else "pixels" for d in task.dependencies
                if isinstance(d, tuple))
            counts[stage[1]] = max(counts.get(stage[1], 0), len(task.dependencies))
    assert needs["found"] == {"counted"}
    assert needs["table"] == {"spots"}
    assert needs["spots"] == {"part"}
    assert needs["survey"] == {"pixels"}
    assert needs["part"] == {"pixels", "runs"}
    assert counts["survey"] == 2  # a block of the probability, and the options
    assert counts["spots"] == 5  # four parts
    # the movie is read for the second pass only after the first, and again: no pixel waits in between
    reading = [t for t in graph.values() if any(str(d).startswith("particles-found") for d in t.dependencies)]
    assert len(reading) >= 2 * 30


def test_labels_come_from_the_probability_where_none_are_given():
    movie, labels, probability = scene(2)
    expected = analyse_particles(movie, probability, labels=labels).compute()
    table = analyse_particles(movie.chunk(frame=1), probability.chunk(frame=1, y=70), threshold=0.5).compute()
    same = ["frame", "y", "x", "area", "n_pairs", "peak_ratio"]
    pd.testing.assert_frame_equal(table[same].reset_index(drop=True), expected[same].reset_index(drop=True))
    large = analyse_particles(movie, probability, min_area=1000).compute()  # the second one has about 450
    assert large.frame.tolist() == [0, 1]
    assert len(analyse_particles(movie, probability, threshold=0.9).compute()) == 0
