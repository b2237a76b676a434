"""Which site was seen in which frame, and where nothing is known: from columns, drift and sites."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats
from scipy.spatial import cKDTree

from ..core.checks import check_frames, check_number
from ..core.errors import InputError
from ..kernels.movable import nearest_distance
from ..kernels.rigid import move

__all__ = ["FRAME_STATES", "Looks", "look_at_sites"]

NEEDED = ("frame", "y", "x")
#: what a frame can be
FRAME_STATES = ("used", "left out", "no columns", "not registered", "unreadable")
#: a column belongs to the nearest site up to this part of the usual distance between sites, and no further than [A]
GATE, FURTHEST = 0.45, 1.2
#: a column counts where its site keeps its columns: nearer than this multiple of how far (99 %) those of steady sites
#: scatter about their medians; never nearer than [angstrom]; sites and columns that this takes
KEPT, NEAREST, ENOUGH_SITES, ENOUGH = 1.25, 0.3, 5, 10
#: limits of classes: parts of the columns that are nearer to their places, and that are less sure
FAR, UNSURE = (0.7, 0.9, 0.97), (0.03, 0.1, 0.3)
#: sites so near the border of the view are out of it [angstrom]
BORDER = 0.5
#: a frame that shows fewer than this part of the sites that nearly every frame shows (STEADY) cannot be read
LEAST_SEEN, STEADY, SURE = 0.5, 0.8, 1e-6


@dataclass(frozen=True)
class Looks:
    """What was seen of every site.

    Attributes
    ----------
    frames : DataFrame
        ``frame, time, epoch, status`` of every frame of the movie.
    sites : DataFrame
        ``site, epoch, y, x`` and what else is known, a row a site.
    seen : ndarray of int8, shape (used frame, site)
        1 a column, 0 none, -1 unknown.
    period : float
        Time from frame to frame [second].
    reason : str or None
        Why nothing can be counted.
    mark : ndarray of int8, shape (used frame, site)
        How sure each column that was seen is, and how near its place, in classes.
    """

    frames: pd.DataFrame
    sites: pd.DataFrame
    seen: np.ndarray
    period: float
    reason: str | None = None
    mark: np.ndarray | None = None

    @property
    def used(self) -> pd.DataFrame:
        """Rows of ``frames`` that are rows of ``seen``."""
        return self.frames[self.frames["status"] == "used"]


def look_at_sites(columns: Any, *, frame_time: float | None, frames_kept: Any, n_frames: int | None,
                  field_of_view: Any, drift: Any, sites: Any, crystal: Any) -> Looks:
    """Bring columns, drift and sites together; arguments as of `count_diffusion`."""
    table = _checked(sites.columns if _is_found(sites) else columns)
    kept = _kept(frames_kept, n_frames)
    frames, period = _frames(table, kept, n_frames, frame_time)
    empty = Looks(frames, _no_sites(), np.zeros((0, 0), np.int8), period)
    used = frames["status"] == "used"
    if used.sum() < 2:
        return replace(empty, reason=_why_so_few(frames))
    table = table[table["frame"].isin(frames.loc[used, "frame"])]
    view = _view(field_of_view)
    table, drift, frames = _registered(table, drift, frames, view)
    if (frames["status"] == "used").sum() < 2:
        return replace(empty, frames=frames, reason=_why_so_few(frames))
    found, table, why = _sites(table, sites, drift, crystal, view)
    if not len(found):
        return replace(empty, frames=frames, reason=f"there are no sites: {why or 'the table of sites is empty'}")
    used = frames["status"] == "used"
    table = _kept_places(table[table["frame"].isin(frames.loc[used, "frame"])], found)
    seen, mark = _seen(table, found, frames[used])
    seen[~_in_view(found, frames[used], drift, view)] = -1
    bad = _unreadable(seen)
    rows = np.flatnonzero(used)
    frames = frames.assign(status=frames["status"].mask(np.isin(np.arange(len(frames)), rows[bad]), "unreadable"))
    looks = Looks(frames, found.reset_index(drop=True), seen[~bad], period, None, mark[~bad])
    return replace(looks, reason=_why_so_few(frames)) if (~bad).sum() < 2 else looks


def _checked(columns: Any) -> pd.DataFrame:
    """The columns of the table that are needed, computed."""
    have = getattr(columns, "columns", None)
    missing = [c for c in NEEDED if have is None or c not in have]
    if missing:
        found = type(columns).__name__ if have is None else list(have)
        raise InputError(f"the table of columns lacks {missing}; found {found}, expected at least {list(NEEDED)}, as "
                         f"find_columns(probability) returns it")
    wanted = [c for c in (*NEEDED, "time", "y_error", "x_error", "column", "probability", "class", "intensity",
                          "intensity_error", "contrast", "y_ref", "x_ref", "epoch", "site") if c in have]
    table = columns[wanted]
    table = table.compute() if hasattr(table, "dask") else table
    check_frames("the table of columns", table["frame"])
    bad = ~np.isfinite(table[["y", "x"]].to_numpy(np.float64)).all(1)
    if bad.any():
        raise InputError(f"{int(bad.sum())} rows have no position, the first in frame {table['frame'][bad].iloc[0]:g}; "
                         f"expected numbers. Leave them out: columns.dropna(subset=['y', 'x'])")
    return table.astype({"frame": np.int64}).sort_values("frame", kind="stable", ignore_index=True)


def _kept(frames_kept: Any, n_frames: int | None) -> np.ndarray | None:
    """Numbers of the frames that were kept; None is all."""
    if n_frames is not None:
        check_number("n_frames", n_frames, "frames", least=0, whole=True)
    if frames_kept is None:
        return None
    if hasattr(frames_kept, "dask"):
        frames_kept = frames_kept.compute()
    if isinstance(frames_kept, pd.DataFrame):
        if "frame" not in frames_kept:
            raise InputError(f"frames_kept has the columns {list(frames_kept.columns)}; expected frame and keep, as "
                             f"filter_frames(particles, ...) returns them, or a list of frame numbers")
        rows = frames_kept["keep"].astype(bool) if "keep" in frames_kept else slice(None)
        frames_kept = frames_kept.loc[rows, "frame"]
    values = np.asarray(list(frames_kept) if isinstance(frames_kept, set | range) else frames_kept)
    if values.dtype == bool:
        if n_frames is not None and len(values) != n_frames:
            raise InputError(f"frames_kept has {len(values)} truth values and there are {n_frames} frames; expected "
                             f"one a frame, or the numbers of the kept ones")
        values = np.flatnonzero(values)
    check_frames("frames_kept", pd.Series(values.ravel()))
    return np.unique(values.astype(np.int64))


def _frames(table: pd.DataFrame, kept: np.ndarray | None, n_frames: int | None,
            frame_time: float | None) -> tuple[pd.DataFrame, float]:
    """Every frame with its time and status, and the time from frame to frame."""
    known = np.union1d(table["frame"].to_numpy(), np.zeros(0, np.int64) if kept is None else kept)
    if n_frames is not None and len(known) and (known[-1] >= n_frames or known[0] < 0):
        raise InputError(f"frame {known[-1] if known[-1] >= n_frames else known[0]} is not one of the n_frames="
                         f"{n_frames} frames, which are numbered from 0; expected a larger n_frames")
    numbers = np.arange(known[0], known[-1] + 1) if n_frames is None and len(known) else np.arange(n_frames or 0)
    status = pd.Series("no columns", index=numbers, dtype=object)
    status[np.isin(numbers, table["frame"])] = "used"
    if kept is not None:
        status[~np.isin(numbers, kept)] = "left out"
    times, period = _times(table, numbers, frame_time)
    out = pd.DataFrame({"frame": numbers, "time": times, "epoch": 0, "status": status.to_numpy()})
    return out, period


def _times(table: pd.DataFrame, numbers: np.ndarray, frame_time: float | None) -> tuple[np.ndarray, float]:
    """Time of every frame [second]; between frames whose time is known, by their numbers."""
    known = pd.Series(dtype=float)
    if "time" in table and len(table):
        known = table.groupby("frame")["time"].median().astype(float).dropna()
    rate = (known.iloc[-1] - known.iloc[0]) / (known.index[-1] - known.index[0]) if len(known) > 1 else np.nan
    if frame_time is not None:
        check_number("frame_time", frame_time, "second", above=0)
        if np.isfinite(rate) and abs(rate / frame_time - 1) > 0.01:
            warnings.warn(f"frame_time={frame_time:g} s is used; the times in the table are {rate:.6g} s apart",
                          stacklevel=5)
        return numbers * float(frame_time), float(frame_time)
    if not len(numbers):
        return np.zeros(0), np.nan
    if not np.isfinite(rate):
        if len(np.unique(table["frame"])) < 2:  # nothing could be counted anyhow, and the reason says so
            return np.full(len(numbers), np.nan), np.nan
        raise InputError("the time of the frames is unknown: the table has no column time with numbers, and "
                         "frame_time is None; expected frame_time=0.1 [second from frame to frame]. For rates per "
                         "frame instead of per second: frame_time=1")
    steps = np.diff(known.to_numpy()) / np.diff(known.index.to_numpy())
    if (steps <= 0).any():
        at = known.index[1:][steps <= 0][0]
        raise InputError(f"the time does not grow at frame {at}: {known[at]:g} s; expected times that grow with the "
                         f"frames, or frame_time=0.1 [second] instead of them")
    index = known.index.to_numpy()
    times = np.interp(numbers, index, known.to_numpy())
    before, after = numbers < index[0], numbers > index[-1]
    times[before] -= (index[0] - numbers[before]) * rate
    times[after] += (numbers[after] - index[-1]) * rate
    return times, float(np.median(steps))


def _view(field_of_view: Any) -> tuple[float, float, float, float] | None:
    """First and last y, first and last x that frames show."""
    if field_of_view is None:
        return None
    if isinstance(field_of_view, xr.DataArray | xr.Dataset):
        y, x = (field_of_view[a].to_numpy() for a in "yx")
        return float(y.min()), float(y.max()), float(x.min()), float(x.max())
    values = np.asarray(field_of_view, dtype=object)
    try:
        values = np.array([float(v) for v in np.concatenate([np.ravel(v) for v in values.ravel()])])
    except (TypeError, ValueError):
        values = np.zeros(0)
    if len(values) == 2:
        values = np.array([0, values[0], 0, values[1]])
    if len(values) != 4 or not np.isfinite(values).all() or values[1] <= values[0] or values[3] <= values[2]:
        raise InputError(f"field_of_view is {field_of_view!r}; expected the movie itself, (first y, last y, first x, "
                         f"last x) or (height, width) [angstrom]")
    return tuple(float(v) for v in values)


def _registered(table: pd.DataFrame, drift: Any, frames: pd.DataFrame,
                view: Any) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame]:
    """Columns in reference coordinates, the drift, and the frames with their epochs."""
    if hasattr(drift, "dask"):
        drift = drift.compute()
    if drift is False:
        return _with_epochs(table.assign(y_ref=table["y"], x_ref=table["x"], epoch=0), None, frames)
    if "y_ref" in table and "x_ref" in table:
        return _with_epochs(table if "epoch" in table else table.assign(epoch=0), drift, frames)
    from .registration import correct_drift, estimate_drift

    if drift is None:
        used = frames.loc[frames["status"] == "used", "frame"].to_numpy()
        with warnings.catch_warnings():  # that no frame is registered is said in the reason
            warnings.simplefilter("ignore")
            drift = estimate_drift(table, frames=used, field_of_view=view)
    return _with_epochs(correct_drift(table, drift), drift, frames)


def _with_epochs(table: pd.DataFrame, drift: pd.DataFrame | None,
                 frames: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame]:
    """Give frames the epoch of their columns; those without one are not registered."""
    good = table[np.isfinite(table["y_ref"]) & (table["epoch"] >= 0)]
    epoch = frames["frame"].map(good.groupby("frame")["epoch"].first())
    lost = (frames["status"] == "used") & epoch.isna()
    # a frame without columns belongs to the epoch of the one before it
    frames = frames.assign(status=frames["status"].mask(lost, "not registered"),
                           epoch=epoch.ffill().bfill().fillna(0).astype(np.int64))
    return good, drift, frames


def _sites(table: pd.DataFrame, sites: Any, drift: Any, crystal: Any,
           view: Any) -> tuple[pd.DataFrame, pd.DataFrame, str | None]:
    """Table of sites, columns with the number of the site each belongs to (-1: none), and why there is no site."""
    if sites is None:
        from .sites import find_sites

        plain = table.drop(columns=["site"] if drift is None else ["site", "y_ref", "x_ref", "epoch"], errors="ignore")
        with warnings.catch_warnings():  # that there is no site is said in the reason
            warnings.simplefilter("ignore")
            sites = find_sites(plain, drift, crystal=crystal, field_of_view=view)
        table = sites.columns.compute() if hasattr(sites.columns, "dask") else sites.columns
    if _is_found(sites):
        return _site_table(sites.table), table, getattr(sites, "reason", None)
    listed = _site_table(sites)
    if "site" in table:
        return listed, table, None
    return listed, table.assign(site=_assigned(table, listed)), None


def _is_found(sites: Any) -> bool:
    """Whether these are sites of `find_sites`, with the columns that belong to them."""
    return hasattr(sites, "table") and hasattr(sites, "columns")


def _site_table(sites: Any) -> pd.DataFrame:
    """Sites as a table with site, epoch, y, x."""
    if hasattr(sites, "dask"):
        sites = sites.compute()
    if not isinstance(sites, pd.DataFrame):
        at = np.asarray(sites, dtype=np.float64)
        if at.ndim != 2 or at.shape[1] != 2 or not np.isfinite(at).all():
            raise InputError(f"sites has the shape {at.shape}; expected the result of find_sites(columns), its table, "
                             f"or places (n, 2): y, x [angstrom]")
        sites = pd.DataFrame({"y": at[:, 0], "x": at[:, 1]})
    if not {"y", "x"} <= set(sites.columns):
        raise InputError(f"the table of sites has the columns {list(sites.columns)}; expected at least y and x "
                         f"[angstrom]")
    sites = sites.reset_index(drop=True)
    for name, value in (("site", np.arange(len(sites))), ("epoch", 0)):
        if name not in sites:
            sites = sites.assign(**{name: value})
    if sites["site"].duplicated().any():
        raise InputError(f"site {sites.loc[sites['site'].duplicated(), 'site'].iloc[0]} is there twice in the table of "
                         f"sites; expected a number of its own for each")
    return sites


def _no_sites() -> pd.DataFrame:
    return pd.DataFrame({"site": np.zeros(0, np.int64), "epoch": np.zeros(0, np.int64), "y": np.zeros(0),
                         "x": np.zeros(0)})


def _assigned(table: pd.DataFrame, sites: pd.DataFrame) -> np.ndarray:
    """Number of the nearest site of the same epoch, -1 where none is near."""
    out = np.full(len(table), -1, np.int64)
    for epoch, of in sites.groupby("epoch"):
        rows = np.flatnonzero(table["epoch"] == epoch)
        place = of[["y", "x"]].to_numpy()
        least = nearest_distance(place)
        gate = min(FURTHEST, GATE * least) if np.isfinite(least) else FURTHEST
        distance, nearest = cKDTree(place).query(table[["y_ref", "x_ref"]].to_numpy()[rows])
        out[rows] = np.where(distance <= gate, of["site"].to_numpy()[nearest], -1)
    return out


def _kept_places(table: pd.DataFrame, sites: pd.DataFrame) -> pd.DataFrame:
    """Columns at the places where those of their sites usually are.

    What a network invents at an empty site lies anywhere near it; a column that is there lies where it lay before.
    """
    table = table[table["site"] >= 0]
    places, by_site = table[["y_ref", "x_ref"]], table["site"]
    count = by_site.map(by_site.value_counts())
    middle = places.groupby(by_site).transform("median")
    of_site = sites.set_index("site").reindex(by_site)[["y", "x"]].to_numpy(np.float64)
    middle = np.where((count >= ENOUGH).to_numpy()[:, None], middle.to_numpy(), of_site)
    distance = np.hypot(*(places.to_numpy() - middle).T)
    frames = table.groupby("epoch")["frame"].nunique()
    steady = ((count >= ENOUGH) & (count >= STEADY * table["epoch"].map(frames))).to_numpy()
    if by_site[steady].nunique() < ENOUGH_SITES:
        return table.assign(mark=0)
    table = table.assign(mark=_marks(table, distance))
    return table[distance <= max(NEAREST, KEPT * float(np.quantile(distance[steady], 0.99)))]


def _marks(table: pd.DataFrame, distance: np.ndarray) -> np.ndarray:
    """Class of each column by its distance from its place and its probability; the tails are told apart."""
    mark = np.searchsorted(np.quantile(distance, FAR), distance)
    if "probability" in table:
        sure = table["probability"].to_numpy(np.float64)
        if np.isfinite(sure).all() and np.ptp(sure) > 0:
            mark = mark * (len(UNSURE) + 1) + np.searchsorted(np.unique(np.quantile(sure, UNSURE)), sure)
    return mark


def _seen(table: pd.DataFrame, sites: pd.DataFrame, used: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What was seen, and its marks (used frame, site): unknown outside the epoch of the site."""
    table = table.sort_values("mark", ascending=False)  # of two columns at a site the nearer one counts
    here = used["epoch"].to_numpy()[:, None] == sites["epoch"].to_numpy()[None]
    seen = np.where(here, 0, -1).astype(np.int8)
    row = pd.Index(used["frame"]).get_indexer(table["frame"])
    site = pd.Index(sites["site"]).get_indexer(table["site"])
    good = (row >= 0) & (site >= 0)
    seen[row[good], site[good]] = 1
    seen[~here] = -1
    mark = np.zeros(seen.shape, np.int8)
    mark[row[good], site[good]] = table["mark"].to_numpy()[good]
    return seen, mark


def _in_view(sites: pd.DataFrame, used: pd.DataFrame, drift: pd.DataFrame | None, view: Any) -> np.ndarray:
    """Whether a site lies in the view (used frame, site)."""
    if view is None:
        return np.ones((len(used), len(sites)), bool)
    place = sites[["y", "x"]].to_numpy()[None]
    if drift is not None:
        rows = drift.set_index("frame").reindex(used["frame"])
        motion = rows[["drift_y", "drift_x", "rotation"]].to_numpy()[:, None]
        place = move(motion, place, drift[["centre_y", "centre_x"]].to_numpy()[0])
    y, x = np.moveaxis(np.broadcast_to(place, (len(used), len(sites), 2)), -1, 0)
    return ((y >= view[0] + BORDER) & (y <= view[1] - BORDER) & (x >= view[2] + BORDER) & (x <= view[3] - BORDER))


def _unreadable(seen: np.ndarray) -> np.ndarray:
    """Frames that lack so many of the steady sites that chance cannot explain it."""
    known = seen >= 0
    with np.errstate(invalid="ignore"):
        share = (seen == 1).sum(0) / known.sum(0)
    steady = share >= STEADY
    n, hit = known[:, steady].sum(1), (seen[:, steady] == 1).sum(1)
    mean = float(share[steady].mean()) if steady.any() else 1.0
    return (n > 0) & (hit < LEAST_SEEN * mean * n) & (stats.binom.cdf(hit, n, mean) < SURE)


def _why_so_few(frames: pd.DataFrame) -> str:
    """Say why there are no two frames to compare."""
    counts = frames["status"].value_counts()
    said = ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "there is no frame"
    used = int(counts.get("used", 0))
    what = "no frame can" if used == 0 else "only one frame can"
    return f"{what} be used of {len(frames)} ({said}); events are seen between frames, and need two at least"


