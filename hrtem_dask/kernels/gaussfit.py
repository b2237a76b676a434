"""Gaussians fitted to all columns of an image at once, with errors that know the colour of the noise.

A column is a Gaussian on a plane; the fit weighs pixels down away from its centre by another
Gaussian, and what the neighbours add is taken from their own fits of the step before. Everything is a
product of a function of y and one of x, so a step needs a few small matrix products a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial import cKDTree

from .column_noise import correlation

__all__ = ["HALF", "REACH", "Fit", "fit_gaussians", "join_fits"]

#: half the side of a column's window, and sigma of its weights [angstrom]
HALF, WEIGHT = 1.3, 0.65
#: columns within this distance are fitted together [angstrom]
NEAR = 3.2
#: sigma of a column: where the fit begins, and how far it may go [angstrom]
WIDTH, WIDTHS = 0.45, (0.2, 0.9)
STEPS = 8
#: how far heights scatter about those of the neighbours, and widths about the usual one, relative
HEIGHT_SPREAD, WIDTH_SPREAD = 0.5, 0.25
#: longest step of a centre [angstrom] and of the logarithm of a width
LONGEST, WIDEST = 0.2, 0.3
#: what is this far away can matter to a fit [angstrom]
REACH = STEPS * NEAR + HALF
# what the model is made of, as products (function of y, function of x) of g, g u, g u^2, 1, u / WEIGHT
PRODUCTS = ((1, 0), (0, 1), (2, 0), (0, 2), (0, 0), (3, 3), (4, 3), (3, 4))
# its parameters: shift along y and x, width, height, plane
JOIN = np.array([[1, 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0],
                 [0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0],
                 [0, 0, 0, 0, 0, 0, 0, 1]], dtype=np.float64)
Y, X, S, A = range(4)


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


@dataclass
class _Windows:
    """Pixels around each column, (image, n, h, w), and their places (n, h) and (n, w), 0 at the start."""

    values: np.ndarray
    y: np.ndarray
    x: np.ndarray
    weight_y: np.ndarray
    weight_x: np.ndarray
    known: np.ndarray


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
    ``M^-1 (J' W C W J) M^-1`` with ``M = J' W J``: the weights are not those of the noise.
    """
    n = len(place)
    pixel = np.rint(place / pixel_size).astype(np.int64)
    w = _windows(images, pixel, pixel_size)
    start = place - pixel * pixel_size
    a, b = _pairs(place)
    around = _Around((pixel[b] - pixel[a]) * pixel_size, a, b)
    centre, width = start.copy(), np.full((len(images), n), WIDTH)
    basis, matrix = _model(w, centre, width)
    local = np.ones(width.shape) if rough is None else _local(w.values, rough)
    found = _solve(matrix, _data(basis, w))
    covariance = _covariance(basis, matrix, noise) * local[..., None, None]
    first, first_error = found[..., A], np.sqrt(covariance[..., A, A])
    prior = _Prior.of(first, first_error, matrix, around)
    height, moved = prior.height, np.full(n, np.inf)
    for _ in range(steps):
        data = _data(basis, w) - _neighbours(basis, w, centre, width, height, around)
        held = prior.at(matrix, width)
        found = _solve(matrix + held[0], data, held[1])
        move, grow = _step(found, matrix, width, prior)
        height, moved = found[..., A], np.hypot(*move.T)
        centre = np.clip(centre + move, start - 1.0, start + 1.0)
        width = np.clip(width * np.exp(grow), *WIDTHS)
        basis, matrix = _model(w, centre, width)
    data = _data(basis, w) - _neighbours(basis, w, centre, width, height, around)
    free = _solve(matrix, data)[..., A]
    covariance = _covariance(basis, matrix, noise) * local[..., None, None]
    information = _information(covariance, height, width).sum(axis=0)
    error = np.sqrt(np.diagonal(np.linalg.inv(information + 1e-300 * np.eye(2)), axis1=-2, axis2=-1))
    return Fit(pixel * pixel_size + centre, error, free, np.sqrt(covariance[..., A, A]), width, first, first_error,
               (moved < 0.02) & np.isfinite(error).all(axis=1) & w.known)


@dataclass(frozen=True)
class _Around:
    """Pairs of a column a and its neighbour b, in the order of a, and how far the pixel of b is from that of a."""

    apart: np.ndarray
    a: np.ndarray
    b: np.ndarray

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over each column and its neighbours, (image, n)."""
        n = values.shape[1]
        count = 1 + np.bincount(self.a, minlength=n)
        return np.stack([v + np.bincount(self.a, v[self.b], n) for v in values]) / count


@dataclass(frozen=True)
class _Prior:
    """What is expected of height and width: without it the noise that raises a column makes it look well placed.

    ``scale`` is the variance of the noise in units of the weights, (image, n).
    """

    height: np.ndarray
    spread: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, error: np.ndarray, matrix: np.ndarray, around: _Around) -> _Prior:
        mean = around.mean(first)
        scale = error**2 / np.linalg.inv(_ridged(matrix))[..., A, A]
        return cls(mean, HEIGHT_SPREAD * np.abs(mean) + 1e-3 * error + 1e-300, np.maximum(scale, 1e-300))

    def at(self, matrix: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is added to the normal matrix and to its right-hand side."""
        more, right = np.zeros_like(matrix), np.zeros(matrix.shape[:-1])
        more[..., A, A] = self.scale / self.spread**2
        right[..., A] = more[..., A, A] * self.height
        more[..., S, S] = self.scale / (WIDTH_SPREAD * self.height) ** 2
        right[..., S] = more[..., S, S] * self.height * np.log(WIDTH / width)
        return more, right


def _windows(images: np.ndarray, pixel: np.ndarray, pixel_size: tuple[float, float]) -> _Windows:
    reach = [int(np.ceil(HALF / p)) for p in pixel_size]
    at = [pixel[:, k, None] + np.arange(-r, r + 1) for k, r in enumerate(reach)]
    inside = [((c >= 0) & (c < n)).astype(np.float64) for c, n in zip(at, images.shape[1:], strict=True)]
    i, j = (np.clip(c, 0, n - 1) for c, n in zip(at, images.shape[1:], strict=True))
    values = images[:, i[:, :, None], j[:, None, :]].astype(np.float64)
    finite = np.isfinite(values)
    known = finite.all(axis=(0, 2, 3))
    if not known.all():
        values = np.where(finite, values, 0.0)
    values -= values.mean(axis=(2, 3), keepdims=True)
    y, x = ((c - pixel[:, k, None]) * p for k, (c, p) in enumerate(zip(at, pixel_size, strict=True)))
    return _Windows(values, y, x, *inside, known)


def _pairs(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns a and their neighbours b, in the order of a."""
    if len(place) < 2:
        return np.zeros((2, 0), np.int64)
    pairs = cKDTree(place).query_pairs(NEAR, output_type="ndarray")
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return both[np.lexsort(both.T[::-1])].T


def _axis(at: np.ndarray, inside: np.ndarray, centre: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The five functions of one axis, weighted and not, (image, n, 5, h)."""
    off = at - centre[:, None]
    u = off / width[..., None]
    g = np.exp(-0.5 * u * u)
    out = np.empty((*width.shape, 5, at.shape[1]))
    out[..., 0, :], out[..., 1, :] = g, g * u
    out[..., 2, :] = out[..., 1, :] * u
    out[..., 3, :], out[..., 4, :] = 1.0, off / WEIGHT
    weight = inside * np.exp(-0.5 * (off / WEIGHT) ** 2)
    return out * weight[:, None, :], out


def _model(w: _Windows, centre: np.ndarray, width: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Weighted functions of y and x, and the normal matrix (image, n, 7, 7)."""
    weighted, grams = [], []
    for at, inside, c in ((w.y, w.weight_y, centre[:, 0]), (w.x, w.weight_x, centre[:, 1])):
        heavy, plain = _axis(at, inside, c, width)
        weighted.append(heavy)
        grams.append(heavy @ plain.swapaxes(-1, -2))
    return weighted, _joined(*grams)


def _joined(of_y: np.ndarray, of_x: np.ndarray) -> np.ndarray:
    p, q = np.array(PRODUCTS).T
    return JOIN @ (of_y[..., p[:, None], p] * of_x[..., q[:, None], q]) @ JOIN.T


def _data(basis: list[np.ndarray], w: _Windows) -> np.ndarray:
    """Sums of the pixels with the functions of each axis, (image, n, 5, 5)."""
    return basis[0] @ w.values @ basis[1].swapaxes(-1, -2)


def _solve(matrix: np.ndarray, data: np.ndarray, more: np.ndarray | float = 0.0) -> np.ndarray:
    p, q = np.array(PRODUCTS).T
    return np.linalg.solve(_ridged(matrix), (data[..., p, q] @ JOIN.T + more)[..., None])[..., 0]


def _ridged(matrix: np.ndarray) -> np.ndarray:
    """The matrix where it can be inverted: windows at a corner see little of the plane."""
    out = matrix.copy()
    diagonal = np.einsum("...ii->...i", out)
    diagonal += 1e-9 * diagonal.max(axis=-1, keepdims=True) + 1e-30
    return out


def _neighbours(basis: list[np.ndarray], w: _Windows, centre: np.ndarray, width: np.ndarray, height: np.ndarray,
                around: _Around) -> np.ndarray:
    """What the Gaussians around each column add to its sums, (image, n, 5, 5)."""
    a, b = around.a, around.b
    out = np.zeros((*height.shape, 5, 5))
    if not len(a):
        return out
    place = around.apart + centre[b]
    sums = []
    for heavy, at, k in zip(basis, (w.y, w.x), (0, 1), strict=True):
        u = (at[a] - place[:, k, None]) / width[:, b, None]
        sums.append((heavy[:, a] @ np.exp(-0.5 * u * u)[..., None])[..., 0])
    both = height[:, b, None, None] * sums[0][..., :, None] * sums[1][..., None, :]
    first = np.flatnonzero(np.diff(a, prepend=-1))
    out[:, a[first]] = np.add.reduceat(both, first, axis=1)
    return out


def _step(found: np.ndarray, matrix: np.ndarray, width: np.ndarray,
          prior: _Prior) -> tuple[np.ndarray, np.ndarray]:
    """Common step of the centres (n, 2) and one of each width, neither too long."""
    height = found[..., A]
    safe = np.where(height == 0, 1e-300, height)
    grow = np.clip(found[..., S] / safe, -WIDEST, WIDEST)
    move = np.clip(found[..., :2] * (width / safe)[..., None], -1, 1)
    if len(found) > 1:  # images count by what they know
        spread = np.linalg.inv(_ridged(matrix)) * prior.scale[..., None, None]
        known = _information(spread, height, width)
        move = np.linalg.solve(known.sum(axis=0) + 1e-300 * np.eye(2), (known @ move[..., None]).sum(axis=0))[..., 0]
    else:
        move = move[0]
    length = np.hypot(*move.T)
    return move * np.minimum(1, LONGEST / np.maximum(length, 1e-12))[:, None], grow


def _covariance(basis: list[np.ndarray], matrix: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Covariance of the linear solution, (image, n, 7, 7)."""
    kernel = np.zeros_like(matrix)
    corr = [correlation(f.shape[-1]) for f in basis]
    for m in range(noise.shape[1]):
        if noise[:, m].any():
            of_y, of_x = (f @ c[m] @ f.swapaxes(-1, -2) for f, c in zip(basis, corr, strict=True))
            kernel += noise[:, m, None, None, None] * _joined(of_y, of_x)
    inverse = np.linalg.inv(_ridged(matrix))
    return inverse @ kernel @ inverse


def _information(covariance: np.ndarray, height: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Inverse covariance of the centre that each image gives."""
    inner = covariance[..., :2, :2] + 1e-300 * np.eye(2)
    return np.linalg.inv(inner) * ((height / width) ** 2)[..., None, None]


def _local(values: np.ndarray, rough: np.ndarray) -> np.ndarray:
    """Variance of the noise in each window over that of the image, (image, n)."""
    second = np.diff(np.diff(values, 2, axis=-1), 2, axis=-2)
    here = np.mean(second**2, axis=(-1, -2))
    return np.clip(here / np.maximum(rough, 1e-300)[:, None], 0.3, 3.0)
