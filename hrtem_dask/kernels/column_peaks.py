"""Columns in a probability map: absolute maxima, how sure each is, of which class, and where.

What a network learns at a pixel is a Gaussian of height 1 and of `LABEL_SIGMA` around each column. A
network that is unsure of a column gives a lower hill, one that is unsure of its place a wider one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from ..core.errors import InputError
from .crystal import UnitCell, unit_cell

__all__ = ["DISC", "LABEL_SIGMA", "REACH", "Peaks", "column_spacing", "find_peaks", "join_peaks",
           "thin_out"]

#: sigma of the hill around a sure column, and radius of the disc that its presence is summed over [angstrom]
LABEL_SIGMA, DISC = 0.4, 0.5
#: smoothing before maxima are looked for, and radius of the paraboloid through each [angstrom]
SMOOTHING, PATCH = 0.16, 0.3
#: pixels beyond a tile that matter to the maxima in it, besides two [angstrom]
REACH = 1.0
#: error of the place of a hill along an axis [angstrom]: of a sure one, and what is added where the presence is 0
PLACE_ERROR = 0.045, 0.3
#: width of a hill beyond the label's that means nothing [angstrom], and part of the variance beyond that is the place's
PLACE_WIDTH = 0.15, 0.4
#: elements lighter than this part of the heaviest one show no columns of their own
LIGHT = 0.25
#: columns closer than this in projection are one [angstrom]
ONE_COLUMN = 0.3


@dataclass(frozen=True)
class Peaks:
    """Maxima of one frame, or of a tile of it; places are in the frame, from its pixel (0, 0).

    Attributes
    ----------
    pixel : ndarray of int64, shape (n, 2)
        Highest pixel (i, j).
    place : ndarray, shape (n, 2)
        Top of a paraboloid through it [angstrom].
    error : ndarray, shape (n, 2)
        Of the place, from height and width of the hill [angstrom]; measured on simulated images of gold.
    presence : ndarray, shape (n,)
        Probability that there is a column.
    label : ndarray of int64, shape (n,)
        Its class, counted from 0.
    """

    pixel: np.ndarray
    place: np.ndarray
    error: np.ndarray
    presence: np.ndarray
    label: np.ndarray

    def take(self, which: np.ndarray) -> Peaks:
        """Some of them, in the order of ``which``."""
        return Peaks(*(getattr(self, f.name)[which] for f in fields(self)))

    def __len__(self) -> int:
        return len(self.presence)


def join_peaks(parts: Sequence[Peaks]) -> Peaks:
    """Put the maxima of the tiles of a frame together, in the order of their pixels."""
    whole = Peaks(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Peaks)))
    return whole.take(np.lexsort(whole.pixel.T[::-1]))


def column_spacing(crystal: Any) -> float:
    """Smallest distance of neighbouring columns of a crystal along its zone axes of the lowest indices.

    Those whose indices are 0 and 1 (a sheet: along its normal), for the elements that are not much
    lighter than the heaviest: along each, atoms are projected and those that fall on one another are
    one column.

    Parameters
    ----------
    crystal : str, path or ase.Atoms
        See `unit_cell`.

    Returns
    -------
    float
        [angstrom].

    Raises
    ------
    InputError
        If the crystal is unknown, or only its spacings are given.

    Examples
    --------
    >>> round(column_spacing("Au"), 3), round(column_spacing("graphene"), 2), round(column_spacing("MoS2"), 2)
    (1.666, 1.42, 1.82)
    """
    if not isinstance(crystal, UnitCell) and not hasattr(crystal, "get_scaled_positions") \
            and not isinstance(crystal, str) and not hasattr(crystal, "__fspath__"):
        raise InputError(f"crystal is {crystal!r}; expected a crystal whose columns are known: a name such as 'Au', a "
                         f"structure file or an ASE structure. Or give min_distance in angstrom")
    cell = unit_cell(crystal)
    return _spacing(cell.cell.tobytes(), cell.numbers.tobytes(), cell.places.tobytes(), cell.periodic)


@lru_cache(maxsize=32)
def _spacing(cell_: bytes, numbers_: bytes, places_: bytes, periodic: tuple[bool, bool, bool]) -> float:
    cell, numbers, places = (np.frombuffer(b) for b in (cell_, numbers_, places_))
    cell, places = cell.reshape(3, 3), places.reshape(-1, 3)
    heavy = places[numbers >= LIGHT * numbers.max()]
    around = np.array(list(product(range(-2, 3), repeat=3)))
    around = around[(np.abs(around) <= np.where(periodic, 2, 0)).all(1)]
    atoms = (heavy[:, None] + around).reshape(-1, 3) @ cell
    cubic = np.allclose(cell @ cell.T, (cell[0] @ cell[0]) * np.eye(3), atol=1e-3) and all(periodic)
    axes = [(0, 0, 1)] if not cubic else [a for a in product((0, 1), repeat=3) if any(a)]
    least = np.inf
    for axis in axes:
        # of others than cubes, the normal of the sheet or of the basal plane
        beam = np.array(axis) @ cell if cubic else np.cross(cell[0], cell[1])
        beam = beam / np.linalg.norm(beam)
        apart = atoms[None] - (heavy @ cell)[:, None]
        flat = np.linalg.norm(apart - (apart @ beam)[..., None] * beam, axis=-1)
        least = min(least, float(flat[flat > ONE_COLUMN].min()))
    return least


def find_peaks(planes: np.ndarray, pixel_size: tuple[float, float], threshold: float, *,
               origin: tuple[int, int] = (0, 0), own: tuple[slice, slice] | None = None,
               frame: tuple[int, int] | None = None) -> Peaks:
    """Find the maxima of a probability, without regard to how near they are to each other.

    Parameters
    ----------
    planes : ndarray, shape (class, y, x)
        Probability of each class of columns, of a frame or of a tile with `REACH` around it.
    pixel_size : (float, float)
        (y, x) [angstrom].
    threshold : float
        Least presence.
    origin : (int, int)
        Pixel of the frame that ``planes`` begins with.
    own : (slice, slice), optional
        Pixels of ``planes`` whose maxima are returned.
    frame : (int, int), optional
        Shape of the frame. A maximum on its outermost pixels is the flank of a hill outside and is left out.

    Returns
    -------
    Peaks
        In the order of their pixels.

    Examples
    --------
    >>> y, x = np.mgrid[:40, :40] * 0.1
    >>> p = np.exp(-((y - 1.93) ** 2 + (x - 2.31) ** 2) / 2 / 0.4**2)[None]
    >>> found = find_peaks(p, (0.1, 0.1), 0.3)
    >>> found.place.round(2).tolist(), found.presence.round(2).tolist()
    ([[1.93, 2.31]], [1.0])
    """
    total = planes[0] if len(planes) == 1 else planes.sum(axis=0)
    total = np.nan_to_num(total, nan=0.0, posinf=0.0, neginf=0.0)
    sigma = tuple(SMOOTHING / p for p in pixel_size)
    smooth = ndimage.gaussian_filter(total.astype(np.float32, copy=False), sigma, truncate=3.0, mode="nearest")
    blur = LABEL_SIGMA**2 / (LABEL_SIGMA**2 + SMOOTHING**2)
    shape = frame or (origin[0] + total.shape[0], origin[1] + total.shape[1])
    # a hill as wide as a certain one keeps this part of its height; wider ones keep more
    pixel = _maxima(smooth, 0.5 * threshold * blur, origin, shape, own)
    label, presence = _presence(planes, pixel - origin, pixel_size)
    keep = presence >= threshold
    pixel, label, presence = pixel[keep], label[keep], presence[keep]
    shift, spread = _paraboloids(smooth, pixel - origin, pixel_size)
    # a network that is unsure of the place gives a lower and wider hill
    sure = PLACE_ERROR[0] + PLACE_ERROR[1] * (1 - presence)
    wide = np.maximum(spread - SMOOTHING**2 - LABEL_SIGMA**2 - PLACE_WIDTH[0] ** 2, 0)
    error = np.sqrt(sure[:, None] ** 2 + PLACE_WIDTH[1] * wide)
    return Peaks(pixel, pixel * np.array(pixel_size) + shift, error, presence, label)


def _maxima(smooth: np.ndarray, floor: float, origin: tuple[int, int], frame: tuple[int, int],
            own: tuple[slice, slice] | None) -> np.ndarray:
    """Pixels (i, j) of the frame above the floor and their eight neighbours; of equals the first."""
    ny, nx = smooth.shape
    if ny < 3 or nx < 3:
        return np.zeros((0, 2), np.int64)
    inner = smooth[1:-1, 1:-1]
    i, j = np.nonzero(inner > floor)
    at, flat = (i + 1) * nx + j + 1, smooth.ravel()
    for step in (-nx - 1, -nx, -nx + 1, -1, 1, nx - 1, nx, nx + 1):
        here, there = flat[at], flat[at + step]
        at = at[here > there if step < 0 else here >= there]
    i, j = at // nx, at % nx
    rows, columns = (s.indices(n) for s, n in zip(own or (slice(None),) * 2, smooth.shape, strict=True))
    inside = (i >= rows[0]) & (i < rows[1]) & (j >= columns[0]) & (j < columns[1])
    pixel = np.stack([i, j], axis=1)[inside].astype(np.int64) + np.array(origin)
    return pixel[((pixel > 0) & (pixel < np.array(frame) - 1)).all(axis=1)]


def _presence(planes: np.ndarray, pixel: np.ndarray, pixel_size: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Class of the largest probability summed over a disc, and that of all classes over what a sure column gives."""
    reach = [int(DISC / p) + 1 for p in pixel_size]
    window = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, 2)
    distance = np.hypot(*(window * pixel_size).T)
    # pixels that the rim cuts count in part
    weight = np.clip((DISC - distance) / np.mean(pixel_size) + 0.5, 0, 1)
    window, distance, weight = window[weight > 0], distance[weight > 0], weight[weight > 0]
    at = pixel[:, None] + window
    inside = ((at >= 0) & (at < planes.shape[1:])).all(axis=-1)
    at = np.clip(at, 0, np.array(planes.shape[1:]) - 1)
    value = np.nan_to_num(planes[:, at[..., 0], at[..., 1]].astype(np.float64)) * (inside * weight)
    sums = value.sum(axis=-1)
    sure = (inside * (weight * np.exp(-0.5 * (distance / LABEL_SIGMA) ** 2))).sum(axis=-1)
    return sums.argmax(axis=0), np.minimum(sums.sum(axis=0) / np.maximum(sure, 1e-12), 1.0)


def _paraboloids(smooth: np.ndarray, pixel: np.ndarray,
                 pixel_size: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Top of each hill from its pixel, and its variance along y and x, from a paraboloid through its logarithm."""
    reach = [max(1, round(PATCH / p)) for p in pixel_size]
    window = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, 2)
    y, x = (window * pixel_size).T
    basis = np.stack([np.ones_like(y), y, x, y * y / 2, x * x / 2, y * x], axis=1)
    at = np.clip(pixel[:, None] + window, 0, np.array(smooth.shape) - 1)
    values = np.log(np.maximum(smooth[at[..., 0], at[..., 1]].astype(np.float64), 1e-6))
    _, gy, gx, hyy, hxx, hyx = (values @ np.linalg.pinv(basis).T).T
    least = 1 / (LABEL_SIGMA**2 * 25)  # a plateau has no curvature; its hill counts as five labels wide
    hyy, hxx = np.minimum(hyy, -least), np.minimum(hxx, -least)
    det = np.maximum(hyy * hxx - hyx**2, least * np.maximum(-hyy, -hxx))
    shift = np.stack([-(hxx * gy - hyx * gx) / det, -(hyy * gx - hyx * gy) / det], axis=1)
    shift = np.clip(shift, -PATCH - np.array(pixel_size), PATCH + np.array(pixel_size))
    return shift, np.stack([-hxx / det, -hyy / det], axis=1)


def thin_out(peaks: Peaks, min_distance: float) -> Peaks:
    """Of maxima nearer to each other than a distance [angstrom], keep the surer one; of equals the first.

    Examples
    --------
    >>> place = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    >>> four = Peaks(np.zeros((4, 2), int), place, place, np.array([0.7, 0.8, 0.9, 0.6]), np.zeros(4, int))
    >>> thin_out(four, 1.5).presence.tolist()
    [0.7, 0.9]
    """
    pairs = cKDTree(peaks.place).query_pairs(min_distance, output_type="ndarray") if len(peaks) > 1 \
        else np.zeros((0, 2), np.int64)
    rank = np.empty(len(peaks), np.int64)
    rank[np.argsort(-peaks.presence, kind="stable")] = np.arange(len(peaks))
    strong = np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    weak = pairs.sum(axis=1) - strong
    alive, settled = np.ones(len(peaks), bool), np.zeros(len(peaks), bool)
    while len(strong):
        # whoever has no stronger neighbour left stays, and its weaker ones go
        settled[:] = True
        settled[weak] = False
        gone = weak[settled[strong]]
        alive[gone] = False
        left = alive[strong] & alive[weak]
        strong, weak = strong[left], weak[left]
    return peaks.take(np.flatnonzero(alive))
