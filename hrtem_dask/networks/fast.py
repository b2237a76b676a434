"""The MSD-net for training: the same function as `MSDNet.forward`, several times faster.

Layers are taken in blocks of ten. What all earlier planes give to a block is one matrix product,
W (9 taps x layers, channels) times X (channels, pixels); the taps are then shifted and added.
Planes are stored with their border already mirrored, so a shift is a slice. Nothing is
recomputed in the backward pass, which is the transpose of the same steps.
"""

from __future__ import annotations

from typing import Any

import torch

from .msdnet import MSDNet

__all__ = ["fast_forward"]

BLOCK = 10


def fast_forward(net: MSDNet, x: torch.Tensor) -> torch.Tensor:
    """Map (batch, channel, y, x) to logits (batch, class, y, x), as ``net(x)`` does.

    Parameters
    ----------
    net : MSDNet
    x : torch.Tensor, shape (batch, channel, y, x)
        An image smaller than the largest dilation goes through ``net`` itself.

    Returns
    -------
    torch.Tensor
        Equal to ``net(x)`` up to rounding, gradients too.

    Examples
    --------
    >>> net = MSDNet(1, 2, 12, padding="reflect").double()
    >>> _ = torch.nn.init.normal_(net.final_weight)
    >>> x = torch.randn(1, 1, 20, 30, dtype=torch.float64)
    >>> torch.allclose(fast_forward(net, x), net(x))
    True
    """
    if min(x.shape[-2:]) <= max(net.dilations):
        return net(x)
    parameters = [*net.weights, *net.biases, net.final_weight, net.final_bias]
    return _Blocked.apply(x, net, *parameters)


class _Planes:
    """Shapes of the padded planes, filling a border, and its transpose."""

    def __init__(self, net: MSDNet, x: torch.Tensor) -> None:
        self.pad, self.padding = max(net.dilations), net.padding
        self.n, _, self.h, self.w = x.shape
        self.shape = (self.n, self.h + 2 * self.pad, self.w + 2 * self.pad)
        self.pixels = self.n * self.shape[1] * self.shape[2]

    def inside(self, planes: torch.Tensor, dy: int = 0, dx: int = 0) -> torch.Tensor:
        p = self.pad
        return planes[..., p + dy:p + dy + self.h, p + dx:p + dx + self.w]

    def taps(self, d: int) -> list[tuple[int, int]]:
        return [(a * d, b * d) for a in (-1, 0, 1) for b in (-1, 0, 1)]

    def _strips(self, planes: torch.Tensor, axis: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs (border strip, the strip inside that it mirrors); the columns only over inside rows."""
        p, n = self.pad, planes.shape[axis]
        if axis == -1:
            planes = planes[..., p:-p, :]
        edge = 1 if self.padding == "reflect" else 0
        return [(planes.narrow(axis, 0, p), planes.narrow(axis, p + edge, p)),
                (planes.narrow(axis, n - p, p), planes.narrow(axis, n - 2 * p - edge, p))]

    def fill(self, planes: torch.Tensor) -> None:
        """Set the border of planes whose inside is there."""
        for axis in (-1, -2):
            for border, source in self._strips(planes, axis):
                if self.padding == "zeros":
                    border.zero_()
                else:
                    border.copy_(source.flip(axis))

    def fold(self, gradient: torch.Tensor) -> None:
        """Add the gradient of the border to the pixels it was copied from: `fill` transposed."""
        if self.padding == "zeros":
            return
        for axis in (-2, -1):
            for border, source in self._strips(gradient, axis):
                source.add_(border.flip(axis))


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, net: MSDNet, *parameters: torch.Tensor) -> torch.Tensor:
        planes, depth, width, c = _Planes(net, x), net.depth, net.width, net.in_channels
        # (width, channel, 3, 3) -> (width and tap, channel)
        layers = [w.reshape(width, -1, 9).transpose(1, 2).reshape(9 * width, -1) for w in parameters[:depth]]
        biases = parameters[depth:2 * depth]
        final, final_bias = parameters[2 * depth:]
        buffer = x.new_empty(c + width * depth, *planes.shape)
        planes.inside(buffer[:c]).copy_(x.transpose(0, 1))
        planes.fill(buffer[:c])
        flat = buffer.view(len(buffer), -1)
        for start in range(0, depth, BLOCK):
            stop, c0 = min(start + BLOCK, depth), c + width * start
            gathered = torch.mm(torch.cat([layers[i][:, :c0] for i in range(start, stop)]), flat[:c0])
            for i in range(start, stop):
                ci = c + width * i
                z = gathered[9 * width * (i - start):9 * width * (i - start + 1)]
                if i > start:
                    z.addmm_(layers[i][:, c0:], flat[c0:ci])
                z = z.view(width, 9, *planes.shape)
                y = planes.inside(buffer[ci:ci + width])
                y.copy_(biases[i].view(-1, 1, 1, 1).expand(y.shape))
                for k, (dy, dx) in enumerate(planes.taps(net.dilation(i))):
                    y.add_(planes.inside(z[:, k], dy, dx))
                y.clamp_(min=0)
                planes.fill(buffer[ci:ci + width])
        ctx.net, ctx.planes = net, planes
        ctx.save_for_backward(buffer, final, *layers)
        out = (torch.mm(final, flat) + final_bias[:, None]).view(-1, *planes.shape)
        return planes.inside(out).transpose(0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        buffer, final, *layers = ctx.saved_tensors
        net, planes = ctx.net, ctx.planes
        depth, width, c = net.depth, net.width, net.in_channels
        flat = buffer.view(len(buffer), -1)
        g = gradient.new_zeros(final.shape[0], *planes.shape)
        planes.inside(g).copy_(gradient.transpose(0, 1))
        g = g.view(len(g), -1)
        g_final, g_final_bias, g_planes = g @ flat.t(), g.sum(1), final.t() @ g
        padded = g_planes.view(len(g_planes), *planes.shape)
        g_layers, g_biases = [None] * depth, [None] * depth
        low = 0 if ctx.needs_input_grad[0] else c
        shifted = gradient.new_empty(9 * width * BLOCK, planes.pixels)
        for start in reversed(range(0, depth, BLOCK)):
            stop, c0 = min(start + BLOCK, depth), c + width * start
            block = shifted[:9 * width * (stop - start)].zero_()
            for i in reversed(range(start, stop)):
                ci = c + width * i
                planes.fold(padded[ci:ci + width])
                gy = planes.inside(padded[ci:ci + width]) * (planes.inside(buffer[ci:ci + width]) > 0)
                g_biases[i] = gy.sum((1, 2, 3))
                rows = block[9 * width * (i - start):9 * width * (i - start + 1)]
                taps = rows.view(width, 9, *planes.shape)
                for k, (dy, dx) in enumerate(planes.taps(net.dilation(i))):
                    planes.inside(taps[:, k], dy, dx).copy_(gy)
                if i > start:
                    g_planes[c0:ci].addmm_(layers[i][:, c0:].t(), rows)
            last = c + width * (stop - 1)
            g_block = block @ flat[:last].t()
            if c0 > low:
                earlier = torch.cat([layers[i][:, low:c0] for i in range(start, stop)])
                g_planes[low:c0].addmm_(earlier.t(), block)
            for i in range(start, stop):
                rows = g_block[9 * width * (i - start):9 * width * (i - start + 1), :c + width * i]
                # (width, 9, channel) -> (width, channel, 3, 3)
                g_layers[i] = rows.reshape(width, 9, -1).transpose(1, 2).reshape(width, -1, 3, 3)
        g_x = None
        if low == 0:
            planes.fold(padded[:c])
            g_x = planes.inside(padded[:c]).transpose(0, 1)
        return (g_x, None, *g_layers, *g_biases, g_final, g_final_bias)
