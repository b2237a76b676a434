"""How near a found mask comes to the true one: pixels, objects, outlines and sizes of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from .labels import label_frame

__all__ = [
    "MIN_AREA",
    "Agreement",
    "Matches",
    "boundary_distance",
    "boundary_distances",
    "compare_masks",
    "diameter_errors",
    "dice",
    "match_objects",
    "without_specks",
]

MIN_AREA = 50.0  # angstrom^2: a smaller region is a speck, or what the border of the frame left of a particle
IOU = 0.5


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient 2 |a and b| / (|a| + |b|) of two masks, 1 where both are empty.

    Examples
    --------
    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


@dataclass(frozen=True, eq=False)
class Matches:
    """Found and true objects matched one to one.

    ``pairs``, shape (n, 2), are labels (found, true) of those that belong together; ``found`` and
    ``true`` count all objects.
    """

    pairs: np.ndarray
    found: int
    true: int

    @property
    def matched(self) -> int:
        """Number of pairs."""
        return len(self.pairs)


def without_specks(labels: np.ndarray, least: float) -> np.ndarray:
    """Labels (y, x) without the objects of fewer pixels than this."""
    return np.where(np.bincount(labels.ravel())[labels] >= least, labels, 0)


def match_objects(found: np.ndarray, true: np.ndarray, *, iou: float = IOU) -> Matches:
    """Match found with true objects, one to one, so that as much as possible overlaps.

    Parameters
    ----------
    found, true : ndarray of int, shape (y, x)
        Labels, not negative; 0 is background. They need not be consecutive.
    iou : float
        Intersection over union from which on two objects are one.

    Returns
    -------
    Matches
        Of all one-to-one assignments of pairs that reach ``iou``, the one with the most pairs and,
        among those, the greatest sum of intersections over unions.

    Examples
    --------
    >>> found = np.array([[1, 1, 0, 2, 2, 2], [1, 1, 0, 2, 2, 2]])
    >>> true = np.array([[5, 5, 0, 7, 8, 8], [5, 5, 0, 7, 8, 8]])
    >>> m = match_objects(found, true)
    >>> m.pairs.tolist(), m.found, m.true
    ([[1, 5], [2, 8]], 2, 3)
    """
    size = int(found.max(initial=0)) + 1, int(true.max(initial=0)) + 1
    counts = np.bincount(found.ravel().astype(np.int64) * size[1] + true.ravel(), minlength=size[0] * size[1])
    both = counts.reshape(size).astype(np.float64)
    names = [1 + np.flatnonzero(both.sum(axis)[1:]) for axis in (1, 0)]
    area = both.sum(1, keepdims=True), both.sum(0, keepdims=True)
    both, area = both[np.ix_(*names)], (area[0][names[0]], area[1][:, names[1]])
    overlap = both / (area[0] + area[1] - both)
    # a pair more is worth more than any overlap of those there are
    value = np.where(overlap >= iou, 1 + overlap / (1 + min(overlap.shape, default=0)), 0.0)
    rows, columns = linear_sum_assignment(value, maximize=True)
    good = value[rows, columns] > 0
    pairs = np.stack([names[0][rows[good]], names[1][columns[good]]], axis=1)
    return Matches(pairs, *overlap.shape)


def boundary_distances(a: np.ndarray, b: np.ndarray, pixel_size: float = 1.0) -> np.ndarray:
    """Distances from each outline to the other [angstrom], of both outlines together.

    An outline is made of the pixels of the mask that touch its outside by an edge; where the border
    of the frame cuts a mask there is none.

    Parameters
    ----------
    a, b : ndarray of bool, shape (y, x)
    pixel_size : float
        [angstrom]

    Returns
    -------
    ndarray, shape (n,)
        Empty where one of the masks has no outline: there is no distance then.
    """
    # a tree of the few points of an outline is many times faster than the distance transform of the frame
    p, q = (np.argwhere(m & ~ndimage.binary_erosion(m, border_value=1)) * pixel_size for m in (a, b))
    if not (len(p) and len(q)):
        return np.zeros(0)
    return np.concatenate([KDTree(q).query(p)[0], KDTree(p).query(q)[0]])


def boundary_distance(a: np.ndarray, b: np.ndarray, pixel_size: float = 1.0) -> float:
    """Median symmetric surface distance of two masks [angstrom], nan where one has no outline.

    Examples
    --------
    >>> x = np.arange(41.0) - 20
    >>> r = np.hypot(x[:, None], x)
    >>> boundary_distance(r < 10, r < 13, 0.5)
    1.5
    """
    distances = boundary_distances(a, b, pixel_size)
    return float(np.median(distances)) if distances.size else float("nan")


def diameter_errors(found: np.ndarray, true: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Relative error of the equivalent diameter, 2 (area / pi)^0.5, of matched objects.

    Objects that the border of the frame cuts, in either image, are left out.

    Parameters
    ----------
    found, true : ndarray of int, shape (y, x)
        Labels.
    pairs : ndarray of int, shape (n, 2)
        Labels that belong together, as `match_objects` gives them.

    Returns
    -------
    ndarray, shape (m,)
        Found over true, less 1.
    """
    cut = [set(np.unique(np.concatenate([x[0], x[-1], x[:, 0], x[:, -1]])).tolist()) for x in (found, true)]
    areas = [np.bincount(x.ravel()) for x in (found, true)]
    whole = [(f, t) for f, t in pairs.tolist() if f not in cut[0] and t not in cut[1]]
    return np.array([np.sqrt(areas[0][f] / areas[1][t]) - 1 for f, t in whole], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Agreement:
    """What one found mask is worth against one true mask.

    ``dice``; ``matched`` of ``found`` and ``true`` objects; ``distance``, the median symmetric surface
    distance [angstrom], nan where there is none; ``diameter_errors``, relative, of the matched
    objects that lie inside the frame.
    """

    dice: float
    matched: int
    found: int
    true: int
    distance: float
    diameter_errors: np.ndarray


def compare_masks(found: np.ndarray, true: np.ndarray, pixel_size: float, *, min_area: float = MIN_AREA) -> Agreement:
    """Compare a found mask with a true one.

    Parameters
    ----------
    found, true : ndarray of bool, shape (y, x)
    pixel_size : float
        [angstrom]
    min_area : float
        Objects smaller than this [angstrom^2] count on neither side.

    Returns
    -------
    Agreement
        Its Dice and distance are those of the whole masks; its objects are their connected regions,
        the most that labelling a mask can give: particles that overlap in projection are one.

    Examples
    --------
    >>> true = np.zeros((40, 40), bool)
    >>> true[5:15, 5:15] = true[20:32, 20:32] = True
    >>> a = compare_masks(np.roll(true, 1, axis=0), true, 1.0)
    >>> round(a.dice, 3), a.matched, a.found, a.true, a.distance, a.diameter_errors.tolist()
    (0.91, 2, 2, 2, 0.5, [0.0, 0.0])
    """
    least = min_area / pixel_size**2
    regions, objects = label_frame(found, least), label_frame(true, least)
    matches = match_objects(regions, objects)
    return Agreement(dice(found, true), matches.matched, matches.found, matches.true,
                     boundary_distance(found, true, pixel_size), diameter_errors(regions, objects, matches.pairs))
