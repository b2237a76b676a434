"""Drift and rotation from columns: against the truth, with what is wrong with real tables, and the epochs."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registration_scenes import CENTRE, LATTICE, columns_of, errors_of, lattice, motions, pulls_of

from hrtem_dask import correct_drift, estimate_drift
from hrtem_dask.core.errors import InputError
from hrtem_dask.core.schema import DRIFT
from hrtem_dask.kernels.body import Body, interior
from hrtem_dask.kernels.epochs import rotation_breaks
from hrtem_dask.kernels.rigid import Rows, joint_motions, move, recentred, relative, unmove


def reasons(drift: pd.DataFrame) -> list[tuple[int, str]]:
    return [(e["frame"], e["reason"]) for e in drift.attrs["epochs"]]


def test_drift_and_rotation_agree_with_the_truth_and_errors_with_what_they_are():
    """Hopping surface, recall 0.9, 3 % false columns, noise 0.1 A, jumps, and a rotation by 10 degrees."""
    motion = motions(240, 1, jumps={80: (6.0, -4.0), 150: (1.9, 2.1)})
    table = columns_of(motion, seed=1)
    drift = estimate_drift(table.sample(frac=1, random_state=1))
    assert drift.dtypes.astype(str).to_dict() == {c.name: c.dtype for c in DRIFT.columns}
    assert (drift["status"] == "registered").all()
    assert reasons(drift) == [(0, "first frame")]
    errors, stated = errors_of(drift, motion)
    rms = np.sqrt((errors**2).mean(0))
    assert rms[:2].max() < 0.03
    assert np.rad2deg(rms[2]) < 0.1
    assert np.abs(errors).max() < 0.06
    np.testing.assert_allclose(pulls_of(errors, stated), 1, atol=0.2)
    assert drift.loc[0, ["drift_y", "drift_x", "rotation"]].tolist() == [0, 0, 0]
    np.testing.assert_allclose(drift["residual"], 0.107, atol=0.03)  # root mean square of 0.1 times 0.6 to 1.5
    assert drift["matched"].between(60, 170).all()
    assert drift["time"].iloc[-1] == pytest.approx(23.9)


def test_errors_do_not_grow_along_the_movie():
    motion = motions(1000, 2)
    table = columns_of(motion, 9.0, seed=2)
    drift = estimate_drift(table)
    errors, stated = errors_of(drift, motion)
    parts = np.array([np.sqrt((e**2).mean(0)) for e in np.array_split(errors - errors[:200].mean(0), 5)])
    assert parts[-1] == pytest.approx(parts[0], rel=0.25)
    assert parts[:, :2].max() < 0.025  # a chain from frame to frame would be at 0.02 * sqrt(1000)
    np.testing.assert_allclose(pulls_of(errors, stated), 1, atol=0.1)


def test_frames_left_out_and_frames_that_cannot_be_used():
    motion = motions(200, 3, turn=4)
    rng = np.random.default_rng(3)
    table = columns_of(motion, 12.0, seed=3)
    kept = np.sort(rng.choice(200, 90, replace=False))
    kept = kept[(kept < 60) | (kept > 110)]
    one, few, noise = kept[5], kept[10], kept[15]
    table = table[table["frame"].isin(kept)]
    table = table.drop(table.index[(table["frame"] == one)][1:])
    table = table.drop(table.index[(table["frame"] == few)][4:])
    table = table[table["frame"] != kept[20]]
    lost = table["frame"] == noise
    table.loc[lost, ["y", "x"]] = rng.uniform(30, 80, (int(lost.sum()), 2))
    verdicts = pd.DataFrame({"frame": range(200), "time": np.arange(200) * 0.1, "keep": np.isin(range(200), kept)})
    drift = estimate_drift(table, frames=verdicts)
    assert drift["frame"].tolist() == kept.tolist()
    status = drift.set_index("frame")["status"]
    assert status[[one, few, noise, kept[20]]].tolist() == ["too few", "too few", "lost", "empty"]
    assert (status.drop([one, few, noise, kept[20]]) == "registered").all()
    assert drift["drift_y"].notna().tolist() == (drift["status"] == "registered").tolist()
    assert drift["time"].tolist() == pytest.approx((kept * 0.1).tolist())
    assert reasons(drift) == [(kept[0], "first frame")]
    assert np.abs(errors_of(drift, motion)[0]).max() < 0.1


def test_the_same_from_a_dask_table_in_any_order():
    table = columns_of(motions(12, 4), 9.0, seed=4)
    drift = estimate_drift(table)
    lazy = dd.from_pandas(table.sample(frac=1, random_state=0).reset_index(drop=True), npartitions=5)
    pd.testing.assert_frame_equal(estimate_drift(lazy), drift)
    pd.testing.assert_frame_equal(estimate_drift(table.set_index("frame", drop=False)), drift)
    here = correct_drift(table, drift)
    there = correct_drift(dd.from_pandas(table, npartitions=3), drift)
    assert isinstance(there, dd.DataFrame)
    pd.testing.assert_frame_equal(there.compute(), here)


def test_corrected_columns_lie_where_they_are_in_the_first_frame():
    motion, places = motions(40, 5, jumps={20: (3.0, 1.0)}), lattice(9.0)
    table = columns_of(motion, seed=5, recall=1.0, false=0.0, noise=0.05, places=places)
    drift = estimate_drift(table)
    table["column"] = np.tile(np.arange(len(places)), 40)
    table.loc[table["frame"] == 7, "frame"] = 777  # not in the table of drift
    fixed = correct_drift(table, drift)
    assert fixed.loc[fixed["frame"] == 777, "epoch"].eq(-1).all()
    assert fixed.loc[fixed["frame"] == 777, "y_ref"].isna().all()
    mean = fixed.groupby("column")[["y_ref", "x_ref"]].mean().to_numpy()
    np.testing.assert_allclose(mean, places + CENTRE, atol=0.08)
    spread = fixed.groupby("column")[["y_ref", "x_ref"]].std().to_numpy()
    assert np.sqrt((spread**2).mean()) == pytest.approx(0.107 / 2, rel=0.1)
    again = correct_drift(fixed, drift)
    pd.testing.assert_frame_equal(again, fixed)


def test_a_crystal_that_fills_the_view_needs_continuity():
    """No outline tells a slip by a lattice vector; where frames are missing the registration is ambiguous."""
    motion = motions(160, 6, step=0.15, turn=1)
    table = columns_of(motion, 60.0, seed=6, places=lattice(60.0))
    view = (45.0, 75.0, 35.0, 65.0)
    table = table[table["y"].between(*view[:2]) & table["x"].between(*view[2:])]
    drift = estimate_drift(table, field_of_view=view)
    assert reasons(drift) == [(0, "first frame")]
    assert np.abs(errors_of(drift, motion)[0]).max() < 0.1
    gap = estimate_drift(table[~table["frame"].between(60, 109)], field_of_view=view)
    assert reasons(gap) == [(0, "first frame"), (110, "ambiguous by a lattice vector")]
    late = gap["frame"] >= 110
    assert (gap.loc[late, "epoch"] == 1).all()
    away = (errors_of(gap, motion)[0])[late.to_numpy(), :2]
    inverse = np.linalg.inv(LATTICE)
    assert np.ptp(np.round(away @ inverse), axis=0).tolist() == [0, 0]  # off by one and the same lattice vector
    assert np.abs(away @ inverse - np.round(away @ inverse)).max() < 0.1


def test_an_outline_settles_what_a_gap_leaves_open():
    motion = motions(120, 7, jumps={60: (2.72, 0.85)})  # a lattice vector, while nobody looked
    table = columns_of(motion, 12.0, seed=7)
    drift = estimate_drift(table[~table["frame"].between(40, 80)])
    assert reasons(drift) == [(0, "first frame")]
    assert np.abs(errors_of(drift, motion)[0]).max() < 0.1


def test_the_largest_body_is_followed():
    """Two particles that drift and turn each for itself."""
    large, small = motions(60, 8), motions(60, 9, turn=-6)
    other = columns_of(small, 8.0, seed=9)
    other["x"] += 45
    table = pd.concat([other, columns_of(large, 13.0, seed=8)], ignore_index=True)
    errors, stated = errors_of(estimate_drift(table), large)
    assert np.abs(errors).max() < 0.1
    alone = estimate_drift(other)
    assert np.abs(errors_of(alone, small, CENTRE + [0, 45])[0]).max() < 0.15
    assert len(errors) == len(stated) == 60


def test_a_particle_that_leaves_the_view_is_lost_and_found():
    motion = motions(150, 10, step=0.15, turn=3)
    out = np.interp(np.arange(150), [30, 80, 130], [0.0, 50.0, 0.0])
    motion[:, 0] += out
    table = columns_of(motion, 10.0, seed=10)
    view = (0.0, 85.0, 0.0, 100.0)
    table = table[table["y"] < 85]
    drift = estimate_drift(table, frames=range(150), field_of_view=view)
    gone = drift["status"] != "registered"
    assert gone[65:95].all()
    assert not gone[:50].any()
    assert not gone[115:].any()
    errors = np.abs(errors_of(drift, motion)[0]).max(1)
    sure = drift.loc[~gone, "frame"].to_numpy()
    assert errors[(sure < 50) | (sure > 115)].max() < 0.1


def test_epochs_by_rotation():
    motion = motions(90, 11, turn=35)
    table = columns_of(motion, 9.0, seed=11)
    drift = estimate_drift(table, max_rotation=10)
    assert [r for _, r in reasons(drift)] == ["first frame", "rotated", "rotated", "rotated"]
    starts = [f for f, _ in reasons(drift)]
    np.testing.assert_allclose(np.diff(starts), 10 / 35 * 89, atol=2)
    for epoch in range(4):
        turned = motion[drift.loc[drift["epoch"] == epoch, "frame"], 2]
        assert np.rad2deg(np.ptp(turned)) < 10.7
    assert estimate_drift(table, max_rotation=60)["epoch"].eq(0).all()
    assert np.abs(errors_of(drift, motion)[0][:, :2]).max() < 0.15  # registered through all epochs


def test_epochs_by_reconstruction():
    """From frame 40 on half of the columns are elsewhere, by less than a spacing; the other half stays."""
    motion = motions(80, 12, turn=0)
    table = columns_of(motion, 12.0, seed=12)
    moved = (table["frame"] >= 40) & (table["x"] - motion[table["frame"], 1] > CENTRE[1] + 1)
    table.loc[moved, "y"] += 1.2
    drift = estimate_drift(table)
    assert reasons(drift)[0] == (0, "first frame")
    assert [r for _, r in reasons(drift)[1:]] == ["reconstructed"]
    assert abs(reasons(drift)[1][0] - 40) <= 1
    assert estimate_drift(table, min_correlation=0.1)["epoch"].eq(0).all()


def test_another_pattern_altogether_begins_an_epoch():
    motion = motions(60, 13, turn=0)
    first, second = columns_of(motion, 10.0, seed=13), columns_of(motion, 10.0, seed=14, places=lattice(
        10.0, LATTICE @ np.array([[np.cos(0.7), np.sin(0.7)], [-np.sin(0.7), np.cos(0.7)]])))
    table = pd.concat([first[first["frame"] < 30], second[second["frame"] >= 30]])
    single = second[second["frame"] == 33].assign(frame=10)
    table = pd.concat([table[table["frame"] != 10], single])
    drift = estimate_drift(table)
    assert reasons(drift) == [(0, "first frame"), (30, "other columns")]
    assert drift.loc[drift["status"] != "registered", "frame"].tolist() == [10]  # alone it begins nothing
    late = drift["frame"] >= 30
    errors = drift.loc[late, ["drift_y", "drift_x"]].to_numpy() - motion[30:, :2]
    assert (errors - errors.mean(0)).std() < 0.05  # against each other


def test_tables_without_anything():
    empty = pd.DataFrame({"frame": pd.Series(dtype=int), "y": pd.Series(dtype=float), "x": pd.Series(dtype=float)})
    with pytest.warns(UserWarning, match="there is no frame"):
        assert estimate_drift(empty).shape == (0, len(DRIFT.columns))
    with pytest.warns(UserWarning, match="none of 3 frames is registered: 3 empty"):
        drift = estimate_drift(empty, frames=[4, 2, 9])
    assert drift["frame"].tolist() == [2, 4, 9]
    assert drift["epoch"].tolist() == [0, 0, 0]
    with pytest.warns(UserWarning, match="1 too few"):
        estimate_drift(pd.DataFrame({"frame": [3], "y": [1.0], "x": [2.0]}))
    one = columns_of(motions(1, 15), 8.0, seed=15)
    drift = estimate_drift(one)
    assert drift[["drift_y", "drift_x", "rotation"]].values.tolist() == [[0, 0, 0]]
    assert drift["status"].tolist() == ["registered"]


@pytest.mark.parametrize(("change", "text"), [
    (lambda t: t.drop(columns="y"), "lacks ['y']"),
    (lambda t: pd.concat([t, t]), "row(s) are there twice"),
    (lambda t: t.assign(frame=t["frame"] + 0.5), "whole number"),
    (lambda t: t.assign(y=np.nan), "expected a finite number"),
    (lambda t: "columns.parquet", "columns is a str"),
    (lambda t: pd.concat([t.assign(column=range(len(t)))] * 2), "the first is column 0"),
])
def test_tables_that_are_refused(change, text):
    table = columns_of(motions(2, 16), 6.0, seed=16)
    with pytest.raises(InputError) as error:
        estimate_drift(change(table))
    assert text in str(error.value)


def test_options_that_are_refused():
    table = columns_of(motions(2, 17), 6.0, seed=17)
    for key, value in (("max_rotation", 0), ("min_columns", 2), ("min_correlation", 1), ("field_of_view", (0, 1)),
                       ("field_of_view", (5, 1, 0, 9)), ("frames", [1, 1]), ("frames", [0.5])):
        with pytest.raises(InputError, match=key.split("_")[0]):
            estimate_drift(table, **{key: value})
    drift = estimate_drift(table)
    with pytest.raises(InputError, match="twice"):
        correct_drift(table, pd.concat([drift, drift]))
    with pytest.raises(InputError, match="estimate_drift"):
        correct_drift(table, drift.drop(columns="centre_y"))
    with pytest.raises(InputError, match="lacks"):
        correct_drift(table.drop(columns="x"), drift)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3), st.lists(st.floats(-50, 50), min_size=4, max_size=4),
       st.floats(-3, 3))
def test_motions_are_undone_and_keep_distances(drift, places, turn):
    motion, a, b = np.array([drift[0], drift[1], turn]), np.array(places[:2]), np.array(places[2:])
    centre, other = np.array([drift[2], 1.0]), np.array([7.0, drift[0]])
    moved = move(motion, np.stack([a, b]), centre)
    np.testing.assert_allclose(unmove(motion, moved, centre), [a, b], atol=1e-9)
    assert np.hypot(*(moved[0] - moved[1])) == pytest.approx(np.hypot(*(a - b)), abs=1e-9)
    np.testing.assert_allclose(move(recentred(motion, centre, other), a, other), moved[0], atol=1e-9)
    base = np.array([3.0, -2.0, 0.4])
    start = move(base, a, centre)  # in the frame that becomes the reference
    np.testing.assert_allclose(move(relative(motion, base), start, centre), moved[0], atol=1e-9)


def test_a_turn_leads_from_y_to_x():
    np.testing.assert_allclose(move(np.array([0.0, 0.0, 0.1]), np.array([1.0, 0.0]), np.zeros(2)),
                               [np.cos(0.1), np.sin(0.1)])


def test_outliers_hardly_move_the_joint_fit():
    rng = np.random.default_rng(1)
    places, true = rng.uniform(0, 30, (40, 2)), np.column_stack([rng.normal(0, 1, (20, 2)), rng.normal(0, 0.02, 20)])
    centre = places.mean(0)
    at = np.concatenate([move(m, places, centre) for m in true]) + rng.normal(0, 0.05, (800, 2))
    wrong = rng.random(800) < 0.05
    at[wrong] += 0.8
    rows = Rows(np.repeat(np.arange(20), 40), np.tile(np.arange(40), 20), at, np.full((800, 2), 0.05))
    start = true + np.column_stack([rng.normal(0, 0.1, (20, 2)), rng.normal(0, 0.005, 20)])
    joint = joint_motions(rows, start, centre, 40)
    errors = relative(joint.motion, joint.motion[0]) - relative(true, true[0])
    assert np.abs(errors[:, :2]).max() < 0.05
    assert np.abs(errors[:, 2]).max() < 0.006
    assert joint.residual == pytest.approx(np.full(20, 0.05), rel=0.35)


def test_the_inside_of_a_particle():
    at = lattice(15.0)
    inside, part, spacing = interior(np.concatenate([at, [[40.0, 40.0]]]))
    assert spacing == pytest.approx(2.497, abs=1e-3)
    assert part[-1] != part[0]
    assert not inside[-1]
    r = np.hypot(*at.T)
    assert inside[:-1][r < 12].all()
    assert not inside[:-1][r > 14.5].any()
    shifts = Body(at, 0).vectors()
    np.testing.assert_allclose(shifts @ np.linalg.inv(LATTICE), np.round(shifts @ np.linalg.inv(LATTICE)), atol=1e-6)
    assert len(shifts) >= 6


def test_a_rotation_that_one_frame_shows_alone_begins_no_epoch():
    assert rotation_breaks(np.array([0, 0, 0.5, 0, 0, 0.0]), [0], 0.2) == []
    assert rotation_breaks(np.array([0, 0, 0.5, 0.5, 0.5, 0.5]), [0], 0.2) == [2]
    assert rotation_breaks(np.array([0, 0, 0.5, 0.5, 0.5, 0.5]), [0, 2], 0.2) == []
