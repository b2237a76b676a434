"""What a field of view holds: the sections particles, film, support and sheet of a recipe."""
# `span`, `scalar` and `choice` declare fields as dataclasses.field does
# ruff: noqa: RUF009

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import InputError
from .keys import Span, choice, scalar, span
from .lattices import parse_zone_axis, structure_of

__all__ = ["Film", "Particles", "Sheet", "Support", "check_matter", "words"]

SUPPORTS = ("carbon", "CeO2", "none")


def words(text: str) -> tuple[str, ...]:
    """Split "Au, Pt" into its words."""
    return tuple(w.strip() for w in text.split(",") if w.strip())


def check_axes(text: str, where: str) -> None:
    """Refuse what is no direction, and say under which key."""
    for axis in words(text):
        try:
            parse_zone_axis(axis)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Particles:
    """Metal particles: how many, of what, how large, in what shape and orientation, where."""

    empty_fraction: float = scalar(0.08, "1", "fields without any particle", bounds=(0, 1))
    number: Span = span(1, 20, "1", "at most so many in a field", bounds=(0, 1000),
                        whole=True)
    coverage: Span = span(0.03, 0.40, "1", "particles are placed until their discs cover this part of the field",
                          bounds=(0, 0.9))
    diameter: Span = span(10, 80, "angstrom", "mean diameter in projection", scale="log", bounds=(4, 1000))
    elongation: Span = span(1.0, 1.5, "1", "longest over shortest axis in the plane", bounds=(1, 4))
    height: Span = span(0.5, 1.1, "1", "height over mean diameter", bounds=(0.1, 3))
    evenness: Span = span(0, 0, "1", "of the heights in one field: 0: as drawn; 1: large particles are as high as "
                          "those of middling diameter", bounds=(0, 1))
    twin_fraction: float = scalar(0.25, "1", "particles with one {111} twin plane; fcc only", bounds=(0, 1))
    touching_fraction: float = scalar(0.15, "1", "particles that may overlap a neighbour in projection", bounds=(0, 1))
    thermal_displacement: Span = span(0.07, 0.16, "angstrom", "rms along one axis", bounds=(0, 1))
    species: str = choice("Au", (), "fcc, bcc or hcp metals, such as \"Au\" or \"Au, Pt\": one is drawn a particle",
                          many=True)
    shape: str = choice("ellipsoid", ("ellipsoid", "wulff"), "ellipsoids cut by facets and across the beam, or "
                        "polyhedra of low-index facets at random distances")
    zone_axis: str = choice("any", (), "axis near the beam, such as \"110\" or \"110, 100, any\": one is drawn a "
                            "particle", many=True)
    tilt: Span = span(0.0, 0.0, "degree", "of a named zone axis from the beam", bounds=(0, 90))
    smear: float = scalar(1.0, "1", "how far tilt may move the end of a column, in distances to the next one: thick "
                          "particles are tilted no further (0.4 and more: no columns are listed); 1: as drawn",
                          bounds=(0.01, 1))
    steps: Span = span(0, 0, "1", "facets whose outermost layer covers only a part of them", bounds=(0, 20),
                       whole=True)
    adatoms: Span = span(0.0, 0.0, "1", "added atoms over surface atoms", bounds=(0, 1))

    def __post_init__(self) -> None:
        if not words(self.species) or not words(self.zone_axis):
            raise InputError(f"particles.species is {self.species!r} and zone_axis {self.zone_axis!r}; expected at "
                             f"least one each, such as \"Au\" and \"any\"")
        for species in words(self.species):
            structure_of(species)
        check_axes(self.zone_axis, "particles.zone_axis")


@dataclass(frozen=True)
class Film:
    """The amorphous carbon film."""

    absent_fraction: float = scalar(0.05, "1", "fields without a film", bounds=(0, 1))
    thickness: Span = span(20, 120, "angstrom", "mean thickness", bounds=(1, 2000))
    density: float = scalar(0.09, "atoms/angstrom^3", "of carbon", bounds=(0.01, 0.12))
    roughness: Span = span(0.0, 6.0, "angstrom", "rms height of either surface", bounds=(0, 100))
    roughness_length: Span = span(8, 40, "angstrom", "correlation length of the surface", scale="log",
                                  bounds=(2, 1000))


@dataclass(frozen=True)
class Support:
    """What the particles lie on, and where they lie on it."""

    kind: str = choice("carbon", (), "carbon (see film), CeO2 or none, or several: one is drawn a field",
                       many=True)
    thickness: Span = span(20, 60, "angstrom", "of a CeO2 slab", bounds=(5, 500))
    zone_axis: str = choice("any", (), "axis of CeO2 near the beam; several: one is drawn a field", many=True)
    tilt: Span = span(0.0, 0.0, "degree", "of a named zone axis from the beam", bounds=(0, 90))
    grains: Span = span(1, 1, "1", "grains of CeO2 in a field", bounds=(1, 50), whole=True)
    under_fraction: float = scalar(0.4, "1", "particles under the support, not on it", bounds=(0, 1))
    edge_fraction: float = scalar(0.0, "1", "fields in which the support ends", bounds=(0, 1))
    cover: Span = span(0.35, 0.65, "1", "part of such a field that the support covers", bounds=(0.05, 0.95))
    at_edge_fraction: float = scalar(0.6, "1", "particles of such a field that sit at the edge", bounds=(0, 1))

    def __post_init__(self) -> None:
        unknown = [k for k in words(self.kind) if k not in SUPPORTS]
        if unknown or not words(self.kind):
            near = [s for s in SUPPORTS for k in unknown if k.lower() == s.lower()]
            raise InputError(f"support.kind is {self.kind!r}; expected {', '.join(SUPPORTS)}, or several of them"
                             + (f"; did you mean {near[0]!r}?" if near else ""))
        if not words(self.zone_axis):
            raise InputError("support.zone_axis is empty; expected any, or a direction such as \"111\"")
        check_axes(self.zone_axis, "support.zone_axis")


@dataclass(frozen=True)
class Sheet:
    """A two-dimensional crystal that fills the field."""

    material: str = choice("none", ("none", "MoS2"), "of the sheet")
    single_vacancies: Span = span(0.0, 0.0, "1", "sulphur columns that lack one atom", bounds=(0, 1))
    double_vacancies: Span = span(0.0, 0.0, "1", "sulphur columns that lack both atoms", bounds=(0, 1))
    rotation: Span = span(0.0, 60.0, "degree", "of a lattice vector from the x axis, as near as the field allows",
                          bounds=(-360, 360))
    tilt: Span = span(0.0, 3.0, "degree", "of the sheet out of the plane", bounds=(0, 30))
    strain: float = scalar(0.01, "1", "how far the lattice may be stretched to repeat with the field",
                           bounds=(0, 0.1))
    edge_fraction: float = scalar(0.0, "1", "fields in which the sheet has a hole, or is a flake", bounds=(0, 1))
    thermal_displacement: Span = span(0.05, 0.08, "angstrom", "rms along one axis", bounds=(0, 1))


def check_matter(box: float, particles: Particles, sheet: Sheet) -> None:
    """Refuse what does not fit into a field of this size [angstrom].

    Raises
    ------
    InputError
        If a particle is larger than the field, or a sheet lacks more sulphur than it has.
    """
    longest = particles.diameter.high * particles.elongation.high**0.5
    if particles.number.high >= 1 and particles.empty_fraction < 1 and longest > box:
        raise InputError(f"the largest particle is {longest:g} angstrom long (particles.diameter up to "
                         f"{particles.diameter.high:g}, elongation up to {particles.elongation.high:g}), larger than "
                         f"the field of {box:g} angstrom; expected a smaller diameter or a larger field.box")
    if sheet.single_vacancies.high + sheet.double_vacancies.high > 1:
        raise InputError(f"sheet.single_vacancies and double_vacancies reach {sheet.single_vacancies.high:g} and "
                         f"{sheet.double_vacancies.high:g}; expected at most 1 together")
