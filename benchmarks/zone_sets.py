"""Simulated particles of known tilt for `benchmarks.zone_axis`: which sets there are, and images of them.

A set is a store of `hrtem_dask.simulate.dataset`, one particle a field; images are drawn from the stored waves
with microscope, dose and camera anew. Sets differ in recipe or seed, so none holds a structure of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft

from hrtem_dask.simulate import dataset, load_recipe, open_dataset
from hrtem_dask.simulate.camera import MTF_MARGIN, Camera, draw_camera, record
from hrtem_dask.simulate.microscope import Optics, draw_optics, expected_image
from hrtem_dask.simulate.recipe import Recipe
from hrtem_dask.simulate.set_store import Sample

__all__ = ["SETS", "Shot", "Wanted", "make_set", "microscopes", "shoot"]

#: one gold particle in a field, at any distance up to 12 degree from one of four zone axes, on carbon or bare
PARTICLE: dict[str, Any] = {
    "empty_fraction": 0, "number": [1, 1], "diameter": {"low": 20, "high": 56, "scale": "log"},
    "elongation": [1.0, 1.3], "height": [0.5, 1.0], "twin_fraction": 0, "thermal_displacement": [0.06, 0.10],
}
NAMED = {"zone_axis": "110, 100, 111, 112", "tilt": [0, 12]}
FIELD = {"box": 72, "wave_sampling": 0.25, "stored_sampling": 0.36, "slice_thickness": 2.0, "energy": 300}
FILM = {"absent_fraction": 0.15, "thickness": [10, 60], "roughness": [0, 3]}
CARBON_3NM = {"absent_fraction": 0, "thickness": [30, 30], "roughness": [0, 2]}


@dataclass(frozen=True)
class Wanted:
    """A set to simulate: its recipe's sections, number of structures and seed."""

    particles: Mapping[str, Any]
    film: Mapping[str, Any]
    number: int
    seed: int


#: what coefficients are fitted on, and beside it what only figures are taken from
SETS = {
    "fit-series": Wanted(PARTICLE | NAMED, FILM, 600, 9001),
    "fit-random": Wanted(PARTICLE | {"zone_axis": "any"}, FILM, 100, 9002),
    "test-series": Wanted(PARTICLE | NAMED, FILM, 300, 9101),
    "test-random": Wanted(PARTICLE | {"zone_axis": "any"}, FILM, 100, 9102),
    "test-3nm": Wanted(PARTICLE | NAMED | {"tilt": [0, 10]}, CARBON_3NM, 400, 9103),
    "test-110": Wanted(PARTICLE | {"zone_axis": "110", "tilt": [0, 10], "diameter": [28, 32], "height": [0.9, 1.0],
                                   "elongation": [1.0, 1.1]}, CARBON_3NM, 120, 9105),
    "film": Wanted(PARTICLE | {"empty_fraction": 1, "zone_axis": "any"}, FILM | {"absent_fraction": 0}, 30, 9104),
}

COMMON: dict[str, Any] = {
    "pixel_size": {"low": 0.1, "high": 0.6, "scale": "log"}, "dose": {"low": 20, "high": 5000, "scale": "log"},
    "overfocus_fraction": 0, "aperture_fraction": 0, "absorption_fraction": 0.3, "mtf_scale": [0.35, 0.65],
    "mtf_power": [2, 3], "mtf_floor": [0, 0.1], "hot_pixels": [0, 1],
}
#: the two microscopes; a negative defocus is overfocus
IMAGING = {
    "corrected": COMMON | {"corrected_fraction": 1, "cs_corrected": [-0.02, 0.02], "defocus": [-250, 250],
                           "focal_spread": [20, 50], "convergence": [0, 0.2], "astigmatism": [0, 30],
                           "coma": [0, 300], "blur": [0.1, 0.5], "drift": [0, 0.8]},
    "uncorrected": COMMON | {"corrected_fraction": 0, "cs": [0.5, 1.3], "defocus": [-400, 1200],
                             "focal_spread": [30, 70], "convergence": [0.1, 0.4], "astigmatism": [0, 80],
                             "coma": [0, 500], "blur": [0.1, 0.7], "drift": [0, 1.2]},
}


@lru_cache(maxsize=2)
def microscopes() -> dict[str, Recipe]:
    """The recipes that images are drawn with."""
    fixed = {"field": FIELD, "particles": PARTICLE}
    return {name: load_recipe({"name": name, "imaging": imaging} | fixed) for name, imaging in IMAGING.items()}


def make_set(name: str, folder: Path, *, number: int | None = None, workers: int | None = None) -> None:
    """Simulate a set, or go on with it."""
    wanted = SETS[name]
    recipe = {"name": f"zone-{name}", "field": FIELD, "particles": dict(wanted.particles), "film": dict(wanted.film)}
    dataset(recipe, folder / f"{name}.zarr", number or wanted.number, seed=wanted.seed, workers=workers)


@dataclass(frozen=True)
class Shot:
    """One image of a structure, the particle in the middle: counts and true mask (y, x)."""

    counts: np.ndarray
    mask: np.ndarray
    pixel_size: float
    optics: Optics
    camera: Camera


def shoot(sample: Sample, recipe: Recipe, rng: np.random.Generator, **given: float) -> Shot:
    """Draw one image of the field, moved so that the particle lies in the middle.

    ``given`` replaces what is drawn of the camera (``dose``, ``pixel_size``) or of the optics (``defocus``).
    """
    optics, camera = draw_optics(recipe.imaging, rng), draw_camera(recipe.imaging, rng)
    camera = replace(camera, **{k: v for k, v in given.items() if k in ("dose", "pixel_size")})
    optics = replace(optics, **{k: v for k, v in given.items() if k == "defocus"})
    box, binned = sample.box, camera.binned
    n = fft.next_fast_len(round(box / camera.pixel_size / binned))
    camera = replace(camera, pixel_size=box / n / binned)
    image = expected_image(sample.wave, box / len(sample.wave), optics, energy=recipe.field.energy,
                           gold_thickness=sample.thickness, shape=(n, n))
    at = np.round(np.arange(n) * (box / n) / (box / len(sample.truth))).astype(int) % len(sample.truth)
    mask = sample.truth[np.ix_(at, at)]
    shift = tuple(n // 2 - _middle(mask.any(1 - axis)) for axis in (0, 1))
    image, mask = np.roll(image, shift, (0, 1)), np.roll(mask, shift, (0, 1))
    counts = record(np.pad(image, MTF_MARGIN, mode="wrap"), camera, rng, binned=binned)
    return Shot(counts, mask, box / n, optics, camera)


def _middle(there: np.ndarray) -> int:
    """Middle of the samples that are there, on a circle."""
    n = len(there)
    phase = np.exp(2j * np.pi * np.flatnonzero(there) / n).sum()
    return round(float(np.angle(phase)) / (2 * np.pi) * n) if there.any() else n // 2


def samples(name: str, folder: Path) -> Any:
    """The structures of a set that are finished."""
    return open_dataset(folder / f"{name}.zarr")
