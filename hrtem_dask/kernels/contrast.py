"""Columns dark or bright: what a network that knows dark ones says of an image and of its negative.

Phase contrast turns round with the defocus, and particles at different heights may differ in one frame.
So both ways round are evaluated, and in each neighbourhood that one is kept in which more is found with
certainty.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from .tiles import softmax

__all__ = ["choice_reach", "evaluate_either"]

Edges = tuple[bool, bool, bool, bool]
#: sigma of the neighbourhood that has one sign [angstrom]
NEIGHBOURHOOD = 16.0
TRUNCATE = 3.0  # sigma


def choice_reach(pixel_size: float) -> int:
    """How far the choice of the sign at a pixel looks [pixel], beside what the network sees; a multiple of 8.

    Examples
    --------
    >>> choice_reach(0.25)
    200
    """
    return 8 * math.ceil((TRUNCATE * NEIGHBOURHOOD / pixel_size + 8) / 8)


def evaluate_either(evaluate: Callable[[np.ndarray, Edges], np.ndarray], image: np.ndarray, edges: Edges,
                    pixel_size: float, grid: int = 1) -> np.ndarray:
    """Evaluate an image and its negative, and keep the more certain one of each neighbourhood.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(image, edges)`` → logits (..., class, y, x) of images (..., channel, y, x), the
        background first.
    image : ndarray, shape (..., channel, y, x)
        Normalised: the negative of an image is what it would be with the opposite contrast.
    edges : (bool, bool, bool, bool)
        Which sides (top, bottom, left, right) are edges of the frame.
    pixel_size : float
        [angstrom]
    grid : int
        Side of the squares [pixel] that are chosen as one, which begin at the image's first pixel: all
        images that are parts of one frame must begin at multiples of it.

    Returns
    -------
    ndarray, shape (..., class, y, x)
        Logits of the image, or of its negative where the mean square, over a Gaussian of 16 angstrom, of
        the probability of anything but background is larger there.

    Examples
    --------
    >>> def dark_spots(image, edges):
    ...     return np.concatenate([0 * image, -image], axis=-3)
    >>> image = np.zeros((1, 1, 400), np.float32)
    >>> image[..., 50], image[..., 350] = -5, 5
    >>> np.flatnonzero(np.diff(evaluate_either(dark_spots, image, (True,) * 4, 0.5), axis=0) > 4).tolist()
    [50, 350]
    """
    plain, negative = evaluate(image, edges), evaluate(-image, edges)
    other = _certainty(negative, pixel_size, grid) > _certainty(plain, pixel_size, grid)
    other = other.repeat(grid, -2).repeat(grid, -1)[..., :image.shape[-2], :image.shape[-1]]
    return np.where(np.expand_dims(other, -3), negative, plain)


def _certainty(logits: np.ndarray, pixel_size: float, grid: int) -> np.ndarray:
    """Mean square of the probability of anything but background around each square of `grid` pixels (..., y, x)."""
    found = np.square(1 - softmax(np.moveaxis(logits, -3, 0))[0])
    for axis in (-2, -1):
        found = np.add.reduceat(found, np.arange(0, found.shape[axis], grid), axis)
    return ndimage.gaussian_filter(found, NEIGHBOURHOOD / pixel_size / grid, mode="constant", truncate=TRUNCATE,
                                   axes=(-2, -1))
