"""The MSD-net written down once more in plain numpy and float64, to test the fast ones against.

Slow on purpose: no trick, no shared code with the others, every plane can be looked at.
"""

from __future__ import annotations

import numpy as np

from .weights import MSDWeights

__all__ = ["evaluate", "planes"]

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "symmetric": "symmetric"}


def planes(weights: MSDWeights, image: np.ndarray) -> np.ndarray:
    """Return the input and all planes of a network.

    Parameters
    ----------
    weights : MSDWeights
        The parameters.
    image : ndarray, shape (channel, y, x)
        The input.

    Returns
    -------
    ndarray, float64, shape (channel + depth * width, y, x)
        Every plane, each padded by itself in every layer: zeros, a mirror without the edge
        pixel, or with it. Mirrors fold as often as it takes.
    """
    stack = np.asarray(image, dtype=np.float64)
    ny, nx = stack.shape[1:]
    for kernel, bias, d in zip(weights.layers, weights.biases, weights.layer_dilations, strict=True):
        padded = np.pad(stack, ((0, 0), (d, d), (d, d)), mode=NUMPY_MODES[weights.padding])
        new = np.broadcast_to(np.asarray(bias, dtype=np.float64)[:, None, None], (weights.width, ny, nx)).copy()
        for a in range(3):
            for b in range(3):
                shifted = padded[:, a * d:a * d + ny, b * d:b * d + nx]
                new += np.tensordot(kernel[:, :, a, b].astype(np.float64), shifted, axes=1)
        stack = np.concatenate([stack, np.maximum(new, 0)])
    return stack


def evaluate(weights: MSDWeights, image: np.ndarray) -> np.ndarray:
    """Logits (class, y, x) in float64 of an image (channel, y, x)."""
    final = np.asarray(weights.final, dtype=np.float64)
    return np.tensordot(final, planes(weights, image), axes=1) + np.asarray(weights.final_bias)[:, None, None]
