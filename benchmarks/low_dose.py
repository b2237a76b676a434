"""Particle networks on hard simulated scenes, against the dose.

    python -m benchmarks.low_dose WEIGHTS [WEIGHTS ...] [--fields 20] [--seeds 101 102 103] [--card]

Simulates sets of the recipe au-particles-hard once (20 fields for each of three seeds) into the
cache folder, draws the same recorded frames for every network, and writes into the output folder
low_dose.json, low_dose.md, the figure dice.png and a contact sheet of the worst scenes of each
network, truth red, network cyan. WEIGHTS are shipped names or files. ``--card`` also writes the
figures of the only network on its card. What the figures mean is said in
`hrtem_dask.networks.scoring` (the two truths) and `hrtem_dask.networks.summaries`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hrtem_dask.kernels.turns import TURNS

from . import low_dose_tables
from .common import Options, Table, versions
from .low_dose_tables import HEADLINE, PIXEL_SIZES, REFOCUS, grids, report

RECIPE = "au-particles-hard"
SEEDS = (101, 102, 103)
FIELDS = 20  # for each seed
SHARE = 4  # every fourth field is imaged at each of these pixel sizes
BLIND = "variance + Otsu"
CACHE = Path("runs/low_dose")


def blind(counts: np.ndarray, pixel_size: float) -> np.ndarray:
    """What needs no training: the local standard deviation, thresholded by Otsu, as 0 and 1.

    Of 72 settings (smoothing 0.3 to 1.5 angstrom, with and without a high-pass, windows of 4 to 9
    angstrom, variance or its root) the best over doses of 20 to 200 on other draws of such scenes.
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    from hrtem_dask.kernels.resample import resample

    step, fine, wide = 0.5, 1.5, 9.0  # angstrom
    image = resample(counts, pixel_size, step).astype(np.float64)
    image = ndimage.gaussian_filter(image - image.mean(), fine / step)
    variance = ndimage.gaussian_filter(image**2, wide / step) - ndimage.gaussian_filter(image, wide / step) ** 2
    spread = np.sqrt(np.maximum(variance, 0))
    mask = ndimage.binary_fill_holes(spread > threshold_otsu(spread))
    return resample(mask.astype(np.float32), step, pixel_size, shape=counts.shape)


def sets(recipe: str, seeds: Sequence[int], fields: int, cache: Path, workers: int) -> list[Any]:
    """The sets of hard scenes, made where they are missing, with the outline that networks learn."""
    from hrtem_dask.cli_train import progress
    from hrtem_dask.simulate import dataset, load_recipe

    recipe = load_recipe(recipe)
    out = []
    for seed in seeds:
        store = cache / f"{recipe.name}-{recipe.wave_digest[:8]}-{seed}.zarr"
        data = dataset(recipe, store, fields, seed=seed, workers=workers if workers > 1 else None,
                       progress=progress("structures", "are there already"))
        out.append(replace(data, outline="half-thickness", indices=data.indices[:fields]))
    return out


def measure(networks: Mapping[str, Any], data: Sequence[Any], doses: Sequence[float], workers: int,
            augment: int = 1) -> dict[str, list[Any]]:
    """All scores, name -> list; every network sees the same frames."""
    import torch

    from hrtem_dask.cli_train import progress
    from hrtem_dask.networks.scoring import Condition, predictor, score_scenes

    predictors = {name: predictor(m.module(), float(np.max(m.card["pixel_size"])), augment)
                  for name, m in networks.items()}
    predictors[BLIND] = blind
    usual = [Condition(float(d)) for d in doses] + [Condition(float(d), r) for r in REFOCUS for d in doses
                                                    if d in HEADLINE]
    sampled = [Condition(float(d), 0.0, p) for p in PIXEL_SIZES for d in doses]
    scores: dict[str, list[Any]] = {name: [] for name in predictors}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for one in data:
            for conditions, fields in ((usual, None), (sampled, range(0, len(one), SHARE))):
                mine = predictors if fields is None else {k: v for k, v in predictors.items() if k != BLIND}
                found = score_scenes(mine, one, conditions, seeds=[one.seed], fields=fields, workers=workers,
                                     progress=progress(f"fields of seed {one.seed}"))
                for name in found:
                    scores[name] += found[name]
    finally:
        torch.set_num_threads(before)
    return scores


def run(names: Sequence[str], *, recipe: str | dict = RECIPE, seeds: Sequence[int] = SEEDS, fields: int = FIELDS,
        doses: Sequence[float] = (), cache: Path = CACHE, workers: int | None = None, augment: int = 1
        ) -> tuple[dict[str, Any], dict[str, list[Any]], list[Any], dict[str, Any]]:
    """Simulate, measure and summarise.

    Returns
    -------
    (dict, dict, list, dict)
        What is written as JSON; all scores; the sets; the networks.
    """
    from hrtem_dask import load_model
    from hrtem_dask.core.machine import available_cores
    from hrtem_dask.networks.scoring import DOSES

    doses, workers = doses or DOSES, workers or available_cores()
    networks = {name: load_model(name) for name in names}
    networks = {m.name if [n.name for n in networks.values()].count(m.name) == 1 else name: m
                for name, m in networks.items()}
    data = sets(recipe, seeds, fields, cache, workers)
    scores = measure(networks, data, doses, workers, augment)
    reports = {name: report(found, doses) for name, found in scores.items()}
    for name, m in networks.items():
        reports[name] |= {"sha256": m.card["sha256"]}
    about = {"recipe": data[0].recipe.name, "recipe_sha256": data[0].recipe.digest, "seeds": list(seeds),
             "fields": fields, "threshold": 0.5, "augment": augment, "outline": data[0].outline, "versions": versions()}
    return about | {"predictors": reports}, scores, data, networks


def tables(options: Options) -> list[Table]:
    """What ``python -m benchmarks low_dose`` shows: the shipped network; tiny sizes with --quick."""
    if options.quick:
        from .simulation import TINY

        with tempfile.TemporaryDirectory() as folder:
            found = run(["au-particles"], recipe=TINY, seeds=(1, 2), fields=2, doses=(20, 200), cache=Path(folder),
                        workers=options.threads)[0]
    else:
        found = run(["au-particles"], workers=options.threads)[0]
    return low_dose_tables.tables(found["predictors"])


def markdown(found: Mapping[str, Any], command: str) -> str:
    """The report as a file."""
    lines = ["# Hard simulated scenes", "", f"By `{command}`.", "",
             f"Recipe {found['recipe']} ({found['recipe_sha256'][:12]}), {found['fields']} fields for each of the "
             f"seeds {', '.join(map(str, found['seeds']))}; {found['versions']}.", "",
             *[t.markdown() for t in low_dose_tables.tables(found["predictors"])], grids(found["predictors"])]
    for name, row in found["predictors"].items():
        if name != BLIND:
            lines += [f"### {name}: known failures", "", *[f"- {text}" for text in row["known_failures"]], ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run what the command line asks for; return the JSON file that was written."""
    from .low_dose_figures import draw_dice, draw_worst

    parser = argparse.ArgumentParser(prog="python -m benchmarks.low_dose", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", metavar="WEIGHTS", help="shipped name or .safetensors file")
    parser.add_argument("--recipe", default=RECIPE, help="shipped name or YAML file")
    parser.add_argument("--fields", type=int, default=FIELDS, help="for each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="of the sets, and of what is drawn")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the simulated sets")
    parser.add_argument("--out", type=Path, default=CACHE, help="folder to write into")
    parser.add_argument("--workers", type=int, help="by default one for each core")
    parser.add_argument("--augment", type=int, choices=TURNS, default=1,
                        help="orientations in which a frame is evaluated, as segment(augment=...)")
    parser.add_argument("--card", action="store_true", help="write the figures on the card of the network")
    options = parser.parse_args(arguments)
    if options.card and (len(options.weights) != 1 or options.augment != 1):
        parser.error(f"found --card, {len(options.weights)} networks and --augment {options.augment}; expected one "
                     f"network as it is")
    found, scores, data, networks = run(options.weights, recipe=options.recipe, seeds=options.seeds,
                                        fields=options.fields, cache=options.cache, workers=options.workers,
                                        augment=options.augment)
    found["command"] = shlex.join(["python", "-m", "benchmarks.low_dose",
                                   *(sys.argv[1:] if arguments is None else arguments)])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "low_dose.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = markdown(found, found["command"])
    (options.out / "low_dose.md").write_text(text, encoding="utf-8")
    draw_dice(found["predictors"], options.out / "dice.png")
    for name, model in networks.items():
        draw_worst(model, scores[name], data, options.out / f"worst_{name.replace('/', '_')}.png")
    if options.card:
        write_on_card(options.weights[0], found)
    print(text)
    print(f"wrote {options.out}")
    return options.out / "low_dose.json"


def write_on_card(name: str, found: Mapping[str, Any]) -> None:
    """Put the figures of a network on its card; the weights stay as they are."""
    from hrtem_dask.networks.models import update_card

    mine, peer = (next(v for k, v in found["predictors"].items() if (k == BLIND) == is_peer)
                  for is_peer in (False, True))
    about = {k: v for k, v in found.items() if k != "predictors"}
    hard = about | {k: mine[k] for k in ("dose", "refocus", "kinds")}
    hard["peer"] = {"name": BLIND, "dose": {d: {"mean": r["mean"], "interval": r["interval"]}
                                            for d, r in peer["dose"].items()}}
    update_card(name, {"scores": {"hard_simulated": hard}, "expected_dice": mine["expected_dice"] |
                       {"recipe": found["recipe"]}, "known_failures": mine["known_failures"]}, expect=mine["sha256"])


if __name__ == "__main__":
    main()
