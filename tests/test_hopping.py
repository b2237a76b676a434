"""Surface columns that come, go and hop: where they can, that the rates are those given, that the truth is complete."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from movie_scenes import one_particle
from scipy import stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from hrtem_dask import open_movie, simulate
from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.simulate.columns import column_table
from hrtem_dask.simulate.crystals import metal_particle
from hrtem_dask.simulate.hopping import Hopping
from hrtem_dask.simulate.kinetics import Rates, Trajectory, simulate_kinetics, visible_events
from hrtem_dask.simulate.microscope import Optics
from hrtem_dask.simulate.scenes import Rock
from hrtem_dask.simulate.surface_sites import surface_sites

BOND = 4.078 / np.sqrt(2)
MOVED = ["time", "kind", "site", "site_to", "atoms"]


def hopping_recipe(**keys):
    return one_particle(**{"diameter": [18, 18], "shape": "wulff", "zone_axis": "110", **keys})


def gold(axis: str, seed: int, **keys):
    options = {"species": "Au", "shape": "wulff", "zone_axis": axis, "height": 0.8, "steps": 2, "adatoms": 0.05} | keys
    return metal_particle(22.0, np.random.default_rng(seed), **options)


def touching(p: np.ndarray) -> coo_array:
    i, j = cKDTree(p).query_pairs(1.1 * BOND, output_type="ndarray").T
    return coo_array((np.ones(2 * len(i), int), (np.r_[i, j], np.r_[j, i])), shape=(len(p),) * 2).tocsr()


@pytest.mark.parametrize(("axis", "seed", "apart"), [("110", 1, 2.49), ("100", 2, 2.03), ("111", 3, 1.66),
                                                     ("110", 4, 2.49)])
def test_any_combination_of_columns_is_a_particle_that_holds_together(axis, seed, apart):
    particle = gold(axis, seed)
    sites = surface_sites(particle, np.random.default_rng(seed))
    drawn = sites.with_atoms(np.where(sites.native, sites.atoms, 0))
    drawn = drawn.kept(drawn.numbers > 0)
    np.testing.assert_allclose(drawn.positions, particle.positions)  # as drawn, to the order of the atoms
    np.testing.assert_array_equal(drawn.column, particle.column)
    assert 4 < sites.native.sum() <= len(sites)
    core = sites.site < 0
    assert connected_components(touching(sites.cluster.positions[core]), directed=False)[0] == 1
    rng = np.random.default_rng(0)
    for _ in range(6):
        atoms = rng.integers(0, sites.room + 1) * (rng.random(len(sites)) < 0.6)
        there = sites.with_atoms(atoms).numbers > 0
        np.testing.assert_array_equal(np.bincount(sites.site[there & ~core], minlength=len(sites)), atoms)
        p, links = sites.cluster.positions[there], touching(sites.cluster.positions[there])
        assert cKDTree(p).query(p, k=2)[0][:, 1].min() > 0.99 * BOND  # on one lattice, no site twice
        assert connected_components(links, directed=False)[0] == 1
        assert (links @ np.ones(len(p), int) >= 3).all()
        assert ((links @ core[there].astype(int))[~core[there]] >= 2).all()
        columns = pd.DataFrame(p[:, :2]).groupby(sites.cluster.column[there]).mean().to_numpy()
        assert cKDTree(columns).query(columns, k=2)[0][:, 1].min() > apart


def test_sites_lie_at_the_outline_and_can_be_limited():
    particle = gold("110", 5)
    sites = surface_sites(particle, np.random.default_rng(5))
    full = pd.DataFrame(particle.positions[:, :2]).groupby(particle.column).mean().to_numpy()
    around = np.array([len(a) - 1 for a in cKDTree(full).query_ball_point(full, 1.05 * BOND)])
    place, native = sites.places[:, :2], sites.native
    assert (around[cKDTree(full).query(place[native])[1]] < 6).all()  # inside, a column along [110] has six neighbours
    away = cKDTree(full).query(place[~native])[0]
    assert (away > 2.4).all()
    assert (away < 1.05 * BOND).all()
    gap = np.linalg.norm(place[:, None] - place, axis=2)
    np.testing.assert_array_equal(sites.adjacent, (gap < 1.05 * BOND) & (gap > 0))
    assert (sites.atoms[~native] <= sites.room[~native]).all()
    some = surface_sites(particle, np.random.default_rng(5), n_sites=5, atoms=(1, 1))
    assert len(some) == 5
    assert (some.atoms[~some.native] == 1).all()
    assert np.ptp(some.places[:, :2], axis=0).max() < 15


def test_thermal_displacements_and_tilt_do_not_matter():
    particle = gold("110", 6, tilt=(2.0, 2.0))
    rng = np.random.default_rng(1)
    sites = surface_sites(particle, np.random.default_rng(6))
    shaken = surface_sites(particle.moved(particle.positions + [100, 50, 7] + rng.normal(0, 0.1, (len(particle), 3))),
                           np.random.default_rng(6))
    np.testing.assert_array_equal(shaken.native, sites.native)
    np.testing.assert_array_equal(shaken.adjacent, sites.adjacent)
    new = len(particle)
    away = shaken.cluster.positions[new:] - sites.cluster.positions[new:] - [100, 50, 7]
    assert away.std() == pytest.approx(0.1, rel=0.25)  # new atoms are displaced as much as the others
    assert np.abs(away).max() < 0.6


# what happens


def ring(n: int) -> np.ndarray:
    near = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return (near == 1) | (near == n - 1)


def replayed(seen: Trajectory, room: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Go through all transitions, check each, and return the states at these times and the time spent."""
    state, states, clock, spent = seen.start.copy(), [], 0.0, np.zeros((2, len(seen.start)))
    assert seen.transitions.time.is_monotonic_increasing
    for row in [*seen.transitions.itertuples(), None]:
        until = times[-1] if row is None else row.time
        states += [state.copy() for _ in range(int((times[len(states):] < until).sum()))]
        spent += (until - clock) * np.array([state == 0, state > 0])
        clock = until
        if row is None:
            break
        if row.kind == "appear":
            assert state[row.site] == 0
            state[row.site] = row.atoms
        else:
            assert state[row.site] == row.atoms > 0
            state[row.site] = 0
        if row.kind == "hop":
            assert seen.adjacent[row.site, row.site_to]
            assert state[row.site_to] == 0
            assert row.atoms <= room[row.site_to]
            state[row.site_to] = row.atoms
        else:
            assert row.site_to == -1
    return np.array([*states, state])[:len(times)], spent


def test_rates_are_those_that_were_given():
    """Of each kind and in each part, as many as rate x exposure, within 3.5 standard deviations; also site by site."""
    n, duration = 12, 1600.0
    room = np.random.default_rng(1).integers(3, 6, n)
    rates = Rates((0.05, 0.2), (0.1,), (0.02, 0.0, 0.3, 0.1))
    ends = np.linspace(0, duration, 5)
    np.testing.assert_array_equal(rates.at(ends[:-1], duration),
                                  [[0.05, 0.05, 0.2, 0.2], [0.1] * 4, [0.02, 0.0, 0.3, 0.1]])
    start, rows = np.where(np.arange(n) % 2, room, 0), []
    seen = simulate_kinetics(start, room - 1, room, ring(n), rates, duration, np.random.default_rng(2))
    assert seen.exposure[["empty", "occupied"]].sum(1).to_numpy() == pytest.approx(duration)
    for begin, end in pairwise(ends):  # the exposure of a part, from a replay
        now = [tuple(r) for r in seen.transitions[seen.transitions.time.between(begin, end)][MOVED].values]
        state, clock, spent = seen.shown([begin])[0][0], begin, np.zeros(3)
        for time, _, site, to, atoms in [*now, (end, "", 0, -1, state[0])]:
            free = [(i, j) for i, j in np.argwhere(ring(n)) if state[j] == 0 < state[i] <= room[j]]
            spent += (time - clock) * np.array([(state == 0).sum(), (state > 0).sum(), len(free)])
            clock, state[site] = time, 0 if state[site] and time < end else atoms
            if to >= 0:
                state[to] = atoms
        rows.append(spent)
    total = np.array(rows).T  # (kind, part)
    np.testing.assert_allclose(total.sum(1), seen.exposure[["empty", "occupied", "hop"]].sum())
    for kind, rate, exposure in zip(("appear", "disappear", "hop"), rates.at(ends[:-1], duration), total, strict=True):
        times = seen.transitions.time[seen.transitions.kind == kind]
        found, expected = np.histogram(times, ends)[0], rate * exposure
        assert (np.abs(found - expected) <= 3.5 * np.sqrt(expected)).all(), kind
    counts = np.bincount(seen.transitions.site[seen.transitions.kind == "disappear"], minlength=n)
    expected = 0.1 * seen.exposure.occupied.to_numpy()
    assert stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), n) > 1e-3


def test_detailed_balance_dwell_times_and_two_state_correlation():
    n, appear, disappear = 40, 0.3, 0.2
    seen = simulate_kinetics(np.zeros(n, int), np.full(n, 4), np.full(n, 4), np.zeros((n, n), bool),
                             Rates((appear,), (disappear,), (5.0,)), 1000.0, np.random.default_rng(5))
    rows = seen.transitions
    assert set(rows.kind) == {"appear", "disappear"}  # without neighbours nothing hops
    both = pd.crosstab(rows.site, rows.kind)
    assert (both.appear - both.disappear).between(0, 1).all()  # every column that went had come
    assert seen.exposure.occupied.sum() / (n * 1000) == pytest.approx(0.6, abs=0.015)
    for kind, rate in (("disappear", disappear), ("appear", appear)):  # time since the opposite event at the site
        waited = rows.time - rows.groupby("site").time.shift()
        assert stats.kstest(waited[rows.kind == kind].dropna(), "expon", args=(0, 1 / rate)).pvalue > 1e-3
    state = seen.shown(np.arange(2000) * 0.5)[0] > 0
    before, after = state[40:-1], state[41:]
    gain = 0.6 * (1 - np.exp(-(appear + disappear) * 0.5))
    tries, hits = (~before).sum(), (~before & after).sum()
    assert stats.binomtest(int(hits), int(tries), gain).pvalue > 1e-3


def test_hops_leave_occupancies_independent_and_balance():
    """Symmetric hops keep the stationary state of appear and disappear: each site full with p, whatever others are."""
    n, p = 10, 0.4
    rng, joint, counts = np.random.default_rng(8), np.zeros(n), 0.0
    seen = simulate_kinetics((rng.random(n) < p).astype(int), np.ones(n, int), np.ones(n, int), ring(n),
                             Rates((0.4,), (0.6,), (1.0,)), 3000.0, rng)
    state = seen.shown(np.arange(10, 3000, 5.0))[0] > 0
    counts, joint = state.mean(), (state & np.roll(state, 1, 1)).mean()
    assert counts == pytest.approx(p, abs=0.025)
    assert joint == pytest.approx(p * p, abs=0.025)
    hops = seen.transitions[seen.transitions.kind == "hop"]
    there = np.zeros((n, n), int)
    np.add.at(there, (hops.site, hops.site_to), 1)
    assert (there[~ring(n)] == 0).all()
    pairs = np.triu(there + there.T)
    balance = (there - there.T)[pairs > 0] / np.sqrt(pairs[pairs > 0])
    assert np.abs(balance).max() < 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0.0, 2.0), st.floats(0.0, 2.0), st.floats(0.0, 3.0))
def test_tables_agree_with_the_states(seed, n, appear, disappear, hop):
    rng = np.random.default_rng(seed)
    room = rng.integers(1, 5, n)
    near = np.triu(rng.random((n, n)) < 0.5, 1)
    near = near | near.T
    start = rng.integers(0, room + 1)
    seen = simulate_kinetics(start, rng.integers(1, room + 1), room, near, Rates((appear,), (disappear,), (hop,)), 10.0,
                             rng)
    times = np.append(np.arange(10) + 0.5, 10.0)
    states, spent = replayed(seen, room, times)
    np.testing.assert_array_equal(seen.shown(times)[0], states)
    np.testing.assert_allclose(seen.exposure[["empty", "occupied"]].to_numpy().T, spent, atol=1e-9)
    if appear == disappear == 0:  # hops take all atoms along
        assert (states.sum(1) == start.sum()).all()
    events = visible_events(seen, times)
    full = states > 0
    for i in range(1, len(times)):
        now = full[i - 1].astype(int)
        for row in events[events.frame == i].itertuples():
            assert times[i - 1] < row.time <= times[i]
            now[row.site] += 1 if row.kind == "appear" else -1
            if row.kind == "hop":
                assert near[row.site, row.site_to]
                now[row.site_to] += 1
        np.testing.assert_array_equal(now, full[i])
    changes = 2 * (events.kind == "hop").sum() + (events.kind != "hop").sum()
    assert changes == (full[1:] != full[:-1]).sum()  # no event that a frame does not show
    assert len(events) <= 2 * len(seen.transitions)


def test_what_a_frame_hides_is_no_event():
    near = ring(3)
    rows = [(0.2, "appear", 0, -1, 2), (0.6, "hop", 0, 1, 2), (0.8, "hop", 1, 2, 2), (1.6, "disappear", 2, -1, 2),
            (1.7, "appear", 2, -1, 1), (2.6, "appear", 0, -1, 2), (2.7, "disappear", 0, -1, 2),
            (3.6, "hop", 2, 0, 1), (3.7, "appear", 2, -1, 1), (4.6, "disappear", 0, -1, 1)]
    seen = Trajectory(np.zeros(3, int), pd.DataFrame(rows, columns=MOVED), pd.DataFrame(), near)
    found = visible_events(seen, np.arange(6) + 0.5)
    kept = [tuple(r) for r in found[["frame", "kind", "site", "site_to", "time"]].itertuples(index=False)]
    # by two hops to a neighbour; replaced by another; come and gone; a column hops on and another takes its place
    assert kept == [(1, "hop", 0, 2, 0.8), (4, "appear", 0, -1, 3.6), (5, "disappear", 0, -1, 4.6)]


# scenes


def test_the_frozen_control_is_the_same_particle_and_nothing_happens():
    recipe = hopping_recipe()
    still, moving = (Hopping(rate=r).scene(recipe, 4, 400, 0.1) for r in (0, 0.3))
    one, many = still.states(), moving.states()
    assert still.index.tolist() == [0] * 400
    assert one["event_frame"].size == one["transition_time"].size == 0
    assert one["site_time_empty"].values.sum() + one["site_time_occupied"].values.sum() == pytest.approx(
        40 * one["site"].size)
    np.testing.assert_array_equal(still.seen.start, moving.seen.start)
    np.testing.assert_array_equal(still.seen.start > 0, one["site_occupied"].values[0])
    for name in ("site_room", "site_native", "site_adjacent", "site_y_reference", "site_column"):
        np.testing.assert_array_equal(one[name], many[name])
    np.testing.assert_array_equal(still.specimen(0).positions, moving.specimen(0).positions)
    assert moving.index.max() > 50
    assert len(np.unique(moving.atoms, axis=0)) == len(moving.atoms)  # each state costs one wave
    other = Hopping(rate=0.3).scene(recipe, 5, 400, 0.1)
    assert len(other.atoms) != len(moving.atoms)
    native = Hopping(rate=0, filled=None).scene(recipe, 4, 3, 0.1)
    np.testing.assert_array_equal(native.atoms[0] > 0, native.states()["site_native"])


def test_only_the_sites_change_from_state_to_state():
    recipe = replace(hopping_recipe(), field=replace(hopping_recipe().field, box=50))
    scene = pickle.loads(pickle.dumps(Hopping(rate=1.0).scene(recipe, 4, 30, 0.1)))
    first, states = scene.specimen(0), Hopping(rate=1.0).scene(recipe, 4, 30, 0.1).states()
    for k in (1, 5, scene.index.max()):
        there = scene.specimen(k)
        np.testing.assert_array_equal(there.positions, first.positions)  # film and all; what is not there is vacant
        changed = there.column[there.numbers != first.numbers]
        wanted = np.flatnonzero(scene.atoms[k] != scene.atoms[0])
        assert set(changed) == set(states["site_column"].values[wanted])
        table = column_table(there).set_index("column")
        for s in range(scene.atoms.shape[1]):
            number = states["site_column"].values[s]
            assert (number in table.index) == (scene.atoms[k, s] > 0)
            if scene.atoms[k, s]:
                assert table.atoms[number] == scene.atoms[k, s]
                assert table.y[number] == pytest.approx(states["site_y"].values[k, s], abs=0.15)
                assert table.x[number] == pytest.approx(states["site_x"].values[k, s], abs=0.15)
        assert (there.numbers == 79).sum() == states["particle_atoms"].values[k, 0]


def test_sites_move_with_the_particle():
    """Without tilt: the rigid motion that the truth says, to rounding; with it, states and poses are combined."""
    scene = Hopping(rate=0.2, rock=Rock(tilt=0.0, spin=20.0, wander=2.0, frames_per_wave=3)).scene(
        hopping_recipe(), 4, 60, 0.2)
    s = scene.states()
    centre = np.array([s["particle_y"].values[0, 0], s["particle_x"].values[0, 0]])
    reference = np.stack([s["site_y_reference"], s["site_x_reference"]], 1)
    angles = s["particle_rotation"].values[:, 0]
    assert np.ptp(angles) > 0.1
    for k in range(len(scene.atoms)):
        drift = np.array([s["particle_y"].values[k, 0], s["particle_x"].values[k, 0]]) - centre
        c, sn = np.cos(angles[k]), np.sin(angles[k])
        place = (reference - centre) @ np.array([[c, -sn], [sn, c]]).T + centre + drift
        np.testing.assert_allclose(place, np.stack([s["site_y"].values[k], s["site_x"].values[k]], 1), atol=1e-9)
    poses = np.unique(scene.turns[scene.index, 0], axis=0, return_inverse=True)[1]
    assert len(set(poses)) == 20
    assert (np.diff(scene.index) != 0).sum() > 19  # states change between poses too
    rocked = Hopping(rate=0.2, rock=Rock(tilt=4.0, frames_per_wave=3)).scene(hopping_recipe(), 4, 60, 0.2)
    tilts = rocked.states()["particle_tilt"].values
    assert tilts.max() > 3
    np.testing.assert_array_equal(rocked.atoms[rocked.index], scene.atoms[scene.index])  # whatever the pose


@pytest.mark.parametrize(("make", "says"), [
    (lambda: Hopping(rate=-1), "Hopping.rate is -1; expected a finite number of at least 0 .1/second"),
    (lambda: Hopping(rate=None), "Hopping.rate is None"), (lambda: Hopping(hop="fast"), "Hopping.hop is 'fast'"),
    (lambda: Hopping(appear=[]), r"Hopping.appear is \[\]; expected a rate, or one for each part"),
    (lambda: Hopping(disappear=[0.1, np.nan]), "Hopping.disappear is nan"),
    (lambda: Hopping(atoms=3), r"Hopping.atoms is 3; expected the least and the most"),
    (lambda: Hopping(atoms=(4, 2)), "Hopping.atoms"), (lambda: Hopping(atoms=(0, None)), "Hopping.atoms"),
    (lambda: Hopping(filled=1.5), "a part of the sites, 0 to 1"), (lambda: Hopping(n_sites=0), "n_sites is 0"),
    (lambda: Hopping(rock=3), "Hopping.rock is 3; expected a Rock"),
    (lambda: Hopping().scene(hopping_recipe(number=[0, 0]), 1, 2, 0.1), None),
    (lambda: Hopping().scene(hopping_recipe(diameter=[4, 4]), 1, 2, 0.1), "can come or go; expected a larger one"),
    (lambda: surface_sites(gold("any", 3), np.random.default_rng(0)), "off a zone axis or twinned; expected one grain"),
    (lambda: surface_sites(gold("110", 3, twin=True), np.random.default_rng(0)), "twin_fraction 0"),
])
def test_what_makes_no_sense_is_refused(make, says):
    if says is None:  # a recipe without particles gets one: that is what a movie of hopping needs
        assert len(make().sites)
        return
    with pytest.raises(InputError, match=says):
        make()


def test_a_movie_of_another_motion_has_no_events():
    truth = simulate.movie(hopping_recipe(), n_frames=1, shape=(16, 16), pixel_size=0.5, motion=Rock(n_waves=1))
    with pytest.raises(MissingInputError, match=r"no events; make the movie with .*Hopping\(rate=0.1\)"):
        simulate.true_events(truth)


# movies

MOVIE = {"recipe": {"name": "hop", "field": {"wave_sampling": 0.2, "stored_sampling": 0.25, "slice_thickness": 4},
                    "particles": {"number": [1, 1], "coverage": [0.2, 0.2], "diameter": [16, 16], "shape": "wulff",
                                  "zone_axis": "110", "thermal_displacement": [0.05, 0.05], "twin_fraction": 0},
                    "film": {"thickness": [6, 6], "absent_fraction": 0}},
         "n_frames": 5, "seed": 9, "shape": (80, 90), "pixel_size": 0.25, "dose": 2e5, "frame_time": 0.1, "drift": 0.0,
         "optics": Optics(defocus=-60.0, cs=-1e5, focal_spread=35.0, convergence=1e-4, blur=0.3)}


def test_movie_shows_the_events_where_they_are_and_nowhere_else(tmp_path):
    options = MOVIE | {"motion": Hopping(rate=0.4, n_sites=8)}

    def stop(done: int, total: int) -> None:
        if done == 1 < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate.movie(**options, store=tmp_path / "m.zarr", workers=1, progress=stop)
    simulate.movie(**options, store=tmp_path / "m.zarr", workers=1)
    ds, movie = simulate.open_truth(tmp_path / "m.zarr"), open_movie(tmp_path / "m.zarr").values.astype(float)
    again = simulate.movie(**options)  # on threads, not interrupted
    np.testing.assert_array_equal(again.movie, movie)
    pd.testing.assert_frame_equal(simulate.true_events(again), simulate.true_events(ds))
    events, columns = simulate.true_events(ds), simulate.true_columns(ds)
    assert {"appear", "hop"} <= set(events.kind)
    assert ds.configuration.values.tolist() == [0, 1, 1, 2, 2]
    assert len(simulate.true_events(ds, every=True)) >= len(events)
    y, x = (np.arange(n) * 0.25 for n in movie.shape[1:])
    noise = (movie[2] - movie[1]).std()  # of one state
    assert ds.configuration[1] == ds.configuration[2]
    for i in range(1, 5):
        changed = np.flatnonzero(ds.site_occupied[i].values != ds.site_occupied[i - 1].values)
        assert set(changed) == set(events[events.frame == i].site) | (set(events[events.frame == i].site_to) - {-1})
        step = movie[i] - movie[i - 1]
        away = np.full(step.shape, np.inf)
        for s in changed:
            here = np.hypot(y[:, None] - float(ds.site_y[i, s]), x - float(ds.site_x[i, s]))
            away = np.minimum(away, here)
            assert np.abs(step[here < 0.6].mean()) > 5 * noise
        assert step[away > 9].std() < 1.1 * noise
    for i in (0, 4):
        mine = columns[columns.frame == i].set_index("column")
        assert mine.index.is_unique
        np.testing.assert_array_equal([c in mine.index for c in ds.site_column.values], ds.site_occupied[i])
        assert mine.atoms.sum() == ds.particle_atoms[i, 0]
    for row in events.itertuples():  # nothing moves here: the reference is where it happens
        assert (row.y, row.x) == (float(ds.site_y[row.frame, row.site]), float(ds.site_x[row.frame, row.site]))
        assert np.isnan(row.y_to) == np.isnan(row.x_to) == (row.kind != "hop")
