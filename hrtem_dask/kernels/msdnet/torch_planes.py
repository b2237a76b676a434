"""MSD-net evaluation in torch: planes allocated once, no autograd, any device and dtype.

A convolution that makes one plane out of c has nothing for a convolution library to reuse, and
padding or joining the planes copies all of them in every layer. Here the planes lie in one buffer
with a margin as wide as the largest dilation. A layer is one matrix product, the nine taps times
the planes, whose nine results are shifted and summed; it goes strip by strip to stay in the cache.
On one core that is about ten times as fast as ``conv2d`` on the same buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .weights import MSDWeights

if TYPE_CHECKING:
    import torch

__all__ = ["evaluate", "planes"]

#: pixels of a strip; a few hundred rows of a usual tile
STRIP = 2**18
ALL = (True, True, True, True)


def evaluate(
    weights: MSDWeights,
    image: np.ndarray,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    edges: tuple[bool, bool, bool, bool] = ALL,
) -> np.ndarray:
    """Return the logits of one image or tile.

    Parameters
    ----------
    weights : MSDWeights
        The parameters.
    image : ndarray, shape (channel, y, x)
        The input.
    device, dtype : str
        Where and how precisely torch computes.
    edges : (bool, bool, bool, bool)
        Which sides (top, bottom, left, right) are edges of the whole image; there every plane is
        padded as the network says. The others are cut out of a larger image and carry a halo,
        which the caller trims. They are mirrored, which comes closest to the missing pixels.
        A halo of at least ``weights.receptive_radius`` makes the trimmed result exact.

    Returns
    -------
    ndarray, shape (class, y, x)
        Logits in the dtype asked for.
    """
    import torch

    ny, nx = image.shape[1:]
    with torch.inference_mode():
        buffer, m = _fill(weights, image, device, dtype, edges)
        final = torch.as_tensor(weights.final).to(buffer)
        bias = torch.as_tensor(weights.final_bias).to(buffer)[:, None, None]
        out = buffer.new_empty(len(final), ny, nx)
        for a, b in _strips(ny, buffer.shape[2]):
            logits = _product(final, buffer, m + a, m + b)
            out[:, a:b] = logits[:, :, m:m + nx] + bias
        return out.cpu().numpy()


def planes(weights: MSDWeights, image: np.ndarray, *, device: str = "cpu", dtype: str = "float32",
           edges: tuple[bool, bool, bool, bool] = ALL) -> np.ndarray:
    """Return the input and all planes (channel + depth * width, y, x), to compare layer by layer."""
    import torch

    with torch.inference_mode():
        buffer, m = _fill(weights, image, device, dtype, edges)
        return buffer[:, m:m + image.shape[1], m:m + image.shape[2]].cpu().numpy().copy()


def _fill(weights: MSDWeights, image: np.ndarray, device: str, dtype: str, edges: tuple[bool, ...]
          ) -> tuple[torch.Tensor, int]:
    """Compute all planes into one buffer with a margin; return it and the margin."""
    import torch

    c, w, m = weights.in_channels, weights.width, max(weights.layer_dilations)
    ny, nx = image.shape[1:]
    buffer = torch.zeros(c + w * weights.depth, ny + 2 * m, nx + 2 * m, dtype=getattr(torch, dtype), device=device)
    modes = tuple(weights.padding if edge else "reflect" for edge in edges)
    buffer[:c, m:m + ny, m:m + nx] = torch.as_tensor(image).to(buffer)
    _pad(buffer[:c], m, modes)
    for i, d in enumerate(weights.layer_dilations):
        n = c + i * w
        taps = torch.as_tensor(weights.layers[i]).to(buffer).permute(2, 3, 0, 1).reshape(9 * w, n)
        bias = torch.as_tensor(weights.biases[i]).to(buffer)[:, None, None]
        new = buffer[n:n + w]
        for a, b in _strips(ny, buffer.shape[2]):
            parts = _product(taps, buffer[:n], m + a - d, m + b + d).view(9, w, b - a + 2 * d, -1)
            total = parts[0, :, :b - a, m - d:m - d + nx] + bias
            for k in range(1, 9):
                y, x = k // 3 * d, m + (k % 3 - 1) * d
                total += parts[k, :, y:y + b - a, x:x + nx]
            new[:, m + a:m + b, m:m + nx] = total.relu_()
        _pad(new, m, modes)
    return buffer, m


def _product(matrix: torch.Tensor, buffer: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Matrix (k, plane) times the rows start ... stop - 1 of all planes, as (k, row, column)."""
    n, _, width = buffer.shape
    rows = buffer.view(n, -1)[:, start * width:stop * width]
    return (matrix @ rows).view(len(matrix), stop - start, width)


def _strips(ny: int, width: int) -> list[tuple[int, int]]:
    rows = max(64, STRIP // width)
    return [(a, min(a + rows, ny)) for a in range(0, ny, rows)]


def _pad(planes: torch.Tensor, m: int, modes: tuple[str, ...]) -> None:
    """Fill the margins of some planes in place; rows first, so the columns fill the corners."""
    import torch

    for axis, sides in ((1, modes[:2]), (2, modes[2:])):
        n = planes.shape[axis] - 2 * m
        for low, mode in zip((True, False), sides, strict=True):
            if mode != "zeros":
                margin = np.arange(m) if low else np.arange(m + n, n + 2 * m)
                source = torch.as_tensor(m + _mirror(margin - m, n, mode), device=planes.device)
                planes.narrow(axis, int(margin[0]), m).copy_(planes.index_select(axis, source))


def _mirror(i: np.ndarray, n: int, mode: str) -> np.ndarray:
    """Pixel of an axis of n that the possibly outside pixel i shows; folds as often as it takes."""
    if mode == "symmetric":
        i = i % (2 * n)
        return np.minimum(i, 2 * n - 1 - i)
    if n == 1:
        return np.zeros_like(i)
    i = i % (2 * n - 2)
    return np.minimum(i, 2 * n - 2 - i)
