"""A small U-Net on one block: its parameters as plain arrays, and its evaluation in torch.

Ronneberger, Fischer and Brox, MICCAI 2015, with nearest-neighbour upsampling and without any
normalisation, so that a pixel depends on those within the receptive radius alone. Images are
mirrored at the bottom and the right to a multiple of the coarsest pixel; every convolution sees
zeros beyond the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["UNetWeights", "evaluate", "forward", "image_bytes", "shapes"]

ALL = (True, True, True, True)


def shapes(in_channels: int, out_channels: int, width: int, levels: int) -> list[tuple[int, ...]]:
    """Shapes of the kernels in the order of their use: two a scale down, two a scale up, and the last 1x1.

    Examples
    --------
    >>> shapes(1, 2, 8, 1)
    [(8, 1, 3, 3), (8, 8, 3, 3), (16, 8, 3, 3), (16, 16, 3, 3), (8, 24, 3, 3), (8, 8, 3, 3), (2, 8, 1, 1)]
    """
    planes = [width * 2**i for i in range(levels + 1)]
    steps = list(zip([in_channels, *planes], planes, strict=False))
    steps += [(planes[i] + planes[i + 1], planes[i]) for i in reversed(range(levels))]
    return [shape for a, b in steps for shape in ((b, a, 3, 3), (b, b, 3, 3))] + [(out_channels, width, 1, 1)]


@dataclass(frozen=True)
class UNetWeights:
    """Parameters of one U-Net.

    Parameters
    ----------
    layers : tuple of ndarray, shape (out, in, 3, 3)
        Kernels as cross-correlations, in the order of `shapes`; the last is (class, width, 1, 1).
    biases : tuple of ndarray, shape (out,)
        Their biases.

    Raises
    ------
    InputError
        If the shapes do not fit together.
    """

    layers: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        found = [w.shape for w in self.layers]
        if len(found) < 7 or (len(found) - 3) % 4 or any(len(s) != 4 for s in found):
            raise InputError(f"found {len(found)} kernels; expected 4 a halving and 3 more, each with four axes")
        wanted = shapes(self.in_channels, self.out_channels, self.width, self.levels)
        if found != wanted or [b.shape for b in self.biases] != [(s[0],) for s in wanted]:
            raise InputError(f"found kernels {found} and biases {[b.shape for b in self.biases]}; expected {wanted} "
                             f"and a bias for each plane")

    @property
    def levels(self) -> int:
        """How often the image is halved."""
        return (len(self.layers) - 3) // 4

    @property
    def width(self) -> int:
        """Planes at the finest scale."""
        return self.layers[0].shape[0]

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return self.layers[0].shape[1]

    @property
    def out_channels(self) -> int:
        """Number of classes."""
        return self.layers[-1].shape[0]

    @property
    def planes(self) -> int:
        """Planes of the image's size that an evaluation holds at its widest, about."""
        return self.in_channels + 9 * self.width

    @property
    def grid(self) -> int:
        """Shift of the image [pixel] by whose multiples the result shifts with it: the coarsest pixel."""
        return 2**self.levels

    @property
    def receptive_radius(self) -> int:
        """Pixels to each side that can reach an output pixel, rounded up to the coarsest pixel.

        Two convolutions a scale on the way down and up, and where a pixel lies in a coarse one.
        """
        coarse = self.grid
        reach = sum(4 * 2**i for i in range(self.levels)) + 2 * coarse + coarse - 1
        return -(-reach // coarse) * coarse


def forward(x: torch.Tensor, layers: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> torch.Tensor:
    """Map (batch, channel, y, x) to logits (batch, class, y, x); parameters in the order of `shapes`."""
    import torch
    from torch.nn import functional as F

    levels = (len(layers) - 3) // 4
    h, w = x.shape[-2:]
    steps = iter(zip(layers, biases, strict=True))

    def two(x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            weight, bias = next(steps)
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
        return x

    rows, columns = (mirrored(n, 2**levels) for n in (h, w))
    x = x[..., rows, :][..., columns]
    kept = []
    for _ in range(levels):
        x = two(x)
        kept.append(x)
        x = F.max_pool2d(x, 2)
    x = two(x)
    while kept:
        x = two(torch.cat([kept.pop(), F.interpolate(x, scale_factor=2, mode="nearest")], 1))
    weight, bias = next(steps)
    return F.conv2d(x, weight, bias)[..., :h, :w]


def mirrored(n: int, multiple: int) -> list[int]:
    """Pixels of an axis, mirrored at its end up to the next multiple.

    Examples
    --------
    >>> mirrored(5, 4), mirrored(1, 4)
    ([0, 1, 2, 3, 4, 3, 2, 1], [0, 0, 0, 0])
    """
    period = max(2 * n - 2, 1)
    return [min(i % period, period - i % period) for i in range(-(-n // multiple) * multiple)]


def evaluate(weights: UNetWeights, images: np.ndarray, *, device: str = "cpu",
             edges: tuple[bool, bool, bool, bool] = ALL) -> np.ndarray:
    """Return the logits of one image or tile (channel, y, x), or of a batch of them.

    Sides that are not edges of the frame carry a halo, which the caller trims: ``edges`` changes nothing.
    """
    import torch

    batch = images if images.ndim == 4 else images[None]
    with torch.inference_mode():
        out = forward(torch.from_numpy(np.ascontiguousarray(batch)).to(device),
                      [torch.from_numpy(w).to(device) for w in weights.layers],
                      [torch.from_numpy(b).to(device) for b in weights.biases])
    return (out if images.ndim == 4 else out[0]).cpu().numpy()


def image_bytes(weights: UNetWeights, shape: tuple[int, ...], itemsize: int = 4) -> int:
    """Memory [byte] that an evaluation of one image (..., y, x) takes, about."""
    return itemsize * weights.planes * shape[-2] * shape[-1]
