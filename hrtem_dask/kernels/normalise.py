"""The z-score of a frame from the moments of its tiles, combined in a fixed order."""

from __future__ import annotations

import numpy as np

__all__ = ["combine", "mean_and_std", "moments", "zscore"]

#: scatter relative to the mean below which a frame counts as constant
CONSTANT = 1e-12
#: the same where integers were resampled in float32, whose rounding shows as scatter
ROUNDED = 1e-6


def moments(block: np.ndarray) -> np.ndarray:
    """Count, mean and sum of squared deviations of the finite pixels, float64.

    Examples
    --------
    >>> moments(np.array([[1.0, 3.0], [np.nan, np.inf]])).tolist()
    [2.0, 2.0, 2.0]
    """
    values = np.asarray(block)
    if values.dtype.kind == "f":
        known = np.isfinite(values)
        if not known.all():
            values = values[known]
    if not values.size:
        return np.zeros(3)
    mean = values.mean(dtype=np.float64)
    deviation = np.subtract(values, mean, dtype=np.float64).ravel()
    return np.array([values.size, mean, np.square(deviation, out=deviation).sum()])


def combine(parts: np.ndarray) -> np.ndarray:
    """Moments of the union from the moments (part, ..., 3) of its parts, in the order given.

    Chan, Golub and LeVeque, The American Statistician 37, 242 (1983).
    """
    total = np.array(parts[0], dtype=np.float64)
    for part in parts[1:]:
        (n, mean, m2), (k, other, m2_other) = np.moveaxis(total, -1, 0), np.moveaxis(part, -1, 0)
        count = n + k
        share = np.divide(k, count, out=np.zeros_like(count), where=count > 0)
        delta = other - mean
        total = np.stack([count, mean + delta * share, m2 + m2_other + np.square(delta) * n * share], axis=-1)
    return total


def mean_and_std(moments: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation; (0, 0) where no pixel is finite."""
    n, mean, m2 = moments
    return (float(mean), float(np.sqrt(m2 / n))) if n else (0.0, 0.0)


def zscore(block: np.ndarray, mean: float, std: float, constant: float = CONSTANT) -> np.ndarray:
    """Normalise to float32; unknown pixels become 0, which is the mean of the frame.

    A constant frame, whose relative scatter is not above ``constant``, becomes 0 everywhere.
    """
    if not std > constant * abs(mean):
        return np.zeros(block.shape, dtype=np.float32)
    out = np.subtract(block, mean, dtype=np.float64)
    out /= std
    out = out.astype(np.float32)
    unknown = ~np.isfinite(out)
    if unknown.any():
        out[unknown] = 0
    return out
