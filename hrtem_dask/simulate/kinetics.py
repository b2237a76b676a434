"""Columns that appear, disappear and hop at given rates: the process, what frames show of it, its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

__all__ = ["KINDS", "Rates", "Trajectory", "simulate_kinetics", "visible_events"]

KINDS = ("appear", "disappear", "hop")


@dataclass(frozen=True)
class Rates:
    """Rates [1/second], each constant in equal parts of the movie; ``hop`` for each free neighbouring site."""

    appear: tuple[float, ...]
    disappear: tuple[float, ...]
    hop: tuple[float, ...]

    def at(self, times: np.ndarray, duration: float) -> np.ndarray:
        """Rates (3, time) of the kinds at these times [second] of a movie."""
        out = []
        for rates in (self.appear, self.disappear, self.hop):
            part = np.clip((np.asarray(times) / duration * len(rates)).astype(int), 0, len(rates) - 1)
            out.append(np.array(rates)[part])
        return np.array(out)

    def breaks(self, duration: float) -> np.ndarray:
        """Times [second] at which rates change, with beginning and end."""
        parts = {len(r) for r in (self.appear, self.disappear, self.hop)}
        return np.unique(np.concatenate([np.linspace(0, duration, n + 1) for n in parts]))


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A realisation of the process.

    Parameters
    ----------
    start : ndarray, int, shape (site,)
        Atoms at each site at first, 0 where it is empty.
    transitions : pandas.DataFrame
        Every one, in order: ``time`` [second], ``kind``, ``site`` (where a hop begins), ``site_to`` (of a hop, else -1)
        and ``atoms`` of the column.
    exposure : pandas.DataFrame
        A row a site: ``empty`` and ``occupied`` [second], the time in that state, and ``hop`` [second], the time
        multiplied by the number of free sites that its column could hop to. The expected number of
        transitions of a kind is its rate times this.
    adjacent : ndarray, bool, shape (site, site)
        Neighbours.
    """

    start: np.ndarray
    transitions: pd.DataFrame
    exposure: pd.DataFrame
    adjacent: np.ndarray

    def shown(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Atoms at each site (time, site), and which column they are (-1: none), at these times in ascending order."""
        atoms, names = self.start.copy(), np.where(self.start > 0, np.arange(len(self.start)), -1)
        state, name = np.empty((2, len(times), len(atoms)), int)
        rows = list(self.transitions.itertuples(index=False))
        done = 0
        for i, time in enumerate(times):
            while done < len(rows) and rows[done].time <= time:
                row, done = rows[done], done + 1
                if row.kind == "appear":
                    atoms[row.site], names[row.site] = row.atoms, len(atoms) + done
                    continue
                if row.kind == "hop":
                    atoms[row.site_to], names[row.site_to] = atoms[row.site], names[row.site]
                atoms[row.site], names[row.site] = 0, -1
            state[i], name[i] = atoms, names
        return state, name


def simulate_kinetics(start: np.ndarray, atoms: np.ndarray, room: np.ndarray, adjacent: np.ndarray, rates: Rates,
                      duration: float, rng: np.random.Generator) -> Trajectory:
    """Draw a realisation in continuous time.

    Parameters
    ----------
    start : ndarray, int, shape (site,)
        Atoms at each site at first.
    atoms, room : ndarray, int, shape (site,)
        Atoms of a column that appears at a site, and so many find a hold there.
    adjacent : ndarray, bool, shape (site, site)
        Neighbours.
    rates : Rates
    duration : float
        [second]
    rng : numpy.random.Generator

    Returns
    -------
    Trajectory

    Notes
    -----
    Gillespie's direct method, J. Comput. Phys. 22, 403 (1976); where rates change, the waiting time is
    drawn anew, which is exact as it has no memory. An empty site gains a column at the rate ``appear``; a full one
    loses it at the rate ``disappear``, and it hops at the rate ``hop`` to each neighbour that is empty and
    has room for all its atoms, which it takes along.

    Examples
    --------
    >>> pair = np.array([[False, True], [True, False]])
    >>> rates = Rates((0.0,), (0.0,), (0.5,))
    >>> seen = simulate_kinetics(np.array([3, 0]), np.array([3, 3]), np.array([3, 3]), pair, rates, 100.0,
    ...                          np.random.default_rng(1))
    >>> set(seen.transitions.kind), set(seen.transitions.atoms), round(float(seen.exposure.hop.sum()))
    ({'hop'}, {3}, 100)
    """
    state, n = np.asarray(start, int).copy(), len(start)
    first, second = np.nonzero(adjacent)
    times, codes, spent = [], [], np.zeros((3, n))
    ends = rates.breaks(duration)
    for begin, end in pairwise(ends):
        appear, disappear, hop = rates.at(np.array([(begin + end) / 2]), duration)[:, 0]
        t = begin
        while True:
            full = state > 0
            free = full[first] & ~full[second] & (state[first] <= room[second])
            chance = np.concatenate([appear * ~full, disappear * full, hop * free])
            total = chance.sum()
            wait = rng.exponential(1 / total) if total > 0 else np.inf
            stay = min(wait, end - t)
            spent += stay * np.array([~full, full, np.bincount(first[free], minlength=n)])
            t += wait
            if t >= end:
                break
            # `side` leaves out what has no chance, also at the very ends
            k = min(int(np.searchsorted(np.cumsum(chance), rng.random() * total, side="right")),
                    int(np.flatnonzero(chance)[-1]))
            kind, at, to = (0, k, -1) if k < n else (1, k - n, -1) if k < 2 * n else \
                (2, int(first[k - 2 * n]), int(second[k - 2 * n]))
            moved = int(atoms[at]) if kind == 0 else int(state[at])
            if kind == 2:
                state[to] = moved
            state[at] = moved if kind == 0 else 0
            times.append(t)
            codes.append((kind, at, to, moved))
    kind, at, to, moved = np.array(codes, int).reshape(-1, 4).T
    table = pd.DataFrame({"time": np.array(times, float), "kind": np.array(KINDS, object)[kind], "site": at,
                          "site_to": to, "atoms": moved})
    return Trajectory(np.asarray(start, int).copy(), table,
                      pd.DataFrame(dict(zip(("empty", "occupied", "hop"), spent, strict=True))), np.asarray(adjacent))


def visible_events(trajectory: Trajectory, times: Sequence[float]) -> pd.DataFrame:
    """List the changes between the states at these times: what a perfect observer of the frames counts.

    Parameters
    ----------
    trajectory : Trajectory
    times : sequence of float
        Of the frames [second], in ascending order.

    Returns
    -------
    pandas.DataFrame
        A row a change of a site's occupancy, two sites for a hop: ``frame``, the first frame of the new
        state; ``time`` [second] of the last transition that led to it; ``kind``, ``site``, ``site_to`` (-1 but for
        hops) and ``atoms`` of the column. It is a hop where the column of a site that was empty is the one
        of a neighbouring site that is empty now, at most through sites between; else a column appears here
        and disappears there. What is undone before the next frame is in no row, and neither is a site
        whose column another one has replaced.

    Examples
    --------
    >>> rows = pd.DataFrame({"time": [0.2, 0.4, 1.3], "kind": ["hop", "hop", "disappear"], "site": [0, 1, 0],
    ...                      "site_to": [1, 0, -1], "atoms": 3})
    >>> seen = Trajectory(np.array([3, 0]), rows, pd.DataFrame(), np.array([[False, True], [True, False]]))
    >>> visible_events(seen, [0.5, 1.5])[["frame", "kind", "site"]].values.tolist()
    [[1, 'disappear', 0]]
    """
    times = np.asarray(times, float)
    state, name = trajectory.shown(times)
    rows = trajectory.transitions
    frame = np.searchsorted(times, rows.time.to_numpy())
    out = []
    for i in np.unique(frame[(frame > 0) & (frame < len(times))]):
        here, before, after = rows[frame == i], state[i - 1] > 0, state[i] > 0
        last = {s: r.time for r in here.itertuples() for s in (r.site, r.site_to)}
        lost, moved = set(np.flatnonzero(before & ~after)), set()
        for s in np.flatnonzero(after & ~before):
            origin = np.flatnonzero(name[i - 1] == name[i, s])
            source = int(origin[0]) if len(origin) else -1
            if source in lost and trajectory.adjacent[source, s]:
                moved.add(source)
                out.append((i, last[s], "hop", source, s, state[i, s]))
            else:
                out.append((i, last[s], "appear", s, -1, state[i, s]))
        out += [(i, last[s], "disappear", s, -1, state[i - 1, s]) for s in sorted(lost - moved)]
    table = pd.DataFrame(out, columns=["frame", "time", "kind", "site", "site_to", "atoms"])
    table = table.astype({"frame": int, "time": float, "kind": object, "site": int, "site_to": int, "atoms": int})
    return table.sort_values(["frame", "time"], kind="stable", ignore_index=True)
