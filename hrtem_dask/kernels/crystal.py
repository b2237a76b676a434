"""Lattice spacings of common crystals, from their structure type and lattice constants."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from ..core.errors import InputError

__all__ = ["d_spacings", "reflections"]

#: compounds: structure type and lattice constants [angstrom] at room temperature
COMPOUNDS = {
    "CeO2": ("fcc", 5.411, None),
    "MgO": ("fcc", 4.212, None),
    "NiO": ("fcc", 4.177, None),
    "TiN": ("fcc", 4.242, None),
    "ZrO2": ("fcc", 5.09, None),
    "SrTiO3": ("sc", 3.905, None),
    "MoS2": ("hexagonal", 3.16, 12.29),
    "WS2": ("hexagonal", 3.153, 12.32),
    "graphene": ("hexagonal", 2.461, None),
}


def _allowed(kind: str, h: int, k: int, m: int) -> bool:
    """Reflection conditions of the structure types (International Tables A)."""
    if kind in ("fcc", "diamond"):
        same = h % 2 == k % 2 == m % 2
        return same and not (kind == "diamond" and h % 2 == 0 and (h + k + m) % 4)
    if kind == "bcc":
        return (h + k + m) % 2 == 0
    if kind == "hcp":
        return not ((h + 2 * k) % 3 == 0 and m % 2)
    return True


def _constants(crystal: str) -> tuple[str, float, float | None]:
    if crystal in COMPOUNDS:
        return COMPOUNDS[crystal]
    from ase.data import atomic_numbers, reference_states

    state = reference_states[atomic_numbers[crystal]] if crystal in atomic_numbers else None
    if state is None or state.get("symmetry") not in ("fcc", "bcc", "hcp", "diamond", "sc"):
        raise InputError(f"no lattice constants for crystal={crystal!r}; expected an element with a cubic or hcp "
                         f"structure such as 'Au', one of {sorted(COMPOUNDS)}, or a list of spacings in angstrom")
    a = float(state["a"])
    return state["symmetry"], a, a * float(state["c/a"]) if "c/a" in state else None


def d_spacings(crystal: str | Sequence[float], d_min: float, d_max: float) -> np.ndarray:
    """Spacings of the allowed reflections of a crystal between two limits.

    Parameters
    ----------
    crystal : str or sequence of float
        An element ("Au"), one of `COMPOUNDS` ("CeO2"), or the spacings themselves [angstrom].
    d_min, d_max : float
        Limits [angstrom].

    Returns
    -------
    ndarray
        Spacings [angstrom], largest first; empty where none lies between the limits.

    Raises
    ------
    InputError
        If the crystal is unknown.

    Examples
    --------
    >>> d_spacings("Au", 1.4, 3.6).round(3).tolist()
    [2.356, 2.04, 1.442]
    """
    if isinstance(crystal, str):
        spacings = np.array(sorted(_spacings(crystal, d_min), reverse=True))
    else:
        spacings = np.sort(np.asarray(crystal, dtype=np.float64))[::-1]
    return spacings[(spacings >= d_min) & (spacings <= d_max)]


def _spacings(crystal: str, d_min: float) -> dict[float, list[tuple[int, int, int]]]:
    """Allowed reflections (h, k, l) by their spacing [angstrom]; some are smaller than `d_min`."""
    kind, a, c = _constants(crystal)
    n = int(np.ceil(max(a, c or 0.0) / d_min))
    found: dict[float, list[tuple[int, int, int]]] = {}
    for h, k, m in product(range(-n, n + 1), range(-n, n + 1), range(n + 1)):
        if kind in ("hcp", "hexagonal"):
            inverse2 = 4 / 3 * (h * h + h * k + k * k) / a**2 + (m * m / c**2 if c else 0.0)
            if c is None and m:
                continue
        else:
            inverse2 = (h * h + k * k + m * m) / a**2
        if inverse2 > 0 and _allowed(kind, h, k, m):
            found.setdefault(round(inverse2**-0.5, 9), []).append((h, k, m))
    return found


def reflections(crystal: str, d_min: float, d_max: float = np.inf) -> list[tuple[str, float]]:
    """Names and spacings of the allowed reflections of a crystal between two limits.

    Parameters
    ----------
    crystal : str
        An element ("Au") or one of `COMPOUNDS` ("CeO2").
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
        If the crystal is unknown.

    Examples
    --------
    >>> [(name, round(d, 3)) for name, d in reflections("Au", 1.2)]
    [('111', 2.356), ('200', 2.04), ('220', 1.442), ('311', 1.23)]
    >>> reflections("MoS2", 2.7)[-1][0], reflections("Au", 0.78)[-1][0]
    ('100', '333/511')
    """
    cubic = isinstance(crystal, str) and _constants(crystal)[0] not in ("hcp", "hexagonal")
    found = []
    for d, planes in sorted(_spacings(crystal, d_min).items(), reverse=True):
        if d_min <= d <= d_max:
            names = {tuple(sorted(map(abs, p), reverse=True)) if cubic else p for p in planes
                     if cubic or (p[0] >= p[1] >= 0 and p[2] >= 0)}
            found.append(("/".join("".join(map(str, p)) for p in sorted(names)), d))
    return found
