"""A recipe, a network and a dose curve for the own microscope."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from hrtem_dask import load_model
from hrtem_dask.cli import main
from hrtem_dask.cli_train import train as train_command
from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.detector import MTF
from hrtem_dask.networks.own import (
    OwnNetwork,
    curve_lines,
    dose_steps,
    enough_dose,
    enough_said,
    train_for_microscope,
)
from hrtem_dask.simulate.camera import draw_camera
from hrtem_dask.simulate.microscope import draw_optics
from hrtem_dask.simulate.own import own_recipe
from hrtem_dask.simulate.recipe import Span, load_recipe, shipped_recipes
from hrtem_dask.simulate.sets import open_dataset


@pytest.fixture
def mtf_file(tmp_path: Path) -> Path:
    path = tmp_path / "mtf.json"
    MTF(scale=0.35, power=2.2, floor=0.04, counts_per_electron=12.5, read_noise=5.0).to_json(path)
    return path


def test_every_option_enters_the_recipe_and_nothing_else_does(mtf_file: Path) -> None:
    own = own_recipe("au-particles", name="mine", mtf=mtf_file, voltage=200, pixel_size=0.2, dose_range=(20, 500),
                     defocus_range=(-500, -100), changes={"imaging.cs": [1.1, 1.3]})
    recipe, base = own.recipe, load_recipe("au-particles")
    assert recipe.field.energy == 200
    assert (recipe.imaging.pixel_size.low, recipe.imaging.pixel_size.high) == pytest.approx((0.19, 0.21))
    assert recipe.imaging.dose == Span(20, 500, "log")
    assert recipe.imaging.defocus == Span(-500, -100)
    assert recipe.imaging.cs == Span(1.1, 1.3)
    assert recipe.imaging.gain == Span(12.5, 12.5)
    assert recipe.imaging.read_noise == Span(0.4, 0.4)
    new, old = recipe.to_dict(), base.to_dict()
    differ = {f"{s}.{k}" for s in old if s != "name" for k in old[s] if old[s][k] != new[s][k]}
    assert differ == set(own.changed)
    assert recipe.particles == base.particles
    assert recipe.film == base.film


def test_the_simulated_camera_and_lens_are_the_users(mtf_file: Path, rng: np.random.Generator) -> None:
    imaging = own_recipe("au-particles", name="mine", mtf=mtf_file, pixel_size=(0.2, 0.2), dose_range=(20, 500),
                         defocus_range=(-500, -100)).recipe.imaging
    k = np.linspace(0, 1, 9)
    for _ in range(20):
        camera, optics = draw_camera(imaging, rng), draw_optics(imaging, rng)
        np.testing.assert_allclose(camera.mtf(k), MTF(scale=0.35, power=2.2, floor=0.04)(k))
        assert (camera.gain, camera.read_noise, camera.digitised) == (12.5, 0.4, True)
        assert camera.pixel_size == pytest.approx(0.2)
        assert 20 <= camera.dose <= 500
        assert -500 <= optics.defocus <= -100


def test_a_defocus_range_may_cross_focus(rng: np.random.Generator) -> None:
    imaging = own_recipe("au-particles", name="mine", defocus_range=(-300, 600)).recipe.imaging
    drawn = [draw_optics(imaging, rng).defocus for _ in range(300)]
    assert -300 <= min(drawn) < -200
    assert 500 < max(drawn) <= 600
    assert np.mean(np.array(drawn) < 0) == pytest.approx(1 / 3, abs=0.1)


def test_the_yaml_says_every_change_and_reads_back(mtf_file: Path, tmp_path: Path) -> None:
    own = own_recipe("au-particles", name="it's mine", mtf=mtf_file, voltage=200, dose_range=(20, 500))
    path = own.write(tmp_path / "new" / "mine.yaml")
    mtf_file.unlink()  # the recipe carries the curve
    assert load_recipe(path) == own.recipe
    assert load_recipe(path).digest == own.recipe.digest
    lines = path.read_text().splitlines()
    changed = {line.split(":")[0].strip() for line in lines if "CHANGED, was" in line}
    assert changed == {key.split(".")[1] for key in own.changed} == {"energy", "dose", "mtf", "gain", "read_noise"}
    assert any("was 10 to 5000 (log): --dose-range" in line for line in lines)
    assert own.write(path) == path  # the same again is no error
    other = own_recipe("au-particles", name="it's mine", voltage=80)
    with pytest.raises(InputError, match=r"with other values.*--out"):
        other.write(path)
    assert load_recipe(path) == own.recipe


@pytest.mark.parametrize("base", shipped_recipes())
def test_shipped_recipes_survive_the_yaml(base: str, tmp_path: Path) -> None:
    own = own_recipe(base, name="mine", voltage=120)
    assert load_recipe(own.write(tmp_path / "mine.yaml")) == own.recipe


@pytest.mark.parametrize(("given", "said"), [
    ({"voltage": 300_000}, r"300000.*kilovolt.*looks like volt: type --voltage 300$"),
    ({"voltage": 0.3}, r"megavolt: type --voltage 300"),
    ({"voltage": 5}, r"voltage is 5; expected kilovolt, from 20 to 1500$"),
    ({"voltage": float("nan")}, "voltage is nan"),
    ({"dose_range": (500, 20)}, r"inverted range.*type --dose-range 20 500"),
    ({"dose_range": (0, 20)}, "above 0"),
    ({"dose_range": 20}, "expected two numbers"),
    ({"dose_range": (20, 1e9)}, r"imaging.dose"),
    ({"defocus_range": (-100, -500)}, r"inverted range.*type --defocus-range -500 -100"),
    ({"pixel_size": -0.2}, "above 0"),
    ({"pixel_size": (0.3, 0.2)}, "inverted range"),
    ({"pixel_size": 20}, "picometre: type --pixel-size 0.2"),
    ({"pixel_size": 0.01}, "expected angstrom"),
    ({"pixel_size": 1.05}, r"too coarse.*Nyquist is d = 2.205.*Au d = 2.0\d+ angstrom\..*below 0.9"),
    ({"pixel_size": (0.2, 1.3)}, r"lost: Au d = 2.35\d, 2.0\d+ angstrom"),
    ({"changes": {"cs": [1, 2]}}, r"SECTION.KEY"),
    ({"changes": {"imaging.gian": [1, 2]}}, "did you mean 'gain'"),
    ({"changes": {"imaging.cs": [2, 1]}}, "imaging.cs"),
])
def test_impossible_values_are_refused(given: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        own_recipe("au-particles", name="mine", **given)


def test_coarse_pixels_are_allowed_where_no_lattice_matters() -> None:
    own = own_recipe("au-particles", name="mine", pixel_size=1.05, changes={"imaging.resolve": 0})
    assert own.recipe.imaging.pixel_size.high == pytest.approx(1.1025)


@pytest.mark.parametrize("text", [
    "", "not json", "[1, 2]", "{", '{"format": "something else"}', '{"format": "hrtem_dask.MTF"}',
    '{"format": "hrtem_dask.MTF", "scale": "wide", "power": 2}', '{"format": "hrtem_dask.MTF", "table": 3}',
    '{"format": "hrtem_dask.MTF", "spectrum": {"k": 1}, "scale": 0.5, "power": 2}', "\x00\xff",
])
def test_a_broken_mtf_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mtf.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"mtf.json cannot be read as an MTF .*fit-mtf"):
        own_recipe("au-particles", name="mine", mtf=path)


def test_there_is_no_such_mtf_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"none.json.*fit-mtf"):
        own_recipe("au-particles", name="mine", mtf=tmp_path / "none.json")


def test_what_a_user_should_look_at_twice(tmp_path: Path) -> None:
    few = MTF(scale=0.5, power=2.0, counts_per_electron=0.01, notes=("from one frame",))
    own = own_recipe("au-particles", name="mine", mtf=few, defocus_range=(-500, -100))
    said = "\n".join(own.notes())
    assert "--defocus-range 100 500" in said
    assert "not digitised" in said
    assert "from one frame" in said
    assert own.recipe.imaging.gain == Span(0, 0)
    assert own_recipe("au-particles", name="mine", defocus_range=(100, 500)).notes() == []
    assert json.loads(own.recipe.imaging.mtf)["counts_per_electron"] == 0.01


SMALL = {"name": "small", "field": {"box": 40, "slice_thickness": 4, "wave_sampling": 0.35},
         "particles": {"number": [1, 2], "diameter": [14, 24], "empty_fraction": 0, "coverage": [0.1, 0.3]},
         "film": {"thickness": [5, 10]}}
TRAINING = {"depth": 3, "size": 48, "batch": 2, "iterations": 4}


@pytest.fixture(scope="module")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_recipe: Path) -> tuple[Path, Result]:
    """What the command makes, from the recipe to the curve."""
    out = tmp_path_factory.mktemp("own")
    MTF(scale=0.35, power=2.2, counts_per_electron=12.5, read_noise=5.0).to_json(out / "mtf.json")
    args = ["train", small_recipe, "--mtf", out / "mtf.json", "--voltage", 200, "--pixel-size", 0.4, "--dose-range", 20,
            100, "--defocus-range", -500, -100, "--set", "imaging.hot_pixels=[0, 0]", "--fields", 6, "--test-fields",
            5, "--target", 0.05, "--workers", 1, "--out", out / "mine.safetensors"]
    args += [w for k, v in TRAINING.items() for w in (f"--{k}", v)]
    return out, CliRunner().invoke(main, [str(a) for a in args])


def test_one_command_goes_from_the_microscope_to_the_dose(trained: tuple[Path, Result]) -> None:
    out, result = trained
    assert result.exit_code == 0, result.output
    for name in ("mine.yaml", "mine.json", "mine.safetensors", "mine-set.zarr", "mine-test.zarr"):
        assert (out / name).exists(), name
    said = result.stdout
    assert "imaging.dose: 20 to 100 (log) (was 10 to 5000 (log); --dose-range)" in said
    assert "type --defocus-range 100 500" in said
    assert re.findall(r"^ +(\d+)  0\.\d{3}  0\.\d{3} to 0\.\d{3} ", said, re.MULTILINE) == [
        "20", "50", "100"]
    assert said.count("enough here: ") + said.count("no dose from 20 to 100") == 1


def test_the_card_tells_what_was_done(trained: tuple[Path, Result]) -> None:
    out, _ = trained
    card = load_model(out / "mine.safetensors").card
    recipe = load_recipe(out / "mine.yaml")
    assert card["dose_range"] == [20, 100]
    assert card["pixel_size_range"] == pytest.approx([0.38, 0.42])
    assert card["training"]["recipe_sha256"] == recipe.digest
    own = card["own_microscope"]
    assert own["base_recipe"] == "small"
    assert load_recipe(own["recipe"]) == recipe
    assert own["enough_dose"] == enough_dose(card["scores"]["held_out_simulated"], own["target"])
    (command,) = card["training"]["commands"]
    for option in ("--voltage 200", "--dose-range 20", "--defocus-range -500", "--iterations 4", "--fields 6"):
        assert option in command
    learn, test = (open_dataset(out / f"mine-{kind}.zarr") for kind in ("set", "test"))
    assert learn.seed != test.seed
    assert len(test) == own["test_fields"] == 5
    assert not np.array_equal(learn[0].truth, test[0].truth)
    images = {s["images"] + s["empty_images"] for s in card["scores"]["held_out_simulated"].values()}
    assert images == {15}  # 5 fields, three seeds of microscope, camera and noise


def test_the_command_on_the_card_can_be_typed(trained: tuple[Path, Result]) -> None:
    out, _ = trained
    (command,) = load_model(out / "mine.safetensors").card["training"]["commands"]
    words = shlex.split(command)
    context = train_command.make_context("train", words[2:])
    assert context.params["voltage"] == 200
    assert context.params["changes"] == ("imaging.hot_pixels=[0, 0]",)


def same_again(folder: Path, recipe: Path, said: list[str], **training: float) -> OwnNetwork:
    """Call what the command called."""
    return train_for_microscope(
        recipe, out=folder / "mine", mtf=folder / "mtf.json", voltage=200, pixel_size=0.4, dose_range=(20, 100),
        defocus_range=(-500, -100), changes={"imaging.hot_pixels": [0, 0]}, fields=6, test_fields=5, target=0.05,
        report=said.append, **TRAINING | training)


def test_a_run_that_stopped_before_the_curve_only_measures(trained: tuple[Path, Result], tmp_path: Path,
                                                           small_recipe: Path) -> None:
    folder, said = Path(shutil.copytree(trained[0], tmp_path / "again")), []
    card = json.loads((folder / "mine.json").read_text())
    before = card.pop("own_microscope"), card["scores"].pop("held_out_simulated")
    (folder / "mine.json").write_text(json.dumps(card))
    found = same_again(folder, small_recipe, said)
    assert any("trained already" in line for line in said)
    assert not any("exit waves in" in line for line in said)
    assert found.curve == before[1]
    assert found.enough == before[0]["enough_dose"]
    assert found.said()[-1] == enough_said(found.curve, 0.05)


def test_a_training_that_was_cut_has_no_curve(trained: tuple[Path, Result], tmp_path: Path,
                                              small_recipe: Path) -> None:
    folder, said = Path(shutil.copytree(trained[0], tmp_path / "cut")), []
    (folder / "mine.safetensors").unlink()
    found = same_again(folder, small_recipe, said, iterations=10**6, minutes=0.01)
    assert found.curve == {}
    assert found.enough is None
    assert "give the same command again" in found.said()[-1]
    assert (folder / "mine.state.npz").is_file()


def curve(**lows: float) -> dict[str, dict]:
    return {k.removeprefix("d"): {"mean": v + 0.02, "interval": [v, v + 0.04], "worst": 0.1, "images": 9}
            for k, v in lows.items()}


def test_which_dose_is_enough() -> None:
    rising = curve(d20=0.7, d50=0.85, d100=0.9, d200=0.95)
    assert enough_dose(rising, 0.9) == 100
    assert enough_dose(rising, 0.96) is None
    assert "lower doses were not measured" in enough_said(rising, 0.5)
    assert "lower doses" not in enough_said(rising, 0.9)
    none = enough_said(rising, 0.99)
    assert none.startswith("no dose from 20 to 200 e/angstrom^2 is enough")
    assert "reaches 0.950 at 200, not 0.99" in none
    wavering = curve(d20=0.7, d50=0.91, d100=0.88)
    assert enough_dose(wavering, 0.9) == 50
    assert "but at 100 it does not" in enough_said(wavering, 0.9)
    assert "no test field holds a particle" in enough_said({"20": {"mean": None}}, 0.9)
    assert "no test field" in curve_lines({"20": {"mean": None}})[1]


@pytest.mark.parametrize(("low", "high"), [(1, 1), (0.3, 7), (20, 500), (99, 101), (1e-2, 1e5), (70, 70.5)])
def test_doses_are_the_ends_and_round_steps_between(low: float, high: float) -> None:
    steps = dose_steps(low, high)
    assert (steps[0], steps[-1]) == (low, high)
    assert steps == sorted(set(steps))
    assert all(float(f"{d:.0e}") == d and f"{d:e}"[0] in "125" for d in steps[1:-1])
    assert all(b / a <= 2.5 + 1e-9 for a, b in itertools.pairwise(steps))


@pytest.mark.parametrize(("args", "said"), [
    (["--voltage", "300000"], "type --voltage 300"),
    (["--dose-range", "500", "20"], "type --dose-range 20 500"),
    (["--pixel-size", "1.2"], "too coarse for the lattice"),
    (["--mtf", "none.json"], "no file none.json"),
    (["--set", "imaging.cs"], "expected KEY=VALUE"),
    (["--set", "imaging.cs=[1,"], "cannot be read"),
    (["--set", "imaging.gian=3"], "did you mean 'gain'"),
    (["--target", "1.5"], "--target"),
    (["--test-fields", "2"], "--test-fields"),
])
def test_the_command_refuses_before_it_computes(tmp_path: Path, args: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["train", "au-particles", "--out", str(tmp_path / "mine.safetensors"), *args])
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_ready_set_takes_no_options_of_the_microscope(trained: tuple[Path, Result], tmp_path: Path) -> None:
    out, _ = trained
    for args, said in ((["--voltage", "300"], "--voltage changes the recipe"),
                       (["--voltage", "300", "--target", "0.8"], "--voltage, --target change the recipe"),
                       (["--fields", "9"], "--fields changes the recipe")):
        result = CliRunner().invoke(main, ["train", str(out / "mine-set.zarr"), "--out", str(tmp_path / "x"), *args])
        assert result.exit_code == 2
        assert said in " ".join(result.stderr.split())
        assert "ready set" in result.stderr


def test_another_microscope_under_the_same_name_is_refused(trained: tuple[Path, Result], small_recipe: Path) -> None:
    out, _ = trained
    with pytest.raises(InputError, match=r"mine.yaml is there already with other values"):
        train_for_microscope(small_recipe, out=out / "mine", voltage=80, fields=6, test_fields=5, **TRAINING)


@pytest.mark.parametrize("given", [{"target": 0}, {"target": 1.0}, {"test_fields": 4}, {"fields": 1}, {"doses": []},
                                   {"doses": [20, -1]}])
def test_impossible_numbers_are_refused_before_anything_is_written(given: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        train_for_microscope(out=tmp_path / "mine", **given)
    assert list(tmp_path.iterdir()) == []
