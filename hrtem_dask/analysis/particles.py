"""A row a particle a frame, from a movie and a probability map from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr
from dask.delayed import Delayed

from ..core.calibration import grid_of
from ..core.checks import check_mtf, check_number
from ..core.errors import InputError
from ..core.schema import PARTICLES
from ..kernels import tally
from ..kernels.crystal import d_spacings
from ..kernels.particle import measure_particles
from ..kernels.peaks import D_RANGE
from .aligned import frames_and_times, lazy_pixels, on_grid_of, particle_class
from .labels import check_options, label_particles
from .particle_graph import FrameTask, frame_table

__all__ = ["analyse_particles"]

#: a partition holds at most this many pixels and frames
PARTITION_PIXELS = 2**24
PARTITION_FRAMES = 16


def analyse_particles(
    movie: xr.DataArray,
    probability: xr.DataArray,
    *,
    crystal: Any = None,
    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
    threshold: float = 0.5,
    min_area: float | None = None,
    labels: xr.DataArray | None = None,
    frames_per_partition: int | None = None,
) -> dd.DataFrame:
    """Measure every particle of every frame: size, position, shape, directions of spots, their ratio, zone axis.

    Nothing is computed until the table is asked for its values. Particles that touch the border
    of the frame are flagged, never dropped.

    Parameters
    ----------
    movie : DataArray, dims (frame, y, x)
        Counts, calibrated: positions and lengths come from its coordinates ``y`` and ``x``, also
        for a cropped or strided movie.
    probability : DataArray, dims (frame, class, y, x) or (frame, y, x)
        From `segment` or from anywhere, on the movie's frames and pixels. Of several classes the
        one called ``particle`` is taken, else everything that is not ``background``.
    crystal : str, path, ase.Atoms or sequence of float, optional
        Search spots only on the rings of this crystal; see `fourier_peak_pairs`. But for bare spacings, its
        nets also take part in the score, and the column ``zone_axis`` says which one fits best.
    mtf : callable, optional
        Amplitude MTF of the frequency in units of Nyquist.
    threshold, min_area
        See `label_particles`; not used where ``labels`` are given.
    labels : DataArray, dims (frame, y, x), optional
        Integer labels, 0 is background; by default ``label_particles(probability, ...)``.
    frames_per_partition : int, optional
        Frames a partition; by default up to 16, fewer where frames are large. Frames of more than 16
        million pixels are a partition each.

    Returns
    -------
    dask.dataframe.DataFrame
        Table `core.schema.PARTICLES`, one partition a batch of frames. `link_particles` follows the
        particles through it.

    Raises
    ------
    InputError
        If dims, frames or pixels do not match, or there is no class to take.
    CalibrationError
        If the movie has no pixel size.

    Notes
    -----
    Frames of more than 16 million pixels are measured in squares of 2048 pixels from their pixel
    (0, 0), whatever the chunks; a particle across squares is put together first, and every particle
    is measured once. The numbers are those of the whole frame, bit for bit, but for the rounding of
    the mean probability. What a worker holds does not grow with the frame where movie and
    probability come from files: write the result of `segment` before the table is made.
    The spots of a particle that is, with its margin, wider than 2048 pixels are looked for in the one
    of these squares that holds most of it, in frames of any size, and the worker logs a warning:
    the search takes 50 byte of memory a pixel. Everything else in its row is that of all of it.

    Examples
    --------
    >>> from hrtem_dask.core.calibration import make_movie
    >>> y, x = np.mgrid[:96, :96] * 0.5
    >>> disc = np.hypot(y - 20, x - 24) < 15
    >>> counts = np.random.default_rng(0).poisson(40 + 12 * np.cos(2 * np.pi * 0.4245 * (x + 0.3 * y)) * disc)
    >>> movie = make_movie(counts[None], pixel_size=0.5)
    >>> labels = movie.copy(data=disc[None].astype(np.int32))
    >>> table = analyse_particles(movie, movie.copy(data=disc[None] * 0.9), labels=labels).compute()
    >>> table[["frame", "particle", "y", "x", "n_pairs"]].round(1).values.tolist()
    [[0.0, 1.0, 20.0, 24.0, 1.0]]
    """
    if not isinstance(movie, xr.DataArray) or movie.dims != ("frame", "y", "x"):
        raise InputError(f"the movie has the dims {getattr(movie, 'dims', type(movie).__name__)}; expected "
                         f"('frame', 'y', 'x'). Of a focal series take one image: movie.isel(defocus=0)")
    _check(movie, crystal, mtf, frames_per_partition)
    grid = grid_of(movie)
    certain = particle_class(on_grid_of(movie, probability, "probability"))
    large = grid.ny * grid.nx > PARTITION_PIXELS
    if labels is not None:
        labels = on_grid_of(movie, labels, "labels")
    elif not large:
        labels = label_particles(certain, threshold=threshold, min_area=min_area)
    if labels is not None and (labels.dims != ("frame", "y", "x") or not np.issubdtype(labels.dtype, np.integer)):
        raise InputError(f"labels have the dims {labels.dims} and the dtype {labels.dtype}; expected integers with "
                         f"the dims ('frame', 'y', 'x'), as label_particles(probability) returns")
    frames, times = frames_and_times(movie)
    where = {"y0": grid.y0, "x0": grid.x0, "dy": grid.dy, "dx": grid.dx}
    spots = {"crystal": crystal, "mtf": mtf}
    if large:
        level, min_pixels = check_options(certain, threshold, min_area)
        task = FrameTask((grid.ny, grid.nx), tally.TILE, where, spots, level, min_pixels)
        parts = _large(movie, certain, labels, task, frames, times)
    else:
        size = frames_per_partition or min(PARTITION_FRAMES, max(1, PARTITION_PIXELS // max(1, grid.ny * grid.nx)))
        parts = _small((movie, certain, labels), size, frames, times, where | spots)
    if not parts:
        return dd.from_pandas(PARTICLES.empty(), npartitions=1)
    return dd.from_delayed(parts, meta=PARTICLES.empty(), verify_meta=False)


def _check(movie: xr.DataArray, crystal: Any, mtf: Any, frames_per_partition: int | None) -> None:
    """Refuse now what a worker would stumble over later."""
    if 0 in movie.shape[1:]:
        raise InputError(f"the movie has the shape {movie.shape}; expected at least one pixel")
    if movie.dtype.kind not in "biuf":
        raise InputError(f"the movie holds {movie.dtype}; expected real numbers")
    if crystal is not None:
        d_spacings(crystal, *D_RANGE)
    check_mtf(mtf)
    if frames_per_partition is not None:
        check_number("frames_per_partition", frames_per_partition, least=1, whole=True)


def _large(movie: xr.DataArray, probability: xr.DataArray, labels: xr.DataArray | None, task: FrameTask,
           frames: np.ndarray, times: np.ndarray) -> list[Delayed]:
    """A partition a frame, each measured square by square."""
    arrays = [None if a is None else lazy_pixels(a, (1, task.tile, task.tile)) for a in (movie, probability, labels)]
    return [frame_table(*(None if a is None else a[i:i + 1] for a in arrays), task, int(frame), float(time))
            for i, (frame, time) in enumerate(zip(frames, times, strict=True))]


def _small(stacks: Sequence[xr.DataArray], size: int, frames: np.ndarray, times: np.ndarray,
           options: dict[str, Any]) -> list[Delayed]:
    """A partition a batch of whole frames."""
    measure = dask.delayed(_measure_batch, pure=True, traverse=False)
    arrays = [lazy_pixels(a, (size, -1, -1)).rechunk((size, -1, -1)) for a in stacks]
    # optimised one by one, what they share (a network's inference) would be computed for each of them
    blocks = [a.to_delayed(optimize_graph=False).ravel() for a in arrays]
    return [measure(*batch, frames[i * size:(i + 1) * size], times[i * size:(i + 1) * size], options)
            for i, batch in enumerate(zip(*blocks, strict=True))]


def _measure_batch(images: np.ndarray, probability: np.ndarray, labels: np.ndarray, frames: np.ndarray,
                   times: np.ndarray, options: dict[str, Any]) -> pd.DataFrame:
    rows = [measure_particles(*planes, frame=int(frame), time=float(time), **options)
            for *planes, frame, time in zip(images, probability, labels, frames, times, strict=True)]
    full = [table for table in rows if len(table)]
    return pd.concat(full, ignore_index=True) if full else PARTICLES.empty()
