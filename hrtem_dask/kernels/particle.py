"""Measure the particles of one frame: size, position, and what their own Fourier domain says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import find_objects

from ..core.errors import InputError
from ..core.schema import PARTICLES
from .crop import crop_bounds, default_taper, masked_crop
from .net import peak_ratio
from .peaks import find_pairs, peak_pairs
from .spectrum import Spectrum, image_spectrum, power_spectrum

__all__ = ["Figure1", "figure1_panels", "measure_particles"]


def measure_particles(
    image: np.ndarray,
    probability: np.ndarray,
    labels: np.ndarray,
    *,
    y0: float = 0.0,
    x0: float = 0.0,
    dy: float = 1.0,
    dx: float = 1.0,
    crystal: str | Sequence[float] | None = None,
    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
    frame: int = 0,
    time: float = float("nan"),
) -> pd.DataFrame:
    """Measure every labelled particle of one frame.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Counts.
    probability : ndarray, shape (y, x)
        Probability of the class particle.
    labels : ndarray of int, shape (y, x)
        0 is background.
    y0, x0, dy, dx : float
        Sample (i, j) lies at (y0 + i * dy, x0 + j * dx) [angstrom]; a step may be negative.
    crystal, mtf
        See `hrtem_dask.fourier_peak_pairs`.
    frame, time
        Index in the original movie and time [second], copied into the table.

    Returns
    -------
    pandas.DataFrame
        Table `core.schema.PARTICLES`, in the order of the labels; without rows where there are none.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> labels = np.zeros((40, 60), dtype=np.int32)
    >>> labels[10:20, 5:35] = 1
    >>> table = measure_particles(np.zeros((40, 60)), labels * 0.9, labels, dy=0.5, dx=0.5)
    >>> table[["y", "x", "area", "n_pairs"]].values.tolist(), table["touches_border"].tolist()
    ([[7.25, 9.75, 75.0, 0.0]], [False])
    """
    image, probability, labels = np.asarray(image), np.asarray(probability), np.asarray(labels)
    if not image.shape == probability.shape == labels.shape or image.ndim != 2:
        raise InputError(f"image, probability and labels have the shapes {image.shape}, {probability.shape} and "
                         f"{labels.shape}; expected the same (y, x) for all three")
    boxes = {n: box for n, box in enumerate(find_objects(labels), start=1) if box is not None}
    if not boxes:
        return PARTICLES.empty()
    pixel_size = (abs(dy), abs(dx))
    rows = []
    for number, box in boxes.items():
        inside = labels[box] == number
        row: dict[str, Any] = {"frame": frame, "time": time, "particle": number}
        row |= _shape(inside, y0 + box[0].start * dy, x0 + box[1].start * dx, dy, dx)
        row["probability"] = float(probability[box][inside].mean(dtype=np.float64))
        row["touches_border"] = any(b.start == 0 or b.stop == n for b, n in zip(box, labels.shape, strict=True))
        # wide enough that the cut's own border stays clear of the particle's soft edge
        wide = crop_bounds(box, image.shape, pixel_size, 2 * default_taper(pixel_size))
        pairs = peak_pairs(image[wide], labels[wide] == number, pixel_size, crystal=crystal, mtf=mtf)
        row |= {"n_pairs": int(pairs["detected"].sum()), "peak_ratio": peak_ratio(pairs)}
        row["zone_axis_score"] = 1 / row["peak_ratio"] if row["peak_ratio"] >= 1 else 0.0
        rows.append(row)
    return PARTICLES.coerce(pd.DataFrame(rows))


def _shape(inside: np.ndarray, y0: float, x0: float, dy: float, dx: float) -> dict[str, float]:
    """Centroid, area and the ellipse of the same second moments [angstrom, angstrom^2, radian]."""
    i, j = np.nonzero(inside)
    y, x = y0 + i * dy, x0 + j * dx
    cell = abs(dy * dx)
    # a pixel is a small rectangle, not a point: its own second moment keeps a thin mask from having no width
    yy, xx, yx = y.var() + dy**2 / 12, x.var() + dx**2 / 12, ((y - y.mean()) * (x - x.mean())).mean()
    half, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    return {
        "y": float(y.mean()), "x": float(x.mean()), "area": float(y.size * cell),
        "diameter": float(np.sqrt(4 * y.size * cell / np.pi)),
        "major_axis": float(4 * np.sqrt(half + spread)), "minor_axis": float(4 * np.sqrt(max(half - spread, 0.0))),
        "orientation": float(0.5 * np.arctan2(2 * yx, yy - xx)),
    }


@dataclass(frozen=True)
class Figure1:
    """The four panels of figure 1 for one particle, as plain arrays.

    Attributes
    ----------
    image, probability : ndarray, shape (y, x)
        The frame and the network's inference.
    mask : ndarray of bool, shape (y, x)
        The particle.
    image_spectrum, particle_spectrum : Spectrum
        Of the entire image, and of the particle cut out with a soft edge.
    pairs : pandas.DataFrame
        Spot pairs of the particle, table `core.schema.PEAK_PAIRS`.
    peak_ratio : float
        Of these pairs.
    """

    image: np.ndarray
    probability: np.ndarray
    mask: np.ndarray
    image_spectrum: Spectrum
    particle_spectrum: Spectrum
    pairs: pd.DataFrame
    peak_ratio: float


def figure1_panels(
    image: np.ndarray,
    probability: np.ndarray,
    labels: np.ndarray,
    label: int,
    *,
    pixel_size: tuple[float, float],
    crystal: str | Sequence[float] | None = None,
    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Figure1:
    """Compute what figure 1 shows of one particle: image, inference, and both Fourier domains.

    Parameters
    ----------
    image, probability, labels : ndarray, shape (y, x)
        As for `measure_particles`.
    label : int
        The particle.
    pixel_size : (float, float)
        (y, x) [angstrom].
    crystal, mtf
        See `hrtem_dask.fourier_peak_pairs`.

    Returns
    -------
    Figure1
        Draw ``display(panels.particle_spectrum, k_max=0.7)`` with the ``extent`` that comes with it.

    Raises
    ------
    InputError
        If there is no such label, or the shapes differ.
    """
    mask = np.asarray(labels) == label
    if not mask.any():
        known = np.unique(np.asarray(labels))
        raise InputError(f"there is no particle {label} in this frame; expected one of {known[known > 0].tolist()}")
    crop = masked_crop(image, mask, pixel_size)
    pairs = find_pairs(crop, power_spectrum(crop, mtf=mtf), crystal=crystal)
    return Figure1(np.asarray(image), np.asarray(probability), mask, image_spectrum(image, pixel_size),
                   power_spectrum(crop), pairs, peak_ratio(pairs))
