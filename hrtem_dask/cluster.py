"""One way to reach workers: ``with connect("local") as client: ...``.

A client is only ever made here, because somebody asked for it; library functions take the
client they are given or the current one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.errors import InputError, MissingInputError
from .core.machine import available_cores, available_memory

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["connect", "dashboard_link", "local_workers"]

log = logging.getLogger(__name__)
CHOICES = '"local", "threads", "cuda", "slurm:FILE.yaml", "tcp://HOST:PORT" or "scheduler-file:PATH"'
#: memory that one worker should have at least [byte]: a tile with its planes takes about 1 GB, its frames and
#: what is imported some hundred MB, and Dask pauses a worker at 80 % of its limit
WORKER_MEMORY = 2 << 30
#: part of the memory there is that the workers may share
SHARE = 0.9


@contextlib.contextmanager
def connect(where: str = "local", *, workers: int | None = None, timeout: float = 30.0) -> Iterator[Client]:
    """Connect to workers and let them go at the end of the ``with`` block.

    Parameters
    ----------
    where : str
        ``"local"``: one process a core on this machine, fewer where there is little memory
        (`local_workers`). ``"threads"``: threads of this process.
        ``"cuda"``: one process a GPU (extra ``gpu``). ``"slurm:FILE.yaml"``: jobs of a Slurm
        cluster, the file holds the arguments of ``dask_jobqueue.SLURMCluster`` and ``jobs``
        (extra ``hpc``). ``"tcp://HOST:PORT"`` or ``"scheduler-file:PATH"``: a running scheduler.
    workers : int, optional
        Number of processes, threads or jobs; by default what the machine offers.
    timeout : float
        How long to wait for a running scheduler [second].

    Yields
    ------
    distributed.Client

    Raises
    ------
    InputError
        If `where` is unknown, an extra is not installed, or nothing answers there.

    Examples
    --------
    >>> with connect("threads", workers=1) as client:
    ...     client.submit(sum, [1, 2]).result()
    3
    """
    if workers is not None and (int(workers) != workers or workers < 1):
        raise InputError(f"workers is {workers!r}; expected a whole number of at least 1")
    import distributed  # sets its own log levels when it is imported

    # it tells every step of starting and stopping otherwise, and that a busy process takes a while to end
    levels = {distributed.__name__: logging.WARNING, "distributed.nanny": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(max(before[name], level))
    try:
        with contextlib.ExitStack() as stack:
            yield stack.enter_context(_client(str(where), workers, timeout, stack))
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def dashboard_link(client: Client) -> str:
    """Address of the dashboard; empty where there is none."""
    port = client.scheduler_info(n_workers=0).get("services", {}).get("dashboard")
    if not port:
        return ""
    # an in-process scheduler names the host's outer address, on which its dashboard does not listen
    return f"http://127.0.0.1:{port}/status" if client.scheduler.address.startswith("inproc") else client.dashboard_link


def _client(where: str, workers: int | None, timeout: float, stack: contextlib.ExitStack) -> Client:
    from distributed import Client

    if where in ("local", "threads"):
        cluster = stack.enter_context(_closed_late(_local_cluster(where == "local", workers)))
    elif where == "cuda":
        cluster = stack.enter_context(_cuda_cluster(workers))
    elif where.startswith("slurm:"):
        cluster = stack.enter_context(_slurm_cluster(Path(where.removeprefix("slurm:")), workers))
    elif where.startswith("scheduler-file:"):
        path = Path(where.removeprefix("scheduler-file:"))
        if not path.is_file():
            raise MissingInputError(f"there is no scheduler file {path}; start a scheduler that writes it: "
                                    f"dask scheduler --scheduler-file {path}")
        return _reach({"scheduler_file": str(path)}, where, timeout)
    elif "://" in where:
        return _reach({"address": where}, where, timeout)
    else:
        raise InputError(f"where is {where!r}; expected {CHOICES}")
    return Client(cluster, set_as_default=True)


def _reach(how: dict[str, str], where: str, timeout: float) -> Client:
    from distributed import Client

    try:
        return Client(**how, timeout=timeout)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"no scheduler answers at {where} within {timeout:g} s ({error}); "
                         "check that it runs and that the port is open") from error


def local_workers(workers: int | None = None) -> tuple[int, int]:
    """Number of worker processes on this machine, one thread each, and the memory limit of each [byte].

    One a core that this process may use, but no more than can have 2 GiB each; together they get
    90 % of the memory that is free now. `workers` sets the number instead.

    Examples
    --------
    >>> local_workers(3)[0]
    3
    """
    free = available_memory()
    n = workers or max(1, min(available_cores(), free // WORKER_MEMORY))
    limit = int(SHARE * free / n)
    if limit < WORKER_MEMORY / 2:
        log.warning("each of %d worker(s) has %.2f GB of memory; a tile takes about 1 GB: ask for fewer workers, or "
                    "set a smaller tile= in segment", n, limit / 1e9)
    return n, limit


@contextlib.contextmanager
def _closed_late(cluster: Any) -> Iterator[Any]:
    """Close a cluster at the end; on a busy machine that may take longer than Dask waits.."""
    try:
        yield cluster
    finally:
        try:
            cluster.close()
        except TimeoutError as error:
            log.warning("the workers take long to end (%s); they end by themselves", error or "timed out")


def _local_cluster(processes: bool, workers: int | None) -> Any:
    """One single-threaded process a core, since Python code and small kernels hold each other up in threads.

    Dask's nanny holds the threads of BLAS and OpenMP in these processes to one.
    """
    from distributed import LocalCluster

    if processes:
        n, limit = local_workers(workers)
        options: dict[str, Any] = {"n_workers": n, "threads_per_worker": 1, "processes": True, "memory_limit": limit}
    else:
        options = {"n_workers": 1, "threads_per_worker": workers or available_cores(), "processes": False,
                   "memory_limit": 0}
    return LocalCluster(dashboard_address=_dashboard(), silence_logs=logging.ERROR, **options)


def _dashboard() -> str | None:
    """A free port for the dashboard on this machine only, or none where bokeh is not usable."""
    try:
        import bokeh  # noqa: F401
    except ImportError:
        log.info("no dashboard: bokeh is not installed")
        return None
    return "127.0.0.1:0"


def _cuda_cluster(workers: int | None) -> Any:
    install = "install the extra with the CUDA of your torch: pip install 'hrtem-dask[gpu]'; or use --where local"
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise InputError(f'where is "cuda" but dask-cuda cannot be imported ({error}); {install}') from error
    try:
        return LocalCUDACluster(n_workers=workers, dashboard_address=_dashboard())
    except Exception as error:  # NVML's errors have no common base that could be imported here
        raise InputError(f'where is "cuda" but no GPU can be used ({type(error).__name__}: {error}); '
                         f"check nvidia-smi, and {install}") from error


def _slurm_cluster(path: Path, workers: int | None) -> Any:
    import yaml

    if not path.is_file():
        raise MissingInputError(f"there is no file {path}; expected a YAML file with the arguments of "
                                "dask_jobqueue.SLURMCluster (queue, cores, memory, walltime) and jobs")
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(options, dict):
        raise InputError(f"{path} holds {type(options).__name__}; expected a mapping, as `cores: 4`")
    jobs = workers or options.pop("jobs", 1)
    options.pop("jobs", None)
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise InputError(f"where is {path} on Slurm but dask-jobqueue cannot be imported ({error}); "
                         "install the extra: pip install 'hrtem-dask[hpc]'") from error
    try:
        cluster = SLURMCluster(**options)
        cluster.scale(jobs=jobs)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise InputError(f"{path}: the Slurm cluster cannot be started: {error}") from error
    return cluster
