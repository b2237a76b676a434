"""Exit waves: multislice through the potentials of abTEM, one specimen at a time.

The potentials, the antialiasing aperture and the propagator are abTEM's, and so is the algorithm:
transmit, propagate, slice after slice. The loop itself is here, for two reasons: the transforms of
scipy take half the time of abTEM's, and the slices of a film that does not move need not be made
again for every configuration of a movie. The result is that of abTEM to 1e-4 (rounding of float32).

Images are (y, x). abTEM and the positions are (x, y): `to_image_axes` is the one place where the
axes change.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from scipy import fft

from ..kernels.fourier_grid import fourier_resample
from .recipe import Field
from .structures import Specimen

__all__ = ["SliceMemory", "exit_wave", "to_image_axes"]


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


class SliceMemory:
    """Transmission functions of the slices of the specimen before, for the next one that has the same slices.

    A slice is known by its atoms, bit by bit, and by all that its transmission depends on: what is taken from here
    is what would have been computed.

    Parameters
    ----------
    most : int
        Bytes to keep at most from one specimen to the next. While a wave is made, as many again are there:
        those of the specimen before, and those of this one.
    """

    def __init__(self, most: int) -> None:
        self.most, self.kept = most, {}

    def replace(self, known: dict[bytes, np.ndarray], fresh: dict[bytes, np.ndarray]) -> None:
        """Keep the slices of one specimen; those that were known before come first, they may come again."""
        kept, size = {}, 0
        for key, array in (known | fresh).items():
            size += array.nbytes
            if size > self.most:
                break
            kept[key] = array
        self.kept = kept  # at once: other threads see the old ones or the new ones

    def forget(self) -> None:
        """Keep nothing."""
        self.kept = {}


def exit_wave(specimen: Specimen, field: Field, *, points: tuple[int, int] | None = None,
              stored: tuple[int, int] | None = None, memory: SliceMemory | None = None) -> np.ndarray:
    """Multislice of one specimen, cropped in Fourier space to the stored sampling.

    Parameters
    ----------
    specimen : Specimen
    field : Field
        Energy, sampling and slice thickness.
    points, stored : (int, int), optional
        Samples (y, x) of the multislice and of the result; by default those of `field`.
    memory : SliceMemory, optional
        Where slices are looked up that do not change from specimen to specimen.

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
        wave = _through(potential, field.energy * 1e3, memory)
    return fourier_resample(to_image_axes(wave), stored or (field.stored_points,) * 2)


def _through(potential: Any, energy: float, memory: SliceMemory | None) -> np.ndarray:
    """Send a plane wave through a potential (x, y): Kirkland, Advanced Computing in Electron Microscopy, ch. 6."""
    from abtem import PlaneWave
    from abtem.multislice import FresnelPropagator

    plane = PlaneWave(energy=energy, gpts=potential.gpts, extent=potential.extent).build(lazy=False)
    propagator, wave = FresnelPropagator(), np.ones(potential.gpts, np.complex64)
    slices = _transmissions(potential, energy, memory)
    for transmission, thickness in zip(slices, potential.slice_thickness, strict=True):
        wave *= transmission
        wave = fft.fft2(wave, overwrite_x=True)
        wave *= propagator.get_array(plane, thickness)  # of one thickness it keeps the array
        wave = fft.ifft2(wave, overwrite_x=True)
    return wave


def _transmissions(potential: Any, energy: float, memory: SliceMemory | None) -> Iterator[np.ndarray]:
    """Transmission functions exp(i sigma V) of all slices, band-limited by the antialiasing aperture."""
    from abtem.antialias import antialias_aperture
    from abtem.core.energy import energy2sigma

    aperture = antialias_aperture(potential.gpts, potential.sampling, np).astype(np.float32)
    sigma, sliced = np.float32(energy2sigma(energy)), potential.get_sliced_atoms()
    before, known, fresh, size = memory.kept if memory else {}, {}, {}, 0
    about = repr((potential.gpts, potential.sampling, energy)).encode()
    for i, thickness in enumerate(potential.slice_thickness):
        atoms = sliced.get_atoms_in_slices(i)
        # abTEM sorts by slices in an order that changes with the atoms of other slices; sums of float32 would too
        atoms = atoms[np.lexsort((*atoms.positions.T[:2], atoms.numbers))]
        if memory:  # the projection does not depend on heights within a slice
            key = hashlib.sha256(about + atoms.numbers.tobytes() + atoms.positions[:, :2].tobytes()).digest()
            if key in before:
                known[key] = before[key]
                yield before[key]
                continue
        phase = potential.integrator.integrate_on_grid(atoms, 0.0, thickness, gpts=potential.gpts,
                                                       sampling=potential.sampling) * sigma
        out = np.empty(phase.shape, np.complex64)
        np.cos(phase, out=out.real)
        np.sin(phase, out=out.imag)
        out = fft.fft2(out, overwrite_x=True)
        out *= aperture
        out = fft.ifft2(out, overwrite_x=True)
        size += out.nbytes
        if memory and size <= memory.most:  # what would be dropped at the end is not held until then
            fresh[key] = out
        yield out
    if memory:
        memory.replace(known, fresh)
