"""Columns of atoms found in a probability and measured in images: the table, its limits, its independence of chunks."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from column_scenes import as_probability, draw_image, pair_up, probability_of, scene

import hrtem_dask.analysis.column_graph as graph
import hrtem_dask.analysis.columns as stage
from hrtem_dask import find_columns
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.core.schema import COLUMNS, TABLES


@pytest.fixture(scope="module")
def two_frames():
    return scene(frames=2)


@pytest.fixture(scope="module")
def table(two_frames):
    movie, probability, _ = two_frames
    return find_columns(probability, image=movie, crystal="Au").compute(scheduler="sync")


def same(a, b, **options):
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True), rtol=1e-7, atol=1e-9, **options)


def test_every_column_is_found_and_none_invented(table, two_frames):
    for frame, places in enumerate(two_frames[2]):
        rows = table[table.frame == frame]
        inside = ((places > 0.15) & (places < 25.35)).all(axis=1)
        found, true = pair_up(rows, places, 0.3)
        assert len(found) == len(rows) == len(set(true))
        assert inside.sum() <= len(rows) <= len(places)
        assert rows.column.tolist() == list(range(1, len(rows) + 1))


def test_table_is_what_the_schema_says(table, two_frames):
    assert TABLES["columns"] is COLUMNS
    lazy = find_columns(two_frames[1])
    assert list(table.columns) == COLUMNS.names == list(lazy.columns)
    assert (lazy.dtypes.drop("class") == table.dtypes.drop("class")).all()
    assert table["class"].cat.categories.tolist() == ["column"]
    assert table.time.unique().tolist() == [0.0, 0.1]
    assert table.probability.between(0.95, 1).all()


def test_places_are_better_than_a_tenth_of_an_angstrom(table, two_frames):
    good = table[table.fitted]
    assert len(good) > 0.5 * len(table)  # the others are surer by the perfect probability
    off = []
    for frame, places in enumerate(two_frames[2]):
        rows = good[good.frame == frame]
        found, true = pair_up(rows, places)
        off.append(rows[["y", "x"]].to_numpy()[found] - places[true])
    assert np.sqrt(np.mean(np.concatenate(off) ** 2)) < 0.07


def test_nothing_is_computed_before_it_is_asked_for(two_frames):
    movie, probability, _ = two_frames

    def fail(block):
        raise AssertionError("computed")

    broken = [a.copy(data=da.from_array(a.values, chunks=(1, *a.shape[1:])).map_blocks(
        fail, dtype=a.dtype, meta=np.empty(0))) for a in (movie, probability)]
    lazy = find_columns(broken[1], image=broken[0], frames_per_partition=1)
    assert lazy.npartitions == 2
    with pytest.raises(AssertionError, match="computed"):
        lazy.compute(scheduler="sync")


def test_tiles_chunks_and_partitions_change_nothing(two_frames, table, monkeypatch):
    movie, probability, _ = two_frames
    parts = find_columns(probability.chunk({"y": 100, "class": 1}), image=movie.chunk({"frame": 1, "x": 77}),
                         crystal="Au", frames_per_partition=1)
    same(parts.compute(scheduler="sync"), table)
    bare = find_columns(probability).compute(scheduler="sync")
    monkeypatch.setattr(stage, "PARTITION_PIXELS", 1000)
    monkeypatch.setattr(graph, "TILE", 96)
    monkeypatch.setattr("hrtem_dask.kernels.column_noise.WINDOW", 32)
    monkeypatch.setattr("hrtem_dask.kernels.columns.WINDOW", 32)
    monkeypatch.setattr(graph, "WINDOW", 32)
    same(find_columns(probability).compute(scheduler="sync"), bare)


def test_large_frames_go_tile_by_tile(monkeypatch):
    movie, probability, _ = scene(n=600, dose=800, seed=3)
    whole = find_columns(probability, image=movie).compute(scheduler="sync")
    monkeypatch.setattr(stage, "PARTITION_PIXELS", 1000)
    monkeypatch.setattr(graph, "TILE", 256)
    tiled = find_columns(probability.chunk({"y": 250, "x": 170}), image=movie.chunk({"y": 333}))
    assert len(tiled.__dask_graph__()) > 40
    same(tiled.compute(scheduler="sync"), whole)


def test_gain_and_offset_of_the_counts_do_not_matter(two_frames, table):
    movie, probability, _ = two_frames
    other = movie.copy(data=movie.values.astype(np.float64) * 3.7 + 500)
    again = find_columns(probability, image=other, crystal="Au", offset=500).compute(scheduler="sync")
    pd.testing.assert_frame_equal(again, table, rtol=1e-3, atol=1e-4)
    unknown = find_columns(probability, image=other, crystal="Au").compute(scheduler="sync")
    names = [n for n in COLUMNS.names if not n.startswith("intensity")]
    pd.testing.assert_frame_equal(unknown[names], again[names])


def test_intensity_is_the_height_over_the_mean(two_frames):
    places = np.array([[6.0, 7.0], [12.0, 9.0], [18.0, 18.0]])
    heights = np.array([0.5, 1.0, 0.8])
    image = draw_image(places, heights, 256, 0.1, 50000, np.random.default_rng(0))
    movie = make_movie(image[None] + 100, pixel_size=0.1).assign_attrs(offset=100)
    table = find_columns(as_probability(probability_of(places, 256, 0.1)[None], movie), image=movie).compute()
    mean = image.mean() / (50000 * 0.01)
    assert np.allclose(table.intensity, heights / mean, atol=0.05)
    assert np.allclose(table.width, 0.45, atol=0.04)
    assert table.fitted.all()


def test_sign_of_the_contrast_of_each_frame():
    bright, probability, _ = scene(frames=2, contrast=0.4, dose=500)
    dark, _, _ = scene(frames=2, contrast=-0.4, dose=500)
    movie = bright.copy(data=np.stack([bright.values[0], dark.values[1]]))
    table = find_columns(probability, image=movie).compute(scheduler="sync")
    assert table.groupby("frame").contrast.unique().map(list).tolist() == [[1], [-1]]
    assert (table[table.frame == 1].intensity.median() < -0.2)
    assert (table[table.frame == 0].intensity.median() > 0.2)
    without = find_columns(probability).compute(scheduler="sync")
    assert (without.contrast == 0).all()
    assert without.intensity.isna().all()


def test_an_image_that_shows_nothing_leaves_the_place_of_the_maximum(two_frames):
    movie, probability, truth = two_frames
    rng = np.random.default_rng(5)
    vacuum = movie.copy(data=rng.poisson(20.0, movie.shape).astype(np.float32))
    table = find_columns(probability, image=vacuum).compute(scheduler="sync")
    assert not table.fitted.any()
    assert (table.contrast == 0).all()
    rows = table[table.frame == 0]
    found, true = pair_up(rows, truth[0])
    assert len(found) == len(rows)
    assert np.abs(rows[["y", "x"]].to_numpy()[found] - truth[0][true]).max() < 0.1
    assert (table[["y_error", "x_error"]] > 0.02).all(axis=None)


def test_an_unsure_place_has_a_larger_error_and_an_unsure_column_a_smaller_probability():
    y, x = np.mgrid[:200, :200] * 0.1
    sharp = np.exp(-((y - 5) ** 2 + (x - 5) ** 2) / 2 / 0.4**2)
    wide = 0.4**2 / 0.7**2 * np.exp(-((y - 14) ** 2 + (x - 14) ** 2) / 2 / 0.7**2)
    low = 0.6 * np.exp(-((y - 5) ** 2 + (x - 14) ** 2) / 2 / 0.4**2)
    movie = make_movie((sharp + wide + low)[None], pixel_size=0.1)
    table = find_columns(movie, threshold=0.3).compute()
    assert table[["y", "x"]].round(1).values.tolist() == [[5, 5], [5, 14], [14, 14]]
    assert table.probability.round(1).tolist() == pytest.approx([1.0, 0.6, 0.4], abs=0.05)
    assert table.y_error[0] < 0.05 < table.y_error[1] < table.y_error[2]
    assert 0.3 < table.y_error[2] < np.sqrt(0.7**2 - 0.4**2)


def test_the_threshold_is_absolute_and_of_near_maxima_the_surer_stays():
    y, x = np.mgrid[:120, :120] * 0.1
    hills = [np.exp(-((y - 6) ** 2 + (x - c) ** 2) / 2 / 0.4**2) for c in (3.0, 4.1, 8.0)]
    weak = make_movie((0.25 * hills[2])[None], pixel_size=0.1)
    assert len(find_columns(weak).compute()) == 0  # the highest of its frame, and no column
    assert len(find_columns(weak, threshold=0.2).compute()) == 1
    assert len(find_columns(weak, card={"column_threshold": 0.2}).compute()) == 1
    near = make_movie(np.maximum(0.7 * hills[0], 0.9 * hills[1])[None], pixel_size=0.1)
    assert len(find_columns(near, min_distance=0.8).compute()) == 2
    assert find_columns(near, crystal="Au").compute().x.round(1).tolist() == [4.1]


def test_a_card_that_says_nothing_and_one_that_is_none(two_frames):
    _, probability, _ = two_frames
    same(find_columns(probability, card={"column_threshold": None, "column_distance": None}).compute(),
         find_columns(probability).compute())
    with pytest.raises(InputError, match="card is 'au-columns'; expected a model or its card"):
        find_columns(probability, card="au-columns")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_columns_of_an_image_without_contrast_are_not_fitted(two_frames, value):
    movie, probability, _ = two_frames
    table = find_columns(probability[:1], image=movie[:1].astype("float32") * 0 + value).compute(scheduler="sync")
    assert len(table)
    assert not table.fitted.any()
    assert not table.contrast.any()


def test_frames_without_columns_have_no_rows(two_frames):
    movie, probability, _ = two_frames
    empty = xr_zeros(probability)
    table = find_columns(empty, image=movie).compute(scheduler="sync")
    assert len(table) == 0
    assert list(table.columns) == COLUMNS.names
    assert table["class"].cat.categories.tolist() == ["column"]
    one = empty.copy(data=np.stack([empty.values[0], probability.values[1]]))
    assert find_columns(one, image=movie).compute(scheduler="sync").frame.unique().tolist() == [1]
    none = find_columns(probability.isel(frame=slice(0, 0)), image=movie.isel(frame=slice(0, 0)))
    assert len(none.compute()) == 0


def xr_zeros(probability):
    values = np.zeros(probability.shape, np.float32)
    values[:, 0] = 1
    return probability.copy(data=values)


def test_a_single_column_and_frames_out_of_order():
    places = np.array([[6.0, 7.04]])
    image = draw_image(places, [0.8], 128, 0.1, 3000, np.random.default_rng(1))
    movie = make_movie(np.stack([image] * 3), pixel_size=0.1, frame=[7, 2, 5])
    probability = as_probability(np.stack([probability_of(places, 128, 0.1)] * 3), movie)
    table = find_columns(probability, image=movie).compute()
    assert table.frame.tolist() == [7, 2, 5]
    assert table.fitted.all()
    assert table.column.tolist() == [1, 1, 1]
    assert np.allclose(table[["y", "x"]], places, atol=0.15)
    assert table.y.nunique() == 1


def test_places_are_coordinates_of_the_movie(two_frames, table):
    movie, probability, _ = two_frames
    turned = [a.isel(y=slice(None, None, -1)) for a in (movie, probability)]
    mirror = find_columns(turned[1], image=turned[0], crystal="Au").compute(scheduler="sync")
    a, b = (t.sort_values(["frame", "y", "x"])[["y", "x", "y_error"]].to_numpy() for t in (table, mirror))
    assert len(a) == len(b)
    assert np.median(np.abs(a - b)) < 1e-3
    assert not np.array_equal(table.y, mirror.y)


def test_pixels_too_coarse_for_the_columns(two_frames):
    movie, probability, _ = two_frames
    coarse = [a.isel(y=slice(None, None, 6), x=slice(None, None, 6)) for a in (movie, probability)]
    with pytest.raises(CalibrationError, match=r"0\.6 angstrom.*Au are 1\.67 angstrom apart.*at most 0\.56"):
        find_columns(coarse[1], image=coarse[0], crystal="Au")
    with pytest.raises(CalibrationError, match="too coarse"):
        find_columns(coarse[1])
    assert len(find_columns(coarse[1], min_distance=2.0).compute(scheduler="sync")) > 0


def test_unknown_pixels_are_no_columns_and_spoil_no_others(two_frames, table):
    movie, probability, truth = two_frames
    holes = movie.copy(data=movie.values.copy())
    spot = np.rint(truth[0][len(truth[0]) // 2] / 0.1).astype(int)
    holes.values[0, spot[0] - 1:spot[0] + 2, spot[1] - 1:spot[1] + 2] = np.nan
    unknown = probability.copy(data=probability.values.copy())
    unknown.values[0, :, :20, :20] = np.nan
    again = find_columns(unknown, image=holes, crystal="Au").compute(scheduler="sync")
    assert np.isfinite(again[["y", "x", "y_error", "x_error"]]).all(axis=None)
    a, b = (t[t.frame == 0] for t in (table, again))
    at = np.hypot(b.y - spot[0] * 0.1, b.x - spot[1] * 0.1)
    assert not b.fitted[at < 0.5].any()
    far = np.hypot(a.y - spot[0] * 0.1, a.x - spot[1] * 0.1) > 6
    far &= (a.y > 3) | (a.x > 3)
    kept = b[(at > 6) & ((b.y > 3) | (b.x > 3))]
    assert len(kept) == far.sum()
    like = kept.fitted.to_numpy() == a.fitted[far].to_numpy()  # the noise is a little different
    assert like.mean() > 0.9
    assert np.abs(kept.y.to_numpy() - a.y[far].to_numpy())[like].max() < 1e-3


def test_classes_of_a_sheet():
    places = np.array([[4.0, 4.0], [4.0, 8.0], [9.0, 5.0], [9.0, 9.0]])
    kinds = ["mo", "s2", "s1", "empty"]
    movie = make_movie(np.zeros((1, 130, 130), np.float32), pixel_size=0.1)
    maps = probability_of(places, 130, 0.1, kinds)[None]
    maps[0, 2] += 0.3 * maps[0, 1]  # a little doubt
    table = find_columns(as_probability(maps, movie, ("background", *kinds)), crystal="MoS2").compute()
    assert table["class"].tolist() == kinds
    assert table["class"].cat.categories.tolist() == kinds
    assert np.allclose(table[["y", "x"]], places, atol=0.02)


def test_a_focal_series_shares_the_places():
    _one, probability, truth = scene(n=200)
    images = [draw_image(truth[0], c * np.full(len(truth[0]), 0.8), 200, 0.1, 2000, np.random.default_rng(k))
              for k, c in enumerate((1.0, -1.0, 0.8))]
    series = make_movie(np.stack(images)[None], pixel_size=0.1, defocus=[-50, 0, 50], time=[0.0])
    alone, joint = (find_columns(probability, image=m, shift_error=0).compute(scheduler="sync")
                    for m in (series.isel(defocus=0, drop=True), series))
    errors = [t[t.fitted].y_error.median() for t in (alone, joint)]
    assert errors[1] < 0.75 * errors[0]
    found, true = pair_up(joint[joint.fitted], truth[0])
    off = joint[joint.fitted][["y", "x"]].to_numpy()[found] - truth[0][true]
    assert np.sqrt(np.mean(off**2)) < 1.3 * np.sqrt((joint[joint.fitted][["y_error", "x_error"]] ** 2).mean(axis=None))
    swapped = find_columns(probability, image=series.transpose("y", "x", "defocus", "frame"), shift_error=0)
    same(swapped.compute(scheduler="sync"), joint)


@pytest.mark.parametrize(("change", "words"), [
    ({"threshold": 1.5}, "threshold is 1.5"), ({"threshold": 0}, "threshold is 0"),
    ({"min_distance": -1}, "min_distance is -1"), ({"crystal": [2.36, 2.04]}, "min_distance"),
    ({"crystal": "Xx"}, "Xx"), ({"mtf": "camera.json"}, "mtf is"), ({"shift_error": -1}, "shift_error"),
    ({"frames_per_partition": 0}, "frames_per_partition"), ({"image": np.zeros((2, 4, 4))}, "expected the movie")])
def test_wrong_options_say_what_is_expected(two_frames, change, words):
    with pytest.raises(InputError, match=words):
        find_columns(two_frames[1], **change)


def test_wrong_arrays_say_what_is_expected(two_frames):
    movie, probability, _ = two_frames
    with pytest.raises(InputError, match="expected one of columns"):
        find_columns(probability.assign_coords({"class": ["background", "particle"]}))
    with pytest.raises(InputError, match="samples along y"):
        find_columns(probability, image=movie.isel(y=slice(0, 100)))
    with pytest.raises(InputError, match="the probability is"):
        find_columns(probability.values)
    with pytest.raises(CalibrationError, match="pixel size"):
        find_columns(probability.drop_vars(["y", "x"]))


def test_threads_give_what_one_gives(two_frames, table):
    movie, probability, _ = two_frames
    with dask.config.set(scheduler="threads", num_workers=2):
        same(find_columns(probability, image=movie, crystal="Au", frames_per_partition=1).compute(), table)
