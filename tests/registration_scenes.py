"""Tables and images of a crystal that drifts and turns, with the truth beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from hrtem_dask.core.calibration import make_movie
from hrtem_dask.kernels.rigid import move, recentred, relative

LATTICE = np.array([[2.88, 0.0], [1.44, 2.04]]) @ np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
CENTRE = np.array([60.0, 50.0])


def lattice(radius: float, vectors: np.ndarray = LATTICE) -> np.ndarray:
    """Places (n, 2) of a round crystal about 0."""
    p = np.stack(np.meshgrid(*[np.arange(-80, 81)] * 2, indexing="ij"), -1).reshape(-1, 2) @ vectors
    return p[np.hypot(*p.T) < radius]


def motions(n: int, seed: int, *, step: float = 0.3, turn: float = 10.0, jumps: dict | None = None) -> np.ndarray:
    """Random walk of the place, steady rotation by so many degrees; jumps {frame: (y, x)}."""
    drift = np.cumsum(np.random.default_rng([seed, 1]).normal(0, step, (n, 2)), axis=0)
    for frame, jump in (jumps or {}).items():
        drift[frame:] += jump
    return np.column_stack([drift - drift[0], np.linspace(0, np.deg2rad(turn), n)])


def columns_of(motion: np.ndarray, radius: float = 18.0, *, seed: int = 0, recall: float = 0.9, false: float = 0.03,
               noise: float = 0.1, rim: float = 2.5, places: np.ndarray | None = None) -> pd.DataFrame:
    """Found columns of a crystal whose outermost ring hops, some missed and some false, with their errors."""
    rng = np.random.default_rng([seed, 2])
    every = lattice(radius + rim) if places is None else places
    outside = np.hypot(*every.T) >= radius if places is None else np.zeros(len(every), bool)
    there = np.where(outside, rng.random(len(every)) < 0.4, True)
    tables = []
    for i, m in enumerate(motion):
        there = np.where(outside & (rng.random(len(every)) < 0.05), rng.random(len(every)) < 0.4, there)
        at = every[there & (rng.random(len(every)) < recall)]
        error = noise * rng.uniform(0.6, 1.5, len(at))
        at = move(m, at + CENTRE, CENTRE) + rng.normal(size=at.shape) * error[:, None]
        wrong = CENTRE + m[:2] + rng.uniform(-radius - 8, radius + 8, (rng.poisson(false * len(at)), 2))
        error = np.append(error, np.full(len(wrong), noise))
        at = np.concatenate([at, wrong])
        tables.append(pd.DataFrame({"frame": i, "time": 0.1 * i, "y": at[:, 0], "x": at[:, 1], "y_error": error,
                                    "x_error": error, "probability": 0.9}))
    return pd.concat(tables, ignore_index=True)


def errors_of(drift: pd.DataFrame, motion: np.ndarray, centre: np.ndarray = CENTRE) -> tuple[np.ndarray, np.ndarray]:
    """Errors (frame, 3) of the registered frames against the truth since the first of them; and the stated ones.

    The row of ``motion`` is the number of the frame.
    """
    rows = drift[drift["status"] == "registered"]
    true = motion[rows["frame"].to_numpy()]
    since = relative(true, true[0])  # reference coordinates are those of the first frame
    true = recentred(since, centre, rows[["centre_y", "centre_x"]].to_numpy()[0])
    names = ["drift_y", "drift_x", "rotation"]
    return rows[names].to_numpy() - true, rows[[f"{n}_error" for n in names]].to_numpy()


def pulls_of(errors: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """Scatter of the errors in units of the stated ones; what all frames share is the error of the first."""
    return ((errors - errors.mean(0)) / stated)[1:].std(0)


def movie_of(motion: np.ndarray, *, side: int = 128, pixel: float = 0.3, dose: float = 300.0, radius: float = 12.0,
             seed: int = 0) -> tuple[xr.DataArray, np.ndarray]:
    """Movie of dark columns, and the centre of its rotation."""
    rng, y, places = np.random.default_rng([seed, 3]), np.arange(side) * pixel, lattice(radius)
    centre, frames = np.array([side * pixel / 2 + 1, side * pixel / 2 - 2]), []
    for m in motion:
        at = move(m, places + centre, centre)
        bumps = [np.exp(-((y[:, None] - at[:, k]) ** 2) / (2 * 0.55**2)) for k in (0, 1)]
        frames.append(rng.poisson(dose * pixel**2 * (1 - 0.35 * bumps[0] @ bumps[1].T)))
    return make_movie(np.stack(frames).astype(np.uint16), pixel_size=pixel, time=np.arange(len(motion)) * 0.1), centre
