"""Tables of columns as users hand them in: checked once, the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd

from ..core.checks import check_frames
from ..core.errors import InputError

__all__ = ["NEEDED", "read_columns"]

#: what a table of columns must have
NEEDED = ("frame", "y", "x")


def read_columns(columns: Any, use: Sequence[str] | None = None) -> pd.DataFrame:
    """The table in memory, checked.

    Parameters
    ----------
    columns : pandas or dask DataFrame
        At least frame, y, x [angstrom].
    use : sequence of str, optional
        Keep only those of these columns that are there.

    Raises
    ------
    InputError
        If it is no table, lacks a column, holds a frame that is no whole number, a place that is not finite,
        or a column twice.
    """
    if not isinstance(columns, pd.DataFrame | dd.DataFrame):
        raise InputError(f"columns is a {type(columns).__name__}; expected the table that find_columns returns, a "
                         f"pandas or dask DataFrame")
    missing = [c for c in NEEDED if c not in columns.columns]
    if missing:
        raise InputError(f"the table of columns lacks {missing}; found {list(columns.columns)}, expected at least "
                         f"{list(NEEDED)}. Make it with find_columns(probability)")
    table = columns if use is None else columns[[c for c in use if c in columns.columns]]
    table = table.compute() if isinstance(table, dd.DataFrame) else table
    check_frames("the table of columns", table["frame"])
    for name in ("y", "x"):
        bad = ~np.isfinite(table[name].to_numpy(np.float64, na_value=np.nan))
        if bad.any():
            row = table[bad].iloc[0]
            raise InputError(f"{name} is {row[name]} for a column of frame {row['frame']:g}; expected a finite number. "
                             f"Leave such rows out: columns.dropna(subset=['y', 'x'])")
    _check_once(table)
    return table


def _check_once(table: pd.DataFrame) -> None:
    key = ["frame", "column"] if "column" in table else list(NEEDED)
    # an index may be called frame as well
    twice = table.reset_index(drop=True).duplicated(key).to_numpy()
    if twice.any():
        row = table[twice].iloc[0]
        what = f"column {row['column']:g}" if "column" in table else f"a column at ({row['y']:g}, {row['x']:g})"
        raise InputError(f"{int(twice.sum())} row(s) are there twice, the first is {what} of frame {row['frame']:g}; "
                         f"expected each once. If tables were joined: columns.drop_duplicates({key}); tables of "
                         f"several movies have to be used one by one")
