"""A row a column of atoms a frame, from a probability map from anywhere and the images that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr
from dask.delayed import Delayed

from ..core.calibration import Grid, grid_of
from ..core.checks import check_mtf, check_number
from ..core.errors import CalibrationError, InputError
from ..core.schema import COLUMNS
from ..kernels.column_peaks import LABEL_SIGMA, column_spacing
from ..kernels.columns import Finder, measure_columns
from .aligned import frames_and_times, lazy_pixels, on_grid_of
from .column_graph import column_table, frame_columns

__all__ = ["find_columns"]

#: a partition holds at most this many pixels and frames
PARTITION_PIXELS, PARTITION_FRAMES = 2**24, 16
#: classes that are no columns
OTHERS = ("background", "particle")
#: least presence where neither the caller nor the network's card says
THRESHOLD = 0.5
#: columns are never nearer than this part of the spacing of those of a crystal: tilt and strain move them
NEAREST = 0.75
#: hills of two columns nearer than this many of their sigmas are one hill
RESOLVED = 2.5
#: pixels that the spacing of columns must have at least
PIXELS = 3.0
#: typical distance of the spot in an image from the mean place of the atoms, along an axis [angstrom]
SHIFT_ERROR = 0.02


def find_columns(
    probability: xr.DataArray,
    *,
    image: xr.DataArray | None = None,
    threshold: float | None = None,
    min_distance: float | None = None,
    crystal: Any = None,
    card: Any = None,
    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
    offset: float | None = None,
    shift_error: float = SHIFT_ERROR,
    frames_per_partition: int | None = None,
) -> dd.DataFrame:
    """Find the columns of atoms of every frame, with an error for each coordinate.

    Nothing is computed until the table is asked for its values. A frame without columns has no rows.

    Parameters
    ----------
    probability : DataArray, dims (frame, class, y, x) or (frame, y, x)
        From `segment` or from anywhere, calibrated. Every class but ``background`` and ``particle`` is one of
        columns. What a network learns is a hill of height 1 and sigma 0.4 angstrom at each column.
    image : DataArray, dims (frame, y, x) or (frame, defocus, y, x), optional
        The movie, on the frames and pixels of the probability. A Gaussian is fitted to each column in it (of a
        focal series to all images, with one centre); without it, to the probability.
    threshold : float, optional
        Least probability of a column, absolute: it does not depend on what else is in the frame. By default
        ``column_threshold`` of the card, or of the attributes that `segment` gives, else 0.5.
    min_distance : float, optional
        Of two columns [angstrom]; of nearer maxima the surer one is kept. By default three quarters of the
        smallest distance of neighbouring columns along the crystal's zone axes of indices 0 and 1 (gold:
        1.67 angstrom, along [111]); without a crystal the card's ``column_distance``, else 1 angstrom, below
        which two hills of a network merge.
    crystal : str, path or ase.Atoms, optional
        As in `fourier_peak_pairs`, but no bare spacings.
    card : mapping or model, optional
        Of the network, for the defaults: ``load_model("au-columns").card``.
    mtf : callable, optional
        Amplitude MTF of the frequency in units of Nyquist, which tells how neighbouring pixels share their
        noise. Without it that is found in the frame, beyond the frequencies that a lens transfers.
    offset : float, optional
        Counts of a pixel without electrons, for the unit of the intensity; by default the attribute
        ``offset`` of the image, else 0.
    shift_error : float
        How far the spot in an image lies from the mean of its atoms for other reasons than noise, along an
        axis [angstrom]: added in quadrature to the errors of fitted columns.
    frames_per_partition : int, optional
        Frames a partition; by default up to 16, fewer where frames are large. Frames of more than 16
        million pixels are a partition each.

    Returns
    -------
    dask.dataframe.DataFrame
        Table `core.schema.COLUMNS`, one partition a batch of frames.

    Raises
    ------
    InputError
        If dims, frames or pixels do not match, or an option is out of range.
    CalibrationError
        If there is no pixel size, or pixels are larger than a third of the distance of the columns.

    Notes
    -----
    A fit that ends more than 0.6 angstrom from the maximum of the probability, does not settle, meets another
    column, or is less sure than that maximum, is not used: ``fitted`` is then False, the place is that of the
    maximum, and its error follows from how wide the hill is. Frames of more than 16 million pixels are
    measured in squares of 2048 pixels. The numbers do not depend on chunks; but for the intensity, they do not
    depend on gain and offset of the counts either.

    Examples
    --------
    >>> from hrtem_dask.core.calibration import make_movie
    >>> y, x = np.mgrid[:120, :120] * 0.1
    >>> hills = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 0.32) for a, b in [(3.04, 4.0), (3.0, 7.02), (8.0, 6.0)])
    >>> counts = np.random.default_rng(0).poisson(100 * (1 + 0.5 * hills))
    >>> movie = make_movie(counts[None], pixel_size=0.1)
    >>> table = find_columns(movie.copy(data=hills[None]), image=movie, crystal="Au").compute()
    >>> table[["frame", "column", "contrast"]].values.tolist(), table.y.round(1).tolist()
    ([[0, 1, 1], [0, 2, 1], [0, 3, 1]], [3.0, 3.0, 8.0])
    """
    planes, classes = _column_classes(probability)
    grid = grid_of(planes)
    frames, times = frames_and_times(planes)
    finder = _finder(grid, classes, threshold, min_distance, crystal, _card(card), mtf, shift_error,
                     probability.attrs.get("column_threshold", THRESHOLD))
    if frames_per_partition is not None:
        check_number("frames_per_partition", frames_per_partition, least=1, whole=True)
    if image is not None:
        image = _image(planes, image)
        finder = _with_offset(finder, image, offset)
    meta = _meta(classes)
    pixels = grid.ny * grid.nx
    if pixels > PARTITION_PIXELS:
        parts = [frame_columns(planes.isel(frame=[i]), None if image is None else image.isel(frame=[i]), finder, grid,
                               (int(f), float(t))) for i, (f, t) in enumerate(zip(frames, times, strict=True))]
    else:
        images = 1 if image is None else image.sizes["defocus"]
        size = frames_per_partition or min(PARTITION_FRAMES, max(1, PARTITION_PIXELS // max(1, pixels * images)))
        parts = _small(planes, image, finder, size, frames, times, grid)
    if not parts:
        return dd.from_pandas(meta, npartitions=1)
    return dd.from_delayed(parts, meta=meta, verify_meta=False)


def _column_classes(probability: Any) -> tuple[xr.DataArray, tuple[str, ...]]:
    """Planes of the classes of columns (frame, class, y, x), and their names."""
    if not isinstance(probability, xr.DataArray) or set(probability.dims) not in ({"frame", "y", "x"},
                                                                                  {"frame", "class", "y", "x"}):
        raise InputError(f"the probability is {getattr(probability, 'dims', type(probability).__name__)}; expected a "
                         f"DataArray with the dims (frame, class, y, x) or (frame, y, x), as segment(movie, "
                         f"'au-columns') returns it")
    if probability.dtype.kind not in "biuf":
        raise InputError(f"the probability holds {probability.dtype}; expected real numbers")
    if 0 in (probability.sizes["y"], probability.sizes["x"]):
        raise InputError(f"the probability has the shape {probability.shape}; expected at least one pixel")
    if "class" not in probability.dims:
        return probability.transpose("frame", "y", "x").expand_dims({"class": ["column"]}, axis=1), ("column",)
    names = [str(c) for c in probability["class"].values] if "class" in probability.coords else []
    wanted = [i for i, name in enumerate(names) if name not in OTHERS]
    if not wanted:
        raise InputError(f"the probability has {probability.sizes['class']} classes called {names or 'nothing'}; "
                         f"expected one of columns. Use a network of columns, segment(movie, 'au-columns'), or name "
                         f"them: probability.assign_coords({{'class': ['background', 'column']}})")
    return probability.isel({"class": wanted}).transpose("frame", "class", "y", "x"), tuple(names[i] for i in wanted)


def _finder(grid: Grid, classes: tuple[str, ...], threshold: float | None, min_distance: float | None, crystal: Any,
            card: Mapping[str, Any], mtf: Any, shift_error: float, default: float) -> Finder:
    """Check the options and fill in those that are not given."""
    check_mtf(mtf)
    check_number("shift_error", shift_error, "angstrom", least=0)
    spacing = None if crystal is None else column_spacing(crystal)
    if threshold is None:
        threshold = card.get("column_threshold", default)
    check_number("threshold", threshold, above=0)
    if threshold > 1:
        raise InputError(f"threshold is {threshold!r}; expected a probability, from 0 to 1")
    if min_distance is None:
        min_distance = NEAREST * spacing if spacing else card.get("column_distance", RESOLVED * LABEL_SIGMA)
    check_number("min_distance", min_distance, "angstrom", above=0)
    apart = spacing or min_distance / NEAREST
    if max(grid.pixel_size) > apart / PIXELS:
        what = f"the columns of {crystal} are" if spacing else "columns may be"
        raise CalibrationError(
            f"the pixels are {max(grid.pixel_size):.3g} angstrom wide, and {what} {apart:.3g} angstrom apart: too "
            f"coarse to tell them apart. Expected pixels of at most {apart / PIXELS:.2g} angstrom; check the pixel "
            f"size, record at a higher magnification, or give min_distance where columns lie farther apart")
    return Finder(grid.pixel_size, float(threshold), float(min_distance), classes, mtf, shift_error=float(shift_error))


def _card(card: Any) -> Mapping[str, Any]:
    card = getattr(card, "card", card)
    if card is not None and not isinstance(card, Mapping):
        raise InputError(f"card is {card!r}; expected a model or its card: card=load_model('au-columns')")
    # a key that says nothing is none
    return {k: v for k, v in (card or {}).items() if v is not None}


def _image(planes: xr.DataArray, image: Any) -> xr.DataArray:
    """The image on the grid of the probability, (frame, defocus, y, x)."""
    if not isinstance(image, xr.DataArray) or set(image.dims) not in ({"frame", "y", "x"},
                                                                      {"frame", "defocus", "y", "x"}):
        raise InputError(f"the image is {getattr(image, 'dims', type(image).__name__)}; expected the movie, with the "
                         f"dims (frame, y, x) or (frame, defocus, y, x)")
    if image.dtype.kind not in "biuf":
        raise InputError(f"the image holds {image.dtype}; expected real numbers")
    image = on_grid_of(planes, image, "the image")
    image = image if "defocus" in image.dims else image.expand_dims("defocus", axis=1)
    return image.transpose("frame", "defocus", "y", "x")


def _with_offset(finder: Finder, image: xr.DataArray, offset: float | None) -> Finder:
    offset = image.attrs.get("offset", 0.0) if offset is None else offset
    check_number("offset", offset, "counts")
    return replace(finder, offset=float(offset))


def _meta(classes: tuple[str, ...]) -> pd.DataFrame:
    meta = COLUMNS.empty()
    meta["class"] = pd.Categorical([], categories=list(classes))
    return meta


def _small(planes: xr.DataArray, image: xr.DataArray | None, finder: Finder, size: int, frames: np.ndarray,
           times: np.ndarray, grid: Grid) -> list[Delayed]:
    """A partition a batch of whole frames."""
    measure = dask.delayed(_measure_batch, pure=True, traverse=False)
    stacks = [planes] if image is None else [planes, image]
    arrays = [lazy_pixels(a, (size, -1, -1, -1)).rechunk((size, -1, -1, -1)) for a in stacks]
    # optimised one by one, what they share (a network's inference) would be computed for each of them
    blocks = [a.to_delayed(optimize_graph=False).ravel() for a in arrays]
    options = dask.delayed((finder, grid), pure=True, traverse=False)
    return [measure(frames[i * size:(i + 1) * size], times[i * size:(i + 1) * size], options, *batch)
            for i, batch in enumerate(zip(*blocks, strict=True))]


def _measure_batch(frames: np.ndarray, times: np.ndarray, options: tuple[Finder, Grid], planes: np.ndarray,
                   images: np.ndarray | None = None) -> pd.DataFrame:
    finder, grid = options
    rows = [measure_columns(p, None if images is None else images[k], finder) for k, p in enumerate(planes)]
    return column_table(rows, grid, list(zip(frames, times, strict=True))) if rows else _meta(finder.classes)
