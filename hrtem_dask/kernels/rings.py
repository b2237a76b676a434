"""Lattice spots in the spectrum of one image, and the pixel size that explains their radii.

A lattice gives spots: sharp along the radius and along the angle. Thon rings and the noise of a detector vary
slowly along the angle, so a background taken from the neighbourhood of each spatial frequency removes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import ndimage, special

__all__ = ["SPOT_FIELDS", "find_spots", "log_likelihood", "refine"]

#: columns of the array that `find_spots` returns
SPOT_FIELDS = ("radius", "angle", "log10_p")
#: shape parameter of the gamma distribution that flattened, smoothed noise follows (measured on white noise)
NOISE_SHAPE = 2.4
#: relative width of a lattice ring: strain, size of the particle and distortion of the projector
RING_WIDTH = 0.015
#: share of spots that belong to nothing in the table (other phases, double diffraction, false alarms)
STRAY = 0.15


def find_spots(image: np.ndarray, *, sides: Sequence[int] | None = None, false_alarms: float = 0.03) -> np.ndarray:
    """Find the lattice spots of one image.

    Parameters
    ----------
    image : array, shape (y, x)
        Counts at any scale and offset.
    sides : sequence of int [pixel], optional
        Sides of the overlapping, tapered windows whose spectra are searched: a lattice stands out most where
        the window is about as large as its particle. By default three sizes from 128 pixels (or an eighth
        of the frame) upwards, at most eight windows along an axis.
    false_alarms : float
        Spots expected in an image of pure noise.

    Returns
    -------
    array, shape (spot, 3)
        Radius [cycles/pixel], angle [radian, 0 is +x, half plane] and log10 of the chance of such a peak in noise.
    """
    image = np.asarray(image, dtype=np.float64)
    least = min(image.shape)
    if sides is None:
        smallest = max(128, least // 8)
        sides = [smallest, 2 * smallest, 4 * smallest]
    sides = sorted({min(side, least) for side in sides})
    found = []
    for side in sides:
        taper = np.hanning(side)[:, None] * np.hanning(side)[None, :]
        places = [(i, j) for i in _corners(image.shape[0], side) for j in _corners(image.shape[1], side)]
        chance = false_alarms / len(sides) / len(places)
        found += [_spots_of_tile(image[i : i + side, j : j + side], taper, chance) for i, j in places]
    return _merge(np.concatenate(found), 2.0 / sides[0])


def _corners(n: int, side: int) -> list[int]:
    count = min(8, max(1, int(np.ceil((n - side) / (side / 2))) + 1))
    return sorted({round(v) for v in np.linspace(0, n - side, count)})


@lru_cache(maxsize=8)
def _geometry(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the radius of each spatial frequency in whole steps, and where spots are searched (a half plane)."""
    k = np.fft.fftshift(np.fft.fftfreq(side))
    radius = np.hypot(k[:, None], k[None, :])
    allowed = (radius > 6 / side) & (radius < 0.48)
    # the rows and columns through the origin hold the edges of the frame and the readout of the camera
    allowed &= (np.abs(k[:, None]) > 2.5 / side) & (np.abs(k[None, :]) > 2.5 / side)
    allowed &= k[:, None] > 0
    return np.minimum(np.rint(radius * side).astype(int), side // 2), allowed


def _spots_of_tile(tile: np.ndarray, taper: np.ndarray, false_alarms: float) -> np.ndarray:
    side = tile.shape[0]
    spread = tile.std()
    if side < 32 or not np.isfinite(spread) or spread == 0:
        return np.empty((0, 3))
    ring, allowed = _geometry(side)
    power = np.abs(np.fft.fftshift(np.fft.fft2((tile - tile.mean()) / spread * taper))) ** 2
    log_power = np.log(power + 1e-12)
    # the mean of the logarithm hardly sees the few spots of a ring
    mean = np.bincount(ring.ravel(), log_power.ravel()) / np.maximum(np.bincount(ring.ravel()), 1)
    smooth = ndimage.gaussian_filter(np.exp(log_power - mean[ring]), 0.8, mode="wrap")
    size = max(11, side // 12) | 1
    local = ndimage.uniform_filter(smooth, size, mode="wrap")
    for _ in range(2):  # spots must not raise the background that they are held against
        local = ndimage.uniform_filter(np.minimum(smooth, 2.5 * local), size, mode="wrap")
    ratio = smooth / np.maximum(local, 1e-12)
    limit = special.gammainccinv(NOISE_SHAPE, false_alarms / np.count_nonzero(allowed)) / NOISE_SHAPE
    peaks = allowed & (ratio > limit)
    if not peaks.any():
        return np.empty((0, 3))
    rows, columns = np.nonzero(peaks & (ratio == ndimage.maximum_filter(ratio, 5, mode="wrap")))
    fine = np.array([_centroid(ratio, r, c) for r, c in zip(rows, columns, strict=True)]).reshape(-1, 2)
    ky, kx = (fine[:, 0] - side // 2) / side, (fine[:, 1] - side // 2) / side
    chance = special.gammaincc(NOISE_SHAPE, NOISE_SHAPE * ratio[rows, columns])
    return np.column_stack([np.hypot(ky, kx), np.arctan2(ky, kx) % np.pi, np.log10(np.maximum(chance, 1e-300))])


def _centroid(values: np.ndarray, row: int, column: int) -> tuple[float, float]:
    window = values[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
    weight = np.maximum(window - 0.5 * values[row, column], 0)
    i, j = np.mgrid[max(row - 2, 0) : max(row - 2, 0) + window.shape[0],
                    max(column - 2, 0) : max(column - 2, 0) + window.shape[1]]  # fmt: skip
    return float((weight * i).sum() / weight.sum()), float((weight * j).sum() / weight.sum())


def _merge(spots: np.ndarray, distance: float) -> np.ndarray:
    """Keep the most significant of spots that lie together: overlapping windows see the same lattice."""
    kept: list[np.ndarray] = []
    for spot in spots[np.argsort(spots[:, 2])]:
        here = spot[0] * np.exp(1j * spot[1])
        others = [s[0] * np.exp(1j * s[1]) for s in kept]
        if all(min(abs(here - z), abs(here + z)) > distance for z in others):
            kept.append(spot)
    return np.array(kept).reshape(-1, 3)


def log_likelihood(
    radii: np.ndarray, candidates: np.ndarray, q: Sequence[float], share: Sequence[float], *, low: float = 0.02,
    high: float = 0.48,
) -> np.ndarray:  # fmt: skip
    """Log likelihood of each candidate pixel size, given spot radii.

    A spot belongs to ring j with a probability proportional to ``share[j]`` among the rings that the
    spectrum can show, or is a stray with a radius anywhere. That a lattice shows its strong, inner rings
    first is what tells ring 111 from ring 220 where only one is seen.

    Parameters
    ----------
    radii : array, shape (spot,)
        Radii [cycles/pixel].
    candidates : array, shape (candidate,)
        Pixel sizes [angstrom].
    q : sequence of float
        Spatial frequencies of the rings [1/angstrom].
    share : sequence of float
        Expected share of spots on each ring.
    low, high : float
        Range of radii that is searched [cycles/pixel].

    Returns
    -------
    array, shape (candidate,)
    """
    q, share = np.asarray(q, dtype=float), np.asarray(share, dtype=float)
    centre = candidates[:, None] * q[None, :]
    weight = np.where((centre > low) & (centre < high), share, 0.0)
    lost = share.sum() - weight.sum(axis=1, keepdims=True)  # rings that cannot be seen explain nothing
    weight = weight / np.maximum(weight.sum(axis=1, keepdims=True) + lost, 1e-12)
    width = RING_WIDTH * centre + 1e-4
    z = (radii[None, None, :] - centre[:, :, None]) / width[:, :, None]
    ring = (weight / (width * np.sqrt(2 * np.pi)))[:, :, None] * np.exp(-0.5 * z**2)
    stray = 2 * radii / (high**2 - low**2)
    return np.log((1 - STRAY) * ring.sum(axis=1) + STRAY * stray[None, :]).sum(axis=1)


def refine(radii: np.ndarray, pixel_size: float, q: Sequence[float]) -> tuple[float, float, np.ndarray]:
    """Refine a pixel size by the spots within three ring widths of a ring.

    Returns
    -------
    (float, float, array)
        Pixel size [angstrom] (median over spots), its standard error, and the ring of each spot (-1: none).
    """
    q = np.asarray(q, dtype=float)
    ring = np.full(radii.shape, -1)
    for _ in range(5):
        ratio = radii[:, None] / (pixel_size * q[None, :])
        nearest = np.abs(ratio - 1).argmin(axis=1)
        ring = np.where(np.abs(ratio[np.arange(radii.size), nearest] - 1) < 3 * RING_WIDTH, nearest, -1)
        if not (ring >= 0).any():
            return pixel_size, float("nan"), ring
        each = radii[ring >= 0] / q[ring[ring >= 0]]
        pixel_size = float(np.median(each))
    spread = 1.4826 * np.median(np.abs(each - pixel_size)) if each.size > 2 else RING_WIDTH * pixel_size
    error = float(1.2533 * max(spread, 0.002 * pixel_size) / np.sqrt(each.size))
    return pixel_size, error, ring
