"""Columns through time by trackpy: on a lattice without hops it says what sites say."""

from __future__ import annotations

import sys

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

from hrtem_dask import estimate_drift, find_sites, link_columns
from hrtem_dask.core.errors import InputError

trackpy = pytest.importorskip("trackpy", reason="the extra track is not installed")
SPACING = 2.5


def lattice_movie(n_frames: int = 20, recall: float = 1.0, error: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """Columns of an 8 x 9 lattice in every frame, some missed, in any order; `site` is the truth."""
    rng = np.random.default_rng(seed)
    i, j = (a.ravel() for a in np.meshgrid(np.arange(8), np.arange(9), indexing="ij"))
    at = np.stack([i, j], 1) * SPACING + 5
    parts = []
    for frame in range(n_frames):
        seen = np.flatnonzero(rng.random(len(at)) < recall)
        rng.shuffle(seen)
        yx = at[seen] + rng.normal(0, error, (len(seen), 2))
        parts.append(pd.DataFrame({"frame": frame, "y": yx[:, 0], "x": yx[:, 1], "site": seen}))
    return pd.concat(parts, ignore_index=True)


def pairs(rows: pd.DataFrame) -> int:
    """Number of different (track, site) pairs: as many as sites where both say the same."""
    return len(rows[["track", "site"]].drop_duplicates())


def test_tracks_are_the_sites_of_a_still_lattice() -> None:
    found = link_columns(lattice_movie())
    assert pairs(found) == found["track"].nunique() == 72
    assert sorted(found["track"].unique()) == list(range(72))


def test_tracks_are_what_find_sites_says() -> None:
    """On a still lattice that drifts, sites and tracks are one to one."""
    movie = lattice_movie(n_frames=12, recall=0.95, error=0.05).drop(columns="site")
    movie["y"] += 0.3 * movie["frame"]
    movie = movie.assign(y_error=0.05, x_error=0.05, probability=1.0, time=np.nan)
    movie["column"] = movie.groupby("frame").cumcount() + 1
    found = link_columns(find_sites(movie, estimate_drift(movie)).columns, memory=8)
    found = found[(found["site"] >= 0) & (found["track"] >= 0)]
    assert len(found) > 0.97 * len(movie)
    assert pairs(found) == found["track"].nunique() == found["site"].nunique() == 72


def test_memory_bridges_what_was_missed() -> None:
    movie = lattice_movie(recall=0.9)
    broken, whole = link_columns(movie), link_columns(movie, memory=6)
    assert broken["track"].nunique() > 72
    assert whole["track"].nunique() == pairs(whole) == 72


def test_frames_that_were_left_out_do_not_count() -> None:
    movie = lattice_movie()
    movie["frame"] *= 50
    assert link_columns(movie)["track"].nunique() == 72


def test_drift_is_followed_in_corrected_coordinates() -> None:
    movie = lattice_movie()
    moved = movie.assign(y_ref=movie["y"], x_ref=movie["x"], epoch=0)
    moved["y"] += 1.9 * moved["frame"]
    assert pairs(link_columns(moved)) == 72
    by_pixels = link_columns(moved.drop(columns=["y_ref", "x_ref"]))
    assert pairs(by_pixels) > 72  # nearest neighbours are 2.5 apart: it takes one for another


def test_an_epoch_ends_all_tracks() -> None:
    movie = lattice_movie(n_frames=10)
    movie = movie.assign(y_ref=movie["y"], x_ref=movie["x"], epoch=(movie["frame"] >= 6).astype(int))
    found = link_columns(movie)
    assert found["track"].nunique() == 144
    assert found.groupby("track")["epoch"].nunique().max() == 1


def test_places_that_are_not_known_are_on_no_track() -> None:
    movie = lattice_movie(n_frames=5)
    movie = movie.assign(y_ref=movie["y"], x_ref=movie["x"])
    movie.loc[movie["frame"] == 2, "y_ref"] = np.nan  # the frame could not be registered
    found = link_columns(movie)
    assert set(found.loc[found["frame"] == 2, "track"]) == {-1}
    assert pairs(found[found["frame"] != 2]) == 72


def test_order_index_and_chunks_do_not_matter() -> None:
    movie = lattice_movie(recall=0.9)
    mixed = movie.sample(frac=1, random_state=3)
    found = link_columns(mixed, memory=2)
    assert found.index.equals(mixed.index)
    expected = link_columns(movie, memory=2)
    assert (found["track"].sort_index() == expected["track"]).all()
    by_frame = link_columns(movie.set_index("frame", drop=False), memory=2)
    assert (by_frame["track"].to_numpy() == expected["track"].to_numpy()).all()
    lazily = link_columns(dd.from_pandas(movie, npartitions=4), memory=2)
    assert (lazily["track"].to_numpy() == expected["track"].to_numpy()).all()
    assert link_columns(expected, memory=2)["track"].equals(expected["track"])  # linked again


def test_empty_table() -> None:
    found = link_columns(lattice_movie().iloc[:0])
    assert found["track"].dtype == np.int64
    assert not len(found)


@pytest.mark.parametrize(("options", "message"), [
    ({"search_range": 1.3}, "half"),
    ({"search_range": 0}, "search_range is 0"),
    ({"memory": -1}, "memory is -1"),
    ({"method": "lap"}, "find_sites"),
])
def test_options_that_make_no_sense(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        link_columns(lattice_movie(n_frames=2), **options)


def test_one_column_a_frame_needs_a_range() -> None:
    single = pd.DataFrame({"frame": [0, 1], "y": [1.0, 1.2], "x": [2.0, 2.0]})
    with pytest.raises(InputError, match="no frame has two columns"):
        link_columns(single)
    assert link_columns(single, search_range=0.5)["track"].tolist() == [0, 0]


def test_missing_columns_are_named() -> None:
    with pytest.raises(InputError, match=r"lacks \['x'\]"):
        link_columns(lattice_movie().drop(columns="x"))
    with pytest.raises(InputError, match="is a list"):
        link_columns([1, 2])


def test_without_trackpy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrtem_dask.analysis.links.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "trackpy", None)
    with pytest.raises(InputError, match=r"pip install 'hrtem-dask\[track\]'"):
        link_columns(lattice_movie(n_frames=2))
