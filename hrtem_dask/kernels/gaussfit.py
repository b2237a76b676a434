"""Gaussians fitted to all columns of an image at once, with errors that know the colour of the noise.

A column is a Gaussian on a plane; the fit weighs pixels down away from its centre by another
Gaussian, and what the neighbours add is taken from their own fits of the step before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from .gauss_model import HALF, HEIGHT, JOIN, PLANE, SHAPE, SHIFT, TESTS, Around, Sums, Windows, correlated, ridged

__all__ = ["REACH", "Fit", "fit_gaussians", "join_fits"]

#: columns within this distance are fitted together [angstrom]
NEAR = 3.2
#: sigma of a column: where the fit begins, and how far it may go [angstrom]
WIDTH, WIDTHS = 0.45, (0.2, 0.9)
STEPS = 6
#: how far heights scatter about those of the neighbours, and widths about the usual one, relative
HEIGHT_SPREAD, WIDTH_SPREAD = 0.5, 0.25
#: and how steep the background is over `gauss_model.WEIGHT`, in units of the height
SLOPE = 0.1
#: longest step of a centre [angstrom] and of the logarithm of a width; where the last one is short
LONGEST, WIDEST, SHORT = 0.2, 0.3, 0.02
#: what is this far away can matter to a fit [angstrom]
REACH = (STEPS + 2) * NEAR + HALF
#: by how much errors grow with their square in units of the width, measured on drawn Gaussians
CURVED = 1.2
#: how much of the part of a spot that is no Gaussian goes into a shift, measured on simulated images of gold
MISFIT = 0.7
TINY = 1e-300


@dataclass(frozen=True)
class Fit:
    """Columns of one frame; of several images of it, heights and widths have an axis in front.

    Attributes
    ----------
    place, error : ndarray, shape (n, 2)
        Centre (y, x) and its standard error [angstrom].
    height, height_error : ndarray, shape (image, n)
        Over the local background [counts].
    width : ndarray, shape (image, n)
        Sigma [angstrom].
    first, first_error : ndarray, shape (image, n)
        Height at the place where the fit began, at the usual width [counts].
    settled : ndarray of bool, shape (n,)
        Whether the last step was short, the height is not 0 and all pixels are known.
    """

    place: np.ndarray
    error: np.ndarray
    height: np.ndarray
    height_error: np.ndarray
    width: np.ndarray
    first: np.ndarray
    first_error: np.ndarray
    settled: np.ndarray

    def take(self, which: np.ndarray) -> Fit:
        """Some of the columns."""
        return Fit(*(getattr(self, f.name)[(which if f.name in ("place", "error", "settled") else (..., which))]
                     for f in fields(self)))


def join_fits(parts: Sequence[Fit]) -> Fit:
    """Columns of several tiles, one after the other."""
    return Fit(*(np.concatenate([getattr(p, f.name) for p in parts],
                                axis=0 if f.name in ("place", "error", "settled") else 1) for f in fields(Fit)))


@np.errstate(divide="ignore", invalid="ignore")  # a frame without contrast has no heights to divide by, and no fit
def fit_gaussians(images: np.ndarray, place: np.ndarray, pixel_size: tuple[float, float], noise: np.ndarray, *,
                  rough: np.ndarray | None = None, steps: int = STEPS) -> Fit:
    """Fit a Gaussian on a plane to each column, neighbours taken into account.

    Parameters
    ----------
    images : ndarray, shape (image, y, x)
        Of one frame: several share the centres.
    place : ndarray, shape (n, 2)
        Where to begin (y, x) [angstrom], from pixel (0, 0).
    pixel_size : (float, float)
        (y, x) [angstrom].
    noise : ndarray, shape (image, len(column_noise.WIDTHS))
        Amplitudes of `column_noise.Noise`.
    rough : ndarray, shape (image,), optional
        Mean square of the second difference of each image; the noise at a column follows what it is there.
    steps : int
        Of Gauss and Newton.

    Returns
    -------
    Fit

    Notes
    -----
    The covariance is that of weighted least squares under noise of the covariance C,
    ``M^-1 (J' W C W J) M^-1`` with ``M = J' W J``: the weights are not those of the noise. To it is added
    what a spot that is no Gaussian may do: of the shapes next to a Gaussian (longer in one direction, skew)
    the part that noise does not explain is measured, averaged over the column and its neighbours, and
    taken to be in the shape of a shift as well.
    """
    n = len(place)
    pixel = np.rint(place / pixel_size).astype(np.int64)
    w, around = Windows.of(images, pixel, pixel_size), Around.of(place, pixel, pixel_size, NEAR)
    start = place - pixel * pixel_size
    centre, width = start.copy(), np.full((len(images), n), WIDTH)
    sums = Sums.of(w, centre, width)
    local = np.ones(width.shape)
    if rough is not None:
        local = np.clip(around.mean(w.roughness()) / np.maximum(rough, TINY)[:, None], 0.3, 3.0)
    first = _solve(sums.matrix, sums.data(w))[..., HEIGHT]
    covariance, inverse = correlated(sums, sums.noise(noise), 0.0)
    first_error = np.sqrt(covariance[..., HEIGHT, HEIGHT] * local)
    prior = _Prior.of(first, first_error, inverse, around)
    height, moved = prior.height, np.full(n, np.inf)
    for _ in range(steps):
        data = sums.data(w) - sums.neighbours(w, centre, width, height, around)
        found = _solve(sums.matrix, data, prior.at(width))
        move, grow = _step(found, sums.matrix, width, prior)
        height, moved = found[..., HEIGHT], np.hypot(*move.T)
        centre = np.clip(centre + move, start - 1.0, start + 1.0)
        width = np.clip(width * np.exp(grow), *WIDTHS)
        sums = Sums.of(w, centre, width)
    data = sums.data(w) - sums.neighbours(w, centre, width, height, around)
    spread = sums.noise(noise) * local[..., None, None]
    of_centre = _spread(sums, data, spread, height, width, prior, around)
    error = np.sqrt(np.diagonal(_common(of_centre), axis1=-2, axis2=-1))
    return Fit(pixel * pixel_size + centre, error, _solve(sums.matrix, data)[..., HEIGHT],
               np.sqrt(correlated(sums, spread, 0.0)[0][..., HEIGHT, HEIGHT]), width, first, first_error,
               (moved < SHORT) & np.isfinite(error).all(axis=1) & w.known)


@dataclass(frozen=True)
class _Prior:
    """What is expected of height, width and background.

    Without it the noise that raises a column makes it look well placed. ``scale`` is the variance of the
    noise in units of the weights, (image, n).
    """

    height: np.ndarray
    spread: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, error: np.ndarray, inverse: np.ndarray, around: Around) -> _Prior:
        mean = around.mean(first)
        scale = error**2 / inverse[..., HEIGHT, HEIGHT]
        return cls(mean, HEIGHT_SPREAD * np.abs(mean) + 1e-3 * error + TINY, np.maximum(scale, TINY))

    def at(self, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is added to the normal matrix and to its right-hand side."""
        more, right = np.zeros((*width.shape, 7, 7)), np.zeros((*width.shape, 7))
        more[..., HEIGHT, HEIGHT] = self.scale / self.spread**2
        right[..., HEIGHT] = more[..., HEIGHT, HEIGHT] * self.height
        more[..., SHAPE, SHAPE] = self.scale / (WIDTH_SPREAD * self.height) ** 2
        right[..., SHAPE] = more[..., SHAPE, SHAPE] * self.height * np.log(WIDTH / width)
        for k in range(7)[PLANE]:
            more[..., k, k] = self.scale / (SLOPE * self.height) ** 2
        return more, right


def _solve(matrix: np.ndarray, data: np.ndarray, held: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """Parameters of the linear model, (image, n, 7)."""
    right = data @ JOIN.T
    if held is not None:
        matrix, right = matrix + held[0], right + held[1]
    return np.linalg.solve(ridged(matrix), right[..., None])[..., 0]


def _step(found: np.ndarray, matrix: np.ndarray, width: np.ndarray,
          prior: _Prior) -> tuple[np.ndarray, np.ndarray]:
    """Common step of the centres (n, 2) and one of each width, neither too long."""
    height = found[..., HEIGHT]
    safe = np.where(height == 0, TINY, height)
    grow = np.clip(found[..., SHAPE] / safe, -WIDEST, WIDEST)
    move = np.clip(found[..., SHIFT] * (width / safe)[..., None], -1, 1)
    if len(found) > 1:  # images count by what they know
        spread = np.linalg.inv(ridged(matrix))[..., SHIFT, SHIFT] * prior.scale[..., None, None]
        known = np.linalg.inv(spread + TINY * np.eye(2)) * ((height / width) ** 2)[..., None, None]
        move = np.linalg.solve(known.sum(axis=0) + TINY * np.eye(2), (known @ move[..., None]).sum(axis=0))[..., 0]
    else:
        move = move[0]
    length = np.hypot(*move.T)
    return move * np.minimum(1, LONGEST / np.maximum(length, 1e-12))[:, None], grow


def _spread(sums: Sums, data: np.ndarray, noise: np.ndarray, height: np.ndarray, width: np.ndarray, prior: _Prior,
            around: Around) -> np.ndarray:
    """Covariance of the centre in each image, (image, n, 2, 2): of the noise, and of what is no Gaussian."""
    held = prior.at(width)
    covariance, inverse = correlated(sums, noise, held[0])
    found = _solve(sums.matrix, data, held)
    # what is left of the tests when the fit is subtracted, as a linear function of the sums
    mixed = TESTS @ sums.products @ JOIN.T
    left = TESTS - mixed @ inverse @ JOIN
    rest = data @ TESTS.T - (mixed @ found[..., None])[..., 0]
    chance = np.einsum("...tp,...pq,...tq->...t", left, noise, left, optimize=True)
    size = np.einsum("...tp,...pq,...tq->...t", left, sums.products, left, optimize=True)
    matrix = sums.matrix
    energy = height**2 * matrix[..., HEIGHT, HEIGHT] + TINY
    part = around.mean(((rest**2 - chance) / size).mean(axis=-1)) / (around.mean(energy))
    shift = np.maximum(part, 0) * matrix[..., HEIGHT, HEIGHT] * width**2
    unit = ((width / np.where(height == 0, TINY, height)) ** 2)[..., None, None]
    free = 1 / np.diagonal(inverse, axis1=-2, axis2=-1)[..., SHIFT]
    chance = covariance[..., SHIFT, SHIFT] * unit
    # the model is not straight over an error as wide as the spot
    chance = chance * (1 + CURVED * np.trace(chance, axis1=-2, axis2=-1) / width**2)[..., None, None]
    return chance + MISFIT**2 * (shift[..., None] / free)[..., None] * np.eye(2)


def _common(spread: np.ndarray) -> np.ndarray:
    """Covariance of the mean over images (n, 2, 2)."""
    if len(spread) == 1:
        return spread[0]
    return np.linalg.inv(np.linalg.inv(spread + TINY * np.eye(2)).sum(axis=0) + TINY * np.eye(2))
