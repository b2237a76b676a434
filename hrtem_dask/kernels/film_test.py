"""Whether a noise spectrum holds a film: a search for contrast transfer on top of an MTF.

The image of a thin film has the spectrum of white noise times sin^2 of the phase that the lens adds,
times an envelope and the MTF; Thon rings where the phase exceeds pi. For each of many such forms
this tells by how many deviations the measured power holds it, after all of it that a change of the
MTF would explain was taken away (the score test of statistics), and by how much the MTF is wrong
where a film is there that the data do not show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .camera import mtf_curve
from .mtf_fit import LOGARITHMIC, PARAMETERS, PowerFit, ReadNoise
from .noise_power import Rings

__all__ = ["HIDDEN", "FilmSearch", "search_film"]

#: phase at Nyquist by defocus, and by spherical aberration [rad]; half widths of the envelope [Nyquist]
DEFOCUS, SPHERICAL = (0.0, *np.geomspace(0.7, 200.0, 48)), (-100.0, -30.0, -10.0, 0.0)
WIDTHS = (0.08, 0.13, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5)
#: contrast of the amplitude, as a phase [rad]
AMPLITUDE = (0.08, 0.4)
#: power of a film over that of the noise, as a deviation, that one frame must be thought to hold
HIDDEN = 0.2
#: what detectors differ by in `mtf_fit.PARAMETERS` (relative for those that are positive), as a deviation: a hidden
#: film cannot have changed the curve by more
DETECTORS = (1.0, 0.5, 0.2, 1.0, 0.3, 1.0)


@dataclass(frozen=True)
class FilmSearch:
    """Result of `search_film`.

    Attributes
    ----------
    score : float
        By how many deviations the spectrum holds the film that fits best.
    part : float
        Power of that film over that of the quantum noise, where it is largest.
    covariance : ndarray, shape (6, 6)
        Of `mtf_fit.PARAMETERS`: what a film that the data do not show would change them by, for that
        form which changes the curve most.
    """

    score: float
    part: float
    covariance: np.ndarray


@lru_cache(maxsize=4)
def _forms(k: tuple[float, ...]) -> np.ndarray:
    """Power of films at frequencies k, a row each, 1 at their highest."""
    at = np.asarray(k)
    waves = [np.sin(d * at**2 + s * at**4 + a) ** 2 for d in DEFOCUS[1:] for s in SPHERICAL for a in AMPLITUDE]
    forms = np.concatenate([np.exp(-((at / w) ** 2)) * np.array([np.ones_like(at), *waves]) for w in WIDTHS])
    return forms / forms.max(axis=1, keepdims=True)


def search_film(rings: Rings, fit: PowerFit, dark: ReadNoise | None = None, *, hidden: float = HIDDEN) -> FilmSearch:
    """Search the noise power of the first exposure of a fit for films.

    Parameters
    ----------
    rings : Rings
        Those that were fitted.
    fit : PowerFit
    dark : ReadNoise, optional
        What the fit knew of the read-out noise.
    hidden : float
        Power over that of the noise, as a deviation, of the film that the frames must be thought to hold.

    Returns
    -------
    FilmSearch

    Examples
    --------
    >>> from .mtf_fit import fit_power
    >>> k = np.linspace(0.04, 1, 120)
    >>> noise = 20 * mtf_curve(k, 0.5, 2.5, 0.02) ** 2
    >>> film = noise * (1 + 0.3 * np.sin(20 * k**2) ** 2 * np.exp(-((k / 0.7) ** 2))) + 1
    >>> rings = Rings(k, film, np.full(120, 400.0))
    >>> round(search_film(rings, fit_power([rings])).score)
    7
    """
    weight, a = np.sqrt(rings.modes), float(fit.amplitudes[0])
    shape = np.broadcast_to(1.0 if dark is None else dark.at(rings.k), rings.k.shape)
    quantum = a * mtf_curve(rings.k, *fit.curve) ** 2
    model = quantum + fit.read * shape
    slopes = np.array([quantum, *_slopes(rings.k, fit, lambda curve: a * curve**2), shape]) / model * weight
    residual = (rings.power / model - 1) * weight
    forms = _forms(tuple(rings.k.tolist())) * (quantum / model * weight)
    if dark is not None:  # what dark frames say of the read-out noise is one datum more
        sigma = max(dark.error, 1e-4 * a)
        slopes = np.concatenate([slopes, np.eye(len(slopes))[-1][:, None] / sigma], axis=1)
        residual, forms = np.append(residual, (dark.power - fit.read) / sigma), np.pad(forms, ((0, 0), (0, 1)))
    size = np.sqrt((slopes**2).sum(axis=1, keepdims=True))
    change = np.linalg.lstsq((slopes / size).T, forms.T, rcond=1e-9)[0]  # what of a film the MTF would explain
    left = forms - change.T @ (slopes / size)
    information = (left**2).sum(axis=1)
    scores = left @ residual / np.sqrt(np.maximum(information, 1e-12))
    best = int(np.argmax(scores))
    return FilmSearch(float(scores[best]), float(scores[best] / np.sqrt(max(information[best], 1e-12))),
                      _hidden(forms, slopes, fit, hidden))


def _hidden(forms: np.ndarray, slopes: np.ndarray, fit: PowerFit, hidden: float) -> np.ndarray:
    """Covariance for a film of the power ``hidden`` of that form which changes the curve most."""
    spread = np.where(LOGARITHMIC, fit.curve, 1.0)[: fit.free] * np.array(DETECTORS)[: fit.free]
    usual = np.zeros((len(slopes), fit.free))
    usual[1 : 1 + fit.free] = np.diag(1 / spread)
    slopes, forms = np.concatenate([slopes, usual], axis=1), np.pad(forms, ((0, 0), (0, fit.free)))
    size = np.sqrt((slopes**2).sum(axis=1, keepdims=True))
    change = np.linalg.lstsq((slopes / size).T, forms.T, rcond=1e-9)[0]
    information = ((forms - change.T @ (slopes / size)) ** 2).sum(axis=1)
    wrong = (change / size).T[:, 1 : 1 + fit.free] / np.sqrt(information + hidden**-2)[:, None]
    curves = wrong @ np.array(_slopes(np.linspace(0, 1, 51), fit, lambda curve: curve))
    most = wrong[int(np.argmax(np.abs(curves).max(axis=1)))]
    full = np.zeros((len(PARAMETERS),) * 2)
    full[: fit.free, : fit.free] = np.outer(most, most)
    return full


def _slopes(k: np.ndarray, fit: PowerFit, of: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    """Slopes of a function of the curve by the parameters that were free."""
    slopes = []
    for i in range(fit.free):
        step = np.zeros(len(PARAMETERS))
        step[i] = 1e-4 * max(abs(fit.curve[i]), 1e-2)
        up, down = (of(mtf_curve(k, *(fit.curve + s))) for s in (step, -step))
        slopes.append((up - down) / (2 * step[i]))
    return slopes
