"""How far a network looks: by what it makes of other surroundings, and by its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..kernels.resample import resample
from ..simulate.draws import draw_frame
from ..simulate.sets import Dataset
from .fast import fast_forward
from .msdnet import MSDNet
from .scoring import normalised, probability

__all__ = ["effective_radius", "gradient_radii", "images_for_radius", "reach_of"]

TOLERANCE = 1e-3  # of a probability
PARTS = (0.5, 0.9, 0.99)


def effective_radius(net: torch.nn.Module, images: Sequence[np.ndarray], *, core: int = 32, step: int = 8) -> int:
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

def gradient_radii(net: torch.nn.Module, images: Sequence[np.ndarray], parts: Sequence[float] = PARTS
                   ) -> dict[str, int]:
    """Measure the effective receptive field by the gradient of single output pixels.

    Parameters
    ----------
    net : torch.nn.Module
    images : sequence of ndarray, shape (y, x)
        Normalised images; of each the pixel in the middle is watched.
    parts : sequence of float

    Returns
    -------
    dict
        Part [%] as text -> half the side [network pixel] of the smallest square around the pixel
        that holds this part of the sum, over the input and over the images, of the absolute gradient
        of the last logit less the first one.

    References
    ----------
    Luo, Li, Urtasun and Zemel, Understanding the Effective Receptive Field in Deep Convolutional
    Neural Networks, NeurIPS 2016.
    """
    total = np.zeros(0)
    for image in images:
        x = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None].requires_grad_()
        out = fast_forward(net, x) if isinstance(net, MSDNet) else net(x)
        y0, x0 = (n // 2 for n in image.shape)
        (gradient,) = torch.autograd.grad(out[0, -1, y0, x0] - out[0, 0, y0, x0], x)
        far = np.maximum(*(np.abs(a) for a in np.ogrid[-y0:image.shape[0] - y0, -x0:image.shape[1] - x0]))
        sums = np.bincount(far.ravel(), np.abs(gradient.numpy()[0, 0], dtype=np.float64).ravel())
        total = np.pad(total, (0, max(0, len(sums) - len(total)))) + np.pad(sums, (0, max(0, len(total) - len(sums))))
    inside = np.cumsum(total)
    if not inside[-1] > 0:
        return {f"{100 * p:g}": 0 for p in parts}
    return {f"{100 * p:g}": int(np.searchsorted(inside, p * inside[-1] * (1 - 1e-12))) for p in parts}


def images_for_radius(held_out: Dataset, seed: int, count: int = 8, pixel_size: float = 0.5) -> list[np.ndarray]:
    """Draw normalised whole-field images for `effective_radius`, all of one size."""
    size = int(held_out.recipe.field.box / pixel_size) - 1
    images: list[np.ndarray] = []
    for i in range(count):
        frame = draw_frame(held_out[i % len(held_out)], held_out.recipe, np.random.default_rng([seed, 4, i]))
        images.append(normalised(resample(frame.counts, frame.pixel_size, pixel_size, shape=(size, size))))
    return images


def reach_of(net: torch.nn.Module, held_out: Dataset, seed: int, *, step: int = 8, pixel_size: float = 0.5
             ) -> dict[str, Any]:
    """What a card says of how far a network looks: ``effective_radius`` and ``effective_receptive_field``."""
    images = images_for_radius(held_out, seed, pixel_size=pixel_size)
    halo = effective_radius(net, images, step=step)
    return {"effective_radius": halo,
            "effective_receptive_field": {"gradient": gradient_radii(net, images), "halo": halo, "images": len(images)}}
