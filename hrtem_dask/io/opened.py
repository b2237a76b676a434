"""What every reader hands over about one open file, and the checks that all of them share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.errors import InputError, ReadError
from ..core.units import is_reciprocal_length, length_to_angstrom, time_to_second

#: share of the pixels of a frame that an annotation may colour
ANNOTATION = 0.005

__all__ = ["Description", "Opened", "axis_order", "describe_axes", "one_channel"]


@dataclass(frozen=True)
class Description:
    """What the file itself says of its calibration: pixel size (y, x) [angstrom], time [second], attributes."""

    pixel_size: tuple[float, float] | None = None
    time: np.ndarray | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opened:
    """An open image file: n frames of one shape, and the functions that read some of them.

    ``fetch(start, stop)`` returns the frames as an array (frame, y, x), possibly with a colour axis at
    the end, and ``describe()`` reads the calibration (asked of the first file of a series only).
    ``advice`` is what to do where the colours turn out to be something else.
    """

    n: int
    shape: tuple[int, int]
    dtype: np.dtype
    fetch: Callable[[int, int], np.ndarray]
    describe: Callable[[], Description] = Description
    advice: str = ""


def one_channel(block: np.ndarray, path: str, advice: str = "") -> np.ndarray:
    """Make one channel of a block (frame, y, x, colour) whose colours agree; refusals end with the advice.

    A constant opacity is ignored. Blocks (frame, y, x) are returned as they are. Where the colours differ in
    at most `ANNOTATION` of a frame, as at the smoothed edges of a burnt-in scale bar, those pixels get
    their median and a warning names the file.

    Raises
    ------
    ReadError
        If the colours differ elsewhere (colour has no meaning as counts, and a false colour map cannot
        be undone), or if the opacity varies.
    """
    if block.ndim == 3:
        return block
    colours = block[..., : block.shape[-1] - (block.shape[-1] in (2, 4))]
    opacity = block[..., colours.shape[-1] :]
    if opacity.size and opacity.min() != opacity.max():
        raise ReadError(f"{path}: the opacity runs from {opacity.min()} to {opacity.max()}; expected one value. Save "
                        f"the image without an alpha channel{advice}")  # fmt: skip
    differ = (colours != colours[..., :1]).any(axis=-1)
    share = float(differ.mean(axis=(1, 2)).max())
    if share > ANNOTATION:
        raise ReadError(
            f"{path}: a colour image (red, green and blue differ in {share:.2%} of the pixels); expected grey "
            f"values. Export the raw image, or a grey image without coloured annotations{advice}"
        )
    grey = colours[..., 0].copy()
    if share > 0:
        grey[differ] = np.median(colours[differ], axis=-1).astype(grey.dtype)
        warnings.warn(f"{path}: {int(differ.sum())} coloured pixels, an annotation by their number, became grey; "
                      "a burnt-in scale bar is still in the image", stacklevel=3)  # fmt: skip
    return grey


def axis_order(names: Sequence[Any], navigate: Sequence[bool], path: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the order of the axes that puts them as (others..., y, x).

    Axes named y and x (or height and width) are trusted; else the two last signal axes, in their order.
    """
    plain = [str(n or "").strip().lower() for n in names]
    for y, x in (("y", "x"), ("height", "width")):
        if plain.count(y) == 1 and plain.count(x) == 1:
            last = (plain.index(y), plain.index(x))
            break
    else:
        signal = [i for i, nav in enumerate(navigate) if not nav]
        last = tuple(signal[-2:]) if len(signal) >= 2 else tuple(range(len(plain)))[-2:]
    if len(last) != 2:
        raise InputError(f"{path}: shape {tuple(shape)} with the axes {plain}; expected images with y and x")
    return (*[i for i in range(len(plain)) if i not in last], *last)


def describe_axes(
    axes: Sequence[Mapping[str, Any]], attrs: Mapping[str, Any] | None = None, remarks: Sequence[str] = ()
) -> Description:
    """Read pixel size and time from axes in the form of RosettaSciIO, ordered (others..., y, x)."""
    notes = list(remarks)
    sizes = [_pixel(axis, notes) for axis in axes[-2:]]
    time = None
    for axis in axes[:-2]:
        step = time_to_second(_number(axis.get("scale")), axis.get("units"))
        if step is not None and np.isfinite(step) and step > 0 and int(axis["size"]) > 1:
            start = time_to_second(_number(axis.get("offset", 0)), axis.get("units")) or 0.0
            time = start + step * np.arange(int(axis["size"]))
    pixel = None if None in sizes else (sizes[0], sizes[1])
    if pixel is None and sizes != [None, None]:
        notes.append("only one of the axes y and x has a pixel size, so none is used")
    return Description(pixel, time, dict(attrs or {}), tuple(notes))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _pixel(axis: Mapping[str, Any], notes: list[str]) -> float | None:
    scale, unit = _number(axis.get("scale")), axis.get("units")
    if is_reciprocal_length(unit):
        notes.append(f"the axis {axis.get('name')} is in {unit}: this looks like a diffraction pattern, not an image")
        return None
    size = length_to_angstrom(scale, unit)
    if size is None or not np.isfinite(size) or size == 0:
        if isinstance(unit, str) and unit.strip() and size is None and scale != 1:
            notes.append(f"the unit {unit!r} of the axis {axis.get('name')} is not known")
        return None
    return abs(size)
