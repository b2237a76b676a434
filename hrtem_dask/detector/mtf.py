"""The amplitude MTF of a detector, in units of Nyquist."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from scipy.interpolate import PchipInterpolator
from scipy.optimize import least_squares

from ..core.errors import InputError
from ..core.provenance import record as provenance
from ..kernels.camera import CORNER, filter_images, mtf_curve, radial_frequency
from ..kernels.mtf_fit import PARAMETERS
from .checks import check_table, positive, sample_size
from .serial import NoiseSpectrum, decode, encode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MTF", "NoiseSpectrum"]

FORMAT = "hrtem_dask.MTF"
#: most pixels that an image is continued by at its borders where it is not periodic
MARGIN = 64
#: allowed values of the parameters of the curve
ALLOWED = {"scale": (1e-6, math.inf), "power": (1e-3, 100.0), "floor": (-0.5, 1.0), "tail": (0.0, 100.0),
           "halo": (-1.0, 1.0), "halo_scale": (1e-6, math.inf)}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class MTF:
    """Amplitude MTF of a detector.

    ``mtf(k)`` takes frequencies in units of Nyquist and ``mtf.apply(image)`` blurs an image. The
    curve is ``floor + (1 - floor) / (1 + (k / scale)^power)``, departing from it where ``tail`` or
    ``halo`` say so (`hrtem_dask.kernels.camera.mtf_curve`), to the power ``exponent``; or a table.

    Parameters
    ----------
    scale : float
        Frequency at which the curve has fallen half way to its floor [Nyquist].
    power, floor, tail, halo, halo_scale : float
        The other parameters of the curve.
    exponent : float
        1 for an amplitude; 0.5 where the parameters are those of a power MTF.
    covariance : ndarray, shape (6, 6), optional
        Of scale, power, floor, tail, halo, halo_scale; 0 for those held fixed.
    table : (k, value), optional
        Frequencies [Nyquist] and amplitudes that are used instead of the parameters.
    counts_per_electron, counts_per_electron_error : float
        nan where it is not known. Of a scintillator it is an upper estimate too: that its
        electrons give different amounts of light adds to the noise.
    read_noise : float
        Root mean square of the read-out noise [counts]; nan where it is not known.
    spectrum : NoiseSpectrum, optional
        The data of the fit.
    notes : tuple of str
        What a user must know of this result.
    history : str
        Provenance as JSON.

    Examples
    --------
    >>> mtf = MTF(scale=0.5, power=2.0)
    >>> mtf([0, 0.5, 1])
    array([1. , 0.5, 0.2])
    >>> MTF.from_json(mtf.to_json()) == mtf
    True
    """

    scale: float = math.nan
    power: float = math.nan
    floor: float = 0.0
    tail: float = 1.0
    halo: float = 0.0
    halo_scale: float = 1.0
    exponent: float = 1.0
    covariance: np.ndarray | None = None
    table: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    counts_per_electron: float = math.nan
    counts_per_electron_error: float = math.nan
    read_noise: float = math.nan
    spectrum: NoiseSpectrum | None = None
    notes: tuple[str, ...] = ()
    history: str = "[]"

    def __post_init__(self) -> None:
        if self.table is None:
            for name, (low, high) in ALLOWED.items():
                value = getattr(self, name)
                if not (isinstance(value, int | float | np.number) and low <= value <= high and math.isfinite(value)):
                    raise InputError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}, "
                                     "as MTF(scale=0.5, power=2.5, floor=0.02)")
        if not 0 < self.exponent <= 4:
            raise InputError(f"exponent is {self.exponent!r}; expected 1 (amplitude) or 0.5 (power MTF)")

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters of the curve by name; nan where there is a table."""
        return {name: float(getattr(self, name)) for name in PARAMETERS}

    def __call__(self, k: Any) -> np.ndarray:
        """Amplitude at frequencies k [Nyquist], a float64 array of the shape of ``k``; 1 at k = 0.

        Beyond its last frequency a table keeps its last value.
        """
        k = np.abs(np.asarray(k, dtype=np.float64))
        if self.table is not None:
            at, value = (np.asarray(v) for v in self.table)
            return np.asarray(PchipInterpolator(at, value)(np.clip(k, at[0], at[-1])))
        return np.asarray(self._curve(k, [getattr(self, p) for p in PARAMETERS]))

    def _curve(self, k: np.ndarray, parameters: Any) -> np.ndarray:
        value = mtf_curve(k, *parameters)
        return value if self.exponent == 1 else np.maximum(value, 0) ** self.exponent

    def error(self, k: Any) -> np.ndarray:
        """Standard deviation of the amplitude at k [Nyquist]; nan where no covariance is known."""
        k = np.abs(np.asarray(k, dtype=np.float64))
        if self.covariance is None or self.table is not None:
            return np.full(k.shape, np.nan)
        best = np.array([getattr(self, p) for p in PARAMETERS])
        slopes = np.zeros((best.size, *k.shape))
        for i in np.flatnonzero(np.diag(self.covariance) > 0):
            step = np.zeros(best.size)
            step[i] = 1e-5 * max(abs(best[i]), 1e-2)
            slopes[i] = (self._curve(k, best + step) - self._curve(k, best - step)) / (2 * step[i])
        variance = np.einsum("i...,ij,j...->...", slopes, self.covariance, slopes)
        return np.sqrt(np.maximum(variance, 0))

    def apply(self, image: Any, *, pixel: float | tuple[float, float] = 1.0, boundary: str = "periodic") -> Any:
        """Blur images as the detector does: multiply their spectrum by the MTF, radially in two dimensions.

        Parameters
        ----------
        image : ndarray, dask array or DataArray, shape (..., y, x)
            Images of any size. Each axis is taken in units of its own Nyquist frequency, as the
            pixels of the detector are, whatever their calibration.
        pixel : float or (float, float)
            Size, or (y, x) sizes, of a sample in pixels of the detector: 2 where two of them were
            binned, (1, 2) where only those along x were.
        boundary : "periodic" or "reflect"
            "periodic" is the exact filter and conserves the sum of the counts; "reflect"
            keeps opposite borders of a real image apart.

        Returns
        -------
        Like ``image``
            float32 of float32, else float64. Lazy where ``image`` is lazy.

        Raises
        ------
        InputError
            If there are fewer than two axes, complex numbers, or a pixel that is not finite.

        Examples
        --------
        >>> point = np.zeros((65, 64)); point[32, 32] = 1
        >>> blurred = MTF(scale=0.5, power=2.0).apply(point)
        >>> round(float(blurred.sum()), 9), bool(blurred[32, 32] < 0.4)
        (1.0, True)
        """
        sizes = sample_size(pixel)
        if boundary not in ("periodic", "reflect"):
            raise InputError(f"boundary is {boundary!r}; expected 'periodic' or 'reflect'")
        if isinstance(image, xr.DataArray):
            names = [d for d in image.dims if d not in ("y", "x")]
            ordered = image.transpose(*names, "y", "x") if {"y", "x"} <= set(image.dims) else image
            attrs = provenance(image.attrs, "MTF.apply", curve=self.parameters, pixel=sizes, boundary=boundary)
            done = self.apply(ordered.data, pixel=pixel, boundary=boundary)
            return ordered.copy(data=done).transpose(*image.dims).assign_attrs(attrs)
        lazy = isinstance(image, da.Array)
        image = image if lazy else np.asarray(image)
        if image.ndim < 2 or 0 in image.shape or image.dtype.kind not in "biuf":
            raise InputError(f"found an array of shape {image.shape} and dtype {image.dtype}; expected real images "
                             "(..., y, x)")
        if not lazy:
            return _apply(image, self, sizes, boundary)
        dtype = np.dtype(np.float32 if image.dtype == np.float32 else np.float64)
        whole = image.rechunk({image.ndim - 2: -1, image.ndim - 1: -1})
        return whole.map_blocks(partial(_apply, mtf=self, pixel=sizes, boundary=boundary), dtype=dtype,
                                meta=np.empty((0,) * image.ndim, dtype), name=None)

    @classmethod
    def from_c_values(cls, c1: float, c2: float, c3: float, *, c0: float = 1.0, pixel_size: float | None = None,
                      squared: bool = False) -> MTF:
        """MTF of the literature's form ``(c0 - c1) / (1 + (k / (2 c2))^abs(c3)) + c1``.

        Values of different papers can only be compared when both conventions are known: PyQSTEM
        and abTEM use k in 1/angstrom, and have multiplied the spectrum by f (an amplitude) at
        some times and by sqrt(f) (f is then a power) at others.

        Parameters
        ----------
        c1, c2, c3, c0 : float
            The values; the curve is divided by c0, its value at 0.
        pixel_size : float, optional
            [angstrom], where k is in 1/angstrom; without it k is in units of Nyquist.
        squared : bool
            Whether f is the MTF squared (a power).

        Returns
        -------
        MTF

        Examples
        --------
        >>> mtf = MTF.from_c_values(0, 0.4897, 2.346, pixel_size=0.21)
        >>> round(mtf.scale, 4), float(mtf(mtf.scale))
        (0.4113, 0.5)
        """
        positive(c0=c0, c2=c2, pixel_size=1.0 if pixel_size is None else pixel_size)
        to_nyquist = 1.0 if pixel_size is None else 2 * float(pixel_size)
        said = provenance({}, "MTF.from_c_values", c0=c0, c1=c1, c2=c2, c3=c3, pixel_size=pixel_size, squared=squared)
        return cls(scale=2 * c2 * to_nyquist, power=abs(c3), floor=c1 / c0, exponent=0.5 if squared else 1.0,
                   history=said["provenance"])

    @classmethod
    def from_table(cls, k: Any, value: Any, *, unit: str = "nyquist", pixel_size: float | None = None,
                   squared: bool = False) -> MTF:
        """MTF that interpolates a table (monotone between its points; the last value beyond them).

        Parameters
        ----------
        k, value : sequence of float
            Frequencies and values, three or more. The values are divided by that at k = 0; where
            the table does not hold k = 0 they must be normalised already.
        unit : str
            Of ``k``: "nyquist", "1/pixel" (cycles a pixel), or "1/angstrom" with a ``pixel_size``.
        pixel_size : float, optional
            [angstrom]
        squared : bool
            Whether the values are a power: MTF squared, or a noise power spectrum without its
            white part.

        Returns
        -------
        MTF
            See `closest` for its parametric form.

        Examples
        --------
        >>> mtf = MTF.from_table([0, 0.25, 0.5], [1, 0.25, 0.04], unit="1/pixel", squared=True)
        >>> mtf([0, 0.5, 1, 1.2])
        array([1. , 0.5, 0.2, 0.2])
        """
        at, values = np.asarray(k, dtype=np.float64), np.asarray(value, dtype=np.float64)
        check_table(at, values, unit, pixel_size)
        order = np.argsort(at)
        at, values = at[order] * {"nyquist": 1.0, "1/pixel": 2.0}.get(unit, 2 * float(pixel_size or 1)), values[order]
        if at[0] == 0:
            values = values / values[0]
        else:
            at, values = np.insert(at, 0, 0.0), np.insert(values, 0, 1.0)
        values = np.sqrt(np.maximum(values, 0)) if squared else values
        said = provenance({}, "MTF.from_table", points=at.size, unit=unit, pixel_size=pixel_size, squared=squared)
        return cls(table=(tuple(at.tolist()), tuple(values.tolist())), history=said["provenance"])

    def closest(self) -> MTF:
        """Parametric MTF of three parameters closest to this one from 0 to Nyquist; how close is in its notes.

        Examples
        --------
        >>> k = np.linspace(0, 1, 30)
        >>> MTF.from_table(k, MTF(0.5, 2.5, 0.02)(k)).closest()(0.7).round(3) == MTF(0.5, 2.5, 0.02)(0.7).round(3)
        np.True_
        """
        end = min(self.table[0][-1], CORNER) if self.table is not None else 1.0
        k = np.linspace(0, end, 200)
        goal = self(k)
        found = least_squares(lambda p: mtf_curve(k, np.exp(p[0]), np.exp(p[1]), p[2]) - goal,
                              [np.log(0.5), np.log(2.5), 0.02], bounds=([-5, -1, 0], [5, 2.5, 0.9]),
                              xtol=1e-14, ftol=1e-14, gtol=1e-14)
        note = f"closest form of three parameters, within {np.abs(found.fun).max():.3f} up to {end:.2f} Nyquist"
        return replace(self, scale=float(np.exp(found.x[0])), power=float(np.exp(found.x[1])), floor=float(found.x[2]),
                       tail=1.0, halo=0.0, halo_scale=1.0, exponent=1.0, table=None, covariance=None,
                       notes=(*self.notes, note))

    def to_json(self, path: str | Path | None = None) -> str:
        """Return everything as JSON, and write it to a file where a path is given."""
        text = encode(FORMAT, {f.name: getattr(self, f.name) for f in fields(self)})
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> MTF:
        """Make the MTF of `to_json` again from its text, or from the path of a file with it.

        Raises
        ------
        InputError
            If it is not the JSON of an MTF.
        MissingInputError
            If there is no such file.
        """
        return cls(**decode(FORMAT, source, [f.name for f in fields(cls)]))

    def plot(self, *, k_max: float = CORNER) -> Figure:
        """Draw the curve with its 95 % band, and the data of the fit with their errors, where there are any."""
        from .figure import draw_mtf

        return draw_mtf(self, k_max)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MTF) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __dask_tokenize__(self) -> str:
        return self.to_json()

    def __repr__(self) -> str:
        half, full = (f"{float(self(k)):.3f}" + ("" if np.isnan(e := float(self.error(k))) else f" ± {e:.3f}")
                      for k in (0.5, 1.0))  # fmt: skip
        form = f"table of {len(self.table[0])} points" if self.table is not None else ", ".join(
            f"{n} {v:.4g}" for n, v in self.parameters.items()
            if n in PARAMETERS[:3] or (n == "tail" and v != 1) or (n != "tail" and self.halo))
        counts = "unknown" if np.isnan(self.counts_per_electron) else f"{self.counts_per_electron:.4g}"
        lines = [f"MTF: {half} at half Nyquist, {full} at Nyquist ({form}); counts per electron {counts}"]
        return "\n".join([*lines, *(f"  note: {n}" for n in self.notes)])


def _apply(images: np.ndarray, mtf: MTF, pixel: tuple[float, float], boundary: str) -> np.ndarray:
    if boundary == "periodic":
        return filter_images(images, mtf(radial_frequency(images.shape[-2:], pixel)))
    pad = [min(n - 1, MARGIN) for n in images.shape[-2:]]
    wide = np.pad(images, [(0, 0)] * (images.ndim - 2) + [(p, p) for p in pad], mode="reflect")
    done = filter_images(wide, mtf(radial_frequency(wide.shape[-2:], pixel)))
    return done[..., pad[0] : pad[0] + images.shape[-2], pad[1] : pad[1] + images.shape[-1]]
