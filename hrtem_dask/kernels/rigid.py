"""Rigid motions in the plane, and the ones that carry mean places onto the columns of many frames.

A motion is three numbers ``(drift_y, drift_x, rotation)`` about a common centre:
``p_frame = R(rotation) (p_ref - centre) + centre + drift``, where R turns from +y towards +x and
vectors are (y, x). Lengths in angstrom, rotations in radian.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Joint", "Rows", "bisquare", "joint_motions", "move", "recentred", "relative", "unmove"]

#: residuals beyond so many scales have no weight: bisquare of 95 % efficiency
CUT = 4.685
#: a frame's own scatter counts as its columns, that of the whole movie as so many
PRIOR_COLUMNS = 20.0
#: rounds of places and motions in turn; and they end once no motion changes by more [angstrom, and radian times reach]
ROUNDS, SETTLED = 30, 1e-4


def move(motion: np.ndarray, at: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Carry reference coordinates into a frame: motions (..., 3), places (..., 2).

    Examples
    --------
    >>> move(np.array([1.0, 0.0, np.pi / 2]), np.array([2.0, 0.0]), np.zeros(2)).round(6).tolist()
    [1.0, 2.0]
    """
    v = at - centre
    cos, sin = np.cos(motion[..., 2]), np.sin(motion[..., 2])
    y, x = cos * v[..., 0] - sin * v[..., 1], sin * v[..., 0] + cos * v[..., 1]
    return np.stack([y, x], axis=-1) + centre + motion[..., :2]


def unmove(motion: np.ndarray, at: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Carry coordinates of a frame back to the reference: the inverse of `move`.

    Examples
    --------
    >>> motion, centre = np.array([1.0, -2.0, 0.3]), np.array([5.0, 5.0])
    >>> unmove(motion, move(motion, np.array([3.0, 4.0]), centre), centre).round(6).tolist()
    [3.0, 4.0]
    """
    v = at - centre - motion[..., :2]
    cos, sin = np.cos(motion[..., 2]), np.sin(motion[..., 2])
    return np.stack([cos * v[..., 0] + sin * v[..., 1], cos * v[..., 1] - sin * v[..., 0]], axis=-1) + centre


def _turned(rotation: np.ndarray, v: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(rotation), np.sin(rotation)
    return np.stack([cos * v[..., 0] - sin * v[..., 1], sin * v[..., 0] + cos * v[..., 1]], axis=-1)


def relative(motions: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Motions (..., 3) since another one: what is at rest in ``base`` gets the motion 0.

    Examples
    --------
    >>> relative(np.array([[1.0, 2.0, 0.1], [3.0, 2.0, 0.1]]), np.array([1.0, 2.0, 0.1])).round(6).tolist()
    [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]
    """
    rotation = motions[..., 2] - base[2]
    drift = motions[..., :2] - _turned(rotation, base[:2])
    return np.concatenate([drift, rotation[..., None]], axis=-1)


def recentred(motions: np.ndarray, centre: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The same motions (..., 3) about another centre.

    Examples
    --------
    >>> motion, a, b, p = np.array([1.0, 2.0, 0.4]), np.zeros(2), np.array([30.0, 7.0]), np.array([4.0, 9.0])
    >>> np.allclose(move(recentred(motion, a, b), p, b), move(motion, p, a))
    True
    """
    drift = motions[..., :2] + _turned(motions[..., 2], new - centre) - (new - centre)
    return np.concatenate([drift, motions[..., 2:]], axis=-1)


def bisquare(z: np.ndarray, cut: float = CUT) -> np.ndarray:
    """Tukey's weights of residuals in scales.

    Examples
    --------
    >>> bisquare(np.array([0.0, 2.0, 6.0])).round(2).tolist()
    [1.0, 0.67, 0.0]
    """
    return np.clip(1 - (z / cut) ** 2, 0, None) ** 2


@dataclass(frozen=True)
class Rows:
    """Columns of many frames whose sites are known, a row each.

    Attributes
    ----------
    frame, site : ndarray of int
        Counted from 0.
    at : ndarray, shape (row, 2)
        In the frame [angstrom].
    error : ndarray, shape (row, 2)
        Standard errors, or any numbers in proportion to them.
    """

    frame: np.ndarray
    site: np.ndarray
    at: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class Joint:
    """Motions of frames with what is known of them.

    Attributes
    ----------
    motion, error : ndarray, shape (frame, 3)
        And standard errors, against the mean places; nan where a frame has too few columns.
    place : ndarray, shape (site, 2)
        Mean places in reference coordinates.
    matched : ndarray of int, shape (frame,)
        Columns that carry the motion.
    residual : ndarray, shape (frame,)
        Root mean square of their residuals along one axis [angstrom].
    """

    motion: np.ndarray
    error: np.ndarray
    place: np.ndarray
    matched: np.ndarray
    residual: np.ndarray


def joint_motions(rows: Rows, motion: np.ndarray, centre: np.ndarray, sites: int) -> Joint:
    """Fit the motion of all frames and the mean places of all sites together.

    Places and motions are fitted in turn until nothing moves, so no frame hangs on the one before it
    and errors do not add up along a movie. Residuals are weighted by Tukey's bisquare.

    Parameters
    ----------
    rows : Rows
        What is used; every frame against all others.
    motion : ndarray, shape (frame, 3)
        First guess; nan for frames that have none.
    centre : ndarray, shape (2,)
        Of the rotations.
    sites : int
        Number of sites.

    Notes
    -----
    Errors are those of an M-estimate, K s^2 (X' W X)^-1 with K = mean(psi^2) / mean(psi')^2 (Huber and
    Ronchetti, Robust Statistics, 2009, chapter 7), where the scatter of a frame is that of its own columns
    with a part of that of all. They are against the mean places, which the errors of a single frame
    hardly touch.
    """
    motion, weight = motion.copy(), np.ones(len(rows.at))
    place, reach = np.zeros((sites, 2)), _reach(rows, motion, centre)
    for _ in range(ROUNDS):
        place = _places(rows, motion, centre, weight, sites)
        lever, rest = _residuals(rows, motion, centre, place)
        scale = _scale(rest / rows.error)
        weight = bisquare(np.hypot(*(rest / rows.error).T) / (scale * np.sqrt(2)))
        normal, right = _normal(rows, lever, rest, weight, len(motion))
        step = _solved(normal, right)
        motion = motion + step
        if np.nanmax(np.abs(step) * [1, 1, reach], initial=0.0) < SETTLED:
            break
    return _judged(rows, motion, centre, place)


def _reach(rows: Rows, motion: np.ndarray, centre: np.ndarray) -> float:
    """Typical distance from the centre of rotation [angstrom]."""
    v = unmove(motion[rows.frame], rows.at, centre) - centre
    return float(np.sqrt(np.nanmean((v**2).sum(1)))) if len(v) else 1.0


def _places(rows: Rows, motion: np.ndarray, centre: np.ndarray, weight: np.ndarray, sites: int) -> np.ndarray:
    back = unmove(motion[rows.frame], rows.at, centre)
    w = np.where(np.isfinite(back[:, 0]), weight / (rows.error**2).mean(1), 0.0)
    back = np.where(w[:, None] > 0, back, 0.0)
    total = np.bincount(rows.site, w, sites)
    sums = np.stack([np.bincount(rows.site, w * back[:, k], sites) for k in (0, 1)], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / total[:, None]


def _residuals(rows: Rows, motion: np.ndarray, centre: np.ndarray,
               place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors from the centre, turned into the frame; and what the columns are off their places."""
    lever = _turned(motion[rows.frame, 2], place[rows.site] - centre)
    return lever, rows.at - lever - centre - motion[rows.frame, :2]


def _scale(z: np.ndarray) -> float:
    known = np.abs(z[np.isfinite(z)])
    return max(1.4826 * float(np.median(known)), 1e-6) if known.size else 1.0


def _normal(rows: Rows, lever: np.ndarray, rest: np.ndarray, weight: np.ndarray,
            frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal matrices (frame, 3, 3) and right sides (frame, 3) of a small change of the motions."""
    good = np.isfinite(rest).all(1)
    w = np.where(good[:, None], weight[:, None] / rows.error**2, 0.0)
    rest, lever = np.where(good[:, None], rest, 0.0), np.where(good[:, None], lever, 0.0)

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(rows.frame, values, frames)

    wy, wx, vy, vx = *w.T, *lever.T
    normal = np.zeros((frames, 3, 3))
    normal[:, 0, 0], normal[:, 1, 1] = sums(wy), sums(wx)
    normal[:, 0, 2] = normal[:, 2, 0] = -sums(wy * vx)
    normal[:, 1, 2] = normal[:, 2, 1] = sums(wx * vy)
    normal[:, 2, 2] = sums(wy * vx**2 + wx * vy**2)
    right = np.stack([sums(wy * rest[:, 0]), sums(wx * rest[:, 1]), sums(wx * vy * rest[:, 1] - wy * vx * rest[:, 0])],
                     axis=1)
    return normal, right


def _solved(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solutions; nan where a matrix is singular, as that of a frame with one column."""
    return (_inverse(normal) @ right[..., None])[..., 0]


def _inverse(normal: np.ndarray) -> np.ndarray:
    out = np.full(normal.shape, np.nan)
    size = np.sqrt(np.einsum("fii->fi", normal))
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = normal / (size[:, :, None] * size[:, None, :])
    good = np.isfinite(unit).all((1, 2))
    good[good] &= np.linalg.det(unit[good]) > 1e-9
    out[good] = np.linalg.inv(unit[good]) / (size[good][:, :, None] * size[good][:, None, :])
    return out


def _judged(rows: Rows, motion: np.ndarray, centre: np.ndarray, place: np.ndarray) -> Joint:
    """Errors of the motions, and how many columns carry them."""
    frames = len(motion)
    lever, rest = _residuals(rows, motion, centre, place)
    z = rest / rows.error
    scale = _scale(z)
    z = z / scale
    t = np.hypot(*z.T) / np.sqrt(2)
    good = np.isfinite(t) & (t < CUT)
    weight = np.where(good, bisquare(np.where(good, t, CUT)), 0.0)
    # of a column with residuals z (y, x): psi = w z; the mean over both axes of its derivative
    psi2 = weight**2 * np.where(good, t, 0.0) ** 2
    slope = np.where(good, weight - 2 * np.sqrt(weight) * (np.where(good, t, 0.0) / CUT) ** 2, 0.0)

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(rows.frame, values, frames)

    matched = sums(good.astype(float))
    all_psi, all_slope = psi2.sum() / max(good.sum(), 1), slope.sum() / max(good.sum(), 1)
    spread = (sums(psi2) + PRIOR_COLUMNS * all_psi) / (np.maximum(matched - 1.5, 0) + PRIOR_COLUMNS)
    bend = (sums(slope) + PRIOR_COLUMNS * all_slope) / (matched + PRIOR_COLUMNS)
    normal, _ = _normal(rows, lever, rest, good.astype(float), frames)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.einsum("fii->fi", _inverse(normal)) * (scale**2 * spread / bend**2)[:, None]
        residual = np.sqrt(sums(np.where(good, (rest**2).mean(1), 0.0)) / matched)
    return Joint(motion, np.sqrt(variance), place, matched.astype(np.int64), residual)
