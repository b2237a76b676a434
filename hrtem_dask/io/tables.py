"""Tables, records and text files: written whole beside the target, then renamed into place."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..core.errors import MissingInputError, ReadError, WriteError
from ..core.schema import Table

__all__ = ["atomic", "read_json", "read_table", "write_csv", "write_json", "write_table", "writing"]

METADATA_KEY = b"hrtem_dask"


def write_table(path: str | Path, table: pd.DataFrame, schema: Table, *, provenance: Mapping[str, Any]) -> None:
    """Write a table as Parquet, with provenance, units and meanings in its metadata, by atomic rename.

    Parameters
    ----------
    path : path
        File to write, ``*.parquet``.
    table : pandas.DataFrame
        Rows; brought into the order and dtypes of the schema.
    schema : Table
        Schema from `hrtem_dask.core.schema`.
    provenance : mapping
        What was done to get here; stored as JSON under the key ``hrtem_dask``.

    Raises
    ------
    InputError
        If a column is missing.
    WriteError
        If the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(schema.coerce(table).reset_index(drop=True), preserve_index=False)
    about = {"table": schema.name, "units": {c.name: c.units for c in schema.columns},
             "meaning": {c.name: c.meaning for c in schema.columns}, "provenance": provenance}
    metadata = dict(arrow.schema.metadata or {}) | {METADATA_KEY: json.dumps(about, default=str).encode()}
    with atomic(path) as partial:
        pq.write_table(arrow.replace_schema_metadata(metadata), partial)


def read_table(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table that `write_table` wrote, and what its metadata says of it."""
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"there is no table {path}; run the campaign first: hrtem-dask run ... --out DIR")
    try:
        arrow = pq.read_table(path)
    except Exception as error:  # pyarrow raises many kinds
        raise ReadError(f"{path} cannot be read as Parquet: {error}") from error
    about = json.loads((arrow.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    return arrow.to_pandas(), about


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table as CSV (one header line, as Fiji and Origin read it), by atomic rename."""
    with atomic(path) as partial:
        table.to_csv(partial, index=False, float_format="%.7g")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON by atomic rename, flushed to the disk before the rename."""
    with atomic(path) as partial:
        Path(partial).write_text(json.dumps(value, indent=1, default=str), encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read JSON; None where the file is absent or damaged (a record that cannot be read is no record)."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[str]:
    """Yield a temporary path beside the target that becomes the target when the block ends well."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        os.close(handle)
        try:
            yield partial
            with Path(partial).open("rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            Path(partial).chmod(0o666 & ~umask)  # mkstemp makes files that only the owner may read
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn the system's errors into one that names the path and says what to do."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}; "
                         "expected a writable folder with free space, choose another with --out DIR") from error
