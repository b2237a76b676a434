"""Particles through time: links against truth, drift, gaps, mergers, rotation, batches, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from movie_scenes import one_particle
from scipy.spatial.transform import Rotation

import hrtem_dask
from hrtem_dask import link_particles, simulate
from hrtem_dask.analysis import tracks as module
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import InputError
from hrtem_dask.core.schema import PARTICLES, TRACKS
from hrtem_dask.kernels.linking import LinkRules, Sight, Tracks, pair_up
from hrtem_dask.simulate.scenes import Rock

DISC = 400.0  # angstrom^2: a radius of 11.3


def table(*rows: tuple[float, ...]) -> pd.DataFrame:
    """Rows (frame, y, x) or (frame, y, x, area); particles are numbered within their frame."""
    full = [(*r, DISC) if len(r) == 3 else r for r in rows]
    out = pd.DataFrame(full, columns=["frame", "y", "x", "area"]).astype({"frame": int})
    return out.assign(particle=out.groupby("frame").cumcount() + 1)


def field(seed: int, frames: int = 60, n: int = 14, side: float = 300.0, missing: float = 0.0, noise: float = 0.3,
          drift: float = 2.0) -> tuple[pd.DataFrame, np.ndarray]:
    """A drifting field whose particles wander, leave the view and come into it; true particle and true drift."""
    rng = np.random.default_rng(seed)
    places: list[np.ndarray] = []
    while len(places) < n:
        p = rng.uniform(-60, side + 60, 2)
        places += [p] if all(np.hypot(*(p - q)) > 45 for q in places) else []
    move = np.cumsum(rng.normal(0, drift, (frames, 2)), 0)
    at = np.array(places) + move[:, None] + np.cumsum(rng.normal(0, 0.4, (frames, n, 2)), 0)
    at = at + rng.normal(0, noise, at.shape)
    radius = rng.uniform(10, 20, n)
    seen = ((at > 0) & (at < side)).all(2) & (rng.random((frames, n)) >= missing)
    f, k = np.nonzero(seen)
    out = pd.DataFrame({"frame": f, "y": at[f, k, 0], "x": at[f, k, 1], "true": k,
                        "area": np.pi * radius[k] ** 2 * np.exp(rng.normal(0, 0.05, f.size))})
    out = out.sample(frac=1, random_state=seed).sort_values("frame", kind="stable")  # labels say nothing
    return out.assign(particle=out.groupby("frame").cumcount() + 1).reset_index(drop=True), move - move[0]


def linked_right(found: pd.DataFrame, gap: int = 1) -> tuple[float, float]:
    """Part of the true links (up to so many frames) that were made, and of those made that are wrong."""
    steps = found.sort_values(["true", "frame"])
    near = steps.groupby("true")["frame"].diff() <= gap
    kept = (steps["track"] == steps.groupby("true")["track"].shift())[near].mean()
    steps = found.sort_values(["track", "frame"])
    before = steps.groupby("track")["true"].shift()
    return float(kept), float((before != steps["true"])[before.notna()].mean())


@pytest.mark.parametrize("seed", range(4))
def test_links_and_drift_of_a_field_with_arrivals_and_departures(seed):
    particles, drift = field(seed)
    found = link_particles(particles)
    kept, wrong = linked_right(found)
    assert kept > 0.995
    assert wrong == 0
    measured = found.groupby("frame")[["drift_y", "drift_x"]].first()
    true = drift[measured.index] - drift[measured.index[0]]
    # what all particles wander together is drift too: 0.4 / root of ten a step, for 60 steps
    assert np.abs(measured.to_numpy() - true).max() < 4 * 0.4 / np.sqrt(8) * np.sqrt(60)
    assert np.diff(measured.to_numpy() - true, axis=0).std() < 0.4
    np.testing.assert_allclose(found["y"] - found["drift_y"], found["y_field"])
    assert list(found.columns) == [*particles.columns, *TRACKS.names]
    assert found[TRACKS.names].dtypes.astype(str).tolist() == [c.dtype for c in TRACKS.columns]
    pd.testing.assert_frame_equal(found[particles.columns], particles)


def test_arrivals_and_departures_alone_are_no_drift():
    """Particles at rest; each frame three new ones come at the right and three leave at the left."""
    rng = np.random.default_rng(0)
    rows = [(f, y, 40.0 * k, DISC) for f in range(12) for k in range(f, f + 9) for y in rng.normal(100, 0.01, 1)]
    found = link_particles(table(*rows))
    assert found[["drift_y", "drift_x"]].abs().to_numpy().max() < 0.1
    assert found["track"].nunique() == 20


def test_a_jump_of_the_field_by_more_than_a_particle():
    particles, _ = field(1, frames=10, drift=0.0)
    later = particles["frame"] >= 5
    particles.loc[later, "y"] += 120.0
    particles.loc[later, "x"] -= 70.0
    found = link_particles(particles)
    assert linked_right(found)[0] > 0.99
    after = found[found.frame >= 5]
    np.testing.assert_allclose(after["drift_y"], 120, atol=2)
    np.testing.assert_allclose(after["drift_x"], -70, atol=2)


def test_one_runaway_does_not_carry_the_field():
    still = [(f, y, x) for f in range(8) for y, x in ((50, 50), (150, 60), (60, 160), (160, 160))]
    found = link_particles(table(*still, *((f, 100.0 + 6 * f, 250.0) for f in range(8))))
    assert found["drift_y"].abs().max() < 0.5
    assert found["track"].nunique() == 5


def test_crossing_particles_keep_their_names_by_size_and_by_place():
    """Two of unlike size pass each other, closer than their radii."""
    rows = [(f, y, x, a) for f in range(21)
            for y, x, a in ((100.0, 100 + 3.0 * f, 900.0), (108.0, 160 - 3.0 * f, 300.0), (30, 30, 500), (250, 40, 500),
                            (40, 250, 500), (250, 250, 500))]
    found = link_particles(table(*rows))
    assert found.groupby("area")["track"].nunique().to_dict() == {300.0: 1, 500.0: 4, 900.0: 1}


def test_the_sum_of_overlaps_decides_not_the_nearest():
    """Two in a row move by two thirds of their distance: the nearest to the old place of one is the other."""
    tracks = Tracks(step=1, count=2, number=np.arange(2), at=np.array([[0.0, 0.0], [0.0, 12.0]]),
                    area=np.array([DISC, DISC]), cut=np.zeros(2, bool), last=np.zeros(2, int))
    tracks.lattices = tracks.lattices.taken(np.array([-1, -1]))
    at = np.array([[0.0, 8.0], [0.0, 20.0]])
    sight = Sight(at, np.array([DISC, DISC]), np.zeros(2, bool), np.zeros((2, 0)), np.zeros((2, 0)))
    old, new = pair_up(tracks, sight, at, np.ones(2), LinkRules())
    assert dict(zip(old.tolist(), new.tolist(), strict=True)) == {0: 0, 1: 1}


def test_merging_and_splitting():
    """Equal ones that merge begin a track, and take up their own when they part in time; one swallows a speck."""
    still = [(f, y, x, 600.0) for f in range(9) for y, x in ((50, 50), (50, 200), (200, 50))]
    apart = [(f, 200.0, x, DISC) for f in (0, 1, 2, 5, 6, 7, 8) for x in (190.0, 214.0)]
    merged = [(f, 200.0, 202.0, 2 * DISC + 20) for f in (3, 4)]
    found = link_particles(table(*still, *apart, *merged))
    mine = found[(found.y == 200) & (found.area != 600)].groupby(["frame", "x"])["track"].first()
    assert mine[2, 190.0] == mine[5, 190.0] == mine[8, 190.0]
    assert mine[2, 214.0] == mine[5, 214.0]
    assert mine[3, 202.0] not in (mine[2, 190.0], mine[2, 214.0])
    assert mine[3, 202.0] == mine[4, 202.0]
    speck = [(f, 120.0, 136.0, 60.0) for f in range(3)]
    large = [(f, 120.0, 120.0 if f < 3 else 121.5, 500.0 if f < 3 else 560.0) for f in range(6)]
    found = link_particles(table(*[r for r in still if r[0] < 6], *speck, *large))
    assert found[found.area.isin([500.0, 560.0])]["track"].nunique() == 1


@pytest.mark.parametrize(("gap", "memory", "same"), [(3, 3, True), (4, 3, False), (4, 5, True), (1, 0, False)])
def test_gaps_are_bridged_up_to_memory(gap, memory, same):
    still = [(f, y, x) for f in range(12) for y, x in ((50, 50), (50, 200), (200, 50))]
    seen = [f for f in range(12) if not 4 <= f < 4 + gap]
    found = link_particles(table(*still, *((f, 200.0, 200.0) for f in seen)), memory=memory)
    assert (found[(found.y == 200) & (found.x == 200)]["track"].nunique() == 1) == same


def test_frames_that_were_left_out_are_no_gap():
    particles, _ = field(3, drift=0.5)
    found = link_particles(particles[particles["frame"] % 9 == 0], memory=0)
    assert linked_right(found, 9)[0] > 0.97
    assert linked_right(found, 9)[1] == 0
    assert found.index.equals(particles.index[particles["frame"] % 9 == 0])


def test_missing_particles_do_not_move_the_field():
    particles, drift = field(5, missing=0.25)
    found = link_particles(particles)
    kept, wrong = linked_right(found, 4)
    assert kept > 0.99
    assert wrong == 0
    error = found["drift_y"] - drift[found["frame"], 0]
    assert error.std() < 1.0


def test_what_the_border_cuts_does_not_count_for_the_drift():
    """A particle slides out of view: its visible centre moves half as fast as it does, its area shrinks."""
    still = [(f, y, x, 600.0, False) for f in range(10) for y, x in ((50, 50), (150, 50))]
    edge = [(f, 100.0, 1.0 + 1.2 * (9 - f), 60.0 * (10 - f), True) for f in range(10)]
    other = [(f, 180.0, 1.0 + 1.2 * (9 - f), 60.0 * (10 - f), True) for f in range(10)]
    rows = table(*(r[:4] for r in still + edge + other)).assign(touches_border=[r[4] for r in still + edge + other])
    found = link_particles(rows)
    assert found[["drift_y", "drift_x"]].abs().to_numpy().max() < 1e-9
    assert found[rows.y == 100].query("frame < 7")["track"].nunique() == 1


def folded(angle: np.ndarray) -> np.ndarray:
    return angle - np.pi * np.rint(angle / np.pi)


def turning(turns: np.ndarray, between: float, second: np.ndarray, noise: float = 0.0) -> pd.DataFrame:
    """One particle whose net has two equal pairs at this angle; the brighter one is the second where that is True."""
    rng = np.random.default_rng(0)
    n = len(turns)
    pair = turns[:, None] + np.where(second[:, None], [between, 0.0], [0.0, between]) + rng.normal(0, noise, (n, 2))
    at = [(f, y, x) for f in range(n) for y, x in ((50.0, 50.0),)]
    pairs = {"g_angle": folded(pair[:, 0]), "d_spacing": 2.355, "g_angle_2": folded(pair[:, 1]), "d_spacing_2": 2.355}
    return table(*at).assign(**pairs)


@pytest.mark.parametrize("between", [70.5, 90.0, 60.0, 109.5])
def test_rotation_does_not_jump_with_the_brightest_pair(between):
    rng = np.random.default_rng(4)
    turns = np.deg2rad(np.cumsum(rng.normal(1.5, 3, 200)))  # more than half a turn in all
    particles = turning(turns, np.deg2rad(between), rng.random(200) < 0.5, noise=np.deg2rad(0.5))
    alone = rng.random(200) < 0.4
    particles.loc[alone, ["g_angle_2", "d_spacing_2"]] = np.nan
    blind = rng.random(200) < 0.1
    blind[0] = False
    particles.loc[blind, ["g_angle", "d_spacing", "g_angle_2", "d_spacing_2"]] = np.nan
    found = link_particles(particles)
    assert found["rotation"].isna().to_numpy().tolist() == blind.tolist()
    error = np.rad2deg((found["rotation"] - (turns - turns[0]))[~blind])
    assert error.abs().max() < 3
    assert error.std() < 0.8
    assert np.ptp(turns) > np.pi / 2


def test_a_turn_too_far_to_tell_is_unknown():
    turns = np.deg2rad([0.0, 0, 40, 40, 2])
    particles = turning(turns, np.deg2rad(90), np.zeros(5, bool))
    particles[["g_angle_2", "d_spacing_2"]] = np.nan
    found = np.rad2deg(link_particles(particles)["rotation"])
    assert found.isna().tolist() == [False, False, True, True, False]
    assert found.iloc[-1] == pytest.approx(2)


def test_another_spacing_is_another_pair():
    turns = np.zeros(6)
    particles = turning(turns, np.deg2rad(54.7), np.zeros(6, bool))
    particles["d_spacing_2"] = 2.04
    particles.loc[4, ["g_angle", "d_spacing"]] = particles.loc[4, ["g_angle_2", "d_spacing_2"]].to_numpy()
    particles.loc[4, ["g_angle_2", "d_spacing_2"]] = np.nan
    particles.loc[5, ["g_angle", "d_spacing", "g_angle_2"]] = [np.deg2rad(10.0), 1.44, np.nan]  # not seen before
    found = link_particles(particles)["rotation"]
    np.testing.assert_allclose(found[:5], 0, atol=1e-9)
    assert np.isnan(found[5])


def test_without_pairs_there_is_no_rotation_and_no_error():
    found = link_particles(table((0, 1.0, 1.0), (1, 1.0, 1.0)))
    assert found["rotation"].isna().all()


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_batches_change_nothing(seed, n, rows):
    """However a table is cut, even within a frame, and in whatever order the rows of a frame are."""
    particles, _ = field(seed, frames=8, n=n, missing=0.2)
    if len(particles) == 0:
        return
    expected = link_particles(particles)
    ends = [*range(0, len(particles), rows), len(particles)]
    parts = [dask.delayed(particles.iloc[a:b]) for a, b in pairwise(ends)]
    with dask.config.set(scheduler="synchronous"):
        found = link_particles(dd.from_delayed(parts, meta=particles.iloc[:0], verify_meta=False))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_no_task_holds_more_than_a_batch_of_frames(monkeypatch):
    """What goes from one batch to the next is its last frame and a row a particle, however long the movie."""
    held = []
    plain = module._link_batch

    def watched(before, part):
        after, rows = plain(before, part)
        held.append((0 if part is None else part["frame"].nunique(), 0 if before.rows is None
                     else before.rows["frame"].nunique(), len(after.tracks.number), 0 if rows is None else len(rows)))
        return after, rows

    monkeypatch.setattr(module, "_link_batch", watched)
    particles, _ = field(2, frames=120, n=6)
    batches = [particles[particles["frame"] // 10 == k] for k in range(12)]
    parts = [dask.delayed(b) for b in batches]
    with dask.config.set(scheduler="synchronous"):
        link_particles(dd.from_delayed(parts, meta=particles.iloc[:0], verify_meta=False))
    assert len(held) == 13
    frames, last, remembered, rows = np.array(held).max(0)
    assert frames == 10
    assert last == 1
    assert remembered <= 6 * 4  # as many as can be missing
    assert rows <= 11 * 6


def test_tables_of_analyse_particles_lazy_and_not():
    y, x = np.mgrid[:96, :96] * 0.5
    mask = np.stack([np.hypot(y - 15 - f, x - 15) < 8 for f in range(4)]) | \
        np.stack([np.hypot(y - 30 - f, x - 35) < 7 for f in range(4)])
    counts = np.random.default_rng(0).poisson(50, mask.shape).astype(np.uint16)
    movie = make_movie(counts, pixel_size=0.5, time=np.arange(4) * 0.1)
    particles = hrtem_dask.analyse_particles(movie, movie.copy(data=mask * 0.9), frames_per_partition=2)
    lazy = link_particles(particles)
    assert isinstance(lazy, pd.DataFrame)
    pd.testing.assert_frame_equal(lazy, link_particles(particles.compute().reset_index(drop=True)))
    assert lazy["track"].nunique() == 2
    np.testing.assert_allclose(lazy["drift_y"], lazy["frame"], atol=0.2)
    assert list(lazy.columns) == [*PARTICLES.names, *TRACKS.names]
    again = link_particles(lazy)  # columns of an earlier linking are replaced
    pd.testing.assert_frame_equal(again, lazy)


def test_empty_tables_and_single_frames():
    empty = link_particles(PARTICLES.empty())
    assert list(empty.columns) == [*PARTICLES.names, *TRACKS.names]
    assert empty["track"].dtype == np.int64
    assert len(empty) == 0
    lazy = link_particles(dd.from_pandas(PARTICLES.empty(), npartitions=1))
    assert list(lazy.columns) == list(empty.columns)
    one = link_particles(table((7, 5.0, 5.0), (7, 50.0, 50.0)))
    assert one["track"].tolist() == [0, 1]
    assert (one[["drift_y", "drift_x"]] == 0).all(axis=None)


def test_order_and_index_of_a_pandas_table_are_kept():
    particles, _ = field(0, frames=6)
    shuffled = particles.sample(frac=1, random_state=1)
    found = link_particles(shuffled)
    assert found.index.equals(shuffled.index)
    pd.testing.assert_frame_equal(found[particles.columns], shuffled)
    assert linked_right(found)[0] == 1


def test_what_cannot_be_linked_is_refused():
    good = table((0, 1.0, 1.0), (1, 1.0, 1.0))
    with pytest.raises(InputError, match=r"lacks the columns \['y', 'area'\]"):
        link_particles(good.drop(columns=["y", "area"]))
    with pytest.raises(InputError, match=r"drop_duplicates"):
        link_particles(pd.concat([good, good]))
    with pytest.raises(InputError, match=r"y is nan for particle 1 of frame 1"):
        link_particles(good.assign(y=[1.0, np.nan]))
    with pytest.raises(InputError, match=r"area is 0\.0"):
        link_particles(good.assign(area=[0.0, 1.0]))
    with pytest.raises(InputError, match="analyse_particles"):
        link_particles([1, 2])
    for wrong in ({"memory": -1}, {"memory": 1.5}, {"max_distance": 0}, {"max_size_ratio": 0.5}, {"max_turn": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            link_particles(good, **wrong)
    parts = [dask.delayed(good[good.frame == f]) for f in (1, 0)]
    with pytest.raises(InputError, match="in the order of frames"), dask.config.set(scheduler="synchronous"):
        link_particles(dd.from_delayed(parts, meta=good.iloc[:0], verify_meta=False))


def test_rotation_of_a_simulated_particle_against_its_true_orientation():
    """From counts: spots found, followed, and turned as the atoms were; the tilt changes which pair is brightest."""
    motion = Rock(tilt=2.0, time=1.0, spin=10.0, wander=0.5, frames_per_wave=2)
    truth = simulate.movie(one_particle(), n_frames=6, seed=10, shape=(130, 130), dose=2000.0, drift=0.5, motion=motion)
    probability = truth["truth"].astype(np.float32).assign_coords(y=truth["movie"].y, x=truth["movie"].x)
    particles = hrtem_dask.analyse_particles(truth["movie"], probability, min_area=100).compute()
    found = link_particles(particles)
    assert found["track"].tolist() == [0] * 6
    turn = Rotation.from_quat(truth["particle_orientation"].values[:, 0])
    steps = (turn[1:] * turn[:-1].inv()).as_rotvec()[:, 2]  # about the beam, from +x towards +y
    true = np.concatenate([[0], -np.cumsum(steps)])
    assert np.rad2deg(np.ptp(true)) > 4
    assert found["rotation"].notna().sum() >= 5
    error = np.rad2deg(found["rotation"].to_numpy() - true)
    assert np.nanmax(np.abs(error - np.nanmedian(error))) < 1.0
