"""MSD-net evaluation in torch: planes allocated once, no autograd, any device and dtype, one image or a batch.

A convolution that makes one plane out of c has nothing for a convolution library to reuse, and
padding or joining the planes copies all of them in every layer. Here the planes lie in one buffer
with a margin as wide as the largest dilation. A layer is one matrix product, the nine taps times
the planes, whose nine results are shifted and summed; it goes strip by strip to stay in the cache.
On one core that is about ten times as fast as ``conv2d`` on the same buffer.

On a GPU the same steps run on a batch of images at once, in strips that are large instead of small:
little stays cached from one kernel to the next there, and a kernel has to be long against its
launch. The parameters stay on the device from call to call; a call uploads its images and
downloads its logits, once each. **The speed on a GPU has not been measured yet**, so no figure
for one is given anywhere in this package.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .weights import MSDWeights

if TYPE_CHECKING:
    import torch

__all__ = ["evaluate", "image_bytes", "planes"]

#: pixels of a strip: on a CPU a few hundred rows of a usual tile, on a GPU four images of 1024 x 1024
STRIP = 2**18
GPU_STRIP = 2**22
#: devices where one kernel sums the taps, which reads each product once; on a CPU it takes twenty times as long
FUSED = ("cuda",)
ALL = (True, True, True, True)
#: networks whose parameters stay on their device
KEPT = 4


def evaluate(
    weights: MSDWeights,
    images: np.ndarray,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    edges: tuple[bool, bool, bool, bool] = ALL,
) -> np.ndarray:
    """Return the logits of one image or tile, or of a batch of them at once.

    Parameters
    ----------
    weights : MSDWeights
        The parameters.
    images : ndarray, shape (channel, y, x) or (n, channel, y, x)
        The input.
    device, dtype : str
        Where and how precisely torch computes; on a GPU never in TF32.
    edges : (bool, bool, bool, bool)
        Which sides (top, bottom, left, right) are edges of the whole image; there every plane is
        padded as the network says. The others are cut out of a larger image and carry a halo,
        which the caller trims. They are mirrored, which comes closest to the missing pixels.
        A halo of at least ``weights.receptive_radius`` makes the trimmed result exact.

    Returns
    -------
    ndarray, shape (class, y, x) or (n, class, y, x)
        Logits in the dtype asked for.
    """
    import torch

    batch = images if images.ndim == 4 else images[None]
    with torch.inference_mode(), _no_tf32(device):
        buffer, scratch, parameters = _fill(weights, batch, device, dtype, edges)
        out = buffer.new_empty(len(batch), weights.out_channels, *batch.shape[2:])
        for s in _strips(weights, batch.shape, device):
            logits = _product(parameters.final, buffer, s, 0, scratch)
            torch.add(_windows(logits, s, 1, 0)[0, 0].transpose(0, 1), parameters.final_bias,
                      out=out[s.i:s.j, :, s.a:s.b])
        return (out if images.ndim == 4 else out[0]).cpu().numpy()


def image_bytes(weights: MSDWeights, shape: tuple[int, ...], itemsize: int = 4) -> int:
    """Memory [byte] that the planes of one image (..., y, x) take with their margins.

    Examples
    --------
    >>> from hrtem_dask.networks import MSDNet
    >>> image_bytes(MSDNet(1, 2, 3, dilations=(1,)).to_weights(), (8, 18))  # 4 planes of 10 x 20
    3200
    """
    m = max(weights.layer_dilations)
    return itemsize * weights.final.shape[1] * (shape[-2] + 2 * m) * (shape[-1] + 2 * m)


def planes(weights: MSDWeights, image: np.ndarray, *, device: str = "cpu", dtype: str = "float32",
           edges: tuple[bool, bool, bool, bool] = ALL) -> np.ndarray:
    """Return the input and all planes (channel + depth * width, y, x), to compare layer by layer."""
    import torch

    m = max(weights.layer_dilations)
    with torch.inference_mode(), _no_tf32(device):
        buffer = _fill(weights, image[None], device, dtype, edges)[0]
        return buffer[:, 0, m:m + image.shape[1], m:m + image.shape[2]].cpu().numpy().copy()


class _Strip(NamedTuple):
    """Rows a ... b - 1 of the images i ... j - 1, and how they lie in the padded planes."""

    i: int
    j: int
    a: int
    b: int
    m: int       # margin of a plane
    height: int  # of a padded plane
    nx: int      # columns without the margins


class _Parameters(NamedTuple):
    """The parameters on a device; the nine taps of a layer are one matrix (tap * width, channel)."""

    taps: list[torch.Tensor]
    biases: list[torch.Tensor]
    final: torch.Tensor
    final_bias: torch.Tensor


def _fill(weights: MSDWeights, images: np.ndarray, device: str, dtype: str, edges: tuple[bool, ...]
          ) -> tuple[torch.Tensor, torch.Tensor, _Parameters]:
    """Compute all planes into one buffer (plane, image, y, x) with margins; return it and what can be used again."""
    import torch

    c, w, m = weights.in_channels, weights.width, max(weights.layer_dilations)
    n_images, _, ny, nx = images.shape
    parameters = _parameters_on(weights, device, dtype)
    buffer = torch.empty(c + w * weights.depth, n_images, ny + 2 * m, nx + 2 * m, dtype=getattr(torch, dtype),
                         device=device)
    for margin in (buffer[:, :, :m], buffer[:, :, -m:], buffer[..., :m], buffer[..., -m:]):
        margin.zero_()
    strips = _strips(weights, images.shape, device)
    rows = max((s.j - s.i - 1) * s.height + s.b - s.a + 2 * m for s in strips)
    scratch = buffer.new_empty(max(9 * w, weights.out_channels) * rows * buffer.shape[3])
    mirrors = _mirrors((ny, nx), m, tuple(weights.padding if e else "reflect" for e in edges), device)
    buffer[:c, :, m:m + ny, m:m + nx] = torch.as_tensor(images).to(buffer).transpose(0, 1)
    _pad(buffer[:c], m, mirrors)
    for i, d in enumerate(weights.layer_dilations):
        n = c + i * w
        new = buffer[n:n + w]
        for s in strips:
            product = _product(parameters.taps[i], buffer[:n], s, d, scratch)
            total = _sum_of_taps(_windows(product, s, 3, d), parameters.biases[i])
            new[:, s.i:s.j, m + s.a:m + s.b, m:m + nx] = total.relu_()
        _pad(new, m, mirrors)
    return buffer, scratch, parameters


def _strips(weights: MSDWeights, shape: tuple[int, ...], device: str) -> list[_Strip]:
    """Parts of a batch (n, channel, y, x) that one product takes: rows of an image, or several images."""
    m = max(weights.layer_dilations)
    n, _, ny, nx = shape
    pixels = STRIP if device == "cpu" else GPU_STRIP
    rows, padded = max(64, pixels // (nx + 2 * m)), (m, ny + 2 * m, nx)
    if rows < 2 * ny or n == 1:
        return [_Strip(i, i + 1, a, min(a + rows, ny), *padded) for i in range(n) for a in range(0, ny, rows)]
    step = rows // ny
    return [_Strip(i, min(i + step, n), 0, ny, *padded) for i in range(0, n, step)]


def _product(matrix: torch.Tensor, buffer: torch.Tensor, s: _Strip, d: int, scratch: torch.Tensor) -> torch.Tensor:
    """Matrix (k, plane) times a strip and d rows around it, as (k, row, column) in the scratch."""
    import torch

    first, last = s.i * s.height + s.m + s.a - d, (s.j - 1) * s.height + s.m + s.b + d
    width = buffer.shape[3]
    rows = buffer.view(len(buffer), -1)[:, first * width:last * width]
    out = scratch[:len(matrix) * rows.shape[1]].view(len(matrix), rows.shape[1])
    return torch.mm(matrix, rows, out=out).view(len(matrix), last - first, width)


def _windows(product: torch.Tensor, s: _Strip, taps: int, d: int) -> torch.Tensor:
    """See a product as (tap in y, tap in x, plane, image, y, x), every tap shifted to the pixel it counts for."""
    k, rows, width = product.shape
    planes, size = k // taps**2, rows * width
    return product.as_strided(
        (taps, taps, planes, s.j - s.i, s.b - s.a, s.nx),
        (taps * planes * size + d * width, planes * size + d, size, s.height * width, width, 1),
        product.storage_offset() + s.m - d,
    )


def _sum_of_taps(windows: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Sum over the taps, plus the bias, as (plane, image, y, x)."""
    if windows.device.type in FUSED:
        return windows.sum((0, 1)).add_(bias)
    total = windows[0, 0] + bias
    for k in range(1, 9):
        total += windows[k // 3, k % 3]
    return total


_parameters: dict[tuple[str, str, str], _Parameters] = {}
_lock = threading.Lock()


def _parameters_on(weights: MSDWeights, device: str, dtype: str) -> _Parameters:
    """Upload the parameters once a process and device; known by their content, for arrays can be written to."""
    import torch

    content = hashlib.sha256()
    for a in (*weights.layers, *weights.biases, weights.final, weights.final_bias):
        content.update(f"{a.shape}{a.dtype}".encode())
        content.update(np.ascontiguousarray(a))
    key = content.hexdigest(), device, dtype
    with _lock:
        if key not in _parameters:
            def put(a: np.ndarray) -> torch.Tensor:
                return torch.tensor(a, dtype=getattr(torch, dtype), device=device)

            while len(_parameters) >= KEPT:
                del _parameters[next(iter(_parameters))]
            _parameters[key] = _Parameters(
                [put(a.transpose(2, 3, 0, 1).reshape(-1, a.shape[1])) for a in weights.layers],
                [put(b[:, None, None, None]) for b in weights.biases], put(weights.final),
                put(weights.final_bias[:, None, None]))
        return _parameters[key]


@contextmanager
def _no_tf32(device: str) -> Iterator[None]:
    """Hold matrix products on a GPU to float32: TF32 keeps ten bits, and 1e-5 is wanted."""
    import torch

    if device == "cpu":
        yield
        return
    with _lock:
        _Tf32.holders += 1
        if _Tf32.holders == 1:
            _Tf32.before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        with _lock:
            _Tf32.holders -= 1
            if _Tf32.holders == 0:
                torch.set_float32_matmul_precision(_Tf32.before)


class _Tf32:
    """How many calls of this process hold products to float32, and what to go back to."""

    holders = 0
    before = "highest"


def _mirrors(shape: tuple[int, int], m: int, modes: tuple[str, ...], device: str
             ) -> list[tuple[int, int, torch.Tensor]]:
    """Axis and start of every margin that is mirrored, and where its pixels come from; rows first, for the corners."""
    import torch

    out = []
    for axis, n, sides in ((2, shape[0], modes[:2]), (3, shape[1], modes[2:])):
        for start, mode in zip((0, m + n), sides, strict=True):
            if mode != "zeros":
                source = m + _mirror(np.arange(start, start + m) - m, n, mode)
                out.append((axis, start, torch.as_tensor(source, device=device)))
    return out


def _pad(planes: torch.Tensor, m: int, mirrors: list[tuple[int, int, torch.Tensor]]) -> None:
    """Fill the mirrored margins of some planes (plane, image, y, x) in place."""
    for axis, start, source in mirrors:
        planes.narrow(axis, start, m).copy_(planes.index_select(axis, source))


def _mirror(i: np.ndarray, n: int, mode: str) -> np.ndarray:
    """Pixel of an axis of n that the possibly outside pixel i shows; folds as often as it takes."""
    if mode == "symmetric":
        i = i % (2 * n)
        return np.minimum(i, 2 * n - 1 - i)
    if n == 1:
        return np.zeros_like(i)
    i = i % (2 * n - 2)
    return np.minimum(i, 2 * n - 2 - i)
