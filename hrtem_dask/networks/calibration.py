"""Whether probabilities are what they say: reliability, its error, and one temperature that mends it.

A temperature T divides all logits. It moves no pixel across one half and changes no order, so masks
at threshold 0.5 stay the same; it makes probabilities bolder or more cautious. It is folded into
the last layer when a network is written: there is one set of weights and one way to evaluate it.
After Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from ..core.errors import InputError
from .summaries import percentiles_over

if TYPE_CHECKING:
    from ..simulate.sets import Dataset

__all__ = ["Reliability", "calibrated", "fit_temperature", "negative_log_likelihood", "with_temperature"]

BINS = 15
DRAWS = 3  # images of each field
STEP = 3  # every third pixel along each axis: neighbours say the same
#: range of temperatures that is looked at
LIMITS = (0.05, 20.0)
#: probabilities between which a network has not made up its mind
UNDECIDED = (0.05, 0.95)
#: bounds of the doses that are looked at one by one [electrons/angstrom^2]
DOSE_BOUNDS = (50.0, 500.0)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Mean negative logarithm of the probability of the true class [nat].

    Parameters
    ----------
    logits : ndarray, shape (class, n)
    labels : ndarray of int, shape (n,)
        The true class of each pixel.
    temperature : float
        By which the logits are divided.
    """
    scores = log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=0)
    return float(-scores[labels, np.arange(len(labels))].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature from 0.05 to 20 with the smallest mean negative log-likelihood.

    That is a convex function of 1 / T: there is one minimum.

    Parameters
    ----------
    logits : ndarray, shape (class, n)
    labels : ndarray of int, shape (n,)

    Returns
    -------
    float

    Raises
    ------
    InputError
        If there are no pixels, or logits that are not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> honest = rng.normal(0, 2, 50_000)  # logit of class 1
    >>> labels = (rng.random(50_000) < 1 / (1 + np.exp(-honest))).astype(int)
    >>> round(fit_temperature(np.stack([0 * honest, 3 * honest]), labels), 1)  # three times too bold
    3.0
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if logits.ndim != 2 or not labels.size or labels.shape != logits.shape[1:] or not np.isfinite(logits).all():
        raise InputError(f"found logits of shape {logits.shape} and {labels.size} labels; expected finite logits "
                         f"(class, n) and n labels")
    own = logits[labels, np.arange(labels.size)]

    def loss(beta: float) -> float:
        return float((logsumexp(beta * logits, axis=0) - beta * own).mean())

    found = minimize_scalar(loss, bounds=(1 / LIMITS[1], 1 / LIMITS[0]), method="bounded", options={"xatol": 1e-4})
    return float(1 / found.x)


def with_temperature(weights: Any, temperature: float) -> Any:
    """Weights whose logits are those of `weights` divided by a temperature.

    Parameters
    ----------
    weights : MSDWeights or UNetWeights
    temperature : float

    Returns
    -------
    MSDWeights or UNetWeights
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature is {temperature!r}; expected a positive number")
    divisor = np.float32(temperature)
    if hasattr(weights, "final"):
        return replace(weights, final=weights.final / divisor, final_bias=weights.final_bias / divisor)
    return replace(weights, layers=(*weights.layers[:-1], weights.layers[-1] / divisor),
                   biases=(*weights.biases[:-1], weights.biases[-1] / divisor))


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often what was predicted with some probability is true.

    ``counts``, ``predicted`` and ``true``, shape (group, bin): number of pixels in each bin of
    probability, sum of their probabilities, and how many are true; a group is a field.
    """

    counts: np.ndarray
    predicted: np.ndarray
    true: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> Reliability:
        """Sort the pixels of one group into bins of equal width.

        Parameters
        ----------
        probability : ndarray, values from 0 to 1
        truth : ndarray of bool, of the same shape
        bins : int
        """
        p = np.asarray(probability, dtype=np.float64).ravel()
        at = np.clip((p * bins).astype(int), 0, bins - 1)
        sums = [np.bincount(at, weights, minlength=bins)[None].astype(np.float64)
                for weights in (None, p, np.asarray(truth, dtype=np.float64).ravel())]
        return cls(*sums)

    @classmethod
    def together(cls, parts: Sequence[Reliability]) -> Reliability:
        """All groups of several."""
        return cls(*(np.concatenate([getattr(p, k) for p in parts]) for k in ("counts", "predicted", "true")))

    @property
    def error(self) -> float:
        """Expected calibration error: mean over the pixels of the difference of a bin's probability and truth."""
        return float(self._error(np.arange(len(self.counts))))

    def _error(self, groups: np.ndarray) -> float:
        counts, predicted, true = (x[groups].sum(0) for x in (self.counts, self.predicted, self.true))
        return abs(predicted - true).sum() / max(counts.sum(), 1)

    def interval(self) -> list[float]:
        """Bootstrap 95 % interval of the error over groups."""
        return percentiles_over(len(self.counts), self._error)

    def to_dict(self) -> dict[str, Any]:
        """Bins with their mean probability, the part that is true, and how many pixels; empty bins left out."""
        counts, predicted, true = (x.sum(0) for x in (self.counts, self.predicted, self.true))
        some = counts > 0
        return {"predicted": (predicted[some] / counts[some]).round(4).tolist(),
                "true": (true[some] / counts[some]).round(4).tolist(), "pixels": counts[some].astype(int).tolist()}


@dataclass(frozen=True, eq=False)
class Pixels:
    """Logits (class, n) and true classes (n,) of some pixels of one field, and the dose of their image."""

    logits: np.ndarray
    labels: np.ndarray
    dose: float

    def probability(self, temperature: float = 1.0) -> np.ndarray:
        """Probability of the last class."""
        return np.exp(log_softmax(self.logits.astype(np.float64) / temperature, axis=0)[-1])


def draw_pixels(net: Any, data: Dataset, seed: int, *, pixel_size: float = 0.5,
                draws: int = DRAWS) -> list[list[Pixels]]:
    """Evaluate a network on images of each field, drawn as for training: field -> some pixels of each image."""
    from concurrent.futures import ThreadPoolExecutor

    from ..core.machine import as_task, available_cores
    from ..kernels.resample import resample
    from ..simulate.draws import draw_frame, truth_at
    from .scoring import logits_of, normalised

    def one(i: int) -> list[Pixels]:
        sample, found = data.read(i, instances=False), []
        for k in range(draws):
            frame = draw_frame(sample, data.recipe, np.random.default_rng([seed, 5, k, i]))
            image = normalised(resample(frame.counts, frame.pixel_size, pixel_size))
            truth = truth_at(sample, frame.origin, pixel_size, image.shape)
            with as_task():
                logits = logits_of(net, image).numpy()
            thin = (slice(k % STEP, None, STEP),) * 2
            found.append(Pixels(logits[:, *thin].reshape(len(logits), -1), truth[thin].ravel().astype(np.int64),
                                frame.camera.dose))
        return found

    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(one, range(len(data))))


def calibrated(net: Any, fit: Dataset, check: Dataset, *, seed: int, pixel_size: float = 0.5, draws: int = DRAWS
               ) -> tuple[Any, dict[str, Any]]:
    """Fit a temperature on some fields, look at the probabilities of others, and fold it into the last layer.

    Parameters
    ----------
    net : MSDNet or UNet
    fit, check : Dataset
        Fields that the gradient never saw, with the outline that was learnt. Where they are the
        same set, every second field is fitted to and the others are looked at.
    seed : int
        Of microscopes, cameras and noise.
    pixel_size : float
        Of the network [angstrom].
    draws : int
        Images of each field.

    Returns
    -------
    net : MSDNet or UNet
        With the temperature folded in.
    dict
        For the card: ``temperature``; of the checked fields, ``before`` and ``after``:
        ``nll`` [nat a pixel], ``ece``, the expected calibration error, with ``ece_interval`` over
        fields, ``ece_undecided``, that of the pixels from 0.05 to 0.95, and ``ece_by_dose``; and the
        bins of the ``reliability`` diagram after.
    """
    every = [draw_pixels(net, data, seed, pixel_size=pixel_size, draws=draws)
             for data in ((fit,) if fit == check else (fit, check))]
    both = (every[0][0::2], every[0][1::2] or every[0]) if len(every) == 1 else every
    learn = [p for field in both[0] for p in field]
    temperature = fit_temperature(np.concatenate([p.logits for p in learn], axis=1),
                                  np.concatenate([p.labels for p in learn]))
    out = {"temperature": round(temperature, 4), "folded": True, "fields_fitted": len(both[0]),
           "fields_checked": len(both[1]), "images_a_field": draws,
           "before": quality(both[1], 1.0), "after": quality(both[1], temperature),
           "reliability": reliability_of(both[1], temperature).to_dict()}
    return type(net).from_weights(with_temperature(net.to_weights(), temperature)), out


def reliability_of(fields: Sequence[Sequence[Pixels]], temperature: float, *, undecided: bool = False,
                   doses: tuple[float, float] = (0.0, np.inf)) -> Reliability:
    """Reliability of the last class at a temperature, a group for each field."""
    parts = []
    for field in fields:
        mine = [p for p in field if doses[0] <= p.dose < doses[1]]
        p = np.concatenate([x.probability(temperature) for x in mine] or [np.zeros(0)])
        truth = np.concatenate([x.labels == len(x.logits) - 1 for x in mine] or [np.zeros(0, bool)])
        keep = (p > UNDECIDED[0]) & (p < UNDECIDED[1]) if undecided else slice(None)
        parts.append(Reliability.of(p[keep], truth[keep]))
    return Reliability.together(parts)


def quality(fields: Sequence[Sequence[Pixels]], temperature: float) -> dict[str, Any]:
    """What the card says of the probabilities at a temperature."""
    everything = [p for field in fields for p in field]
    nll = negative_log_likelihood(np.concatenate([p.logits for p in everything], axis=1),
                                  np.concatenate([p.labels for p in everything]), temperature)
    all_, undecided = reliability_of(fields, temperature), reliability_of(fields, temperature, undecided=True)
    bounds = (0.0, *DOSE_BOUNDS, np.inf)
    by_dose = {f"{low:g} to {high:g}": reliability_of(fields, temperature, doses=(low, high))
               for low, high in pairwise(bounds)}
    return {"nll": round(nll, 5), "ece": round(all_.error, 5), "ece_interval": all_.interval(),
            "ece_undecided": round(undecided.error, 5),
            "ece_by_dose": {k: round(r.error, 5) for k, r in by_dose.items() if r.counts.sum()}}
