"""Local strain of a lattice of points, by weighted least squares over the neighbours of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .lattice_growth import Raster, window_of

__all__ = ["Strain", "local_strain"]

#: neighbours up to so many times the root of the cell's area are fitted: the first two shells, sometimes a third
REACH = 2.2
#: the fit needs so many neighbours, and they must not be near a line (ratio of the extents of their indices)
LEAST, FLAT = 3, 0.15


@dataclass(frozen=True, eq=False)
class Strain:
    """Strain at points; nan where too few neighbours are known.

    Attributes
    ----------
    value, error : ndarray, shape (n, 4)
        e_yy, e_xx, e_yx and the rotation [radian, from +y towards +x], and their standard errors.
    residual : ndarray, shape (n, 2)
        Of each point itself from its local lattice [angstrom].
    leverage : ndarray, shape (n,)
        Part of a point's own deviation that the local lattice follows; 1 - leverage is left in the residual.
    """

    value: np.ndarray
    error: np.ndarray
    residual: np.ndarray
    leverage: np.ndarray


def local_strain(ij: np.ndarray, points: np.ndarray, sigma: np.ndarray, vectors: np.ndarray) -> Strain:
    """Strain at every point of a lattice, against a reference lattice.

    Parameters
    ----------
    ij : ndarray of int, shape (n, 2)
        Indices on the lattice.
    points, sigma : ndarray, shape (n, 2)
        Positions (y, x) and their standard errors [angstrom].
    vectors : ndarray, shape (2, 2)
        Reference lattice: rows u and v, (y, x) [angstrom].

    Returns
    -------
    Strain
        With G = d(position) / d(reference position): e = (G + G^T) / 2 - 1, and the rotation from its antisymmetric
        part. Errors are those that the errors of the positions bring; a strain that changes within the
        window of the fit is averaged there.

    Notes
    -----
    Least squares of the local deformation gradient over neighbours: M. L. Falk and J. S. Langer, Phys. Rev. E 57,
    7192 (1998), eq. 2.12-2.13; for columns in images R. Bierwolf et al., Ultramicroscopy 49, 273 (1993). Errors:
    the weights of a linear fit give the covariance of its result for independent errors of known size.

    Examples
    --------
    >>> ij = np.stack(np.meshgrid(*[np.arange(5)] * 2, indexing="ij"), -1).reshape(-1, 2)
    >>> stretched = ij * 2.0 @ [[1.02, 0.0], [0.0, 0.99]]
    >>> local_strain(ij, stretched, np.full((25, 2), 0.01), np.eye(2) * 2.0).value[12].round(6)[:2].tolist()
    [0.02, -0.01]
    """
    offset = np.concatenate([[[0, 0]], window_of(vectors, REACH * np.sqrt(abs(np.linalg.det(vectors))))])
    raster = Raster.of(ij, int(np.abs(offset).max()) + 1, np.arange(len(ij)))
    at = offset @ vectors
    taper = (1 - np.clip(np.hypot(*at.T) / (1.3 * np.hypot(*at.T).max()), 0, 1) ** 2) ** 2
    design = np.column_stack([np.ones(len(offset)), at])
    n = len(ij)
    value, error = np.full((n, 4), np.nan), np.full((n, 4), np.nan)
    residual, leverage = np.full((n, 2), np.nan), np.full(n, np.nan)
    for start in range(0, n, 20_000):
        rows = np.arange(start, min(start + 20_000, n))
        node = raster[ij[rows, None] + offset]
        good = _determined(node >= 0, at)
        rows, node = rows[good], node[good]
        gradient, variance, own, share = _fits(node, design, taper, points, sigma)
        value[rows] = _strain(gradient)
        error[rows] = _strain_error(variance)
        residual[rows], leverage[rows] = own, share
    return Strain(value, error, residual, leverage)


def _determined(there: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Where neighbours are enough, and on no line."""
    n = there.sum(1)
    mean = there @ at / np.maximum(n, 1)[:, None]
    square = np.einsum("mk,ka,kb->mab", there.astype(float), at, at) / np.maximum(n, 1)[:, None, None]
    low, high = np.linalg.eigvalsh(square - mean[:, :, None] * mean[:, None, :]).T
    return (n >= LEAST + 1) & (low > FLAT**2 * high)


def _fits(node: np.ndarray, design: np.ndarray, taper: np.ndarray, points: np.ndarray,
          sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gradients (m, reference, actual), covariances (m, actual, reference, reference), own residuals, leverages."""
    there = node >= 0
    rest = np.where(there[..., None], points[node] - points[node[:, :1]], 0.0)
    spread = np.where(there[..., None], sigma[node], 1.0)
    w = np.where(there, taper / (spread**2).mean(-1), 0.0)
    normal = np.einsum("mk,ka,kb->mab", w, design, design)
    solver = np.linalg.solve(normal, np.einsum("mk,ka->mak", w, design))  # from positions to the fit
    solved = solver @ rest
    covariance = np.einsum("mak,mkc,mbk->mcab", solver, np.where(there[..., None], spread, 0.0) ** 2, solver)
    return solved[:, 1:], covariance[:, :, 1:, 1:], rest[:, 0] - solved[:, 0], solver[:, 0, 0]


def _strain(g: np.ndarray) -> np.ndarray:
    return np.stack([g[:, 0, 0] - 1, g[:, 1, 1] - 1, (g[:, 0, 1] + g[:, 1, 0]) / 2, (g[:, 0, 1] - g[:, 1, 0]) / 2], 1)


def _strain_error(c: np.ndarray) -> np.ndarray:
    """Errors of the same; positions along y and x are independent."""
    shear = np.sqrt(c[:, 1, 0, 0] + c[:, 0, 1, 1]) / 2
    return np.stack([np.sqrt(c[:, 0, 0, 0]), np.sqrt(c[:, 1, 1, 1]), shear, shear], 1)
