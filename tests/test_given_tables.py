"""Odd things given to pairs, particles, tracks and verdicts: right where they can be, else refused in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hrtem_dask import (
    analyse_particles,
    filter_frames,
    fourier_peak_pairs,
    frame_quality,
    label_particles,
    link_particles,
    peak_ratio_map,
)
from hrtem_dask.analysis import particles as particles_module
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.core.schema import PARTICLES
from hrtem_dask.kernels import tally

PX = 0.5
ANGLES = 0.3, 1.5  # from +y towards +x


@pytest.fixture(scope="module")
def oblique() -> tuple[xr.DataArray, xr.DataArray]:
    """One particle with two fringes that are along no axis."""
    y, x = np.mgrid[:110, :120] * PX
    disc = np.hypot(y - 27, x - 30) < 16
    fringes = [a * np.cos(2 * np.pi / 2.355 * (y * np.cos(t) + x * np.sin(t)))
               for a, t in zip((14, 10), ANGLES, strict=True)]
    movie = make_movie(np.random.default_rng(3).poisson(40 + disc * sum(fringes))[None], pixel_size=PX, time=[0.5])
    return movie, movie.copy(data=0.9 * disc[None])


@pytest.mark.parametrize("backwards", [(), ("y",), ("x",), ("y", "x")])
@pytest.mark.parametrize("large", [False, True])
def test_directions_are_those_of_coordinates_that_run_backwards(oblique, backwards, large, monkeypatch):
    if large:
        monkeypatch.setattr(particles_module, "PARTITION_PIXELS", 1000)
        monkeypatch.setattr(tally, "TILE", 64)
    movie, probability = (a.isel(dict.fromkeys(backwards, slice(None, None, -1))) for a in oblique)
    row = analyse_particles(movie, probability).compute().iloc[0]
    np.testing.assert_allclose(row[["g_angle", "g_angle_2"]].astype(float), ANGLES, atol=0.02)
    np.testing.assert_allclose([row.y, row.x], [27, 30], atol=0.1)


def test_a_particle_without_a_finite_pixel_is_a_row_without_pairs(oblique):
    movie, probability = oblique
    both = xr.concat([movie, movie * np.nan], "frame").assign_coords(frame=[0, 1], time=("frame", [0.0, 1.0]))
    twice = both.copy(data=np.concatenate([probability.values] * 2))
    table = analyse_particles(both, twice).compute()
    assert table.n_pairs.tolist() == [2, 0]
    assert np.isnan(table.peak_ratio.iloc[1])
    assert table.zone_axis_score.iloc[1] == 0
    shown = peak_ratio_map(both, twice, by="particle").values
    np.testing.assert_allclose(shown[1], 0.02 * twice.values[1], rtol=1e-6)


def test_a_movie_of_which_no_frame_is_left_gives_the_empty_table(oblique):
    movie, probability = (a[:0] for a in oblique)
    assert label_particles(probability).compute().shape == (0, 110, 120)
    table = analyse_particles(movie, probability).compute()
    assert len(table) == 0
    assert table.dtypes.equals(PARTICLES.empty().dtypes)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"crystal": "Xx"}, InputError, "no lattice constants"),
    ({"crystal": "missing.cif"}, MissingInputError, "no such file"),
    ({"mtf": 3}, InputError, "mtf is 3; expected a function"),
    ({"frames_per_partition": 0}, InputError, "frames_per_partition is 0"),
    ({"frames_per_partition": 1.5}, InputError, "frames_per_partition is 1.5"),
])
def test_options_of_the_table_are_refused_before_anything_is_computed(oblique, options, error, message):
    with pytest.raises(error, match=message):
        analyse_particles(*oblique, **options)


def test_movies_that_hold_no_counts_or_no_pixels_are_refused(oblique):
    movie, probability = oblique
    with pytest.raises(InputError, match="holds complex128"):
        analyse_particles(movie * 1j, probability)
    with pytest.raises(InputError, match="at least one pixel"):
        analyse_particles(movie[:, :0], probability[:, :0])
    with pytest.raises(InputError, match=r"mtf is 'camera\.json'"):
        peak_ratio_map(movie, probability, mtf="camera.json")


@pytest.mark.parametrize("measure", [lambda m, p: analyse_particles(m, p).compute(), lambda m, p: frame_quality(m)])
def test_times_are_seconds_and_frames_are_numbers(oblique, measure):
    movie, probability = (a.drop_vars("time") for a in oblique)
    timed = movie.assign_coords(time=("frame", np.array([1500], "timedelta64[ms]")))
    assert measure(timed, probability).time.tolist() == [1.5]
    with pytest.raises(InputError, match=r"holds datetime64.*numpy\.timedelta64"):
        measure(movie.assign_coords(time=("frame", np.array(["2024-05-01"], "datetime64[ns]"))), probability)
    with pytest.raises(InputError, match=r"assign_coords\(frame=range\(1\)\)"):
        measure(movie.assign_coords(frame=["a"]), probability.assign_coords(frame=["a"]))


@pytest.mark.parametrize("wrong", [
    {"mask": lambda disc: np.where(disc, 0.9, 0.02)}, {"mask": lambda disc: np.where(disc, 1, np.nan)},
    {"taper": 0}, {"taper": np.nan}, {"alpha": "few"}, {"d_range": ("1", "2")}, {"d_range": (1.0, np.inf)},
    {"information_limit": "0.8"}, {"mtf": 1.0},
])
def test_pairs_refuse_what_is_no_mask_or_no_number(oblique, wrong):
    movie, probability = oblique
    disc = probability.values[0] > 0.5
    (name, value), = wrong.items()
    options = {"mask": disc, name: value(disc) if name == "mask" else value}
    with pytest.raises(InputError, match=f"{'the mask' if name == 'mask' else name} (is|holds) "):
        fourier_peak_pairs(movie.values[0], pixel_size=PX, **options)


def test_any_two_valued_mask_is_the_same_and_complex_images_are_refused(oblique):
    image, disc = oblique[0].values[0], oblique[1].values[0] > 0.5
    expected = fourier_peak_pairs(image, disc, pixel_size=PX)
    for mask in (disc.astype(float), disc.astype(np.uint8) * 7, xr.DataArray(disc)):
        pd.testing.assert_frame_equal(fourier_peak_pairs(image, mask, pixel_size=PX), expected)
    with pytest.raises(InputError, match="image holds complex128"):
        fourier_peak_pairs(image * 1j, disc, pixel_size=PX)


def seen(n: int = 20) -> pd.DataFrame:
    """Two particles that stay where they are; the larger one is well aligned."""
    rows = pd.DataFrame({"frame": np.repeat(np.arange(n), 2), "particle": np.tile([1, 2], n)})
    first = rows.particle == 1
    return rows.assign(y=np.where(first, 20.0, 90.0), x=40.0, area=np.where(first, 300.0, 500.0), n_pairs=3,
                       peak_ratio=1.5, zone_axis_score=0.99)


def test_tracks_have_the_same_numbers_however_the_rows_are_sorted():
    table = seen()
    shuffled = table.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(link_particles(shuffled).sort_index(), link_particles(table))


@pytest.mark.parametrize("use", [link_particles, lambda t: filter_frames(t.assign(track=0), max_ratio=3),
                                 lambda t: filter_frames(seen(), max_ratio=3, frames=t.assign(reason="usable"))])
@pytest.mark.parametrize("bad", [np.nan, 2.5])
def test_a_frame_that_is_no_number_is_refused(use, bad):
    table = seen().query("particle == 1").astype({"frame": float})
    table.loc[table.frame == 3, "frame"] = bad
    with pytest.raises(InputError, match=rf"1 row\(s\) whose frame is no whole number, the first is {bad}"):
        use(table)


def test_an_unknown_score_is_not_kept_by_a_target_rate_and_does_not_count_in_it():
    table = seen(100).query("particle == 1")
    table.loc[table.frame == 7, "zone_axis_score"] = np.nan
    verdicts = filter_frames(table, max_false_keep=0.05)
    assert verdicts.keep.sum() == 99
    assert not verdicts.keep[7]
    assert verdicts.attrs["threshold"]["expected_false_keep"] == pytest.approx(0.01)
    with pytest.raises(InputError, match=r"no track \[0\]"):
        filter_frames(link_particles(table), max_ratio=3, track=[0])
