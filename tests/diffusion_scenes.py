"""Tables of columns whose sites change at known times: a square crystal, its edge, misreads, drift, frames missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hrtem_dask.kernels.telegraph import read_sites, simulate_sites

STEP = 2.5


@dataclass
class Scene:
    """A table of columns with its truth."""

    columns: pd.DataFrame
    place: np.ndarray
    occupied: np.ndarray
    mobile: np.ndarray
    time: np.ndarray

    def true_rate(self, kept: np.ndarray | None = None) -> float:
        """Changes that were there, a site-second."""
        states = self.occupied[:, self.mobile]
        return float((states[1:] != states[:-1]).sum() / (len(self.mobile) * self.time[-1]))


def scene(seed: int = 0, *, frames: int = 400, rate: float = 0.15, tpr: float = 0.95, fpr: float = 0.005,
          side: int = 7, drift: float = 0.0, frame_time: float = 0.1, occupied: np.ndarray | None = None) -> Scene:
    """A block of ``side`` by ``side`` columns in the middle of free places; those at its rim come and go."""
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[:side + 2, :side + 2].reshape(2, -1)
    place = STEP * np.stack([i, j], axis=1) + 10.0
    reach = np.maximum(abs(i - (side + 1) / 2), abs(j - (side + 1) / 2))
    mobile = np.flatnonzero(reach == (side - 1) / 2)
    time = np.arange(frames) * frame_time
    if occupied is None:
        occupied = np.broadcast_to(reach <= (side - 1) / 2, (frames, len(place))).copy()
        occupied[:, mobile] = simulate_sites(rng, time, np.full(len(mobile), rate), np.full(len(mobile), rate),
                                             start=None if rate else np.ones(len(mobile), bool))
    frame, site = np.nonzero(read_sites(rng, occupied, tpr, fpr))
    walk = np.cumsum(rng.normal(0, drift, (frames, 2)), axis=0)
    y, x = (place[site] + (walk - walk[0])[frame] + rng.normal(0, 0.08, (len(site), 2))).T
    return Scene(pd.DataFrame({"frame": frame, "time": time[frame], "y": y, "x": x}), place, occupied, mobile, time)


def true_changes(occupied: np.ndarray, rows: np.ndarray) -> set[tuple[int, int]]:
    """Frame and site of each change between frames that are kept; the first frame of the new state."""
    states = occupied[rows]
    step, site = np.nonzero(states[1:] != states[:-1])
    return set(zip(rows[step + 1].tolist(), site.tolist(), strict=True))
