"""Pairs of lattice spots in a power spectrum: find, measure, and say how sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..core.errors import InputError
from ..core.schema import PEAK_PAIRS
from .background import Annuli, Background, cut_annuli, detection_threshold, fit_background, surroundings
from .crop import Crop, masked_crop
from .crystal import d_spacings
from .half_plane import HalfGrid, HalfPlane, half_planes, of_spectrum
from .net import missing_pairs
from .spectrum import Spectrum

__all__ = ["D_RANGE", "NYQUIST_FRACTION", "find_pairs", "find_pairs_many", "peak_pairs", "search_limits"]

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
#: a maximum this many 1 / diameter from a spot, and below this part of its power, is a part of that spot: facets and
#: dynamical scattering make the amplitude and the phase of fringes vary over a particle, and its spots have satellites
SATELLITE_REACH, SATELLITE_POWER = 3.0, 0.5
#: a spot and its surroundings out to this many 1 / diameter are left out of the noise level
EXCLUSION = 1.6
#: a maximum between bins is higher than the highest bin, by no more than this inverse in a padded spectrum
PREFILTER = 0.5
#: the highest frequency transformed is a multiple of this, so that crops of one size share their grid [1/angstrom]
REACH_STEP = 0.05


@dataclass
class _Search:
    """The part of a spectrum in which spots are looked for, and what is known about its noise."""

    plane: HalfPlane
    annuli: Annuli
    power: np.ndarray
    rings: np.ndarray | None
    resolution: float
    trials: float
    density: float
    limits: tuple[float, float]

    @property
    def grid(self) -> HalfGrid:
        return self.plane.grid

    def allowed(self, k: np.ndarray) -> np.ndarray:
        """Whether spots are searched at these frequencies [1/angstrom]."""
        inside = (k >= self.limits[0]) & (k <= self.limits[1])
        if self.rings is None:
            return inside
        return inside & (np.abs(k[..., None] * self.rings - 1) <= RING_TOLERANCE).any(axis=-1)


def search_limits(pixel_size: tuple[float, float], d_range: tuple[float, float] | None = None,
                  information_limit: float | None = None) -> tuple[float, float]:
    """Lowest and highest frequency searched [1/angstrom]; the first is the higher where nothing is left.

    Parameters
    ----------
    pixel_size : (float, float)
        (y, x) [angstrom].
    d_range : (float, float), optional
        Spacings searched [angstrom], `D_RANGE` by default.
    information_limit : float, optional
        Smallest spacing that the microscope transfers [angstrom].

    Raises
    ------
    InputError
        If a given ``d_range`` lies wholly beyond 0.9 of the Nyquist frequency or the information limit.
    """
    low, high = (min(d_range or D_RANGE), max(d_range or D_RANGE))
    finest = 2 * max(pixel_size) / NYQUIST_FRACTION
    if d_range is not None and high <= finest:
        raise InputError(f"d_range is {d_range!r} angstrom, and pixels of {max(pixel_size):g} angstrom show no spacing "
                         f"below {finest:.3g} angstrom (0.9 of Nyquist): expected a range that reaches above it, or "
                         f"an image with smaller pixels")
    if information_limit is not None and not 0 < information_limit < high:
        raise InputError(f"information_limit is {information_limit!r}; expected the smallest spacing in angstrom that "
                         f"the microscope transfers, as 0.8, below the largest spacing searched ({high:g})")
    return 1 / high, 1 / max(low, finest, information_limit or 0.0)


def peak_pairs(image: np.ndarray, mask: np.ndarray | None, pixel_size: tuple[float, float], *,
               crystal: Any = None, mtf: Callable[[np.ndarray], np.ndarray] | None = None,
               d_range: tuple[float, float] | None = None, alpha: float = 0.01, taper: float | None = None,
               information_limit: float | None = None) -> pd.DataFrame:
    """Lattice spot pairs of the masked region; see `hrtem_dask.fourier_peak_pairs`."""
    crop = masked_crop(image, mask, pixel_size, taper)
    return find_pairs_many([crop], crystal=crystal, mtf=mtf, d_range=d_range, alpha=alpha,
                           information_limit=information_limit)[0]


def find_pairs_many(crops: Sequence[Crop], *, crystal: Any = None,
                    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
                    d_range: tuple[float, float] | None = None, alpha: float = 0.01,
                    information_limit: float | None = None) -> list[pd.DataFrame]:
    """Find the pairs of several crops; those of one size go through the Fourier transform together.

    Parameters
    ----------
    crops : sequence of Crop
        From `masked_crop`.
    crystal, mtf, d_range, alpha, information_limit
        See `hrtem_dask.fourier_peak_pairs`.

    Returns
    -------
    list of pandas.DataFrame
        Table `core.schema.PEAK_PAIRS` of each crop, brightest first; the same as one by one.
    """
    tables: dict[int, pd.DataFrame] = {}
    jobs: dict[tuple[tuple[float, float], float], list[int]] = {}
    for i, crop in enumerate(crops):
        limits = search_limits(crop.pixel_size, d_range, information_limit)
        # fewer than three of the widest fringes in the crop, or nothing above the limits
        if limits[1] > limits[0] and 3 / crop.diameter <= limits[0] and crop.data.any():
            jobs.setdefault((limits, _reach(crop, limits)), []).append(i)
    for (limits, reach), members in jobs.items():
        some = [crops[i] for i in members]
        planes = half_planes(some, reach, mtf)
        for i, crop, plane in zip(members, some, planes, strict=True):
            tables[i] = _find(crop, plane, limits, _rings(crystal, limits), alpha)
    if crystal is not None and not jobs:
        _rings(crystal, (1 / D_RANGE[1], 1 / D_RANGE[0]))  # an unknown crystal is an error also where nothing is seen
    return [tables[i] if i in tables else PEAK_PAIRS.empty() for i in range(len(crops))]


def find_pairs(crop: Crop, spectrum: Spectrum, *, crystal: Any = None, d_range: tuple[float, float] | None = None,
               alpha: float = 0.01, information_limit: float | None = None) -> pd.DataFrame:
    """Find the pairs in a spectrum that was made from this crop; see `find_pairs_many` for many crops.

    Parameters
    ----------
    crop : Crop
        From `masked_crop`; gives the resolution and the number of independent bins.
    spectrum : Spectrum
        From `power_spectrum` of the same crop.
    crystal, d_range, alpha, information_limit
        See `hrtem_dask.fourier_peak_pairs`.

    Returns
    -------
    pandas.DataFrame
        Table `core.schema.PEAK_PAIRS`, brightest first.
    """
    limits = search_limits(crop.pixel_size, d_range, information_limit)
    if limits[1] <= limits[0] or 3 / crop.diameter > limits[0] or not crop.data.any():
        return PEAK_PAIRS.empty()
    return _find(crop, of_spectrum(spectrum, crop, _reach(crop, limits)), limits, _rings(crystal, limits), alpha)


def _reach(crop: Crop, limits: tuple[float, float]) -> float:
    """Highest frequency transformed [1/angstrom]: the noise level needs surroundings of the search."""
    return float(np.ceil((limits[1] + surroundings(1 / crop.diameter)) / REACH_STEP) * REACH_STEP)


def _rings(crystal: Any, limits: tuple[float, float]) -> np.ndarray | None:
    return None if crystal is None else d_spacings(crystal, 1 / limits[1], 1 / limits[0])


def _find(crop: Crop, plane: HalfPlane, limits: tuple[float, float], rings: np.ndarray | None,
          alpha: float) -> pd.DataFrame:
    search = _prepare(crop, plane, limits, rings)
    if search is None:
        return PEAK_PAIRS.empty()
    found, noise, threshold = np.zeros((0, 4)), None, np.zeros(0)
    for azimuthal in (False, True, True):  # spots found in one pass are left out of the noise level of the next
        noise = fit_background(search.power, _valid(search, found), search.annuli, density=search.density,
                               azimuthal=azimuthal)
        if noise is None:
            return PEAK_PAIRS.empty()
        threshold = detection_threshold(search.trials, noise.samples, alpha)
        before, found = found, _detect(search, noise, threshold)
        if azimuthal and np.array_equal(before, found):
            break  # the next pass would leave out the same bins
    return _table(search, noise, threshold, found[found[:, 3] > 0])


def _prepare(crop: Crop, plane: HalfPlane, limits: tuple[float, float], rings: np.ndarray | None) -> _Search | None:
    resolution, grid = 1 / crop.diameter, plane.grid
    annuli = cut_annuli(grid, resolution, limits)
    if annuli is None:
        return None
    cell = float(np.prod(grid.step))
    search = _Search(plane, annuli, plane.power.ravel()[annuli.bins], rings, resolution, trials=0.0,
                     density=cell * crop.noise_area, limits=limits)
    search.trials = float(search.allowed(grid.k.ravel()[annuli.bins]).sum()) * cell * crop.area
    return search if search.trials > 0 else None


def _valid(search: _Search, found: np.ndarray) -> np.ndarray:
    """Bins of the annuli that are not near a spot that is known."""
    grid, radius = search.grid, EXCLUSION * search.resolution
    valid = np.ones(grid.k.shape, dtype=bool)
    for sign in (1, -1):
        i, j, distance = _discs(grid, sign * found[:, :2], radius)
        near = (distance <= radius) & (i >= 0) & (i <= grid.n_y) & (np.abs(j) <= grid.n_x)
        valid[i[near], j[near] + grid.n_x] = False
    return valid.ravel()[search.annuli.bins]


def _discs(grid: HalfGrid, g: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices (i, j) of the bins around each place and their distance from it, shape (places, bins)."""
    reach = [int(np.ceil(radius / d)) + 1 for d in grid.step]
    a, b = np.mgrid[-reach[0]: reach[0] + 1, -reach[1]: reach[1] + 1].reshape(2, 1, -1)
    i, j = (np.rint(g[:, axis] / grid.step[axis]).astype(np.int64)[:, None] + o for axis, o in ((0, a), (1, b)))
    return i, j, np.hypot(i * grid.step[0] - g[:, :1], j * grid.step[1] - g[:, 1:2])


def _detect(search: _Search, noise: Background, threshold: np.ndarray) -> np.ndarray:
    """Rows (g_y, g_x, power, 1 or 0): the spots, brightest first; 0 marks one outside the searched range."""
    candidates = _local_maxima(search, noise, threshold)
    if not len(candidates):
        return candidates
    step, plane = search.grid.step, search.plane
    at = [np.rint(candidates[:, axis] / step[axis]).astype(int) for axis in (0, 1)]
    needed = np.sqrt(np.interp(np.hypot(*candidates.T[:2]), noise.k, threshold)
                     * noise.at(candidates[:, 0], candidates[:, 1]))
    # leaks arrive before the detector's MTF, which the power was divided by
    response = plane.response_at(*at)
    leak = plane.step_at(*at)
    taken: list[int] = []
    for i in np.argsort(candidates[:, 2])[::-1]:
        g, amplitude = candidates[i, :2], np.sqrt(candidates[i, 2])
        if amplitude - LEAKAGE_SAFETY * leak[i] <= needed[i]:
            continue
        if any(np.hypot(*(g - s * candidates[j, :2])) < search.resolution * (
                SATELLITE_REACH if candidates[i, 2] < SATELLITE_POWER * candidates[j, 2] else 1)
                for j in taken for s in (1, -1)):
            continue
        taken.append(i)
        for sign in (1, -1):  # amplitudes of several spots' side lobes may add up
            distance = np.hypot(candidates[:, 0] - sign * g[0], candidates[:, 1] - sign * g[1])
            leak += amplitude * response[i] / response * np.interp(distance, *plane.lobes)
    return candidates[taken]


def _local_maxima(search: _Search, noise: Background, threshold: np.ndarray) -> np.ndarray:
    """Sub-pixel local maxima well above the noise, as in `_detect`."""
    grid, annuli, margin = search.grid, search.annuli, 2 * search.resolution
    needed = noise.in_cells(annuli) * np.interp(annuli.centres, noise.k, PREFILTER * threshold)[:, None]
    far = (annuli.centres < search.limits[0] - margin) | (annuli.centres > search.limits[1] + margin)
    needed[far] = np.inf
    strong = annuli.bins[search.power > needed.astype(np.float32).ravel()[annuli.cell]]
    i, j = strong // grid.k.shape[1], strong % grid.k.shape[1] - grid.n_x
    inner = (i < grid.n_y) & (np.abs(j) < grid.n_x)
    i, j = i[inner], j[inner]
    a, b = np.mgrid[:3, -1:2][..., None]
    around = search.plane.unfolded[i + a, j + b + grid.n_x]
    peak = around[1, 1] >= around.max(axis=(0, 1))
    i, j = i[peak], j[peak]
    log = np.log(np.maximum(around[:, :, peak].astype(np.float64), 1e-300))
    top = log[1, 1]
    shifts, gain = [], 0.0
    for before, after in ((log[0, 1], log[2, 1]), (log[1, 0], log[1, 2])):
        curve = 2 * top - before - after
        shift = np.where(curve > 0, (after - before) / (2 * np.where(curve > 0, curve, 1.0)), 0.0).clip(-0.5, 0.5)
        shifts.append(shift)
        gain = gain + shift * (after - before) / 4
    g = np.column_stack([(i + shifts[0]) * grid.step[0], (j + shifts[1]) * grid.step[1]])
    allowed = search.allowed(np.hypot(i * grid.step[0], j * grid.step[1]))
    return np.column_stack([g, np.exp(top + gain), allowed])


def _table(search: _Search, noise: Background, threshold: np.ndarray, found: np.ndarray) -> pd.DataFrame:
    predicted = missing_pairs(found[:, :2], found[:, 2], tolerance=search.resolution, limits=search.limits)
    g = np.concatenate([found[:, :2], predicted])
    if not len(g):
        return PEAK_PAIRS.empty()
    g = np.where(((g[:, 0] < 0) | ((g[:, 0] == 0) & (g[:, 1] < 0)))[:, None], -g, g)
    radius, level = np.hypot(g[:, 0], g[:, 1]), noise.at(g[:, 0], g[:, 1])
    at = [np.rint(predicted[:, axis] / search.grid.step[axis]).astype(int) for axis in (0, 1)]
    power = np.concatenate([found[:, 2], search.plane.power[search.grid.fold(*at)]])
    # the power of a fringe of amplitude a is (a / 2)^2 (sum of weights)^2, its variance a^2 / 2
    full = float(search.plane.window[0, search.grid.n_x])
    limit = 2 * (np.interp(radius, noise.k, threshold) - 1) * level / full
    intensity = np.maximum(_integrate(search, noise, g), limit) * search.plane.unit
    order = np.argsort(-intensity, kind="stable")
    columns = {"g_y": g[:, 0], "g_x": g[:, 1], "d_spacing": 1 / radius, "intensity": intensity,
               "significance": power / level, "detected": np.arange(len(g)) < len(found)}
    return pd.DataFrame({name: column[order] for name, column in columns.items()}, columns=PEAK_PAIRS.names)


def _integrate(search: _Search, noise: Background, g: np.ndarray) -> np.ndarray:
    """Variance of each fringe: power above the noise in a disc, over what a pure fringe would put there."""
    grid, radius = search.grid, INTEGRATION * search.resolution
    i, j, distance = _discs(grid, g, radius)
    k_y, k_x = i * grid.step[0], j * grid.step[1]
    inside = distance <= radius
    for n, place in enumerate(g):
        for sign in (1, -1):  # a bin belongs to the nearest spot
            nearer = np.hypot(k_y - sign * place[0], k_x - sign * place[1]) < distance
            if sign == 1:
                nearer[n] = False
            inside &= ~nearer
    above = search.plane.power[grid.fold(i, j)] - noise.at(k_y, k_x)
    # what a pure fringe's spot, which has the shape of the window's power, holds in the same bins
    a, b = (np.rint((k - g[:, axis: axis + 1]) / grid.step[axis]).astype(int) for axis, k in ((0, k_y), (1, k_x)))
    shape = search.plane.window[grid.fold(a, b)].astype(np.float64)
    return 2 * (above * inside).sum(axis=1) / (shape * inside).sum(axis=1)
