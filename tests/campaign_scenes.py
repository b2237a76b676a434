"""Small movies and a hand-made network for the tests of campaign, report and command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from hrtem_dask.core.calibration import make_movie
from hrtem_dask.kernels.msdnet.weights import MSDWeights
from hrtem_dask.networks.models import save_model

PIXEL = 0.5
CENTRES = ((40, 40), (40, 110), (105, 70))


def save_dark_model(folder: Path, name: str = "dark", bias: float = 0.0) -> str:
    """A network of depth 3 that calls a pixel particle where its neighbourhood is dark; no training."""
    box = np.full((3, 3), 1 / 9, np.float32)
    layers = []
    for i in range(3):
        kernel = np.zeros((1, 1 + i, 3, 3), np.float32)
        kernel[0, i] = box if i else -box  # the first turns dark into bright, the others smooth
        layers.append(kernel)
    final = np.zeros((2, 4), np.float32)
    final[1, 3] = 12.0
    weights = MSDWeights(tuple(layers), tuple(np.zeros(1, np.float32) for _ in range(3)), final,
                         np.array([0, -7 + bias], np.float32), dilations=(1, 2, 4))
    card = {"classes": ["background", "particle"], "pixel_size": [0.1, 1.0], "dose_range": [50, 2000]}
    return str(save_model(weights, card, folder / name))


def frames(n: int = 6, *, seed: int = 1, shape: tuple[int, int] = (144, 150)) -> np.ndarray:
    """Dark discs with two sets of gold fringes on a noisy background, uint16."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    out = np.empty((n, *shape), np.uint16)
    for i in range(n):
        mean = np.full(shape, 400.0)
        for k, (cy, cx) in enumerate(CENTRES):
            angle = 0.4 * k + 0.05 * i
            disc = np.hypot(y - cy - i, x - cx) < 20 + 2 * k
            for turn in (0, np.pi / 3):
                g = 2 * np.pi * PIXEL / 2.355
                wave = np.cos(g * (y * np.sin(angle + turn) + x * np.cos(angle + turn)))
                mean += disc * (40 * wave - 70)
        out[i] = rng.poisson(mean)
    return out


def movie(n: int = 6, *, time: bool = True, seed: int = 1) -> xr.DataArray:
    """The frames as a calibrated movie in memory."""
    return make_movie(frames(n, seed=seed), pixel_size=PIXEL, time=np.arange(n) * 0.25 if time else None,
                      attrs={"source": "discs"})


def write_pngs(folder: Path, n: int = 6, *, seed: int = 1) -> list[Path]:
    """The frames as uncalibrated 8 bit PNG files frame_0.png ... frame_11.png."""
    import imageio.v3 as iio

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, image in enumerate(frames(n, seed=seed)):
        paths.append(folder / f"frame_{i}.png")
        iio.imwrite(paths[-1], (image // 3).clip(0, 255).astype(np.uint8))
    return paths
