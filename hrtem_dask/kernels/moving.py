"""Whether something moved between two frames: the fringes that a shift writes into their difference.

The difference of two frames of one scene, shifted by d, has the spectrum of the scene times
``2 - 2 cos(2 pi k d)``: fringes across the plane, where that of noise has none. So the transform
of the difference's power, divided by its ring averages, has a peak at d.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

from .noise_power import ring_numbers

__all__ = ["BANDS", "LOWEST", "NEAR_PART", "moved_by"]

#: from here [Nyquist], above what drifting illumination adds, to one of these
LOWEST, BANDS = 0.05, (0.25, 0.5, 0.8)
#: rings that are taken together
WIDE = 4
#: up to this shift [pixel] a camera whose pixels or MTF are not quite round leaves a peak too; part of the noise's
#: power that a peak there must have
NEAR, NEAR_PART = 3.0, 0.05


def moved_by(power: np.ndarray, shape: tuple[int, int], use: np.ndarray) -> tuple[float, float]:
    """Look for fringes in the power of the difference of two frames.

    Parameters
    ----------
    power : ndarray, shape (y, x // 2 + 1)
    shape : (int, int)
        Of the frames.
    use : ndarray of bool, like ``power``
        Modes to use, see `noise_power.mask_spots`.

    Returns
    -------
    score : float
        Height of the highest peak [deviations]: 4 to 6 in noise, as there are as many shifts as pixels.
    part : float
        Power of what moved over that of the noise, in the band of that peak.

    Examples
    --------
    >>> from .noise_power import noise_power, usable_modes
    >>> rng = np.random.default_rng(0)
    >>> film = rng.normal(0, 0.6, (128, 128))
    >>> one, two, three = (rng.normal(0, 1, (128, 128)) for _ in range(3))
    >>> use = usable_modes(film.shape)
    >>> moved_by(noise_power(film + one - np.roll(film, 3, 0) - two), film.shape, use)[0] > 10
    True
    >>> moved_by(noise_power(two - three), film.shape, use)[0] < 6
    True
    """
    k, ring, n = ring_numbers(shape)
    ring = ring // WIDE
    lags = np.hypot(*np.meshgrid(*(np.fft.fftfreq(s) * s for s in shape), indexing="ij")) <= NEAR
    best = (0.0, 0.0)
    for end in BANDS:
        at = use & (k > LOWEST) & (k < end)
        modes = int(at.sum())
        if modes < 200:
            continue
        mean = np.bincount(ring[at], power[at], n) / np.maximum(np.bincount(ring[at], minlength=n), 1)
        ratio = np.zeros(power.shape)
        ratio[at] = power[at] / np.maximum(mean[ring[at]], 1e-300) - 1
        heights = np.abs(fft.irfft2(ratio, s=shape)) * shape[0] * shape[1]
        heights[lags & (heights < NEAR_PART * modes)] = 0.0
        height = float(heights.max())
        # a mode and its mirror image are one: of deviation 1 where the power is exponential
        best = max(best, (float(height / np.sqrt(2 * modes)), height / modes))
    return best
