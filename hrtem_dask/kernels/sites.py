"""Sites of one epoch: the points of the lattices that its columns lie on, and which column is on which."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import binary_fill_holes, label
from scipy.spatial import cKDTree

from .lattice_fit import LatticeFit, fit_lattice, misorientation, neighbour_offsets
from .lattice_growth import MIN_COLUMNS, Grain, Raster, find_grains, local_fit
from .places import Places, find_places
from .strain import Strain, local_strain

__all__ = ["EpochSites", "Rules", "assign", "epoch_sites", "position_errors"]

#: a column is of a site within this part of the distance between columns; and no two sites are nearer than twice that
REACH = 0.3
#: an empty site of one lattice this near to an occupied one of another is no site (in distances between columns)
BLOCKED = 0.75
#: a site holds a column in this part of the frames in which the usual site does, to count as there
SOLID = 0.5
#: scatter of the columns of one site counts as that of so many frames, where it is that of all sites
PRIOR = 4.0


@dataclass(frozen=True)
class Rules:
    """What lattices and sites have to be.

    Attributes
    ----------
    max_lattices : int
        Most lattices of an epoch.
    min_columns : int
        Fewest places of a lattice.
    min_occupancy : float
        Part of the frames in which a place that others follow has a column.
    max_distance : float or None
        Of a column from its site [angstrom]; None: 0.3 of the distance between columns.
    """

    max_lattices: int = 8
    min_columns: int = MIN_COLUMNS
    min_occupancy: float = 0.02
    max_distance: float | None = None


@dataclass(eq=False)
class EpochSites:
    """Sites of an epoch, arrays of one entry a site.

    Attributes
    ----------
    grain, ij, yx, occupied : ndarray
        Number of the lattice; indices (n, 2); mean positions (n, 2) [angstrom]; whether columns come back there.
    fits, grains : list
        A lattice each.
    site, distance : ndarray, shape (columns,)
        Of each column: its site, -1 where it has none; distance from it [angstrom], nan where it has none.
    double : ndarray of bool, shape (columns,)
        Columns near a site which another column of the frame is nearer to.
    places : Places
        Where columns come back; ``free``: those that are on no lattice.
    spacing : ndarray, shape (lattices,)
        Distance between columns of each lattice, and of others that lie between them [angstrom].
    """

    grain: np.ndarray
    ij: np.ndarray
    yx: np.ndarray
    occupied: np.ndarray
    site: np.ndarray
    distance: np.ndarray
    double: np.ndarray
    places: Places
    free: np.ndarray
    spacing: np.ndarray = field(default_factory=lambda: np.zeros(0))
    grains: list[Grain] = field(default_factory=list)
    fits: list[LatticeFit] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    error: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    strain: list[Strain] = field(default_factory=list)


def epoch_sites(yx: np.ndarray, frame: np.ndarray, frames: int, rules: Rules,
                errors: np.ndarray | None = None) -> EpochSites:
    """Find the lattices and sites of one epoch, and put every column on a site or on none.

    Parameters
    ----------
    yx : ndarray, shape (n, 2)
        Columns in reference coordinates [angstrom].
    frame : ndarray of int, shape (n,)
        Their frames.
    frames : int
        Number of frames of the epoch.
    rules : Rules
    errors : ndarray, shape (n, 2), optional
        Standard errors of the columns [angstrom], nan where unknown.

    Returns
    -------
    EpochSites
        Without any site where no lattice is found.
    """
    places = find_places(yx, frames, min_occupancy=rules.min_occupancy)
    grains = find_grains(places.yx, places.strong, max_lattices=rules.max_lattices, min_columns=rules.min_columns)
    free = np.ones(len(places), bool)
    for g in grains:
        free[g.node] = False
    if not grains:
        none = np.zeros(0, np.int64)
        return EpochSites(none, none.reshape(0, 2), np.zeros((0, 2)), none.astype(bool), np.full(len(yx), -1),
                          np.full(len(yx), np.nan), np.zeros(len(yx), bool), places, free)
    grains = [_centred(g, places) for g in grains]
    spacing = _spacings(grains, places)
    grain, ij, at, occupied = _all_sites(grains, places, spacing)
    reach = rules.max_distance or REACH * spacing[grain]
    site, distance, double = assign(yx, frame, at, reach)
    found = EpochSites(grain, ij, at, occupied, site, distance, double, places, free, spacing, grains)
    _measure(found, yx, errors)
    return found


def _centred(grain: Grain, places: Places) -> Grain:
    """The same with i = j = 0 at the point nearest to the centre."""
    at = places.yx[grain.node]
    away = np.hypot(*(at - at.mean(0)).T).round(6)
    return Grain(grain.vectors, grain.ij - grain.ij[np.lexsort((at[:, 1], at[:, 0], away))[0]], grain.node)


def _spacings(grains: list[Grain], places: Places) -> np.ndarray:
    """Shortest vector of each lattice, or the distance to the columns of another one that lie between its own.

    A sheet such as MoS2 has two lattices with the same vectors, one for each of its two columns a cell.
    """
    at = places.yx[np.concatenate([g.node for g in grains])]
    nearest = cKDTree(at).query(at, k=2)[0][:, 1]
    parts = np.split(nearest, np.cumsum([len(g.node) for g in grains])[:-1])
    return np.array([min(float(np.hypot(*g.vectors[0])), float(np.median(p)))
                     for g, p in zip(grains, parts, strict=True)])


def _all_sites(grains: list[Grain], places: Places, spacing: np.ndarray) -> tuple[np.ndarray, ...]:
    """Occupied sites and the empty ones next to them: lattice, indices, positions, whether occupied."""
    parts = []
    for k, g in enumerate(grains):
        ring = _ring(g)
        raster = Raster.of(g.ij, 4, g.node)
        place, _ = local_fit(raster, places.yx, ring, g.vectors)
        order, around = np.lexsort(g.ij.T[::-1]), np.lexsort(ring.T[::-1])
        parts.append((k, g.ij[order], places.yx[g.node[order]], ring[around], place[around]))
    held = [_unblocked(k, parts, spacing) for k in range(len(grains))]
    grain = np.concatenate([np.full(len(p[1]) + h.sum(), p[0]) for p, h in zip(parts, held, strict=True)])
    ij = np.concatenate([a for p, h in zip(parts, held, strict=True) for a in (p[1], p[3][h])])
    at = np.concatenate([a for p, h in zip(parts, held, strict=True) for a in (p[2], p[4][h])])
    there = np.concatenate([np.arange(len(p[1]) + h.sum()) < len(p[1]) for p, h in zip(parts, held, strict=True)])
    # of two empty sites of different lattices at one place, that of the larger lattice stays
    scale = spacing[grain]
    pairs = cKDTree(at).query_pairs(2 * REACH * spacing.max(), output_type="ndarray")
    pairs = pairs[np.hypot(*(at[pairs[:, 0]] - at[pairs[:, 1]]).T) < 2 * REACH * scale[pairs].min(1)]
    drop = np.zeros(len(at), bool)
    for first, second in (pairs.T, pairs.T[::-1]):
        drop[second[~there[second] & (there[first] | (first < second))]] = True
    return grain[~drop], ij[~drop], at[~drop], there[~drop]


def _ring(grain: Grain) -> np.ndarray:
    """Empty lattice points next to occupied ones, and those that they enclose."""
    raster = Raster.of(grain.ij, 2, grain.node)
    there = raster.node >= 0
    wide = np.zeros_like(there)
    for i, j in neighbour_offsets(grain.vectors):
        wide |= np.roll(there, (i, j), (0, 1))
    return np.argwhere((wide | binary_fill_holes(there)) & ~there) + raster.corner


def _unblocked(k: int, parts: list, spacing: np.ndarray) -> np.ndarray:
    """Which empty sites of a lattice are not where another one has its columns."""
    free = np.ones(len(parts[k][3]), bool)
    for other, p in enumerate(parts):
        if other != k:
            free &= cKDTree(p[2]).query(parts[k][4])[0] > BLOCKED * min(spacing[k], spacing[other])
    return free


def assign(yx: np.ndarray, frame: np.ndarray, sites: np.ndarray,
           reach: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put columns on sites, one to one in every frame.

    Parameters
    ----------
    yx : ndarray, shape (n, 2)
        Columns [angstrom].
    frame : ndarray of int, shape (n,)
    sites : ndarray, shape (m, 2)
        [angstrom].
    reach : float or ndarray, shape (m,)
        How far a column of a site may be from it [angstrom].

    Returns
    -------
    site : ndarray of int, shape (n,)
        -1 where a column has none.
    distance : ndarray, shape (n,)
        [angstrom]; nan where a column has none.
    double : ndarray of bool, shape (n,)
        Columns that are near a site to which another one of the frame is nearer.

    Examples
    --------
    >>> site, _, double = assign(np.array([[0.1, 0], [0.2, 0], [5, 5]]), np.zeros(3, int), np.zeros((1, 2)), 0.5)
    >>> site.tolist(), double.tolist()
    ([0, -1, -1], [False, True, False])
    """
    distance, nearest = cKDTree(sites).query(yx)
    near = distance <= np.broadcast_to(reach, len(sites))[nearest]
    rows = np.flatnonzero(near)
    key = frame[rows].astype(np.int64) * len(sites) + nearest[rows]
    # the nearest column of each site and frame, of equal ones the first in space, whatever the order of the rows
    order = np.lexsort((yx[rows, 1], yx[rows, 0], distance[rows], key))
    key = key[order]
    first = rows[order[np.concatenate([[True], key[1:] != key[:-1]])]] if len(rows) else rows
    site = np.full(len(yx), -1, dtype=np.int64)
    site[first] = nearest[first]
    return site, np.where(site >= 0, distance, np.nan), near & (site < 0)


def _measure(found: EpochSites, yx: np.ndarray, errors: np.ndarray | None) -> None:
    """Mean positions with errors, lattices fitted to them, strain; in place."""
    n = len(found.yx)
    on = found.site >= 0
    site = found.site[on]
    seen = np.bincount(site, minlength=n)
    mean = np.stack([np.bincount(site, yx[on, k], n) for k in (0, 1)], 1) / np.maximum(seen, 1)[:, None]
    found.occupied &= seen > 0
    found.yx = np.where(found.occupied[:, None], mean, found.yx)
    single = None if errors is None else _mean_error(errors[on], site, n)
    found.error = position_errors(yx[on] - found.yx[site], site, seen, single)
    for k, g in enumerate(found.grains):
        rows = np.flatnonzero((found.grain == k) & found.occupied)
        if np.isnan(found.error[rows]).any():  # one frame without errors: what the columns are off their neighbours
            rough = local_strain(found.ij[rows], found.yx[rows], np.ones((len(rows), 2)), g.vectors)
            own = np.isfinite(rough.leverage)
            scatter = (rough.residual[own] ** 2).sum(0) / max(float((1 - rough.leverage[own]).sum()), 1e-9)
            found.error[rows] = np.sqrt(np.maximum(scatter, 1e-12))
        found.fits.append(fit_lattice(found.ij[rows], found.yx[rows]))
        found.turns.append(misorientation(found.fits[0].vectors, found.fits[k].vectors))
    found.error[~found.occupied] = np.nan


def _mean_error(errors: np.ndarray, site: np.ndarray, n: int) -> np.ndarray:
    """Root mean square of the stated errors of the columns of each site; nan where none is stated."""
    known = np.isfinite(errors).all(1)
    count = np.bincount(site[known], minlength=n)
    total = np.stack([np.bincount(site[known], errors[known, k] ** 2, n) for k in (0, 1)], 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(total / count[:, None])


def position_errors(rest: np.ndarray, site: np.ndarray, seen: np.ndarray, single: np.ndarray | None) -> np.ndarray:
    """Standard errors of mean positions, from the scatter of the columns.

    Parameters
    ----------
    rest : ndarray, shape (n, 2)
        Columns less the mean of their site [angstrom].
    site : ndarray of int, shape (n,)
    seen : ndarray of int, shape (m,)
        Columns of each site.
    single : ndarray, shape (m, 2), optional
        Stated error of one column [angstrom]; used where columns were seen once only.

    Returns
    -------
    ndarray, shape (m, 2)
        The scatter of a site is weighed with that of all sites, which counts as four frames; nan where
        nothing is known.
    """
    n = len(seen)
    square = np.stack([np.bincount(site, rest[:, k] ** 2, n) for k in (0, 1)], 1)
    freedom = np.maximum(seen - 1, 0)
    usual = square[freedom > 0].sum(0) / max(int(freedom.sum()), 1) if freedom.sum() >= 5 else np.full(2, np.nan)
    if single is not None and not np.isfinite(usual).all():
        usual = np.where(np.isfinite(single), single, np.sqrt(np.nanmean(single**2)) if np.isfinite(single).any()
                         else np.nan) ** 2
    variance = (PRIOR * usual + square) / (PRIOR + freedom)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(variance / seen[:, None])


def strain_of(found: EpochSites, references: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strain and its errors (site, 4), and distance of each site from its rigid lattice [angstrom]; else nan."""
    value, error = np.full((len(found.yx), 4), np.nan), np.full((len(found.yx), 4), np.nan)
    residual = np.full(len(found.yx), np.nan)
    for k, (fit, reference) in enumerate(zip(found.fits, references, strict=True)):
        rows = np.flatnonzero((found.grain == k) & found.occupied)
        strain = local_strain(found.ij[rows], found.yx[rows], found.error[rows], reference)
        value[rows], error[rows] = strain.value, strain.error
        residual[rows] = np.hypot(*fit.residual.T)
    return value, error, residual


def surroundings(found: EpochSites, occupancy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Occupied neighbours of each site, and whether the outside is next to it (or it is outside itself).

    A vacancy inside a particle is not outside: it is enclosed by occupied sites. Sites count as
    occupied that hold a column in half of the frames in which the usual site does.
    """
    neighbours, surface = np.zeros(len(found.yx), np.int64), np.zeros(len(found.yx), bool)
    usual = np.nanpercentile(occupancy[found.occupied], 90) if found.occupied.any() else 1.0
    solid = found.occupied & (occupancy >= SOLID * usual)
    for k, g in enumerate(found.grains):
        rows = np.flatnonzero(found.grain == k)
        raster = Raster.of(found.ij[rows], 2, np.where(solid[rows], 0, -1))
        near = neighbour_offsets(g.vectors)
        _fill_from_others(raster, found, k, solid)
        structure = np.zeros((3, 3), bool)
        structure[1, 1] = True
        structure[tuple((near + 1).T)] = True
        region, _ = label(raster.node < 0, structure)
        outside = Raster(np.where(region == region[0, 0], 0, -1), raster.corner)
        around = found.ij[rows, None] + near
        neighbours[rows] = (raster[around] >= 0).sum(1)
        surface[rows] = (outside[around] >= 0).any(1) | (outside[found.ij[rows]] >= 0)
    return neighbours, surface


def _fill_from_others(raster: Raster, found: EpochSites, k: int, solid: np.ndarray) -> None:
    """Lattice points where another lattice has its columns count as occupied."""
    others = solid & (found.grain != k)
    if not others.any():
        return
    g = found.grains[k]
    ring = _ring(Grain(g.vectors, found.ij[(found.grain == k) & found.occupied],
                       np.flatnonzero((found.grain == k) & found.occupied)))
    own = Raster.of(g.ij, 4, np.arange(len(g.ij)))
    place, _ = local_fit(own, found.places.yx[g.node], ring, g.vectors)
    away = cKDTree(found.yx[others]).query(place)[0]
    blocked = ring[away <= BLOCKED * found.spacing[k]]
    if len(blocked):
        raster[blocked] = np.zeros(len(blocked), np.int64)
