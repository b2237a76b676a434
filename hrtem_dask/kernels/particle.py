"""Measure the particles of one frame: size, position, and what their own Fourier domain says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ..core.errors import InputError
from .particle_tiles import Cut, find_spots, particle_table
from .runs import find_runs
from .tally import TILE, add_up, tally, tiles_of

__all__ = ["measure_particles"]


def measure_particles(
    image: np.ndarray,
    probability: np.ndarray,
    labels: np.ndarray,
    *,
    y0: float = 0.0,
    x0: float = 0.0,
    dy: float = 1.0,
    dx: float = 1.0,
    crystal: Any = None,
    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
    frame: int = 0,
    time: float = float("nan"),
    tile: int = TILE,
) -> pd.DataFrame:
    """Measure every labelled particle of one frame.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Counts.
    probability : ndarray, shape (y, x)
        Probability of the class particle.
    labels : ndarray of int, shape (y, x)
        0 is background.
    y0, x0, dy, dx : float
        Sample (i, j) lies at (y0 + i * dy, x0 + j * dx) [angstrom]; a step may be negative.
    crystal, mtf
        See `hrtem_dask.fourier_peak_pairs`.
    frame, time
        Index in the original movie and time [second], copied into the table.
    tile : int
        Side of the squares of the frame in which particles are counted, and of the widest cut-out
        in which spots are looked for [pixel]; see `hrtem_dask.analyse_particles`.

    Returns
    -------
    pandas.DataFrame
        Table `core.schema.PARTICLES`, in the order of the labels; without rows where there are none.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> labels = np.zeros((40, 60), dtype=np.int32)
    >>> labels[10:20, 5:35] = 1
    >>> table = measure_particles(np.zeros((40, 60)), labels * 0.9, labels, dy=0.5, dx=0.5)
    >>> table[["y", "x", "area", "n_pairs"]].values.tolist(), table["touches_border"].tolist()
    ([[7.25, 9.75, 75.0, 0.0]], [False])
    """
    image, probability, labels = np.asarray(image), np.asarray(probability), np.asarray(labels)
    if not image.shape == probability.shape == labels.shape or image.ndim != 2:
        raise InputError(f"image, probability and labels have the shapes {image.shape}, {probability.shape} and "
                         f"{labels.shape}; expected the same (y, x) for all three")
    grid = {"y0": y0, "x0": x0, "dy": dy, "dx": dx}
    squares = [(a, b) for a in tiles_of(labels.shape[0], tile) for b in tiles_of(labels.shape[1], tile)]
    found = add_up([tally(find_runs(labels[at]), probability[at], (at[0].start, at[1].start)) for at in squares],
                   labels.shape, **grid, tile=tile)
    cuts = [Cut(number, image[top:bottom, left:right], labels[top:bottom, left:right] == number, large)
            for number, (top, left, bottom, right), large in found.rows()]
    spots = find_spots(cuts, (abs(dy), abs(dx)), crystal=crystal, mtf=mtf)
    return particle_table(found, spots, frame, time)
