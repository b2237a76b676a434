"""Where a pixel is: coordinates are the truth, attributes repeat them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from hrtem_dask.core.calibration import calibrated, grid_of, make_movie, pixel_size_of
from hrtem_dask.core.errors import CalibrationError, InputError


def movie(pixel_size=0.5, shape=(2, 6, 8)):
    return make_movie(np.zeros(shape, np.uint8), pixel_size=pixel_size)


def test_conventions():
    m = movie()
    assert m.dims == ("frame", "y", "x")
    assert m.attrs["pixel_size"] == m.attrs["pixel_size_y"] == m.attrs["pixel_size_x"] == 0.5
    assert float(m.y[0]) == float(m.x[0]) == 0.0
    assert m.y.attrs["units"] == "angstrom"
    assert m.frame.dtype == np.int64


def test_anisotropic_pixels_have_no_single_pixel_size():
    m = movie((2.0, 10.0))
    assert "pixel_size" not in m.attrs
    assert pixel_size_of(m) == (2.0, 10.0)


def test_a_slice_a_crop_and_a_coarsened_movie_stay_right():
    m = movie()
    assert pixel_size_of(m.isel(y=slice(2, 5), x=slice(1, 7))) == pytest.approx((0.5, 0.5))
    crop = grid_of(m.isel(y=slice(2, 5)))
    assert crop.y0 == pytest.approx(1.0)
    assert pixel_size_of(m.isel(x=slice(None, None, 2))) == pytest.approx((0.5, 1.0))
    coarse = m.astype(float).coarsen(y=2, x=2).mean()
    grid = grid_of(coarse)
    assert grid.pixel_size == pytest.approx((1.0, 1.0))
    assert grid.y0 == pytest.approx(0.25)


def test_a_flipped_frame_keeps_positions():
    grid = grid_of(movie().isel(y=slice(None, None, -1)))
    assert grid.pixel_size == pytest.approx((0.5, 0.5))
    assert grid.position(0, 0) == pytest.approx((2.5, 0.0))


def test_one_pixel_wide_axis_uses_the_attribute():
    assert pixel_size_of(movie(shape=(1, 6, 1))) == (0.5, 0.5)


def test_attributes_that_disagree_are_refused():
    m = movie()
    m.attrs["pixel_size_y"] = 0.37
    with pytest.raises(CalibrationError, match=r"step of 0\.5 angstrom but attrs say 0\.37"):
        pixel_size_of(m)


def test_uneven_coordinates_are_refused():
    m = movie().isel(y=[0, 1, 5])
    with pytest.raises(CalibrationError, match="uniform"):
        pixel_size_of(m)


def test_missing_calibration_is_asked_for():
    m = make_movie(np.zeros((1, 4, 4)), attrs={"source": "image_00.png"})
    with pytest.raises(CalibrationError, match=r"image_00\.png .*--pixel-size 0\.59"):
        pixel_size_of(m)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, "wide", (1, 2, 3), (0.5, 0)])
def test_impossible_pixel_sizes_are_refused(value):
    with pytest.raises(CalibrationError, match=r"positive|expected one number"):
        movie(value)


def test_wrong_number_of_axes_is_refused():
    with pytest.raises(InputError, match="expected the axes"):
        make_movie(np.zeros((4, 4)))


def test_recalibration_replaces_the_old_attributes():
    m = calibrated(movie((2.0, 10.0)), 0.25)
    assert m.attrs["pixel_size"] == 0.25
    assert pixel_size_of(m) == (0.25, 0.25)


@given(st.floats(1e-3, 1e3), st.integers(2, 5000), st.integers(0, 100))
def test_the_pixel_size_survives_any_crop(size, n, start):
    m = xr.DataArray(np.broadcast_to(np.uint8(0), (1, n + start, 3)), dims=("frame", "y", "x"))
    assert pixel_size_of(calibrated(m, size).isel(y=slice(start, None)))[0] == pytest.approx(size, rel=1e-9)
