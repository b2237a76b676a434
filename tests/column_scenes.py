"""Frames of Gaussian columns under the coloured noise of a camera, with a perfect probability."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from scipy import fft

from hrtem_dask.core.calibration import make_movie
from hrtem_dask.detector.mtf import MTF
from hrtem_dask.kernels.camera import radial_frequency
from hrtem_dask.simulate.columns import column_image

CAMERA = MTF(scale=0.5, power=2.5)


def gold_places(extent, rng, radius=None, spread=0.05):
    """Columns of gold along [110] within a disc in the middle of a square field [angstrom], (n, 2)."""
    turn = rng.uniform(0, np.pi)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    n = int(extent)
    grid = np.stack(np.meshgrid(np.arange(-n, n), np.arange(-n, n)), -1).reshape(-1, 2)
    places = grid @ np.array([[1.4425, 2.04], [1.4425, -2.04]]) @ turned.T + extent / 2 + rng.uniform(0, 1, 2)
    places = places[np.hypot(*(places - extent / 2).T) < (radius or 0.4 * extent)]
    return places + rng.normal(0, spread, places.shape)


def draw_image(places, heights, n, pixel_size, dose, rng, sigma=0.45, camera=CAMERA):
    """Counts of Gaussians on a slow background, the noise blurred as an integrating camera does."""
    at = np.arange(n) * pixel_size
    y, x = (np.exp(-0.5 * ((at - places[:, k:k + 1]) / sigma) ** 2) for k in (0, 1))
    expected = (1 + (y * np.asarray(heights)[:, None]).T @ x + 0.03 * np.sin(np.arange(n) / n * 5)) \
        * dose * pixel_size**2
    noise = rng.poisson(expected) - expected
    response = camera(radial_frequency((n, n)))
    return (expected + fft.irfft2(fft.rfft2(noise) * response, s=(n, n))).astype(np.float32)


def probability_of(places, n, pixel_size, classes=None):
    """What a perfect network says, (class, y, x)."""
    kinds = ["column"] * len(places) if classes is None else classes
    table = pd.DataFrame({"y": places[:, 0], "x": places[:, 1], "class": kinds})
    return column_image(table, (n, n), pixel_size, classes=tuple(dict.fromkeys(kinds)) or ("column",))


def scene(frames=1, n=256, pixel_size=0.1, dose=8000.0, contrast=0.6, seed=0, sigma=0.45):
    """Movie, probability and the true places of each frame."""
    images, maps, truth = [], [], []
    for k in range(frames):
        rng = np.random.default_rng([seed, k])
        places = gold_places(n * pixel_size, rng)
        images.append(draw_image(places, contrast * rng.uniform(0.5, 1.2, len(places)), n, pixel_size, dose, rng,
                                 sigma))
        maps.append(probability_of(places, n, pixel_size))
        truth.append(places)
    movie = make_movie(np.stack(images), pixel_size=pixel_size, time=0.1 * np.arange(frames))
    return movie, as_probability(np.stack(maps), movie), truth


def as_probability(maps, movie, names=("background", "column")):
    """Wrap maps (frame, class, y, x) with the coordinates of the movie."""
    coords = {"class": list(names), **{d: movie[d] for d in ("frame", "y", "x")}}
    if "time" in movie.coords:
        coords["time"] = movie["time"]
    return xr.DataArray(maps, dims=("frame", "class", "y", "x"), coords=coords)


def pair_up(table, places, reach=0.5):
    """Rows of a frame's table beside the true places within reach: index of the row, index of the place."""
    off = table[["y", "x"]].to_numpy()[:, None] - places
    distance = np.hypot(off[..., 0], off[..., 1])
    nearest = distance.argmin(axis=1)
    rows = np.flatnonzero(distance.min(axis=1) < reach)
    return rows, nearest[rows]
