"""The Fourier domain of one particle: its spot pairs and the ratio of the brightest to the dimmest."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from ..core.calibration import check_pixel_size
from ..core.checks import check_mtf, check_number
from ..core.errors import InputError
from ..kernels import net
from ..kernels.peaks import peak_pairs

__all__ = ["fourier_peak_pairs", "peak_ratio"]


def fourier_peak_pairs(
    image: Any,
    mask: Any = None,
    *,
    pixel_size: float | tuple[float, float],
    crystal: Any = None,
    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
    d_range: tuple[float, float] | None = None,
    information_limit: float | None = None,
    alpha: float = 0.01,
    taper: float | None = None,
) -> pd.DataFrame:
    """Find the symmetric pairs of lattice spots in the Fourier domain of a masked region.

    Dead and hot pixels, white in Fourier space, are filled from their neighbours. The masked mean
    is subtracted, the mask's edge softened, the crop zero-padded to twice its size, and the power
    divided by MTF^2 where one is given. A local maximum is a spot where its power exceeds the local
    noise level (the median of the annulus over ln 2, smooth over the radius) by so much that noise
    alone would do it once in ``1 / alpha`` crops, and exceeds what the side lobes of brighter spots
    could put there. A real image has exact Friedel symmetry, so one half plane holds everything and
    each spot stands for the pair +g, -g.

    Once two non-collinear pairs are significant, the missing pairs of their net within the first
    shell are measured at the places where the net predicts them.

    Parameters
    ----------
    image : array, shape (y, x)
        One image [counts]; scale and offset do not matter except for ``intensity``.
    mask : array of bool, shape (y, x), optional
        The particle; without it the entire image under a Hann window.
    pixel_size : float or (float, float)
        Pixel size or (y, x) [angstrom].
    crystal : str, path, ase.Atoms or sequence of float, optional
        Search only the rings of this crystal, 4 % wide to either side: an element ("Au", "Pt"), a
        compound ("CeO2", "MoS2"), a structure file that ASE reads (CIF), an ASE structure, or
        spacings [angstrom]. Structure factors say which reflections a crystal has. By default all
        of ``d_range``.
    mtf : callable, optional
        Amplitude MTF of the frequency in units of Nyquist.
    d_range : (float, float), optional
        Spacings searched [angstrom], by default 1.0 to 3.6. The limits of a crystal and the
        default are clipped to 0.9 of the Nyquist frequency; a given range that lies wholly beyond
        it is an error.
    information_limit : float, optional
        Smallest spacing that the microscope transfers [angstrom]; nothing finer is searched.
    alpha : float
        Probability that pure noise gives any pair at all.
    taper : float, optional
        Width of the soft edge [angstrom], by default 6 pixels or 4 angstrom, whichever is more.

    Returns
    -------
    pandas.DataFrame
        A row a pair, brightest first: ``g_y``, ``g_x`` [1/angstrom] (half plane g_y >= 0),
        ``d_spacing`` [angstrom], ``intensity`` [counts^2] (the variance of the fringe inside the
        mask: half its amplitude squared), ``significance`` (peak power over the local mean of
        the noise), ``detected`` (False: predicted by the net, the intensity is the measured one or
        the detection limit, whichever is more). Empty, with these columns, where nothing is
        significant, and where the mask is narrower than three of the widest fringes.

    Raises
    ------
    InputError
        If the image is not 2-D, the mask does not fit, is empty or a probability, the crystal is unknown, or the
        given limits leave nothing to search.
    MissingInputError, ReadError
        If there is no such structure file, or ASE cannot read it.
    CalibrationError
        If the pixel size is not positive and finite.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> y, x = np.mgrid[:128, :128] * 0.5
    >>> fringes = np.cos(2 * np.pi * 0.4245 * x) + np.cos(2 * np.pi * (0.4245 * y))
    >>> disc = np.hypot(y - 32, x - 32) < 20
    >>> pairs = fourier_peak_pairs(rng.poisson(50 + 10 * fringes), disc, pixel_size=0.5)
    >>> pairs.d_spacing.round(2).tolist(), pairs.detected.tolist(), round(peak_ratio(pairs))
    ([2.36, 2.35], [True, True], 1)
    """
    if d_range is not None and not _are_limits(d_range):
        raise InputError(f"d_range is {d_range!r}; expected two different positive spacings in angstrom, as (1.0, 3.6)")
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha!r}; expected a probability between 0 and 1, as 0.01")
    if taper is not None:
        check_number("taper", taper, "angstrom", above=0)
    if information_limit is not None:
        check_number("information_limit", information_limit, "angstrom", above=0)
    check_mtf(mtf)
    image = np.asarray(image)
    if image.dtype.kind not in "biuf":
        raise InputError(f"the image holds {image.dtype}; expected real numbers, as movie[0]. Of complex ones take "
                         f"numpy.abs(image) or image.real")
    return peak_pairs(image, None if mask is None else _as_mask(mask), check_pixel_size(pixel_size),
                      crystal=crystal, mtf=mtf, d_range=d_range, alpha=alpha, taper=taper,
                      information_limit=information_limit)


def _are_limits(d_range: Any) -> bool:
    values = np.asarray(d_range)
    return (values.shape == (2,) and values.dtype.kind in "iuf" and bool(np.isfinite(values).all())
            and 0 < values.min() < values.max())


def _as_mask(mask: Any) -> np.ndarray:
    """Bool, or whole numbers of which 0 is outside; a probability is positive everywhere, and no mask."""
    mask = np.asarray(mask)
    if mask.dtype.kind not in "biu" and (mask.dtype.kind != "f" or not np.isin(mask, (0, 1)).all()):
        raise InputError(f"the mask holds {mask.dtype} other than 0 and 1; expected True inside the particle and False "
                         f"outside. Of a probability: mask=probability > 0.5; of labels: mask=labels == 1")
    return mask


def peak_ratio(pairs: pd.DataFrame, *, shell: float = net.FIRST_SHELL, of: str = "intensity") -> float:
    """Ratio of the brightest to the dimmest spot pair of the first shell.

    Near 1 where the particle is viewed along a zone axis, large where it is tilted away. Only
    pairs with abs(g) up to ``shell`` times the smallest count: over all significant pairs the
    ratio would grow with the dose, as weak high orders appear.

    Parameters
    ----------
    pairs : pandas.DataFrame
        From `fourier_peak_pairs`.
    shell : float
        Outer radius of the shell over the smallest abs(g).
    of : {"intensity", "amplitude"}
        The ratio of the amplitudes is the square root of that of the intensities.

    Returns
    -------
    float
        At least 1; a lower bound where the dimmest pair is not detected; nan where fewer than two
        non-collinear pairs are detected, or where the first shell holds one direction alone: its
        ratio to itself would be 1, the best there is, whatever the tilt. Nets with one short vector
        are such cases, as Au along [112] (111, next 220): give ``shell=1.7`` to compare these two.

    Raises
    ------
    InputError
        If the table lacks a column, ``shell`` is below 1, or ``of`` is another word.

    Examples
    --------
    >>> pairs = pd.DataFrame({"g_y": [0.0, 0.42], "g_x": [0.42, 0.0], "intensity": [6.0, 3.0],
    ...                       "detected": [True, True]})
    >>> peak_ratio(pairs), peak_ratio(pairs[:1]), round(peak_ratio(pairs, of="amplitude"), 3)
    (2.0, nan, 1.414)
    """
    return net.peak_ratio(pairs, shell=shell, of=of)
