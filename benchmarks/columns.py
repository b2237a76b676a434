"""Networks for columns of atoms on hard simulated scenes, against the dose and against a classical detector.

    python -m benchmarks.columns [WEIGHTS] [--sets STORE ...] [--card]

Scores single columns through the public path, `segment` and then `find_columns` with the image, on the camera's
own pixels: sets of the recipe au-columns-hard (24 fields for each of the seeds 101, 102, 103), the same frames for
everyone. Found and true columns are matched one to one within 0.5 angstrom; those within 2 angstrom of the border
are left out. Columns of two atoms and more are asked for; a found column that matches one of a single atom is
neither hit nor false. Nor is what is found on a particle but 3 angstrom and more from every true column: the
mirrored half of some twins shows spots that are no columns of the zone axis; how many there were is said. Without
WEIGHTS only the classical detector is measured.

The network has one absolute threshold, the same at all doses: the best on fields of recipe au-columns that were
neither trained on nor are measured here (a seed of their own). The classical detector (`blob_probability`) is given
more than it can have: at each dose the size and the threshold that are best on these very frames; and once the true
sign of the contrast of each frame, once it finds that itself.

Writes columns.json, columns.md and the figure columns.png into the output folder; ``--card`` writes the figures and
the threshold on the card of the network.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from . import columns_tables
from .columns_score import LOG_FOUND, LOG_TOLD, THRESHOLDS, Detector, Setting, score_field
from .columns_tables import REFOCUS, REFOCUSED, f1_of
from .common import versions

RECIPE, VALIDATION = "au-columns-hard", "au-columns"
SEEDS, FIELDS = (101, 102, 103), 24
VALIDATION_SEED, VALIDATION_FIELDS = 111, 24
DOSES = (50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
SIZES = (None, 0.25, 0.3, 0.35, 0.4, 0.45)
CACHE = Path("runs/columns")
#: jobs of one field: which detectors at which setting, each with its threshold or None
Jobs = Mapping[Setting, Sequence[tuple[Detector, float | None]]]
Best = dict[Setting, tuple[Detector, float]]


def sets(recipe: str | dict, seeds: Sequence[int], fields: int, cache: Path, workers: int) -> list[Any]:
    """Sets of a recipe, made where they are missing."""
    from hrtem_dask.cli_train import progress
    from hrtem_dask.simulate import dataset, load_recipe

    recipe = load_recipe(recipe)
    return [dataset(recipe, cache / f"{recipe.name}-{recipe.wave_digest[:8]}-{seed}.zarr", fields, seed=seed,
                    workers=workers if workers > 1 else None, progress=progress("structures", "are there already"))
            for seed in seeds]


def _prepare() -> None:
    import torch

    torch.set_num_threads(1)


def score(data: Sequence[Any], jobs: Jobs, workers: int, what: str, *, contrast: bool = False) -> list[dict[str, Any]]:
    """Score all fields of some sets; what comes back does not depend on the number of processes."""
    from hrtem_dask.cli_train import progress

    show: Callable[..., None] = progress(what)
    tasks = [(one, i) for one in data for i in range(len(one))]
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    if workers < 2:
        for k, (one, i) in enumerate(tasks, 1):
            found[one.seed, i] = score_field(one, i, jobs, contrast)
            show(k, len(tasks))
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare) as pool:
            running = {pool.submit(score_field, one, i, jobs, contrast): (one.seed, i) for one, i in tasks}
            for k, future in enumerate(as_completed(running), 1):
                found[running[future]] = future.result()
                show(k, len(tasks))
    return [row for key in sorted(found) for row in found[key]]


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[Detector, dict[Setting, np.ndarray]]:
    """Counts (threshold, 3) summed over fields."""
    out: dict[Detector, dict[Setting, np.ndarray]] = defaultdict(dict)
    for row in rows:
        there = out[row["detector"]]
        there[row["setting"]] = there.get(row["setting"], 0) + row["counts"]
    return out


def best_threshold(by_dose: Mapping[Setting, np.ndarray]) -> tuple[float, list[float]]:
    """The threshold with the greatest mean F1 over the doses, and that mean at each threshold."""
    mean = np.mean([f1_of(counts) for counts in by_dose.values()], axis=0)
    return float(THRESHOLDS[int(np.argmax(mean))]), [round(float(v), 4) for v in mean]


def best_classical(found: Mapping[Detector, Mapping[Setting, np.ndarray]]) -> dict[str, Best]:
    """At each dose the size and threshold of the classical detector with the greatest F1 on these frames."""
    out: dict[str, Best] = {}
    for name in (LOG_TOLD, LOG_FOUND):
        out[name] = {}
        mine = {d: by for d, by in found.items() if d.name == name}
        for setting in next(iter(mine.values())):
            f1 = {d: f1_of(by[setting]) for d, by in mine.items()}
            best = max(f1, key=lambda d, f1=f1: f1[d].max())
            out[name][setting] = (best, float(THRESHOLDS[int(np.argmax(f1[best]))]))
    return out


def run(weights: str | None, *, recipe: str | dict = RECIPE, stores: Sequence[Path] = (), seeds: Sequence[int] = SEEDS,
        fields: int = FIELDS, doses: Sequence[float] = DOSES, threshold: float | None = None,
        validation: Path | None = None, sizes: Sequence[float | None] = SIZES, scanned: Mapping[str, Any] | None = None,
        cache: Path = CACHE, workers: int = 2) -> dict[str, Any]:
    """Measure; what comes back is written as JSON. ``scanned`` is that of an earlier run on the same frames."""
    from hrtem_dask import load_model
    from hrtem_dask.simulate import open_dataset

    data = [open_dataset(s) for s in stores] or sets(recipe, seeds, fields, cache, workers)
    settings = [Setting(d) for d in doses]
    moved = [Setting(d, r) for r in REFOCUS for d in doses if d in REFOCUSED]
    model = load_model(weights) if weights else None
    net = Detector(model.name, str(weights)) if model else None
    out: dict[str, Any] = {
        "recipe": data[0].recipe.name, "recipe_sha256": data[0].recipe.digest, "seeds": [d.seed for d in data],
        "fields": sum(map(len, data)), "versions": versions(), "thresholds": list(THRESHOLDS)}
    if net and threshold is None:
        other = open_dataset(validation) if validation else \
            sets(VALIDATION, [VALIDATION_SEED], VALIDATION_FIELDS, cache, workers)[0]
        rows = score([other], {s: [(net, None)] for s in settings}, workers, "fields to choose the threshold")
        threshold, mean = best_threshold(curves(rows)[net])
        out["chosen_on"] = {"recipe": other.recipe.name, "seed": other.seed, "fields": len(other), "mean_f1": mean}
    classical = [] if scanned else [Detector(size=s, told=t) for t in (True, False) for s in sizes]
    jobs: Jobs = {s: [(d, None) for d in [*classical, *([net] if net else [])]] for s in settings}
    found = curves(score(data, jobs, workers, "fields at all thresholds")) if classical or net else {}
    best = earlier(scanned, out) if scanned else best_classical(found)
    jobs = {s: [*(b[Setting(s.dose)] for b in best.values()), *([(net, threshold)] if net else [])]
            for s in settings + moved}
    rows = score(data, jobs, workers, "fields", contrast=True)
    out["judged"] = len({(r["seed"], r["field"]) for r in rows})
    names = [*([net.name] if net else []), *best]
    out["detectors"] = {name: columns_tables.report([r for r in rows if r["detector"].name == name]) for name in names}
    for name, by in best.items():
        out["detectors"][name]["best"] = {_key(s): {"size": d.size, "threshold": t} for s, (d, t) in by.items()}
    out["curves"] = (scanned["curves"] if scanned else {}) | {
        d.text: {_key(s): [round(float(v), 4) for v in f1_of(c)] for s, c in by.items()} for d, by in found.items()}
    if net and model:
        out["detectors"][net.name] |= {"threshold": threshold, "sha256": model.card["sha256"]}
    return out


def earlier(scanned: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Best]:
    """Best size and threshold of the classical detector that an earlier run found on the same frames."""
    same = ("recipe_sha256", "seeds", "fields", "thresholds")
    if any(scanned[k] != now[k] for k in same):
        raise SystemExit(f"the earlier run was on {[scanned[k] for k in same]}; expected {[now[k] for k in same]}")
    return {name: {Setting(float(d)): (Detector(size=b["size"], told=name == LOG_TOLD), b["threshold"])
                   for d, b in scanned["detectors"][name]["best"].items()} for name in (LOG_TOLD, LOG_FOUND)}


def _key(setting: Setting) -> str:
    return f"{setting.dose:g}" + (f" {setting.refocus:+g}" if setting.refocus else "")


def write_on_card(weights: str, found: Mapping[str, Any]) -> None:
    """Put figures and threshold of a network on its card; the weights stay as they are."""
    from hrtem_dask.networks.models import update_card

    mine = next(v for v in found["detectors"].values() if "sha256" in v)
    about = {k: v for k, v in found.items() if k not in ("detectors", "curves", "thresholds")}
    peers = {name: {d: {"f1": s["f1"], "f1_interval": s["f1_interval"], "rms": s["rms"]}
                    for d, s in found["detectors"][name]["dose"].items()} for name in (LOG_TOLD, LOG_FOUND)}
    kinds = {name: {d: {k: s[k] for k in ("frames", "f1", "recall", "rms")} for d, s in by.items()}
             for name, by in mine["kinds"].items()}
    keep = {k: mine[k] for k in ("threshold", "dose", "refocus", "surface", "false")}
    update_card(weights, {"column_threshold": mine["threshold"],
                          "scores": {"hard_columns": about | keep | {"kinds": kinds, "peers": peers}},
                          "known_failures": columns_tables.failures(mine)},
                expect=mine["sha256"])


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run what the command line asks for; return the JSON file that was written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.columns", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", metavar="WEIGHTS", help="shipped name or .safetensors file")
    parser.add_argument("--sets", type=Path, nargs="+", default=[], help="sets to measure on, instead of made ones")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="of the sets that are made")
    parser.add_argument("--fields", type=int, default=FIELDS, help="for each seed")
    parser.add_argument("--doses", type=float, nargs="+", default=list(DOSES), help="electrons/angstrom^2")
    parser.add_argument("--threshold", type=float, help="of the network; by default chosen on other fields")
    parser.add_argument("--validation", type=Path, help="set to choose the threshold on, instead of a made one")
    parser.add_argument("--scanned", type=Path, help="columns.json of an earlier run on the same frames: its search "
                        "for the best size and threshold of the classical detector is taken over, not made again")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the simulated sets")
    parser.add_argument("--out", type=Path, default=CACHE, help="folder to write into")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--card", action="store_true", help="write the figures on the card of the network")
    options = parser.parse_args(arguments)
    if options.card and not options.weights:
        parser.error("found --card without WEIGHTS; expected the network whose card it is")
    found = run(options.weights, stores=options.sets, seeds=options.seeds, fields=options.fields, doses=options.doses,
                threshold=options.threshold, validation=options.validation, cache=options.cache,
                scanned=json.loads(options.scanned.read_text(encoding="utf-8")) if options.scanned else None,
                workers=options.workers)
    found["command"] = shlex.join(["python", "-m", "benchmarks.columns",
                                   *(sys.argv[1:] if arguments is None else arguments)])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "columns.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = columns_tables.markdown(found)
    (options.out / "columns.md").write_text(text, encoding="utf-8")
    columns_tables.draw(found, options.out / "columns.png")
    if options.card:
        write_on_card(options.weights, found)
    print(text)
    print(f"wrote {options.out}")
    return options.out / "columns.json"


if __name__ == "__main__":
    main()
