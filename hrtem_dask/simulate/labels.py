"""The truth of a simulated field: where the particles are, and how thick."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["GOLD_DENSITY", "OUTLINES", "gold_thickness", "half_thickness_mask", "particle_mask"]

DISC = 1.4  # angstrom: radius around a projected atom
CLOSING = 1.2  # angstrom
GOLD_DENSITY = 4 / 4.078**3  # atoms/angstrom^3
#: what a network can be taught to outline: all projected atoms, or where the contrast falls to half
OUTLINES = ("atoms", "half-thickness")
NEIGHBOURHOOD = 10.0  # angstrom: over which the thickest place of a particle is looked for
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


def half_thickness_mask(truth: np.ndarray, truth_sampling: float, thickness: np.ndarray,
                        sampling: float) -> np.ndarray:
    """Where a particle is at least half as thick as at its thickest place nearby.

    The rim of a rounded particle is thinner than the film's own granularity shows: the outline
    that an image has, and that a person draws, is the half-contrast line, and mass-thickness
    contrast follows the thickness. It lies some angstrom inside the outermost atoms.

    Parameters
    ----------
    truth : ndarray, bool, shape (y, x)
        Mask of the projected atoms, periodic.
    truth_sampling : float
        [angstrom]
    thickness : ndarray, shape (m, m)
        Projected thickness [angstrom] of the same field.
    sampling : float
        Of the thickness [angstrom].

    Returns
    -------
    ndarray, bool, shape (y, x)
        Part of `truth`.

    Examples
    --------
    >>> x = np.arange(64.0) - 32
    >>> r = np.hypot(x[:, None], x)
    >>> ball = 2 * np.sqrt(np.clip(15.0**2 - r**2, 0, None))
    >>> mask = half_thickness_mask(r < 15, 1.0, ball, 1.0)
    >>> bool(mask[32, 32 + 12]), bool(mask[32, 32 + 14])
    (True, False)
    """
    reach = 2 * round(NEIGHBOURHOOD / sampling) + 1
    thickest = ndimage.maximum_filter(thickness, size=reach, mode="wrap")
    margin = thickness - 0.5 * thickest  # interpolated as a number, so that the line is smooth
    at = [np.arange(n) * truth_sampling / sampling for n in truth.shape]
    grid = np.meshgrid(*at, indexing="ij")
    fine = ndimage.map_coordinates(margin.astype(np.float32), grid, order=1, mode="grid-wrap")
    return truth & (fine > 0)
