"""The chain on a movie with truth: from raw frames to the list of readable frames, and how good that is.

    python -m benchmarks.chain simulate FOLDER [--frames 3000] [--workers 2]
    python -m benchmarks.chain run FOLDER [--workers N]
    python -m benchmarks.chain score FOLDER [--out FILE.md]

``simulate`` makes a movie of three gold particles on carbon that rock through zone axes, with some blurred, saturated
and empty frames (`benchmarks.chain_movie`); one that was interrupted is continued. ``run`` is ``hrtem-dask run`` on its
raw frames and nothing else. ``score`` compares what that wrote with the true tilts (`benchmarks.chain_score`).
Nothing in the package was tuned on this movie.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from .chain_movie import Plan, write_raw

__all__ = ["main", "run", "score", "simulate"]

PLAN, SIMULATED, RAW, RESULTS = "plan.json", "simulated.zarr", "raw.zarr", "results"
#: what the user of the movie would type behind the names of movie and folder
OPTIONS = ("--crystal", "Au", "--max-false-keep", "0.05")


def simulate(folder: Path, plan: Plan, workers: int | None = None) -> None:
    """Make the movie, its truth and the raw frames."""
    from hrtem_dask.io.tables import write_json

    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def say(done: int, total: int) -> None:
        if done % 25 == 0 or done == total:
            print(f"{done} of {total} exit waves, {time.monotonic() - started:.0f} s", flush=True)

    plan.movie(store=folder / SIMULATED, workers=workers, progress=say)
    spoilt = write_raw(folder / SIMULATED, folder / RAW, plan)
    write_json(folder / PLAN, asdict(plan))
    print(f"{plan.n_frames} frames, {spoilt} of them spoilt, in {time.monotonic() - started:.0f} s")


def run(folder: Path, workers: int | None = None, options: Sequence[str] = OPTIONS) -> float:
    """Run the command that a user would type; return its time [second]."""
    command = [sys.executable, "-m", "hrtem_dask.cli", "run", str(folder / RAW), "--out", str(folder / RESULTS),
               *options, *(["--workers", str(workers)] if workers else [])]
    print(shlex.join(command[1:]), flush=True)
    started = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - started


def score(folder: Path) -> str:
    """Compare the tables of the campaign with the truth; the tables as Markdown."""
    from hrtem_dask.campaign import load_campaign
    from hrtem_dask.io.tables import read_json
    from hrtem_dask.simulate.movie_store import open_truth
    from hrtem_dask.simulate.spoilt import spoil_kinds

    from .chain_score import tables

    plan = Plan(**read_json(folder / PLAN))
    campaign, truth = load_campaign(folder / RESULTS), open_truth(folder / SIMULATED)
    particles: pd.DataFrame = campaign.particles
    lines = [f"# The chain on a movie of {plan.n_frames} frames", "", f"`{plan}`", "",
             f"{len(particles)} particles measured; list of the command: {int(campaign.verdicts.keep.sum())} of "
             f"{len(campaign.verdicts)} frames.", ""]
    parts = tables(particles, campaign.frame_quality, truth, spoil_kinds(plan.n_frames, plan.seed))
    return "\n".join([*lines, *(t.markdown() for t in parts)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chain", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("simulate", "run", "score"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=Plan.n_frames)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args(arguments)
    if options.what == "simulate":
        simulate(options.folder, Plan(n_frames=options.frames, seed=options.seed), options.workers)
    elif options.what == "run":
        print(f"took {run(options.folder, options.workers):.0f} s")
    else:
        text = score(options.folder)
        print(text)
        if options.out:
            options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
