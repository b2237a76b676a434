"""Cut one particle out of an image so that its Fourier domain is its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import distance_transform_edt

from ..core.errors import InputError
from .defects import mend

__all__ = ["Crop", "crop_bounds", "default_taper", "masked_crop"]

#: width of the soft edge: at least this many pixels ...
TAPER_PIXELS = 6.0
#: ... and at least this many angstrom, because side lobes of a lattice spot at distance q from it
#: only fall off where q * taper > 1
TAPER_ANGSTROM = 4.0
#: a taper of more rows than this is measured by a transform of all distances
MOST_ROWS = 40
#: columns that lie outside every crop
FAR = 2**24
#: differences below this fraction of the counts are rounding
ROUNDING = 1e-12


@dataclass(frozen=True)
class Crop:
    """A tapered cut-out: ``data = (image - mean) * weight``, both of shape (y, x).

    Attributes
    ----------
    data, weight : ndarray, shape (y, x)
        The tapered image, in counts with zero weighted mean, and the taper from 0 to 1.
    outline : ndarray, shape (y, x)
        The mask without the taper (the taper itself where the entire image was taken).
    pixel_size : (float, float)
        (y, x) [angstrom].
    origin : (int, int)
        Row and column of the crop's first pixel in the image.
    contrast : float
        Mean inside the mask minus mean just outside [counts]; 0 where the entire image was taken.
    """

    data: np.ndarray
    weight: np.ndarray
    outline: np.ndarray
    pixel_size: tuple[float, float]
    origin: tuple[int, int]
    contrast: float

    @cached_property
    def noise_area(self) -> float:
        """Area whose inverse is the correlation area of noise power in the spectrum [angstrom^2]."""
        w2 = self.weight.astype(np.float64) ** 2
        return float(w2.sum() ** 2 / (w2**2).sum()) * self.pixel_size[0] * self.pixel_size[1]

    @cached_property
    def area(self) -> float:
        """Area of the ellipse with the second moments of ``weight**2`` [angstrom^2]; a disc gives its own area."""
        w2 = self.weight.astype(np.float64) ** 2
        total = w2.sum()
        y = np.arange(w2.shape[0]) * self.pixel_size[0]
        x = np.arange(w2.shape[1]) * self.pixel_size[1]
        py, px = w2.sum(1) / total, w2.sum(0) / total
        y, x = y - y @ py, x - x @ px
        # one pixel has a width of its own, so a single pixel has its own area
        vy, vx = y**2 @ py + self.pixel_size[0] ** 2 / 12, x**2 @ px + self.pixel_size[1] ** 2 / 12
        return float(4 * np.pi * np.sqrt(max(vy * vx - (y @ w2 @ x / total) ** 2, 0.0)))

    @property
    def diameter(self) -> float:
        """Diameter of the disc of that area [angstrom]; its inverse is the resolution of the spectrum."""
        return float(2 * np.sqrt(self.area / np.pi))


def default_taper(pixel_size: tuple[float, float]) -> float:
    """Width of the soft edge [angstrom]: 6 pixels or 4 angstrom, whichever is more."""
    return max(TAPER_PIXELS * max(pixel_size), TAPER_ANGSTROM)


def crop_bounds(box: tuple[slice, slice], shape: tuple[int, int], pixel_size: tuple[float, float],
                margin: float) -> tuple[slice, slice]:
    """Widen a bounding box by a margin [angstrom], clipped to the image."""
    pad = [int(np.ceil(margin / d)) + 1 for d in pixel_size]
    return tuple(slice(max(b.start - p, 0), min(b.stop + p, n))  # type: ignore[return-value]
                 for b, p, n in zip(box, pad, shape, strict=True))


def masked_crop(image: np.ndarray, mask: np.ndarray | None, pixel_size: tuple[float, float],
                taper: float | None = None) -> Crop:
    """Cut out the masked region with a soft edge.

    The weighted mean is subtracted before the taper, so that the shape of the mask does not
    appear in the spectrum as the transform of a bright patch. The edge is a half period of a
    cosine, centred on the mask's border, as wide as ``taper``. Where the mask meets the border
    of the image the weight falls to zero inside the image.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Counts of any real dtype. Single pixels that are dead, hot or not finite are filled from their
        neighbours, others that are not finite get the weight 0.
    mask : ndarray of bool, shape (y, x), or None
        The particle. None takes the entire image with a Hann window.
    pixel_size : (float, float)
        (y, x) [angstrom].
    taper : float, optional
        Full width of the soft edge [angstrom]; see `default_taper`.

    Returns
    -------
    Crop

    Raises
    ------
    InputError
        If the image is not 2-D, the mask has another shape, or nothing is left inside it.

    Examples
    --------
    >>> disc = np.hypot(*np.mgrid[-32:32, -32:32]) < 20
    >>> crop = masked_crop(np.random.default_rng(0).poisson(9, (64, 64)), disc, (0.5, 0.5))
    >>> crop.data.shape, bool(abs(crop.data.sum()) < 1e-6), round(crop.diameter)
    ((49, 49), True, 19)
    """
    image = np.asarray(image)
    if image.ndim != 2 or image.size == 0:
        raise InputError(f"the image has the shape {image.shape}; expected one image (y, x), as movie[0]")
    taper = default_taper(pixel_size) if taper is None else float(taper)
    if mask is None:
        box = (slice(0, image.shape[0]), slice(0, image.shape[1]))
        weight = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in image.shape))
        outline = weight
    else:
        box, outline, weight = _soft_edge(np.asarray(mask), image.shape, pixel_size, taper)
    values, bad = mend(image[box].astype(np.float64), weight > 0)
    if bad.any():
        weight, values = np.where(bad, 0.0, weight), np.where(bad, 0.0, values)
    total = weight.sum()
    if not total > 0:
        raise InputError("no finite pixel is left inside the mask; expected a mask with some image in it")
    mean = (weight * values).sum() / total
    values -= mean
    if np.ptp(values[~bad] if bad.any() else values) <= ROUNDING * abs(mean):
        values[...] = 0.0  # a constant image: the rest is rounding
    contrast = _step(values, outline > 0, ~bad)
    return Crop(values * weight, weight, outline, pixel_size, (box[0].start, box[1].start), contrast)


def _step(values: np.ndarray, inside: np.ndarray, known: np.ndarray) -> float:
    """Mean inside the outline minus mean around it; 0 where one of them is empty."""
    total, n = np.vdot(values, known), np.count_nonzero(known)
    within = inside & known
    part, m = np.vdot(values, within), np.count_nonzero(within)
    return float(part / m - (total - part) / (n - m)) if 0 < m < n else 0.0


def _soft_edge(mask: np.ndarray, shape: tuple[int, int], pixel_size: tuple[float, float],
               taper: float) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    if mask.shape != shape:
        raise InputError(f"the mask has the shape {mask.shape} and the image {shape}; expected the same")
    mask = mask.astype(bool)
    if not mask.any():
        raise InputError("the mask is empty; expected at least one pixel that is True, or mask=None for all")
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    box = crop_bounds(box, shape, pixel_size, taper / 2)
    inside = mask[box]
    half = 0.5 * np.sqrt(pixel_size[0] * pixel_size[1])  # the border runs half a pixel from either side's centres
    reach = taper / 2 + half
    depth, away = (_distance(m, pixel_size, reach) for m in (inside, ~inside))
    signed = np.where(inside, depth - half, half - away) / taper
    weight = (signed > 0).astype(np.float64)
    edge = np.nonzero(np.abs(signed) < 0.5)
    weight[edge] = 0.5 + 0.5 * np.sin(np.pi * signed[edge])
    for axis, (b, n, d) in enumerate(zip(box, shape, pixel_size, strict=True)):
        i = np.arange(b.start, b.stop)
        ramp = np.sin(np.pi / 2 * np.clip((np.minimum(i, n - 1 - i) + 0.5) * d / taper, 0, 1)) ** 2
        weight *= ramp[:, None] if axis == 0 else ramp[None, :]
    return box, inside, weight


def _distance(region: np.ndarray, pixel_size: tuple[float, float], reach: float) -> np.ndarray:
    """Distance of each pixel of a region from the nearest one outside it [angstrom]; any more than ``reach`` beyond.

    Exact, and several times faster than a transform of all distances: along the rows from the last
    pixel outside, then the nearest row (Felzenszwalb and Huttenlocher 2012, Theory Comput. 8, 415).
    """
    rows = int(np.ceil(reach / pixel_size[0]))
    if rows > MOST_ROWS and not region.all():
        return distance_transform_edt(region, sampling=pixel_size)
    column = np.arange(region.shape[1], dtype=np.int32)
    last = np.maximum.accumulate(np.where(region, np.int32(-FAR), column), axis=1)
    following = np.minimum.accumulate(np.where(region, np.int32(FAR), column)[:, ::-1], axis=1)[:, ::-1]
    across = np.minimum(column - last, following - column).astype(np.float32)
    across *= np.float32(pixel_size[1])
    across *= across
    square, buffer = across.copy(), np.empty_like(across)
    for n in range(1, min(rows, region.shape[0] - 1) + 1):
        step, further = np.float32((n * pixel_size[0]) ** 2), buffer[n:]
        np.minimum(square[n:], np.add(across[:-n], step, out=further), out=square[n:])
        np.minimum(square[:-n], np.add(across[n:], step, out=further), out=square[:-n])
    return np.sqrt(square, out=square)
