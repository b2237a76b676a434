"""The truth of a simulated field: where the particles are, and how thick."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["GOLD_DENSITY", "gold_thickness", "particle_mask"]

DISC = 1.4  # angstrom: radius around a projected atom
CLOSING = 1.2  # angstrom
GOLD_DENSITY = 4 / 4.078**3  # atoms/angstrom^3
PAD = 8.0  # angstrom: more than disc and closing reach


def particle_mask(gold: np.ndarray, box: tuple[float, float], sampling: float, *, periodic: bool = True) -> np.ndarray:
    """Mask of the particles: discs around the projected atoms, closed, holes filled.

    Parameters
    ----------
    gold : ndarray, shape (n, 3)
        Positions (x, y, z) [angstrom].
    box : (float, float)
        Size of the field (y, x) [angstrom].
    sampling : float
        [angstrom]; sample (i, j) lies at (i, j) * sampling.
    periodic : bool
        Whether what leaves on one side enters on the other.

    Returns
    -------
    ndarray, bool, shape (y, x)
        Discs of 1.4 angstrom, closed by 1.2 angstrom.

    Examples
    --------
    >>> mask = particle_mask(np.array([[10.0, 5.0, 0.0]]), (20, 20), 0.5)
    >>> bool(mask[10, 20]), bool(mask[20, 10]), round(float(mask.sum() * 0.25), 1)
    (True, False, 5.2)
    """
    shape = tuple(round(b / sampling) for b in box)
    if not len(gold):
        return np.zeros(shape, bool)
    pad = int(np.ceil(PAD / sampling))
    atoms = np.zeros(shape, bool)
    i = np.round(gold[:, [1, 0]] / sampling).astype(int)
    if periodic:
        i %= shape
    else:
        i = i[((i >= 0) & (i < shape)).all(1)]
    atoms[tuple(i.T)] = True
    atoms = np.pad(atoms, pad, mode="wrap" if periodic else "constant")
    # growing by disc + closing and shrinking by the closing is the union of discs, closed
    grown = ndimage.distance_transform_edt(~atoms) * sampling <= DISC + CLOSING
    # the nearest sample outside lies half a sample beyond the edge on average
    mask = ndimage.distance_transform_edt(grown) * sampling > CLOSING + sampling / 2
    return ndimage.binary_fill_holes(mask)[pad:-pad, pad:-pad]


def gold_thickness(gold: np.ndarray, box: tuple[float, float], sampling: float, *, smooth: float = 1.5) -> np.ndarray:
    """Projected thickness of gold [angstrom], periodic, smoothed by a Gaussian of this sigma.

    Returns
    -------
    ndarray, float32, shape (y, x)
    """
    shape = tuple(round(b / sampling) for b in box)
    i = np.round(gold[:, [1, 0]] / sampling).astype(int) % shape
    count = np.bincount(np.ravel_multi_index(tuple(i.T), shape), minlength=shape[0] * shape[1]).reshape(shape)
    t = count / (GOLD_DENSITY * sampling**2)
    return ndimage.gaussian_filter(t, smooth / sampling, mode="wrap").astype(np.float32)
