"""The probability of a particle, scaled by how near it is to a zone axis: figure 2 as an array."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from ..core.calibration import grid_of
from ..core.checks import check_mtf, check_number
from ..core.errors import InputError
from ..core.provenance import record
from ..kernels.blend import Windows
from ..kernels.crystal import d_spacings
from ..kernels.peaks import D_RANGE
from .aligned import lazy_pixels, on_grid_of, particle_class
from .graphs import partitions_of
from .labels import label_particles
from .particles import PARTITION_FRAMES, PARTITION_PIXELS, analyse_particles
from .ratio_graph import TILE, ParticleJob, WindowJob, map_large_particles, map_small_particles, map_windows

__all__ = ["peak_ratio_map"]

#: a window must hold this many of the widest spacings: three of them, and the soft edge of its border
SPACINGS = 4.0
#: widest window [pixel]: what the search for spots takes grows with its area, 0.8 GB at this side
WIDEST = 2048
#: distance from a particle up to which a pixel is its own [angstrom]; the edge of a probability is a third as wide
REACH = 10.0


def peak_ratio_map(
    movie: xr.DataArray,
    probability: xr.DataArray,
    *,
    window: float = 100.0,
    by: str = "window",
    crystal: Any = None,
    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
    threshold: float = 0.5,
) -> xr.DataArray:
    """Scale the probability of a particle by how near it is to a zone axis; lazy.

    The map is probability times s with s = max(0.02, 1 / ratio), where ratio is the `peak_ratio`, and
    0.02 where that is nan: particles whose atomic columns can be resolved stand out, and
    wherever the probability is positive the map is too, so the shape never changes.

    Parameters
    ----------
    movie : DataArray, dims (frame, y, x)
        Calibrated counts of any real dtype; pixels that are not finite are left out.
    probability : DataArray, dims (frame, class, y, x) or (frame, y, x)
        From `segment` or from anywhere, on the movie's frames and pixels. Of several classes the
        one called ``particle`` is taken, else everything that is not ``background``.
    window : float
        Side of the windows [angstrom], rounded to whole pixels of each axis. They begin at pixel (0, 0) of
        the frame, half a window apart; the last of each row and column is shifted back to end at the
        edge of the frame. Along an axis shorter than that there is one window. Not used by particle.
    by : "window" or "particle"
        By window the ratio is measured in every window, and s is the mean over the windows of a
        pixel, weighted by a Hamming window. By particle it is measured once a particle, as
        `analyse_particles` does, and s is the same all over a particle.
    crystal, mtf
        See `fourier_peak_pairs`.
    threshold : float
        Pixels with a larger probability are particle, here and in `label_particles`.

    Returns
    -------
    DataArray, float32, dims (frame, y, x)
        From 0 to 1, with the movie's coordinates. Where the probability is nan so is the map.

    Raises
    ------
    InputError
        If dims, frames or pixels do not match, there is no class to take, the window is narrower than
        four of the widest spacings searched or wider than 2048 pixels, or an option makes no sense.
    CalibrationError
        If the movie has no pixel size.

    Notes
    -----
    *What a window measures.* Of the pixels of a window those above the threshold are cut out with a
    soft edge, which falls to zero inside the window where they reach its border. Connected regions are
    cut out each by itself: spots of two lattices together say nothing, and the spots of the smaller one would be
    dimmer for its size alone. s of the window is then the mean over its particle pixels of the s of their
    regions. Particles that touch are one region. A window without such pixels has s = 0.02
    without a transform; it bears only on what is not above the threshold.

    *What the blend does.* A window at the end of a particle may see too little of it for a lattice; its
    s = 0.02 is part of the mean there, as the Hamming window weights it. So particles hardly wider than
    a window come out dimmer by window than by particle, most of all at their ends. And particles in
    one window share its s, weighted by area: ``by="particle"`` tells close neighbours apart.

    *Pixels outside of particles*, by particle: up to 10 angstrom away they take the s of the nearest
    particle, further away 0.02.

    *Memory.* By window a task holds a tile of about 2048 x 2048 pixels of some frames and one window
    beyond it, and waits for its neighbours alone, so frames of any size stream through. By particle frames of
    more than 16 million pixels wait for their table as runs of labels, and the probability is read
    a second time: write the result of `segment` before.

    Examples
    --------
    >>> from hrtem_dask.core.calibration import make_movie
    >>> y, x = np.mgrid[:160, :160] * 0.5
    >>> a, b = np.hypot(y - 40, x - 20) < 16, np.hypot(y - 40, x - 60) < 16
    >>> g = 2 * np.pi * 0.4245
    >>> fringes = a * (np.cos(g * x) + np.cos(g * y)) + b * (np.cos(g * x) + 0.4 * np.cos(g * y))
    >>> movie = make_movie(np.random.default_rng(0).poisson(40 + 12 * fringes)[None], pixel_size=0.5)
    >>> probability = movie.copy(data=0.9 * (a | b)[None])
    >>> shown = peak_ratio_map(movie, probability, by="particle").values[0]
    >>> (shown[80, [40, 120, 80]] / 0.9).round(1).astype(float).round(1).tolist()
    [1.0, 0.2, 0.0]
    """
    if not isinstance(movie, xr.DataArray) or movie.dims != ("frame", "y", "x"):
        raise InputError(f"the movie has the dims {getattr(movie, 'dims', type(movie).__name__)}; expected "
                         f"('frame', 'y', 'x'). Of a focal series take one image: movie.isel(defocus=0)")
    if 0 in movie.shape:
        raise InputError(f"the movie has the shape {movie.shape}; expected at least one frame and one pixel")
    if by not in ("window", "particle"):
        raise InputError(f"by is {by!r}; expected 'window' or 'particle'")
    check_number("threshold", threshold)
    check_mtf(mtf)
    grid = grid_of(movie)
    certain = particle_class(on_grid_of(movie, probability, "probability"))
    for what, data in (("movie", movie), ("probability", certain)):
        if data.dtype.kind not in "biuf":
            raise InputError(f"the {what} holds {data.dtype}; expected real numbers")
    # only the spacings count; they go to workers where a file may not, and an unknown crystal is an error here
    rings = None if crystal is None else d_spacings(crystal, *D_RANGE).tolist()
    if by == "window":
        windows = _windows(window, grid.pixel_size, (grid.ny, grid.nx), rings)
        data = map_windows(*(lazy_pixels(a, (1, TILE, TILE)) for a in (movie, certain)),
                           WindowJob(windows, grid.pixel_size, float(threshold), rings, mtf))
    else:
        data = _by_particle(movie, certain, ParticleJob(grid.pixel_size, REACH, float(threshold)), rings, mtf)
    attrs = {k: v for k, v in certain.attrs.items() if k != "long_name"} | {
        k: v for k, v in movie.attrs.items() if k.startswith("pixel_size")}
    attrs |= {"units": "1", "long_name": "probability of a particle times max(0.02, 1 / peak ratio)"}
    coords = {k: c for k, c in movie.coords.items() if set(c.dims) <= {"frame", "y", "x"}}
    return xr.DataArray(data, dims=("frame", "y", "x"), coords=coords, name="peak_ratio_map", attrs=record(
        attrs, "peak_ratio_map", window=float(window) if by == "window" else None, by=by, crystal=crystal,
        mtf=None if mtf is None else type(mtf).__name__, threshold=float(threshold)))


def _by_particle(movie: xr.DataArray, probability: xr.DataArray, job: ParticleJob, crystal: list[float] | None,
                 mtf: Any) -> da.Array:
    """Map with one factor a particle, from the table of `analyse_particles`."""
    # numbers that are unique and known, whatever the movie was put together from
    frames = np.arange(movie.sizes["frame"])
    movie, probability = (a.drop_vars("time", errors="ignore").assign_coords(frame=frames)
                          for a in (movie, probability))
    large = movie.sizes["y"] * movie.sizes["x"] > PARTITION_PIXELS
    size = 1 if large else min(PARTITION_FRAMES, max(1, PARTITION_PIXELS // (movie.sizes["y"] * movie.sizes["x"])))
    chunks = (1, TILE, TILE) if large else (size, -1, -1)
    movie, probability = (a.copy(data=lazy_pixels(a, chunks)) for a in (movie, probability))
    options = {"crystal": crystal, "mtf": mtf, "threshold": job.threshold}
    if large:
        tables = partitions_of(analyse_particles(movie, probability, **options))
        return map_large_particles(probability.data, tables, job)
    labels = label_particles(probability, threshold=job.threshold)
    tables = partitions_of(analyse_particles(movie, probability, labels=labels, frames_per_partition=size, **options))
    return map_small_particles(probability.data.rechunk(chunks), labels.data.rechunk(chunks), tables, job)


def _windows(window: Any, pixel_size: tuple[float, float], shape: tuple[int, int],
             spacings: list[float] | None) -> tuple[Windows, Windows]:
    check_number("window", window, "angstrom", above=0)
    widest = float(max(D_RANGE) if spacings is None else max(spacings, default=min(D_RANGE)))
    if window < SPACINGS * widest:
        raise InputError(f"window is {window:g} angstrom; expected at least {SPACINGS * widest:.3g}, {SPACINGS:g} "
                         f"times the widest spacing searched ({widest:.3g}): a smaller one shows no lattice. Try "
                         f"window=100")
    sizes = [max(1, round(window / d)) for d in pixel_size]
    found = max(min(s, n) for s, n in zip(sizes, shape, strict=True))
    if found > WIDEST:
        raise InputError(f"a window of {window:g} angstrom has {found} pixels a side; expected at most {WIDEST}, as "
                         f"the search for spots in a larger one takes too much memory. Try "
                         f"window={math.floor(WIDEST * min(pixel_size)):d}, or coarsen the movie")
    return tuple(Windows(n, s, "hamming") for n, s in zip(shape, sizes, strict=True))  # type: ignore[return-value]
