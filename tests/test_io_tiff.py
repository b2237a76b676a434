"""Opening TIFF files: stacks, calibrations, several series, colour."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from hrtem_dask import open_movie
from hrtem_dask.core.calibration import pixel_size_of


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
@pytest.mark.parametrize("imagej", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, ">u2", ">f4"])
def test_tiff_stacks(tmp_path, stack, compression, imagej, dtype):
    stack = (stack // 16).astype(dtype)
    path = tmp_path / "stack.tif"
    byteorder = ">" if np.dtype(dtype).byteorder == ">" or imagej else "<"
    tifffile.imwrite(path, stack, compression=compression, imagej=imagej, byteorder=byteorder,
                     **({} if imagej else {"photometric": "minisblack"}))  # fmt: skip
    movie = open_movie(path, chunks=4)
    assert movie.chunks[0] == (4, 2)
    assert movie.dtype == np.dtype(dtype).newbyteorder("=")
    assert movie.values.dtype.isnative
    np.testing.assert_array_equal(movie.values, stack)
    np.testing.assert_array_equal(movie[3].values, stack[3])
    assert "y" not in movie.coords


def test_tiff_calibrations(tmp_path, stack):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, imagej=True, resolution=(1 / 0.05, 1 / 0.05), metadata={"unit": "nm", "axes": "TYX",
                                                                                         "finterval": 0.5})  # fmt: skip
    movie = open_movie(path)
    assert pixel_size_of(movie) == pytest.approx((0.5, 0.5), rel=1e-6)
    np.testing.assert_allclose(movie.time, np.arange(6) * 0.5)
    assert movie.attrs["calibration_source"] == "file"
    tifffile.imwrite(path, stack, imagej=True, resolution=(20, 20), metadata={"unit": "\\u00B5m", "axes": "ZYX"})
    with pytest.warns(UserWarning, match="unusual"):
        movie = open_movie(path)
    assert pixel_size_of(movie) == pytest.approx((500, 500), rel=1e-6)
    ome = tmp_path / "b.ome.tif"
    tifffile.imwrite(ome, stack, metadata={"axes": "TYX", "PhysicalSizeX": 0.06, "PhysicalSizeXUnit": "nm",
                                           "PhysicalSizeY": 0.06, "PhysicalSizeYUnit": "nm", "TimeIncrement": 40,
                                           "TimeIncrementUnit": "ms"})  # fmt: skip
    movie = open_movie(ome)
    assert pixel_size_of(movie) == pytest.approx((0.6, 0.6))
    np.testing.assert_allclose(movie.time, np.arange(6) * 0.04)
    np.testing.assert_array_equal(movie.values, stack)
    tifffile.imwrite(path, stack[0], resolution=(2e8, 2e8), resolutionunit="CENTIMETER")
    assert pixel_size_of(open_movie(path)) == pytest.approx((0.5, 0.5), rel=1e-6)


@pytest.mark.parametrize("resolution", [(72, 72), (96, 96), (300, 300), (1, 1)])
@pytest.mark.parametrize("unit", ["INCH", "CENTIMETER", "NONE"])
def test_the_resolution_of_a_screen_is_no_calibration(tmp_path, stack, resolution, unit):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack[0], resolution=resolution, resolutionunit=unit)
    movie = open_movie(path)
    assert "y" not in movie.coords
    assert "calibration_source" not in movie.attrs


def test_several_series_of_a_tiff(tmp_path, stack):
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(stack[0, :10, :10], photometric="minisblack")
        writer.write(stack, photometric="minisblack")
    with pytest.warns(UserWarning, match=r"2 image series.*number 1 is used"):
        movie = open_movie(path)
    np.testing.assert_array_equal(movie.values, stack)
    np.testing.assert_array_equal(open_movie(path, signal=0).values[0], stack[0, :10, :10])


@pytest.mark.parametrize("mode", ["rgb", "rgba", "grey+alpha"])
def test_grey_pictures_in_colour_become_one_channel(tmp_path, rng, mode):
    grey = rng.integers(0, 255, (12, 17), dtype=np.uint8)
    opaque = np.full_like(grey, 255)
    layers = {"rgb": [grey] * 3, "rgba": [grey] * 3 + [opaque], "grey+alpha": [grey, opaque]}
    iio.imwrite(tmp_path / "a.png", np.stack(layers[mode], axis=-1))
    movie = open_movie(tmp_path / "a.png")
    assert (movie.shape, movie.dtype) == ((1, 12, 17), np.uint8)
    np.testing.assert_array_equal(movie.values[0], grey)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_colour_tiff_stacks(tmp_path, rng, planar, compression):
    grey = rng.integers(0, 255, (3, 12, 17), dtype=np.uint8)
    axis = -1 if planar == "contig" else 1
    tifffile.imwrite(tmp_path / "a.tif", np.stack([grey] * 3, axis=axis), photometric="rgb", planarconfig=planar,
                     compression=compression)  # fmt: skip
    movie = open_movie(tmp_path / "a.tif")
    assert movie.shape == (3, 12, 17)
    np.testing.assert_array_equal(movie.values, grey)


def test_a_coloured_scale_bar_warns_and_more_colour_is_refused(tmp_path, rng):
    grey = rng.integers(0, 250, (100, 100), dtype=np.uint8)
    colour = np.stack([grey] * 3, axis=-1)
    colour[90:92, 10:30, 0] += 5  # 40 pixels of 10 000
    iio.imwrite(tmp_path / "bar.png", colour)
    with pytest.warns(UserWarning, match=r"bar\.png: 40 coloured pixels"):
        values = open_movie(tmp_path / "bar.png").compute(scheduler="synchronous").values
    np.testing.assert_array_equal(values[0], grey)
    opacity = np.full_like(grey, 255)
    opacity[:50] = 0
    iio.imwrite(tmp_path / "glass.png", np.dstack([grey, grey, grey, opacity]))
    with pytest.raises(OSError, match=r"glass\.png: the opacity runs from 0 to 255"):
        open_movie(tmp_path / "glass.png").compute()
    colour[:, :, 2] = 255 - grey
    iio.imwrite(tmp_path / "map.png", colour)
    with pytest.raises(OSError, match=r"map\.png: a colour image"):
        open_movie(tmp_path / "map.png").compute()
