"""DM3, DM4, MRC, TVIPS, EMD and HyperSpy files through the readers of RosettaSciIO."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError
from .opened import Opened, axis_order, describe_axes

__all__ = ["metadata_attrs", "open_rosetta"]

#: family -> RosettaSciIO plug-in. Plain MRC: the MRCZ plug-in fails on files of other programs
PLUGINS = {
    "DigitalMicrograph": "digitalmicrograph", "MRC": "mrc", "TVIPS": "tvips", "EMD": "emd",
    "HyperSpy": "hspy", "HyperSpy (Zarr)": "zspy",
}  # fmt: skip
#: our attribute -> where the metadata of RosettaSciIO hold it
WHERE = {
    "title": "General.title", "date": "General.date", "time_of_day": "General.time",
    "microscope": "Acquisition_instrument.TEM.microscope", "beam_energy": "Acquisition_instrument.TEM.beam_energy",
    "magnification": "Acquisition_instrument.TEM.magnification",
    "exposure": "Acquisition_instrument.TEM.Detector.Camera.exposure",
    "camera": "Acquisition_instrument.TEM.Detector.Camera.name",
}  # fmt: skip
#: HDF5 does one thing at a time anyway; opening and closing one file in many threads has crashed it
HDF5_LOCK = threading.RLock()
GATAN_EXPOSURE = "ImageList.TagGroup0.ImageTags.DataBar.Exposure Time (s)"
NUMBERS = ("beam_energy", "magnification", "exposure")


@contextmanager
def open_rosetta(path: str, signal: int | str | None = None) -> Iterator[Opened]:
    """Open a file with its RosettaSciIO plug-in, lazily, and pick the image signal."""
    from .natural import family_of

    family = family_of(Path(path))
    if family == "HDF5":
        family = _kind_of_hdf5(path)
    plugin = import_module(f"rsciio.{PLUGINS[family]}")
    with ExitStack() as stack:
        if family in ("EMD", "HyperSpy"):
            stack.enter_context(HDF5_LOCK)
        # the .zspy plug-in opens lazy data for writing unless it is told otherwise
        mode = {"mode": "r"} if family == "HyperSpy (Zarr)" else {}
        found = plugin.file_reader(path, lazy=True, **mode)
        images = [s for s in found if _is_image(s)]
        stack.callback(_close, images)
        picked, notes = _pick(images, found, path, signal)
        axes, remarks = CORRECT.get(family, _as_they_are)(picked)
        yield _opened(picked, axes, notes + remarks, path)


def _as_they_are(signal: Mapping[str, Any]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    return [dict(a) for a in signal["axes"]], ()


def _mrc_axes(signal: Mapping[str, Any]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Drop the 1 nm that stands for "no cell in the header", and doubt the 1 angstrom that many programs write."""
    axes, notes = _as_they_are(signal)
    header = signal["original_metadata"].get("std_header", {})
    for axis in axes[-2:]:
        if "fei_header" not in signal["original_metadata"] and header.get("M" + str(axis["name"]).upper(), 1) == 0:
            axis["units"] = None
    if all(a["units"] == "nm" and a["scale"] == 0.1 for a in axes[-2:]):
        notes = ("has a pixel size of exactly 1 angstrom, which many programs write for none; if it is wrong give "
                 "open_movie(..., pixel_size=...)",)  # fmt: skip
    return axes, notes


def _tvips_axes(signal: Mapping[str, Any]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Start the time at 0, and leave the pixel size out: the header has the camera's own pixels, in whole nm."""
    axes, _ = _as_they_are(signal)
    axes[0]["offset"] = 0.0
    if "1/" in str(axes[-1]["units"]):
        return axes, ()
    for axis in axes[-2:]:
        axis["units"] = None
    header = signal["original_metadata"].get("tvips_header", {})
    note = (f"a TVIPS file has the size of the camera's pixels ({header.get('pixelsize')} nm) and the magnification "
            f"({header.get('magtotal')}), but no calibration; give open_movie(..., pixel_size=...)")  # fmt: skip
    return axes, (note,)


#: family -> what is wrong with the axes as RosettaSciIO gives them
CORRECT = {"MRC": _mrc_axes, "TVIPS": _tvips_axes}


def _opened(signal: Mapping[str, Any], axes: list[dict[str, Any]], notes: tuple[str, ...], path: str) -> Opened:
    data = signal["data"]
    order = axis_order([a.get("name") for a in axes], [bool(a.get("navigate")) for a in axes], path, data.shape)
    data, axes = data.transpose(order), [axes[i] for i in order]
    long = [i for i in range(len(axes) - 2) if data.shape[i] > 1]
    if len(long) > 1:
        named = {str(a.get("name")): s for a, s in zip(axes, data.shape, strict=True)}
        raise InputError(f"{path}: axes {named}; expected one axis of frames besides y and x (4D-STEM is not a movie)")
    n, shape = (data.shape[long[0]] if long else 1), data.shape[-2:]
    frames = data.reshape((n, *shape)) if data.ndim != 3 else data

    def fetch(start: int, stop: int) -> np.ndarray:
        part = frames[start:stop]
        # a copy: a view into a memory map would fault where the file is cut or replaced later
        return np.array(part.compute(scheduler="synchronous") if hasattr(part, "compute") else part)

    return Opened(int(n), (int(shape[0]), int(shape[1])), np.dtype(data.dtype), fetch,
                  lambda: describe_axes(axes, metadata_attrs(signal), notes))  # fmt: skip


def _is_image(signal: Mapping[str, Any]) -> bool:
    data, axes = signal["data"], signal["axes"]
    signal_axes = sum(not a.get("navigate") for a in axes)
    names = {str(a.get("name")).lower() for a in axes}
    return data.ndim >= 2 and data.dtype.kind in "iufb" and (signal_axes >= 2 or {"y", "x"} <= names)


def _title(signal: Mapping[str, Any]) -> str:
    return str(signal["metadata"].get("General", {}).get("title") or "untitled")


def _pick(
    images: Sequence[Mapping], found: Sequence[Mapping], path: str, signal: int | str | None
) -> tuple[Mapping, tuple[str, ...]]:
    """Choose one image signal: the one asked for, or the largest, with a remark where there are several."""
    held = ", ".join(f"{i}: {_title(s)} {s['data'].shape}" for i, s in enumerate(images))
    if not images:
        shapes = [(_title(s), s["data"].shape, str(s["data"].dtype)) for s in found]
        raise InputError(f"{path}: holds no image of real numbers, found {shapes}; expected (y, x) or (frame, y, x)")
    if signal is not None:
        match = [s for i, s in enumerate(images) if signal in (i, _title(s))]
        if not match:
            raise InputError(f"{path}: no image signal {signal!r}; expected a number or a title of {held}")
        return match[0], ()
    best = max(range(len(images)), key=lambda i: (images[i]["data"].size, -i))
    if len(images) == 1:
        return images[best], ()
    return images[best], (
        f"holds {len(images)} image signals ({held}); number {best} is used. "
        "Choose another by open_movie(..., signal=NUMBER or TITLE)",
    )


def _close(signals: Sequence[Mapping[str, Any]]) -> None:
    """Close the HDF5 file that lazy data hold open."""
    for signal in signals:
        for layer in getattr(getattr(signal["data"], "dask", None), "layers", {}).values():
            for value in getattr(layer, "mapping", {}).values():
                if type(value).__module__.startswith("h5py") and value:
                    value.file.close()


def _kind_of_hdf5(path: str) -> str:
    import h5py

    with h5py.File(path, "r") as f:
        if "Experiments" in f:
            return "HyperSpy"
        if "version_major" in f.attrs or "Version" in f:
            return "EMD"
        raise InputError(f"{path}: an HDF5 file with the groups {list(f)}; expected a HyperSpy or an EMD file")


def metadata_attrs(signal: Mapping[str, Any]) -> dict[str, Any]:
    """Return what RosettaSciIO knows of microscope and exposure, as flat attributes.

    ``beam_energy`` is in keV, ``exposure`` in seconds.
    """
    metadata = dict(signal.get("metadata", {}))
    attrs = {name: value for name, where in WHERE.items() if (value := _look_up(metadata, where)) is not None}
    for where, (target, convert) in (signal.get("mapping") or {}).items():
        name = next((k for k, v in WHERE.items() if target in (v, v.replace("Detector.Camera", "Camera"))), None)
        value = _look_up(signal.get("original_metadata", {}), where)
        if name is None or name in attrs or value is None:
            continue
        try:
            attrs[name] = value if convert is None else convert(value)
        except Exception:  # noqa: BLE001 - a note about the microscope must not stop a movie from opening
            continue
    attrs.setdefault("exposure", _look_up(signal.get("original_metadata", {}), GATAN_EXPOSURE))
    return {k: v for k, v in ((k, _plain(v, k in NUMBERS)) for k, v in attrs.items()) if v not in (None, "", 0)}


def _look_up(tree: Any, where: str) -> Any:
    for key in where.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _plain(value: Any, number: bool) -> str | float | int | None:
    value = value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value
    if number:
        try:
            return float(value)
        except (TypeError, ValueError):
            return None
    return value if isinstance(value, (str, int, float)) else None
