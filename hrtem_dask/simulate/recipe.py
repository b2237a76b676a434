"""Recipes: what is simulated, as a YAML file with units, checked before anything runs."""
# `span`, `scalar` and `choice` declare fields as dataclasses.field does
# ruff: noqa: RUF009

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import InputError, MissingInputError
from ..kernels.crystal import d_spacings
from .keys import Span, choice, describe_section, read_section, scalar, span, unknown
from .matter import Film, Particles, Sheet, Support, check_matter, words

__all__ = ["Field", "Film", "Imaging", "Particles", "Recipe", "Sheet", "Span", "Support",
           "describe_recipe", "load_recipe", "shipped_recipes"]

FOLDER = Path(__file__).parent / "recipes"
SHEET_LATTICE = 3.16  # angstrom
MERGE = "tag:yaml.org,2002:merge"  # of the key "<<" in YAML


@dataclass(frozen=True)
class Field:
    """One simulated field of view and its multislice; periodic in y and x."""

    box: float = scalar(192.0, "angstrom", "side of the field", bounds=(20, 2000))
    wave_sampling: float = scalar(0.3, "angstrom", "of the multislice, whose antialiasing keeps 2/3 of Nyquist",
                                  bounds=(0.02, 1))
    stored_sampling: float = scalar(0.5, "angstrom", "of the stored wave, which keeps all up to Nyquist",
                                    bounds=(0.02, 1.5))
    slice_thickness: float = scalar(2.0, "angstrom", "of the multislice", bounds=(0.2, 5))
    energy: float = scalar(300.0, "kV", "of the electrons", bounds=(20, 1500))

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
class Imaging:
    """Microscope and camera, drawn anew for every image."""

    pixel_size: Span = span(0.1, 0.8, "angstrom", "of the camera", scale="log", bounds=(0.02, 2))
    dose: Span = span(10, 5000, "electrons/angstrom^2", "of one image; a focal series shares it", scale="log",
                      bounds=(0.01, 1e7))
    defocus: Span = span(0, 3000, "angstrom", "underfocus; negative is overfocus", bounds=(-1e5, 1e5))
    overfocus_fraction: float = scalar(0.12, "1", "images with the other sign", bounds=(0, 1))
    overfocus_part: float = scalar(1 / 3, "1", "their range, in parts of the other one", bounds=(0, 10))
    corrected_fraction: float = scalar(0.4, "1", "images from an aberration-corrected microscope", bounds=(0, 1))
    cs_corrected: Span = span(-0.03, 0.03, "millimetre", "spherical aberration, corrected", bounds=(-10, 10))
    cs: Span = span(0.3, 1.2, "millimetre", "spherical aberration of the others", bounds=(-10, 10))
    focal_spread: Span = span(20, 80, "angstrom", "1/e width", bounds=(0, 1000))
    convergence: Span = span(0.0, 0.4, "milliradian", "1/e half angle of the illumination", bounds=(0, 10))
    astigmatism: Span = span(0, 100, "angstrom", "two-fold, C12, in any direction", bounds=(0, 1e4))
    coma: Span = span(0, 0, "angstrom", "residual axial coma, C21, in any direction", bounds=(0, 1e5))
    aperture_fraction: float = scalar(0.8, "1", "images with an objective aperture", bounds=(0, 1))
    aperture: Span = span(0.35, 1.0, "1/angstrom", "its radius", bounds=(0.05, 3))
    absorption_fraction: float = scalar(0.7, "1", "images where the particles also absorb", bounds=(0, 1))
    absorption_length: Span = span(120, 1500, "angstrom", "intensity falls by 1/e in so much metal", scale="log",
                                   bounds=(10, 1e5))
    blur: Span = span(0.0, 1.0, "angstrom", "sigma of the vibration", bounds=(0, 20))
    drift: Span = span(0.0, 2.0, "angstrom", "length of a straight drift during the exposure", bounds=(0, 50))
    illumination: Span = span(0.0, 0.12, "1", "change of the beam's intensity across the frame", bounds=(0, 0.9))
    mtf_scale: Span = span(0.3, 0.7, "nyquist", "MTF = floor + (1 - floor) / (1 + (k / scale)^power)",
                           bounds=(0.05, 10))
    mtf_power: Span = span(2.0, 3.0, "1", "how steeply the MTF falls", bounds=(0.5, 10))
    mtf_floor: Span = span(0.0, 0.1, "1", "what the MTF falls to", bounds=(0, 0.9))
    hot_pixels: Span = span(0, 4, "1", "in a frame", bounds=(0, 1000), whole=True)
    resolve: int = scalar(2, "1", "largest lattice spacings of every crystal that all samplings must hold; 0: none",
                          bounds=(0, 10))
    mtf: str = choice("", (), "file of a fitted MTF (hrtem-dask fit-mtf) instead of the three ranges above")
    counting_fraction: float = scalar(0.0, "1", "images of a counting camera, whose noise is white", bounds=(0, 1))
    read_noise: Span = span(0, 0, "electron", "root mean square of the read-out noise", bounds=(0, 1000))
    gain: Span = span(0, 0, "counts/electron", "of the camera, whose counts are then whole numbers; 0: not digitised",
                      bounds=(0, 1e5))
    added_film_fraction: float = scalar(1.0, "1", "images with an added film", bounds=(0, 1))
    added_film: Span = span(0, 0, "angstrom", "thickness of amorphous carbon added to the field, other atoms in each "
                            "image", bounds=(0, 1000))
    added_film_height: Span = span(0, 0, "angstrom", "of that film above the plane of the wave", bounds=(-5000, 5000))
    veil: Span = span(0, 0, "1", "part of the electrons that carry no image", bounds=(0, 0.95))
    unevenness: Span = span(0, 0, "1", "rms relative change of the intensity, as by film of uneven thickness",
                            bounds=(0, 0.9))
    unevenness_length: Span = span(30, 200, "angstrom", "over which that changes", scale="log", bounds=(2, 1e5))
    magnification_error: Span = span(0, 0, "1", "of the pixel size that an example is given, relative",
                                     bounds=(-0.5, 0.5))
    series: int = scalar(1, "1", "images of one focal series, at equal steps about the defocus", bounds=(1, 15))
    series_step: Span = span(50, 50, "angstrom", "from image to image of a focal series", bounds=(1, 1e4))
    series_shift: Span = span(0, 0, "angstrom", "rms displacement left between the images of a focal series",
                              bounds=(0, 50))


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
    support: Support = Support()
    sheet: Sheet = Sheet()

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
        return digest_of({k: v for k, v in self.to_dict().items() if k not in ("name", "imaging")})


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of a dictionary of numbers."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


SECTIONS = {"field": Field, "particles": Particles, "film": Film, "support": Support, "sheet": Sheet,
            "imaging": Imaging}


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
        The values that the file leaves out are the defaults of `Field`, `Particles`, `Film`,
        `Support`, `Sheet` and `Imaging`, where their units stand too.

    Raises
    ------
    MissingInputError
        If there is no such recipe.
    InputError
        If the file is no YAML, a key is unknown, a unit does not fit, a range is empty, a number is
        out of bounds, a particle is larger than the field, or a sampling loses a lattice spacing.

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
    given = {key: value for key, value in content.items() if value is not None}  # "film:" alone means its defaults
    sections = {key: read_section(kind, given.get(key, {}), key) for key, kind in SECTIONS.items()}
    check_matter(sections["field"].box, sections["particles"], sections["sheet"])
    folder = Path() if isinstance(source, Mapping) else Path(source).parent
    sections["imaging"] = replace(sections["imaging"], mtf=_mtf(sections["imaging"].mtf, folder))
    recipe = Recipe(content["name"], **sections)
    check_sampling(recipe)
    return recipe


def check_sampling(recipe: Recipe) -> None:
    """Refuse samplings that cannot hold the lattices of the recipe's crystals.

    Raises
    ------
    InputError
        If one of the ``imaging.resolve`` largest spacings of a crystal is lost by the multislice, by
        the stored wave, or by the largest pixels; the message says which.
    """
    field, imaging = recipe.field, recipe.imaging
    limits = {"field.wave_sampling": (field.wave_sampling, 3, ", of which abTEM's multislice keeps 2/3,"),
              "field.stored_sampling": (field.stored_sampling, 2, ""),
              "imaging.pixel_size": (imaging.pixel_size.high, 2, "")}
    crystals = crystals_of(recipe)
    for key, (step, factor, note) in limits.items():
        lost = {name: [d for d in spacings[:imaging.resolve] if d <= factor * step]
                for name, spacings in crystals.items()}
        if any(lost.values()):
            said = "; ".join(f"{name}: d = {', '.join(f'{d:.3f}' for d in ds)} angstrom"
                             for name, ds in lost.items() if ds)
            most = min(d for ds in lost.values() for d in ds) / factor
            raise InputError(f"{key} reaches {step:g} angstrom, too coarse for the lattice: its Nyquist frequency"
                             f"{note} ends at d = {factor * step:g} angstrom, and these spacings are lost: {said}. "
                             f"Expected less than {most:.3f} angstrom, or imaging.resolve: 0 where no lattice matters")


def crystals_of(recipe: Recipe) -> dict[str, list[float]]:
    """Largest lattice spacings [angstrom] of the crystals that a recipe can place."""
    names = words(recipe.particles.species) if recipe.particles.number.high >= 1 and \
        recipe.particles.empty_fraction < 1 else ()
    found = {name: d_spacings(name, 0.6, 4.0).tolist() for name in names}
    if "CeO2" in words(recipe.support.kind):
        found["CeO2"] = d_spacings("CeO2", 0.8, 4.0).tolist()
    if recipe.sheet.material == "MoS2":
        found["MoS2 sheet"] = [SHEET_LATTICE * (0.75 / n) ** 0.5 for n in (1, 3, 4, 7, 9, 12, 13)]
    return found


def _mtf(text: str, folder: Path) -> str:
    """Curve of a fitted MTF as JSON, whatever becomes of its file later."""
    if not text:
        return text
    from ..detector.mtf import MTF

    if text.lstrip().startswith("{"):
        MTF.from_json(text)  # raises where it is none
        return text
    return replace(MTF.from_json(folder / text), spectrum=None, covariance=None).to_json()


class _Loader(yaml.SafeLoader):
    """YAML that does not let the second of two equal keys win silently."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put in what "<<" merges, after a look at the keys as written: those that are merged in may be replaced.

        This comes before a mapping is made, or merged into another one, whichever is first.
        """
        if not getattr(node, "looked_at", False):
            node.looked_at = True
            # a merge key has no value that could be constructed
            keys = [key.value if key.tag == MERGE else self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for i, key in enumerate(keys) if key in keys[:i]]
            if twice:
                raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} stands there twice",
                                                        node.start_mark)
        super().flatten_mapping(node)


def _read(source: str | Path) -> dict[str, Any]:
    path = FOLDER / f"{source}.yaml" if str(source) in shipped_recipes() else Path(source)
    if not path.is_file():
        raise MissingInputError(
            f"there is no recipe {str(source)!r}; expected one of {shipped_recipes()} or the path of a YAML file"
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise InputError(f"{path} holds {found}; expected keys such as name, field, imaging")
    return content


def describe_recipe(recipe: Recipe) -> str:
    """Say of every key of a recipe what it holds, in which unit, what is allowed, and what it means.

    Examples
    --------
    >>> print(describe_recipe(load_recipe("au-particles")).splitlines()[1])
    field.box                      192                    angstrom              20 to 2000            side of the field
    """
    rows = [row for key in SECTIONS for row in describe_section(getattr(recipe, key), key)]
    head = f"recipe {recipe.name!r}: key, value or range, unit, allowed values, meaning"
    return "\n".join([head, *(f"{k:<30} {v:<22} {u or '-':<21} {a:<21} {about}" for k, v, u, a, about in rows)])
