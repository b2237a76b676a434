"""Small labelled sets to train with, made without a multislice, and what compares networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.set_store import begin, write_sample
from hrtem_dask.simulate.sets import Sample

RECIPE = {
    "name": "blobs", "field": {"box": 48}, "particles": {"diameter": [10, 20]},
    "imaging": {"pixel_size": [0.3, 0.6], "dose": [500, 2000], "defocus": [0, 100], "cs": [0, 0],
                "cs_corrected": [0, 0], "aperture_fraction": 0, "absorption_fraction": 0},
}
SMALL = {"depth": 4, "size": 48, "batch": 2}


def write_discs(path: Path, n: int = 8) -> Path:
    """Write fields with one strongly absorbing disc each."""
    begin(load_recipe(RECIPE), path, n, 1)
    rng = np.random.default_rng(0)
    for i in range(n):
        y, x = rng.uniform(12, 36, 2)

        def disc(step: float, y: float = y, x: float = x) -> np.ndarray:
            t = np.arange(round(48 / step)) * step
            return (t[:, None] - y) ** 2 + (t[None] - x) ** 2 <= 81

        wave = (1 - 0.4 * ndimage.gaussian_filter(disc(0.5).astype(float), 1)).astype(np.complex64)
        write_sample(path, i, Sample(wave, disc(0.25), 20 * disc(1.0).astype(np.float32), {"particles": []}))
    return path


def same(a: object, b: object) -> bool:
    """Whether two networks have the same parameters to the bit."""
    return all(np.array_equal(p, q) for p, q in zip(parameters(a), parameters(b), strict=True))


def parameters(weights: object) -> list[np.ndarray]:
    """All arrays of MSD-net or U-Net weights."""
    last = [weights.final, weights.final_bias] if hasattr(weights, "final") else []
    return [*weights.layers, *weights.biases, *last]
