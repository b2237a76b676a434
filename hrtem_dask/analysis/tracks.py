"""Particles through time: which of one frame is which of the next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd

from ..core.checks import check_frames, check_number
from ..core.errors import InputError
from ..core.schema import TRACKS
from ..kernels.linking import LinkRules, Sight, Tracks, link_frame

__all__ = ["link_particles"]

NEEDED = ("frame", "particle", "y", "x", "area")
PAIRS = (("g_angle", "d_spacing"), ("g_angle_2", "d_spacing_2"))


def link_particles(
    particles: pd.DataFrame | dd.DataFrame,
    *,
    memory: int = 3,
    max_distance: float | None = None,
    max_size_ratio: float = 1.7,
    max_turn: float = 15.0,
) -> pd.DataFrame:
    """Follow every particle through the frames, without the drift of the field.

    Computes, once. Frame by frame the drift is found by votes: every particle with every track of
    like size, so that those that come, leave or wander on their own do not count. Then particles
    continue tracks one to one such that all overlaps together are largest (Hungarian method), the
    drift is measured again from what was linked (biweight mean, without what the border cuts), and
    the lattices give the rotation.

    Parameters
    ----------
    particles : pandas or dask DataFrame
        From `analyse_particles`, or any table with the columns ``frame``, ``particle``, ``y``, ``x``
        [angstrom] and ``area`` [angstrom^2]. ``touches_border`` and the columns of spot pairs
        (``g_angle``, ``d_spacing``, ``g_angle_2``, ``d_spacing_2``) are used where they are there; columns of
        an earlier linking are replaced. Of a
        dask table, partitions must follow each other in the order of frames.
    memory : int
        Frames of the table in which a particle may be missing before its track ends. Frames that
        are not in the table at all, as those that were left out before, do not count.
    max_distance : float, optional
        How far a particle may get from one frame to the next, without drift [angstrom]; after a gap
        of n frames, the root of n + 1 times as far. By default the mean radius of the two.
    max_size_ratio : float
        Larger area over smaller one that may be the same particle; twice that at the border. Two
        equal particles that merge thus begin a new track, a large one that takes in a small one
        goes on.
    max_turn : float
        How far a lattice may turn from one frame to the next [degree]; at most 30 are used, as a
        hexagonal net cannot tell more.

    Returns
    -------
    pandas.DataFrame
        The rows of the table, a pandas table's in its order and with its index, with the columns of
        `core.schema.TRACKS` after them: ``track``, ``drift_y``, ``drift_x``, ``y_field``, ``x_field``
        [angstrom], ``rotation`` [radian].

    Raises
    ------
    InputError
        If a column is missing, a particle is there twice, a position or an area is no number, the
        frames of a dask table are in no order, or a limit makes no sense.

    Notes
    -----
    The frames are gone through in their order, since a link depends on those before; what goes from
    one batch to the next is one row a particle. A task holds one partition of a dask table and that,
    whatever the length of the movie, and the result does not depend on the partitions.
    In a field of one or two particles nothing tells their own motion from drift.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": [0, 0, 1, 1], "particle": [1, 2, 1, 2], "y": [10.0, 60, 61, 11],
    ...                       "x": [10.0, 60, 63, 13], "area": [300.0, 320, 318, 301]})
    >>> found = link_particles(table)
    >>> found["track"].tolist(), found[["drift_y", "drift_x"]].values[-1].tolist()
    ([0, 1, 1, 0], [1.0, 3.0])
    """
    check_number("memory", memory, "frames", least=0, whole=True)
    check_number("max_size_ratio", max_size_ratio, least=1)
    check_number("max_turn", max_turn, "degree", above=0)
    if max_distance is not None:
        check_number("max_distance", max_distance, "angstrom", above=0)
    if not isinstance(particles, pd.DataFrame | dd.DataFrame):
        raise InputError(f"particles is a {type(particles).__name__}; expected the table that analyse_particles "
                         f"returns, a pandas or dask DataFrame")
    _check_columns(particles.columns)
    particles = particles[[c for c in particles.columns if c not in TRACKS.names]]
    start = Batch(LinkRules(memory, max_distance, max_size_ratio, np.deg2rad(max_turn)))
    if isinstance(particles, pd.DataFrame):
        order = np.argsort(particles["frame"].to_numpy(), kind="stable")
        rows = _finish([*_fold(start, [particles.iloc[order]])], particles.iloc[:0])
        back = np.empty_like(order)
        back[order] = np.arange(order.size)
        return rows.iloc[back].set_axis(particles.index)
    parts = dask.compute(*_fold(start, particles.to_delayed(), lazy=True))
    return _finish(list(parts), particles._meta).reset_index(drop=True)


@dataclass(frozen=True)
class Batch:
    """Where the frames so far have led; ``rows`` is the last one, of which there may be more to come."""

    rules: LinkRules
    tracks: Tracks = field(default_factory=Tracks)
    rows: pd.DataFrame | None = None


def _fold(start: Batch, parts: Iterable, lazy: bool = False) -> Iterable:
    """Tables of tracks, one a part and one for what is left at the end."""
    step = dask.delayed(_link_batch, pure=True, nout=2, traverse=False) if lazy else _link_batch
    for part in [*parts, None]:
        start, rows = step(start, part)
        yield rows


def _link_batch(before: Batch, part: pd.DataFrame | None) -> tuple[Batch, pd.DataFrame | None]:
    """Link a part of the table, all but its last frame; without a part, that one."""
    rows, last = before.rows, None
    if part is not None and len(part):
        _check_rows(part, -np.inf if rows is None else rows["frame"].iloc[-1])
        rows = part if rows is None else pd.concat([rows, part])
        ending = (rows["frame"] == rows["frame"].iloc[-1]).to_numpy()
        rows, last = rows[~ending], rows[ending]
    elif part is not None:
        return before, None
    tracks, linked = before.tracks, []
    if rows is not None and len(rows):
        tracks, linked = _link_rows(tracks, rows, before.rules)
    return replace(before, tracks=tracks, rows=last), (rows.assign(**linked) if len(linked) else None)


def _link_rows(tracks: Tracks, rows: pd.DataFrame, rules: LinkRules) -> tuple[Tracks, dict[str, np.ndarray]]:
    """Link the frames of a table that is in their order."""
    _check_twice(rows)
    # in the order of labels, so that the tracks have the same numbers however the rows of a frame are sorted
    order = np.lexsort((rows["particle"].to_numpy(), rows["frame"].to_numpy()))
    rows = rows.iloc[order]
    _, first, count = np.unique(rows["frame"].to_numpy(), return_index=True, return_counts=True)
    at = rows[["y", "x"]].to_numpy(np.float64)
    sights = Sight(at, rows["area"].to_numpy(np.float64), _column(rows, "touches_border", False).astype(bool),
                   *(np.stack([_column(rows, pair[k], np.nan) for pair in PAIRS], axis=1) for k in (0, 1)))
    track, rotation, drift = np.zeros(len(rows), np.int64), np.zeros(len(rows)), np.zeros((len(rows), 2))
    for i, n in zip(first.tolist(), count.tolist(), strict=True):
        s = slice(i, i + n)
        sight = Sight(at[s], sights.area[s], sights.cut[s], sights.angle[s], sights.spacing[s])
        tracks, track[s], rotation[s] = link_frame(tracks, sight, rules)
        drift[s] = tracks.drift
    columns = {"track": track, "drift_y": drift[:, 0], "drift_x": drift[:, 1], "y_field": at[:, 0] - drift[:, 0],
               "x_field": at[:, 1] - drift[:, 1], "rotation": rotation}
    back = np.argsort(order, kind="stable")
    return tracks, {name: column[back] for name, column in columns.items()}


def _column(rows: pd.DataFrame, name: str, missing: float) -> np.ndarray:
    return rows[name].to_numpy(np.float64) if name in rows else np.full(len(rows), missing)


def _finish(parts: list[pd.DataFrame | None], empty: pd.DataFrame) -> pd.DataFrame:
    """All rows in the order of frames; the dtypes of the table where there are none."""
    full = [p for p in parts if p is not None]
    if full:
        return pd.concat(full)
    return pd.concat([empty, TRACKS.empty().set_axis(empty.index[:0])], axis=1)


def _check_columns(columns: pd.Index) -> None:
    missing = [c for c in NEEDED if c not in columns]
    if missing:
        raise InputError(f"the table of particles lacks the columns {missing}; found {list(columns)}, expected at "
                         f"least {list(NEEDED)}. Make it with analyse_particles(movie, probability)")


def _check_rows(rows: pd.DataFrame, last: float) -> None:
    check_frames("the table of particles", rows["frame"])
    frame = rows["frame"].to_numpy()
    if frame[0] < last or (np.diff(frame) < 0).any():
        raise InputError(f"frame {int(frame.min())} comes after frame {int(max(last, frame.max()))} in the dask table; "
                         f"expected partitions in the order of frames. Compute it first: "
                         f"link_particles(table.compute())")
    for name in ("y", "x", "area"):
        bad = ~np.isfinite(rows[name].to_numpy(np.float64))
        bad |= (rows[name].to_numpy() <= 0) if name == "area" else False
        if bad.any():
            row = rows[bad].iloc[0]
            raise InputError(f"{name} is {row[name]} for particle {row['particle']:g} of frame {row['frame']:g}; "
                             f"expected a finite number{' above 0' if name == 'area' else ''}. Leave such rows out")


def _check_twice(rows: pd.DataFrame) -> None:
    twice = rows.duplicated(["frame", "particle"]).to_numpy()
    if twice.any():
        row = rows[twice].iloc[0]
        raise InputError(f"{int(twice.sum())} rows are of a particle that is there already, as particle "
                         f"{row['particle']} of frame {row['frame']}; expected each once. If tables were joined: "
                         f"table.drop_duplicates(['frame', 'particle'])")
