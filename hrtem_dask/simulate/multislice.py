"""Exit waves: multislice by abTEM, one specimen at a time.

Images are (y, x). abTEM and the positions are (x, y): `to_image_axes` is the one place where the
axes change.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack

import numpy as np

from ..kernels.fourier_grid import fourier_resample
from .recipe import Field
from .structures import Specimen

__all__ = ["exit_wave", "to_image_axes"]


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

    ny, nx = points or (field.wave_points,) * 2
    atoms = specimen.atoms()
    with _SETTINGS:
        potential = abtem.Potential(atoms, gpts=(nx, ny), slice_thickness=field.slice_thickness)
        wave = abtem.PlaneWave(energy=field.energy * 1e3).multislice(potential, lazy=False)
    return fourier_resample(to_image_axes(wave.array), stored or (field.stored_points,) * 2)
