"""The benchmark on hard scenes and the commands of cards, on tiny sets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from campaign_scenes import save_dark_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cards, low_dose, low_dose_tables
from hrtem_dask import load_model
from hrtem_dask.networks.cards import expected_dice
from hrtem_dask.networks.models import save_model
from hrtem_dask.simulate import dataset, load_recipe

TINY = {"name": "tiny", "field": {"box": 40, "wave_sampling": 0.35, "slice_thickness": 4},
        "particles": {"number": [1, 2], "diameter": [12, 16], "empty_fraction": 0}, "film": {"thickness": [8, 12]},
        "imaging": {"pixel_size": [0.4, 0.6], "defocus": [0, 300]}}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A network that calls dark places particle, with a pixel size of its own."""
    folder = tmp_path_factory.mktemp("model")
    made = load_model(save_dark_model(folder))
    card = {k: made.card[k] for k in ("classes", "dose_range")} | {"pixel_size": 0.5}
    return save_model(made.weights, card, folder / "dark5")


def test_the_recipe_of_hard_scenes_is_not_that_of_the_training():
    hard, usual = load_recipe("au-particles-hard"), load_recipe("au-particles")
    assert (hard.particles.diameter.low, hard.particles.diameter.high) == (15, 60)
    assert (hard.film.thickness.low, hard.film.thickness.high) == (20, 60)
    assert (hard.imaging.pixel_size.low, hard.imaging.pixel_size.high) == (0.1, 0.6)
    assert hard.imaging.overfocus_fraction == 0.5
    assert hard.particles.zone_axis == "any"
    for key in ("defocus", "aperture", "absorption_length", "mtf_scale"):
        assert getattr(hard.imaging, key) != getattr(usual.imaging, key), key


def test_the_command(model, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(TINY))
    monkeypatch.setattr("hrtem_dask.networks.scoring.DOSES", (20, 200))
    monkeypatch.setattr(low_dose, "SHARE", 1)
    monkeypatch.setattr(low_dose, "PIXEL_SIZES", (0.4, 0.6))
    monkeypatch.setattr(low_dose_tables, "PIXEL_SIZES", (0.4, 0.6))
    options = ["--recipe", str(recipe), "--fields", "2", "--seeds", "11", "12", "--cache", str(tmp_path / "sets"),
               "--workers", "1"]
    written = low_dose.main([str(model), *options, "--out", str(tmp_path / "out"), "--card"])
    found = json.loads(written.read_text())
    assert found["seeds"] == [11, 12]
    mine, peer = found["predictors"]["dark5"], found["predictors"][low_dose.BLIND]
    assert set(mine["dose"]) == {"20", "200"}
    assert set(mine["refocus"]) == {"-50", "50"}
    row = mine["dose"]["200"]
    assert row["images"] == 4
    assert set(row["by_seed"]) == {"11", "12"}
    assert row["interval"][0] <= row["mean"] <= row["interval"][1]
    assert 0 <= peer["dose"]["200"]["mean"] <= 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"low_dose.json", "low_dose.md", "dice.png",
                                                              "worst_dark5.png"}
    text = (tmp_path / "out" / "low_dose.md").read_text()
    assert f"{row['mean']:.3f} ({row['interval'][0]:.3f} to {row['interval'][1]:.3f})" in text

    card = load_model(model).card
    assert card["scores"]["hard_simulated"]["dose"]["200"] == row
    assert card["scores"]["hard_simulated"]["peer"]["name"] == low_dose.BLIND
    assert expected_dice(card, 0.4, 20) == pytest.approx(mine["expected_dice"]["mean"][0][0])
    assert isinstance(card["known_failures"], list)

    # the sets are there now, and so is every figure: nothing depends on the number of workers or on the run
    capsys.readouterr()
    same = low_dose.run([str(model)], recipe=str(recipe), seeds=(11,), fields=2, doses=(20, 200),
                        cache=tmp_path / "sets", workers=3)[1]["dark5"]
    assert "2 of 2 structures are there already" in capsys.readouterr().out
    for dose in (20, 200):
        mine_now = [s.agreement.dice for s in same if (s.condition.dose, s.condition.refocus) == (dose, 0)
                    and s.condition.pixel_size is None]
        assert np.mean(mine_now) == pytest.approx(mine["dose"][str(dose)]["by_seed"]["11"], abs=1e-4)


def test_failures_are_said_in_words():
    row = {"mean": 0.8, "worst": 0.4, "images": 9}
    found = {"dose": {"20": row, "30": row, "200": row | {"worst": 0.7}},
             "kinds": {"bright": {"20": {"mean": 0.6}, "30": {"mean": 0.1}, "200": {"mean": 0.79}},
                       "none": {d: {"mean": None} for d in ("20", "30", "200")}}}
    said = low_dose_tables.failures(found)
    assert len(said) == 2
    assert "bright: mean Dice 0.60, against 0.80" in said[0]
    assert "worst of 9 scenes has a Dice of 0.40" in said[1]


def test_finishing_weights_that_are_there(model, tmp_path, capsys):
    store = tmp_path / "set.zarr"
    dataset(load_recipe(TINY), store, 4, seed=1, workers=None)
    path = save_model(load_model(model).weights, load_model(model).card, tmp_path / "mine")
    before = load_model(path)
    cards.main(["finish", str(path), "--set", str(store)])
    once = load_model(path)
    t = once.card["calibration"]["temperature"]
    np.testing.assert_allclose(once.weights.final, before.weights.final / t, rtol=1e-3)
    assert once.card["calibration"]["after"]["nll"] <= once.card["calibration"]["before"]["nll"] * 1.2
    assert once.card["effective_receptive_field"]["halo"] == once.card["effective_radius"]
    assert once.card["voltage"] == 300
    cards.main(["finish", str(path), "--set", str(store)])
    twice = load_model(path)
    np.testing.assert_allclose(twice.weights.final, before.weights.final / twice.card["calibration"]["temperature"],
                               rtol=1e-3)
    assert twice.card["calibration"]["temperature"] == pytest.approx(t, rel=0.02)
    (page,) = cards.main(["page", str(path), "--out", str(tmp_path / "pages")])
    assert "A temperature of" in page.read_text()
    assert "temperature" in capsys.readouterr().out
