"""The U-Net as a plain torch module: the baseline that the MSD-net is compared with."""

from __future__ import annotations

import torch
from torch import nn

from ..core.errors import InputError
from ..kernels.unet import UNetWeights, forward, shapes

__all__ = ["UNet"]


class UNet(nn.Module):
    """U-Net without normalisation layers.

    Parameters
    ----------
    in_channels, out_channels : int
        Input channels and classes; the output holds logits.
    width : int
        Planes at the finest scale, twice as many at each coarser one.
    levels : int
        How often the image is halved.

    Notes
    -----
    Kernels are drawn from N(0, sqrt(2 / (9 c))), the biases and the last layer are zero: a fresh
    network gives zeros. Width 6 and four halvings take about as long as an MSD-net of depth 64 in
    the compiled evaluation, width 5 as depth 50, width 8 as depth 80 (one core, 1024 x 1024 pixels).

    References
    ----------
    Ronneberger, Fischer and Brox, MICCAI 2015, arXiv:1505.04597.

    Examples
    --------
    >>> net = UNet(1, 2, width=4, levels=2)
    >>> net(torch.zeros(1, 1, 13, 18)).shape
    torch.Size([1, 2, 13, 18])
    """

    def __init__(self, in_channels: int, out_channels: int, *, width: int = 6, levels: int = 4) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("width", width),
                            ("levels", levels)):
            if int(value) != value or value < 1:
                raise InputError(f"{name} holds {value!r}; expected a whole number of at least 1")
        wanted = shapes(in_channels, out_channels, width, levels)
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(s) * (2 / (9 * s[1]))**0.5) for s in wanted[:-1])
        self.weights.append(nn.Parameter(torch.zeros(wanted[-1])))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(s[0])) for s in wanted)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, channel, y, x) to logits (batch, class, y, x)."""
        return forward(x, list(self.weights), list(self.biases))

    def pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Weight and bias of each layer."""
        return list(zip(self.weights, self.biases, strict=True))

    def to_weights(self) -> UNetWeights:
        """Copy the parameters into plain float32 arrays."""
        return UNetWeights(*(tuple(p.detach().to("cpu", torch.float32).numpy().copy() for p in some)
                             for some in (self.weights, self.biases)))

    @classmethod
    def from_weights(cls, weights: UNetWeights) -> UNet:
        """Build the module that holds these arrays."""
        net = cls(weights.in_channels, weights.out_channels, width=weights.width, levels=weights.levels)
        with torch.no_grad():
            for p, a in zip([*net.weights, *net.biases], [*weights.layers, *weights.biases], strict=True):
                p.copy_(torch.as_tensor(a))
        return net
