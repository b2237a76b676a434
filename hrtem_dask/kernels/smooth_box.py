"""Where an image holds nothing but noise: the largest rectangle without structure.

In a block of noise alone the power in a middle band of frequencies and that near Nyquist have a
fixed ratio, the same wherever the dose is higher or lower and whatever the offset of the counts.
A specimen, its edge or a scale bar adds to the middle band. So blocks whose ratio exceeds the
smallest by more than chance hold structure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage, stats

from .camera import radial_frequency
from .noise_power import detrend, mask_spots

__all__ = ["Structure", "block_side", "largest_rectangle", "structure_of"]

#: the middle band: from the one to the other [Nyquist], and where the upper band begins
MIDDLE = (0.06, 0.45)
UPPER = 0.65
#: the quantile of the blocks that the smallest ratio is taken from: a few blocks of vacuum suffice
LOWEST = 0.05
#: deviations beyond which a block, and the mean of it and its neighbours, hold structure
BLOCK_LIMIT, MEAN_LIMIT = 5.5, 5.0
#: an excess below this is never called structure
LEAST = 0.10


@dataclass(frozen=True)
class Structure:
    """Power of structure over that of noise in every block, its error, and where there is none.

    Attributes
    ----------
    excess : ndarray, shape (rows, columns) of blocks
        Power in the middle band above that of noise, over that of noise.
    smooth : ndarray of bool, like ``excess``
        Blocks in which the excess is no more than chance.
    side : int
        Of a block [pixel].
    """

    excess: np.ndarray
    smooth: np.ndarray
    side: int

    def worst(self) -> tuple[float, tuple[int, int, int, int]]:
        """Return the largest excess and its block (y0, y1, x0, x1) [pixel]."""
        i, j = np.unravel_index(int(np.argmax(self.excess)), self.excess.shape)
        s = self.side
        return float(self.excess[i, j]), (int(i) * s, int(i + 1) * s, int(j) * s, int(j + 1) * s)


def block_side(shape: tuple[int, int]) -> int:
    """Side of the blocks of an image of this shape [pixel]."""
    least = min(shape)
    return 16 if least < 192 else int(np.clip(least // 16, 32, 128))


def structure_of(images: np.ndarray) -> Structure:
    """Look for structure in every block of images of one scene.

    Parameters
    ----------
    images : ndarray, shape (n, y, x)
        Frames, at least 4 blocks along each axis; all finite. Their powers are averaged.

    Returns
    -------
    Structure
        Rows and columns that do not fill a block are left out.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(100, 5, (2, 256, 256))
    >>> noise[:, 96:160, 96:160] += 9 * np.hypot(*np.mgrid[-1:1:64j, -1:1:64j])
    >>> found = structure_of(noise)
    >>> found.side, bool(found.smooth[:2].all()), bool(found.smooth[3:5, 3:5].any())
    (32, True, False)
    """
    side = block_side(images.shape[1:])
    pad = 16  # so that opposite borders, which the transform makes neighbours, do not meet
    spectra = [fft.rfft2(np.pad(detrend(np.asarray(a, dtype=np.float64), 2), pad, mode="reflect")) for a in images]
    shape = (images.shape[1] + 2 * pad, images.shape[2] + 2 * pad)
    # fringes of a hologram fill the frame evenly and would drown all else in their scatter
    spotless = mask_spots(np.mean([np.abs(s) ** 2 for s in spectra], axis=0), shape, frames=len(images))
    middle = upper = 0.0
    variance = 0.0
    for spectrum in spectra:
        spectrum = spectrum * spotless
        bands, spreads = zip(*(_band(spectrum, shape, pad, side, high) for high in (False, True)), strict=True)
        middle, upper = middle + bands[0], upper + bands[1]
        variance += sum(spreads) / len(images) ** 2
    ratio = np.asarray(middle) / np.maximum(upper, 1e-300)
    sigma = float(np.sqrt(variance))
    low = float(np.quantile(ratio, LOWEST)) / max(1 + stats.norm.ppf(LOWEST) * sigma, 0.3)
    excess = ratio / max(low, 1e-300) - 1
    plain = excess <= max(BLOCK_LIMIT * sigma, LEAST)
    # faint structure shows in the mean with the neighbours, but not with those whose structure is plain
    near, count = (ndimage.uniform_filter(a, 3, mode="nearest") for a in (excess * plain, plain.astype(float)))
    smooth = plain & (near <= count * max(MEAN_LIMIT * sigma / 3, LEAST))
    return Structure(excess, smooth, side)


def _band(spectrum: np.ndarray, shape: tuple[int, int], pad: int, side: int, high: bool) -> tuple[np.ndarray, float]:
    """Return the mean power of one band in every block, and its relative variance in noise."""
    k = radial_frequency(shape)
    # soft edges: steeper ones ring, and carry a strong edge into the vacuum beside it
    spectrum = spectrum * (1 - np.exp(-((k / UPPER) ** 4)) if high else
                           (1 - np.exp(-((k / MIDDLE[0]) ** 2))) * np.exp(-((k / MIDDLE[1]) ** 2)))
    field = fft.irfft2(spectrum, s=shape)[pad:-pad, pad:-pad]
    rows, cols = (n // side for n in field.shape)
    energy = (field[: rows * side, : cols * side] ** 2).reshape(rows, side, cols, side).mean(axis=(1, 3))
    power = np.abs(spectrum) ** 2
    # the periodogram is exponential about the spectrum, whose square has half its mean square
    filled = float(power.mean() ** 2 / max(0.5 * float(np.mean(power**2)), 1e-300))
    return energy, 2 / (side**2 * min(filled, 1.0))


def largest_rectangle(allowed: np.ndarray) -> tuple[int, int, int, int]:
    """Largest rectangle of True, preferring square ones of the same area.

    Returns
    -------
    (int, int, int, int)
        Rows and columns (i0, i1, j0, j1), the ends not included; all 0 where nothing is True.

    Examples
    --------
    >>> largest_rectangle(np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], bool))
    (0, 2, 0, 2)
    """
    best, found = (0, 0), (0, 0, 0, 0)
    height = np.zeros(allowed.shape[1], dtype=int)
    for i, row in enumerate(allowed):
        height = np.where(row, height + 1, 0)
        for j in range(height.size):
            least = int(height[j])
            for j0 in range(j, -1, -1):
                least = min(least, int(height[j0]))
                if least == 0:
                    break
                width = j - j0 + 1
                if (size := (least * width, min(least, width))) > best:
                    best, found = size, (i + 1 - least, i + 1, j0, j + 1)
    return found
