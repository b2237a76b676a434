"""The truth of a simulated field: columns of atoms, as a table and as an image to learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..core.errors import InputError
from .structures import Specimen

__all__ = ["COLUMN_CLASSES", "LABEL_SHAPES", "column_image", "column_table"]

#: what a column can be: of a particle, or a site of a MoS2 sheet
COLUMN_CLASSES = ("column", "mo", "s2", "s1", "empty")
LABEL_SHAPES = ("gaussian", "disc")
REACH = 4.0  # sigma that a Gaussian is drawn to
MOLYBDENUM, SULPHUR = 42, 16


def column_table(specimen: Specimen) -> pd.DataFrame:
    """List the columns of atoms of a field, where they are in projection.

    Parameters
    ----------
    specimen : Specimen

    Returns
    -------
    pandas.DataFrame
        A row a column, in the order of their numbers, without those of a particle that have no atom:
        ``column`` (number in the specimen), ``y, x``
        [angstrom], the mean over its atoms (over its sites where it has no atom), within the field;
        ``atoms``; ``species``, the atomic number (0 where there is no atom); ``class``, categorical:
        column (of a particle), mo, s2, s1 or empty; ``particle``, from 1, 0 in a sheet; ``z``
        [angstrom], mean; ``spread`` [angstrom], the largest distance of its atoms from its centre
        in projection: how far tilt and thermal displacement smear it.

    Examples
    --------
    >>> from hrtem_dask.simulate.structures import assemble
    >>> from hrtem_dask.simulate.crystals import Cluster
    >>> p = np.array([[3.0, 8.0, 0.0], [3.2, 8.0, 3.0], [6.0, 8.0, 0.0]])
    >>> field = assemble([Cluster(np.full(3, 79), p, np.array([1, 1, 2]))], [], (10.0, 20.0))
    >>> column_table(field)[["y", "x", "atoms", "class"]].values.tolist()
    [[8.0, 3.1, 2, 'column'], [8.0, 6.0, 1, 'column']]
    """
    at = np.flatnonzero(specimen.column > 0)
    number, first, group = np.unique(specimen.column[at], return_index=True, return_inverse=True)
    numbers, p, size = specimen.numbers[at], specimen.positions[at].copy(), np.array(specimen.box[:2])
    # atoms of one column may lie on both sides of the border
    p[:, :2] -= np.round((p[:, :2] - p[first][group][:, :2]) / size) * size
    atoms = np.bincount(group[numbers > 0], minlength=len(number))
    weight = np.where(atoms[group] > 0, numbers > 0, True).astype(float)
    total = np.bincount(group, weight, len(number))
    centre = np.stack([np.bincount(group, weight * p[:, k], len(number)) for k in range(3)], 1) \
        / np.maximum(total, 1)[:, None]
    away = np.hypot(*(p - centre[group])[:, :2].T) * (weight > 0)
    spread = np.zeros(len(number))
    np.maximum.at(spread, group, away)
    species = np.zeros(len(number), int)
    np.maximum.at(species, group, numbers)
    particle = specimen.particle[at][first]
    xy = centre[:, :2] % size
    kind = np.select([particle > 0, species == MOLYBDENUM, atoms >= 2, atoms == 1],
                     COLUMN_CLASSES[:4], COLUMN_CLASSES[4])
    table = pd.DataFrame({
        "column": number.astype(np.int32), "y": xy[:, 1], "x": xy[:, 0], "atoms": atoms.astype(np.int32),
        "species": species.astype(np.int16), "class": pd.Categorical(kind, COLUMN_CLASSES),
        "particle": particle.astype(np.int32), "z": centre[:, 2], "spread": spread})
    return table[(table["particle"] == 0) | (table["atoms"] > 0)].reset_index(drop=True)


def column_image(columns: pd.DataFrame, shape: tuple[int, int], pixel_size: float | tuple[float, float], *,
                 classes: Sequence[str] = ("column",), size: float = 0.4, kind: str = "gaussian",
                 origin: tuple[float, float] = (0.0, 0.0), period: tuple[float, float] | None = None) -> np.ndarray:
    """Draw the label that a network learns columns from, at any pixel size.

    Parameters
    ----------
    columns : pandas.DataFrame
        ``y, x`` [angstrom] and ``class``, from `column_table` or a part of it.
    shape : (int, int)
        Samples (y, x).
    pixel_size : float or (float, float)
        [angstrom], along y and x where they differ.
    classes : sequence of str
        Which classes to draw, in which order.
    size : float
        Sigma of a Gaussian of height 1, or radius of a disc [angstrom].
    kind : {"gaussian", "disc"}
        A disc's sample belongs to the nearest column where two discs overlap.
    origin : (float, float)
        Where sample (0, 0) lies (y, x) [angstrom].
    period : (float, float), optional
        Period of the field (y, x) [angstrom]: columns also appear where the field repeats.

    Returns
    -------
    ndarray, float32, shape (1 + len(classes), y, x)
        First the background, then the classes; adds up to 1 everywhere, so it serves as the
        probability of each class. Where Gaussians overlap, a sample takes the highest of each
        class, scaled where the classes exceed 1.

    Raises
    ------
    InputError
        If a class or a kind is unknown, or the size is not positive.

    Examples
    --------
    >>> table = pd.DataFrame({"y": [2.0], "x": [6.0], "class": ["column"]})
    >>> label = column_image(table, (20, 40), 0.2, size=0.3)
    >>> label.shape, float(label[1, 10, 30]), float(label[0, 0, 0])
    ((2, 20, 40), 1.0, 1.0)
    """
    if kind not in LABEL_SHAPES or size <= 0 or not classes or not set(classes) <= set(COLUMN_CLASSES):
        raise InputError(f"found kind {kind!r}, size {size!r}, classes {tuple(classes)}; expected one of "
                         f"{LABEL_SHAPES}, a positive size in angstrom, and classes out of {COLUMN_CLASSES}")
    step = np.broadcast_to(np.asarray(pixel_size, float), 2)
    yx = columns[["y", "x"]].to_numpy(float).reshape(-1, 2) - origin
    code = pd.Categorical(columns["class"], classes).codes.astype(int)
    yx, code = yx[code >= 0], code[code >= 0]
    reach = REACH * size if kind == "gaussian" else size
    if period is not None:
        yx, code = repeated(yx, code, np.asarray(period, float), np.array(shape) * step, reach)
    half = np.ceil(reach / step).astype(int)
    window = np.stack(np.meshgrid(*[np.arange(-h, h + 1) for h in half], indexing="ij"), -1).reshape(-1, 2)
    ij = np.round(yx / step).astype(int)[:, None] + window
    distance = np.hypot(*np.moveaxis(ij * step - yx[:, None], -1, 0))
    ok = ((ij >= 0) & (ij < shape)).all(-1) & (distance <= reach)
    at = np.ravel_multi_index(tuple(np.moveaxis(ij[ok], -1, 0)), shape)
    label = np.broadcast_to(code[:, None], ok.shape)[ok]
    out = np.zeros((1 + len(classes), shape[0] * shape[1]), np.float32)
    if kind == "gaussian":
        np.maximum.at(out, (label + 1, at), np.exp(-0.5 * (distance[ok] / size) ** 2).astype(np.float32))
        out /= np.maximum(out.sum(0), 1)
    else:
        order = np.argsort(-distance[ok], kind="stable")  # of several, the nearest is written last
        nearest = np.full(out.shape[1], -1)
        nearest[at[order]] = label[order]
        drawn = np.flatnonzero(nearest >= 0)
        out[nearest[drawn] + 1, drawn] = 1
    out[0] = 1 - out[1:].sum(0)
    return out.reshape(1 + len(classes), *shape)


def repeated(yx: np.ndarray, code: np.ndarray, period: np.ndarray, extent: np.ndarray,
             reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Add what a periodic field shows again within an extent that begins at 0 [angstrom]."""
    yx = yx % period
    n = np.ceil((extent + 2 * reach) / period).astype(int)
    shifts = np.stack(np.meshgrid(*[np.arange(-1, m + 1) for m in n], indexing="ij"), -1).reshape(-1, 1, 2) * period
    every = (yx + shifts).reshape(-1, 2)
    near = ((every >= -reach) & (every <= extent + reach)).all(1)
    return every[near], np.tile(code, len(shifts))[near]
