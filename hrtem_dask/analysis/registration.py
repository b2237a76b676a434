"""Drift and rotation of a movie from its columns: where each frame lies, and which frames can be compared."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd

from ..core.checks import check_frames, check_number
from ..core.errors import InputError
from ..core.provenance import record
from ..core.schema import DRIFT
from ..kernels.epochs import EpochRules, Registered, register
from ..kernels.registration import REGISTERED, STATUSES, FollowRules
from ..kernels.rigid import unmove
from .column_input import NEEDED, read_columns

__all__ = ["DRIFT_STATUSES", "correct_drift", "drift_table", "estimate_drift"]

#: what a frame can be
DRIFT_STATUSES = STATUSES
USED = (*NEEDED, "time", "y_error", "x_error", "column")
#: error of a column where the table does not say [angstrom]; only its ratio to others counts
USUAL_ERROR = 0.1
#: where columns can be seen reaches so far beyond the outermost that were found [angstrom]
MARGIN = 0.5
ADDED = ("y_ref", "x_ref", "epoch")


def estimate_drift(
    columns: pd.DataFrame | dd.DataFrame,
    *,
    frames: pd.DataFrame | Sequence[int] | None = None,
    max_rotation: float = 15.0,
    min_correlation: float = 0.7,
    min_columns: int = 6,
    field_of_view: tuple[float, float, float, float] | None = None,
) -> pd.DataFrame:
    """Find drift and rotation of every frame from its columns, and the epochs of the movie. Computes, once.

    The body that is followed is the largest connected group of columns in the first frame (of several
    particles the largest; to follow another one, leave the columns of the others out of the table).
    The motion follows its inner columns, since those of the surface hop.

    Parameters
    ----------
    columns : pandas or dask DataFrame
        From `find_columns`, or any table with the columns ``frame``, ``y``, ``x`` [angstrom], in any order. ``time``,
        ``y_error``, ``x_error`` [angstrom] and ``column`` are used where they are there.
    frames : table or sequence of int, optional
        Frames to register: verdicts of `filter_frames`, whose kept frames are used, another table with the
        column ``frame``, or numbers. Each gets a row, also where the table of columns has nothing of it. By default the
        frames of ``columns``.
    max_rotation : float
        Rotation in the plane from that in the first frame of an epoch, beyond which a new one begins [degree].
    min_correlation : float
        Least correlation (cosine) of the pattern of occupied sites, as mean over 12 frames, with that of the first
        12 frames of the epoch; below it the particle has reconstructed, and a new epoch begins.
    min_columns : int
        Inner columns at their places that a frame needs, at least 3.
    field_of_view : (float, float, float, float), optional
        First and last y, first and last x that the frames show [angstrom]: columns outside it are not
        missed. By default the box around all columns of the table.

    Returns
    -------
    pandas.DataFrame
        Table `core.schema.DRIFT`, a row a frame in their order. A frame that is not registered has nan, and
        the epoch of the frame before it. ``attrs["epochs"]`` lists for every epoch its number, its first ``frame`` and
        the ``reason`` why it begins: ``first frame``, ``rotated``, ``reconstructed``, ``other columns`` (three frames
        agree among each other and not with what was before) or ``ambiguous by a lattice vector``.

    Raises
    ------
    InputError
        If a column is missing, a frame number or a position is no number, rows are there twice, or a limit makes
        no sense.

    Warns
    -----
    UserWarning
        If no frame can be registered; it says why.

    Notes
    -----
    A crystal looks the same after a shift by a lattice vector. Registrations that differ by one are weighed by which
    sites are seen and which are not (each with its own probability) and by the length of the step, which may grow with
    the root of the number of unread frames; where the odds stay below 12 to 1 a new epoch begins. After this first
    pass all frames and the mean places of the inner sites are fitted together (`kernels.rigid`), so errors do not add
    up along the movie. Errors are those of random noise, and against the mean of all frames; the first frame's own
    error, which moves all reference coordinates alike, is not in them. A tilt of the particle between frames
    shifts its columns by their height, which no rigid motion describes: it shows in ``residual``.

    Examples
    --------
    >>> i, j = np.mgrid[:6, :6].reshape(2, -1)
    >>> one = pd.DataFrame({"frame": 0, "y": 2.5 * i, "x": 2.5 * j})
    >>> table = pd.concat([one, one.assign(frame=1, y=one.y + 0.4, x=one.x - 0.1)])
    >>> drift = estimate_drift(table)
    >>> drift[["drift_y", "drift_x"]].values.round(3).tolist(), drift["status"].tolist()
    ([[0.0, 0.0], [0.4, -0.1]], ['registered', 'registered'])
    """
    check_number("max_rotation", max_rotation, "degree", above=0)
    check_number("min_columns", min_columns, "columns", least=3, whole=True)
    check_number("min_correlation", min_correlation, least=0)
    if min_correlation >= 1:
        raise InputError(f"min_correlation is {min_correlation!r}; expected a correlation from 0 to below 1")
    table = _checked(columns)
    numbers, times = _wanted(frames, table)
    table = table[table["frame"].isin(numbers)]
    at, error = table[["y", "x"]].to_numpy(np.float64), _errors(table)
    first = np.searchsorted(table["frame"].to_numpy(), np.append(numbers, numbers[-1:] + 1))
    rules = FollowRules(int(min_columns), _view(field_of_view, at))
    found = register(numbers, first, at, error, rules, EpochRules(np.deg2rad(max_rotation), min_correlation))
    said = {"max_rotation": max_rotation, "min_correlation": min_correlation, "min_columns": min_columns,
            "field_of_view": field_of_view}
    return drift_table(numbers, times, found, record({}, "estimate_drift", **said))


def drift_table(numbers: np.ndarray, times: np.ndarray, found: Registered, attrs: dict[str, Any]) -> pd.DataFrame:
    """Table of a registration; warns where no frame is registered."""
    table = pd.DataFrame({"frame": numbers, "time": times, "epoch": found.epoch})
    for k, name in enumerate(("drift_y", "drift_x", "rotation")):
        table[name], table[f"{name}_error"] = found.motion[:, k], found.error[:, k]
    table["centre_y"], table["centre_x"] = found.centre
    table["matched"], table["residual"] = found.matched, found.residual
    status = pd.Categorical.from_codes(found.status, DRIFT_STATUSES)
    table["status"] = status
    table = DRIFT.coerce(table)
    table["status"] = status
    table.attrs = attrs | {"epochs": json.loads(json.dumps(
        [{"epoch": k, "frame": int(numbers[row]), "reason": why} for k, (row, why) in enumerate(found.starts)]))}
    if not (found.status == REGISTERED).any():
        why = ", ".join(f"{n} {name}" for name, n in table["status"].value_counts().items() if n)
        warnings.warn(f"none of {len(table)} frames is registered: {why or 'there is no frame'}", stacklevel=3)
    return table


def correct_drift(columns: pd.DataFrame | dd.DataFrame, drift: pd.DataFrame) -> pd.DataFrame | dd.DataFrame:
    """Give every column its place in reference coordinates, and its epoch.

    Parameters
    ----------
    columns : pandas or dask DataFrame
        Table with ``frame``, ``y``, ``x`` [angstrom], as of `find_columns`; or of anything else that moves with
        the particle.
    drift : pandas.DataFrame
        From `estimate_drift` or `estimate_drift_images`.

    Returns
    -------
    pandas or dask DataFrame
        The table with ``y_ref, x_ref`` [angstrom], where the column would be in the first registered
        frame, and ``epoch``. In frames that are not registered, or not in ``drift``, nan and -1.
        Lazy for a dask table.

    Raises
    ------
    InputError
        If a column is missing, or a frame is in ``drift`` twice.

    Examples
    --------
    >>> drift = pd.DataFrame({"frame": [0, 1], "epoch": 0, "drift_y": [0.0, 1.0], "drift_x": 0.0, "rotation": 0.0,
    ...                       "centre_y": 0.0, "centre_x": 0.0, "status": "registered"})
    >>> correct_drift(pd.DataFrame({"frame": [1, 2], "y": [3.0, 3.0], "x": [4.0, 4.0]}), drift)
       frame    y    x  y_ref  x_ref  epoch
    0      1  3.0  4.0    2.0    4.0      0
    1      2  3.0  4.0    NaN    NaN     -1
    """
    missing = [c for c in NEEDED if c not in getattr(columns, "columns", ())]
    if missing:
        found = list(columns.columns) if hasattr(columns, "columns") else type(columns).__name__
        raise InputError(f"the table of columns lacks {missing}; found {found}, expected at least {list(NEEDED)}, as "
                         f"find_columns(probability) returns it")
    motions = _motions(drift)
    columns = columns[[c for c in columns.columns if c not in ADDED]]
    if isinstance(columns, dd.DataFrame):
        return columns.map_partitions(_corrected, motions, meta=_corrected(columns._meta, motions))
    return _corrected(columns, motions)


def _motions(drift: Any) -> pd.DataFrame:
    """What there is to undo, by frame."""
    needed = ["frame", "epoch", "drift_y", "drift_x", "rotation", "centre_y", "centre_x"]
    if hasattr(drift, "dask"):
        drift = drift.compute()
    if not isinstance(drift, pd.DataFrame) or set(needed) - set(drift.columns):
        found = list(drift.columns) if isinstance(drift, pd.DataFrame) else type(drift).__name__
        raise InputError(f"drift is {found}; expected the table of estimate_drift(columns), with {needed}")
    check_frames("the table of drift", drift["frame"])
    twice = drift["frame"].duplicated()
    if twice.any():
        raise InputError(f"the table of drift has frame {int(drift.loc[twice, 'frame'].iloc[0])} twice; expected a row "
                         f"a frame. Tables of several movies have to be used one by one")
    motions = drift[needed].astype({"frame": np.int64}).set_index("frame")
    motions["epoch"] = motions["epoch"].where(motions["drift_y"].notna(), -1)
    return motions


def _corrected(columns: pd.DataFrame, motions: pd.DataFrame) -> pd.DataFrame:
    here = motions.reindex(columns["frame"].to_numpy())
    motion = here[["drift_y", "drift_x", "rotation"]].to_numpy(np.float64)
    centre = here[["centre_y", "centre_x"]].to_numpy(np.float64)
    back = unmove(motion, columns[["y", "x"]].to_numpy(np.float64), centre)
    return columns.assign(y_ref=back[:, 0], x_ref=back[:, 1],
                          epoch=here["epoch"].fillna(-1).to_numpy().astype(np.int64))


def _checked(columns: Any) -> pd.DataFrame:
    """The table in memory and in the order of frames, with what is used of it."""
    table = read_columns(columns, USED).reset_index(drop=True)  # an index may be called frame as well
    table = table.astype({"frame": np.int64})
    # in one order, so that neither the order of rows nor that of partitions can change the last digits
    return table.sort_values(["frame", "y", "x"], kind="stable", ignore_index=True)


def _wanted(frames: Any, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the frames, growing, and their times."""
    times = table.drop_duplicates("frame").set_index("frame")["time"] if "time" in table else pd.Series(dtype=float)
    if frames is None:
        numbers = np.unique(table["frame"].to_numpy(np.int64))
        return numbers, times.reindex(numbers).to_numpy(np.float64)
    if hasattr(frames, "dask"):
        frames = frames.compute()
    if isinstance(frames, pd.DataFrame):
        if "frame" not in frames:
            raise InputError(f"frames has the columns {list(frames.columns)}; expected a table with the column frame, "
                             f"as filter_frames(particles, ...) returns it, or numbers of frames")
        if "keep" in frames:
            frames = frames[frames["keep"].astype(bool)]
        if "time" in frames:
            known = frames.drop_duplicates("frame").set_index("frame")["time"].astype(float)
            times = times.combine_first(known) if len(times) else known
        frames = frames["frame"]
    given = pd.Series(np.asarray(frames).ravel())
    check_frames("frames", given)
    if given.duplicated().any():
        raise InputError(f"frames has frame {int(given[given.duplicated()].iloc[0])} twice; expected each once")
    numbers = np.sort(given.to_numpy(np.float64).astype(np.int64))
    return numbers, times.reindex(numbers).to_numpy(np.float64)


def _errors(table: pd.DataFrame) -> np.ndarray:
    """Standard errors (row, 2); where one is unknown the usual one, and none far below it."""
    out = np.full((len(table), 2), USUAL_ERROR)
    for k, name in enumerate(("y_error", "x_error")):
        if name in table and len(table):
            values = table[name].to_numpy(np.float64, na_value=np.nan)
            good = np.isfinite(values) & (values > 0)
            usual = float(np.median(values[good])) if good.any() else USUAL_ERROR
            out[:, k] = np.maximum(np.where(good, values, usual), usual / 3)
    return out


def _view(given: Any, at: np.ndarray) -> tuple[float, float, float, float]:
    if given is None:
        if not len(at):
            return 0.0, 0.0, 0.0, 0.0
        (y0, x0), (y1, x1) = at.min(0) - MARGIN, at.max(0) + MARGIN
        return float(y0), float(y1), float(x0), float(x1)
    values = np.asarray(given, dtype=object).ravel()
    if values.size != 4:
        raise InputError(f"field_of_view is {given!r}; expected first and last y, first and last x [angstrom]")
    for value in values:
        check_number("field_of_view", value, "angstrom")
    y0, y1, x0, x1 = map(float, values)
    if y1 <= y0 or x1 <= x0:
        raise InputError(f"field_of_view is {given!r}; expected first and last y, first and last x [angstrom], the "
                         f"last ones larger")
    return y0, y1, x0, x1
