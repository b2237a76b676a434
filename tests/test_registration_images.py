"""Drift and rotation from images, and both ways on a simulated movie."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from registration_scenes import LATTICE, errors_of, motions, movie_of, pulls_of
from skimage.registration import phase_cross_correlation

from hrtem_dask import correct_drift, estimate_drift, estimate_drift_images, simulate
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.core.schema import DRIFT
from hrtem_dask.kernels.rigid import move
from hrtem_dask.simulate import true_columns
from hrtem_dask.simulate.microscope import Optics
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.scenes import Rock


@pytest.fixture(scope="module")
def scene() -> tuple[xr.DataArray, np.ndarray, np.ndarray]:
    motion = motions(30, 21, step=0.4, turn=3, jumps={17: (4.0, -3.0)})
    movie, centre = movie_of(motion, seed=21)
    return movie, motion, centre


@pytest.fixture(scope="module")
def drift(scene):
    return estimate_drift_images(scene[0])


def test_drift_of_images_agrees_with_the_truth(scene, drift):
    _, motion, centre = scene
    assert drift.dtypes.astype(str).to_dict() == {c.name: c.dtype for c in DRIFT.columns}
    assert (drift["status"] == "registered").all()
    assert [e["reason"] for e in drift.attrs["epochs"]] == ["first frame"]
    errors, stated = errors_of(drift, motion, centre)
    assert np.abs(errors[:, :2]).max() < 0.12
    assert np.rad2deg(np.abs(errors[:, 2]).max()) < 0.6
    np.testing.assert_allclose(pulls_of(errors, stated), 1, atol=0.45)  # 29 frames: the scatter itself is to 13 %


def test_shifts_are_those_of_another_program(scene, drift):
    """Upsampled cross-correlation of scikit-image, over the first frames, which hardly turn.

    From one noisy frame to another it slips by lattice vectors; but for those the shifts are the same.
    """
    movie, _, centre = scene
    for i in (1, 2, 3):
        images = [m - m.mean() for m in movie.values[[0, i]].astype(float)]
        shift = -phase_cross_correlation(*images, upsample_factor=20, normalization=None)[0] * movie.attrs["pixel_size"]
        row = drift.loc[i]
        seat = row[["centre_y", "centre_x"]].to_numpy(float)
        ours = move(row[["drift_y", "drift_x", "rotation"]].to_numpy(float), centre, seat) - centre  # of the crystal
        off = (ours - shift) @ np.linalg.inv(LATTICE)
        np.testing.assert_allclose((off - np.round(off)) @ LATTICE, 0, atol=0.12)


def test_chunks_counts_and_order_do_not_matter(scene, drift):
    movie, _, _ = scene
    lazy = movie.copy(data=da.from_array(movie.values, chunks=(4, 50, 60)))
    again = estimate_drift_images((lazy * 3.0 + 70).isel(frame=slice(None, None, -1)))
    np.testing.assert_allclose(again.drop(columns="status").to_numpy(float), drift.drop(columns="status"), atol=1e-6)


def test_frames_that_show_nothing(scene):
    movie, motion, centre = scene
    values = movie.values[:12].astype(np.float32)
    values[3], values[5] = 7.0, np.nan
    values[8] = np.random.default_rng(0).poisson(values[8].mean(), values[8].shape)
    values[9, :20] = np.nan
    drift = estimate_drift_images(movie.isel(frame=slice(0, 12)).copy(data=values))
    assert drift["status"].tolist() == [{3: "empty", 5: "empty", 8: "lost"}.get(i, "registered") for i in range(12)]
    assert drift["drift_y"].isna().tolist() == (drift["status"] != "registered").tolist()
    assert np.abs(errors_of(drift, motion, centre)[0][:, :2]).max() < 0.15


def test_a_part_of_the_frame(scene):
    movie, motion, centre = scene
    part = movie.isel(frame=slice(0, 8))
    rest = part.values.copy()
    rest[:, :, 115:] = np.random.default_rng(1).poisson(40, rest[:, :, 115:].shape)
    drift = estimate_drift_images(part.copy(data=rest), region=(0, 38, 0, 34), rotation=False)
    errors, _ = errors_of(drift, motion * [1, 1, 0], centre)
    assert np.abs(errors[:, :2]).max() < 0.15
    assert (drift["rotation"] == 0).all()


def test_movies_that_are_refused(scene):
    movie, _, _ = scene
    for wrong, error, text in (
            (movie.values, InputError, "dims"),
            (movie.isel(frame=slice(0, 0)), InputError, "at least one frame"),
            (movie.isel(y=slice(0, 9)), InputError, "32 x 32"),
            (movie.drop_vars(["y", "x"]).assign_attrs(pixel_size=None), CalibrationError, "pixel size"),
            (movie.assign_coords(frame=np.zeros(30, int)), InputError, "frame 0 twice")):
        with pytest.raises(error, match=text):
            estimate_drift_images(wrong)
    with pytest.raises(InputError, match="region"):
        estimate_drift_images(movie, region=(1, 2))


@pytest.fixture(scope="module")
def simulated() -> xr.Dataset:
    """A gold particle on [110] that rocks, spins and wanders, in a drifting field; this seed has it in the middle."""
    recipe = load_recipe({
        "name": "one", "field": {"box": 30, "wave_sampling": 0.15, "slice_thickness": 3.0},
        "particles": {"species": "Au", "zone_axis": "110", "tilt": [0, 0], "number": [1, 1], "coverage": [0.2, 0.2],
                      "diameter": [18, 18], "twin_fraction": 0, "thermal_displacement": [0.05, 0.05]},
        "film": {"absent_fraction": 1}})
    optics = Optics(defocus=60.0, cs=-1e5, focal_spread=25.0, convergence=1e-4, aperture=1.2)
    return simulate.movie(recipe, n_frames=16, seed=38, shape=(150, 150), pixel_size=0.2, dose=1000.0, drift=0.5,
                          motion=Rock(tilt=0.7, spin=1.5, wander=0.2, frames_per_wave=4), optics=optics)


def test_a_simulated_movie_from_columns_and_from_images(simulated):
    truth = np.column_stack([simulated["particle_y"][:, 0], simulated["particle_x"][:, 0],
                             simulated["particle_rotation"][:, 0]])
    centre = truth[0, :2].copy()
    truth[:, :2] -= centre
    rng = np.random.default_rng(5)
    table = true_columns(simulated)
    table = table[(table["atoms"] > 1) & (rng.random(len(table)) < 0.9)].drop(columns="column")
    table[["y", "x"]] += rng.normal(0, 0.08, (len(table), 2))
    drift = estimate_drift(table)
    errors, stated = errors_of(drift, truth, centre)
    assert (drift["status"] == "registered").all()
    assert np.sqrt((errors[:, :2] ** 2).mean()) < 0.05
    assert (np.abs(errors) < 5 * np.hypot(stated, stated[0])).all()
    assert set(correct_drift(table, drift)["epoch"]) == {0}
    images = estimate_drift_images(simulated["movie"])
    assert (images["status"] == "registered").all()
    assert np.sqrt((errors_of(images, truth, centre)[0][:, :2] ** 2).mean()) < 0.1
