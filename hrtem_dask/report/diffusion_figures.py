"""Figures of diffusion events: columns over a frame, occupancy over the mean image, events and rate against time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .pictures import COLOURS, Encoded, draw_scale_bar, encode, new_figure, stretch, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Ground", "columns_figure", "events_figure"]

#: of an event: marker, colour, name
MARKS = {"appear": ("^", COLOURS["green"]), "disappear": ("v", COLOURS["red"]), "hop": ("D", COLOURS["orange"])}
#: a site that is occupied for a smaller part of the time, and never changed, is left out of the raster
EMPTY = 0.05
#: shade of a frame that was not used, by its status
SHADES = {"left out": "#cbd0d6", "no columns": "#f3d9b1", "not registered": "#e9c0cc", "unreadable": "#c6d8ea"}


@dataclass(frozen=True)
class Ground:
    """A picture that places are drawn on.

    Parameters
    ----------
    image : ndarray, shape (y, x)
    origin, pixel_size : (float, float)
        Coordinates of pixel (0, 0), and size of the pixels [angstrom].
    text : str
        What stands in its corner.
    """

    image: np.ndarray
    origin: tuple[float, float]
    pixel_size: tuple[float, float]
    text: str

    def show(self, ax: Axes) -> None:
        """Draw it."""
        known = np.isfinite(self.image)
        filled = np.where(known, self.image, self.image[known].mean() if known.any() else 0)
        ax.imshow(stretch(filled), cmap="gray", vmin=0, vmax=1, interpolation="antialiased",
                  aspect=self.pixel_size[0] / self.pixel_size[1])
        draw_scale_bar(ax, self.image.shape, self.pixel_size[1], text=self.text)

    def at(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (x, y) of the places ``y, x`` [angstrom] of a table."""
        return ((table["x"].to_numpy() - self.origin[1]) / self.pixel_size[1],
                (table["y"].to_numpy() - self.origin[0]) / self.pixel_size[0])


@styled
def columns_figure(frame: Ground | None, columns: pd.DataFrame, sites_there: pd.DataFrame, mean: Ground | None,
                   sites: pd.DataFrame, occupancy: np.ndarray | None) -> Encoded:
    """Draw the columns over a frame, the occupancy of sites over the mean image, and where events were.

    Parameters
    ----------
    frame : Ground or None
        A frame around the particle.
    columns : DataFrame
        Its columns: ``y, x, site``.
    sites_there : DataFrame
        Sites, where they are in that frame.
    mean : Ground or None
        Mean image of the frames that were used, drift-corrected.
    sites : DataFrame
        Table of sites, as a campaign writes it, of one epoch.
    occupancy : ndarray or None
        Of these sites; where it is not known, their share of frames with a column.
    """
    grounds = [g for g in (frame, mean) if g is not None]
    ratio = max((g.image.shape[0] * g.pixel_size[0] / (g.image.shape[1] * g.pixel_size[1]) for g in grounds),
                default=1.0)
    figure = new_figure(12.4, min(12.4 / 3 * ratio, 9.0) + 0.55)
    left, middle, right = figure.subplots(1, 3)
    for ax, ground in ((left, frame), (middle, mean), (right, mean)):
        if ground is None:
            ax.axis("off")
            ax.text(0.5, 0.5, "the movie cannot be read", ha="center", va="center", color=COLOURS["grey"])
        else:
            ground.show(ax)
    size = _size(sites, mean or frame)
    if frame is not None:
        _columns(left, frame, columns, sites_there, size)
    left.set_title("a  columns of one frame")
    values = sites["occupancy"].to_numpy(np.float64) if occupancy is None else occupancy
    if mean is not None:
        shown = middle.scatter(*mean.at(sites), s=size, c=values, cmap="viridis", vmin=0, vmax=1, alpha=0.85, lw=0)
        moving = sites["changes"].to_numpy(bool)
        middle.scatter(*mean.at(sites[moving]), s=1.9 * size, facecolors="none", edgecolors=COLOURS["orange"], lw=1.2)
        _bar(figure, shown, middle)
        events = sites["events"].to_numpy()
        some = events > 0
        right.scatter(*mean.at(sites), s=0.15 * size, color="white", alpha=0.7, lw=0)
        shown = right.scatter(*mean.at(sites[some]), s=1.3 * size, c=events[some], cmap="inferno", vmin=0,
                              vmax=max(1, events.max(initial=1)), lw=0.6, edgecolors="white")
        _bar(figure, shown, right, whole=True)
    middle.set_title("b  occupancy over the mean image")
    right.set_title("c  changes of each site")
    return encode(figure, photo=True, dpi=125)


def _size(sites: pd.DataFrame, ground: Ground | None) -> float:
    """Area of a marker [point^2] so that those of neighbours do not touch."""
    if ground is None or not len(sites):
        return 20.0
    field = ground.image.shape[1] * ground.pixel_size[1]
    return float(np.clip((0.3 * 2.5 / field * 12.4 / 3 * 72 * 2) ** 2, 3, 90))


def _columns(ax: Axes, frame: Ground, columns: pd.DataFrame, sites: pd.DataFrame, size: float) -> None:
    moving = columns["site"].isin(sites.loc[sites["changes"].astype(bool), "site"])
    alien = columns["site"] < 0
    full = sites["site"].isin(columns["site"])
    for rows, style, name in (
            (columns[~moving & ~alien], {"c": COLOURS["sky"]}, "column"),
            (columns[moving], {"c": COLOURS["orange"]}, "at a site that can change"),
            (columns[alien], {"c": COLOURS["red"], "marker": "x", "lw": 1.0}, "on no site")):
        if len(rows):
            ax.scatter(*frame.at(rows), s=0.45 * size, **({"lw": 0} | style), label=name)
    empty = sites[~full & sites["changes"].astype(bool)]
    if len(empty):
        ax.scatter(*frame.at(empty), s=size, facecolors="none", edgecolors=COLOURS["orange"], lw=1.1, label="empty")
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=2, fontsize=8, handletextpad=0.1, columnspacing=1.0,
              borderaxespad=0.2)


def _bar(figure: Any, shown: Any, ax: Axes, *, whole: bool = False) -> None:
    bar = figure.colorbar(shown, ax=ax, fraction=0.046, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    if whole:
        bar.ax.yaxis.get_major_locator().set_params(integer=True)


@styled
def events_figure(frames: pd.DataFrame, occupancy: pd.DataFrame, sites: pd.DataFrame, events: pd.DataFrame,
                  rate: pd.DataFrame, *, truth: pd.DataFrame | None = None, true_rate: float | None = None) -> Encoded:
    """Draw occupancy and events of the sites that can change against time, and the rate with its band.

    Parameters
    ----------
    frames : DataFrame
        ``frame, time, status``, a row a frame.
    occupancy : DataFrame
        ``frame, site, occupancy``.
    sites, events, rate : DataFrame
        As a campaign writes them.
    truth : DataFrame, optional
        True events: ``time, site``, of the sites of this table.
    true_rate : float, optional
        [1/second]
    """
    order, many = raster_order(sites), int(sites["changes"].sum())
    tall = float(np.clip(0.11 * len(order), 1.6, 6.0))
    figure = new_figure(12.4, tall + 3.1)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[tall, 2.2])
    edges = frame_edges(frames["time"].to_numpy(np.float64))
    _shade(top, frames, edges)
    _raster(top, frames, occupancy, order, edges, figure)
    place = {site: k for k, site in enumerate(order)}
    for kind, (marker, colour) in MARKS.items():
        rows = events[(events["kind"].astype(str) == kind) & events["site"].isin(order)]
        ends = rows["site_to"].map(place) if kind == "hop" else None
        level = rows["site"].map(place)
        if ends is not None:
            top.vlines(rows["time"], level, ends.fillna(level), color=colour, lw=1.0)
        top.scatter(rows["time"], level, marker=marker, s=20, color=colour, lw=0.5, edgecolors="white", zorder=3,
                    label=f"{kind} ({len(rows)})", clip_on=False)
    if truth is not None and len(truth):
        rows = truth[truth["site"].isin(order)]
        top.scatter(rows["time"], rows["site"].map(place), marker="o", s=42, facecolors="none", edgecolors="black",
                    lw=0.7, zorder=4, label=f"truth ({len(rows)})", clip_on=False)
    top.set(ylabel="site", ylim=(len(order) - 0.5, -0.5), yticks=[])
    top.grid(visible=False)
    which = f"{len(order)} sites" if len(order) == many else f"{len(order)} of {many} sites (the others stay empty)"
    top.set_title(f"a  {which} that can change, in the order of the angle; shaded: frames that were not used")
    _legend(top)
    _shade(bottom, frames, edges)
    _rate(bottom, rate, true_rate)
    bottom.set(xlabel="time (s)", ylabel="events per site and second", xlim=(edges[0], edges[-1]))
    bottom.set_title("b  rate, corrected for detection, with its interval at 95 %")
    _legend(bottom)
    return encode(figure)


def raster_order(sites: pd.DataFrame) -> list[int]:
    """Sites that can change, by epoch and then by their angle about the middle of all; without those that stay empty.

    Examples
    --------
    >>> sites = pd.DataFrame({"site": [4, 5, 6, 7], "epoch": 0, "y": [1.0, -1, 0, 0], "x": [0.0, 0, 1, -1],
    ...                       "changes": True, "events": [1, 2, 1, 0], "occupancy": [0.5, 0.5, 0.9, 0.0]})
    >>> raster_order(sites)
    [5, 6, 4]
    """
    rows = sites[sites["changes"].astype(bool)]
    lively = (rows["events"] > 0) | (rows["occupancy"] > EMPTY)
    rows = rows[lively] if lively.any() else rows
    angle = np.arctan2(rows["y"] - sites["y"].mean(), rows["x"] - sites["x"].mean())
    return rows.assign(angle=angle).sort_values(["epoch", "angle"], kind="stable")["site"].tolist()


def frame_edges(time: np.ndarray) -> np.ndarray:
    """Begin of every frame, and the end of the last, half way between their times.

    Examples
    --------
    >>> frame_edges(np.array([0.0, 0.5, 1.0])).tolist()
    [-0.25, 0.25, 0.75, 1.25]
    """
    half = float(np.median(np.diff(time))) / 2 if len(time) > 1 else 0.5
    return np.concatenate([[time[0] - half], (time[1:] + time[:-1]) / 2, [time[-1] + half]])


def _shade(ax: Axes, frames: pd.DataFrame, edges: np.ndarray) -> None:
    """Shade the frames that were not used, runs of neighbours as one."""
    status = frames["status"].astype(str).to_numpy()
    for name, colour in SHADES.items():
        turns = np.flatnonzero(np.diff(np.concatenate([[0], (status == name).astype(np.int8), [0]])))
        for k, (first, last) in enumerate(turns.reshape(-1, 2)):
            ax.axvspan(edges[first], edges[last], color=colour, lw=0, zorder=0.5,
                       label=f"{name} ({(status == name).sum()})" if k == 0 else None)


def _raster(ax: Axes, frames: pd.DataFrame, occupancy: pd.DataFrame, order: list[int], edges: np.ndarray,
            figure: Any) -> None:
    if not order:
        return
    rows = occupancy[occupancy["site"].isin(order)]
    table = rows.pivot(index="site", columns="frame", values="occupancy").reindex(index=order, columns=frames["frame"])
    shown = ax.pcolormesh(edges, np.arange(len(order) + 1) - 0.5, np.ma.masked_invalid(table.to_numpy(np.float64)),
                          cmap="Blues", vmin=0, vmax=1.25, rasterized=True, zorder=1)
    ax.hlines(np.arange(1, len(order)) - 0.5, edges[0], edges[-1], color="white", lw=0.8, zorder=2)
    bar = figure.colorbar(shown, ax=ax, fraction=0.025, pad=0.005, boundaries=np.linspace(0, 1, 64), ticks=[0, 0.5, 1])
    bar.set_label("occupancy", fontsize=8)
    bar.outline.set_visible(False)


def _rate(ax: Axes, rate: pd.DataFrame, true_rate: float | None) -> None:
    """Steps with their bands; a part of the time without sure events is an upper limit."""
    known = rate[rate["high"].notna()]
    for k, row in enumerate(known.itertuples()):
        name = "interval" if k == 0 else None
        ax.fill_between([row.start, row.stop], row.low, row.high, color=COLOURS["blue"], alpha=0.22, lw=0, label=name)
        if row.limit:
            ax.plot([row.time], [row.high], marker="v", color=COLOURS["blue"], ms=7)
        else:
            ax.hlines(row.rate, row.start, row.stop, color=COLOURS["blue"], lw=2, label=None if k else "corrected")
    ax.plot(known["time"], known["rate_raw"], "o", ms=4, mfc="white", mec=COLOURS["grey"], label="uncorrected")
    if true_rate is not None:
        ax.axhline(true_rate, color="black", lw=1.2, ls="--", label=f"truth ({true_rate:.3g})")
    top = max(known["high"].max() if len(known) else 0, known["rate_raw"].max() if len(known) else 0, true_rate or 0)
    ax.set_ylim(0, 1.1 * top if top > 0 else 1)


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        ax.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.07 if ax.get_title("left").startswith("a") else
                  1.0, 1.0), fontsize=8, handletextpad=0.3, borderaxespad=0.3)
