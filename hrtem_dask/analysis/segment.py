"""From a movie to probability maps: a thin layer of Dask over the kernel of one tile."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import xarray as xr

from ..core.calibration import grid_of
from ..core.errors import InputError
from ..core.provenance import record
from ..kernels.blend import TAPERS
from ..kernels.contrast import choice_reach
from ..kernels.tiles import Axis, Layout, blended_tile_size, tile_size
from ..kernels.turns import TURNS
from ..networks.cards import DARK, network_pixel_size, outside
from ..networks.evaluation import BACKENDS
from ..networks.models import Model, load_model
from .tiling import Network, assemble, count_unknown

__all__ = ["check_window", "layout_of", "segment", "unknown_pixels", "warn_outside"]

#: pixel sizes that agree to this part are not worth a resampling
TOLERANCE = 0.02
#: key of a card and attribute of probabilities: what `find_columns` counts as a column
THRESHOLD = "column_threshold"
#: smallest window that may be blended [network pixel]
SMALLEST = 8


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
    window_size: int | None = None,
    warn: bool = True,
    augment: int = 1,
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
    window : None, "hamming", "hann" or "gaussian"
        None evaluates each tile with its halo and trims that. Otherwise the network evaluates
        windows that overlap by half, each by itself, and their probabilities are averaged with
        this weight over the window, divided by the sum of the weights.
    tile : int, optional
        Side of a tile [network pixel]; by default what fits into about 0.8 GB, at most 2048; the
        last one of a row or column may be a quarter longer, and takes up to 1 GB. With a window it
        changes no bit of the result; by default 16 steps of the windows, from 2048 to 4096. Both
        stay below 4096 camera pixels, the quarter not counted.
    pixel_size_tolerance : float
        Relative difference of the pixel sizes up to which a frame is not resampled.
    backend : str
        What `hrtem_dask.networks.evaluate` takes.
    window_size : int, optional
        Side of the windows [network pixel]; by default four times the card's ``effective_radius``,
        from 256 to 1024, rounded up to a multiple of 64: every pixel then lies at least that
        radius inside one of its windows.
    warn : bool
        Whether to warn, once, where the pixel size of the movie, or ``movie.attrs["dose"]``
        [e/angstrom^2 a frame] where it is set, lies outside of what the card says the network was
        trained for.
    augment : int
        Orientations in which every tile is evaluated, the logits averaged: 1, the 4 quarter turns, or 8,
        those and their mirror images (test-time augmentation); as many times slower. On hard simulated
        scenes it helped an MSD-net, and changed the U-Net by less than 0.01 in Dice.

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
    A frame of one tile is one task: resample, normalise, evaluate and resample back. With several
    tiles a first pass takes the mean and standard deviation of the frame, summed over regions
    that lie where they lie whatever the tiles are. Where the movie has several chunks a frame,
    that pass reads them by itself, so that they need not stay in memory until the second pass.
    Torch runs one thread a task: Dask decides how much runs at once.

    A network whose card says ``"contrast": "dark"`` evaluates every tile and its negative, and keeps the
    more certain one of each neighbourhood of some 16 angstrom, to which the halo is added: twice the time.

    With ``halo="exact"`` the result is that of the untiled frame, bit for bit, as long as the
    backend sums the planes of a pixel in the same order wherever the pixel lies ("compiled" does).

    Blended windows begin at pixel (0, 0) of the network's grid, half a window apart; the last of
    each row and column is shifted back to end at the edge of the frame, and a frame that is
    smaller than a window is one window. Each is evaluated by itself, mirrored at its sides inside
    the frame. Every pixel is evaluated four times, and those near the border of a tile, whose
    windows more than one tile needs, more often: 13 % more work with the sizes that are the
    default (27 % where the frame is resampled). A tile evaluates its windows one after another: it
    holds the planes of one. A trimmed halo comes closer to the untiled frame at a quarter of the
    work; windows are there to compare with what was made so.

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
    if backend != "auto" and backend not in BACKENDS:
        raise InputError(f"there is no backend {backend!r}; expected 'auto' or one of {sorted(BACKENDS)}")
    _check_movie(movie, model)
    if warn:
        warn_outside(movie, model)
    layout = layout_of(movie, model, halo=halo, window=window, tile=tile, pixel_size_tolerance=pixel_size_tolerance,
                       window_size=window_size)
    task = Network.of(model, device, backend, check_augment(augment))
    data = assemble(movie, layout, task)
    attrs = {k: v for k, v in movie.attrs.items() if k not in ("units", "long_name", THRESHOLD)}
    attrs |= {THRESHOLD: model.card[THRESHOLD]} if THRESHOLD in model.card else {}
    out = xr.DataArray(data, dims=("frame", "class", "y", "x"), name="probability", attrs=record(
        attrs | {"units": "1"}, "segment", model=model.name, sha256=task.sha256, halo=layout.y.halo,
        window=layout.y.taper, window_size=layout.y.window or None, tile=layout.y.tile, device=device,
        backend=backend, ratio=layout.ratio, augment=augment,
    ))
    coords = {k: c for k, c in movie.coords.items() if set(c.dims) <= {"frame", "y", "x"}}
    return out.assign_coords(coords).assign_coords({"class": model.classes})


def warn_outside(movie: xr.DataArray, model: Model, *, stacklevel: int = 3) -> None:
    """Warn where a movie lies outside of what a network was trained for; see `segment`."""
    for text in outside(model.card, grid_of(movie).pixel_size, movie.attrs.get("dose")):
        warnings.warn(f"{model.name}: {text}", stacklevel=stacklevel)


def layout_of(
    movie: xr.DataArray,
    model: Model,
    *,
    halo: str | int = "auto",
    window: str | None = None,
    tile: int | None = None,
    pixel_size_tolerance: float = TOLERANCE,
    window_size: int | None = None,
) -> Layout:
    """Return the tiles that `segment` uses for a movie and a network; parameters as there."""
    grid = grid_of(movie)
    h = _halo(halo, model)
    side = _window_size(window, window_size, halo, model)
    if not 0 <= pixel_size_tolerance < 1:
        raise InputError(f"pixel_size_tolerance is {pixel_size_tolerance!r}; expected a part, as 0.02")
    ratios = [1.0 if abs(q / p - 1) <= pixel_size_tolerance else q / p for p, q in
              zip(grid.pixel_size, network_pixel_size(model.card, grid.pixel_size), strict=True)]
    if tile is None:
        coarsest = max(ratios)
        tile = blended_tile_size(side, coarsest) if window else tile_size(model.weights.planes, h, coarsest)
    if isinstance(tile, bool) or not isinstance(tile, int | np.integer) or tile < 1:
        raise InputError(f"tile is {tile!r}; expected a positive number of network pixels, as 1024, or None")
    blending = (0, window, side) if window else (h,)
    return Layout(*(Axis(n, ratio, int(tile), *blending, grid=model.weights.grid)
                    for n, ratio in zip((grid.ny, grid.nx), ratios, strict=True)))


def check_augment(augment: int) -> int:
    """Return the number of orientations as it is, if it is one that there is."""
    if isinstance(augment, bool) or augment not in TURNS:
        raise InputError(f"augment is {augment!r}; expected one of {TURNS}: the frame as it is, its quarter turns, or "
                         f"those and their mirror images")
    return int(augment)


def check_window(window: str | None, size: int | None, halo: str | int = "auto") -> None:
    """Refuse what `segment` cannot blend: three options that belong together."""
    if window is None:
        if size is not None:
            raise InputError(f"window_size is {size!r}, but window is None; expected window='hann', 'hamming' or "
                             f"'gaussian' with it")
        return
    if not isinstance(window, str) or window not in TAPERS:
        raise InputError(f"window is {window!r}; expected one of {sorted(TAPERS)}, or None (halo and trim)")
    if halo != "auto":
        raise InputError(f"halo is {halo!r}, but windows are blended, not trimmed; leave halo out, or window")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int | np.integer) or size < SMALLEST):
        raise InputError(f"window_size is {size!r}; expected at least {SMALLEST} network pixels, as 512, or None")


def _window_size(window: str | None, size: int | None, halo: str | int, model: Model) -> int:
    """Side of the windows; 0 where nothing is blended."""
    check_window(window, size, halo)
    if window is None:
        return 0
    return int(size) if size is not None else min(1024, max(256, -(-4 * model.card["effective_radius"] // 64) * 64))


def _halo(halo: str | int, model: Model) -> int:
    exact = model.weights.receptive_radius
    choice = choice_reach(float(np.min(model.card["pixel_size"]))) if model.card.get("contrast") == DARK else 0
    if halo == "auto":
        return min(model.card["effective_radius"], exact) + choice
    if halo == "exact":
        return exact + choice
    if isinstance(halo, bool | str) or not isinstance(halo, int | np.integer) or halo < 0:
        raise InputError(f"halo is {halo!r}; expected 'auto', 'exact' or a number of network pixels, as 64")
    return min(int(halo), exact + choice)


def unknown_pixels(movie: xr.DataArray) -> xr.DataArray:
    """Count the pixels of each frame that are not finite; lazy.

    `segment` leaves such pixels out and fills them with what is known around them, or with the mean
    of the frame, so its result does not show where they were. This says which frames to look at.

    Parameters
    ----------
    movie : DataArray, dims (frame, ..., y, x)
        Counts. Of a focal series the pixels of all its images count.

    Returns
    -------
    DataArray, int64, dims (frame,)
        With the coordinates of the movie along ``frame``. Nothing is read where the counts are integers.

    Examples
    --------
    >>> import numpy as np
    >>> from hrtem_dask.core.calibration import make_movie
    >>> counts = np.ones((2, 5, 5))
    >>> counts[1, 2, 2:4] = np.nan
    >>> unknown_pixels(make_movie(counts, pixel_size=0.5)).values
    array([0, 2])
    """
    if not isinstance(movie, xr.DataArray) or movie.dims[:1] != ("frame",):
        raise InputError(f"found {getattr(movie, 'dims', type(movie).__name__)}; expected a movie (frame, y, x) or "
                         f"(frame, defocus, y, x), as open_movie(path) returns it")
    coords = {k: c for k, c in movie.coords.items() if set(c.dims) <= {"frame"}}
    return xr.DataArray(count_unknown(movie), dims=("frame",), coords=coords, name="unknown_pixels",
                        attrs={"units": "1", "long_name": "pixels that are not finite"})


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
