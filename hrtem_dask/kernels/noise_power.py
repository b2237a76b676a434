"""Noise power spectra: of differences of frames, averaged over rings, without what is no noise.

Power is that of the unnormalised transform divided by the number of samples [counts^2]: white
noise of the variance v has the power v everywhere. Two-dimensional spectra are half planes as
`scipy.fft.rfft2` orders them; frequencies are in units of Nyquist.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage, stats

from .camera import CORNER, radial_frequency

__all__ = ["Rings", "detrend", "hann", "mask_spots", "noise_power", "outliers", "ring_average", "ring_numbers",
           "shared_modes", "smooth_rings", "usable_modes"]

#: rings from 0 to Nyquist, at most
MAX_RINGS = 400
#: rows and columns beside the axes of the spectrum that are left out: steps across the edges of
#: the frame, and the read-out of rows and columns, have their power there
CROSS = 1
#: a difference beyond this many deviations is an X-ray or a flickering pixel
OUTLIER = 10.0
#: power above that of its ring from which a spot is no noise, however sure its excess is
SPOT = 1.5
#: rings that are averaged to see a departure
SMOOTH = 7
#: sides of the squares over which the search for spots averages
SPOT_SIDES = (1, 3, 7)


@dataclass(frozen=True)
class Rings:
    """Power averaged over rings: frequency [Nyquist], power [counts^2], independent modes in each."""

    k: np.ndarray
    power: np.ndarray
    modes: np.ndarray

    def up_to(self, low: float, high: float) -> Rings:
        """Return the rings from one frequency to another."""
        at = (self.k >= low) & (self.k <= high)
        return Rings(self.k[at], self.power[at], self.modes[at])


def detrend(image: np.ndarray, degree: int) -> np.ndarray:
    """Subtract the polynomial of this degree in y times one in x that fits best.

    Examples
    --------
    >>> y, x = np.mgrid[:20, :30]
    >>> bool(np.abs(detrend(3.0 + 2 * y * x + y**2, 2)).max() < 1e-9)
    True
    """
    bases = [np.linalg.qr(np.polynomial.legendre.legvander(np.linspace(-1, 1, n), min(degree, n - 1)))[0]
             for n in image.shape]
    return image - bases[0] @ (bases[0].T @ image @ bases[1]) @ bases[1].T


def outliers(image: np.ndarray) -> np.ndarray:
    """Where a difference of frames is no noise: X-rays, flickering pixels, and their neighbours.

    The deviation comes from the median. Nothing is an outlier where that fails, as in counts so
    sparse that most pixels are equal.
    """
    centre = float(np.median(image))
    sigma = 1.4826 * float(np.median(np.abs(image - centre)))
    bad = np.abs(image - centre) > OUTLIER * sigma
    few = bad.any() and bad.mean() < 1e-3
    if not few or sigma < 0.7 * float(image[~bad].std()):
        return np.zeros(image.shape, bool)
    return ndimage.binary_dilation(bad, np.ones((3, 3), bool))


def hann(shape: tuple[int, int]) -> np.ndarray:
    """Two-dimensional Hann window with a mean square of 1."""
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape))
    return window / np.sqrt(np.mean(window**2))


def shared_modes(window: np.ndarray) -> float:
    """Number of modes that a window makes one, for the deviation of a mean over many of them.

    Examples
    --------
    >>> round(shared_modes(hann((64, 64))), 2), shared_modes(np.ones((8, 8)))
    (3.78, 1.0)
    """
    return float(np.mean(window**4) / np.mean(window**2) ** 2)


def noise_power(image: np.ndarray, valid: np.ndarray | None = None, window: np.ndarray | None = None) -> np.ndarray:
    """Power of a noise image of mean 0 [counts^2].

    Parameters
    ----------
    image : ndarray, shape (y, x)
    valid : ndarray of bool, optional
        Pixels to use. What the holes take and give is undone, exactly so for holes at random
        places: they leave ``f^2 P + f (1 - f) v`` of the power P of noise of the variance v.
    window : ndarray, optional
        Taper with a mean square of 1.

    Returns
    -------
    ndarray, float64, shape (y, x // 2 + 1)

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0, 3, (64, 64))
    >>> round(float(noise_power(noise).mean()))
    9
    """
    f = 1.0
    if valid is not None and not valid.all():
        f = float(valid.mean())
        image = np.where(valid, image - image[valid].mean(), 0.0)
    data = image if window is None else image * window
    power = np.abs(fft.rfft2(data)) ** 2 / image.size
    if f < 1:
        power = (power - (1 - f) * float(np.mean(image**2))) / f**2
    return power


def usable_modes(shape: tuple[int, int]) -> np.ndarray:
    """Modes of the half plane that stand for themselves alone and lie off the axes."""
    ny, nx = shape
    iy = np.abs(np.rint(np.fft.fftfreq(ny) * ny)).astype(int)
    ix = np.arange(nx // 2 + 1)
    # at Nyquist of an even axis a mode is its own mirror image, or that of another one
    rows, cols = (iy > CROSS) & (2 * iy < ny), (ix > CROSS) & (2 * ix < nx)
    return rows[:, None] & cols[None, :]


def ring_numbers(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the frequency of every mode [Nyquist], the number of its ring, and how many rings there are."""
    k = radial_frequency(shape)
    per_nyquist = min(max(min(shape) // 2, 1), MAX_RINGS)
    n = int(np.ceil(CORNER * per_nyquist)) + 1
    return k, np.minimum((k * per_nyquist).astype(int), n - 1), n


def ring_average(power: np.ndarray, shape: tuple[int, int], use: np.ndarray, *, frames: float = 1.0) -> Rings:
    """Average a spectrum over rings.

    Parameters
    ----------
    power : ndarray, shape (y, x // 2 + 1)
    shape : (int, int)
        Of the image.
    use : ndarray of bool, like ``power``
        Modes to use, see `usable_modes`.
    frames : float
        Independent spectra that ``power`` is the mean of, less where a window makes neighbouring
        modes alike (divide by `shared_modes`).

    Returns
    -------
    Rings
        Those with any mode; ``modes`` counts modes times ``frames``, so that the relative
        deviation of a ring's mean is ``1 / sqrt(modes)``.
    """
    k, ring, n = ring_numbers(shape)
    at = ring[use]
    count = np.bincount(at, minlength=n)
    some = count > 0
    mean = [np.bincount(at, v[use], n)[some] / count[some] for v in (k, power)]
    return Rings(mean[0], mean[1], count[some] * frames)


def smooth_rings(ratio: np.ndarray, modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of every ring and its neighbours, and its relative deviation.

    Examples
    --------
    >>> smooth_rings(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0]))[0]
    array([1.5, 2. , 2.5])
    """
    kernel = np.ones(min(SMOOTH, ratio.size))
    weight = np.convolve(modes, kernel, "same")
    return np.convolve(ratio * modes, kernel, "same") / weight, 1 / np.sqrt(weight)


def mask_spots(power: np.ndarray, shape: tuple[int, int], *, frames: float = 1.0, shared: float = 1.0,
               rounds: int = 10) -> np.ndarray:
    """Find what stands out of its ring: fringes of a hologram, lattice spots, streaks of a read-out.

    The power of noise in a mode has a gamma distribution about the mean of its ring; squares
    whose mean power it would reach by chance in less than a tenth of all such spectra, and
    which are above `SPOT` times the ring, are left out with their neighbours, until no more are
    found.

    Parameters
    ----------
    power, shape
        As for `ring_average`.
    frames : float
        Independent spectra that ``power`` is the mean of.
    shared : float
        Neighbouring modes that a window makes one, see `shared_modes`.
    rounds : int
        At most.

    Returns
    -------
    ndarray of bool, like ``power``
        True is a mode of noise that `ring_average` may use.
    """
    usable = usable_modes(shape)
    _, ring, n = ring_numbers(shape)
    use = usable.copy()
    limits = {}
    for side in SPOT_SIDES:
        order = frames * max(side**2 / shared, 1.0)
        limits[side] = max(float(stats.gamma.isf(0.1 / usable.sum(), order, scale=1 / order)), SPOT)
    for _ in range(rounds):
        count = np.bincount(ring[use], minlength=n)
        mean = np.bincount(ring[use], power[use], n) / np.maximum(count, 1)
        ratio = np.where(mean[ring] > 0, power / np.where(mean[ring] > 0, mean[ring], 1), 1.0)
        ratio = np.where(use, ratio, 1.0)
        found = np.zeros_like(use)
        for side, limit in limits.items():
            # columns mirror into the other half plane with the rows turned round; off the axes
            # that only matters within CROSS, so a plain reflection will do
            found |= ndimage.uniform_filter(ratio, side, mode=("wrap", "nearest")) > limit
        new = ndimage.binary_dilation(found & use, np.ones((5, 5), bool)) & use
        if not new.any():
            break
        use &= ~new
    return use
