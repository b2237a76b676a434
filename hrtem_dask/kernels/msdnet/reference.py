"""The MSD-net written down once more in plain numpy and float64, to test the fast ones against.

Slow on purpose: no trick, no shared code with the others, every plane can be looked at.
"""

from __future__ import annotations

import numpy as np

from .weights import MSDWeights

__all__ = ["evaluate", "planes"]

NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "symmetric": "symmetric"}
ALL = (True, True, True, True)


def planes(weights: MSDWeights, image: np.ndarray, edges: tuple[bool, bool, bool, bool] = ALL) -> np.ndarray:
    """Return the input and all planes of a network.

    Parameters
    ----------
    weights : MSDWeights
        The parameters.
    image : ndarray, shape (channel, y, x)
        The input.
    edges : (bool, bool, bool, bool)
        Which sides (top, bottom, left, right) are edges of the frame, padded as the network says;
        the others are mirrored without the edge pixel.

    Returns
    -------
    ndarray, float64, shape (channel + depth * width, y, x)
        Every plane, each padded by itself in every layer: zeros, a mirror without the edge
        pixel, or with it. Mirrors fold as often as it takes.
    """
    stack = np.asarray(image, dtype=np.float64)
    ny, nx = stack.shape[1:]
    for kernel, bias, d in zip(weights.layers, weights.biases, weights.layer_dilations, strict=True):
        padded = stack
        for axis, sides in ((1, edges[:2]), (2, edges[2:])):
            places = _padded_line(stack.shape[axis], d, *(weights.padding if edge else "reflect" for edge in sides))
            blank = np.zeros_like(padded.take([0], axis))
            padded = np.concatenate([padded, blank], axis).take(places, axis)
        new = np.broadcast_to(np.asarray(bias, dtype=np.float64)[:, None, None], (weights.width, ny, nx)).copy()
        for a in range(3):
            for b in range(3):
                shifted = padded[:, a * d:a * d + ny, b * d:b * d + nx]
                new += np.tensordot(kernel[:, :, a, b].astype(np.float64), shifted, axes=1)
        stack = np.concatenate([stack, np.maximum(new, 0)])
    return stack


def _padded_line(n: int, d: int, before: str, after: str) -> np.ndarray:
    """Which of n pixels each place of a line shows that is padded by d on both sides; -1 where it shows nothing."""
    line = np.arange(n)
    options = {mode: {"constant_values": -1} if mode == "constant" else {} for mode in NUMPY_MODES.values()}
    low, high = NUMPY_MODES[before], NUMPY_MODES[after]
    return np.concatenate([np.pad(line, (d, 0), low, **options[low]), np.pad(line, (0, d), high, **options[high])[n:]])


def evaluate(weights: MSDWeights, image: np.ndarray, edges: tuple[bool, bool, bool, bool] = ALL) -> np.ndarray:
    """Logits (class, y, x) in float64 of an image (channel, y, x); ``edges`` as for `planes`."""
    final = np.asarray(weights.final, dtype=np.float64)
    return np.tensordot(final, planes(weights, image, edges), axes=1) + np.asarray(weights.final_bias)[:, None, None]
