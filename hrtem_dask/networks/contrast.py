"""The sign of the contrast of columns: a network learns them dark, and a frame is shown to it either way round.

Where the columns of a square or a hexagonal lattice lie, and where the gaps between them, an image
tells only by the sign of its contrast, which defocus turns round. A network that was to learn dark and
bright columns alike stayed for thousands of steps at saying half for both. So images are turned until
columns are dark; now and then one is left the wrong way round, with nothing to find in it, from which
the network learns to doubt such images. `hrtem_dask.kernels.contrast` chooses by that.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["WRONG", "contrast_sign", "turned_dark"]

#: part of the examples that show the gaps between columns as if they were columns
WRONG = 0.2
#: sigma [sigma of a hill] of the surroundings that columns are compared with
WIDE = 3.0


def contrast_sign(image: np.ndarray, label: np.ndarray, size: float) -> int:
    """Whether the columns of an image are brighter (1) or darker (-1) than what surrounds them; 0 without columns.

    Parameters
    ----------
    image : ndarray, shape (y, x)
    label : ndarray, shape (y, x)
        Hills around the columns.
    size : float
        Sigma of a hill [pixel].

    Examples
    --------
    >>> y, x = np.mgrid[:48, :48]
    >>> hills = np.exp(-((y % 12 - 6) ** 2 + (x % 12 - 6) ** 2) / 8.0)
    >>> contrast_sign(3 + hills, hills, 2.0), contrast_sign(-hills, hills, 2.0), contrast_sign(hills, 0 * hills, 2.0)
    (1, -1, 0)
    """
    rough, hills = (a - ndimage.gaussian_filter(a, WIDE * size, mode="nearest") for a in (image, label))
    return int(np.sign(float((rough * hills).sum())))


def turned_dark(image: np.ndarray, label: np.ndarray, size: float, wrong: bool = False
                ) -> tuple[np.ndarray, np.ndarray]:
    """Turn the contrast of a normalised image so that its columns are dark; label the wrong way round as empty.

    Parameters
    ----------
    image : ndarray, shape (y, x)
    label : ndarray, shape (class, y, x)
        What `hrtem_dask.simulate.columns.column_image` draws, the background first.
    size : float
        Sigma of a hill [pixel].
    wrong : bool
        Make columns bright instead, and the label empty.

    Returns
    -------
    image, label : ndarray, float32
    """
    sign = contrast_sign(image, 1 - label[0], size) or -1
    image = np.asarray(-sign * image, dtype=np.float32)
    if not wrong:
        return image, label
    nothing = np.zeros_like(label)
    nothing[0] = 1
    return -image, nothing
