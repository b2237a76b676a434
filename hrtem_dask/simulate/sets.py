"""Sets of labelled exit waves on disk.

A set is a folder: ``set.json`` (recipe, seed, versions) and ``structures/000000.npz``, one file a
field of view. Waves are the expensive part and are stored once; images are drawn from them at
any defocus, dose and pixel size while a network trains (`hrtem_dask.simulate.draws`).
"""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError, MissingInputError, ReadError
from ..core.provenance import package_version
from .labels import OUTLINES, gold_thickness, half_thickness_mask, particle_mask
from .microscope import exit_wave
from .recipe import Recipe, load_recipe
from .structures import build_specimen, film_blocks

__all__ = ["Dataset", "Sample", "dataset", "open_dataset", "simulate_structure"]

log = logging.getLogger(__name__)

TRUTH_SAMPLING = 0.25  # angstrom
THICKNESS_SAMPLING = 1.0  # angstrom


@dataclass(frozen=True)
class Sample:
    """One stored field: exit wave, mask and thickness of gold, all periodic.

    ``wave`` complex64 at the stored sampling, ``truth`` bool at 0.25 angstrom, ``thickness``
    [angstrom] float32 at 1 angstrom; ``info`` lists the particles and the film.
    """

    wave: np.ndarray
    truth: np.ndarray
    thickness: np.ndarray
    info: dict[str, Any]


def simulate_structure(recipe: Recipe, seed: int, index: int) -> Sample:
    """Build one field and its exit wave; depends on (recipe, seed, index) and nothing else."""
    specimen = build_specimen(recipe, np.random.default_rng([seed, index]), blocks_of(recipe, seed))
    box = (recipe.field.box,) * 2
    info = {"index": index, "particles": specimen.particles, "film_thickness": specimen.film_thickness}
    wave = exit_wave(specimen, recipe.field)
    truth = particle_mask(specimen.gold, box, TRUTH_SAMPLING)
    return Sample(wave, truth, gold_thickness(specimen.gold, box, THICKNESS_SAMPLING), info)


@lru_cache(maxsize=2)
def blocks_of(recipe: Recipe, seed: int) -> list[np.ndarray]:
    """Blocks of carbon of a set, made once a process."""
    return film_blocks(recipe, seed)


def save_sample(sample: Sample, path: Path) -> None:
    """Write one field; the file appears only when it is whole."""
    wave = np.stack([sample.wave.real, sample.wave.imag]).astype(np.float16)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, wave=wave, truth=np.packbits(sample.truth), shape=np.array(sample.truth.shape),
                 thickness=sample.thickness.astype(np.float16), info=np.array(json.dumps(sample.info)))
    part.replace(path)


def load_sample(path: Path) -> Sample:
    """Read what `save_sample` wrote."""
    try:
        with np.load(path, allow_pickle=False) as z:
            wave = z["wave"].astype(np.float32)
            shape = tuple(z["shape"])
            truth = np.unpackbits(z["truth"], count=shape[0] * shape[1]).reshape(shape).astype(bool)
            return Sample((wave[0] + 1j * wave[1]).astype(np.complex64), truth, z["thickness"].astype(np.float32),
                          json.loads(str(z["info"])))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ReadError(f"{path} cannot be read ({error}); delete it and run the simulation again") from error


def structure_task(recipe: Recipe, seed: int, index: int, path: str) -> int:
    """Simulate and store one field; one thread, because the fields themselves run side by side."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        save_sample(simulate_structure(recipe, seed, index), Path(path))
    return index


@dataclass(frozen=True)
class Dataset:
    """A set on disk; ``set[i]`` reads field i.

    ``outline`` says what the masks that it gives are: "atoms", the stored truth (discs around all
    projected atoms), or "half-thickness", the line that an image shows (`half_thickness_mask`).
    """

    path: Path
    recipe: Recipe
    seed: int
    indices: tuple[int, ...]
    outline: str = "atoms"

    def __post_init__(self) -> None:
        if self.outline not in OUTLINES:
            raise InputError(f"outline is {self.outline!r}; expected one of {OUTLINES}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Sample:
        sample = load_sample(structure_path(self.path, self.indices[i]))
        if self.outline == "atoms":
            return sample
        sampling = self.recipe.field.box / len(sample.thickness)
        return replace(sample, truth=half_thickness_mask(sample.truth, TRUTH_SAMPLING, sample.thickness, sampling))


def structure_path(store: Path, index: int) -> Path:
    """File of one field."""
    return store / "structures" / f"{index:06d}.npz"


def open_dataset(store: str | Path) -> Dataset:
    """Open a set that `dataset` wrote.

    Parameters
    ----------
    store : str or Path
        Its folder.

    Returns
    -------
    Dataset
        The fields that are there now.

    Raises
    ------
    MissingInputError
        If this is not a set, or holds no field yet.
    """
    store = Path(store)
    if not (store / "set.json").is_file():
        raise MissingInputError(f"{store} is not a simulated set (no set.json); make one with "
                                f"'hrtem-dask simulate au-particles --out {store} -n 100 --seed 1'")
    meta = json.loads((store / "set.json").read_text(encoding="utf-8"))
    indices = tuple(sorted(int(p.stem) for p in (store / "structures").glob("[0-9]*.npz")))
    if not indices:
        raise MissingInputError(f"{store} holds no field yet; run 'hrtem-dask simulate' to its end")
    return Dataset(store, load_recipe(meta["recipe"]), meta["seed"], indices)


def dataset(recipe: str | Path | dict | Recipe, store: str | Path, n: int, *, seed: int, client: Any = None,
            workers: int | None = None, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Simulate a labelled training set.

    Computes at once. Field i depends on the recipe, the seed and i alone: the number of workers
    changes nothing, and a set that is there already is continued, not begun again.

    Parameters
    ----------
    recipe : str, Path, dict or Recipe
        Name of a shipped recipe, YAML file, or content.
    store : str or Path
        Folder to write.
    n : int
        Number of fields that the set shall have.
    seed : int
        Seed of the set.
    client : distributed.Client, optional
        Where to compute; by default the current client, else threads.
    workers : int, optional
        Compute in this many processes of this machine instead, which is faster than threads; a
        script that asks for them needs the usual ``if __name__ == "__main__":``.
    progress : callable, optional
        Called with (fields done, n) after each field.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If n is not positive, or the folder holds a set of another recipe or seed.
    """
    recipe, store = load_recipe(recipe), Path(store)
    if n < 1 or seed < 0:
        raise InputError(f"found n = {n} and seed = {seed}; expected at least one field and a seed of 0 or more")
    begin(recipe, store, seed)
    missing = [i for i in range(n) if not structure_path(store, i).exists()]
    done = n - len(missing)
    if progress:
        progress(done, n)
    tasks = [(recipe, seed, i, str(structure_path(store, i))) for i in missing]
    for _ in run_tasks(structure_task, tasks, client, workers):
        done += 1
        if progress:
            progress(done, n)
        log.debug("%d of %d fields", done, n)
    return open_dataset(store)


def begin(recipe: Recipe, store: Path, seed: int) -> None:
    """Write set.json, or check that the one that is there was begun with the same waves in mind.

    `imaging` may differ: images are drawn later, with what the recipe says now.
    """
    meta = {"recipe": recipe.to_dict(), "digest": recipe.digest, "seed": seed, "version": package_version()}
    path = store / "set.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found == meta:
            return
        other = load_recipe(found["recipe"])
        if (other.wave_digest, found["seed"]) != (recipe.wave_digest, seed):
            raise InputError(f"{store} holds a set of recipe {other.name!r} ({other.wave_digest[:8]}), seed "
                             f"{found['seed']}; expected {recipe.name!r} ({recipe.wave_digest[:8]}), seed {seed}. "
                             f"Choose another folder, or the recipe and the seed that this one was begun with")
    (store / "structures").mkdir(parents=True, exist_ok=True)
    part = path.with_name("set.json.part")
    part.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def run_tasks(function: Callable[..., Any], tasks: list[tuple], client: Any, workers: int | None) -> Iterator[Any]:
    """Yield results as they come: from processes, from a Dask client, or from threads."""
    if client is None and workers is None:
        client = current_client()
    if client is not None and workers is None:
        from distributed import as_completed

        for future in as_completed([client.submit(function, *t, pure=False) for t in tasks]):
            yield future.result()
            future.release()
        return
    size = min(workers or os.cpu_count() or 1, max(len(tasks), 1))
    if size == 1:
        for t in tasks:
            yield function(*t)
        return
    pool = (futures.ThreadPoolExecutor(size) if workers is None else
            futures.ProcessPoolExecutor(size, mp_context=get_context("spawn"), initializer=one_thread))
    with pool:
        for future in futures.as_completed([pool.submit(function, *t) for t in tasks]):
            yield future.result()


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
