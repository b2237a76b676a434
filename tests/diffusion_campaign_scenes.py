"""A small movie of gold columns along [100] of which two come and go, and a hand-made network that finds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from hrtem_dask.core.calibration import make_movie
from hrtem_dask.kernels.msdnet.weights import MSDWeights
from hrtem_dask.networks.models import save_model

PIXEL, STEP, SIDE, CENTRE, FRAMES = 0.2, 2.039, 120, 12.0, 24
#: site (row, column) from the middle -> frames in which it is empty
EMPTY = {(-4, 0): range(8, 14), (0, 4): range(16, 24)}


def save_column_model(folder: Path, name: str = "dips", bias: float = -9.0) -> str:
    """A network of depth 3 that calls a pixel column where it is darkest within a few pixels; no training."""
    box = np.full((3, 3), 1 / 9, np.float32)
    layers = []
    for i in range(3):
        kernel = np.zeros((1, 1 + i, 3, 3), np.float32)
        kernel[0, i] = box if i else -box  # the first turns dark into bright, the others smooth
        layers.append(kernel)
    final = np.zeros((2, 4), np.float32)
    final[1, 3] = 6.0
    weights = MSDWeights(tuple(layers), tuple(np.zeros(1, np.float32) for _ in range(3)), final,
                         np.array([0, bias], np.float32), dilations=(1, 1, 1))
    card = {"classes": ["background", "column"], "pixel_size": [0.05, 1.0], "dose_range": [5, 20000]}
    return str(save_model(weights, card, folder / name))


def sites() -> list[tuple[int, int]]:
    """Row and column of every site: a disc, with the two sites that change at its rim."""
    reach = np.arange(-4, 5)
    return [(i, j) for i in reach.tolist() for j in reach.tolist() if i**2 + j**2 <= 12 or (i, j) in EMPTY]


def movie(frames: int = FRAMES, *, seed: int = 3, time: bool = True) -> xr.DataArray:
    """Dark columns on a darker disc in counts of 2000, the particle wandering by half an angstrom."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] * PIXEL
    out = np.empty((frames, SIDE, SIDE), np.uint16)
    for k in range(frames):
        centre = CENTRE + 0.5 * np.sin(0.2 * k) * np.array([1, -0.5])
        mean = 2000.0 - 400 * (np.hypot(y - centre[0], x - centre[1]) < 4.3 * STEP)
        for i, j in sites():
            if k not in EMPTY.get((i, j), ()):
                away = (y - centre[0] - i * STEP) ** 2 + (x - centre[1] - j * STEP) ** 2
                mean -= 700 * np.exp(-away / (2 * 0.42**2))
        out[k] = rng.poisson(mean)
    return make_movie(out, pixel_size=PIXEL, time=np.arange(frames) * 0.1 if time else None, attrs={"source": "dips"})
