"""Runs that are told to end: nothing goes on without its parent, nothing temporary stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hrtem_dask.cli import Terminated, ending_when_told
from hrtem_dask.simulate import sets

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process could act on")

POOLS = {
    "simulation": """
import time
from hrtem_dask.simulate.tasks import run_tasks
if __name__ == "__main__":
    for _ in run_tasks(time.sleep, [(t,) for t in (0, 0, 600, 600)], None, 2):
        print("begun", flush=True)
""",
    "training": """
from hrtem_dask.networks.settings import Settings
from hrtem_dask.networks.workers import pool_of
class Source:
    def drawer(self, settings):
        return len
if __name__ == "__main__":
    with pool_of(Settings(), Source(), 2) as submit:
        for f in [submit("draw", "abc") for _ in range(2)]:
            assert f.result() == 3
            print("begun", flush=True)
        import time; time.sleep(600)
""",
}


def started(folder: Path, *command: str) -> subprocess.Popen:
    """Start Python with a folder of its own for what is temporary."""
    temporary = folder / "tmp"
    temporary.mkdir()
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=folder,
                            env=os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"})


def ended(processes: list[psutil.Process]) -> bool:
    """Whether all of them end, soon enough for a machine with other work."""
    return not psutil.wait_procs(processes, timeout=30)[1]


@pytest.mark.parametrize(("pool", "kind"), [("simulation", signal.SIGTERM), ("training", signal.SIGKILL)])
def test_no_worker_outlives_its_parent(tmp_path, pool, kind):
    (tmp_path / "run.py").write_text(POOLS[pool])
    parent = started(tmp_path, "run.py")
    workers = []
    try:
        assert [parent.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert len(workers) >= 2
        parent.send_signal(kind)
        assert parent.wait(30) == -kind
        assert ended(workers)
    finally:
        parent.kill()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()


def test_a_command_that_is_told_to_end_removes_what_is_temporary_and_goes_on_later(tmp_path):
    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\nfield: {box: 40, wave_sampling: 0.35, slice_thickness: 4}\n"
        "particles: {diameter: [10, 14], number: [1, 2], empty_fraction: 0}\nfilm: {thickness: [8, 12]}\n")
    command = ("-m", "hrtem_dask.cli", "simulate", "tiny.yaml", "--out", "set.zarr", "--n", "200", "--seed", "1",
               "--workers", "2")
    run = started(tmp_path, *command)
    try:
        last = time.monotonic() + 120
        while not list(tmp_path.glob("set.zarr/record/c/*")):
            assert run.poll() is None
            assert time.monotonic() < last
            time.sleep(0.05)
        assert list((tmp_path / "tmp").glob("hrtem-dask-*"))
        workers = psutil.Process(run.pid).children(recursive=True)
        run.terminate()
        assert run.wait(60) == 143
        assert ended(workers)
    finally:
        run.kill()
    assert not list((tmp_path / "tmp").glob("hrtem-dask-*"))
    assert (tmp_path / "set.zarr" / "finished").is_dir()  # what is there was gathered


def test_what_was_written_is_gathered_even_if_the_answer_of_the_worker_was_lost(tmp_path, monkeypatch):
    def cut_off(function, tasks, *_):
        function(*tasks[0])
        raise Terminated(143)
        yield

    recipe = {"name": "tiny", "field": {"box": 40, "wave_sampling": 0.35, "slice_thickness": 4},
              "particles": {"diameter": [10, 14], "number": [1, 2]}, "film": {"thickness": [8, 12]}}
    monkeypatch.setattr(sets, "run_tasks", cut_off)
    with pytest.raises(Terminated):
        sets.dataset(recipe, tmp_path / "set.zarr", 3, seed=1)
    assert sets.open_dataset(tmp_path / "set.zarr").to_xarray()["finished"].values.tolist() == [True, False, False]


def test_sigterm_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), ending_when_told():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
