"""TIA series (SER, EMI) and Merlin recordings (MIB) through the record definitions of RosettaSciIO.

Its readers of whole files load every frame of a SER file to open it, and guess a scan out of the
time stamps of a MIB file; here the same definitions read one frame at a time.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError, ReadError
from .opened import Description, Opened, describe_axes
from .readers_rsciio import metadata_attrs

__all__ = ["open_mib", "open_ser"]


@contextmanager
def open_ser(path: str, signal: int | str | None = None) -> Iterator[Opened]:
    """Open a TIA series (.ser, or the .emi that names it), reading only the frames asked for.

    TIA stores the lowest row first; the rows are turned round, as RosettaSciIO does.
    """
    from rsciio.tia import _api as tia

    ser, notes = _ser_of(path, signal)
    with open(ser, "rb") as f:  # noqa: PTH123 - numpy reads from the handle
        header = np.fromfile(f, dtype=np.dtype(tia.get_header_dtype_list(f)), count=1)
        if header.size == 0 or tia.guess_record_by(header["DataTypeID"]) != "image":
            raise InputError(f"{ser}: no image series of TIA; expected records of images")
        n = int(header["ValidNumberElements"][0])
        if n == 0:
            raise ReadError(f"{ser}: a TIA series without any recorded image")
        f.seek(int(header["OffsetArrayOffset"][0]))
        offsets = np.fromfile(f, dtype="<u4" if header["SeriesVersion"][0] <= 528 else "<u8", count=n)
        record, _ = tia.get_data_dtype_list(f, int(offsets[0]), "image")
        record = np.dtype(record)
        first = np.fromfile(_at(f, offsets[0]), dtype=np.dtype([d for d in record.descr if d[0] != "Array"]), count=1)
        shape = (int(first["ArraySizeY"][0]), int(first["ArraySizeX"][0]))

        def fetch(start: int, stop: int) -> np.ndarray:
            frames = [np.fromfile(_at(f, offsets[i]), dtype=record, count=1) for i in range(start, stop)]
            if any(frame.size == 0 for frame in frames):
                raise ReadError(f"{ser}: the file ends before frame {stop - 1}; expected {n} frames, it is truncated")
            return np.concatenate([frame["Array"].reshape(1, *shape) for frame in frames])[:, ::-1]

        dtype = record["Array"].base
        yield Opened(n, shape, dtype, fetch, lambda: _describe_ser(ser, path, first, notes))


def _at(f: Any, offset: int) -> Any:
    f.seek(int(offset))
    return f


def _ser_of(path: str, signal: int | str | None) -> tuple[str, tuple[str, ...]]:
    if not path.lower().endswith(".emi"):
        return path, ()
    here = Path(path)
    found = sorted(p for p in here.parent.glob(glob.escape(here.stem) + "_*") if p.suffix.lower() == ".ser")
    if not found:
        raise ReadError(f"{path}: the pixels of an .emi are in {here.stem}_1.ser beside it, which is not there")
    number = int(signal or 0) if isinstance(signal, int | None) else -1
    if not 0 <= number < len(found):
        raise InputError(f"{path}: no series {signal!r}; expected a number from 0 to {len(found) - 1}")
    names = ", ".join(f"{i}: {p.name}" for i, p in enumerate(found))
    several = f"has {len(found)} series ({names}); the first is used. Choose another by open_movie(..., signal=NUMBER)"
    return str(found[number]), (several,) if len(found) > 1 and signal is None else ()


def _describe_ser(ser: str, path: str, first: np.ndarray, notes: tuple[str, ...]) -> Description:
    metres = ({"name": "y", "size": 1, "scale": first["CalibrationDeltaY"][0], "units": "m"},
              {"name": "x", "size": 1, "scale": first["CalibrationDeltaX"][0], "units": "m"})  # fmt: skip
    attrs: dict[str, Any] = {}
    unit = "m"
    if path.lower().endswith(".emi"):
        from rsciio import tia

        # the .emi knows whether the microscope was in diffraction
        found = [s for s in tia.file_reader(path, lazy=True)
                 if s["metadata"]["General"].get("original_filename") == Path(ser).name]  # fmt: skip
        if found:
            attrs = metadata_attrs(found[0])
            unit = "1/m" if "1" in str(found[0]["axes"][-1]["units"]) else "m"
    return describe_axes([dict(axis, units=unit) for axis in metres], attrs, notes)


@contextmanager
def open_mib(path: str, signal: int | str | None = None) -> Iterator[Opened]:
    """Open a Merlin recording (.mib) as a plain stack of frames."""
    from rsciio.quantumdetector import load_mib_data
    from rsciio.quantumdetector._api import MIBProperties

    properties = MIBProperties()
    properties.parse_file(path)
    record = properties.head_size + int(np.prod(properties.merlin_size)) * np.dtype(properties.dtype).itemsize
    n, rest = divmod(properties.file_size, record)
    if n == 0 or rest:
        raise ReadError(f"{path}: {properties.file_size} bytes are not a whole number of frames of {record}; the "
                        f"recording is truncated after {n} frames")  # fmt: skip

    def fetch(start: int, stop: int) -> np.ndarray:
        frames = load_mib_data(path, lazy=False, mmap_mode="r", first_frame=start, last_frame=stop)
        return np.array(frames).reshape(stop - start, *properties.merlin_size)[:, ::-1]

    dtype = np.dtype(properties.dtype)
    yield Opened(n, tuple(properties.merlin_size), dtype, fetch, lambda: _describe_mib(path, properties.exposure))


def _describe_mib(path: str, exposure: float | None) -> Description:
    """Time of each frame from its own header; a MIB file has no pixel size."""
    from rsciio.quantumdetector import load_mib_data, parse_timestamps

    _, headers = load_mib_data(path, mmap_mode="r", return_headers=True)
    texts = parse_timestamps(headers, max_index=len(headers))
    stamps = np.array([str(t).rstrip("Z") for t in texts], dtype="datetime64[ns]")
    seconds = (stamps - stamps[0]) / np.timedelta64(1, "s")
    time = seconds if len(seconds) > 1 and np.all(np.diff(seconds) > 0) else None
    return Description(None, time, {} if not exposure else {"exposure": exposure * 1e-3})
