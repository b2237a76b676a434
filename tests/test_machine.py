"""What a process and a task may use: cores, threads and memory; and which of it is found without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest

from hrtem_dask.core import machine
from hrtem_dask.core.errors import InputError
from hrtem_dask.core.machine import as_task, available_cores, available_memory, in_task, task_threads, threads_here


def run(code: str, *args: str, **env: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False,
                          env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this platform")
def test_cores_are_those_of_the_affinity() -> None:
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    tell = "from hrtem_dask.core.machine import available_cores; print(available_cores())"
    assert run(one + tell) == "1"
    assert run(tell) == str(available_cores())
    assert 1 <= available_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups are Linux's")
@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("20000 100000", 1), ("max 100000", None)])
def test_cores_are_no_more_than_the_quota(monkeypatch: pytest.MonkeyPatch, quota: str, cores: int | None) -> None:
    """A container with 1.5 processors: the files of its control group, version 2."""
    import builtins
    import io

    import psutil

    real = builtins.open

    def faked(path: object, *args: object, **kwargs: object) -> object:
        files = {"/proc/self/cgroup": "0::/box\n", "/sys/fs/cgroup/box/cpu.max": quota + "\n"}
        if str(path) in files:
            return io.StringIO(files[str(path)])
        if str(path).startswith("/sys/fs/cgroup/"):
            raise FileNotFoundError(path)
        return real(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(8)))
    monkeypatch.setattr(builtins, "open", faked)
    assert available_cores() == (cores or 8)


def test_a_task_stands_for_one_thread_or_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HRTEM_DASK_TASK_THREADS", raising=False)
    monkeypatch.setattr(machine, "available_cores", lambda: 7)
    assert (task_threads(), threads_here()) == (1, 7)
    with as_task():
        assert threads_here() == 1
        monkeypatch.setenv("HRTEM_DASK_TASK_THREADS", " 3 ")
        assert threads_here() == 3
        others: list[int] = []
        thread = threading.Thread(target=lambda: others.append(threads_here()))
        thread.start()
        thread.join()
        assert others == [7]  # it is this thread that the task runs on, not the process
    assert threads_here() == 7
    for wrong in ("0", "-1", "two", "", "1.5"):
        monkeypatch.setenv("HRTEM_DASK_TASK_THREADS", wrong)
        with pytest.raises(InputError, match=r"HRTEM_DASK_TASK_THREADS is .*whole number of at least 1"):
            task_threads()


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
def test_tasks_of_the_local_schedulers_are_known(scheduler: str) -> None:
    def block(a: np.ndarray) -> np.ndarray:
        return np.full(a.shape, in_task())

    assert not in_task()
    inside = da.zeros(4, chunks=1).map_blocks(block, dtype=bool).compute(scheduler=scheduler)
    assert inside.all()
    assert dask.delayed(lambda: [in_task() for _ in range(3)])().compute(scheduler=scheduler) == [True] * 3
    assert not in_task()


def test_finding_out_imports_nothing() -> None:
    code = ("import sys; from hrtem_dask.core.machine import in_task; assert not in_task();"
            "print([m for m in ('dask', 'distributed', 'torch') if m in sys.modules])")
    assert run(code) == "[]"


def test_memory_is_the_least_that_anything_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    proc, root = tmp_path / "cgroup", tmp_path / "fs"
    proc.write_text("0::/a/b\n")
    for folder, limit, used, cached in (("", None, 0, 0), ("a", "9000", 2000, 500), ("a/b", "max", 1000, 0)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        if limit:
            (root / folder / "memory.max").write_text(limit + "\n")
        (root / folder / "memory.current").write_text(f"{used}\n")
        (root / folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
    assert machine._control_groups(proc, root) == [7500]
    proc.write_text("5:cpu,cpuacct:/x\n4:memory:/x\nrubbish\n")
    old = root / "memory" / "x"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("4000")
    (old / "memory.usage_in_bytes").write_text("1000")
    assert machine._control_groups(proc, root) == [3000]
    assert machine._control_groups(tmp_path / "none", root) == []

    assert 0 < available_memory() <= psutil.virtual_memory().total
    monkeypatch.setattr(machine, "_control_groups", lambda: [12345, 2**60])
    assert available_memory() == 12345


NO_TORCH = """
import sys
import numpy as np, dask
import hrtem_dask
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.networks import evaluate, load_model
model = hrtem_dask.load_model("au-particles-msd")
movie = make_movie(np.random.default_rng(0).poisson(50, (2, 96, 80)), pixel_size=0.5)
probability = hrtem_dask.segment(movie, model)
result = probability.compute(scheduler=sys.argv[1])
logits = evaluate(model, np.zeros((1, 40, 40)))
assert np.allclose(result.sum("class"), 1, atol=1e-6) and logits.shape == (2, 40, 40)
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_segmentation_on_a_machine_without_a_gpu_never_loads_torch(scheduler: str) -> None:
    from hrtem_dask.kernels.msdnet import compiled

    if not compiled.instruction_sets():
        pytest.skip(compiled.why_not())
    if "True" in run("from hrtem_dask.networks.evaluation import _gpu_driver; print(_gpu_driver())"):
        pytest.skip("there is a driver of a GPU")
    assert run(NO_TORCH, scheduler) == "False"
