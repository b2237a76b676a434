"""The table of particles: geometry, laziness, joins, and the independence from chunks."""

from __future__ import annotations

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hrtem_dask import analyse_particles
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.core.schema import PARTICLES
from hrtem_dask.kernels.particle import figure1_panels, measure_particles

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
    np.testing.assert_allclose(a.zone_axis_score, 1 / a.peak_ratio)
    assert not a.touches_border.any()
    assert b.touches_border.all()
    assert (b.n_pairs == 0).all()
    assert b.peak_ratio.isna().all()
    assert (b.zone_axis_score == 0).all()


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


def test_figure_1_has_four_panels_that_belong_together():
    movie, labels, probability = scene(1)
    planes = movie.values[0], probability.values[0], labels.values[0]
    panels = figure1_panels(*planes, 1, pixel_size=(PX, PX))
    assert panels.image.shape == panels.probability.shape == panels.mask.shape
    table = measure_particles(*planes, dy=PX, dx=PX)
    assert panels.peak_ratio == pytest.approx(table.peak_ratio[0])
    assert panels.pairs.detected.sum() == table.n_pairs[0]
    spectrum = panels.particle_spectrum
    brightest = panels.pairs.iloc[0]
    i, j = abs(spectrum.k_y - brightest.g_y).argmin(), abs(spectrum.k_x - brightest.g_x).argmin()
    in_range = np.hypot(spectrum.k_y[:, None], spectrum.k_x) > 0.25
    assert spectrum.power[i, j] > 0.9 * spectrum.power[in_range].max()
    with pytest.raises(InputError, match="no particle 7"):
        figure1_panels(*planes, 7, pixel_size=(PX, PX))


def test_labels_come_from_the_probability_where_none_are_given():
    movie, labels, probability = scene(2)
    expected = analyse_particles(movie, probability, labels=labels).compute()
    table = analyse_particles(movie.chunk(frame=1), probability.chunk(frame=1, y=70), threshold=0.5).compute()
    same = ["frame", "y", "x", "area", "n_pairs", "peak_ratio"]
    pd.testing.assert_frame_equal(table[same].reset_index(drop=True), expected[same].reset_index(drop=True))
    large = analyse_particles(movie, probability, min_area=1000).compute()  # the second one has about 450
    assert large.frame.tolist() == [0, 1]
    assert len(analyse_particles(movie, probability, threshold=0.9).compute()) == 0
