"""The noise of a few consecutive frames of one scene, without what stands still or changes slowly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .moving import moved_by
from .noise_power import detrend, hann, mask_spots, noise_power, outliers, shared_modes

__all__ = ["GroupNoise", "frame_fault", "group_noise", "single_noise"]

#: part of the pixels of a frame at its largest value from which it is saturated
SATURATED = 1e-3
#: part of the pixels that may be missing
MISSING = 0.05
#: from this many frames on the linear change with time is removed too
LINEAR = 4
#: part of the usual level, or of the usual noise, below which a frame is left out as dim
DIM = 0.5
#: by how many deviations of a pixel the mean of such a frame must lie below the others, where only the noise is known
LOWER = 0.1


@dataclass(frozen=True)
class GroupNoise:
    """Sums over groups of frames; two of them add up.

    Attributes
    ----------
    power : ndarray, shape (y, x // 2 + 1), or float 0
        Sum of the power of what is left of every frame [counts^2], to be divided by ``spectra``.
    spectra : int
        Independent spectra in it: frames less what was removed.
    total : ndarray, shape (y, x), or float 0
        Sum of the good frames [counts].
    means : tuple of float
        Mean of every good frame [counts].
    good : tuple of int
        Their numbers.
    faults : tuple of (int, str)
        Number of every frame that was left out, and why.
    missing : int
        Pixels that were not finite, or no noise (X-rays), in good frames.
    near : ndarray, like ``power``
        Sum of half the power of the differences of neighbouring frames [counts^2].
    pairs : int
        Neighbours in it.
    dose, near_dose : float
        Sums of the means of the frames, each with the weight that its noise has in ``power`` and ``near`` [counts].
    moved : tuple of (float, float)
        For every pair of neighbours what `moving.moved_by` finds in their difference.
    """

    power: np.ndarray | float = 0.0
    spectra: int = 0
    total: np.ndarray | float = 0.0
    means: tuple[float, ...] = ()
    good: tuple[int, ...] = ()
    faults: tuple[tuple[int, str], ...] = field(default=())
    missing: int = 0
    near: np.ndarray | float = 0.0
    pairs: int = 0
    moved: tuple[tuple[float, float], ...] = ()
    dose: float = 0.0
    near_dose: float = 0.0

    def __add__(self, other: GroupNoise) -> GroupNoise:
        return GroupNoise(*(getattr(self, n) + getattr(other, n) for n in self.__dataclass_fields__))


def frame_fault(frame: np.ndarray, *, saturated: float = SATURATED) -> str | None:
    """Say why a frame cannot be used, or None; ``saturated`` is the part of its pixels that may be at its maximum.

    Examples
    --------
    >>> frame_fault(np.zeros((8, 8))), frame_fault(np.arange(64.0).reshape(8, 8))
    ('constant, every pixel is 0', None)
    """
    finite = np.isfinite(frame)
    missing = 1 - float(finite.mean())
    if missing > MISSING:
        return f"{missing:.1%} of its pixels are not finite"
    values = frame if missing == 0 else frame[finite]
    top = values.max()
    if top == values.min():
        return f"constant, every pixel is {top:g}"
    at_top = int(np.count_nonzero(values == top))
    if at_top < max(saturated * values.size, 4):
        return None
    # the tail of a distribution thins out towards its end; a clipped one piles up there
    step = 1 if values.dtype.kind in "iu" else max(abs(float(top)) * 1e-3, 1e-12)
    below = int(np.count_nonzero((values < top) & (values >= top - step)))
    levels = top - np.median(values) >= 3 if values.dtype.kind in "iu" else True
    return f"saturated, {at_top / values.size:.1%} of its pixels are at {top:g}" if levels and at_top > below else None


def group_noise(frames: np.ndarray, first: int = 0, offset: float | None = None) -> GroupNoise:
    """Noise power of consecutive frames.

    In every pixel the mean over the frames is removed, and from four frames on the linear change
    with time too: the gain and what else stands still, drifting illumination, a slow drift.
    Equivalent to using the differences of all pairs of frames, with the number of independent
    spectra exactly known. Frames much dimmer than the others are left out.

    Parameters
    ----------
    frames : ndarray, shape (frame, y, x)
        Counts of any real dtype.
    first : int
        Number of the first frame.
    offset : float, optional
        Counts without electrons. Where it is known what stands still is taken to grow with the mean
        of a frame, so that a flickering beam leaves no gain pattern behind. The frames are not scaled, as
        that would change the noise of each by another factor.

    Returns
    -------
    GroupNoise
        With ``spectra`` 0 where fewer than two frames are good.

    Examples
    --------
    >>> pattern = np.random.default_rng(0).normal(100, 30, (64, 64))
    >>> noise = group_noise(np.random.default_rng(1).normal(pattern, 2, (8, 64, 64)))
    >>> noise.spectra, round(float((noise.power / noise.spectra).mean()))
    (6, 4)
    """
    faults = {i: fault for i, f in enumerate(frames) if (fault := frame_fault(f)) is not None}
    good = [i for i in range(len(frames)) if i not in faults]
    data, means = np.empty((0, *frames.shape[1:])), np.empty(0)
    if good:
        data = frames[good].astype(np.float64)
        valid = np.isfinite(data)
        means = np.array([float(f[v].mean()) for f, v in zip(data, valid, strict=True)])
        data = _filled(data, valid)
        dim = _dim(data, means, offset)
        faults |= {good[i]: text for i, text in dim.items()}
        keep = [i for i in range(len(good)) if i not in dim]
        good, data, valid, means = [good[i] for i in keep], data[keep], valid[keep], means[keep]
    said = tuple((first + i, faults[i]) for i in sorted(faults))
    if not good:
        return GroupNoise(faults=said)
    numbers, mean_counts = tuple(first + i for i in good), tuple(means.tolist())
    if len(good) < 2:
        return GroupNoise(total=data[0], means=mean_counts, good=numbers, faults=said, missing=int((~valid).sum()))
    levels = means - (0.0 if offset is None else offset)
    if offset is None or levels.min() <= 0:
        levels = np.ones(len(good))
    rest, weight = _without_slow_change(data, np.asarray(good, dtype=np.float64), levels)
    power, total = 0.0, 0.0
    for image, counts, use, mean in zip(rest, data, valid, means, strict=True):
        image = detrend(image, 2)
        use &= ~outliers(image)
        power = power + noise_power(image, use)
        total = total + np.where(use, counts, mean)
    modes = mask_spots(np.asarray(power), rest[0].shape, frames=len(good))
    near, moved, near_dose = _neighbours(data, valid, modes, means, levels)
    return GroupNoise(power, round(float(weight.sum())), total, mean_counts, numbers, said, int((~valid).sum()), near,
                      len(moved), moved, float(weight @ means), near_dose)


def _dim(data: np.ndarray, means: np.ndarray, offset: float | None) -> dict[int, str]:
    """Frames with less than half the usual level, or noise where the offset is not known, and what to say of them."""
    if len(data) < 2:
        return {}
    usual = float(np.median(means))
    if offset is not None and usual > offset:
        part = (means - offset) / (usual - offset)
        return {i: f"dim, with {max(p, 0):.0%} of the usual level" for i, p in enumerate(part) if p < DIM}
    noise = np.array([float(detrend(f, 2).var()) for f in data])
    typical = float(np.median(noise))
    lower = usual - means > LOWER * np.sqrt(typical)
    return {i: f"dim, with {v / typical:.0%} of the usual noise" for i, v in enumerate(noise)
            if lower[i] and v < DIM * typical}


def _neighbours(data: np.ndarray, valid: np.ndarray, modes: np.ndarray, means: np.ndarray, levels: np.ndarray) -> tuple[
        np.ndarray, tuple[tuple[float, float], ...], float]:
    """Half the power of the differences of neighbouring frames, their sum, what moved in each, and their dose.

    Each frame has the other's level as its factor, so that what stands still cancels.
    """
    near, moved, dose = np.zeros(modes.shape), [], 0.0
    for i in range(len(data) - 1):
        one, two = levels[i : i + 2] / np.hypot(*levels[i : i + 2])
        image = detrend(one * data[i + 1] - two * data[i], 2)
        power = noise_power(image, valid[i] & valid[i + 1] & ~outliers(image))
        near += power
        dose += float(one**2 * means[i + 1] + two**2 * means[i])
        moved.append(moved_by(power, image.shape, modes))
    return near, tuple(moved), dose


def single_noise(frame: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Noise power of one frame, from which only its slow change in space can be removed.

    Returns
    -------
    power : ndarray, shape (y, x // 2 + 1)
        [counts^2]
    shared : float
        Neighbouring modes that the window makes one.
    missing : int
        Pixels that were not finite, or no noise.
    """
    data = frame.astype(np.float64)
    valid = np.isfinite(data)
    image = detrend(_filled(data[None], valid[None])[0], 3)
    valid &= ~outliers(image)
    window = hann(image.shape)
    return noise_power(image, valid, window), shared_modes(window), int((~valid).sum())


def _filled(data: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Fill holes with the mean of the other frames there, or of their own frame."""
    for image, use in zip(data, valid, strict=True):
        if not use.all():
            others, number = np.where(valid, data, 0).sum(axis=0), valid.sum(axis=0)
            image[~use] = np.where(number > 0, others / np.maximum(number, 1), image[use].mean())[~use]
    return data


def _without_slow_change(data: np.ndarray, at: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Remove what grows with the levels, and with time; return also the part of every frame's noise that is left."""
    order = 2 if len(data) >= LINEAR else 1
    basis = np.linalg.qr(levels[:, None] * np.vander(at - at.mean(), order, increasing=True))[0]
    flat = data.reshape(len(data), -1)
    return (flat - basis @ (basis.T @ flat)).reshape(data.shape), 1 - (basis**2).sum(axis=1)
