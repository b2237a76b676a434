"""`hrtem-dask inspect`: can my data do this?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from campaign_scenes import PIXEL, save_dark_model, write_pngs
from click.testing import CliRunner, Result

from hrtem_dask import load_model, open_movie
from hrtem_dask.analysis import outlook
from hrtem_dask.analysis.outlook import (
    computing_time,
    dose_of,
    evaluated,
    expected_at,
    resolution_of,
    score_table,
)
from hrtem_dask.analysis.segment import layout_of
from hrtem_dask.cli import main
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.detector import MTF
from hrtem_dask.io.store import write_movie
from hrtem_dask.kernels.crystal import d_spacings, reflections
from hrtem_dask.networks.models import update_card

CARD = {"scores": {"held_out_simulated": {
    "200": {"mean": 0.94, "interval": [0.92, 0.95], "worst": 0.8}, "20": {"mean": 0.7, "interval": [0.6, 0.75]},
    "2": {"mean": None}}}}


def call(*args: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, args)])


def text(result: Result) -> str:
    """Everything said, with lines unfolded."""
    return " ".join(result.stdout.split())


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_dark_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def frames(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Three frames of 30 electrons a pixel, 10 counts an electron on 100 counts."""
    path = tmp_path / "frames.tif"
    counts = 100 + 10 * rng.poisson(30, (3, 128, 160))
    tifffile.imwrite(path, counts.astype(np.uint16), photometric="minisblack")
    return path


@pytest.fixture
def mtf_file(tmp_path: Path) -> Path:
    path = tmp_path / "mtf.json"
    MTF(scale=0.4, power=2.5, counts_per_electron=10.0).to_json(path)
    return path


def test_dose_is_counted_from_electrons(frames: Path) -> None:
    mtf, movie = MTF(scale=0.4, power=2.5, counts_per_electron=10.0), open_movie(frames, pixel_size=0.5)
    assert dose_of(movie, mtf=mtf, offset=100).value == pytest.approx(120, rel=0.01)
    assert dose_of(movie, mtf=mtf).value == pytest.approx(160, rel=0.01)
    assert "--offset" in dose_of(movie, mtf=mtf).source
    plain = dose_of(open_movie(frames), mtf=mtf, offset=100)
    assert np.isnan(plain.value)
    assert plain.per_pixel == pytest.approx(30, rel=0.01)
    assert "30" in plain.source
    wide = make_movie(np.full((1, 4, 4), 300.0), pixel_size=(0.5, 0.25))
    assert dose_of(wide, mtf=mtf).value == pytest.approx(30 / 0.125)


def test_dose_as_given_beats_the_file_and_the_file_beats_the_counts() -> None:
    movie = make_movie(np.full((2, 4, 4), 300.0), pixel_size=0.5, attrs={"dose": 77.0})
    mtf = MTF(scale=0.4, power=2.5, counts_per_electron=10.0)
    assert dose_of(movie, dose=5, mtf=mtf).value == 5
    assert dose_of(movie, mtf=mtf).value == 77
    assert dose_of(movie.assign_attrs(dose=float("nan")), mtf=mtf).value == 120
    assert np.isnan(dose_of(movie.assign_attrs(dose=0)).value)


def test_an_unknown_dose_says_what_to_type() -> None:
    movie = make_movie(np.full((2, 4, 4), -3.0), pixel_size=0.5)
    assert "--mtf" in dose_of(movie).source
    assert "--dark" in dose_of(movie, mtf=MTF(scale=0.4, power=2.5)).source
    below = dose_of(movie, mtf=MTF(scale=0.4, power=2.5, counts_per_electron=10.0))
    assert np.isnan(below.value)
    assert "--offset" in below.source
    with pytest.raises(InputError, match="above 0"):
        dose_of(movie, dose=-1)
    with pytest.raises(InputError, match="offset"):
        dose_of(movie, offset=float("nan"))


@pytest.mark.parametrize("crystal", ["Au", "Fe", "Ti", "Si", "CeO2", "SrTiO3", "MoS2", "graphene"])
def test_reflections_are_the_spacings_with_names(crystal: str) -> None:
    found = reflections(crystal, 1.0, 4.0)
    np.testing.assert_allclose([d for _, d in found], d_spacings(crystal, 1.0, 4.0))
    assert len({name for name, _ in found}) == len(found)


def test_reflections_have_the_indices_of_textbooks() -> None:
    assert [n for n, _ in reflections("Si", 1.5)] == ["111", "220", "311"]
    assert [n for n, _ in reflections("Fe", 1.1)] == ["110", "200", "211"]
    assert [n for n, _ in reflections("graphene", 1.0)] == ["100", "110", "200"]
    for name, d in reflections("Au", 0.9):
        assert d == pytest.approx(4.08 / np.sqrt(sum(int(c) ** 2 for c in name.split("/")[0])), rel=1e-6)


def test_what_pixels_keep_and_lose() -> None:
    found = resolution_of((0.3, 1.1), "Au", mtf=MTF(scale=0.5, power=2.0))
    assert found.nyquist == pytest.approx(2.2)
    assert [name for name, *_ in found.kept] == ["111"]
    assert [name for name, *_ in found.lost][:2] == ["200", "220"]
    assert found.kept[0][2] == pytest.approx(1 / (1 + (2.2 / 2.3556 / 0.5) ** 2), rel=1e-3)
    with pytest.raises(InputError, match="nobody"):
        resolution_of(0.5, "nobody")


def test_expected_at_follows_the_card_and_stays_inside_it() -> None:
    assert list(score_table(CARD)) == [20, 200]
    middle = expected_at(CARD, (20 * 200) ** 0.5)
    assert (middle.mean, middle.low, middle.high) == pytest.approx((0.82, 0.76, 0.85))
    at = expected_at(CARD, 200)
    assert (at.mean, at.low, at.high, at.worst, at.outside) == (0.94, 0.92, 0.95, 0.8, "")
    assert (expected_at(CARD, 5).mean, expected_at(CARD, 5).outside) == (0.7, "below")
    assert (expected_at(CARD, 5e3).dose, expected_at(CARD, 5e3).outside) == (200, "above")
    assert expected_at({}, 5) is None
    assert np.isnan(at.hard)
    hard = CARD | {"expected_dice": {"pixel_size": [0.1, 0.4], "dose": [20, 200], "mean": [[0.4, 0.8], [0.6, 1.0]]}}
    assert expected_at(hard, 200, 0.2).hard == pytest.approx(0.9)
    assert expected_at(hard, 200, 0.2).least == pytest.approx(0.9)
    assert expected_at(hard, 200, 0.4).least == pytest.approx(0.94)
    assert expected_at(hard, 5, 0.1).hard == pytest.approx(0.4)
    assert expected_at({"scores": None}, 5) is None


def test_time_grows_with_frames_and_pixels_and_not_with_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("au-particles")
    monkeypatch.setattr(outlook, "_seconds_a_pixel", lambda *_: (1e-6, 320))
    monkeypatch.setattr(outlook, "_time_rest", lambda *_: (0.5, 0.25))
    small = make_movie(np.zeros((4, 300, 400), np.uint8), pixel_size=0.5)
    one = computing_time(small, model)
    assert (one.network, one.reading, one.lattices) == pytest.approx((0.12, 0.5, 0.25))
    assert one.total == pytest.approx(4 * 0.87)
    assert computing_time(small, model, workers=3).total == pytest.approx(2 * 0.87)
    assert computing_time(small, model, workers=99, frames=40).workers == 40
    # half the pixel size: a quarter of the network pixels
    assert computing_time(small.pipe(lambda m: make_movie(m.values, pixel_size=0.25)), model).network == \
        pytest.approx(0.03, rel=0.02)
    tall = make_movie(np.zeros((1, 5000, 3000), np.uint8), pixel_size=0.5)
    assert computing_time(tall, model).network == pytest.approx(1e-6 * evaluated(layout_of(tall, model)))
    assert evaluated(layout_of(tall, model)) > 5000 * 3000  # the halos


def test_what_is_timed_is_the_kernel_of_segment(rng: np.random.Generator) -> None:
    model = load_model("au-particles")
    movie = make_movie(rng.normal(size=(1, 300, 300)).astype(np.float32), pixel_size=0.3)
    kept = movie.copy(deep=True)
    cost = computing_time(movie, model, budget=0.05, workers=2)
    assert cost.network > 0
    assert cost.reading >= 0
    assert cost.lattices > 0
    assert cost.timed >= outlook.FIRST
    assert cost.total == cost.per_frame
    assert movie.identical(kept)
    with pytest.raises(CalibrationError):
        computing_time(make_movie(movie.values), model)
    with pytest.raises(InputError, match="3 image"):
        computing_time(make_movie(np.zeros((1, 3, 64, 64)), pixel_size=0.5, defocus=[0, 1, 2]), model)


def test_a_frame_too_large_to_read_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "READ_AT_MOST", 1000)
    monkeypatch.setattr(outlook, "_time_rest", lambda *_: pytest.fail("read"))
    cost = computing_time(make_movie(np.zeros((1, 64, 64)), pixel_size=0.5), load_model("au-particles"), budget=0.01)
    assert np.isnan(cost.reading)
    assert cost.per_frame == cost.network


def test_a_file_without_calibration_says_what_to_type(frames: Path) -> None:
    result = call(frames)
    assert result.exit_code == 0
    said = text(result)
    assert "cannot be said without the pixel size" in said
    assert "Au 111 needs pixels below 1.18" in said
    assert f"next hrtem-dask inspect {frames} --guess-pixel-size Au" in said
    assert "takes" not in said


def test_a_calibrated_file_is_answered(frames: Path, mtf_file: Path) -> None:
    result = call(frames, "--pixel-size", 0.5, "--mtf", mtf_file, "--offset", 100)
    said = text(result)
    assert result.exit_code == 0
    expected = expected_at(load_model("au-particles").card, 120, 0.5)
    assert f"can au-particles do this? {'yes' if expected.least >= 0.9 else 'in part'}" in said
    assert "Nyquist is d = 1 angstrom; Au: keeps 111 (2.356, MTF " in said
    assert re.search(r"dose (119|120|121) e/angstrom\^2 a frame", said)
    assert f"expected Dice {expected.mean:.2f}" in said
    assert "for 3 frames on" in said
    assert f"hrtem-dask run {frames} --out results --pixel-size 0.5" in result.stdout
    assert "\n  or " not in result.stdout


def test_too_low_a_dose_asks_for_a_network_of_ones_own(frames: Path) -> None:
    said = text(call(frames, "--pixel-size", 0.5, "--dose", 2, "--no-timing"))
    assert "not reliably: the dose is below 10 e/angstrom^2" in said
    assert "less than at 10 e/angstrom^2" in said
    assert "or hrtem-dask train au-particles --pixel-size 0.5 --dose-range 0.67 6 --out mine.safetensors" in said
    above = text(call(frames, "--pixel-size", 0.5, "--dose", 1e5, "--no-timing"))
    assert "about as at 2000 e/angstrom^2" in above


@pytest.mark.parametrize(("mean", "verdict"), [
    (0.95, "do this? yes lattice"), (0.8, "in part: expect some missing"), (0.4, "not reliably: expect many missing")])
def test_the_verdict_follows_the_card(frames: Path, tmp_path: Path, mean: float, verdict: str) -> None:
    model = save_dark_model(tmp_path)
    update_card(model, {"scores": {"held_out_simulated": {"100": {"mean": mean, "worst": 0.1}}}})
    said = text(call(frames, "--pixel-size", 0.5, "--dose", 100, "--no-timing", "--model", model))
    assert verdict in said


@pytest.mark.parametrize(("pixel", "verdict", "more"), [
    (0.07, "doubtful: the movie has 0.07 angstrom a pixel; the network was trained for 0.1 to 0.8", ""),
    (1.3, "doubtful", "--pixel-size 1.3 --set imaging.resolve=0"),
    (31.0, "no: pixels of 31 angstrom show no lattice", "where the file is wrong"),
])
def test_pixels_outside_of_the_card(frames: Path, pixel: float, verdict: str, more: str) -> None:
    said = text(call(frames, "--pixel-size", pixel, "--no-timing"))
    if pixel < 0.1:  # 128 of these pixels are too few
        assert "no: " in said
        assert "the frame is only 8.96 angstrom" in said
        assert verdict.removeprefix("doubtful: ") in said
    else:
        assert verdict in said
        assert more in said


def test_the_training_command_that_is_advised_is_possible(frames: Path) -> None:
    from hrtem_dask.simulate.own import own_recipe

    for pixel in (0.85, 0.97, 0.98, 1.3, 1.9):
        said = call(frames, "--pixel-size", pixel, "--dose", 5, "--no-timing").stdout
        command = next(line for line in said.splitlines() if line.startswith("  or ")).split()
        changes = {"imaging.resolve": 0} if "imaging.resolve=0" in command else None
        dose = command.index("--dose-range")
        own = own_recipe(command[command.index("train") + 1], name="mine", changes=changes,
                         pixel_size=float(command[command.index("--pixel-size") + 1]),
                         dose_range=tuple(map(float, command[dose + 1:dose + 3])))
        assert own.recipe.imaging.pixel_size.low < pixel < own.recipe.imaging.pixel_size.high


def test_files_that_are_alike_are_described_once(tmp_path: Path, model_file: str) -> None:
    paths = write_pngs(tmp_path / "in", 5)
    result = call(*paths, "--pixel-size", PIXEL, "--model", model_file)
    assert result.exit_code == 0
    assert result.stdout.count("pixel size  ") == 1
    said = text(result)
    assert f"5 files alike: {paths[0]} ... frame_4.png" in said
    assert "for 5 frames on" in said
    assert f"run '{tmp_path / 'in'}/frame_*.png' --out results" in said
    assert f"--model {model_file}" in said
    write_pngs(tmp_path / "in" / "more", 1)
    (tmp_path / "in" / "frame_9.png").write_bytes(paths[0].read_bytes())
    assert f"run {paths[0]} ... --out" in text(call(*paths, "--pixel-size", PIXEL, "--no-timing"))
    other = tmp_path / "other.tif"
    tifffile.imwrite(other, np.zeros((9, 9), np.uint8))
    assert call(*paths, other, "--no-timing").stdout.count("pixel size  ") == 2


def test_a_bad_file_does_not_hide_the_others(frames: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.dm3").write_bytes(b"nothing")
    result = call(tmp_path / "bad.dm3", frames, tmp_path / "none.png", "--no-timing")
    assert result.exit_code == 4
    assert result.stdout.count("cannot be read:") == 2
    assert "3 frames of 128 x 160 pixels" in result.stdout


@pytest.mark.parametrize(("args", "said"), [
    (["--model", "nobody"], "no network 'nobody'"), (["--crystal", "Unobtainium"], "Unobtainium"),
    (["--mtf", "none.json"], "none.json"), (["--dose", "0"], "dose"), (["--dose", "-3"], "dose"),
])
def test_impossible_questions_are_one_line(frames: Path, args: list[str], said: str) -> None:
    result = call(frames, *args)
    assert result.exit_code in (2, 4)
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_the_dose_of_a_simulated_movie_is_in_its_store(tmp_path: Path, rng: np.random.Generator) -> None:
    movie = make_movie(rng.poisson(9, (2, 96, 96)).astype(np.uint16), pixel_size=0.5, time=[0, 0.5],
                       attrs={"dose": 36.0, "beam_energy": 200.0, "title": "BF"})
    write_movie(tmp_path / "m.zarr", movie)
    said = text(call(tmp_path / "m.zarr", "--no-timing"))
    assert "dose 36 e/angstrom^2 a frame, from the file" in said
    assert "time 0 to 0.5 s" in said
    assert "200 kV, titled 'BF'" in said
    assert "in part" in said


def test_a_card_without_scores_is_no_error(tmp_path: Path, frames: Path, model_file: str) -> None:
    path = Path(model_file).with_suffix(".json") if model_file.endswith(".safetensors") else \
        next(Path(model_file).glob("*.json"))
    assert "scores" not in json.loads(path.read_text())
    said = text(call(frames, "--model", model_file, "--pixel-size", PIXEL, "--dose", 100, "--no-timing"))
    assert "not on the card of this network" in said
    assert "has no scores" in said


@pytest.mark.real
@pytest.mark.parametrize(("name", "verdict"), [
    ("vendor/16_STOimage_1.ser", "yes by its pixel size"),
    ("vendor/velox_haadf_au_2048.emd", "doubtful: the title 'HAADF' says a scanned image"),
    ("vendor/stem_mos2_1024.dm3", "doubtful: the title 'SI Survey Image (active)'"),
    ("vendor/ceta_beam_off.emd", "no: pixels of 31.39 angstrom"),
    ("vendor/velox_tem_stack.emd", "fewer than 32 pixels"),
    ("vendor/anisotropic_pixel_float32.dm4", "no: pixels of 2 x 10 angstrom"),
    ("vacuum/low_dose", "no: pixels of 29.88"),
    ("columns/graphene_flower_raw.tif", "cannot be said without the pixel size"),
    ("nanoparticles/image_00.png", "cannot be said without the pixel size"),
    ("thon/amorphous_1006.tif", "doubtful: the movie has 1.478 angstrom a pixel"),
])
def test_real_files_are_judged_as_they_are(shared_data: Path, name: str, verdict: str) -> None:
    result = call(shared_data / name, "--no-timing")
    assert result.exit_code == 0, result.output
    assert verdict in text(result)
    assert "\n  next " in result.stdout



def test_a_u_net_is_timed_like_any_network(tmp_path: Path, frames: Path) -> None:
    from hrtem_dask.networks import save_model
    from hrtem_dask.networks.unet import UNet

    card = {"classes": ["background", "particle"], "pixel_size": [0.3, 0.6], "dose_range": [10, 1000]}
    path = save_model(UNet(1, 2, width=4, levels=2), card, tmp_path / "unet")
    said = text(call(frames, "--model", path, "--pixel-size", 0.5))
    assert "for 3 frames on" in said
    assert "the network was trained for 0.3 to 0.6" in text(call(frames, "--model", path, "--pixel-size", 1.2))
