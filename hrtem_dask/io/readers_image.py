"""PNG, JPEG and BMP through imageio, NumPy files through numpy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..core.errors import InputError
from .opened import Description, Opened

__all__ = ["open_image", "open_numpy"]


@contextmanager
def open_image(path: str, signal: Any = None) -> Iterator[Opened]:
    """Open a picture file; it never has a calibration (its dots per inch are a screen's)."""
    import imageio.v3 as iio

    properties = iio.improps(path, plugin="pillow", index=0)

    def fetch(start: int, stop: int) -> np.ndarray:
        return np.asarray(iio.imread(path, plugin="pillow", index=0))[None][start:stop]

    yield Opened(1, tuple(properties.shape[:2]), np.dtype(properties.dtype), fetch, lambda: Description(attrs={}))


@contextmanager
def open_numpy(path: str, signal: Any = None) -> Iterator[Opened]:
    """Open an .npy file as a memory map: one image, or (frame, y, x)."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if mapped.ndim not in (2, 3):
        raise InputError(f"{path}: shape {mapped.shape}; expected (y, x) or (frame, y, x)")
    stack = mapped if mapped.ndim == 3 else mapped[None]
    yield Opened(stack.shape[0], stack.shape[1:], stack.dtype, lambda start, stop: np.array(stack[start:stop]))
