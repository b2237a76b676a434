"""Overlapping windows over a frame, and the weighted mean of what a network says in each of them.

Along each axis the windows begin at 0, step, 2 step ... with a step of half a window; the last one
is shifted back so that it ends where the axis ends, and all are equally large. A frame that is
shorter than a window is one window. Where windows begin depends on the frame alone, never on the
tile that asks, and every pixel sums over its windows in the same order: row by row, left to right.
So neighbouring tiles agree bit for bit::

      0      step    2 step                n
      |-------window------|                |
      |       |-------window------|        |
      |       |     |-------window---------|     shifted back to the end
            |===tile===|                         sums over the windows that it meets

The weights are tapers sampled half a pixel off the border of the window, so none is 0. They are
divided by their explicit sum at each pixel of an axis before they are used; the weight of a window
is a product of one factor an axis, hence so is the sum, and the weights of a pixel add up to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..core.errors import InputError

__all__ = ["TAPERS", "Windows", "blend", "taper"]

#: standard deviation of the Gaussian taper, in windows
SIGMA = 1 / 8

#: name -> weight at the position t in a window, from 0 to 1
TAPERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hamming": lambda t: 0.54 - 0.46 * np.cos(2 * np.pi * t),
    "hann": lambda t: np.sin(np.pi * t) ** 2,
    "gaussian": lambda t: np.exp(-0.5 * ((t - 0.5) / SIGMA) ** 2),
}
Edges = tuple[bool, bool, bool, bool]


def taper(kind: str, size: int) -> np.ndarray:
    """Weights of a window along one axis: periodic, sampled at (i + 1/2) / size, so never 0.

    Harris, Proceedings of the IEEE 66, 51 (1978). Hamming and Hann windows that overlap by half
    add up to a constant.

    Examples
    --------
    >>> taper("hann", 4).round(3).tolist()
    [0.146, 0.854, 0.854, 0.146]
    """
    if kind not in TAPERS:
        raise InputError(f"there is no window {kind!r}; expected one of {sorted(TAPERS)}, or None")
    return TAPERS[kind]((np.arange(size) + 0.5) / size)


@dataclass(frozen=True)
class Windows:
    """The windows along one axis.

    Parameters
    ----------
    n : int
        Pixels of the axis.
    size : int
        Pixels of a window; cut down to ``n``.
    kind : str
        One of `TAPERS`.

    Examples
    --------
    >>> w = Windows(23, 8, "hann")
    >>> w.starts
    (0, 4, 8, 12, 15)
    >>> w.meeting(4, 8), w.reach(4, 8)
    (range(0, 2), (0, 12))
    """

    n: int
    size: int
    kind: str

    @property
    def width(self) -> int:
        """Pixels of each window on this axis."""
        return min(self.size, self.n)

    @property
    def step(self) -> int:
        """Pixels from one window to the next."""
        return max(1, self.size // 2)

    @property
    def starts(self) -> tuple[int, ...]:
        """First pixel of each window."""
        return _starts(self)

    def meeting(self, start: int, stop: int) -> range:
        """Return which windows hold at least one of the pixels start ... stop - 1."""
        found = [i for i, a in enumerate(self.starts) if a < stop and a + self.width > start]
        return range(found[0], found[-1] + 1)

    def reach(self, start: int, stop: int) -> tuple[int, int]:
        """Range of pixels of the windows that hold any of the pixels start ... stop - 1."""
        some = self.meeting(start, stop)
        return self.starts[some[0]], self.starts[some[-1]] + self.width

    def weights(self, i: int) -> np.ndarray:
        """Weights of the pixels of window i, over the sum of the weights of all windows there; float32."""
        a = self.starts[i]
        return (taper(self.kind, self.width) / _sums(self)[a:a + self.width]).astype(np.float32)


@lru_cache(maxsize=64)
def _starts(windows: Windows) -> tuple[int, ...]:
    last = windows.n - windows.width
    return (*range(0, last, windows.step), last)


@lru_cache(maxsize=64)
def _sums(windows: Windows) -> np.ndarray:
    """Sum of the weights at every pixel of the axis, float64."""
    total, one = np.zeros(windows.n), taper(windows.kind, windows.width)
    for a in windows.starts:
        total[a:a + windows.width] += one
    return total


def blend(
    image: np.ndarray,
    origin: tuple[int, int],
    windows: tuple[Windows, Windows],
    rows: tuple[int, int],
    columns: tuple[int, int],
    evaluate: Callable[[np.ndarray, Edges], np.ndarray],
) -> np.ndarray:
    """Weighted mean over all windows that meet a rectangle of a frame.

    Parameters
    ----------
    image : ndarray, shape (channel, y, x)
        The part of the frame that ``windows[0].reach(*rows)`` and ``windows[1].reach(*columns)``
        name, or more.
    origin : (int, int)
        Index in the frame of the first pixel of the image.
    windows : (Windows, Windows)
        Those along y and x.
    rows, columns : (int, int)
        The rectangle, in pixels of the frame.
    evaluate : callable
        ``evaluate(window, edges)`` → (class, y, x), finite, as large as the window; ``edges`` says
        which of its sides (top, bottom, left, right) are edges of the frame. It is called for one
        window after another, so one window's planes are all that is ever held.

    Returns
    -------
    ndarray, float32, shape (class, rows, columns)
        Equal bit for bit for every rectangle that holds a pixel.

    Examples
    --------
    >>> import numpy as np
    >>> image, both = np.arange(60.0).reshape(1, 6, 10), (Windows(6, 4, "hann"), Windows(10, 4, "hann"))
    >>> np.abs(blend(image, (0, 0), both, (0, 6), (2, 9), lambda window, edges: window) - image[:, :, 2:9]).max() < 1e-5
    np.True_
    """
    ys, xs = windows
    out = None
    for i in ys.meeting(*rows):
        for j in xs.meeting(*columns):
            y, x = ys.starts[i], xs.starts[j]
            top, left = y - origin[0], x - origin[1]
            edges = y == 0, y + ys.width == ys.n, x == 0, x + xs.width == xs.n
            part = evaluate(image[:, top:top + ys.width, left:left + xs.width], edges)
            if out is None:
                out = np.zeros((len(part), rows[1] - rows[0], columns[1] - columns[0]), np.float32)
            here, there = zip(_shared(y, ys.width, rows), _shared(x, xs.width, columns), strict=True)
            weight = ys.weights(i)[here[0], None] * xs.weights(j)[here[1]]
            out[:, there[0], there[1]] += part[:, here[0], here[1]] * weight
    return out


def _shared(start: int, width: int, wanted: tuple[int, int]) -> tuple[slice, slice]:
    """Return what a window and the wanted range share, as indices of the one and of the other."""
    a, b = max(start, wanted[0]), min(start + width, wanted[1])
    return slice(a - start, b - start), slice(a - wanted[0], b - wanted[0])
