"""Power spectra with their frequency axes, of a crop and of an entire image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft

from .crop import Crop, masked_crop

__all__ = ["MTF_FLOOR", "Spectrum", "display", "frequency_axis", "full_power", "image_spectrum", "power_spectrum"]

#: above this many padded samples a side the transform runs in single precision, to bound the memory
LARGE = 4096
#: below this the detector passes nothing, and dividing by its square would only make numbers overflow
MTF_FLOOR = 1e-3


@dataclass(frozen=True)
class Spectrum:
    """Power ``abs(F)**2``, zero frequency in the middle, with its axes.

    Attributes
    ----------
    power : ndarray, shape (k_y, k_x)
        [counts^2], of the unnormalised transform, divided by MTF^2 where an MTF was given.
    window : ndarray, shape (k_y, k_x)
        Power of the crop's weight: the shape that every lattice spot has.
    k_y, k_x : ndarray
        Spatial frequencies [1/angstrom], uniform, ascending.
    response : ndarray, shape (k_y, k_x), or None
        The MTF by whose square the power was divided.
    """

    power: np.ndarray
    window: np.ndarray
    k_y: np.ndarray
    k_x: np.ndarray
    response: np.ndarray | None = None

    @property
    def step(self) -> tuple[float, float]:
        """Frequency step (y, x) [1/angstrom]."""
        return float(self.k_y[1] - self.k_y[0]), float(self.k_x[1] - self.k_x[0])

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Outer edges (left, right, bottom, top) of the first and last samples, for matplotlib's imshow, y down."""
        dy, dx = self.step
        return (float(self.k_x[0] - dx / 2), float(self.k_x[-1] + dx / 2),
                float(self.k_y[-1] + dy / 2), float(self.k_y[0] - dy / 2))


def frequency_axis(n: int, d: float) -> np.ndarray:
    """Ascending frequencies of a shifted transform of n samples at the step d [1/angstrom]."""
    return np.fft.fftshift(np.fft.fftfreq(n, d))


def power_spectrum(crop: Crop, *, pad: float = 2.0, mtf: Callable[[np.ndarray], np.ndarray] | None = None) -> Spectrum:
    """Power spectrum of a crop, zero-padded to a square of at least ``pad`` times its longer side.

    The square is one of angstrom: both axes get the same frequency step for square pixels, and
    the same up to the rounding to a fast transform length for others.

    Parameters
    ----------
    crop : Crop
        From `masked_crop`.
    pad : float
        Side of the padded square over the longer side of the crop.
    mtf : callable, optional
        Amplitude MTF of frequencies in units of Nyquist; the power is divided by its square.

    Returns
    -------
    Spectrum
        Zero frequency in the middle.

    Examples
    --------
    >>> x = np.arange(64) * 0.5
    >>> crop = masked_crop(np.cos(2 * np.pi * 0.4 * x) + 0 * x[:, None], None, (0.5, 0.5))
    >>> s = power_spectrum(crop)
    >>> i, j = np.unravel_index(s.power.argmax(), s.power.shape)
    >>> float(s.k_y[i]), bool(abs(abs(s.k_x[j]) - 0.4) < 0.01)
    (0.0, True)
    """
    side = pad * max(n * d for n, d in zip(crop.data.shape, crop.pixel_size, strict=True))
    shape = tuple(fft.next_fast_len(int(np.ceil(side / d)), real=True) for d in crop.pixel_size)
    dtype = np.float32 if max(shape) > LARGE else np.float64
    power = full_power(crop.data.astype(dtype), shape)
    window = full_power(crop.weight.astype(dtype), shape)
    k_y, k_x = (frequency_axis(n, d) for n, d in zip(shape, crop.pixel_size, strict=True))
    response = None
    if mtf is not None:
        # each axis in units of its own Nyquist frequency
        radius = np.hypot(2 * k_y[:, None] * crop.pixel_size[0], 2 * k_x[None, :] * crop.pixel_size[1])
        response = np.asarray(mtf(radius.ravel()), dtype=np.float64).reshape(radius.shape)
        # a tabulated MTF may end at Nyquist, before the corners of the transform
        edge = float(np.asarray(mtf(np.ones(1)), dtype=np.float64)[0])
        response = np.maximum(np.abs(np.where(np.isfinite(response), response, edge)), MTF_FLOOR)
        power = power / response**2
    return Spectrum(power, window, k_y, k_x, response)


def full_power(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Power of a zero-padded real array in all four quadrants, at the cost of the half transform."""
    half = np.abs(fft.rfft2(data, s=shape)) ** 2
    ny, nx = shape
    out = np.empty(shape, dtype=half.dtype)
    out[:, : half.shape[1]] = half
    mirror = np.arange(half.shape[1], nx)
    out[:, mirror] = half[-np.arange(ny) % ny][:, nx - mirror]  # Friedel: P(-k) = P(k)
    return np.fft.fftshift(out)


def image_spectrum(image: np.ndarray, pixel_size: tuple[float, float]) -> Spectrum:
    """Spectrum of an entire image under a Hann window, without padding (third panel of figure 1)."""
    return power_spectrum(masked_crop(image, None, pixel_size), pad=1.0)


def display(spectrum: Spectrum, *, k_max: float | None = None) -> tuple[np.ndarray, Spectrum]:
    """Logarithm of the power for a picture, cut to ``k_max``, in decades above its median.

    Returns
    -------
    (ndarray, Spectrum)
        The picture (k_y, k_x), and the cut spectrum with the axes that belong to it.
    """
    limit = np.inf if k_max is None else k_max
    rows, cols = np.abs(spectrum.k_y) <= limit, np.abs(spectrum.k_x) <= limit
    box = np.ix_(rows, cols)
    cut = Spectrum(spectrum.power[box], spectrum.window[box], spectrum.k_y[rows], spectrum.k_x[cols])
    middle = float(np.median(cut.power))
    floor = middle if middle > 0 else 1.0
    return np.log10(np.maximum(cut.power / floor, 1e-3)), cut
