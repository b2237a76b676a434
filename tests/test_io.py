"""open_movie: what it makes of files, folders, patterns, stores and arrays that are as they should be."""

from __future__ import annotations

import pickle
import time
import warnings

import dask
import dask.array as da
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hrtem_dask import open_movie
from hrtem_dask.core.calibration import grid_of, make_movie, pixel_size_of
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.io import frames as frames_module
from hrtem_dask.io.natural import natural_key
from hrtem_dask.io.store import ArraySpec, create_store, write_shards


def refuse(*args, **kwargs):
    raise AssertionError("something computed while the movie was being opened")


def write_series(folder, stack, name="frame_{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(stack):
        iio.imwrite(folder / name.format(i), image)
    return folder


def test_natural_order():
    names = ["Hour_00/Second_10/a.tif", "Hour_00/Second_2/a.tif", "Hour_00/Second_2/A10.tif", "x", "2", "10"]
    assert sorted(names, key=natural_key) == ["2", "10", "Hour_00/Second_2/A10.tif", "Hour_00/Second_2/a.tif",
                                              "Hour_00/Second_10/a.tif", "x"]  # fmt: skip


def test_folder_pattern_list_and_single_image(tmp_path, stack):
    many = np.concatenate([stack, stack + 5])
    folder = write_series(tmp_path / "series", many)
    for junk in ("notes.txt", "settings.json", "Thumbs.db", ".hidden.png", "._frame_1.png"):
        (folder / junk).write_text("no image")
    movie = open_movie(folder)
    assert movie.dims == ("frame", "y", "x")
    assert movie.shape == (12, 20, 30)
    assert movie.dtype == np.uint16
    assert movie.chunks == ((1,) * 12, (20,), (30,))
    assert movie.frame.values.tolist() == list(range(12))
    np.testing.assert_array_equal(movie.values, many)
    np.testing.assert_array_equal(open_movie(str(folder / "*_1*.png")).values, many[[1, 10, 11]])
    listed = [folder / "frame_5.png", folder / "frame_2.png"]
    np.testing.assert_array_equal(open_movie(listed).values, many[[5, 2]])
    single = open_movie(folder / "frame_3.png")
    assert single.shape == (1, 20, 30)
    np.testing.assert_array_equal(single.values[0], many[3])
    assert movie.attrs["source"] == str(folder)
    assert movie.attrs["format"] == "PNG"
    assert "calibration_source" not in movie.attrs
    with pytest.raises(CalibrationError, match=r"series.*pixel_size="):
        pixel_size_of(movie)


def test_folder_of_two_naming_patterns_warns(tmp_path, stack):
    write_series(tmp_path, stack, "image_{}.png")
    write_series(tmp_path, stack, "label_{}.png")
    with pytest.warns(UserWarning, match=r"image_\*\.png"):
        open_movie(tmp_path)


def test_folder_leaves_zarr_stores_inside_alone(tmp_path, stack):
    write_series(tmp_path, stack)
    zarr.create_array(str(tmp_path / "results.zarr"), shape=(3, 4, 4), dtype="f4")
    (tmp_path / "results.zarr" / "preview.png").write_bytes(b"not an image at all")
    assert open_movie(tmp_path).sizes["frame"] == 6


def test_gatan_layout_keeps_the_gap_of_a_dropped_frame(tmp_path, stack):
    order = []
    for second in (0, 1, 10):
        folder = tmp_path / "Hour_00" / "Minute_00" / f"Second_{second:02d}"
        folder.mkdir(parents=True)
        for k in range(4):
            if (second, k) == (1, 2):
                continue
            tifffile.imwrite(folder / f"run_Hour_00_Minute_00_Second_{second:02d}_Frame_{k:04d}.tif", stack[k] + second)
            order.append((second, k))
    movie = open_movie(tmp_path)
    np.testing.assert_allclose(movie.time, [s + k / 4 for s, k in order])
    np.testing.assert_array_equal(movie.values, [stack[k] + s for s, k in order])
    np.testing.assert_allclose(open_movie(tmp_path, frame_time=0.1).time, [s + k * 0.1 for s, k in order])


def test_frame_time_and_pixel_size(tmp_path, stack):
    movie = open_movie(write_series(tmp_path, stack), frame_time=0.25, pixel_size=0.59)
    np.testing.assert_allclose(movie.time, np.arange(6) * 0.25)
    assert movie.time.attrs["units"] == "second"
    assert movie.attrs["pixel_size"] == 0.59
    assert movie.attrs["calibration_source"] == "user"
    assert grid_of(movie).y0 == 0
    pair = open_movie(stack, pixel_size=(0.59, 0.59001))
    assert pixel_size_of(pair) == pytest.approx((0.59, 0.59001))


def test_unusual_pixel_sizes_only_warn(stack):
    for value in (0.019, 20.1, (0.5, 0.51)):
        with pytest.warns(UserWarning, match="pixel"):
            movie = open_movie(stack, pixel_size=value)
        assert pixel_size_of(movie) == pytest.approx(np.broadcast_to(value, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (0.02, 0.59, 20.0, (0.5, 0.50004)):
            open_movie(stack, pixel_size=value)


@pytest.mark.parametrize("value", [0, -0.5, np.nan, np.inf, (0.5, 0), (1, 2, 3), "large"])
def test_impossible_pixel_sizes_are_refused(stack, value):
    with pytest.raises(CalibrationError, match="pixel_size is"):
        open_movie(stack, pixel_size=value)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_impossible_frame_times_are_refused(stack, value):
    with pytest.raises(InputError, match="frame_time is"):
        open_movie(stack, frame_time=value)


def test_numpy_files_and_memory_maps(tmp_path, stack):
    np.save(tmp_path / "a.npy", stack)
    np.save(tmp_path / "b.npy", stack[0])
    np.testing.assert_array_equal(open_movie(tmp_path / "a.npy").values, stack)
    np.testing.assert_array_equal(open_movie(tmp_path / "b.npy").values, stack[:1])
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    movie = open_movie(mapped)
    np.testing.assert_array_equal(movie.values, stack)
    np.testing.assert_array_equal(open_movie(mapped[2:4]).values, stack[2:4])
    np.testing.assert_array_equal(open_movie(mapped[1]).values, stack[1:2])
    np.testing.assert_array_equal(open_movie(mapped[1:][2:4]).values, stack[3:5])
    np.testing.assert_array_equal(open_movie(mapped[:, 2:9, ::2]).values, stack[:, 2:9, ::2])
    stack[:, :5] = 0  # frames that begin alike must not be taken for each other
    np.save(tmp_path / "c.npy", stack)
    whole = np.load(tmp_path / "c.npy", mmap_mode="r")
    np.testing.assert_array_equal(open_movie(whole[3:]).values, stack[3:])
    copy = np.memmap(tmp_path / "raw.bin", dtype=stack.dtype, mode="w+", offset=128, shape=stack.shape)
    copy[:] = stack
    copy.flush()
    np.testing.assert_array_equal(open_movie(copy[2:]).values, stack[2:])


def test_numpy_and_dask_arrays(stack):
    for source in (stack, stack.astype(">u2"), da.from_array(stack, chunks=(2, 7, 30)), stack.astype(float)):
        movie = open_movie(source, pixel_size=0.5)
        np.testing.assert_array_equal(movie.values, stack)
        assert movie.dtype.isnative
    assert open_movie(da.from_array(stack, chunks=(2, 7, 30))).chunks[1] == (7, 7, 6)
    assert open_movie(stack[0]).shape == (1, 20, 30)
    for bad in (stack[None], stack[0, 0], stack.astype(complex), stack[:0]):
        with pytest.raises(InputError, match="expected"):
            open_movie(bad)
    for bad in (3, None, {"a": 1}):
        with pytest.raises(InputError, match="expected a path"):
            open_movie(bad)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_stores(tmp_path, stack, zarr_format):
    bare = tmp_path / "bare.zarr"
    array = zarr.create_array(str(bare), shape=stack.shape, chunks=(2, 20, 30), dtype="u2", zarr_format=zarr_format)
    array[:] = stack
    movie = open_movie(bare)
    assert movie.chunks[0] == (2, 2, 2)
    np.testing.assert_array_equal(movie.values, stack)
    assert "y" not in movie.coords
    array.attrs["pixel_size"] = 0.4
    assert pixel_size_of(open_movie(bare)) == (0.4, 0.4)
    ours = open_movie(stack, pixel_size=0.59, frame_time=0.5)[2:, 3:, 4:]
    store = tmp_path / "ours.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours.to_dataset(name="movie").to_zarr(store, zarr_format=zarr_format, consolidated=False)
    back = open_movie(store)
    xr.testing.assert_identical(back.compute().drop_attrs(), ours.compute().drop_attrs())
    assert back.attrs["format"] == "Zarr"
    assert back.attrs["pixel_size"] == 0.59
    np.testing.assert_array_equal(open_movie(store / "movie").values, ours.values)


def test_sharded_zarr_is_read_by_shards(tmp_path, stack):
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=stack.shape, chunks=(1, 20, 30), shards=(3, 20, 30),
                              dtype="u2")  # fmt: skip
    array[:] = stack
    movie = open_movie(tmp_path / "a.zarr")
    assert movie.chunks[0] == (3, 3)
    np.testing.assert_array_equal(movie.values, stack)


@pytest.mark.parametrize(("frames", "side", "read"), [(4, 1024, 2), (3, 1024, 1), (2, 2048, 1), (8, 512, 8)])
def test_a_task_reads_whole_frames_of_a_shard(tmp_path, frames, side, read):
    shape = (2 * frames, side, side)
    movie = make_movie(np.arange(np.prod(shape), dtype=np.uint16).reshape(shape), pixel_size=0.5)
    spec = ArraySpec("movie", movie.dims, shape, "uint16", (1, 256, 256), (frames, side, side))
    create_store(tmp_path / "a.zarr", [spec], coords={k: movie[k].variable for k in movie.coords}, attrs=movie.attrs)
    write_shards(tmp_path / "a.zarr", "movie", movie.values, (0, 0, 0))
    found = open_movie(tmp_path / "a.zarr")
    assert found.chunks == ((read,) * (2 * frames // read), (side,), (side,))
    np.testing.assert_array_equal(found.values, movie.values)


def test_ome_zarr(tmp_path, stack):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    array = group.create_array("0", shape=(6, 1, 20, 30), chunks=(1, 1, 20, 30), dtype="u2")
    array[:] = stack[:, None]
    names = [("t", "time", "second"), ("c", "channel", None), ("y", "space", "nanometer"), ("x", "space", "nanometer")]
    axes = [{"name": n, "type": t} | ({"unit": u} if u else {}) for n, t, u in names]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{
        "path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.1, 1, 0.05, 0.05]}]}]}]}  # fmt: skip
    movie = open_movie(tmp_path / "a.zarr")
    np.testing.assert_array_equal(movie.values, stack)
    assert pixel_size_of(movie) == pytest.approx((0.5, 0.5))
    np.testing.assert_allclose(movie.time, np.arange(6) * 0.1)


def test_xarray_sources(stack):
    movie = open_movie(stack, pixel_size=0.59, frame_time=2.0)[1:, 4:, 2:]
    again = open_movie(movie)
    xr.testing.assert_equal(again, movie)
    assert grid_of(again).y0 == pytest.approx(4 * 0.59)
    recalibrated = open_movie(movie, pixel_size=0.3)
    assert pixel_size_of(recalibrated) == (0.3, 0.3)
    assert recalibrated.attrs["calibration_source"] == "user"
    np.testing.assert_array_equal(recalibrated.time, movie.time)
    foreign = xr.DataArray(np.moveaxis(stack, 0, 2), dims=("y", "x", "time"), coords={
        "time": ("time", np.arange(6) * 100.0, {"units": "ms"}), "y": ("y", np.arange(20) * 0.05, {"units": "nm"}),
        "x": ("x", np.arange(30) * 0.05, {"units": "nm"})})  # fmt: skip
    movie = open_movie(foreign)
    assert movie.dims == ("frame", "y", "x")
    assert pixel_size_of(movie) == pytest.approx((0.5, 0.5))
    np.testing.assert_allclose(movie.time, np.arange(6) * 0.1)
    np.testing.assert_array_equal(movie.values, stack)
    plain = open_movie(xr.DataArray(stack))
    assert "y" not in plain.coords
    index = xr.DataArray(stack, dims=("frame", "y", "x"), coords={"y": np.arange(20), "x": np.arange(30)})
    assert "y" not in open_movie(index).coords
    with pytest.raises(InputError, match="Rename or select"):
        open_movie(xr.DataArray(stack, dims=("energy", "y", "x")))
    two = xr.Dataset({"a": (("frame", "y", "x"), stack), "b": (("frame", "y", "x"), stack)})
    with pytest.raises(InputError, match="expected one variable"):
        open_movie(two)
    np.testing.assert_array_equal(open_movie(two[["a"]]).values, stack)
    with pytest.raises(InputError, match="dtype complex"):
        open_movie(xr.DataArray(stack.astype(complex), dims=("frame", "y", "x")))


def test_what_xarray_opened_lazily_stays_lazy(tmp_path, stack):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xr.Dataset({"m": (("frame", "y", "x"), stack)}).to_zarr(tmp_path / "a.zarr", consolidated=False)
        data = xr.open_zarr(tmp_path / "a.zarr", consolidated=False, chunks=None)["m"]
    movie = open_movie(data)
    assert not data.variable._in_memory
    np.testing.assert_array_equal(movie.values, stack)


def test_focal_series(tmp_path, stack):
    movie = open_movie(write_series(tmp_path, stack), defocus=[-50, 0, 50], pixel_size=0.2, frame_time=1.0)
    assert movie.dims == ("frame", "defocus", "y", "x")
    assert movie.shape == (2, 3, 20, 30)
    assert movie.chunks == ((1, 1), (3,), (20,), (30,))
    np.testing.assert_array_equal(movie.values, stack.reshape(2, 3, 20, 30))
    np.testing.assert_array_equal(movie.defocus, [-50, 0, 50])
    np.testing.assert_array_equal(movie.time, [0, 3])
    assert pixel_size_of(movie) == (0.2, 0.2)
    xr.testing.assert_equal(open_movie(movie), movie)
    with pytest.raises(InputError, match="multiple of 4"):
        open_movie(stack, defocus=[1, 2, 3, 4])
    with pytest.raises(InputError, match="expected a list"):
        open_movie(stack, defocus=[0, np.nan])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 9), frames=st.integers(1, 12), data=st.data())
def test_chunks_only_group_frames(tmp_path, n, frames, data):
    stack = np.arange(n * 12, dtype=np.int32).reshape(n, 3, 4)
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, stack, compression=data.draw(st.sampled_from([None, "zlib"])), photometric="minisblack")
    movie = open_movie(path, chunks=data.draw(st.sampled_from([frames, {"frame": frames}, {"frame": frames, "x": 2}])))
    assert movie.chunks[0][0] == min(frames, n)
    np.testing.assert_array_equal(movie.values, stack)


def test_opening_reads_no_pixels_and_tasks_open_their_own_file(tmp_path, stack, monkeypatch):
    folder = write_series(tmp_path, stack)
    opened = []
    original = frames_module.open_file
    monkeypatch.setattr(frames_module, "open_file", lambda p, signal=None: opened.append(str(p)) or original(p, signal))
    with dask.config.set(scheduler=refuse):
        movie = open_movie(folder, pixel_size=0.5, chunks={"frame": 2})
    assert opened == [str(folder / "frame_0.png")]
    opened.clear()
    movie[4].compute(scheduler="synchronous")
    assert sorted(opened) == [str(folder / f"frame_{k}.png") for k in (4, 5)]


def test_ten_thousand_files_open_quickly(tmp_path):
    image = np.zeros((4, 4), np.uint8)
    iio.imwrite(tmp_path / "f0.png", image)
    content = (tmp_path / "f0.png").read_bytes()
    for i in range(1, 10_000):
        (tmp_path / f"f{i}.png").write_bytes(content)
    start = time.process_time()  # not the clock: the machine may be busy with something else
    movie = open_movie(tmp_path)
    assert time.process_time() - start < 5
    assert movie.shape == (10_000, 4, 4)
    assert len(pickle.dumps(movie.data.dask)) < 10_000 * 1000


def test_the_graph_travels(tmp_path, stack):
    from distributed import Client, LocalCluster

    folder = write_series(tmp_path / "png", stack)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    np.save(tmp_path / "a.npy", stack)
    sources = [folder, tmp_path / "a.tif", tmp_path / "a.npy", np.load(tmp_path / "a.npy", mmap_mode="r")]
    for source in sources:
        data = pickle.loads(pickle.dumps(open_movie(source).data))
        np.testing.assert_array_equal(data.compute(scheduler="synchronous"), stack)
    quiet = {"processes": False, "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster, Client(cluster):
        for source in sources:
            np.testing.assert_array_equal(open_movie(source).compute().values, stack)


def test_a_changed_file_changes_the_name_of_the_graph(tmp_path, stack):
    path = tmp_path / "a.npy"
    np.save(path, stack)
    first, same = open_movie(path).data.name, open_movie(path).data.name
    np.save(path, stack[:, :10])
    assert first == same
    assert open_movie(path).data.name != first


def test_a_big_stack_is_read_frame_by_frame(tmp_path):
    path = tmp_path / "big.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(64, 2048, 2048)).flush()  # 512 MiB, sparse
    movie = open_movie(path)
    assert movie.chunks[0][0] == 1
    import tracemalloc

    tracemalloc.start()
    assert int(movie[40].sum().compute(scheduler="synchronous")) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20
