"""`record`: from expected electrons to the counts that a camera writes."""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from ..core.checks import check_number
from ..core.errors import InputError
from ..core.provenance import record as provenance
from ..kernels.camera import digitise, expose, pedestal, radial_frequency, read_out
from .mtf import MTF

__all__ = ["record"]


def record(expectation: Any, mtf: MTF | None = None, *, gain: float = 1.0, offset: float | None = None,
           read_noise: float = 0.0, counting: bool = False, dtype: Any = None, saturation: float | None = None,
           seed: int | np.random.Generator | None = None) -> Any:
    """Record images with a camera: Poisson, MTF, gain, noise of the read-out, digitisation.

    The noise power of an integrating camera is ``gain^2 (dose MTF(k)^2 + read_noise^2)``, and 1/12 for
    the digitisation. A counting camera has white noise: there the MTF acts on the expectation, before
    the electrons are drawn; coincidence loss is left out.

    Parameters
    ----------
    expectation : ndarray, dask array or DataArray, shape (..., y, x)
        Expected electrons a pixel, not negative; periodic (cut a margin off where it is not).
    mtf : MTF, optional
        Without it nothing is blurred.
    gain : float
        Counts per electron.
    offset : float, optional
        Counts without electrons, a camera's pedestal. By default 0 for floats, and for integers what
        keeps the read noise above 0: ``6 gain read_noise``, rounded up; 0 without read noise.
    read_noise : float
        Root mean square [electrons].
    counting : bool
        A counting camera instead of an integrating one.
    dtype : dtype, optional
        Of integers, as "uint16": counts are rounded, and clipped to what it holds. By default float32,
        not digitised.
    saturation : float, optional
        Largest count.
    seed : int or numpy.random.Generator, optional
        With an integer every image of a stack has its own stream, so that the result does not
        depend on chunks; a generator is drawn from image by image.

    Returns
    -------
    Like ``expectation``
        Counts. Lazy where ``expectation`` is lazy.

    Raises
    ------
    InputError
        If expectations are negative or not finite, an argument makes no sense, or the offset alone is
        beyond what ``dtype`` and ``saturation`` let through.

    Examples
    --------
    >>> frames = record(np.full((2, 64, 64), 20.0), MTF(0.5, 2.5), gain=4, offset=100, dtype="uint16", seed=0)
    >>> frames.dtype, bool(abs(frames.mean() - 180) < 1)
    (dtype('uint16'), True)
    """
    camera = _camera(mtf, gain, offset, read_noise, counting, dtype, saturation)
    if isinstance(expectation, xr.DataArray):
        names = [d for d in expectation.dims if d not in ("y", "x")]
        if not {"y", "x"} <= set(expectation.dims):
            raise InputError(f"found the dims {expectation.dims}; expected (..., 'y', 'x')")
        ordered = expectation.transpose(*names, "y", "x")
        said = {k: v for k, v in camera.items() if k != "mtf"} | {"mtf": mtf and mtf.parameters, "seed": str(seed)}
        counts = record(ordered.data, mtf, gain=gain, offset=offset, read_noise=read_noise, counting=counting,
                        dtype=dtype, saturation=saturation, seed=seed)
        done = ordered.copy(data=counts).transpose(*expectation.dims)
        return done.assign_attrs(provenance(expectation.attrs, "detector.record", **said))
    lazy = isinstance(expectation, da.Array)
    images = expectation if lazy else np.asarray(expectation)
    if images.ndim < 2 or 0 in images.shape or images.dtype.kind not in "biuf":
        raise InputError(f"found an array of shape {images.shape} and dtype {images.dtype}; expected real expectations "
                         "(..., y, x)")
    if not lazy:
        if isinstance(seed, np.random.Generator):
            return _block(images, camera, [seed] * int(np.prod(images.shape[:-2])))
        return _block(images, camera, _streams(seed, np.arange(int(np.prod(images.shape[:-2])))))
    if isinstance(seed, np.random.Generator):
        raise InputError("a generator cannot be shared by the tasks of a lazy array; expected an integer seed")
    seed = int(np.random.SeedSequence().entropy) if seed is None else seed
    whole = images.rechunk({images.ndim - 2: -1, images.ndim - 1: -1})
    return whole.map_blocks(_task, camera=camera, seed=seed, stack=images.shape[:-2], dtype=camera["dtype"],
                            meta=np.empty((0,) * images.ndim, camera["dtype"]),
                            name=f"record-{tokenize(whole, camera, seed)}")


def _camera(mtf: MTF | None, gain: float, offset: float | None, read_noise: float, counting: bool, dtype: Any,
            saturation: float | None) -> dict[str, Any]:
    if mtf is not None and not callable(mtf):
        raise InputError(f"mtf is {mtf!r}; expected an MTF, as MTF(scale=0.5, power=2.5)")
    check_number("gain", gain, "counts/electron", above=0)
    check_number("read_noise", read_noise, "electron", least=0)
    for name, value in (("offset", offset), ("saturation", saturation)):
        if value is not None:
            check_number(name, value, "counts", above=0 if name == "saturation" else -math.inf)
    kind = np.dtype(np.float32 if dtype is None else dtype)
    if kind.kind not in "iuf":
        raise InputError(f"dtype is {dtype!r}; expected integers as 'uint16', or 'float32'")
    if offset is None:
        offset = pedestal(read_noise, gain) if kind.kind in "iu" else 0.0
    low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if kind.kind in "iu" else (-math.inf, math.inf)
    top = min(high, math.inf if saturation is None else saturation)
    if not low <= offset < top:
        raise InputError(f"the offset is {offset:g} counts, and {kind} with this saturation holds {low:g} to {top:g}: "
                         f"a pixel without electrons would be cut off. Expected an offset in that range, below its end")
    return {"mtf": mtf, "gain": gain, "offset": offset, "read_noise": read_noise, "counting": bool(counting),
            "dtype": kind, "saturation": saturation}


def _streams(seed: int | None, numbers: np.ndarray) -> list[np.random.Generator]:
    entropy = np.random.SeedSequence().entropy if seed is None else seed
    return [np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(int(n),))) for n in numbers]


def _task(block: np.ndarray, camera: dict[str, Any], seed: int, stack: tuple[int, ...],
          block_info: Any = None) -> np.ndarray:
    at = block_info[0]["array-location"][:-2] if block_info else [(0, n) for n in stack]
    numbers = np.arange(int(np.prod(stack))).reshape(stack)[tuple(slice(a, b) for a, b in at)]
    return _block(block, camera, _streams(seed, numbers.ravel()))


def _block(images: np.ndarray, camera: dict[str, Any], streams: list[np.random.Generator]) -> np.ndarray:
    out = np.empty(images.shape, camera["dtype"])
    response = None if camera["mtf"] is None else camera["mtf"](radial_frequency(images.shape[-2:]))
    for index, rng in zip(np.ndindex(images.shape[:-2]), streams, strict=True):
        out[index] = _one(images[index], response, camera, rng)
    return out


def _one(image: np.ndarray, response: np.ndarray | None, camera: dict[str, Any],
         rng: np.random.Generator) -> np.ndarray:
    if not np.isfinite(image).all() or image.min() < 0:
        raise InputError(f"{np.count_nonzero(image < 0)} pixel(s) of the expectation are below 0 and "
                         f"{np.count_nonzero(~np.isfinite(image))} are not finite; expected electrons a pixel")
    counts = expose(image, response, rng, counting=camera["counting"])
    counts = read_out(counts, rng, gain=camera["gain"], offset=camera["offset"], read_noise=camera["read_noise"])
    kind, top = camera["dtype"], camera["saturation"]
    if kind.kind in "iu":
        return digitise(counts, kind, top)
    return (counts if top is None else np.minimum(counts, top)).astype(kind)
