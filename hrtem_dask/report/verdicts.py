"""The list of readable frames as a picture: the verdicts over time, and the frames at the border of the list."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import pandas as pd
import xarray as xr

from ..analysis.verdicts import REASONS
from ..core.calibration import grid_of
from ..core.errors import InputError
from ..core.schema import VERDICTS
from ..kernels.spectrum import display, image_spectrum
from .pictures import COLOURS, Encoded, draw_scale_bar, encode, new_figure, stretch, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["border_frames", "verdict_figure", "verdicts_over_time"]

#: marker and colour of each reason: told apart by shape too
MARKS = dict(zip(REASONS, (("o", COLOURS["blue"]), ("^", COLOURS["orange"]), ("v", COLOURS["red"]),
                           ("s", COLOURS["green"]), ("x", COLOURS["grey"]), ("D", COLOURS["sky"]), ("P", "black")),
                 strict=True))
#: highest frequency shown [1/angstrom], margin of a crop as a part of the diameter, and its least side [pixel]
K_MAX, MARGIN, LEAST = 0.75, 0.3, 24


def border_frames(verdicts: pd.DataFrame, shown: int = 4) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Frames at the border of the list: kept ones and dropped ones nearest to the threshold, nearest first.

    Only frames that were dropped for their particle count, not those that are unfit. Nearness is measured in
    the score where a least score was applied, else in the logarithm of the peak ratio.

    Parameters
    ----------
    verdicts : DataFrame
        From `hrtem_dask.filter_frames`, with its attributes.
    shown : int
        Frames of each kind, at most.

    Returns
    -------
    (DataFrame, DataFrame)
        Rows of the table, kept and dropped.

    Examples
    --------
    >>> table = pd.DataFrame({"frame": range(5), "keep": [True, True, False, False, False], "particle": 1,
    ...     "score": [0.9, 0.6, 0.45, 0.1, 0.0], "peak_ratio": [1.2, 2, 3, 9, np.nan], "x": 5.0, "y": 5.0,
    ...     "reason": ["aligned", "aligned", "one fringe", "one fringe", "no lattice"]})
    >>> table.attrs["threshold"] = {"min_score": 0.5}
    >>> [rows.frame.tolist() for rows in border_frames(table, 2)]
    [[1, 0], [2, 3]]
    """
    quantity, _, _ = _criterion(verdicts)
    fit = verdicts[verdicts["reason"].isin(["aligned", "one fringe", "no lattice"]) & verdicts["y"].notna()]
    far = _distance(fit, quantity, verdicts)
    order = far.sort_values(kind="stable").index
    rows = fit.loc[order]
    return rows[rows["keep"].to_numpy(bool)].head(shown), rows[~rows["keep"].to_numpy(bool)].head(shown)


def _criterion(verdicts: pd.DataFrame) -> tuple[str, float, str]:
    """Column that decided, its threshold, and the name of its axis."""
    asked = verdicts.attrs.get("threshold", {})
    if asked.get("max_ratio") is not None and asked.get("min_score") is None:
        return "peak_ratio", float(asked["max_ratio"]), "peak ratio"
    level = asked.get("min_score")
    if level is None:  # a table that was read from a file: the lowest score that was kept
        kept = verdicts.loc[verdicts["keep"].to_numpy(bool), "score"]
        level = kept.min() if len(kept) else math.inf
    return "score", float(level), "zone-axis score"


def _distance(rows: pd.DataFrame, quantity: str, verdicts: pd.DataFrame) -> pd.Series:
    level = _criterion(verdicts)[1]
    if quantity == "peak_ratio":
        return (np.log(rows["peak_ratio"]) - math.log(level)).abs().fillna(math.inf)
    return (rows["score"] - min(level, 1.0)).abs().fillna(math.inf)


@styled
def verdict_figure(movie: xr.DataArray, verdicts: pd.DataFrame, *, shown: int = 4,
                   truth: Any = None) -> Encoded:
    """Draw score or ratio over time by verdict, and the frames at the border; computes the crops that it shows.

    Parameters
    ----------
    movie : DataArray, dims (frame, y, x)
        Calibrated counts.
    verdicts : DataFrame
        From `hrtem_dask.filter_frames`.
    shown : int
        Kept frames nearest to the threshold, and as many dropped ones, shown with the spectra of the
        particle that is followed.
    truth : sequence of bool, optional
        Which frames can be read, in the order of the verdicts, drawn as a band.

    Returns
    -------
    Encoded
        A picture that a notebook and a page show.

    Raises
    ------
    InputError
        If columns are missing, or the movie has other dims or other frames.
    CalibrationError
        If the movie has no pixel size.
    """
    if not isinstance(movie, xr.DataArray) or movie.dims != ("frame", "y", "x"):
        raise InputError(f"the movie has the dims {getattr(movie, 'dims', type(movie).__name__)}; expected "
                         f"('frame', 'y', 'x'). Of a focal series take one image: movie.isel(defocus=0)")
    missing = [name for name in VERDICTS.names if name not in verdicts.columns]
    if missing:
        raise InputError(f"the verdicts lack the columns {missing}; expected the table of filter_frames")
    grid_of(movie)
    kept, dropped = border_frames(verdicts, shown)
    crops = dask.compute(*(_crop(movie, row) for rows in (kept, dropped) for row in rows.itertuples()))
    columns = 2 * shown if crops else 1
    figure = new_figure(12.4, 3.0 + (2 * 12.4 / max(columns, 6) + 0.5 if crops else 0))
    layout = figure.add_gridspec(3 if crops else 1, columns, height_ratios=[3.0, *[12.4 / max(columns, 6)] * 2]
                                 if crops else [1])
    verdicts_over_time(figure.add_subplot(layout[0, :]), verdicts, truth)
    places = [*range(len(kept)), *range(shown, shown + len(dropped))]
    for rows, first, kind in ((kept, 0, "kept"), (dropped, shown, "dropped for its particle")):
        if crops and not len(rows):
            ax = figure.add_subplot(layout[1:, first:first + shown])
            ax.axis("off")
            ax.text(0.5, 0.5, f"no frame is {kind}", ha="center", va="center", color=COLOURS["grey"])
    for column, row, crop in zip(places, [*kept.itertuples(), *dropped.itertuples()], crops, strict=True):
        _thumbnail(figure, layout, column, row, crop)
    return encode(figure, photo=bool(crops), dpi=125)


def verdicts_over_time(ax: Axes, verdicts: pd.DataFrame, truth: Any = None) -> None:
    """Draw the score, or the ratio, of every frame by its reason, with the threshold and the kept times shaded."""
    quantity, level, name = _criterion(verdicts)
    timed = len(verdicts) > 0 and verdicts["time"].notna().all()
    at = verdicts["time" if timed else "frame"].to_numpy(np.float64)
    value = verdicts[quantity].to_numpy(np.float64)
    ratio = quantity == "peak_ratio"
    floor = 0.85 if ratio else -0.06
    top = max(10.0, level * 1.5, 1.3 * np.nanmax(value, initial=1.0)) if ratio else 1.06
    if len(at):
        _shade(ax, at, verdicts["reason"].astype(str).to_numpy())
    size = 22 if len(at) < 200 else 9 if len(at) < 1500 else 4
    counts = verdicts["reason"].value_counts()
    for reason, (marker, colour) in MARKS.items():
        mine = (verdicts["reason"] == reason).to_numpy()
        if mine.any():
            # what has no value lies at the bottom
            ax.scatter(at[mine], np.where(np.isfinite(value[mine]), value[mine], floor * (1 if ratio else 0.5)), s=size,
                       marker=marker, color=colour, lw=0.9 if marker in "xP" else 0, alpha=0.75,
                       label=f"{reason} ({counts[reason]})")
    if math.isfinite(level):
        ax.axhline(level, color=COLOURS["red"], lw=1.1, ls="--")
        ax.text(1.0, level, f" {level:.3g}", color=COLOURS["red"], va="center", ha="left", fontsize=8,
                transform=ax.get_yaxis_transform())
    if truth is not None:
        edge = 1.0 + 0.02
        for begin, end in _runs(at, np.asarray(truth, bool)):
            ax.plot([begin, end], [edge, edge], color=COLOURS["green"], lw=4, solid_capstyle="butt", clip_on=False,
                    transform=ax.get_xaxis_transform())
    if ratio:
        ticks = [t for t in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if t <= top]
        ax.set(yscale="log", ylim=(0.8, top))
        ax.set_yticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
    else:
        ax.set_ylim(floor, top)
    keep = int(verdicts["keep"].sum())
    title = f"a  {keep} of {len(verdicts)} frames are kept" + ("" if truth is None else "; green: the truth")
    ax.set(xlabel="time (s)" if timed else "frame", ylabel=name)
    ax.set_title(title, pad=8)
    if len(counts):
        ax.legend(loc="upper left", bbox_to_anchor=(1.04, 1.0), fontsize=8, handletextpad=0.2, borderaxespad=0)


def _shade(ax: Axes, at: np.ndarray, reason: np.ndarray) -> None:
    """Shade the time of every frame in the colour of its reason, that of dropped ones lightly."""
    from matplotlib.colors import to_rgba

    middle = (at[1:] + at[:-1]) / 2
    half = float(np.median(np.diff(at))) / 2 if len(at) > 1 else 0.5
    edges = np.concatenate([[at[0] - half], middle, [at[-1] + half]])
    colours = np.array([to_rgba(MARKS[r][1], 0.22 if r == "aligned" else 0.07) for r in reason])
    ax.pcolormesh(edges, [0, 1], colours[None], transform=ax.get_xaxis_transform(), zorder=0, lw=0, rasterized=True)


def _runs(at: np.ndarray, keep: np.ndarray) -> list[tuple[float, float]]:
    """Begin and end of every run of good frames, half a frame around them."""
    if not len(at) or not keep.any():
        return []
    half = float(np.median(np.diff(at))) / 2 if len(at) > 1 else 0.5
    edges = np.flatnonzero(np.diff(np.concatenate([[0], keep.astype(np.int8), [0]])))
    return [(float(at[a]) - half, float(at[b - 1]) + half) for a, b in edges.reshape(-1, 2)]


def _crop(movie: xr.DataArray, row: Any) -> xr.DataArray:
    """Square around the particle, lazy."""
    grid = grid_of(movie)
    if row.frame not in movie["frame"].values:
        raise InputError(f"the movie has no frame {row.frame} of the verdicts; expected the movie that they are of, "
                         f"with frames from {movie['frame'].values[0]} to {movie['frame'].values[-1]}")
    cut = {}
    for axis, centre, origin, step in (("y", row.y, grid.y0, grid.dy), ("x", row.x, grid.x0, grid.dx)):
        half = max(row.diameter * (1 + MARGIN) / 2 / abs(step), LEAST / 2)
        middle, n = (centre - origin) / step, movie.sizes[axis]
        start = int(np.clip(round(middle - half), 0, max(0, n - 2 * math.ceil(half))))
        cut[axis] = slice(start, min(n, start + 2 * math.ceil(half)))
    return movie.sel(frame=row.frame).isel(cut)


def _thumbnail(figure: Figure, layout: Any, column: int, row: Any, crop: xr.DataArray) -> None:
    """Crop of the particle above its spectrum."""
    _, colour = MARKS[str(row.reason)]
    pixel = grid_of(crop).pixel_size
    image = np.nan_to_num(crop.values.astype(np.float64), nan=float(np.nanmean(crop.values)))
    ax = figure.add_subplot(layout[1, column])
    ax.imshow(stretch(image), cmap="gray", vmin=0, vmax=1, interpolation="antialiased", aspect=pixel[0] / pixel[1])
    draw_scale_bar(ax, image.shape, pixel[1])
    kind = "kept" if row.keep else f"dropped: {row.reason}"
    ratio = "–" if math.isnan(row.peak_ratio) else f"{row.peak_ratio:.3g}"
    ax.set_title(f"{kind}\nframe {row.frame}\nscore {row.score:.2f}, ratio {ratio}", fontsize=8, color="#111827",
                 fontweight="normal")
    _frame(ax, colour, row.keep)
    spectrum, k_max = image_spectrum(image, pixel), min(K_MAX, 0.5 / max(pixel))
    shown, cut = display(spectrum, k_max=k_max)
    low, high = np.percentile(shown, [35, 99.9])
    ax = figure.add_subplot(layout[2, column])
    ax.imshow(shown, extent=cut.extent, cmap="magma", vmin=low, vmax=max(high, low + 1e-6), interpolation="antialiased",
              aspect="equal")
    ax.set(xlim=(-k_max, k_max), ylim=(k_max, -k_max), yticks=[], xticks=[-0.5, 0, 0.5], xlabel="k (1/Å)")
    ax.grid(visible=False)
    ax.tick_params(length=2, labelsize=7)
    _frame(ax, colour, row.keep)


def _frame(ax: Axes, colour: str, keep: bool) -> None:
    """Edge in the colour of the reason: full where the frame is kept, dashed where it is dropped."""
    for spine in ax.spines.values():
        spine.set(visible=True, color=colour, linewidth=1.8, linestyle="-" if keep else "--")
