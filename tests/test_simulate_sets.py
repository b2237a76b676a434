"""Sets at scale: the same bits for any number of workers, continued where they stopped, read piece by piece."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from hrtem_dask import simulate
from hrtem_dask.cluster import connect
from hrtem_dask.core.errors import InputError, MissingInputError, ReadError
from hrtem_dask.simulate import set_store, sets
from hrtem_dask.simulate.keys import Span
from hrtem_dask.simulate.labels import particle_mask
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.set_store import read_record
from hrtem_dask.simulate.structures import build_specimen
from hrtem_dask.simulate.tasks import Effort, run_tasks

TINY = {
    "name": "tiny",
    "field": {"box": 40, "wave_sampling": 0.35, "slice_thickness": 4},
    "particles": {"number": [1, 2], "coverage": [0.1, 0.2], "diameter": [10, 14], "empty_fraction": 0,
                  "zone_axis": "110"},
    "film": {"thickness": [8, 12], "absent_fraction": 0},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of three structures, made in this process; tests that change it copy it."""
    shown = []
    data = simulate.dataset(TINY, tmp_path_factory.mktemp("made") / "set.zarr", 3, seed=4, workers=1,
                            progress=lambda *a: shown.append(a))
    assert shown == [(0, 3), (1, 3), (2, 3), (3, 3)]
    return data


@pytest.fixture
def copy(made, tmp_path):
    return simulate.open_dataset(shutil.copytree(made.path, tmp_path / "set.zarr"))


def hashes(path) -> dict[str, str]:
    """SHA-256 of every variable of a store, and of its attributes."""
    group = zarr.open_group(str(path), mode="r")
    out = {"": json.dumps(dict(group.attrs), sort_keys=True)}
    for name, array in group.arrays():
        values = array[...]
        data = "\0".join(map(str, values)).encode() if values.dtype.kind not in "biuf" else values.tobytes()
        out[name] = f"{array.shape} {values.dtype} {hashlib.sha256(data).hexdigest()}"
    return out


def stamps(data) -> list[int]:
    return [(data.path / "wave" / "c" / str(i) / "0" / "0" / "0").stat().st_mtime_ns for i in range(3)]


def test_every_variable_is_the_same_for_one_worker_and_for_three(made, tmp_path):
    three = simulate.dataset(TINY, tmp_path / "three.zarr", 3, seed=4, workers=3)
    assert hashes(three.path) == hashes(made.path)
    other = simulate.dataset(TINY, tmp_path / "other.zarr", 1, seed=5, workers=1)
    assert hashes(other.path)["wave"] != hashes(made.path)["wave"]


def test_a_dask_client_makes_the_same_set(made, tmp_path):
    with connect("threads", workers=2) as client:
        given = simulate.dataset(TINY, tmp_path / "given.zarr", 2, seed=4, client=client)
        assert given.effort.cores == 2
        current = simulate.dataset(TINY, tmp_path / "given.zarr", 3, seed=4)
        assert current.effort.done == 1
    assert hashes(given.path) == hashes(made.path)


def test_what_is_stored_is_the_field(made):
    recipe = load_recipe(TINY)
    assert len(made) == 3
    for i in range(3):
        stored, fresh = made[i], sets.simulate_structure(recipe, 4, i)
        assert np.abs(stored.wave - fresh.wave).max() < 1.5e-3  # stored in half precision
        specimen = build_specimen(recipe, np.random.default_rng([4, i]), sets.blocks_of(recipe, 4))
        np.testing.assert_array_equal(stored.truth, particle_mask(specimen.gold, (40.0, 40.0), 0.25))
        np.testing.assert_array_equal(stored.instances > 0, stored.truth)
        assert stored.instances.max() == len(stored.info["particles"])
        assert stored.info == json.loads(json.dumps(fresh.info))
        assert stored.truth.mean() > 0.03
        assert np.abs(stored.wave**2).mean() == pytest.approx(1, abs=0.05)
        assert (stored.columns["y"] == fresh.columns["y"]).all()
        assert len(stored.columns) > 3


def test_truth_is_there_as_variables(made):
    ds = made.to_xarray()
    assert isinstance(ds, xr.Dataset)
    assert ds.wave.dims == ("structure", "part", "y", "x")
    assert ds.wave.chunks[0] == (1, 1, 1)
    assert ds.truth.dims == ds.instances.dims == ("structure", "truth_y", "truth_x")
    assert float(ds.y[1]) == pytest.approx(0.5)
    assert ds.finished.values.all()
    assert {"film_thickness", "support", "particle_diameter", "column_y"} <= set(ds.data_vars)
    assert ds.film_thickness.attrs["units"] == "angstrom"
    assert ((ds.film_thickness >= 8) & (ds.film_thickness <= 12)).all()
    particles = [p for i in range(3) for p in made[i].info["particles"]]
    assert ds.particle_diameter.values.tolist() == [p["diameter"] for p in particles]
    assert ds.particle_structure.values.tolist() == [i for i in range(3) for _ in made[i].info["particles"]]
    one = ds.column_x.values[ds.column_structure.values == 1]
    assert one.tolist() == made[1].columns["x"].tolist()
    assert ds["columns"].values.tolist() == [len(made[i].columns) for i in range(3)]
    assert set(np.unique(ds.column_class)) == {"column"}
    assert ds.particle_orientation.dims == ("particle", "particle_orientation_component")
    plain = xr.open_zarr(made.path, consolidated=False)
    assert plain.particle_tilt.attrs["units"] == "degree"


def test_a_set_is_continued_and_half_written_structures_are_made_again(copy):
    before, first = hashes(copy.path), stamps(copy)
    (copy.path / "record" / "c" / "1").unlink()  # stopped before the record was written
    (copy.path / "truth" / "c" / "2" / "0" / "0").unlink()  # a shard was lost
    again = simulate.dataset(TINY, copy.path, 3, seed=4, workers=1)
    assert again.effort.done == 2
    assert hashes(copy.path) == before
    assert [a == b for a, b in zip(first, stamps(copy), strict=True)] == [True, False, False]
    assert simulate.dataset(TINY, copy.path, 2, seed=4).effort.done == 0
    assert len(simulate.open_dataset(copy.path)) == 3


def test_a_run_that_fails_keeps_what_it_finished_and_grows_later(copy, monkeypatch):
    def fails(recipe, seed, index):
        if index == 4:
            raise RuntimeError("no more")
        return copy[0]

    monkeypatch.setattr(sets, "simulate_structure", fails)
    with pytest.raises(RuntimeError, match="no more"):
        simulate.dataset(TINY, copy.path, 6, seed=4, workers=1)
    data = simulate.open_dataset(copy.path)
    assert data.indices == (0, 1, 2, 3)
    ds = data.to_xarray()
    assert ds.finished.values.tolist() == [True] * 4 + [False] * 2
    assert np.isnan(ds.film_thickness.values).tolist() == [False] * 4 + [True] * 2


def test_another_seed_or_structure_is_refused_and_other_images_are_not(copy):
    with pytest.raises(InputError, match="seed 4"):
        simulate.dataset(TINY, copy.path, 3, seed=5)
    with pytest.raises(InputError, match="Choose another store"):
        simulate.dataset(TINY | {"film": {"thickness": [8, 13]}}, copy.path, 3, seed=4)
    before = stamps(copy)
    brighter = simulate.dataset(TINY | {"imaging": {"dose": [7, 8]}}, copy.path, 3, seed=4)
    assert brighter.recipe.imaging.dose == Span(7, 8, "log")
    assert simulate.open_dataset(copy.path).recipe.imaging.dose.high == 8
    assert stamps(copy) == before


def test_a_set_is_not_mixed_from_two_versions_whose_structures_differ(copy, monkeypatch):
    assert "hrtem-dask" in copy[0].info["made_by"]
    assert "abtem" in str(copy.to_xarray().made_by.values[0])
    before = hashes(copy.path)
    def other(recipe, rng, blocks):
        rng.random()
        return build_specimen(recipe, rng, blocks)

    monkeypatch.setattr(sets, "build_specimen", other)
    with pytest.raises(InputError, match=r"begun by hrtem-dask .* makes another structure 0 .* atoms then"):
        simulate.dataset(TINY, copy.path, 5, seed=4)
    assert hashes(copy.path) == before  # no longer, no other attributes
    assert simulate.dataset(TINY, copy.path, 3, seed=4).effort.done == 0  # nothing is missing: nothing is mixed
    monkeypatch.undo()
    monkeypatch.setattr(sets, "package_version", lambda name: "9")  # the same atoms from another version
    grown = simulate.dataset(TINY, copy.path, 4, seed=4)
    assert [made.split(",")[0] == "hrtem-dask 9" for made in grown.to_xarray().made_by.values] == [False] * 3 + [True]


def test_a_set_of_another_revision_or_of_none_is_used_and_not_extended(copy, monkeypatch):
    def noted():
        return zarr.open_group(str(copy.path), mode="r").attrs.get("revision")

    assert noted() == set_store.REVISION
    monkeypatch.setattr(set_store, "REVISION", set_store.REVISION + 1)  # the same atoms, other waves
    with pytest.raises(InputError, match=r"notes revision \d+ .* Use the 3 structures that it has"):
        simulate.dataset(TINY, copy.path, 4, seed=4, workers=1)
    assert simulate.dataset(TINY, copy.path, 3, seed=4).effort.done == 0  # nothing is missing
    assert noted() == set_store.REVISION - 1
    group = zarr.open_group(str(copy.path), mode="r+")
    del group.attrs["revision"]
    assert len(simulate.dataset(TINY | {"imaging": {"dose": [7, 8]}}, copy.path, 3, seed=4)) == 3
    assert noted() is None  # what is there was not made by this one
    before = hashes(copy.path)
    with pytest.raises(InputError, match="notes no revision"):
        simulate.dataset(TINY, copy.path, 4, seed=4, workers=1)
    assert hashes(copy.path) == before
    (copy.path / "record" / "c" / "1").unlink()
    with pytest.raises(InputError, match=r"notes no revision .* Use the 2 structures"):
        simulate.dataset(TINY, copy.path, 3, seed=4, workers=1)
    assert simulate.open_dataset(copy.path).indices == (0, 2)


def test_a_set_is_looked_through_once_and_needs_no_folder_without_processes(copy, monkeypatch):
    looked = []
    monkeypatch.setattr(sets, "finished", lambda *a: looked.append(a) or set_store.finished(*a))
    monkeypatch.setattr(sets, "TemporaryDirectory", lambda **_: pytest.fail("nothing is shared"))
    (copy.path / "record" / "c" / "1").unlink()
    assert simulate.dataset(TINY, copy.path, 3, seed=4, workers=1).effort.done == 1
    assert len(looked) == 1


def test_records_agree_up_to_the_last_digits():
    old = {"a": [1.0, 2], "b": {"c": "x"}, "more": 3}
    assert sets.same(old, {"a": [1.0 + 1e-9, 2], "b": {"c": "x"}})
    for new in ({"a": [1.001, 2]}, {"a": [1.0]}, {"b": {"c": "y"}}, {"d": 1}, {"b": []}, {"a": {}}, {"b": 1.0}):
        assert not sets.same(old, new)


def test_damaged_and_missing_parts_are_named(copy):
    shard = copy.path / "wave" / "c" / "2" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 255
    shard.write_bytes(data)
    with pytest.raises(ReadError, match="structure 2"):
        copy[2]
    (copy.path / "record" / "c" / "0").write_bytes(b"broken")
    with pytest.raises(ReadError, match="row 0"):
        read_record(copy.path, 0)


def test_opening_what_is_no_set(tmp_path):
    with pytest.raises(MissingInputError, match="hrtem-dask simulate"):
        simulate.open_dataset(tmp_path)
    with pytest.raises(InputError, match="at least one"):
        simulate.dataset(TINY, tmp_path / "a", 0, seed=1)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "set.json").write_text(json.dumps({"recipe": {"name": "au-particles"}, "seed": 3}))
    with pytest.raises(InputError, match="hrtem-dask simulate au-particles --seed 3"):
        simulate.open_dataset(tmp_path / "old")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="no simulated set"):
        simulate.dataset(TINY, tmp_path / "other", 1, seed=1)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "mine"


def test_a_field_may_hold_nothing_at_all(tmp_path):
    vacuum = TINY | {"particles": {"empty_fraction": 1, "diameter": [10, 14]}, "support": {"kind": "none"}}
    data = simulate.dataset(vacuum, tmp_path / "vacuum.zarr", 1, seed=1, workers=1)
    np.testing.assert_allclose(data[0].wave, 1, atol=1e-3)
    assert not data[0].truth.any()
    assert len(data[0].columns) == 0
    assert data.to_xarray()["particles"].values.tolist() == [0]


def test_the_benchmark_counts_what_it_makes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1]))
    from benchmarks import simulation
    from benchmarks.common import Options

    waves, images, movies = simulation.tables(Options(threads=1, repeats=1, quick=True))
    assert [row.waves for row in waves.rows] == [2]
    assert waves.rows[0].rate == pytest.approx(2 / waves.rows[0].seconds * 60)
    assert {row.what for row in images.rows} == {"frames, one by one", "frames, 2 of one wave", "examples"}
    assert all(row.rate == pytest.approx(6e4 / row.each.median) for row in images.rows)
    movie = movies.rows[0]
    assert (movie.waves, movie.processes) == (4, 2)
    assert 0 < movie.making < movie.seconds
    assert movie.rate == pytest.approx(16 / movie.seconds / 2 * 60)


def sleeps(folder, i, n):
    """A task that notes itself; the first one ends when all others have."""
    time.sleep(0.02)
    last = time.monotonic() + 60
    while i == 0 and len(list(Path(folder).iterdir())) < n - 1:
        if time.monotonic() > last:
            raise TimeoutError("the other tasks wait for this one")
        time.sleep(0.01)
    (Path(folder) / str(i)).touch()
    return i


@pytest.mark.parametrize("workers", [2, None])
def test_no_task_waits_for_a_slow_one(tmp_path, workers):
    """With processes and with threads: whoever is free takes the next one, whatever the first still does."""
    effort = Effort("tasks")
    found = list(run_tasks(sleeps, [(str(tmp_path), i, 9) for i in range(9)], None, workers, effort))
    assert sorted(found) == list(range(9))
    assert found[-1] == 0
    assert effort.done == 9
    assert 9 * 0.02 <= effort.inside <= effort.wall * effort.cores * 1.01
    assert effort.cpu < effort.inside  # tasks that sleep keep no core busy, but they are tasks
    assert effort.busy < effort.occupied


def add(a, b=0):
    return a + b


def test_what_tasks_share_is_made_once_and_only_for_processes():
    calls = []

    def share():
        calls.append(1)
        return (100,)

    assert sorted(run_tasks(add, [(i,) for i in range(5)], None, 2, share=share)) == [100, 101, 102, 103, 104]
    assert calls == [1]
    assert sorted(run_tasks(add, [(i,) for i in range(5)], None, 1, share=share)) == [0, 1, 2, 3, 4]
    assert calls == [1]


def test_blocks_on_disk_are_the_blocks_of_the_set_and_leave_nothing_behind(made, tmp_path, monkeypatch):
    recipe = load_recipe(TINY)
    (folder,) = sets.share_blocks(recipe, 4, str(tmp_path))
    for here, there in zip(sets.blocks_of(recipe, 4), sets.shared_blocks(folder), strict=True):
        np.testing.assert_array_equal(here, there)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    seen = []
    given = simulate.dataset(TINY, tmp_path / "two.zarr", 2, seed=4, workers=2,
                             progress=lambda *_: seen.append([p.name for p in temporary.rglob("*.npy")]))
    assert any(seen)
    assert not list(temporary.iterdir())
    np.testing.assert_array_equal(given[1].wave, made[1].wave)
