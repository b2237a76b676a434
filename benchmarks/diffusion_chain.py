"""Diffusion events from raw pixels against the truth: ``python -m benchmarks.diffusion_chain grid|long --out FOLDER``.

``grid``: short movies of a bare gold particle along [110] at several doses and rates, and frozen ones. ``long``: one
movie that rocks in and out of the zone axis, filtered by `filter_frames` and not. Each movie goes through a campaign
as ``hrtem-dask run --columns`` does it. A movie that is done is not made again, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from hrtem_dask.io.tables import read_json, write_json

RECIPE = {"name": "hopping",
          "field": {"wave_sampling": 0.14, "stored_sampling": 0.2, "slice_thickness": 2.0},
          "particles": {"shape": "wulff", "zone_axis": "110", "coverage": [0.2, 0.2], "number": [1, 1],
                        "diameter": [20, 23], "elongation": [1, 1.15], "height": [0.5, 0.8], "steps": [0, 2],
                        "adatoms": [0, 0.05], "thermal_displacement": [0.07, 0.1], "touching_fraction": 0},
          "support": {"kind": "none"},
          "film": {"absent_fraction": 0, "thickness": [10, 15], "roughness": [0, 2]}}
OPTICS = {"defocus": 60.0, "cs": -1e5, "focal_spread": 30.0, "convergence": 1e-4, "absorption_length": 400.0,
          "blur": 0.3}
FRAME_TIME, PIXEL, SIDE, DRIFT = 0.1, 0.16, 208, 0.05
DOSES, RATES, SEEDS = (300.0, 1000.0, 3000.0), (0.05, 0.1, 0.3), (1, 2)
#: how the long movie rocks
ROCK = {"tilt": 4.0, "time": 3.0, "spin": 0.5, "wander": 0.1, "frames_per_wave": 4}


def score(campaign: Any, store: Path, *, keep_all: bool = False) -> dict[str, Any]:
    """What the chain found, beside the truth; ``keep_all``: without the list of readable frames."""
    from hrtem_dask import simulate
    from hrtem_dask.analysis.diffusion_truth import compare_events
    from hrtem_dask.campaign.diffusion import follow
    from hrtem_dask.campaign.runner import open_source
    from hrtem_dask.core.schema import COLUMNS

    verdicts = campaign.verdicts
    if keep_all:
        verdicts = verdicts.assign(keep=verdicts["particle"] > 0)
    found = follow(campaign.table("columns")[COLUMNS.names], campaign.data.labels, verdicts,
                   open_source(campaign.config), crystal="Au")
    truth, d = simulate.open_truth(store), found.diffusion
    duration = truth.sizes["site"] * truth.sizes["frame"] * FRAME_TIME
    out = {"frames": len(verdicts), "kept": int(verdicts["keep"].sum()), "reason": found.reason,
           "true_rate": truth.sizes["event"] / duration, "true_events": truth.sizes["event"], "site_seconds": duration}
    tilt = truth["particle_tilt"].values[:, 0]
    out |= {"good": int((tilt <= 2).sum()), "good_kept": int(verdicts["keep"].to_numpy()[tilt <= 2].sum())}
    if d is None or d.reason is not None:
        return out
    compared = compare_events(truth, events=d.events, sites=d.sites, drift=found.drift, frames=d.frames,
                              frame_time=FRAME_TIME)
    mine = d.sites[d.sites["changes"]]
    numbers = {k: float(d.overall[k]) for k in ("rate", "low", "high", "rate_raw", "exposure")}
    return out | numbers | {
        "changes": compared.changes, "found": compared.found, "hits": compared.hits, "events": len(d.events),
        "sites": compared.sites, "can_change": len(mine), "tpr": float(mine["tpr"].mean()),
        "fpr": float(mine["fpr"].mean()), "flips": int(d.rate["flips"].sum()), "limit": bool(d.overall["limit"]),
        "epochs": int(d.frames.loc[d.frames["status"] == "used", "epoch"].nunique()),
        "used": int((d.frames["status"] == "used").sum())}


def analysed(store: Path, out: Path, model: str) -> Any:
    """Campaign of a movie."""
    from hrtem_dask.campaign import run_campaign

    return run_campaign({"source": str(store), "out": out, "crystal": "Au", "columns": model, "frames_per_unit": 20})


def one(job: tuple[float, float, int, int, str, str]) -> dict[str, Any]:
    """Simulate, analyse and compare one movie of the grid."""
    from hrtem_dask import simulate
    from hrtem_dask.simulate.microscope import Optics

    dose, rate, seed, frames, folder, model = job
    path = Path(folder) / f"dose{dose:g}_rate{rate:g}_seed{seed}.json"
    known = {"dose": dose, "asked": rate, "seed": seed, "frames": frames}
    done = read_json(path)
    if done and {k: done.get(k) for k in known} == known:
        return done
    warnings.simplefilter("ignore")
    store, started = path.with_suffix(".zarr"), time.perf_counter()
    simulate.movie(RECIPE, n_frames=frames, seed=seed, shape=(SIDE, SIDE), pixel_size=PIXEL, dose=dose,
                   frame_time=FRAME_TIME, drift=DRIFT, optics=Optics(**OPTICS), motion=simulate.Hopping(rate=rate),
                   store=store)
    simulated = time.perf_counter() - started
    campaign = analysed(store, path.with_suffix(""), model)
    # the particle stands still on its zone axis: all of its frames are counted, and how many are listed is told
    kept = int(campaign.verdicts["keep"].sum())
    out = score(campaign, store, keep_all=True) | known | {
        "kept": kept, "simulated_s": simulated, "seconds": time.perf_counter() - started}
    write_json(path, out)
    for one_folder in (store, path.with_suffix("")):
        shutil.rmtree(one_folder)
    return out


def grid_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A row a dose and rate, movies pooled.

    Recall and precision are of changes of sites within 2 frames. Rates are per site that can change, and which
    sites count as such is found, not told; so numbers of events are compared: ``corrected / true``: rate times exposure
    over true events; ``raw / true``: events of the most probable path over true events; ``flips / true``: changes of
    what was seen from frame to frame over true changes; ``covered``: movies whose interval, times the exposure, holds
    the true number. ``listed``: part of the frames that are listed as readable. Of frozen particles ``rate`` is events
    a second of its true sites, and ``high`` the largest upper limit.
    """
    table = []
    for (dose, rate), part in pd.DataFrame(rows).groupby(["dose", "asked"]):
        good = part[part["reason"].isna()]
        true = part["true_rate"].mean()
        total = good[["changes", "found", "hits", "events", "flips", "exposure", "site_seconds"]].sum()
        held = (good["true_events"] / good["exposure"]).between(good["low"], good["high"])
        row = {"dose": dose, "asked": rate, "movies": len(part), "counted": len(good), "true rate": true,
               "listed": part["kept"].sum() / part["frames"].sum(), "changes": int(total.changes),
               "tpr": good["tpr"].mean(), "fpr": good["fpr"].mean()}
        if rate:
            row |= {"recall": total.hits / total.changes, "precision": total.hits / total.found,
                    "rate": good["rate"].mean(),
                   "corrected / true": (good["rate"] * good["exposure"]).sum() / good["true_events"].sum(),
                   "raw / true": total.events / good["true_events"].sum(),
                   "flips / true": total.flips / total.changes, "covered": int(held.sum())}
        else:
            row |= {"rate": total.events / total.site_seconds, "high": good["high"].max()}
        table.append(row)
    return pd.DataFrame(table)


def grid(folder: Path, args: argparse.Namespace) -> None:
    """All movies of the grid on some processes; dear ones first."""
    jobs = [(dose, rate, seed, args.frames or 80, str(folder), args.columns)
            for seed, rate, dose in itertools.product(SEEDS, (*RATES, 0.0), DOSES)]
    rows = []
    context = get_context("spawn")
    with ProcessPoolExecutor(args.workers, mp_context=context, initializer=os.nice, initargs=(10,)) as pool:
        for row in pool.map(one, jobs):
            rows.append(row)
            print(json.dumps(row), flush=True)
    table = grid_table(rows)
    table.to_csv(folder / "grid.csv", index=False)
    print(table.to_string(float_format="{:.3g}".format))


def long(folder: Path, args: argparse.Namespace) -> None:
    """One movie that rocks, filtered and not."""
    from hrtem_dask import simulate
    from hrtem_dask.simulate.microscope import Optics

    store = Path(args.movie) if args.movie else folder / "long.zarr"
    if not args.movie:
        motion = simulate.Hopping(rate=0.1, rock=simulate.Rock(**ROCK))
        simulate.movie(RECIPE | {"support": {}}, n_frames=args.frames or 3000, seed=5, shape=(SIDE, SIDE),
                       pixel_size=PIXEL, dose=1000.0, frame_time=FRAME_TIME, drift=DRIFT, optics=Optics(**OPTICS),
                       motion=motion, store=store, workers=args.workers)
    campaign = analysed(store, folder / "long", args.columns)
    rows = pd.DataFrame([score(campaign, store, keep_all=every) for every in (False, True)], index=["filtered", "all"])
    rows["recall"], rows["precision"] = rows["hits"] / rows["changes"], rows["hits"] / rows["found"]
    rows.to_csv(folder / "long.csv")
    print(rows.T.to_string(float_format="{:.4g}".format))


def main(argv: list[str] | None = None) -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("grid", "long", "table"))
    parser.add_argument("--out", type=Path, required=True, help="folder for movies and results")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--frames", type=int, help="of a movie; by default 80, and 3000 of the long one")
    parser.add_argument("--columns", default="au-columns", help="network of columns")
    parser.add_argument("--movie", help="a movie of simulate.Hopping that is there, for long")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    if args.what == "table":
        rows = [r for p in sorted(args.out.glob("dose*.json")) if (r := read_json(p))]
        print(grid_table(rows).to_string(float_format="{:.3g}".format))
        return
    {"grid": grid, "long": long}[args.what](args.out, args)


if __name__ == "__main__":
    main(sys.argv[1:])
