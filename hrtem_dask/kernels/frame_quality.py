"""What the raw pixels of a frame say about it: counts at the maximum, unknown ones, and the power spectrum.

A frame is cut into windows from its pixel (0, 0); the power spectra of all windows add up, so a frame of
any size is the sum of its parts. The power is then averaged over bins of frequency and direction.
Everything that is judged is a ratio of powers, or a number of pixels: neither scale nor offset of
the counts matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, optimize

from .noise_power import detrend, hann, outliers, shared_modes, usable_modes

__all__ = ["Bins", "FramePart", "Measured", "bins_of", "clipped_pixels", "measure_part", "pair_noise", "reduce_frame",
           "window_side"]

#: side of a window [angstrom] where the pixels are fine, and its limits [pixel]
WINDOW, WINDOW_PIXELS = 80.0, (256, 1024)
#: below this side there is no spectrum worth the name [pixel]
SMALLEST = 32
#: distinct values from the top that are counted; a pile has at least so many below it, else electrons are counted
LEVELS, BELOW = 8, 3
#: part of a window that may be unknown
MISSING = 0.25
#: frequencies in which the sharpness is judged [1/angstrom], the same as a part of Nyquist without calibration
BAND, BAND_NYQUIST = (0.08, 0.65), (0.1, 0.7)
#: part of Nyquist up to which the band may reach, and where the noise is measured
BAND_END, NOISE_BAND = 0.85, (0.85, 1.0)
#: frequency [1/angstrom] above which a microscope transfers nothing: noise is measured from there where pixels allow
LIMIT = 0.95
#: rings and sectors of the half plane, of the sharpness and of the search for structure
RINGS, SECTORS, SEARCH_RINGS = 8, 8, 32
LEAST_MODES = 6
#: power at the lowest frequencies over that in the middle that no detector makes of noise
LOW, MIDDLE, LOW_RATIO = (0.02, 0.08), (0.15, 0.3), 3.0
#: height of a correlation, in its root mean square, from which two frames show the same: chance reaches 5
ALIKE = 8.0


@dataclass(frozen=True)
class FramePart:
    """What one block of a frame adds to what is known of the frame; parts are added with ``+``.

    Attributes
    ----------
    pixels, unknown : int
        All pixels, and those that are not finite.
    mean, m2 : float
        Of the known pixels, and the sum of their squared deviations [counts, counts^2].
    top : tuple of (value, pixels)
        The highest distinct values, highest first.
    low : float
        The lowest value.
    power : ndarray or None, shape (y, x // 2 + 1)
        Sum of the power of the windows [counts^2].
    windows : int
        How many windows.
    """

    pixels: int
    unknown: int
    mean: float
    m2: float
    top: tuple[tuple[float, int], ...]
    low: float
    power: np.ndarray | None
    windows: int

    def __add__(self, other: FramePart) -> FramePart:
        n, m = self.pixels - self.unknown, other.pixels - other.unknown
        share = m / max(n + m, 1)
        step = other.mean - self.mean if n and m else 0.0
        mean = self.mean + step * share if n else other.mean
        powers = [p for p in (self.power, other.power) if p is not None]
        return FramePart(
            self.pixels + other.pixels, self.unknown + other.unknown, mean, self.m2 + other.m2 + step**2 * n * share,
            _highest([*self.top, *other.top]), min(self.low, other.low),
            powers[0] + powers[1] if len(powers) == 2 else powers[0] if powers else None,
            self.windows + other.windows)


def _highest(levels: list[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    counts: dict[float, int] = {}
    for value, n in levels:
        counts[value] = counts.get(value, 0) + n
    return tuple(sorted(counts.items(), reverse=True)[:LEVELS])


def window_side(n: int, pixel_size: float | None) -> int:
    """Side of the windows along an axis of n pixels: a few pixels at its end may belong to none.

    Examples
    --------
    >>> window_side(4096, 0.4), window_side(300, 0.4), window_side(4096, 0.1), window_side(20, None)
    (256, 300, 810, 20)
    """
    target = int(np.clip(np.ceil(WINDOW / (pixel_size or WINDOW)), *WINDOW_PIXELS))
    return int(fft.prev_fast_len(n // max(1, round(n / target)), real=True))


def measure_part(block: np.ndarray, window: tuple[int, int]) -> FramePart:
    """Measure one block of a frame that begins where a window begins.

    Parameters
    ----------
    block : ndarray, shape (y, x)
        Counts; what does not fill a window at the end of an axis has no part in the spectrum.
    window : (int, int)
        Sides of the windows (y, x) [pixel].

    Examples
    --------
    >>> noise = np.random.default_rng(0).poisson(50, (64, 96))
    >>> part = measure_part(noise, (32, 32))
    >>> part.windows, part.pixels, bool(abs(part.power.mean() / part.windows / 50 - 1) < 0.1)
    (6, 6144, True)
    """
    finite = np.isfinite(block) if block.dtype.kind == "f" else None
    known = block.ravel() if finite is None or finite.all() else block[finite]
    if not known.size:
        return FramePart(block.size, block.size, 0.0, 0.0, (), np.inf, None, 0)
    mean = float(known.mean(dtype=np.float64))
    low = float(known.min())
    levels, rest = [], known
    while len(levels) < LEVELS and rest.size:
        top = rest.max()
        below = rest < top
        levels.append((float(top), int(rest.size - np.count_nonzero(below))))
        rest = rest[below]
    power, windows = _spectra(block, window)
    centred = known.astype(np.float64) - mean
    return FramePart(block.size, block.size - known.size, mean, float(np.dot(centred, centred)), tuple(levels), low,
                     power, windows)


def _spectra(block: np.ndarray, window: tuple[int, int]) -> tuple[np.ndarray | None, int]:
    total, count = None, 0
    for transform in _transforms(block, window):
        if transform is not None:
            power = transform.real**2 + transform.imag**2
            total, count = power if total is None else total + power, count + 1
    return total, count


def _transforms(block: np.ndarray, window: tuple[int, int]) -> Iterator[np.ndarray | None]:
    """Transforms of the windows of a block, with a mean power of the variance; None where too much is unknown."""
    wy, wx = window
    if min(window) < SMALLEST:
        return
    for i in range(0, block.shape[0] - wy + 1, wy):
        for j in range(0, block.shape[1] - wx + 1, wx):
            image = block[i:i + wy, j:j + wx].astype(np.float64)
            good = np.isfinite(image)
            if good.mean() < 1 - MISSING:
                yield None
                continue
            image = detrend(image if good.all() else np.where(good, image, image[good].mean()), 2)
            bad = outliers(image) | ~good
            scale = np.sqrt(image.size * (1 - bad.mean()))
            yield fft.rfft2(np.where(bad, 0.0, image) * _taper(window) / scale)


@lru_cache(maxsize=8)
def _taper(window: tuple[int, int]) -> np.ndarray:
    return hann(window)


def clipped_pixels(part: FramePart, limit: float | None) -> int:
    """Pixels that a camera cut off at its highest value; 0 where the highest values thin out as they should.

    A distribution thins out towards its end, a clipped one piles up there. ``limit`` is the highest value
    of the dtype, None of floats.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(100, (64, 64))
    >>> [clipped_pixels(measure_part(np.minimum(counts, top), (64, 64)), None) for top in (999, 115)]
    [0, 305]
    """
    if not part.top:
        return 0
    value, at_top = part.top[0]
    if limit is not None and value >= limit:
        return at_top
    if value == part.low:
        return 0
    counts = [n for _, n in part.top]
    for i in range(len(counts) - BELOW):  # hot pixels may lie above the level at which a camera was cut off
        if counts[i] >= 4 and counts[i] > max(counts[i + 1:]):
            return sum(counts[:i + 1])
    return 0


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins of frequency and direction of one kind of window.

    ``order`` and ``starts`` sort the modes into the bins of the sharpness; ``k`` is their mean frequency
    (bin, 2), in 1/angstrom or, without calibration, 1/pixel; ``modes`` how many modes a bin has, with what the
    taper shares taken off; ``floor`` the power of the noise there over that in the noise band.
    ``band`` numbers the rings of the sharpness mode by mode (-1 is none), ``ring`` says which one a bin lies in;
    ``search`` numbers the rings of the search for structure, up to Nyquist;
    ``low`` and ``middle`` are the modes of two bands; ``shared`` is how many modes the taper makes one.
    """

    order: np.ndarray
    starts: np.ndarray
    k: np.ndarray
    modes: np.ndarray
    floor: np.ndarray
    noise: np.ndarray
    search: np.ndarray
    band: np.ndarray
    ring: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    shared: float


def bins_of(window: tuple[int, int], pixel_size: tuple[float, float] | None,
            mtf: Callable[[np.ndarray], np.ndarray] | None = None) -> Bins | None:
    """Lay out the bins for windows of these sides [pixel]; None where they are too small for a spectrum."""
    if min(window) < SMALLEST:
        return None
    py, px = pixel_size or (1.0, 1.0)
    ky, kx = np.meshgrid(fft.fftfreq(window[0], py), fft.rfftfreq(window[1], px), indexing="ij")
    use, nyquist = usable_modes(window), 0.5 / max(py, px)
    k = np.hypot(ky, kx)
    sector = np.minimum((np.mod(np.arctan2(ky, kx), np.pi) / np.pi * SECTORS).astype(int), SECTORS - 1)
    begin, end = BAND if pixel_size else (b * nyquist for b in BAND_NYQUIST)
    end = min(end, BAND_END * nyquist)
    ring = np.floor((k - begin) / (end - begin) * RINGS).astype(int)
    number = np.where(use & (ring >= 0) & (ring < RINGS), ring * SECTORS + sector, -1).ravel()
    count = np.bincount(number[number >= 0], minlength=RINGS * SECTORS)
    number[(number >= 0) & (count[number] < LEAST_MODES)] = -1
    order = np.argsort(number, kind="stable")[np.count_nonzero(number < 0):]
    kept, starts = np.unique(number[order], return_index=True)
    response = _noise_shape(ky * 2 * py, kx * 2 * px, mtf)
    limits = [n * nyquist for n in NOISE_BAND]
    if pixel_size and nyquist > 1.1 * LIMIT:
        limits = [LIMIT, min(nyquist, 1.4 * LIMIT)]
    noise = use & (k >= limits[0]) & (k <= limits[1])
    mean = [np.add.reduceat(v.ravel()[order], starts) / count[kept] for v in (ky, kx, response)]
    step = np.floor(k / nyquist * SEARCH_RINGS).astype(int)
    search = np.where(use & (step >= 1) & (step < SEARCH_RINGS), step, -1)
    band = np.where(use & (ring >= 0) & (ring < RINGS), ring, -1)
    shared = shared_modes(hann(window))
    return Bins(order, starts, np.stack(mean[:2], 1), count[kept] / shared, mean[2] / response[noise].mean(), noise,
                search, band, kept // SECTORS,
                *(use & (k >= a * nyquist) & (k < b * nyquist) for a, b in (LOW, MIDDLE)), shared)


def _noise_shape(ky: np.ndarray, kx: np.ndarray, mtf: Callable[[np.ndarray], np.ndarray] | None) -> np.ndarray:
    """Power of the noise over frequency (in units of Nyquist), of any scale."""
    if mtf is None:
        return np.ones(ky.shape)
    value = np.asarray(mtf(np.minimum(np.hypot(ky, kx), 1.0).ravel()), dtype=np.float64).reshape(ky.shape)
    return np.maximum(np.abs(value), 1e-3) ** 2


@dataclass(frozen=True)
class Measured:
    """One frame in numbers: counts, and the power in the bins over that of the noise.

    ``structure`` is by how many deviations the spectrum is not one of noise alone: noise, whatever the
    camera, has a power that falls with the frequency, and not much between low frequencies.
    """

    pixels: int
    unknown: int
    clipped: int
    constant: bool
    mean: float
    spread: float
    windows: int
    noise: float
    power: np.ndarray
    structure: float


def reduce_frame(part: FramePart, bins: Bins | None, limit: float | None) -> Measured:
    """Reduce the sum of a frame's parts to the few numbers that its verdict needs.

    Parameters
    ----------
    part : FramePart
        All parts of the frame, added.
    bins : Bins or None
        From `bins_of`.
    limit : float or None
        Highest value of the dtype of integers.
    """
    n = part.pixels - part.unknown
    constant = n == 0 or part.top[0][0] == part.low
    spread = float(np.sqrt(part.m2 / n)) if n else np.nan
    power, noise, structure = np.full(0 if bins is None else len(bins.starts), np.nan), np.nan, np.nan
    if bins is not None and part.power is not None and not constant:
        mean = part.power / part.windows
        noise = float(mean[bins.noise].mean())
        # the median leaves out lattice spots, which come and go with the tilt of a particle
        power = _medians(mean.ravel()[bins.order], bins.starts) / np.median(mean[bins.noise])
        structure = _structure(mean, bins, part.windows)
    return Measured(part.pixels, part.unknown, clipped_pixels(part, limit), constant, part.mean if n else np.nan,
                    spread, part.windows, noise, power, structure)


def _medians(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Median of every group of values that lie side by side."""
    count = np.diff(np.append(starts, len(values)))
    ordered = values[np.lexsort((values, np.repeat(np.arange(len(starts)), count)))]
    return (ordered[starts + (count - 1) // 2] + ordered[starts + count // 2]) / 2


def _structure(power: np.ndarray, bins: Bins, windows: int) -> float:
    use = bins.search >= 0
    number = bins.search[use]
    count = np.bincount(number)
    some = count >= LEAST_MODES
    profile = np.bincount(number, power[use])[some] / count[some]
    weight = count[some] * windows / bins.shared
    falling = optimize.isotonic_regression(profile, weights=weight / profile**2, increasing=False).x
    excess = float(((profile / falling - 1) ** 2 * weight).sum()) - len(profile)
    low, middle = (float(power[m].mean()) if m.any() else np.nan for m in (bins.low, bins.middle))
    return np.inf if low > LOW_RATIO * middle else excess / np.sqrt(2 * len(profile))


def pair_noise(first: np.ndarray, second: np.ndarray, window: tuple[int, int], bins: Bins) -> np.ndarray:
    """Power of the noise in the rings of the band, from two neighbouring frames, over that in the noise band.

    Noise is independent from frame to frame, and the specimen is not: once the second frame is brought to
    where the first one is, the power of their difference is that of the noise.

    Parameters
    ----------
    first, second : ndarray, shape (y, x)
        The same part of two frames.
    window : (int, int)
        Sides of the windows (y, x) [pixel].
    bins : Bins
        From `bins_of`.

    Returns
    -------
    ndarray, shape (ring,)
        nan where the frames do not show the same, or a ring has too few modes.
    """
    pairs = list(zip(_transforms(first, window), _transforms(second, window), strict=True))
    pairs = [(f, g) for f, g in pairs if f is not None and g is not None]
    if not pairs:
        return np.full(RINGS, np.nan)
    cross, powers = sum(f * g.conj() for f, g in pairs), [sum(np.abs(p[i]) ** 2 for p in pairs) for i in (0, 1)]
    if not all(p.any() for p in powers):
        return np.full(RINGS, np.nan)
    phase = _shift_phase(np.where(bins.search >= 0, cross, 0), window)
    if phase is None:
        return np.full(RINGS, np.nan)
    # a frame of another dose is brought to the same contrast
    ratio = np.sqrt(powers[0][bins.middle].mean() / powers[1][bins.middle].mean())
    power = sum(np.abs(f - ratio * phase * g) ** 2 for f, g in pairs)
    level = np.median(power[bins.noise])
    return np.array([np.median(power[bins.band == r]) / level if np.count_nonzero(bins.band == r) >= 3 * LEAST_MODES
                     else np.nan for r in range(RINGS)])


def _shift_phase(cross: np.ndarray, window: tuple[int, int]) -> np.ndarray | None:
    """Factor that brings the second frame to the first one, from the peak of their correlation; None without one."""
    weight = cross / np.sqrt(np.maximum(np.abs(cross), 1e-300))
    correlation = fft.irfft2(weight, s=window)
    peak = np.unravel_index(int(correlation.argmax()), window)
    if correlation[peak] < ALIKE * np.sqrt(np.mean(correlation**2)):
        return None
    at = []
    for axis, (n, i) in enumerate(zip(window, peak, strict=True)):
        line = np.take(correlation, [(i - 1) % n, i, (i + 1) % n], axis=axis)
        line = np.take(line, peak[1 - axis], axis=1 - axis)
        bend = line[0] - 2 * line[1] + line[2]
        at.append(i + (0.5 * (line[0] - line[2]) / bend if bend < 0 else 0.0))
    k = np.stack(np.broadcast_arrays(fft.fftfreq(window[0])[:, None], fft.rfftfreq(window[1])[None, :]), -1)
    strong = np.abs(cross) > 0.05 * np.abs(cross).max()
    at, weight, k_strong = np.array(at), np.abs(cross[strong]), k[strong]
    normal = np.einsum("m,mi,mj->ij", weight, k_strong, k_strong)
    for _ in range(3):  # what is left of the shift, from the phases; cross turns with the shift of the second frame
        left = np.angle(cross[strong] * np.exp(2j * np.pi * (k_strong @ at)))
        at = at - np.linalg.pinv(normal) @ ((weight * left) @ k_strong) / (2 * np.pi)
    return np.exp(-2j * np.pi * (k @ at))
