"""The tasks of a simulated movie: the exit wave of one configuration, and the frames of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..kernels.camera import digitise
from ..kernels.fourier_grid import fourier_shift
from .camera import MTF_MARGIN, Camera, record
from .columns import column_table
from .labels import gold_thickness, instance_labels
from .microscope import Optics, expected_images
from .movie_store import Exposed, MovieStore
from .multislice import SliceMemory, exit_wave
from .scenes import Scene
from .set_store import THICKNESS_SAMPLING, TRUTH_SAMPLING

__all__ = ["SLICES", "Recording", "frames_task", "wave_task"]

#: slices of the film that the next configuration has too; a process keeps so many bytes of them
SLICES = SliceMemory(384 << 20)


@dataclass(frozen=True, eq=False)
class Recording:
    """How the frames of a movie are recorded; small, because it travels with every task.

    ``shifts`` (frame, 2) is the drift (y, x) [angstrom], ``focus`` (frame, image) the defocus of each
    image [angstrom], ``origin`` (y, x) where the first pixel of a frame without drift lies in the cell
    [angstrom], ``cell`` the side of that in pixels. ``series`` says whether a frame is a focal series.
    """

    index: np.ndarray
    shifts: np.ndarray
    focus: np.ndarray
    shape: tuple[int, int]
    cell: int
    origin: tuple[float, float]
    camera: Camera
    optics: Optics
    energy: float
    seed: int
    batch: int
    series: bool
    particles: int

    @property
    def box(self) -> float:
        """Side of the cell [angstrom]."""
        return self.cell * self.camera.pixel_size

    @property
    def batches(self) -> int:
        """Number of batches of frames."""
        return -(-len(self.index) // self.batch)


def wave_task(scene: Scene, recording: Recording, k: int, store: MovieStore) -> int:
    """Exit wave, labels, thickness and columns of one configuration."""
    specimen, box = scene.specimen(k), recording.box
    labels = instance_labels(specimen, box / round(box / TRUTH_SAMPLING)).astype(np.int32)
    thickness = gold_thickness(specimen.gold, (box, box), box / round(box / THICKNESS_SAMPLING),
                               numbers=specimen.gold_numbers)
    store.write_wave(k, Exposed(exit_wave(specimen, scene.field, memory=SLICES), labels, thickness.astype(np.float32)),
                     column_table(specimen))
    return k


def frames_task(recording: Recording, batch: int, store: MovieStore) -> int:
    """Frames and labels of one batch."""
    SLICES.forget()  # all waves are there
    first = batch * recording.batch
    index = recording.index[first:first + recording.batch]
    images = recording.focus.shape[1]
    movie = np.empty((len(index), images, *recording.shape), np.uint16)
    labels = np.empty((len(index), *recording.shape), np.int32)
    for k in np.unique(index):
        exposed, known = store.read_wave(int(k)), {}
        for i in np.flatnonzero(index == k):
            focus = tuple(recording.focus[first + i])
            if focus not in known:
                known = {focus: expected(exposed, focus, recording)}
            movie[i], labels[i] = record_frame(known[focus], exposed.labels, first + i, recording)
    edge = np.ones(recording.shape, bool)
    edge[1:-1, 1:-1] = False
    found = {
        "particle_area": counted(labels, recording.particles) * recording.camera.pixel_size**2,
        "particle_touches_border": counted(labels * edge, recording.particles) > 0,
    }
    store.write_batch(batch, first, movie if recording.series else movie[:, 0], labels, found)
    return batch


def expected(exposed: Exposed, focus: Sequence[float], recording: Recording) -> list[np.ndarray]:
    """Expected images of the whole cell at these defoci, on the grid of the camera."""
    lenses = [replace(recording.optics, defocus=float(d)) for d in focus]
    return expected_images(exposed.wave, recording.box / len(exposed.wave), lenses, energy=recording.energy,
                           gold_thickness=exposed.thickness, shapes=[(recording.cell,) * 2] * len(lenses))


def record_frame(images: Sequence[np.ndarray], labels: np.ndarray, frame: int,
                 recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Record the window of periodic images that one frame shows, and cut its labels."""
    rng, pixel = np.random.default_rng([recording.seed, 6, frame]), recording.camera.pixel_size
    shift, origin = recording.shifts[frame], recording.origin
    m = MTF_MARGIN
    window = np.ix_(*(np.arange(-m, n + m) % recording.cell for n in recording.shape))
    counts = [record(fourier_shift(image, tuple((shift - origin) / pixel))[window], recording.camera, rng)
              for image in images]
    at = [np.round((np.arange(n) * pixel + o - s) / recording.box * len(labels)).astype(int) % len(labels)
          for n, o, s in zip(recording.shape, origin, shift, strict=True)]
    return digitise(np.stack(counts), np.uint16), labels[np.ix_(*at)]


def counted(labels: np.ndarray, particles: int) -> np.ndarray:
    """Pixels of each particle in each frame (frame, particle)."""
    return np.array([np.bincount(frame.ravel(), minlength=particles + 1)[1:particles + 1] for frame in labels])
