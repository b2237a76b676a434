"""The end of a campaign: tracks, fitness of frames, the list of readable ones; only what changed is made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from campaign_scenes import PIXEL, movie, save_dark_model, write_pngs
from click.testing import CliRunner

import hrtem_dask
from hrtem_dask.campaign import CampaignConfig, load_campaign, run_campaign
from hrtem_dask.campaign import units as units_module
from hrtem_dask.campaign.runner import plan_campaign
from hrtem_dask.cli import main
from hrtem_dask.core.errors import InputError
from hrtem_dask.core.schema import FRAME_QUALITY, VERDICTS
from hrtem_dask.detector import MTF
from hrtem_dask.io.tables import read_table

pytestmark = pytest.mark.filterwarnings("ignore:none of")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_dark_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "in"
    write_pngs(folder, 5)
    return folder


def settings(tmp_path: Path, source: object, model: str, **more: object) -> dict[str, Any]:
    return {"source": source, "out": tmp_path / "out", "pixel_size": PIXEL, "frame_time": 0.5, "model": model,
            "frames_per_unit": 2, **more}


def stamps(out: Path, *names: str) -> list[int]:
    return [(out / name).stat().st_mtime_ns for name in names]


def test_a_campaign_ends_in_tracks_and_verdicts(tmp_path: Path, source: Path, model: str) -> None:
    campaign = run_campaign(settings(tmp_path, source, model, max_ratio=1000))
    particles, verdicts, quality = campaign.particles, campaign.verdicts, campaign.frame_quality
    assert sorted(particles.groupby("track").size()) == [5, 5, 5]  # three discs, each seen in every frame
    assert list(verdicts.columns) == VERDICTS.names
    assert list(quality.columns) == FRAME_QUALITY.names
    assert verdicts.frame.tolist() == quality.frame.tolist() == list(range(5))
    opened = hrtem_dask.open_movie(source, pixel_size=PIXEL, frame_time=0.5)
    wanted = hrtem_dask.filter_frames(particles, max_ratio=1000, frames=hrtem_dask.frame_quality(opened))
    pd.testing.assert_frame_equal(verdicts, wanted, check_dtype=False, check_categorical=False)
    _, about = read_table(campaign.out / "verdicts.parquet")
    assert "filter_frames" in about["provenance"]["provenance"]
    assert about["provenance"]["config"]["max_ratio"] == 1000
    assert pd.read_csv(campaign.out / "verdicts.csv").keep.tolist() == verdicts.keep.tolist()


def test_another_threshold_costs_the_list_and_nothing_else(
    tmp_path: Path, source: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_campaign(settings(tmp_path, source, model, max_ratio=1000))
    rest = ("particles.parquet", "frames.parquet", "frame_quality.parquet")
    before = stamps(first.out, *rest)
    (first.out / "report.html").write_text("old")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a frame was read again")

    monkeypatch.setattr(units_module, "process_unit", refuse)
    monkeypatch.setattr("hrtem_dask.analysis.frames.frame_quality", refuse)
    second = run_campaign(settings(tmp_path, source, model, max_ratio=1.01))
    assert second.computed == 0
    assert stamps(first.out, *rest) == before
    assert not second.verdicts.keep.any()
    assert not (first.out / "report.html").exists()  # it showed the other list
    verdicts = stamps(first.out, "verdicts.parquet")
    run_campaign(settings(tmp_path, source, model, max_ratio=1.01))
    assert stamps(first.out, "verdicts.parquet") == verdicts


def test_a_lost_list_is_made_again(tmp_path: Path, source: Path, model: str) -> None:
    first = run_campaign(settings(tmp_path, source, model, max_ratio=1000))
    verdicts = first.verdicts
    (first.out / "verdicts.parquet").write_bytes(b"PAR1")
    (first.out / "frame_quality.csv").unlink()
    again = run_campaign(settings(tmp_path, source, model, max_ratio=1000))
    assert again.computed == 0
    pd.testing.assert_frame_equal(again.verdicts, verdicts)
    assert (first.out / "frame_quality.csv").is_file()


def test_new_labels_keep_what_is_known_of_the_frames(tmp_path: Path, source: Path, model: str) -> None:
    first = run_campaign(settings(tmp_path, source, model))
    before = stamps(first.out, "frame_quality.parquet")
    second = run_campaign(settings(tmp_path, source, model, threshold=0.9))
    assert second.computed == 5
    assert stamps(first.out, "frame_quality.parquet") == before


def test_a_frame_that_cannot_be_read_is_quarantined(tmp_path: Path, model: str) -> None:
    paths = write_pngs(tmp_path / "in", 4)
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    campaign = run_campaign(settings(tmp_path, tmp_path / "in", model))
    assert campaign.verdicts.reason.astype(str).tolist()[1] == "quarantined"
    assert campaign.frame_quality.reason.astype(str).tolist()[1] == "quarantined"
    assert "quarantined" not in set(campaign.verdicts.reason.astype(str)[[0, 2, 3]])


def test_a_movie_without_particles_ends_in_verdicts_too(tmp_path: Path, model: str) -> None:
    campaign = run_campaign(settings(tmp_path, movie(3), model, min_area=1e9) | {"pixel_size": None,
                                                                                 "frame_time": None})
    assert len(campaign.particles) == 0
    assert campaign.verdicts.keep.tolist() == [False] * 3


def test_the_mtf_of_the_camera_makes_new_numbers(tmp_path: Path, source: Path, model: str) -> None:
    (tmp_path / "mtf.json").write_text(MTF(scale=0.4, power=2.0).to_json())
    plain = run_campaign(settings(tmp_path, source, model, frames="0:2")).particles
    flat = run_campaign(settings(tmp_path, source, model, frames="0:2", mtf=tmp_path / "mtf.json"))
    assert flat.computed == 2
    assert not np.array_equal(plain.peak_ratio, flat.particles.peak_ratio, equal_nan=True)
    assert load_campaign(flat.out).config.mtf == str(tmp_path / "mtf.json")
    with pytest.raises(InputError, match="fit-mtf"):
        run_campaign(settings(tmp_path, source, model, mtf=tmp_path / "none.json"))


def test_a_crystal_may_be_a_file(tmp_path: Path, source: Path, model: str) -> None:
    from ase.build import bulk

    gold = bulk("Au", cubic=True, a=4.078)
    gold.write(tmp_path / "gold.cif")
    named = run_campaign(settings(tmp_path, source, model, frames="0:2", crystal="Au")).particles
    given = run_campaign(settings(tmp_path, source, model, frames="0:2", crystal=tmp_path / "gold.cif"))
    assert given.computed == 2
    np.testing.assert_allclose(given.particles.peak_ratio, named.peak_ratio, rtol=0.01)
    again = settings(tmp_path, source, model, frames="0:2", crystal=str(tmp_path / "gold.cif"))
    assert run_campaign(again).computed == 0
    gold.set_cell(gold.cell * 1.05, scale_atoms=True)
    gold.write(tmp_path / "gold.cif")
    assert run_campaign(again).computed == 2
    with pytest.raises(InputError, match="Unobtanium"):
        run_campaign(settings(tmp_path, source, model, crystal="Unobtanium"))
    with pytest.raises(InputError, match=r"crystal\.cif"):
        CampaignConfig(source="movie", out="out", crystal=gold)


def test_fingerprints_without_the_newer_settings_are_the_old_ones(tmp_path: Path, source: Path, model: str) -> None:
    def segment_keys(**more: object) -> list[str]:
        return [k["segment"] for k in plan_campaign(settings(tmp_path, source, model, **more))[1].keys]

    assert segment_keys() == segment_keys(augment=1) == segment_keys(max_ratio=2, track=1)
    assert segment_keys() != segment_keys(augment=4)


def test_scores_of_another_calibration_are_made_anew(
    tmp_path: Path, source: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hrtem_dask.campaign import plan

    run_campaign(settings(tmp_path, source, model, frames="0:2"))
    (tmp_path / "other.json").write_text("{}")
    monkeypatch.setattr(plan, "COEFFICIENTS", tmp_path / "other.json")
    _, again = plan_campaign(settings(tmp_path, source, model, frames="0:2"))
    assert again.stages == [("particles",)]


@pytest.mark.parametrize(("more", "message"), [
    ({"max_ratio": 0.5}, "at least 1"), ({"min_score": 1.5}, "from 0 to 1"), ({"min_score": "high"}, "from 0 to 1"),
    ({"max_false_keep": 0}, "between 0 and 1"), ({"max_false_keep": 5}, "as 0.05"), ({"track": -1}, "0 or more"),
    ({"track": True}, "number of a track"), ({"augment": 3}, "augment"),
])
def test_settings_that_make_no_sense(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CampaignConfig(source="movie", out="out", **more)


def test_a_track_that_is_not_there(tmp_path: Path, source: Path, model: str) -> None:
    with pytest.raises(InputError, match="no track 77"):
        run_campaign(settings(tmp_path, source, model, track=77))
    assert run_campaign(settings(tmp_path, source, model, track=1)).computed == 0  # only the list was missing


def test_the_command_says_which_frames_can_be_read(tmp_path: Path, source: Path, model: str) -> None:
    args = ["run", str(source), "--out", str(tmp_path / "out"), "--pixel-size", str(PIXEL), "--model", model,
            "--where", "threads", "--max-ratio", "1000", "--augment", "1"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert "readable: 5 of 5 frames (0-4)" in result.stdout
    assert "verdicts.csv" in result.stdout
    refused = CliRunner().invoke(main, [*args, "--max-false-keep", "7"])
    assert refused.exit_code == 2
    assert "as 0.05" in refused.stderr
