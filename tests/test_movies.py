"""Simulated movies: scenes, frames where the truth says, stores that continue and do not depend on workers."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import xarray as xr
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from skimage.registration import phase_cross_correlation

from hrtem_dask import open_movie, simulate
from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.simulate.camera import Camera
from hrtem_dask.simulate.crystals import Cluster
from hrtem_dask.simulate.microscope import Optics
from hrtem_dask.simulate.movies import cell_of, room_of
from hrtem_dask.simulate.multislice import SliceMemory, exit_wave
from hrtem_dask.simulate.recipe import Field, load_recipe
from hrtem_dask.simulate.scenes import Rock, Wander
from hrtem_dask.simulate.structures import Specimen, assemble

TINY = {
    "name": "tiny",
    "field": {"box": 40, "wave_sampling": 0.35, "slice_thickness": 4},
    "particles": {"number": [4, 4], "coverage": [0.1, 0.1], "diameter": [14, 18], "touching_fraction": 0},
    "film": {"thickness": [8, 10], "absent_fraction": 0},
}
SMALL = {"n_frames": 3, "seed": 2, "shape": (32, 48), "pixel_size": 0.5, "frames_per_wave": 2, "dose": 500.0}
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


# motion


def one_particle(**keys: object) -> dict:
    particles = {"number": [1, 1], "coverage": [0.2, 0.2], "diameter": [26, 26], "twin_fraction": 0,
                 "thermal_displacement": [0.03, 0.03], **keys}
    return load_recipe({"name": "one", "field": {"box": 60}, "particles": particles, "film": {"thickness": [6, 6]}})


def test_tilt_is_that_of_the_rows_of_atoms():
    """The angle between the beam and the nearest row of touching atoms, which is a <110> of gold."""
    scene = Rock(tilt=5.0, frames_per_wave=1).scene(one_particle(), 4, 12, 1.0)
    states = scene.states()
    assert set(states["particle_zone_axis"].values[:, 0]) == {"110"}
    for k in range(12):
        gold = scene.specimen(k).gold
        i, j = cKDTree(gold).query_pairs(3.2, output_type="ndarray").T
        bonds = gold[i] - gold[j]
        bonds *= np.sign(bonds[:, 2:])
        along = bonds[bonds[:, 2] > 0.9 * np.linalg.norm(bonds, axis=1)].mean(0)
        angle = np.degrees(np.arctan2(np.hypot(*along[:2]), along[2]))
        assert angle == pytest.approx(states["particle_tilt"].values[k, 0], abs=0.2)
    assert np.ptp(states["particle_tilt"].values) > 2


def test_rocking_goes_in_and_out_of_the_zone_axis_as_often_as_it_should():
    """The tilt's distribution is that of two normal tilts: exp(-(t / rms)^2) beyond t."""
    scene = Rock(tilt=3.0, time=2.0, frames_per_wave=1, wander=0.2).scene(one_particle(), 5, 8_000, 1.0)
    states = scene.states()
    tilt = states["particle_tilt"].values[:, 0]
    assert np.sqrt((tilt**2).mean()) == pytest.approx(3.0, rel=0.06)
    on_axis = states["particle_on_axis"].values[:, 0]
    assert on_axis.mean() == pytest.approx(1 - np.exp(-4 / 9), abs=0.03)
    lean = scene.turns[:, 0, 0]
    for lag in (1, 2, 4):
        assert np.corrcoef(lean[:-lag], lean[lag:])[0, 1] == pytest.approx(np.exp(-lag / 2), abs=0.05)
    steps = np.diff(states["particle_y"].values[:, 0])
    assert steps.std() == pytest.approx(0.2, rel=0.05)


def test_long_movie_runs_through_its_configurations_and_back():
    scene = Rock(n_waves=5, frames_per_wave=2).scene(one_particle(), 6, 40, 0.1)
    assert scene.turns.shape == (5, 1, 3)
    assert scene.index.max() == 4
    assert set(np.abs(np.diff(scene.index))) == {0, 1}


def test_what_does_not_move_needs_one_wave():
    recipe = one_particle()
    assert Wander(turn=0, wander=0).scene(recipe, 1, 100, 0.1).index.tolist() == [0] * 100
    empty = load_recipe({"name": "film", "field": {"box": 40}, "particles": {"number": [0, 0], "empty_fraction": 1}})
    for motion in (Wander(), Rock()):
        scene = motion.scene(empty, 1, 10, 0.1)
        assert scene.index.max() == 0
        assert scene.states()["particle_y"].shape == (1, 0)
        assert len(scene.specimen(0).gold) == 0


def test_wandering_particles_keep_their_shape():
    scene = Wander(turn=10.0, wander=1.0, frames_per_wave=1).scene(one_particle(), 7, 5, 0.1)
    cell = (60.0, 60.0, 500.0)
    distances = [np.sort(cKDTree(s.gold, boxsize=cell).query(s.gold, k=2)[0][:, 1])
                 for s in map(scene.specimen, range(5))]
    said = np.stack([scene.states()[f"particle_{a}"].values[:, 0] for a in "xy"], 1)
    for k in range(5):
        away = scene.specimen(k).gold[:, :2] - said[k]
        np.testing.assert_allclose((away - np.round(away / 60) * 60).mean(0), 0, atol=1e-6)
    for d in distances[1:]:
        np.testing.assert_allclose(d, distances[0], atol=1e-6)


@dataclass(frozen=True)
class Swing:
    """One particle that is tilted to these angles [degree] about an axis along no row of its lattice."""

    angles: tuple[float, ...]

    def scene(self, recipe, seed, n_frames, frame_time):
        scene = Rock(frames_per_wave=1, wander=0.0).scene(recipe, seed, n_frames, frame_time)
        turns = np.zeros((n_frames, 1, 3))
        turns[:, 0, :2] = np.deg2rad(self.angles)[:, None] * [np.cos(SWING), np.sin(SWING)]
        return replace(scene, turns=turns)


SWING = np.deg2rad(65.0)  # from x


def fringes(ds: xr.Dataset, frame: int) -> np.ndarray:
    """Amplitude of the image of the particle at its reflections, over the median at the same spacing.

    Which reflections a zone axis <110> of gold has, at which angles, follows from the true orientation.
    """
    pixel, a = ds.movie.attrs["pixel_size"], 4.078
    image = ds.movie.values[frame] / ds.movie.values[frame].mean() - 1
    y, x = (np.arange(n) * pixel - float(ds[f"particle_{k}"][frame, 0])
            for k, n in zip("yx", image.shape, strict=True))
    weight = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 7.0**2))
    image = (image - (image * weight).sum() / weight.sum()) * weight
    crystal = Rotation.from_quat(ds.particle_orientation.values[frame, 0])
    out = []
    for hkl in ((1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)):
        g = crystal.apply(hkl) / a
        if abs(g[2]) < 0.3 * np.linalg.norm(g):
            angles = np.arctan2(g[1], g[0]) + np.linspace(0, np.pi, 60, endpoint=False)
            k = np.hypot(*g[:2]) * np.stack([np.cos(angles), np.sin(angles)])
            power = [abs(np.exp(-2j * np.pi * ky * y) @ image @ np.exp(-2j * np.pi * kx * x)) for kx, ky in k.T]
            out.append(power[0] / np.median(power))
    return np.array(out)


def test_fringes_show_on_the_zone_axis_and_vanish_off_it():
    """Both sets of {111} fringes of <110> are there when the truth says on axis, neither at 9 degrees."""
    angles = (0.0, 1.0, 9.0, 12.0, 1.5, 10.0)
    ds = simulate.movie(one_particle(), n_frames=6, seed=10, shape=(130, 130), pixel_size=0.4, dose=5000.0, drift=0.5,
                        motion=Swing(angles))
    np.testing.assert_allclose(ds.particle_tilt[:, 0], angles, atol=0.01)
    assert ds.particle_on_axis.values[:, 0].tolist() == [t <= 2 for t in angles]
    assert not ds.particle_touches_border.any()
    for i in range(6):  # labels, table and drift agree
        centre = np.argwhere(ds.labels.values[i] == 1).mean(0) * 0.4
        assert np.hypot(*(centre - [ds.particle_y[i, 0], ds.particle_x[i, 0]])) < 1.0
    for i, on in enumerate(ds.particle_on_axis.values[:, 0]):
        found = fringes(ds, i)
        assert len(found) == 2
        assert found.min() > 30 if on else found.max() < 15, (i, found)  # 50 to 60, and at most 11


def test_the_film_stays_while_particles_turn():
    """All configurations share one cell, and a part of the film that no particle touches is the same to the bit."""
    recipe = load_recipe(one_particle().to_dict() | {"film": {"thickness": [30, 30], "absent_fraction": 0}})
    scene = Rock(tilt=8.0, frames_per_wave=1).scene(recipe, 3, 3, 1.0)
    films = [s.positions[s.particle == 0] for s in map(scene.specimen, range(3))]
    for k in range(3):
        assert scene.specimen(k).box == pytest.approx((60.0, 60.0, np.diff(scene.heights)[0] + 4))
    # the film gives way to another shape each time: what is left is where it was
    assert len({len(f) for f in films}) == 3
    for film in films[1:]:
        assert np.mean(cKDTree(films[0]).query(film)[0] == 0) > 0.97
    for k in range(3):
        z = scene.specimen(k).positions[:, 2]
        assert z.min() >= 2 - 1e-9
        assert z.max() <= scene.specimen(k).box[2] - 2 + 1e-9


def test_slices_that_are_remembered_are_those_that_would_be_made():
    recipe = load_recipe(one_particle().to_dict() | {"film": {"thickness": [70, 70], "absent_fraction": 0}})
    scene = Rock(tilt=8.0, frames_per_wave=1).scene(recipe, 3, 3, 1.0)
    memory = SliceMemory(2**28)
    first = exit_wave(scene.specimen(0), scene.field, memory=memory)
    before = dict(memory.kept)
    assert len(before) > 10
    second = exit_wave(scene.specimen(1), scene.field, memory=memory)
    again = before.keys() & memory.kept.keys()
    assert 5 < len(again) < len(before)  # of the film, and not of the particle
    assert all(memory.kept[k] is before[k] for k in again)
    for k, wave in enumerate((first, second)):
        np.testing.assert_array_equal(wave, exit_wave(scene.specimen(k), scene.field))
    small = SliceMemory(5 * next(iter(before.values())).nbytes)
    np.testing.assert_array_equal(exit_wave(scene.specimen(0), scene.field, memory=small), first)
    assert len(small.kept) == 5
    coarse = replace(scene.field, energy=80.0)  # the same atoms, other electrons
    np.testing.assert_array_equal(exit_wave(scene.specimen(0), coarse, memory=memory),
                                  exit_wave(scene.specimen(0), coarse))
    memory.forget()
    assert not memory.kept


def test_the_cell_reaches_as_far_as_the_drift_and_no_further():
    recipe, shape, pixel = one_particle(), (50, 60), 0.5
    shifts = np.array([[0.0, 0.0], [3.0, -20.0], [-1.0, 2.0]])
    side, origin = cell_of(recipe, shape, pixel, shifts)
    room = room_of(recipe)
    first = np.array(origin) - shifts  # of each frame's window
    assert (first >= room - 1e-9).all()
    assert (first + np.array(shape) * pixel <= side * pixel - room + 1e-9).all()
    assert side * pixel < 1.05 * (30 + 22 + 2 * room)


# scenes of others: what a movie of hopping atoms needs


@dataclass(frozen=True)
class Hopper:
    """One column of gold that sits on either of two sites."""

    height: int = 5

    def scene(self, recipe, seed, n_frames, frame_time):
        return HoppingScene(recipe.field, np.arange(n_frames) % 2, self.height)


@dataclass(frozen=True, eq=False)
class HoppingScene:
    field: Field
    index: np.ndarray
    height: int

    def sites(self) -> np.ndarray:
        return np.array([[0.5, 0.45], [0.5, 0.6]]) * self.field.box

    def specimen(self, k: int) -> Specimen:
        y, x = self.sites()[k]
        p = np.stack([np.full(self.height, x), np.full(self.height, y), 2.9 * np.arange(self.height)], 1)
        return assemble([Cluster(np.full(self.height, 79), p, np.ones(self.height, np.int32))], [], self.field.box)

    def states(self):
        y, x = self.sites().T
        return {"occupied": xr.Variable(("configuration", "site"), np.eye(2, dtype=bool)),
                "site_y": xr.Variable(("site",), y, {"place": "y"}),
                "site_x": xr.Variable(("site",), x, {"place": "x"}),
                "particle": xr.Variable(("particle",), np.array([1]))}


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
