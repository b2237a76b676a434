"""What `benchmarks.columns` counts, on tables made by hand and on two small simulated fields."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import columns, columns_page, columns_tables
from benchmarks.columns_score import (
    LEFT_OUT,
    LOG_FOUND,
    LOG_TOLD,
    THRESHOLDS,
    Detector,
    Setting,
    column_truth,
    contrast_of,
    counts_by_threshold,
    draw_scene,
    found_columns,
    judged,
    rows_of,
    told_sign,
)
from hrtem_dask import blob_probability, load_model
from hrtem_dask.networks.card_page import page_of
from hrtem_dask.networks.models import SHIPPED
from hrtem_dask.simulate import dataset
from hrtem_dask.simulate.columns import column_image

TINY = {"name": "tiny-columns",
        "field": {"box": 32, "wave_sampling": 0.2, "stored_sampling": 0.4, "slice_thickness": 2},
        "particles": {"number": 1, "shape": "wulff", "diameter": 18, "zone_axis": "110", "tilt": [0, 1],
                      "thermal_displacement": 0.07},
        "support": {"kind": "none"}, "film": {"absent_fraction": 1},
        "imaging": {"pixel_size": 0.16, "defocus": 60, "overfocus_fraction": 0, "corrected_fraction": 1,
                    "cs_corrected": -0.01, "focal_spread": 30, "convergence": 0, "astigmatism": 0, "coma": 0,
                    "aperture_fraction": 0, "absorption_fraction": 0, "blur": 0.2, "drift": 0, "illumination": 0,
                    "hot_pixels": 0, "mtf_scale": 0.6, "mtf_power": 2.5}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return dataset(TINY, tmp_path_factory.mktemp("set") / "s.zarr", 2, seed=3)


@pytest.fixture(scope="module")
def scene(data):
    sample = data.read(0)
    return draw_scene(data, 0, Setting(3000.0), column_truth(sample), sample)


def perfect(scene) -> pd.DataFrame:
    movie = scene.movie
    label = column_image(scene.truth.assign(**{"class": "column"}), scene.mask.shape, movie.attrs["pixel_size"])
    return found_columns(Detector(), scene, blob_probability(movie).copy(data=label[None]), 0.5)


def inner_columns(scene) -> np.ndarray:
    """Columns inside the particle and away from the border of the frame (y, x)."""
    inside = scene.truth[~scene.truth.surface & (scene.truth.atoms >= 2)][["y", "x"]].to_numpy()
    return inside[((inside > 3) & (inside < np.array(scene.extent) - 3)).all(1)]


def test_a_perfect_label_is_found_whole(scene):
    truth, false = rows_of(perfect(scene), scene)
    asked = truth[truth.atoms >= 2]
    assert len(asked) > 15
    assert asked.hit.all()
    assert len(false) == 0
    assert np.hypot(asked.dy, asked.dx).max() < 0.5
    assert set(truth.zone) == {"110"}
    assert truth.surface.sum() > 5
    assert (~truth.surface).sum() > 3


def test_false_and_missed_columns_are_counted_where_they_are(scene):
    found, true = perfect(scene), scene.truth
    inside = inner_columns(scene)[:2]
    far = np.hypot(*(found[["y", "x"]].to_numpy()[:, None] - inside).transpose(2, 0, 1)).min(1)
    free = np.stack(np.meshgrid(*[np.arange(3.0, e - 3) for e in scene.extent], indexing="ij"), -1).reshape(-1, 2)
    distance = np.hypot(*(free[:, None] - true[["y", "x"]].to_numpy()).transpose(2, 0, 1)).min(1)
    y, x = free[distance.argmax()]
    kept = found[far > 0.5]
    truth, false = rows_of(pd.concat([kept, found.iloc[:1].assign(y=y, x=x)]), scene)
    missed = truth[~truth.hit & (truth.atoms >= 2)]
    assert len(found) - len(kept) == len(missed) == 2
    assert not missed.surface.any()
    assert false.place.tolist() == ["film or vacuum"]


def test_spots_of_a_half_without_columns_are_left_out(scene):
    found, true = perfect(scene), scene.truth[["y", "x"]].to_numpy()
    y, x = inner_columns(scene)[0]
    # as if this part of the particle had no columns in the truth
    bare = replace(scene, truth=scene.truth[np.hypot(*(true - (y, x)).T) > 4.0].reset_index(drop=True))
    before, after = (rows_of(found, s)[1].place.value_counts() for s in (scene, bare))
    assert LEFT_OUT not in before
    assert after[LEFT_OUT] >= 1
    hits, false, missed = counts_by_threshold(found, bare, [0.5])[0]
    assert false == len(rows_of(found, bare)[1]) - after[LEFT_OUT]
    assert missed == 0
    assert hits > 0


def test_the_contrast_and_its_sign(scene):
    c = contrast_of(scene)
    assert abs(c) > 0.03
    assert told_sign(scene, 0.45) == ("bright" if c > 0 else "dark")


def row(hits: int, missed: int, false: int, *, field: int = 0, dose: float = 100.0, error: float = 0.1) -> dict:
    """A frame with these numbers of columns, each this far off along x and stated so."""
    n = hits + missed
    hit = np.arange(n) < hits
    off = np.where(hit, error * np.where(np.arange(n) % 2, 1, -1), np.nan)
    table = pd.DataFrame({"atoms": 5, "surface": np.arange(n) % 2 == 0, "zone": "110", "tilt": 1.5, "hit": hit,
                          "dy": np.where(hit, 0.0, np.nan), "dx": off,
                          "y_error": np.where(hit, error, np.nan), "x_error": np.where(hit, error, np.nan)})
    places = pd.DataFrame({"place": ["surface"] * false, "zone": ["110"] * false}, dtype=object)
    return {"seed": 1, "field": field, "setting": Setting(dose), "detector": Detector(), "columns": table,
            "false": places, "contrast": -0.2, "area": 1e4}


def test_figures_of_known_counts():
    rows = [row(8, 2, 0, field=0), row(6, 0, 4, field=1)]
    s = columns_tables.summary(rows)
    assert (s["hits"], s["false"], s["missed"]) == (14, 4, 2)
    assert s["f1"] == pytest.approx(28 / 34, abs=1e-4)
    assert s["precision"] == pytest.approx(14 / 18, abs=1e-4)
    assert s["recall"] == pytest.approx(14 / 16, abs=1e-4)
    assert s["rms"] == pytest.approx(0.1, abs=1e-4)
    assert s["pull_sd"] == pytest.approx(np.sqrt(0.5), abs=1e-3)  # along y all are 0, along x 1
    low, high = s["f1_interval"]
    assert low <= s["f1"] <= high
    assert low < high
    report = columns_tables.report(rows)
    assert report["kinds"]["dark columns"]["100"]["frames"] == 2
    assert report["kinds"]["bright columns"]["100"]["frames"] == 0
    assert report["kinds"]["tilt 1 to 2 degree"]["100"]["recall"] == pytest.approx(14 / 16, abs=1e-4)
    assert report["surface"]["100"]["surface"]["4-6"]["columns"] == 8
    assert report["false"]["100"]["per_surface_column"] == pytest.approx(4 / 8)
    assert report["false"]["100"]["film_or_vacuum_per_100_nm2"] == 0


def test_a_column_of_one_atom_changes_no_headline():
    one = row(8, 2, 0)
    extra = one["columns"].iloc[[0, -1]].assign(atoms=1)
    with_it = one | {"columns": pd.concat([one["columns"], extra])}
    a, b = columns_tables.summary([one]), columns_tables.summary([with_it])
    assert a == b
    assert columns_tables.surface([with_it])["surface"]["1"]["columns"] == 1


def test_fields_without_truth_are_left_out(data):
    sample = data.read(0)
    assert judged(sample)
    sample.info["particles"].append({"zone_axis": "", "tilt": 2.4})
    assert not judged(sample)
    sample.info["particles"][-1]["tilt"] = 20.0
    assert judged(sample)


def test_the_command_measures_writes_and_goes_on(tmp_path, data, capsys):
    args = ["--sets", str(data.path), "--doses", "100", "3000", "--workers", "1", "--out", str(tmp_path / "out")]
    found = json.loads(columns.main(args).read_text())
    one = found["detectors"][LOG_TOLD]
    assert one["dose"]["3000"]["f1"] > one["dose"]["100"]["f1"] - 0.05
    assert one["dose"]["3000"]["f1"] > 0.9
    assert one["best"]["3000"]["threshold"] in THRESHOLDS
    assert found["fields"] == found["judged"] == 2
    text = (tmp_path / "out" / "columns.md").read_text()
    assert "Recall by atoms per column" in text
    assert (tmp_path / "out" / "columns.png").stat().st_size > 10_000
    again = json.loads(columns.main([*args, "--scanned", str(tmp_path / "out" / "columns.json")]).read_text())
    assert again["detectors"] == found["detectors"]
    assert again["curves"] == found["curves"]
    capsys.readouterr()


def test_a_card_needs_a_network(capsys):
    with pytest.raises(SystemExit):
        columns.main(["--card"])
    assert "expected the network" in capsys.readouterr().err


def test_the_page_holds_what_the_commands_wrote(tmp_path, capsys):
    rows = [row(8, 2, 1, field=k, dose=d) for k in range(3) for d in (100.0, 1000.0)]
    found = {"recipe": "au-columns-hard", "recipe_sha256": "0" * 64, "seeds": [1], "fields": 3, "judged": 3,
             "versions": "numpy 2", "command": "python -m benchmarks.columns", "thresholds": [0.1, 0.2],
             "detectors": {LOG_FOUND: columns_tables.report(rows)},
             "curves": {"some detector": {"100": [0.1, 0.2], "1000": [0.3, 0.4]}}}
    graphene = {"pixel_size": 0.2192, "listed": 545, "hits": 500, "false": 1, "missed": 20, "f1": 0.9794,
                "precision": 0.998, "recall": 0.961, "rms": 0.12, "shift": [0.01, -0.02], "contrast": 1}
    real = {"graphene": graphene, "gold": {"columns": 333, "fitted": 0.92}}
    for name, content in (("found", found), ("real", real)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = [str(tmp_path / name) for name in ("found.json", "real.json")]
    out = columns_page.main([*files, "--out", str(tmp_path / "p.md")])
    text = out.read_text()
    assert "@" not in text
    assert "F1 0.979" in text
    assert "0.842" in text  # 2 * 8 / (2 * 8 + 1 + 2)
    assert "### Laplacian of a Gaussian" in text
    assert (tmp_path / "p.png").is_file()
    capsys.readouterr()


def test_a_card_page_shows_columns_and_where_they_fail(tmp_path):
    model = load_model("au-columns")
    rows = [row(8, 2, 1, field=k, dose=d) for k in range(3) for d in (100.0, 1000.0)]
    one = columns_tables.report(rows) | {"threshold": 0.6, "sha256": model.card["sha256"]}
    found = {"recipe": "au-columns-hard", "seeds": [1], "judged": 3, "fields": 3, "command": "the command",
             "chosen_on": {"recipe": "au-columns", "seed": 2, "fields": 5},
             "detectors": {"au-columns": one} | dict.fromkeys((LOG_TOLD, LOG_FOUND), columns_tables.report(rows))}
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"net{suffix}").write_bytes((SHIPPED / f"au-columns{suffix}").read_bytes())
    columns.write_on_card(str(tmp_path / "net.safetensors"), found)
    card = load_model(tmp_path / "net.safetensors").card
    assert card["column_threshold"] == 0.6
    assert any("below the goal of 0.95" in text for text in card["known_failures"])
    page = page_of(load_model(tmp_path / "net.safetensors"))
    assert "## Columns in hard simulated scenes" in page
    assert "Dice" not in page
    assert "0.842" in page
    assert LOG_FOUND in page
