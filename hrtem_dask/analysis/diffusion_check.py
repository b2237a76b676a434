"""The counting of diffusion events, tried on simulated particles under the user's own dose, optics and network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.spatial import cKDTree

from ..core.checks import check_number
from ..core.errors import InputError
from ..core.provenance import record
from ..kernels.event_rates import exact_interval
from ..kernels.hops import Changes
from ..kernels.self_check import matched_changes
from ..kernels.thresholds import share_interval
from ..simulate import Hopping, Rock, movie, open_truth, true_events
from ..simulate.camera import Camera
from ..simulate.microscope import Optics
from .diffusion import count_diffusion
from .diffusion_result import Diffusion

__all__ = ["DiffusionCalibration", "calibrate_diffusion"]

#: a column that is found so near a site is seen there [angstrom]; a site found so near a true one is it
NEAR, SAME = 0.6, 0.9
#: free space about the particle, and drift from frame to frame [angstrom]
ROOM, DRIFT = 7.0, 0.05
#: columns of more atoms are one class
MOST_ATOMS = 6


@dataclass(frozen=True)
class DiffusionCalibration:
    """What counting makes of particles whose events are known.

    Attributes
    ----------
    table : pandas.DataFrame
        A row for each number of frames that were averaged: ``averaged``, ``frame_time`` [second]; ``tpr, fpr``:
        probability that a column at a site that can change is seen, and that one is seen where there is none;
        ``true_events``, ``recall`` and ``precision`` of the changes found, up to two frames off; ``true_rate`` and what
        was measured, ``rate_raw, rate, low, high`` [1/second]; ``false_events, false_rate, false_low, false_high``: of
        the frozen particle, uncorrected, and ``frozen_high``, the upper end of its corrected rate [1/second].
    by_atoms : pandas.DataFrame
        Without averaging: ``atoms`` (0: an empty site; the last class holds all above), ``looks``, ``seen``, ``share``
        and its interval ``low, high``: the share that is seen.
    frozen, moving : tuple of Diffusion
        Results without averaging, one a seed.
    attrs : dict
        Provenance.
    """

    table: pd.DataFrame
    by_atoms: pd.DataFrame
    frozen: tuple[Diffusion, ...]
    moving: tuple[Diffusion, ...]
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def detection(self) -> dict[str, float]:
        """Measured readings, as `count_diffusion` takes them: ``detection=calibration.detection``.

        They count as much as a hundred looks, beside those of the movie itself: a simulated particle is
        not the particle.
        """
        first = self.table.iloc[0]
        return {"tpr": float(first["tpr"]), "fpr": float(first["fpr"]), "trials": 100.0}

    @property
    def summary(self) -> str:
        """All of it in words."""
        f = self.table.iloc[0]
        return "\n".join([
            f"Simulated under these conditions, columns at sites that can change are seen in {f['tpr']:.1%} of the "
            f"frames, and {f['fpr']:.2%} of the looks at empty sites show one.",
            f"Of {f['true_events']:.0f} true changes {f['recall']:.0%} are found, and {f['precision']:.0%} of those "
            f"found are true. True rate {f['true_rate']:.3g}, measured {f['rate']:.3g} ({f['low']:.3g} to "
            f"{f['high']:.3g}), uncorrected {f['rate_raw']:.3g} a site-second.",
            f"A frozen particle shows {f['false_events']:.0f} events, {f['false_rate']:.2g} a site-second (95 %: up to "
            f"{f['false_high']:.2g}).",
            *(f"Averages of {row.averaged} frames ({row.frame_time:.3g} s): seen {row.tpr:.1%}, invented "
              f"{row.fpr:.2%}, {row.recall:.0%} of the changes found." for row in self.table.iloc[1:].itertuples())])

    def beside(self, measured: Diffusion) -> str:
        """Say what was measured, and beside it what this calibration says of such a measurement.

        Parameters
        ----------
        measured : Diffusion
            From `count_diffusion` on the user's own movie.
        """
        if measured.reason is not None:
            return measured.summary
        first, o = self.table.iloc[0], measured.overall
        what = f"below {o['high']:.3g}" if o["limit"] else f"{o['rate']:.3g} ({o['low']:.3g} to {o['high']:.3g})"
        above = bool(o["low"] > first["false_high"])
        return (f"Measured: {what} events a site-second, uncorrected {o['rate_raw']:.3g}.\n"
                f"Frozen particle under the same conditions: {first['false_rate']:.2g} (up to "
                f"{first['false_high']:.2g}) uncorrected, below {first['frozen_high']:.2g} corrected; a change is "
                f"found with a probability of {first['recall']:.0%}.\n"
                f"The measured rate is {'' if above else 'not '}above what misreads can make.")


def calibrate_diffusion(
    detector: Any,
    *,
    dose: float,
    pixel_size: float,
    optics: Optics,
    frame_time: float = 0.1,
    rate: float = 0.1,
    n_frames: int = 120,
    seeds: Sequence[int] = (0,),
    averages: Sequence[int] = (1, 2, 4),
    zone_axis: str = "110",
    diameter: float = 24.0,
    support: str = "none",
    tilt: float = 0.0,
    camera: Camera | None = None,
    find: Callable[[xr.DataArray], Any] | None = None,
    store: str | Path | None = None,
    workers: int | None = 1,
) -> DiffusionCalibration:
    """Simulate a frozen gold particle and one whose columns change at a known rate, and count events in both.

    Computes. The images are made by multislice with the dose, sampling, optics and camera given, and go
    through the same network, `find_columns`, `estimate_drift`, `find_sites` and `count_diffusion` as a real movie.

    Parameters
    ----------
    detector : str, path, model or callable
        Network for `segment`; or what makes a probability of a movie, as `blob_probability`.
    dose : float
        Of one frame [e/angstrom^2].
    pixel_size : float
        [angstrom]
    optics : Optics
        `hrtem_dask.simulate.microscope.Optics` of the movie.
    frame_time : float
        [second]
    rate : float
        Rate of appearing, disappearing and hopping of the particle that changes [1/second].
    n_frames : int
        Frames of each movie.
    seeds : sequence of int
        One frozen and one changing particle are made for each.
    averages : sequence of int
        Numbers of frames that are averaged, to see what that does to recall; the first has to be 1.
    zone_axis, diameter, support, tilt
        The particle: axis, size [angstrom], ``"none"`` or a kind of support, constant tilt off the axis [degree].
    camera : Camera, optional
        Detector, as of `simulate.movie`.
    find : callable, optional
        Instead of `find_columns`: takes (probability, movie), gives the table of columns.
    store : path, optional
        Folder in which the simulated movies are kept and found again.
    workers : int, optional
        Processes for the simulation.

    Returns
    -------
    DiffusionCalibration

    Raises
    ------
    InputError
        If a number makes no sense.

    Notes
    -----
    A change that is undone within a frame is not among the true ones. The conditions are those given: a film, a tilt or
    a blur that the movie has and the simulation has not make detection look better than it is.
    """
    for name, value in (("dose", dose), ("pixel_size", pixel_size), ("frame_time", frame_time), ("rate", rate),
                        ("diameter", diameter)):
        check_number(name, value, above=0)
    check_number("n_frames", n_frames, "frames", least=8, whole=True)
    averages = tuple(averages)
    if not averages or averages[0] != 1 or any(not isinstance(n, int) or n < 1 or n > n_frames // 4 for n in averages):
        raise InputError(f"averages is {averages!r}; expected numbers of frames, of which the first is 1 and none is "
                         f"above a quarter of n_frames, as (1, 2, 4)")
    side = int(np.ceil((diameter + 2 * ROOM) / pixel_size / 8) * 8)
    rock = Rock(tilt=tilt, spin=0.0, wander=0.0, n_waves=1) if tilt else None
    options = {"n_frames": n_frames, "shape": (side, side), "pixel_size": pixel_size, "dose": dose, "drift": DRIFT,
               "frame_time": frame_time, "optics": optics, "camera": camera, "workers": workers}
    tried: dict[tuple[str, int], list[Trial]] = {}
    with nullcontext(store) if store else tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for kind, value in (("frozen", 0.0), ("moving", rate)):
                path = Path(folder) / f"{kind}_{seed}.zarr"
                movie(_recipe(zone_axis, diameter, support), seed=seed, store=path,
                      motion=Hopping(rate=value, rock=rock), **options)
                for n in averages:
                    tried.setdefault((kind, n), []).append(_tried(path, n, detector, find, frame_time))
    table = pd.DataFrame([_line(n, frame_time * n, tried["frozen", n], tried["moving", n]) for n in averages])
    single = [t for kind in ("frozen", "moving") for t in tried[kind, 1]]
    said = {k: str(v) for k, v in options.items()} | {"detector": str(detector), "rate": rate, "seeds": list(seeds)}
    return DiffusionCalibration(table, _by_atoms(single), tuple(t.found for t in tried["frozen", 1]),
                                tuple(t.found for t in tried["moving", 1]),
                                record({}, "calibrate_diffusion", **said))


def _recipe(zone_axis: str, diameter: float, support: str) -> dict[str, Any]:
    """One particle of gold on its zone axis in the middle of the field."""
    return {"name": "diffusion-check",
            "field": {"wave_sampling": 0.125, "stored_sampling": 0.2, "slice_thickness": 2.0},
            "particles": {"shape": "wulff", "zone_axis": zone_axis, "coverage": [0.2, 0.2], "number": [1, 1],
                          "diameter": [diameter, diameter], "elongation": [1, 1.1], "height": [0.6, 0.9],
                          "steps": [0, 2], "adatoms": [0, 0], "thermal_displacement": [0.07, 0.1],
                          "touching_fraction": 0},
            "support": {"kind": support}, "film": {"absent_fraction": 0, "thickness": [10, 15], "roughness": [0, 2]}}


@dataclass(frozen=True)
class Trial:
    """One movie that was gone through."""

    found: Diffusion
    atoms: np.ndarray  #: (frame, site)
    seen: np.ndarray  #: (frame, site)
    true: Changes
    mine: Changes
    time: float  #: true site-seconds
    events: int  #: true events, a hop as one


def _averaged(frames: xr.DataArray, n: int) -> xr.DataArray:
    """Means of n frames each, numbered anew."""
    if n == 1:
        return frames
    out = frames.coarsen(frame=n, boundary="trim").mean(keep_attrs=True).astype(np.float32)
    return out.assign_coords(frame=np.arange(out.sizes["frame"])).assign_attrs(frames.attrs)


def _tried(path: Path, n: int, detector: Any, find: Any, frame_time: float) -> Trial:
    """Go through a simulated movie as through a real one."""
    from ..io.movie import open_movie
    from ..networks.models import load_model
    from .columns import find_columns
    from .segment import segment

    frames, truth = _averaged(open_movie(path), n), open_truth(path)
    if isinstance(detector, str | Path):
        detector = load_model(detector)
    network = hasattr(detector, "card")
    probability = segment(frames, detector) if network else detector(frames)
    columns = find_columns(probability, image=frames) if find is None else find(probability, frames)
    columns = columns.compute() if hasattr(columns, "dask") else columns
    count = frames.sizes["frame"]
    found = count_diffusion(columns, frame_time=frame_time * n, n_frames=count, field_of_view=frames)
    middle = np.arange(count) * n + (n - 1) // 2  # the state that an average shows, about
    place = np.stack([truth[f"site_{a}"].to_numpy()[middle] for a in "yx"], axis=-1)
    atoms = truth["site_atoms"].to_numpy()[middle]
    events = true_events(truth)
    events = events.assign(frame=np.minimum(-(-events["frame"] // n), count - 1))
    reference = np.stack([truth[f"site_{a}_reference"].to_numpy() for a in "yx"], axis=-1)
    time = float((truth["site_time_empty"] + truth["site_time_occupied"]).sum())
    return Trial(found, atoms, _seen_at(columns, place), _changes(events), _changes(_named(found, reference)), time,
                 len(events))


def _seen_at(columns: pd.DataFrame, place: np.ndarray) -> np.ndarray:
    """Whether a column was found at true sites (frame, site, 2)."""
    out = np.zeros(place.shape[:2], bool)
    for frame, rows in columns.groupby("frame"):
        out[frame] = cKDTree(rows[["y", "x"]].to_numpy()).query(place[frame])[0] <= NEAR
    return out


def _named(found: Diffusion, reference: np.ndarray) -> pd.DataFrame:
    """Events with the numbers of the true sites; those elsewhere have numbers of their own."""
    events = found.events[["frame", "kind", "site", "site_to"]].copy()
    if not len(events) or not len(reference):
        return events
    distance, true = cKDTree(reference).query(found.sites[["y", "x"]].to_numpy())
    number = np.where(distance <= SAME, true, len(reference) + np.arange(len(true)))
    names = pd.Series(number, index=found.sites["site"])
    return events.assign(site=events["site"].map(names), site_to=events["site_to"].map(names).fillna(-1).astype(int))


def _changes(events: pd.DataFrame) -> Changes:
    """Changes of sites; a hop is two."""
    hops = events[events["kind"] == "hop"]
    frame = np.concatenate([events["frame"], hops["frame"]]).astype(int)
    site = np.concatenate([events["site"], hops["site_to"]]).astype(int)
    appeared = np.concatenate([(events["kind"] == "appear").to_numpy(), np.ones(len(hops), bool)]).astype(bool)
    return Changes(frame, frame - 1, site, appeared)


def _line(n: int, time: float, frozen: Sequence[Trial], moving: Sequence[Trial]) -> dict[str, float]:
    """Row of the table."""
    there = np.concatenate([t.atoms.ravel() > 0 for t in (*frozen, *moving)])
    seen = np.concatenate([t.seen.ravel() for t in (*frozen, *moving)])
    true, mine = (sum(len(getattr(t, k).frame) for t in moving) for k in ("true", "mine"))
    hits = sum(matched_changes(t.mine, t.true) for t in moving)
    overall = pd.DataFrame([t.found.overall for t in moving])
    still = pd.DataFrame([t.found.overall for t in frozen])
    false, exposure = float(still["events"].sum()), float(still["exposure"].sum())
    low, high = (float(v) for v in exact_interval(false, exposure)) if exposure else (np.nan, np.nan)
    share = lambda a, b: a / b if b else np.nan  # noqa: E731
    weight = overall["exposure_worth"].astype(float)
    together = _pooled(overall) if weight.notna().all() else (np.nan,) * 3
    return {"averaged": n, "frame_time": time, "tpr": share(int((seen & there).sum()), int(there.sum())),
            "fpr": share(int((seen & ~there).sum()), int((~there).sum())), "true_events": true,
            "recall": share(hits, true), "precision": share(hits, mine),
            "true_rate": share(sum(t.events for t in moving), sum(t.time for t in moving)),
            "rate_raw": share(int(overall["events"].sum()), float(overall["exposure"].sum())),
            **dict(zip(("rate", "low", "high"), together, strict=True)), "false_events": false,
            "false_rate": share(false, exposure), "false_low": low, "false_high": high,
            "frozen_high": float(still["high"].astype(float).max())}


def _pooled(overall: pd.DataFrame) -> tuple[float, float, float]:
    """Rate of several movies together, by the counts that each is worth."""
    if len(overall) == 1:
        row = overall.iloc[0]
        return float(row["rate"]), float(row["low"]), float(row["high"])
    events, exposure = float(overall["events_worth"].sum()), float(overall["exposure_worth"].sum())
    low, high = exact_interval(events, exposure)
    return events / exposure, float(low), float(high)


def _by_atoms(trials: Sequence[Trial]) -> pd.DataFrame:
    """Share of the looks that shows a column, by the atoms of the column."""
    atoms = np.concatenate([np.minimum(t.atoms, MOST_ATOMS).ravel() for t in trials]).astype(int)
    seen = np.concatenate([t.seen.ravel() for t in trials])
    looks, hits = np.bincount(atoms, minlength=MOST_ATOMS + 1), np.bincount(atoms, seen, MOST_ATOMS + 1).astype(int)
    ends = np.array([share_interval(int(h), int(k)) for h, k in zip(hits, looks, strict=True)])
    with np.errstate(invalid="ignore"):
        share = hits / looks
    return pd.DataFrame({"atoms": np.arange(MOST_ATOMS + 1), "looks": looks, "seen": hits, "share": share,
                         "low": ends[:, 0], "high": ends[:, 1]})
