"""What `find_sites` reads from its tables, and the tables it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..core.checks import check_frames, check_number
from ..core.errors import InputError
from ..kernels.lattice_zone import ColumnZone
from ..kernels.rigid import move
from ..kernels.sites import EpochSites
from .column_input import read_columns
from .registration import correct_drift

__all__ = ["Seen", "checked_columns", "epoch_rows", "frames_of", "lattice_rows", "site_rows"]

#: positions of sites in frames that are looked at in one go
BLOCK = 2_000_000
STRAINS = ("e_yy", "e_xx", "e_yx", "rotation")


def checked_columns(columns: Any, drift: Any) -> pd.DataFrame:
    """The table in memory, with y_ref, x_ref and epoch."""
    table = read_columns(columns)
    attrs = dict(getattr(columns, "attrs", {}))
    table = table.drop(columns=[c for c in ("site", "residual") if c in table])
    if drift is not None:
        table = correct_drift(table, drift)
    elif not {"y_ref", "x_ref"} <= set(table.columns):
        table = table.assign(y_ref=table["y"], x_ref=table["x"], epoch=0)
    elif "epoch" not in table:
        table = table.assign(epoch=np.where(np.isfinite(table["y_ref"]), 0, -1))
    table.attrs = attrs
    return table


@dataclass(eq=False)
class Seen:
    """Columns as arrays in a fixed order, and the frames that were looked at.

    Attributes
    ----------
    order : ndarray of int
        Rows of the table that are used, sorted by frame and place.
    at, error, frame, column_epoch : ndarray
        Of all rows of the table: reference coordinates, errors or None, frame (counted from 0 among those looked at),
        epoch (-1 where the row is not used).
    number, epoch : ndarray of int
        Of the frames looked at: their numbers and epochs.
    motion, centre : ndarray or None
        Motion of each frame; see `kernels.rigid`.
    view : tuple of float, or None
        First and last y, first and last x; ``given`` by the user or found from the columns.
    """

    order: np.ndarray
    at: np.ndarray
    error: np.ndarray | None
    frame: np.ndarray
    column_epoch: np.ndarray
    number: np.ndarray
    epoch: np.ndarray
    intensity: np.ndarray | None
    intensity_error: np.ndarray | None
    motion: np.ndarray | None
    centre: np.ndarray
    view: tuple[float, float, float, float] | None
    given: bool
    reason: str | None

    @property
    def epochs(self) -> np.ndarray:
        """Epochs with a frame that was looked at."""
        return np.unique(self.epoch)

    def rows(self, epoch: int) -> np.ndarray:
        """Rows of the table that are of an epoch, sorted by frame and place."""
        return self.order[self.column_epoch[self.order] == epoch]

    def visible(self, epoch: int, yx: np.ndarray, vector: float) -> np.ndarray:
        """Number of the frames of an epoch which show each place."""
        mine = self.epoch == epoch
        if self.view is None or not len(yx):
            return np.full(len(yx), int(mine.sum()), dtype=np.int64)
        margin = 0.0 if self.given else vector
        y0, y1, x0, x1 = self.view
        motions = np.zeros((1, 3)) if self.motion is None else self.motion[mine]
        count = np.zeros(len(yx), np.int64)
        step = max(BLOCK // len(yx), 1)
        for start in range(0, len(motions), step):
            y, x = np.moveaxis(move(motions[start:start + step, None], yx[None], self.centre), -1, 0)
            count += ((y >= y0 - margin) & (y <= y1 + margin) & (x >= x0 - margin) & (x <= x1 + margin)).sum(0)
        return count * int(mine.sum()) if self.motion is None else count

    def intensities(self, rows: np.ndarray, site: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean intensity of each site and its error; of a single column the stated one."""
        if self.intensity is None:
            return np.full(n, np.nan), np.full(n, np.nan)
        value = self.intensity[rows]
        good = (site >= 0) & np.isfinite(value)
        where, value = site[good], value[good]
        count = np.bincount(where, minlength=n)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(where, value, n) / count
            error = np.sqrt(np.bincount(where, (value - mean[where]) ** 2, n) / (count - 1) / count)
        if self.intensity_error is not None:
            stated = np.bincount(where, self.intensity_error[rows][good], n)
            error = np.where(count == 1, stated, error)
        return mean, np.where(count > 0, error, np.nan)


def frames_of(table: pd.DataFrame, drift: Any, frames: Any, field_of_view: Any) -> Seen:
    """Which frames were looked at, and the columns in them."""
    number = table["frame"].to_numpy(np.int64)
    at = table[["y_ref", "x_ref"]].to_numpy(np.float64)
    used = np.isfinite(at).all(1) & (table["epoch"].to_numpy() >= 0)
    if drift is not None:
        drift = drift.compute() if hasattr(drift, "dask") else drift
        drift = drift[np.isfinite(drift["drift_y"])].sort_values("frame")
        looked, epoch = drift["frame"].to_numpy(np.int64), drift["epoch"].to_numpy(np.int64)
    else:
        looked, first = np.unique(number[used], return_index=True)
        epoch = table["epoch"].to_numpy(np.int64)[used][first]
    if frames is not None:
        wanted = _numbers(frames)
        if drift is None and len(looked):  # a frame without any column belongs to the epoch of the one before it
            before = np.clip(np.searchsorted(looked, wanted, "right") - 1, 0, None)
            looked, epoch = wanted, epoch[before]
        else:
            keep = np.isin(looked, wanted)
            looked, epoch = looked[keep], epoch[keep]
            drift = None if drift is None else drift[keep]
    used &= np.isin(number, looked)
    order = np.lexsort((at[:, 1], at[:, 0], number))
    order = order[used[order]]
    place = np.searchsorted(looked, number)
    motion = None if drift is None else drift[["drift_y", "drift_x", "rotation"]].to_numpy(np.float64)
    centre = np.zeros(2) if drift is None or not len(drift) else drift[["centre_y", "centre_x"]].to_numpy(float)[0]
    reason = None if len(looked) else ("the table of columns is empty" if not len(table) else
                                       "no frame with columns is registered, or none is among the frames to be used")
    errors = None
    if {"y_error", "x_error"} <= set(table.columns):
        errors = table[["y_error", "x_error"]].to_numpy(np.float64, na_value=np.nan)
        errors = np.where(errors > 0, errors, np.nan)
    numbers = {name: table[name].to_numpy(np.float64, na_value=np.nan) if name in table else None
               for name in ("intensity", "intensity_error")}
    return Seen(order, at, errors, place, np.where(used, table["epoch"].to_numpy(np.int64), -1), looked, epoch,
                numbers["intensity"], numbers["intensity_error"], motion, centre,
                _view(field_of_view, table.loc[used, ["y", "x"]].to_numpy(np.float64), drift is not None),
                field_of_view is not None, reason)


def _numbers(frames: Any) -> np.ndarray:
    """Numbers of frames from a list or a table."""
    if hasattr(frames, "dask"):
        frames = frames.compute()
    if isinstance(frames, pd.DataFrame):
        if "frame" not in frames:
            raise InputError(f"frames has the columns {list(frames.columns)}; expected a table with the column frame, "
                             f"as filter_frames(particles, ...) returns it, or numbers of frames")
        frames = frames.loc[frames["keep"].astype(bool), "frame"] if "keep" in frames else frames["frame"]
    given = pd.Series(np.asarray(frames).ravel())
    check_frames("frames", given)
    return np.unique(given.to_numpy(np.float64).astype(np.int64))


def _view(given: Sequence[float] | None, at: np.ndarray, moving: bool) -> tuple[float, float, float, float] | None:
    if given is None:
        if not len(at) or not moving:
            return None  # without motion every frame shows the same
        (y0, x0), (y1, x1) = at.min(0), at.max(0)
        return float(y0), float(y1), float(x0), float(x1)
    values = np.asarray(given, dtype=object).ravel()
    if values.size == 4:
        for value in values:
            check_number("field_of_view", value, "angstrom")
    if values.size != 4 or values[1] <= values[0] or values[3] <= values[2]:
        raise InputError(f"field_of_view is {given!r}; expected first and last y, first and last x [angstrom], the "
                         f"last ones larger")
    return tuple(float(v) for v in values)


def site_rows(found: EpochSites, epoch: int, first: int, count: np.ndarray, visible: np.ndarray, occupancy: np.ndarray,
              strain: tuple[np.ndarray, np.ndarray, np.ndarray], around: tuple[np.ndarray, np.ndarray],
              intensity: np.ndarray, intensity_error: np.ndarray) -> pd.DataFrame:
    """Table of the sites of one epoch."""
    value, error, residual = strain
    return pd.DataFrame({
        "site": first + np.arange(len(found.yx)), "epoch": epoch, "grain": found.grain, "i": found.ij[:, 0],
        "j": found.ij[:, 1], "y": found.yx[:, 0], "x": found.yx[:, 1],
        **{f"{a}_error": found.error[:, k] if len(found.error) else np.zeros(0) for k, a in enumerate("yx")},
        "seen": count, "frames": visible, "occupancy": occupancy, "occupied": found.occupied, "neighbours": around[0],
        "surface": around[1], "intensity": intensity, "intensity_error": intensity_error,
        **{name: value[:, k] for k, name in enumerate(STRAINS)},
        **{f"{name}_error": error[:, k] for k, name in enumerate(STRAINS)}, "residual": residual})


def lattice_rows(found: EpochSites, epoch: int, zones: Sequence[ColumnZone | None]) -> pd.DataFrame:
    """Table of the lattices of one epoch."""
    rows = []
    for k, (fit, zone) in enumerate(zip(found.fits, zones, strict=True)):
        (u, v), (du, dv) = fit.vectors, fit.vector_errors
        names = {f"{n}_{a}": float(w[c]) for n, w in (("u", u), ("v", v), ("origin", fit.origin))
                 for c, a in enumerate("yx")}
        errors = {f"{n}_{a}_error": float(w[c]) for n, w in (("u", du), ("v", dv), ("origin", fit.origin_error))
                  for c, a in enumerate("yx")}
        angle = float(np.arctan2(u[0] * v[1] - u[1] * v[0], u @ v))
        rows.append({"epoch": epoch, "grain": k, **names, **errors, "length_u": float(np.hypot(*u)),
                     "length_v": float(np.hypot(*v)), "angle": angle,
                     "n": int(((found.grain == k) & found.occupied).sum()), "rms": fit.rms,
                     "misorientation": found.turns[k], "zone_axis": "" if zone is None else zone.name,
                     "mismatch": np.nan if zone is None else zone.mismatch})
    return pd.DataFrame(rows)


def epoch_rows(found: EpochSites, epoch: int, seen: Seen, rows: np.ndarray,
               zones: Sequence[ColumnZone | None]) -> pd.DataFrame:
    """What became of the columns of one epoch."""
    frames, n = int((seen.epoch == epoch).sum()), len(rows)
    assigned, double = int((found.site >= 0).sum()), int(found.double.sum())
    share = (n - assigned) / n if n else np.nan
    if found.fits:
        each = []
        for k, (fit, zone) in enumerate(zip(found.fits, zones, strict=True)):
            text = f"{int(((found.grain == k) & found.occupied).sum())} sites, "
            text += " x ".join(f"{length:.3f}" for length in np.hypot(*fit.vectors.T)) + " angstrom"
            text += f" {zone.name}" if zone is not None else ""
            each.append(text + (f", turned by {np.rad2deg(found.turns[k]):.1f} degree" if k else ""))
        message = (f"{len(found.fits)} lattice(s): {'; '.join(each)}. {n - assigned} of {n} columns "
                   f"({share:.1%}) in {frames} frame(s) are on no site, {double} of them beside another one.")
    else:
        message = (f"{n} columns in {frames} frame(s) at {len(found.places)} places; no lattice explains enough of "
                   f"them better than chance, so none has a site")
    return pd.DataFrame([{"epoch": epoch, "frames": frames, "columns": n, "assigned": assigned, "double": double,
                          "unexplained": n - assigned - double, "share": share, "lattices": len(found.fits),
                          "message": message}])
