"""Fit the parametric MTF to noise power spectra.

The model of a ring is ``A MTF(k)^2 + R b(k)``: quantum noise that the detector has blurred, and
noise of the read-out that it has not, with the shape b (1 where it is white). Several
exposures share MTF and R. The mean power of a ring has a gamma distribution, so the
likelihood is Whittle's; least squares with weights from the model, repeated until these
stand still, ends at its maximum. Weights from the measured power would pull the fit down.

The curve has three parameters. Where the data say beyond doubt that these do not describe it, it
gets a fourth, and then two more (`camera.mtf_curve`): with three, a detector whose MTF is a
sum of two Gaussians would come out wrong by 0.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from ..core.errors import InputError
from .camera import mtf_curve
from .noise_power import Rings

__all__ = ["PARAMETERS", "PowerFit", "ReadNoise", "fit_power"]

#: the parameters of `camera.mtf_curve` in the order of a covariance
PARAMETERS = ("scale", "power", "floor", "tail", "halo", "halo_scale")
#: how many of them are free, from the simplest form on
LEVELS = (3, 4, 6)
#: gain in twice the log likelihood that a further parameter must bring
WORTH = 10.0
#: fixed where not free
REST = (0.5, 2.5, 0.0, 1.0, 0.0, 1.0)
LOW = np.array([np.log(0.12), np.log(0.7), 0.0, 0.0, 0.0, np.log(0.03)])
HIGH = np.array([np.log(20.0), np.log(5.0), 0.9, 2.0, 0.9, np.log(3.0)])
#: fitted in their logarithm
LOGARITHMIC = np.array([True, True, False, False, False, True])
#: where the fit starts; the best end is taken
STARTS = ((0.5, 2.5, 0.02, 0.7, 0.1, 0.2), (0.2, 1.5, 0.02, 0.7, 0.3, 0.5), (1.2, 2.0, 0.2, 0.3, 0.3, 0.1))
ROUNDS = 25


@dataclass(frozen=True)
class ReadNoise:
    """What dark frames say: the power of the read-out noise [counts^2], its error, its shape b(k) as a table."""

    power: float
    error: float
    shape: tuple[np.ndarray, np.ndarray] | None = None

    def at(self, k: np.ndarray) -> np.ndarray | float:
        """Shape of the read-out noise, 1 where it is white."""
        return 1.0 if self.shape is None else np.interp(k, *self.shape)


@dataclass(frozen=True)
class PowerFit:
    """Result of `fit_power`.

    Attributes
    ----------
    curve : ndarray, shape (6,)
        `PARAMETERS` of `camera.mtf_curve`.
    covariance : ndarray, shape (6, 6)
        Of these, with the misfit taken in; 0 for those that were not free.
    free : int
        How many of them were free.
    amplitudes, amplitude_errors : ndarray, one for each exposure
        Power of the quantum noise at k = 0 [counts^2].
    read, read_error : float
        Power of the read-out noise [counts^2].
    misfit : float
        Chi^2 by degrees of freedom.
    likelihood : float
        Logarithm of the likelihood, less what is the same for any model.
    models : tuple of ndarray
        Power of the model at the rings of each exposure [counts^2].
    """

    curve: np.ndarray
    covariance: np.ndarray
    free: int
    amplitudes: np.ndarray
    amplitude_errors: np.ndarray
    read: float
    read_error: float
    misfit: float
    likelihood: float
    models: tuple[np.ndarray, ...]

    @property
    def at_bound(self) -> bool:
        """Whether the curve falls as early, as steeply or as slowly as it may, as no detector's does."""
        start, steep = np.log(self.curve[:2])
        slow = self.free <= LEVELS[1] and steep < LOW[1] + 0.02
        return bool(start < LOW[0] + 0.02 or steep > HIGH[1] - 0.02 or slow)


def fit_power(exposures: Sequence[Rings], dark: ReadNoise | None = None, *,
              levels: Sequence[int] = LEVELS) -> PowerFit:
    """Fit the MTF to the noise power of one or more exposures.

    Parameters
    ----------
    exposures : sequence of Rings
        Each with its own amplitude.
    dark : ReadNoise, optional
        Holds the read-out noise to what dark frames say; else it is fitted, and one exposure
        alone hardly tells it from the floor of the MTF.
    levels : sequence of int
        Numbers of free parameters of the curve to try, the fewest first.

    Returns
    -------
    PowerFit

    Raises
    ------
    InputError
        If there are fewer rings than parameters, or a power is not positive.

    Examples
    --------
    >>> k = np.linspace(0.02, 1, 60)
    >>> rings = Rings(k, 20 * mtf_curve(k, 0.5, 2.5, 0.02) ** 2 + 1, np.full(60, 1e4))
    >>> fit_power([rings], ReadNoise(1.0, 1e-3)).curve[:3].round(4)
    array([0.5 , 2.5 , 0.02])
    """
    rings = sum(len(e.k) for e in exposures)
    if rings < len(exposures) + max(levels) + 1 or any((e.power <= 0).any() for e in exposures):
        least = min((float(e.power.min()) for e in exposures if len(e.k)), default=0.0)
        raise InputError(f"{rings} rings of noise power, the least {least:g} counts^2; expected more than there are "
                         "parameters, and all above 0. Give larger or more frames")
    best = _fit(exposures, dark, levels[0])
    for level in levels[1:]:
        richer = _fit(exposures, dark, level)
        if 2 * (richer.likelihood - best.likelihood) > WORTH * (level - best.free):
            best = richer
    return best


def _fit(exposures: Sequence[Rings], dark: ReadNoise | None, free: int) -> PowerFit:
    unit = float(np.median(exposures[0].power))
    n = len(exposures)
    starts = [_start(exposures, dark, unit, start, free) for start in STARTS]
    # a few steps from everywhere, and all the way from the best place
    tried = [_climb(exposures, dark, unit, start, 2) for start in starts]
    theta, jacobian, chi2, likelihood = _climb(exposures, dark, unit, max(tried, key=lambda end: end[3])[0], ROUNDS)
    rings = sum(len(e.k) for e in exposures)
    misfit = chi2 / max(rings + (dark is not None) - theta.size, 1)
    covariance = _inverse(jacobian.T @ jacobian) * max(misfit, 1.0)
    curve, amplitudes, read = _unpack(theta, n)
    # the fit ran in logarithms, and in units of `unit`
    slope = np.concatenate([amplitudes, np.where(LOGARITHMIC, curve, 1.0)[:free], [1.0]])
    errors = slope * np.sqrt(np.maximum(np.diag(covariance), 0))
    full = np.zeros((len(PARAMETERS),) * 2)
    at = slice(n, n + free)
    full[:free, :free] = covariance[at, at] * np.outer(slope[at], slope[at])
    return PowerFit(
        curve=curve, covariance=full, free=free, amplitudes=amplitudes * unit, amplitude_errors=errors[:n] * unit,
        read=read * unit, read_error=float(errors[-1] * unit), misfit=float(misfit), likelihood=likelihood,
        models=tuple(m * unit for m in _models(theta, exposures, dark)),
    )


def _inverse(information: np.ndarray) -> np.ndarray:
    """Invert a Fisher information; a direction of which the data say nothing gets a variance of 0."""
    size = np.sqrt(np.maximum(np.diag(information), 1e-300))
    return np.linalg.pinv(information / np.outer(size, size), rcond=1e-12, hermitian=True) / np.outer(size, size)


def _unpack(theta: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the six parameters of the curve, the amplitudes, and the power of the read-out noise."""
    curve = np.array(REST)
    free = theta.size - n - 1
    curve[:free] = np.where(LOGARITHMIC[:free], np.exp(np.minimum(theta[n:-1], 50)), theta[n:-1])
    return curve, np.exp(theta[:n]), float(theta[-1])


def _models(theta: np.ndarray, exposures: Sequence[Rings], dark: ReadNoise | None) -> list[np.ndarray]:
    curve, amplitudes, read = _unpack(theta, len(exposures))
    return [a * mtf_curve(e.k, *curve) ** 2 + read * (1.0 if dark is None else dark.at(e.k))
            for a, e in zip(amplitudes, exposures, strict=True)]


def _limits(n: int, free: int) -> tuple[np.ndarray, np.ndarray]:
    return (np.concatenate([np.full(n, -50.0), LOW[:free], [0.0]]),
            np.concatenate([np.full(n, 50.0), HIGH[:free], [np.inf]]))


def _start(exposures: Sequence[Rings], dark: ReadNoise | None, unit: float, start: Sequence[float],
           free: int) -> np.ndarray:
    lowest = min(float(e.power.min()) for e in exposures) / unit
    read = lowest / 2 if dark is None else dark.power / unit
    first = [np.log(max(float(e.power[:3].mean()) / unit - read, 1e-3)) for e in exposures]
    begin = np.where(LOGARITHMIC, np.log(np.maximum(start, 1e-9)), start)[:free]
    return np.clip(np.concatenate([first, begin, [read]]), *_limits(len(exposures), free))


def _climb(exposures: Sequence[Rings], dark: ReadNoise | None, unit: float, theta: np.ndarray,
           rounds: int) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Fit from one start; return parameters, Jacobian, chi^2 and log likelihood."""
    measured = [e.power / unit for e in exposures]
    weight = [np.sqrt(e.modes) for e in exposures]
    # a read-out noise that is known exactly would leave the problem without a scale
    prior = [] if dark is None else [(dark.power / unit, max(dark.error / unit, 1e-4))]

    def residuals(t: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
        parts = [(p - m) * w for p, m, w in zip(measured, _models(t, exposures, dark), weights, strict=True)]
        return np.concatenate([*parts, *([(t[-1] - r) / e] for r, e in prior)])

    def likelihood_of(t: np.ndarray, spread: list[np.ndarray]) -> float:
        fits = sum(float(np.sum(e.modes * (np.log(s) + p / s)))
                   for e, p, s in zip(exposures, measured, spread, strict=True))
        return -fits - sum(0.5 * ((t[-1] - r) / e) ** 2 for r, e in prior)

    limits = _limits(len(exposures), theta.size - len(exposures) - 1)
    spread, likelihood = measured, -np.inf
    for _ in range(rounds):
        found = least_squares(residuals, theta, bounds=limits, x_scale="jac", max_nfev=60,
                              args=([w / s for w, s in zip(weight, spread, strict=True)],))
        theta, spread, before = found.x, _models(found.x, exposures, dark), likelihood
        likelihood = likelihood_of(theta, spread)
        if abs(likelihood - before) < 1e-4:
            break
    return theta, found.jac, float(2 * found.cost), likelihood
