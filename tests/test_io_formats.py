"""Vendor formats from small files that the tests write: what RosettaSciIO or h5py can write, and two by hand."""

from __future__ import annotations

import json
import pickle
import struct

import h5py
import numpy as np
import pytest
import tifffile

from hrtem_dask import open_movie
from hrtem_dask.core.calibration import pixel_size_of
from hrtem_dask.core.errors import HrtemDaskError, InputError, ReadError


@pytest.fixture
def stack(rng):
    return rng.integers(0, 4000, (5, 16, 24), dtype=np.uint16)


def signal_of(stack, scale=0.05, units="nm", time=0.25):
    names = ("time", "y", "x")[-stack.ndim :]
    axes = [{"name": n, "size": s, "scale": time if n == "time" else scale, "offset": 0.0, "navigate": n == "time",
             "units": "s" if n == "time" else units, "index_in_array": i, "_type": "UniformDataAxis"}
            for i, (n, s) in enumerate(zip(names, stack.shape, strict=True))]  # fmt: skip
    return {"data": stack, "axes": axes, "metadata": {"General": {"title": "test"}, "Signal": {"signal_type": ""}},
            "original_metadata": {}, "attributes": {"_lazy": False}}  # fmt: skip


def check(path, stack, pixel=None, time=None):
    movie = open_movie(path, chunks=2)
    assert movie.dims == ("frame", "y", "x")
    assert movie.shape == stack.shape
    assert movie.dtype == stack.dtype.newbyteorder("=")
    assert movie.chunks[0] == (2,) * (len(stack) // 2) + (1,) * (len(stack) % 2)
    np.testing.assert_array_equal(movie.values, stack)
    np.testing.assert_array_equal(movie[-1].values, stack[-1])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(movie.data)).compute(), stack)
    if pixel is None:
        assert "y" not in movie.coords
        assert "calibration_source" not in movie.attrs
    else:
        assert pixel_size_of(movie) == pytest.approx(pixel, rel=1e-5)
        assert movie.attrs["calibration_source"] == "file"
    if time is None:
        assert "time" not in movie.coords
    else:
        np.testing.assert_allclose(movie.time, time, atol=2e-3)
    return movie


# ---- MRC

def write_mrc(path, stack, cell=None, mode=6):
    n, ny, nx = stack.shape
    header = bytearray(1024)
    struct.pack_into("<4i", header, 0, nx, ny, n, mode)
    if cell is not None:
        struct.pack_into("<3i", header, 28, nx, ny, n)
        struct.pack_into("<3f", header, 40, nx * cell[1], ny * cell[0], n)
    struct.pack_into("<3f", header, 52, 90, 90, 90)
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    header[208:216] = b"MAP DA\x00\x00"
    path.write_bytes(bytes(header) + stack.tobytes())


def test_mrc(tmp_path, stack):
    path = tmp_path / "a.mrc"
    write_mrc(path, stack, (0.5, 0.5))
    check(path, stack, (0.5, 0.5))
    write_mrc(path, stack)
    check(path, stack)
    write_mrc(path, stack.astype(np.float32), (0.0, 0.0), mode=2)
    check(path, stack.astype(np.float32))
    write_mrc(path, stack, (1.0, 1.0))
    with pytest.warns(UserWarning, match="exactly 1 angstrom"):
        check(path, stack, (1.0, 1.0))
    write_mrc(path, stack, (0.5, 0.6))
    with pytest.warns(UserWarning, match="square"):
        check(path, stack, (0.5, 0.6))


def test_a_series_of_mrc_stacks(tmp_path, stack):
    write_mrc(tmp_path / "run_1.mrc", stack, (0.5, 0.5))
    write_mrc(tmp_path / "run_2.mrc", stack[:2], (0.5, 0.5))
    movie = open_movie(tmp_path, chunks=2)
    assert movie.chunks[0] == (2, 2, 2, 1) or movie.chunks[0] == (2, 2, 1, 2)
    np.testing.assert_array_equal(movie.values, np.concatenate([stack, stack[:2]]))


# ---- SER, laid out as TIA writes it (version 0x210, 32-bit offsets)

def write_ser(path, stack, pixel=5e-11, valid=None):
    n, ny, nx = stack.shape
    code = {np.dtype("<u2"): 2, np.dtype("<i4"): 6, np.dtype("<f4"): 7}[stack.dtype]
    header = struct.pack("<HHHIIIIII", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, n, valid or n, 30 + 24 + 4 + 8, 1)
    dimension = struct.pack("<IddII", n, 0.0, 1.0, 0, 8) + b"Number\x00\x00" + struct.pack("<I", 0)
    start = len(header) + len(dimension)
    header = header[:22] + struct.pack("<I", start) + header[26:]
    first = start + 8 * n
    step = 50 + stack[0].nbytes + 8
    body = b"".join(struct.pack("<ddIddIHII", 0, pixel, 0, 0, pixel, 0, code, nx, ny) + frame[::-1].tobytes()
                    + struct.pack("<HHI", 0x4152, 0, 1_000_000 + i) for i, frame in enumerate(stack))  # fmt: skip
    offsets = struct.pack(f"<{n}I", *(first + step * i for i in range(n)))
    tags = struct.pack(f"<{n}I", *(first + step * i + step - 8 for i in range(n)))
    path.write_bytes(header + dimension + offsets + tags + body)


@pytest.mark.parametrize("dtype", ["<u2", "<i4", "<f4"])
def test_ser_agrees_with_rosettasciio(tmp_path, stack, dtype):
    from rsciio.tia import file_reader

    path = tmp_path / "a_1.ser"
    write_ser(path, stack.astype(dtype))
    np.testing.assert_array_equal(file_reader(str(path))[0]["data"], stack)  # the file is as a TIA file should be
    check(path, stack.astype(dtype), (0.5, 0.5))


def test_ser_truncated(tmp_path, stack):
    path = tmp_path / "a_1.ser"
    write_ser(path, stack)
    path.write_bytes(path.read_bytes()[:-1000])
    movie = open_movie(path, chunks=1)
    np.testing.assert_array_equal(movie[0].values, stack[0])
    with pytest.raises(HrtemDaskError, match=r"a_1\.ser.*truncated"):
        movie.compute()


# ---- MIB, laid out as a Merlin detector writes it

def write_mib(path, stack, interval=0.25):
    kind = {1: "U08", 2: "U16", 4: "U32"}[stack.itemsize]
    out = b""
    for i, frame in enumerate(stack):
        moment = np.datetime64("2024-05-06T07:08:09", "ns") + np.timedelta64(int(i * interval * 1e9), "ns")
        ny, nx = frame.shape
        fields = ["MQ1", f"{i + 1:06d}", "00384", "01", f"{nx:04d}", f"{ny:04d}", kind, "   1x1", "01",
                  "2024-05-06 07:08:09.000000", "0.200000", "0", "0", "0", "1.2e+2", "5.11e+2", "", "MQ1A",
                  f"{moment}Z", "200000000ns", "12"]  # fmt: skip
        pixels = frame[::-1].astype(frame.dtype.newbyteorder(">"))
        out += (",".join(fields) + ",").encode().ljust(384, b" ") + pixels.tobytes()
    path.write_bytes(out)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_mib(tmp_path, stack, dtype):
    path = tmp_path / "a.mib"
    frames = (stack % 200).astype(dtype)
    write_mib(path, frames)
    movie = check(path, frames, time=np.arange(5) * 0.25)
    assert movie.attrs["exposure"] == pytest.approx(0.2)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(HrtemDaskError, match=r"a\.mib.*truncated after 4 frames"):
        open_movie(path)


# ---- TVIPS, written by RosettaSciIO

def test_tvips(tmp_path, stack):
    from rsciio.tvips import file_writer

    file_writer(str(tmp_path / "run_000.tvips"), signal_of(stack, scale=15.0, units="um"), show_progressbar=False)
    for source in (tmp_path / "run_000.tvips", tmp_path):
        with pytest.warns(UserWarning, match=r"run_000\.tvips.*pixel_size="):
            check(source, stack, time=np.arange(5) * 0.25)
    frame = 2 * 16 * 24 + 60
    (tmp_path / "parts").mkdir()
    file_writer(str(tmp_path / "parts" / "run_000.tvips"), signal_of(stack, scale=15.0, units="um"),
                max_file_size=256 + 2 * frame, show_progressbar=False)  # fmt: skip
    assert len(list((tmp_path / "parts").iterdir())) > 1
    with pytest.warns(UserWarning, match="no calibration"):
        check(tmp_path / "parts", stack, time=np.arange(5) * 0.25)


# ---- NCEM EMD, with h5py as its specification says

def write_ncem(path, stack, order, units="[n_m]"):
    with h5py.File(path, "w") as f:
        f.attrs["version_major"], f.attrs["version_minor"] = 0, 2
        group = f.create_group("data/movie")
        group.attrs["emd_group_type"] = 1
        group["data"] = stack.transpose([("time", "y", "x").index(n) for n in order])
        for i, name in enumerate(order, start=1):
            size = stack.shape[("time", "y", "x").index(name)]
            dim = group.create_dataset(f"dim{i}", data=np.arange(size) * (0.5 if name == "time" else 0.04))
            dim.attrs["name"], dim.attrs["units"] = name, "[s]" if name == "time" else units


@pytest.mark.parametrize("order", [("time", "y", "x"), ("x", "y", "time"), ("time", "x", "y")])
@pytest.mark.parametrize("units", ["n_m", "nm"])
def test_ncem_emd_whatever_the_order_of_its_axes(tmp_path, stack, order, units):
    write_ncem(tmp_path / "a.emd", stack, order, units)
    check(tmp_path / "a.emd", stack, (0.4, 0.4), np.arange(5) * 0.5)


def test_ncem_emd_written_by_rosettasciio(tmp_path, stack):
    from rsciio.emd import file_writer

    file_writer(str(tmp_path / "a.emd"), signal_of(stack))
    check(tmp_path / "a.emd", stack, (0.5, 0.5), np.arange(5) * 0.25)


# ---- Velox EMD, with h5py as Thermo Fisher lays it out

def write_velox(path, images, pixel=5e-11, frame_time=0.4):
    with h5py.File(path, "w") as f:
        f["Version"] = np.array([json.dumps({"format": "Velox", "version": "1.2"}).encode()], dtype=object)
        for k, (name, stack) in enumerate(images.items()):
            n, ny, nx = stack.shape
            key = f"{k:032x}"
            group = f.create_group(f"Data/Image/{key}")
            group.create_dataset("Data", data=stack.transpose(1, 2, 0), chunks=(ny, nx, 1))
            metadata = {
                "BinaryResult": {"PixelSize": {"width": str(pixel), "height": str(pixel)}, "PixelUnitX": "m",
                                 "Offset": {"x": "0", "y": "0"}, "DetectorIndex": str(k), "Detector": name},
                "Detectors": {f"Detector-{i}": {"DetectorName": d, "ExposureTime": str(frame_time)}
                              for i, d in enumerate(images)},
                "Scan": {}, "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1600000000"}},
                "Optics": {"AccelerationVoltage": "300000"}, "Instrument": {"InstrumentModel": "Titan"},
                "Core": {}, "Stage": {"Position": {"x": "0", "y": "0", "z": "0"}, "AlphaTilt": "0", "BetaTilt": "0"},
            }  # fmt: skip
            raw = np.frombuffer(json.dumps(metadata).encode().ljust(60000, b"\x00"), dtype=np.uint8)
            group["Metadata"] = np.repeat(raw[:, None], n, axis=1)
            operation = f.require_group("Operations/CameraInputOperation")
            source = {"dataPath": f"/Data/Image/{key}", "cameraName": name}
            operation[f"op{k}"] = np.array([json.dumps(source).encode()], dtype=object)


def test_velox_emd(tmp_path, stack):
    path = tmp_path / "a.emd"
    write_velox(path, {"Ceta": stack})
    movie = check(path, stack, (0.5, 0.5), np.arange(5) * 0.4)
    assert movie.attrs["beam_energy"] == 300


def test_velox_emd_with_several_images(tmp_path, stack):
    path = tmp_path / "a.emd"
    write_velox(path, {"Ceta": stack, "Flucam": stack[:, :8] + 1})
    with pytest.warns(UserWarning, match=r"holds 2 image signals \(0: Ceta.*1: Flucam.*signal="):
        check(path, stack, (0.5, 0.5), np.arange(5) * 0.4)
    np.testing.assert_array_equal(open_movie(path, signal="Flucam").values, stack[:, :8] + 1)
    np.testing.assert_array_equal(open_movie(path, signal=1).values, stack[:, :8] + 1)
    with pytest.raises(InputError, match="no image signal 'HAADF'"):
        open_movie(path, signal="HAADF")


def test_hdf5_of_another_kind_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["frames"] = np.zeros((3, 4, 4))
    with pytest.raises(InputError, match=r"a\.h5.*frames.*HyperSpy or an EMD"):
        open_movie(tmp_path / "a.h5")


def test_diffraction_is_not_given_a_pixel_size(tmp_path, stack):
    write_ncem(tmp_path / "a.emd", stack, ("time", "y", "x"), "[1/n_m]")
    with pytest.warns(UserWarning, match="diffraction"):
        check(tmp_path / "a.emd", stack, time=np.arange(5) * 0.5)


def test_four_dimensional_data_are_refused(tmp_path, rng):
    hs = pytest.importorskip("hyperspy.api")
    hs.signals.Signal2D(rng.random((2, 3, 8, 8))).save(tmp_path / "a.hspy")
    with pytest.raises(InputError, match=r"a\.hspy.*one axis of frames"):
        open_movie(tmp_path / "a.hspy")
    hs.signals.Signal1D(rng.random(8)).save(tmp_path / "b.hspy")
    with pytest.raises(InputError, match=r"b\.hspy.*no image"):
        open_movie(tmp_path / "b.hspy")


@pytest.mark.filterwarnings("ignore:.*photometric:DeprecationWarning")
@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_short_stacks_that_tifffile_marks_as_colours_are_refused_with_advice(tmp_path, rng, n, dtype):
    frames = rng.integers(0, 200, (n, 40, 50)).astype(dtype)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, frames)
    with tifffile.TiffFile(path) as tif:
        marked = tif.pages[0].photometric == tifffile.PHOTOMETRIC.RGB
    if marked:
        with pytest.raises(ReadError, match=rf'{n} planes are {n} frames.*photometric="minisblack"'):
            open_movie(path).compute()
    else:  # other versions of tifffile mark only what is asked for
        np.testing.assert_array_equal(open_movie(path).values, frames)
    tifffile.imwrite(path, frames, photometric="minisblack")
    np.testing.assert_array_equal(open_movie(path).values, frames)
    tifffile.imwrite(path, frames[:, :, :, None].repeat(3, -1) + np.arange(3, dtype=dtype), photometric="rgb")
    with pytest.raises(ReadError, match="a colour image") as caught:
        open_movie(path).compute()
    assert "minisblack" not in str(caught.value)  # samples of one pixel side by side are colours indeed
