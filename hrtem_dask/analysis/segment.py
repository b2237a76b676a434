"""From a movie to probability maps: a thin layer of Dask over the kernel of one tile."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import xarray as xr

from ..core.calibration import grid_of
from ..core.errors import InputError
from ..core.provenance import record
from ..kernels.tiles import Axis, Layout, tile_size
from ..networks.cards import network_pixel_size
from ..networks.evaluation import BACKENDS
from ..networks.models import Model, load_model
from .tiling import Network, assemble, source_of

__all__ = ["layout_of", "segment"]

#: pixel sizes that agree to this part are not worth a resampling
TOLERANCE = 0.02


def segment(
    movie: xr.DataArray,
    model: Model | str | os.PathLike[str],
    *,
    device: str = "auto",
    halo: str | int = "auto",
    window: str | None = None,
    tile: int | None = None,
    pixel_size_tolerance: float = TOLERANCE,
    backend: str = "auto",
) -> xr.DataArray:
    """Probability of every class at every pixel; lazy.

    Each frame is resampled to the network's pixel size, normalised as the card says, evaluated
    and resampled back. Frames that are too large for the memory of a worker go tile by tile.
    Tiles and the network's grid are anchored at pixel (0, 0) of the frame, so the result does not
    depend on the chunks of the movie; nor does it depend on the scale or offset of the counts.

    Parameters
    ----------
    movie : DataArray, dims (frame, y, x) or (frame, defocus, y, x)
        Calibrated counts of any real dtype. Pixels that are not finite are left out; where the
        kernel of the resampling finds too few known pixels, the network sees the mean of the
        frame, and the worker logs a warning. A constant frame is all mean.
    model : Model, str or path
        The network, or what `load_model` takes.
    device : str
        "cpu", "cuda" or "auto"; "auto" is decided by the worker that runs the task.
    halo : "auto", "exact" or int
        Network pixels that a tile sees beyond those it keeps: the card's ``effective_radius``;
        the whole receptive radius, which gives what the untiled frame would give; or a number.
    window : None
        Halo and trim. Blended windows are not there yet.
    tile : int, optional
        Side of a tile [network pixel]; by default what fits into about 0.8 GB, at most 2048.
    pixel_size_tolerance : float
        Relative difference of the pixel sizes up to which a frame is not resampled.
    backend : str
        What `hrtem_dask.networks.evaluate` takes.

    Returns
    -------
    DataArray, float32, dims (frame, class, y, x)
        Probabilities from 0 to 1 that sum to 1, with the coordinates of the movie and the names
        of the classes. A chunk holds the frames of a chunk of the movie (split where it would
        grow beyond 256 MB) and one tile.

    Raises
    ------
    CalibrationError
        If the movie has no pixel size.
    InputError
        If the axes or channels do not fit the network, or an option is not one of those above.

    Notes
    -----
    A frame of one tile is one task: read, resample, normalise, evaluate and resample back. With
    several tiles a first pass takes the mean and standard deviation of the frame. Where the movie
    has several chunks a frame, that pass reads them by itself, so that they need not stay in
    memory until the second pass. Torch runs one thread a task: Dask decides how much runs at once.

    Examples
    --------
    >>> import numpy as np
    >>> from hrtem_dask.core.calibration import make_movie
    >>> from hrtem_dask.networks import MSDNet, Model
    >>> from hrtem_dask.networks.cards import complete_card
    >>> weights = MSDNet(1, 2, 3).to_weights()
    >>> card = {"classes": ["background", "particle"], "pixel_size": 0.5, "dose_range": [10, 1000]}
    >>> model = Model("fresh", complete_card(card, weights, "0" * 64), weights)
    >>> movie = make_movie(np.random.default_rng(0).poisson(9, (2, 16, 20)), pixel_size=0.4)
    >>> probability = segment(movie, model)
    >>> probability.dims, probability.shape
    (('frame', 'class', 'y', 'x'), (2, 2, 16, 20))
    >>> float(probability.sel({"class": "particle"}).mean())  # a fresh network knows nothing
    0.5
    """
    model = model if isinstance(model, Model) else load_model(model)
    if window is not None:
        raise InputError(f"window is {window!r}; expected None (halo and trim): windowed blending is not there yet")
    if backend != "auto" and backend not in BACKENDS:
        raise InputError(f"there is no backend {backend!r}; expected 'auto' or one of {sorted(BACKENDS)}")
    _check_movie(movie, model)
    layout = layout_of(movie, model, halo=halo, tile=tile, pixel_size_tolerance=pixel_size_tolerance)
    task = Network.of(model, device, backend)
    data = assemble(source_of(movie, model), layout, task)
    attrs = {k: v for k, v in movie.attrs.items() if k not in ("units", "long_name")}
    out = xr.DataArray(data, dims=("frame", "class", "y", "x"), name="probability", attrs=record(
        attrs | {"units": "1"}, "segment", model=model.name, sha256=task.sha256, halo=layout.y.halo,
        tile=layout.y.tile, device=device, backend=backend, ratio=layout.ratio,
    ))
    coords = {k: c for k, c in movie.coords.items() if set(c.dims) <= {"frame", "y", "x"}}
    return out.assign_coords(coords).assign_coords({"class": model.classes})


def layout_of(
    movie: xr.DataArray,
    model: Model,
    *,
    halo: str | int = "auto",
    tile: int | None = None,
    pixel_size_tolerance: float = TOLERANCE,
) -> Layout:
    """Return the tiles that `segment` uses for a movie and a network; parameters as there."""
    grid = grid_of(movie)
    h = _halo(halo, model)
    if tile is None:
        tile = tile_size(len(model.weights.final[0]), h)
    if isinstance(tile, bool) or not isinstance(tile, int | np.integer) or tile < 1:
        raise InputError(f"tile is {tile!r}; expected a positive number of network pixels, as 1024, or None")
    if not 0 <= pixel_size_tolerance < 1:
        raise InputError(f"pixel_size_tolerance is {pixel_size_tolerance!r}; expected a part, as 0.02")
    axes = []
    for n, p, q in zip((grid.ny, grid.nx), grid.pixel_size, network_pixel_size(model.card, grid.pixel_size),
                       strict=True):
        ratio = 1.0 if abs(q / p - 1) <= pixel_size_tolerance else q / p
        axes.append(Axis(n, ratio, int(tile), h))
    return Layout(*axes)


def _halo(halo: str | int, model: Model) -> int:
    exact = model.weights.receptive_radius
    if halo == "auto":
        return min(model.card["effective_radius"], exact)
    if halo == "exact":
        return exact
    if isinstance(halo, bool | str) or not isinstance(halo, int | np.integer) or halo < 0:
        raise InputError(f"halo is {halo!r}; expected 'auto', 'exact' or a number of network pixels, as 64")
    return min(int(halo), exact)


def _check_movie(movie: Any, model: Model) -> None:
    channels = model.weights.in_channels
    dims = ("frame", "y", "x") if channels == 1 else ("frame", "defocus", "y", "x")
    if not isinstance(movie, xr.DataArray):
        raise InputError(f"found a {type(movie).__name__}; expected a movie, as open_movie(path) returns it")
    if movie.dims != dims:
        raise InputError(f"the movie has the dims {movie.dims}; {model.name!r} has {channels} input channel(s) and "
                         f"takes {dims}, as open_movie gives it{'' if channels == 1 else ' with defocus=[...]'}")
    if channels != 1 and movie.sizes["defocus"] != channels:
        raise InputError(f"the movie has {movie.sizes['defocus']} images a frame; {model.name!r} takes {channels}, "
                         f"one per defocus")
    if 0 in movie.shape:
        raise InputError(f"the movie has the shape {movie.shape}; expected at least one frame and one pixel")
    if movie.dtype.kind not in "biuf":
        raise InputError(f"the movie holds {movie.dtype}; expected real numbers")
