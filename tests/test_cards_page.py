"""The page of a card: its figures are those of the JSON, and pages of shipped networks are up to date."""

from __future__ import annotations

import copy
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hrtem_dask import load_model
from hrtem_dask.networks import Model, shipped_models
from hrtem_dask.networks.card_page import page_of, write_page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ROW = {"mean": 0.8123, "interval": [0.7711, 0.8522], "worst": 0.4567, "wrong_label": 0.1234, "images": 60,
       "by_seed": {"101": 0.8011, "102": 0.8235}, "f1": 0.6543, "f1_interval": [0.6001, 0.7002], "precision": 0.7071,
       "recall": 0.6061, "distance": 1.2345, "distance_interval": [1.1, 1.3], "diameter_bias": -2.34,
       "diameter_scatter": 5.67, "diameters": 300, "atoms": {"mean": 0.7234, "interval": [0.7, 0.75]},
       "particles": {"f1": 0.6}, "false_area": None, "empty_images": 0, "nothing_found": 0}
QUALITY = {"nll": 0.12345, "ece": 0.0234, "ece_interval": [0.011, 0.044], "ece_undecided": 0.0876,
           "ece_by_dose": {"0 to 50": 0.0312, "50 to inf": 0.0113}}
MEASURED = {
    "task": "Particles of a test", "defocus_range": [-300.0, 900.0], "voltage": 300.0,
    "effective_receptive_field": {"gradient": {"50": 5, "90": 21, "99": 60}, "halo": 64, "images": 8},
    "scores": {"real": {"mean_dice": 0.9314, "worst_dice": 0.8413, "pixel_size": 0.59, "threshold": 0.5, "data": "two",
                        "command": "python real", "images": [{"image": "a.png", "dice": 0.9219, "precision": 0.9,
                                                              "recall": 0.95}]},
               "held_out_simulated": {"20": ROW, "200": ROW | {"mean": 0.9012}},
               "hard_simulated": {"recipe": "au-hard", "fields": 20, "seeds": [101, 102], "command": "python me",
                                  "dose": {"50": ROW | {"mean": 0.8765}},
                                  "refocus": {"-50": {"50": ROW | {"mean": 0.8654}}},
                                  "kinds": {"bright": {"50": {"mean": 0.7654, "images": 31}}},
                                  "peer": {"name": "Otsu", "dose": {"50": {"mean": 0.4321, "interval": [0.4, 0.5]}}}}},
    "calibration": {"temperature": 1.2345, "folded": True, "fields_fitted": 19, "fields_checked": 38,
                    "images_a_field": 3, "before": QUALITY, "after": QUALITY | {"ece": 0.0101},
                    "reliability": {"predicted": [0.01, 0.5, 0.99], "true": [0.02, 0.45, 0.98],
                                    "pixels": [100000, 300, 20000]}},
    "expected_dice": {"recipe": "au-hard", "pixel_size": [0.1, 0.4], "dose": [20.0, 200.0],
                      "mean": [[0.6111, 0.9222], [0.7333, None]]},
    "known_failures": ["At 20 e/angstrom^2 it fails."],
}


@pytest.fixture
def full() -> Model:
    model = load_model("au-particles")
    return replace(model, name="made", card=copy.deepcopy(model.card) | MEASURED)


def test_everything_that_the_card_says_is_on_the_page(full):
    page = page_of(full)
    for text in ("Particles of a test", "-300 to 900 Å", "300 kV", "0.1 to 0.8 Å", "0.812 (0.771 to 0.852)", "0.457",
                 "0.123", "0.801 0.824", "0.654 (0.600 to 0.700)", "0.707", "0.606", "1.23 (1.10 to 1.30)",
                 "-2.3 ± 5.7", "0.723 (0.700 to 0.750)", "0.901", "0.876", "0.865", "bright (31 scenes)", "0.765",
                 "Otsu instead of a network", "0.432", "`python me`", "1.2345", "0.0101 (0.0110 to 0.0440)", "0.0876",
                 "0.0312", "Mean Dice 0.931, worst 0.841", "| a.png | 0.922 |",
                 "square of 43 network pixels", "0.733", "At 20 e/angstrom^2 it fails.",
                 full.card["sha256"]):
        assert text in page, text
    assert "not measured" not in page.replace("| not measured", "")


def test_every_figure_comes_from_the_json(full):
    """Numbers of the page change with the card: none is written into the program."""
    other = copy.deepcopy(full.card)
    other["scores"]["hard_simulated"]["dose"]["50"]["mean"] = 0.1357
    other["calibration"]["temperature"] = 3.14
    changed = page_of(replace(full, card=other))
    assert "0.136" in changed
    assert "3.14" in changed
    assert "0.876 (" not in changed


def test_what_was_not_measured_is_called_so(full):
    bare = {k: v for k, v in full.card.items() if k not in (*MEASURED, "training")}
    page = page_of(replace(full, card=bare))
    assert page.count("not measured") >= 6
    assert "not stated" in page


def test_pictures_are_small_and_linked(full, tmp_path):
    page = write_page(full, tmp_path)
    links = re.findall(r"!\[.*?\]\((.*?)\)", page.read_text())
    assert links == ["made-dose.png", "made-reliability.png"]
    for name in links:
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert 3000 < len(data) < 150_000


@pytest.mark.parametrize("name", shipped_models())
def test_pages_of_shipped_networks_are_up_to_date(name):
    page = ROOT / "docs" / "cards" / f"{name}.md"
    assert page.is_file(), "write it: python -m benchmarks.cards page"
    assert page.read_text() == page_of(load_model(name)), "the card has changed: python -m benchmarks.cards page"
    for link in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text()):
        assert (page.parent / link).is_file()
