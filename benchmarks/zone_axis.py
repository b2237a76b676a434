"""The score that says whether a particle is on a zone axis: its coefficients and its figures.

    python -m benchmarks.zone_axis [STEPS ...] --folder FOLDER [--workers N] [--real FOLDER] [--quick]

STEPS are some of, by default all of

* ``simulate``: exit waves of single gold particles of known tilt (`zone_sets`), kept in FOLDER;
* ``measure``: images of them, cut out by true and by found masks, and their spot pairs (`zone_measure`);
* ``fit``: the coefficients, written beside the kernel;
* ``report``: tables and pictures from sets of other seeds than those that were fitted on, written to
  docs/zone_axis.md; with ``--real`` the real micrographs too.

``--quick`` takes a few structures of each set and writes into FOLDER alone: it shows that all works.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hrtem_dask.kernels import zone
from hrtem_dask.kernels.zone_features import CRYSTAL, PLAIN

from . import zone_figures, zone_real, zone_tables
from .common import Table, versions
from .zone_fit import NEAR, SHRINKAGE, feature_table, fit
from .zone_measure import measure
from .zone_sets import SETS, make_set, samples

__all__ = ["main"]

STEPS = ("simulate", "measure", "fit", "report")
DOCS = Path(__file__).parents[1] / "docs"
QUICK = 12
#: terms of the two models
MODELS = {"plain": (None, PLAIN), "crystal": ("Au", CRYSTAL)}
#: part of the weight that particles of any orientation have beside those near a named axis
RANDOM = 0.25


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zone_axis", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEPS")
    parser.add_argument("--folder", type=Path, required=True, help="where sets and measurements are kept")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--real", type=Path, help="folder with image_NN.png and label_NN.png")
    parser.add_argument("--pixel-size", type=float, default=0.59, help="of the real images [angstrom]")
    parser.add_argument("--quick", action="store_true", help="tiny sets; no figures to quote")
    options = parser.parse_args(arguments)
    steps = options.steps or list(STEPS)
    if unknown := sorted(set(steps) - set(STEPS)):
        parser.error(f"found steps {unknown}; expected some of {', '.join(STEPS)}")
    command = shlex.join(["python", "-m", "benchmarks.zone_axis", *(sys.argv[1:] if arguments is None else arguments)])
    options.folder.mkdir(parents=True, exist_ok=True)
    if "simulate" in steps:
        for name in SETS:
            make_set(name, options.folder, number=QUICK if options.quick else None, workers=options.workers)
    if "measure" in steps:
        for name in SETS:
            measure(name, options.folder, most=QUICK if options.quick else None, workers=options.workers)
    if "fit" in steps:
        write_fit(options.folder, options.folder / "zone_coefficients.json" if options.quick else zone.COEFFICIENTS,
                  command)
        zone.shipped.cache_clear()
    if "report" in steps:
        write_report(options, options.folder if options.quick else DOCS, command)


def write_fit(folder: Path, path: Path, command: str) -> None:
    """Fit both models and write them with what they were made from."""
    models = {}
    for name, (crystal, terms) in MODELS.items():
        table = training_table(folder, crystal)
        found = fit(table, terms, weight=table["weight"].to_numpy())
        models[name] = {"bias": round(found.bias, 5),
                        "weight": {t: round(w, 5) for t, w in zip(found.terms, found.weight, strict=True)}}
    content = {"what": f"logistic regression of 'within {NEAR:g} degree of [110], [100], [111] or [112]' on the "
                       f"features of hrtem_dask/kernels/zone_features.py", "models": models,
               "made": {"command": command, "versions": versions(), "shrinkage": SHRINKAGE, "sets": {
                   n: {"seed": SETS[n].seed, "structures": len(samples(n, folder)),
                       "images": len(pd.read_parquet(folder / f"{n}-draws.parquet"))}
                   for n in ("fit-series", "fit-random")}}}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def training_table(folder: Path, crystal: str | None) -> pd.DataFrame:
    """Both sets that coefficients are fitted on, random orientations with a fixed part of the weight."""
    series, free = (feature_table(folder, f"fit-{n}", crystal) for n in ("series", "random"))
    share = RANDOM / (1 - RANDOM) * len(series) / len(free)
    return pd.concat([series.assign(weight=1.0), free.assign(weight=share)], ignore_index=True)


def write_report(options: argparse.Namespace, out: Path, command: str) -> None:
    """Write zone_axis.md and its pictures."""
    folder = options.folder
    t = {name: zone_tables.scored(folder, name) for name in ("test-3nm", "test-110", "test-series", "test-random")}
    mixed = prior(t["test-series"], t["test-random"])
    curves = {}
    for label, part in (("true masks", mixed[~mixed.by_net]), ("masks of the network", mixed[mixed.by_net])):
        for search, column in (("Au", "score"), ("no crystal", "score_plain")):
            seen = part[part[column] > 0]
            curves[f"{label}, {search}"] = (seen[column].to_numpy(), (seen.tilt <= NEAR).to_numpy())
    whole = {f"all images, {s}": (mixed[c].to_numpy(), (mixed.tilt <= NEAR).to_numpy())
             for s, c in (("Au", "score"), ("no crystal", "score_plain"))}
    table, errors = zone_tables.calibration(curves)
    _, all_errors = zone_tables.calibration(whole)
    table.notes += [f"expected calibration error, {k}, those with score 0 included: {e:.3f}"
                    for k, e in all_errors.items()]
    zone_figures.calibration_curve(curves, errors, out / "zone_axis_calibration.png")
    zone_figures.tilt_curve(t["test-series"], out / "zone_axis_tilt.png")
    series = t["test-series"]
    near, far = series[series.tilt <= NEAR], series[series.tilt.between(*zone_tables.OFF)]
    tables = [zone_tables.separation({"all four axes": t["test-3nm"], "30 Å at [110]": t["test-110"]})]
    tables += [table, zone_tables.trend("Against the tilt", series, "tilt", [0, 1, 2, 3, 4, 5, 6, 8, 10, 12.001], "°")]
    for label, part in (("within 2°", near), ("at 4-9°", far)):
        tables.append(zone_tables.trend(f"Against the dose, {label}", part, "dose",
                                        [20, 50, 100, 200, 500, 1000, 2000, 5000], "e/Å²"))
    for microscope, edges in (("corrected", [-250, -150, -50, 50, 150, 250]),
                              ("uncorrected", [-400, 0, 400, 800, 1200])):
        for label, part in (("within 2°", near), ("at 4-9°", far)):
            tables.append(zone_tables.trend(f"Against the defocus, {microscope}, {label}",
                                            part[part.microscope == microscope], "defocus", edges, "Å"))
    tables.append(zone_tables.false_alarms(folder))
    if options.real:
        tables += zone_real.tables(rows := zone_real.measure_real(options.real, options.pixel_size),
                                   options.pixel_size)
        zone_real.picture(rows, out / "zone_axis_real.png", options.pixel_size)
    (out / "zone_axis.md").write_text(page(tables, mixed, command, options), encoding="utf-8")


def prior(series: pd.DataFrame, free: pd.DataFrame) -> pd.DataFrame:
    """Both sets mixed as for the fit: all of the first, and as many of the second as make its part."""
    n = min(len(free), round(RANDOM / (1 - RANDOM) * len(series)))
    return pd.concat([series, free.sample(n, random_state=0)], ignore_index=True)


def page(tables: list[Table], mixed: pd.DataFrame, command: str, options: argparse.Namespace) -> str:
    """The page: what was measured, and the tables under their headings."""
    text = (Path(__file__).with_name("zone_axis_page.md")).read_text(encoding="utf-8")
    quick = "**Quick run on tiny sets: the figures mean nothing.**\n\n" if options.quick else ""
    made: dict[str, Any] = {
        "QUICK": quick, "COMMAND": command, "VERSIONS": versions(), "PRIOR": f"{(mixed.tilt <= NEAR).mean():.1%}",
        "SEPARATION": tables[0].markdown(), "CALIBRATION": tables[1].markdown(),
        "TRENDS": "\n".join(t.markdown() for t in tables[2:] if t.title.startswith("Against")),
        "ALARMS": "\n".join(t.markdown() for t in tables if t.title.startswith("Without")),
        "REAL": "\n".join(t.markdown() for t in tables if t.title.startswith("Real"))
                or "Not measured in this run: `--real FOLDER` does.\n",
        "CONFUSION": zone_tables.confusion(mixed, NEAR), "CONFUSION6": zone_tables.confusion(mixed, 6.0),
        "COEFFICIENTS": coefficients()}
    for name, value in made.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def coefficients() -> str:
    """The shipped weights as a table."""
    models = zone.shipped()
    weights = {n: dict(zip(m.terms, m.weight, strict=True)) for n, m in models.items()}
    names = list(dict.fromkeys(t for m in models.values() for t in m.terms))
    lines = ["| term | no crystal | with a crystal |", "| --- | --- | --- |"]
    lines.append("| (bias) | " + " | ".join(f"{models[n].bias:.3f}" for n in ("plain", "crystal")) + " |")
    lines += [f"| {t} | " + " | ".join(f"{weights[n][t]:.3f}" if t in weights[n] else "–" for n in weights) + " |"
              for t in names]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
