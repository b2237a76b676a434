"""`write_movie` over what it reads, in any byte order, and beside arrays that do not fit."""

from __future__ import annotations

from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import InputError, WriteError
from hrtem_dask.io import store
from hrtem_dask.io.movie import open_movie


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.fixture
def movie(rng: np.random.Generator) -> xr.DataArray:
    return make_movie(rng.integers(1, 1000, (5, 60, 70)).astype(np.float32), pixel_size=0.5)


@pytest.fixture
def path(tmp_path: Path, movie: xr.DataArray) -> Path:
    store.write_movie(tmp_path / "m.zarr", movie)
    return tmp_path / "m.zarr"


def alone(path: Path) -> bool:
    return list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("link", [False, True])
def test_a_movie_is_written_over_itself(path: Path, movie: xr.DataArray, link: bool, tmp_path: Path) -> None:
    where = path
    if link:
        where = tmp_path / "link.zarr"
        where.symlink_to(path)
    store.write_movie(where, open_movie(where))
    np.testing.assert_array_equal(open_movie(path).values, movie.values)
    store.write_movie(where, open_movie(where) * 2, name="other")
    np.testing.assert_array_equal(store.open_store(path)["other"].values, movie.values * 2)
    assert "movie" not in store.open_store(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == (["link.zarr"] if link else []) + ["m.zarr"]


def test_a_segmentation_is_written_over_its_movie(path: Path, movie: xr.DataArray) -> None:
    from hrtem_dask import segment
    from hrtem_dask.networks import Model, MSDNet
    from hrtem_dask.networks.cards import complete_card

    weights = MSDNet(1, 2, 2).to_weights()
    card = {"classes": ["background", "particle"], "pixel_size": 0.5, "dose_range": [1, 1e4]}
    model = Model("random", complete_card(card, weights, "0" * 64), weights)
    expected = segment(movie, model, tile=40).compute()
    store.write_movie(path, segment(open_movie(path), model, tile=40), name="probability")
    np.testing.assert_array_equal(store.open_store(path)["probability"].values, expected.values)
    assert alone(path)


@pytest.mark.parametrize("lazy", [False, True])
def test_what_was_there_stays_where_writing_fails(path: Path, movie: xr.DataArray, lazy: bool,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    write, count = store.write_shards, []

    def fail(*args: object) -> object:
        count.append(1)
        if len(count) == 3:
            raise WriteError("no space left")
        return write(*args)

    monkeypatch.setattr(store, "write_shards", fail)
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    other = make_movie(movie.values + 1, pixel_size=0.5)
    with pytest.raises(WriteError, match="no space"):
        store.write_movie(path, other.chunk(frame=1) if lazy else other)
    np.testing.assert_array_equal(open_movie(path).values, movie.values)
    assert alone(path)


def test_tasks_beside_one_that_fails_leave_nothing(path: Path, movie: xr.DataArray,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(block: np.ndarray, block_id: tuple[int, ...]) -> np.ndarray:
        if block_id[0] == 6:
            raise ValueError("cannot be read")
        return block

    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    data = da.from_array(np.random.default_rng(0).random((12, 300, 300)), chunks=(1, 300, 300))
    other = make_movie(data.map_blocks(fail, dtype=data.dtype, meta=np.empty((0, 0, 0))), pixel_size=0.5)
    with pytest.raises(ValueError, match="cannot be read"), dask.config.set(scheduler="threads", num_workers=4):
        store.write_movie(path, other)
    np.testing.assert_array_equal(open_movie(path).values, movie.values)
    assert alone(path)


def test_what_was_there_stays_where_the_swap_fails(path: Path, movie: xr.DataArray,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(WriteError, match=r"m\.zarr: Permission denied"):
        store.write_movie(path, movie + 1)
    np.testing.assert_array_equal(open_movie(path).values, movie.values)
    assert alone(path)


@pytest.mark.parametrize("dtype", [">f4", ">u2", ">i4", ">f8"])
@pytest.mark.parametrize("lazy", [False, True])
def test_any_byte_order(tmp_path: Path, movie: xr.DataArray, dtype: str, lazy: bool) -> None:
    values = movie.values.astype(dtype)
    data = da.from_array(values, chunks=(2, 60, 70)) if lazy else values
    store.write_movie(tmp_path / "b.zarr", make_movie(data, pixel_size=0.5),
                      shift=xr.DataArray(np.arange(5, dtype=dtype), dims="frame"))
    back = store.open_store(tmp_path / "b.zarr")
    np.testing.assert_array_equal(back["movie"].values, values)
    np.testing.assert_array_equal(back["shift"].values, np.arange(5))
    assert back["movie"].dtype == np.dtype(dtype).newbyteorder("=")


def test_arrays_that_do_not_fit_are_refused_before_anything_is_written(path: Path, movie: xr.DataArray) -> None:
    for extra, message in (
        ({"labels": movie[:3]}, "'labels' has 3 samples along frame and 'movie' 5"),
        ({"labels": movie[:, :50]}, "'labels' has 50 samples along y and 'movie' 60"),
        ({"shift": xr.DataArray(np.zeros(4), dims="frame")}, "'shift' has 4 samples along frame"),
        ({"a": movie, "b": movie[:, :, :9]}, "'b' has 9 samples along x"),
    ):
        with pytest.raises(InputError, match=message + r".*Select the same frames"):
            store.write_movie(path, movie, **extra)
    with pytest.raises(InputError, match=r"different coordinates y, from 5\.0 to 29\.5 and from 0\.0 to 24\.5"):
        store.write_movie(path, movie[:, :50], labels=movie[:, 10:])
    np.testing.assert_array_equal(open_movie(path).values, movie.values)
    assert alone(path)
    bare = xr.DataArray(movie.values, dims=movie.dims)
    store.write_movie(path, movie, bare=bare, again=movie)
    assert set(store.open_store(path)) == {"movie", "bare", "again"}
