"""Campaigns: nothing is computed twice, settings never mix, a bad file costs its own frame."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from campaign_scenes import PIXEL, frames, movie, save_dark_model, write_pngs

import hrtem_dask
from hrtem_dask.campaign import CampaignConfig, load_campaign, run_campaign
from hrtem_dask.campaign import units as units_module
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError, MissingInputError, ReadError, WriteError
from hrtem_dask.core.schema import FRAMES, PARTICLES
from hrtem_dask.io.tables import read_table

pytestmark = pytest.mark.filterwarnings("ignore:none of")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_dark_model(tmp_path_factory.mktemp("model"))


def settings(tmp_path: Path, model: str, **more: object) -> dict:
    return {"source": str(tmp_path / "in"), "out": str(tmp_path / "out"), "pixel_size": PIXEL, "model": model,
            "frames_per_unit": 2, **more}


def stamps(out: Path, array: str) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in (out / "data.zarr" / array / "c").rglob("*")
            if p.is_file()}


def test_the_first_run_writes_everything_and_the_second_nothing(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 5)
    config = settings(tmp_path, model, frame_time=0.5)
    first = run_campaign(config)
    out = first.out
    assert (first.computed, first.reused, first.failed) == (5, 0, {})
    assert list(first.frames.columns) == FRAMES.names
    assert list(first.particles.columns[: len(PARTICLES.names)]) == PARTICLES.names
    np.testing.assert_allclose(first.frames.time, np.arange(5) * 0.5)
    assert (first.frames.n_particles == 3).all()
    assert first.particles.peak_ratio.notna().any()
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name != "campaign.json"}
    second = run_campaign(config)
    assert (second.computed, second.reused) == (0, 5)
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name != "campaign.json"}
    assert [r["computed"] for r in load_campaign(out).about["runs"]] == [5, 0]


def test_the_store_is_what_the_lazy_functions_give(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 3)
    campaign = run_campaign(settings(tmp_path, model, frame_time=0.5))
    opened = hrtem_dask.open_movie(tmp_path / "in", pixel_size=PIXEL, frame_time=0.5)
    probability = hrtem_dask.segment(opened, hrtem_dask.load_model(model)).compute()
    data = xr.open_zarr(campaign.out / "data.zarr", consolidated=False)
    np.testing.assert_allclose(data.probability.values, probability.values, atol=6e-4)
    assert list(data["class"].values) == ["background", "particle"]
    np.testing.assert_array_equal(data.y, opened.y)
    assert {"frame_status", "time"} <= set(data.labels.coords)
    np.testing.assert_array_equal(data.frame_status, [1, 1, 1])
    stored = probability.copy(data=data.probability.values.astype(np.float32))
    labels = hrtem_dask.label_particles(stored, threshold=0.5).compute()
    np.testing.assert_array_equal(data.labels.values, labels.values)
    table = hrtem_dask.analyse_particles(opened, stored, labels=labels).compute().reset_index(drop=True)
    pd.testing.assert_frame_equal(campaign.particles[PARTICLES.names], PARTICLES.coerce(table))


def test_threshold_and_min_area_make_new_labels_without_inference(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pngs(tmp_path / "in", 4)
    first = run_campaign(settings(tmp_path, model))
    probability, labels = stamps(first.out, "probability"), stamps(first.out, "labels")
    covered = first.frames.covered

    def refuse(*_: object) -> None:
        raise AssertionError("inference ran again")

    monkeypatch.setattr(units_module, "_segment", refuse)
    second = run_campaign(settings(tmp_path, model, threshold=0.9))
    assert second.computed == 4
    assert stamps(first.out, "probability") == probability
    assert stamps(first.out, "labels") != labels
    assert (second.frames.covered < covered).all()
    third = run_campaign(settings(tmp_path, model, threshold=0.9, min_area=1e6))
    assert third.computed == 4
    assert len(third.particles) == 0
    assert stamps(first.out, "probability") == probability


def test_another_network_recomputes_and_never_mixes(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 4)
    first = run_campaign(settings(tmp_path, model))
    other = save_dark_model(tmp_path, "other", bias=3.0)
    second = run_campaign(settings(tmp_path, other))
    assert second.computed == 4
    assert second.about["model"]["sha256"] != first.about["model"]["sha256"]
    fresh = run_campaign(settings(tmp_path, other) | {"out": str(tmp_path / "fresh")})
    np.testing.assert_array_equal(second.data.probability.values, fresh.data.probability.values)
    pd.testing.assert_frame_equal(second.particles, fresh.particles)


def test_a_changed_file_costs_its_own_unit_only(tmp_path: Path, model: str) -> None:
    paths = write_pngs(tmp_path / "in", 6)
    run_campaign(settings(tmp_path, model))
    os.utime(paths[3], ns=(1, 1))
    again = run_campaign(settings(tmp_path, model))
    assert (again.computed, again.reused) == (2, 4)


def test_a_folder_that_grows_keeps_what_is_done(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 4)
    first = run_campaign(settings(tmp_path, model))
    old = stamps(first.out, "probability")
    write_pngs(tmp_path / "more", 7)
    for i in range(4, 7):
        (tmp_path / "more" / f"frame_{i}.png").rename(tmp_path / "in" / f"frame_{i}.png")
    grown = run_campaign(settings(tmp_path, model))
    assert (grown.computed, grown.reused) == (3, 4)
    assert old.items() <= stamps(first.out, "probability").items()
    assert grown.data.sizes["frame"] == 7
    assert len(grown.frames) == 7


def test_a_bad_file_is_recorded_and_the_others_go_on(tmp_path: Path, model: str) -> None:
    paths = write_pngs(tmp_path / "in", 5)
    paths[2].write_bytes(paths[2].read_bytes()[:200])
    campaign = run_campaign(settings(tmp_path, model))
    assert list(campaign.failed) == [2]
    assert "frame_2.png" in campaign.failed[2]
    assert campaign.frames.status.tolist() == ["done", "done", "failed", "done", "done"]
    data = campaign.data
    assert np.isnan(data.probability[2]).all()
    assert (data.labels[2] == -1).all()
    assert (data.labels[3] >= 0).all()
    assert data.frame_status.values.tolist() == [1, 1, 2, 1, 1]
    assert 2 not in set(campaign.particles.frame)
    assert run_campaign(settings(tmp_path, model)).computed == 0
    assert run_campaign(settings(tmp_path, model, retry_failed=True)).computed == 2
    write_pngs(tmp_path / "in", 5)
    assert run_campaign(settings(tmp_path, model)).failed == {}


def test_all_frames_failed_is_an_error(tmp_path: Path, model: str) -> None:
    paths = write_pngs(tmp_path / "in", 3)
    for p in paths[1:]:
        p.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ReadError, match="all 2 frames failed"):
        run_campaign(settings(tmp_path, model, frames="1:3"))


def test_a_lost_shard_or_record_is_made_again(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 6)
    first = run_campaign(settings(tmp_path, model))
    reference = first.data.probability.values
    shard = first.out / "data.zarr/probability/c/1/0/0/0"
    shard.write_bytes(shard.read_bytes()[:50])
    (first.out / ".hrtem-progress/particles/000002.json").write_text("{")
    again = run_campaign(settings(tmp_path, model))
    assert (again.computed, again.reused) == (4, 2)
    np.testing.assert_array_equal(again.data.probability.values, reference)


def test_an_interrupted_campaign_goes_on(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 6)

    class StopError(Exception):
        pass

    def stop(now: object) -> None:
        if now.computed >= 2:
            raise StopError

    with pytest.raises(StopError):
        run_campaign(settings(tmp_path, model), progress=stop)
    with pytest.raises(MissingInputError, match="no finished campaign"):
        load_campaign(tmp_path / "out")
    rest = run_campaign(settings(tmp_path, model))
    fresh = run_campaign(settings(tmp_path, model) | {"out": str(tmp_path / "fresh")})
    np.testing.assert_array_equal(rest.data.probability.values, fresh.data.probability.values)
    pd.testing.assert_frame_equal(rest.particles, fresh.particles)


def test_frames_can_be_chosen_by_place_and_by_number(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 6)
    assert run_campaign(settings(tmp_path, model, frames="1:6:2")).frames.frame.tolist() == [1, 3, 5]
    assert run_campaign(settings(tmp_path, model, frames=[0, 4])).frames.frame.tolist() == [0, 4]
    with pytest.raises(InputError, match="selects none"):
        run_campaign(settings(tmp_path, model, frames="9:12"))
    with pytest.raises(InputError, match="not in the movie"):
        run_campaign(settings(tmp_path, model, frames=[77]))


@pytest.mark.parametrize("source", ["image", "stack", "zarr", "array", "lazy"])
def test_any_kind_of_movie(tmp_path: Path, model: str, source: str) -> None:
    import tifffile

    from hrtem_dask.io.store import write_movie

    data, n = movie(3), 3
    config = settings(tmp_path, model)
    if source == "image":
        config["source"], n = write_pngs(tmp_path / "in", 1)[0], 1
    elif source == "stack":
        tifffile.imwrite(tmp_path / "stack.tif", frames(3), photometric="minisblack")
        config["source"] = tmp_path / "stack.tif"
    elif source == "zarr":
        write_movie(tmp_path / "m.zarr", data)
        config["source"] = tmp_path / "m.zarr"
    else:
        config["source"] = data if source == "array" else data.chunk({"frame": 1})
    campaign = run_campaign(config)
    assert (campaign.frames.n_particles == 3).all()
    assert len(campaign.frames) == n
    assert run_campaign(config).computed == 0


def test_the_current_client_is_used(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 4)
    threads = run_campaign(settings(tmp_path, model))
    with hrtem_dask.connect("local", workers=2):
        campaign = run_campaign(settings(tmp_path, model) | {"out": str(tmp_path / "dask")})
    assert "2 Dask" in campaign.about["runs"][-1]["where"]
    assert "threads of this process" in threads.about["runs"][-1]["where"]
    np.testing.assert_array_equal(campaign.data.probability.values, threads.data.probability.values)
    pd.testing.assert_frame_equal(campaign.particles, threads.particles)


def test_a_task_never_asks_the_cluster_for_more(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph sent from inside a task would wait for a worker that waits for it."""
    write_pngs(tmp_path / "in", 2)

    from distributed import get_worker

    with hrtem_dask.connect("threads", workers=1) as client:
        usual = type(client).get

        def refuse(*args: object, **options: object) -> object:
            try:
                get_worker()
            except ValueError:  # the runner itself may: it measures the fitness of all frames
                return usual(*args, **options)
            raise AssertionError("a task computed through the client")

        monkeypatch.setattr(type(client), "get", refuse)
        campaign = run_campaign(settings(tmp_path, model), client=client)
    assert campaign.failed == {}


def test_a_model_in_memory_is_written_beside_the_results(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 2)
    campaign = run_campaign(settings(tmp_path, hrtem_dask.load_model(model)))
    assert Path(campaign.about["model"]["name"]).is_relative_to(campaign.out)
    assert run_campaign(settings(tmp_path, hrtem_dask.load_model(model))).computed == 0


def test_tables_and_campaign_json_say_what_ran(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 2)
    campaign = run_campaign(settings(tmp_path, model))
    _, about = read_table(campaign.out / "particles.parquet")
    assert about["units"]["area"] == "angstrom^2"
    assert about["provenance"]["model"]["sha256"] == hrtem_dask.load_model(model).card["sha256"]
    written = json.loads((campaign.out / "campaign.json").read_text())
    steps = [s["stage"] for s in json.loads(written["provenance"])]
    assert steps[-4:] == ["segment", "label_particles", "analyse_particles", "link_particles"]
    assert written["versions"]["zarr"]
    csv = pd.read_csv(campaign.out / "particles.csv")
    np.testing.assert_allclose(csv.area, campaign.particles.area, rtol=1e-6)


def test_settings_are_checked() -> None:
    good = {"source": "a", "out": "b"}
    for bad, message in [({"threshold": 1.5}, "between 0 and 1"), ({"threshold": True}, "threshold"),
                         ({"min_area": -1}, "angstrom"), ({"frame_time": 0}, "seconds"), ({"frames": "1-2"}, "0:100"),
                         ({"frames_per_unit": 0}, "at least 1"), ({"treshold": 0.5}, "did you mean 'threshold'")]:
        with pytest.raises(InputError, match=message):
            run_campaign(good | bad)
    with pytest.raises(InputError, match="lacks 'out'"):
        run_campaign({"source": "a"})
    with pytest.raises(InputError, match="expected a CampaignConfig or a mapping"):
        run_campaign("folder")
    assert CampaignConfig(source=Path("a"), out="b").to_json()["source"] == str(Path("a").absolute())


def test_out_and_calibration_errors(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="is a file"):
        run_campaign(settings(tmp_path, model) | {"out": str(tmp_path / "file")})
    with pytest.raises(CalibrationError, match="--pixel-size"):
        run_campaign(settings(tmp_path, model) | {"pixel_size": None})
    (tmp_path / "theirs" / "data.zarr").mkdir(parents=True)
    (tmp_path / "theirs" / "data.zarr" / "precious").write_text("")
    with pytest.raises(InputError, match="no campaign of this package"):
        run_campaign(settings(tmp_path, model) | {"out": str(tmp_path / "theirs")})
    assert (tmp_path / "theirs" / "data.zarr" / "precious").exists()


def test_a_full_disk_stops_the_campaign(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pngs(tmp_path / "in", 4)

    def full(*_: object) -> None:
        raise WriteError("cannot write out: No space left on device")

    monkeypatch.setattr(units_module, "write_shards", full)
    with pytest.raises(WriteError, match="No space left"):
        run_campaign(settings(tmp_path, model))


def test_certainty_is_low_where_the_network_cannot_tell() -> None:
    assert units_module.certainty(np.full((4, 4), 0.5)) == 0
    assert units_module.certainty(np.array([0.0, 0.01, 1.0])) == 1
    assert units_module.certainty(np.zeros(3)) == 1


@pytest.mark.real
def test_real_micrographs(tmp_path: Path, shared_data: Path, model: str) -> None:
    source = [str(shared_data / "nanoparticles" / f"image_0{i}.png") for i in range(2)]
    campaign = run_campaign({"source": source, "out": tmp_path, "pixel_size": 0.59, "model": model})
    assert campaign.frames.status.tolist() == ["done", "done"]
    assert (campaign.frames.covered > 0).all()


def test_windows_and_unknown_pixels_reach_the_results(tmp_path):
    counts = np.random.default_rng(0).poisson(30, (2, 60, 70)).astype(float)
    counts[1, 5:9, 10:12] = np.nan
    scene = make_movie(counts, pixel_size=0.5)
    config = {"source": scene, "out": tmp_path / "out", "window": "hann", "window_size": 32}
    campaign = run_campaign(config)
    assert campaign.frames.unknown_pixels.tolist() == [0, 8]
    expected = hrtem_dask.segment(scene, "au-particles", window="hann", window_size=32).values
    np.testing.assert_allclose(campaign.data.probability.values, expected, atol=1e-3)
    assert run_campaign(config).computed == 0
    assert run_campaign(config | {"window_size": 48}).computed == 2


@pytest.mark.parametrize(("settings", "said"), [
    ({"window": "box"}, "expected one of"), ({"window_size": 64}, "window is None"),
    ({"window": "hann", "halo": 3}, "not trimmed"), ({"window": "hann", "window_size": 1.5}, "network pixels"),
])
def test_impossible_windows_are_refused_before_any_frame(tmp_path, settings, said):
    with pytest.raises(InputError, match=said):
        CampaignConfig(source="movie", out=tmp_path, **settings)
