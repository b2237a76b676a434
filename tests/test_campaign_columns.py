"""Campaigns with columns: from pixels to the rate of events, resumable, and never a bare zero."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from campaign_scenes import save_dark_model
from click.testing import CliRunner
from diffusion_campaign_scenes import EMPTY, FRAMES, PIXEL, movie, save_column_model, sites
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

import hrtem_dask
from hrtem_dask.campaign import Campaign, CampaignConfig, load_campaign, run_campaign
from hrtem_dask.campaign import units as units_module
from hrtem_dask.campaign.layout import DIFFUSION, DIFFUSION_TABLES
from hrtem_dask.campaign.runner import plan_campaign
from hrtem_dask.cli import main
from hrtem_dask.core.errors import InputError
from hrtem_dask.io.store import write_movie
from hrtem_dask.kernels.nearby import near_label

pytestmark = pytest.mark.filterwarnings("ignore:none of", "ignore:dips", "ignore:dark", "ignore:blind")
PARTS = "columns/000000.parquet", "particles/000000.parquet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("columns")
    save_dark_model(folder)
    save_column_model(folder)
    write_movie(folder / "movie.zarr", movie())
    return folder


def asked(folder: Path, out: Path, **more: Any) -> dict[str, Any]:
    return {"source": folder / "movie.zarr", "out": out, "model": str(folder / "dark.safetensors"), "crystal": "Au",
            "columns": str(folder / "dips.safetensors"), "max_ratio": 1000, "frames_per_unit": 8} | more


@pytest.fixture(scope="module")
def campaign(folder: Path) -> Campaign:
    return run_campaign(asked(folder, folder / "out"))


@pytest.fixture
def copy(campaign: Campaign, tmp_path: Path) -> Path:
    return Path(shutil.copytree(campaign.out, tmp_path / "out"))


def test_the_events_of_a_movie_are_those_that_were_drawn(campaign: Campaign) -> None:
    said, events = campaign.diffusion, campaign.table("events")
    assert campaign.verdicts.keep.all()
    assert said["reason"] is None
    wanted = sorted((r[0], "disappear") for r in EMPTY.values()) + [(14, "appear")]
    assert sorted(zip(events.frame, events.kind.astype(str), strict=True)) == sorted(wanted)
    assert said["kinds"] == {"appear": 1, "disappear": 2, "hop": 0}
    assert said["low"] < said["rate_raw"] < said["high"]
    assert said["exposure"] == pytest.approx(campaign.table("rate").exposure.sum())
    assert campaign.about["diffusion"]["rate"] == said["rate"]
    assert pd.read_csv(campaign.out / "events.csv").frame.tolist() == events.frame.tolist()
    occupied = campaign.table("sites").query("occupied")
    assert len(occupied) == len(sites())
    drift = campaign.table("drift")
    wander = 0.5 * np.sin(0.2 * np.arange(FRAMES))
    np.testing.assert_allclose(drift.drift_y, wander - wander[0], atol=0.1)


def test_the_columns_are_those_of_the_lazy_functions(campaign: Campaign, folder: Path) -> None:
    opened = hrtem_dask.open_movie(folder / "movie.zarr").isel(frame=slice(3, 12))
    model = hrtem_dask.load_model(folder / "dips.safetensors")
    wanted = hrtem_dask.find_columns(hrtem_dask.segment(opened, model), image=opened, card=model.card,
                                     crystal="Au").compute().reset_index(drop=True)
    found = campaign.table("columns").query("3 <= frame < 12").reset_index(drop=True)
    pd.testing.assert_frame_equal(found[wanted.columns.tolist()], wanted, check_exact=True, check_dtype=False,
                                  check_categorical=False)
    assert found.followed.all()
    assert (found.site >= 0).all()


def test_the_second_run_computes_nothing(copy: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: (copy / name).stat().st_mtime_ns for name in (*DIFFUSION_TABLES, DIFFUSION)}
    monkeypatch.setattr(units_module, "process_unit", None)
    assert run_campaign(asked(folder, copy)).computed == 0
    assert before == {name: (copy / name).stat().st_mtime_ns for name in before}
    (copy / "rate.csv").unlink()
    again = run_campaign(asked(folder, copy))
    assert again.computed == 0
    assert (copy / "rate.csv").is_file()
    slower = run_campaign(asked(folder, copy, time_bin=0.8))
    assert slower.computed == 0
    assert len(slower.table("rate")) == 3


def test_a_lost_part_is_made_again_and_equal_bit_by_bit(copy: Path, folder: Path, campaign: Campaign) -> None:
    ledger = copy / ".hrtem-progress"
    kept = (ledger / PARTS[1]).stat().st_mtime_ns
    (ledger / PARTS[0]).unlink()
    _, plan = plan_campaign(asked(folder, copy))
    assert plan.stages == [("columns",), (), ()]
    again = run_campaign(asked(folder, copy))
    assert again.computed == 8
    assert (ledger / PARTS[1]).stat().st_mtime_ns == kept
    for name in ("columns", "events", "rate"):
        pd.testing.assert_frame_equal(again.table(name), campaign.table(name), check_exact=True)


def test_what_is_asked_of_columns_touches_columns_alone(copy: Path, folder: Path) -> None:
    def stages(**more: Any) -> list[tuple[str, ...]]:
        return plan_campaign(asked(folder, copy, **more))[1].stages

    assert stages(max_ratio=2, time_bin=3.0, column_margin=4.0) == [()] * 3
    assert stages(column_threshold=0.7) == [("columns",)] * 3
    assert stages(threshold=0.6) == [("particles",)] * 3
    assert stages(augment=4) == [("segment", "particles", "columns")] * 3


def test_without_columns_a_campaign_is_what_it_was(copy: Path, folder: Path) -> None:
    config, plan = plan_campaign(asked(folder, copy, columns=None))
    assert [set(k) for k in plan.keys] == [{"segment", "particles"}] * 3
    assert not any("column" in name or name == "time_bin" for name in config.to_json())
    without = run_campaign(asked(folder, copy, columns=None))
    assert without.computed == 0
    assert without.diffusion is None
    assert "diffusion" not in without.about
    assert not [name for name in DIFFUSION_TABLES if (copy / name).exists()]
    assert run_campaign(asked(folder, copy)).computed == 0  # their parts are still there


@pytest.mark.parametrize(("more", "why"), [
    ({"max_ratio": None, "min_score": 1.0}, "none of 24 frames can be read"),
    ({"columns": "blind"}, "no column was found"),
    ({"frames": "4:5"}, "one frame"),
])
def test_what_cannot_be_counted_has_its_reason(copy: Path, folder: Path, more: dict, why: str) -> None:
    if "columns" in more:
        more = {"columns": save_column_model(folder, "blind", bias=-99), "frames": "0:6"}
    campaign = run_campaign(asked(folder, copy, **more))
    said = campaign.diffusion
    assert why in said["reason"]
    assert said["rate"] is None
    assert "not a rate of zero" in said["text"]
    assert len(campaign.table("rate")) == len(campaign.table("events")) == 0
    assert load_campaign(copy).diffusion == said


def test_a_frame_whose_columns_cannot_be_found_is_quarantined(copy: Path, folder: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    real = units_module.columns_of_frame

    def broken(image, *rest):
        if int(image.frame.values[0]) == 5:
            raise ValueError("no such luck")
        return real(image, *rest)

    shutil.rmtree(copy / ".hrtem-progress" / "columns")
    monkeypatch.setattr(units_module, "columns_of_frame", broken)
    campaign = run_campaign(asked(folder, copy))
    assert campaign.failed == {5: "columns: ValueError: no such luck"}
    assert campaign.verdicts.set_index("frame").reason.astype(str)[5] == "quarantined"
    assert campaign.diffusion["kinds"]["appear"] == 1
    monkeypatch.setattr(units_module, "columns_of_frame", real)
    again = run_campaign(asked(folder, copy))
    assert again.computed == 8  # it may have been the machine's fault
    assert not again.failed


def test_the_command_ends_in_the_rate(copy: Path, folder: Path) -> None:
    args = ["run", str(folder / "movie.zarr"), "--out", str(copy), "--model", str(folder / "dark.safetensors"),
            "--crystal", "Au", "--max-ratio", "1000", "--where", "threads", "--columns",
            str(folder / "dips.safetensors")]
    shutil.rmtree(copy)
    result = CliRunner().invoke(main, [*args, "--frames", "6:16"])
    assert result.exit_code == 0, result.output
    assert "Events: at least 2" in result.stdout
    assert "95 %" in result.stdout
    assert "rate.csv" in result.stdout


@pytest.mark.parametrize(("more", "message"), [
    ({"column_threshold": 1.5}, "probability"), ({"column_margin": -1}, "angstrom"), ({"time_bin": 0}, "seconds"),
    ({"columns": None, "time_bin": 1.0}, "--columns"),
])
def test_settings_that_make_no_sense(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CampaignConfig(**{"source": "movie", "out": "out", "columns": "au-columns"} | more)


def test_what_would_fail_in_every_frame_is_refused_at_once(tmp_path: Path, folder: Path) -> None:
    untimed = movie(2, time=False)
    with pytest.raises(InputError, match="--frame-time"):
        plan_campaign(asked(folder, tmp_path, source=untimed))
    with pytest.raises(InputError, match="particle"):
        plan_campaign(asked(folder, tmp_path, columns=str(folder / "dark.safetensors")))
    with pytest.raises(InputError, match="too coarse"):
        plan_campaign(asked(folder, tmp_path, source=movie(2), pixel_size=1.2, frame_time=1))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), margin=st.floats(0, 6), py=st.floats(0.3, 2), px=st.floats(0.3, 2))
def test_near_a_label_is_within_the_margin_of_its_pixels(seed: int, margin: float, py: float, px: float) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((14, 17)) < 0.1) * rng.integers(1, 3, (14, 17))
    cells = rng.integers(0, [14, 17], (30, 2))  # at centres of pixels, where both ways measure the same
    at = {k: cKDTree(np.argwhere(labels == k) * [py, px]) for k in (1, 2) if (labels == k).any()}
    far = {k: at[k].query(cells * [py, px])[0] if k in at else np.full(30, np.inf) for k in (1, 2)}
    wanted = (far[1] <= margin + 1e-9) & (far[1] <= far[2])
    with np.errstate(invalid="ignore"):
        unsure = (np.abs(far[1] - margin) < 1e-6) | (np.abs(far[1] - far[2]) < 1e-6)
    found = near_label(labels, 1, cells * [py, px], (py, px), margin)
    assert (found == wanted)[~unsure].all()
    assert not near_label(labels, 3, cells * [py, px], (py, px), margin).any()


def test_places_outside_the_frame_are_no_ones() -> None:
    labels = np.ones((4, 4), int)
    assert near_label(labels, 1, np.array([[-3 * PIXEL, 0], [0, 99], [0, 0]]), (PIXEL, PIXEL), 5.0).tolist() == [
        False, False, True]
