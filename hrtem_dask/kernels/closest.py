"""Fit one frame to the places of a body, by pairs of what is nearest."""

from __future__ import annotations

import numpy as np

from .body import Body
from .rigid import bisquare, move, unmove

__all__ = ["TOLERANCE", "fit_one", "search", "sites_of"]

#: part of the spacing within which a column is at its site, at first and at last
CAPTURE, TOLERANCE = 0.45, 0.22
#: rounds of pairs, each with so many rounds of weights; and what ends them [angstrom], [radian]
ROUNDS, WEIGHTS = 10, 3
SETTLED, TURNED = 0.02, 5e-4
#: rotations searched where a frame does not fit [radian], and columns that vote
SEARCH, VOTERS = np.deg2rad(np.arange(-12.0, 12.1, 1.5)), 80
#: median of the length of a vector of two normal numbers
RAYLEIGH = 1.1774


def sites_of(body: Body, motion: np.ndarray, at: np.ndarray, centre: np.ndarray, part: float) -> np.ndarray:
    """Site of each column, if it is the nearest column of its nearest site and within a part of the spacing; or -1."""
    distance, j = body.tree.query(unmove(motion, at, centre), distance_upper_bound=part * body.spacing)
    best = np.full(len(body.at) + 1, np.inf)
    np.minimum.at(best, j, distance)
    return np.where(np.isfinite(distance) & (distance <= best[j]), j, -1)


def fit_one(body: Body, start: np.ndarray, at: np.ndarray, error: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Motion of a frame from a start: pairs within half a spacing at first, nearer ones with bisquare weights then.

    Parameters
    ----------
    body : Body
        Its good sites carry the motion.
    start : ndarray, shape (3,)
        Drift (y, x) [angstrom] and rotation [radian].
    at, error : ndarray, shape (n, 2)
        Columns of the frame and their standard errors [angstrom].
    centre : ndarray, shape (2,)
        Of the rotation.

    Returns
    -------
    ndarray, shape (3,)
        The start where too few pairs are found.
    """
    motion, fewest, part = np.array(start), min(6, len(at)), CAPTURE
    for _ in range(ROUNDS):
        site = sites_of(body, motion, at, centre, part)
        use = np.flatnonzero(site >= 0)
        use = use[body.good[site[use]]]
        if use.size < fewest:
            break
        before, weighted = motion, part == TOLERANCE
        # as complex numbers y + 1j x a rotation is a factor
        ref, here = ((a - centre).view(complex).ravel() for a in (body.at[site[use]], at[use]))
        w = 1 / error[use] ** 2
        for _ in range(WEIGHTS if weighted else 1):
            v = ref * np.exp(1j * motion[2])
            rest = here - v - complex(*motion[:2])
            part_of = bisquare(_scaled(rest, error[use]))[:, None] if weighted else 1.0
            motion = motion + _step(v, rest, w * part_of, turn=use.size >= 4)
        change = np.abs(motion - before)
        if weighted and change[:2].max() < SETTLED and change[2] < TURNED:
            break
        if change[:2].max() < 0.1 * body.spacing:
            part = TOLERANCE
    return motion


def _scaled(rest: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Residuals along one axis in units of the scatter."""
    z = np.hypot(rest.real / error[:, 0], rest.imag / error[:, 1])
    return z / (max(float(np.median(z)) / RAYLEIGH, 1e-6) * np.sqrt(2))


def _step(v: np.ndarray, rest: np.ndarray, w: np.ndarray, turn: bool) -> np.ndarray:
    """Change of a motion that makes the weighted residuals least."""
    (wy, wx), vy, vx, ry, rx = w.T, v.real, v.imag, rest.real, rest.imag
    sy, sx = max(float(wy.sum()), 1e-12), max(float(wx.sum()), 1e-12)
    by, bx = float(wy @ ry), float(wx @ rx)
    if not turn:
        return np.array([by / sy, bx / sx, 0.0])
    wyx, wxy = wy * vx, wx * vy
    a, b, c = -float(wyx.sum()), float(wxy.sum()), float(wyx @ vx + wxy @ vy)
    bottom = c - a * a / sy - b * b / sx
    angle = (float(wxy @ rx - wyx @ ry) - a * by / sy - b * bx / sx) / max(bottom, 1e-9 * max(c, 1.0))
    return np.array([(by - a * angle) / sy, (bx - b * angle) / sx, angle])


def search(body: Body, motion: np.ndarray, at: np.ndarray, centre: np.ndarray) -> list[np.ndarray]:
    """Find starts anywhere: the shifts that most pairs of columns and sites agree on, for a fan of rotations."""
    cell = 0.3 * body.spacing
    sites = body.at[body.good][:: -(-int(body.good.sum()) // VOTERS)]
    some = at[:: -(-len(at) // VOTERS)]
    found = []
    for turn in SEARCH:
        tried = np.array([0.0, 0.0, motion[2] + turn])
        placed = move(tried, sites, centre)
        y, x = ((some[:, k, None] - placed[:, k]).ravel() / cell for k in (0, 1))
        low = np.array([y.min(), x.min()])
        i, j = (y - low[0] + 1.5).astype(int), (x - low[1] + 1.5).astype(int)
        wide = int(j.max()) + 2
        votes = np.bincount(i * wide + j, minlength=(int(i.max()) + 2) * wide).reshape(-1, wide)
        votes = votes[:-2] + votes[1:-1] + votes[2:]
        votes = votes[:, :-2] + votes[:, 1:-1] + votes[:, 2:]
        best = np.unravel_index(int(votes.argmax()), votes.shape)
        found.append((int(votes[best]), np.array([*((low + best) * cell), tried[2]])))
    return [start for _, start in sorted(found, key=lambda f: -f[0])[:3]]
