"""Events of columns and their rate, against tables whose events are known."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from diffusion_scenes import STEP, Scene, scene, true_changes

from hrtem_dask import count_diffusion
from hrtem_dask.core.errors import InputError
from hrtem_dask.core.schema import DIFFUSION_SITES, DWELL, EVENTS, RATE


@pytest.fixture(scope="module")
def moving() -> Scene:
    return scene(1, frames=500)


@pytest.fixture(scope="module")
def counted(moving: Scene):
    return count_diffusion(moving.columns, drift=False, sites=moving.place)


def matched(events: pd.DataFrame, true: set[tuple[int, int]], within: int = 2) -> int:
    """Events that are true ones, a hop as its two changes."""
    hops = events[events["kind"] == "hop"]
    found = [*zip(events["frame"], events["site"], strict=True), *zip(hops["frame"], hops["site_to"], strict=True)]
    left, hits = set(true), 0
    for frame, site in found:
        near = sorted((abs(f - frame), f) for f, s in left if s == site and abs(f - frame) <= within)
        if near:
            left.remove((near[0][1], site))
            hits += 1
    return hits


def test_events_are_the_true_ones(moving: Scene, counted) -> None:
    true = true_changes(moving.occupied, np.arange(500))
    changes = len(counted.events) + (counted.events["kind"] == "hop").sum()
    hits = matched(counted.events, true)
    assert hits > 0.9 * len(true)
    assert hits > 0.95 * changes


def test_rate_holds_the_truth_and_flips_do_not(moving: Scene, counted) -> None:
    total = counted.overall
    assert total.low < 0.15 < total.high
    assert total.high - total.low < 0.1
    assert counted.rate["flips"].sum() / total.exposure > 3 * 0.15
    assert total.exposure == pytest.approx(24 * 50.0, rel=0.01)
    inside = (counted.rate["low"] <= 0.15) & (counted.rate["high"] >= 0.15)
    assert inside.mean() > 0.7
    assert (counted.rate["low"] <= counted.rate["rate"]).all()
    assert (counted.rate["rate"] <= counted.rate["high"]).all()


def test_sites_that_can_change_are_told_from_static_ones(moving: Scene, counted) -> None:
    np.testing.assert_array_equal(np.flatnonzero(counted.sites["changes"]), moving.mobile)
    assert "24 of 81 sites can change" in counted.summary
    assert counted.sites.loc[moving.mobile, "occupancy"].to_numpy() == pytest.approx(
        moving.occupied[:, moving.mobile].mean(0), abs=0.05)


def test_tables_keep_their_schema_and_agree(counted) -> None:
    for table, schema in ((counted.events, EVENTS), (counted.rate, RATE), (counted.sites, DIFFUSION_SITES),
                          (counted.dwell, DWELL)):
        assert schema.names == list(table.columns[:len(schema.names)])
        assert [str(t) for t in table.dtypes[:len(schema.names)]] == [c.dtype for c in schema.columns]
    assert counted.rate["events"].sum() == len(counted.events) == counted.overall.events
    assert (counted.rate[["appear", "disappear", "hop"]].sum(axis=1) == counted.rate["events"]).all()
    assert (counted.rate["rate_raw"] * counted.rate["exposure"]).to_numpy() == pytest.approx(
        counted.rate["events"].to_numpy())
    assert list(counted.events["kind"].cat.categories) == ["appear", "disappear", "hop"]
    assert counted.occupancy.dims == counted.seen.dims == ("frame", "site")
    assert counted.events["probability"].between(0, 1).all()
    assert counted.events["probability"].median() > 0.9


def test_occupancy_follows_the_truth(moving: Scene, counted) -> None:
    wrong = (counted.occupancy.to_numpy() > 0.5) != moving.occupied
    assert wrong.mean() < 0.002
    naive = (counted.seen.to_numpy() == 1) != moving.occupied
    assert naive.mean() > 5 * wrong.mean()


def test_any_order_and_any_partition_give_the_same(moving: Scene, counted) -> None:
    table = moving.columns[moving.columns["frame"] < 150]
    whole = count_diffusion(table, drift=False, sites=moving.place)
    mixed = count_diffusion(dd.from_pandas(table.sample(frac=1, random_state=0), npartitions=4, sort=False),
                            drift=False, sites=moving.place)
    pd.testing.assert_frame_equal(whole.events, mixed.events)
    pd.testing.assert_frame_equal(whole.rate, mixed.rate)


def test_drift_and_sites_are_found(moving: Scene) -> None:
    """From the table of columns alone, while the particle drifts and a fifth of the frames is left out."""
    pytest.importorskip("hrtem_dask.analysis.sites")
    found = scene(5, frames=240, rate=0.2, drift=0.03)
    kept = np.setdiff1d(np.arange(240), np.r_[50:75, 180:203])
    result = count_diffusion(found.columns, frames_kept=kept, n_frames=240)
    assert result.reason is None
    true = true_changes(found.occupied, kept)
    place = result.events[["y", "x"]].to_numpy()
    nearest = np.hypot(*(place[:, None] - found.place[None]).T).T
    assert nearest.min(1).max() < 0.4
    events = result.events.assign(site=nearest.argmin(1))
    hops = (events["kind"] == "hop").to_numpy()
    ends = np.hypot(*(events.loc[hops, ["y_to", "x_to"]].to_numpy()[:, None] - found.place[None]).T).T
    events.loc[hops, "site_to"] = ends.argmin(1) if hops.any() else []
    hits = matched(events, true)
    assert hits > 0.85 * len(true)
    assert hits > 0.85 * (len(events) + hops.sum())
    assert result.overall.low < 0.2 < result.overall.high


def test_frozen_particle_gives_a_limit() -> None:
    still = scene(2, frames=600, rate=0.0, tpr=0.93, fpr=0.01)
    result = count_diffusion(still.columns, drift=False, sites=still.place)
    assert len(result.events) <= 2
    assert result.overall.limit
    assert result.overall.low == 0
    assert 0 < result.overall.high < 0.01
    assert result.overall.rate_raw < 0.01
    assert result.rate["flips"].sum() / result.overall.exposure > 0.3
    assert "below" in result.summary


def test_frames_left_out_are_missing_not_empty(moving: Scene) -> None:
    kept = np.setdiff1d(np.arange(300), np.r_[40:70, 100:103, 200:240])
    table = moving.columns[moving.columns["frame"] < 300]
    by_number = count_diffusion(table, frames_kept=kept, n_frames=300, drift=False, sites=moving.place)
    verdicts = pd.DataFrame({"frame": np.arange(300), "keep": np.isin(np.arange(300), kept)})
    by_table = count_diffusion(table, frames_kept=verdicts, n_frames=300, drift=False, sites=moving.place)
    without = count_diffusion(table[table["frame"].isin(kept)], n_frames=300, drift=False, sites=moving.place)
    pd.testing.assert_frame_equal(by_number.events, by_table.events)
    pd.testing.assert_frame_equal(by_number.events, without.events)
    assert by_number.overall.exposure == pytest.approx(24 * 0.1 * len(kept), rel=0.01)
    assert not by_number.events["frame"].isin(np.setdiff1d(np.arange(300), kept)).any()
    assert np.isnan(by_number.occupancy.sel(frame=50)).all()
    assert by_number.frames.set_index("frame").loc[[50, 101], "status"].eq("left out").all()
    assert without.frames.set_index("frame").loc[50, "status"] == "no columns"
    hits = matched(by_number.events, true_changes(moving.occupied, kept))
    assert hits > 0.9 * len(true_changes(moving.occupied, kept))
    across = by_number.events.loc[by_number.events["frame"] == 70, "gap"].to_numpy()
    assert across == pytest.approx(np.full(len(across), 3.1))


def test_a_frame_that_shows_hardly_anything_is_unreadable(moving: Scene) -> None:
    """Its columns are not gone: no event comes of it."""
    table = moving.columns[moving.columns["frame"] < 200]
    dim = table["frame"].isin([90, 91, 92, 93]) & (table.index.to_numpy() % 5 > 0)
    result = count_diffusion(table[~dim], drift=False, sites=moving.place)
    assert result.frames.set_index("frame").loc[90:93, "status"].eq("unreadable").all()
    assert matched(result.events, true_changes(moving.occupied, np.setdiff1d(np.arange(200), np.r_[90:94]))) > \
        0.95 * len(result.events)


def test_hops_are_one_event() -> None:
    occupied = np.zeros((300, 81), bool)
    i, j = np.mgrid[:9, :9].reshape(2, -1)
    occupied[:, (i > 1) & (i < 7) & (j > 1) & (j < 7)] = True
    for k, (start, stop) in enumerate(zip(range(0, 300, 50), range(50, 350, 50), strict=True)):
        occupied[start:stop, 9 * 1 + 2 + k % 5] = True  # one column on top of the block walks along it
    found = scene(3, frames=300, occupied=occupied)
    result = count_diffusion(found.columns, drift=False, sites=found.place)
    hops = result.events[result.events["kind"] == "hop"]
    assert len(result.events) <= 6
    assert len(hops) >= 4
    length = np.hypot(hops["y_to"] - hops["y"], hops["x_to"] - hops["x"])
    assert length.to_numpy() == pytest.approx(np.full(len(hops), STEP))
    assert (hops["x_to"] - hops["x"]).to_numpy()[:3] == pytest.approx(STEP)
    assert result.hopping.coefficient == pytest.approx(result.hopping.rate * STEP**2 / 4 * 1e-16)
    assert result.hopping.coefficient_low < result.hopping.coefficient < result.hopping.coefficient_high


def test_no_event_across_epochs(moving: Scene) -> None:
    """Two epochs with sites of their own: what is occupied at the end of one says nothing of the other."""
    table = moving.columns[moving.columns["frame"] < 200].copy()
    table["epoch"], table["y_ref"], table["x_ref"] = (table["frame"] >= 100).astype(int), table["y"], table["x"]
    sites = pd.DataFrame(np.tile(moving.place, (2, 1)), columns=["y", "x"])
    sites["epoch"], sites["site"] = np.repeat([0, 1], 81), np.arange(162)
    result = count_diffusion(table, sites=sites)
    assert not (result.events["frame"] == 100).any()
    epoch = np.where(result.events["frame"] < 100, 0, 1)
    np.testing.assert_array_equal(result.events["epoch"], epoch)
    np.testing.assert_array_equal(result.events["site"] // 81, epoch)
    assert np.isnan(result.occupancy.sel(frame=150, site=5))


def test_sites_out_of_view_are_unknown() -> None:
    """The particle drifts out at the side: columns there are not gone."""
    found = scene(4, frames=300, rate=0.0, tpr=0.97)
    table = found.columns.copy()
    shift = np.clip(table["frame"] - 150, 0, 100) * 0.1
    table["x"] += shift
    frames = np.arange(300)
    drift = pd.DataFrame({"frame": frames, "epoch": 0, "drift_y": 0.0, "rotation": 0.0, "centre_y": 0.0,
                          "centre_x": 0.0, "drift_x": np.clip(frames - 150, 0, 100) * 0.1, "status": "registered"})
    seen = table[table["x"] < 31]
    blind = count_diffusion(seen, drift=drift, sites=found.place)
    aware = count_diffusion(seen, drift=drift, sites=found.place, field_of_view=(0, 45, 0, 31))
    assert len(blind.events) > 10
    assert len(aware.events) == 0
    assert aware.overall.limit
    assert (aware.seen.sel(frame=280) == -1).sum() > 20


def test_named_sites_and_known_readings(moving: Scene) -> None:
    table = moving.columns[moving.columns["frame"] < 250]
    few = count_diffusion(table, drift=False, sites=moving.place, changing=moving.mobile[:5].tolist(),
                          detection=(0.95, 0.005))
    assert set(few.events["site"]) <= set(moving.mobile[:5].tolist())
    assert few.overall.exposure == pytest.approx(5 * 25, rel=0.01)
    assert (few.sites["tpr"] == 0.95).all()
    whole = count_diffusion(table, drift=False, sites=moving.place, changing="edge",
                            detection={"tpr": 0.95, "fpr": 0.005, "trials": 1000})
    assert whole.overall.exposure > 1.5 * 24 * 25  # static sites at the edge dilute the rate
    assert whole.overall.rate < few.overall.rate * 1.2


def test_times_come_from_the_table_or_from_the_user(moving: Scene) -> None:
    table = moving.columns[moving.columns["frame"] < 120]
    by_table = count_diffusion(table, drift=False, sites=moving.place)
    by_user = count_diffusion(table.drop(columns="time"), frame_time=0.1, drift=False, sites=moving.place)
    assert by_table.overall.rate == pytest.approx(by_user.overall.rate)
    per_frame = count_diffusion(table.drop(columns="time"), frame_time=1, drift=False, sites=moving.place)
    assert per_frame.overall.rate == pytest.approx(by_user.overall.rate / 10, rel=0.02)
    with pytest.raises(InputError, match="frame_time=1"):
        count_diffusion(table.drop(columns="time"), drift=False, sites=moving.place)
    with pytest.warns(UserWarning, match="0.1 s apart"):
        count_diffusion(table, frame_time=0.5, drift=False, sites=moving.place)


def empty(found, reason: str) -> None:
    """A result without anything in it, that says why and knows no rate."""
    assert reason in found.reason
    assert reason in found.summary
    assert len(found.events) == len(found.rate) == 0
    assert np.isnan(found.overall.rate)
    assert np.isnan(found.overall.high)
    assert list(found.events.columns) == EVENTS.names


def test_nothing_to_count_is_no_zero_rate(moving: Scene) -> None:
    table, place = moving.columns[moving.columns["frame"] < 100], moving.place
    cases = {
        "no frame can be used": {"columns": table.iloc[:0]},
        "100 left out": {"columns": table, "frames_kept": [], "n_frames": 100},
        "only one frame": {"columns": table[table["frame"] == 3]},
        "there is one site only": {"columns": table, "sites": place[40:41]},
        "no columns": {"columns": table.iloc[:0], "n_frames": 50, "frame_time": 0.1},
        "out of": {"columns": table, "field_of_view": (500, 600, 500, 600)},
    }
    for reason, options in cases.items():
        with pytest.warns(UserWarning, match="no event can be counted"):
            found = count_diffusion(**({"drift": False, "sites": place} | options))
        empty(found, {"out of": "no site was in view"}.get(reason, reason))


@pytest.mark.parametrize(("options", "says"), [
    ({"frames_kept": [True, False]}, "2 truth values"),
    ({"frames_kept": pd.DataFrame({"keep": [True]})}, "filter_frames"),
    ({"n_frames": 20}, "larger n_frames"),
    ({"field_of_view": (3, 1, 0, 5)}, "first y, last y"),
    ({"field_of_view": "all"}, "height, width"),
    ({"sites": np.zeros(3)}, "places"),
    ({"sites": pd.DataFrame({"site": [1]})}, "y and x"),
    ({"changing": "some"}, "auto"),
    ({"changing": [4000]}, "4000"),
    ({"detection": 0.9}, "tpr=0.97"),
    ({"detection": (0.1, 0.9)}, "tpr=0.97"),
    ({"time_bin": 0}, "time_bin"),
    ({"hop_frames": -1}, "hop_frames"),
    ({"frame_time": 0}, "frame_time"),
])
def test_bad_options(moving: Scene, options: dict, says: str) -> None:
    table = moving.columns[moving.columns["frame"] < 30]
    with pytest.raises(InputError, match=says):
        count_diffusion(table, **({"n_frames": 30, "drift": False, "sites": moving.place} | options))


def test_bad_tables(moving: Scene) -> None:
    table = moving.columns[moving.columns["frame"] < 30]
    options = {"drift": False, "sites": moving.place}
    with pytest.raises(InputError, match="lacks"):
        count_diffusion(table.drop(columns="y"), **options)
    with pytest.raises(InputError, match="find_columns"):
        count_diffusion([1, 2], **options)
    with pytest.raises(InputError, match="dropna"):
        count_diffusion(table.assign(y=np.where(table["frame"] == 7, np.nan, table["y"])), **options)
    with pytest.raises(InputError, match="does not grow"):
        count_diffusion(table.assign(time=-table["time"]), **options)
