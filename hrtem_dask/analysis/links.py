"""Columns through time by trackpy, for those who want trajectories: sites of a lattice are the other way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from ..core.checks import check_frames, check_number
from ..core.errors import InputError

__all__ = ["link_columns", "neighbour_distance"]

#: range of the search where none is given, over the distance of nearest neighbours
USUAL_RANGE = 0.45
#: frames that the distance of neighbours is measured in
SOME_FRAMES = 50


def link_columns(
    columns: pd.DataFrame | dd.DataFrame,
    *,
    search_range: float | None = None,
    memory: int = 0,
    method: str = "trackpy",
) -> pd.DataFrame:
    """Follow columns of atoms from frame to frame as free particles, by the method of Crocker and Grier.

    Computes, once. Needs trackpy, which ``pip install 'hrtem-dask[track]'`` brings. On a lattice whose
    drift is known, sites (`find_sites`) say more: they know where nothing is, and a column that
    comes back is the same one however long it was away.

    Parameters
    ----------
    columns : pandas or dask DataFrame
        From `find_columns`: ``frame``, ``y``, ``x`` [angstrom]. Where `correct_drift` added ``y_ref`` and
        ``x_ref``, those are linked, within each ``epoch``; without them, drift must be smaller than
        the range of the search.
    search_range : float, optional
        How far a column may get from one frame to the next [angstrom], less than half the distance of
        nearest neighbours, or a column could be taken for its neighbour. By default 0.45 of that.
    memory : int
        Frames of the table in which a column may be missing before its track ends. Frames that are
        not in the table do not count.
    method : str
        "trackpy".

    Returns
    -------
    pandas.DataFrame
        The rows of the table, a pandas table's in its order and with its index, with the column
        ``track`` (int64, from 0 in the order of first frames; -1 where a place is not known).

    Raises
    ------
    InputError
        If trackpy is not installed, a column of the table is missing, the range of the search is half the
        distance of neighbours or more, or an option makes no sense.

    References
    ----------
    J. C. Crocker and D. G. Grier, J. Colloid Interface Sci. 179, 298 (1996); trackpy, doi 10.5281/zenodo.1213240.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": [0, 0, 1, 1, 2], "y": [1.0, 4.0, 4.1, 1.1, 4.0], "x": [2.0] * 5})
    >>> link_columns(table)["track"].tolist()  # doctest: +SKIP
    [0, 1, 1, 0, 1]
    """
    if method != "trackpy":
        raise InputError(f"method is {method!r}; expected 'trackpy'. To assign columns to the sites of a lattice: "
                         "find_sites(columns, drift)")
    check_number("memory", memory, "frames", least=0, whole=True)
    if search_range is not None:
        check_number("search_range", search_range, "angstrom", above=0)
    if find_spec("trackpy") is None:
        raise InputError("trackpy is not installed, and method='trackpy' needs it; expected version 0.7 or later. "
                         "Type: pip install 'hrtem-dask[track]'")
    table = columns.compute() if isinstance(columns, dd.DataFrame) else columns
    place = _places(table)
    known = np.flatnonzero(np.isfinite(table[place].to_numpy(np.float64)).all(axis=1))
    track = np.full(len(table), -1, np.int64)
    if len(known):
        rows = table.iloc[known].reset_index(drop=True)  # an index may be called frame as well
        distance = neighbour_distance(rows, place)
        track[known] = _linked(rows, place, _range(search_range, distance), int(memory))
    return table.drop(columns="track", errors="ignore").assign(track=track)


def neighbour_distance(rows: pd.DataFrame, place: list[str]) -> float:
    """Median distance of nearest neighbours in some of the frames [angstrom]; nan where no frame has two columns."""
    frames = np.unique(rows["frame"].to_numpy())
    frames = frames[np.unique(np.linspace(0, len(frames) - 1, SOME_FRAMES).astype(int))]
    found = []
    for _, part in rows[rows["frame"].isin(frames)].groupby("frame"):
        if len(part) > 1:
            at = part[place].to_numpy(np.float64)
            found.append(cKDTree(at).query(at, k=2)[0][:, 1])
    return float(np.median(np.concatenate(found))) if found else np.nan


def _places(table: Any) -> list[str]:
    """Columns of the table that hold the places; refuse a table without them."""
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"columns is a {type(table).__name__}; expected the table that find_columns returns, a pandas "
                         "or dask DataFrame")
    place = ["y_ref", "x_ref"] if {"y_ref", "x_ref"} <= set(table.columns) else ["y", "x"]
    missing = [name for name in ("frame", *place) if name not in table.columns]
    if missing:
        raise InputError(f"the table of columns lacks {missing}; found {list(table.columns)}, expected at least frame, "
                         "y and x. Make it with find_columns(probability, image=movie)")
    check_frames("the table of columns", table["frame"])
    return place


def _range(asked: float | None, distance: float) -> float:
    if np.isnan(distance):
        if asked is None:
            raise InputError("no frame has two columns, so the distance of neighbours is not known; expected "
                             "search_range in angstrom, as link_columns(columns, search_range=1.0)")
        return float(asked)
    if asked is None:
        return USUAL_RANGE * distance
    if asked >= distance / 2:
        raise InputError(f"search_range is {asked:g} angstrom, and nearest neighbours are {distance:.3g} angstrom "
                         "apart: a column could be taken for its neighbour; expected less than half of that, as "
                         f"search_range={USUAL_RANGE * distance:.2g}. Where columns drift farther from frame to frame: "
                         "correct_drift(columns, estimate_drift(columns)) first")
    return float(asked)


def _linked(rows: pd.DataFrame, place: list[str], reach: float, memory: int) -> np.ndarray:
    """Track of every row; those of one epoch do not go on in the next, whose coordinates are others."""
    # the order of rows within a frame must not matter
    order = np.lexsort((*rows[place[::-1]].to_numpy(np.float64).T, rows["frame"].to_numpy()))
    rows = rows.iloc[order]
    epoch = rows["epoch"].to_numpy() if "epoch" in rows and place[0] == "y_ref" else np.zeros(len(rows), np.int64)
    track, last = np.empty(len(rows), np.int64), 0
    for value in pd.unique(epoch):
        here = np.flatnonzero(epoch == value)
        part = rows.iloc[here]
        time = np.unique(part["frame"].to_numpy(), return_inverse=True)[1]
        found = _crocker_grier(part[place].to_numpy(np.float64), time, reach, memory)
        number, first = np.unique(found, return_index=True)
        rank = np.empty(len(number), np.int64)
        rank[np.argsort(first, kind="stable")] = np.arange(len(number))
        track[here] = last + rank[np.searchsorted(number, found)]
        last += len(number)
    out = np.empty(len(rows), np.int64)
    out[order] = track
    return out


def _crocker_grier(place: np.ndarray, time: np.ndarray, reach: float, memory: int) -> np.ndarray:
    import trackpy

    table = pd.DataFrame({"y": place[:, 0], "x": place[:, 1], "frame": time, "row": np.arange(len(time))})
    try:
        with _silent("trackpy"):
            linked = trackpy.link(table, reach, pos_columns=["y", "x"], memory=memory)
    except trackpy.SubnetOversizeException as error:
        raise InputError(f"too many columns lie within {reach:.2g} angstrom of one another for trackpy ({error}); "
                         "expected each column once a frame. Leave out what is there twice, or give a smaller "
                         "search_range") from error
    return linked.sort_values("row")["particle"].to_numpy(np.int64)


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keep a library from writing a line a frame."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
