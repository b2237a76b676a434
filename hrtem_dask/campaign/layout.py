"""What lies in the folder of a campaign, and how its store is laid out for a movie."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..core.errors import InputError, WriteError
from ..core.provenance import record
from ..io.store import ArraySpec, create_store, frame_spec, resize_frames, write_coords
from ..io.tables import read_json, writing
from .ledger import FOLDER
from .units import STORED

__all__ = ["ABOUT", "DIFFUSION", "DIFFUSION_TABLES", "PENDING", "STATUS", "STORE", "TABLES", "prepare_folder",
           "prepare_store", "write_status"]

log = logging.getLogger(__name__)
ABOUT, STORE, MOVIE = "campaign.json", "data.zarr", "movie.zarr"
#: what the counting of diffusion events makes: its numbers, and its tables
DIFFUSION = "diffusion.json"
DIFFUSION_TABLES = (*(f"{n}.{kind}" for n in ("drift", "sites", "events", "rate") for kind in ("parquet", "csv")),
                    "columns.parquet", "occupancy.parquet", "dwell.parquet", "diffusion_frames.parquet")
#: what the last stage makes; removed as soon as anything of it would be out of date
TABLES = ("particles.parquet", "particles.csv", "frames.parquet", "frames.csv", "verdicts.parquet", "verdicts.csv",
          "report.html", DIFFUSION, *DIFFUSION_TABLES)
#: meaning of the coordinate frame_status
STATUS = {"pending": 0, "done": 1, "failed": 2}
PENDING = STATUS["pending"]
#: uncompressed size of the probabilities of one unit of work [byte]
UNIT_BYTES = 4 << 20


def prepare_folder(out: str | Path) -> Path:
    """Make the output folder, or say what is in the way.

    Raises
    ------
    WriteError
        If it is a file, or cannot be written.
    InputError
        If it holds other things and no campaign.
    """
    out = Path(out).expanduser().absolute()
    if out.exists() and not out.is_dir():
        raise WriteError(f"--out {out} is a file; expected a folder, choose another")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".write-test"
        probe.write_bytes(b"x")
        probe.unlink()
    if (out / STORE).exists() and not (out / FOLDER).is_dir() and read_json(out / ABOUT) is None:
        raise InputError(f"{out} holds a {STORE} that no campaign of this package made; choose another --out")
    return out


def prepare_store(out: Path, movie: xr.DataArray, classes: Sequence[str], frames_per_unit: int | None) -> int:
    """Make the store of a movie, or fit the one that is there; return the frames of one unit.

    An existing store is kept where only the number of frames differs: a folder that grew.
    """
    path = out / STORE
    n, ny, nx = movie.sizes["frame"], movie.sizes["y"], movie.sizes["x"]
    found = _existing(path)
    if found is not None and frames_per_unit is None:
        frames_per_unit = found["frames_per_unit"]
    if frames_per_unit is None:
        by_size = UNIT_BYTES // (len(classes) * ny * nx * np.dtype(STORED).itemsize)
        frames_per_unit = int(max(1, min(by_size, -(-n // 16))))
    wanted = {"frames_per_unit": frames_per_unit, "classes": list(classes), "y": ny, "x": nx}
    coords = _coords(movie, classes)
    if found is not None and wanted == {k: found[k] for k in wanted}:
        if found["n"] != n:
            log.info("the movie had %d frames and has %d: the store is resized", found["n"], n)
            resize_frames(path, ["probability", "labels"], n)
        write_coords(path, {k: v for k, v in coords.items() if not _same(found["data"], k, v)})
        return frames_per_unit
    if path.exists():
        log.info("the movie or the network has another shape than before: %s is made anew", path)
    with writing(path):
        for folder in (path, out / FOLDER):
            if folder.exists():
                shutil.rmtree(folder)
        (out / FOLDER).mkdir()
    attrs = {k: v for k, v in record(movie.attrs, "campaign").items() if k == "provenance"}
    status = _status(np.full(n, PENDING))
    create_store(path, _specs(movie, classes, frames_per_unit), coords=coords | {"frame_status": status},
                 attrs=attrs | {"frames_per_unit": frames_per_unit})
    return frames_per_unit


def write_status(out: Path, status: np.ndarray) -> None:
    """Write the coordinate ``frame_status`` (0 pending, 1 done, 2 failed)."""
    write_coords(out / STORE, {"frame_status": _status(status)})


def _status(values: np.ndarray) -> xr.Variable:
    attrs = {"flag_values": list(STATUS.values()), "flag_meanings": " ".join(STATUS)}
    return xr.Variable("frame", np.asarray(values, np.uint8), attrs)


def _specs(movie: xr.DataArray, classes: Sequence[str], frames: int) -> list[ArraySpec]:
    n, ny, nx = movie.sizes["frame"], movie.sizes["y"], movie.sizes["x"]
    attrs = {k: v for k, v in movie.attrs.items() if k.startswith("pixel_size")}
    return [
        frame_spec("probability", ("frame", "class", "y", "x"), (n, len(classes), ny, nx), STORED,
                   frames_per_shard=frames,
                   attrs=attrs | {"units": "1", "long_name": "probability of the class; nan where there is none"}),
        frame_spec("labels", ("frame", "y", "x"), (n, ny, nx), "int32", frames_per_shard=frames,
                   attrs=attrs | {"long_name": "label of the particle; 0 background, -1 where there is none"}),
    ]


def _coords(movie: xr.DataArray, classes: Sequence[str]) -> dict[str, xr.Variable]:
    coords = {name: movie[name].variable for name in ("frame", "time", "y", "x") if name in movie.coords}
    return coords | {"class": xr.Variable("class", np.array(classes, dtype=object))}


def _same(data: xr.Dataset, name: str, variable: xr.Variable) -> bool:
    if name not in data.variables or data[name].shape != variable.shape:
        return False
    old, new = data[name].values, variable.values
    return bool(((old == new) | ((old != old) & (new != new))).all())  # nan is the same as nan


def _existing(path: Path) -> dict[str, Any] | None:
    """Return the layout of the store that is there, None where there is none that can be read."""
    try:
        data = xr.open_zarr(str(path), consolidated=False, chunks=None)
        return {"frames_per_unit": int(data.attrs["frames_per_unit"]), "n": data.sizes["frame"],
                "classes": [str(c) for c in data["class"].values], "y": data.labels.shape[1],
                "x": data.labels.shape[2], "data": data}
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is made anew
        return None
