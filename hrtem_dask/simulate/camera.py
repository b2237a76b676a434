"""The camera of a simulated image: dose, pixel size and a detector as `hrtem_dask.detector` describes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..core.checks import check_number
from ..core.errors import InputError
from ..detector.mtf import MTF
from ..kernels.camera import expose, pedestal, radial_frequency, read_out
from .recipe import Imaging

__all__ = ["MTF_MARGIN", "Camera", "draw_camera", "record"]

#: a camera finer than half of this is binned in the simulation, see `Camera.binned`
BINNED_SAMPLING = 0.3  # angstrom
MTF_MARGIN = 16  # pixel
USUAL = MTF(scale=0.5, power=2.5)


@dataclass(frozen=True)
class Camera:
    """Pixel size [angstrom], dose [electrons/angstrom^2] and detector of one recording.

    ``gain`` in counts an electron, ``read_noise`` (root mean square) in electrons; a ``digitised``
    image holds whole counts. A ``counting`` camera has white noise. ``mtf=None`` blurs nothing.
    ``offset`` is what a pixel counts without electrons, the pedestal of a real camera [counts].
    None is as much as keeps the read noise of a digitised image above 0, six standard deviations
    rounded up, and 0 without read noise or where nothing is digitised: `pedestal` says how much.

    Raises
    ------
    InputError
        If a number is none that a camera can have.

    Examples
    --------
    >>> Camera(0.4, 100.0, read_noise=3.0, gain=2.0, digitised=True).pedestal
    36.0
    >>> Camera(0.4, 100.0, read_noise=3.0).pedestal
    0.0
    """

    pixel_size: float
    dose: float
    mtf: MTF | None = USUAL
    hot_pixels: int = 0
    gain: float = 1.0
    read_noise: float = 0.0
    counting: bool = False
    digitised: bool = False
    offset: float | None = None

    def __post_init__(self) -> None:
        if self.mtf is not None and not callable(self.mtf):
            raise InputError(f"the camera's mtf is {self.mtf!r}; expected MTF(scale=0.5, power=2.5), or None")
        for name in ("pixel_size", "dose", "gain"):
            check_number(f"the camera's {name}", getattr(self, name), above=0)
        for name in ("read_noise", "hot_pixels"):
            check_number(f"the camera's {name}", getattr(self, name), least=0)
        if self.offset is not None:
            check_number("the camera's offset", self.offset, "counts")

    @property
    def pedestal(self) -> float:
        """Counts of a pixel without electrons: ``offset``, or what stands in for it where that is None."""
        if self.offset is None:
            return pedestal(self.read_noise, self.gain) if self.digitised else 0.0
        return float(self.offset)

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

    `MTF_MARGIN` pixels on each side are cut off after the filter, so that nothing wraps around.
    How electrons become counts is said in `hrtem_dask.kernels.camera.expose`.

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
        Counts a sample.
    """
    electrons = camera.dose * (camera.pixel_size * binned) ** 2
    response = camera.mtf and camera.mtf(radial_frequency(expectation.shape, (binned, binned)))
    counts = expose(expectation * np.float32(electrons), response, rng, counting=camera.counting)
    m = MTF_MARGIN
    image = np.ascontiguousarray(counts[m:-m, m:-m])
    if camera.hot_pixels:
        at = tuple(rng.integers(0, n, camera.hot_pixels) for n in image.shape)
        image[at] += rng.uniform(5, 30, camera.hot_pixels) * image.std()
    # a sample is the sum of binned x binned pixels, of their noise and of their pedestals
    image = read_out(image, rng, gain=camera.gain, offset=camera.pedestal * binned**2,
                     read_noise=camera.read_noise * binned)
    return np.rint(image) if camera.digitised else image


def draw_camera(imaging: Imaging, rng: np.random.Generator) -> Camera:
    """Draw the camera of one image."""
    later = rng.spawn(1)[0]  # the stream of what was drawn before there was read noise stays as it was
    pixel_size, dose = imaging.pixel_size.draw(rng), imaging.dose.draw(rng)
    scale, power, floor = imaging.mtf_scale.draw(rng), imaging.mtf_power.draw(rng), imaging.mtf_floor.draw(rng)
    gain = imaging.gain.draw(later)
    return Camera(
        pixel_size=pixel_size, dose=dose, mtf=fitted(imaging.mtf) if imaging.mtf else MTF(scale, power, floor),
        hot_pixels=imaging.hot_pixels.draw_integer(rng), gain=gain or 1.0, digitised=gain > 0,
        read_noise=imaging.read_noise.draw(later), counting=later.random() < imaging.counting_fraction,
    )


@lru_cache(maxsize=8)
def fitted(text: str) -> MTF:
    """Read the MTF that a recipe carries, once a process."""
    return MTF.from_json(text)
