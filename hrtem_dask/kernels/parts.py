"""When images do not fit into memory: fewer at once, then one in parts, then plain words.

The functions take any evaluation and know nothing of the network behind it. A part sees `halo`
pixels beyond each cut, taken from the image itself, so with the whole receptive radius the result
equals the one in one piece: bit for bit where the order of the sums is the same for every pixel,
as it is in the compiled evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache

import numpy as np

__all__ = ["evaluate_in_batches", "evaluate_in_parts"]

log = logging.getLogger(__name__)

Edges = tuple[bool, bool, bool, bool]
Rectangle = tuple[int, int, int, int]
#: a cut must leave pieces at least this much smaller, or the halo eats what it saves
WORTH = 0.9


def evaluate_in_parts(
    evaluate: Callable[[np.ndarray, Edges], np.ndarray],
    image: np.ndarray,
    edges: Edges,
    halo: int,
    *,
    smallest: int = 128,
    planes: int = 0,
    available: Callable[[], int] | None = None,
    grid: int = 1,
) -> np.ndarray:
    """Evaluate an image, in ever smaller parts where memory does not suffice.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(image, edges)`` → logits (class, y, x); raises MemoryError where memory is lacking.
    image : ndarray, shape (channel, y, x)
        The image or tile.
    edges : (bool, bool, bool, bool)
        Which sides (top, bottom, left, right) are edges of the frame.
    halo : int
        Pixels that a part sees beyond a cut.
    smallest : int
        Parts whose longer side without halo has no more pixels than this are not halved again.
    planes : int
        float32 planes that an evaluation holds, to tell how much is needed.
    available : callable, optional
        Returns the memory there is [byte]. Where that is less than the planes take, an image is
        halved before memory is asked for, because a system that promises more than it has ends
        the process later instead of refusing now.
    grid : int
        Coarsest pixel of the network [pixel]: parts begin at multiples of it.

    Returns
    -------
    ndarray, shape (class, y, x)
        What ``evaluate(image, edges)`` would give, up to the influence of pixels beyond the halo.

    Raises
    ------
    MemoryError
        If the smallest part does not fit either; says what was needed, what was there, and what to do.

    Examples
    --------
    >>> def small(image, edges):
    ...     if image.size > 600:
    ...         raise MemoryError
    ...     return 2 * image
    >>> image = np.arange(1024.0).reshape(1, 32, 32)
    >>> bool((evaluate_in_parts(small, image, (True,) * 4, 2, smallest=4) == 2 * image).all())
    True
    """
    size = image.shape[-2:]
    whole = (0, size[0], 0, size[1])
    out, todo = None, [whole]
    while todo:
        core = todo.pop()
        a, b, c, d = window = _window(core, size, halo, grid)
        halves = _halves(core, size, halo, smallest, grid)
        need = 4 * planes * (b - a) * (d - c)
        try:
            if halves and available is not None and need > available():
                raise MemoryError(f"{_mega(need)} needed, {_mega(available())} available")
            piece = evaluate(image[:, a:b, c:d], _edges_of(window, size, edges))
        except MemoryError as error:
            if not halves:
                raise MemoryError(_hopeless(size, window, halo, planes, available, error)) from error
            _say_once(size, halo, planes)
            todo += halves[::-1]
            continue
        if core == whole:
            return piece
        if out is None:
            out = np.empty((len(piece), *size), piece.dtype)
        y0, y1, x0, x1 = core
        out[:, y0:y1, x0:x1] = piece[:, y0 - a:y1 - a, x0 - c:x1 - c]
    return out


def evaluate_in_batches(
    evaluate: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    size: int,
    alone: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Evaluate images several at once, fewer where memory does not suffice.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(images)`` → logits (n, class, y, x) of a batch; raises MemoryError where memory is lacking.
    images : ndarray, shape (n, channel, y, x)
        The images.
    size : int
        Images of a batch to begin with; a failure halves it for good.
    alone : callable
        ``alone(image)`` → logits (class, y, x) of one image, which has to help itself.

    Returns
    -------
    ndarray, shape (n, class, y, x)
        Logits.

    Examples
    --------
    >>> evaluate_in_batches(lambda batch: batch + 1, np.zeros((3, 1, 2, 2)), 2, alone=lambda image: image + 1).sum()
    np.float64(12.0)
    """
    out, start = None, 0
    while start < len(images):
        batch = images[start:start + size]
        if size > 1:
            try:
                piece = evaluate(batch)
            except MemoryError as error:
                size = max(1, len(batch) // 2)
                log.warning("not enough memory for %d images at once, going on with %d: %s", len(batch), size, error)
                continue
        else:
            piece = alone(batch[0])[None]
        if out is None:
            out = np.empty((len(images), *piece.shape[1:]), piece.dtype)
        out[start:start + len(batch)] = piece
        start += len(batch)
    return out


def _window(core: Rectangle, size: tuple[int, ...], halo: int, grid: int) -> Rectangle:
    y0, y1, x0, x1 = core
    top, left = (max(0, start - halo) // grid * grid for start in (y0, x0))
    return top, min(size[0], y1 + halo), left, min(size[1], x1 + halo)


def _edges_of(window: Rectangle, size: tuple[int, ...], edges: Edges) -> Edges:
    a, b, c, d = window
    top, bottom, left, right = edges
    return top and a == 0, bottom and b == size[0], left and c == 0, right and d == size[1]


def _halves(core: Rectangle, size: tuple[int, ...], halo: int, smallest: int, grid: int) -> list[Rectangle]:
    """Both halves of the longer side; none where they are too small already, or hardly smaller with their halo."""
    y0, y1, x0, x1 = core
    if max(y1 - y0, x1 - x0) <= max(1, smallest):
        return []
    if y1 - y0 >= x1 - x0:
        middle = (y0 + y1) // 2
        halves = [(y0, middle, x0, x1), (middle, y1, x0, x1)]
    else:
        middle = (x0 + x1) // 2
        halves = [(y0, y1, x0, middle), (y0, y1, middle, x1)]

    def area(rectangle: Rectangle) -> int:
        a, b, c, d = _window(rectangle, size, halo, grid)
        return (b - a) * (d - c)

    return halves if max(map(area, halves)) <= WORTH * area(core) else []


def _mega(n: float) -> str:
    return f"{n / 1e6:.4g} MB"


def _hopeless(size: tuple[int, ...], window: Rectangle, halo: int, planes: int,
              available: Callable[[], int] | None, error: MemoryError) -> str:
    a, b, c, d = window
    there = "" if available is None else f"; {_mega(available())} are available"
    why = f" ({error})" if str(error) else ""
    return (f"not enough memory to evaluate an image of {size[0]} x {size[1]} pixels: its smallest part with a halo of "
            f"{halo}, {b - a} x {d - c} pixels, takes {planes} planes, {_mega(4 * planes * (b - a) * (d - c))}"
            f"{there}{why}. Use a smaller tile= or halo=, fewer threads a worker, or more memory a worker")


@lru_cache(maxsize=256)
def _say_once(size: tuple[int, ...], halo: int, planes: int) -> None:
    log.warning("not enough memory for an image of %d x %d pixels in one piece (%d planes, %s): halved it, with a halo "
                "of %d pixels. A smaller tile= or fewer threads a worker avoid this", *size, planes,
                _mega(4 * planes * size[0] * size[1]), halo)
