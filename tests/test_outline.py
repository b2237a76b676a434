"""Perimeters: as scikit-image counts them, of the right size, and the same however a frame is cut into squares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import perimeter_crofton

from hrtem_dask.kernels.outline import chords_of, perimeter_of
from hrtem_dask.kernels.particle import measure_particles
from hrtem_dask.kernels.runs import find_runs
from hrtem_dask.kernels.tally import add_up, tally, tiles_of


def perimeters(labels: np.ndarray, dy: float = 1.0, dx: float = 1.0) -> np.ndarray:
    runs = find_runs(labels)
    number, code = np.unique(runs.label, return_inverse=True)
    return perimeter_of(chords_of(runs, code, number.size), dy, dx)


def circularities(labels: np.ndarray, tile: int) -> np.ndarray:
    squares = [(a, b) for a in tiles_of(labels.shape[0], tile) for b in tiles_of(labels.shape[1], tile)]
    tallies = [tally(find_runs(labels[at]), np.ones_like(labels[at], float), (at[0].start, at[1].start))
               for at in squares]
    found = add_up(tallies, labels.shape, y0=0, x0=0, dy=0.5, dx=0.4, tile=tile)
    return found.table["circularity"].to_numpy()


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_every_region_has_the_perimeter_that_scikit_image_finds(seed, rows, columns, n):
    labels = np.random.default_rng(seed).integers(0, n + 1, (rows, columns))
    expected = [perimeter_crofton(labels == k, 4) for k in np.unique(labels) if k]
    np.testing.assert_allclose(perimeters(labels), expected, rtol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.integers(1, 11))
@settings(max_examples=60, deadline=None)
def test_squares_add_up_bit_for_bit(seed, rows, columns, tile):
    """Labels may touch, and a label may lie in many squares and be in several pieces."""
    labels = np.random.default_rng(seed).integers(0, 4, (rows, columns))
    np.testing.assert_array_equal(circularities(labels, tile), circularities(labels, 64))


@pytest.mark.parametrize("radius", [2.0, 3.0, 5.0, 10.0, 40.0])
@pytest.mark.parametrize("aspect", [1.0, 0.6])
def test_discs_of_any_size_are_round(radius, aspect):
    """Mean over places on the pixels; pixels need not be square."""
    rng = np.random.default_rng(0)
    n = int(2 * radius / aspect + 6)
    y, x = np.mgrid[:n, :n] * np.array([1.0, aspect])[:, None, None]
    centre = n / 2 + rng.uniform(0, 1, (60, 2)) - 0.5
    round_ = []
    for cy, cx in centre * [1, aspect]:
        disc = (np.hypot(y - cy, x - cx) < radius).astype(int)
        round_.append(4 * np.pi * disc.sum() * aspect / perimeters(disc, 1.0, aspect)[0] ** 2)
    assert np.mean(round_) == pytest.approx(1, abs=0.04 if radius < 5 else 0.015)
    assert np.std(round_) < 0.15 / radius


def test_circularity_says_what_is_no_disc():
    y, x = np.mgrid[:120, :120]
    labels = np.where(np.hypot(y - 30, x - 30) < 20, 1, 0)
    labels[np.hypot((y - 30) / 3, x - 90) < 9] = 2  # an ellipse of axes 3 to 1
    labels[80:110, 20:50] = 3  # a square
    labels[(np.hypot(y - 90, x - 90) < 22) & (np.hypot(y - 90, x - 90) > 16)] = 4  # a ring: both its sides count
    found = measure_particles(np.zeros(labels.shape), np.ones(labels.shape), labels)["circularity"].to_numpy()
    # perimeter of that ellipse: 4 a E(1 - 1/9) = 4 * 27 * 1.1115 (Abramowitz and Stegun 17.3)
    # four directions see a straight side along the pixels as pi / 8 (1 + root of 2) = 0.948 of its length
    expected = [1, 4 * np.pi * np.pi * 27 * 9 / 120.3**2, np.pi / 4 / 0.948**2, (22**2 - 16**2) / (22 + 16) ** 2]
    np.testing.assert_allclose(found, expected, rtol=0.03)
