"""The noise of one image and how neighbouring pixels share it, from frequencies that no lens transfers.

The power of the noise is written as a sum of Gaussians of the frequency, each of which is a product
of one of y and one of x: so is the covariance of two pixels, and sums over windows split into axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import fft, optimize

from .camera import mtf_curve, radial_frequency

__all__ = ["WINDOW", "Noise", "Spectrum", "correlation", "fit_noise", "noise_spectrum", "windows_of"]

#: side of a window whose spectrum is taken [pixel]
WINDOW = 256
#: no column has contrast at spacings below this [angstrom]: what lies beyond is noise
LIMIT = 0.7
#: with pixels too large for that, this part of the spectrum below Nyquist is taken for noise
LAST = 0.25
#: widths of the Gaussians of the frequency [Nyquist]; the last one is white
WIDTHS = (0.2, 0.28, 0.4, 0.56, 0.8, 1.1, np.inf)
RINGS = 64
#: MTFs that a camera may have, also where its pixels are binned by two, see `kernels.camera.mtf_curve`
SCALES, POWERS, FLOORS = np.geomspace(0.3, 1.3, 18), np.linspace(1.7, 3.1, 8), (0.0, 0.04, 0.08)
#: neighbouring modes that the taper makes one
SHARED = 2.25
#: what is beyond this many deviations of a window is an X-ray or a hot pixel
OUTLIER = 8.0


@dataclass(frozen=True)
class Spectrum:
    """Sums over windows of an image: power on rings, that of second differences, windows, counts, known pixels."""

    power: np.ndarray
    rough: float
    windows: int
    total: float
    known: float

    @classmethod
    def none(cls) -> Spectrum:
        """Of no window."""
        return cls(np.zeros(RINGS + 1), 0.0, 0, 0.0, 0.0)

    def __add__(self, other: Spectrum) -> Spectrum:
        return Spectrum(self.power + other.power, self.rough + other.rough, self.windows + other.windows,
                        self.total + other.total, self.known + other.known)


@dataclass(frozen=True)
class Noise:
    """Noise of an image.

    Attributes
    ----------
    amplitude : ndarray, shape (len(WIDTHS),)
        Of the Gaussians [counts^2].
    rough : float
        Mean square of the image's second difference along both axes [counts^2].
    mean : float
        Of the image [counts].
    """

    amplitude: np.ndarray
    rough: float
    mean: float


def windows_of(n: int, side: int = WINDOW) -> list[int]:
    """Where windows begin along an axis of n pixels: side by side, the last one ends with the axis.

    Examples
    --------
    >>> windows_of(600), windows_of(100)
    ([0, 256, 344], [0])
    """
    if n <= side:
        return [0]
    starts = list(range(0, n - side + 1, side))
    return starts if starts[-1] + side == n else [*starts, n - side]


@lru_cache(maxsize=8)
def _rings(shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Ring of every mode, modes of a ring, how often a column counts, response of second differences, taper.

    The ring `RINGS` is beyond Nyquist.
    """
    k = radial_frequency(shape)
    ring = np.minimum((k * RINGS).astype(np.int64), RINGS).ravel()
    twice = np.full(shape[1] // 2 + 1, 2.0, np.float32)
    twice[0] = 1
    if shape[1] % 2 == 0:
        twice[-1] = 1
    y, x = (2 - 2 * np.cos(2 * np.pi * f) for f in (np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])))
    taper = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) for n in shape))
    return (ring, np.bincount(ring, np.broadcast_to(twice, k.shape).ravel(), RINGS + 1), twice,
            ((y**2)[:, None] * x**2 / np.prod(shape)).astype(np.float32),
            (taper / np.sqrt(np.mean(taper**2))).astype(np.float32))


def noise_spectrum(window: np.ndarray, fresh: tuple[slice, slice] | None = None) -> Spectrum:
    """Spectrum of one window of an image.

    Parameters
    ----------
    window : ndarray, shape (y, x)
    fresh : (slice, slice), optional
        The pixels that no other window counts, for the mean.
    """
    values = window.astype(np.float64)
    part = fresh or (slice(None), slice(None))
    filled, mean = 1.0, float(values.mean())
    if np.isfinite(mean):
        count, total = values[part].size, float(values[part].sum())
    else:
        known = np.isfinite(values)
        filled, mean = float(known.mean()), values[known].mean() if known.any() else 0.0
        count, total = int(known[part].sum()), float(values[part][known[part]].sum())
        values = np.where(known, values, mean)
    values -= mean
    ring, _, twice, response, taper = _rings(window.shape)
    values = values.astype(np.float32)
    limit = OUTLIER * np.sqrt(np.mean(values**2))
    np.clip(values, -limit, limit, out=values)
    modes = fft.rfft2(values * taper)
    power = (modes.real**2 + modes.imag**2) * (twice / (window.size * max(filled, 1e-3)))
    return Spectrum(np.bincount(ring, power.ravel(), RINGS + 1), float(np.vdot(power, response)), 1, total, count)


def fit_noise(spectrum: Spectrum, shape: tuple[int, int], pixel_size: tuple[float, float],
              mtf: Callable[[np.ndarray], np.ndarray] | None = None) -> Noise:
    """Find the noise of an image from its power at high frequencies.

    Parameters
    ----------
    spectrum : Spectrum
        Sum over the windows of the image.
    shape : (int, int)
        Of a window.
    pixel_size : (float, float)
        (y, x) [angstrom].
    mtf : callable, optional
        Amplitude MTF of the frequency in units of Nyquist: then the noise is its square and a white part.
        Else the mean over the curves of `kernels.camera.mtf_curve`, each as likely as it fits.

    Returns
    -------
    Noise
    """
    modes = _rings(shape)[1][:RINGS]
    k = (np.arange(RINGS) + 0.5) / RINGS
    mean = spectrum.total / max(spectrum.known, 1)
    power = spectrum.power[:RINGS] / np.maximum(modes, 1) / max(spectrum.windows, 1)
    use = (k > min(2 * max(pixel_size) / LIMIT, 1 - LAST)) & (modes > 0)
    scale = float(power[use].mean()) if use.any() else 0.0
    if not scale > 0:
        return Noise(np.zeros(len(WIDTHS)), 0.0, mean)
    curves = _curves() if mtf is None else np.asarray(mtf(k), dtype=np.float64)[None] ** 2
    weight = modes[use] / np.maximum(power[use], 1e-3 * scale) ** 2 / SHARED
    amplitude, white, misfit = _with_white(curves[:, use], power[use], weight)
    chance = np.exp(-0.5 * (misfit - misfit.min()))
    chance /= chance.sum()
    shape = (chance * amplitude) @ curves + chance @ white
    found = optimize.nnls(np.exp(-0.5 * (k[:, None] / np.array(WIDTHS)) ** 2), shape)[0]
    return Noise(found, spectrum.rough / max(spectrum.windows, 1), mean)


@lru_cache(maxsize=1)
def _curves() -> np.ndarray:
    """Squares of MTFs as cameras have them, (curve, ring)."""
    k = (np.arange(RINGS) + 0.5) / RINGS
    return np.array([mtf_curve(k, *shape) ** 2 for shape in product(SCALES, POWERS, FLOORS)])


def _with_white(curves: np.ndarray, power: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """Amplitude of each curve, white power beside it, neither negative, and the sum of squares that is left."""
    cc, c1, n = curves**2 @ weight, curves @ weight, weight.sum()
    cp, p1 = curves @ (weight * power), weight @ power
    white = np.maximum((cc * p1 - c1 * cp) / np.maximum(cc * n - c1**2, 1e-12 * cc * n), 0)
    amplitude = (cp - white * c1) / cc
    white = np.where(amplitude < 0, p1 / n, white)
    amplitude = np.maximum(amplitude, 0)
    return amplitude, white, (power - amplitude[:, None] * curves - white[:, None]) ** 2 @ weight


@lru_cache(maxsize=32)
def correlation(n: int) -> np.ndarray:
    """Covariance of n pixels in a row for each of the Gaussians, (len(WIDTHS), n, n).

    Examples
    --------
    >>> correlation(4)[-1].round(6).tolist() == np.eye(4).tolist()
    True
    """
    k = (np.arange(4096) + 0.5) / 4096
    lag = np.cos(np.pi * k * np.arange(n)[:, None])
    rows = np.array([(lag * np.exp(-0.5 * (k / w) ** 2)).mean(axis=1) for w in WIDTHS])
    return rows[:, np.abs(np.subtract.outer(np.arange(n), np.arange(n)))]
