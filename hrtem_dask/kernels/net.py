"""The two-dimensional net that spot pairs span: which pairs are missing, and how even the shell is."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from ..core.errors import InputError

__all__ = ["FIRST_SHELL", "missing_pairs", "peak_ratio", "reduced", "span_plane"]

#: abs(g) up to this multiple of the smallest belongs to the first shell (Au [110]: 200 / 111 = 1.155)
FIRST_SHELL = 1.2
#: sine of the smallest angle between two pairs that count as non-collinear; nets seen along low
#: indices have at least 25 degrees, the arcs of one smeared spot stay below this
COLLINEAR = float(np.sin(np.radians(12)))
#: a detected pair this many times the width of a spot from a predicted place is that pair, split or smeared; net
#: places lie three widths apart at least
APART = 1.5
#: only the brightest pairs take part in the search for the net
MAX_PAIRS = 8


def span_plane(g: np.ndarray) -> bool:
    """Whether at least two of the vectors, shape (n, 2), are not collinear."""
    return any(_sine(a, b) > COLLINEAR for a, b in combinations(np.asarray(g, dtype=np.float64), 2))


def _sine(a: np.ndarray, b: np.ndarray) -> float:
    return abs(a[0] * b[1] - a[1] * b[0]) / max(float(np.hypot(*a) * np.hypot(*b)), 1e-300)


def reduced(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shortest basis of the net of two vectors (Gauss-Lagrange reduction)."""
    for _ in range(50):
        if a @ a > b @ b:
            a, b = b, a
        n = np.rint(a @ b / (a @ a))
        if n == 0:
            break
        b = b - n * a
    return np.array([a, b])


def _indexed(basis: np.ndarray, g: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the vectors in a net, and which of them lie on it."""
    (a, b), (c, d) = basis
    index = np.rint(g @ np.array([[d, -b], [-c, a]]) / (a * d - b * c))
    return index, (np.hypot(*(index @ basis - g).T) <= tolerance) & (np.abs(index).max(1) <= 3)


def _fitted(basis: np.ndarray, index: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The net fitted to the vectors of these indices by least squares."""
    return np.linalg.lstsq(index, g, rcond=None)[0] if np.linalg.matrix_rank(index) == 2 else basis


def missing_pairs(g: np.ndarray, power: np.ndarray, *, tolerance: float, limits: tuple[float, float],
                  shell: float = FIRST_SHELL) -> np.ndarray:
    """Places of the first shell where the net of the detected pairs has a pair that was not detected.

    The net is the one whose pairs together are the brightest, because dim spots that are split or
    smeared lie on many a net by chance; of a reduced basis all vectors of the first shell are
    among a, b, a + b and a - b.

    Parameters
    ----------
    g : ndarray, shape (n, 2)
        Detected pairs (y, x) [1/angstrom].
    power : ndarray, shape (n,)
        Their brightness.
    tolerance : float
        Distance up to which two places are one [1/angstrom], the width of a spot.
    limits : (float, float)
        abs(g) that can be measured [1/angstrom].
    shell : float
        Outer radius of the first shell over the smallest abs(g).

    Returns
    -------
    ndarray, shape (m, 2)
        Predicted places (y, x) in the half plane [1/angstrom]; empty without two non-collinear pairs.

    Examples
    --------
    >>> missing_pairs(np.array([[0.0, 0.42], [0.42, 0.0]]), np.ones(2), tolerance=0.02, limits=(0.28, 0.8))
    array([], shape=(0, 2), dtype=float64)
    >>> hexagon = np.array([[0.0, 0.4], [0.3464, 0.2]])
    >>> missing_pairs(hexagon, np.ones(2), tolerance=0.02, limits=(0.28, 0.8)).round(3).tolist()
    [[0.346, -0.2]]
    """
    nothing = np.zeros((0, 2))
    order = np.argsort(power)[::-1]
    bright = g[order[:MAX_PAIRS]]
    best, merit = None, 0.0
    for a, b in combinations(bright, 2):
        if _sine(a, b) <= COLLINEAR:
            continue
        basis = reduced(a, b)
        if np.hypot(*basis[0]) < limits[0]:  # two grains, not one net
            continue
        index, on = _indexed(basis, bright, tolerance / 2)
        this = float(power[order[: len(bright)]][on].sum())
        if this > merit:
            best, merit = (basis, index[on], bright[on]), this
    if best is None:
        return nothing
    a, b = reduced(*_fitted(*best))
    places = np.array([a, b, a + b, a - b])
    length = np.hypot(*places.T)
    places = places[(length <= shell * length.min()) & (length >= limits[0]) & (length <= limits[1])]
    flip = (places[:, 0] < 0) | ((places[:, 0] == 0) & (places[:, 1] < 0))
    places = np.where(flip[:, None], -places, places)
    both = np.concatenate([g, -g])
    free = [np.hypot(*(both - p).T).min() > APART * tolerance for p in places]
    return places[free] if len(places) else nothing


def peak_ratio(pairs: pd.DataFrame, *, shell: float = FIRST_SHELL, of: str = "intensity") -> float:
    """Brightest over dimmest pair of the first shell; see `hrtem_dask.peak_ratio`."""
    needed = ["g_y", "g_x", "intensity", "detected"]
    missing = [c for c in needed if c not in getattr(pairs, "columns", ())]
    if missing:
        raise InputError(f"the table of pairs lacks {missing}; expected the table that fourier_peak_pairs returns")
    if not shell >= 1:
        raise InputError(f"shell is {shell!r}; expected a factor of at least 1, as 1.2")
    if of not in ("intensity", "amplitude"):
        raise InputError(f"of is {of!r}; expected 'intensity' or 'amplitude'")
    g = pairs[["g_y", "g_x"]].to_numpy(dtype=np.float64)
    if not span_plane(g[pairs["detected"].to_numpy(dtype=bool)]):
        return float("nan")
    radius = np.hypot(*g.T)
    first = radius <= shell * radius.min()
    if not span_plane(g[first]):  # one direction over itself would be 1, the best there is, whatever the others say
        return float("nan")
    intensity = pairs["intensity"].to_numpy(dtype=np.float64)[first]
    ratio = float(intensity.max() / intensity.min())
    return ratio if of == "intensity" else float(np.sqrt(ratio))
