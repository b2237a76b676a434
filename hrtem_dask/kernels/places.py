"""Places where columns come back frame after frame: the peaks of the density of all columns of a movie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree
from scipy.stats import poisson

__all__ = ["Places", "find_places"]

#: sample of the density, its smoothing, and the radius within which columns are of one place [angstrom]
BIN, SMOOTHING, RADIUS = 0.1, 0.25, 0.6
#: the density is made in tiles of so many samples, so that a wide field needs no wide array
TILE = 2048
#: a place has more columns than chance would put there, with this probability for one place
CHANCE = 1e-4
#: density of one column's peak at the smoothing used, for a spread of 0.3 angstrom [1/angstrom^2]
PEAK = 1 / (2 * np.pi * (SMOOTHING**2 + 0.3**2))


@dataclass(frozen=True, eq=False)
class Places:
    """Places of one epoch.

    Attributes
    ----------
    yx : ndarray, shape (n, 2)
        Mean position [angstrom].
    seen : ndarray of int, shape (n,)
        Columns there.
    least : int
        Columns that a place has at least.
    """

    yx: np.ndarray
    seen: np.ndarray
    least: int

    def __len__(self) -> int:
        return len(self.yx)

    @property
    def strong(self) -> np.ndarray:
        """Which places are seen about as often as most columns of a particle are."""
        if not len(self):
            return np.zeros(0, bool)
        return self.seen >= 0.25 * np.percentile(self.seen, 90)


def find_places(yx: np.ndarray, frames: int, *, min_occupancy: float = 0.02) -> Places:
    """Find where columns come back.

    Parameters
    ----------
    yx : ndarray, shape (n, 2)
        Positions of all columns of all frames, without drift [angstrom].
    frames : int
        Number of frames. Of a single one, each column is a place.
    min_occupancy : float
        Part of the frames in which a place has a column at least; in any case more columns than
        chance would bring there from those that come back nowhere.

    Returns
    -------
    Places

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> pooled = np.concatenate([[[5.0, 5.0], [5.0, 7.5]] + rng.normal(0, 0.1, (2, 2)) for _ in range(50)])
    >>> stray = rng.uniform(0, 20, (60, 2))
    >>> find_places(np.concatenate([pooled, stray]), 50).yx.round(1).tolist()
    [[5.0, 5.0], [5.0, 7.5]]
    """
    if frames <= 1 or len(yx) < 2:
        return Places(np.array(yx, dtype=np.float64).reshape(-1, 2), np.ones(len(yx), np.int64), 1)
    least = max(2 if frames > 3 else 1, int(np.ceil(min_occupancy * frames)))
    peaks = _peaks(yx, 0.4 * PEAK * least)
    centre, seen = _gathered(yx, peaks)
    least = max(least, _by_chance(yx, centre[seen >= max(least, 0.2 * frames)]))
    keep = seen >= least
    centre, seen = _gathered(yx, centre[keep])
    keep = seen >= least
    return Places(centre[keep], seen[keep], least)


def _gathered(yx: np.ndarray, peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and number of the columns nearest to each peak."""
    if not len(peaks):
        return np.zeros((0, 2)), np.zeros(0, np.int64)
    nearest = cKDTree(peaks).query(yx, distance_upper_bound=RADIUS)[1]
    near = nearest < len(peaks)
    nearest = nearest[near]
    seen = np.bincount(nearest, minlength=len(peaks))
    total = np.stack([np.bincount(nearest, yx[near, k], len(peaks)) for k in (0, 1)], 1)
    return np.where(seen[:, None] > 0, total / np.maximum(seen, 1)[:, None], peaks), seen


def _by_chance(yx: np.ndarray, sure: np.ndarray) -> int:
    """More columns than this are in no disc of the radius by chance, given those away from sure places."""
    if not len(sure):
        return 1
    area = np.prod(np.maximum(np.ptp(yx, axis=0), 2 * RADIUS)) - len(sure) * np.pi * RADIUS**2
    away = cKDTree(sure).query(yx, distance_upper_bound=RADIUS)[1] == len(sure)
    expected = away.sum() / max(float(area), 1.0) * np.pi * RADIUS**2
    return int(poisson.isf(CHANCE, expected)) + 1 if expected > 0 else 1


def _peaks(yx: np.ndarray, level: float) -> np.ndarray:
    """Maxima of the density of columns above a level [1/angstrom^2], tile by tile."""
    low = yx.min(0) - 2 * RADIUS
    sample = np.floor((yx - low) / BIN).astype(np.int64)
    tile = sample // TILE
    halo, found = int(np.ceil(4 * SMOOTHING / BIN + RADIUS / BIN)), []
    size = np.minimum(sample.max(0) + 1 + halo, TILE)
    order = np.argsort(tile[:, 0], kind="stable")
    rows = tile[order, 0]
    for i in np.unique(rows):
        # the columns of this row of tiles and its two neighbours: what may lie in the halo
        near = np.sort(order[np.searchsorted(rows, i - 1):np.searchsorted(rows, i + 1, "right")])
        for j in np.unique(tile[near[tile[near, 0] == i], 1]):
            corner = np.array([i, j]) * TILE
            inside = sample[near] - corner + halo
            ok = ((inside >= 0) & (inside < size + 2 * halo)).all(1)
            found.append((_maxima(inside[ok], size + 2 * halo, level, halo) + corner + 0.5) * BIN + low)
    return np.concatenate(found) if found else np.zeros((0, 2))


def _maxima(sample: np.ndarray, shape: np.ndarray, level: float, halo: int) -> np.ndarray:
    count = np.bincount(np.ravel_multi_index(tuple(sample.T), tuple(shape)), minlength=int(np.prod(shape)))
    density = gaussian_filter(count.reshape(shape).astype(np.float64) / BIN**2, SMOOTHING / BIN, mode="constant")
    # two columns alike give two equal samples beside each other: the later one is the peak
    density += 1e-9 * level * np.add.outer(np.linspace(0, 1, shape[0]), np.linspace(0, 0.7, shape[1]))
    reach = np.arange(-int(RADIUS / BIN), int(RADIUS / BIN) + 1)
    disc = np.hypot(*np.meshgrid(reach, reach)) * BIN <= RADIUS
    top = np.argwhere((density >= level) & (density == maximum_filter(density, footprint=disc, mode="constant"))) - halo
    return top[((top >= 0) & (top < shape - 2 * halo)).all(1)]
