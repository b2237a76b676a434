"""The mean over what a network says of an image and of its turned and mirrored copies.

No direction is special in a micrograph, but a network that was trained for a finite time answers
a little differently to a turned image. The mean over the turned copies has less of that, at as
many times the work. Elsewhere this is called test-time augmentation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["TURNS", "evaluate_turned"]

Edges = tuple[bool, bool, bool, bool]
#: numbers of copies: the image alone, its quarter turns, those and their mirror images
TURNS = (1, 4, 8)


def evaluate_turned(evaluate: Callable[[np.ndarray, Edges], np.ndarray], image: np.ndarray, edges: Edges, turns: int,
                    grid: int = 1) -> np.ndarray:
    """Evaluate an image in several orientations and average the logits.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(image, edges)`` → logits of the same rows and columns.
    image : ndarray, shape (..., y, x)
        An image or a batch of them.
    edges : (bool, bool, bool, bool)
        Which sides (top, bottom, left, right) are edges of the frame.
    turns : int
        One of `TURNS`.
    grid : int
        Coarsest pixel of the network: images are mirrored at the bottom and the right to a multiple
        of it, so that all copies are halved in the same places.

    Returns
    -------
    ndarray, shape (..., y, x)
        Logits.

    Examples
    --------
    >>> def left_side(image, edges):
    ...     return np.zeros_like(image) + (np.arange(image.shape[-1]) == 0)
    >>> evaluate_turned(left_side, np.zeros((1, 3, 3)), (True,) * 4, 4)[0].tolist()
    [[0.5, 0.25, 0.5], [0.25, 0.0, 0.25], [0.5, 0.25, 0.5]]
    """
    if turns == 1:
        return evaluate(image, edges)
    rows, columns = image.shape[-2:]
    image = np.pad(image, [(0, 0)] * (image.ndim - 2) + [(0, -n % grid) for n in (rows, columns)], mode="reflect")
    total: np.ndarray | None = None
    for turn in range(turns):
        quarter, mirror = turn % 4, turn >= 4
        turned, sides = np.rot90(image, quarter, (-2, -1)), _turned(edges, quarter)
        if mirror:
            turned, sides = turned[..., ::-1], (sides[0], sides[1], sides[3], sides[2])
        found = evaluate(np.ascontiguousarray(turned), sides)
        found = np.rot90(found[..., ::-1] if mirror else found, -quarter, (-2, -1))
        total = found.copy() if total is None else np.add(total, found, out=total)
    total /= turns
    return np.ascontiguousarray(total[..., :rows, :columns])


def _turned(edges: Edges, quarters: int) -> Edges:
    """The sides of an image after quarter turns against the clock: what was on the right is on top."""
    for _ in range(quarters):
        top, bottom, left, right = edges
        edges = right, left, top, bottom
    return edges
