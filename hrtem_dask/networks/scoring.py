"""How good a network is on simulated fields that it has never seen, and how far it looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..kernels.resample import resample
from ..simulate.draws import draw_frame, truth_at
from ..simulate.sets import Dataset
from .fast import fast_forward
from .msdnet import MSDNet

__all__ = ["dice", "effective_radius", "normalised", "probability", "scores_by_dose"]

DOSES = (10, 20, 50, 100, 200, 500, 2000)
SCORED = 100  # fields, at most: they are all in memory
TOLERANCE = 1e-3  # of a probability
EMPTY_BELOW = 1e-3  # covered fraction under which a frame counts as empty: Dice says nothing there


def normalised(image: np.ndarray) -> np.ndarray:
    """Z-score of a whole image, float32: the card's ``{"kind": "frame"}``."""
    image = np.asarray(image, dtype=np.float64)
    return ((image - image.mean()) / max(image.std(), 1e-30)).astype(np.float32)


def probability(net: MSDNet, image: np.ndarray) -> np.ndarray:
    """Return the probability (y, x) of the last class for a normalised image (y, x)."""
    with torch.no_grad():
        return torch.softmax(fast_forward(net, torch.from_numpy(image)[None, None]), 1)[0, -1].numpy()


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient 2 |a and b| / (|a| + |b|) of two masks, 1 where both are empty.

    Examples
    --------
    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def scores_by_dose(net: MSDNet, held_out: Dataset, *, seed: int, doses: Sequence[float] = DOSES,
                   pixel_size: float = 0.5) -> dict[str, dict[str, float]]:
    """Score whole recorded frames at threshold 0.5, on the camera's own grid.

    Parameters
    ----------
    net : MSDNet
    held_out : Dataset
        Fields that were not trained on; microscope and pixel size are drawn from its recipe.
    seed : int
    doses : sequence of float
        [electrons/angstrom^2]
    pixel_size : float
        Of the network [angstrom].

    Returns
    -------
    dict
        dose -> ``mean`` and ``worst`` Dice, ``wrong_label`` (Dice against the mask of another
        field: what a network gets that knows nothing but how much is covered), ``images``, and
        ``false_area``, the part of empty frames that was called particle.
    """
    rows: dict[str, dict[str, float]] = {}
    samples = [held_out.read(i, instances=False) for i in range(min(len(held_out), SCORED))]
    for dose in doses:
        found, truths, empty = [], [], []
        for i, sample in enumerate(samples):
            frame = draw_frame(sample, held_out.recipe, np.random.default_rng([seed, 3, int(dose * 100), i]), dose=dose)
            image = normalised(resample(frame.counts, frame.pixel_size, pixel_size))
            p = resample(probability(net, image), pixel_size, frame.pixel_size, shape=frame.counts.shape)
            truth = truth_at(sample, frame.origin, frame.pixel_size, frame.counts.shape)
            if truth.mean() < EMPTY_BELOW:
                empty.append(float((p > 0.5).mean()))
            else:
                found.append((p > 0.5, frame))
                truths.append((truth, sample))
        good = [dice(m, t) for (m, _), (t, _) in zip(found, truths, strict=True)]
        others = truths[1:] + truths[:1]
        wrong = [dice(m, truth_at(s, f.origin, f.pixel_size, m.shape))
                 for (m, f), (_, s) in zip(found, others, strict=True)] if len(found) > 1 else []
        rows[f"{dose:g}"] = {
            "mean": _mean(good), "worst": round(min(good), 4) if good else float("nan"), "wrong_label": _mean(wrong),
            "images": len(good), "false_area": _mean(empty), "empty_images": len(empty),
        }
    return rows


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def effective_radius(net: MSDNet, images: Sequence[np.ndarray], *, core: int = 32, step: int = 8) -> int:
    """Measure the halo [network pixel] that keeps the probabilities to 1e-3.

    Parameters
    ----------
    net : MSDNet
    images : sequence of ndarray, shape (y, x)
        At least two normalised images of the same size.
    core : int
        Side of the square in the middle that is watched.
    step : int
        Radii are multiples of this.

    Returns
    -------
    int
        Smallest radius at and beyond which no probability of the core changes by more than 1e-3
        when everything farther away is replaced by another image; the receptive radius where
        the images are too small to tell.
    """
    n = min(images[0].shape)
    whole = [probability(net, image) for image in images]
    receptive = net.to_weights().receptive_radius
    low, high = (n - core) // 2, (n - core) // 2 + core
    middle = slice(low, high)
    radii = list(range(step, min(low, receptive), step))
    needed = receptive
    for r in reversed(radii):
        change = 0.0
        for i, image in enumerate(images):
            other = images[(i + 1) % len(images)].copy()
            window = slice(low - r, high + r)
            other[window, window] = image[window, window]
            change = max(change, float(np.abs(probability(net, other) - whole[i])[middle, middle].max()))
        if change > TOLERANCE:
            break
        needed = r
    return int(needed)


def images_for_radius(held_out: Dataset, seed: int, count: int = 8, pixel_size: float = 0.5) -> list[np.ndarray]:
    """Draw normalised whole-field images for `effective_radius`, all of one size."""
    size = int(held_out.recipe.field.box / pixel_size) - 1
    images: list[np.ndarray] = []
    for i in range(count):
        frame = draw_frame(held_out[i % len(held_out)], held_out.recipe, np.random.default_rng([seed, 4, i]))
        images.append(normalised(resample(frame.counts, frame.pixel_size, pixel_size, shape=(size, size))))
    return images


def summary(scores: dict[str, dict[str, Any]]) -> str:
    """One line a dose, for the log."""
    return "\n".join(f"dose {d:>5} e/angstrom^2: Dice {s['mean']} worst {s['worst']} wrong label {s['wrong_label']} "
                     f"false area {s['false_area']}" for d, s in scores.items())
