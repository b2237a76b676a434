"""Images drawn from stored exit waves: another microscope, dose and pixel size each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import fft

from ..kernels.fourier_grid import fourier_shift
from ..kernels.resample import resample
from .camera import MTF_MARGIN, Camera, draw_camera, record
from .clutter import Clutter, added_film, draw_clutter, uneven
from .columns import column_image
from .microscope import Optics, draw_optics, expected_images
from .recipe import Imaging, Recipe
from .set_store import Sample

__all__ = ["Frame", "draw_example", "draw_frame", "draw_frames", "truth_at"]


@dataclass(frozen=True)
class Frame:
    """A recorded frame or focal series.

    ``counts`` (y, x), or (defocus, y, x) of a series whose values are ``defocus`` [angstrom, positive
    is underfocus]; pixel size and place of the first pixel [angstrom]. ``optics`` is that of the
    middle of a series, ``camera.dose`` that of all its images together.
    """

    counts: np.ndarray
    pixel_size: float
    origin: tuple[float, float]
    optics: Optics
    camera: Camera
    defocus: tuple[float, ...] = ()
    clutter: Clutter = field(default_factory=Clutter)


def draw_frame(sample: Sample, recipe: Recipe, rng: np.random.Generator, *, extent: float | None = None,
               dose: float | None = None, pixel_size: float | None = None, refocus: float = 0.0) -> Frame:
    """Draw one recorded frame of a field, anywhere in it: `draw_frames` with one generator."""
    return draw_frames(sample, recipe, [rng], extent=extent, dose=dose, pixel_size=pixel_size, refocus=refocus)[0]


def draw_frames(sample: Sample, recipe: Recipe, rngs: Sequence[np.random.Generator], *, extent: float | None = None,
                dose: float | None = None, pixel_size: float | None = None, refocus: float = 0.0) -> list[Frame]:
    """Draw recorded frames of one field, each with another microscope, camera and place.

    Parameters
    ----------
    sample : Sample
    recipe : Recipe
        Ranges of microscope and camera.
    rngs : sequence of numpy.random.Generator
        One for each frame: it alone decides what the frame is.
    extent : float, optional
        Side of the frames [angstrom]; by default the whole periodic field.
    dose, pixel_size : float, optional
        [electrons/angstrom^2] and [angstrom]; drawn where they are not given. The pixel size
        is rounded, by a few percent at most, so that the period of the field is a whole number of
        pixels that transforms quickly.
    refocus : float
        Added to the defocus that is drawn [angstrom]; all else stays as it is.

    Returns
    -------
    list of Frame
        Where the camera is much finer than any network needs, its pixels are binned, see
        `Camera.binned`, and `pixel_size` is that of the binned ones.
    """
    box, energy, points = recipe.field.box, recipe.field.energy, len(sample.wave)
    shots = [draw_shot(recipe, rng, dose, pixel_size, refocus) for rng in rngs]
    films = [added_film(points, box, shot.clutter, energy, shot.extra) for shot in shots]
    images = iter(expected_images(
        sample.wave, box / points, [lens for shot in shots for lens in shot.lenses], energy=energy,
        gold_thickness=sample.thickness, shapes=[(shot.n, shot.n) for shot in shots for _ in shot.lenses],
        films=[film for shot, film in zip(shots, films, strict=True) for _ in shot.lenses]))
    return [_recorded([next(images) for _ in shot.lenses], shot, recipe, rng, extent)
            for shot, rng in zip(shots, rngs, strict=True)]


@dataclass(frozen=True)
class Shot:
    """What was drawn of a frame before its images are there: ``n`` samples a period, a lens an image."""

    optics: Optics
    camera: Camera
    n: int
    lenses: list[Optics]
    clutter: Clutter
    shifts: np.random.Generator
    extra: np.random.Generator


def draw_shot(recipe: Recipe, rng: np.random.Generator, dose: float | None, pixel_size: float | None,
              refocus: float) -> Shot:
    """Draw microscope, camera and clutter of one frame."""
    optics, camera = draw_optics(recipe.imaging, rng), draw_camera(recipe.imaging, rng)
    optics = replace(optics, defocus=optics.defocus + refocus)
    camera = replace(camera, dose=dose or camera.dose, pixel_size=pixel_size or camera.pixel_size)
    n = quick_size(recipe.field.box / camera.pixel_size / camera.binned)
    lenses = draw_series(recipe.imaging, optics, rng)
    shifts, extra = rng.spawn(2)  # clutter has a stream of its own: without it all else is as it is with it
    return Shot(optics, camera, n, lenses, draw_clutter(recipe.imaging, extra), shifts, extra)


def quick_size(n: float) -> int:
    """Size nearest to n whose transform is quick.

    Examples
    --------
    >>> quick_size(519.3), quick_size(1000.4)
    (525, 1000)
    """
    n = max(1, round(n))
    return min((fft.prev_fast_len(n), fft.next_fast_len(n)), key=lambda m: abs(m - n))


def draw_series(imaging: Imaging, optics: Optics, rng: np.random.Generator) -> list[Optics]:
    """Lenses of a focal series about the drawn defocus; the drawn ones alone where it has one image."""
    if imaging.series == 1:
        return [optics]
    step = imaging.series_step.draw(rng.spawn(1)[0])
    return [replace(optics, defocus=optics.defocus + (i - (imaging.series - 1) / 2) * step)
            for i in range(imaging.series)]


def _recorded(images: list[np.ndarray], shot: Shot, recipe: Recipe, rng: np.random.Generator,
              extent: float | None) -> Frame:
    """Record the same window of all images of a series, each with its share of the dose."""
    imaging, n, clutter = recipe.imaging, shot.n, shot.clutter
    binned = shot.camera.binned
    sampling = recipe.field.box / n
    camera = replace(shot.camera, pixel_size=sampling / binned)
    shared = replace(camera, dose=camera.dose / len(images))
    side = n if extent is None else int(np.ceil(extent / sampling)) + 1
    first = rng.integers(0, n, 2)
    wide = fft.next_fast_len(side + 2 * MTF_MARGIN, real=True)
    window = np.ix_(*(np.arange(o - MTF_MARGIN, o - MTF_MARGIN + wide) % n for o in first))
    light = illumination(wide, imaging, rng)
    if clutter.unevenness:
        light *= uneven(wide, sampling, clutter, shot.extra)
    counts = []
    for image in images:
        if len(images) > 1 and imaging.series_shift.high:
            image = fourier_shift(image, shot.shifts.normal(0, imaging.series_shift.draw(shot.shifts), 2) / sampling)
        part = image[window]
        if clutter.veil:
            part = part * np.float32(1 - clutter.veil) + clutter.veil * image.mean()
        counts.append(np.ascontiguousarray(record(part * light, shared, rng, binned=binned)[:side, :side]))
    origin = (float(first[0] * sampling), float(first[1] * sampling))
    defocus = tuple(lens.defocus for lens in shot.lenses)
    return Frame(np.stack(counts) if len(images) > 1 else counts[0], sampling, origin, shot.optics, camera, defocus,
                 clutter)


def truth_at(sample: Sample, origin: tuple[float, float], pixel_size: float, shape: tuple[int, int]) -> np.ndarray:
    """Mask (y, x) at the samples origin + (i, j) * pixel_size [angstrom] of a periodic field."""
    at = [np.round((o + np.arange(n) * pixel_size) / (sample.box / m)).astype(int) % m
          for o, n, m in zip(origin, shape, sample.truth.shape, strict=True)]
    return sample.truth[np.ix_(*at)]


def draw_example(sample: Sample, recipe: Recipe, rng: np.random.Generator, *, size: int, pixel_size: float = 0.5,
                 classes: Sequence[str] = (), column_size: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
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
    classes : sequence of str
        Classes of columns to label, see `column_image`; without any, particles are labelled.
    column_size : float
        Sigma of the label of a column [angstrom].

    Returns
    -------
    image : ndarray, float32, shape (size, size) or (defocus, size, size)
        Counts, not normalised.
    truth : ndarray, bool, shape (size, size), or float32, shape (1 + classes, size, size)
        Mask of the particles, or what `column_image` draws, at the same samples; sample (0, 0) is
        the first pixel of the recorded frame.
    """
    wrong = recipe.imaging.magnification_error
    if wrong.low or wrong.high:  # who believes that pixels are 10 % larger than they are sees 10 % less of the field
        factor = 1 + wrong.draw(rng.spawn(1)[0])
        pixel_size, column_size = pixel_size / factor, column_size / factor
    frame = draw_frame(sample, recipe, rng, extent=(size - 1) * pixel_size)
    truth = truth_at(sample, frame.origin, pixel_size, (size, size)) if not classes else column_image(
        sample.columns, (size, size), pixel_size, classes=classes, size=column_size, origin=frame.origin,
        period=(sample.box,) * 2)
    image = np.stack([resample(c, frame.pixel_size, pixel_size, shape=(size, size))
                      for c in frame.counts.reshape(-1, *frame.counts.shape[-2:])])
    image = image if frame.counts.ndim == 3 else image[0]
    turns, mirror = rng.integers(4), rng.random() < 0.5
    image, truth = (np.rot90(a, turns, axes=(-2, -1))[..., ::-1 if mirror else 1] for a in (image, truth))
    return np.ascontiguousarray(image), np.ascontiguousarray(truth)


def illumination(n: int, imaging: Imaging, rng: np.random.Generator) -> np.ndarray:
    """Draw a gentle slope of the beam's intensity over n x n samples, mean 1."""
    strength, angle = imaging.illumination.draw(rng), rng.uniform(0, 2 * np.pi)
    t = np.linspace(-0.5, 0.5, n, dtype=np.float32)
    return 1 + np.float32(strength) * (np.float32(np.sin(angle)) * t[:, None] + np.float32(np.cos(angle)) * t[None])
