"""What moves in a simulated movie.

A `Motion` makes a `Scene` of a recipe: a number of distinct configurations of atoms, each worth one
exit wave, and the configuration that each frame shows. `hrtem_dask.simulate.movies` makes the
rest from it: waves, frames, masks, tables. Whatever can say which atoms are where can be a
movie: `Wander` and `Rock` move the particles of any recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
import xarray as xr
from scipy.spatial.transform import Rotation

from ..core.checks import check_number
from ..core.errors import InputError
from .crystals import Cluster
from .keys import Span
from .lattices import COLUMN_AXES, family_of, lattice_of, parse_zone_axis
from .matter import words
from .recipe import Field, Recipe
from .structures import Parts, Specimen, draw_parts, film_blocks

__all__ = ["Motion", "MovingParticles", "Rock", "Scene", "Wander", "zone_axis_of"]

TOLERANCE = 2.0  # degree
PLACE = {axis: {"units": "angstrom", "place": axis} for axis in "yx"}


class Scene(Protocol):
    """What a movie shows.

    Scenes travel to the workers with every task: they are small, and what is large is built where
    it is needed.

    Attributes
    ----------
    field : Field
        Size of the periodic cell, energy and sampling of the waves.
    index : ndarray, int, shape (frame,)
        Configuration of each frame. Configurations are counted from 0 to ``index.max()``.
    """

    field: Field
    index: np.ndarray

    def specimen(self, k: int) -> Specimen:
        """Build configuration k; the same atoms in whatever process."""
        ...

    def states(self) -> dict[str, xr.Variable]:
        """Return what is true of the configurations, as variables of the movie's truth.

        A variable whose first dim is ``configuration`` becomes one of ``frame``; others stay as they
        are. Attributes ``place: y`` or ``place: x`` mark positions in the cell [angstrom]: they are
        given in the coordinates of each frame, drift and all; ``reference: y`` in those of the first frame.
        """
        ...


class Motion(Protocol):
    """How the atoms of a recipe move."""

    def scene(self, recipe: Recipe, seed: int, n_frames: int, frame_time: float) -> Scene:
        """Make the scene of a movie of so many frames, one every `frame_time` seconds."""
        ...


@dataclass(frozen=True)
class Wander:
    """Particles of any orientation that turn and wander: both are random walks without a goal.

    Parameters
    ----------
    turn : float
        Standard deviation of a step's rotation, about a random axis [degree].
    wander : float
        Standard deviation of a step in the plane, along one axis [angstrom].
    frames_per_wave : int
        Frames between two steps.
    tolerance : float
        Tilt up to which a particle counts as on a zone axis [degree].
    """

    turn: float = 4.0
    wander: float = 0.8
    frames_per_wave: int = 4
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        check_motion(self, ("turn", "wander", "tolerance"), ("frames_per_wave",))

    def scene(self, recipe: Recipe, seed: int, n_frames: int, frame_time: float) -> MovingParticles:
        """Make the scene; all particles step together."""
        recipe = filled(recipe)
        count = len(parts_of(recipe, seed).particles)
        still = self.turn == self.wander == 0 or not count
        steps = 1 if still else -(-n_frames // self.frames_per_wave)
        rng = np.random.default_rng([seed, 7])
        turns, moves = [Rotation.identity(count)] if count else [], np.zeros((steps, count, 2))
        for k in range(1, steps):
            turns.append(Rotation.from_rotvec(rng.normal(0, self.turn / np.sqrt(3), (count, 3)), degrees=True)
                         * turns[-1])
            moves[k] = moves[k - 1] + rng.normal(0, self.wander, (count, 2))
        index = np.zeros(n_frames, int) if still else np.arange(n_frames) // self.frames_per_wave
        vectors = np.array([t.as_rotvec() for t in turns]).reshape(steps, count, 3)
        return MovingParticles(recipe, seed, index, vectors, moves, self.tolerance)


@dataclass(frozen=True)
class Rock:
    """Particles that rock about a zone axis, into it and out of it, and wander slowly.

    The two tilts across the beam are Ornstein-Uhlenbeck processes about 0, drawn exactly at each
    step; the rotation in the plane and the position are random walks.

    Parameters
    ----------
    tilt : float
        Root mean square angle between zone axis and beam [degree].
    time : float
        Correlation time of the tilt [second].
    spin : float
        Rotation in the plane, standard deviation after one second [degree].
    wander : float
        Displacement along one axis, standard deviation after one second [angstrom].
    frames_per_wave : int
        Frames between two steps.
    n_waves : int, optional
        At most so many configurations: a longer movie runs through them back and forth.
    zone_axis : str
        Such as "110", or several: one is drawn a particle. By default the recipe's, or "110"
        where that has "any".
    tolerance : float
        Tilt up to which a particle counts as on a zone axis [degree].
    """

    tilt: float = 3.0
    time: float = 5.0
    spin: float = 0.5
    wander: float = 0.2
    frames_per_wave: int = 4
    n_waves: int | None = None
    zone_axis: str = ""
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        check_motion(self, ("tilt", "spin", "wander", "tolerance"), ("frames_per_wave", "n_waves"))
        check_number("Rock.time", self.time, "second", above=0)
        if not isinstance(self.zone_axis, str):
            raise InputError(f"Rock.zone_axis is {self.zone_axis!r}; expected text, as \"110\"")
        for axis in words(self.zone_axis):
            parse_zone_axis(axis)

    def scene(self, recipe: Recipe, seed: int, n_frames: int, frame_time: float) -> MovingParticles:
        """Make the scene; every particle rocks for itself."""
        named = self.zone_axis or recipe.particles.zone_axis
        recipe = filled(recipe, zone_axis="110" if named == "any" else named, tilt=Span(0.0, 0.0))
        count = len(parts_of(recipe, seed).particles)
        steps = -(-n_frames // self.frames_per_wave)
        waves = min(steps, self.n_waves or steps) if count else 1
        index = there_and_back(np.arange(n_frames) // self.frames_per_wave, waves)
        rng, dt = np.random.default_rng([seed, 7]), self.frames_per_wave * frame_time
        noise = rng.normal(size=(waves, count, 5))
        keep, rms = np.exp(-dt / self.time), np.deg2rad(self.tilt) / np.sqrt(2)
        lean = np.zeros((waves, count, 3))
        lean[:1, :, :2] = rms * noise[:1, :, :2]
        for k in range(1, waves):
            lean[k, :, :2] = keep * lean[k - 1, :, :2] + rms * np.sqrt(1 - keep**2) * noise[k, :, :2]
        noise[:1, :, 2:] = 0
        walk = np.cumsum(noise[..., 2:], axis=0) * np.sqrt(dt)
        spin = np.zeros((waves, count, 3))
        spin[..., 2] = np.deg2rad(self.spin) * walk[..., 0]
        turns = spin
        if count:
            both = Rotation.from_rotvec(lean.reshape(-1, 3)) * Rotation.from_rotvec(spin.reshape(-1, 3))
            turns = both.as_rotvec().reshape(waves, count, 3)
        return MovingParticles(recipe, seed, index, turns, self.wander * walk[..., 1:], self.tolerance)


def check_motion(motion: Wander | Rock, sizes: tuple[str, ...], counts: tuple[str, ...]) -> None:
    """Refuse sizes below 0 and counts below 1 [InputError]."""
    kind = type(motion).__name__
    for name in sizes:
        check_number(f"{kind}.{name}", getattr(motion, name), least=0)
    for name in counts:
        if (value := getattr(motion, name)) is not None or name != "n_waves":
            check_number(f"{kind}.{name}", value, least=1, whole=True)


def there_and_back(step: np.ndarray, n: int) -> np.ndarray:
    """Run through n configurations and back again.

    Examples
    --------
    >>> there_and_back(np.arange(9), 4).tolist()
    [0, 1, 2, 3, 2, 1, 0, 1, 2]
    """
    period = max(2 * (n - 1), 1)
    return np.minimum(step % period, (-step) % period) if n > 1 else np.zeros(len(step), int)


def filled(recipe: Recipe, **particles: object) -> Recipe:
    """Return the recipe with a field that is not empty by chance, and with these keys of its particles."""
    keys: dict = {"empty_fraction": 0.0} if recipe.particles.number.high >= 1 else {}
    return replace(recipe, particles=replace(recipe.particles, **keys, **particles))


@lru_cache(maxsize=2)
def parts_of(recipe: Recipe, seed: int) -> Parts:
    """Draw the field of a movie, once a process."""
    return draw_parts(recipe, np.random.default_rng([seed, 9]), film_blocks(recipe, seed, 1))


@dataclass(frozen=True, eq=False)
class MovingParticles:
    """A scene whose particles turn about their centres and move in the plane; all else stays.

    Parameters
    ----------
    recipe : Recipe
        Of the field.
    seed : int
        Of the field.
    index : ndarray, int, shape (frame,)
    turns : ndarray, shape (configuration, particle, 3)
        Rotation vector from the field as drawn [radian].
    moves : ndarray, shape (configuration, particle, 2)
        Displacement (x, y) from the field as drawn [angstrom].
    tolerance : float
        Tilt up to which a particle counts as on a zone axis [degree].
    """

    recipe: Recipe
    seed: int
    index: np.ndarray
    turns: np.ndarray
    moves: np.ndarray
    tolerance: float = TOLERANCE

    @property
    def field(self) -> Field:
        """Cell and multislice."""
        return self.recipe.field

    @property
    def parts(self) -> Parts:
        """What the field is assembled from."""
        return parts_of(self.recipe, self.seed)

    def placed(self, k: int) -> list[Cluster]:
        """Particles as they are turned and moved in configuration k."""
        placed = []
        for cluster, turn, move in zip(self.parts.particles, self.turns[k], self.moves[k], strict=True):
            centre = cluster.positions.mean(0)
            p = Rotation.from_rotvec(turn).apply(cluster.positions - centre) + centre
            placed.append(cluster.moved(p + [*move, 0.0]))
        return placed

    def specimen(self, k: int) -> Specimen:
        """Turn and move the particles; the support gives way where they are."""
        return self.parts.specimen(self.placed(k), self.heights)

    def __getstate__(self) -> dict[str, Any]:
        """Travel with the heights: else every process would look through all configurations for each of its own."""
        return vars(self) | {"heights": self.heights}

    @cached_property
    def heights(self) -> tuple[float, float]:
        """Lowest and highest z of any atom in any configuration [angstrom].

        All configurations share one cell: the film stays where it is, in its slices and at its
        distance from the focus, while the particles turn.
        """
        parts = self.parts
        ends = [z for b in parts.base if len(b) for z in (b.positions[:, 2].min(), b.positions[:, 2].max())]
        for j, cluster in enumerate(parts.particles):
            centre = cluster.positions.mean(0)
            for turns in np.array_split(self.turns[:, j], -(-len(self.turns) // 64)):
                rows = Rotation.from_rotvec(turns).as_matrix()[:, 2]
                z = centre[2] + rows @ (cluster.positions - centre).T
                ends += [z.min(), z.max()]
        return (float(min(ends)), float(max(ends))) if ends else (0.0, 0.0)

    def states(self) -> dict[str, xr.Variable]:
        """Positions, orientations and tilts of the particles."""
        particles = self.parts.particles
        count, moving = len(particles), ("configuration", "particle")
        centres = np.array([p.positions.mean(0)[:2] for p in particles]).reshape(count, 2)
        xy = centres + self.moves
        quaternion = np.zeros((*self.moves.shape[:2], 4))
        tilt, axis = np.zeros(self.moves.shape[:2]), np.zeros(self.moves.shape[:2], "U8")
        spin = in_plane(self.turns)
        for j, p in enumerate(particles):
            turn = Rotation.from_rotvec(self.turns[:, j]) * Rotation.from_quat(p.info["orientation"])
            quaternion[:, j] = turn.as_quat(canonical=True)
            tilt[:, j], axis[:, j] = zone_axis_of(turn, p.info["species"])
        near = {"units": "degree", "long_name": "angle between the beam and the nearest of the zone axes "
                + ", ".join(sorted({a for p in particles for a in axes_of(p.info["species"])}))}
        flag = {"long_name": f"whether the tilt is at most {self.tolerance:g} degree", "tolerance": self.tolerance}
        return {
            "particle_y": xr.Variable(moving, xy[..., 1], PLACE["y"]),
            "particle_x": xr.Variable(moving, xy[..., 0], PLACE["x"]),
            "particle_tilt": xr.Variable(moving, tilt, near),
            "particle_zone_axis": xr.Variable(moving, axis),
            "particle_on_axis": xr.Variable(moving, tilt <= self.tolerance, flag),
            "particle_orientation": xr.Variable((*moving, "quaternion"), quaternion, {
                "long_name": "rotation of the crystal's axes to x, y and the beam"}),
            "particle_rotation": xr.Variable(moving, np.angle(np.exp(1j * (spin - spin[self.index[:1]]))), {
                "units": "radian", "long_name": "in the plane since the first frame, from +y towards +x"}),
            "quaternion": xr.Variable(("quaternion",), np.array(["x", "y", "z", "w"])),
            "particle": xr.Variable(("particle",), np.arange(1, count + 1)),
            "particle_diameter": xr.Variable(("particle",), [float(p.info["diameter"]) for p in particles],
                                             {"units": "angstrom", "long_name": "mean diameter, as cut"}),
            "particle_atoms": xr.Variable(("particle",), np.array([len(p) for p in particles], int), {
                "long_name": "as drawn, before a particle gives way to one that it meets"}),
            "particle_species": xr.Variable(("particle",), np.array([p.info["species"] for p in particles], "U2")),
            "particle_twin": xr.Variable(("particle",), np.array([p.info["twin"] for p in particles], bool)),
        }


def in_plane(turns: np.ndarray) -> np.ndarray:
    """Angle in the plane [radian] of rotation vectors, from +y towards +x: of the rotation nearest to the projection.

    Examples
    --------
    >>> in_plane(np.array([[0.0, 0.0, -0.2], [0.1, 0.0, 0.0]])).round(6).tolist()
    [0.2, 0.0]
    """
    turns = np.asarray(turns, float)
    matrix = Rotation.from_rotvec(turns.reshape(-1, 3)).as_matrix() if turns.size else np.zeros((0, 3, 3))
    angle = np.arctan2(matrix[:, 0, 1] - matrix[:, 1, 0], matrix[:, 0, 0] + matrix[:, 1, 1])
    return angle.reshape(turns.shape[:-1])


def axes_of(species: str) -> tuple[str, ...]:
    """Zone axes of a metal along which columns are resolved."""
    return COLUMN_AXES[lattice_of(species).structure]


def zone_axis_of(turn: Rotation, species: str) -> tuple[np.ndarray, np.ndarray]:
    """Angle between the beam and the nearest zone axis [degree], and the family of that axis.

    Parameters
    ----------
    turn : Rotation
        From the crystal's axes to those of the field; one or several.
    species : str
        Symbol of the metal.

    Examples
    --------
    >>> angle, axis = zone_axis_of(Rotation.from_rotvec([[0, 0, 0], [0, 50, 0]], degrees=True), "Au")
    >>> angle.round(1).tolist(), axis.tolist()
    ([0.0, 5.0], ['100', '110'])
    """
    lattice = lattice_of(species)
    beam = turn.inv().apply([0.0, 0.0, 1.0]).reshape(-1, 3)
    angles = []
    for axis in axes_of(species):
        vectors = family_of(lattice.structure, axis) @ lattice.cell
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        # by the sine: the cosine of a small angle is 1 whatever the angle
        nearest = vectors[(beam @ vectors.T).argmax(1)]
        sine = np.linalg.norm(np.cross(beam, nearest), axis=1)
        angles.append(np.rad2deg(np.arctan2(sine, (beam * nearest).sum(1))))
    best = np.argmin(angles, axis=0)
    return np.min(angles, axis=0), np.array(axes_of(species))[best]
