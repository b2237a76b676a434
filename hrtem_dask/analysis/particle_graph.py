"""The graph behind `analyse_particles` for frames that are too large for one task.

Of every frame, cut into the squares of `kernels.tally`:

    survey   a square's labels as runs, what its particles add to the table (needs the probability)
    found    all squares of a frame added up: positions, sizes, and where each particle lies
    part     spots of the particles inside a square; pieces of those across squares (needs the movie)
    spots    the same and those across squares that this one puts together (needs three neighbours' parts)
    table    rows of the frame

Only ``found`` and ``table`` wait for a whole frame, and what they wait for is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from ..kernels import labels as labelling
from ..kernels.particle_tiles import Spots, TilePart, measure_crossing, measure_tile, particle_table
from ..kernels.runs import Runs, fill_runs, find_runs, relabel_runs
from ..kernels.tally import Found, Tally, add_up, renumber, tally
from .graphs import Graph, graph_of, read_after

__all__ = ["FrameTask", "frame_table"]

Grid = list[list[Any]]


@dataclass(frozen=True)
class FrameTask:
    """What the tasks of a frame have to know.

    ``grid`` and ``spots`` are the options of `add_up` and of `find_spots`; ``threshold`` and
    ``min_pixels`` say how to label where there are no labels.
    """

    shape: tuple[int, int]
    tile: int
    grid: dict[str, float]
    spots: dict[str, Any]
    threshold: float
    min_pixels: float

    @property
    def pixel_size(self) -> tuple[float, float]:
        """(y, x) [angstrom]."""
        return abs(self.grid["dy"]), abs(self.grid["dx"])


def frame_table(movie: da.Array, probability: da.Array, labels: da.Array | None, task: FrameTask, frame: int,
                time: float) -> Delayed:
    """Table of one frame, from arrays (1, y, x); without labels it is labelled on the way.

    The movie is read for itself, after everything else, so that its pixels need not wait for the
    labels of the whole frame.
    """
    movie, probability, labels = (None if a is None else _squares(a, task.tile)
                                  for a in (movie, probability, labels))
    token = tokenize(movie, probability, labels, task, frame, time)
    name = {stage: f"particles-{stage}-{token}" for stage in
            ("options", "survey", "runs", "counted", "found", "part", "spots", "table")}
    image = read_after(movie, [name["found"]])
    rows, columns = movie.numblocks[1:]
    graph: Graph = {name["options"]: task}
    for a in (probability, labels, image):
        graph |= {} if a is None else graph_of(a)
    for i in range(rows):
        for j in range(columns):
            at = i, j
            given = [None if a is None else (a.name, 0, *at) for a in (probability, labels)]
            graph[(name["survey"], *at)] = (_survey, *given, at, name["options"])
            graph[(name["runs"], *at)] = (_first, (name["survey"], *at))
            graph[(name["counted"], *at)] = (_rest, (name["survey"], *at))
            graph[(name["part"], *at)] = (_part, (image.name, 0, *at), (name["runs"], *at), name["found"], at,
                                          name["options"])
            near = [(name["part"], a, b) for a in (i, i + 1) for b in (j, j + 1) if a < rows and b < columns]
            graph[(name["spots"], *at)] = (_spots, near, at, name["options"])
    graph[name["found"]] = (_found, _all(name["counted"], rows, columns), name["options"])
    graph[name["table"]] = (_table, name["found"], _all(name["spots"], rows, columns), frame, time)
    return Delayed(name["table"], HighLevelGraph.from_collections(name["table"], graph))


def _squares(array: da.Array, tile: int) -> da.Array:
    return array.rechunk({0: 1, 1: tile, 2: tile})


def _all(name: str, rows: int, columns: int) -> Grid:
    return [[(name, i, j) for j in range(columns)] for i in range(rows)]


def _first(survey: tuple[Any, ...]) -> Any:
    return survey[0]


def _rest(survey: tuple[Any, ...]) -> tuple[Any, ...]:
    return survey[1:]


def _survey(probability: np.ndarray, labels: np.ndarray | None, place: tuple[int, int],
            task: FrameTask) -> tuple[Runs, Tally, labelling.Summary | None]:
    if labels is None:
        runs, summary = labelling.survey_block(probability[0] > task.threshold)
    else:
        runs, summary = find_runs(labels[0]), None
    return runs, tally(runs, probability[0], (place[0] * task.tile, place[1] * task.tile)), summary


def _found(counted: Grid, task: FrameTask) -> tuple[Found, list[list[np.ndarray]] | None]:
    final = None
    tallies = [[t for t, _ in row] for row in counted]
    if counted[0][0][1] is not None:
        final = labelling.merge([[s for _, s in row] for row in counted], task.min_pixels)
        tallies = [[renumber(t, f) for t, f in zip(*pair, strict=True)] for pair in zip(tallies, final, strict=True)]
    flat = [t for row in tallies for t in row]
    return add_up(flat, task.shape, **task.grid, tile=task.tile), final


def _part(image: np.ndarray, runs: Runs, found: tuple[Found, list[list[np.ndarray]] | None],
          place: tuple[int, int], task: FrameTask) -> TilePart:
    particles, final = found
    runs = runs if final is None else relabel_runs(runs, final[place[0]][place[1]])
    return measure_tile(image[0], fill_runs(runs), particles, place, task.tile, task.pixel_size, **task.spots)


def _spots(parts: list[TilePart], place: tuple[int, int], task: FrameTask) -> list[Spots]:
    return parts[0].spots + measure_crossing(parts, place, task.pixel_size, **task.spots)


def _table(found: tuple[Found, Any], spots: Grid, frame: int, time: float) -> pd.DataFrame:
    return particle_table(found[0], (s for row in spots for tile in row for s in tile), frame, time)

