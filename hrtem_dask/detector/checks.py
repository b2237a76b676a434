"""What the detector's functions demand of their arguments."""

from __future__ import annotations

import math

import numpy as np

from ..core.errors import InputError

__all__ = ["UNITS", "check_table", "positive", "sample_size"]

#: what a frequency in a table may be in
UNITS = ("nyquist", "1/pixel", "1/angstrom")


def sample_size(pixel: float | tuple[float, float]) -> tuple[float, float]:
    """Return the size (y, x) of a sample in pixels of the detector."""
    try:
        sizes = (float(pixel),) * 2 if np.ndim(pixel) == 0 else tuple(float(v) for v in pixel)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != 2 or not all(math.isfinite(v) and v > 0 for v in sizes):
        raise InputError(f"pixel is {pixel!r}; expected the size of a sample in pixels of the detector, as 2 or (1, 2)")
    return sizes[0], sizes[1]


def positive(**values: float) -> None:
    """Demand positive, finite numbers."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value!r}; expected a positive number")


def check_table(k: np.ndarray, value: np.ndarray, unit: str, pixel_size: float | None) -> None:
    """Demand a table of frequencies and values that can be interpolated."""
    if unit not in UNITS:
        raise InputError(f"unit is {unit!r}; expected one of {UNITS}")
    if (unit == "1/angstrom") != (pixel_size is not None):
        raise InputError(f"unit is {unit!r} and pixel_size {pixel_size!r}; expected a pixel size in angstrom with "
                         "unit='1/angstrom', and none otherwise")
    if pixel_size is not None:
        positive(pixel_size=pixel_size)
    if k.ndim != 1 or k.shape != value.shape or k.size < 3:
        raise InputError(f"k has the shape {k.shape} and value {value.shape}; expected two lists of 3 or more numbers")
    if not (np.isfinite(k).all() and np.isfinite(value).all()) or k.min() < 0 or len(set(k.tolist())) < k.size:
        raise InputError("the table has frequencies that are negative, twice there, or not finite; expected each once")
    first = float(value[np.argmin(k)])
    if first <= 0 or (k.min() > 0 and first > 1.05):
        raise InputError(f"the table begins with {first:g} at k = {k.min():g}; expected a value above 0, and 1 at most "
                         "where k = 0 is not in the table. Divide by the value at k = 0")
