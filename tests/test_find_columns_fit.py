"""The fit of columns: against scipy's, errors that hold under coloured noise, what is measured of the noise."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from column_scenes import CAMERA, draw_image, gold_places
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, optimize

from hrtem_dask.core.errors import InputError
from hrtem_dask.detector.mtf import MTF
from hrtem_dask.kernels.camera import radial_frequency
from hrtem_dask.kernels.column_noise import WIDTHS, WINDOW, correlation, fit_noise, noise_spectrum, windows_of
from hrtem_dask.kernels.column_peaks import Peaks, column_spacing, thin_out
from hrtem_dask.kernels.columns import Finder, fit_columns, measure_columns
from hrtem_dask.kernels.gauss_model import WEIGHT
from hrtem_dask.kernels.gaussfit import fit_gaussians


def errors_and_pulls(n, pixel_size, dose, contrast, seeds, mtf=None, camera=CAMERA):
    """Of fits that begin near the true places: errors, deviations over errors, part that settled."""
    error, pull, settled = [], [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        places = gold_places(n * pixel_size, rng)
        image = draw_image(places, contrast * rng.uniform(0.5, 1.2, len(places)), n, pixel_size, dose, rng,
                           camera=camera)
        table = fit_columns(image, places + rng.normal(0, 0.05, places.shape), (pixel_size,) * 2, mtf=mtf)
        use = table.settled.to_numpy() & (table[["y_error", "x_error"]] < 0.25).all(axis=1).to_numpy()
        settled.append(use.mean())
        error.append(table[["y_error", "x_error"]].to_numpy()[use])
        pull.append((table[["y", "x"]].to_numpy() - places)[use] / error[-1])
    return np.concatenate(error), np.concatenate(pull), np.mean(settled)


@pytest.mark.parametrize(("dose", "contrast", "pixel_size"), [(50, 1.2, 0.12), (500, 0.6, 0.1), (5000, 0.4, 0.15)])
def test_errors_hold_where_the_mtf_is_known(dose, contrast, pixel_size):
    _, pull, settled = errors_and_pulls(300, pixel_size, dose, contrast, range(3), CAMERA)
    assert settled > 0.8
    assert len(pull) > 200
    assert pull.std() == pytest.approx(1, abs=0.1 + 2 / np.sqrt(2 * pull.size))
    assert abs(pull.mean()) < 4 / np.sqrt(pull.size)


def test_errors_hold_where_the_mtf_is_not_known():
    for camera in (MTF(scale=0.4, power=2.0), MTF(scale=0.6, power=2.8)):
        _, pull, _ = errors_and_pulls(400, 0.1, 1000, 0.5, range(2), camera=camera)
        assert pull.std() == pytest.approx(1, abs=0.2)


def test_noise_taken_for_white_makes_errors_too_small():
    """What the covariance of neighbouring pixels is worth: the same variance of a pixel, taken to be white."""
    rng = np.random.default_rng(1)
    places = gold_places(40.0, rng)
    heights = np.full(len(places), 0.5)
    image, other = (draw_image(places, heights, 400, 0.1, 2000, np.random.default_rng(k)) for k in (1, 2))
    amplitude = np.zeros((1, len(WIDTHS)))
    amplitude[0, -1] = np.var(image - other) / 2
    white = fit_gaussians(image[None], places, (0.1, 0.1), amplitude)
    coloured = fit_columns(image, places, (0.1, 0.1), mtf=CAMERA)
    assert np.median(white.error[:, 0]) < 0.9 * coloured.y_error.median()
    assert ((white.place - places) / white.error)[white.settled].std() > 1.1


def test_one_column_is_where_scipy_puts_it():
    place = np.array([[4.03, 3.92]])
    image = draw_image(place, [0.7], 80, 0.1, 4000, np.random.default_rng(3)).astype(np.float64)
    fit = fit_columns(image, place, (0.1, 0.1))
    y, x = np.mgrid[:80, :80] * 0.1
    near = np.hypot(y - 4, x - 3.9) < 1.5

    def rest(p):
        model = p[2] * np.exp(-0.5 * ((y - p[0]) ** 2 + (x - p[1]) ** 2) / p[3] ** 2) + p[4] + p[5] * y + p[6] * x
        weight = np.exp(-0.25 * ((y - p[0]) ** 2 + (x - p[1]) ** 2) / WEIGHT**2)
        return ((image - model) * weight)[near]

    found = optimize.least_squares(rest, [4.0, 3.9, 30, 0.45, 40, 0, 0]).x
    # scipy's has no expectation of the background's slope and a round window
    assert fit.y[0] == pytest.approx(found[0], abs=0.4 * fit.y_error[0])
    assert fit.x[0] == pytest.approx(found[1], abs=0.4 * fit.x_error[0])
    assert fit.width[0] == pytest.approx(abs(found[3]), abs=0.05)


def test_neighbours_do_not_pull():
    """Two columns without noise: each is where it is, whatever the other one's height."""
    for apart in (1.67, 2.04, 2.5):
        places = np.array([[5.0, 5.0], [5.0, 5.0 + apart]])
        y, x = np.mgrid[:100, :120] * 0.1
        image = 10 + sum(h * np.exp(-0.5 * ((y - a) ** 2 + (x - b) ** 2) / 0.42**2)
                         for h, (a, b) in zip((4.0, 1.5), places, strict=True))
        image = image + np.random.default_rng(0).normal(0, 1e-3, image.shape)
        table = fit_columns(image, places + 0.05, (0.1, 0.1))
        assert np.abs(table[["y", "x"]].to_numpy() - places).max() < 0.02
        assert table.intensity.to_numpy() * image.mean() == pytest.approx([4.0, 1.5], rel=0.1)


def test_a_spot_that_is_no_gaussian_says_so_by_its_error():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :200] * 0.1
    places = np.array([[a, b] for a in (4.0, 8.0, 12.0, 16.0) for b in (4.0, 8.0, 12.0, 16.0)])
    smile = sum(np.exp(-0.5 * (((y - a - 0.3 * (x - b) ** 2) / 0.35) ** 2 + ((x - b) / 0.7) ** 2)) for a, b in places)
    round_ = sum(np.exp(-0.5 * ((y - a) ** 2 + (x - b) ** 2) / 0.45**2) for a, b in places)
    errors = [np.median(fit_columns(50 * (1 + s) + rng.normal(0, 0.7, s.shape), places, (0.1, 0.1)).y_error)
              for s in (smile, round_)]
    assert errors[0] > 3 * errors[1]


@pytest.mark.parametrize("known", [True, False])
def test_noise_is_that_of_the_camera(known):
    rng = np.random.default_rng(0)
    camera = MTF(scale=0.5, power=2.5)
    white = rng.poisson(20.0, (512, 512)) - 20.0
    image = fft.irfft2(fft.rfft2(white) * camera(radial_frequency(white.shape)), s=white.shape) + 300
    parts = [noise_spectrum(image[i:i + WINDOW, j:j + WINDOW]) for i in windows_of(512) for j in windows_of(512)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    noise = fit_noise(total, (WINDOW, WINDOW), (0.1, 0.1), camera if known else None)
    k = np.array([0.05, 0.2, 0.4, 0.8])
    power = np.exp(-0.5 * (k[:, None] / np.array(WIDTHS)) ** 2) @ noise.amplitude
    assert power == pytest.approx(20 * camera(k) ** 2, rel=0.06 if known else 0.25)
    assert noise.mean == pytest.approx(image.mean())
    second = np.diff(np.diff(image, 2, axis=0), 2, axis=1)
    assert noise.rough == pytest.approx(np.mean(second**2), rel=0.05)


def test_correlation_is_that_of_filtered_noise():
    rng = np.random.default_rng(0)
    k = np.fft.rfftfreq(64) * 2
    rows = np.fft.irfft(np.fft.rfft(rng.normal(size=(20000, 64))) * np.exp(-0.25 * (k / WIDTHS[2]) ** 2), n=64)
    assert np.cov(rows[:, :8].T) == pytest.approx(correlation(8)[2], abs=0.02)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_thinning_is_greedy_from_the_surest(seed, n):
    rng = np.random.default_rng(seed)
    place, presence = rng.uniform(0, 8, (n, 2)), np.round(rng.uniform(0, 1, n), 1)
    peaks = Peaks(np.zeros((n, 2), int), place, place, presence, np.arange(n))
    kept: list[int] = []
    for k in np.argsort(-presence, kind="stable"):
        if all(np.hypot(*(place[k] - place[other])) > 1.25 for other in kept):
            kept.append(int(k))
    assert thin_out(peaks, 1.25).label.tolist() == sorted(kept)


@pytest.mark.parametrize(("crystal", "spacing"), [
    ("Au", 4.08 / np.sqrt(6)), ("Pt", 3.92 / np.sqrt(6)), ("CeO2", 5.411 / np.sqrt(6)),
    ("graphene", 2.461 / np.sqrt(3)), ("MoS2", 3.16 / np.sqrt(3)), ("Fe", 2.87 / 2)])
def test_spacing_of_columns(crystal, spacing):
    # fcc along [111], of CeO2 cerium alone; bcc along [110]
    assert column_spacing(crystal) == pytest.approx(spacing, rel=0.01)
    with pytest.raises(InputError, match="min_distance"):
        column_spacing([2.36, 2.04])


def test_without_an_image_the_probability_is_fitted():
    y, x = np.mgrid[:100, :100] * 0.1
    planes = np.maximum(*(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 2 / 0.4**2)
                          for a, b in ((5.03, 4.04), (5.01, 6.02))))[None].astype(np.float32)
    rows = measure_columns(planes, None, Finder((0.1, 0.1), 0.4, 1.25))
    assert np.allclose(np.stack([rows["y"], rows["x"]], 1), [(5.03, 4.04), (5.01, 6.02)], atol=0.03)
    assert rows["fitted"].all()
    assert np.isnan(rows["intensity"]).all()


def test_the_fit_is_as_good_as_one_curve_fit_a_column():
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from benchmarks.columns_speed import draw_scene, loop, ours

    scene = draw_scene(160)
    (found, error), (known, alone) = scene.score(ours(scene)), scene.score(loop(scene))
    assert found >= known > 20
    assert error < 1.05 * alone
