"""Pictures straight from lazy results, for notebooks."""

from __future__ import annotations

import math

import dask
import numpy as np
import xarray as xr

from ..campaign.units import foreground
from ..core.calibration import pixel_size_of
from ..core.errors import InputError
from .figures import four_panels
from .pictures import Encoded, Scene

__all__ = ["figure_one"]


def figure_one(
    movie: xr.DataArray, probability: xr.DataArray, labels: xr.DataArray, *, frame: int | None = None,
    particle: int | None = None, crystal: str | None = None,
) -> Encoded:
    """Frame, inference, Fourier domain of the frame and of one particle; computes this frame.

    Parameters
    ----------
    movie : DataArray, dims (frame, y, x)
        Calibrated counts.
    probability : DataArray, dims (frame, class, y, x)
        From `hrtem_dask.segment`.
    labels : DataArray, dims (frame, y, x)
        From `hrtem_dask.label_particles`.
    frame : int, optional
        Number of the frame, by default the first.
    particle : int, optional
        Label of the particle to crop, by default the largest of the frame.
    crystal : str, optional
        As for `hrtem_dask.fourier_peak_pairs`.

    Returns
    -------
    Encoded
        A picture that a notebook shows.

    Raises
    ------
    InputError
        If there is no such frame or particle.
    CalibrationError
        If the movie has no pixel size.
    """
    number = int(movie.frame.values[0]) if frame is None else int(frame)
    if number not in movie.frame.values:
        raise InputError(f"there is no frame {number}; expected one of {movie.frame.values[0]} to "
                         f"{movie.frame.values[-1]}, as movie.frame says")
    image, inferred, found = dask.compute(*(d.sel(frame=number) for d in (movie, foreground(probability), labels)))
    sizes = np.bincount(found.values[found.values > 0])
    if particle is None and sizes.size:
        particle = int(sizes.argmax())
    elif particle is not None and not (0 < particle < sizes.size and sizes[particle]):
        raise InputError(f"frame {number} has no particle {particle}; expected one of {np.unique(found)[1:].tolist()}")
    time = float(image.time) if "time" in image.coords else math.nan
    scene = Scene(number, time, image.values, inferred.values, found.values, pixel_size_of(movie))
    return four_panels(scene, particle, crystal=crystal)[0]
