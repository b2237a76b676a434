"""Sets of labelled exit waves, in one Zarr store each.

Waves are the expensive part and are stored once; images are drawn from them at any defocus, dose
and pixel size while a network trains (`hrtem_dask.simulate.draws`). How a set lies on disk is
said in `hrtem_dask.simulate.set_store`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xarray as xr

from ..core.errors import InputError, MissingInputError
from ..core.provenance import package_version
from ..io.store import open_store
from ..io.texts import rows_with_text
from .columns import column_table
from .labels import OUTLINES, gold_thickness, half_thickness_mask, instance_labels
from .multislice import exit_wave
from .recipe import Recipe, load_recipe
from .set_store import (
    RECORD,
    THICKNESS_SAMPLING,
    TRUTH_SAMPLING,
    Sample,
    begin,
    finished,
    gather,
    read_sample,
    read_set,
    refuse_other_revision,
    write_sample,
)
from .structures import Specimen, build_specimen, film_blocks
from .tasks import Effort, run_tasks

__all__ = ["TRUTH_SAMPLING", "Dataset", "Sample", "dataset", "open_dataset", "simulate_structure"]

log = logging.getLogger(__name__)

DECIMALS = 4  # of a column's position [angstrom] on disk


def simulate_structure(recipe: Recipe, seed: int, index: int, blocks: list[np.ndarray] | None = None) -> Sample:
    """Build one field and its exit wave; depends on (recipe, seed, index) and nothing else.

    ``blocks`` are those of `blocks_of`, where they are at hand.
    """
    blocks = blocks_of(recipe, seed) if blocks is None else blocks
    specimen = build_specimen(recipe, np.random.default_rng([seed, index]), blocks)
    box = (recipe.field.box,) * 2
    truth_sampling, thickness_sampling = (box[0] / round(box[0] / s) for s in (TRUTH_SAMPLING, THICKNESS_SAMPLING))
    info = {"index": index, "box": box[0], "made_by": made_by()} | info_of(specimen)
    wave = exit_wave(specimen, recipe.field)
    instances = instance_labels(specimen, truth_sampling)
    columns = column_table(specimen).round(DECIMALS)
    thickness = gold_thickness(specimen.gold, box, thickness_sampling, numbers=specimen.gold_numbers)
    return Sample(wave, instances > 0, thickness, info, instances, columns)


def info_of(specimen: Specimen) -> dict[str, Any]:
    """What a record says of the atoms of a field."""
    return {"particles": specimen.particles, "film_thickness": specimen.film_thickness, "support": specimen.support,
            "sheet": specimen.sheet, "atoms": int((specimen.numbers > 0).sum())}


def made_by() -> str:
    """Versions of what decides on the atoms and on the wave of a structure."""
    return ", ".join(f"{name} {package_version(name)}" for name in ("hrtem-dask", "abtem", "ase", "numpy", "scipy"))


def refuse_mixture(recipe: Recipe, store: Path, there: set[int], seed: int) -> None:
    """Refuse to go on with a set whose structures would be made in another way now.

    The revision that the store notes says so of the waves. Of the atoms it need not: versions of other
    packages need not mean other structures, and equal ones not the same. The first of the structures
    that are `there` is built again, without its wave.

    Raises
    ------
    InputError
        If revision or atoms differ.
    """
    begun, begun_seed, rows = read_set(store)
    if (begun.wave_digest, begun_seed) != (recipe.wave_digest, seed) or not rows:
        return  # `begin` says so
    refuse_other_revision(store, len(rows))
    if not there:
        return
    first = min(there)
    info, now = read_sample(store, first, instances=False).info, \
        info_of(build_specimen(recipe, np.random.default_rng([seed, first]), blocks_of(recipe, seed)))
    if not same(info, json.loads(json.dumps(now))):
        raise InputError(
            f"{store} was begun by {info.get('made_by', 'an earlier version')}; {made_by()} makes another structure "
            f"{first} of the same recipe and seed ({info.get('atoms')} atoms then, {now['atoms']} now), so the set "
            f"would be mixed. Make the set anew in another store, go on with the version that began it, or use the "
            f"{len(there)} structures that it has")


def same(old: Any, new: Any) -> bool:
    """Whether a record holds all that a new one says; the last digits of numbers depend on the machine."""
    if isinstance(new, dict):
        return isinstance(old, dict) and all(k in old and same(old[k], v) for k, v in new.items())
    if isinstance(new, list):
        return isinstance(old, list) and len(old) == len(new) and all(map(same, old, new))
    return abs(old - new) <= 1e-6 * max(1.0, abs(new)) if isinstance(new, float) and isinstance(old, float | int) \
        else old == new


@lru_cache(maxsize=2)
def blocks_of(recipe: Recipe, seed: int) -> list[np.ndarray]:
    """Blocks of carbon of a set, made once a process."""
    return film_blocks(recipe, seed)


def share_blocks(recipe: Recipe, seed: int, folder: str) -> tuple[str, ...]:
    """Write the blocks of a set where other processes find them; returns that folder, for `structure_task`."""
    for i, block in enumerate(blocks_of(recipe, seed)):
        np.save(Path(folder) / f"{i}.npy", block)
    return (folder,)


@lru_cache(maxsize=2)
def shared_blocks(folder: str) -> list[np.ndarray]:
    """Read what `share_blocks` wrote, once a process."""
    return [np.load(path) for path in sorted(Path(folder).glob("*.npy"), key=lambda p: int(p.stem))]


def structure_task(recipe: Recipe, seed: int, index: int, store: str, folder: str = "") -> int:
    """Simulate and store one structure, with the blocks in this folder if there is one."""
    blocks = {"blocks": shared_blocks(folder)} if folder else {}
    write_sample(Path(store), index, simulate_structure(recipe, seed, index, **blocks))
    return index


@dataclass(frozen=True)
class Dataset:
    """A set on disk; ``set[i]`` reads structure i, `to_xarray` gives all of it lazily.

    ``outline`` says what the masks that it gives are: "atoms", the stored truth (discs around all
    projected atoms), or "half-thickness", the line that an image shows (`half_thickness_mask`).
    ``effort`` is what it took to make the structures that were missing, where it was just made.
    """

    path: Path
    recipe: Recipe
    seed: int
    indices: tuple[int, ...]
    outline: str = "atoms"
    effort: Effort | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.outline not in OUTLINES:
            raise InputError(f"outline is {self.outline!r}; expected one of {OUTLINES}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Sample:
        return self.read(i)

    def read(self, i: int, *, instances: bool = True) -> Sample:
        """Read structure i; its instance labels, which training does not need, may be left out."""
        sample = read_sample(self.path, self.indices[i], instances=instances)
        if self.outline == "atoms":
            return sample
        box = self.recipe.field.box
        return replace(sample, truth=half_thickness_mask(sample.truth, box / len(sample.truth), sample.thickness,
                                                         box / len(sample.thickness)))

    def to_xarray(self) -> xr.Dataset:
        """Open the whole store lazily, one chunk a structure.

        Returns
        -------
        xarray.Dataset
            ``wave`` (structure, part, y, x), ``truth`` and ``instances`` (structure, truth_y, truth_x),
            ``thickness``; one value a structure of what was drawn; ``particle_*`` (particle) and
            ``column_*`` (column) with the structure that each belongs to. What is gathered from the
            single structures is there once `dataset` has come to its end.
        """
        data = open_store(self.path).drop_vars(RECORD)
        return data.reset_coords([name for name in data.coords if name not in data.dims])


def open_dataset(store: str | Path) -> Dataset:
    """Open a set that `dataset` wrote.

    Parameters
    ----------
    store : str or Path
        Its store.

    Returns
    -------
    Dataset
        The structures that are finished now.

    Raises
    ------
    MissingInputError
        If this is not a set, or holds no structure yet.
    InputError
        If it is a folder of npz files, as version 0.1 wrote them.
    """
    store = Path(store)
    recipe, seed, indices = read_set(store)
    if not indices:
        raise MissingInputError(f"{store} holds no structure yet; run 'hrtem-dask simulate' to its end")
    return Dataset(store, recipe, seed, indices)


def dataset(recipe: str | Path | dict | Recipe, store: str | Path, n: int, *, seed: int, client: Any = None,
            workers: int | None = None, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Simulate a labelled training set: exit waves, masks, instances, columns and all that was drawn.

    Computes at once, one structure a task. Structure i depends on the recipe, the seed and i alone:
    the number of workers changes nothing, not a bit. A set that is there already is continued:
    finished structures are skipped, half-written ones made again.

    Parameters
    ----------
    recipe : str, Path, dict or Recipe
        Name of a shipped recipe, YAML file, or content.
    store : str or Path
        Zarr store to write; the workers must see it.
    n : int
        Number of structures that the set shall have.
    seed : int
        Seed of the set.
    client : distributed.Client, optional
        Where to compute; by default the current client, else threads.
    workers : int, optional
        Compute in this many processes of this machine instead, which is faster than threads; a
        script that asks for them needs the usual ``if __name__ == "__main__":``.
    progress : callable, optional
        Called with (structures done, n) after each structure.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If n is not positive, or the store holds a set of another recipe or seed, or an unfinished one
        that was begun by a version of the package whose structures or waves are others.
    """
    recipe, store = load_recipe(recipe), Path(store).absolute()
    if n < 1 or seed < 0:
        raise InputError(f"found n = {n} and seed = {seed}; expected at least one structure and a seed of 0 or more")
    there = finished(store, n) if (store / RECORD).is_dir() else set()
    if len(there) < n and (store / RECORD).is_dir():
        refuse_mixture(recipe, store, there, seed)
    begin(recipe, store, n, seed)
    missing, done = [i for i in range(n) if i not in there], len(there)
    if progress:
        progress(done, n)
    effort = Effort("exit waves")
    tasks = [(recipe, seed, i, str(store)) for i in missing]
    try:
        with ExitStack() as stack:  # the folder is made where blocks are shared, and only there
            def share() -> tuple[str, ...]:
                return share_blocks(recipe, seed, stack.enter_context(TemporaryDirectory(prefix="hrtem-dask-")))

            for _ in run_tasks(structure_task, tasks, client, workers, effort, share):
                done += 1
                if progress:
                    progress(done, n)
    finally:
        if rows_with_text(store, RECORD):  # of workers too whose answer did not arrive before the run was told to end
            gather(store)
    log.info("%s", effort)
    return replace(open_dataset(store), effort=effort)
