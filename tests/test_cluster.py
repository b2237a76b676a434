"""Ways to reach workers, and plain words where there are none."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dask.array as da
import numpy as np
import pytest

from hrtem_dask.cluster import connect, dashboard_link
from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.core.machine import available_cores, available_memory
from hrtem_dask.kernels.msdnet import compiled
from hrtem_dask.kernels.msdnet.weights import MSDWeights


def test_threads_and_local_processes() -> None:
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


def network() -> MSDWeights:
    rng = np.random.default_rng(0)
    layers = tuple(rng.normal(size=(1, 1 + i, 3, 3)).astype(np.float32) / 3 for i in range(6))
    return MSDWeights(layers, tuple(np.zeros(1, np.float32) for _ in layers),
                      rng.normal(size=(2, 7)).astype(np.float32), np.zeros(2, np.float32), tuple(range(1, 11)), "zeros")


FRAMES = np.random.default_rng(1).normal(size=(6, 90, 70)).astype(np.float32)


def logits_and_threads(frames: np.ndarray) -> np.ndarray:
    """A user's own task: evaluates without a word about threads, and tells how many there were."""
    import torch

    from hrtem_dask.networks import evaluate, evaluation

    # tasks of one process take turns: each would take the other's probe for the real thing. The lock lives
    # in the package, because one of this module would have to travel to the workers
    with compiled.__dict__.setdefault("_probing", threading.RLock()):
        return _probed(frames, evaluate, evaluation, torch)


def _probed(frames, evaluate, evaluation, torch) -> np.ndarray:
    real, told = (compiled.evaluate, evaluation.torch_planes.evaluate), []
    compiled.evaluate = lambda *args, threads, **kw: told.append(threads) or real[0](*args, threads=threads, **kw)
    evaluation.torch_planes.evaluate = (
        lambda *args, **kw: told.append(torch.get_num_threads()) or real[1](*args, **kw))
    try:
        logits = np.stack([evaluate(network(), frame[None], device="cpu") for frame in frames])
        evaluate(network(), frames[:1], backend="torch", device="cpu")
    finally:
        compiled.evaluate, evaluation.torch_planes.evaluate = real
    return np.concatenate([logits.reshape(len(frames), -1), np.full((len(frames), 1), max(told))], axis=1)


@pytest.fixture(scope="module")
def alone() -> np.ndarray:
    """What one thread gives, without Dask."""
    if not compiled.instruction_sets():
        pytest.skip(compiled.why_not())
    return np.stack([compiled.evaluate(network(), frame[None], threads=1).ravel() for frame in FRAMES])


def in_tasks(**how: str) -> np.ndarray:
    tasks = da.from_array(FRAMES, chunks=(1, -1, -1)).map_blocks(
        logits_and_threads, drop_axis=2, dtype=np.float32, chunks=((1,) * 6, (2 * 90 * 70 + 1,)))
    return tasks.compute(**how)


@pytest.fixture(scope="module")
def two_processes_with_two_threads() -> Iterator[object]:
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0") as cluster, \
            Client(cluster, set_as_default=False) as client:
        yield client


@pytest.mark.parametrize("scheduler", ["threads", "sync", "processes", "distributed", "distributed in this process"])
def test_a_task_of_any_scheduler_has_one_thread_and_gives_the_same(
        scheduler: str, alone: np.ndarray, request: pytest.FixtureRequest) -> None:
    if scheduler == "distributed":
        found = in_tasks(scheduler=request.getfixturevalue("two_processes_with_two_threads"))
    elif scheduler == "distributed in this process":
        with connect("threads", workers=3) as client:
            found = in_tasks(scheduler=client)
    else:
        # one at a time, because the tasks of threads would each put back what another put in place
        found = in_tasks(scheduler=scheduler, num_workers=1 if scheduler == "threads" else 2)
    assert (found[:, -1] == 1).all()
    np.testing.assert_array_equal(found[:, :-1], alone)


def test_outside_tasks_every_core_is_used(alone: np.ndarray) -> None:
    assert logits_and_threads(FRAMES)[0, -1] == available_cores() or available_cores() == 1
    np.testing.assert_array_equal(logits_and_threads(FRAMES)[:, :-1], alone)


@pytest.mark.parametrize("where", ["threads", "processes", "distributed"])
def test_segment_is_the_same_to_the_bit_wherever_it_runs(where: str, request: pytest.FixtureRequest) -> None:
    from hrtem_dask import segment
    from hrtem_dask.core.calibration import make_movie

    counts = np.random.default_rng(2).poisson(40, (5, 150, 200)).astype(np.uint16)
    lazy = segment(make_movie(da.from_array(counts, chunks=(1, 100, 200)), pixel_size=0.45), "au-particles", tile=64,
                   device="cpu")
    expected = lazy.compute(scheduler="sync")
    assert float(expected.std()) > 0
    how = request.getfixturevalue("two_processes_with_two_threads") if where == "distributed" else where
    np.testing.assert_array_equal(lazy.compute(scheduler=how), expected)


def test_workers_hold_libraries_to_one_thread_and_know_their_memory() -> None:
    def libraries() -> tuple[list[str | None], set[int]]:
        import threadpoolctl

        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        np.ones((2, 2)) @ np.ones((2, 2))
        return [os.environ.get(n) for n in names], {p["num_threads"] for p in threadpoolctl.threadpool_info()}

    with connect("local", workers=1) as client:
        variables, pools = client.submit(libraries).result()
        assert variables == ["1", "1", "1"]
        assert pools <= {1}
        limit = client.run(lambda dask_worker: dask_worker.memory_manager.memory_limit)
        assert 0 < client.submit(available_memory).result() < min(limit.values())


@pytest.mark.parametrize(("cores", "gigabytes", "expected"), [
    (4, 16.0, (4, 3.6)), (8, 8.0, (4, 1.8)), (16, 64.0, (16, 3.6)), (2, 1.0, (1, 0.9)), (4, 0.2, (1, 0.18)),
])
def test_workers_share_the_memory_there_is(
        monkeypatch: pytest.MonkeyPatch, cores: int, gigabytes: float, expected: tuple[int, float]) -> None:
    """A worker needs room for a tile and its frames; a laptop with little memory gets fewer of them."""
    from hrtem_dask import cluster

    monkeypatch.setattr(cluster, "available_cores", lambda: cores)
    monkeypatch.setattr(cluster, "available_memory", lambda: int(gigabytes * 2**30))
    workers, memory = cluster.local_workers()
    assert (workers, memory / 2**30) == (expected[0], pytest.approx(expected[1], rel=0.01))
    assert cluster.local_workers(3)[0] == 3


def test_a_cluster_that_closes_late_loses_no_result(monkeypatch, caplog):
    from distributed import LocalCluster

    close = LocalCluster.close

    def late(self, *args, **kwargs):
        close(self, *args, **kwargs)
        raise TimeoutError

    monkeypatch.setattr(LocalCluster, "close", late)
    with connect("threads", workers=1) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    assert "take long to end" in caplog.text
    with pytest.raises(ValueError, match="mine"), connect("threads", workers=1):
        raise ValueError("mine")
