"""Two stacks of the same frames: whether they lie on the same pixels, and which class is the particle."""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr

from ..core.errors import InputError

__all__ = ["frames_and_times", "lazy_pixels", "on_grid_of", "particle_class"]


def lazy_pixels(data: xr.DataArray, chunks: tuple[int, int, int]) -> da.Array:
    """Lazy pixels; a numpy array in memory is cut up, not copied into the graph at once."""
    return data.data if isinstance(data.data, da.Array) else da.from_array(data.values, chunks=chunks)


def frames_and_times(movie: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Number (int64) and time [second] of each frame; counted from 0 and nan where the movie does not say.

    Raises
    ------
    InputError
        If the frames have no whole numbers, or the times are dates.
    """
    n = movie.sizes["frame"]
    frames = movie["frame"].values if "frame" in movie.coords else np.arange(n)
    if frames.dtype.kind not in "iuf" or not (np.isfinite(frames) & (frames == np.floor(frames))).all():
        raise InputError(f"the coordinate frame holds {frames.dtype}, as {frames[:3].tolist()}; expected whole "
                         f"numbers. Number the frames: movie.assign_coords(frame=range({n}))")
    times = movie["time"].values if "time" in movie.coords else np.full(n, np.nan)
    if times.dtype.kind == "m":
        times = times / np.timedelta64(1, "s")
    if times.dtype.kind not in "biuf" or times.shape != (n,):
        raise InputError(f"the coordinate time holds {times.dtype} of the shape {times.shape}; expected seconds, one a "
                         f"frame. Of dates: movie.assign_coords(time=(movie.time - movie.time[0]) / "
                         f"numpy.timedelta64(1, 's'))")
    return frames.astype(np.int64), times.astype(np.float64)


def on_grid_of(movie: xr.DataArray, data: xr.DataArray, what: str) -> xr.DataArray:
    """Check that the data is on the movie's frames and pixels; a missing coordinate is no contradiction."""
    if not isinstance(data, xr.DataArray) or {"frame", "y", "x"} - set(data.dims):
        raise InputError(f"{what} is {getattr(data, 'dims', type(data).__name__)}; expected a DataArray with the dims "
                         f"(frame, y, x) or (frame, class, y, x). Wrap a plain array: "
                         f"xarray.DataArray(array, dims=('frame', 'y', 'x'))")
    for dim in ("frame", "y", "x"):
        if data.sizes[dim] != movie.sizes[dim]:
            raise InputError(f"{what} has {data.sizes[dim]} samples along {dim} and the movie {movie.sizes[dim]}; "
                             f"expected the same. Select the same frames and the same crop of both")
        if dim in data.coords and dim in movie.coords and not np.array_equal(data[dim].values, movie[dim].values):
            raise InputError(f"{what} and the movie have different coordinates {dim}, from {data[dim].values[0]:g} to "
                             f"{data[dim].values[-1]:g} and from {movie[dim].values[0]:g} to "
                             f"{movie[dim].values[-1]:g}; expected equal ones. Resample or select first")
    missing = {dim: movie[dim] for dim in ("frame", "y", "x") if dim in movie.coords and dim not in data.coords}
    return data.assign_coords(missing) if missing else data


def particle_class(probability: xr.DataArray) -> xr.DataArray:
    """Probability of a particle (frame, y, x): the class of that name, else what is not background."""
    if "class" not in probability.dims:
        return probability.transpose("frame", "y", "x")
    classes = [str(c) for c in probability["class"].values] if "class" in probability.coords else []
    if "particle" in classes:
        chosen = probability.isel({"class": classes.index("particle")})
    elif "background" in classes:
        chosen = 1 - probability.isel({"class": classes.index("background")})
    elif probability.sizes["class"] == 1:
        chosen = probability.isel({"class": 0})
    else:
        raise InputError(f"probability has {probability.sizes['class']} classes called {classes or 'nothing'}; "
                         f"expected one called 'particle' or 'background'. Select one: "
                         f"probability.isel({{'class': 1}})")
    return chosen.transpose("frame", "y", "x")
