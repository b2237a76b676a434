"""Other people's files: shape, dtype and calibration of each, as its own metadata say.

The numbers were read with h5py, with the tags that tifffile lists, and with the headers that RosettaSciIO
prints, and the pictures were looked at: rows are y.
"""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest
import tifffile

from hrtem_dask import open_movie
from hrtem_dask.core.calibration import grid_of, pixel_size_of
from hrtem_dask.core.errors import CalibrationError

pytestmark = pytest.mark.real

#: file: shape (frame, y, x), dtype, pixel size (y, x) [angstrom] or None, times [s] or None
FILES = {
    "columns/graphene_flower_raw.tif": ((1, 256, 256), "float32", None, None),
    "columns/graphene_defect_raw.tif": ((1, 512, 512), "float32", None, None),
    "thon/amorphous_1006.tif": ((1, 1006, 1006), "float32", (1.4782312519, 1.4782312519), None),
    "vacuum/low_dose/a_1.tif": ((1, 512, 512), "uint16", (29.8845674846, 29.8845674846), None),
    "vacuum/low_dose/a_2.tif": ((1, 512, 512), "uint16", (29.8845674846, 29.8845674846), None),
    "vacuum/reference_hologram_512.hdf5": ((1, 512, 512), "int64", (9.1975164413, 9.1975164413), None),
    "vacuum/soot_with_vacuum_512.tif": ((1, 512, 512), "uint8", None, None),
    "vendor/16_STOimage.emi": ((1, 1024, 1024), "uint16", (0.1001270424, 0.1001270424), None),
    "vendor/16_STOimage_1.ser": ((1, 1024, 1024), "uint16", (0.1001270424, 0.1001270424), None),
    "vendor/Acquisition_18.emd": ((1, 1024, 1024), "uint16", (0.1224652491, 0.1224652491), None),
    "vendor/anisotropic_pixel_float32.dm3": ((1, 64, 128), "float32", (2.0, 10.0), None),
    "vendor/anisotropic_pixel_float32.dm4": ((1, 64, 128), "float32", (2.0, 10.0), None),
    "vendor/ceta_beam_off.emd": ((1, 512, 512), "int16", (31.3883705445, 31.3883705445), None),
    "vendor/stack_int16_64_65_66.dm3": ((66, 65, 64), "int16", (30.0, 0.02), None),
    "vendor/stack_int16_64_65_66.dm4": ((66, 65, 64), "int16", (30.0, 0.02), None),
    "vendor/stackbuilder_imagestack.dm3": ((3, 2, 16), "uint32", (599.8290330172, 599.8290330172), None),
    "vendor/stem_mos2_1024.dm3": ((1, 1024, 1024), "uint32", (0.126953125, 0.126953125), None),
    "vendor/three_frames.mrc": ((3, 128, 128), "float32", (2.0, 2.0), None),
    "vendor/velox_haadf_au_2048.emd": ((1, 2048, 2048), "uint16", (0.0749840149, 0.0749840149), None),
    "vendor/velox_tem_stack.emd": ((2, 3, 3), "int16", (0.0817288319, 0.0817288319), (0.0, 0.8)),
} | {f"nanoparticles/{kind}_{i:02d}.png": ((1, 512, 512), "uint8", None, None)
     for kind in ("image", "label") for i in range(20)}  # fmt: skip


def opened(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        movie = open_movie(path)
        return movie, movie.compute(scheduler="synchronous")


def test_the_table_names_every_file(shared_data):
    files = [p for p in shared_data.rglob("*") if p.is_file() and p.suffix not in (".md", ".txt")]
    images = {str(p.relative_to(shared_data)) for p in files}
    assert images == set(FILES)


@pytest.mark.parametrize("name", list(FILES))
def test_shape_dtype_and_calibration(shared_data, name):
    shape, dtype, pixel, times = FILES[name]
    movie, values = opened(shared_data / name)
    assert movie.shape == values.shape == shape
    assert movie.dtype == values.dtype == np.dtype(dtype)
    assert values.dtype.isnative
    assert movie.attrs["source"].endswith(name)
    if pixel is None:
        with pytest.raises(CalibrationError, match="pixel_size"):
            grid_of(movie)
        assert "calibration_source" not in movie.attrs
    else:
        assert pixel_size_of(movie) == pytest.approx(pixel, rel=1e-6)
        assert movie.attrs["calibration_source"] == "file"
    if times is None:
        assert "time" not in movie.coords
    else:
        np.testing.assert_allclose(movie.time, times)


def test_rows_are_y_in_an_ncem_file(shared_data):
    path = shared_data / "vendor" / "Acquisition_18.emd"
    with h5py.File(path) as f:
        assert f["data/single/dim1"].attrs["name"] in (b"Y", "Y")
        expected = f["data/single/data"][...]
    assert not np.array_equal(expected, expected.T)
    np.testing.assert_array_equal(opened(path)[1].values[0], expected)


def test_frames_of_a_velox_stack(shared_data):
    path = shared_data / "vendor" / "velox_tem_stack.emd"
    with h5py.File(path) as f:
        group = next(iter(f["Data/Image"].values()))
        expected = np.moveaxis(group["Data"][...], 2, 0)
    np.testing.assert_array_equal(opened(path)[1].values, expected)


def test_axes_of_a_dm_stack(shared_data):
    # the test file of openNCEM counts up along x: the fast axis must come last
    for suffix in ("dm3", "dm4"):
        values = opened(shared_data / "vendor" / f"stack_int16_64_65_66.{suffix}")[1].values
        assert np.all(np.diff(values.astype(int), axis=2) >= 0)
        assert np.ptp(values[:, :, 0]) == 0
    dm3, dm4 = (opened(shared_data / "vendor" / f"anisotropic_pixel_float32.{s}")[1].values for s in ("dm3", "dm4"))
    np.testing.assert_array_equal(dm3, dm4)


def test_the_series_of_an_emi(shared_data):
    from rsciio.tia import file_reader

    expected = file_reader(str(shared_data / "vendor" / "16_STOimage_1.ser"))[0]["data"]
    for name in ("16_STOimage.emi", "16_STOimage_1.ser"):
        movie, values = opened(shared_data / "vendor" / name)
        np.testing.assert_array_equal(values.values[0], expected)
    # perovskite with a cell of 3.905 angstrom: the spots of its spectrum lie where the calibration says
    spectrum = np.abs(np.fft.rfft2(expected - expected.mean()))
    spectrum[:3, :3] = 0
    ky, kx = np.unravel_index(spectrum.argmax(), spectrum.shape)
    ky = min(ky, 1024 - ky)
    d = 1 / (np.hypot(ky, kx) / (1024 * pixel_size_of(movie)[0]))
    assert any(d == pytest.approx(3.905 / np.sqrt(n), rel=0.06) for n in (1, 2, 4))


def test_microscope_metadata(shared_data):
    movie, _ = opened(shared_data / "vacuum" / "reference_hologram_512.hdf5")
    assert (movie.attrs["beam_energy"], movie.attrs["exposure"]) == (300, 10)
    assert opened(shared_data / "vendor" / "velox_tem_stack.emd")[0].attrs["beam_energy"] == 300
    assert opened(shared_data / "vendor" / "stem_mos2_1024.dm3")[0].attrs["beam_energy"] == 60


def test_a_folder_of_micrographs_and_their_labels(shared_data):
    pattern = str(shared_data / "nanoparticles" / "image_*.png")
    movie = open_movie(pattern, pixel_size=0.59)
    assert movie.shape == (20, 512, 512)
    assert movie.chunks[0] == (1,) * 20
    with pytest.warns(UserWarning, match=r"image_#\.png \(20\), label_#\.png \(20\)"):
        assert open_movie(shared_data / "nanoparticles").sizes["frame"] == 40
    low = open_movie(shared_data / "vacuum" / "low_dose", pixel_size=0.5)
    np.testing.assert_array_equal(low.values[1], tifffile.imread(shared_data / "vacuum" / "low_dose" / "a_2.tif"))


def test_a_burnt_in_scale_bar_warns(shared_data):
    with pytest.warns(UserWarning, match=r"soot_with_vacuum_512\.tif: 313 coloured pixels"):
        open_movie(shared_data / "vacuum" / "soot_with_vacuum_512.tif").compute(scheduler="synchronous")


@pytest.mark.filterwarnings("ignore:.*square:UserWarning")
def test_dm4_frames_in_the_in_situ_layout_of_gatan(shared_data, tmp_path):
    source = shared_data / "vendor" / "anisotropic_pixel_float32.dm4"
    for second in range(11):
        folder = tmp_path / "Hour_00" / "Minute_00" / f"Second_{second:02d}"
        folder.mkdir(parents=True)
        for k in range(2):
            copy = folder / f"run_Hour_00_Minute_00_Second_{second:02d}_Frame_{k:04d}.dm4"
            copy.write_bytes(source.read_bytes())
    movie = open_movie(tmp_path)
    assert movie.shape == (22, 64, 128)
    np.testing.assert_allclose(movie.time, np.arange(22) / 2)
    assert pixel_size_of(movie) == pytest.approx((2.0, 10.0))
    np.testing.assert_array_equal(movie.values, np.repeat(opened(source)[1].values, 22, axis=0))
    broken = tmp_path / "Hour_00" / "Minute_00" / "Second_03" / "run_Hour_00_Minute_00_Second_03_Frame_0001.dm4"
    broken.write_bytes(source.read_bytes()[:20_000])
    with pytest.raises(OSError, match=r"Second_03_Frame_0001\.dm4"):
        open_movie(tmp_path).compute()
