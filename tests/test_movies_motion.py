"""What moves in a movie: tilts, fringes that come and go, a film that stays, slices that are remembered."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest
import xarray as xr
from movie_scenes import one_particle
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from hrtem_dask import simulate
from hrtem_dask.simulate.movies import cell_of, room_of
from hrtem_dask.simulate.multislice import SliceMemory, exit_wave
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.scenes import Rock, Wander


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


def test_a_memory_that_holds_nothing_needs_no_room_for_slices():
    scene = Rock(frames_per_wave=1).scene(one_particle(), 3, 1, 1.0)
    specimen, field = scene.specimen(0), replace(scene.field, wave_sampling=0.15)

    def peak(memory: SliceMemory | None) -> int:
        tracemalloc.start()
        try:
            exit_wave(specimen, field, memory=memory)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(None)  # what is made once a process
    one = 8 * field.wave_points**2  # bytes of a slice
    without = peak(None)
    assert peak(SliceMemory(1)) < without + 2 * one
    assert peak(SliceMemory(2**30)) > without + 5 * one


def test_heights_are_found_once_and_travel_with_the_scene():
    """Else every process would go through all configurations for each that it builds."""
    scene = Rock(tilt=8.0, frames_per_wave=1).scene(one_particle(), 3, 3, 1.0)
    there = pickle.loads(pickle.dumps(scene))
    assert vars(there)["heights"] == scene.heights
    np.testing.assert_array_equal(there.specimen(1).positions, scene.specimen(1).positions)
    turned = replace(there, turns=there.turns + [1.0, 0, 0])
    assert turned.heights != scene.heights
