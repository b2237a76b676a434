"""Exit waves and images a minute and core, of every recipe, and a movie, as `hrtem_dask.simulate` makes them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .common import Options, Spread, Table, head

__all__ = ["Images", "Waves", "tables"]

#: a recipe that takes a moment, for --quick
TINY = {"name": "tiny", "field": {"box": 40, "wave_sampling": 0.35, "slice_thickness": 4},
        "particles": {"number": [1, 2], "diameter": [10, 14]}, "film": {"thickness": [8, 12]}}
#: network pixels [angstrom] that examples are drawn for
PIXELS = {"au-columns": 0.2, "mos2-columns": 0.2}
IMAGES = 24
#: of the movie that is timed, all else by default
MOVIE = {"n_frames": 500, "shape": (256, 256), "seed": 0}
MOVIE_PROCESSES = 2


@dataclass(frozen=True)
class Waves:
    """A set as the command makes it."""

    recipe: str
    points: str = field(metadata=head("samples of the multislice"))
    waves: int = field(metadata=head("exit waves"))
    seconds: float = field(metadata=head("s"))
    rate: float = field(metadata=head("a minute and core"))
    busy: str = field(metadata=head("cores busy"))
    occupied: str = field(metadata=head("in tasks"))
    each: Spread = field(metadata=head("processor time of one, warm, s: min / median / max"))


@dataclass(frozen=True)
class Images:
    """Images drawn from a stored wave."""

    recipe: str
    what: str
    each: Spread = field(metadata=head("processor time of one, ms: min / median / max"))
    rate: float = field(metadata=head("a minute and core"))


@dataclass(frozen=True)
class Movie:
    """A movie as the function makes it."""

    recipe: str
    frames: str
    waves: int = field(metadata=head("exit waves"))
    processes: int
    seconds: float = field(metadata=head("s"))
    making: float = field(metadata=head("of these until the last wave, s"))
    rate: float = field(metadata=head("frames a minute and core"))


def tables(options: Options) -> list[Table]:
    """Make a set of each recipe with all cores, then draw images from it with one."""
    from hrtem_dask.simulate import dataset, load_recipe
    from hrtem_dask.simulate.sets import simulate_structure
    from hrtem_dask.simulate.tasks import measured

    waves, images = [], []
    recipes = options.size(["au-particles", "au-columns", "mos2-columns"], [TINY])
    for recipe in map(load_recipe, recipes):
        with tempfile.TemporaryDirectory() as folder:
            n = options.size(24 * options.threads, 2)
            data = dataset(recipe, Path(folder) / "set.zarr", n, seed=1, workers=options.threads)
            simulate_structure(recipe, 1, 0)  # imports, tables of the potential, compiled loops
            each = [measured(simulate_structure, recipe, 1, i)[1] for i in range(options.size(8, 2))]
            effort = data.effort
            waves.append(Waves(recipe.name, f"{recipe.field.wave_points}²", effort.done, effort.wall,
                               effort.done / effort.wall / effort.cores * 60, f"{100 * effort.busy:.0f} %",
                               f"{100 * effort.occupied:.0f} %", Spread.of(each)))
            images += drawn(recipe, data[0], options)
    return [Table("Exit waves", waves, [
        f"One process a core, {options.threads} of them, with their start, writing and reading back; busy is the "
        "processor time of the tasks over time on the clock x cores, 'in tasks' their time on the clock over the same: "
        "it does not fall when something else runs on the machine."]),
        Table("Images", images, ["One thread. A frame is the whole field; an example is 256 x 256 network pixels, "
                                 "resampled, with its label. A focal series counts as one image."]),
        Table("Movie", [filmed(options)], [
            "500 frames of 256 x 256 by default: a wave every 4 frames; from the call to the finished store, with the "
            "start of the processes."])]


def filmed(options: Options) -> Movie:
    """Time one movie in two processes, from the call to the finished store."""
    from hrtem_dask.simulate import load_recipe, movie

    recipe = load_recipe(options.size("au-particles", TINY))
    asked = MOVIE | options.size({}, {"n_frames": 16, "shape": (64, 64)})
    last = [0.0, 0]

    def wave(_done: int, total: int) -> None:
        last[:] = time.perf_counter() - start, total

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        movie(recipe, **asked, store=Path(folder) / "movie.zarr", workers=MOVIE_PROCESSES, progress=wave)
        seconds = time.perf_counter() - start
    frames = asked["n_frames"]
    return Movie(recipe.name, f"{frames} of {asked['shape'][0]}²", int(last[1]), MOVIE_PROCESSES, seconds, last[0],
                 frames / seconds / MOVIE_PROCESSES * 60)


def drawn(recipe: Any, sample: Any, options: Options) -> list[Images]:
    """Time single frames, a batch of them, and examples; the same conditions in each."""
    from hrtem_dask.simulate.draws import draw_example, draw_frame, draw_frames

    def rng(i: int) -> np.random.Generator:
        return np.random.default_rng([1, i])

    n = options.size(IMAGES, 2)
    side = {"size": 256, "pixel_size": PIXELS.get(recipe.name, 0.5)}
    if recipe.name in PIXELS:
        side["classes"] = ("column",) if recipe.name == "au-columns" else ("mo", "s2", "s1", "empty")
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "frames, one by one": (lambda: [draw_frame(sample, recipe, rng(i)) for i in range(n)], n),
        f"frames, {n} of one wave": (lambda: draw_frames(sample, recipe, [rng(i) for i in range(n)]), n),
        "examples": (lambda: [draw_example(sample, recipe, rng(i), **side) for i in range(n)], n),
    }
    return [Images(recipe.name, what, each := Spread.of([1e3 * processor(call) / count
                                                         for _ in range(options.repeats)]), 6e4 / each.median)
            for what, (call, count) in calls.items()]


def processor(call: Callable[[], Any]) -> float:
    """Processor time of a call on this thread [second]."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        start = time.thread_time()
        call()
        return time.thread_time() - start
