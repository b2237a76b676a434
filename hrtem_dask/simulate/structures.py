"""Whole fields of view: particles on, under or at the edge of a support, sheets, vacuum.

Positions are columns (x, y, z) in angstrom, as ASE and abTEM want them; z runs with the beam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .contact import apart, beyond, giving_way, wrapped
from .crystals import Cluster, metal_particle
from .films import BLOCK_HEIGHT, Edge, amorphous_block, carbon_film, draw_edge
from .lattices import lattice_of
from .matter import Particles, Sheet, Support, words
from .oxides import ceria_slab
from .recipe import Recipe
from .sheets import SULPHUR_DISTANCE, disulphide_sheet

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Parts", "Specimen", "assemble", "build_specimen", "draw_parts", "film_blocks", "place_clusters"]

SHEET_GAP = 3.2  # angstrom: between a sheet and a film
BLOCKS = 3
#: a particle that would lose more than this part of its atoms to one it touches is drawn again
LOSS = 0.5
#: a particle beside a support that ends in the field reaches over its edge by at least so much of its radius
GRIP = 0.8


@dataclass(frozen=True, eq=False)
class Specimen:
    """A field of view, periodic in x and y; the atoms of the particles come first.

    Parameters
    ----------
    numbers : ndarray, int, shape (n,)
        Atomic numbers; 0 is a vacant site: no atom, but its column is known.
    positions : ndarray, shape (n, 3)
        (x, y, z) [angstrom].
    box : (float, float, float)
        Size of the cell along x, y, z [angstrom].
    particle : ndarray, int32, shape (n,)
        Particle of each atom from 1; 0 in supports and sheets.
    column : ndarray, int32, shape (n,)
        Column of each atom from 1, counted over the field; 0 for atoms of no column.
    particles : list of dict
        ``x, y, diameter`` [angstrom] and ``atoms`` of each particle, as placed, and what
        `metal_particle` says of it.
    film_thickness : float
        Mean thickness of the support [angstrom], 0 where there is none.
    support : str
        carbon, CeO2 or none.
    sheet : dict
        What `disulphide_sheet` says of the sheet; empty where there is none.
    """

    numbers: np.ndarray
    positions: np.ndarray
    box: tuple[float, float, float]
    particle: np.ndarray
    column: np.ndarray
    particles: list[dict[str, Any]] = field(default_factory=list)
    film_thickness: float = 0.0
    support: str = "none"
    sheet: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def gold(self) -> np.ndarray:
        """Positions of the atoms of the particles, of whatever metal."""
        return self.positions[(self.particle > 0) & (self.numbers > 0)]

    @property
    def gold_numbers(self) -> np.ndarray:
        """Atomic numbers of the atoms in `gold`."""
        return self.numbers[(self.particle > 0) & (self.numbers > 0)]

    @property
    def carbon(self) -> np.ndarray:
        """Positions of all atoms that belong to no particle."""
        return self.positions[(self.particle == 0) & (self.numbers > 0)]

    def atoms(self) -> Atoms:
        """Return the atoms, without vacant sites, for ASE and abTEM."""
        from ase import Atoms

        there = self.numbers > 0
        return Atoms(numbers=self.numbers[there], positions=self.positions[there], cell=self.box, pbc=True)


def build_specimen(recipe: Recipe, rng: np.random.Generator, blocks: list[np.ndarray]) -> Specimen:
    """Draw one field of view: particles on, under, in or at the edge of a support, a sheet, or a support alone.

    Parameters
    ----------
    recipe : Recipe
    rng : numpy.random.Generator
    blocks : list of ndarray
        Periodic blocks of carbon from `film_blocks`.

    Returns
    -------
    Specimen
    """
    return draw_parts(recipe, rng, blocks).specimen()


@dataclass(frozen=True, eq=False)
class Parts:
    """What a field is assembled from; in a movie the particles move and the rest stays."""

    particles: list[Cluster]
    base: list[Cluster]
    box: float
    thickness: float
    support: str
    sheet: dict[str, Any] | None = None

    def specimen(self, particles: Sequence[Cluster] | None = None,
                 heights: tuple[float, float] | None = None) -> Specimen:
        """Assemble the field with its own particles, or with these; `heights` as in `assemble`."""
        return assemble(self.particles if particles is None else particles, self.base, self.box,
                        thickness=self.thickness, support=self.support, sheet=self.sheet, heights=heights)


def draw_parts(recipe: Recipe, rng: np.random.Generator, blocks: list[np.ndarray]) -> Parts:
    """Draw what `build_specimen` assembles."""
    box, film, support = recipe.field.box, recipe.film, recipe.support
    # what recipes could not say at first is drawn from a generator of its own: old sets stay as they are
    extra = rng.spawn(1)[0]
    kind, has_sheet = one_of(support.kind, extra), recipe.sheet.material != "none"
    thickness = 0.0 if rng.random() < film.absent_fraction else film.thickness.draw(rng)
    roughness, length = film.roughness.draw(rng), film.roughness_length.draw(rng)
    empty = rng.random() < recipe.particles.empty_fraction
    if empty and not thickness and not has_sheet:
        thickness = film.thickness.draw(rng)
    base: list[Cluster] = []
    if kind == "carbon" and thickness:
        base.append(Cluster.of(carbon_film(blocks, box, thickness, rng, roughness=roughness,
                                           roughness_length=length), 6))
    elif kind == "CeO2":
        thickness = support.thickness.draw(extra)
        tilt = (support.tilt.low, support.tilt.high)
        base.append(ceria_slab((box, box), thickness, extra, zone_axis=one_of(support.zone_axis, extra), tilt=tilt,
                               grains=support.grains.draw_integer(extra)))
    else:
        kind, thickness = "none", 0.0
    edge = None
    if base and extra.random() < support.edge_fraction:
        edge = draw_edge((box, box), support.cover.draw(extra), extra)
        base = [b.kept(edge.outside(b.positions) < 0) for b in base]
    clusters = [] if empty else place_clusters(recipe.particles, box, thickness, rng, edge=edge,
                                               support=replace(support, kind=kind))
    sheet = draw_sheet(recipe.sheet, (box, box), thickness, extra) if has_sheet else None
    if sheet:
        clusters = [c if c.info["place"] == "edge" else beyond(c, sheet, pair(box), thickness) for c in clusters]
    return Parts(clusters, [*base, sheet] if sheet else base, box, thickness, kind, sheet.info if sheet else None)


def one_of(text: str, rng: np.random.Generator) -> str:
    """Draw one of the words of a key; a single one needs no draw."""
    options = words(text)
    return options[0] if len(options) == 1 else options[rng.integers(len(options))]


def draw_sheet(spec: Sheet, box: tuple[float, float], thickness: float, rng: np.random.Generator) -> Cluster:
    """Draw a sheet, on either side of the film."""
    outline = ("hole", "flake")[rng.integers(2)] if rng.random() < spec.edge_fraction else ""
    sheet = disulphide_sheet(
        box, rng, single_vacancies=spec.single_vacancies.draw(rng), double_vacancies=spec.double_vacancies.draw(rng),
        rotation=(spec.rotation.low, spec.rotation.high), tilt=spec.tilt.draw(rng), strain=spec.strain,
        thermal=spec.thermal_displacement.draw(rng), outline=outline)
    above = thickness + SHEET_GAP + SULPHUR_DISTANCE / 2
    z = above if rng.random() < 0.5 else thickness - above
    return sheet.moved(sheet.positions + [0, 0, z])


def assemble(particles: Sequence[Cluster | np.ndarray], base: Cluster | np.ndarray | Sequence[Cluster],
             box: float | tuple[float, float], infos: list[dict] | None = None, thickness: float = 0.0, *,
             support: str = "carbon", sheet: dict | None = None,
             heights: tuple[float, float] | None = None) -> Specimen:
    """Put particles and what carries them into one periodic cell, where no two bodies come too close.

    Of two particles that touch, the later one gives way; a support gives way to particles and sheets.

    Parameters
    ----------
    particles : sequence of Cluster or ndarray
        Bare positions are gold.
    base : Cluster or ndarray, or a sequence of Cluster
        Films, slabs, sheets; bare positions are carbon.
    box : float or (float, float)
        Field (x, y) [angstrom].
    infos : list of dict, optional
        What to say of each particle; by default the clusters' own ``info``.
    thickness : float
        Of the support [angstrom].
    support, sheet
        As in `Specimen`.
    heights : (float, float), optional
        Lowest and highest z that the cell is made for [angstrom]; by default those of the atoms.
        Configurations of one movie share them: its film then stays where it is.

    Returns
    -------
    Specimen
    """
    bx, by = pair(box)
    bases = [base] if isinstance(base, Cluster | np.ndarray) else list(base)
    clusters: list[Cluster] = []
    for p in particles:
        clusters.append(apart(p if isinstance(p, Cluster) else Cluster.of(p, 79), clusters, (bx, by)))
    infos = [c.info | ({"atoms": len(c)} if "atoms" in c.info else {}) for c in clusters] if infos is None else infos
    clusters = [wrapped(c, (bx, by)) for c in clusters]
    bases = giving_way([wrapped(b if isinstance(b, Cluster) else Cluster.of(b, 6), (bx, by)) for b in bases if len(b)],
                       clusters, (bx, by))
    parts = [*clusters, *bases] or [Cluster.of(np.zeros((0, 3)), 0)]
    column, last = [], 0
    for p in parts:
        column.append(np.where(p.column > 0, p.column + last, 0).astype(np.int32))
        last = max(last, int(column[-1].max(initial=0)))
    positions = np.concatenate([p.positions for p in parts])
    low, high = heights or ((positions[:, 2].min(), positions[:, 2].max()) if len(positions) else (0.0, 0.0))
    ids = [*range(1, len(clusters) + 1), *[0] * (len(parts) - len(clusters))]
    return Specimen(
        np.concatenate([p.numbers for p in parts]), positions + [0.0, 0.0, 2.0 - low],
        (bx, by, float(high - low) + 4.0), np.repeat(ids, [len(p) for p in parts]).astype(np.int32),
        np.concatenate(column), infos, thickness,
        support if thickness else "none", sheet or {})


def film_blocks(recipe: Recipe, seed: int, count: int = BLOCKS) -> list[np.ndarray]:
    """Return the periodic blocks of carbon that all films of one set are cut from; none where none is needed."""
    box = recipe.field.box
    if "carbon" not in words(recipe.support.kind):
        return []
    return [amorphous_block((box, box, BLOCK_HEIGHT), recipe.film.density, np.random.default_rng([seed, 77, i]))
            for i in range(count)]


def place_clusters(spec: Particles, box: float | tuple[float, float], thickness: float, rng: np.random.Generator, *,
                   support: Support | None = None, edge: Edge | None = None) -> list[Cluster]:
    """Place particles until the drawn coverage is reached; they meet the border as they fall.

    Parameters
    ----------
    spec : Particles
    box : float or (float, float)
        Field (x, y) [angstrom].
    thickness : float
        Of the support, whose lower side is z = 0 [angstrom]; 0 for none.
    rng : numpy.random.Generator
    support : Support, optional
        Where particles lie on it.
    edge : Edge, optional
        Where it ends: particles then lie on it or hold on to its edge.

    Returns
    -------
    list of Cluster
        ``info`` has ``x, y, diameter`` [angstrom], ``atoms``, and ``place``: on, under, edge.
    """
    support, size = support or Support(), np.array(pair(box))
    goal, most = spec.coverage.draw(rng) * size.prod(), spec.number.draw_integer(rng)
    thermal, extra = spec.thermal_displacement.draw(rng), rng.spawn(1)[0]
    evenness = spec.evenness.draw(extra) if spec.evenness.high else 0.0
    placed: list[Cluster] = []
    for _ in range(20 * most):
        infos = [c.info for c in placed]
        if len(placed) == most or (placed and sum(q["diameter"] ** 2 for q in infos) * np.pi / 4 > goal):
            break
        d = spec.diameter.draw(rng)
        centre = rng.random(2) * size
        at_edge = edge is not None and extra.random() < support.at_edge_fraction
        if edge is not None and at_edge:
            centre = edge.place(extra.uniform(-0.5, 0.6) * d / 2, extra)
        gap = -0.3 * d if rng.random() < spec.touching_fraction else rng.uniform(1, 8)
        if not is_free(centre, d, gap, infos, size) or (edge is not None and edge.outside(centre) > GRIP * d / 2):
            continue
        p = draw_particle(spec, d, rng, extra, evenness)
        z, place = height_of(p.positions[:, 2], thickness, at_edge, support, rng, extra)
        p = p.moved(p.positions + [*centre, z] + rng.normal(0, thermal, p.positions.shape))
        whole, p = len(p), apart(p, placed, pair(box))
        if len(p) < (1 - LOSS) * whole:
            continue
        info = {"x": float(centre[0]), "y": float(centre[1]), "diameter": float(d), "atoms": len(p), "place": place}
        placed.append(replace(p, info=info | p.info))
    return placed


def draw_particle(spec: Particles, diameter: float, rng: np.random.Generator, extra: np.random.Generator,
                  evenness: float = 0.0) -> Cluster:
    """Draw one particle of this diameter around the origin."""
    elongation, height = spec.elongation.draw(rng), spec.height.draw(rng)
    middling = np.sqrt(spec.diameter.low * spec.diameter.high)
    height = min(height * (middling / diameter) ** evenness, max(height, 1.0)) if evenness else height
    twin, species, axis = rng.random() < spec.twin_fraction, one_of(spec.species, extra), one_of(spec.zone_axis, extra)
    return metal_particle(
        diameter, rng, elongation=elongation, height=height, twin=twin, species=species, shape=spec.shape,
        zone_axis=axis, tilt=tilt_range(spec, species, axis, height * diameter),
        steps=spec.steps.draw_integer(extra), adatoms=spec.adatoms.draw(extra))


def tilt_range(spec: Particles, species: str, axis: str, thickness: float) -> tuple[float, float]:
    """Range of tilts [degree] that keeps the columns of a particle of this thickness [angstrom] apart."""
    low, high = spec.tilt.low, spec.tilt.high
    if axis == "any" or spec.smear >= 1:
        return low, high
    most = np.rad2deg(np.arcsin(min(2 * spec.smear * lattice_of(species).column_spacing(axis) / thickness, 1.0)))
    return min(low, most), min(high, most)


def height_of(z: np.ndarray, thickness: float, at_edge: bool, support: Support, rng: np.random.Generator,
              extra: np.random.Generator) -> tuple[float, str]:
    """Draw how far to lift a particle whose atoms have these heights, and where that puts it."""
    soft = thickness and support.kind != "CeO2"
    sunk = rng.uniform(-0.1, 0.5) * np.ptp(z) if thickness else 0.0
    sunk = sunk if soft else 0.0
    under = rng.random() < support.under_fraction
    if at_edge:
        return float(extra.uniform(0, thickness) - (z.min() + z.max()) / 2), "edge"
    if under:
        return -2.0 - z.max() + sunk, "under" if thickness else "free"
    return thickness + 2.0 - z.min() - sunk, "on" if thickness else "free"


def is_free(centre: np.ndarray, diameter: float, gap: float, particles: list[dict], box: float | np.ndarray) -> bool:
    """Whether a disc here keeps its gap (negative: may overlap) to all others, across borders too."""
    for q in particles:
        d = np.abs(centre - [q["x"], q["y"]])
        if np.hypot(*np.minimum(d, box - d)) < (diameter + q["diameter"]) / 2 + gap:
            return False
    return True


def pair(box: float | tuple[float, float]) -> tuple[float, float]:
    """Field (x, y) of a side, or of both."""
    return (box[0], box[1]) if isinstance(box, tuple) else (box, box)
