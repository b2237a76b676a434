"""Movies of a particle whose surface columns appear, disappear and hop at known rates, and what is true of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial.transform import Rotation

from ..core.checks import check_number
from ..core.errors import InputError, MissingInputError
from .crystals import Cluster
from .keys import Span
from .kinetics import KINDS, Rates, Trajectory, simulate_kinetics, visible_events
from .matter import words
from .recipe import Recipe
from .scenes import PLACE, MovingParticles, Rock, in_plane, parts_of
from .structures import Parts
from .surface_sites import SurfaceSites, surface_sites

__all__ = ["Hopping", "HoppingParticle", "true_events"]

STILL = Rock(tilt=0.0, spin=0.0, wander=0.0, n_waves=1)
SECOND = {"units": "second"}


@dataclass(frozen=True)
class Hopping:
    """One particle on a zone axis in the middle of the frame, whose surface columns come, go and hop.

    In continuous time, each for itself: an empty site gains a column at the rate `appear`; a full one loses
    it at the rate `disappear`; and its column hops at the rate `hop` to every neighbouring site that is
    empty and has room for all its atoms. ``rate=0`` is the frozen control: the same seed gives the same particle,
    the same sites and the same state at first, whatever the rates are.

    Parameters
    ----------
    rate : float or sequence of float
        Of all that is not given below [1/second]. A sequence divides the movie into equal parts, such
        as a series of dose rates.
    appear, disappear, hop : float or sequence of float, optional
        Rates [1/second]: for an empty site, for a full one, and for a full one and each of its
        neighbours that is free.
    atoms : (int, int or None)
        Least and most atoms of a column at a site without one in the particle as drawn; the number is drawn for
        each site. None: as many as find a hold there. Elsewhere a column has the atoms that it had.
    filled : float, optional
        Part of the sites that are full at first, drawn for each. None: the particle as drawn, whose
        sites are nearly all full.
    n_sites : int, optional
        At most so many sites, next to one another. By default the whole outline.
    rock : Rock, optional
        How the particle tilts, turns in the plane and wanders; by default it stands still on the recipe's zone
        axis. A constant tilt is ``Rock(tilt=1.5, spin=0, wander=0, n_waves=1)``.

    Raises
    ------
    InputError
        If a rate or a number makes no sense, or nothing of the particle can change.

    Notes
    -----
    Which columns are sites says `hrtem_dask.simulate.surface_sites.surface_sites`: columns of the outline
    and empty columns of the lattice beside them, all of which lean on a core that never changes and not
    on one another. So every combination of full and empty sites is stable, the particle stays in one piece,
    and the rates hold at all times whatever the other sites do. In projection, neighbours are up to
    a bond apart: along [110] of gold the columns at 2.50 and at 2.88 angstrom. Atoms do not move otherwise,
    and the film stays as it is: it leaves room for the columns that are not there. Of a recipe's
    particles one is drawn, without twin.

    A frame shows the state at the middle of its exposure, not a mixture. Several transitions within a
    frame time are possible; the truth lists them all, and the events are what changed from frame to frame.

    Each distinct pair of state and pose costs one exit wave, see `Rock.frames_per_wave` for poses. A still
    particle of 28 angstrom with 31 sites at 0.1 per second and 10 frames a second has about 310 of them in
    1000 frames, each 0.4 s of one core in a cell of 75 angstrom at 0.125 angstrom; rocking with a pose every 4 frames
    about 490. The cell follows from the frame: the smaller the frame and the coarser ``field.wave_sampling``, the
    cheaper; ``n_sites`` limits the states.

    Examples
    --------
    >>> Hopping(rate=0.1, hop=(0.05, 0.2)).rates
    Rates(appear=(0.1,), disappear=(0.1,), hop=(0.05, 0.2))
    """

    rate: float | Sequence[float] = 0.1
    appear: float | Sequence[float] | None = None
    disappear: float | Sequence[float] | None = None
    hop: float | Sequence[float] | None = None
    atoms: tuple[int, int | None] = (1, None)
    filled: float | None = 0.5
    n_sites: int | None = None
    rock: Rock | None = None

    def __post_init__(self) -> None:
        for name in ("rate", *KINDS):
            value = getattr(self, name)
            if value is not None or name == "rate":
                object.__setattr__(self, name, checked_rates(name, value))
        pair = tuple(self.atoms) if isinstance(self.atoms, Sequence) and len(self.atoms) == 2 else (None, None)
        good = [isinstance(n, Integral) and not isinstance(n, bool) and n >= 1 for n in pair]
        if not good[0] or (pair[1] is not None and (not good[1] or pair[1] < pair[0])):
            raise InputError(f"Hopping.atoms is {self.atoms!r}; expected the least and the most atoms of a new column, "
                             "as (1, 6), or (1, None) for as many as find a hold")
        object.__setattr__(self, "atoms", pair)
        if self.filled is not None:
            check_number("Hopping.filled", self.filled, least=0)
            if self.filled > 1:
                raise InputError(f"Hopping.filled is {self.filled!r}; expected a part of the sites, 0 to 1")
        if self.n_sites is not None:
            check_number("Hopping.n_sites", self.n_sites, least=1, whole=True)
        if self.rock is not None and not isinstance(self.rock, Rock):
            raise InputError(f"Hopping.rock is {self.rock!r}; expected a Rock, as Rock(tilt=3.0), or None")

    @property
    def rates(self) -> Rates:
        """Rates of all kinds."""
        return Rates(*(self.rate if (r := getattr(self, k)) is None else r for k in KINDS))

    def scene(self, recipe: Recipe, seed: int, n_frames: int, frame_time: float) -> HoppingParticle:
        """Make the scene; what happens depends on the seed and the rates, where it happens on the seed alone."""
        named = ", ".join(w for w in words(recipe.particles.zone_axis) if w != "any") or "any"
        one = replace(recipe.particles, number=Span(1, 1), twin_fraction=0.0, zone_axis=named)
        base = (self.rock or STILL).scene(replace(recipe, particles=one), seed, n_frames, frame_time)
        sites = hopping_parts(base.recipe, seed, self.atoms, self.n_sites)[1]
        rng = np.random.default_rng([seed, 10])
        full = sites.native if self.filled is None else rng.random(len(sites)) < self.filled
        seen = simulate_kinetics(np.where(full, sites.atoms, 0), sites.atoms, sites.room, sites.adjacent, self.rates,
                                 n_frames * frame_time, rng)
        times = (np.arange(n_frames) + 0.5) * frame_time
        both = np.column_stack([base.index, seen.shown(times)[0]])
        _, first, index = np.unique(both, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)  # in the order in which they are seen
        index, both = np.argsort(order)[index.ravel()], both[first[order]]
        pose, shown = both[:, 0], both[:, 1:].astype(np.min_scalar_type(int(sites.room.max())))
        return HoppingParticle(base.recipe, seed, index, base.turns[pose], base.moves[pose], base.tolerance, shown,
                               (self.atoms, self.n_sites), seen, self.rates, times)


def checked_rates(name: str, value: Any) -> tuple[float, ...]:
    """Return rates as a tuple."""
    listed = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) and np.ndim(value) == 1
    values = list(value) if listed else [value]
    if not values:
        raise InputError(f"Hopping.{name} is {value!r}; expected a rate, or one for each part of the movie [1/second]")
    for v in values:
        check_number(f"Hopping.{name}", v, "1/second", least=0)
    return tuple(float(v) for v in values)


@lru_cache(maxsize=2)
def hopping_parts(recipe: Recipe, seed: int, atoms: tuple[int, int | None],
                  n_sites: int | None) -> tuple[Parts, SurfaceSites]:
    """Draw the field of a movie with the particle in its middle, and the sites, once a process."""
    parts = parts_of(recipe, seed)
    if not parts.particles:
        raise InputError("no particle found a place in the field; expected particles.number and coverage above 0, or "
                         "another seed")
    particle = parts.particles[0]
    move = np.append(parts.box / 2 - particle.positions[:, :2].mean(0), 0.0)
    x, y = parts.box / 2, parts.box / 2
    particle = replace(particle.moved(particle.positions + move), info=particle.info | {"x": x, "y": y})
    sites = surface_sites(particle, np.random.default_rng([seed, 11]), atoms=atoms, n_sites=n_sites)
    base = [b.moved(b.positions + move) for b in parts.base]
    return replace(parts, particles=[sites.cluster], base=base), sites


@dataclass(frozen=True, eq=False)
class HoppingParticle(MovingParticles):
    """A scene of one particle that moves as a whole, and whose sites are full or empty.

    Parameters
    ----------
    atoms : ndarray, int, shape (configuration, site)
        Atoms at each site.
    chosen : tuple
        How sites were chosen: ``atoms`` and ``n_sites`` of `Hopping`.
    seen : Trajectory
        What happened.
    rates : Rates
    times : ndarray, shape (frame,)
        Middle of each exposure [second].
    """

    atoms: np.ndarray = field(default_factory=lambda: np.zeros((1, 0), np.int16))
    chosen: tuple = ((1, None), None)
    seen: Trajectory | None = None
    rates: Rates | None = None
    times: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the history, which only `states` needs."""
        return super().__getstate__() | {"seen": None, "times": np.zeros(0)}

    @property
    def parts(self) -> Parts:
        """What the field is assembled from, the particle with all its sites full."""
        return hopping_parts(self.recipe, self.seed, *self.chosen)[0]

    @property
    def sites(self) -> SurfaceSites:
        """The sites of the particle."""
        return hopping_parts(self.recipe, self.seed, *self.chosen)[1]

    def placed(self, k: int) -> list[Cluster]:
        """The particle as it is in configuration k, with vacant places."""
        numbers = self.sites.with_atoms(self.atoms[k]).numbers
        return [replace(p, numbers=numbers) for p in super().placed(k)]

    def states(self) -> dict[str, xr.Variable]:
        """Sites, events and rates, beside what is true of the particle."""
        out, sites = super().states(), self.sites
        count = (sites.site < 0).sum() + self.atoms.sum(1, dtype=int)
        out["particle_atoms"] = xr.Variable(("configuration", "particle"), count[:, None], {
            "long_name": "of the state that is shown"})
        return out | self.site_states() | self.histories()

    def site_states(self) -> dict[str, xr.Variable]:
        """Where the sites are, and whether they are full."""
        sites, moving = self.sites, ("configuration", "site")
        centre, places = sites.cluster.positions.mean(0), sites.places
        matrix = Rotation.from_rotvec(self.turns[:, 0]).as_matrix()[:, :2]
        xy = (places - centre) @ matrix.transpose(0, 2, 1) + centre[:2] + self.moves[:, :1]
        spin = -float(in_plane(self.turns[0, 0]))  # from +x towards +y
        turn = np.array([[np.cos(spin), -np.sin(spin)], [np.sin(spin), np.cos(spin)]])
        reference = (places - centre)[:, :2] @ turn.T + centre[:2] + self.moves[0, 0]
        said = "as the particle lies in the first frame, on its zone axis and without drift"
        out = {
            "site": xr.Variable(("site",), np.arange(len(sites)), {"long_name": "in the order of the angle"}),
            "site_occupied": xr.Variable(moving, self.atoms > 0, {
                "long_name": "whether there is a column in the middle of the exposure"}),
            "site_atoms": xr.Variable(moving, self.atoms.astype(int), {"long_name": "of that column, 0 for none"}),
            "site_atoms_new": xr.Variable(("site",), sites.atoms, {"long_name": "of a column that appears here"}),
            "site_room": xr.Variable(("site",), sites.room, {"long_name": "so many atoms find a hold here"}),
            "site_native": xr.Variable(("site",), sites.native, {"long_name": "full in the particle as drawn"}),
            "site_column": xr.Variable(("site",), sites.columns.astype(int), {"long_name": "number of the column"}),
            "site_adjacent": xr.Variable(("site", "site_to"), sites.adjacent, {
                "long_name": "whether columns can hop from one to the other"}),
        }
        for axis, j in (("y", 1), ("x", 0)):
            out[f"site_{axis}"] = xr.Variable(moving, xy[..., j], PLACE[axis])
            out[f"site_{axis}_reference"] = xr.Variable(("site",), reference[:, j], {
                "units": "angstrom", "reference": axis, "long_name": said})
        return out

    def histories(self) -> dict[str, xr.Variable]:
        """What happened, what frames show of it, and the rates."""
        rows, shown = self.seen.transitions, visible_events(self.seen, self.times)
        out = {}
        for kind, values in zip(KINDS, self.rates.at(self.times, self.duration), strict=True):
            each = " for each free neighbour" if kind == "hop" else ""
            out[f"rate_{kind}"] = xr.Variable(("frame",), values, {"units": "1/second",
                                                                  "long_name": f"true rate of a site{each}"})
        for name, values in self.seen.exposure.items():
            more = " times the number of free neighbours" if name == "hop" else ""
            out[f"site_time_{name}"] = xr.Variable(("site",), values.to_numpy(), SECOND | {
                "long_name": f"{'occupied' if name == 'hop' else name}{more}"})
        rows = rows.assign(frame=np.searchsorted(self.times, rows.time.to_numpy()))
        for dim, table, said in (("event", shown, "change between two frames"),
                                 ("transition", rows, "every one, also those that no frame shows")):
            for name in ("frame", "time", "kind", "site", "site_to", "atoms"):
                values = table[name].to_numpy()
                values = values.astype("U9") if name == "kind" else values
                out[f"{dim}_{name}"] = xr.Variable((dim,), values, (SECOND if name == "time" else {}) | {
                    "long_name": f"{said}: {name}"})
        return out

    @property
    def duration(self) -> float:
        """Of the movie [second]."""
        return float(self.times[0] * 2 * len(self.times))


def true_events(truth: xr.Dataset, *, every: bool = False) -> pd.DataFrame:
    """List the true events of a movie of `Hopping`, as `hrtem_dask.count_diffusion` lists the measured ones.

    Parameters
    ----------
    truth : xarray.Dataset
        From `open_truth` or `hrtem_dask.simulate.movie`.
    every : bool
        All transitions, also those that no frame shows: they were undone within a frame time, or happened
        before the middle of the first exposure (``frame`` 0) or after that of the last (the number of frames).

    Returns
    -------
    pandas.DataFrame
        ``frame``, the first of the new state; ``time`` [second] of the transition, from the beginning of the
        first exposure; ``kind``, categorical: appear, disappear or hop; ``site``; ``y, x`` [angstrom], where the
        particle lies in the first frame, on its zone axis; for hops ``site_to`` (else -1), ``y_to, x_to``; ``atoms`` of
        the column.

    Raises
    ------
    MissingInputError
        If the movie is not one of `Hopping`.
    """
    dim = "transition" if every else "event"
    if f"{dim}_kind" not in truth:
        raise MissingInputError("this truth has no events; make the movie with hrtem_dask.simulate.movie(..., "
                                "motion=hrtem_dask.simulate.Hopping(rate=0.1))")
    names = ("frame", "time", "kind", "site", "site_to", "atoms")
    table = pd.DataFrame({n: truth[f"{dim}_{n}"].values for n in names})
    table["kind"] = pd.Categorical(table["kind"].astype(str), KINDS)
    for axis in "yx":
        places = np.append(truth[f"site_{axis}_reference"].values, np.nan)  # -1: nowhere
        table[axis], table[f"{axis}_to"] = places[table["site"]], places[table["site_to"]]
    return table[["frame", "time", "kind", "site", "y", "x", "site_to", "y_to", "x_to", "atoms"]]
