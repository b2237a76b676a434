"""Ways to reach workers, and plain words where there are none."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from hrtem_dask.cluster import connect, dashboard_link
from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.core.machine import available_cores


def test_threads_and_local_processes() -> None:
    import os

    with connect("threads", workers=2) as client:
        assert sum(client.nthreads().values()) == 2
        assert client.submit(os.getpid).result() == os.getpid()
    with connect("local", workers=2) as client:
        assert list(client.nthreads().values()) == [1, 1]
        assert client.submit(os.getpid).result() != os.getpid()
        with urllib.request.urlopen(dashboard_link(client), timeout=20) as answer:
            assert answer.status == 200


def test_by_default_it_takes_the_cores_that_this_process_may_use() -> None:
    with connect("threads") as client:
        assert sum(client.nthreads().values()) == available_cores()


def test_a_running_scheduler_by_file_and_by_address(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1",
         "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            if file.is_file() and file.stat().st_size:
                break
            time.sleep(0.1)
        with connect(f"scheduler-file:{file}") as client:
            address = client.scheduler.address
            assert dashboard_link(client).startswith("http://127.0.0.1")
        with connect(address) as client:
            assert client.nthreads() == {}
    finally:
        scheduler.terminate()
        scheduler.wait()


@pytest.mark.parametrize(("where", "kind", "message"), [
    ("mars", InputError, "slurm:FILE.yaml"),
    ("scheduler-file:none.json", MissingInputError, "dask scheduler --scheduler-file"),
    ("slurm:none.yaml", MissingInputError, "SLURMCluster"),
    ("tcp://127.0.0.1:9", InputError, "no scheduler answers"),
])
def test_errors_say_what_to_do(where: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message), connect(where, timeout=1):
        pass


def test_workers_must_be_a_number() -> None:
    with pytest.raises(InputError, match="at least 1"), connect("threads", workers=0):
        pass


def test_cuda_without_dask_cuda_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with pytest.raises(InputError, match=r"hrtem-dask\[gpu\]"), connect("cuda"):
        pass


def test_cuda_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    class NVMLError(Exception):
        pass

    def none(**_: object) -> None:
        raise NVMLError("NVML Shared Library Not Found")

    monkeypatch.setitem(sys.modules, "dask_cuda", types.SimpleNamespace(LocalCUDACluster=none))
    with pytest.raises(InputError, match=r"no GPU can be used.*NVML Shared Library"), connect("cuda"):
        pass


def test_slurm_file_and_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    file = tmp_path / "cluster.yaml"
    for text, message in [("cores: 1\nmemory: 1GB\n", r"hrtem-dask\[hpc\]"), ("- a\n", "expected a mapping"),
                          ("a: [", "not YAML")]:
        file.write_text(text)
        with pytest.raises(InputError, match=message), connect(f"slurm:{file}"):
            pass
