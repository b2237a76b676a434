"""find_sites: lattices, sites and strain of the columns of a movie."""

from __future__ import annotations

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from hrtem_dask import correct_drift, find_sites
from hrtem_dask.core.errors import InputError
from hrtem_dask.core.schema import LATTICES, SITES
from hrtem_dask.io.tables import read_table
from hrtem_dask.kernels.rigid import move
from hrtem_dask.simulate.columns import column_table
from hrtem_dask.simulate.crystals import metal_particle
from hrtem_dask.simulate.structures import assemble

A = 4.08
VECTORS = {"110": A * np.array([[0.5, 8**-0.5], [0.5, -(8**-0.5)]]), "100": A / 2 * np.eye(2),
           "111": A / 6**0.5 * np.array([[1.0, 0.0], [0.5, 0.75**0.5]])}


def disc(kind: str, radius: float, angle: float = 0.4) -> np.ndarray:
    """A round piece of a lattice around (30, 30)."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    ij = np.stack(np.meshgrid(*[np.arange(-30, 31)] * 2, indexing="ij"), -1).reshape(-1, 2)
    at = ij @ VECTORS[kind] @ turn
    return at[np.hypot(*at.T) < radius] + 30


def seen_in(at: np.ndarray, frames: int, rng: np.random.Generator, *, noise: float = 0.1,
            recall: float | np.ndarray = 0.9, false: float = 0.0) -> pd.DataFrame:
    """Columns found in some frames: ``true`` is the number of the true one, -1 where it is a false one."""
    frame, k = np.nonzero(rng.random((frames, len(at))) < recall)
    wrong = np.repeat(np.arange(frames), rng.poisson(false, frames))
    place = np.concatenate([at[k] + rng.normal(0, noise, (len(k), 2)), rng.uniform(0, 60, (len(wrong), 2))])
    return pd.DataFrame({"frame": np.concatenate([frame, wrong]), "y": place[:, 0], "x": place[:, 1],
                         "true": np.concatenate([k, np.full(len(wrong), -1)])})


def particle(zone: str, seed: int, *, twin: bool = False, diameter: float = 34.0) -> pd.DataFrame:
    """True columns of a simulated gold particle."""
    cluster = metal_particle(diameter, np.random.default_rng(seed), zone_axis=zone, twin=twin, shape="wulff", steps=2,
                             tilt=(0.0, 1.0))
    return column_table(assemble([cluster.moved(cluster.positions + 30)], [], (60.0, 60.0)))


def columns_per_site(found: pd.DataFrame) -> int:
    on = found[found["site"] >= 0]
    return int(on.groupby(["frame", "site"]).size().max())


@pytest.mark.parametrize("zone", ["110", "100", "111"])
@pytest.mark.parametrize("frames", [1, 25])
def test_columns_of_a_simulated_particle(zone: str, frames: int) -> None:
    rng = np.random.default_rng(3)
    truth = particle(zone, 5)
    table = seen_in(truth[["y", "x"]].to_numpy(), frames, rng, false=3)
    found = find_sites(table, crystal="Au")
    assert found.lattices["zone_axis"].tolist() == [f"[{zone}]"]
    assert abs(found.lattices["mismatch"].iloc[0]) < 0.01
    rows, true = found.columns, found.columns["true"] >= 0
    assert (rows.loc[true, "site"] >= 0).mean() > 0.98
    assert (rows.loc[~true, "site"] >= 0).mean() < 0.35
    assert columns_per_site(rows) == 1
    # every true column that was seen has its own occupied site, and all others are empty ones around them
    at = found.table.loc[found.table["occupied"], ["y", "x"]].to_numpy()
    was_seen = np.unique(rows.loc[true, "true"])
    away, nearest = cKDTree(at).query(truth[["y", "x"]].to_numpy()[was_seen])
    assert (away < 0.6).mean() > 0.97
    assert np.unique(nearest[away < 0.6]).size == (away < 0.6).sum()
    assert found.table.columns.tolist() == SITES.names
    assert found.lattices.columns.tolist() == LATTICES.names


def test_twin_is_a_lattice_of_its_own() -> None:
    truth = particle("110", 8, twin=True)
    table = seen_in(truth[["y", "x"]].to_numpy(), 25, np.random.default_rng(1), false=2)
    found = find_sites(table, crystal="Au")
    assert found.lattices["zone_axis"].tolist() == ["[110]", "[110]"]
    assert abs(np.rad2deg(found.lattices["misorientation"].iloc[1])) == pytest.approx(70.5, abs=1)
    assert found.lattices["n"].is_monotonic_decreasing
    assert found.lattices["n"].sum() == pytest.approx(len(truth), abs=2)
    assert (found.columns.loc[found.columns["true"] >= 0, "site"] >= 0).mean() > 0.98
    # no empty site of one lattice between the columns of the other
    occupied = found.table["occupied"].to_numpy()
    at = found.table[["y", "x"]].to_numpy()
    assert cKDTree(at[occupied]).query(at[~occupied])[0].min() > 1.4
    # the boundary between them is no surface
    first, second = ((found.table["grain"] == k).to_numpy() & occupied for k in (0, 1))
    at_boundary = first & (cKDTree(at[second]).query(at)[0] < 2.7)
    assert found.table["surface"][at_boundary].mean() < 0.5
    assert "turned by" in found.summary


def test_two_particles_have_two_lattices() -> None:
    at = np.concatenate([disc("110", 12) + [-14, -14], disc("100", 10, 1.1) + [14, 14]])
    found = find_sites(seen_in(at, 6, np.random.default_rng(2)), crystal="Au")
    assert sorted(found.lattices["zone_axis"]) == ["[100]", "[110]"]
    assert (found.columns["site"] < 0).mean() < 0.01


def test_sheet_with_two_columns_a_cell() -> None:
    """MoS2 along the beam: two lattices with the same vectors, and vacant sites of each remain sites."""
    vectors = 3.16 * np.array([[1.0, 0.0], [0.5, 0.75**0.5]])
    ij = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 2, indexing="ij"), -1).reshape(-1, 2)
    at = np.concatenate([ij @ vectors, ij @ vectors + vectors.sum(0) / 3])
    at = at[np.hypot(*at.T) < 20] + 30
    vacant = np.flatnonzero(np.hypot(*(at - 30).T) < 12)[::9]
    table = seen_in(np.delete(at, vacant, 0), 20, np.random.default_rng(4))
    found = find_sites(table, crystal="MoS2")
    assert len(found.lattices) == 2
    assert np.allclose(found.lattices[["length_u", "length_v"]], 3.16, atol=0.02)
    assert found.lattices["zone_axis"].tolist() == ["[001]", "[001]"]
    empty = found.table[~found.table["occupied"] & ~found.table["surface"]]
    away = cKDTree(empty[["y", "x"]].to_numpy()).query(at[vacant])[0]
    assert (away < 0.3).all()
    assert len(empty) == len(vacant)


@pytest.mark.parametrize("frames", [1, 40])
def test_columns_without_order_are_not_forced(frames: int) -> None:
    rng = np.random.default_rng(6)
    table = seen_in(np.zeros((0, 2)), frames, rng, false=60)
    if frames == 1:  # a support whose spots come back too
        table = pd.concat([table.assign(frame=k, y=table["y"] + rng.normal(0, 0.1, len(table))) for k in range(5)])
    with pytest.warns(UserWarning, match="no lattice explains"):
        found = find_sites(table, crystal="Au")
    assert len(found) == 0
    assert found.table.columns.tolist() == SITES.names
    assert (found.columns["site"] == -1).all()
    assert "better than chance" in found.reason
    assert found.summary.startswith("no site")
    assert found.epochs["unexplained"].sum() == len(table)


def test_spots_of_the_support_are_reported_where_they_are() -> None:
    rng = np.random.default_rng(7)
    spots = np.array([[5.0, 5.0], [8.0, 52.0], [54.0, 7.0]])
    at = np.concatenate([disc("110", 15), spots])
    found = find_sites(seen_in(at, 30, rng))
    places = found.unexplained[["y", "x"]].to_numpy()
    assert len(places) == 3
    assert np.hypot(*(places[np.lexsort(places.T[::-1])] - spots).T).max() < 0.15
    row = found.epochs.iloc[0]
    assert row["unexplained"] == (found.columns["site"] == -1).sum() - row["double"]
    assert row["columns"] == row["assigned"] + row["double"] + row["unexplained"]


def test_strained_and_bent_particle_keeps_its_columns() -> None:
    """From -3 to 3 % strain over 22 cells, and planes that bend with it."""
    at = disc("110", 27) - 30
    k = 0.03 / 27
    bent = at + np.stack([k * at[:, 0] * at[:, 1], -k * at[:, 0] ** 2 / 2], 1) + 30
    found = find_sites(seen_in(bent, 20, np.random.default_rng(8)))
    assert len(found.lattices) == 1
    assert (found.columns["site"] >= 0).mean() > 0.998
    sites = found.table[found.table["occupied"]]
    assert found.lattices["rms"].iloc[0] > 0.15  # no rigid lattice
    assert sites["residual"].max() > 0.3
    slope = np.polyfit(sites["x"] - 30, sites["e_yy"], 1)[0]
    assert slope == pytest.approx(k, rel=0.1)


@pytest.mark.parametrize("frames", [1, 30])
def test_affine_strain_with_errors_that_hold(frames: int) -> None:
    """Against given vectors, the truth is known exactly; pulls of all four components."""
    gradient = np.array([[1.02, 0.012], [-0.004, 0.985]])
    truth = [0.02, -0.015, 0.004, 0.008]
    turn = np.array([[np.cos(0.4), np.sin(0.4)], [-np.sin(0.4), np.cos(0.4)]])
    pulls = []
    for seed in range(4):
        at = (disc("100", 16) - 30) @ gradient + 30
        found = find_sites(seen_in(at, frames, np.random.default_rng(seed)), reference=VECTORS["100"] @ turn)
        names = ["e_yy", "e_xx", "e_yx", "rotation"]
        pulls.append((found.table[names] - truth).to_numpy() / found.table[[f"{n}_error" for n in names]].to_numpy())
    rms = np.sqrt(np.nanmean(np.concatenate(pulls) ** 2, axis=0))
    assert (rms > 0.85).all()
    assert (rms < 1.2).all()


def test_strain_against_the_crystal_shows_a_wrong_pixel_size() -> None:
    table = seen_in(1.015 * disc("111", 14), 20, np.random.default_rng(3))
    found, own = find_sites(table, crystal="Au", reference="crystal"), find_sites(table, crystal="Au")
    assert found.table[["e_yy", "e_xx"]].median().to_numpy() == pytest.approx([0.015, 0.015], abs=0.002)
    assert own.table[["e_yy", "e_xx"]].median().to_numpy() == pytest.approx([0, 0], abs=0.002)


def test_occupancy_neighbours_surface_and_vacancy() -> None:
    at = disc("110", 14)
    centre = int(np.hypot(*(at - 30).T).argmin())
    edge = int(np.hypot(*(at - 30).T).argmax())
    recall = np.full(len(at), 0.95)
    recall[centre], recall[edge] = 0.0, 0.3
    found = find_sites(seen_in(at, 200, np.random.default_rng(2), recall=recall))
    sites = found.table
    near = cKDTree(sites[["y", "x"]].to_numpy()).query(at)
    assert near[0].max() < 0.3
    rows = sites.iloc[near[1]]
    vacancy, flicker = rows.iloc[centre], rows.iloc[edge]
    assert not vacancy["occupied"]
    assert not vacancy["surface"]
    assert vacancy["seen"] == 0
    assert vacancy["neighbours"] == 6
    assert flicker["occupied"]
    assert flicker["surface"]
    assert flicker["occupancy"] == pytest.approx(0.3, abs=0.1)
    assert (sites["frames"] == 200).all()
    assert rows["occupancy"].drop(rows.index[[centre, edge]]).mean() == pytest.approx(0.95, abs=0.01)
    # the ring: every empty lattice point next to an occupied one, and none further out
    empty = sites[~sites["occupied"] & sites["surface"]]
    assert (empty["neighbours"] > 0).mean() > 0.9
    inner = np.hypot(*(at - 30).T) < 9
    assert not rows["surface"][inner].any()
    assert rows["surface"][np.hypot(*(at - 30).T) > 13].all()


def test_drift_gives_frames_in_view_and_reference_coordinates() -> None:
    rng = np.random.default_rng(5)
    at, frames = disc("100", 10), 40
    table = seen_in(at, frames, rng, noise=0.05)
    drift = pd.DataFrame({"frame": np.arange(frames), "epoch": 0, "drift_y": np.linspace(0, 18, frames),
                          "drift_x": 0.0, "rotation": np.linspace(0, 0.1, frames), "centre_y": 30.0, "centre_x": 30.0})
    drift.loc[7, ["drift_y", "drift_x", "rotation"]] = np.nan
    motion = drift[["drift_y", "drift_x", "rotation"]].interpolate().to_numpy()[table["frame"]]
    table[["y", "x"]] = move(motion, table[["y", "x"]].to_numpy(), np.array([30.0, 30.0]))
    table = table[table["y"] < 45]
    found = find_sites(table, drift, field_of_view=(0, 45, 0, 60))
    assert (found.columns.loc[found.columns["frame"] == 7, "site"] == -1).all()
    assert found.epochs["frames"].tolist() == [39]
    sites = found.table[found.table["occupied"]]
    assert sites["frames"].max() == 39
    low, high = sites["y"] < 22, sites["y"] > 38
    assert sites["frames"][low].min() > sites["frames"][high].max()
    assert sites["occupancy"].mean() == pytest.approx(0.9, abs=0.03)
    assert sites["occupancy"][high].mean() == pytest.approx(0.9, abs=0.06)
    away = cKDTree(at).query(sites[["y", "x"]].to_numpy())[0]
    assert away.max() < 0.1
    # the table that has its reference coordinates already gives the same sites
    same = find_sites(correct_drift(table, drift))
    assert np.allclose(same.table[["y", "x"]], found.table[["y", "x"]])


def test_epochs_have_sites_of_their_own() -> None:
    rng = np.random.default_rng(5)
    first, second = seen_in(disc("110", 10), 5, rng), seen_in(disc("110", 10, 0.9), 5, rng)
    table = pd.concat([first.assign(epoch=0), second.assign(epoch=1, frame=second["frame"] + 5)], ignore_index=True)
    found = find_sites(table.assign(y_ref=table["y"], x_ref=table["x"]))
    assert found.table["site"].is_unique
    assert found.table["site"].tolist() == list(range(len(found.table)))
    epoch = found.table.set_index("site")["epoch"]
    on = found.columns[found.columns["site"] >= 0]
    assert (epoch.loc[on["site"]].to_numpy() == on["epoch"].to_numpy()).all()
    assert len(found.lattices) == len(found.epochs) == 2


def test_result_depends_on_no_order_of_rows_nor_on_partitions() -> None:
    table = seen_in(disc("111", 10), 8, np.random.default_rng(9), false=2)
    table.index = np.arange(len(table)) * 3
    whole = find_sites(table, crystal="Au")
    mixed = table.sample(frac=1, random_state=1)
    other = find_sites(mixed, crystal="Au")
    pd.testing.assert_frame_equal(whole.table, other.table)
    pd.testing.assert_series_equal(whole.columns["site"].loc[mixed.index], other.columns["site"])
    lazy = find_sites(dd.from_pandas(table, npartitions=3), crystal="Au")
    pd.testing.assert_frame_equal(whole.table, lazy.table)


def test_intensity_is_the_mean_of_the_columns() -> None:
    rng = np.random.default_rng(1)
    at = disc("100", 8)
    table = seen_in(at, 60, rng)
    level = -0.3 - 0.01 * np.arange(len(at))
    table["intensity"] = level[table["true"]] + rng.normal(0, 0.05, len(table))
    table.loc[table.index[::50], "intensity"] = np.nan
    sites = find_sites(table).table
    rows = sites.iloc[cKDTree(sites[["y", "x"]].to_numpy()).query(at)[1]]
    pull = (rows["intensity"].to_numpy() - level) / rows["intensity_error"].to_numpy()
    assert 0.8 < np.sqrt((pull**2).mean()) < 1.25
    assert sites.loc[sites["seen"] == 0, "intensity"].isna().all()


@pytest.mark.parametrize(("rows", "why"), [(0, "empty"), (1, "1 columns"), (2, "2 columns"), (30, "30 columns")])
def test_too_little_to_fit_says_why(rows: int, why: str) -> None:
    """Nothing, one column, two, and columns on one line."""
    table = pd.DataFrame({"frame": 0, "y": 2.0 * np.arange(rows), "x": 3.0})
    with pytest.warns(UserWarning, match="no lattice found"):
        found = find_sites(table)
    assert why in found.reason
    assert len(found.table) == len(found.lattices) == 0
    assert len(found.columns) == rows


def test_wrong_input_is_refused() -> None:
    table = seen_in(disc("100", 6), 2, np.random.default_rng(1))
    with pytest.raises(InputError, match="there twice"):
        find_sites(pd.concat([table, table.iloc[:1]]))
    with pytest.raises(InputError, match="lacks"):
        find_sites(table.drop(columns="y"))
    with pytest.raises(InputError, match="finite number"):
        find_sites(table.assign(y=np.where(table.index == 3, np.nan, table["y"])))
    with pytest.raises(InputError, match="whole number"):
        find_sites(table.assign(frame=table["frame"] + 0.5))
    with pytest.raises(InputError, match="needs a crystal"):
        find_sites(table, reference="crystal")
    with pytest.raises(InputError, match="no vectors of that lattice come near"):
        find_sites(table, reference=[[3.0, 0.0], [0.0, 3.1]])
    with pytest.raises(InputError, match="spacings"):
        find_sites(table, crystal=[2.35, 2.04])
    with pytest.raises(InputError, match="first and last y"):
        find_sites(table, field_of_view=(0, 40, 60))
    with pytest.raises(InputError, match="DataFrame"):
        find_sites([1, 2, 3])


def test_tables_are_written_with_units(tmp_path) -> None:
    found = find_sites(seen_in(disc("110", 8), 3, np.random.default_rng(1)), crystal="Au")
    found.to_parquet(tmp_path)
    sites, about = read_table(tmp_path / "sites.parquet")
    lattices, _ = read_table(tmp_path / "lattices.parquet")
    pd.testing.assert_frame_equal(sites, found.table)
    assert lattices["zone_axis"].tolist() == ["[110]"]
    assert about["units"]["y"] == "angstrom"
    assert about["provenance"][0]["stage"] == "find_sites"
