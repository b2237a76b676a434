"""The mixed-scale dense network as a plain torch module.

Pelt and Sethian, PNAS 115, 254 (2018): every layer is a dilated 3x3 convolution over the input
and all earlier planes, followed by a ReLU; there is no down- or up-sampling; the output is a
1x1 convolution over everything. ``forward`` is the definition, readable and traceable; the
fast evaluation lives in `hrtem_dask.kernels.msdnet` and is tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..core.errors import InputError
from ..kernels.msdnet.weights import DILATIONS, PADDINGS, MSDWeights

__all__ = ["MSDNet"]


class MSDNet(nn.Module):
    """Mixed-scale dense network.

    Parameters
    ----------
    in_channels : int
        Number of input channels (1, or one per defocus).
    out_channels : int
        Number of classes; the output holds logits.
    depth : int
        Number of layers.
    width : int
        Planes per layer.
    dilations : sequence of int
        Dilations, cycled over the layers; by default 1 to 10.
    padding : {"zeros", "reflect", "symmetric"}
        What every layer sees beyond the border of a plane: zeros, a mirror without the edge
        pixel, or a mirror with it.

    Raises
    ------
    InputError
        If a number is not positive or the padding is unknown.

    Notes
    -----
    The weights are drawn from N(0, sqrt(2 / (9 (c_in + w (D - 1)) + c_out))), the biases and
    the last layer are zero: a fresh network gives zeros.

    Examples
    --------
    >>> net = MSDNet(1, 1, 30)
    >>> sum(p.numel() for p in net.parameters())
    4247
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        *,
        width: int = 1,
        dilations: Sequence[int] = DILATIONS,
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels),
                            ("depth", depth), ("width", width), *(("dilations", d) for d in dilations)):
            if int(value) != value or value < 1:
                raise InputError(f"{name} holds {value!r}; expected a whole number of at least 1")
        if padding not in PADDINGS:
            raise InputError(f"padding is {padding!r}; expected one of {PADDINGS}")
        self.in_channels, self.out_channels, self.depth = int(in_channels), int(out_channels), int(depth)
        self.width, self.padding = int(width), padding
        self.dilations = tuple(int(d) for d in dilations)
        planes = [in_channels + width * i for i in range(depth + 1)]
        scale = math.sqrt(2 / (9 * (in_channels + width * (depth - 1)) + out_channels))
        self.weights = nn.ParameterList(nn.Parameter(scale * torch.randn(width, c, 3, 3)) for c in planes[:-1])
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(depth))
        self.final_weight = nn.Parameter(torch.zeros(out_channels, planes[-1]))
        self.final_bias = nn.Parameter(torch.zeros(out_channels))

    def dilation(self, layer: int) -> int:
        """Dilation of a layer [pixel]."""
        return self.dilations[layer % len(self.dilations)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, channel, y, x) to logits (batch, class, y, x)."""
        for i in range(self.depth):
            d = self.dilation(i)
            y = F.conv2d(pad(x, d, self.padding), self.weights[i], self.biases[i], dilation=d)
            x = torch.cat([x, F.relu(y)], 1)
        return F.conv2d(x, self.final_weight[:, :, None, None], self.final_bias)

    def pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Weight and bias of each layer, the last one included."""
        return [*zip(self.weights, self.biases, strict=True), (self.final_weight, self.final_bias)]

    def to_weights(self) -> MSDWeights:
        """Copy the parameters into plain float32 arrays, as the kernels take them."""
        def array(p: torch.Tensor) -> object:
            return p.detach().to("cpu", torch.float32).numpy().copy()

        return MSDWeights(
            layers=tuple(array(w) for w in self.weights), biases=tuple(array(b) for b in self.biases),
            final=array(self.final_weight), final_bias=array(self.final_bias),
            dilations=self.dilations, padding=self.padding,
        )

    @classmethod
    def from_weights(cls, weights: MSDWeights) -> MSDNet:
        """Build the module that holds these arrays."""
        net = cls(weights.in_channels, weights.out_channels, weights.depth, width=weights.width,
                  dilations=weights.dilations, padding=weights.padding)
        with torch.no_grad():
            for p, w in zip(net.weights, weights.layers, strict=True):
                p.copy_(torch.as_tensor(w))
            for p, b in zip(net.biases, weights.biases, strict=True):
                p.copy_(torch.as_tensor(b))
            net.final_weight.copy_(torch.as_tensor(weights.final))
            net.final_bias.copy_(torch.as_tensor(weights.final_bias))
        return net


def pad(x: torch.Tensor, d: int, padding: str) -> torch.Tensor:
    """Pad the last two axes by d pixels on each side; mirrors fold as often as it takes."""
    if padding == "zeros":
        return F.pad(x, (d, d, d, d))
    rows, cols = (mirror_index(n, d, padding, x.device) for n in x.shape[-2:])
    return x.index_select(-2, rows).index_select(-1, cols)


def mirror_index(n: int, d: int, padding: str, device: torch.device | None = None) -> torch.Tensor:
    """Return the pixel that each of -d ... n + d - 1 shows, also where the image is smaller than d."""
    i = torch.arange(-d, n + d, device=device)
    if padding == "symmetric":
        i = i.remainder(2 * n)
        return torch.where(i < n, i, 2 * n - 1 - i)
    if n == 1:
        return torch.zeros_like(i)
    i = i.remainder(2 * n - 2)
    return torch.where(i < n, i, 2 * n - 2 - i)
