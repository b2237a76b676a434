"""The parameters of an MSD-net as plain arrays: what the kernels take, what a file holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...core.errors import InputError

__all__ = ["DILATIONS", "PADDINGS", "MSDWeights"]

DILATIONS = tuple(range(1, 11))
PADDINGS = ("zeros", "reflect", "symmetric")


@dataclass(frozen=True)
class MSDWeights:
    """Parameters of one MSD-net.

    Parameters
    ----------
    layers : tuple of ndarray, shape (width, c_in + i * width, 3, 3)
        Kernel of layer i, as cross-correlation.
    biases : tuple of ndarray, shape (width,)
        Bias of layer i.
    final : ndarray, shape (out_channels, c_in + depth * width)
        The 1x1 convolution.
    final_bias : ndarray, shape (out_channels,)
        Its bias.
    dilations : tuple of int
        Dilations [pixel], cycled over the layers.
    padding : {"zeros", "reflect", "symmetric"}
        What lies beyond the border of every plane.

    Raises
    ------
    InputError
        If the shapes do not fit together.
    """

    layers: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    final: np.ndarray
    final_bias: np.ndarray
    dilations: tuple[int, ...] = DILATIONS
    padding: str = "zeros"

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise InputError(f"padding is {self.padding!r}; expected one of {PADDINGS}")
        if not self.layers or len(self.layers) != len(self.biases):
            raise InputError(f"found {len(self.layers)} kernels and {len(self.biases)} biases; "
                             f"expected one of each a layer")
        width, c_in = self.layers[0].shape[:2]
        for i, (w, b) in enumerate(zip(self.layers, self.biases, strict=True)):
            if w.shape != (width, c_in + i * width, 3, 3) or b.shape != (width,):
                raise InputError(
                    f"layer {i} has a kernel {w.shape} and a bias {b.shape}; "
                    f"expected {(width, c_in + i * width, 3, 3)} and {(width,)}"
                )
        if self.final.shape != (len(self.final_bias), c_in + self.depth * width):
            raise InputError(
                f"the last layer is {self.final.shape}; expected {(len(self.final_bias), c_in + self.depth * width)}"
            )

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def width(self) -> int:
        """Planes per layer."""
        return self.layers[0].shape[0]

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return self.layers[0].shape[1]

    @property
    def out_channels(self) -> int:
        """Number of classes."""
        return self.final.shape[0]

    @property
    def planes(self) -> int:
        """Planes that an evaluation holds: the input and those of all layers."""
        return self.final.shape[1]

    @property
    def layer_dilations(self) -> tuple[int, ...]:
        """Dilation of each layer [pixel]."""
        return tuple(self.dilations[i % len(self.dilations)] for i in range(self.depth))

    @property
    def grid(self) -> int:
        """Shift of the image [pixel] by whose multiples the result shifts with it."""
        return 1

    @property
    def receptive_radius(self) -> int:
        """Pixels to each side that can reach an output pixel: the sum of the dilations."""
        return sum(self.layer_dilations)
