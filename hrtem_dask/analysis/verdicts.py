"""Which frames of a movie can be read: a verdict and its reason for each of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..core.checks import check_frames, check_number
from ..core.errors import InputError
from ..core.provenance import record
from ..core.schema import VERDICTS
from ..kernels.thresholds import expected_threshold, proven_threshold, share_interval

__all__ = ["REASONS", "filter_frames", "verdict_rates"]

#: reasons of a verdict
REASONS = ("aligned", "one fringe", "no lattice", "blurred", "empty", "saturated", "quarantined")
#: what a table of frames may say against a frame, whatever its particle shows
UNFIT = REASONS[3:]
NEEDED = ("frame", "particle", "area", "n_pairs", "peak_ratio", "zone_axis_score")
EXAMPLE = "filter_frames(particles, max_ratio=3.0), min_score=0.5 or max_false_keep=0.05"


def filter_frames(
    particles: Any,
    *,
    max_ratio: float | None = None,
    min_score: float | None = None,
    max_false_keep: float | None = None,
    track: int | None = None,
    frames: pd.DataFrame | None = None,
    truth: Sequence[bool] | Mapping[int, bool] | pd.Series | None = None,
) -> pd.DataFrame:
    """Say of every frame whether it can be read, and why not. Computes, once.

    One particle is followed. A frame is kept where it lies along a zone axis, by every criterion that
    was given; what is undefined (``nan``) is not kept.

    Parameters
    ----------
    particles : DataFrame
        Table of `analyse_particles` or `link_particles`, of pandas or dask.
    max_ratio : float, optional
        Largest peak ratio, 1 or more.
    min_score : float, optional
        Least zone-axis score, 0 to 1.
    max_false_keep : float, optional
        Target false-keep rate: the part of the kept frames that cannot be read. The lowest threshold on
        the score is chosen that meets it; see Notes.
    track : int, optional
        Number in the column ``track``, by default the track with the largest sum of areas over its frames.
        A table without that column is linked first, by `link_particles`.
    frames : DataFrame, optional
        Table of `frame_quality`, or of a campaign (`core.schema.FRAMES`), of all frames: their reasons come
        before those of the particle. Without it the frames are those from the first to the last of the
        particles, in their common step.
    truth : sequence of bool, or mapping or Series by frame, optional
        Which frames can be read, for calibration on a movie where that is known; a sequence is in the
        order of the frames.

    Returns
    -------
    pandas.DataFrame
        Table `core.schema.VERDICTS`, a row a frame. ``reason`` is

        - ``quarantined``, ``saturated``, ``empty``, ``blurred``: from ``frames``,
        - ``empty`` too where the particle was not found,
        - ``no lattice``: no pair of spots,
        - ``one fringe``: spots, but not those of a zone axis (one fringe alone, or one that outshines the others),
        - ``aligned``: kept.

        ``attrs["threshold"]`` is a dict of what was asked for and applied: ``max_ratio``, ``min_score``, ``track``;
        with a target ``max_false_keep``, ``expected_false_keep`` and, with the truth, ``false_keep_limit``; None
        where nothing was asked or no threshold meets the target. With the truth ``attrs["rates"]`` is that of
        `verdict_rates`.

    Raises
    ------
    InputError
        If there is no criterion, one is out of range, columns are missing, rows are double, there is no such
        track, or the tables are of different frames.

    Warns
    -----
    UserWarning
        If no frame is kept; it says why.

    Notes
    -----
    Of frames kept at the threshold t, the expected false-keep rate is the mean of ``1 - score`` over the
    scores of at least t. It is the true one where the scores are calibrated probabilities on movies such
    as this one; frames need not be independent for that. With ``truth`` nothing is assumed of the scores: the bound
    of Clopper and Pearson at 95 % on the rate must meet the target, shared among the thresholds tried. It takes
    frames as independent, which neighbours are not where a particle turns slowly.

    Examples
    --------
    >>> rows = pd.DataFrame({"frame": [0, 1, 2, 4], "particle": 1, "area": 700.0, "track": 0, "n_pairs": [3, 2, 0, 1],
    ...                      "peak_ratio": [1.5, 6.0, np.nan, np.nan], "zone_axis_score": [0.97, 0.1, 0.0, 0.0]})
    >>> filter_frames(rows, max_ratio=3).reason.tolist()
    ['aligned', 'one fringe', 'no lattice', 'empty', 'one fringe']
    """
    _check_options(max_ratio, min_score, max_false_keep, truth)
    table = _checked(particles)
    followed, number = _followed(table, track)
    out = _rows(followed, table, frames)
    known = None if truth is None else _truth_of(truth, out["frame"].to_numpy())
    fit = out["reason"].isna().to_numpy() & np.isfinite(out["peak_ratio"].to_numpy())
    if max_ratio is not None:
        fit &= out["peak_ratio"].to_numpy() <= max_ratio
    score = out["score"].to_numpy()
    if max_false_keep is not None:  # of an unknown score nothing can be expected
        fit &= np.isfinite(score)
    asked = {"max_ratio": max_ratio, "min_score": min_score, "track": number}
    if min_score is not None:
        fit &= score >= min_score
    if max_false_keep is not None:
        asked["max_false_keep"] = max_false_keep
        level = _level(score[fit], None if known is None else known[fit], max_false_keep, asked)
        fit &= score >= level
        asked["min_score"] = max(level, min_score or 0.0) if np.isfinite(level) else None
    out["keep"] = fit
    pairs = out.pop("n_pairs").to_numpy()
    otherwise = np.select([fit, ~(pairs >= 0), pairs == 0], ["aligned", "empty", "no lattice"], "one fringe")
    out["reason"] = pd.Categorical(out["reason"].where(out["reason"].notna(), otherwise), REASONS)
    out = VERDICTS.coerce(out.assign(particle=out["particle"].fillna(0)))
    out["reason"] = pd.Categorical(out["reason"].astype(str), REASONS)
    out.attrs = record({}, "filter_frames", **asked) | {"threshold": asked}
    if known is not None:
        out.attrs["rates"] = verdict_rates(out, known)
    if not fit.any():
        warnings.warn(_nothing_kept(out, asked), stacklevel=2)
    return out


def _check_options(max_ratio: Any, min_score: Any, max_false_keep: Any, truth: Any) -> None:
    if max_ratio is None and min_score is None and max_false_keep is None:
        raise InputError(f"there is no criterion; expected at least one, as {EXAMPLE}")
    if max_ratio is not None:
        check_number("max_ratio", max_ratio, least=1)
    for name, value in (("min_score", min_score), ("max_false_keep", max_false_keep)):
        if value is not None:
            check_number(name, value, least=0)
            if value > 1:
                raise InputError(f"{name} is {value!r}; expected a probability, from 0 to 1")
    if truth is not None and max_false_keep is None:
        raise InputError("truth is given, but no max_false_keep that it could calibrate; expected both. To compare "
                         "verdicts with the truth: verdict_rates(verdicts, truth)")


def _checked(particles: Any) -> pd.DataFrame:
    table = particles.compute() if hasattr(particles, "dask") else particles
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"particles is a {type(particles).__name__}; expected the table of analyse_particles")
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise InputError(f"the table of particles lacks the columns {missing}; found {list(table.columns)}. Expected "
                         f"that of analyse_particles(movie, probability)")
    check_frames("the table of particles", table["frame"])
    double = table[table.duplicated(["frame", "particle"])]
    if len(double):
        row = double.iloc[0]
        raise InputError(f"the table of particles has {len(double)} double row(s), the first is particle "
                         f"{int(row.particle)} of frame {int(row.frame)}; expected every particle of a frame once. "
                         f"Tables of several movies have to be filtered one by one")
    return table


def _followed(table: pd.DataFrame, track: int | None) -> tuple[pd.DataFrame, int | None]:
    """Rows of the particle that is followed, one a frame, and the number of its track."""
    if "track" not in table.columns:
        if not len(table):
            if track is not None:
                raise InputError(f"there is no track {track}: the table of particles is empty; leave track out")
            return table, None
        from .tracks import link_particles

        table = link_particles(table)
    linked = table[table["track"].notna() & (table["track"] >= 0)]
    sums = linked.groupby("track")["area"].sum()
    if track is None:
        if not len(sums):
            return linked, None
        track = sums.idxmax()
    elif isinstance(track, bool) or np.ndim(track) or track not in sums.index:
        largest = [int(t) for t in sums.sort_values(ascending=False).index[:5]]
        raise InputError(f"there is no track {track!r}; found {len(sums)}, the largest are {largest}. Leave track out "
                         f"to follow the largest")
    rows = linked[linked["track"] == track]
    double = rows[rows.duplicated("frame")]
    if len(double):
        raise InputError(f"track {int(track)} has two particles in frame {int(double.iloc[0].frame)}; expected one a "
                         f"frame, as link_particles(particles) makes it")
    return rows, int(track)


def _rows(followed: pd.DataFrame, table: pd.DataFrame, frames: pd.DataFrame | None) -> pd.DataFrame:
    """A row a frame: what was found of the particle, and a reason where the frame has one of its own."""
    if frames is None:
        out = pd.DataFrame({"frame": _frames_between(table["frame"].to_numpy(np.int64)), "reason": None})
        found = table.drop_duplicates("frame").set_index("frame")
        out["time"] = out["frame"].map(found["time"]) if "time" in found else np.nan
    else:
        out = _frame_reasons(frames)
        extra = np.setdiff1d(table["frame"].to_numpy(np.int64), out["frame"].to_numpy())
        if extra.size:
            raise InputError(f"frames holds {len(out)} frame(s) and lacks {extra.size} of the particles' frames, as "
                             f"{extra[:5].tolist()}; expected frame_quality(movie) of the same movie")
    columns = {"particle": "particle", "n_pairs": "n_pairs", "peak_ratio": "peak_ratio", "zone_axis_score": "score"}
    mine = followed[["frame", *columns]].rename(columns=columns).astype({"frame": np.int64})
    mine["diameter"] = 2 * np.sqrt(followed["area"].astype(np.float64) / np.pi)
    mine["y"], mine["x"] = (followed.get(name, np.nan) for name in "yx")
    return out.merge(mine, on="frame", how="left", validate="one_to_one")


def _frames_between(frames: np.ndarray) -> np.ndarray:
    """Frames from the first to the last in the step that they have in common."""
    known = np.unique(frames)
    step = int(np.gcd.reduce(np.diff(known))) if len(known) > 1 else 1
    return np.arange(known[0], known[-1] + 1, step) if len(known) else known


def _frame_reasons(frames: Any) -> pd.DataFrame:
    table = frames.compute() if hasattr(frames, "dask") else frames
    if not isinstance(table, pd.DataFrame) or "frame" not in table or not {"reason", "status"} & set(table.columns):
        found = list(table.columns) if isinstance(table, pd.DataFrame) else type(frames).__name__
        raise InputError(f"frames is {found}; expected a table with the columns frame and reason, as "
                         f"frame_quality(movie) returns it")
    check_frames("frames", table["frame"])
    if table["frame"].duplicated().any():
        raise InputError(f"frames has frame {int(table.loc[table['frame'].duplicated(), 'frame'].iloc[0])} twice; "
                         f"expected a row a frame")
    reason = table["reason"].astype(object) if "reason" in table else pd.Series(None, table.index, dtype=object)
    reason = reason.where(reason.isin(UNFIT), None)
    if "status" in table:
        reason = reason.mask(table["status"] == "failed", "quarantined")
    time = table.get("time", np.nan)
    out = pd.DataFrame({"frame": table["frame"].astype(np.int64), "reason": reason.astype(object), "time": time})
    return out.sort_values("frame", ignore_index=True)


def _truth_of(truth: Any, frames: np.ndarray) -> np.ndarray:
    if isinstance(truth, Mapping | pd.Series):
        series = pd.Series(truth)
        missing = np.setdiff1d(frames, series.index.to_numpy())
        if missing.size:
            raise InputError(f"truth lacks {missing.size} of {len(frames)} frames, as {missing[:5].tolist()}; expected "
                             f"True or False for each")
        values = series.reindex(frames).to_numpy()
    else:
        values = np.asarray(truth)
        if values.shape != frames.shape:
            raise InputError(f"truth has the shape {values.shape} and there are {len(frames)} frames; expected one "
                             f"value a frame, or a mapping by frame")
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        raise InputError(f"truth holds {values.dtype}; expected True (can be read) or False for each frame")
    return values.astype(bool)


def _level(score: np.ndarray, truth: np.ndarray | None, target: float, said: dict[str, Any]) -> float:
    """Threshold that meets the target, inf where none does; what is expected of it goes into ``said``."""
    if truth is None:
        level, _ = expected_threshold(score, target)
    else:
        level, limit = proven_threshold(score, truth, target)
        said["false_keep_limit"] = None if math.isnan(limit) else limit
    kept = score[score >= level]
    said["expected_false_keep"] = float((1 - kept).mean()) if kept.size else None
    return level


def _nothing_kept(verdicts: pd.DataFrame, asked: dict[str, Any]) -> str:
    count = verdicts["reason"].value_counts()
    why = ", ".join(f"{n} {reason}" for reason, n in count.items() if n) or "there is no frame at all"
    best = verdicts["score"].max(), verdicts["peak_ratio"].min()
    limits = ", ".join(f"{k}={asked[k]:g}" for k in ("max_ratio", "min_score", "max_false_keep")
                       if asked.get(k) is not None)
    return (f"none of {len(verdicts)} frames is kept with {limits}: {why}. The highest score is {best[0]:.3g} and the "
            f"smallest ratio {best[1]:.3g}")


def verdict_rates(verdicts: pd.DataFrame, truth: Sequence[bool] | Mapping[int, bool] | pd.Series) -> dict[str, Any]:
    """Compare verdicts with the truth.

    Parameters
    ----------
    verdicts : DataFrame
        From `filter_frames`.
    truth : sequence of bool, or mapping or Series by frame
        Which frames can be read; a sequence is in the order of the table.

    Returns
    -------
    dict
        ``frames, good, kept``: numbers of frames; ``false_keep``: the part of the kept frames that cannot be
        read (1 - precision); ``good_kept``: the part of the readable frames that is kept (recall);
        ``bad_kept``: the part of the unreadable frames that is kept. Each with its interval of Clopper and Pearson
        at 95 % as ``..._interval``; nan where there is nothing to divide by.

    Examples
    --------
    >>> verdicts = pd.DataFrame({"frame": range(4), "keep": [True, True, False, False]})
    >>> rates = verdict_rates(verdicts, [True, False, True, False])
    >>> rates["false_keep"], rates["good_kept"], rates["bad_kept"]
    (0.5, 0.5, 0.5)
    """
    good = _truth_of(truth, verdicts["frame"].to_numpy())
    keep = verdicts["keep"].to_numpy(bool)
    out: dict[str, Any] = {"frames": len(keep), "good": int(good.sum()), "kept": int(keep.sum())}
    for name, of, hit in (("false_keep", keep, ~good), ("good_kept", good, keep), ("bad_kept", ~good, keep)):
        k, n = int((of & hit).sum()), int(of.sum())
        out[name] = k / n if n else math.nan
        out[f"{name}_interval"] = share_interval(k, n)
    return out
