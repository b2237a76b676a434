"""What this process, and the Dask task that runs on this thread, may use of the machine."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = ["as_task", "available_cores", "available_memory", "in_task", "one_blas_thread", "task_threads",
           "threads_here"]

#: threads of one task, for workers that have several cores and one thread
TASK_THREADS = "HRTEM_DASK_TASK_THREADS"
_here = threading.local()


class _Blas:
    """How many threads of this process hold the linear algebra to one thread, and what undoes it."""

    lock = threading.Lock()
    holders = 0
    controller: Any = None
    limit: Any = None


def available_cores() -> int:
    """Cores that this process may use: a container or a batch job can allow fewer than the machine has.

    The least of the cores, the affinity of the process and the quota of its control group,
    rounded up.
    """
    from dask.system import cpu_count

    return max(1, cpu_count())


def task_threads() -> int:
    """Threads that one Dask task stands for: 1, or the number in the variable ``HRTEM_DASK_TASK_THREADS``.

    Raises
    ------
    InputError
        If the variable holds something else than a positive number.
    """
    text = os.environ.get(TASK_THREADS, "1").strip()
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"the environment variable {TASK_THREADS} is {text!r}; expected a whole number of at least "
                         f"1, the threads that every task may use")
    return int(text)


def threads_here() -> int:
    """Threads for a computation that starts here: those of the task inside one, else every core there is.

    Examples
    --------
    >>> with as_task():
    ...     threads_here()
    1
    """
    return task_threads() if in_task() else available_cores()


@contextmanager
def as_task() -> Iterator[None]:
    """Count this thread as one of several that run at once, as those of a pool without Dask."""
    before = getattr(_here, "task", False)
    _here.task = True
    try:
        yield
    finally:
        _here.task = before


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold numpy's linear algebra to one thread while any thread is inside: of many small products most are waiting.

    The limit is one of the process. Threads that come and go share it; the last one lifts it.

    Examples
    --------
    >>> from threadpoolctl import threadpool_info
    >>> with one_blas_thread(), one_blas_thread():
    ...     {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} <= {1}
    True
    """
    from threadpoolctl import ThreadpoolController

    with _Blas.lock:
        if not _Blas.holders:
            _Blas.controller = _Blas.controller or ThreadpoolController()  # looking for the libraries takes a while
            _Blas.limit = _Blas.controller.limit(limits=1, user_api="blas")
        _Blas.holders += 1
    try:
        yield
    finally:
        with _Blas.lock:
            _Blas.holders -= 1
            if not _Blas.holders:
                _Blas.limit.restore_original_limits()


def in_task() -> bool:
    """Whether a Dask task, of any scheduler, runs on this thread; imports nothing to find out."""
    if getattr(_here, "task", False):
        return True
    distributed = sys.modules.get("distributed.worker")
    if distributed is not None:
        with suppress(ValueError, AttributeError):  # how it says no
            return distributed.get_worker() is not None
    # the schedulers of one machine leave no mark on a thread: their function is among the callers
    local = sys.modules.get("dask.local")
    code = getattr(getattr(local, "execute_task", None), "__code__", None)
    frame = sys._getframe(1) if code is not None else None
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


def available_memory() -> int:
    """Memory that this process can still take [byte]: the least that anything here allows.

    Counted are the machine, the control group of the process (a container or a batch job), its
    own limit of address space, and the limit of the Dask worker that it is.
    """
    import psutil

    left = [psutil.virtual_memory().available, *_control_groups()]
    used = psutil.Process().memory_info()
    with suppress(ImportError, OSError):  # no such module on Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            left.append(limit - used.vms)
    with suppress(KeyError, ValueError, AttributeError):  # no distributed, no worker here, or one without a limit
        limit = sys.modules["distributed.worker"].get_worker().memory_manager.memory_limit
        if limit:
            left.append(limit - used.rss)
    return max(0, int(min(left)))


def _control_groups(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What the memory limits of the control groups of this process leave, versions 2 and 1, with all parents."""
    left = []
    with suppress(OSError, ValueError):
        for line in proc.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            names = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes") if kinds else (
                "memory.max", "memory.current")
            folder = Path(path.lstrip("/"))
            for group in (folder, *folder.parents):
                with suppress(OSError, ValueError):  # "max", no such group seen from here, or not allowed
                    limit, usage = (_in_group(root, name, group) for name in names)
                    left.append(int(limit.read_text()) - int(usage.read_text()) + _reclaimable(limit.parent))
    return left


def _in_group(root: Path, name: str, group: Path) -> Path:
    folder, _, file = name.rpartition("/")
    return root / folder / group / file


def _reclaimable(folder: Path) -> int:
    """Cached files of a control group, which give way [byte]."""
    with suppress(OSError, ValueError):
        lines = (folder / "memory.stat").read_text().splitlines()
        values = dict(line.split() for line in lines if line.count(" ") == 1)
        return int(values.get("total_inactive_file", values.get("inactive_file", 0)))
    return 0
