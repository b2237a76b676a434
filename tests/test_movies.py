"""Simulated movies: scenes, frames where the truth says, stores that continue and do not depend on workers."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from movie_scenes import SMALL, TINY, Hopper, one_particle
from skimage.registration import phase_cross_correlation

from hrtem_dask import open_movie, simulate
from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.simulate.camera import Camera
from hrtem_dask.simulate.microscope import Optics
from hrtem_dask.simulate.recipe import Field
from hrtem_dask.simulate.scenes import Rock, Wander

OPTIONS = {"n_frames": 3, "seed": 2, "shape": (96, 128), "pixel_size": 0.5, "frames_per_wave": 2, "dose": 3000.0}


def test_movie_shows_its_particles_where_it_says():
    ds = simulate.movie(TINY, **OPTIONS)
    assert ds.movie.dims == ds.truth.dims == ("frame", "y", "x")
    assert ds.movie.shape == ds.truth.shape == (3, 96, 128)
    assert ds.movie.dtype == np.uint16
    assert ds.movie.attrs["pixel_size"] == 0.5
    assert ds.movie.attrs["dose"] == 3000.0
    seen = 0
    for i in range(3):
        image, truth = ds.movie.values[i].astype(float), ds.truth.values[i]
        assert 0.02 < truth.mean() < 0.6
        assert image[truth].mean() < 0.97 * image[~truth].mean()
        for y, x, number in zip(ds.particle_y.values[i], ds.particle_x.values[i], ds.particle.values, strict=True):
            if 0 <= y < 47.5 and 0 <= x < 63.5:
                assert ds.labels.values[i, round(y / 0.5), round(x / 0.5)] == number
                seen += 1
                there = np.argwhere(ds.labels.values[i] == number) * 0.5
                assert np.hypot(*(there - [y, x]).T).max() < 18  # and not on the other side too
    assert seen >= 3
    np.testing.assert_array_equal(ds.truth, ds.labels > 0)
    areas = np.array([[(frame == p).sum() * 0.25 for p in ds.particle.values] for frame in ds.labels.values])
    np.testing.assert_allclose(ds.particle_area, areas)
    assert not np.array_equal(ds.particle_y[0] - ds.drift_y[0], ds.particle_y[2] - ds.drift_y[2])
    np.testing.assert_array_equal(ds.movie, simulate.movie(TINY, **OPTIONS).movie)


@pytest.mark.parametrize(("bad", "says"), [
    ({"n_frames": 0}, "n_frames is 0; expected a whole number of at least 1"), ({"n_frames": 2.5}, "n_frames is 2.5"),
    ({"n_frames": True}, "n_frames is True"), ({"shape": (64,)}, r"shape is \(64,\); expected two whole numbers"),
    ({"shape": 64}, "shape is 64"), ({"shape": (64.5, 64)}, "two whole numbers"), ({"shape": "ab"}, "shape is 'ab'"),
    ({"shape": (10**7, 10**7)}, "a cell of 5e.06 angstrom, the largest is 2000"), ({"drift": np.nan}, "drift is nan"),
    ({"drift": 1e9}, "the largest is 2000"), ({"turn": -1}, "turn is -1; expected a finite number of at least 0"),
    ({"wander": np.inf}, "wander is inf"), ({"turn": "4"}, "turn is '4'"), ({"seed": -1}, "seed is -1"),
    ({"seed": None}, "seed is None"), ({"dose": np.inf}, "dose is inf; expected a finite number above 0 .electrons"),
    ({"dose": "9"}, "dose is '9'"), ({"frame_time": np.nan}, "frame_time is nan"), ({"workers": 0}, "workers is 0"),
    ({"frames_per_wave": 1.5}, "frames_per_wave is 1.5"), ({"focus_drift": -3}, "focus_drift is -3"),
    ({"defocus": 600}, "give optics=Optics"), ({"defocus": []}, "defocus is .."), ({"defocus": "60"}, "focal series"),
    ({"defocus": [1, np.nan]}, "a defocus is nan"), ({"defocus": [5, 5]}, "every defocus once"),
    ({"optics": 3}, "optics is 3"), ({"optics": Optics(defocus=np.nan)}, "optics.defocus is nan"),
    ({"optics": Optics(aperture=0)}, "aperture is 0; expected a number above 0"), ({"camera": "K2"}, "camera is 'K2'"),
    ({"optics": Optics(drift=(1, 2, 3))}, r"\(y, x\) in angstrom"), ({"optics": Optics(blur=-1)}, "blur is -1"),
    ({"motion": "rock"}, "motion is 'rock'"), ({"motion": Rock}, "as Rock.tilt=3.0."), ({"store": 5}, "store is 5"),
    ({"progress": 1}, "progress is 1"), ({"client": 3}, "client is 3"), ({"recipe": 5}, "recipe is 5"),
    ({"pixel_size": (0.4, 0.5)}, "pixels are square"),
    ({"pixel_size": 1.5}, r"pixel_size is 1.5 angstrom, too coarse .* lost: Au: d = 2.356, 2.04"),
])
def test_movie_refuses_what_makes_no_sense(bad, says):
    with pytest.raises(InputError, match=says):
        simulate.movie(**({"recipe": TINY} | SMALL | bad))


@pytest.mark.parametrize(("camera", "says"), [
    ({"gain": 500.0}, r"gain is 500 .* 640 electrons .* Expected a gain of at most 43.8"),
    ({"gain": 100.0}, "at most 43.8"), ({"gain": 44.0}, "at most 43.8"), ({"offset": 70000.0}, "well below 65535"),
    ({"offset": -5000.0}, "offset is -5000 counts; expected 0 or more"),
    ({"gain": 44.0, "read_noise": 100.0}, r"at most 26\.\d"), ({"gain": 20.0, "offset": 40000.0}, r"at most 17\.\d"),
])
def test_frames_that_16_bit_cannot_hold_are_refused(camera, says):
    with pytest.raises(InputError, match=says) as error:
        simulate.movie(TINY, **SMALL | {"dose": 4000.0, "pixel_size": 0.4}, camera=Camera(0.4, 1, **camera))
    if "at most" in says:  # and what it proposes holds the frames
        gain = float(str(error.value).split("at most ")[1].split(",")[0])
        ds = simulate.movie(TINY, **SMALL | {"dose": 4000.0, "pixel_size": 0.4, "n_frames": 1, "motion": Rock()},
                            camera=Camera(0.4, 1, **camera | {"gain": gain}))
        assert ds.movie.values.min() > 0
        assert ds.movie.values.max() < 65535


@pytest.mark.parametrize(("make", "says"), [
    (lambda: Wander(turn=-1), "Wander.turn is -1"), (lambda: Wander(frames_per_wave=0), "frames_per_wave is 0"),
    (lambda: Rock(time=0), "Rock.time is 0"), (lambda: Rock(n_waves=0), "n_waves is 0"),
    (lambda: Rock(tilt=np.nan), "Rock.tilt is nan"), (lambda: Rock(zone_axis="xyz"), "xyz"),
    (lambda: Rock(zone_axis=110), "expected text"), (lambda: Camera(0, 1), "camera's pixel_size is 0"),
    (lambda: Camera(1, np.nan), "dose is nan"), (lambda: Camera(1, 1, gain=0), "gain is 0"),
    (lambda: Camera(1, 1, read_noise=-1), "read_noise is -1"), (lambda: Camera(1, 1, offset=np.inf), "offset is inf"),
    (lambda: Camera(1, 1, mtf=3), "mtf is 3"), (lambda: Camera(1, 1, hot_pixels=-1), "hot_pixels is -1"),
])
def test_motions_and_cameras_refuse_what_makes_no_sense(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_read_noise_is_not_clipped_and_the_offset_is_written_down(tmp_path):
    """Half an electron a pixel and 3 of read noise: mean and variance are the analytic ones, in the file too."""
    recipe, store = replace(one_particle(), field=Field(box=60)), tmp_path / "m.zarr"
    options = {"n_frames": 2, "seed": 1, "shape": (120, 140), "pixel_size": 0.5, "dose": 2.0,
               "motion": Hopper(height=1)}
    for offset, expected in ((None, 18.0), (100.0, 100.0)):
        for gain in (1.0, 2.0):
            camera = Camera(1, 1, None, gain=gain, read_noise=3.0, offset=offset)
            ds = simulate.movie(recipe, **options, camera=camera, store=store)
            kept = expected * (gain if offset is None else 1)
            counts = ds.movie.values.astype(float)
            assert counts.min() > 0
            assert counts.mean() == pytest.approx(kept + gain * 0.5, abs=0.1 * gain)  # 0.5 electrons a pixel
            assert counts.var() == pytest.approx(gain**2 * (0.5 + 9) + 1 / 12, rel=0.03)
            found = open_movie(store).attrs
            assert (found["offset"], found["counts_per_electron"]) == (kept, gain)
            assert f"offset={kept}" in found["provenance"]
            shutil.rmtree(store)
    assert simulate.movie(recipe, **options).movie.attrs["offset"] == 0


# stores


def test_store_is_the_same_for_any_number_of_workers_and_opens_as_a_movie(tmp_path):
    options = SMALL | {"motion": Rock(frames_per_wave=2), "focus_drift": 30.0}
    here = simulate.movie(TINY, **options)
    stores = []
    for workers in (1, None):  # one after the other, and threads
        stores.append(tmp_path / f"{workers}.zarr")
        ds = simulate.movie(TINY, **options, store=stores[-1], workers=workers)
        assert ds.movie.chunks is not None
        xr.testing.assert_identical(ds.load().drop_attrs(), here.drop_attrs())
    movie, truth = open_movie(stores[0]), simulate.open_truth(stores[0])
    assert movie.dims == ("frame", "y", "x")
    assert movie.attrs["pixel_size"] == 0.5
    assert movie.time.values.tolist() == [0, 0.25, 0.5]
    np.testing.assert_array_equal(movie, here.movie)
    np.testing.assert_array_equal(truth.labels, here.labels)
    assert truth.labels.chunks is not None
    assert np.ptp(truth.frame_defocus.values) > 5
    assert not (stores[0] / "waves").exists()
    before = {f: f.stat().st_mtime_ns for f in stores[0].rglob("*") if f.is_file()}
    simulate.movie(TINY, **options, store=stores[0], progress=lambda *_: pytest.fail("computed again"))
    assert {f: f.stat().st_mtime_ns for f in stores[0].rglob("*") if f.is_file()} == before
    with pytest.raises(InputError, match="another simulated movie"):
        simulate.movie(TINY, **(options | {"seed": 3}), store=stores[0])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        simulate.movie(TINY, **options, store=tmp_path / "other")


def test_interrupted_movie_goes_on_where_it_stopped(tmp_path):
    def stop(done: int, total: int) -> None:
        if (done, total) == (1, 2):
            raise KeyboardInterrupt

    store = tmp_path / "m.zarr"
    with pytest.raises(KeyboardInterrupt):
        simulate.movie(TINY, **SMALL, store=store, workers=1, progress=stop)
    with pytest.raises(MissingInputError, match="unfinished"):
        simulate.open_truth(store)
    first = next((store / "waves" / "wave" / "c").glob("0/**/0"))
    stamp, shown = first.stat().st_mtime_ns, []
    assert stamp
    simulate.movie(TINY, **SMALL, store=store, workers=1, progress=lambda *a: shown.append(a))
    assert shown == [(2, 2)]
    np.testing.assert_array_equal(open_movie(store), simulate.movie(TINY, **SMALL).movie)
    with pytest.raises(MissingInputError, match="no simulated movie"):
        simulate.open_truth(tmp_path)


# scenes of others: what a movie of hopping atoms needs


def test_any_scene_becomes_a_movie():
    recipe = replace(one_particle(), field=Field(box=60, wave_sampling=0.2, stored_sampling=0.3))
    ds = simulate.movie(recipe, n_frames=4, seed=1, shape=(60, 80), pixel_size=0.3, dose=1e4, drift=1.0,
                        motion=Hopper(), defocus=[40.0, 90.0, 140.0])
    assert ds.movie.dims == ("frame", "defocus", "y", "x")
    assert ds.movie.defocus.values.tolist() == [40.0, 90.0, 140.0]
    assert ds.movie.mean() == pytest.approx(1e4 / 3 * 0.09 * ds.movie.attrs["counts_per_electron"], rel=0.02)
    assert ds.occupied.dims == ("frame", "site")
    assert ds.occupied.values[:, 0].tolist() == [True, False, True, False]
    columns = simulate.true_columns(ds)
    assert columns.frame.tolist() == [0, 1, 2, 3]
    for i in range(4):
        site = int(np.flatnonzero(ds.occupied.values[i])[0])
        y, x = float(ds.site_y[i, site]), float(ds.site_x[i, site])
        assert (columns.y[i], columns.x[i]) == pytest.approx((y, x), abs=1e-6)
        image = ds.movie.values[i].astype(float).sum(0)
        lowest = np.unravel_index(image.argmin(), image.shape)
        assert np.hypot(lowest[0] * 0.3 - y, lowest[1] * 0.3 - x) < 0.5
        assert ds.labels.values[i, round(y / 0.3), round(x / 0.3)] == 1


def test_drift_is_what_phase_correlation_finds():
    """Phase correlation finds the true drift to an eighth of a pixel."""
    recipe = replace(one_particle(), field=Field(box=60, wave_sampling=0.3))
    ds = simulate.movie(recipe, n_frames=6, seed=3, shape=(100, 120), pixel_size=0.4, dose=1e5, drift=0.8, turn=0.0,
                        wander=0.0)
    assert int(ds.configuration.max()) == 0
    window = np.hanning(100)[:, None] * np.hanning(120)
    frames = (ds.movie.values - ds.movie.values.mean((1, 2), keepdims=True)) * window
    true = np.stack([ds.drift_y.values, ds.drift_x.values], 1)
    step = np.array([-phase_cross_correlation(frames[i - 1], frames[i], upsample_factor=50, normalization=None)[0]
                     for i in range(1, 6)]) * 0.4
    np.testing.assert_allclose(step, np.diff(true, axis=0), atol=0.05)
    assert np.abs(np.diff(true, axis=0)).max() > 0.8
