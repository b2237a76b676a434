"""Sites of the particle's lattice: where columns are, could be, and how far the lattice is strained there."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd

from ..core.checks import check_number
from ..core.errors import InputError
from ..core.provenance import history_of, record
from ..core.schema import LATTICES, SITES
from ..kernels.lattice_growth import MIN_COLUMNS
from ..kernels.lattice_zone import ColumnZone, name_zone, same_basis, turned_onto
from ..kernels.sites import EpochSites, Rules, epoch_sites, strain_of, surroundings
from ..kernels.zone import has_structure
from .site_table import Seen, checked_columns, epoch_rows, frames_of, lattice_rows, site_rows

__all__ = ["Sites", "find_sites"]


@dataclass(eq=False)
class Sites:
    """What `find_sites` returns.

    Attributes
    ----------
    table : pandas.DataFrame
        The sites, `core.schema.SITES`.
    columns : pandas.DataFrame
        The table that was given, in its order and with its index, with ``y_ref``, ``x_ref`` [angstrom] and ``epoch``,
        ``site`` (-1: no lattice explains the column) and ``residual``, its distance from the site [angstrom].
    lattices : pandas.DataFrame
        The lattices, `core.schema.LATTICES`.
    epochs : pandas.DataFrame
        A row an epoch: ``epoch``, ``frames``, ``columns``, ``assigned``, ``double`` (near a site which another column
        of the frame is nearer to), ``unexplained`` (on no lattice), ``share`` of both, ``lattices``, ``message``.
    unexplained : pandas.DataFrame
        Places where columns come back that no lattice explains: ``epoch``, ``y``, ``x`` [angstrom], ``seen``.
    reason : str or None
        Why there is no site at all.
    """

    table: pd.DataFrame
    columns: pd.DataFrame
    lattices: pd.DataFrame
    epochs: pd.DataFrame
    unexplained: pd.DataFrame
    reason: str | None = None
    attrs: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def summary(self) -> str:
        """The lattices, and what they do not explain, in words."""
        if self.reason is not None:
            return f"no site: {self.reason}"
        return "\n".join(f"epoch {row.epoch}: {row.message}" for row in self.epochs.itertuples())

    def to_parquet(self, folder: str | Path) -> None:
        """Write ``sites.parquet`` and ``lattices.parquet`` into a folder, with units, meanings and provenance.

        Raises
        ------
        WriteError
            If a file cannot be written.
        """
        from ..io.tables import write_table

        for name, table, schema in (("sites", self.table, SITES), ("lattices", self.lattices, LATTICES)):
            write_table(Path(folder) / f"{name}.parquet", table, schema, provenance=history_of(self.attrs))


def find_sites(
    columns: pd.DataFrame | dd.DataFrame,
    drift: pd.DataFrame | None = None,
    *,
    crystal: Any = None,
    reference: str | Sequence[Sequence[float]] = "fit",
    frames: Sequence[int] | pd.DataFrame | None = None,
    field_of_view: Sequence[float] | None = None,
    max_lattices: int = 8,
    min_columns: int = MIN_COLUMNS,
    min_occupancy: float = 0.02,
    max_distance: float | None = None,
) -> Sites:
    """Fit the lattices of the columns, and put every column on a site or on none. Computes, once.

    In every epoch, the places are found where columns come back. Lattice vectors come from the differences
    of these places; from the best-ordered one the lattice is grown from neighbour to neighbour, each
    where those around it put it, so that strained and bent particles are followed. What is left over may
    have another lattice (a twin, another particle); what none explains is reported, not forced. Around the
    occupied sites, one ring of empty lattice points are sites too, since columns may appear there.

    Parameters
    ----------
    columns : pandas or dask DataFrame
        From `find_columns`, or any table with the columns ``frame``, ``y``, ``x`` [angstrom]. ``y_error``, ``x_error``,
        ``intensity`` and ``intensity_error`` are used where they are there; ``y_ref``, ``x_ref`` and ``epoch``, as
        `correct_drift` adds them, where ``drift`` is None.
    drift : pandas.DataFrame, optional
        From `estimate_drift`. Without it, and without ``y_ref`` in the table, positions are taken to be free of drift.
    crystal : str, path or ase.Atoms, optional
        Names the zone axis of each lattice: a name such as "Au", a structure file, or an ASE structure.
    reference : "fit", "crystal" or array of shape (2, 2)
        Lattice that strain is measured against: the mean lattice of each grain itself; the ideal one of the
        crystal on that axis, turned onto it (then an error of the pixel size is strain too); or vectors as rows
        (y, x) [angstrom], which are turned onto grains other than the first.
    frames : sequence of int or table, optional
        Frames that were looked at: numbers, or a table with ``frame`` (and ``keep``, as of `filter_frames`). By default
        those registered in ``drift``, else those with a column.
    field_of_view : (float, float, float, float), optional
        First and last y, first and last x that the frames show [angstrom]: where a site lies outside, it could not be
        seen. By default the box around all columns, wider by a lattice vector.
    max_lattices : int
        Most lattices of an epoch.
    min_columns : int
        Fewest columns of a lattice.
    min_occupancy : float
        Part of the frames in which a site has a column, for others to be grown from it.
    max_distance : float, optional
        Of a column from its site [angstrom]; by default 0.3 of the distance between columns.

    Returns
    -------
    Sites
        ``table`` (sites), ``columns`` (with ``site``), ``lattices``, ``epochs``, ``unexplained``, ``summary``. Where no
        lattice is found these are empty, every column has the site -1, and ``reason`` says why.

    Raises
    ------
    InputError
        If a column is missing, a position or a frame is no number, a row is there twice, or an argument makes
        no sense.

    Warns
    -----
    UserWarning
        If no lattice is found in any epoch.

    Notes
    -----
    Positions of sites are means of their columns; errors come from their scatter, or in a single frame from
    the stated errors, else from what columns are off the local lattice. Strain is that of the local deformation
    gradient over the next two shells (`kernels.strain`). Of a single frame, a column that is missed
    looks like a vacancy; and a false one within reach of an empty site takes it. A lattice with several columns a
    cell, as MoS2 has, is found as several lattices with the same vectors.

    Examples
    --------
    >>> i, j = np.mgrid[:6, :6].reshape(2, -1)
    >>> table = pd.DataFrame({"frame": 0, "y": 2.04 * i + 5, "x": 2.04 * j + 5})
    >>> found = find_sites(table, crystal="Au")
    >>> found.lattices[["length_u", "length_v", "n", "zone_axis"]].round(2).values.tolist()
    [[2.04, 2.04, 36, '[100]']]
    >>> len(found.table), int(found.table["occupied"].sum()), int((found.columns["site"] < 0).sum())
    (60, 36, 0)
    """
    _check_options(reference, crystal, max_lattices, min_columns, min_occupancy, max_distance)
    rules = Rules(int(max_lattices), int(min_columns), float(min_occupancy), max_distance)
    table = checked_columns(columns, drift)
    seen = frames_of(table, drift, frames, field_of_view)
    attrs = record({k: v for k, v in table.attrs.items() if k == "provenance"}, "find_sites", crystal=crystal,
                   reference=reference, max_lattices=max_lattices, min_columns=min_columns,
                   min_occupancy=min_occupancy, max_distance=max_distance, field_of_view=field_of_view)
    site, residual = np.full(len(table), -1, dtype=np.int64), np.full(len(table), np.nan)
    parts: dict[str, list[pd.DataFrame]] = {"sites": [], "lattices": [], "epochs": [], "unexplained": []}
    total = 0
    for epoch in seen.epochs:
        rows = seen.rows(epoch)
        found = epoch_sites(seen.at[rows], seen.frame[rows], int((seen.epoch == epoch).sum()), rules,
                            None if seen.error is None else seen.error[rows])
        _add(parts, seen, int(epoch), rows, found, total, crystal, reference)
        site[rows] = np.where(found.site >= 0, found.site + total, -1)
        residual[rows] = found.distance
        total += len(found.yx)
    return _result(table, seen, site, residual, parts, attrs)


def _check_options(reference: Any, crystal: Any, max_lattices: Any, min_columns: Any, min_occupancy: Any,
                   max_distance: Any) -> None:
    check_number("max_lattices", max_lattices, least=1, whole=True)
    check_number("min_columns", min_columns, "columns", least=4, whole=True)
    check_number("min_occupancy", min_occupancy, least=0)
    if max_distance is not None:
        check_number("max_distance", max_distance, "angstrom", above=0)
    if min_occupancy >= 1:
        raise InputError(f"min_occupancy is {min_occupancy!r}; expected a part of the frames, from 0 to below 1")
    if crystal is not None and not has_structure(crystal):
        raise InputError(f"crystal is {crystal!r}; expected a name such as 'Au', a structure file or an ASE structure: "
                         f"spacings alone have no zone axes")
    if isinstance(reference, str):
        if reference not in ("fit", "crystal"):
            raise InputError(f"reference is {reference!r}; expected 'fit', 'crystal', or two vectors [angstrom]")
        if reference == "crystal" and crystal is None:
            raise InputError("reference='crystal' needs a crystal; expected crystal='Au' or another one beside it")
        return
    vectors = np.asarray(reference, dtype=np.float64)
    if vectors.shape != (2, 2) or not np.isfinite(vectors).all() or abs(np.linalg.det(vectors)) < 1e-6:
        raise InputError(f"reference is {reference!r}; expected 'fit', 'crystal', or two vectors that are not "
                         f"collinear, as rows (y, x) [angstrom]: [[2.04, 1.44], [2.04, -1.44]]")


def _add(parts: dict[str, list[pd.DataFrame]], seen: Seen, epoch: int, rows: np.ndarray, found: EpochSites,
         first: int, crystal: Any, reference: Any) -> None:
    """Add the tables of one epoch."""
    zones = [None if crystal is None else name_zone(f.vectors, crystal) for f in found.fits]
    references = [_reference(reference, k, f.vectors, z)
                  for k, (f, z) in enumerate(zip(found.fits, zones, strict=True))]
    visible = seen.visible(epoch, found.yx, max((np.hypot(*f.vectors[1]) for f in found.fits), default=0.0))
    count = np.bincount(found.site[found.site >= 0], minlength=len(found.yx))
    visible = np.maximum(visible, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        occupancy = np.where(visible > 0, count / visible, np.nan)
    strain = strain_of(found, references)
    around = surroundings(found, occupancy)
    parts["sites"].append(site_rows(found, epoch, first, count, visible, occupancy, strain, around,
                                    *seen.intensities(rows, found.site, len(found.yx))))
    parts["lattices"].append(lattice_rows(found, epoch, zones))
    parts["epochs"].append(epoch_rows(found, epoch, seen, rows, zones))
    free = found.free & (found.places.seen >= found.places.least)
    parts["unexplained"].append(pd.DataFrame({"epoch": epoch, "y": found.places.yx[free, 0],
                                              "x": found.places.yx[free, 1], "seen": found.places.seen[free]}))


def _reference(reference: Any, grain: int, vectors: np.ndarray, zone: ColumnZone | None) -> np.ndarray:
    """Vectors that strain of one lattice is measured against."""
    if isinstance(reference, str):
        if reference == "fit":
            return vectors
        return np.full((2, 2), np.nan) if zone is None else zone.vectors
    given = np.asarray(reference, dtype=np.float64)
    if grain:
        from ..kernels.lattice_fit import misorientation

        given = turned_by(given, misorientation(given, vectors))
    near = same_basis(given, vectors)
    if near is None:
        if grain:
            return np.full((2, 2), np.nan)
        raise InputError(f"reference is {given.round(3).tolist()}; the lattice found has the vectors "
                         f"{vectors.round(3).tolist()} [angstrom], which no vectors of that lattice come near. "
                         f"Expected vectors as they lie in the image, or reference='fit'")
    return near if not grain else turned_onto(near, vectors)


def turned_by(vectors: np.ndarray, angle: float) -> np.ndarray:
    """Vectors turned from +y towards +x."""
    c, s = np.cos(angle), np.sin(angle)
    return vectors @ np.array([[c, s], [-s, c]])


def _result(table: pd.DataFrame, seen: Seen, site: np.ndarray, residual: np.ndarray,
            parts: dict[str, list[pd.DataFrame]], attrs: dict[str, Any]) -> Sites:
    joined = {name: pd.concat(p, ignore_index=True) if p else pd.DataFrame() for name, p in parts.items()}
    sites = SITES.coerce(joined["sites"]) if len(joined["sites"]) else SITES.empty()
    lattices = LATTICES.coerce(joined["lattices"]) if len(joined["lattices"]) else LATTICES.empty()
    for empty, names in (("epochs", ["epoch", "frames", "columns", "assigned", "double", "unexplained", "share",
                                     "lattices", "message"]), ("unexplained", ["epoch", "y", "x", "seen"])):
        if not len(joined[empty].columns):
            joined[empty] = pd.DataFrame(columns=names)
    reason = None
    if not len(sites):
        reason = seen.reason or "; ".join(f"epoch {r.epoch}: {r.message}" for r in joined["epochs"].itertuples())
        warnings.warn(f"no lattice found: {reason}", stacklevel=3)
    sites.attrs = lattices.attrs = attrs
    columns = table.assign(site=site, residual=residual)
    return Sites(sites, columns, lattices, joined["epochs"], joined["unexplained"], reason, attrs)
