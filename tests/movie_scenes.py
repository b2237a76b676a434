"""What several tests of movies show: a small recipe, one particle, an atom column that hops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from hrtem_dask.simulate.crystals import Cluster
from hrtem_dask.simulate.recipe import Field, load_recipe
from hrtem_dask.simulate.structures import Specimen, assemble

TINY = {
    "name": "tiny",
    "field": {"box": 40, "wave_sampling": 0.35, "slice_thickness": 4},
    "particles": {"number": [4, 4], "coverage": [0.1, 0.1], "diameter": [14, 18], "touching_fraction": 0},
    "film": {"thickness": [8, 10], "absent_fraction": 0},
}
SMALL = {"n_frames": 3, "seed": 2, "shape": (32, 48), "pixel_size": 0.5, "frames_per_wave": 2, "dose": 500.0}


def one_particle(**keys: object) -> dict:
    particles = {"number": [1, 1], "coverage": [0.2, 0.2], "diameter": [26, 26], "twin_fraction": 0,
                 "thermal_displacement": [0.03, 0.03], **keys}
    return load_recipe({"name": "one", "field": {"box": 60}, "particles": particles, "film": {"thickness": [6, 6]}})


@dataclass(frozen=True)
class Hopper:
    """One column of gold that sits on either of two sites."""

    height: int = 5

    def scene(self, recipe, seed, n_frames, frame_time):
        return HoppingScene(recipe.field, np.arange(n_frames) % 2, self.height)


@dataclass(frozen=True, eq=False)
class HoppingScene:
    field: Field
    index: np.ndarray
    height: int

    def sites(self) -> np.ndarray:
        return np.array([[0.5, 0.45], [0.5, 0.6]]) * self.field.box

    def specimen(self, k: int) -> Specimen:
        y, x = self.sites()[k]
        p = np.stack([np.full(self.height, x), np.full(self.height, y), 2.9 * np.arange(self.height)], 1)
        return assemble([Cluster(np.full(self.height, 79), p, np.ones(self.height, np.int32))], [], self.field.box)

    def states(self):
        y, x = self.sites().T
        return {"occupied": xr.Variable(("configuration", "site"), np.eye(2, dtype=bool)),
                "site_y": xr.Variable(("site",), y, {"place": "y"}),
                "site_x": xr.Variable(("site",), x, {"place": "x"}),
                "particle": xr.Variable(("particle",), np.array([1]))}
