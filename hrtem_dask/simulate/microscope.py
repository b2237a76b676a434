"""From atoms to counts: multislice (abTEM), aberrations, dose, detector MTF.

Images are (y, x). abTEM and the positions are (x, y): `to_image_axes` is the one place where
the axes change. Frequencies in 1/angstrom, defocus in angstrom, positive for underfocus.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from scipy import fft

from .recipe import Field, Imaging
from .structures import Specimen

__all__ = ["Camera", "Optics", "draw_camera", "draw_optics", "exit_wave", "expected_image", "fourier_resample",
           "record", "to_image_axes", "wavelength"]

#: a camera finer than half of this is binned in the simulation, see `Camera.binned`
BINNED_SAMPLING = 0.3  # angstrom
MTF_MARGIN = 16  # pixel


def wavelength(energy: float) -> float:
    """Relativistic electron wavelength [angstrom] at this energy [kV].

    Examples
    --------
    >>> round(wavelength(300), 5)
    0.01969
    """
    return float(12.2642 / np.sqrt(energy * 1e3 * (1 + 0.97848e-6 * energy * 1e3)))


def to_image_axes(array: np.ndarray) -> np.ndarray:
    """Turn abTEM's (x, y) into the package's (y, x)."""
    return np.ascontiguousarray(np.swapaxes(array, -1, -2))


class _SharedSettings:
    """Settings of abTEM and Dask while any thread is in here: they are global, and so is undoing them."""

    def __init__(self) -> None:
        self.lock, self.inside, self.stack = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        import abtem
        import dask

        with self.lock:
            self.inside += 1
            if self.inside == 1:
                # measured FFTW plans differ from run to run, and so would the last bits of the wave
                settings = {"precision": "float32", "diagnostics.progress_bar": False, "device": "cpu",
                            "fftw.planning_effort": "FFTW_ESTIMATE", "fftw.threads": 1}
                self.stack.enter_context(abtem.config.set(settings))
                self.stack.enter_context(dask.config.set(scheduler="synchronous"))

    def __exit__(self, *_error: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.stack.close()


_SETTINGS = _SharedSettings()


def exit_wave(specimen: Specimen, field: Field, *, points: tuple[int, int] | None = None,
              stored: tuple[int, int] | None = None) -> np.ndarray:
    """Multislice of one specimen, cropped in Fourier space to the stored sampling.

    Parameters
    ----------
    specimen : Specimen
    field : Field
        Energy, sampling and slice thickness.
    points, stored : (int, int), optional
        Samples (y, x) of the multislice and of the result; by default those of `field`.

    Returns
    -------
    ndarray, complex64, shape (y, x)
        Mean intensity close to 1, periodic.
    """
    import abtem
    from ase import Atoms

    ny, nx = points or (field.wave_points,) * 2
    atoms = Atoms(numbers=np.repeat([79, 6], [len(specimen.gold), len(specimen.carbon)]),
                  positions=np.concatenate([specimen.gold, specimen.carbon]), cell=specimen.box, pbc=True)
    with _SETTINGS:
        potential = abtem.Potential(atoms, gpts=(nx, ny), slice_thickness=field.slice_thickness)
        wave = abtem.PlaneWave(energy=field.energy * 1e3).multislice(potential, lazy=False)
    return fourier_resample(to_image_axes(wave.array), stored or (field.stored_points,) * 2)


def fourier_resample(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample a periodic image to another number of samples by cropping or padding its spectrum.

    Parameters
    ----------
    image : ndarray, shape (y, x), real or complex
    shape : (int, int)
        Samples (y, x) over the same period; sample (0, 0) stays.

    Returns
    -------
    ndarray, float32 or complex64
        The spectrum at the smaller of the two Nyquist frequencies is left out.

    Examples
    --------
    >>> x = np.cos(2 * np.pi * np.arange(8) / 8)[None].repeat(8, 0)
    >>> bool(np.allclose(fourier_resample(x, (8, 16))[:, ::2], x, atol=1e-6))
    True
    """
    real = not np.iscomplexobj(image)
    single = np.float32 if real else np.complex64
    image = image.astype(single)
    if image.shape == tuple(shape):
        return image
    spectrum = fft.rfft2(image) if real else fft.fft2(image)
    out = np.zeros((shape[0], shape[1] // 2 + 1) if real else shape, np.complex64)
    rows, cols = ((min(a, b) - 1) // 2 for a, b in zip(image.shape, shape, strict=True))
    keep = np.ix_(np.arange(-rows, rows + 1), np.arange(0 if real else -cols, cols + 1))
    out[keep] = spectrum[keep]
    result = fft.irfft2(out, s=shape) if real else fft.ifft2(out)
    return result * np.float32(shape[0] * shape[1] / image.size)


@dataclass(frozen=True)
class Optics:
    """What the lenses, the apertures and the motion of the specimen do to one image.

    ``defocus``, ``cs``, ``focal_spread`` (1/e width), ``astigmatism``, ``blur`` (sigma) and
    ``drift`` (y, x) in angstrom; ``convergence`` in radian; ``aperture`` in 1/angstrom;
    ``absorption_length`` [angstrom of gold] is infinite where gold does not absorb.
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

    def transfer(self, ky: np.ndarray, kx: np.ndarray, energy: float) -> np.ndarray:
        """Factor on the wave at these frequencies [1/angstrom].

        The phase plate and the envelopes of temporal and (quasi-coherent) spatial coherence:
        Kirkland, Advanced Computing in Electron Microscopy, ch. 3.
        """
        lam = wavelength(energy)
        k2 = ky**2 + kx**2
        a2 = lam**2 * k2
        chi = (np.pi / lam) * (0.5 * self.cs * a2**2 - self.defocus * a2)
        if self.astigmatism:
            chi = chi + (np.pi / lam) * self.astigmatism * a2 * np.cos(
                2 * (np.arctan2(ky, kx) - self.astigmatism_angle))
        envelope = np.exp(-(0.5 * np.pi * lam * self.focal_spread * k2) ** 2)
        if self.convergence:
            slope = np.sqrt(k2) * (self.cs * a2 - self.defocus)
            envelope = envelope * np.exp(-(np.pi * self.convergence * slope) ** 2)
        if np.isfinite(self.aperture):
            # an edge as soft as one percent: a hard one rings, and no real aperture is that sharp
            envelope = envelope * 0.5 * (1 - np.tanh((np.sqrt(k2) - self.aperture) / (0.02 * self.aperture)))
        return (envelope * np.exp(-1j * chi)).astype(np.complex64)

    def motion(self, ky: np.ndarray, kx: np.ndarray) -> np.ndarray:
        """Real factor of vibration and drift on the intensity at these frequencies."""
        still = np.exp(-2 * (np.pi * self.blur) ** 2 * (ky**2 + kx**2))
        return (still * np.sinc(ky * self.drift[0] + kx * self.drift[1])).astype(np.float32)


def expected_image(wave: np.ndarray, sampling: float, optics: Optics, *, energy: float = 300.0,
                   gold_thickness: np.ndarray | None = None) -> np.ndarray:
    """Expected intensity of a periodic exit wave, at half the sampling so that nothing folds.

    Parameters
    ----------
    wave : ndarray, complex, shape (y, x)
        Exit wave, incident intensity 1.
    sampling : float
        Of the wave [angstrom].
    optics : Optics
    energy : float
        [kV]
    gold_thickness : ndarray, optional
        Projected gold [angstrom] at any sampling over the same field, for absorption.

    Returns
    -------
    ndarray, float32, shape (2 y, 2 x)
        Electrons for each incident electron.
    """
    if gold_thickness is not None and np.isfinite(optics.absorption_length):
        t = fourier_resample(gold_thickness, wave.shape)
        wave = wave * np.exp(np.clip(t, 0, None) * np.float32(-0.5 / optics.absorption_length))
    ny, nx = wave.shape
    ky = np.fft.fftfreq(ny, sampling).astype(np.float32)[:, None]
    kx = np.fft.fftfreq(nx, sampling).astype(np.float32)[None]
    spectrum = fft.fft2(wave.astype(np.complex64)) * optics.transfer(ky, kx, energy)
    padded = np.zeros((2 * ny, 2 * nx), np.complex64)
    rows, cols = np.arange(-(ny // 2), ny - ny // 2), np.arange(-(nx // 2), nx - nx // 2)
    padded[np.ix_(rows, cols)] = spectrum[np.ix_(rows, cols)]
    image = np.abs(fft.ifft2(padded) * np.float32(4)) ** 2
    if optics.blur or any(optics.drift):
        ky = np.fft.fftfreq(2 * ny, sampling / 2).astype(np.float32)[:, None]
        kx = np.fft.rfftfreq(2 * nx, sampling / 2).astype(np.float32)[None]
        image = fft.irfft2(fft.rfft2(image) * optics.motion(ky, kx), s=image.shape)
    return image.astype(np.float32)


@dataclass(frozen=True)
class Camera:
    """Pixel size [angstrom], dose [electrons/angstrom^2] and amplitude MTF of one recording.

    MTF(k) = floor + (1 - floor) / (1 + (k / scale)^power), k in units of the Nyquist frequency.
    """

    pixel_size: float
    dose: float
    mtf_scale: float = 0.5
    mtf_power: float = 2.5
    mtf_floor: float = 0.0
    hot_pixels: int = 0

    def mtf(self, k: np.ndarray) -> np.ndarray:
        """Amplitude MTF at k in units of Nyquist."""
        return self.mtf_floor + (1 - self.mtf_floor) / (1 + (k / self.mtf_scale) ** self.mtf_power)

    @property
    def binned(self) -> int:
        """Camera pixels drawn as one.

        Poisson counts of neighbouring pixels add up to Poisson counts, and the network sees
        nothing beyond 1.0 1/angstrom: a camera far finer than that gives the same input when
        2 x 2 or more of its pixels are drawn as one, with the MTF kept at its absolute frequencies.
        """
        return max(1, int(BINNED_SAMPLING / self.pixel_size + 1e-6))


def record(expectation: np.ndarray, camera: Camera, rng: np.random.Generator, *, binned: int = 1) -> np.ndarray:
    """Turn an expected image on the camera's grid into counts.

    Poisson noise first, then the MTF: a scintillator blurs the electrons it has caught, so the
    noise is coloured as the image is. `MTF_MARGIN` pixels on each side are cut off after the
    filter, so that nothing wraps around.

    Parameters
    ----------
    expectation : ndarray, shape (y + 2 MTF_MARGIN, x + 2 MTF_MARGIN)
        Electrons for each incident electron.
    camera : Camera
    rng : numpy.random.Generator
    binned : int
        Camera pixels that one sample stands for, along each axis.

    Returns
    -------
    ndarray, float32, shape (y, x)
        Electrons a sample, blurred.
    """
    electrons = camera.dose * (camera.pixel_size * binned) ** 2
    counts = rng.poisson(np.clip(expectation, 0, None) * electrons).astype(np.float32)
    ky = np.fft.fftfreq(counts.shape[0])[:, None] * 2 / binned
    kx = np.fft.rfftfreq(counts.shape[1])[None] * 2 / binned
    image = fft.irfft2(fft.rfft2(counts) * camera.mtf(np.hypot(ky, kx)).astype(np.float32), s=counts.shape)
    m = MTF_MARGIN
    image = np.ascontiguousarray(image[m:-m, m:-m])
    if camera.hot_pixels:
        at = tuple(rng.integers(0, n, camera.hot_pixels) for n in image.shape)
        image[at] += rng.uniform(5, 30, camera.hot_pixels) * image.std()
    return image


def draw_optics(imaging: Imaging, rng: np.random.Generator) -> Optics:
    """Draw the microscope of one image."""
    underfocus = rng.random() >= imaging.overfocus_fraction
    corrected = rng.random() < imaging.corrected_fraction
    angle, drift = rng.uniform(0, np.pi), imaging.drift.draw(rng)
    return Optics(
        defocus=imaging.defocus.draw(rng) * (1 if underfocus else -1 / 3),
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
    )


def draw_camera(imaging: Imaging, rng: np.random.Generator) -> Camera:
    """Draw the camera of one image."""
    return Camera(
        pixel_size=imaging.pixel_size.draw(rng), dose=imaging.dose.draw(rng), mtf_scale=imaging.mtf_scale.draw(rng),
        mtf_power=imaging.mtf_power.draw(rng), mtf_floor=imaging.mtf_floor.draw(rng),
        hot_pixels=imaging.hot_pixels.draw_integer(rng),
    )
