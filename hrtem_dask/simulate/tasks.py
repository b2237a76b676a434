"""Independent tasks on a Dask cluster, on processes or on threads, and how busy they kept the cores."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context, parent_process
from typing import Any

from ..core.machine import as_task, available_cores, one_blas_thread

__all__ = ["Effort", "begin_worker", "current_client", "measured", "one_thread", "run_tasks"]

LOOK = 1.0  # second between two looks whether the parent of a worker is still there


@dataclass
class Effort:
    """What a run of tasks took: their number, time on the clock, processor time in tasks, and cores.

    ``inside`` is the time on the clock that was spent in tasks, added up over the cores: what is
    missing to wall x cores was start, waiting and the end, what is missing to it in ``cpu`` went to
    whatever else ran on the machine, and to the disk.

    Examples
    --------
    >>> print(Effort("exit waves", done=90, wall=60.0, cpu=220.0, cores=4, inside=232.0))
    90 exit waves in 60.0 s on 4 cores: 22.5 a minute and core, cores 92 % busy, in tasks for 97 % of the time
    """

    what: str
    done: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    cores: int = 1
    inside: float = 0.0

    @property
    def occupied(self) -> float:
        """Time in tasks over (time on the clock x cores)."""
        return self.inside / max(self.wall * self.cores, 1e-9)

    @property
    def busy(self) -> float:
        """Processor time of the tasks over (time on the clock x cores)."""
        return self.cpu / max(self.wall * self.cores, 1e-9)

    def __str__(self) -> str:
        rate = self.done / max(self.wall / 60 * self.cores, 1e-9)
        cores = f"{self.cores} core{'s' * (self.cores > 1)}"
        said = (f"{self.done} {self.what} in {self.wall:.1f} s on {cores}: {rate:.3g} a minute and core, cores "
                f"{self.busy:.0%} busy, in tasks for {self.occupied:.0%} of the time")
        return said.replace("%", " %")


def measured(function: Callable[..., Any], *args: Any) -> tuple[Any, float, float]:
    """Call a function on one thread; return its result, processor time and time on the clock [second]."""
    start, clock = time.thread_time(), time.monotonic()
    with as_task(), one_blas_thread():
        result = function(*args)
    return result, time.thread_time() - start, time.monotonic() - clock


def run_tasks(function: Callable[..., Any], tasks: list[tuple], client: Any, workers: int | None,
              effort: Effort | None = None, share: Callable[[], tuple] | None = None) -> Iterator[Any]:
    """Yield results as they come: from processes, from a Dask client, or from threads.

    No task waits for another: whichever core is free takes the next one.

    Parameters
    ----------
    function : callable
        Module-level function of the package.
    tasks : list of tuple
        Its arguments.
    client : distributed.Client or None
        By default the current client, where there is one.
    workers : int or None
        So many processes of this machine instead.
    effort : Effort, optional
        Is kept up to date while results come.
    share : callable, optional
        Makes what all tasks need, for processes of this machine: it is called once, here, while the
        processes start and import, and what it returns are further arguments of every task. A task
        that is called without them makes its own.
    """
    effort = effort if effort is not None else Effort("tasks")
    start = time.monotonic()
    if client is None and workers is None:
        client = current_client()
    if client is not None and workers is None:
        effort.cores = max(1, sum(client.nthreads().values()))
        results = _on_cluster(function, tasks, client)
    else:
        effort.cores = min(workers or available_cores(), max(len(tasks), 1))
        results = _here(function, tasks, effort.cores, processes=workers is not None, share=share)
    for result, seconds, clock in results:
        effort.done, effort.cpu, effort.wall = effort.done + 1, effort.cpu + seconds, time.monotonic() - start
        effort.inside += clock
        yield result


def _on_cluster(function: Callable[..., Any], tasks: list[tuple], client: Any) -> Iterator[tuple[Any, float, float]]:
    from distributed import as_completed

    # the same call twice shall run twice: a result that was lost on disk is not in the cluster's memory
    waiting = [client.submit(measured, function, *t, pure=False) for t in tasks]
    try:
        for future in as_completed(waiting):
            yield future.result()
            future.release()
    finally:
        client.cancel(waiting)


def _here(function: Callable[..., Any], tasks: list[tuple], size: int, *, processes: bool,
          share: Callable[[], tuple] | None = None) -> Iterator[tuple[Any, float, float]]:
    if size == 1:
        for t in tasks:
            yield measured(function, *t)
        return
    pool = (futures.ProcessPoolExecutor(size, mp_context=get_context("spawn"), initializer=begin_worker) if processes
            else futures.ThreadPoolExecutor(size))
    with pool:
        try:
            shared: tuple = ()
            if processes and share:
                for _ in range(size):
                    pool.submit(imported, function.__module__)
                shared = share()
            for future in futures.as_completed([pool.submit(measured, function, *t, *shared) for t in tasks]):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def imported(name: str) -> None:
    """Import the module of the tasks, and what its functions import when they are called."""
    for needed in (name, "abtem"):
        import_module(needed)


def current_client() -> Any:
    """Return the current Dask client, or None."""
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def one_thread() -> None:
    """Keep the numerical libraries of a fresh process to one thread, before they are loaded."""
    os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")


def begin_worker() -> None:
    """Prepare a fresh process of a pool: one thread for the libraries, and an end when its parent ends.

    A pool that is killed cannot tell its processes: they would wait for the next task for ever, and those
    at work would go on.
    """
    one_thread()
    threading.Thread(target=end_with_parent, name="end-with-parent", daemon=True).start()


def end_with_parent() -> None:
    """Wait until the process that started this one has ended, then end this one at once."""
    parent = parent_process()
    if parent is None:
        return
    # its pipe tells at once; the look at the id is for a pipe that another child of the parent has inherited
    while parent.is_alive() and (os.name == "nt" or os.getppid() == parent.pid):
        parent.join(LOOK)
    os._exit(1)
