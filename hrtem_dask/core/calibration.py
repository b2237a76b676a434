"""Where a pixel is: the one place that makes and reads spatial calibration.

The uniform float64 coordinates ``y`` and ``x`` [angstrom] are the truth; the attributes
``pixel_size``, ``pixel_size_y`` and ``pixel_size_x`` repeat them for people and other
software. A movie without calibration has neither the coordinates nor the attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from .errors import CalibrationError, InputError

__all__ = ["Grid", "calibrated", "grid_of", "has_calibration", "make_movie", "pixel_size_of"]

#: relative difference of the two pixel sizes up to which pixels count as square
SQUARE_TOLERANCE = 1e-4
#: relative scatter of the coordinate steps that rounding may cause
UNIFORM_TOLERANCE = 1e-4
ASK = "give it: open_movie(..., pixel_size=0.59) in angstrom, or --pixel-size 0.59 on the command line"


@dataclass(frozen=True)
class Grid:
    """The sampling of a frame: sample (i, j) lies at (y0 + i * dy, x0 + j * dx) [angstrom]."""

    y0: float
    x0: float
    dy: float
    dx: float
    ny: int
    nx: int

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Pixel size (y, x) [angstrom], positive also for a flipped frame."""
        return abs(self.dy), abs(self.dx)

    def position(self, i: Any, j: Any) -> tuple[Any, Any]:
        """Coordinates (y, x) [angstrom] of the possibly fractional pixel (i, j)."""
        return self.y0 + np.asarray(i) * self.dy, self.x0 + np.asarray(j) * self.dx


def check_pixel_size(value: Any, what: str = "pixel_size") -> tuple[float, float]:
    """Validate a pixel size given by a user and return it as (y, x) [angstrom]."""
    try:
        pair = (float(value), float(value)) if np.ndim(value) == 0 else tuple(map(float, value))
    except (TypeError, ValueError):
        pair = ()
    if len(pair) != 2:
        raise CalibrationError(f"{what} is {value!r}; expected one number or (y, x) in angstrom, as 0.59")
    for v in pair:
        if not np.isfinite(v) or v <= 0:
            raise CalibrationError(f"{what} is {value!r}; expected a positive, finite number of angstrom, as 0.59")
    return pair[0], pair[1]


def calibrated(movie: xr.DataArray, pixel_size: float | tuple[float, float]) -> xr.DataArray:
    """Return the movie with coordinates and attributes for this pixel size (y, x) [angstrom]."""
    py, px = check_pixel_size(pixel_size)
    ny, nx = movie.sizes["y"], movie.sizes["x"]
    out = movie.assign_coords(
        y=("y", np.arange(ny) * py, {"units": "angstrom"}), x=("x", np.arange(nx) * px, {"units": "angstrom"})
    )
    out.attrs = {k: v for k, v in movie.attrs.items() if not k.startswith("pixel_size")}
    out.attrs |= {"pixel_size_y": py, "pixel_size_x": px}
    if abs(py / px - 1) <= SQUARE_TOLERANCE:
        out.attrs["pixel_size"] = py
    return out


def make_movie(
    data: Any,
    *,
    pixel_size: float | tuple[float, float] | None = None,
    time: Sequence[float] | np.ndarray | None = None,
    frame: Sequence[int] | np.ndarray | None = None,
    defocus: Sequence[float] | None = None,
    attrs: Mapping[str, Any] | None = None,
    name: str = "movie",
) -> xr.DataArray:
    """Wrap an array as a movie that keeps the package's conventions.

    Parameters
    ----------
    data : array, shape (frame, y, x) or (frame, defocus, y, x)
        numpy or dask array of counts.
    pixel_size : float or (float, float), optional
        Pixel size or (y, x) pair [angstrom]; without it the movie is uncalibrated.
    time : sequence of float, optional
        Time of each frame [second].
    frame : sequence of int, optional
        Index of each frame in the original movie, by default 0, 1, 2, ...
    defocus : sequence of float, optional
        Defocus of each image of a focal series [angstrom], positive is underfocus.
    attrs : mapping, optional
        Attributes to carry along.
    name : str
        Name of the DataArray.

    Returns
    -------
    xarray.DataArray
        dims ``(frame, y, x)`` or ``(frame, defocus, y, x)``.

    Raises
    ------
    InputError
        If the array has another number of axes.
    CalibrationError
        If the pixel size is not positive and finite.

    Examples
    --------
    >>> import numpy as np
    >>> movie = make_movie(np.zeros((2, 4, 4)), pixel_size=0.5)
    >>> movie.dims, movie.attrs["pixel_size"], float(movie.x[-1])
    (('frame', 'y', 'x'), 0.5, 1.5)
    """
    dims = ("frame", "y", "x") if defocus is None else ("frame", "defocus", "y", "x")
    if data.ndim != len(dims):
        raise InputError(f"the array has {data.ndim} axes, shape {data.shape}; expected the axes {dims}")
    n = data.shape[0]
    coords: dict[str, Any] = {"frame": np.arange(n) if frame is None else np.asarray(frame, dtype=np.int64)}
    if time is not None:
        coords["time"] = ("frame", np.asarray(time, dtype=np.float64), {"units": "second"})
    if defocus is not None:
        coords["defocus"] = ("defocus", np.asarray(defocus, dtype=np.float64), {"units": "angstrom"})
    movie = xr.DataArray(data, dims=dims, coords=coords, attrs=dict(attrs or {}), name=name)
    return movie if pixel_size is None else calibrated(movie, pixel_size)


def has_calibration(data: xr.DataArray) -> bool:
    """Whether the coordinates ``y`` and ``x`` are there."""
    return "y" in data.coords and "x" in data.coords


def grid_of(data: xr.DataArray) -> Grid:
    """Read the sampling from the coordinates.

    Parameters
    ----------
    data : DataArray
        Anything with the dims ``y`` and ``x`` and uniform coordinates [angstrom].

    Returns
    -------
    Grid
        Origin and step of both axes; the step of a flipped axis is negative.

    Raises
    ------
    CalibrationError
        If there are no coordinates, if they are not uniform, or if the attributes contradict
        them. A step that is a whole multiple of the attribute is a frame that was coarsened or
        strided after opening, and the coordinates are followed without complaint.
    """
    if not has_calibration(data):
        source = data.attrs.get("source", "this data")
        raise CalibrationError(f"{source} has no pixel size (no coordinates y and x); {ASK}")
    y0, dy = _axis(data, "y")
    x0, dx = _axis(data, "x")
    return Grid(y0, x0, dy, dx, data.sizes["y"], data.sizes["x"])


def pixel_size_of(data: xr.DataArray) -> tuple[float, float]:
    """Pixel size (y, x) [angstrom] from the coordinates; raises as `grid_of` does."""
    return grid_of(data).pixel_size


def _axis(data: xr.DataArray, name: str) -> tuple[float, float]:
    values = np.asarray(data[name].values, dtype=np.float64)
    stated = data.attrs.get(f"pixel_size_{name}", data.attrs.get("pixel_size"))
    if values.size == 1:
        if stated is None:
            raise CalibrationError(f"axis {name} has a single pixel and no attribute pixel_size_{name}; {ASK}")
        return float(values[0]), check_pixel_size(stated, f"attribute pixel_size_{name}")[0]
    steps = np.diff(values)
    step = (values[-1] - values[0]) / (values.size - 1)
    if not np.isfinite(step) or step == 0 or np.abs(steps - step).max() > UNIFORM_TOLERANCE * abs(step):
        raise CalibrationError(
            f"the coordinate {name} runs from {values[0]:g} to {values[-1]:g} angstrom in steps of "
            f"{steps.min():g} to {steps.max():g}; expected one uniform step. Select a slice, or resample first"
        )
    if stated is not None:
        multiple = abs(step) / check_pixel_size(stated, f"attribute pixel_size_{name}")[0]
        if multiple < 0.5 or abs(multiple / round(multiple) - 1) > SQUARE_TOLERANCE:
            raise CalibrationError(
                f"the coordinate {name} has a step of {abs(step):g} angstrom but attrs say {stated:g}; "
                f"expected the same (or a whole multiple, after coarsening). Set a new calibration with "
                f"open_movie(movie, pixel_size=...)"
            )
    return float(values[0]), float(step)
