"""How good the list of readable frames is: verdicts of a campaign against the true tilts of `benchmarks.chain`.

Neighbouring frames are no independent evidence: intervals are those of a bootstrap over blocks of
`BLOCK` configurations of one particle, 2.5 to 97.5 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from .common import Table, head

__all__ = ["followed", "frame_reasons", "interval", "listed", "observations", "roc_area", "tables"]

#: a frame can be read up to this tilt; the areas compare with frames between these two [degree]
GOOD, OFF = 2.0, (4.0, 9.0)
#: configurations in one block of the bootstrap: about the correlation time of the tilt
BLOCK, DRAWS = 25, 1000
#: a detection is of the true particle whose centre is nearer than this part of its diameter
NEAR = 0.35
#: false-keep rates that are asked for
TARGETS = (0.02, 0.05, 0.1)


@dataclass(frozen=True)
class Listed:
    """A row: one way to choose frames, over all particles or of one."""

    how: str = field(metadata=head("chosen by"))
    particle: str
    frames: int
    good: int = field(metadata=head("good frames"))
    kept: int
    precision: str
    recall: str = field(metadata=head("recall (good frames kept)"))
    worst: str = field(metadata=head("false keeps beyond 3°"))


@dataclass(frozen=True)
class Area:
    """A row: area under the receiver operating characteristic."""

    what: str = field(metadata=head("area under the ROC curve"))
    particle: str
    against_off: str = field(metadata=head("within 2° against 4 to 9°"))
    against_all: str = field(metadata=head("within 2° against all others"))


@dataclass(frozen=True)
class Bad:
    """A row: what became of the bad frames of one kind."""

    kind: str = field(metadata=head("frame is"))
    frames: int
    reasons: str = field(metadata=head("called"))


@dataclass(frozen=True)
class Track:
    """A row: how well one particle was followed."""

    particle: int
    diameter: str = field(metadata=head("diameter (Å)"))
    axis: str = field(metadata=head("zone axis"))
    good: str = field(metadata=head("within 2°"))
    found: str
    tracks: int = field(metadata=head("tracks"))
    longest: str = field(metadata=head("on its main track"))
    named: str = field(metadata=head("zone axis right, of the frames kept"))


def followed(particles: pd.DataFrame, truth: xr.Dataset) -> pd.DataFrame:
    """Match detections with the true particles: ``frame, true, row`` of the nearest one, a row a frame and particle."""
    rows = []
    y, x = truth["particle_y"].values, truth["particle_x"].values
    reach = NEAR * truth["particle_diameter"].values
    place = {int(n): i for i, n in enumerate(truth["frame"].values)}
    for number, table in particles.groupby("frame"):
        i = place[int(number)]
        away = np.hypot(table.y.to_numpy()[:, None] - y[i], table.x.to_numpy()[:, None] - x[i])
        for j in range(len(reach)):
            k = int(away[:, j].argmin())
            if away[k, j] < reach[j] and away[k].argmin() == j:
                rows.append((int(number), j, table.index[k]))
    return pd.DataFrame(rows, columns=["frame", "true", "row"])


def observations(particles: pd.DataFrame, truth: xr.Dataset, kinds: np.ndarray) -> pd.DataFrame:
    """A row a frame and true particle: tilt, whether it is good, and what was measured of it (nan where not found)."""
    frames, count = truth["frame"].values, truth.sizes["particle"]
    out = pd.DataFrame({
        "frame": np.repeat(frames, count), "true": np.tile(np.arange(count), len(frames)),
        "tilt": truth["particle_tilt"].values.ravel(), "axis": truth["particle_zone_axis"].values.ravel(),
        "configuration": np.repeat(truth["configuration"].values, count), "kind": np.repeat(kinds, count)})
    found = followed(particles, truth)
    wanted = ["track", "peak_ratio", "zone_axis_score", "zone_axis", "diameter"]
    found = found.join(particles[wanted], on="row").drop(columns="row")
    out = out.merge(found, on=["frame", "true"], how="left", validate="one_to_one")
    out["block"] = out["true"] * 10_000 + out["configuration"] // BLOCK
    return out.assign(good=(out.tilt <= GOOD) & (out.kind == ""), found=out.track.notna(),
                      score=out.zone_axis_score.fillna(0.0))


def roc_area(good: np.ndarray, other: np.ndarray) -> float:
    """Probability that a good one has the higher value, ties half; nan values are below all others.

    Examples
    --------
    >>> roc_area(np.array([0.9, 0.8]), np.array([0.1, 0.8, np.nan]))
    0.9166666666666666
    """
    from scipy.stats import rankdata

    if not len(good) or not len(other):
        return float("nan")
    values = np.concatenate([good, other])
    ranks = rankdata(np.where(np.isnan(values), -np.inf, values))
    return float((ranks[:len(good)].sum() - len(good) * (len(good) + 1) / 2) / (len(good) * len(other)))


def interval(table: pd.DataFrame, value: Callable[[pd.DataFrame], float], seed: int = 0) -> str:
    """Value with the interval of its bootstrap over blocks, in words."""
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(table.block.to_numpy() == b) for b in table.block.unique()]
    drawn = [value(table.iloc[np.concatenate([places[i] for i in rng.integers(0, len(places), len(places))])])
             for _ in range(DRAWS if len(places) > 1 else 0)]
    drawn = [d for d in drawn if np.isfinite(d)]
    if not drawn:
        return f"{value(table):.3f}"
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{value(table):.3f} ({low:.3f} to {high:.3f})"


def share(of: str, hit: str) -> Callable[[pd.DataFrame], float]:
    """Part of the rows where column `of` holds in which `hit` holds too."""
    def value(table: pd.DataFrame) -> float:
        there = table[of].to_numpy()
        return float(table[hit].to_numpy()[there].mean()) if there.any() else float("nan")

    return value


def listed(how: str, table: pd.DataFrame, keep: np.ndarray) -> list[Listed]:
    """Rows of one way to choose: all particles together, then each."""
    table = table.assign(keep=keep)
    rows = []
    for name, part in [("all", table), *((str(j + 1), t) for j, t in table.groupby("true"))]:
        far = part[part.keep & (part.tilt > 3)]
        rows.append(Listed(how, name, len(part), int(part.good.sum()), int(part.keep.sum()),
                           interval(part, share("keep", "good")), interval(part, share("good", "keep")),
                           f"{len(far)} of {int((part.keep & ~part.good).sum())}"))
    return rows


def area_rows(table: pd.DataFrame) -> list[Area]:
    """Areas of score and ratio; a ratio that is not defined is the worst."""
    rows, table = [], table[table.kind == ""]
    values = {"score": table.zone_axis_score, "1 / peak ratio": 1 / table.peak_ratio}
    for what, column in values.items():
        here = table.assign(value=column)
        for name, part in [("all", here), *((str(j + 1), t) for j, t in here.groupby("true"))]:
            def off(t: pd.DataFrame) -> float:
                return roc_area(t.value[t.tilt <= GOOD].to_numpy(), t.value[t.tilt.between(*OFF)].to_numpy())

            def rest(t: pd.DataFrame) -> float:
                return roc_area(t.value[t.tilt <= GOOD].to_numpy(), t.value[t.tilt > GOOD].to_numpy())

            rows.append(Area(what, name, interval(part, off), interval(part, rest)))
    return rows


def frame_reasons(quality: pd.DataFrame, kinds: np.ndarray) -> list[Bad]:
    """What the frames of each kind were called by `frame_quality`."""
    rows = []
    for kind in sorted(set(kinds.tolist())):
        called = quality.reason[quality.frame.isin(np.flatnonzero(kinds == kind))].astype(str).value_counts()
        said = ", ".join(f"{reason} {n}" for reason, n in called.items() if n)
        rows.append(Bad(kind or "as simulated", int(called.sum()), said))
    return rows


def track_rows(table: pd.DataFrame, truth: xr.Dataset) -> list[Track]:
    """How well each particle was followed, and its axis named where a score of 0.5 keeps the frame."""
    rows = []
    for j, part in table.groupby("true"):
        found = part[part.found & (part.kind == "")]
        longest = found.track.value_counts()
        kept = part[(part.score >= 0.5) & part.good]
        right = [a in str(n).translate(str.maketrans("", "", "[]<>-")) for a, n in zip(kept.axis, kept.zone_axis,
                                                                                     strict=True)]
        rows.append(Track(j + 1, f"{truth['particle_diameter'].values[j]:.0f}", part.axis.iloc[0],
                          f"{(part.tilt <= GOOD).mean():.1%}", f"{len(found) / (part.kind == '').sum():.1%}",
                          len(longest), f"{longest.iloc[0] / len(found):.1%}" if len(found) else "none",
                          f"{np.mean(right):.1%} of {len(right)}" if right else "none"))
    return rows


def verdicts_of(table: pd.DataFrame, particles: pd.DataFrame, quality: pd.DataFrame,
                asked: Mapping[str, Any]) -> np.ndarray:
    """Run `filter_frames` on the main track of every particle; whether each row's frame is kept."""
    import warnings

    from hrtem_dask import filter_frames

    keep = np.zeros(len(table), bool)
    for j, part in table.groupby("true"):
        if not part.found.any():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            verdicts = filter_frames(particles, **asked, track=int(part.track.value_counts().index[0]), frames=quality)
        kept = set(verdicts.frame[verdicts.keep].tolist())
        keep[(table.true == j).to_numpy()] = part.frame.isin(kept).to_numpy()
    return keep


def tables(particles: pd.DataFrame, quality: pd.DataFrame, truth: xr.Dataset, kinds: np.ndarray) -> list[Table]:
    """All tables of the score."""
    table = observations(particles, truth, kinds)
    ways: dict[str, dict[str, Any]] = {"score at least 0.5": {"min_score": 0.5}}
    ways |= {f"false-keep target {t:.0%}": {"max_false_keep": t} for t in TARGETS}
    ways |= {f"ratio at most {r:g}": {"max_ratio": r} for r in (1.5, 2.0, 3.0)}
    rows = [row for how, asked in ways.items()
            for row in listed(how, table, verdicts_of(table, particles, quality, asked))]
    blocks = table.block.nunique()
    notes = [f"Good: within {GOOD:g} degree of a zone axis and not spoilt. Intervals: bootstrap over {blocks} blocks "
             f"of {BLOCK} configurations of one particle, 2.5 to 97.5 %."]
    return [Table("The list of readable frames", rows, notes),
            Table("Score and ratio", area_rows(table), ["Without the spoilt frames; a particle that was not found, or "
                                                        "has no ratio, counts as the worst."]),
            Table("Spoilt frames", frame_reasons(quality, kinds)),
            Table("Particles", track_rows(table, truth))]
