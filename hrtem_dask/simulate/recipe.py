"""Recipes: what is simulated, as a YAML file with units, checked before anything runs."""
# `span` and `scalar` declare fields as dataclasses.field does
# ruff: noqa: RUF009

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..core.errors import InputError, MissingInputError

__all__ = ["Field", "Film", "Imaging", "Particles", "Recipe", "Span", "load_recipe", "shipped_recipes"]

FOLDER = Path(__file__).parent / "recipes"
SCALES = ("linear", "log")


@dataclass(frozen=True)
class Span:
    """A range that a parameter is drawn from, uniformly in itself or in its logarithm."""

    low: float
    high: float
    scale: str = "linear"

    def draw(self, rng: np.random.Generator) -> float:
        """Draw one value."""
        if self.scale == "log":
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def draw_integer(self, rng: np.random.Generator) -> int:
        """Draw one whole number, both ends included."""
        return int(rng.integers(int(self.low), int(self.high) + 1))


def span(low: float, high: float, units: str, *, scale: str = "linear", bounds: tuple[float, float]) -> Any:
    """Declare a range: its default, its unit, how it is drawn, and what is allowed."""
    return field(default=Span(low, high, scale), metadata={"units": units, "bounds": bounds})


def scalar(value: float, units: str, *, bounds: tuple[float, float]) -> Any:
    """Declare a single number: its default, its unit and what is allowed."""
    return field(default=value, metadata={"units": units, "bounds": bounds})


@dataclass(frozen=True)
class Field:
    """One simulated field of view and its multislice; periodic in y and x."""

    box: float = scalar(192.0, "angstrom", bounds=(20, 2000))
    wave_sampling: float = scalar(0.3, "angstrom", bounds=(0.02, 0.35))
    stored_sampling: float = scalar(0.5, "angstrom", bounds=(0.02, 0.6))
    slice_thickness: float = scalar(2.0, "angstrom", bounds=(0.2, 5))
    energy: float = scalar(300.0, "kV", bounds=(20, 1500))

    @property
    def wave_points(self) -> int:
        """Samples along each axis of the multislice, a size that transforms quickly."""
        from scipy.fft import next_fast_len

        return next_fast_len(round(self.box / self.wave_sampling))

    @property
    def stored_points(self) -> int:
        """Samples along each axis of the stored wave."""
        return round(self.box / self.stored_sampling)


@dataclass(frozen=True)
class Particles:
    """Gold particles: how many, how large, in what shape, where."""

    empty_fraction: float = scalar(0.08, "1", bounds=(0, 1))
    number: Span = span(1, 20, "1", bounds=(0, 1000))
    coverage: Span = span(0.03, 0.40, "1", bounds=(0, 0.9))
    diameter: Span = span(10, 80, "angstrom", scale="log", bounds=(4, 1000))
    elongation: Span = span(1.0, 1.5, "1", bounds=(1, 4))
    height: Span = span(0.5, 1.1, "1", bounds=(0.1, 3))
    twin_fraction: float = scalar(0.25, "1", bounds=(0, 1))
    touching_fraction: float = scalar(0.15, "1", bounds=(0, 1))
    thermal_displacement: Span = span(0.07, 0.16, "angstrom", bounds=(0, 1))


@dataclass(frozen=True)
class Film:
    """The amorphous carbon film."""

    absent_fraction: float = scalar(0.05, "1", bounds=(0, 1))
    thickness: Span = span(20, 120, "angstrom", bounds=(1, 2000))
    density: float = scalar(0.09, "atoms/angstrom^3", bounds=(0.01, 0.12))
    roughness: Span = span(0.0, 6.0, "angstrom", bounds=(0, 100))
    roughness_length: Span = span(8, 40, "angstrom", scale="log", bounds=(2, 1000))


@dataclass(frozen=True)
class Imaging:
    """Microscope and camera, drawn anew for every image."""

    pixel_size: Span = span(0.1, 0.8, "angstrom", scale="log", bounds=(0.02, 2))
    dose: Span = span(10, 5000, "electrons/angstrom^2", scale="log", bounds=(0.01, 1e7))
    defocus: Span = span(0, 3000, "angstrom", bounds=(0, 1e5))
    overfocus_fraction: float = scalar(0.12, "1", bounds=(0, 1))
    corrected_fraction: float = scalar(0.4, "1", bounds=(0, 1))
    cs_corrected: Span = span(-0.03, 0.03, "millimetre", bounds=(-10, 10))
    cs: Span = span(0.3, 1.2, "millimetre", bounds=(-10, 10))
    focal_spread: Span = span(20, 80, "angstrom", bounds=(0, 1000))
    convergence: Span = span(0.0, 0.4, "milliradian", bounds=(0, 10))
    astigmatism: Span = span(0, 100, "angstrom", bounds=(0, 1e4))
    aperture_fraction: float = scalar(0.8, "1", bounds=(0, 1))
    aperture: Span = span(0.35, 1.0, "1/angstrom", bounds=(0.05, 3))
    absorption_fraction: float = scalar(0.7, "1", bounds=(0, 1))
    absorption_length: Span = span(120, 1500, "angstrom", scale="log", bounds=(10, 1e5))
    blur: Span = span(0.0, 1.0, "angstrom", bounds=(0, 20))
    drift: Span = span(0.0, 2.0, "angstrom", bounds=(0, 50))
    illumination: Span = span(0.0, 0.12, "1", bounds=(0, 0.9))
    mtf_scale: Span = span(0.3, 0.7, "nyquist", bounds=(0.05, 10))
    mtf_power: Span = span(2.0, 3.0, "1", bounds=(0.5, 10))
    mtf_floor: Span = span(0.0, 0.1, "1", bounds=(0, 0.9))
    hot_pixels: Span = span(0, 4, "1", bounds=(0, 1000))


@dataclass(frozen=True)
class Recipe:
    """A whole recipe.

    ``digest`` changes with every number in it, ``wave_digest`` only with those that the stored
    waves depend on: `imaging` can be changed without simulating anew.
    """

    name: str
    field: Field
    particles: Particles
    film: Film
    imaging: Imaging

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """SHA-256 of all numbers."""
        return digest_of(self.to_dict())

    @property
    def wave_digest(self) -> str:
        """SHA-256 of the numbers that the stored waves depend on."""
        return digest_of({k: v for k, v in self.to_dict().items() if k in ("field", "particles", "film")})


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of a dictionary of numbers."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


SECTIONS = {"field": Field, "particles": Particles, "film": Film, "imaging": Imaging}


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def load_recipe(source: str | Path | Mapping[str, Any] | Recipe) -> Recipe:
    """Read and check a recipe.

    Parameters
    ----------
    source : str, Path, mapping or Recipe
        Name of a shipped recipe, path of a YAML file, or its content as a mapping.

    Returns
    -------
    Recipe
        The values that the file leaves out are the defaults of `Field`, `Particles`, `Film`
        and `Imaging`, where their units stand too.

    Raises
    ------
    MissingInputError
        If there is no such recipe.
    InputError
        If the file is no YAML, or a key is unknown, a range empty, or a number out of bounds.

    Examples
    --------
    >>> load_recipe("au-particles").imaging.dose
    Span(low=10.0, high=5000.0, scale='log')
    >>> load_recipe({"name": "low-dose", "imaging": {"dose": [10, 100]}}).imaging.dose.high
    100.0
    """
    if isinstance(source, Recipe):
        return source
    content = dict(source) if isinstance(source, Mapping) else _read(source)
    unknown(content, ["name", *SECTIONS], "the recipe")
    if not isinstance(content.get("name"), str):
        raise InputError(f"the recipe's name is {content.get('name')!r}; expected a line such as 'name: au-particles'")
    sections = {key: _section(kind, content.get(key) or {}, key) for key, kind in SECTIONS.items()}
    return Recipe(content["name"], **sections)


def _read(source: str | Path) -> dict[str, Any]:
    path = FOLDER / f"{source}.yaml" if str(source) in shipped_recipes() else Path(source)
    if not path.is_file():
        raise MissingInputError(
            f"there is no recipe {str(source)!r}; expected one of {shipped_recipes()} or the path of a YAML file"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}; expected keys such as name, field, imaging")
    return content


def unknown(content: Mapping[str, Any], known: list[str], where: str) -> None:
    """Refuse keys that mean nothing, and name the nearest that does."""
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {known}"
            raise InputError(f"{where} has the unknown key {key!r}; {hint}")


def _section(kind: type, content: Mapping[str, Any], where: str) -> Any:
    if not isinstance(content, Mapping):
        raise InputError(f"{where} is {content!r}; expected keys such as {[f.name for f in fields(kind)][:3]}")
    unknown(content, [f.name for f in fields(kind)], where)
    values = {}
    for f in fields(kind):
        read = _span if isinstance(f.default, Span) else _number
        values[f.name] = read(content.get(f.name, f.default), f.default, f.metadata, f"{where}.{f.name}")
    return kind(**values)


def _number(value: Any, _default: float, meta: Mapping[str, Any], where: str) -> float:
    low, high = meta["bounds"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{where} is {value!r}; expected one number from {low} to {high} [{meta['units']}]")
    return float(value)


def _span(value: Any, default: Span, meta: Mapping[str, Any], where: str) -> Span:
    """Read [low, high] or {low, high, scale}."""
    low, high = meta["bounds"]
    expected = f"expected [low, high] within {low} to {high} [{meta['units']}], low not above high"
    if isinstance(value, Span):
        value = [value.low, value.high]
    if isinstance(value, Mapping):
        unknown(value, ["low", "high", "scale"], where)
    else:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise InputError(f"{where} is {value!r}; {expected}")
        value = {"low": value[0], "high": value[1]}
    scale = value.get("scale", default.scale)
    ends = value.get("low"), value.get("high")
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in ends)
    if not numbers or not low <= ends[0] <= ends[1] <= high:
        raise InputError(f"{where} is {list(ends)!r}; {expected}")
    if scale not in SCALES or (scale == "log" and ends[0] <= 0):
        raise InputError(f"{where} is drawn with scale {scale!r} from {ends[0]!r}; expected one of {SCALES}, "
                         f"and a range above 0 for 'log'")
    return Span(float(ends[0]), float(ends[1]), scale)
