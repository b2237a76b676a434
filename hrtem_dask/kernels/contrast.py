"""Columns dark or bright: what a network that knows dark ones says of an image and of its negative.

Phase contrast turns round with the defocus, and particles at different heights may differ in one frame.
So both ways round are evaluated, and in each neighbourhood one is kept: that in which more is found with
certainty, and in which columns stand out farther than the gaps between them, which are wider. On
validation fields of the shipped network that was right for 93 and 97 % of the columns at 100 and 1000
e/angstrom^2, the certainty alone for 92 and 93 %, the skewness alone for 89 and 96 %.
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
#: sigmas of the band that a column stands out in [angstrom]
BAND = (0.6, 2.0)
#: weight of the skewness against the difference of the certainties over their sum
SKEWNESS = 0.8
LITTLE = 1e-9
TRUNCATE = 3.0  # sigma


def choice_reach(pixel_size: float) -> int:
    """How far the choice of the sign at a pixel looks [pixel], beside what the network sees; a multiple of 8.

    Examples
    --------
    >>> choice_reach(0.25)
    224
    """
    return 8 * math.ceil((TRUNCATE * (NEIGHBOURHOOD + BAND[1]) / pixel_size + 8) / 8)


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
        Logits of the image, or of its negative where that is the more likely way round in a Gaussian of
        16 angstrom around.

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
    other = _evidence(image[..., 0, :, :], _found(plain), _found(negative), pixel_size, grid) < 0
    other = other.repeat(grid, -2).repeat(grid, -1)[..., :image.shape[-2], :image.shape[-1]]
    return np.where(np.expand_dims(other, -3), negative, plain)


def _found(logits: np.ndarray) -> np.ndarray:
    """Probability of anything but background (..., y, x)."""
    return 1 - softmax(np.moveaxis(logits, -3, 0))[0]


def _evidence(image: np.ndarray, plain: np.ndarray, negative: np.ndarray, pixel_size: float, grid: int) -> np.ndarray:
    """How much speaks for an image (..., y, x) rather than its negative, in squares of `grid` pixels."""
    def around(values: np.ndarray) -> np.ndarray:
        for axis in (-2, -1):
            values = np.add.reduceat(values, np.arange(0, values.shape[axis], grid), axis)
        return ndimage.gaussian_filter(values, NEIGHBOURHOOD / pixel_size / grid, mode="constant", truncate=TRUNCATE,
                                       axes=(-2, -1))

    narrow, wide = (ndimage.gaussian_filter(image, sigma / pixel_size, mode="nearest", truncate=TRUNCATE,
                                            axes=(-2, -1)) for sigma in BAND)
    band, weight = narrow - wide, plain + negative
    total = np.maximum(around(weight), LITTLE)
    spread = np.sqrt(np.maximum(around(band**2 * weight) / total, LITTLE))
    skewness = around(band**3 * weight) / total / spread**3
    certain, doubtful = around(plain**2), around(negative**2)
    return (certain - doubtful) / np.maximum(certain + doubtful, LITTLE) - SKEWNESS * skewness
