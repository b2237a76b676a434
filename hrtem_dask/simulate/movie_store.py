"""How a simulated movie lies on disk: one Zarr store.

``movie`` and its coordinates are the root group, which `hrtem_dask.open_movie` opens like any other
movie; the group ``truth`` beside it holds the labels of every frame and all that is true of it
(`open_truth`). While the movie is made, ``waves`` holds the exit waves and the ledger; a task is done
if and only if its record and the files that the record names are there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..core.errors import InputError, MissingInputError, ReadError
from ..io.store import ArraySpec, create_store, open_store, shards_present, write_coords, write_shards
from ..io.tables import writing
from ..io.texts import create_texts, read_text, rows_with_text, write_text
from .columns import COLUMN_CLASSES

__all__ = ["Exposed", "MovieStore", "open_truth", "true_columns"]

KIND = "hrtem_dask.simulated_movie"
TRUTH, WAVES = "truth", "waves"
#: the ledger: a record a configuration, and a record a batch of frames
WAVE_RECORD, BATCH_RECORD = "wave_record", "batch_record"


@dataclass(frozen=True, eq=False)
class Exposed:
    """Exit wave of one configuration with its labels and its thickness of metal, all periodic."""

    wave: np.ndarray
    labels: np.ndarray
    thickness: np.ndarray


@dataclass(frozen=True)
class MovieStore:
    """A movie in the making; what the tasks of all workers write to."""

    path: Path

    def begin(self, digest: str, movie: Sequence[ArraySpec], truth: Sequence[ArraySpec], waves: Sequence[ArraySpec],
              coords: Mapping[str, xr.Variable], batches: int) -> bool:
        """Make the store, or go on with what is there; say whether the movie is finished already.

        Raises
        ------
        InputError
            If there is something else at the path.
        """
        found = self.attributes()
        same = found.get("kind") == KIND and found.get("digest") == digest
        if same and found["finished"]:
            shutil.rmtree(self.path / WAVES, ignore_errors=True)
            return True
        ledger = self.path / WAVES / BATCH_RECORD
        if same and ledger.is_dir():
            return False
        if not same and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            what = "another simulated movie" if found.get("kind") == KIND else "something else"
            raise InputError(f"{self.path} holds {what}; give another store, or delete that one")
        create_store(self.path, movie, coords=coords, attrs={"kind": KIND, "digest": digest, "finished": False})
        create_store(self.path / TRUTH, truth, coords=coords)
        create_store(self.path / WAVES, waves, coords={})
        create_texts(self.path / WAVES, WAVE_RECORD, waves[0].shape[0], "configuration")
        create_texts(self.path / WAVES, BATCH_RECORD, batches, "batch")  # the last: all is there
        return False

    def attributes(self) -> dict[str, Any]:
        """Attributes of the store; empty where there is none."""
        file = self.path / "zarr.json"
        try:
            return json.loads(file.read_text(encoding="utf-8")).get("attributes", {}) if file.is_file() else {}
        except ValueError as error:
            raise ReadError(f"{file} cannot be read: {error}") from error

    def missing(self, ledger: str, n: int) -> list[int]:
        """Rows of a ledger, of n, whose task must run."""
        return [i for i in range(n) if not self._done(ledger, i)]

    def _done(self, ledger: str, row: int) -> bool:
        if row not in self._written(ledger):
            return False
        try:
            return shards_present(self.path, self.record(ledger, row)["files"])
        except ReadError:
            return False

    def _written(self, ledger: str) -> set[int]:
        return set(rows_with_text(self.path / WAVES, ledger))

    def record(self, ledger: str, row: int) -> dict[str, Any]:
        """Read a record."""
        text = read_text(self.path / WAVES, ledger, row)
        try:
            return json.loads(text)
        except ValueError as error:
            raise ReadError(f"{self.path}: record {row} of {ledger!r} is damaged: {error}") from error

    def write_wave(self, k: int, exposed: Exposed, columns: pd.DataFrame) -> None:
        """Write one configuration, its record last."""
        files = {}
        for name in ("wave", "labels", "thickness"):
            values = getattr(exposed, name)[None]
            made = write_shards(self.path / WAVES, name, values, (k, 0, 0))
            files |= {f"{WAVES}/{f}": size for f, size in made.items()}
        rows = columns.assign(**{"class": columns["class"].astype(str)}).to_dict("list")
        write_text(self.path / WAVES, WAVE_RECORD, k, json.dumps({"files": files, "columns": rows}))

    def read_wave(self, k: int) -> Exposed:
        """Read one configuration."""
        import zarr

        return Exposed(*(zarr.open_array(str(self.path / WAVES / name), mode="r")[k]
                         for name in ("wave", "labels", "thickness")))

    def write_batch(self, batch: int, start: int, movie: np.ndarray, labels: np.ndarray,
                    found: Mapping[str, np.ndarray]) -> None:
        """Write the frames from `start` on and what was measured on their labels, its record last."""
        files = dict(write_shards(self.path, "movie", movie, (start, *[0] * (movie.ndim - 1))))
        made = write_shards(self.path / TRUTH, "labels", labels, (start, 0, 0))
        files |= {f"{TRUTH}/{f}": size for f, size in made.items()}
        text = json.dumps({"files": files, "found": {k: v.tolist() for k, v in found.items()}})
        write_text(self.path / WAVES, BATCH_RECORD, batch, text)

    def gathered(self, batches: int) -> dict[str, np.ndarray]:
        """What the batches measured, frame after frame."""
        found = [self.record(BATCH_RECORD, b)["found"] for b in range(batches)]
        return {k: np.concatenate([np.array(f[k]) for f in found]) for k in found[0]}

    def columns(self, n: int, origin: tuple[float, float]) -> dict[str, xr.Variable]:
        """Columns of atoms of n configurations; `origin` (y, x) of the frames in the cell [angstrom]."""
        tables = [pd.DataFrame(self.record(WAVE_RECORD, k)["columns"]).assign(configuration=k) for k in range(n)]
        table = pd.concat(tables, ignore_index=True)
        out = {f"column_{k}": xr.Variable(("column",), table[k].to_numpy(int))
               for k in ("configuration", "particle", "column", "atoms", "species")}
        out["column_number"] = out.pop("column_column")
        for axis, first in zip("yx", origin, strict=True):
            out[f"column_{axis}"] = xr.Variable(("column",), table[axis].to_numpy(float) - first, {
                "units": "angstrom", "long_name": f"without drift: add drift_{axis} of a frame"})
        out["column_class"] = xr.Variable(("column",), table["class"].to_numpy("U6"))
        return out

    def finish(self, variables: Mapping[str, xr.Variable], attrs: Mapping[str, Any]) -> None:
        """Write the truth, say that the movie is finished, and remove the waves."""
        import zarr

        write_coords(self.path / TRUTH, variables)
        with writing(self.path):
            zarr.open_group(str(self.path), mode="r+").attrs.update({"finished": True, **attrs})
            shutil.rmtree(self.path / WAVES)


def open_truth(store: str | Path) -> xr.Dataset:
    """Open what is true of a simulated movie, beside ``open_movie(store)``, which opens its frames.

    Parameters
    ----------
    store : str or Path
        What `hrtem_dask.simulate.movie` wrote.

    Returns
    -------
    xarray.Dataset
        ``labels`` int32 (frame, y, x), lazy: the number of the particle that each pixel belongs to,
        0 for none. All else is small and in memory: ``configuration``, ``drift_y``, ``drift_x``,
        ``frame_defocus`` (frame); ``particle_y``, ``particle_x``, ``particle_area``,
        ``particle_touches_border`` (frame, particle), for moving particles also ``particle_tilt``,
        ``particle_zone_axis``, ``particle_on_axis``, ``particle_orientation``; what does not change:
        ``particle_diameter`` ...; ``column_*`` (column), see `true_columns`.

    Raises
    ------
    MissingInputError
        If this is no simulated movie, or one that is not finished.

    Notes
    -----
    Positions, tilts and drift are those that the frames were made with: exact but for the rounding of
    float64, and the drift that phase correlation finds in frames of high dose agrees to 0.05 angstrom.
    Labels are drawn on a grid of 0.5 angstrom and taken at the nearest sample. Between two steps of the
    motion nothing but drift, defocus and noise changes, and all configurations have the film at the same
    place and height.
    """
    found = MovieStore(Path(store)).attributes()
    if found.get("kind") != KIND or not found["finished"]:
        what = "is an unfinished simulated movie" if found.get("kind") == KIND else "is no simulated movie"
        raise MissingInputError(f"{store} {what}; make one with hrtem_dask.simulate.movie(..., store={str(store)!r})")
    data = open_store(Path(store) / TRUTH)
    dims = {*data.dims, "time"}
    data = data.reset_coords([n for n in data.coords if n not in dims])
    loaded = {n: v.load() for n, v in data.data_vars.items() if n != "labels"}
    return data.assign(loaded).assign_attrs({k: v for k, v in found.items() if k != "finished"})


def true_columns(truth: xr.Dataset) -> pd.DataFrame:
    """List the true columns of atoms of every frame of a simulated movie.

    Parameters
    ----------
    truth : xarray.Dataset
        From `open_truth` or `hrtem_dask.simulate.movie`.

    Returns
    -------
    pandas.DataFrame
        A row a frame and column: ``frame, particle, column`` (its number, the same in all
        frames), ``y, x`` [angstrom] in the coordinates of the frame, ``atoms``, ``species``, ``class``. Where a
        particle is tilted, a column's place is the mean of its atoms. Columns outside the frame are
        listed too.
    """
    names = {"configuration": "configuration", "particle": "particle", "number": "column", "y": "y", "x": "x",
             "atoms": "atoms", "species": "species", "class": "class"}
    table = pd.DataFrame({new: truth[f"column_{old}"].values for old, new in names.items()})
    frames = pd.DataFrame({"frame": truth["frame"].values, "configuration": truth["configuration"].values,
                           "dy": truth["drift_y"].values, "dx": truth["drift_x"].values})
    out = frames.merge(table, on="configuration", how="inner").sort_values(["frame", "column"], ignore_index=True)
    out = out.assign(y=out.y + out.dy, x=out.x + out.dx, **{"class": pd.Categorical(out["class"], COLUMN_CLASSES)})
    return out[["frame", "particle", "column", "y", "x", "atoms", "species", "class"]]
