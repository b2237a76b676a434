"""From probability to labelled particles."""

from __future__ import annotations

import math
from itertools import product
from operator import itemgetter
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from ..core.calibration import pixel_size_of
from ..core.errors import InputError
from ..core.provenance import record
from ..kernels import labels as kernel
from ..kernels.runs import Runs, fill_runs, relabel_runs

__all__ = ["check_options", "label_particles", "label_stages"]

#: pixels up to which a frame is labelled in one piece
PIECE = 4096 * 4096
#: sides of the blocks of a larger one: chunks below the first are joined, chunks above the second cut
NARROW, WIDE = 1024, 4096


def label_particles(
    probability: xr.DataArray, *, threshold: float = 0.5, min_area: float | None = None
) -> xr.DataArray:
    """Label the particles of every frame; lazy.

    Parameters
    ----------
    probability : DataArray, dims (frame, class, y, x) or (frame, y, x)
        With a dim ``class`` its class "particle" is taken. May come from anywhere, also as a mask.
    threshold : float
        Pixels with a larger probability are particle; nan is background.
    min_area : float, optional
        Particles of a smaller area [angstrom^2] become background; by default all stay. It
        needs a calibration.

    Returns
    -------
    DataArray, int32, dims (frame, y, x)
        0 is background. Pixels that touch at an edge or a corner are one particle. The labels of
        a frame run from 1 in the order in which a reader meets the particles, row by row; they
        do not depend on the chunks. A label does not mean the same particle in another frame.

    Raises
    ------
    InputError
        If the dims are others, there is no class "particle", or an option makes no sense.
    CalibrationError
        If ``min_area`` is given and there is no pixel size.

    Notes
    -----
    Frames of up to 16 million pixels are labelled in one piece. The blocks of larger ones are
    labelled each by itself and joined where they touch; what waits for the last block of a frame
    are runs of pixels, not pixels, and a task holds no more than 4096 x 4096 pixels.

    Examples
    --------
    >>> mask = np.array([[[1, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]])
    >>> label_particles(xr.DataArray(mask, dims=("frame", "y", "x"))).values
    array([[[1, 0, 0, 2],
            [1, 0, 0, 0],
            [0, 0, 3, 0]]], dtype=int32)
    """
    particle = _particle(probability)
    threshold, min_pixels = check_options(particle, threshold, min_area)
    data = particle.data if isinstance(particle.data, da.Array) else da.from_array(np.asarray(particle.data))
    mask = data > threshold
    large = mask.shape[1] * mask.shape[2] > PIECE
    labels = _label_blocks(mask, min_pixels) if large else _label(mask, min_pixels)
    coords = {k: c for k, c in particle.coords.items() if k != "class"}
    attrs = {k: v for k, v in particle.attrs.items() if k not in ("units", "long_name")}
    return xr.DataArray(labels, dims=("frame", "y", "x"), coords=coords, name="labels",
                        attrs=record(attrs, "label_particles", threshold=threshold, min_area=min_area))


def _particle(probability: Any) -> xr.DataArray:
    if not isinstance(probability, xr.DataArray):
        raise InputError(f"found a {type(probability).__name__}; expected a DataArray, as segment returns it")
    if probability.dims == ("frame", "class", "y", "x"):
        names = [str(c) for c in probability["class"].values] if "class" in probability.coords else []
        if "particle" not in names:
            raise InputError(f"the classes are {names}; expected one named 'particle'. Select the map to label: "
                             f"probability.sel({{'class': ...}})")
        probability = probability.isel({"class": names.index("particle")})
    if probability.dims != ("frame", "y", "x"):
        raise InputError(f"found the dims {probability.dims}; expected ('frame', 'class', 'y', 'x') or "
                         f"('frame', 'y', 'x')")
    if probability.dtype.kind not in "biuf":
        raise InputError(f"the probability holds {probability.dtype}; expected real numbers")
    return probability


def check_options(particle: xr.DataArray, threshold: float, min_area: float | None) -> tuple[float, float]:
    """Threshold and smallest number of pixels, from a threshold and an area [angstrom^2]."""
    if isinstance(threshold, str) or np.ndim(threshold) or not math.isfinite(threshold):
        raise InputError(f"threshold is {threshold!r}; expected a number, as 0.5")
    if min_area is None:
        return float(threshold), 0.0
    if isinstance(min_area, str) or np.ndim(min_area) or not math.isfinite(min_area) or min_area < 0:
        raise InputError(f"min_area is {min_area!r}; expected an area in angstrom^2, as 50, or None")
    # the slack keeps a particle of exactly the smallest area
    return float(threshold), float(min_area) / math.prod(pixel_size_of(particle)) * (1 - 1e-9)


def _label(mask: da.Array, min_pixels: float) -> da.Array:
    whole = mask if mask.numblocks[1:] == (1, 1) else mask.rechunk({1: -1, 2: -1})
    return whole.map_blocks(_label_task, min_pixels=min_pixels, dtype=np.int32, meta=np.empty((0, 0, 0), np.int32))


def _label_task(mask: np.ndarray, min_pixels: float) -> np.ndarray:
    out = np.empty(mask.shape, np.int32)
    for i, frame in enumerate(mask):
        out[i] = kernel.label_frame(frame, min_pixels)
    return out


def _label_blocks(mask: da.Array, min_pixels: float) -> da.Array:
    """Label blocks, summarise each, merge the summaries of a frame, renumber the blocks."""
    mask = mask.rechunk({0: 1, 1: block_sizes(mask.chunks[1]), 2: block_sizes(mask.chunks[2])})
    final = f"labels-final-{tokenize(mask, min_pixels)}"
    graph, runs, merged = label_stages(mask, min_pixels)
    for f, i, j in product(*(range(n) for n in mask.numblocks)):
        graph[final, f, i, j] = (_relabel_task, (runs, f, i, j), (merged, f), i, j)
    layers = HighLevelGraph.from_collections(final, graph, dependencies=[mask])
    return da.Array(layers, final, mask.chunks, meta=np.empty((0, 0, 0), np.int32))


def label_stages(mask: da.Array, min_pixels: float) -> tuple[dict[Any, Any], str, str]:
    """Tasks that label the blocks of a mask (frame, y, x), one frame a block, up to the pixels themselves.

    All blocks of a frame wait for its merge, so they wait as runs: a few hundredths of their pixels.

    Returns
    -------
    (dict, str, str)
        The tasks; the name of the runs of provisional labels, keys (name, frame, i, j); and the name
        of the final labels of a frame, keys (name, frame), each as `kernels.labels.merge` gives them.
    """
    token = tokenize(mask, min_pixels)
    survey, runs, summary, merged = (f"labels-{stage}-{token}" for stage in ("survey", "runs", "summary", "merge"))
    frames, rows, columns = mask.numblocks
    graph: dict[Any, Any] = {}
    for f in range(frames):
        graph[merged, f] = (kernel.merge, [[(summary, f, i, j) for j in range(columns)] for i in range(rows)],
                            min_pixels)
        for at in product((f,), range(rows), range(columns)):
            graph[(survey, *at)] = (_survey_task, (mask.name, *at))
            graph[(runs, *at)] = (itemgetter(0), (survey, *at))
            graph[(summary, *at)] = (itemgetter(1), (survey, *at))
    return graph, runs, merged


def block_sizes(chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks in which to label: the chunks that are there, narrow ones joined and wide ones cut.

    Examples
    --------
    >>> block_sizes((512,) * 9), block_sizes((10000,)), block_sizes((1920, 1920, 260))
    ((1024, 1024, 1024, 1024, 512), (4096, 4096, 1808), (1920, 1920, 260))
    """
    out, waiting = [], 0
    for n in chunks:
        waiting += n
        if waiting >= NARROW:
            out += [WIDE] * ((waiting - 1) // WIDE)
            waiting -= WIDE * ((waiting - 1) // WIDE)
            if waiting:
                out.append(waiting)
            waiting = 0
    return (*out, waiting) if waiting else tuple(out)


def _survey_task(mask: np.ndarray) -> tuple[Runs, kernel.Summary]:
    return kernel.survey_block(mask[0])


def _relabel_task(runs: Runs, final: list[list[np.ndarray]], i: int, j: int) -> np.ndarray:
    return fill_runs(relabel_runs(runs, final[i][j]))[None]
