"""What a real image holds besides the simulated field: more film, an uneven background, a veil of stray electrons.

None of it needs a multislice: it is drawn anew for every image, from the section ``imaging`` of a
recipe, and is off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import constants, fft

from .microscope import wavelength
from .recipe import Imaging

__all__ = ["Clutter", "added_film", "draw_clutter", "film_spectrum", "uneven"]

#: elastic scattering of carbon, f(k) = sum a exp(-b k^2 / 4) [angstrom]: Peng, Ren, Dudarev and Whelan, Acta
#: Crystallographica A52, 257 (1996)
CARBON = ((0.0893, 0.2465), (0.2563, 1.7100), (0.7570, 6.4094), (1.0487, 18.6113), (0.3575, 50.2523))
DENSITY = 0.09  # atoms/angstrom^3, of the carbon that is added
#: distance between the random numbers that `uneven` smooths, in correlation lengths: at 0.5 the variance is
#: the same everywhere to 1 part in 10^3
SPACING = 0.5


@dataclass(frozen=True)
class Clutter:
    """What is added to one image.

    Attributes
    ----------
    film : float
        Thickness of amorphous carbon [angstrom].
    height : float
        From the plane of the wave up to that film [angstrom].
    veil : float
        Part of the electrons that carry no image: they arrive evenly spread.
    unevenness : float
        Root mean square of the relative change of the intensity where the specimen is thicker or thinner.
    length : float
        Over which that changes [angstrom].
    """

    film: float = 0.0
    height: float = 0.0
    veil: float = 0.0
    unevenness: float = 0.0
    length: float = 100.0


def draw_clutter(imaging: Imaging, rng: np.random.Generator) -> Clutter:
    """Draw what is added to one image."""
    film = imaging.added_film.draw(rng) * bool(rng.random() < imaging.added_film_fraction)
    return Clutter(film, imaging.added_film_height.draw(rng), imaging.veil.draw(rng),
                   imaging.unevenness.draw(rng), imaging.unevenness_length.draw(rng))


def film_spectrum(k: np.ndarray, thickness: float, energy: float) -> np.ndarray:
    """Power spectrum of the phase of a film of carbon atoms at random places.

    ``density * thickness * (lambda gamma f(k))^2`` with the scattering f of a resting electron: the
    atoms of the first Born approximation, each for itself.

    Parameters
    ----------
    k : ndarray
        Frequency [1/angstrom].
    thickness : float
        [angstrom]
    energy : float
        [kV]

    Returns
    -------
    ndarray
        [radian^2 angstrom^2]
    """
    gamma = 1 + energy * 1e3 * constants.e / (constants.m_e * constants.c**2)
    scattering = sum(a * np.exp(-b / 4 * k**2) for a, b in CARBON)
    return DENSITY * thickness * (wavelength(energy) * gamma * scattering) ** 2


def added_film(n: int, box: float, clutter: Clutter, energy: float, rng: np.random.Generator) -> np.ndarray | None:
    """Draw the transmission of a film that lies above or below the plane of the wave.

    A random phase, carried to the plane of the wave: right where the field itself scatters weakly.

    Parameters
    ----------
    n : int
        Samples along each axis of the wave.
    box : float
        Side of the field [angstrom].
    clutter : Clutter
    energy : float
        [kV]
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, complex64, shape (n, n), or None
        Factor on the wave, periodic, mean intensity 1; None without a film.
    """
    if not clutter.film:
        return None
    half = fft.rfft2(rng.standard_normal((n, n), np.float32))
    half *= _of_a_thin_film(n, box, energy) * np.float32(np.sqrt(clutter.film))
    phase = fft.irfft2(half, s=(n, n), overwrite_x=True)
    out = np.empty((n, n), np.complex64)
    np.cos(phase, out=out.real)
    np.sin(phase, out=out.imag)
    if clutter.height:
        turn = _squared_frequency(n, box) * np.float32(-np.pi * wavelength(energy) * clutter.height)
        carried = np.empty_like(out)
        np.cos(turn, out=carried.real)
        np.sin(turn, out=carried.imag)
        out = fft.ifft2(fft.fft2(out, overwrite_x=True) * carried, overwrite_x=True)
    return out


@lru_cache(maxsize=2)
def _squared_frequency(n: int, box: float) -> np.ndarray:
    """k^2 [1/angstrom^2] of the transform of n x n samples, float32."""
    k = fft.fftfreq(n, box / n)
    return (k[:, None] ** 2 + k[None] ** 2).astype(np.float32)


@lru_cache(maxsize=2)
def _of_a_thin_film(n: int, box: float, energy: float) -> np.ndarray:
    """Factor that makes white noise on n x n samples the phase of 1 angstrom of film, in the half transform."""
    k = np.sqrt(_squared_frequency(n, box)[:, : n // 2 + 1])
    # white noise of variance 1 on samples of area A has the power A
    return (np.sqrt(film_spectrum(k, 1.0, energy)) * (n / box)).astype(np.float32)


def uneven(n: int, sampling: float, clutter: Clutter, rng: np.random.Generator) -> np.ndarray | None:
    """Draw the smooth relative change of the intensity that film of varying thickness makes.

    Parameters
    ----------
    n : int
        Samples along each axis.
    sampling : float
        [angstrom]
    clutter : Clutter
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, float32, shape (n, n), or None
        Factor on the intensity, ``exp(unevenness * g)`` with a Gaussian random field g of mean 0 and
        standard deviation 1, whose correlation has fallen to 1/e over `length`; None without it.
    """
    if not clutter.unevenness:
        return None
    width = clutter.length / 2  # of the smoothing, which makes a correlation exp(-(r / (2 width))^2)
    centres = np.arange(-4 * width, n * sampling + 4 * width, SPACING * clutter.length)
    apart = ((np.arange(n)[:, None] * sampling - centres[None]) / width).astype(np.float32)
    smooth = np.exp(-0.5 * apart**2)
    smooth /= np.sqrt((smooth**2).sum(1, keepdims=True))
    field = smooth @ (rng.standard_normal((len(centres),) * 2, np.float32) * np.float32(clutter.unevenness)) @ smooth.T
    return np.exp(field, out=field)
