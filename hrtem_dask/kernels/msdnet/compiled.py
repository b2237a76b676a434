r"""The compiled evaluation of MSD-nets on CPUs: what it does, and how to reach it.

A plain evaluation reads every earlier plane once for every layer: 20 kB of memory traffic a pixel
at depth 100, so it waits for memory nearly all of the time. The compiled one (``msdnet_sweep.hpp``)
is blocked, as a triangular solve is:

* **Blocks of 20 layers.** Before a block's own layers run, all *earlier* channels give it what they
  have to give, at once and for all of its layers: the *gather*. Its window is packed into
  contiguous scratch that stays in the L2 cache, and it is most of the work::

        channels        earlier (finished)        this block
                   +-------------------------+-------------------+
         layer k   |#########################|\                  |
         layer k+1 |##### the gather: #######|=\   the           |
           ...     |##### dense, packed #####|===\  sequential   |
         layer k+9 |#########################|====\ triangle     |
                   +-------------------------+-------------------+

  Halfway through a block its first ten layers, now finished, are pushed to its last ten in the
  same packed way, so that only two small triangles stay sequential.
* **One skewed sweep.** Layer k + 1 needs layer k a dilation further down and to the right. So one
  sweep of tiles runs over the image, and every layer's window lags behind the one before by its
  dilation (rounded up to whole vectors in x): nothing is computed twice, nothing waits for a
  whole plane::

         tile (y, x) of the sweep             layer k     +--------+
                                              layer k+1 +--------+ |
                                              layer k+2 |      | | +
                                                    ... +--------+

* **Threads** take rows of tiles in order. A row of a block may run as soon as the row above it is
  one tile ahead, and the block before is far enough ahead for the largest lag and the halo: a
  counter a row says how far it has come; there are no barriers.
* **The micro-kernel** keeps up to 3 planes of one dilation x 8 rows (a dilation apart) x one vector
  of pixels in registers, so each load feeds up to nine fused multiply-adds.

* **Memory** comes zeroed and in huge pages from the system, and a Python thread keeps the planes of
  its last image (up to 1 GiB) for the next of the same size: with memory got and cleared anew for
  every tile, page faults were a third of the time of four threads.

The layers of dilation 1 ... 10 repeat every ten layers, so a block of 20 holds two layers of each
dilation, and they share every load. The extension is compiled for AVX2 and AVX-512 at once and
chooses when it runs; the order of the sums does not depend on the number of threads.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ...core.errors import InputError
from .weights import PADDINGS, MSDWeights

__all__ = ["evaluate", "fma_peak", "instruction_sets", "kept_bytes", "planes_bytes", "suits", "why_not"]

#: margins wider than this would cost more than they gain
_LARGEST_DILATION = 32

try:
    from . import _msdnet
except ImportError as error:  # no compiler at install, or another platform
    _msdnet = None
    _REASON = str(error)
else:
    _REASON = ""


@cache
def instruction_sets() -> tuple[str, ...]:
    """Instruction sets that this build and this processor have in common, best first."""
    return tuple(_msdnet.instruction_sets()) if _msdnet else ()


def why_not() -> str:
    """Say in one line why the compiled evaluation cannot run here and how to get it; empty where it can."""
    if instruction_sets():
        return ""
    reason = f"it was not built ({_REASON})" if _msdnet is None else "this processor has no AVX2"
    return (f"the compiled evaluation is not there: {reason}; PyTorch does the work, more slowly. "
            f"With a C++ compiler (g++ or clang) on the PATH: pip install --force-reinstall --no-deps hrtem-dask")


def suits(weights: MSDWeights) -> bool:
    """Whether the compiled evaluation is there and takes this network, on images of any size."""
    return bool(instruction_sets()) and max(weights.layer_dilations) <= _LARGEST_DILATION


def evaluate(weights: MSDWeights, image: np.ndarray, *, threads: int = 1, instruction_set: str = "",
             edges: tuple[bool, bool, bool, bool] = (True, True, True, True)) -> np.ndarray:
    """Evaluate the network on one image.

    Parameters
    ----------
    weights : MSDWeights
        The network.
    image : ndarray of float32, shape (channel, y, x)
        Contiguous and finite, of any size.
    threads : int
        Number of threads; the GIL is released.
    instruction_set : str
        ``"avx512"`` or ``"avx2"``; by default the best there is.
    edges : (bool, bool, bool, bool)
        Which sides (top, bottom, left, right) are edges of the frame, where planes are padded as the
        network says; the others are mirrored, as in `torch_planes.evaluate`.

    Returns
    -------
    ndarray of float32, shape (class, y, x)
        Logits.

    Raises
    ------
    InputError
        If the image has other channels than the network: the extension itself checks nothing.
    MemoryError
        If the planes do not fit: 4 bytes a pixel and channel.
    ValueError
        If this processor lacks the instruction set.
    """
    if image.ndim != 3 or image.shape[0] != weights.in_channels or 0 in image.shape:
        raise InputError(f"the image has the shape {image.shape}; the compiled evaluation of this network takes "
                         f"({weights.in_channels}, y, x) with at least one pixel")
    if not suits(weights):
        raise InputError(f"the compiled evaluation cannot take this network here: {why_not() or 'dilations above 32'}; "
                         f"use networks.evaluate")
    height, width = image.shape[-2:]
    out = np.empty((weights.out_channels, height, width), np.float32)
    flat, biases, final, final_bias, dilations = _packed(weights)
    _msdnet.evaluate(np.ascontiguousarray(image, np.float32), flat, biases, final, final_bias, dilations, out,
                     height, width, weights.in_channels, weights.depth, weights.width, weights.out_channels,
                     tuple(PADDINGS.index(weights.padding if edge else "reflect") for edge in edges),
                     threads, instruction_set)
    return out


def planes_bytes(weights: MSDWeights, shape: tuple[int, ...]) -> int:
    """Memory [byte] that the planes of an image (..., y, x) take, with their margins.

    Examples
    --------
    >>> from hrtem_dask.networks import MSDNet
    >>> planes_bytes(MSDNet(1, 2, 49).to_weights(), (1, 1000, 1000)) / 1e6
    214.656
    """
    margin = -(-max(weights.layer_dilations) // 16) * 16
    lines = -(-(shape[-1] + 2 * margin) // 16) | 1  # cache lines of a row, an odd number
    return 4 * weights.final.shape[1] * (shape[-2] + 2 * margin) * 16 * lines


def kept_bytes() -> int:
    """Memory [byte] of the planes that this thread keeps from its last image for the next one of the same size."""
    return _msdnet.kept_bytes() if _msdnet else 0


def fma_peak(threads: int = 1) -> float:
    """Measure what these cores can do at best, fused multiply-adds alone [GFLOP/s]; takes about half a second.

    One multiply-add counts as two operations. An MSD-net of depth D, width 1 and one input channel
    takes 9 D (D + 1) operations a pixel.
    """
    return 2e-9 * _msdnet.multiply_adds(threads)


def _packed(weights: MSDWeights) -> tuple[np.ndarray, ...]:
    """Return the parameters as the flat arrays that the extension reads."""
    return (
        np.concatenate([w.ravel() for w in weights.layers]).astype(np.float32, copy=False),
        np.concatenate(weights.biases).astype(np.float32, copy=False),
        np.ascontiguousarray(weights.final, np.float32),
        np.ascontiguousarray(weights.final_bias, np.float32),
        np.array(weights.layer_dilations, np.int32),
    )
