"""Training: the same weights for any number of workers, resumable, on the card what happened."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from training_sets import RECIPE, SMALL, same, write_discs

from hrtem_dask import load_model, train
from hrtem_dask.cli_train import simulate as simulate_command
from hrtem_dask.cli_train import train as train_command
from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.networks.msdnet import MSDNet
from hrtem_dask.networks.reach import effective_radius, gradient_radii
from hrtem_dask.networks.scoring import dice, normalised, probability, scores_by_dose
from hrtem_dask.networks.sources import Simulated
from hrtem_dask.networks.steps import Run, Settings, loss_of
from hrtem_dask.networks.training import split
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.sets import Dataset, open_dataset


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Fields with one strongly absorbing disc each, without a multislice."""
    return write_discs(tmp_path_factory.mktemp("set"))


def test_it_learns_and_writes_a_card_that_loads(store, tmp_path):
    lines: list[str] = []
    model = train(store, out=tmp_path / "net", iterations=60, seed=3, report=lines.append, **SMALL)
    assert model.name == "net"
    loaded = load_model(tmp_path / "net.safetensors")
    assert same(loaded.weights, model.weights)
    card = json.loads((tmp_path / "net.json").read_text())
    assert card["classes"] == ["background", "particle"]
    assert card["normalisation"] == {"kind": "frame"}
    assert card["pixel_size"] == 0.5
    assert card["dose_range"] == [500, 2000]
    assert card["receptive_field"] == 2 * (1 + 2 + 3 + 4) + 1
    assert 0 < card["effective_radius"] <= 10
    assert card["training"]["iterations"] == 60
    assert card["training"]["fields"] + card["training"]["fields_held_out"] == 7
    assert card["training"]["recipe_sha256"] == load_recipe(RECIPE).digest
    assert not (tmp_path / "net.state.npz").exists()
    scores = card["scores"]["held_out_simulated"]["500"]
    assert scores["mean"] > 0.8
    assert scores["wrong_label"] is None or scores["wrong_label"] < scores["mean"]
    assert any("held out" in line for line in lines)


def test_workers_do_not_change_the_weights(store, tmp_path):
    options = {"iterations": 4, "seed": 5, "scores": False, **SMALL}
    threads = train(store, out=tmp_path / "threads", **options)
    processes = train(store, out=tmp_path / "processes", workers=2, **options)
    assert same(threads.weights, processes.weights)
    other = train(store, out=tmp_path / "other", **(options | {"seed": 6}))
    assert not same(threads.weights, other.weights)


def test_a_time_comes_to_the_same_as_the_number_of_iterations_on_the_card(store, tmp_path):
    shown = []
    timed = train(store, out=tmp_path / "timed", minutes=0.05, seed=2, scores=False,
                  progress=lambda *a: shown.append(a), **SMALL)
    assert shown[0][0] == 0  # what was done before this run: nothing
    assert shown[1][0] == Settings().warm_up
    assert shown[-1][0] == shown[-1][1]
    n = timed.card["training"]["iterations"]
    assert n > Settings().warm_up
    assert f"--iterations {n} " in timed.card["training"]["commands"][1]
    assert same(timed.weights, train(store, out=tmp_path / "counted", iterations=n, seed=2, scores=False,
                                     **SMALL).weights)


def test_a_stopped_run_continues_as_if_it_had_not_stopped(store, tmp_path):
    settings, data = Settings(seed=7, **SMALL), Simulated(*split(open_dataset(store))[:2])
    whole = Run(settings, data, tmp_path / "whole.npz")
    whole.learn(None, 6)

    class Stop(Exception):
        pass

    class Interrupted(Run):
        def step(self, *args):
            if self.iteration == 3:
                self.save()
                raise Stop
            super().step(*args)

    with pytest.raises(Stop):
        Interrupted(settings, data, tmp_path / "state.npz").learn(None, 6)
    resumed = Run(settings, data, tmp_path / "state.npz")
    assert resumed.iteration == 3
    resumed.learn(None, 6)
    assert same(whole.net.to_weights(), resumed.net.to_weights())
    assert whole.losses == pytest.approx(resumed.losses)
    with pytest.raises(InputError, match="other settings"):
        Run(Settings(seed=8, **SMALL), data, tmp_path / "state.npz")
    (tmp_path / "state.npz").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        Run(settings, data, tmp_path / "state.npz")


def test_held_out_fields_are_never_drawn(store):
    parts = split(open_dataset(store))
    assert [len(p) for p in parts] == [6, 1, 1]
    assert sorted(i for p in parts for i in p.indices) == list(range(8))
    learn = parts[0]
    two = split(replace(open_dataset(store), indices=(0, 1)))
    assert [p.indices for p in two] == [(0,), (1,), (1,)]
    one = Dataset(store, learn.recipe, 1, (0,))
    with pytest.raises(InputError, match="at least 2"):
        split(one)


def test_train_refuses_what_it_cannot_use(store, tmp_path):
    with pytest.raises(InputError, match="more than zero"):
        train(store, out=tmp_path / "a", minutes=0)
    series = replace(open_dataset(store), recipe=load_recipe(RECIPE | {"imaging": {"series": 3}}))
    with pytest.raises(InputError, match="focal series of 3"):
        train(series, out=tmp_path / "a")
    with pytest.raises(MissingInputError, match="not a simulated set"):
        train(tmp_path, out=tmp_path / "a")
    with pytest.raises(MissingInputError, match="no recipe"):
        train("no-such-thing", out=tmp_path / "a")


def test_loss_is_small_only_where_the_mask_is_right():
    truth = torch.zeros(1, 20, 20, dtype=torch.long)
    truth[:, 5:15, 5:15] = 1
    logits = torch.stack([-8.0 * (truth * 2 - 1), 8.0 * (truth * 2 - 1)], 1)
    assert loss_of(logits, truth, 1.0) < 1e-3
    assert loss_of(-logits, truth, 1.0) > 5
    empty = torch.zeros_like(truth)
    assert loss_of(logits, empty, 1.0) > 1 > loss_of(torch.zeros_like(logits), empty, 0.0)


def test_scores_tell_a_perfect_network_from_a_useless_one(store):
    data = open_dataset(store)

    class Threshold(MSDNet):
        """Calls dark pixels particle."""

        def forward(self, x):
            dark = -4 * torch.nn.functional.avg_pool2d(x, 5, 1, 2) - 2
            return torch.cat([-dark, dark], 1)

    scores = scores_by_dose(Threshold(1, 2, 1), data, seed=1, doses=(2000,))["2000"]
    assert scores["mean"] > 0.9
    assert scores["wrong_label"] < 0.8 * scores["mean"]
    blind = MSDNet(1, 2, 1)
    with torch.no_grad():
        blind.final_bias[0] = 0.1  # exactly one half everywhere would be decided by rounding
    assert scores_by_dose(blind, data, seed=1, doses=(2000,))["2000"]["mean"] == 0


def test_effective_radius_is_what_the_network_uses(rng):
    images = [rng.normal(size=(120, 120)).astype(np.float32) for _ in range(2)]
    torch.manual_seed(0)
    net = MSDNet(1, 2, 9)
    assert effective_radius(net, images) == 8  # zeros as last layer: nothing reaches anything
    with torch.no_grad():
        net.final_weight.normal_(0, 1)
        for w in net.weights:
            w.normal_(0, 0.5)
    assert 8 < effective_radius(net, images) <= net.to_weights().receptive_radius


def test_the_gradient_reaches_as_far_as_the_network_and_no_farther(rng):
    images = [rng.normal(size=(90, 100)).astype(np.float32) for _ in range(3)]
    net = MSDNet(1, 2, 2, dilations=(1, 7))
    with torch.no_grad():
        for p in (*net.weights, *net.biases):
            p.fill_(0.0)
        net.weights[0][0, 0, 1, 1] = net.weights[1][0, 0, 0, 0] = 1.0  # a tap 7 pixels away in both directions
        net.biases[0][:] = net.biases[1][:] = 100.0
        net.final_weight[1, 2] = 1.0
    assert gradient_radii(net, images) == {"50": 7, "90": 7, "99": 7}
    with torch.no_grad():
        net.final_weight[1, 0] = 3.0  # the pixel itself has three quarters of the gradient now
    assert gradient_radii(net, images) == {"50": 0, "90": 7, "99": 7}
    assert gradient_radii(MSDNet(1, 2, 3), images) == {"50": 0, "90": 0, "99": 0}


def test_small_helpers():
    image = np.arange(12.0).reshape(3, 4) * 7 + 1000
    assert normalised(image) == pytest.approx(normalised(image * 3 - 5), abs=1e-6)
    assert normalised(np.full((4, 4), 3.0)).tolist() == np.zeros((4, 4)).tolist()
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 1
    assert dice(np.ones(3, bool), np.zeros(3, bool)) == 0
    p = probability(MSDNet(1, 2, 2), np.zeros((6, 7), np.float32))
    assert p.shape == (6, 7)
    assert np.allclose(p, 0.5)


def test_commands_make_a_set_and_train_with_it(tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("name: tiny\nfield: {box: 40, wave_sampling: 0.35, slice_thickness: 4}\n"
                      "particles: {number: [1, 2], diameter: [10, 14]}\nfilm: {thickness: [8, 10]}\n")
    run = CliRunner()
    made = run.invoke(simulate_command, [str(recipe), "--out", str(tmp_path / "set"), "-n", "2", "--seed", "1",
                                         "--workers", "1"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    assert "2 of 2 structures" in made.output
    assert "a minute and core" in made.output
    done = run.invoke(train_command, [str(tmp_path / "set"), "--out", str(tmp_path / "net.safetensors"), "--iterations",
                                      "2", "--depth", "2", "--size", "40", "--workers", "1", "--no-scores"],
                      catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Model('net'" in done.output
    assert load_model(tmp_path / "net.safetensors").card["training"]["set_seed"] == 1


def test_a_start_from_other_weights_is_on_the_card(store, tmp_path):
    first = train(store, out=tmp_path / "first", iterations=2, outline="atoms", scores=False, **SMALL)
    second = train(store, out=tmp_path / "second", iterations=1, learning_rate=1e-9, scores=False,
                   start=tmp_path / "first.safetensors", **SMALL)
    assert second.card["training"]["start_sha256"] == first.card["sha256"]
    assert second.card["training"]["start"]["settings"]["outline"] == "atoms"
    assert np.allclose(second.weights.layers[3], first.weights.layers[3], atol=1e-6)
    with pytest.raises(InputError, match="'depth': 5"):
        train(store, out=tmp_path / "third", iterations=1, start=tmp_path / "first.safetensors", depth=5)


def test_an_unknown_outline_is_refused(store, tmp_path):
    with pytest.raises(InputError, match="half-thickness"):
        train(store, out=tmp_path / "net", iterations=1, outline="by eye", **SMALL)


def test_the_outline_lies_inside_the_atoms_and_follows_the_thickness(store):
    atoms, half = open_dataset(store), replace(open_dataset(store), outline="half-thickness")
    for i in range(len(atoms)):
        assert not (half[i].truth & ~atoms[i].truth).any()
        assert half[i].truth.mean() > 0.85 * atoms[i].truth.mean()  # a disc of one thickness loses a pixel of its rim
