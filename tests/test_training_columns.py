"""Training for columns of atoms: a hill around each, instead of the masks of particles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from training_sets import same

from hrtem_dask import load_model, train
from hrtem_dask.cli_train import train as train_command
from hrtem_dask.core.errors import InputError
from hrtem_dask.networks.settings import Settings
from hrtem_dask.networks.workers import loss_of
from hrtem_dask.simulate.columns import column_image
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.set_store import begin, write_sample
from hrtem_dask.simulate.sets import Sample

BOX = 24.0
RECIPE = {
    "name": "dots", "field": {"box": BOX, "stored_sampling": 0.2}, "particles": {"diameter": [10, 12]},
    "imaging": {"pixel_size": [0.1, 0.25], "dose": [2000, 5000], "defocus": [0, 0], "cs": [0, 0],
                "corrected_fraction": 0, "focal_spread": [0, 0], "astigmatism": [0, 0], "aperture_fraction": 0,
                "absorption_fraction": 0, "blur": [0, 0], "drift": [0, 0], "hot_pixels": [0, 0],
                "illumination": [0, 0]},
}
TINY = {"network": "unet", "depth": 2, "width": 4, "size": 64, "batch": 2, "scores": False}


def dots(n: int, seed: int) -> pd.DataFrame:
    """So many columns, at least 3 angstrom apart."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(36)[:n]
    yx = np.stack(np.divmod(cells, 6), 1) * 4.0 + rng.uniform(0.5, 1.5, (n, 2))
    return pd.DataFrame({"column": np.arange(n, dtype=np.int32), "y": yx[:, 0], "x": yx[:, 1], "atoms": np.int32(3),
                         "species": np.int16(79), "class": pd.Categorical(["column"] * n, ["column"]),
                         "particle": np.int32(1), "z": 0.0, "spread": 0.0})


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Fields of absorbing dots, without a multislice."""
    path = tmp_path_factory.mktemp("dots") / "set.zarr"
    begin(load_recipe(RECIPE), path, 6, 1)
    for i in range(6):
        columns = dots(14 + i, i)
        hills = column_image(columns, (120, 120), 0.2, period=(BOX, BOX))[1]
        mask = column_image(columns, (96, 96), 0.25, period=(BOX, BOX))[1] > 0.1
        write_sample(path, i, Sample((1 - 0.4 * hills).astype(np.complex64), mask, np.zeros((24, 24), np.float32),
                                     {"particles": []}, columns=columns))
    return path


def test_a_network_learns_where_columns_are(store, tmp_path):
    model = train(store, out=tmp_path / "net", iterations=150, seed=2, classes=["column"], learning_rate=0.01, **TINY)
    assert list(model.classes) == ["background", "column"]
    assert model.card["pixel_size"] == 0.2
    assert "column" in model.card["task"]
    assert "--classes column" in model.card["training"]["commands"][1]
    assert "calibration" not in model.card
    assert (tmp_path / "net.metrics.csv").is_file()
    columns = dots(12, 77)
    hills = column_image(columns, (120, 120), 0.2, period=(BOX, BOX))[1]
    image = (1 - 0.4 * hills) ** 2
    image = ((image - image.mean()) / image.std()).astype(np.float32)
    with torch.no_grad():
        found = torch.softmax(model.module()(torch.from_numpy(image)[None, None])[0], 0)[1].numpy()
    at = tuple(np.round(columns[["y", "x"]].to_numpy() / 0.2).astype(int).T)
    assert found[at].min() > 0.5
    assert found[hills < 0.01].max() < 0.3
    assert same(load_model(tmp_path / "net.safetensors").weights, model.weights)


def test_workers_do_not_change_the_weights(store, tmp_path):
    options = {"iterations": 3, "seed": 5, "classes": ("column",), **TINY}
    threads = train(store, out=tmp_path / "threads", **options)
    processes = train(store, out=tmp_path / "processes", workers=2, **options)
    assert same(threads.weights, processes.weights)


def test_weights_to_begin_with_must_have_these_classes(store, tmp_path):
    first = train(store, out=tmp_path / "first", iterations=2, classes=["column"], network_pixel_size=0.25, **TINY)
    assert first.card["pixel_size"] == 0.25
    assert "--network-pixel-size 0.25" in first.card["training"]["commands"][1]
    start = tmp_path / "first.safetensors"
    again = train(store, out=tmp_path / "again", iterations=2, classes=["column"], start=start, **TINY)
    assert again.card["pixel_size"] == 0.25
    with pytest.raises(InputError, match=r"classes\s+\['background', 'particle'\]"):
        train(store, out=tmp_path / "other", iterations=2, start=start, **TINY)
    with pytest.raises(InputError, match=r"works at 0\.25 angstrom a pixel; found 0\.2"):
        train(store, out=tmp_path / "other", iterations=2, start=start, classes=["column"], network_pixel_size=0.2,
              **TINY)


@pytest.mark.parametrize("classes", [("columns",), ("particle", "column"), ("column", "column"), ()])
def test_unknown_classes_are_refused(classes):
    with pytest.raises(InputError, match="expected \\['particle'\\], or some of"):
        Settings(classes=classes)


def test_the_command_takes_classes(store, tmp_path):
    done = CliRunner().invoke(train_command, [
        str(store), "--out", str(tmp_path / "net"), "--iterations", "2", "--classes", "column", "--network", "unet",
        "--depth", "2", "--width", "2", "--size", "64", "--workers", "1", "--no-scores"])
    assert done.exit_code == 0, done.output
    assert "classes background, column" in done.output


def test_a_sure_network_has_the_loss_of_the_label_itself():
    truth = torch.from_numpy(column_image(dots(9, 1), (60, 60), 0.4))[None]
    logits = truth.clamp(1e-6, 1).log()
    entropy = -(truth * truth.clamp(1e-30).log()).sum(1).mean()
    assert loss_of(logits, truth, 1.0) == pytest.approx(float(entropy), abs=1e-4)
    assert loss_of(logits.roll(5, -1), truth, 1.0) > entropy + 0.1
