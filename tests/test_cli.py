"""The command line: what it prints, what it writes, how it ends."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray as xr
from campaign_scenes import CENTRES, PIXEL, frames, movie, save_dark_model, write_pngs
from click.testing import CliRunner, Result

from hrtem_dask import cli_demo
from hrtem_dask.campaign import load_campaign
from hrtem_dask.cli import main
from hrtem_dask.cli_run import gather


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_dark_model(tmp_path_factory.mktemp("model"))


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def run(folder: Path, model: str, *more: object) -> Result:
    return call("run", folder, "--out", folder.parent / "out", "--pixel-size", PIXEL, "--model", model, "--where",
                "threads", *more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_pngs(folder / "in", 4)
    assert run(folder / "in", model, "--frame-time", 0.5).exit_code == 0
    return folder / "out"


def test_run_then_nothing_then_new_labels(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 4)
    first = run(tmp_path / "in", model)
    assert first.exit_code == 0, first.output
    assert "computed 4 frames" in first.stdout
    assert "dashboard: http://" in first.stderr
    assert "4 of 4 frames done" in first.stderr  # log lines, for this is no terminal
    out = tmp_path / "out"
    for name in ("campaign.json", "particles.parquet", "particles.csv", "frames.parquet", "frames.csv", "report.html"):
        assert (out / name).stat().st_size > 0
    shards = {p: p.stat().st_mtime_ns for p in (out / "data.zarr/probability/c").rglob("*")}
    page = (out / "report.html").stat().st_mtime_ns
    second = run(tmp_path / "in", model)
    assert second.exit_code == 0
    assert "nothing to compute: all 4 frames" in second.stdout
    assert (out / "report.html").stat().st_mtime_ns == page
    third = run(tmp_path / "in", model, "--threshold", 0.9)
    assert "computed 4 frames" in third.stdout
    assert shards == {p: p.stat().st_mtime_ns for p in (out / "data.zarr/probability/c").rglob("*")}


def test_a_failed_frame_ends_with_3(tmp_path: Path, model: str) -> None:
    paths = write_pngs(tmp_path / "in", 3)
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    result = run(tmp_path / "in", model)
    assert result.exit_code == 3
    assert "frame 1 failed" in result.stderr
    assert "frame_1.png" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(("args", "code", "message"), [
    (["run", "{in}", "--out", "{out}", "--model", "{model}"], 2, "--pixel-size 0.59"),
    (["run", "{in}", "--out", "{out}", "--model", "{model}", "--pixel-size", "0"], 2, "positive"),
    (["run", "{in}", "--out", "{out}", "--pixel-size", "1", "--threshold", "7"], 2, "between 0 and 1"),
    (["run", "{in}", "--out", "{out}", "--pixel-size", "1", "--frames", "a"], 2, "0:100"),
    (["run", "{in}", "--out", "{out}", "--pixel-size", "1", "--halo", "wide"], 2, "auto"),
    (["run", "{in}", "--pixel-size", "1"], 2, "--out"),
    (["run", "{in}", "--out", "{out}", "--pixel-size", "1", "--model", "nobody"], 4, "no network"),
    (["run", "{in}/none", "--out", "{out}", "--pixel-size", "1"], 4, "no such file"),
    (["run", "{in}", "--out", "{model}", "--pixel-size", "1"], 4, "is a file"),
    (["run", "{in}", "--out", "{out}", "--pixel-size", "1", "--model", "{model}", "--where", "mars"], 4, "slurm"),
    (["report", "{in}"], 4, "no finished campaign"),
    (["export", "{in}", "--to", "{out}"], 4, "no finished campaign"),
    (["export", "{in}", "--to", "{out}", "--what", "gold"], 2, "labels, probability, overlay, tables"),
    (["nonsense"], 2, "No such command"),
])
def test_errors_are_one_clear_line(tmp_path: Path, model: str, args: list[str], code: int, message: str) -> None:
    write_pngs(tmp_path / "in", 1)
    result = call(*[a.format(**{"in": tmp_path / "in", "out": tmp_path / "out", "model": model}) for a in args])
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_an_unexpected_error_is_one_line_and_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("gold")

    monkeypatch.setattr("hrtem_dask.cli_inspect.describe", broken)
    result = call("inspect", "x")
    assert result.exit_code == 4
    assert "unexpected KeyError" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in call("--debug", "inspect", "x").stderr


def test_inspect(tmp_path: Path) -> None:
    paths = write_pngs(tmp_path / "in", 3)
    result = call("inspect", tmp_path / "in")
    assert result.exit_code == 0
    assert "3 frames of 144 x 150 pixels (y, x)" in result.stdout
    assert "--pixel-size 0.59" in result.stdout
    assert "--guess-pixel-size Au" in result.stdout
    given = call("inspect", paths[0], "--pixel-size", 0.59)
    assert "0.59 angstrom, given by you" in given.stdout
    bad = call("inspect", paths[0], tmp_path / "none.png")
    assert bad.exit_code == 4
    assert "none.png" in bad.output


@pytest.mark.real
def test_inspect_proposes_a_pixel_size_from_all_files_together(shared_data: Path) -> None:
    result = call("inspect", *sorted((shared_data / "nanoparticles").glob("image_*.png")), "--guess-pixel-size", "Au")
    assert result.exit_code == 0
    assert float(result.stdout.split("--pixel-size ")[-1]) == pytest.approx(0.59, rel=0.02)


def test_many_files_become_one_movie_in_natural_order(tmp_path: Path) -> None:
    paths = [str(p) for p in write_pngs(tmp_path, 12)]
    assert gather(sorted(paths)) == paths
    assert gather([str(tmp_path / "frame_?.png"), str(tmp_path / "frame_??.png")]) == paths


def test_report_can_be_made_anew(finished: Path) -> None:
    (finished / "report.html").unlink()
    result = call("report", finished)
    assert result.exit_code == 0
    assert (finished / "report.html").stat().st_size > 10_000


def test_export_for_fiji_and_origin(finished: Path, tmp_path: Path) -> None:
    result = call("export", finished, "--to", tmp_path / "ex")
    assert result.exit_code == 0, result.output
    data = load_campaign(finished).data
    with tifffile.TiffFile(tmp_path / "ex" / "labels.tif") as tif:
        np.testing.assert_array_equal(tif.asarray(), data.labels.values)
        assert tif.asarray().dtype == np.uint16
        assert tif.is_imagej
        assert tif.imagej_metadata["unit"] == "nm"
        assert tif.imagej_metadata["finterval"] == pytest.approx(0.5)
        pixels, per = tif.pages[0].tags["XResolution"].value
        assert per / pixels == pytest.approx(PIXEL / 10, rel=1e-3)
    probability = tifffile.imread(tmp_path / "ex" / "probability.tif")
    np.testing.assert_allclose(probability, data.probability.sel({"class": "particle"}).values)
    video = iio.imread(tmp_path / "ex" / "overlay.mp4")
    assert video.shape[0] == 4
    assert video.shape[1] % 2 == video.shape[2] % 2 == 0
    assert (video[0, ..., 0].astype(int) - video[0, ..., 2] > 60).any()  # outlines are orange
    assert (tmp_path / "ex" / "particles.csv").read_text() == (finished / "particles.csv").read_text()
    one = call("export", finished, "--to", tmp_path / "two", "--what", "tables")
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        "frame_quality.csv", "frames.csv", "particles.csv", "verdicts.csv"], one.output


def test_demo_makes_a_movie_once_and_compares_with_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    from hrtem_dask import simulate

    calls = []

    def simulated(*, progress: object, client: object, **_: object) -> xr.Dataset:
        calls.append(client)
        progress(1, 1)
        dark, moved = frames(4), (np.array(CENTRES) + np.arange(4)[:, None, None] * [1, 0]) * PIXEL
        particles = {f"particle_{n}": (("frame", "particle"), v) for n, v in
                     (("y", moved[..., 0]), ("x", moved[..., 1]), ("tilt", np.ones((4, 3)) * [1, 1, 7]))}
        shown = movie(4).assign_attrs(counts_per_electron=10.0, offset=0.0)
        return xr.Dataset({"movie": shown, "truth": movie(4).copy(data=(dark < 330)), **particles})

    monkeypatch.setattr(simulate, "movie", simulated, raising=False)
    monkeypatch.setattr(cli_demo, "MODEL", model)
    monkeypatch.setattr(cli_demo, "COLUMNS", None)  # these frames are too coarse for columns
    monkeypatch.setattr(cli_demo, "MOVIE", {"n_frames": 4, "shape": (144, 150), "seed": 1})
    first = call("demo", "--out", tmp_path / "demo", "--workers", 2)
    assert first.exit_code == 0, first.output
    assert "Dice 0." in first.stdout
    assert "0 are truly within 2 degree" in first.stdout  # the largest disc, which is followed, is the third
    truth = pd.read_csv(tmp_path / "demo" / "truth.csv")
    assert truth.tilt.tolist() == [7] * 4
    assert "true tilt" in (tmp_path / "demo" / "report.html").read_text()
    assert (tmp_path / "demo" / "report.html").as_uri() in first.stdout
    assert "against the simulated truth" in (tmp_path / "demo" / "report.html").read_text()
    second = call("demo", "--out", tmp_path / "demo")
    assert second.exit_code == 0
    assert "nothing to compute" in second.stdout
    assert len(calls) == 1


def test_help_and_version_load_neither_torch_nor_abtem() -> None:
    code = ("import sys\nfrom click.testing import CliRunner\nfrom hrtem_dask.cli import main\n"
            "r = CliRunner().invoke(main, ['--help'])\nassert r.exit_code == 0, r.output\n"
            "assert all(c in r.output for c in ('inspect', 'run', 'report', 'export', 'demo', 'simulate', 'train'))\n"
            "assert not {'torch', 'abtem', 'distributed'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.real
def test_real_micrographs_from_the_installed_command(tmp_path: Path, shared_data: Path, model: str) -> None:
    command = shutil.which("hrtem-dask", path=str(Path(sys.executable).parent)) or "hrtem-dask"
    files = [str(shared_data / "nanoparticles" / f"image_0{i}.png") for i in range(4)]
    args = [command, "run", *files, "--pixel-size", "0.59", "--out", str(tmp_path), "--model", model, "--workers", "2"]
    first = subprocess.run(args, check=True, capture_output=True, text=True)
    assert "computed 4 frames" in first.stdout
    shards = {p: p.stat().st_mtime_ns for p in (tmp_path / "data.zarr/probability/c").rglob("*")}
    again = subprocess.run(args, check=True, capture_output=True, text=True)
    assert "nothing to compute" in again.stdout
    lower = subprocess.run([*args, "--threshold", "0.3"], check=True, capture_output=True, text=True)
    assert "computed 4 frames" in lower.stdout
    assert shards == {p: p.stat().st_mtime_ns for p in (tmp_path / "data.zarr/probability/c").rglob("*")}
