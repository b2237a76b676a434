"""The half plane of a power spectrum in which spots are looked for: only what is needed, many crops at once.

A real image has P(-k) = P(k), and nothing beyond the highest frequency searched is ever looked at.
So the transform runs over the rows that hold data, keeps k_y >= 0 up to that frequency, and what
depends on the size of the crop alone is reckoned once for all crops of one size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy import fft

from .crop import Crop
from .spectrum import MTF_FLOOR, Spectrum

__all__ = ["SECTORS", "HalfGrid", "HalfPlane", "half_planes", "of_spectrum"]

#: sectors of the half plane in which medians are taken
SECTORS = 8
#: radii at which an MTF is tabulated, in units of Nyquist up to the corner of the transform
MTF_STEPS = 8192
#: a side lobe meets two bins of a padded transform, and its top between them is higher by up to this in amplitude
BETWEEN = 1.5
#: samples of the transforms of a batch together [bytes]; more would not fit into the caches
BATCH = 4 * 2**20


@dataclass(frozen=True, eq=False)
class HalfGrid:
    """Frequencies of the bins (i, j) with k_y = i * step_y, i from 0 to n_y, and k_x = j * step_x, abs(j) <= n_x.

    Attributes
    ----------
    shape : (int, int)
        Of the padded transform.
    pixel_size : (float, float)
        (y, x) [angstrom].
    n_y, n_x : int
        Highest index kept.
    """

    shape: tuple[int, int]
    pixel_size: tuple[float, float]
    n_y: int
    n_x: int

    @property
    def step(self) -> tuple[float, float]:
        """Frequency step (y, x) [1/angstrom]."""
        return 1 / (self.shape[0] * self.pixel_size[0]), 1 / (self.shape[1] * self.pixel_size[1])

    @cached_property
    def k(self) -> np.ndarray:
        """Frequency of each bin [1/angstrom], shape (n_y + 1, 2 n_x + 1)."""
        y, x = np.arange(self.n_y + 1) * self.step[0], np.arange(-self.n_x, self.n_x + 1) * self.step[1]
        return np.hypot(y[:, None], x[None, :]).astype(np.float32)

    @cached_property
    def half(self) -> np.ndarray:
        """The bins that are not the mirror image of another one, without the zero frequency."""
        half = np.ones(self.k.shape, dtype=bool)
        half[0, : self.n_x + 1] = False
        return half

    @cached_property
    def sector(self) -> np.ndarray:
        """Sector of each bin, by its angle."""
        y, x = np.arange(self.n_y + 1) * self.step[0], np.arange(-self.n_x, self.n_x + 1) * self.step[1]
        part = np.arctan2(y[:, None], x[None, :]) / np.pi * SECTORS
        return np.minimum(part.astype(np.int32), SECTORS - 1)

    @cached_property
    def rings(self) -> tuple[np.ndarray, np.ndarray]:
        """Bins in the order of their ring, one step wide, and where each ring starts in it."""
        ring = (self.k / max(self.step)).astype(np.int32).ravel()
        order = np.argsort(ring, kind="stable")
        return order, np.searchsorted(ring[order], np.arange(ring.max() + 1))

    @cached_property
    def mtf_index(self) -> np.ndarray:
        """Place of each bin in a table of an MTF, each axis in units of its own Nyquist frequency."""
        y = np.arange(self.n_y + 1) * (2 / self.shape[0])
        x = np.arange(-self.n_x, self.n_x + 1) * (2 / self.shape[1])
        return np.rint(np.hypot(y[:, None], x[None, :]) * (MTF_STEPS / 1.5)).astype(np.int32)

    def fold(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of any bin in the kept half: that of the mirror image below it; the border beyond."""
        below = i < 0
        i, j = np.where(below, -i, i), np.where(below, -j, j)
        return np.minimum(i, self.n_y), np.clip(j, -self.n_x, self.n_x) + self.n_x


@lru_cache(maxsize=24)
def half_grid(shape: tuple[int, int], pixel_size: tuple[float, float], reach: float) -> HalfGrid:
    """Grid of the bins up to a frequency [1/angstrom] in each axis, below Nyquist."""
    most = [min(int(np.ceil(reach * n * d)) + 1, n // 2 - 1) for n, d in zip(shape, pixel_size, strict=True)]
    return HalfGrid(shape, pixel_size, max(most[0], 1), max(most[1], 1))


@dataclass(eq=False)
class HalfPlane:
    """Power of one crop in the half plane, and what else the search for spots needs of it.

    Attributes
    ----------
    grid : HalfGrid
    power : ndarray, shape (n_y + 1, 2 n_x + 1)
        In ``unit``, divided by MTF^2 where an MTF was given.
    window, inner, shape : ndarray
        Power of the crop's weight, of the weight inside the mask (the shapes of a spot whose fringes go on,
        and of one whose fringes end with the particle), and of the step of the mean at the outline, which
        a spectrum of that crop must show even where there is no lattice.
    unit : float
        [counts^2]
    response : ndarray or None
        The MTF at each bin.
    """

    grid: HalfGrid
    power: np.ndarray
    window: np.ndarray
    inner: np.ndarray
    shape: np.ndarray
    unit: float
    response: np.ndarray | None = None

    @cached_property
    def unfolded(self) -> np.ndarray:
        """The power with the row below k_y = 0, so that row i is i + 1 here."""
        return np.concatenate([self.power[1:2, ::-1], self.power])

    @cached_property
    def lobes(self) -> tuple[np.ndarray, np.ndarray]:
        """Envelope of a spot's side lobes: the highest relative amplitude at this distance or further, any direction.

        The taper softens the crop, but a particle inside it ends as sharply as its outline, and so
        do its fringes.
        """
        order, starts = self.grid.rings
        highest = np.zeros(len(starts))
        for power in (self.window, self.inner):
            ring = np.maximum.reduceat(power.ravel()[order], starts)
            highest = np.maximum(highest, ring / max(float(power.max()), 1e-30))
        envelope = np.sqrt(np.maximum.accumulate(highest[::-1])[::-1])
        return np.arange(len(highest)) * max(self.grid.step), np.minimum(BETWEEN * envelope, 1.0)

    def response_at(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """MTF at these bins, 1 where none was given."""
        return np.ones(len(i)) if self.response is None else self.response[self.grid.fold(i, j)].astype(np.float64)

    def step_at(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Amplitude of the step at the outline near these bins: a facet makes a far streak."""
        a, b = (o.reshape(-1, 1) for o in np.mgrid[-1:2, -1:2])
        around = self.shape[self.grid.fold(i + a, j + b)]
        return np.sqrt(around.max(axis=0).astype(np.float64)) / self.response_at(i, j)


def padded_shape(crop: Crop, pad: float = 2.0) -> tuple[int, int]:
    """Samples of the padded transform: a square of angstrom, in sizes that transform fast."""
    side = pad * max(n * d for n, d in zip(crop.data.shape, crop.pixel_size, strict=True))
    return tuple(fft.next_fast_len(int(np.ceil(side / d)), real=True)  # type: ignore[return-value]
                 for d in crop.pixel_size)


def half_planes(crops: Sequence[Crop], reach: float,
                mtf: Callable[[np.ndarray], np.ndarray] | None = None) -> list[HalfPlane]:
    """Half planes of crops of one pixel size, the crops of one padded size transformed together.

    Parameters
    ----------
    crops : sequence of Crop
        From `masked_crop`.
    reach : float
        Highest frequency needed [1/angstrom].
    mtf : callable, optional
        Amplitude MTF of frequencies in units of Nyquist.

    Returns
    -------
    list of HalfPlane
        In the order of the crops.
    """
    alike: dict[tuple[tuple[int, int], tuple[float, float]], list[int]] = {}
    for i, crop in enumerate(crops):
        alike.setdefault((padded_shape(crop), crop.pixel_size), []).append(i)
    out: dict[int, HalfPlane] = {}
    for (shape, pixel_size), members in alike.items():
        grid = half_grid(shape, pixel_size, reach)
        response = None if mtf is None else _response(mtf, grid)
        at_once = max(1, BATCH // (12 * shape[0] * shape[1]))
        for start in range(0, len(members), at_once):
            some = members[start: start + at_once]
            out |= dict(zip(some, _transform([crops[i] for i in some], grid, response), strict=True))
    return [out[i] for i in range(len(crops))]


def _transform(crops: list[Crop], grid: HalfGrid, response: np.ndarray | None) -> list[HalfPlane]:
    """Transform data, weight and inner weight of several crops at once, in single precision."""
    rows, cols = (max(c.data.shape[axis] for c in crops) for axis in (0, 1))
    stack = np.zeros((len(crops), 3, rows, cols), dtype=np.float32)
    units = []
    for part, crop in zip(stack, crops, strict=True):
        ny, nx = crop.data.shape
        # single precision holds any counts once they are scaled
        units.append(float(np.abs(crop.data).max()) or 1.0)
        np.multiply(crop.data, 1 / units[-1], out=part[0, :ny, :nx], casting="same_kind")
        part[1, :ny, :nx] = crop.weight
        np.multiply(crop.outline, crop.weight, out=part[2, :ny, :nx], casting="same_kind")
    upper = fft.rfft(stack, n=grid.shape[0], axis=2)[:, :, : grid.n_y + 1]
    full = fft.fft(upper, n=grid.shape[1], axis=3, overwrite_x=True)
    full = np.concatenate([full[..., -grid.n_x:], full[..., : grid.n_x + 1]], axis=-1)
    planes = []
    for (data, weight, inner), crop, unit in zip(full, crops, units, strict=True):
        power, window, outline = _power(data), _power(weight), _power(inner)
        if response is not None:
            power /= response**2
        total = float(weight[0, grid.n_x].real)
        inner -= np.float32(float(inner[0, grid.n_x].real) / total) * weight
        shape = _power(inner)
        shape *= np.float32((crop.contrast / unit) ** 2)
        planes.append(HalfPlane(grid, power, window, outline, shape, unit=unit**2, response=response))
    return planes


def _power(amplitude: np.ndarray) -> np.ndarray:
    power = amplitude.real**2
    power += amplitude.imag**2
    return power


def _response(mtf: Callable[[np.ndarray], np.ndarray], grid: HalfGrid) -> np.ndarray:
    table = np.asarray(mtf(np.linspace(0, 1.5, MTF_STEPS + 1)), dtype=np.float64)
    # a tabulated MTF may end at Nyquist, before the corners of the transform
    edge = float(np.asarray(mtf(np.ones(1)), dtype=np.float64)[0])
    table = np.where(np.isfinite(table), table, edge)
    return np.maximum(np.abs(table), MTF_FLOOR).astype(np.float32)[grid.mtf_index]


def of_spectrum(spectrum: Spectrum, crop: Crop, reach: float) -> HalfPlane:
    """Half plane of a spectrum that was made from this crop."""
    shape = spectrum.power.shape
    grid = half_grid((shape[0], shape[1]), crop.pixel_size, reach)
    plain = _transform([crop], grid, None)[0]
    zero = [n // 2 for n in shape]
    cut = (slice(zero[0], zero[0] + grid.n_y + 1), slice(zero[1] - grid.n_x, zero[1] + grid.n_x + 1))
    plain.power = (spectrum.power[cut] / plain.unit).astype(np.float32)
    plain.response = None if spectrum.response is None else spectrum.response[cut].astype(np.float32)
    return plain
