"""TIFF: frames through tifffile, calibration as RosettaSciIO and OME-XML give it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..core.errors import InputError, ReadError
from ..core.units import length_to_angstrom, time_to_second
from .opened import Description, Opened, describe_axes

__all__ = ["open_tiff"]

#: a pixel larger than this [angstrom] is a dot of a screen or a printer, not of a microscope
LARGEST_PIXEL = 1e4
#: nothing in such a file tells frames from colours, so they are not taken for what the file does not say
PLANES = ("; or, if its {0} planes are {0} frames, which tifffile marks as colours unless it is told otherwise, write "
          'them again: tifffile.imwrite(FILE, frames, photometric="minisblack")')


@contextmanager
def open_tiff(path: str, signal: int | str | None = None) -> Iterator[Opened]:
    """Open the largest image series of a TIFF file (or series number ``signal``)."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        _check_chain(tif, path)
        number, note = _choose(tif, path, signal)
        series = tif.series[number]
        axes, shape = series.axes, series.shape
        frames = [(a, s) for a, s in zip(axes, shape, strict=True) if a not in "YXS" and s > 1]
        if len(frames) > 1:
            raise InputError(f"{path}: axes {axes} of shape {shape}; expected one axis of frames besides Y and X")
        n = frames[0][1] if frames else 1
        size = dict(zip(axes, shape, strict=True))

        def fetch(start: int, stop: int) -> np.ndarray:
            return _fetch(tif, number, path, n, start, stop)

        planes = "S" in axes and axes.index("S") < axes.index("Y")
        yield Opened(n, (size["Y"], size["X"]), series.dtype, fetch, lambda: _describe(tif, path, n, note),
                     PLANES.format(size["S"]) if planes else "")


def _check_chain(tif: Any, path: str) -> None:
    """Refuse a file whose last page points behind its end: tifffile only logs that, and shows fewer frames."""
    pages = len(tif.pages)
    tif.filehandle.seek(tif.pages.next_page_offset)
    following = int.from_bytes(tif.filehandle.read(tif.tiff.offsetsize), "big" if tif.byteorder == ">" else "little")
    if following >= tif.filehandle.size:
        raise ReadError(f"{path}: the TIFF file ends after page {pages}, and that page names a further one; it is "
                        "truncated. Copy it again")  # fmt: skip


def _choose(tif: Any, path: str, signal: int | str | None) -> tuple[int, tuple[str, ...]]:
    if not tif.series:
        raise InputError(f"{path}: a TIFF file without any image")
    if signal is not None:
        if not isinstance(signal, int) or not 0 <= signal < len(tif.series):
            raise InputError(f"{path}: no image series {signal!r}; expected a number from 0 to {len(tif.series) - 1}")
        return signal, ()
    images = [i for i, s in enumerate(tif.series) if "Y" in s.axes and "X" in s.axes]
    if not images:
        raise InputError(f"{path}: series with the axes {[s.axes for s in tif.series]}; expected axes Y and X")
    best = max(images, key=lambda i: (tif.series[i].size, -i))
    if len(images) == 1:
        return best, ()
    held = ", ".join(f"{i}: {tif.series[i].shape}" for i in images)
    return best, (
        f"holds {len(images)} image series ({held}); number {best} is used. "
        "Choose another by open_movie(..., signal=NUMBER)",
    )


def _fetch(tif: Any, number: int, path: str, n: int, start: int, stop: int) -> np.ndarray:
    """Read frames as (frame, y, x) or (frame, y, x, colour), touching only their bytes."""
    series = tif.series[number]
    if series.dataoffset is not None:  # contiguous and not compressed: also ImageJ stacks with a single page
        data = np.memmap(path, mode="r", dtype=series.dtype.newbyteorder(tif.byteorder), offset=series.dataoffset,
                         shape=series.shape)  # fmt: skip
        order = "YXS" if "S" in series.axes else "YX"
    elif len(series.pages) == n:
        pages = [series.pages[i] for i in range(start, stop)]
        data, n, stop, start = np.stack([p.asarray() for p in pages]), len(pages), stop - start, 0
        keyframe = series.keyframe
        data = data.reshape(len(pages), *keyframe.shape)
        inner = [a for a in keyframe.axes if a in "YXS" or dict(zip(keyframe.axes, keyframe.shape, strict=True))[a] > 1]
        data = data.reshape(len(pages), *(dict(zip(keyframe.axes, keyframe.shape, strict=True))[a] for a in inner))
        return np.ascontiguousarray(np.moveaxis(data, [1 + inner.index(a) for a in "YXS" if a in inner],
                                                range(1, data.ndim)))  # fmt: skip
    else:
        data = series.asarray()
        order = "YXS" if "S" in series.axes else "YX"
    others = [i for i, a in enumerate(series.axes) if a not in order]
    data = data.transpose(*others, *(series.axes.index(a) for a in order))
    data = data.reshape(n, *data.shape[len(others) :])
    return np.array(data[start:stop])


def _describe(tif: Any, path: str, n: int, notes: tuple[str, ...]) -> Description:
    described = _ome(tif, n) if tif.is_ome else None
    if described is not None:
        return replace(described, warnings=notes)
    time = None
    imagej = tif.imagej_metadata or {}
    if imagej.get("finterval") and n > 1:
        step = time_to_second(float(imagej["finterval"]), imagej.get("tunit", "s"))
        time = None if step is None else step * np.arange(n)
    found = _rosetta(path) or Description()
    pixel = found.pixel_size or _resolution(tif.pages[0], imagej.get("unit"))
    if pixel is not None and max(pixel) > LARGEST_PIXEL:
        pixel = None
    return Description(pixel, time, found.attrs, notes + found.warnings)


def _rosetta(path: str) -> Description | None:
    """Calibration from the tags of DigitalMicrograph, JEOL, FEI, TVIPS, Zeiss, Olympus and ImageJ."""
    from rsciio import tiff

    from .readers_rsciio import metadata_attrs

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signals = tiff.file_reader(path, lazy=True)
    except Exception:  # noqa: BLE001 - tags that RosettaSciIO cannot read mean no calibration, not no image
        return None
    axes = [a for a in signals[0]["axes"] if str(a.get("name")).lower() in ("height", "width", "y", "x")]
    axes.sort(key=lambda a: str(a["name"]).lower() in ("width", "x"))
    return describe_axes(axes, metadata_attrs(signals[0])) if len(axes) == 2 else None


def _resolution(page: Any, unit: str | None) -> tuple[float, float] | None:
    """Pixel size (y, x) from the resolution tags, in ImageJ's unit, or centimetres or inches."""
    if unit is None and "ResolutionUnit" in page.tags:
        unit = {2: "inch", 3: "cm"}.get(int(page.tags["ResolutionUnit"].value))
    sizes = []
    for tag in ("YResolution", "XResolution"):
        over, under = page.tags[tag].value if tag in page.tags else (0, 1)
        size = length_to_angstrom(under / over, unit) if over else None
        if size is None:
            return None
        sizes.append(size)
    return sizes[0], sizes[1]


def _ome(tif: Any, n: int) -> Description | None:
    """Pixel size and time step from OME-XML, where both pixel sizes are given."""
    root = ElementTree.fromstring(tif.ome_metadata)
    pixels = next((e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    sizes = [length_to_angstrom(float(pixels.get(f"PhysicalSize{a}", "nan")), pixels.get(f"PhysicalSize{a}Unit", "µm"))
             for a in "YX"]  # fmt: skip
    step = time_to_second(float(pixels.get("TimeIncrement", "nan")), pixels.get("TimeIncrementUnit", "s"))
    known = all(s is not None and np.isfinite(s) and s > 0 for s in sizes)
    timed = step is not None and np.isfinite(step) and step > 0 and n > 1
    return Description((sizes[0], sizes[1]) if known else None, step * np.arange(n) if timed else None)
