"""Simulated movies with the truth beside them: particles that turn and wander, or whatever a scene says.

Multislice is the expensive part: each distinct configuration of a scene gets one exit wave, and
the frames that show it differ by drift, defocus and noise. First the waves are made, one task each, then
the frames, one task a batch. Configuration k and frame i depend on the scene, the seed and k or
i alone, so the movie is the same to the bit for any number of workers, and one that was
interrupted is continued.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.fft import next_fast_len

from ..core.calibration import make_movie
from ..core.provenance import package_version
from ..core.provenance import record as provenance
from ..io.store import ArraySpec, frame_spec, open_store
from .arguments import (
    check_cell,
    check_defocus,
    check_movie_sampling,
    check_numbers,
    check_parts,
    check_range,
    check_shape,
    check_square,
)
from .camera import Camera
from .microscope import Optics
from .movie_store import BATCH_RECORD, WAVE_RECORD, MovieStore, open_truth
from .movie_tasks import SLICES, Recording, frames_task, wave_task
from .recipe import Recipe, load_recipe
from .scenes import Motion, Scene, Wander
from .set_store import THICKNESS_SAMPLING, TRUTH_SAMPLING
from .tasks import Effort, run_tasks

__all__ = ["movie"]

ROOM = 16.0  # angstrom around the frame, at least: as far as strong defocus spreads an edge
GAIN = 20.0  # counts an electron
BRIGHTEST = 16000.0  # counts a pixel of vacuum: what 16 bit hold with room for noise and for bright fringes
BATCHES = 16  # at least so many tasks record the frames
REVISION = 2  # of what a seed makes: a movie begun by another one is not continued
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
    motion: Motion | None = None,
    store: str | Path | None = None,
    defocus: Sequence[float] | None = None,
    focus_drift: float = 0.0,
    camera: Camera | None = None,
    workers: int | None = None,
) -> xr.Dataset:
    """Simulate a movie of one field of a recipe.

    Computes at once. Multislice is the expensive part: the particles move in steps, once every
    `frames_per_wave` frames, and only then a new exit wave is made. The drift of the specimen
    and the noise are new in every frame.

    Parameters
    ----------
    recipe : str, Path, dict or Recipe
        Particles and support. The field's size follows from the frame; it is not empty by chance.
    n_frames : int
        Number of frames.
    seed : int
        The same seed gives the same movie.
    shape : (int, int)
        Pixels (y, x).
    pixel_size : float
        [angstrom]
    dose : float
        Of one frame [electrons/angstrom^2]; the images of a focal series share it.
    frame_time : float
        [second]
    frames_per_wave, turn, wander : int, float, float
        Of the default motion, `hrtem_dask.simulate.scenes.Wander`: frames between two steps of the
        particles, rotation about a random axis [degree] and displacement [angstrom] in one step.
    drift : float
        Drift of the specimen from frame to frame [angstrom], random walk.
    optics : Optics
        The microscope.
    client : distributed.Client, optional
        Where to compute; by default the current client, else threads.
    progress : callable, optional
        Called with (waves done, waves) after each exit wave.
    motion : Motion, optional
        How the particles move, instead of `Wander`: for example `hrtem_dask.simulate.Rock`, in and out of
        a zone axis, or `hrtem_dask.simulate.Hopping`, whose surface columns come, go and hop.
    store : path, optional
        Zarr store to write; the workers must see it. `open_movie` opens its frames, `open_truth` the
        rest. A movie that was interrupted is continued, one that is finished opened. Without a
        store, the movie is made in a temporary folder and returned in memory.
    defocus : sequence of float, optional
        Defoci of a focal series [angstrom]: every frame has an image at each of them.
    focus_drift : float
        Change of the defocus from frame to frame [angstrom], random walk.
    camera : Camera, optional
        Detector, instead of the usual one; `pixel_size` and `dose` are those given here. Where it has
        read noise, `Camera.offset` keeps that above 0. Twice the counts of vacuum, and noise, must fit
        into 16 bit.
    workers : int, optional
        Compute in this many processes of this machine instead of threads; a script that asks for
        them needs the usual ``if __name__ == "__main__":``.

    Returns
    -------
    xarray.Dataset
        ``movie`` uint16 (frame, y, x), or (frame, defocus, y, x), with coordinates [angstrom] and
        time, and the attributes ``counts_per_electron`` and ``offset`` [counts] of the camera;
        ``truth`` bool (frame, y, x), the mask of the particles; and all that `open_truth` lists.
        Lazy where there is a store. A particle may lie outside the frame.

    Raises
    ------
    InputError
        If an argument makes no sense, the pixels are too coarse for a lattice of the recipe, the counts
        of the camera do not fit into 16 bit, or the store holds something else.
    """
    check_numbers(n_frames=n_frames, frames_per_wave=frames_per_wave, seed=seed, workers=workers, dose=dose,
                  frame_time=frame_time, turn=turn, wander=wander, drift=drift, focus_drift=focus_drift)
    check_parts(recipe=recipe, optics=optics, camera=camera, motion=motion, store=store, progress=progress,
                client=client)
    recipe, pixel, shape = load_recipe(recipe), check_square(pixel_size), check_shape(shape)
    check_movie_sampling(recipe, pixel)
    shifts = walk([seed, 5], n_frames, 2, drift)
    cell, origin = cell_of(recipe, shape, pixel, shifts)
    recipe = replace(recipe, field=replace(recipe.field, box=cell * pixel))
    motion = motion or Wander(turn, wander, frames_per_wave)
    scene = motion.scene(recipe, seed, n_frames, frame_time)
    images = [optics.defocus] if defocus is None else check_defocus(defocus)
    focus = walk([seed, 8], n_frames, 1, focus_drift) + images
    used = replace(camera or Camera(pixel, dose, gain=min(GAIN, BRIGHTEST * len(images) / (dose * pixel**2))),
                   pixel_size=pixel, dose=dose / len(images), digitised=True)
    used = replace(used, offset=used.pedestal)
    check_range(used)
    states = scene.states()
    spec = movie_spec(n_frames, shape, len(images), defocus is not None)
    recording = Recording(scene.index, shifts, focus, shape, cell, origin, used, optics, recipe.field.energy,
                          seed, spec.shards[0], defocus is not None, len(states.get("particle", ())))
    known = {"recipe": recipe.to_dict(), "motion": repr(motion), "seed": seed, "optics": vars(optics), "dose": dose,
             "drift": drift, "focus_drift": focus_drift, "camera": repr(used)}
    about = provenance({}, "simulate.movie", **known) | {
        "dose": dose, "source": "simulated", "counts_per_electron": used.gain, "offset": used.pedestal}
    empty = make_movie(np.empty((n_frames, *([len(images)] if recording.series else []), 1, 1), np.uint16),
                       pixel_size=pixel, time=np.arange(n_frames) * frame_time, attrs=about,
                       defocus=images if recording.series else None)
    with folder_of(store) as path:
        there = MovieStore(path)
        text = json.dumps([known, n_frames, shape, pixel, frame_time, images, cell, REVISION, package_version()],
                          default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if not there.begin(digest, [replace(spec, attrs=empty.attrs)], [labels_spec(spec, shape)],
                           wave_specs(scene, recording), coordinates(empty, shape, pixel), recording.batches):
            make(there, scene, recording, states, client, workers, progress)
        truth = open_truth(path)
        frames = open_store(path)["movie"]
        out = truth.assign(movie=frames, truth=(truth["labels"] > 0).assign_attrs(long_name="mask of the particles"))
        return out if store is not None else out.load()


def room_of(recipe: Recipe) -> float:
    """Margin [angstrom] around the frame in its periodic cell: no particle shows on two sides at once."""
    spec = recipe.particles
    longest = spec.diameter.high * spec.elongation.high**0.5 if spec.number.high >= 1 else 0.0
    return max(ROOM, longest / 2)


def cell_of(recipe: Recipe, shape: tuple[int, int], pixel: float,
            shifts: np.ndarray) -> tuple[int, tuple[float, float]]:
    """Side of the periodic cell [pixel], and where in it a frame without drift begins (y, x) [angstrom].

    All windows that the frames show fit in with `room_of` around them; the cell reaches as far as the
    drift goes to either side, and no further.
    """
    room, ends = room_of(recipe), shifts.max(0)
    sides = np.array(shape) * pixel + ends - shifts.min(0) + 2 * room
    check_cell(float(sides.max()))
    return next_fast_len(int(np.ceil(sides.max() / pixel))), (float(room + ends[0]), float(room + ends[1]))


def walk(seed: list[int], n: int, axes: int, step: float) -> np.ndarray:
    """Draw a random walk (n, axes) from 0."""
    at = np.cumsum(np.random.default_rng(seed).normal(0, step, (n, axes)), axis=0)
    return at - at[0]


@contextmanager
def folder_of(store: str | Path | None) -> Iterator[Path]:
    """Yield the store, or a temporary one."""
    if store is not None:
        yield Path(store).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="hrtem-movie-") as folder:
        yield Path(folder) / "movie.zarr"


def movie_spec(n_frames: int, shape: tuple[int, int], images: int, series: bool) -> ArraySpec:
    """Lay out the frames: a batch is a shard."""
    dims, size = ("frame", "y", "x"), (n_frames, *shape)
    if series:
        dims, size = ("frame", "defocus", "y", "x"), (n_frames, images, *shape)
    usual = frame_spec("movie", dims, size, np.uint16).shards[0]
    return frame_spec("movie", dims, size, np.uint16, frames_per_shard=min(usual, -(-n_frames // BATCHES)))


def labels_spec(spec: ArraySpec, shape: tuple[int, int]) -> ArraySpec:
    """Lay out the labels in the same batches."""
    return frame_spec("labels", ("frame", "y", "x"), (spec.shape[0], *shape), np.int32,
                      frames_per_shard=spec.shards[0], attrs={"long_name": "number of the particle, 0 for none"})


def wave_specs(scene: Scene, recording: Recording) -> list[ArraySpec]:
    """Lay out the waves: a configuration is a shard."""
    n, box = int(scene.index.max()) + 1, recording.box
    sides = {"wave": (scene.field.stored_points, "complex64"), "labels": (round(box / TRUTH_SAMPLING), "int32"),
             "thickness": (round(box / THICKNESS_SAMPLING), "float32")}
    return [frame_spec(name, ("configuration", f"{name}_y", f"{name}_x"), (n, side, side), kind, frames_per_shard=1)
            for name, (side, kind) in sides.items()]


def coordinates(empty: xr.DataArray, shape: tuple[int, int], pixel: float) -> dict[str, xr.Variable]:
    """Coordinates of the frames."""
    out = {str(k): v.variable for k, v in empty.coords.items() if k not in "yx"}
    return out | {axis: xr.Variable((axis,), np.arange(n) * pixel, {"units": "angstrom"})
                  for axis, n in zip("yx", shape, strict=True)}


def make(store: MovieStore, scene: Scene, recording: Recording, states: dict[str, xr.Variable], client: Any,
         workers: int | None, progress: Callable[[int, int], None] | None) -> None:
    """Make the waves and the frames that are missing, then write the truth."""
    count = int(scene.index.max()) + 1
    waves = store.missing(WAVE_RECORD, count)
    effort = Effort("exit waves")
    if store.missing(BATCH_RECORD, recording.batches):
        try:
            for _ in run_tasks(wave_task, [(scene, recording, k, store) for k in waves], client, workers, effort):
                if progress:
                    progress(count - len(waves) + effort.done, count)
        finally:
            SLICES.forget()
        batches = store.missing(BATCH_RECORD, recording.batches)
        for _ in run_tasks(frames_task, [(recording, b, store) for b in batches], client, workers):
            pass
    store.finish(all_true(store, recording, states, count), {})


def all_true(store: MovieStore, recording: Recording, states: dict[str, xr.Variable],
             count: int) -> dict[str, xr.Variable]:
    """All variables of the truth beside the labels: by frame, in the coordinates of the frames."""
    out = {
        "configuration": xr.Variable(("frame",), recording.index),
        "frame_defocus": xr.Variable(("frame",), recording.focus[:, 0], {
            "units": "angstrom", "long_name": "defocus, of the first image of a focal series"}),
    }
    for j, axis in enumerate("yx"):
        out[f"drift_{axis}"] = xr.Variable(("frame",), recording.shifts[:, j], {"units": "angstrom"})
    for name, variable in states.items():
        values, dims, attrs = variable.values, variable.dims, dict(variable.attrs)
        place, reference = attrs.pop("place", None), attrs.pop("reference", None)
        if dims[:1] == ("configuration",):
            values, dims = values[recording.index], ("frame", *dims[1:])
        if place:
            if dims[:1] != ("frame",):
                values, dims = np.broadcast_to(values, (len(recording.index), *values.shape)), ("frame", *dims)
            moved = recording.shifts[:, "yx".index(place)] - recording.origin["yx".index(place)]
            values = values + moved.reshape(-1, *[1] * (values.ndim - 1))
        if reference:  # the first frame has no drift
            values = values - recording.origin["yx".index(reference)]
        out[name] = xr.Variable(dims, values, attrs)
    units = {"particle_area": {"units": "angstrom^2", "long_name": "of the part of the mask in the frame"}}
    for name, values in store.gathered(recording.batches).items():
        out[name] = xr.Variable(("frame", "particle"), values, units.get(name, {}))
    return out | store.columns(count, recording.origin)
