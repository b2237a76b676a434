"""Spot pairs of simulated particles: images are drawn, cut out by true or by found masks, and searched.

Two tables a set: ``draws`` (a row an image: what is true of it) and ``pairs`` (a row a pair, with the number of its
draw; once searched without a crystal, once with "Au").
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial.transform import Rotation

from hrtem_dask.kernels.crop import masked_crop
from hrtem_dask.kernels.peaks import find_pairs_many

from .zone_sets import SETS, Shot, microscopes, samples, shoot

__all__ = ["LOW_INDEX", "Plan", "measure", "tilts_of"]

#: the zone axes that the score means
LOW_INDEX = ("110", "100", "111", "112")
#: others that show at least two pairs; the tables say what the score makes of them
OTHERS = ("310", "411", "332", "221", "331", "321")


@dataclass(frozen=True)
class Plan:
    """Images of each structure: how many, with what given.

    Of ``net`` structures one has one image that is cut out by the network's mask; 0 for none.
    """

    draws: int
    net: int = 0
    doses: tuple[float, ...] = ()
    mtf: float = 0.3


PLANS = {
    "fit-series": Plan(3, net=4), "fit-random": Plan(3, net=4),
    "test-series": Plan(3, net=3), "test-random": Plan(3, net=3),
    "test-3nm": Plan(4, doses=(100.0, 400.0)), "test-110": Plan(4, doses=(100.0, 400.0)),
    "film": Plan(20),
}


def tilts_of(info: dict[str, Any], zones: tuple[str, ...]) -> pd.Series:
    """Angle from the beam to the nearest axis of each family of a cubic crystal [degree]."""
    beam = Rotation.from_quat(info["orientation"]).inv().apply([0.0, 0.0, 1.0])
    beam = np.sort(np.abs(beam))[::-1]
    axes = {z: np.sort([int(c) for c in z])[::-1] for z in zones}
    return pd.Series({z: np.degrees(np.arccos(min(1.0, float(beam @ a / np.linalg.norm(a))))) for z, a in axes.items()})


def truth_of(info: dict[str, Any]) -> dict[str, Any]:
    """The zone axis next to the beam, the angle to it, and the same for the other axes that show pairs."""
    near, other = tilts_of(info, LOW_INDEX), tilts_of(info, OTHERS)
    return {"zone": str(near.idxmin()), "tilt": float(near.min()), "other": str(other.idxmin()),
            "other_tilt": float(other.min()), "place": info["place"]}


def measure(name: str, folder: Path, *, plan: Plan | None = None, most: int | None = None, workers: int = 1) -> None:
    """Draw, cut out and search the images of a set; writes NAME-draws.parquet and NAME-pairs.parquet."""
    number = min(len(samples(name, folder)), most or SETS[name].number)
    tasks = [(name, folder, i, plan or PLANS[name]) for i in range(number)]
    rows, tables = [], []
    with ProcessPoolExecutor(workers) as pool:
        for found in pool.map(_of_structure, tasks, chunksize=4):
            for row, pairs in found:
                tables += [p.assign(draw=len(rows), crystal=c) for c, p in pairs.items()]
                rows.append(row | {"draw": len(rows)})
    pd.DataFrame(rows).to_parquet(folder / f"{name}-draws.parquet")
    pd.concat(tables, ignore_index=True).to_parquet(folder / f"{name}-pairs.parquet")


def _of_structure(task: tuple[str, Path, int, Plan]) -> list[tuple[dict[str, Any], dict[str, pd.DataFrame]]]:
    """What is true of each image of one structure, and the pairs that are found in it."""
    name, folder, which, plan = task
    structures = samples(name, folder)
    sample, index, found = structures.read(which, instances=False), structures.indices[which], []
    truth = truth_of(sample.info["particles"][0]) if sample.info["particles"] else {}
    for i in range(plan.draws):
        rng = np.random.default_rng([SETS[name].seed, 5, index, i])
        microscope = ("corrected", "uncorrected")[(i + which) % 2]
        given = {"dose": plan.doses[i // 2 % len(plan.doses)]} if plan.doses else {}
        vacuum = not truth and i % 4 < 2
        seen = replace(sample, wave=np.ones_like(sample.wave)) if vacuum else sample
        shot = shoot(seen, microscopes()[microscope], rng, **given)
        by_net = bool(truth) and plan.net > 0 and i == plan.draws - 1 - which % 2 and which // 2 % plan.net == 0
        mask = found_mask(shot) if by_net else shot.mask if truth else disc(shot, rng)
        if mask is None:
            continue
        with_mtf = rng.random() < plan.mtf
        row = truth | {"structure": index, "microscope": microscope, "dose": shot.camera.dose, "by_net": by_net,
                       "pixel_size": shot.pixel_size, "defocus": shot.optics.defocus, "cs": shot.optics.cs,
                       "with_mtf": with_mtf, "film": sample.info["film_thickness"], "vacuum": vacuum,
                       "diameter": 2 * float(np.sqrt(mask.sum() / np.pi)) * shot.pixel_size}
        found.append((row, searched(shot, mask, response(shot) if with_mtf else None)))
    return found


def searched(shot: Shot, mask: np.ndarray, mtf: Callable[[np.ndarray], np.ndarray] | None) -> dict[str, pd.DataFrame]:
    """Pairs of one particle, without a crystal ("") and with gold."""
    crops = [masked_crop(shot.counts, mask, (shot.pixel_size, shot.pixel_size))]
    return {name: find_pairs_many(crops, crystal=name or None, mtf=mtf)[0] for name in ("", "Au")}


def response(shot: Shot) -> Callable[[np.ndarray], np.ndarray]:
    """MTF in units of the image's Nyquist frequency, whose pixels may be several of the camera's."""
    binned = shot.camera.binned
    return lambda k: shot.camera.mtf(np.asarray(k) / binned)


def disc(shot: Shot, rng: np.random.Generator) -> np.ndarray:
    """A round mask of a particle's size where there is none."""
    n = shot.counts.shape[0]
    y, x = (np.indices((n, n)) - n / 2) * shot.pixel_size
    return np.hypot(y, x) < np.exp(rng.uniform(np.log(10), np.log(28)))


@lru_cache(maxsize=1)
def network() -> Any:
    """The shipped network."""
    from hrtem_dask import load_model

    return load_model("au-particles")


def found_mask(shot: Shot) -> np.ndarray | None:
    """The particle in the middle as the network finds it, or None where it finds none there.

    The field repeats: three by three of it are shown, so that the network has its surroundings.
    """
    import xarray as xr

    from hrtem_dask import segment

    n = shot.counts.shape[0]
    pad = n // 2
    wide = np.pad(shot.counts, pad, mode="wrap")
    axis = np.arange(wide.shape[0]) * shot.pixel_size
    movie = xr.DataArray(wide[None], dims=("frame", "y", "x"), coords={"y": axis, "x": axis})
    found = segment(movie, network(), warn=False).sel({"class": "particle"}).isel(frame=0)
    found = found.compute(scheduler="synchronous").values > 0.5
    labels, _ = ndimage.label(found)
    labels = labels[pad:pad + n, pad:pad + n]
    inside = np.bincount(labels[shot.mask], minlength=2)
    inside[0] = 0
    if inside.max() < 0.2 * shot.mask.sum():
        return None
    return labels == inside.argmax()
