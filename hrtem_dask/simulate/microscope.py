"""From an exit wave to expected images: aberrations, coherence, aperture, absorption, motion.

An exit wave is transformed once; every image costs one inverse transform of the band that its
lenses let through, and one pair of transforms to the grid that is wanted. Images are (y, x),
frequencies in 1/angstrom, defocus in angstrom, positive for underfocus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import constants, fft

from ..core.errors import InputError
from ..kernels.fourier_grid import fourier_resample, resize_spectrum
from .recipe import Imaging

__all__ = ["Optics", "draw_optics", "expected_image", "expected_images", "wavelength"]

#: amplitude of the transfer under which a frequency is left out
NOTHING = 1e-5
#: part of the aperture's radius over which its edge falls: a hard one rings, and no real one is that sharp
APERTURE_EDGE = 0.02


def wavelength(energy: float) -> float:
    """Relativistic electron wavelength [angstrom] at this energy [kV].

    Examples
    --------
    >>> round(wavelength(300), 5)
    0.01969
    """
    work = energy * 1e3 * constants.e
    momentum = np.sqrt(2 * constants.m_e * work + (work / constants.c) ** 2)
    return float(constants.h / momentum * 1e10)


@dataclass(frozen=True)
class Optics:
    """What the lenses, the apertures and the motion of the specimen do to one image.

    ``defocus``, ``cs``, ``focal_spread`` (1/e width), ``astigmatism`` (C12), ``coma`` (C21),
    ``blur`` (sigma) and ``drift`` (y, x) in angstrom; ``convergence`` and the angles in radian;
    ``aperture`` in 1/angstrom; ``absorption_length`` [angstrom of gold] is infinite where gold does
    not absorb.
    """

    defocus: float = 0.0
    cs: float = 0.0
    focal_spread: float = 0.0
    convergence: float = 0.0
    astigmatism: float = 0.0
    astigmatism_angle: float = 0.0
    aperture: float = np.inf
    absorption_length: float = np.inf
    blur: float = 0.0
    drift: tuple[float, float] = (0.0, 0.0)
    coma: float = 0.0
    coma_angle: float = 0.0

    def phase(self, ky: np.ndarray, kx: np.ndarray, energy: float) -> np.ndarray:
        """Aberration phase chi [radian] at these frequencies [1/angstrom].

        ``chi = 2 pi / lambda (C30 a^4 / 4 - defocus a^2 / 2 + C12 a^2 cos 2(phi - phi12) / 2 +
        C21 a^3 cos(phi - phi21) / 3)`` with the angles a = lambda k and phi = atan2(ky, kx):
        Krivanek, Dellby and Lupini, Ultramicroscopy 78, 1 (1999).
        """
        lam = wavelength(energy)
        k2 = ky**2 + kx**2
        chi = k2 * (0.5 * np.pi * lam**3 * self.cs * k2 - np.pi * lam * self.defocus)
        if self.astigmatism:
            along, across = np.cos(2 * self.astigmatism_angle), np.sin(2 * self.astigmatism_angle)
            chi += np.pi * lam * self.astigmatism * (float(along) * (kx**2 - ky**2) + float(2 * across) * kx * ky)
        if self.coma:
            direction = float(np.cos(self.coma_angle)) * kx + float(np.sin(self.coma_angle)) * ky
            chi += 2 / 3 * np.pi * lam**2 * self.coma * k2 * direction
        return chi

    def envelope(self, k2: np.ndarray, energy: float) -> np.ndarray:
        """Amplitude that coherence and aperture let through at these k^2 [1/angstrom^2].

        Temporal and (quasi-coherent) spatial coherence: Kirkland, Advanced Computing in Electron
        Microscopy, ch. 3.
        """
        lam = wavelength(energy)
        exponent = (0.5 * np.pi * lam * self.focal_spread) ** 2 * k2**2
        if self.convergence:
            exponent = exponent + (np.pi * self.convergence) ** 2 * k2 * (self.cs * lam**2 * k2 - self.defocus) ** 2
        passed = np.exp(-exponent)
        if np.isfinite(self.aperture):
            width = APERTURE_EDGE * self.aperture
            passed = passed * (0.5 - 0.5 * np.tanh((np.sqrt(k2) - self.aperture) / width))
        return passed

    def transfer(self, ky: np.ndarray, kx: np.ndarray, energy: float) -> np.ndarray:
        """Factor on the wave at these frequencies [1/angstrom]: envelope times exp(-i chi)."""
        # chi reaches thousands of radian at high frequencies: in float32 it would be wrong by 1e-4 and more
        chi = self.phase(np.asarray(ky, np.float64), np.asarray(kx, np.float64), energy)
        chi = np.remainder(chi, 2 * np.pi).astype(np.float32)
        passed = self.envelope((ky**2 + kx**2).astype(np.float32), energy)
        out = np.empty(chi.shape, np.complex64)
        np.multiply(passed, np.cos(chi), out=out.real, casting="same_kind")
        np.multiply(passed, np.sin(-chi), out=out.imag, casting="same_kind")
        return out

    def motion(self, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
        """Real factor of vibration and drift on the intensity at these frequencies."""
        still = (np.exp(-2 * (np.pi * self.blur * k) ** 2) for k in (ky, kx))
        factor = next(still) * next(still)
        if any(self.drift):
            phase = np.pi * (ky * float(self.drift[0]) + kx * float(self.drift[1]))
            phase[phase == 0] = 1e-9
            factor = factor * (np.sin(phase) / phase)
        return factor.astype(np.float32)

    def limit(self, energy: float, highest: float) -> float:
        """Frequency beyond which no more than 1e-5 of the wave's amplitude is let through [1/angstrom]."""
        k = np.linspace(0, highest, 512)
        passed = np.flatnonzero(self.envelope(k**2, energy) > NOTHING)
        return float(k[min(passed[-1] + 1, 511)]) if passed.size else highest


def expected_images(wave: np.ndarray, sampling: float | tuple[float, float], optics: Sequence[Optics], *,
                    energy: float = 300.0, gold_thickness: np.ndarray | None = None,
                    shapes: Sequence[tuple[int, int]] | None = None,
                    films: Sequence[np.ndarray | None] | None = None) -> list[np.ndarray]:
    """Expected intensities of one periodic exit wave under several optics.

    The wave is transformed once, and once more for every other absorption length or film.

    Parameters
    ----------
    wave : ndarray, complex, shape (y, x)
        Exit wave, incident intensity 1.
    sampling : float or (float, float)
        Of the wave (y, x) [angstrom].
    optics : sequence of Optics
        One for each image.
    energy : float
        [kV]
    gold_thickness : ndarray, optional
        Projected gold [angstrom] at any sampling over the same field, for absorption.
    shapes : sequence of (int, int), optional
        Samples (y, x) of each image over the same field; by default (2 y, 2 x), which holds all
        that an image of this wave can have. A coarser grid holds what is below its Nyquist frequency.
    films : sequence of ndarray or None, optional
        Factor (y, x) on the wave for each image, None for none.

    Returns
    -------
    list of ndarray, float32, shape (y, x)
        Electrons for each incident electron.

    Examples
    --------
    >>> wave = np.exp(1j * 0.1 * np.cos(2 * np.pi * np.arange(40) / 10))[None].repeat(40, 0)
    >>> flat, under = expected_images(wave, 0.25, [Optics(), Optics(defocus=160)])
    >>> bool(np.ptp(flat) < 1e-5), bool(np.ptp(under) > 0.3)
    (True, True)
    """
    sampling = (float(sampling),) * 2 if np.ndim(sampling) == 0 else tuple(map(float, sampling))
    wave = np.asarray(wave, np.complex64)
    if wave.ndim != 2 or min(sampling) <= 0:
        raise InputError(f"found a wave of shape {wave.shape} with sampling {sampling}; expected (y, x) and angstrom "
                         "above 0")
    shapes = shapes or [(2 * wave.shape[0], 2 * wave.shape[1])] * len(optics)
    spectra: dict[tuple, np.ndarray] = {}
    plain, out = (np.inf, None), []
    for lens, shape, film in zip(optics, shapes, films or [None] * len(optics), strict=True):
        length = lens.absorption_length if gold_thickness is not None else np.inf
        key = (length, None if film is None else id(film))
        if key not in spectra:
            spectra = {k: v for k, v in spectra.items() if k == plain}
            entering = _absorbed(wave, gold_thickness, length)
            spectra[key] = fft.fft2(entering if film is None else entering * film)
        out.append(_image(spectra[key], sampling, lens, energy, tuple(shape)))
    return out


def expected_image(wave: np.ndarray, sampling: float | tuple[float, float], optics: Optics, *, energy: float = 300.0,
                   gold_thickness: np.ndarray | None = None, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Return the one image of `expected_images` for one optics: float32, (2 y, 2 x) unless a shape is given."""
    return expected_images(wave, sampling, [optics], energy=energy, gold_thickness=gold_thickness,
                           shapes=None if shape is None else [shape])[0]


def _absorbed(wave: np.ndarray, thickness: np.ndarray | None, length: float) -> np.ndarray:
    if thickness is None or not np.isfinite(length):
        return wave
    return wave * np.exp(np.clip(fourier_resample(thickness, wave.shape), 0, None) * np.float32(-0.5 / length))


def _image(spectrum: np.ndarray, sampling: tuple[float, float], optics: Optics, energy: float,
           shape: tuple[int, int]) -> np.ndarray:
    """Intensity of a wave's spectrum under these optics, on a grid of this shape over the same period."""
    period = [n * s for n, s in zip(spectrum.shape, sampling, strict=True)]
    top = np.hypot(*(0.5 / s for s in sampling))
    limit = optics.limit(energy, top)
    # an even number of samples of the wave would leave one frequency without its counterpart
    band = [n if limit >= top else min(n, 2 * int(limit * p) + 3)
            for n, p in zip(spectrum.shape, period, strict=True)]
    grid = [fft.next_fast_len(2 * n) for n in band]
    ky, kx = (_frequencies(n, p) for n, p in zip(band, period, strict=True))
    part = _crop(spectrum, band) * optics.transfer(ky[:, None], kx[None], energy)
    scale = np.float32(grid[0] * grid[1] / spectrum.size)
    amplitude = fft.ifft2(_crop(part, grid) * scale, overwrite_x=True)
    image = amplitude.real**2 + amplitude.imag**2
    still = not (optics.blur or any(optics.drift))
    if still and tuple(grid) == shape:
        return image
    half = fft.rfft2(image)
    if not still:
        ky, kx = _frequencies(grid[0], period[0]), _frequencies(grid[1], period[1])[:half.shape[1]]
        half *= optics.motion(ky[:, None].astype(np.float32), np.abs(kx)[None].astype(np.float32))
    if tuple(grid) != shape:
        half = resize_spectrum(half, shape, columns=grid[1])
    return fft.irfft2(half, s=shape)


def _frequencies(n: int, period: float) -> np.ndarray:
    return np.fft.fftfreq(n, period / n)


def _crop(spectrum: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Spectrum on a smaller or larger grid, every frequency kept that both have."""
    if tuple(shape) == spectrum.shape:
        return spectrum
    out = np.zeros(tuple(shape), np.complex64)
    n, m = (min(a, b) for a, b in zip(shape, spectrum.shape, strict=True))
    # as fftfreq counts: (n + 1) // 2 frequencies from 0 up, n // 2 negative ones
    for y in (slice(0, (n + 1) // 2), slice(-(n // 2), None)):
        for x in (slice(0, (m + 1) // 2), slice(-(m // 2), None)):
            out[y, x] = spectrum[y, x]
    return out


def draw_optics(imaging: Imaging, rng: np.random.Generator) -> Optics:
    """Draw the microscope of one image."""
    underfocus = rng.random() >= imaging.overfocus_fraction
    corrected = rng.random() < imaging.corrected_fraction
    angle, drift = rng.uniform(0, np.pi), imaging.drift.draw(rng)
    later = rng.spawn(1)[0]  # the stream of what was drawn before there was coma stays as it was
    return Optics(
        defocus=imaging.defocus.draw(rng) * (1 if underfocus else -imaging.overfocus_part),
        cs=(imaging.cs_corrected if corrected else imaging.cs).draw(rng) * 1e7,
        focal_spread=imaging.focal_spread.draw(rng),
        convergence=imaging.convergence.draw(rng) * 1e-3,
        astigmatism=imaging.astigmatism.draw(rng),
        astigmatism_angle=rng.uniform(0, np.pi),
        aperture=imaging.aperture.draw(rng) if rng.random() < imaging.aperture_fraction else np.inf,
        absorption_length=(imaging.absorption_length.draw(rng)
                           if rng.random() < imaging.absorption_fraction else np.inf),
        blur=imaging.blur.draw(rng),
        drift=(drift * np.sin(angle), drift * np.cos(angle)),
        coma=imaging.coma.draw(later),
        coma_angle=later.uniform(0, 2 * np.pi),
    )
