"""Drift and rotation of images against a mean image: correlation for the shift, then a fit of the motion.

Motions are those of `kernels.rigid`, in the coordinates of the pixels [angstrom]. The fit is that of least
squares, of a mean image that is moved to the frame (Lucas and Kanade, 1981; here with a rotation and an
amplitude), so it is sub-pixel without a finer grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import fft, ndimage

from ..core.calibration import Grid
from .noise_power import detrend
from .slips import step_density

__all__ = ["EMPTY", "FOUND", "UNLIKE", "ImageFit", "Reference", "fit_image", "prepared", "working_grid"]

#: what an image can be
FOUND, UNLIKE, EMPTY = 0, 2, 3
#: images are averaged over blocks up to this size, and smoothed by this sigma [angstrom]
FINE, SMOOTH = 0.3, 0.35
#: part of each side over which a frame fades out
FADE = 0.12
#: part of the pixels that may be unknown, or at one value
UNKNOWN = 0.5
#: coefficient of correlation, in deviations of that of noise, from which a frame shows the reference
ALIKE = 4.0
#: log odds below which another shift cannot be excluded, and how far it is away at least [angstrom]
DOUBT, ELSEWHERE = 2.5, 1.0
#: rounds of the fit, and what ends them [pixel]
ROUNDS, SETTLED = 8, 2e-3
#: frames above which one alone leaves no trace in their mean
MANY = 300


def working_grid(grid: Grid) -> tuple[Grid, tuple[int, int]]:
    """The grid of block means that the registration works on, and the sides (y, x) of the blocks [pixel]."""
    by, bx = (max(1, int(FINE / p)) for p in grid.pixel_size)
    ny, nx = grid.ny // by, grid.nx // bx
    return Grid(grid.y0 + (by - 1) / 2 * grid.dy, grid.x0 + (bx - 1) / 2 * grid.dx, by * grid.dy, bx * grid.dx,
                ny, nx), (by, bx)


def prepared(frame: np.ndarray, grid: Grid, block: tuple[int, int]) -> np.ndarray | None:
    """Block means of a frame without its slow change, smoothed, in units of their scatter; None where it is empty.

    Parameters
    ----------
    frame : ndarray, shape (y, x)
        Counts.
    grid, block
        From `working_grid`.
    """
    by, bx = block
    cut = np.asarray(frame[:grid.ny * by, :grid.nx * bx], np.float64)
    good = np.isfinite(cut)
    if good.mean() < 1 - UNKNOWN:
        return None
    if not good.all():
        cut = np.where(good, cut, cut[good].mean())
    small = cut.reshape(grid.ny, by, grid.nx, bx).mean((1, 3))
    small = ndimage.gaussian_filter(detrend(small, 2), [SMOOTH / p for p in grid.pixel_size])
    spread = small.std()
    return None if not spread > 1e-9 * max(abs(float(cut.mean())), 1.0) else small / spread


@dataclass
class Reference:
    """Mean image in reference coordinates, with the weight of every pixel.

    Attributes
    ----------
    grid : Grid
        Of its pixels.
    total, weight : ndarray, shape (y, x)
        Weighted sum of images, and the weights.
    centre : ndarray, shape (2,)
        Of rotations [angstrom].
    motion : ndarray, shape (3,)
        Of the last frame.
    last : int or None
        Number of the last frame.
    steps : list of float
        Lengths of the last steps [angstrom].
    """

    grid: Grid
    total: np.ndarray
    weight: np.ndarray
    centre: np.ndarray
    motion: np.ndarray = field(default_factory=lambda: np.zeros(3))
    last: int | None = None
    steps: list[float] = field(default_factory=list)

    @classmethod
    def empty(cls, grid: Grid) -> Reference:
        """One that knows nothing."""
        shape = grid.ny, grid.nx
        centre = np.array([grid.y0 + (grid.ny - 1) / 2 * grid.dy, grid.x0 + (grid.nx - 1) / 2 * grid.dx])
        return cls(grid, np.zeros(shape), np.zeros(shape), centre)

    def copy(self) -> Reference:
        """Another one that can be changed."""
        return Reference(self.grid, self.total.copy(), self.weight.copy(), self.centre, self.motion.copy(), self.last,
                         list(self.steps))

    def mean(self) -> np.ndarray:
        """Mean image, 0 where nothing is known."""
        return np.where(self.weight > 1e-3, self.total / np.maximum(self.weight, 1e-3), 0.0)

    def without(self, image: np.ndarray, motion: np.ndarray) -> Reference:
        """The mean of the other frames: a frame must not be fitted to its own noise."""
        if self.weight.max() > MANY:
            return self
        other = self.copy()
        other.total -= moved_image(image, motion, self.grid, self.centre, back=True)
        other.weight -= moved_image(np.ones_like(image), motion, self.grid, self.centre, back=True, order=1)
        return other if other.weight.max() > 0.5 else self

    def add(self, image: np.ndarray, motion: np.ndarray) -> None:
        """Take in a frame with its motion."""
        self.total += moved_image(image, motion, self.grid, self.centre, back=True)
        self.weight += moved_image(np.ones_like(image), motion, self.grid, self.centre, back=True, order=1)


def moved_image(image: np.ndarray, motion: np.ndarray, grid: Grid, centre: np.ndarray, *, back: bool = False,
                order: int = 3, filtered: bool = False) -> np.ndarray:
    """The image as a frame of this motion shows it, or a frame as the reference would; 0 where nothing is known.

    ``filtered`` says that the image has been through `scipy.ndimage.spline_filter`.
    """
    cos, sin = np.cos(motion[2]), np.sin(motion[2])
    turn = np.array([[cos, -sin], [sin, cos]])
    scale, first = np.array([grid.dy, grid.dx]), np.array([grid.y0, grid.x0])
    # of each sample of the output, where the input is taken
    if back:
        matrix, offset = turn, turn @ (first - centre) + centre + motion[:2] - first
    else:
        matrix, offset = turn.T, turn.T @ (first - centre - motion[:2]) + centre - first
    return ndimage.affine_transform(image, matrix * scale[None, :] / scale[:, None], offset / scale, order=order,
                                    mode="constant", prefilter=not filtered)


@dataclass(frozen=True)
class ImageFit:
    """Motion of a frame, its standard errors, what it is, and whether another shift is as likely."""

    motion: np.ndarray
    error: np.ndarray
    status: int
    doubtful: bool = False


def fit_image(image: np.ndarray | None, reference: Reference, start: np.ndarray, *, step: float | None,
              gap: float = 1.0, turn: bool = True) -> ImageFit:
    """Register a frame.

    Parameters
    ----------
    image : ndarray, shape (y, x), or None
        From `prepared`.
    reference : Reference
        What it is registered to.
    start : ndarray, shape (3,)
        Motion from which it is searched.
    step : float or None
        Usual step [angstrom]; None where the start is right, up to less than a lattice spacing.
    gap : float
        Frames since the start, counted in the stride of the movie.
    turn : bool
        Whether to fit the rotation.
    """
    nothing = np.full(3, np.nan)
    if image is None:
        return ImageFit(nothing, nothing, EMPTY)
    motion, doubtful, grid, centre = start.copy(), False, reference.grid, reference.centre
    mean, fade = ndimage.spline_filter(reference.mean(), mode="constant"), _fade(image.shape)
    if step is not None:
        shown = moved_image(mean, start, grid, centre, filtered=True)
        shift, height, doubtful = _correlated(image * fade, shown * fade, grid, step, gap)
        if height < ALIKE:
            return ImageFit(nothing, nothing, UNLIKE)
        motion[:2] += shift
    seen = moved_image(reference.weight / max(float(reference.weight.max()), 1e-9), motion, grid, centre, order=1)
    fade = fade * (seen > 0.05)
    for _ in range(ROUNDS):
        change, *_ = _linear(image, mean, motion, reference, fade, turn)
        motion = motion + change
        if np.abs(change[:2]).max() < SETTLED * min(grid.pixel_size) and abs(change[2]) < 1e-5:
            break
    return ImageFit(motion, _errors(*_linear(image, mean, motion, reference, fade, turn)[1:]), FOUND, doubtful)


def _fade(shape: tuple[int, int]) -> np.ndarray:
    """Weights of the pixels of a frame: 1, and towards the edges 0."""
    sides = []
    for n in shape:
        edge = np.clip((0.5 + np.minimum(np.arange(n), np.arange(n)[::-1])) / max(FADE * n, 1), 0, 1)
        sides.append(np.sin(np.pi / 2 * edge) ** 2)
    return sides[0][:, None] * sides[1]


def _correlated(image: np.ndarray, mean: np.ndarray, grid: Grid, step: float,
                gap: float) -> tuple[np.ndarray, float, bool]:
    """Shift (y, x) [angstrom] of the image against the mean, height of the correlation, and whether it is in doubt.

    The correlation over the noise power is the log likelihood of a shift; the density of steps is added to it.
    """
    shape = tuple(fft.next_fast_len(n + n // 2, real=True) for n in image.shape)
    both = fft.rfft2(image, shape) * np.conj(fft.rfft2(mean, shape))
    map_ = fft.irfft2(both, shape)
    size = float((mean**2).sum())
    if size <= 0:
        return np.zeros(2), 0.0, False
    # neighbouring pixels share their noise, as both were smoothed
    shared = max(4 * np.pi * SMOOTH**2 / float(np.prod(grid.pixel_size)), 1.0)
    noise = max(float((image**2).mean() - map_.max() ** 2 / size / image.size), 0.05 * float((image**2).mean()))
    away = np.stack(np.meshgrid(*(fft.fftfreq(n, 1 / (n * d)) for n, d in zip(shape, (grid.dy, grid.dx), strict=True)),
                                indexing="ij"), axis=-1)
    worth = map_ / noise / shared + step_density(away.reshape(-1, 2), step, gap).reshape(shape)
    best = np.unravel_index(int(worth.argmax()), shape)
    shift = away[best]
    height = float(map_[best] / np.sqrt(size * (image**2).sum()) * np.sqrt(image.size / shared))
    elsewhere = worth[np.hypot(*np.moveaxis(away - shift, -1, 0)) > ELSEWHERE]
    return shift, height, bool(elsewhere.size and worth[best] - elsewhere.max() < DOUBT)


def _linear(image: np.ndarray, mean: np.ndarray, motion: np.ndarray, reference: Reference, fade: np.ndarray,
            turn: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One step of the fit: change of the motion; weighted derivatives (k, y, x), their normal matrix, and residuals."""
    grid, centre = reference.grid, reference.centre
    shown = moved_image(mean, motion, grid, centre, filtered=True)
    down, right = np.gradient(shown, grid.dy, grid.dx)
    y = (grid.y0 + np.arange(grid.ny) * grid.dy - centre[0] - motion[0])[:, None]
    x = grid.x0 + np.arange(grid.nx) * grid.dx - centre[1] - motion[1]
    amplitude = float((fade * shown * image).sum() / max(float((fade * shown**2).sum()), 1e-12))
    parts = [-amplitude * down, -amplitude * right]
    if turn:  # of a small rotation, what is at (y, x) goes by (-x, y)
        parts.append(amplitude * (x * down - y * right))
    parts = np.stack([*parts, shown])
    rest = image - amplitude * shown
    flat, weighted = parts.reshape(len(parts), -1), (parts * fade).reshape(len(parts), -1)
    normal = weighted @ flat.T
    change = np.linalg.lstsq(normal, weighted @ rest.ravel(), rcond=1e-12)[0]
    return np.array([*change[:2], change[2] if turn else 0.0]), parts * fade, normal, rest * (fade > 0)


def _errors(parts: np.ndarray, normal: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Standard errors of drift and rotation, from residuals whose noise has a colour."""
    shape = rest.shape
    k = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1]))
    ring = np.minimum((k * min(shape)).astype(int), min(shape) // 2)
    twice = np.full(k.shape[1], 2.0)
    twice[0] = 1.0
    if shape[1] % 2 == 0:
        twice[-1] = 1.0
    fade = np.abs(fft.rfft2(rest - rest.mean(), norm="ortho")) ** 2
    modes = np.bincount(ring.ravel(), np.broadcast_to(twice, k.shape).ravel())
    power = np.bincount(ring.ravel(), (fade * twice).ravel()) / np.maximum(modes, 1)
    power *= rest.size / max(int(np.count_nonzero(rest)), 1)
    waves = fft.rfft2(parts, norm="ortho")
    flat = (waves * np.sqrt(twice * power[ring])).reshape(len(waves), -1)
    middle = (flat.conj() @ flat.T).real
    inverse = np.linalg.pinv(normal)
    error = np.sqrt(np.clip(np.diag(inverse @ middle @ inverse), 0, None))
    return np.array([*error[:2], error[2] if len(error) > 3 else 0.0])
