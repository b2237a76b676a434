"""Images drawn from stored exit waves: another microscope, dose and pixel size each time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..kernels.resample import resample
from .microscope import (
    MTF_MARGIN,
    Camera,
    Optics,
    draw_camera,
    draw_optics,
    expected_image,
    fourier_resample,
    record,
)
from .recipe import Imaging, Recipe
from .sets import TRUTH_SAMPLING, Sample

__all__ = ["Frame", "draw_example", "draw_frame", "truth_at"]


@dataclass(frozen=True)
class Frame:
    """A recorded frame: counts (y, x), pixel size and place of its first pixel [angstrom]."""

    counts: np.ndarray
    pixel_size: float
    origin: tuple[float, float]
    optics: Optics
    camera: Camera


def draw_frame(sample: Sample, recipe: Recipe, rng: np.random.Generator, *, extent: float | None = None,
               dose: float | None = None, pixel_size: float | None = None) -> Frame:
    """Draw one recorded frame of a field, anywhere in it.

    Parameters
    ----------
    sample : Sample
    recipe : Recipe
        Ranges of microscope and camera.
    rng : numpy.random.Generator
    extent : float, optional
        Side of the frame [angstrom]; by default the whole periodic field.
    dose, pixel_size : float, optional
        [electrons/angstrom^2] and [angstrom]; drawn where they are not given. The pixel size
        is rounded so that the period of the field is a whole number of pixels.

    Returns
    -------
    Frame
        Where the camera is much finer than any network needs, its pixels are binned, see
        `Camera.binned`, and `pixel_size` is that of the binned ones.
    """
    imaging, field = recipe.imaging, recipe.field
    optics, camera = draw_optics(imaging, rng), draw_camera(imaging, rng)
    camera = replace(camera, dose=dose or camera.dose, pixel_size=pixel_size or camera.pixel_size)
    binned = camera.binned
    n = round(field.box / camera.pixel_size / binned)
    sampling = field.box / n
    camera = replace(camera, pixel_size=sampling / binned)
    expectation = expected_image(sample.wave, field.box / len(sample.wave), optics, energy=field.energy,
                                 gold_thickness=sample.thickness)
    expectation = fourier_resample(expectation, (n, n))
    side = n if extent is None else int(np.ceil(extent / sampling)) + 1
    first = rng.integers(0, n, 2)
    window = [np.arange(o - MTF_MARGIN, o + side + MTF_MARGIN) % n for o in first]
    expectation = expectation[np.ix_(*window)] * illumination(side + 2 * MTF_MARGIN, imaging, rng)
    counts = record(expectation, camera, rng, binned=binned)
    return Frame(counts, sampling, (float(first[0] * sampling), float(first[1] * sampling)), optics, camera)


def truth_at(sample: Sample, origin: tuple[float, float], pixel_size: float, shape: tuple[int, int]) -> np.ndarray:
    """Mask (y, x) at the samples origin + (i, j) * pixel_size [angstrom] of a periodic field."""
    at = [np.round((o + np.arange(n) * pixel_size) / TRUTH_SAMPLING).astype(int) % m
          for o, n, m in zip(origin, shape, sample.truth.shape, strict=True)]
    return sample.truth[np.ix_(*at)]


def draw_example(sample: Sample, recipe: Recipe, rng: np.random.Generator, *, size: int,
                 pixel_size: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Draw one training example as a network sees it: recorded, resampled, turned at random.

    Parameters
    ----------
    sample : Sample
    recipe : Recipe
    rng : numpy.random.Generator
    size : int
        Side [network pixel].
    pixel_size : float
        Of the network [angstrom].

    Returns
    -------
    image : ndarray, float32, shape (size, size)
        Counts, not normalised.
    truth : ndarray, bool, shape (size, size)
        Mask at the same samples; sample (0, 0) is the first pixel of the recorded frame.
    """
    frame = draw_frame(sample, recipe, rng, extent=(size - 1) * pixel_size)
    image = resample(frame.counts, frame.pixel_size, pixel_size, shape=(size, size))
    truth = truth_at(sample, frame.origin, pixel_size, (size, size))
    turns, mirror = rng.integers(4), rng.random() < 0.5
    image, truth = np.rot90(image, turns), np.rot90(truth, turns)
    if mirror:
        image, truth = image[:, ::-1], truth[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(truth)


def illumination(n: int, imaging: Imaging, rng: np.random.Generator) -> np.ndarray:
    """Draw a gentle slope of the beam's intensity over n x n samples, mean 1."""
    strength, angle = imaging.illumination.draw(rng), rng.uniform(0, 2 * np.pi)
    t = np.linspace(-0.5, 0.5, n, dtype=np.float32)
    return 1 + np.float32(strength) * (np.float32(np.sin(angle)) * t[:, None] + np.float32(np.cos(angle)) * t[None])
