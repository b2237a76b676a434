"""Peak ratio and verdict of the particle that is followed against time, with the true tilt where that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .pictures import COLOURS, Encoded, encode, new_figure, styled
from .verdicts import MARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["GOOD_TILT", "timeline_figure"]

#: tilt from the zone axis up to which columns of atoms are resolved [degree]
GOOD_TILT = 2.0
TICKS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)


@styled
def timeline_figure(verdicts: pd.DataFrame, truth: pd.DataFrame | None = None) -> Encoded:
    """Draw the peak ratio of every frame by its verdict, and below it the true tilt.

    Parameters
    ----------
    verdicts : DataFrame
        From `hrtem_dask.filter_frames`.
    truth : DataFrame, optional
        Of a simulated movie: ``frame``, ``tilt`` of the particle that is followed from the nearest zone axis
        [degree], and ``spoilt``, what was done to the frame, empty text where nothing was.

    Returns
    -------
    Encoded
    """
    known = truth is not None and {"tilt", "spoilt"} <= set(truth.columns)
    figure = new_figure(12.4, 4.6 if known else 2.9)
    axes = np.atleast_1d(figure.subplots(2 if known else 1, 1, sharex=True))
    timed = len(verdicts) > 0 and verdicts.time.notna().all()
    column, label = ("time", "time (s)") if timed else ("frame", "frame")
    _ratio(axes[0], verdicts, column)
    if known:
        _tilt(axes[1], verdicts[["frame", column, "keep"]].loc[:, lambda t: ~t.columns.duplicated()].merge(
            truth, on="frame", suffixes=("", "_true")), column)
    axes[-1].set_xlabel(label)
    return encode(figure)


def _ratio(ax: Axes, verdicts: pd.DataFrame, column: str) -> None:
    ratio = verdicts.peak_ratio.to_numpy(np.float64)
    top = max(10.0, 1.3 * np.nanmax(ratio, initial=1.0))
    counts = verdicts.reason.astype(str).value_counts()
    size = 20 if len(ratio) < 400 else 6
    for reason, (marker, colour) in MARKS.items():
        mine = (verdicts.reason.astype(str) == reason).to_numpy()
        if mine.any():
            at = np.where(np.isfinite(ratio[mine]), ratio[mine], top)  # what has no ratio lies at the top
            ax.scatter(verdicts[column].to_numpy()[mine], at, s=size, marker=marker, color=colour, alpha=0.75,
                       lw=0.9 if marker in "xP" else 0, label=f"{reason} ({counts[reason]})", clip_on=False)
    ticks = [t for t in TICKS if t <= top]
    ax.set(yscale="log", ylim=(0.9, top), ylabel="peak ratio")
    ax.set_yticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    if len(counts):
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, handletextpad=0.2, borderaxespad=0.3)


def _tilt(ax: Axes, table: pd.DataFrame, column: str) -> None:
    at, keep = table[column].to_numpy(), table.keep.to_numpy(bool)
    ax.axhspan(0, GOOD_TILT, color=COLOURS["green"], alpha=0.13, lw=0)
    ax.plot(at, table.tilt, color="#9ca3af", lw=0.8, zorder=1)
    size = 14 if len(at) < 400 else 4
    ax.scatter(at[~keep], table.tilt[~keep], s=size, color=COLOURS["grey"], lw=0, label="dropped")
    ax.scatter(at[keep], table.tilt[keep], s=size, color=COLOURS["blue"], lw=0, label="kept")
    spoilt = table.spoilt.fillna("").astype(str).to_numpy() != ""
    if spoilt.any():
        ax.plot(at[spoilt], table.tilt[spoilt], "x", ms=6, color=COLOURS["red"], label="spoilt")
    ax.set(ylabel="true tilt (degree)", ylim=(0, max(5.0, 1.1 * table.tilt.max() if len(table) else 5.0)))
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, handletextpad=0.2, borderaxespad=0.3)
