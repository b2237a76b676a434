"""The writer: shards owned by one write, checksums on the data, tables that carry their units."""

from __future__ import annotations

import ast
import errno
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import hrtem_dask
from hrtem_dask.core.calibration import make_movie, pixel_size_of
from hrtem_dask.core.errors import InputError, MissingInputError, ReadError, WriteError
from hrtem_dask.core.provenance import history_of
from hrtem_dask.core.schema import FRAMES
from hrtem_dask.io import store


@pytest.fixture
def movie(rng: np.random.Generator) -> xr.DataArray:
    counts = rng.integers(0, 1000, (7, 600, 530), dtype=np.uint16)
    return make_movie(counts, pixel_size=0.59, time=np.arange(7) * 0.25, frame=np.arange(10, 17),
                      attrs={"source": "simulated"})


def make(path: Path, shape: tuple[int, ...] = (5, 40, 30), frames: int = 2, dtype: str = "int32") -> Path:
    spec = store.frame_spec("labels", ("frame", "y", "x"), shape, dtype, frames_per_shard=frames)
    store.create_store(path, [spec], coords={})
    return path


def test_a_movie_comes_back_with_plain_xarray(tmp_path: Path, movie: xr.DataArray) -> None:
    store.write_movie(tmp_path / "m.zarr", movie, shift=xr.DataArray(np.arange(7.0), dims="frame"))
    back = xr.open_zarr(tmp_path / "m.zarr", consolidated=False)
    assert back.movie.dims == ("frame", "y", "x")
    assert back.movie.dtype == np.uint16
    np.testing.assert_array_equal(back.movie, movie)
    np.testing.assert_array_equal(back.frame, np.arange(10, 17))
    assert "time" in back.movie.coords
    assert back.time.attrs["units"] == "second"
    assert back.y.attrs["units"] == "angstrom"
    assert back.movie.attrs["pixel_size"] == 0.59
    assert pixel_size_of(back.movie) == pytest.approx((0.59, 0.59))
    assert history_of(back.attrs)[-1]["stage"] == "write_movie"
    np.testing.assert_array_equal(back["shift"], np.arange(7.0))


def test_open_store_gives_whole_shards_as_chunks(tmp_path: Path, movie: xr.DataArray) -> None:
    store.write_movie(tmp_path / "m.zarr", movie)
    data = store.open_store(tmp_path / "m.zarr")
    assert data.movie.chunks[1:] == ((600,), (530,))
    assert "time" in data.movie.coords
    np.testing.assert_array_equal(data.movie.values, movie)


def test_text_coordinates_and_nan(tmp_path: Path) -> None:
    spec = store.frame_spec("p", ("frame", "class", "y", "x"), (2, 2, 8, 9), "float16", frames_per_shard=1)
    store.create_store(tmp_path / "p.zarr", [spec], coords={"class": xr.Variable("class", ["background", "particle"])})
    block = np.full((1, 2, 8, 9), np.nan, np.float16)
    assert store.write_shards(tmp_path / "p.zarr", "p", block, (1, 0, 0, 0)) == {"p/c/1/0/0/0": None}
    data = store.open_store(tmp_path / "p.zarr")
    assert list(data["class"].values) == ["background", "particle"]
    assert np.isnan(data.p.values).all()


def test_a_flipped_byte_anywhere_in_the_data_raises(tmp_path: Path, rng: np.random.Generator) -> None:
    path = make(tmp_path / "d.zarr", (2, 40, 30), 2)
    block = rng.integers(0, 2**30, (2, 40, 30), dtype=np.int32)  # incompressible, so that the data fill the shard
    files = store.write_shards(path, "labels", block, (0, 0, 0))
    (name,) = files
    good = (path / name).read_bytes()
    for at in rng.integers(0, len(good), 40):
        bad = bytearray(good)
        bad[at] ^= 1
        (path / name).write_bytes(bytes(bad))
        with pytest.raises(Exception, match=r"."):
            store.open_store(path).labels.values  # noqa: B018
    (path / name).write_bytes(good)
    np.testing.assert_array_equal(store.open_store(path).labels.values, block)


@pytest.mark.parametrize(("start", "shape"), [
    ((1, 0, 0), (2, 40, 30)),
    ((0, 0, 0), (1, 40, 30)),
    ((0, 0, 0), (3, 40, 30)),
    ((0, 1, 0), (2, 39, 30)),
    ((0, 0, 0), (2, 40, 29)),
    ((4, 0, 0), (2, 40, 30)),
])
def test_a_block_that_shares_a_shard_is_refused(tmp_path: Path, start: tuple, shape: tuple) -> None:
    path = make(tmp_path / "d.zarr")
    with pytest.raises(InputError, match="whole shards"):
        store.write_shards(path, "labels", np.ones(shape, np.int32), start)


def test_dtype_and_name_are_checked(tmp_path: Path) -> None:
    path = make(tmp_path / "d.zarr")
    with pytest.raises(InputError, match="dtype float64"):
        store.write_shards(path, "labels", np.ones((2, 40, 30)), (0, 0, 0))
    with pytest.raises(MissingInputError, match="no array 'other'"):
        store.write_shards(path, "other", np.ones((2, 40, 30)), (0, 0, 0))


def test_the_ragged_last_shard_and_an_empty_frame_have_files(tmp_path: Path) -> None:
    path = make(tmp_path / "d.zarr")
    files = store.write_shards(path, "labels", np.zeros((1, 40, 30), np.int32), (4, 0, 0))
    assert list(files) == ["labels/c/2/0/0"]
    assert store.shards_present(path, files)
    assert (store.open_store(path).labels[4] == 0).all()
    assert (store.open_store(path).labels[:4] == -1).all()  # never written, and not a valid label
    assert store.open_store(path).labels.dtype == np.int32
    (path / "labels/c/2/0/0").unlink()
    assert not store.shards_present(path, files)


@pytest.mark.parametrize("keep", [0, 10, -3])
def test_a_torn_shard_is_written_anew(tmp_path: Path, keep: int) -> None:
    path = make(tmp_path / "d.zarr")
    block = np.arange(2 * 40 * 30, dtype=np.int32).reshape(2, 40, 30)
    (name,) = store.write_shards(path, "labels", block, (2, 0, 0))
    (path / name).write_bytes((path / name).read_bytes()[:keep])
    store.write_shards(path, "labels", block + 1, (2, 0, 0))
    np.testing.assert_array_equal(store.open_store(path).labels[2:4], block + 1)


def test_a_full_disk_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zarr

    path = make(tmp_path / "d.zarr")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(WriteError, match=r"d\.zarr: No space left on device"):
        store.write_shards(path, "labels", np.ones((2, 40, 30), np.int32), (0, 0, 0))


def test_tables_carry_units_and_provenance(tmp_path: Path) -> None:
    rows = pd.DataFrame({"frame": [3], "time": [np.nan], "status": ["done"], "n_particles": [2], "covered": [0.1],
                         "certainty": [0.9], "unknown_pixels": [0], "message": [""]})
    store.write_table(tmp_path / "frames.parquet", rows, FRAMES, provenance={"model": "au"})
    back, about = store.read_table(tmp_path / "frames.parquet")
    pd.testing.assert_frame_equal(back, FRAMES.coerce(rows))
    assert about["units"]["time"] == "second"
    assert about["provenance"] == {"model": "au"}
    store.write_csv(tmp_path / "frames.csv", rows)
    assert (tmp_path / "frames.csv").read_text().splitlines()[0] == ",".join(FRAMES.names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames.csv", "frames.parquet"]


def test_tables_that_are_absent_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="run the campaign first"):
        store.read_table(tmp_path / "no.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ReadError, match=r"bad\.parquet"):
        store.read_table(tmp_path / "bad.parquet")
    (tmp_path / "bad.json").write_text("{")
    assert store.read_json(tmp_path / "bad.json") is None


def test_a_file_in_the_way_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(WriteError, match="expected a writable folder"):
        store.write_json(tmp_path / "out" / "a.json", {})


def test_nothing_else_in_the_package_writes_zarr() -> None:
    """dask's and xarray's writers do not respect shards (dask #12583): only io/store.py writes."""
    package = Path(hrtem_dask.__file__).parent
    for file in package.rglob("*.py"):
        calls = {node.func.attr for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
        assert not calls & {"to_zarr", "to_parquet"}, file
        assert "da.store(" not in file.read_text(encoding="utf-8"), file
        if file.name not in ("store.py", "texts.py"):  # the latter: texts, one a file, that need no shards
            assert not calls & {"create_array", "create_dataset"}, file


@pytest.mark.parametrize(("dtype", "fill"), [("float16", np.nan), ("float32", np.nan), ("uint16", 0), ("int32", -1)])
@pytest.mark.parametrize("where", ["nowhere", "first pixels", "one chunk", "everywhere"])
def test_what_is_not_looked_for_is_written_as_before(tmp_path: Path, dtype: str, fill: float, where: str) -> None:
    """Chunks are searched for the fill value only where one could hold nothing else."""
    block = np.random.default_rng(0).integers(1, 9, (1, 600, 1100)).astype(dtype)
    if where == "first pixels":
        block[:, ::512, ::512] = fill
    elif where == "one chunk":
        block[:, :512, 512:1024] = fill
    elif where == "everywhere":
        block[:] = fill
    spec = store.frame_spec("a", ("frame", "y", "x"), (2, 600, 1100), dtype, frames_per_shard=1)
    store.create_store(tmp_path / "s.zarr", [spec], coords={})
    files = store.write_shards(tmp_path / "s.zarr", "a", block, (1, 0, 0))
    assert [size is None for size in files.values()] == [where == "everywhere"]
    np.testing.assert_array_equal(store.open_store(tmp_path / "s.zarr")["a"][1], block[0])
    assert not store._same(block, np.ones_like(block) * 9)
    assert not store._same(block, block[:, :1])
    assert store._same(block, block.copy())
