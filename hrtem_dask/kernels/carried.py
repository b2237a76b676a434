"""An image carried back to where its particle was in the reference frame."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .rigid import move

__all__ = ["carried_back"]


def carried_back(image: np.ndarray, origin: tuple[float, float], step: tuple[float, float], motion: np.ndarray,
                 centre: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values of an image at reference places, linear between pixels; nan outside of the image.

    Parameters
    ----------
    image : ndarray, shape (y, x)
    origin, step : (float, float)
        Coordinates of pixel (0, 0), and from pixel to pixel [angstrom].
    motion : ndarray, shape (3,)
        Drift and rotation of the frame, see `kernels.rigid`.
    centre : ndarray, shape (2,)
        Of the rotation [angstrom].
    places : ndarray, shape (..., 2)
        Reference coordinates [angstrom].

    Returns
    -------
    ndarray of float64, shape (...)

    Examples
    --------
    >>> image = np.arange(20.0).reshape(4, 5)
    >>> places = np.array([[1.0, 2.0], [1.0, 9.0]])
    >>> carried_back(image, (0, 0), (1, 1), np.array([1.0, 0.5, 0.0]), np.zeros(2), places).tolist()
    [12.5, nan]
    """
    at = (move(np.asarray(motion, dtype=np.float64), places, centre) - np.asarray(origin)) / np.asarray(step)
    return ndimage.map_coordinates(np.asarray(image, dtype=np.float64), np.moveaxis(at, -1, 0), order=1, cval=np.nan)
