"""Simulated movies: gold particles that turn and wander on a film, with the truth beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy import fft
from scipy.spatial.transform import Rotation

from ..core.calibration import check_pixel_size, make_movie
from ..core.errors import InputError
from ..core.provenance import record as provenance
from .films import carbon_film
from .labels import gold_thickness, particle_mask
from .microscope import MTF_MARGIN, Camera, Optics, exit_wave, expected_image, fourier_resample, record
from .recipe import Recipe, load_recipe
from .sets import THICKNESS_SAMPLING, TRUTH_SAMPLING, run_tasks
from .structures import Specimen, assemble, film_blocks, place_particles

__all__ = ["movie"]

ROOM = 16.0  # angstrom around the frame: what leaves it must not come back on the other side
GAIN = 20.0  # counts an electron
THICKEST = 50.0  # angstrom: a film that is quick to simulate
OPTICS = Optics(defocus=600.0, cs=1.2e7 * 0.05, focal_spread=40.0, convergence=1e-4, aperture=0.7,
                absorption_length=400.0, blur=0.4)


def movie(
    recipe: str | Path | dict | Recipe = "au-particles",
    *,
    n_frames: int = 16,
    seed: int = 0,
    shape: tuple[int, int] = (512, 512),
    pixel_size: float = 0.4,
    dose: float = 400.0,
    frame_time: float = 0.25,
    frames_per_wave: int = 4,
    turn: float = 4.0,
    wander: float = 0.8,
    drift: float = 0.6,
    optics: Optics = OPTICS,
    client: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Simulate a movie of gold particles.

    Computes at once. Multislice is the expensive part: the particles move in steps, once every
    `frames_per_wave` frames, and only then a new exit wave is made. The drift of the specimen
    and the noise are new in every frame.

    Parameters
    ----------
    recipe : str, Path, dict or Recipe
        Particles and film.
    n_frames : int
        Number of frames.
    seed : int
        The same seed gives the same movie.
    shape : (int, int)
        Pixels (y, x).
    pixel_size : float
        [angstrom]
    dose : float
        Of one frame [electrons/angstrom^2].
    frame_time : float
        [second]
    frames_per_wave : int
        Frames between two steps of the particles.
    turn, wander : float
        Rotation about a random axis [degree] and displacement [angstrom] of a particle in one
        step, both as the standard deviation of a random walk.
    drift : float
        Drift of the specimen from frame to frame [angstrom], random walk.
    optics : Optics
        The microscope.
    client : distributed.Client, optional
        Where to compute the waves; by default the current client, else threads.
    progress : callable, optional
        Called with (waves done, waves) after each exit wave.

    Returns
    -------
    xarray.Dataset
        ``movie`` uint16 (frame, y, x) with coordinates [angstrom] and time; ``truth`` bool
        (frame, y, x), the mask of the particles; ``particle_y`` and ``particle_x``
        (frame, particle) [angstrom], ``particle_diameter`` (particle) [angstrom], as cut;
        ``drift_y``, ``drift_x`` (frame) [angstrom]. A particle may lie outside the frame.

    Raises
    ------
    InputError
        If a number is not positive.
    """
    recipe, pixel = load_recipe(recipe), check_pixel_size(pixel_size)[0]
    if min(n_frames, frames_per_wave, *shape) < 1 or dose <= 0 or frame_time <= 0:
        raise InputError(f"found n_frames = {n_frames}, frames_per_wave = {frames_per_wave}, shape = {shape}, dose = "
                         f"{dose}, frame_time = {frame_time}; expected positive numbers")
    rng = np.random.default_rng([seed, 5])
    shifts = np.cumsum(rng.normal(0, drift, (n_frames, 2)), axis=0)
    shifts -= shifts[0]
    room = ROOM + 2 * float(np.abs(shifts).max())
    n = int(np.ceil((max(shape) * pixel + 2 * room) / pixel))
    recipe = replace(recipe, field=replace(recipe.field, box=n * pixel))
    count = -(-n_frames // frames_per_wave)
    specimens = configurations(recipe, seed, count, turn, wander)
    waves: dict[int, tuple] = {}
    for k, *arrays in run_tasks(_wave, [(k, s, recipe) for k, s in enumerate(specimens)], client, None):
        waves[k] = tuple(arrays)
        if progress:
            progress(len(waves), count)
    camera = Camera(pixel, dose)
    frames, truths = [], []
    for i in range(n_frames):
        wave, truth, thickness = waves[i // frames_per_wave]
        image = fourier_resample(expected_image(wave, recipe.field.box / len(wave), optics, energy=recipe.field.energy,
                                                gold_thickness=thickness), (n, n))
        first = shifts[i] / pixel
        frames.append(_expose(image, first - room / pixel, shape, camera, np.random.default_rng([seed, 6, i])))
        at = [np.round(((np.arange(m) - f) * pixel + room) / TRUTH_SAMPLING).astype(int) % len(truth)
              for m, f in zip(shape, first, strict=True)]
        truths.append(truth[np.ix_(*at)])
    return _wrap(np.stack(frames), np.stack(truths), specimens, shifts, room, frames_per_wave, pixel, dose,
                 frame_time, provenance({}, "simulate.movie", recipe=recipe.to_dict(), seed=seed,
                                        optics=vars(optics), dose=dose))


def configurations(recipe: Recipe, seed: int, count: int, turn: float, wander: float) -> list[Specimen]:
    """Let the particles of one field turn and wander; the film stays."""
    rng, box = np.random.default_rng([seed, 7]), recipe.field.box
    thickness = min(recipe.film.thickness.draw(rng), THICKEST)
    carbon = carbon_film(film_blocks(recipe, seed, 1), box, thickness, rng, roughness=recipe.film.roughness.draw(rng))
    # about as full as a real preparation, and without the dust that nobody would count
    spec = replace(recipe.particles, coverage=replace(recipe.particles.coverage, low=0.15, high=0.22),
                   diameter=replace(recipe.particles.diameter, low=20.0, high=65.0),
                   number=replace(recipe.particles.number, low=40, high=40), touching_fraction=0.0)
    gold, particles = place_particles(spec, box, thickness, rng)
    specimens = []
    for k in range(count):
        if k:
            gold = [turned(p, turn, wander, rng) for p in gold]
        placed = [q | {"x": float(p[:, 0].mean()), "y": float(p[:, 1].mean())}
                  for p, q in zip(gold, particles, strict=True)]
        specimens.append(assemble(gold, carbon, box, placed, thickness))
    return specimens


def turned(p: np.ndarray, turn: float, wander: float, rng: np.random.Generator) -> np.ndarray:
    """Turn a particle about its centre by about `turn` degrees and displace it in the plane."""
    centre = p.mean(0)
    rotation = Rotation.from_rotvec(rng.normal(0, turn / np.sqrt(3), 3), degrees=True)
    return rotation.apply(p - centre) + centre + [*rng.normal(0, wander, 2), 0.0]


def _wave(k: int, specimen: Specimen, recipe: Recipe) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Exit wave, mask and thickness of one configuration."""
    from threadpoolctl import threadpool_limits

    box = (recipe.field.box,) * 2
    with threadpool_limits(1):
        wave = exit_wave(specimen, recipe.field)
    return (k, wave, particle_mask(specimen.gold, box, box[0] / round(box[0] / TRUTH_SAMPLING)),
            gold_thickness(specimen.gold, box, THICKNESS_SAMPLING))


def _expose(image: np.ndarray, first: np.ndarray, shape: tuple[int, int], camera: Camera,
            rng: np.random.Generator) -> np.ndarray:
    """Record the window of a periodic image that begins at the fractional pixel -first."""
    ky = np.fft.fftfreq(image.shape[0])[:, None]
    kx = np.fft.rfftfreq(image.shape[1])[None]
    spectrum = fft.rfft2(image) * np.exp(-2j * np.pi * (ky * first[0] + kx * first[1])).astype(np.complex64)
    moved = fft.irfft2(spectrum, s=image.shape)
    m = MTF_MARGIN
    window = [np.arange(-m, size + m) % n for size, n in zip(shape, image.shape, strict=True)]
    counts = record(moved[np.ix_(*window)], camera, rng)
    return np.clip(np.round(counts * GAIN), 0, 65535).astype(np.uint16)


def _wrap(frames: np.ndarray, truths: np.ndarray, specimens: list[Specimen], shifts: np.ndarray, room: float,
          frames_per_wave: int, pixel: float, dose: float, frame_time: float, attrs: dict) -> xr.Dataset:
    n = len(frames)
    data = make_movie(frames, pixel_size=pixel, time=np.arange(n) * frame_time,
                      attrs=attrs | {"dose": dose, "source": "simulated"})
    ids = np.arange(n) // frames_per_wave
    at = {axis: np.array([[q[axis] for q in specimens[k].particles] for k in ids]).reshape(n, -1) for axis in "yx"}
    out = xr.Dataset({"movie": data, "truth": data.copy(data=truths).rename("truth")})
    out["truth"].attrs = {"long_name": "mask of the particles"}
    for axis, shift in zip("yx", shifts.T, strict=True):
        out[f"particle_{axis}"] = (("frame", "particle"), at[axis] - room + shift[:, None], {"units": "angstrom"})
        out[f"drift_{axis}"] = ("frame", shift, {"units": "angstrom"})
    out["particle_diameter"] = ("particle", [q["diameter"] for q in specimens[0].particles], {"units": "angstrom"})
    return out.assign_coords(particle=np.arange(len(specimens[0].particles)))
