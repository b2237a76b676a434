"""What is done: one small JSON record a unit and stage, beside the store, keyed by a fingerprint.

A record is written by atomic rename after the shard was written and read back. A unit counts as
done when its record names the fingerprint that the present inputs and settings have, and the
shards it names are there. The folder lies beside the store, so copying a store copies no claims.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import MissingInputError
from ..io.natural import find_files, is_zarr_store
from ..io.store import shards_present
from ..io.tables import read_json, write_json

__all__ = ["ALGORITHM", "LAST", "STAGES", "Ledger", "fingerprint", "input_fingerprints"]

STAGES = ("segment", "particles", "columns")
#: raised when the stage's numbers change with a new version of the code
ALGORITHM = {"segment": 2, "particles": 3, "columns": 1}
#: the same of what is made of the tables of all frames, once
LAST = {"tracks": 1, "frame_quality": 1, "verdicts": 1}
FOLDER = ".hrtem-progress"


def fingerprint(**parts: Any) -> str:
    """Sha256 over everything that a result depends on.

    Examples
    --------
    >>> fingerprint(a=1, b=2) == fingerprint(b=2, a=1) != fingerprint(a=1, b=3)
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def input_fingerprints(source: Any, n_frames: int, token: str) -> list[str]:
    """Return one fingerprint a frame of the whole movie, from path, size and time of its file.

    Where every frame has its own file, a file that changed costs only its own frame; where many
    frames share files, all frames depend on all of them. Arrays go by their token.
    """
    if source is None:
        return [fingerprint(token=token)] * n_frames
    files = find_files(source)
    stamps = [_stamp(f) for f in files]
    if len(files) == n_frames:
        return [fingerprint(file=s) for s in stamps]
    return [fingerprint(files=stamps)] * n_frames


def _stamp(path: Path) -> Any:
    if is_zarr_store(path):
        return [_stamp(p) for p in sorted(path.rglob("*")) if p.is_file()]
    try:
        stat = path.stat()
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}; check that the file is still there") from error
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns


class Ledger:
    """Records of the units of one store.

    Parameters
    ----------
    out : path
        Folder of the campaign.
    store : path
        Folder of its Zarr store.
    """

    def __init__(self, out: str | Path, store: str | Path) -> None:
        self.folder = Path(out) / FOLDER
        self.store = Path(store)

    def path(self, stage: str, unit: int, suffix: str = ".json") -> Path:
        """File of a record, or of the part of a table that belongs to it."""
        return self.folder / stage / f"{unit:06d}{suffix}"

    def get(self, stage: str, unit: int, key: str) -> dict[str, Any] | None:
        """Return the record of a unit if it has this fingerprint and its files are there, else None."""
        found = self.peek(stage, unit)
        if found is None or found.get("fingerprint") != key or not shards_present(self.store, found.get("shards", {})):
            return None
        table = found.get("table")
        return None if table and not (self.folder / stage / table).is_file() else found

    def peek(self, stage: str, unit: int) -> dict[str, Any] | None:
        """Return whatever record a unit has, whether it still holds or not."""
        found = read_json(self.path(stage, unit))
        return found if isinstance(found, dict) else None

    def put(self, stage: str, unit: int, record: Mapping[str, Any]) -> None:
        """Write the record of a unit; call it only after its results were written and read back."""
        write_json(self.path(stage, unit), dict(record))

    def drop(self, stage: str, unit: int) -> None:
        """Remove the record of a unit, before anything it vouches for changes."""
        self.path(stage, unit).unlink(missing_ok=True)

    def units(self, stage: str) -> Sequence[int]:
        """Return the units that have a record of this stage."""
        return sorted(int(p.stem) for p in (self.folder / stage).glob("[0-9]*.json"))
