"""Events against the truth: a change counts at its site, in its direction, within two frames, and once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hrtem_dask.analysis.diffusion_truth import compare_events
from hrtem_dask.report.diffusion import number_rows

FRAMES, PLACES = 40, np.array([[10.0, 10.0], [10.0, 13.0], [14.0, 10.0]])


def truth(occupied: np.ndarray, drift: np.ndarray) -> xr.Dataset:
    step, site = np.nonzero(occupied[1:] != occupied[:-1])
    kind = np.where(occupied[step + 1, site], "appear", "disappear")
    place = PLACES[None] + drift[:, None]
    return xr.Dataset({
        "site_occupied": (("frame", "site"), occupied), "site_y": (("frame", "site"), place[..., 0]),
        "site_x": (("frame", "site"), place[..., 1]), "site_y_reference": (("site",), PLACES[:, 0]),
        "site_x_reference": (("site",), PLACES[:, 1]), "event_frame": (("event",), step + 1),
        "event_time": (("event",), 0.1 * (step + 1)), "event_kind": (("event",), kind.astype("U9")),
        "event_site": (("event",), site), "event_site_to": (("event",), np.full(len(site), -1)),
        "event_atoms": (("event",), np.full(len(site), 2))}, coords={"frame": np.arange(FRAMES)})


@pytest.fixture
def movie() -> tuple[xr.Dataset, dict]:
    drift = np.cumsum(np.full((FRAMES, 2), [0.1, -0.05]), axis=0)
    occupied = np.ones((FRAMES, 3), bool)
    occupied[10:20, 0] = occupied[30:, 1] = False
    frames = pd.DataFrame({"frame": np.arange(FRAMES), "epoch": 0, "status": "used"})
    table = pd.DataFrame({"frame": np.arange(FRAMES), "drift_y": drift[:, 0], "drift_x": drift[:, 1], "rotation": 0.0,
                          "centre_y": 0.0, "centre_x": 0.0})
    sites = pd.DataFrame({"site": [7, 8, 9, 5], "epoch": 0, "y": [*PLACES[:, 0] + 0.3, 50], "x": [*PLACES[:, 1], 50]})
    return truth(occupied, drift), {"frames": frames, "drift": table, "sites": sites, "frame_time": 0.1}


def events(*rows: tuple[int, str, int, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["frame", "kind", "site", "site_to"])


def test_changes_are_matched_by_site_direction_and_frame(movie: tuple[xr.Dataset, dict]) -> None:
    known, rest = movie
    found = events((12, "disappear", 7, -1), (17, "appear", 7, -1), (30, "hop", 8, 9), (5, "appear", 5, -1))
    score = compare_events(known, events=found, **rest)
    # the second is three frames early, the hop is one true change and an invented one, the last is on no true site
    assert (score.changes, score.found, score.hits) == (3, 5, 2)
    assert score.recall == pytest.approx(2 / 3)
    assert score.precision == pytest.approx(2 / 5)
    assert score.table.site.tolist() == [7, 7, 8]
    assert score.rate == pytest.approx(3 / (3 * FRAMES * 0.1))
    assert score.kinds == {"appear": 1, "disappear": 2, "hop": 0}
    twice = events((10, "disappear", 7, -1), (11, "disappear", 7, -1))
    assert compare_events(known, events=twice, **rest).hits == 1


def test_what_happens_between_frames_that_were_left_out_is_seen_after_them(movie: tuple[xr.Dataset, dict]) -> None:
    known, rest = movie
    status = rest["frames"].status.mask(rest["frames"].frame.between(9, 14), "left out")
    frames = rest["frames"].assign(status=status)
    score = compare_events(known, events=events((15, "disappear", 7, -1)), **rest | {"frames": frames})
    assert score.hits == 1
    assert score.table.frame.tolist()[0] == 15
    gone = frames.assign(status=status.mask(frames.frame.between(9, 24), "left out"))
    assert compare_events(known, events=events(), **rest | {"frames": gone}).changes == 1  # it was undone unseen


def test_the_table_of_numbers_calls_lower_bounds_lower_bounds() -> None:
    said = {"rate": 0.1, "low": 0.0, "high": 0.4, "limit": True, "rate_raw": 0.2, "flips": 9, "exposure": 30.0,
            "events": 4, "kinds": {"appear": 2, "disappear": 1, "hop": 1}, "sites_changing": 5, "tpr": 0.9, "fpr": None,
            "efficiency": 0.8, "false_rate": 0.001, "hop_rate": 0.1, "hop_low": 0.0, "hop_high": 0.2,
            "coefficient": 1e-17, "frames_dropped": {"blurred": 2}, "used": {"used": 8, "left out": 2}, "frames": 10}
    rows = {name: value for name, value, *_ in number_rows(said, None)}
    assert rows["events"] == "≥ 4"
    assert rows["events a site and second, corrected"].startswith("below 0.4")
    assert rows["one is seen that is not there in"] == "–"
    assert "2 blurred" in number_rows(said, None)[-1][3]
    assert number_rows(said | {"rate": None}, None) == []
