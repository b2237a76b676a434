"""Figures of the zone-axis score on sets that nothing was tuned on, as rows of tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from hrtem_dask.kernels.net import peak_ratio
from hrtem_dask.kernels.zone import zone_axis_score
from hrtem_dask.kernels.zone_identify import identify

from .common import Table, head
from .zone_fit import NEAR, area

__all__ = ["BINS", "calibration", "confusion", "false_alarms", "scored", "separation", "trend"]

#: a particle counts as off the axis between these tilts; between 2 and 4 degree it counts as neither [degree]
OFF = (4.0, 9.0)
#: bins of the calibration curve: ten of equal width
BINS = np.linspace(0, 1, 11)


def scored(folder: Path, name: str) -> pd.DataFrame:
    """The draws of a set with ratio, scores and axis; ``_plain`` from pairs searched without a crystal."""
    draws = pd.read_parquet(folder / f"{name}-draws.parquet")
    pairs = pd.read_parquet(folder / f"{name}-pairs.parquet")
    for suffix, crystal in (("_plain", None), ("", "Au")):
        groups = dict(list(pairs[pairs.crystal == (crystal or "")].groupby("draw")))
        rows = [_of_pairs(groups.get(i), d, crystal) for i, d in zip(draws.draw, draws.diameter, strict=True)]
        draws = draws.join(pd.DataFrame(rows, index=draws.index).add_suffix(suffix))
    return draws


def _of_pairs(pairs: pd.DataFrame | None, diameter: float, crystal: str | None) -> dict[str, object]:
    if pairs is None:
        return {"ratio": np.nan, "score": 0.0, "axis": "", "others": ()}
    found = identify(pairs, "Au")
    return {"ratio": peak_ratio(pairs), "score": zone_axis_score(pairs, diameter=diameter, crystal=crystal),
            "axis": found.axis, "others": found.others}


@dataclass(frozen=True)
class Separation:
    """How well numbers tell on from off."""

    which: str = field(metadata=head("particles"))
    dose: str = field(metadata=head("dose [e/Å²]"))
    count: str = field(metadata=head("on / off axis"))
    defined: str = field(metadata=head("two pairs found, on / off"))
    ratio: float | None = field(metadata=head("plain ratio"))
    ratio_defined: float | None = field(metadata=head("plain ratio where defined"))
    score_plain: float | None = field(metadata=head("score, no crystal"))
    score: float | None = field(metadata=head("score"))
    score_defined: float | None = field(metadata=head("score where above 0"))
    error: str = field(metadata=head("of these 68 % interval"))


def separation(sets: dict[str, pd.DataFrame]) -> Table:
    """Areas under the ROC curve, "within 2 degree" against 4 to 9 degree."""
    rows = [_separate(f"{label}{more}", f"{dose:g}", part[part.dose == dose])
            for label, t in sets.items() for more, part in _strata(t) for dose in (100.0, 400.0)]
    return Table("Area under the ROC curve: within 2° against 4-9°, on 3 nm of carbon", [r for r in rows if r],
                 ["an undefined ratio counts as the worst, an undefined score is 0; ties count half",
                  "interval by bootstrap over structures"])


def _strata(t: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "", t
    for name, part in t.groupby("microscope"):
        yield f", {name}", part
    if t.zone.nunique() > 1:
        for zone, part in t[t.microscope == "corrected"].groupby("zone"):
            yield f", corrected, [{zone}]", part
        for low, high in ((0, 28), (28, 40), (40, 99)):
            part = t[(t.microscope == "corrected") & (t.diameter > low) & (t.diameter <= high)]
            yield f", corrected, {low}-{high} Å across", part


def _separate(label: str, dose: str, t: pd.DataFrame) -> Separation | None:
    on, off = t[t.tilt <= NEAR], t[t.tilt.between(*OFF)]
    if len(on) < 5 or len(off) < 5:
        return None
    seen = t[t.score > 0]
    even = -t.ratio_plain.fillna(np.inf)
    return Separation(
        label, dose, f"{len(on)} / {len(off)}", f"{(on.score > 0).mean():.0%} / {(off.score > 0).mean():.0%}",
        _area(t, even), _area(t[t.ratio_plain.notna()], even[t.ratio_plain.notna()]), _area(t, t.score_plain),
        _area(t, t.score), _area(seen, seen.score), _interval(seen))


def _area(t: pd.DataFrame, value: pd.Series) -> float | None:
    on, off = value[t.tilt <= NEAR], value[t.tilt.between(*OFF)]
    return area(on.to_numpy(), off.to_numpy()) if len(on) and len(off) else None


def _interval(t: pd.DataFrame, draws: int = 200) -> str:
    rng, score = np.random.default_rng(0), t.score.to_numpy()
    kind = np.where(t.tilt <= NEAR, 1, np.where(t.tilt.between(*OFF), 0, -1))
    members = [np.flatnonzero(t.structure == s) for s in t.structure.unique()]
    found = []
    for _ in range(draws):
        again = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        on, off = score[again[kind[again] == 1]], score[again[kind[again] == 0]]
        if len(on) and len(off):
            found.append(area(on, off))
    return f"{np.quantile(found, 0.16):.3f}-{np.quantile(found, 0.84):.3f}" if found else "–"


@dataclass(frozen=True)
class Bin:
    """One bin of the calibration."""

    which: str = field(metadata=head("score"))
    low: float = field(metadata=head("bin from"))
    count: int = field(metadata=head("particles"))
    stated: float = field(metadata=head("mean score"))
    found: float = field(metadata=head("within 2°"))


def calibration(sets: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[Table, dict[str, float]]:
    """Bins of the calibration curve, and the expected calibration error, of (score, on axis) by label."""
    rows, errors = [], {}
    for label, (score, on) in sets.items():
        which = np.clip(np.digitize(score, BINS) - 1, 0, len(BINS) - 2)
        mine = [Bin(label, float(BINS[b]), int((which == b).sum()), float(score[which == b].mean()),
                    float(on[which == b].mean())) for b in np.unique(which)]
        errors[label] = sum(r.count * abs(r.stated - r.found) for r in mine) / max(len(score), 1)
        rows += mine
    notes = [f"expected calibration error, {label}: {e:.3f}" for label, e in errors.items()]
    return Table("Calibration", rows, notes), errors


@dataclass(frozen=True)
class Trend:
    """Ratio and score in one range of something."""

    what: str = field(metadata=head("range"))
    count: int = field(metadata=head("images"))
    defined: str = field(metadata=head("two pairs found"))
    ratio: float | None = field(metadata=head("median ratio"))
    quartiles: str = field(metadata=head("quartiles"))
    score: float | None = field(metadata=head("mean score where above 0"))
    over_half: str = field(metadata=head("score above 0.5"))


def trend(title: str, t: pd.DataFrame, column: str, edges: list[float], unit: str) -> Table:
    """Ratio and score against one column."""
    rows = []
    for low, high in pairwise(edges):
        part = t[(t[column] >= low) & (t[column] < high)]
        ratio, seen = part.ratio_plain.dropna(), part.score[part.score > 0]
        if len(part):
            rows.append(Trend(f"{low:g} to {high:g} {unit}", len(part), f"{len(seen) / len(part):.0%}",
                              float(ratio.median()) if len(ratio) else None,
                              f"{ratio.quantile(0.25):.1f}-{ratio.quantile(0.75):.1f}" if len(ratio) else "–",
                              float(seen.mean()) if len(seen) else None, f"{(part.score > 0.5).mean():.0%}"))
    return Table(title, rows)


def confusion(t: pd.DataFrame, limit: float) -> str:
    """Axis found against true axis, as Markdown; of particles within so many degrees of an axis."""
    near = t[t.tilt <= limit]
    names = ["[110]", "[100]", "[111]", "[112]"]
    found = near.axis.where(near.axis.isin([*names, ""]), "another")
    lines = ["| true axis | images | two pairs found | " + " | ".join(names) + " | another | none fits | unambiguous | "
             "true one named or among the others |", "|" + " --- |" * (len(names) + 7)]
    for zone in names:
        mine = near["zone"] == zone.strip("[]")
        seen = mine & (near.score > 0)
        n = max(int(seen.sum()), 1)
        parts = [f"{int((seen & (found == name)).sum()) / n:.1%}" for name in [*names, "another", ""]]
        named = [zone == a or zone in o for a, o in zip(near.axis[seen], near.others[seen], strict=True)]
        alone = [len(o) == 0 for o in near.others[seen]]
        lines.append(f"| {zone} | {int(mine.sum())} | {int(seen.sum())} | " + " | ".join(parts)
                     + f" | {np.mean(alone):.0%} | {np.mean(named):.1%} |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class FalseAlarm:
    """Finite ratios where there is no crystal."""

    what: str = field(metadata=head("under the mask"))
    search: str = field(metadata=head("searched for"))
    count: int = field(metadata=head("images"))
    finite: str = field(metadata=head("finite ratio"))
    pairs: str = field(metadata=head("any pair"))
    score: float = field(metadata=head("highest score"))


def false_alarms(folder: Path) -> Table:
    """Ratios and pairs found in film and in vacuum."""
    t, pairs = scored(folder, "film"), pd.read_parquet(folder / "film-pairs.parquet")
    rows = []
    for vacuum, part in t.groupby("vacuum"):
        for label, suffix, crystal in (("anything", "_plain", ""), ("Au", "", "Au")):
            some = part.draw.isin(pairs.draw[(pairs.crystal == crystal) & pairs.detected])
            finite = int(part[f"ratio{suffix}"].notna().sum())
            rows.append(FalseAlarm("vacuum noise" if vacuum else "amorphous carbon", label, len(part),
                                   f"{finite} ({finite / len(part):.2%})", f"{some.mean():.2%}",
                                   float(part[f"score{suffix}"].max())))
    return Table("Without a crystal", rows)
