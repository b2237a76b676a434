"""Places that belong to a labelled region: inside it, or near it and nearer to it than to any other."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["near_label"]


def near_label(labels: np.ndarray, label: int, place: np.ndarray, pixel_size: tuple[float, float],
               margin: float) -> np.ndarray:
    """Say which places lie in a region or at most so far outside it.

    Parameters
    ----------
    labels : ndarray of int, shape (y, x)
        0 is background.
    label : int
        The region.
    place : ndarray, shape (n, 2)
        From the centre of pixel (0, 0) [angstrom].
    pixel_size : (float, float)
        [angstrom]
    margin : float
        From the centre of the region's nearest pixel [angstrom]. A place that is nearer to another region belongs to
        that one.

    Returns
    -------
    ndarray of bool, shape (n,)

    Examples
    --------
    >>> labels = np.zeros((9, 12), int)
    >>> labels[2:5, 2:5] = 1
    >>> labels[2:5, 9:] = 2
    >>> near_label(labels, 1, np.array([[3.0, 3], [3, 6], [3, 7.6], [8, 3], [3, 40]]), (1.0, 1.0), 3.5).tolist()
    [True, True, False, False, False]
    """
    place = np.asarray(place, dtype=np.float64).reshape(-1, 2)
    mine = labels == label
    inside = np.zeros(len(place), bool)
    if not len(place) or not mine.any():
        return inside
    pixel, shape = np.asarray(pixel_size, dtype=np.float64), np.array(labels.shape)
    rows, columns = (np.flatnonzero(mine.any(axis)) for axis in (1, 0))
    room = np.ceil(2 * margin / pixel).astype(int) + 2  # of what is beyond the margin some is nearer
    first = np.maximum(np.array([rows[0], columns[0]]) - room, 0)
    last = np.minimum(np.array([rows[-1], columns[-1]]) + room + 1, shape)
    at = np.rint(place / pixel)
    # distances are looked up at the nearest pixel, which a place may be half a pixel outside of
    near = ((at >= first) & (at < last)).all(1)
    if not near.any():
        return inside
    cut = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    y, x = (at[near] - first).astype(int).T
    distance = ndimage.distance_transform_edt(~mine[cut], sampling=pixel)[y, x]
    inside[near] = distance <= margin
    others = (labels[cut] > 0) & ~mine[cut]
    if others.any():
        inside[near] &= distance <= ndimage.distance_transform_edt(~others, sampling=pixel)[y, x]
    return inside
