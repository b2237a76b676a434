"""Pairs of lattice spots in a power spectrum: find, measure, and say how sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import maximum_filter

from ..core.schema import PEAK_PAIRS
from .background import Background, detection_threshold, fit_background
from .crop import Crop, masked_crop
from .crystal import d_spacings
from .net import missing_pairs
from .spectrum import Spectrum, full_power, power_spectrum

__all__ = ["D_RANGE", "NYQUIST_FRACTION", "find_pairs", "peak_pairs"]

#: spacings searched where no crystal is given [angstrom]
D_RANGE = (1.0, 3.6)
#: highest frequency used, in units of Nyquist
NYQUIST_FRACTION = 0.9
#: relative tolerance of a crystal's rings: calibration, strain and spot width
RING_TOLERANCE = 0.04
#: radius of the disc over which a spot is integrated, in units of 1 / diameter (first dark ring of a disc: 1.22)
INTEGRATION = 1.2
#: the amplitude of a spot counts only as far as it exceeds this multiple of what the outline's step and the
#: side lobes of brighter spots could add there; amplitudes, because noise adds to a lobe coherently
LEAKAGE_SAFETY = 1.1
#: a spot and its surroundings out to this many 1 / diameter are left out of the noise level
EXCLUSION = 1.6


@dataclass
class _Search:
    """The part of a spectrum in which spots are looked for, and what is known about its noise."""

    spectrum: Spectrum
    k: np.ndarray
    allowed: np.ndarray
    resolution: float
    trials: float
    density: float
    limits: tuple[float, float]
    weight_sum: float
    lobes: tuple[np.ndarray, np.ndarray]
    shape: np.ndarray


def peak_pairs(image: np.ndarray, mask: np.ndarray | None, pixel_size: tuple[float, float], *,
               crystal: str | Sequence[float] | None = None, mtf: Callable[[np.ndarray], np.ndarray] | None = None,
               d_range: tuple[float, float] = D_RANGE, alpha: float = 0.01, taper: float | None = None) -> pd.DataFrame:
    """Lattice spot pairs of the masked region; see `hrtem_dask.fourier_peak_pairs`."""
    crop = masked_crop(image, mask, pixel_size, taper)
    return find_pairs(crop, power_spectrum(crop, mtf=mtf), crystal=crystal, d_range=d_range, alpha=alpha)


def find_pairs(crop: Crop, spectrum: Spectrum, *, crystal: str | Sequence[float] | None = None,
               d_range: tuple[float, float] = D_RANGE, alpha: float = 0.01) -> pd.DataFrame:
    """Find the pairs in a spectrum that was made from this crop.

    Parameters
    ----------
    crop : Crop
        From `masked_crop`; gives the resolution and the number of independent bins.
    spectrum : Spectrum
        From `power_spectrum` of the same crop.
    crystal : str or sequence of float, optional
        Search only the rings of this crystal (name, or spacings [angstrom]).
    d_range : (float, float)
        Spacings searched [angstrom].
    alpha : float
        Probability of any false detection in pure noise.

    Returns
    -------
    pandas.DataFrame
        Table `core.schema.PEAK_PAIRS`, brightest first.
    """
    search = _prepare(crop, spectrum, crystal, d_range)
    if search is None:
        return PEAK_PAIRS.empty()
    found, noise, threshold = np.zeros((0, 4)), None, np.zeros(0)
    for azimuthal in (False, True, True):  # spots found in one pass are left out of the noise level of the next
        noise = _noise(search, found, azimuthal)
        if noise is None:
            return PEAK_PAIRS.empty()
        threshold = detection_threshold(search.trials, noise.samples, alpha)
        found = _detect(search, noise, threshold)
    detected = found[found[:, 3] > 0]
    return _table(search, noise, threshold, detected)


def _prepare(crop: Crop, spectrum: Spectrum, crystal: str | Sequence[float] | None,
             d_range: tuple[float, float]) -> _Search | None:
    low, high = 1 / max(d_range), min(1 / min(d_range), NYQUIST_FRACTION * 0.5 / max(crop.pixel_size))
    k = np.hypot(spectrum.k_y[:, None], spectrum.k_x[None, :])
    allowed = (k >= low) & (k <= high)
    if crystal is not None:
        rings = d_spacings(crystal, 1 / high, 1 / low) if high > low else np.zeros(0)
        allowed &= np.any([np.abs(k * d - 1) <= RING_TOLERANCE for d in rings] or [np.zeros_like(allowed)], axis=0)
    resolution = 1 / crop.diameter
    if not allowed.any() or 3 * resolution > low:  # fewer than three of the widest fringes in the crop
        return None
    cell = float(np.prod(spectrum.step))
    outline = full_power(crop.outline.astype(np.float64), spectrum.power.shape)
    return _Search(
        spectrum, k, allowed, resolution,
        trials=float(allowed.sum()) / 2 * cell * crop.area, density=cell * crop.noise_area, limits=(low, high),
        weight_sum=float(crop.weight.sum()), lobes=_side_lobes(spectrum, k, outline),
        shape=_step_amplitude(crop, spectrum))


def _side_lobes(spectrum: Spectrum, k: np.ndarray, outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Envelope of a spot's side lobes: the highest relative amplitude at this distance or further, any direction.

    The taper softens the crop, but a particle inside it ends as sharply as its outline, and so do its fringes.
    """
    step = max(spectrum.step)
    ring = np.minimum((k / step).astype(int), int(k.max() / step))
    highest = np.zeros(ring.max() + 1)
    for window in (spectrum.window, outline):
        np.maximum.at(highest, ring.ravel(), window.ravel() / window.max())
    return np.arange(len(highest)) * step, np.sqrt(np.maximum.accumulate(highest[::-1])[::-1])


def _step_amplitude(crop: Crop, spectrum: Spectrum) -> np.ndarray:
    """Amplitude that the step of the mean at the outline sends to each frequency: a facet makes a far streak."""
    mean = (crop.outline * crop.weight).sum() / crop.weight.sum()
    step = (crop.outline - mean) * crop.weight if crop.contrast else np.zeros_like(crop.weight)
    return abs(crop.contrast) * np.sqrt(maximum_filter(full_power(step, spectrum.power.shape), size=3))


def _noise(search: _Search, found: np.ndarray, azimuthal: bool) -> Background | None:
    valid = np.ones(search.k.shape, dtype=bool)
    radius = EXCLUSION * search.resolution
    for g_y, g_x in found[:, :2]:
        for sign in (1, -1):
            rows, cols = _box(search.spectrum, sign * g_y, sign * g_x, radius)
            y, x = search.spectrum.k_y[rows, None], search.spectrum.k_x[None, cols]
            valid[rows, cols] &= np.hypot(y - sign * g_y, x - sign * g_x) > radius
    return fit_background(search.spectrum.power, search.spectrum.k_y, search.spectrum.k_x, valid,
                          resolution=search.resolution, density=search.density, limits=search.limits,
                          azimuthal=azimuthal)


def _box(spectrum: Spectrum, g_y: float, g_x: float, radius: float) -> tuple[slice, slice]:
    rows = np.searchsorted(spectrum.k_y, (g_y - radius, g_y + radius))
    cols = np.searchsorted(spectrum.k_x, (g_x - radius, g_x + radius))
    return slice(*rows), slice(*cols)


def _detect(search: _Search, noise: Background, threshold: np.ndarray) -> np.ndarray:
    """Rows (g_y, g_x, power, 1 or 0): the spots, brightest first; 0 marks one outside the searched range."""
    candidates = _local_maxima(search, noise)
    radius = np.hypot(candidates[:, 0], candidates[:, 1])
    level = noise.at(candidates[:, 0], candidates[:, 1])
    needed = np.interp(radius, noise.k, threshold) * level
    at = [np.rint((g - axis[0]) / d).astype(int) for g, axis, d in
          zip(candidates.T[:2], (search.spectrum.k_y, search.spectrum.k_x), search.spectrum.step, strict=True)]
    leak = search.shape[at[0], at[1]]
    taken: list[int] = []
    for i in np.argsort(candidates[:, 2])[::-1]:
        g, power = candidates[i, :2], candidates[i, 2]
        if np.sqrt(power) - LEAKAGE_SAFETY * leak[i] <= np.sqrt(needed[i]):
            continue
        near = [np.hypot(*(g - s * candidates[j, :2])) < search.resolution for j in taken for s in (1, -1)]
        if any(near):
            continue
        taken.append(i)
        for sign in (1, -1):  # amplitudes of several spots' side lobes may add up
            distance = np.hypot(candidates[:, 0] - sign * g[0], candidates[:, 1] - sign * g[1])
            leak += np.sqrt(power) * np.interp(distance, *search.lobes)
    return candidates[taken]


def _local_maxima(search: _Search, noise: Background) -> np.ndarray:
    """Sub-pixel local maxima well above the noise in the half plane, as in `_detect`."""
    s = search.spectrum
    margin = 2 * search.resolution
    reach = search.limits[1] + margin
    rows, cols = (slice(max(np.searchsorted(a, -reach) - 1, 1), min(np.searchsorted(a, reach) + 1, a.size - 1))
                  for a in (s.k_y, s.k_x))
    power = s.power[rows, cols]
    k = search.k[rows, cols]
    ky, kx = s.k_y[rows, None], s.k_x[None, cols]
    half = (ky > 0) | ((ky == 0) & (kx > 0))
    zone = half & (k >= search.limits[0] - margin) & (k <= reach)
    peak = zone & (power == maximum_filter(power, size=3, mode="nearest"))
    i, j = np.nonzero(peak)
    strong = power[i, j] > 3 * noise.at(ky[i, 0], kx[0, j])
    i, j = i[strong] + rows.start, j[strong] + cols.start
    if not i.size:
        return np.zeros((0, 4))
    log = np.log(np.maximum(s.power, np.finfo(np.float64).tiny))
    top = log[i, j]
    shifts, gain = [], 0.0
    for before, after in ((log[i - 1, j], log[i + 1, j]), (log[i, j - 1], log[i, j + 1])):
        curve = 2 * top - before - after
        shift = np.where(curve > 0, (after - before) / (2 * np.where(curve > 0, curve, 1.0)), 0.0).clip(-0.5, 0.5)
        shifts.append(shift)
        gain = gain + shift * (after - before) / 4
    return np.column_stack([s.k_y[i] + shifts[0] * s.step[0], s.k_x[j] + shifts[1] * s.step[1],
                            np.exp(top + gain), search.allowed[i, j]])


def _table(search: _Search, noise: Background, threshold: np.ndarray, found: np.ndarray) -> pd.DataFrame:
    predicted = missing_pairs(found[:, :2], found[:, 2], tolerance=search.resolution, limits=search.limits)
    g = np.concatenate([found[:, :2], predicted])
    g = np.where(((g[:, 0] < 0) | ((g[:, 0] == 0) & (g[:, 1] < 0)))[:, None], -g, g)
    if not len(g):
        return PEAK_PAIRS.empty()
    radius = np.hypot(g[:, 0], g[:, 1])
    level = noise.at(g[:, 0], g[:, 1])
    # the power of a fringe of amplitude a is (a / 2)^2 (sum of weights)^2, its variance a^2 / 2
    limit = 2 * (np.interp(radius, noise.k, threshold) - 1) * level / search.weight_sum**2
    intensity = np.array([_integrate(search, noise, i, g) for i in range(len(g))])
    detected = np.arange(len(g)) < len(found)
    power = np.concatenate([found[:, 2], [_power_at(search, *p) for p in predicted]])
    rows = pd.DataFrame({
        "g_y": g[:, 0], "g_x": g[:, 1], "d_spacing": 1 / radius, "intensity": np.maximum(intensity, limit),
        "significance": power / level, "detected": detected,
    })
    rows = rows.sort_values("intensity", ascending=False, kind="stable", ignore_index=True)
    return PEAK_PAIRS.coerce(rows)


def _integrate(search: _Search, noise: Background, which: int, g: np.ndarray) -> float:
    """Variance of the fringe [counts^2]: power above the noise in a disc, over what a pure fringe would put there."""
    s = search.spectrum
    radius = INTEGRATION * search.resolution
    everything = np.concatenate([g, -g])
    rows, cols = _box(s, *g[which], radius)
    y, x = s.k_y[rows, None], s.k_x[None, cols]
    distance = np.hypot(y - g[which, 0], x - g[which, 1])
    others = np.delete(everything, which, axis=0)
    nearest = np.min([np.hypot(y - o[0], x - o[1]) for o in others], axis=0)
    inside = (distance <= radius) & (distance <= nearest)
    total = float((s.power[rows, cols] - noise.at(y, x))[inside].sum())
    # what a pure fringe's spot, which has the shape of the window's power, holds in the same bins
    i = np.rint((y[:, 0] - g[which, 0]) / s.step[0]).astype(int) + s.k_y.size // 2
    j = np.rint((x[0] - g[which, 1]) / s.step[1]).astype(int) + s.k_x.size // 2
    return 2 * total / float(s.window[np.ix_(i, j)][inside].sum())


def _power_at(search: _Search, g_y: float, g_x: float) -> float:
    s = search.spectrum
    return float(s.power[np.abs(s.k_y - g_y).argmin(), np.abs(s.k_x - g_x).argmin()])
