"""A recipe, a network and a dose curve for the own microscope."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.detector import MTF
from hrtem_dask.simulate.camera import draw_camera
from hrtem_dask.simulate.microscope import draw_optics
from hrtem_dask.simulate.own import own_recipe
from hrtem_dask.simulate.recipe import Span, load_recipe


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


@pytest.mark.parametrize("base", ["au-particles", "au-columns", "mos2-columns"])
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
