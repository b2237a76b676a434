"""Reflections of a crystal: which lattice spacings it has, from its unit cell and kinematic structure factors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import InputError, MissingInputError, ReadError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["COMPOUNDS", "UnitCell", "d_spacings", "reflections", "unit_cell"]

#: compounds: structure type and lattice constants [angstrom] at room temperature
COMPOUNDS = {
    "CeO2": ("fluorite", 5.411, None),
    "MgO": ("rocksalt", 4.212, None),
    "NiO": ("rocksalt", 4.177, None),
    "TiN": ("rocksalt", 4.242, None),
    "ZrO2": ("fluorite", 5.09, None),
    "SrTiO3": ("perovskite", 3.905, None),
    "MoS2": ("2H", 3.16, 12.29),
    "WS2": ("2H", 3.153, 12.32),
    "graphene": ("honeycomb", 2.461, None),
}
FCC = ((0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))
#: height of the sulphur of 2H disulphides over the cell's (Dickinson and Pauling 1923; Schutte et al. 1987)
SULPHUR = 0.621
#: a reflection is absent where its structure factor is below this part of the sum over the atoms' own
ABSENT = 0.01
#: spacings that differ by less are one family [angstrom]
SAME = 1e-6
#: most indices looked through; a cell that needs more is no crystal whose rings can be told apart
MOST_INDICES = 4_000_000


@dataclass(frozen=True, eq=False)
class UnitCell:
    """A unit cell and its content.

    Attributes
    ----------
    cell : ndarray, shape (3, 3)
        Cell vectors as rows [angstrom].
    numbers : ndarray, shape (n,)
        Atomic numbers.
    places : ndarray, shape (n, 3)
        Fractional coordinates.
    periodic : (bool, bool, bool)
        A sheet has no reflections but those in its plane.
    """

    cell: np.ndarray
    numbers: np.ndarray
    places: np.ndarray
    periodic: tuple[bool, bool, bool] = (True, True, True)

    @property
    def is_cubic(self) -> bool:
        """Whether the cell is a cube."""
        metric = self.cell @ self.cell.T
        return bool(np.allclose(metric, metric[0, 0] * np.eye(3), atol=1e-4 * metric[0, 0])) and all(self.periodic)

    def planes(self, d_min: float, d_max: float = np.inf) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Present reflections between two spacings [angstrom].

        The structure factor is that of a perfect crystal with atoms that scatter as their atomic
        number: good for what is absent, not for how bright the rest is.

        Returns
        -------
        (ndarray, ndarray, ndarray)
            Indices (n, 3); vectors g (n, 3) in the axes of the cell [1/angstrom]; abs(F) over the
            sum of the atomic numbers (n,). Both g and -g are listed, by falling spacing.
        """
        reciprocal = np.linalg.inv(self.cell).T
        most = [int(np.floor(np.linalg.norm(a) / d_min)) if p else 0
                for a, p in zip(self.cell, self.periodic, strict=True)]
        if np.prod([2.0 * m + 1 for m in most]) > MOST_INDICES:
            raise InputError(f"the unit cell of {np.linalg.norm(self.cell, axis=1).round(1).tolist()} angstrom has too "
                             f"many reflections down to {d_min:g} angstrom; expected the cell of a crystal, not of a "
                             f"particle or a film")
        hkl = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in most), indexing="ij"), -1).reshape(-1, 3)
        g = hkl @ reciprocal
        d = 1 / np.maximum(np.linalg.norm(g, axis=1), 1e-12)
        near = (d >= d_min) & (d <= d_max) & hkl.any(1)
        hkl, g, d = hkl[near], g[near], d[near]
        weight = self.numbers / self.numbers.sum()
        factor = np.abs(np.exp(2j * np.pi * (hkl @ self.places.T)) @ weight)
        seen = factor > ABSENT
        order = np.argsort(-d[seen], kind="stable")
        return hkl[seen][order], g[seen][order], factor[seen][order]


def unit_cell(crystal: Any) -> UnitCell:
    """Unit cell of a crystal by its name, from a structure file, or from ASE.

    Parameters
    ----------
    crystal : str, path or ase.Atoms
        An element with a cubic or hcp structure ("Au", "Pt"), one of `COMPOUNDS` ("MoS2"), a file
        that ASE reads (CIF), or an ASE structure with a cell.

    Returns
    -------
    UnitCell

    Raises
    ------
    InputError
        If the name is unknown, or the structure has no cell.
    MissingInputError
        If there is no such file.
    ReadError
        If ASE cannot read the file.

    Examples
    --------
    >>> unit_cell("CeO2").numbers.tolist().count(8), unit_cell("Pt").is_cubic, unit_cell("MoS2").is_cubic
    (8, True, False)
    """
    if isinstance(crystal, UnitCell):
        return crystal
    if hasattr(crystal, "get_scaled_positions"):
        return _from_atoms(crystal, "the structure")
    if isinstance(crystal, Path) or (isinstance(crystal, str) and _is_path(crystal)):
        path = Path(crystal)
        if not path.is_file():
            raise MissingInputError(f"crystal={str(crystal)!r}: there is no such file; expected a structure file that "
                                    f"ASE reads, as 'gold.cif', or a name such as 'Au'")
        state = path.stat()
        return _from_file(str(path), state.st_mtime_ns, state.st_size)
    if isinstance(crystal, str):
        return _named(crystal)
    raise InputError(f"crystal is {crystal!r}; expected a name such as 'Au', a structure file, an ASE structure, or a "
                     f"list of spacings in angstrom")


def _is_path(name: str) -> bool:
    return "/" in name or "\\" in name or Path(name).suffix != "" or Path(name).is_file()


@lru_cache(maxsize=16)
def _from_file(path: str, _changed: int, _size: int) -> UnitCell:
    import ase.io

    try:
        atoms = ase.io.read(path)
    except Exception as error:  # ASE's readers raise what they meet: KeyError, ValueError, UnknownFileTypeError, ...
        raise ReadError(f"{path}: ASE cannot read a crystal structure from it ({type(error).__name__}: {error}); "
                        f"expected a structure file such as a CIF") from error
    return _from_atoms(atoms, path)


def _from_atoms(atoms: Atoms, what: str) -> UnitCell:
    periodic = tuple(bool(v.any() and p) for v, p in zip(atoms.cell.array, atoms.pbc, strict=True))
    if not len(atoms) or sum(periodic) < 2:
        raise InputError(f"{what} has {len(atoms)} atoms and the cell {atoms.cell.lengths().round(2).tolist()} "
                         f"angstrom, periodic {atoms.pbc.tolist()}; expected the unit cell of a crystal, as "
                         f"ase.build.bulk('Au'), or of a sheet")
    cell = atoms.cell.complete().array
    numbers, places = np.asarray(atoms.numbers, dtype=np.float64), atoms.get_positions() @ np.linalg.inv(cell)
    if not numbers.sum() > 0:
        raise InputError(f"{what} holds no atom of a known element; expected the unit cell of a crystal")
    return UnitCell(cell, numbers, places, periodic)


@lru_cache(maxsize=64)
def _named(name: str) -> UnitCell:
    from ase.data import atomic_numbers, reference_states

    if name in COMPOUNDS:
        return _compound(name, *COMPOUNDS[name])
    state = reference_states[atomic_numbers[name]] if name in atomic_numbers else None
    if state is None or state.get("symmetry") not in ("fcc", "bcc", "hcp", "diamond", "sc"):
        raise InputError(f"no lattice constants for crystal={name!r}; expected an element with a cubic or hcp "
                         f"structure such as 'Au', one of {sorted(COMPOUNDS)}, a CIF file, an ASE structure, or a list "
                         f"of spacings in angstrom")
    from ase.build import bulk

    kind = state["symmetry"]
    return _from_atoms(bulk(name, kind, a=state["a"], **({} if kind == "hcp" else {"cubic": True})), name)


def _compound(name: str, kind: str, a: float, c: float | None) -> UnitCell:
    from ase.formula import Formula

    fcc = np.array(FCC)
    hexagon = a * np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, (c or a) / a]])
    quarters = np.concatenate([fcc + 0.25, fcc + 0.75])
    places: list[Any]
    if kind == "honeycomb":
        return UnitCell(hexagon, np.array([6.0, 6.0]), np.array([[1, 2, 0], [2, 1, 0]]) / 3, (True, True, False))
    if kind == "2H":
        thirds = [(1 / 3, 2 / 3), (2 / 3, 1 / 3)]
        places = [[(*thirds[0], 0.25), (*thirds[1], 0.75)],
                  [(*thirds[i], z) for i, z in ((0, SULPHUR), (0, 0.5 - SULPHUR), (1, SULPHUR - 0.5), (1, -SULPHUR))]]
        cell = hexagon
    else:
        cell = a * np.eye(3)
        places = {"fluorite": [fcc, quarters], "rocksalt": [fcc, fcc + 0.5],
                  "perovskite": [[(0, 0, 0)], [(0.5, 0.5, 0.5)], fcc[1:]]}[kind]
    numbers = [_number(symbol) for symbol in Formula(name).count()]
    return UnitCell(cell, np.concatenate([np.full(len(p), float(z)) for z, p in zip(numbers, places, strict=True)]),
                    np.concatenate([np.asarray(p, dtype=np.float64) for p in places]))


def _number(symbol: str) -> int:
    from ase.data import atomic_numbers

    return int(atomic_numbers[symbol])


def d_spacings(crystal: Any, d_min: float, d_max: float) -> np.ndarray:
    """Spacings of the present reflections of a crystal between two limits.

    Parameters
    ----------
    crystal : str, path, ase.Atoms or sequence of float
        See `unit_cell`; or the spacings themselves [angstrom].
    d_min, d_max : float
        Limits [angstrom].

    Returns
    -------
    ndarray
        Spacings [angstrom], largest first; empty where none lies between the limits.

    Raises
    ------
    InputError
        If the crystal is unknown; see `unit_cell`.

    Examples
    --------
    >>> d_spacings("Au", 1.4, 3.6).round(3).tolist()
    [2.356, 2.04, 1.442]
    """
    if not isinstance(crystal, (str, Path, UnitCell)) and not hasattr(crystal, "get_scaled_positions"):
        try:
            spacings = np.sort(np.asarray(crystal, dtype=np.float64).ravel())[::-1]
        except (TypeError, ValueError):
            unit_cell(crystal)  # says what may be given
            raise
        if not (spacings > 0).all():
            raise InputError(f"crystal is {crystal!r}; expected positive spacings in angstrom, as [2.36, 2.04]")
        return spacings[(spacings >= d_min) & (spacings <= d_max)]
    cell = unit_cell(crystal)
    return np.array(_spacings(*_key(cell), float(d_min), float(d_max)))


def _key(cell: UnitCell) -> tuple[bytes, bytes, bytes, tuple[bool, bool, bool]]:
    return (np.ascontiguousarray(cell.cell, np.float64).tobytes(),
            np.ascontiguousarray(cell.numbers, np.float64).tobytes(),
            np.ascontiguousarray(cell.places, np.float64).tobytes(), cell.periodic)


@lru_cache(maxsize=64)
def _spacings(cell: bytes, numbers: bytes, places: bytes, periodic: tuple[bool, bool, bool], d_min: float,
              d_max: float) -> tuple[float, ...]:
    """Spacings by the content of the cell: asked for every particle of a movie, reckoned once."""
    shape = [np.frombuffer(b) for b in (cell, numbers, places)]
    g = UnitCell(shape[0].reshape(3, 3), shape[1], shape[2].reshape(-1, 3), periodic).planes(d_min, d_max)[1]
    d = 1 / np.linalg.norm(g, axis=1)
    return tuple(d[np.flatnonzero(np.diff(d, prepend=np.inf) < -SAME)].tolist())


def reflections(crystal: Any, d_min: float, d_max: float = np.inf) -> list[tuple[str, float]]:
    """Names and spacings of the present reflections of a crystal between two limits.

    Parameters
    ----------
    crystal : str, path or ase.Atoms
        See `unit_cell`.
    d_min, d_max : float
        Limits [angstrom].

    Returns
    -------
    list of (str, float)
        Indices of one of the planes of each family, "333/511" where families coincide, and its
        spacing [angstrom], largest first.

    Raises
    ------
    InputError
        If the crystal is unknown; see `unit_cell`.

    Examples
    --------
    >>> [(name, round(d, 3)) for name, d in reflections("Au", 1.2)]
    [('111', 2.356), ('200', 2.04), ('220', 1.442), ('311', 1.23)]
    >>> reflections("MoS2", 2.7)[-1][0], reflections("Au", 0.78)[-1][0]
    ('100', '333/511')
    """
    cell = unit_cell(crystal)
    hkl, g, _ = cell.planes(d_min, d_max)
    d = 1 / np.linalg.norm(g, axis=1)
    starts = np.flatnonzero(np.diff(d, prepend=np.inf) < -SAME)
    return [("/".join(_names(hkl[a:b], cell)), float(d[a]))
            for a, b in zip(starts, [*starts[1:], len(d)], strict=True)]


def _names(planes: np.ndarray, cell: UnitCell) -> list[str]:
    """One name for each family of planes of equal spacing: all families of a cube or a hexagon, else one plane."""
    rows = [tuple(int(i) for i in p) for p in planes]
    if cell.is_cubic:
        names = {tuple(sorted(map(abs, p), reverse=True)) for p in rows}
    elif _is_hexagonal(cell):
        names = {p for p in rows if p[0] >= p[1] >= 0 and p[2] >= 0}
    else:
        names = {max((p for p in rows if min(p) >= 0), default=max(rows))}
    return ["".join(map(str, p)) for p in sorted(names)]


def _is_hexagonal(cell: UnitCell) -> bool:
    a, b, c = cell.cell
    square = float(a @ a)
    return bool(np.allclose([b @ b / square, abs(a @ b) / square, a @ c / square, b @ c / square],
                            [1, 0.5, 0, 0], atol=1e-3)) and float(a @ b) < 0
