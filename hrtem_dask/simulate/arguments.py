"""Arguments of a simulated movie, checked before anything runs: what was found, what was expected, what to type."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..core.calibration import check_pixel_size
from ..core.checks import check_number
from ..core.errors import InputError
from ..kernels.camera import PEDESTAL
from .camera import Camera
from .keys import Span
from .microscope import Optics
from .recipe import Field, Recipe, check_sampling

__all__ = ["check_cell", "check_defocus", "check_movie_sampling", "check_numbers", "check_parts", "check_range",
           "check_shape", "check_square"]

TOP = 65535  # counts: frames are uint16

#: what no lens has less than none of
SIZES = ("focal_spread", "convergence", "blur")
#: unit, and what the number must at least be, or be above
NUMBERS = {
    "n_frames": ("", {"least": 1, "whole": True}), "frames_per_wave": ("", {"least": 1, "whole": True}),
    "seed": ("", {"least": 0, "whole": True}), "workers": ("", {"least": 1, "whole": True}),
    "dose": ("electrons/angstrom^2", {"above": 0}), "frame_time": ("second", {"above": 0}),
    "turn": ("degree", {"least": 0}), "wander": ("angstrom", {"least": 0}), "drift": ("angstrom", {"least": 0}),
    "focus_drift": ("angstrom", {"least": 0}),
}


def check_numbers(**values: Any) -> None:
    """Refuse numbers that make no sense; the name says which are allowed, and `workers` may be None.

    Raises
    ------
    InputError
        Which says what was found and what was expected.
    """
    for name, value in values.items():
        units, limits = NUMBERS[name]
        if value is not None or name != "workers":
            check_number(name, value, units, **limits)


def check_shape(shape: Any) -> tuple[int, int]:
    """Return the pixels (y, x) of a frame.

    Raises
    ------
    InputError
        If these are not two whole numbers of at least 1.
    """
    sides = list(shape) if isinstance(shape, Sequence | np.ndarray) and not isinstance(shape, str) else []
    good = [isinstance(n, Integral) and not isinstance(n, bool) and n >= 1 for n in sides]
    if len(sides) != 2 or not all(good):
        raise InputError(f"shape is {shape!r}; expected two whole numbers of pixels (y, x), as (256, 256)")
    return int(sides[0]), int(sides[1])


def check_square(pixel_size: Any) -> float:
    """Return the side of a square pixel [angstrom].

    Raises
    ------
    InputError
        If it is none, or two that differ.
    """
    y, x = check_pixel_size(pixel_size)
    if y != x:
        raise InputError(f"pixel_size is {pixel_size!r}; expected one number, as 0.4: pixels are square here")
    return y


def check_cell(side: float) -> None:
    """Refuse a periodic cell [angstrom] larger than a field of a recipe may be.

    Raises
    ------
    InputError
        Which says what makes it smaller.
    """
    most = Field.__dataclass_fields__["box"].metadata["bounds"][1]
    if side > most:
        raise InputError(f"frames and drift need a cell of {side:.4g} angstrom, the largest is {most:g}; expected "
                         "fewer or smaller pixels, less drift, or fewer frames")


def check_defocus(defocus: Any) -> list[float]:
    """Return the defoci of a focal series.

    Raises
    ------
    InputError
        If these are not several finite numbers, all different.
    """
    listed = isinstance(defocus, Sequence | np.ndarray) and not isinstance(defocus, str) and np.ndim(defocus) == 1
    values = list(defocus) if listed else []
    if not values:
        raise InputError(f"defocus is {defocus!r}; expected the defoci of a focal series [angstrom], as [200, 400]. "
                         "For one image a frame give optics=Optics(defocus=...) instead")
    for value in values:
        check_number("a defocus", value, "angstrom")
    if len(set(values)) < len(values):
        raise InputError(f"defocus is {defocus!r}; expected every defocus once")
    return [float(v) for v in values]


def check_parts(*, recipe: Any, optics: Any, camera: Any, motion: Any, store: Any, progress: Any, client: Any) -> None:
    """Refuse objects that cannot be what their names say.

    Raises
    ------
    InputError
        Which says what was expected instead.
    """
    check_optics(optics)
    kinds = [
        ("recipe", isinstance(recipe, str | os.PathLike | Mapping | Recipe),
         "a name, as 'au-particles', a file or a dict"),
        ("camera", camera is None or isinstance(camera, Camera), "a Camera, as Camera(0.4, 100.0, read_noise=1.0)"),
        ("motion", motion is None or (callable(getattr(motion, "scene", None)) and not isinstance(motion, type)),
         "a Motion, as Rock(tilt=3.0) or Wander()"),
        ("store", store is None or isinstance(store, str | os.PathLike), "a path, as 'movie.zarr'"),
        ("progress", progress is None or callable(progress), "a function of (waves done, waves)"),
        ("client", client is None or callable(getattr(client, "submit", None)), "a distributed.Client, or None"),
    ]
    found = {"recipe": recipe, "camera": camera, "motion": motion, "store": store, "progress": progress,
             "client": client}
    for name, good, expected in kinds:
        if not good:
            raise InputError(f"{name} is {found[name]!r}; expected {expected}")


def check_range(camera: Camera) -> None:
    """Refuse a camera whose frames 16 bit cannot hold: they would be cut off without a word.

    There is room for fringes of twice the intensity of vacuum, and for six standard deviations of their
    noise. Hot pixels may saturate, as real ones do.

    Raises
    ------
    InputError
        Which says what gain or which offset fits.
    """
    vacuum, offset = camera.dose * camera.pixel_size**2, camera.pedestal
    if offset < 0:
        raise InputError(f"the camera's offset is {offset:g} counts; expected 0 or more: frames are uint16, which "
                         "would cut off what is below 0")
    most = 2 * vacuum + 6 * math.sqrt(2 * vacuum + camera.read_noise**2)  # electrons a pixel
    if offset + camera.gain * most <= TOP:
        return
    noise = PEDESTAL * camera.read_noise  # an offset that was not given follows the gain
    free = offset == math.ceil(noise * camera.gain)
    gain = (TOP - 1) / (most + noise) if free else (TOP - offset) / most
    rounded = math.floor(gain * 1000) / 1000 if gain >= 0.001 else gain
    fits = f"a gain of at most {rounded:g}" if gain > 0 else f"an offset well below {TOP}"
    raise InputError(f"the camera's gain is {camera.gain:g} counts an electron and its offset {offset:g}: "
                     f"{vacuum:.4g} electrons a pixel of vacuum, with room for fringes and noise, come to "
                     f"{offset + camera.gain * most:.4g} counts, and uint16 holds {TOP}. Expected {fits}, or a lower "
                     "dose")


def check_optics(optics: Any) -> None:
    """Refuse what are no lenses.

    Raises
    ------
    InputError
        Which says what was found and what was expected.
    """
    if not isinstance(optics, Optics):
        raise InputError(f"optics is {optics!r}; expected an Optics, as Optics(defocus=600.0)")
    for f in fields(Optics):
        value = getattr(optics, f.name)
        if f.name in ("aperture", "absorption_length"):
            bad, expected = not isinstance(value, Real) or not value > 0, "a number above 0, inf for none"
        elif f.name == "drift":
            pair = np.asarray(value)
            bad = pair.shape != (2,) or pair.dtype.kind not in "iuf" or not np.isfinite(pair).all()
            expected = "(y, x) in angstrom"
        else:
            check_number(f"optics.{f.name}", value, least=0 if f.name in SIZES else -np.inf)
            continue
        if bad:
            raise InputError(f"optics.{f.name} is {value!r}; expected {expected}")


def check_movie_sampling(recipe: Recipe, pixel_size: float) -> None:
    """Refuse a pixel size that cannot hold the lattices of the recipe's crystals: `check_sampling` for a movie.

    Raises
    ------
    InputError
        Which names the spacings that are lost.
    """
    imaging = replace(recipe.imaging, pixel_size=Span(pixel_size, pixel_size))
    try:
        check_sampling(replace(recipe, imaging=imaging))
    except InputError as error:
        raise InputError(str(error).replace("imaging.pixel_size reaches", "pixel_size is")) from None
