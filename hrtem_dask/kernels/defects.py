"""Dead and hot pixels of one image: found by what stands out from its surroundings, and filled from them.

A pixel that always says the same is white in Fourier space: it lifts the noise under every lattice
spot, and some of them in a row make a streak that passes for spots.
"""

from __future__ import annotations

import numpy as np

__all__ = ["mend"]

#: standard deviations of the noise by which a defect stands out from the ring around its neighbours; a
#: fainter one adds no more to the noise of a crop than a few dozen of its pixels do
OUTLIER = 6.0
#: part of that height by which it stands out from its own neighbours; an atom column, blurred by optics and
#: detector, is shared by several pixels
ALONE = 0.75
#: more than this part of the pixels are no defects but the signal
MOST = 0.015
#: quantile of the absolute differences from the neighbours that tells the noise, and its value for unit variance
QUANTILE, NORMAL = 0.9, 1.6449
#: noise of few electrons has a long tail: a defect also exceeds this multiple of the upper quantile, which its own
#: neighbours raise to a quarter of its height at most
TAIL, MULTIPLE = 0.95, 3.5
#: what stands behind the highest defects is found once these are filled
PASSES = 3
#: every so many pixels tell the noise
SPARE = 3
#: a pixel is filled from its neighbours where at least so many of the eight are good
NEIGHBOURS = 4
#: at least so many pixels that all hold one value are a line that does not count, unless more than this part of the
#: lines are so: then it is the image, such as one without noise
LINE, MOST_LINES = 16, 0.1
#: part of a line's pixels that hold its value: another line may cross it
ALL = 0.95

_NEAR = np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)])
_RING = np.array([(a, b) for a in range(-2, 3) for b in range(-2, 3) if max(abs(a), abs(b)) == 2])


def mend(values: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fill single pixels that are dead, hot or not finite, and rows and columns that hold one value all along.

    Parameters
    ----------
    values : ndarray, float64, shape (y, x)
        Counts.
    region : ndarray of bool, shape (y, x)
        Where it matters, and where the noise is measured.

    Returns
    -------
    (ndarray, ndarray of bool)
        The filled image, and the pixels that are not finite and could not be filled.

    Examples
    --------
    >>> image = np.random.default_rng(0).poisson(50, (40, 40)).astype(float)
    >>> image[20, 20], image[5, 7] = 4000, np.nan
    >>> filled, lost = mend(image, np.ones(image.shape, bool))
    >>> bool(filled[20, 20] < 80), bool(filled[5, 7] < 80), bool(lost.any()), int((filled != image).sum())
    (True, True, False, 2)
    """
    values = _without_lines(values)
    for _ in range(PASSES):
        lost = ~np.isfinite(values)
        if lost.all():
            return values, lost
        plain = np.where(lost, np.median(values[~lost]), values) if lost.any() else values
        i, j = _suspects(plain, region, lost)
        values = _filled(values, plain, lost, i, j)
        if not i.size:
            break
    return values, ~np.isfinite(values)


def _without_lines(values: np.ndarray) -> np.ndarray:
    """The image with nan in rows and columns that hold one value all along, but what most pixels hold."""
    out = values
    for lines in (values, values.T):
        n, length = lines.shape
        if length < LINE:
            continue
        first = lines[:, 0]
        same = np.flatnonzero((first == lines[:, length // 2]) & (first == lines[:, -1]))
        same = same[(lines[same] == first[same, None]).mean(axis=1) >= ALL]
        if not 0 < same.size <= MOST_LINES * n:
            continue
        usual = np.nanmedian(values)  # of few electrons most pixels hold none
        out = out.copy() if out is values else out
        (out if lines is values else out.T)[same[first[same] != usual]] = np.nan
    return out


def _filled(values: np.ndarray, plain: np.ndarray, lost: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Give these pixels, and those that are lost, the median of their neighbours where enough of them are good."""
    if lost.any():
        i, j = (np.concatenate(p) for p in zip((i, j), np.nonzero(lost), strict=True))
    if not i.size:
        return values
    bad = lost.copy()
    bad[i, j] = True
    y, x = i[:, None] + _NEAR[:, 0], j[:, None] + _NEAR[:, 1]
    inside = (y >= 0) & (y < values.shape[0]) & (x >= 0) & (x < values.shape[1])
    y, x = y.clip(0, values.shape[0] - 1), x.clip(0, values.shape[1] - 1)
    good = inside & ~bad[y, x]
    enough = good.sum(axis=1) >= NEIGHBOURS
    y, x, good = y[enough], x[enough], good[enough]
    filled = values.copy()
    if enough.any():
        filled[i[enough], j[enough]] = np.nanmedian(np.where(good, plain[y, x], np.nan), axis=1)
    return filled


def _suspects(plain: np.ndarray, region: np.ndarray, lost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that stand out from the ring around their neighbours, and stand out alone."""
    nothing = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    edge = np.pad(plain, 1, mode="edge").astype(np.float32)
    rest = edge[:-2, 1:-1] + edge[2:, 1:-1]
    rest += edge[1:-1, :-2]
    rest += edge[1:-1, 2:]
    rest *= np.float32(-0.25)
    rest += edge[1:-1, 1:-1]
    np.abs(rest, out=rest)
    region = region & ~lost
    known = rest[region][::SPARE]
    if known.size < 25:
        return nothing
    at = [int(q * (known.size - 1)) for q in (QUANTILE, TAIL)]
    usual, tail = np.partition(known, at)[at].astype(float)
    if usual == 0:  # nothing but a few electrons, or a few defects: white, and no spot
        return nothing
    # the mean of four neighbours adds a quarter to the variance
    least = max(OUTLIER * usual / NORMAL / np.sqrt(1.25), MULTIPLE * tail)
    i, j = np.nonzero((rest > np.float32(0.5 * least)) & region)
    most = MOST * SPARE * known.size
    if not i.size or i.size > 10 * most:
        return nothing
    near, ring = (plain[(i[:, None] + o[:, 0]).clip(0, plain.shape[0] - 1),
                        (j[:, None] + o[:, 1]).clip(0, plain.shape[1] - 1)] for o in (_NEAR, _RING))
    height = plain[i, j] - np.median(ring, axis=1)
    near = np.sort(near, axis=1)  # two of the neighbours may be defects as well
    alone = np.where(height > 0, plain[i, j] - near[:, -3], near[:, 2] - plain[i, j])
    defect = (np.abs(height) > least) & (alone >= ALONE * np.abs(height))
    if defect.sum() > most:
        return nothing
    return i[defect], j[defect]
