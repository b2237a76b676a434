"""Do the intervals of diffusion rates hold? Many movies of sites with known rates, read with known errors; no pixels.

    python -m benchmarks.diffusion_coverage [--replicates 400] [--only CASE ...] [--out FILE]

Each replicate is a movie of independent sites at 10 frames a second that appear and disappear at the rate given; a
fifth of its frames is missing, in blocks. Columns are missed and invented, independently in each frame. The rate is
fitted as `count_diffusion` fits it, with the two rates of detection known, or fitted along with it.
Coverage: part of the replicates whose interval at 95 % holds the true rate (goal 93 to 99 %). Beside the corrected rate
stand the uncorrected ones: changes of the most probable path, and flips of what was seen from look to look.
Recall and precision: of the changes of that path, up to two frames off, against those that kept frames show.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hrtem_dask.kernels.event_rates import scan_rate
from hrtem_dask.kernels.hmm import likelihood_ratio, most_probable_path
from hrtem_dask.kernels.hops import changes_of
from hrtem_dask.kernels.occupancy_fit import fit_chain, profile_rates
from hrtem_dask.kernels.occupancy_model import Reading, Record, step_of
from hrtem_dask.kernels.self_check import matched_changes
from hrtem_dask.kernels.telegraph import read_sites, simulate_sites

FRAME_TIME = 0.1
MISSING = 0.2
#: sites that are gone through together
TOGETHER = 2000


@dataclass(frozen=True)
class Case:
    """What is simulated: rate [events a site-second], readings, frames, sites, part of the time occupied."""

    rate: float
    tpr: float
    fpr: float
    frames: int
    sites: int
    known: bool
    occupied: float = 0.5
    #: standard deviation of the true-positive rate among sites
    spread: float = 0.0

    @property
    def rates(self) -> tuple[float, float]:
        """Of appearing and of disappearing [1/second]."""
        return self.rate / (2 * (1 - self.occupied)), self.rate / (2 * self.occupied)


#: each with known and with fitted readings
BASE = (
    Case(0.02, 0.95, 0.010, 200, 10, True),
    Case(0.02, 0.90, 0.030, 1000, 20, True),
    Case(0.02, 0.99, 0.002, 3000, 10, True),
    Case(0.10, 0.95, 0.010, 200, 40, True),
    Case(0.10, 0.95, 0.010, 1000, 20, True),
    Case(0.10, 0.90, 0.030, 3000, 10, True),
    Case(0.10, 0.95, 0.010, 500, 20, True, occupied=0.8),
    Case(0.50, 0.90, 0.030, 200, 10, True),
    Case(0.50, 0.95, 0.010, 500, 20, True),
    Case(0.50, 0.99, 0.002, 1000, 40, True),
)
CASES = (*(replace(c, known=k) for c in BASE for k in (True, False)),
         Case(0.10, 0.93, 0.010, 1000, 20, False, spread=0.04),
         *(Case(0.0, t, f, 1000, 20, k) for t, f in ((0.90, 0.03), (0.95, 0.01)) for k in (True, False)))


@dataclass
class Found:
    """Sums over replicates."""

    intervals: list[tuple[float, float, float]]
    flips: float = 0.0
    path: float = 0.0
    hits: int = 0
    found: int = 0
    true: int = 0
    exposure: float = 0.0


def missing_blocks(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Which frames are kept; blocks of three to a fifteenth of the movie are missing."""
    kept = np.ones(frames, bool)
    while kept.mean() > 1 - MISSING:
        start = rng.integers(0, frames)
        kept[start:start + rng.integers(3, max(4, frames // 15))] = False
    return kept


def replicates(case: Case, movies: int, rng: np.random.Generator, out: Found) -> None:
    """Simulate movies that miss the same frames, fit each of them by itself, and add up."""
    sites, time, kept = movies * case.sites, np.arange(case.frames) * FRAME_TIME, missing_blocks(rng, case.frames)
    up, down = case.rates
    start = rng.random(sites) < case.occupied if case.rate == 0 else None
    states = simulate_sites(rng, time, np.full(sites, up), np.full(sites, down), start)[kept]
    tpr = np.clip(case.tpr + case.spread * rng.normal(size=sites), 0.6, 0.999)
    record = Record(read_sites(rng, states, tpr, case.fpr), time[kept], np.arange(sites))
    pool = np.repeat(np.arange(movies), case.sites)
    known = (np.full(movies, case.tpr), np.full(movies, case.fpr)) if case.known else (None, None)
    fit = fit_chain([record], Reading(pool, *known), group=pool, stratum=pool, rounds=40)
    changes, on, duration = (np.bincount(pool, v, movies) for v in (
        fit.totals.appeared + fit.totals.disappeared, fit.totals.occupied, fit.totals.duration))
    base = (fit.chain.appear * (duration - on) + fit.chain.disappear * on) / duration
    scan = scan_rate(lambda s: profile_rates([record], fit.chain, fit.totals, s), changes)
    out.intervals += [(b * s.rate, b * s.low, b * s.high) for b, s in zip(base, scan, strict=True)]
    ratio = likelihood_ratio(record.seen, fit.chain.tpr, fit.chain.fpr)
    looked = np.ones(record.seen.shape, bool)
    start = fit.chain.start(record.site)
    path = changes_of(most_probable_path(ratio, step_of(record, fit.chain), record.which, start), looked)
    true = changes_of(states, looked)
    out.hits += matched_changes(path, true)
    out.found, out.true = out.found + len(path.frame), out.true + len(true.frame)
    out.flips += len(changes_of(record.seen, looked).frame)
    out.exposure += kept.sum() * FRAME_TIME * sites


def measure(case: Case, number: int, seed: int = 0) -> Found:
    """All replicates of a case; other frames are missing in each batch of them."""
    rng, out = np.random.default_rng([seed, CASES.index(case) if case in CASES else 999]), Found([])
    batch = max(1, min(TOGETHER // case.sites, number // 8))
    while len(out.intervals) < number:
        replicates(case, min(batch, number - len(out.intervals)), rng, out)
    return out


HEAD = ("rate", "TPR", "FPR", "frames", "sites", "occupied", "readings", "coverage", "too high", "too low", "bias",
        "width", "path", "flips", "recall", "precision")


def row(case: Case, found: Found) -> list[str]:
    """One line of the table."""
    rate, low, high = np.array(found.intervals).T
    cover = (low <= case.rate) & (case.rate <= high)
    name = f"{case.tpr:g}" + (f" ± {case.spread:g}" if case.spread else "")
    values = [f"{case.rate:g}", name, f"{case.fpr:g}", str(case.frames), str(case.sites), f"{case.occupied:g}",
              "known" if case.known else "fitted", f"{cover.mean():.1%}", f"{(low > case.rate).mean():.1%}",
              f"{(high < case.rate).mean():.1%}"]
    relative = [f"{rate.mean() / case.rate - 1:+.1%}", f"{np.median(high - low) / case.rate:.2f}"] if case.rate else \
        [f"{rate.mean():.2g} /s", f"limit {np.median(high):.2g} /s"]
    share = lambda a, b: f"{a / b:.3f}" if b else "-"  # noqa: E731
    return [*values, *relative, f"{found.found / found.exposure:.3g}", f"{found.flips / found.exposure:.3g}",
            share(found.hits, found.true), share(found.hits, found.found)]


def main(arguments: Sequence[str] | None = None) -> list[list[str]]:
    """Measure and print a Markdown table; return its rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diffusion_coverage", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=400, help="movies a case")
    parser.add_argument("--only", type=int, nargs="*", help=f"numbers of cases, 0 to {len(CASES) - 1}; by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Markdown file to write, besides what is printed")
    options = parser.parse_args(arguments)
    if options.replicates < 1 or any(not 0 <= k < len(CASES) for k in options.only or ()):
        parser.error(f"found replicates {options.replicates}, cases {options.only}; expected at least 1, and 0 to "
                     f"{len(CASES) - 1}")
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    print("\n".join(lines), flush=True)
    rows = []
    for k, case in enumerate(CASES):
        if options.only and k not in options.only:
            continue
        rows.append(row(case, measure(case, options.replicates, options.seed)))
        lines.append("| " + " | ".join(rows[-1]) + " |")
        print(lines[-1], flush=True)
        if options.out:
            options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
