"""Bad input: every file that cannot be a movie gets an error that names it."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import zarr

from hrtem_dask import open_movie
from hrtem_dask.core.calibration import pixel_size_of
from hrtem_dask.core.errors import CalibrationError, HrtemDaskError, InputError, MissingInputError, ReadError

SUFFIXES = [".dm3", ".dm4", ".mrc", ".ser", ".emi", ".tvips", ".mib", ".emd", ".hspy", ".hdf5", ".tif", ".png", ".jpg",
            ".bmp", ".npy"]  # fmt: skip


@pytest.fixture
def images(rng):
    return rng.integers(0, 250, (4, 32, 40), dtype=np.uint8)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"A laboratory diary, not an image.\n" * 50, bytes(5000), b"\xff" * 100],
                         ids=["empty", "text", "zeros", "ones"])  # fmt: skip
def test_no_image_at_all(tmp_path, suffix, content):
    path = tmp_path / f"notes_000{suffix}"
    path.write_bytes(content)
    with pytest.raises(HrtemDaskError, match=rf"notes_000\{suffix}") as caught:
        open_movie(path).compute()
    assert isinstance(caught.value, ReadError) or "expected" in str(caught.value)
    if not content:
        assert "empty" in str(caught.value)


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_truncated_tiff(tmp_path, images, compression, keep):
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, images, compression=compression, photometric="minisblack")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    if (keep, compression) == (0.95, None):  # only the page table at the end is lost: all pixels, in order, are there
        np.testing.assert_array_equal(open_movie(path, chunks=1).values, images)
        return
    with pytest.raises(ReadError, match=r"cut\.tif"):
        open_movie(path, chunks=1).compute()


@pytest.mark.parametrize("suffix", [".png", ".npy", ".bmp"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_pictures(tmp_path, images, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    np.save(path, images) if suffix == ".npy" else iio.imwrite(path, images[0])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ReadError, match=r"cut\."):
        open_movie(path).compute()


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_damaged_file_in_a_series_is_named_and_the_others_are_read(tmp_path, images, scheduler):
    for i, image in enumerate(images):
        iio.imwrite(tmp_path / f"frame_{i}.png", image)
    content = (tmp_path / "frame_2.png").read_bytes()
    (tmp_path / "frame_2.png").write_bytes(content[:300])
    movie = open_movie(tmp_path)
    with pytest.raises(ReadError, match=r"frame_2\.png"):
        movie.compute(scheduler=scheduler)
    np.testing.assert_array_equal(movie[[0, 1, 3]].compute(scheduler=scheduler), images[[0, 1, 3]])
    (tmp_path / "frame_2.png").write_bytes(b"")
    with pytest.raises(ReadError, match=r"frame_2\.png.*empty"):
        movie.compute(scheduler=scheduler)
    (tmp_path / "frame_2.png").unlink()
    with pytest.raises(ReadError, match=r"frame_2\.png.*gone"):
        movie.compute(scheduler=scheduler)


def test_frames_of_different_shape_dtype_or_number(tmp_path, images):
    for i in range(3):
        tifffile.imwrite(tmp_path / f"f{i}.tif", images[i])
    for wrong, match in [
        (images[1, :, :30], r"\(32, 30\).*\(32, 40\)"),
        (images[1].astype(np.uint16) * 200, "uint16.*expected uint8"),
        (images[:2], r"2 frame\(s\).*expected 1"),
    ]:
        tifffile.imwrite(tmp_path / "f1.tif", wrong, photometric="minisblack")
        movie = open_movie(tmp_path)
        assert movie.shape == (3, 32, 40)
        with pytest.raises(ReadError, match=rf"f1\.tif.*{match}"):
            movie.compute()
        np.testing.assert_array_equal(movie[[0, 2]].values, images[[0, 2]])


def test_stacks_of_different_shape(tmp_path, images):
    tifffile.imwrite(tmp_path / "a.tif", images, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", images[:, :20], photometric="minisblack")
    with pytest.raises(ReadError, match=r"b\.tif.*\(20, 40\)"):
        open_movie(tmp_path).compute()


def test_what_is_not_there(tmp_path, images):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no image")
    (tmp_path / "text" / ".hidden.png").write_bytes(b"")
    for source, match in [
        (tmp_path / "nothing.tif", r"nothing\.tif: no such"),
        (tmp_path / "no folder", "no such"),
        (str(tmp_path / "*.tif"), r"\*\.tif: no image matches"),
        (str(tmp_path / "text" / "*"), "1 other files match"),
        (tmp_path / "text", "text: no image in this folder"),
        ([], "list of files is empty"),
        ([tmp_path / "gone.tif"], "gone"),
    ]:
        with pytest.raises(MissingInputError, match=match):
            open_movie(source)
    with pytest.raises(FileNotFoundError):
        open_movie("nothing.dm4")


def test_unknown_and_mixed_formats(tmp_path, images):
    (tmp_path / "a.xyz").write_bytes(b"123")
    with pytest.raises(InputError, match=r"a\.xyz: unknown format '\.xyz'.*\.dm4"):
        open_movie(tmp_path / "a.xyz")
    (tmp_path / "noformat").write_bytes(b"123")
    with pytest.raises(InputError, match=r"no suffix"):
        open_movie(tmp_path / "noformat")
    iio.imwrite(tmp_path / "a.png", images[0])
    tifffile.imwrite(tmp_path / "a.tif", images[0])
    with pytest.raises(InputError, match=r"several formats \(1 x image, 1 x TIFF\).*\*\.tif"):
        open_movie(tmp_path)
    with pytest.raises(InputError, match="several formats"):
        open_movie([tmp_path / "a.png", tmp_path / "a.tif"])
    with pytest.raises(InputError, match="a folder inside a list"):
        open_movie([tmp_path])


def test_an_emi_without_its_series(tmp_path):
    (tmp_path / "a.emi").write_bytes(b"\x00" * 100)
    with pytest.raises(ReadError, match=r"a\.emi.*a_1\.ser"):
        open_movie(tmp_path / "a.emi")


def test_damaged_and_foreign_zarr_stores(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text("{ not json")
    with pytest.raises(ReadError, match=r"a\.zarr"):
        open_movie(tmp_path / "a.zarr")
    zarr.open_group(str(tmp_path / "b.zarr"), mode="w")
    with pytest.raises(InputError, match=r"b\.zarr.*expected one image"):
        open_movie(tmp_path / "b.zarr")
    zarr.create_array(str(tmp_path / "c.zarr"), shape=(3,), dtype="f4")
    with pytest.raises(InputError, match=r"c\.zarr.*shape \(3,\)"):
        open_movie(tmp_path / "c.zarr")


def test_a_missing_calibration_names_the_file_and_the_option(tmp_path, images):
    iio.imwrite(tmp_path / "a.png", images[0])
    with pytest.raises(CalibrationError, match=r"a\.png.*open_movie\(\.\.\., pixel_size=.*--pixel-size"):
        pixel_size_of(open_movie(tmp_path / "a.png"))
