"""Resampling keeps places, constants and finite support."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_dask.core.errors import InputError
from hrtem_dask.kernels.resample import axis_matrix, input_range, resample, resample_block, resampled_size

SIZES = (0.1, 0.37, 0.59)


def gaussian(pixel, extent=(24.0, 31.0), centre=(10.3, 17.7), sigma=1.5):
    y, x = (np.arange(int(e / pixel)) * pixel for e in extent)
    return np.exp(-((y[:, None] - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * sigma**2))


def centroid(image, pixel):
    y, x = (np.arange(n) * pixel for n in image.shape)
    return np.array([(image.sum(1) * y).sum(), (image.sum(0) * x).sum()]) / image.sum()


@pytest.mark.parametrize("pin", SIZES)
@pytest.mark.parametrize("pout", [*SIZES, 0.5])
def test_a_gaussian_stays_where_it_is(pin, pout):
    out = resample(gaussian(pin), pin, pout)
    assert np.abs(centroid(out, pout) - (10.3, 17.7)).max() < 0.02
    expected = gaussian(pout)
    rows, columns = (min(a, b) for a, b in zip(out.shape, expected.shape, strict=True))
    assert np.abs(out[:rows, :columns] - expected[:rows, :columns]).max() < 0.02


@pytest.mark.parametrize("pin", SIZES)
def test_there_and_back_covers_every_pixel(pin):
    image = gaussian(pin)
    back = resample(resample(image, pin, 0.5), 0.5, pin, shape=image.shape)
    assert back.shape == image.shape
    assert np.isfinite(back).all()
    assert np.abs(centroid(back, pin) - (10.3, 17.7)).max() < 0.02


@settings(max_examples=60, deadline=None)
@given(ny=st.integers(1, 40), nx=st.integers(1, 40), ry=st.floats(0.15, 6), rx=st.floats(0.15, 6),
       value=st.floats(-1e6, 1e6, width=32))
def test_constants_stay_constant(ny, nx, ry, rx, value):
    out = resample(np.full((ny, nx), value), 1.0, (ry, rx))
    assert out.shape == (resampled_size(ny, ry), resampled_size(nx, rx))
    np.testing.assert_allclose(out, value, rtol=1e-6)
    assert (out.shape[0] - 1) * ry <= (ny - 1) * (1 + 1e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 60), ratio=st.floats(0.15, 6))
def test_a_window_gives_what_the_frame_gives(data, n, ratio):
    size = resampled_size(n, ratio) + 3  # three samples beyond the last one, which repeat it
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    frame = np.random.default_rng(n).normal(size=(n, 5))
    first, last = input_range(start, stop, ratio, n)
    part = resample_block(frame[first:last], (n, 5), (ratio, 1.0), (start, stop), (0, 5), origin=(first, 0))
    whole = resample_block(frame, (n, 5), (ratio, 1.0), (0, size), (0, 5))
    np.testing.assert_array_equal(part, whole[start:stop])


def test_coarsening_does_not_alias():
    x = np.arange(600)
    stripes = np.broadcast_to(np.cos(2 * np.pi * x * 0.4), (40, 600))  # beyond the Nyquist frequency at ratio 4
    assert np.abs(resample(stripes, 1.0, 4.0)[:, 10:-10]).max() < 0.02


def test_the_same_pixel_size_changes_nothing():
    image = np.random.default_rng(1).normal(size=(7, 9)).astype(np.float32)
    np.testing.assert_array_equal(resample(image, 0.59, 0.59), image)


def test_a_large_offset_costs_no_precision():
    image = np.random.default_rng(2).integers(0, 100, (50, 60))
    low = resample_block(image, image.shape, (1.3, 0.7), (0, 30), (0, 60))
    high = resample_block(image + 10**9, image.shape, (1.3, 0.7), (0, 30), (0, 60)) - 1e9
    np.testing.assert_allclose(high, low, atol=1e-5)


def test_unknown_pixels_stay_local():
    image = np.ones((60, 60))
    image[30, 30] = np.nan
    image[10:20, 10:20] = np.inf
    out = resample(image, 1.0, 0.7)
    known = np.isfinite(out)
    np.testing.assert_allclose(out[known], 1.0, atol=1e-6)
    assert not known[21, 21]
    assert known[50:, :].all()
    assert (~known).sum() < 300


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf])
def test_bad_pixel_sizes_are_refused(bad):
    with pytest.raises(InputError, match="expected positive"):
        resample(np.ones((4, 4)), 1.0, bad)


def test_too_few_samples_are_refused():
    with pytest.raises(InputError, match="need the input samples"):
        axis_matrix(100, 1.5, 10, 20, 14, 30)
    with pytest.raises(InputError, match="at least one pixel"):
        resample(np.ones((0, 4)), 1.0, 2.0)
