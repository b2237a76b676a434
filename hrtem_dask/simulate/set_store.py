"""How a simulated set lies on disk: one Zarr store, one shard a structure in every array.

``wave``, ``truth``, ``instances`` and ``thickness`` have the dim ``structure`` first, and a shard holds
one structure: tasks never share a file. What else is true of a structure (its particles, its
columns, all that was drawn) is one JSON text in ``record``, written last, so that a structure is
finished if and only if it has a record and the files that the record names. Once a run ends, the
records are gathered into variables: one value a structure, ``particle_*`` and ``column_*`` with
one row a particle or column and the structure it belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..core.errors import InputError, MissingInputError, ReadError
from ..core.provenance import package_version
from ..io.store import ArraySpec, create_store, frame_spec, resize_frames, shards_present, write_coords, write_shards
from ..io.tables import writing
from ..io.texts import create_texts, read_text, resize_texts, rows_with_text, write_text
from .columns import COLUMN_CLASSES
from .recipe import Recipe, load_recipe

__all__ = ["THICKNESS_SAMPLING", "TRUTH_SAMPLING", "Sample", "begin", "finished", "gather", "read_sample", "read_set",
           "refuse_other_revision", "write_sample"]

KIND = "hrtem_dask.set"
#: of the atoms and waves that a recipe and a seed make: a set begun by another one is used, not extended.
#: Count it up with every change of the structures or of the multislice beyond rounding
REVISION = 1
TRUTH_SAMPLING = 0.25  # angstrom
THICKNESS_SAMPLING = 1.0  # angstrom
RECORD = "record"
#: units of what is gathered, by the last word of its name; all else is a number without one or a text
UNITS = {"x": "angstrom", "y": "angstrom", "diameter": "angstrom", "thickness": "angstrom", "tilt": "degree",
         "rotation": "degree", "angle": "degree", "z": "angstrom", "spread": "angstrom", "box": "angstrom"}
MEANING = {
    "wave": "exit wave", "truth": "particle mask: discs around the projected atoms, closed",
    "instances": "number of the particle, 0 where there is none", "thickness": "projected thickness of the particles",
}


@dataclass(frozen=True, eq=False)
class Sample:
    """One stored field: exit wave, labels and thickness of the particles, all periodic.

    ``wave`` complex64 at the stored sampling; ``truth`` bool and ``instances`` int32 at 0.25 angstrom;
    ``thickness`` [angstrom] float32 at 1 angstrom; ``info`` lists the particles and the support;
    ``columns`` is the table of `hrtem_dask.simulate.columns.column_table`.
    """

    wave: np.ndarray
    truth: np.ndarray
    thickness: np.ndarray
    info: dict[str, Any]
    instances: np.ndarray | None = None
    columns: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def box(self) -> float:
        """Period of the field [angstrom]."""
        return float(self.info.get("box", len(self.truth) * TRUTH_SAMPLING))


def specs_of(recipe: Recipe, n: int) -> tuple[list[ArraySpec], dict[str, xr.Variable]]:
    """Arrays of a set of n structures, and the coordinates of their samples [angstrom]."""
    box = recipe.field.box
    wave, truth, thick = (recipe.field.stored_points, round(box / TRUTH_SAMPLING), round(box / THICKNESS_SAMPLING))
    arrays = {"wave": (("part", "y", "x"), (2, wave, wave), "float16"),
              "truth": (("truth_y", "truth_x"), (truth, truth), "bool"),
              "instances": (("truth_y", "truth_x"), (truth, truth), "int32"),
              "thickness": (("thickness_y", "thickness_x"), (thick, thick), "float16")}
    specs = [frame_spec(name, ("structure", *dims), (n, *shape), dtype, frames_per_shard=1,
                        attrs={"long_name": MEANING[name]} | ({"units": "angstrom"} if name == "thickness" else {}))
             for name, (dims, shape, dtype) in arrays.items()]
    coords = {f"{room}{axis}": xr.Variable((f"{room}{axis}",), np.arange(m) * (box / m), {"units": "angstrom"})
              for room, m in (("", wave), ("truth_", truth), ("thickness_", thick)) for axis in "yx"}
    return specs, coords | {"part": xr.Variable(("part",), np.array(["real", "imaginary"]))}


def refuse_other_revision(store: Path, there: int) -> None:
    """Refuse to make more structures of a set whose waves were made in another way.

    Raises
    ------
    InputError
        If the revision that the store notes is not `REVISION`, or it notes none.
    """
    found = attributes(store).get("revision")
    if found != REVISION:
        noted = "no revision" if found is None else f"revision {found}"
        raise InputError(f"{store} notes {noted} of the simulation, and this version makes waves of revision "
                         f"{REVISION}: the set would be mixed. Use the {there} structures that it has, or make the "
                         f"set anew in another store")


def begin(recipe: Recipe, store: Path, n: int, seed: int) -> None:
    """Make the store of a set, or make sure that the one that is there was begun with the same waves in mind.

    `imaging` may differ: images are drawn later, with what the recipe says now. A longer set is
    made room for; a shorter one keeps what it has.
    """
    import zarr

    refuse_old(store)
    attrs = {"kind": KIND, "recipe": recipe.to_dict(), "digest": recipe.digest, "seed": seed,
             "version": package_version(), "revision": REVISION}
    if (store / "zarr.json").is_file():
        found = attributes(store)
        other = load_recipe(found["recipe"])
        if (other.wave_digest, found["seed"]) != (recipe.wave_digest, seed):
            raise InputError(f"{store} holds a set of recipe {other.name!r} ({other.wave_digest[:8]}), seed "
                             f"{found['seed']}; expected {recipe.name!r} ({recipe.wave_digest[:8]}), seed {seed}. "
                             f"Choose another store, or the recipe and the seed that this one was begun with")
        there = zarr.open_array(str(store / RECORD), mode="r").shape[0] if (store / RECORD).is_dir() else -1
        if there >= 0:
            if there < n:
                resize_frames(store, [s.name for s in specs_of(recipe, n)[0]], n)
                resize_texts(store, RECORD, n)
            if rows_with_text(store, RECORD):  # what is there was made by the revision that began it, or by none
                attrs = {k: v for k, v in attrs.items() if k != "revision"}
            if found != found | attrs:
                with writing(store):
                    zarr.open_group(str(store), mode="r+").attrs.update(attrs)
            return
    elif store.exists() and (not store.is_dir() or any(store.iterdir())):
        raise InputError(f"{store} is there already and is no simulated set; choose another --out")
    specs, coords = specs_of(recipe, n)
    create_store(store, specs, coords=coords, attrs=attrs)
    create_texts(store, RECORD, n, "structure")


def refuse_old(store: Path) -> None:
    """Refuse a folder of npz files, which version 0.1 wrote."""
    if (store / "set.json").is_file():
        found = json.loads((store / "set.json").read_text(encoding="utf-8"))
        raise InputError(f"{store} is a set of npz files, as version 0.1 wrote them; make it anew as a Zarr store: "
                         f"hrtem-dask simulate {found.get('recipe', {}).get('name')} --seed {found.get('seed')} "
                         f"--out ANOTHER.zarr -n N. The same recipe and seed give the same waves")


def attributes(store: Path) -> dict[str, Any]:
    """Attributes of the store of a set.

    Raises
    ------
    MissingInputError
        If there is no set.
    """
    refuse_old(store)
    file = store / "zarr.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("attributes", {}) if file.is_file() else {}
    except ValueError as error:
        raise ReadError(f"{file} cannot be read: {error}") from error
    if found.get("kind") != KIND:
        raise MissingInputError(f"{store} is not a simulated set; make one with "
                                f"'hrtem-dask simulate au-particles --out {store} -n 100 --seed 1'")
    return found


def read_set(store: Path) -> tuple[Recipe, int, tuple[int, ...]]:
    """Recipe, seed and finished structures of a set."""
    found = attributes(store)
    return load_recipe(found["recipe"]), found["seed"], tuple(rows_with_text(store, RECORD))


def write_sample(store: Path, index: int, sample: Sample) -> None:
    """Write one structure, its record last."""
    wave = np.stack([sample.wave.real, sample.wave.imag]).astype(np.float16)
    instances = np.zeros(sample.truth.shape, np.int32) if sample.instances is None else sample.instances
    arrays = {"wave": wave, "truth": sample.truth, "instances": instances.astype(np.int32),
              "thickness": sample.thickness.astype(np.float16)}
    files: dict[str, int | None] = {}
    for name, values in arrays.items():
        files |= write_shards(store, name, values[None], (index, *[0] * values.ndim))
    record = {"files": files, "info": sample.info,
              "columns": sample.columns.to_dict("list")}
    write_text(store, RECORD, index, json.dumps(record, sort_keys=True, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def read_record(store: Path, index: int) -> dict[str, Any]:
    """Read the record of one structure; empty where it is not finished."""
    text = read_text(store, RECORD, index)
    try:
        return json.loads(text) if text else {}
    except ValueError as error:
        raise ReadError(f"{store}: the record of structure {index} is damaged: {error}") from error


def finished(store: Path, n: int) -> set[int]:
    """Structures below n whose record and files are all there; the others are to be made."""
    def whole(index: int) -> bool:
        try:
            return shards_present(store, read_record(store, index)["files"])
        except ReadError:
            return False

    return {i for i in rows_with_text(store, RECORD) if i < n and whole(i)}


def read_sample(store: Path, index: int, *, instances: bool = True) -> Sample:
    """Read what `write_sample` wrote, with the instance labels or without.

    Raises
    ------
    ReadError
        If a part is missing or damaged.
    """
    record = read_record(store, index)
    if not record:
        raise ReadError(f"{store} holds no structure {index}; run 'hrtem-dask simulate' to its end")
    stamp = (store / "wave" / "zarr.json").stat().st_mtime_ns
    try:
        wave, truth, thickness = (_array(str(store), name, stamp)[index] for name in ("wave", "truth", "thickness"))
        labels = _array(str(store), "instances", stamp)[index] if instances else None
    except Exception as error:  # zarr raises many kinds for a damaged shard
        raise ReadError(f"structure {index} of {store} cannot be read ({error}); run the simulation again, which "
                        "makes what is missing; delete the damaged file before") from error
    wave = wave.astype(np.float32)
    return Sample((wave[0] + 1j * wave[1]).astype(np.complex64), truth, thickness.astype(np.float32), record["info"],
                  labels, _columns(record["columns"]))


def _columns(values: Mapping[str, list]) -> pd.DataFrame:
    table = pd.DataFrame(values)
    return table.assign(**{"class": pd.Categorical(table["class"], COLUMN_CLASSES)}) if "class" in table else table


@lru_cache(maxsize=64)
def _array(store: str, name: str, _stamp: int) -> Any:
    import zarr

    return zarr.open_array(f"{store}/{name}", mode="r")


def gather(store: Path) -> None:
    """Turn the records of all finished structures into variables of the store."""
    rows = rows_with_text(store, RECORD)
    records = [read_record(store, i) for i in rows]
    particles = [(i, p) for i, r in zip(rows, records, strict=True) for p in r["info"].get("particles", [])]
    single = [{k: v for k, v in r["info"].items() if k not in ("particles", "index")} for r in records]
    counts = [{"particles": len(r["info"].get("particles", [])), "columns": _length(r["columns"])} for r in records]
    variables = _table("structure", [_flat(s) | c for s, c in zip(single, counts, strict=True)], "")
    n = _rows(store)
    out = {k: _spread(v, rows, n) for k, v in variables.items()}
    done = np.isin(np.arange(n), rows)
    out["finished"] = xr.Variable(("structure",), done, {"long_name": "whether the structure was simulated"})
    out["structure"] = xr.Variable(("structure",), np.arange(n))
    out |= _table("particle", [{"structure": i} | _flat(p) for i, p in particles], "particle_")
    names = sorted({k for r in records for k in r["columns"]})
    index = np.repeat(rows, [_length(r["columns"]) for r in records]).astype(np.int64)
    if names:
        out["column_structure"] = xr.Variable(("column",), index)
        for name in names:
            values = np.concatenate([np.array(r["columns"][name]) for r in records if _length(r["columns"])] or [[]])
            out[f"column_{name}"] = xr.Variable(("column",), values, _attrs(name))
    write_coords(store, out)


def _length(columns: Mapping[str, Sequence]) -> int:
    return len(next(iter(columns.values()), ()))


def _rows(store: Path) -> int:
    import zarr

    return zarr.open_array(str(store / RECORD), mode="r").shape[0]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level of keys: {"sheet": {"tilt": 1}} becomes {"sheet_tilt": 1}."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}_")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _table(dim: str, rows: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, xr.Variable]:
    """One variable a key; what a row lacks is nan, or an empty text."""
    out = {}
    for key in sorted({k for r in rows for k in r}):
        values = [r.get(key) for r in rows]
        if any(isinstance(v, list) for v in values):
            length = max(len(v) for v in values if isinstance(v, list))
            array = np.array([v if isinstance(v, list) else [np.nan] * length for v in values], float)
            out[f"{prefix}{key}"] = xr.Variable((dim, f"{prefix}{key}_component"), array, _attrs(key))
            continue
        if any(isinstance(v, str) for v in values):
            array = np.array(["" if v is None else str(v) for v in values])
        elif all(isinstance(v, bool) for v in values):
            array = np.array(values, bool)
        elif all(isinstance(v, int) for v in values):
            array = np.array(values, np.int64)
        else:
            array = np.array([np.nan if v is None else float(v) for v in values])
        out[f"{prefix}{key}"] = xr.Variable((dim,), array, _attrs(key))
    return out


def _spread(variable: xr.Variable, rows: Sequence[int], n: int) -> xr.Variable:
    """Values of the finished structures at their places among n."""
    values = np.asarray(variable.values)
    if len(rows) == n:
        return variable
    kind = np.float64 if values.dtype.kind in "biu" else values.dtype
    out = np.full((n, *values.shape[1:]), "" if values.dtype.kind == "U" else np.nan, kind)
    out[list(rows)] = values
    return xr.Variable(variable.dims, out, variable.attrs)


def _attrs(name: str) -> dict[str, str]:
    unit = UNITS.get(name.rsplit("_", 1)[-1])
    return {"units": unit} if unit else {}
