"""How the intensity of a column grows with its atoms: simulated under the optics of a microscope."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.interpolate import CubicSpline

from ..kernels.atom_count import Curves, monotonic_range
from ..kernels.camera import filter_images, radial_frequency
from ..kernels.columns import fit_columns
from ..simulate.microscope import Optics, expected_images
from ..simulate.terraces import TerraceWave, terrace_waves

__all__ = ["Calibration", "calibrate"]

#: hills of each tilt; tilts that are simulated, and those that are weighed, as parts of the largest one
HILLS, TILTS, FINE_TILTS = 3, (0.0, 0.5, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0)
#: foci within two standard deviations: simulated so far apart, and weighed so far apart [angstrom]
FOCUS_STEP, FINE_FOCUS = 10.0, 3.0
#: calibrations that are remembered
KEPT = 32
_KEPT: dict[tuple, Calibration] = {}


@dataclass(frozen=True, eq=False)
class Calibration:
    """Contrast of columns of 1 to N atoms, for each tilt and focus.

    Attributes
    ----------
    curves : Curves
        Intensity and its scatter (settings, N).
    error : ndarray, shape (settings, N)
        Standard error of the intensity.
    tilt, defocus : ndarray, shape (settings,)
        [degree], and [angstrom] beyond that of the optics.
    """

    curves: Curves
    error: np.ndarray
    tilt: np.ndarray
    defocus: np.ndarray

    @property
    def top(self) -> np.ndarray:
        """Up to how many atoms the contrast grows, in each setting."""
        return np.array([monotonic_range(m, e) for m, e in zip(self.curves.mean, self.error, strict=True)])


def calibrate(species: str, zone_axis: str, *, optics: Optics, energy: float, most: int, pixel_size: float,
              mtf: Callable[[np.ndarray], np.ndarray] | None, max_tilt: float, defocus_error: float,
              thermal: float) -> Calibration:
    """Simulate hills of columns and measure them as `find_columns` measures; remembered while the process lives.

    The defocus is that of the middle of the crystal. Its error makes settings within two of it,
    the largest tilt makes settings from 0 up to it.
    """
    key = (species, zone_axis, optics, energy, most, pixel_size, max_tilt, defocus_error, thermal, _values(mtf))
    if key in _KEPT:
        return _KEPT[key]
    tilts = np.array(TILTS if max_tilt else (0.0,)) * max_tilt
    reach = 2 * defocus_error
    foci = np.linspace(-reach, reach, 2 * int(np.ceil(reach / FOCUS_STEP)) + 1) if reach else np.zeros(1)
    lenses = [replace(optics, defocus=optics.defocus + shift) for shift in foci]
    found = np.stack([_measured(terrace_waves(species, zone_axis, most, energy, float(tilt), thermal, HILLS), lenses,
                                energy, pixel_size, mtf, most) for tilt in tilts])
    fine_tilts = np.array(FINE_TILTS if max_tilt else (0.0,)) * max_tilt
    fine = np.linspace(-reach, reach, 2 * int(np.ceil(reach / FINE_FOCUS)) + 1) if reach else np.zeros(1)
    # (tilt, what, focus, N): what is 0 for the intensity, 1 for its scatter, 2 for its error
    found = _between(tilts, fine_tilts, _between(foci, fine, found, 2), 0)
    mean, scatter, error = found.swapaxes(0, 1).reshape(3, -1, most)
    weight = np.exp(-0.5 * (fine / defocus_error) ** 2) if reach else np.ones(1)
    weight = np.tile(weight, len(fine_tilts))
    made = Calibration(Curves(mean, np.maximum(scatter, 0), weight / weight.sum()), np.maximum(error, 1e-9),
                       np.repeat(fine_tilts, len(fine)), np.tile(fine, len(fine_tilts)))
    while len(_KEPT) >= KEPT:
        _KEPT.pop(next(iter(_KEPT)))
    _KEPT[key] = made
    return made


def _values(mtf: Any) -> Any:
    """What a response is known by."""
    return None if mtf is None else tuple(np.round(np.asarray(mtf(np.linspace(0, np.sqrt(2), 64))), 9).tolist())


def _between(at: np.ndarray, wanted: np.ndarray, values: np.ndarray, axis: int) -> np.ndarray:
    return values if len(at) == 1 else CubicSpline(at, values, axis=axis, bc_type="natural")(wanted)


def _measured(waves: tuple[TerraceWave, ...], lenses: list[Optics], energy: float, pixel_size: float,
              mtf: Callable | None, most: int) -> np.ndarray:
    """Intensity, scatter and error of the intensity (3, lenses, N) of columns of 1 to N atoms."""
    values: list[list[np.ndarray]] = [[] for _ in lenses]
    atoms = np.concatenate([wave.columns["atoms"].to_numpy() for wave in waves])
    for wave in waves:
        n = round(wave.box / pixel_size)
        step = (wave.box / n,) * 2
        there = [replace(lens, defocus=lens.defocus + wave.height) for lens in lenses]
        images = expected_images(wave.wave, wave.box / len(wave.wave), there, energy=energy,
                                 gold_thickness=wave.thickness, shapes=[(n, n)] * len(lenses))
        response = None if mtf is None else np.asarray(mtf(radial_frequency((n, n))), np.float32)
        place = wave.columns[["y", "x"]].to_numpy()
        for image, into in zip(images, values, strict=True):
            seen = image if response is None else filter_images(image, response)
            into.append(fit_columns(seen, place, step)["intensity"].to_numpy())
    return np.stack([_summary(np.concatenate(v), atoms, most) for v in values], axis=1)


def _summary(values: np.ndarray, atoms: np.ndarray, most: int) -> np.ndarray:
    """Median, scatter and error of the median (3, N) of the values of each number of atoms."""
    out = np.empty((3, most))
    for k in range(most):
        here = values[(atoms == k + 1) & np.isfinite(values)]
        low, middle, high = np.quantile(here, [0.159, 0.5, 0.841])
        out[:, k] = middle, (high - low) / 2, 1.25 * (high - low) / 2 / np.sqrt(len(here))
    return out
