"""The model of a column in its window: a Gaussian on a plane, its sums over pixels, and their noise.

Every function is a product of one of y and one of x, and so are the weights and the covariance of the
noise: sums over the pixels of a window are small matrix products, for all columns at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from .column_noise import correlation

__all__ = ["HALF", "HEIGHT", "PLANE", "SHAPE", "SHIFT", "WEIGHT", "Around", "Sums", "Windows", "correlated", "ridged"]

#: half the side of a column's window, and sigma of its weights [angstrom]
HALF, WEIGHT = 1.5, 0.8
#: half the side of what of it tells the noise [angstrom]
ROUGH = 1.1
# what the model is made of, as products (function of y, function of x) of g, g u, g u^2, 1, off / WEIGHT
PRODUCTS = np.array([(1, 0), (0, 1), (2, 0), (0, 2), (0, 0), (3, 3), (4, 3), (3, 4), (1, 1), (1, 2), (2, 1)]).T
#: its parameters: shift along y and x, width, height, background, slopes
SHIFT, SHAPE, HEIGHT, PLANE = slice(0, 2), 2, 3, slice(5, 7)
JOIN = np.zeros((7, 11))
JOIN[[0, 1, 2, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6, 7]] = 1
ALONE = np.array([0, 1, 2, 4, 5, 6, 7])
#: what a spot can be that a Gaussian is not: longer in one direction, and skew
TESTS = np.zeros((4, 11))
TESTS[[0, 1, 1, 2, 3], [8, 2, 3, 9, 10]] = 1, 0.5, -0.5, 1, 1


@dataclass(frozen=True)
class Around:
    """Neighbours of each column (n, most), 1 where there is one, and how far their pixels are from its own."""

    index: np.ndarray
    there: np.ndarray
    apart: np.ndarray

    @classmethod
    def of(cls, place: np.ndarray, pixel: np.ndarray, pixel_size: tuple[float, float], reach: float) -> Around:
        """All columns within a distance of each other [angstrom]."""
        n = len(place)
        pairs = cKDTree(place).query_pairs(reach, output_type="ndarray")
        both = np.concatenate([pairs, pairs[:, ::-1]])
        a, b = both[np.lexsort(both.T[::-1])].T
        count = np.bincount(a, minlength=n)
        rank = np.arange(len(a)) - np.repeat(np.cumsum(count) - count, count)
        index = np.repeat(np.arange(n)[:, None], max(int(count.max(initial=0)), 1), axis=1)
        there = np.zeros(index.shape)
        index[a, rank], there[a, rank] = b, 1.0
        return cls(index, there, (pixel[index] - pixel[:, None]) * pixel_size)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over each column and its neighbours, (image, n)."""
        return (values + (values[:, self.index] * self.there).sum(axis=-1)) / (1 + self.there.sum(axis=-1))


@dataclass
class Windows:
    """Pixels around each column, (image, n, h, w), and their places along each axis, 0 at the pixel in the middle."""

    values: np.ndarray
    at: tuple[np.ndarray, np.ndarray]
    inside: tuple[np.ndarray, np.ndarray]
    known: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, pixel: np.ndarray, pixel_size: tuple[float, float]) -> Windows:
        """Cut windows about pixels (n, 2) out of images (image, y, x); what lies outside has no weight."""
        reach = [int(np.ceil(HALF / p)) for p in pixel_size]
        where = [pixel[:, k, None] + np.arange(-r, r + 1) for k, r in enumerate(reach)]
        inside = [((c >= 0) & (c < n)).astype(np.float64) for c, n in zip(where, images.shape[1:], strict=True)]
        i, j = (np.clip(c, 0, n - 1) for c, n in zip(where, images.shape[1:], strict=True))
        values = images[:, i[:, :, None], j[:, None, :]].astype(np.float64)
        finite = np.isfinite(values)
        known = finite.all(axis=(0, 2, 3))
        if not known.all():
            values = np.where(finite, values, 0.0)
        values -= values.mean(axis=(2, 3), keepdims=True)
        at = [np.broadcast_to(np.arange(-r, r + 1) * p, c.shape) for r, p, c in
              zip(reach, pixel_size, where, strict=True)]
        return cls(values, (at[0], at[1]), (inside[0], inside[1]), known)

    def roughness(self) -> np.ndarray:
        """Mean square of the second difference along both axes near each column, (image, n)."""
        rows, columns = ((np.abs(at[0]) < ROUGH) for at in self.at)
        second = np.diff(np.diff(self.values[..., rows, :][..., columns], 2, axis=-1), 2, axis=-2)
        y, x = (inside[:, near][:, 1:-1] * np.exp(-((at[:, near][:, 1:-1] / WEIGHT) ** 2))
                for at, inside, near in zip(self.at, self.inside, (rows, columns), strict=True))
        sums = np.matmul(np.matmul(y[:, None, :], second**2), x[:, :, None])[..., 0, 0]
        return sums / (y.sum(axis=1) * x.sum(axis=1))


@dataclass(frozen=True)
class Sums:
    """Weighted functions of each axis (image, n, 5, h) at some centres and widths, and their normal matrix."""

    axes: tuple[np.ndarray, np.ndarray]
    products: np.ndarray

    @classmethod
    def of(cls, w: Windows, centre: np.ndarray, width: np.ndarray) -> Sums:
        """Of centres (n, 2) and widths (image, n) [angstrom]."""
        weighted, grams = [], []
        for k, (at, inside) in enumerate(zip(w.at, w.inside, strict=True)):
            off = at - centre[:, k, None]
            u = off / width[..., None]
            plain = np.empty((*width.shape, 5, at.shape[1]))
            g = np.exp(-0.5 * u * u)
            plain[..., 0, :] = g
            np.multiply(g, u, out=plain[..., 1, :])
            np.multiply(plain[..., 1, :], u, out=plain[..., 2, :])
            plain[..., 3, :], plain[..., 4, :] = 1.0, off / WEIGHT
            heavy = plain * (inside * np.exp(-0.5 * (off / WEIGHT) ** 2))[:, None, :]
            weighted.append(heavy)
            grams.append(heavy @ plain.swapaxes(-1, -2))
        return cls((weighted[0], weighted[1]), _products(*grams))

    @cached_property
    def matrix(self) -> np.ndarray:
        """Normal matrix of the parameters, (image, n, 7, 7): JOIN @ products @ JOIN.T."""
        out = self.products[..., ALONE[:, None], ALONE]
        out[..., SHAPE, :] += self.products[..., 3, ALONE]
        out[..., :, SHAPE] += self.products[..., ALONE, 3]
        out[..., SHAPE, SHAPE] += self.products[..., 3, 3]
        return out

    def data(self, w: Windows) -> np.ndarray:
        """Sums of the pixels with each product, (image, n, 11)."""
        return (self.axes[0] @ w.values @ self.axes[1].swapaxes(-1, -2))[..., PRODUCTS[0], PRODUCTS[1]]

    def neighbours(self, w: Windows, centre: np.ndarray, width: np.ndarray, height: np.ndarray,
                   around: Around) -> np.ndarray:
        """What the Gaussians around each column add to these sums."""
        if not around.there.any():
            return np.zeros((*height.shape, PRODUCTS.shape[1]))
        place = around.apart + centre[around.index]
        narrow = np.sqrt(0.5) / width[:, around.index]
        sums = []
        for k, (heavy, at) in enumerate(zip(self.axes, w.at, strict=True)):
            u = (at[:, None, :] - place[..., k, None]) * narrow[..., None]
            np.multiply(u, u, out=u)
            np.negative(u, out=u)
            sums.append(heavy @ np.exp(u, out=u).swapaxes(-1, -2))
        # sum over the neighbours of the product of what they are along y and along x
        both = (sums[0] * (height[:, around.index] * around.there)[..., None, :]) @ sums[1].swapaxes(-1, -2)
        return both[..., PRODUCTS[0], PRODUCTS[1]]

    def noise(self, amplitude: np.ndarray) -> np.ndarray:
        """Covariance of the sums under noise of these amplitudes (image, gaussian), (image, n, 11, 11)."""
        out = np.zeros_like(self.products)
        for m in np.flatnonzero(amplitude.any(axis=0)):
            # one large matrix product, not a small one a column
            of_y, of_x = ((f.reshape(-1, f.shape[-1]) @ correlation(f.shape[-1])[m]).reshape(f.shape)
                          @ f.swapaxes(-1, -2) for f in self.axes)
            out += amplitude[:, m, None, None, None] * _products(of_y, of_x)
        return out


def _products(of_y: np.ndarray, of_x: np.ndarray) -> np.ndarray:
    p, q = PRODUCTS
    return of_y[..., p[:, None], p] * of_x[..., q[:, None], q]


def ridged(matrix: np.ndarray) -> np.ndarray:
    """The matrix where it can be inverted: windows at a corner of the frame see little of the plane."""
    out = matrix.copy()
    diagonal = np.einsum("...ii->...i", out)
    diagonal += 1e-9 * diagonal.max(axis=-1, keepdims=True) + 1e-30
    return out


def correlated(sums: Sums, noise: np.ndarray, held: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of the parameters (image, n, 7, 7), and the inverse of the normal matrix with what is held."""
    inverse = np.linalg.inv(ridged(sums.matrix + held))
    return inverse @ (JOIN @ noise @ JOIN.T) @ inverse, inverse
