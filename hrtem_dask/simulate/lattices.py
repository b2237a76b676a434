"""Metals as crystals, from ASE's table of the elements: cells, families of facets, directions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..core.errors import InputError

__all__ = ["COLUMN_AXES", "Lattice", "atom_volume_of", "bond_of", "family_of", "lattice_of", "parse_zone_axis",
           "structure_of", "zone_direction"]

#: where ASE's table is rounded to 0.01 angstrom, too coarse for the spacings that the package measures
LATTICE_CONSTANTS = {"Au": 4.078}
FCC_BASIS = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
N111 = np.array([[a, b, c] for a in (1, -1) for b in (1, -1) for c in (1, -1)]) / np.sqrt(3)
N100 = np.concatenate([np.eye(3), -np.eye(3)])
#: families of facets and the range of their distances over the radius: the closest-packed lie nearest
FACETS = {
    "fcc": (((1, 1, 1), 0.82, 1.08), ((1, 0, 0), 0.92, 1.2), ((1, 1, 0), 1.0, 1.25)),
    "bcc": (((1, 1, 0), 0.82, 1.08), ((1, 0, 0), 0.92, 1.2), ((1, 1, 1), 1.0, 1.25)),
    "hcp": (((0, 0, 1), 0.82, 1.08), ((1, 0, 0), 0.92, 1.2), ((1, 0, 1), 0.9, 1.15)),
}
SPACE_GROUPS = {"fcc": 225, "bcc": 229, "hcp": 194}
#: directions [uvw] along which the columns of atoms are resolved in projection
COLUMN_AXES = {"fcc": ("110", "100", "111", "112"), "bcc": ("111", "100", "110"), "hcp": ("001", "100", "210")}


@dataclass(frozen=True, eq=False)
class Lattice:
    """A metal's crystal.

    Parameters
    ----------
    number : int
        Atomic number.
    structure : str
        fcc, bcc or hcp.
    cell : ndarray, shape (3, 3)
        Lattice vectors in rows [angstrom].
    basis : ndarray, shape (m, 3)
        Atoms of the cell, in fractions of its vectors.
    facets : tuple of (ndarray, float, float)
        Of each family the unit normals (n, 3), and the range of distances over the radius.
    bond : float
        Distance of nearest neighbours [angstrom].
    """

    number: int
    structure: str
    cell: np.ndarray
    basis: np.ndarray
    facets: tuple[tuple[np.ndarray, float, float], ...]
    bond: float

    def sites(self, reach: float) -> np.ndarray:
        """All sites of the cells within `reach` [angstrom] of the origin, and some beyond."""
        heights = 1 / np.linalg.norm(np.linalg.inv(self.cell), axis=0)
        n = np.ceil(reach / heights - 1e-9).astype(int)
        cells = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in n], indexing="ij"), -1).reshape(-1, 1, 3)
        return (cells + self.basis).reshape(-1, 3) @ self.cell

    def column_spacing(self, axis: str) -> float:
        """Distance [angstrom] of neighbouring columns of atoms along a direction.

        Examples
        --------
        >>> [round(lattice_of("Au").column_spacing(a), 2) for a in ("110", "100", "111")]
        [2.5, 2.04, 1.66]
        """
        direction = zone_direction(self.cell, axis)
        p = self.sites(2 * float(np.linalg.norm(self.cell, axis=1).max()))
        away = np.linalg.norm((p - p[0]) - np.outer((p - p[0]) @ direction, direction), axis=1)
        return float(away[away > 0.3].min())

    @property
    def atom_volume(self) -> float:
        """Volume of an atom [angstrom^3]."""
        return float(abs(np.linalg.det(self.cell)) / len(self.basis))


def structure_of(species: str) -> str:
    """Say whether a metal is fcc, bcc or hcp.

    Raises
    ------
    InputError
        If this is no element, or one of another structure.

    Examples
    --------
    >>> structure_of("Pt"), structure_of("Co")
    ('fcc', 'hcp')
    """
    from ase.data import atomic_numbers, reference_states

    number = atomic_numbers.get(species, 0)
    structure = ((reference_states[number] if number else None) or {}).get("symmetry")
    if structure not in FACETS:
        found = f"whose structure is {structure!r}" if number else "which is no element"
        near = species.strip().capitalize()
        hint = f"; did you mean {near!r}?" if near != species and near in atomic_numbers else ""
        raise InputError(f"found species {species!r}, {found}; expected a metal that is fcc (Au, Pt, Pd, Ag, Cu, Ni, "
                         f"Al), bcc (Fe, W) or hcp (Co, Ru, Ti){hint}")
    return structure


@lru_cache(maxsize=32)
def lattice_of(species: str) -> Lattice:
    """Return the lattice of a metal; raises as `structure_of` does.

    Examples
    --------
    >>> gold = lattice_of("Au")
    >>> gold.structure, round(gold.bond, 3), [len(normals) for normals, *_ in gold.facets]
    ('fcc', 2.884, [8, 6, 12])
    """
    from ase.build import bulk
    from ase.data import atomic_numbers, reference_states

    structure, number = structure_of(species), atomic_numbers[species]
    a = LATTICE_CONSTANTS.get(species, reference_states[number]["a"])
    more = {} if structure == "hcp" else {"cubic": True}
    atoms = bulk(species, structure, a=a, **more)
    cell = np.array(atoms.cell)
    basis = FCC_BASIS if structure == "fcc" else atoms.get_scaled_positions()
    facets = tuple((normals_of(structure, hkl, cell), low, high) for hkl, low, high in FACETS[structure])
    around = Lattice(number, structure, cell, basis, (), 0.0).sites(2 * a)
    bond = np.sort(np.linalg.norm(around - around[np.argmin((around**2).sum(1))], axis=1))[1]
    return Lattice(number, structure, cell, basis, facets, float(bond))


@lru_cache(maxsize=128)
def bond_of(number: int) -> float:
    """Distance of nearest neighbours [angstrom] of a metal, by its atomic number; of others twice the covalent radius.

    Examples
    --------
    >>> round(bond_of(79), 3), round(bond_of(6), 2)
    (2.884, 1.52)
    """
    from ase.data import chemical_symbols, covalent_radii

    try:
        return lattice_of(chemical_symbols[number]).bond
    except InputError:
        return 2 * float(covalent_radii[number])


def atom_volume_of(number: int) -> float:
    """Volume of an atom [angstrom^3] of a metal, by its atomic number; raises as `structure_of` does.

    Examples
    --------
    >>> round(atom_volume_of(79), 2), round(atom_volume_of(29), 2)
    (16.95, 11.76)
    """
    from ase.data import chemical_symbols

    return lattice_of(chemical_symbols[number]).atom_volume


def normals_of(structure: str, hkl: tuple[int, int, int], cell: np.ndarray) -> np.ndarray:
    """Unit normals of all planes of a family."""
    if structure == "fcc" and hkl in ((1, 1, 1), (1, 0, 0)):
        return N111 if hkl == (1, 1, 1) else N100  # the order that particles have always been drawn in
    from ase.spacegroup import Spacegroup

    normals = Spacegroup(SPACE_GROUPS[structure]).equivalent_reflections([hkl]) @ np.linalg.inv(cell).T
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def parse_zone_axis(text: str) -> tuple[int, int, int] | None:
    """Read "110", "[1-10]", "<110>" or "1 -1 0"; None for "any".

    Raises
    ------
    InputError
        If this is no direction.

    Examples
    --------
    >>> parse_zone_axis("1-10"), parse_zone_axis("any")
    ((1, -1, 0), None)
    """
    if text.strip() == "any":
        return None
    found = re.fullmatch(r"[\[<]?\s*(-?\d)\s*(-?\d)\s*(-?\d)\s*[\]>]?", text.strip())
    if not found or not any(int(d) for d in found.groups()):
        lost = "; YAML drops the leading zeros of a number without quotes" if re.fullmatch(r"-?\d+", text.strip()) \
            and len(text.strip()) < 3 else ""
        raise InputError(f"found the zone axis {text!r}, no direction of a crystal{lost}; expected three digits in "
                         f"quotes, not all of them 0, such as \"110\" or \"1-12\", or the word any")
    u, v, w = (int(d) for d in found.groups())
    return u, v, w


def zone_direction(cell: np.ndarray, text: str) -> np.ndarray:
    """Unit vector of the direction [uvw] of a crystal."""
    uvw = parse_zone_axis(text)
    if uvw is None:
        raise InputError("found the zone axis 'any'; expected a direction such as \"110\"")
    v = np.asarray(uvw, float) @ cell
    return v / np.linalg.norm(v)


@lru_cache(maxsize=64)
def family_of(structure: str, axis: str) -> np.ndarray:
    """All directions [uvw] that are equivalent to one by symmetry.

    Examples
    --------
    >>> len(family_of("fcc", "110")), len(family_of("hcp", "001"))
    (12, 2)
    """
    from ase.spacegroup import Spacegroup

    turns = np.asarray(Spacegroup(SPACE_GROUPS[structure]).get_rotations())
    return np.unique(np.round(turns @ np.array(parse_zone_axis(axis))).astype(int), axis=0)
