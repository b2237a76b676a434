"""Figures and tables of `benchmarks.low_dose`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .common import Table, head

REFOCUS = (-50.0, 50.0)  # angstrom, at the headline doses
PIXEL_SIZES = (0.1, 0.2, 0.4, 0.6)  # angstrom
HEADLINE = (20, 50, 200)  # electrons/angstrom^2
#: difference of the mean Dice from that of all scenes from which on a kind of scene is called a failure
FAILS = 0.05
#: kind of scene -> whether a microscope makes one
KINDS = {
    "dark particles (underfocus)": lambda o: o["defocus"] >= 0,
    "bright particles (overfocus)": lambda o: o["defocus"] < 0,
    "aberration corrected": lambda o: abs(o["cs"]) < 1e6,
    "not corrected": lambda o: abs(o["cs"]) >= 1e6,
    "within 150 angstrom of focus": lambda o: abs(o["defocus"]) < 150,
    "farther from focus": lambda o: abs(o["defocus"]) >= 150,
    "neither aperture nor absorption": lambda o: not np.isfinite(o["aperture"]) and
    not np.isfinite(o["absorption_length"]),
    "aperture or absorption": lambda o: np.isfinite(o["aperture"]) or np.isfinite(o["absorption_length"]),
}


def report(scores: Sequence[Any], doses: Sequence[float]) -> dict[str, Any]:
    """All figures of one network."""
    from hrtem_dask.networks.summaries import interval, summarise

    usual = [s for s in scores if s.condition.pixel_size is None]
    drawn = [s for s in usual if s.condition.refocus == 0]
    out: dict[str, Any] = {"dose": {f"{d:g}": summarise([s for s in drawn if s.condition.dose == d]) for d in doses}}
    out["refocus"] = {f"{r:g}": {f"{d:g}": summarise([s for s in usual if s.condition == replace(
        s.condition, dose=float(d), refocus=r)]) for d in doses if d in HEADLINE} for r in REFOCUS}
    out["kinds"] = {name: {f"{d:g}": mean_dice([s for s in drawn if s.condition.dose == d and test(s.optics)])
                           for d in doses} for name, test in KINDS.items()}
    by_size = {p: {f"{d:g}": [s for s in scores if s.condition.pixel_size == p and s.condition.dose == d]
                   for d in doses} for p in PIXEL_SIZES}
    out["expected_dice"] = {
        "pixel_size": list(PIXEL_SIZES), "dose": [float(d) for d in doses],
        "mean": [[mean_dice(s)["mean"] for s in row.values()] for row in by_size.values()],
        "interval": [[interval([x.agreement.dice for x in s], [(x.set_seed, x.field) for x in s]) if s else None
                      for s in row.values()] for row in by_size.values()],
    }
    out["known_failures"] = failures(out)
    return out


def mean_dice(scores: Sequence[Any]) -> dict[str, Any]:
    """Mean Dice of the scenes that are not empty."""
    values = [s.agreement.dice for s in scores if s.agreement is not None]
    return {"mean": round(float(np.mean(values)), 4) if values else None, "images": len(values)}


def failures(found: Mapping[str, Any]) -> list[str]:
    """Say in words where a network is worse than elsewhere."""
    out = []
    for dose, all_ in found["dose"].items():
        if float(dose) not in HEADLINE or all_["mean"] is None:
            continue
        for kind, row in found["kinds"].items():
            mean = row[dose]["mean"]
            if mean is not None and mean < all_["mean"] - FAILS:
                out.append(f"At {dose} e/angstrom^2, scenes with {kind}: mean Dice {mean:.2f}, against "
                           f"{all_['mean']:.2f} over all.")
        if all_["worst"] < 0.5:
            out.append(f"At {dose} e/angstrom^2 the worst of {all_['images']} scenes has a Dice of "
                       f"{all_['worst']:.2f}.")
    return out


@dataclass(frozen=True)
class Dice:
    """Pixels of one predictor."""

    who: str = field(metadata=head("network"))
    dose: str = field(metadata=head("dose, e/Å²"))
    mean: str = field(metadata=head("mean Dice (95 %)"))
    seeds: str = field(metadata=head("by seed"))
    worst: float = field(metadata=head("worst"))
    wrong: float | None = field(metadata=head("wrong label"))
    atoms: str = field(metadata=head("mean Dice against all atoms (95 %)"))
    refocused: str = field(metadata=head("mean Dice at -50 / +50 Å of defocus"))


@dataclass(frozen=True)
class Objects:
    """Objects, outlines and sizes of one predictor."""

    who: str = field(metadata=head("network"))
    dose: str = field(metadata=head("dose, e/Å²"))
    f1: str = field(metadata=head("F1 (95 %)"))
    precision: float | None
    recall: float | None
    single: float | None = field(metadata=head("F1, overlapping particles counted singly"))
    distance: str = field(metadata=head("boundary distance, Å (95 %)"))
    nothing: int = field(metadata=head("scenes without any mask"))
    bias: str = field(metadata=head("equivalent diameter: bias ± scatter, %"))
    refocused: str = field(metadata=head("F1 at -50 / +50 Å of defocus"))


def tables(reports: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Tables of the reports of some predictors."""
    pixels, objects = [], []
    for who, found in reports.items():
        for dose, row in found["dose"].items():
            other = [found["refocus"][f"{r:g}"].get(dose, {}) for r in REFOCUS]
            seeds = " ".join(map(_three, row["by_seed"].values()))
            moved = " / ".join(_three(o.get("mean")) for o in other)
            pixels.append(Dice(who, dose, _with(row, "mean", "interval"), seeds, row["worst"], row["wrong_label"],
                               _with(row["atoms"], "mean", "interval"), moved))
            objects.append(Objects(who, dose, _with(row, "f1", "f1_interval"), row["precision"], row["recall"],
                                   row["particles"]["f1"], _with(row, "distance", "distance_interval"),
                                   row["nothing_found"], _bias(row), " / ".join(_three(o.get("f1")) for o in other)))
    notes = ["Truth is the half-thickness outline that networks learn; \"all atoms\" is the union of the projected "
             "atoms, some angstrom farther out (`hrtem_dask.networks.scoring` says why there are two).",
             "95 % intervals: bootstrap over fields. Wrong label: Dice against the mask of another field.",
             "Threshold 0.5 at every dose; the same microscope and place at every dose."]
    return [Table("Dice", pixels, notes), Table("Objects, outlines and sizes", objects, [
        "Objects are the connected regions of a mask from 50 Å² on, matched one to one from an intersection over "
        "union of 0.5 on.", "Boundary distance: median symmetric surface distance of a scene, median over scenes."])]


def grids(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of the mean Dice by kind of scene and by pixel size."""
    lines: list[str] = []
    for who, found in reports.items():
        doses = list(found["dose"])
        lines += [f"### {who}: mean Dice by kind of scene", "", _row(["kind", "images", *(f"{d} e/Å²" for d in doses)]),
                  _row(["---"] * (len(doses) + 2))]
        lines += [_row([kind, str(row[doses[0]]["images"]), *(_three(row[d]["mean"]) for d in doses)])
                  for kind, row in found["kinds"].items()]
        grid = found["expected_dice"]
        if grid["mean"][0][0] is None:
            lines.append("")
            continue
        lines += ["", f"### {who}: mean Dice by pixel size", "", _row(["Å/px", *(f"{d} e/Å²" for d in doses)]),
                  _row(["---"] * (len(doses) + 1))]
        lines += [_row([f"{p:g}", *map(_three, row)]) for p, row in zip(grid["pixel_size"], grid["mean"], strict=True)]
        lines.append("")
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _with(row: Mapping[str, Any], key: str, bounds: str) -> str:
    if row[key] is None:
        return "–"
    low, high = row[bounds]
    return f"{row[key]:.3f} ({low:.3f} to {high:.3f})"


def _bias(row: Mapping[str, Any]) -> str:
    if row["diameter_bias"] is None:
        return "–"
    return f"{row['diameter_bias']:+.1f} ± {row['diameter_scatter']:.1f} ({row['diameters']})"
