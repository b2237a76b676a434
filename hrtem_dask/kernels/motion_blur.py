"""Which frames of a movie are blurred by motion within their exposure, from the powers that `frame_quality` bins.

Motion within the exposure multiplies the power of the image, but not that of the noise, by
``exp(-4 pi^2 k^T C k)``, with C the covariance of the positions that the specimen went through (a steady
drift over the length L counts as the variance L^2/12, exact to second order). So for the power P of a
frame over its noise, that of the movie's median frame R, and the noise N over frequency (1 where it is white):

    P(k) - N(k) = a (R(k) - N(k)) exp(-4 pi^2 k^T C k)

with ``a`` for the dose of the frame. C is relative to the median frame, so a frame alone says nothing; what a
lattice spot adds to one bin is held down by Huber weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["LEAST_FRAMES", "Blur", "compare_frames"]

#: frames from which there is a median to compare with
LEAST_FRAMES = 3
#: efficiency of a median of exponential powers, as a factor on the variance
MEDIAN_LOSS = 1.5
#: deviations from which a bin loses weight
HUBER = 1.5
ROUNDS, STEPS = 40, 1e-6
#: exponents are held within these
EXPONENT = (-30.0, 3.0)


class Blur(NamedTuple):
    """Arrays of one value a frame; nan where a frame cannot be compared.

    ``signal`` is the power of the image over that of the noise, relative to the median frame, and
    ``signal_error`` its standard error; ``variance`` that of the motion along its worst direction relative
    to the median frame [length^2], negative for a sharper frame, with its standard error; ``angle`` that
    direction, from +y towards +x, modulo pi [radian].
    """

    signal: np.ndarray
    signal_error: np.ndarray
    variance: np.ndarray
    variance_error: np.ndarray
    angle: np.ndarray


def compare_frames(power: np.ndarray, k: np.ndarray, modes: np.ndarray, floor: np.ndarray,
                   usable: np.ndarray) -> Blur:
    """Fit signal and motion of every frame against the median of those that are usable.

    Parameters
    ----------
    power : ndarray, shape (frame, bin)
        Over that of the noise.
    k : ndarray, shape (bin, 2)
        Frequency (y, x) [1/length].
    modes : ndarray, shape (frame, bin)
        Independent modes in each bin.
    floor : ndarray, shape (bin,)
        Power of the noise.
    usable : ndarray of bool, shape (frame,)
        Frames that make the median.

    Returns
    -------
    Blur

    Examples
    --------
    >>> k = np.stack([c.ravel() for c in np.meshgrid(np.linspace(-0.5, 0.5, 12), np.linspace(0.02, 0.5, 6))], 1)
    >>> film = 2 * np.exp(-4 * (k**2).sum(1))
    >>> moved = film * np.exp(-4 * np.pi**2 * 0.3 * k[:, 0] ** 2)
    >>> power = 1 + np.stack([film, film, film, 3 * moved])
    >>> blur = compare_frames(power, k, np.full(power.shape, 1e4), np.ones(len(k)), np.ones(4, bool))
    >>> blur.variance.round(3).tolist(), blur.signal.round(3).tolist(), abs(blur.angle[3].round(3))
    ([0.0, 0.0, 0.0, 0.3], [1.0, 1.0, 1.0, 3.0], np.float64(0.0))
    """
    out = Blur(*(np.full(len(power), np.nan) for _ in Blur._fields))
    there = np.isfinite(power).all(axis=1) if power.shape[1] else np.zeros(len(power), bool)
    if np.count_nonzero(usable & there) < LEAST_FRAMES:
        return out
    reference = np.maximum(np.median(power[usable & there], axis=0) - floor, 0.0)
    if not (reference > 0).sum() > 8:
        return out
    deviation = power[there] * np.sqrt(MEDIAN_LOSS / modes[there])
    found, covariance = _fit(power[there] - floor, reference, deviation, _terms(k))
    values, vectors = np.linalg.eigh(_matrix(found[:, 1:]))
    worst = vectors[:, :, -1]
    gradient = np.stack([worst[:, 0] ** 2, 2 * worst[:, 0] * worst[:, 1], worst[:, 1] ** 2], 1)
    error = np.sqrt(np.einsum("fi,fij,fj->f", gradient, covariance[:, 1:, 1:], gradient))
    for name, value in zip(out._fields, (found[:, 0], np.sqrt(covariance[:, 0, 0]), values[:, -1], error,
                                         np.mod(np.arctan2(worst[:, 1], worst[:, 0]), np.pi)), strict=True):
        getattr(out, name)[there] = value
    return out


def _terms(k: np.ndarray) -> np.ndarray:
    return -4 * np.pi**2 * np.stack([k[:, 0] ** 2, 2 * k[:, 0] * k[:, 1], k[:, 1] ** 2], 1)


def _matrix(c: np.ndarray) -> np.ndarray:
    return np.stack([c[:, [0, 1]], c[:, [1, 2]]], axis=1)


def _fit(signal: np.ndarray, reference: np.ndarray, deviation: np.ndarray,
         terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt of all frames at once; parameters are a and the three of C."""
    n = len(signal)
    at = np.zeros((n, 4))
    at[:, 0] = 1.0
    damping = np.full(n, 1e-3)
    scale = np.ones((n, 1))
    residual, slope = _model(at, signal, reference, deviation, terms)
    cost = _huber(residual, scale).sum(1)
    for _ in range(ROUNDS):
        weight = np.minimum(1.0, HUBER * scale / np.maximum(np.abs(residual), 1e-12))
        normal = np.einsum("fb,fbi,fbj->fij", weight, slope, slope)
        diagonal = np.einsum("fii->fi", normal) + 1e-12
        step = np.linalg.solve(normal + (damping[:, None] * diagonal)[:, :, None] * np.eye(4),
                               np.einsum("fb,fbi,fb->fi", weight, slope, residual)[..., None])[..., 0]
        new, new_slope = _model(at + step, signal, reference, deviation, terms)
        new_cost = _huber(new, scale).sum(1)
        better = new_cost <= cost
        at[better] += step[better]
        residual, slope = (np.where(better.reshape(-1, *[1] * (old.ndim - 1)), now, old)
                           for now, old in ((new, residual), (new_slope, slope)))
        damping = np.where(better, damping / 5, damping * 5).clip(1e-9, 1e9)
        # what the model leaves over sets the scale: the defocus changes, particles come and go
        scale = np.maximum(1.0, 1.4826 * np.median(np.abs(residual), axis=1))[:, None]
        cost = _huber(residual, scale).sum(1)
        if (np.abs(step) < STEPS).all():
            break
    weight = np.minimum(1.0, HUBER * scale / np.maximum(np.abs(residual), 1e-12))
    normal = np.einsum("fb,fbi,fbj->fij", weight, slope, slope)
    ridge = 1e-9 * np.einsum("fii->fi", normal).max(1)[:, None, None] + 1e-30
    return at, np.linalg.inv(normal + ridge * np.eye(4)) * scale[:, :, None] ** 2


def _model(at: np.ndarray, signal: np.ndarray, reference: np.ndarray, deviation: np.ndarray,
           terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shape = reference * np.exp(np.clip(at[:, 1:] @ terms.T, *EXPONENT))
    model = at[:, :1] * shape
    slope = np.concatenate([shape[:, :, None], model[:, :, None] * terms], axis=2) / deviation[:, :, None]
    return (signal - model) / deviation, slope


def _huber(residual: np.ndarray, scale: np.ndarray) -> np.ndarray:
    size, limit = np.abs(residual), HUBER * scale
    return np.where(size <= limit, size**2 / 2, limit * (size - limit / 2))
