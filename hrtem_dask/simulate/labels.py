"""The truth of a simulated field: where the particles are, and how thick."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .lattices import atom_volume_of
from .structures import Specimen

__all__ = ["OUTLINES", "gold_thickness", "half_thickness_mask", "instance_labels", "particle_mask"]

DISC = 1.4  # angstrom: radius around a projected atom
CLOSING = 1.2  # angstrom
GOLD = 79
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


def instance_labels(specimen: Specimen, sampling: float) -> np.ndarray:
    """Number of the particle that each sample of the mask belongs to.

    Where particles overlap in projection, a sample belongs to the one that is thicker there
    (atoms within some 2 angstrom), at equal thickness to the one with the lower number. Where
    only the closing or the filling of the whole mask joins them, it belongs to the nearest.

    Parameters
    ----------
    specimen : Specimen
        Periodic in y and x.
    sampling : float
        [angstrom]; sample (i, j) lies at (i, j) * sampling.

    Returns
    -------
    ndarray, int32, shape (y, x)
        0 outside of `particle_mask`, and only there; else the particle, counted from 1. A
        particle hidden by thicker ones may have no sample.

    Examples
    --------
    >>> from hrtem_dask.simulate.structures import assemble
    >>> two = assemble([np.array([[5.0, 5.0, 0.0]]), np.array([[15.0, 5.0, 0.0]])], [], (20.0, 10.0))
    >>> labels = instance_labels(two, 0.5)
    >>> labels.shape, int(labels[10, 10]), int(labels[10, 30]), int(labels[10, 20])
    ((20, 40), 1, 2, 0)
    """
    box = (specimen.box[1], specimen.box[0])
    mask = particle_mask(specimen.gold, box, sampling)
    labels, thickest = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.float32)
    for number in np.unique(specimen.particle[specimen.particle > 0]):
        yx = specimen.positions[(specimen.particle == number) & (specimen.numbers > 0)][:, 1::-1]
        # whole samples: a particle is drawn alone in a window of the same grid
        ij = unwrapped(np.round(yx / sampling).astype(int), np.array(mask.shape))
        first = ij.min(0) - int(np.ceil(PAD / sampling))
        size = ij.max(0) - first + int(np.ceil(PAD / sampling)) + 1
        p = np.zeros((len(ij), 3))
        p[:, 1::-1] = (ij - first) * sampling
        own = particle_mask(p, (size[0] * sampling, size[1] * sampling), sampling, periodic=False)
        count = np.zeros(own.shape, np.float32)
        np.add.at(count, tuple((ij - first).T), 1)
        count = ndimage.gaussian_filter(count, 1.0 / sampling, mode="constant") + np.float32(1e-6)
        inside = np.argwhere(own)
        at, own_count = tuple(((inside + first) % mask.shape).T), count[own]
        more = own_count > thickest[at]
        at = tuple(a[more] for a in at)
        labels[at], thickest[at] = number, own_count[more]
    labels[~mask] = 0
    lost = mask & (labels == 0)
    if lost.any():
        nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
        labels[lost] = labels[tuple(nearest)][lost]
    return labels


def unwrapped(ij: np.ndarray, period: np.ndarray) -> np.ndarray:
    """Bring indices of one particle in a periodic field together, around their circular mean."""
    angle = 2 * np.pi * ij / period
    centre = np.arctan2(np.sin(angle).mean(0), np.cos(angle).mean(0)) / (2 * np.pi) * period
    return ij - np.round((ij - centre) / period).astype(int) * period


def gold_thickness(gold: np.ndarray, box: tuple[float, float], sampling: float, *,
                   numbers: np.ndarray | None = None, smooth: float = 1.5) -> np.ndarray:
    """Projected thickness of the particles [angstrom], periodic.

    Parameters
    ----------
    gold : ndarray, shape (n, 3)
        Positions (x, y, z) of their atoms [angstrom].
    box : (float, float)
        Size of the field (y, x) [angstrom].
    sampling : float
        [angstrom]
    numbers : ndarray, int, shape (n,), optional
        Atomic numbers: every atom counts with its volume in its own metal. By default gold.
    smooth : float
        Sigma of a Gaussian [angstrom].

    Returns
    -------
    ndarray, float32, shape (y, x)

    Examples
    --------
    >>> atom = np.array([[2.0, 3.0, 0.0]])
    >>> [round(float(gold_thickness(atom, (9, 8), 1.0, numbers=np.array([z])).sum()), 2) for z in (79, 29)]
    [16.95, 11.76]
    """
    shape = tuple(round(b / sampling) for b in box)
    i = np.round(gold[:, [1, 0]] / sampling).astype(int) % shape
    kinds, kind = np.unique(np.full(len(gold), GOLD) if numbers is None else numbers, return_inverse=True)
    volume = np.array([atom_volume_of(int(n)) for n in kinds])[kind] if len(kinds) else None
    t = np.bincount(np.ravel_multi_index(tuple(i.T), shape), volume, shape[0] * shape[1]).reshape(shape)
    return ndimage.gaussian_filter(t / sampling**2, smooth / sampling, mode="wrap").astype(np.float32)


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
    fine = margin.astype(np.float32)
    for n in truth.shape:  # linear and periodic along one axis, then along the other
        at = np.arange(n) * truth_sampling / sampling
        low, part = at.astype(int), (at % 1).astype(np.float32)[:, None]
        fine = (fine[low % len(fine)] * (1 - part) + fine[(low + 1) % len(fine)] * part).T
    return truth & (fine > 0)
