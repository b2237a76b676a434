"""What a camera does to one image: its modulation transfer function, and how it counts electrons.

The one place for the MTF's parametric form and for filtering an image with it: the simulation
and the detector both call it. Frequencies are in units of the Nyquist frequency of the
detector's pixels: 1.0 is half a cycle a pixel along an axis, sqrt(2) the corner of the plane.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

from ..core.errors import InputError

__all__ = ["CORNER", "digitise", "expose", "filter_images", "mtf_curve", "pedestal", "radial_frequency", "read_out"]

#: frequency of the corner of the plane [Nyquist]
CORNER = float(np.sqrt(2.0))
#: standard deviations of the read noise by which a pedestal lifts the counts above 0
PEDESTAL = 6.0


def mtf_curve(k: np.ndarray, scale: float, power: float, floor: float, tail: float = 1.0, halo: float = 0.0,
              halo_scale: float = 1.0) -> np.ndarray:
    """Amplitude MTF ``floor + (1 - floor) / (1 + (k / scale)^power)``, and two ways to depart from it.

    The form of PyQSTEM and abTEM, ``(c0 - c1) / (1 + (k / (2 c2))^c3) + c1`` with c0 = 1, in
    units of Nyquist: ``scale`` is 2 c2, ``power`` is c3, ``floor`` is c1.

    Parameters
    ----------
    k : ndarray
        Frequency [Nyquist], not negative.
    scale : float
        Frequency at which the part above the floor has fallen to one half [Nyquist].
    power : float
        How steeply it falls.
    floor : float
        What it falls to.
    tail : float
        ``1 / (1 + x)`` with x = (k / scale)^power becomes ``(1 + tail x)^(-1 / tail)``: 1 is the form
        above, 0 is exp(-x), a Gaussian for power 2; the curve then does not pass one half at ``scale``.
    halo, halo_scale : float
        Part of the curve above the floor that is ``exp(-(k / halo_scale)^2)`` instead.

    Returns
    -------
    ndarray
        1 at k = 0; the shape and the floating dtype of ``k``.

    Examples
    --------
    >>> mtf_curve(np.array([0.0, 0.5, 1.0]), 0.5, 2.0, 0.0)
    array([1. , 0.5, 0.2])
    """
    x = (k / scale) ** power
    fall = 1 / (1 + x) if tail == 1 else np.exp(-(np.log1p(tail * x) / tail if tail > 1e-6 else x))
    if halo:
        fall = (1 - halo) * fall + halo * np.exp(-((k / halo_scale) ** 2))
    return floor + (1 - floor) * fall


def radial_frequency(shape: tuple[int, int], pixel: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Distance from the origin of every sample of the half transform `scipy.fft.rfft2` [Nyquist].

    Parameters
    ----------
    shape : (int, int)
        Of the image (y, x).
    pixel : (float, float)
        Size (y, x) of the image's samples in pixels of the detector: (2, 2) where it was binned
        by two.

    Returns
    -------
    ndarray, float64, shape (y, x // 2 + 1)

    Examples
    --------
    >>> radial_frequency((4, 2)).round(3)
    array([[0.   , 1.   ],
           [0.5  , 1.118],
           [1.   , 1.414],
           [0.5  , 1.118]])
    """
    ky = np.fft.fftfreq(shape[0]) * 2 / pixel[0]
    kx = np.fft.rfftfreq(shape[1]) * 2 / pixel[1]
    return np.hypot(ky[:, None], kx[None, :])


def filter_images(images: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Multiply the spectrum of periodic images by a real response.

    Parameters
    ----------
    images : ndarray, shape (..., y, x)
        Real; float32 stays float32, all else becomes float64.
    response : ndarray, shape (y, x // 2 + 1)
        Factor at the frequencies of the half transform.

    Returns
    -------
    ndarray, shape (..., y, x)

    Raises
    ------
    InputError
        If a pixel is not finite: the transform would spread it over the whole image.

    Examples
    --------
    >>> point = np.zeros((4, 5)); point[1, 2] = 7
    >>> filter_images(point, np.ones((4, 3))).round(6).max()
    np.float64(7.0)
    """
    images = images if images.dtype == np.float32 else np.asarray(images, dtype=np.float64)
    bad = images.size - int(np.count_nonzero(np.isfinite(images)))
    if bad:
        raise InputError(f"{bad} pixel(s) of the image are not finite, and a filter would spread them over all of it; "
                         "expected numbers. Fill them first, as with np.nan_to_num(image, nan=np.nanmean(image))")
    spectrum = fft.rfft2(images, axes=(-2, -1))
    spectrum *= response.astype(images.dtype)
    return fft.irfft2(spectrum, s=images.shape[-2:], axes=(-2, -1))


def expose(expectation: np.ndarray, response: np.ndarray | None, rng: np.random.Generator, *,
           counting: bool = False) -> np.ndarray:
    """Draw the electrons of one image and blur them as the detector does.

    An integrating camera (scintillator, or direct without counting) catches electrons and then
    spreads each one's signal: Poisson first, then the MTF, so that the noise has the spectrum
    dose * MTF^2. A counting camera places each electron somewhere and adds one: the MTF acts on
    the expectation, then Poisson, and the noise is white.

    Parameters
    ----------
    expectation : ndarray, shape (y, x)
        Expected electrons a pixel.
    response : ndarray, shape (y, x // 2 + 1), or None
        MTF at the frequencies of the half transform; None leaves the blur out.
    rng : numpy.random.Generator
    counting : bool
        Of the second kind.

    Returns
    -------
    ndarray, float32, shape (y, x)
        Electrons a pixel.

    Examples
    --------
    >>> image = expose(np.full((64, 64), 20.0), None, np.random.default_rng(0))
    >>> bool(abs(image.mean() - 20) < 0.5), image.dtype
    (True, dtype('float32'))
    """
    if counting:
        if response is not None:
            expectation = filter_images(expectation, response)
        return rng.poisson(np.clip(expectation, 0, None)).astype(np.float32)
    electrons = rng.poisson(np.clip(expectation, 0, None)).astype(np.float32)
    return electrons if response is None else filter_images(electrons, response)


def pedestal(read_noise: float, gain: float) -> float:
    """Counts without electrons that keep the read noise above 0: six standard deviations, rounded up.

    Parameters
    ----------
    read_noise : float
        Root mean square [electrons].
    gain : float
        Counts per electron.

    Returns
    -------
    float
        0 where there is no read noise, as in a counting camera.

    Examples
    --------
    >>> pedestal(3.0, 1.0), pedestal(0.3, 1.5), pedestal(0.0, 20.0)
    (18.0, 3.0, 0.0)
    """
    return float(np.ceil(PEDESTAL * read_noise * gain))


def read_out(electrons: np.ndarray, rng: np.random.Generator, *, gain: float = 1.0, offset: float = 0.0,
             read_noise: float = 0.0) -> np.ndarray:
    """Add the noise of the read-out to the electrons of one image, and make counts of them.

    Parameters
    ----------
    electrons : ndarray, float32, shape (y, x)
        Is changed.
    rng : numpy.random.Generator
    gain : float
        Counts per electron.
    offset : float
        Counts without electrons.
    read_noise : float
        Root mean square [electrons].

    Returns
    -------
    ndarray, float32, shape (y, x)
        Counts, not rounded and not clipped.

    Examples
    --------
    >>> read_out(np.full((1, 2), 3, np.float32), np.random.default_rng(0), gain=5, offset=100).tolist()
    [[115.0, 115.0]]
    """
    if read_noise:
        electrons += rng.normal(0, read_noise, electrons.shape).astype(np.float32)
    if gain != 1:
        electrons *= np.float32(gain)
    if offset:
        electrons += np.float32(offset)
    return electrons


def digitise(counts: np.ndarray, dtype: np.dtype | type, top: float | None = None) -> np.ndarray:
    """Round counts and clip them to what integers of this kind hold, and to `top` where that is given.

    Examples
    --------
    >>> digitise(np.array([-3.2, 7.6, 1e6]), np.uint16, 5000.0).tolist()
    [0, 8, 5000]
    """
    limits = np.iinfo(dtype)
    whole = np.rint(counts, dtype=np.float64)  # float32 has no number for the largest of 32 bits
    return np.clip(whole, limits.min, min(limits.max, np.inf if top is None else top)).astype(dtype)
