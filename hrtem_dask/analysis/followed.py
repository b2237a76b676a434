"""Columns of the one particle that is followed, in the frames that can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..core.calibration import grid_of
from ..core.checks import check_number
from ..core.errors import InputError
from ..kernels.nearby import near_label

__all__ = ["columns_of_particle"]

#: frames whose labels are in memory at a time
BATCH = 16
MARGIN = 6.0


def columns_of_particle(columns: Any, labels: xr.DataArray, verdicts: pd.DataFrame, *,
                        margin: float = MARGIN) -> pd.DataFrame:
    """Choose the columns of the particle that is followed, in the frames that are kept. Computes, once.

    Parameters
    ----------
    columns : pandas or dask DataFrame
        From `find_columns`.
    labels : DataArray, dims (frame, y, x)
        From `label_particles`.
    verdicts : pandas.DataFrame
        From `filter_frames`: ``particle`` is the label of the particle that is followed.
    margin : float
        How far outside of the mask a column may be [angstrom]: masks end at the edge of what is thick
        enough to be seen, and columns come and go outside. A column nearer to another particle is not taken.

    Returns
    -------
    pandas.DataFrame
        The rows of these columns, with their index.

    Raises
    ------
    InputError
        If a column of a table is missing, the dims are others, or a frame that is kept has no labels.

    Examples
    --------
    >>> from hrtem_dask.core.calibration import make_movie
    >>> labels = np.zeros((2, 20, 20), int)
    >>> labels[:, 5:9, 5:9] = 3
    >>> labels = make_movie(labels, pixel_size=1.0)
    >>> columns = pd.DataFrame({"frame": [0, 0, 0, 1], "y": [6.0, 12.0, 19.0, 6.0], "x": 6.0})
    >>> verdicts = pd.DataFrame({"frame": [0, 1], "keep": [True, False], "particle": 3})
    >>> columns_of_particle(columns, labels, verdicts, margin=5.0).y.tolist()
    [6.0, 12.0]
    """
    check_number("margin", margin, "angstrom", least=0)
    table = columns.compute() if hasattr(columns, "dask") else columns
    for name, one, needed in (("columns", table, {"frame", "y", "x"}),
                              ("verdicts", verdicts, {"frame", "keep", "particle"})):
        if not isinstance(one, pd.DataFrame) or needed - set(one.columns):
            found = list(one.columns) if isinstance(one, pd.DataFrame) else type(one).__name__
            raise InputError(f"{name} is {found}; expected a table with at least {sorted(needed)}")
    if not isinstance(labels, xr.DataArray) or labels.dims != ("frame", "y", "x"):
        raise InputError(f"labels is {getattr(labels, 'dims', type(labels).__name__)}; expected a DataArray with the "
                         f"dims (frame, y, x), as label_particles(probability) returns it")
    grid = grid_of(labels)
    kept = verdicts[verdicts["keep"].astype(bool) & (verdicts["particle"] > 0)]
    rows = pd.Index(labels["frame"].values).get_indexer(kept["frame"])
    if (rows < 0).any():
        raise InputError(f"frame {kept['frame'].to_numpy()[rows < 0][0]} is kept and has no labels; expected labels "
                         f"and verdicts of the same movie")
    of_frame = table.groupby("frame").indices
    origin, chosen = np.array([grid.y0, grid.x0]), []
    step = (grid.dy, grid.dx)
    for begin in range(0, len(kept), BATCH):
        part = slice(begin, begin + BATCH)
        masks = labels.isel(frame=rows[part]).compute(scheduler="synchronous").values
        for mask, frame, particle in zip(masks, kept["frame"].iloc[part], kept["particle"].iloc[part], strict=True):
            mine = of_frame.get(frame)
            if mine is not None:
                # coordinates may run downwards: in steps of the grid they never do
                place = (table[["y", "x"]].to_numpy(np.float64)[mine] - origin) * np.sign(step)
                chosen.append(mine[near_label(mask, int(particle), place, grid.pixel_size, margin)])
    return table.iloc[np.sort(np.concatenate(chosen))] if chosen else table.iloc[:0]
