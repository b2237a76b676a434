"""Runs that are cut, resumed, judged, averaged, or made on a device; the optimiser; the U-Net by the same command."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_sets import RECIPE, SMALL, same, write_discs

from hrtem_dask import load_model, train
from hrtem_dask.core.errors import InputError
from hrtem_dask.networks.msdnet import MSDNet
from hrtem_dask.networks.optimiser import TurnedAdam
from hrtem_dask.networks.settings import Settings
from hrtem_dask.networks.sources import Simulated
from hrtem_dask.networks.steps import Run
from hrtem_dask.networks.training import split
from hrtem_dask.networks.unet import UNet
from hrtem_dask.networks.validation import Judgement, Metrics
from hrtem_dask.networks.workers import OnDevice, Worker, loss_of
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.sets import open_dataset

N = 14


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_discs(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def source(store):
    return Simulated(*split(open_dataset(store))[:2])


def settings_of(**changes):
    return Settings(**{"seed": 7, "warm_up": 3, "validations": 4} | SMALL | changes)


def table(path):
    with path.open() as file:
        return [{k: v for k, v in row.items() if k != "minutes"} for row in csv.DictReader(file)]


class Cut(Run):
    """A run whose process ends without a word after so many iterations, with the checkpoint of some earlier one."""

    save_at = stop_at = 0

    def step(self, *args):
        if self.iteration == self.save_at:
            self.save()
        if self.iteration == self.stop_at:
            raise KeyboardInterrupt
        super().step(*args)


@pytest.mark.parametrize(("network", "shape"), [("msdnet", {}), ("unet", {"depth": 2, "width": 2})])
def test_cut_anywhere_gives_the_same_as_uncut(source, tmp_path, network, shape):
    settings = settings_of(network=network, **shape)
    whole = Run(settings, source, tmp_path / "whole.state.npz")
    whole.learn(iterations=N)
    for save_at, stop_at in ((1, 2), (7, 7), (11, 13)):
        state = tmp_path / f"{save_at}.state.npz"
        cut = Cut(settings, source, state)
        cut.save_at, cut.stop_at = save_at, stop_at
        with pytest.raises(KeyboardInterrupt):
            cut.learn(iterations=N)
        resumed = Run(settings, source, state)
        assert resumed.iteration == save_at
        resumed.learn(iterations=N)
        assert same(whole.net.to_weights(), resumed.net.to_weights())
        assert same(whole.result().to_weights(), resumed.result().to_weights())
        assert whole.losses == resumed.losses
        assert table(resumed.beside(".metrics.csv")) == table(whole.beside(".metrics.csv"))
    assert not same(whole.net.to_weights(), whole.result().to_weights())


def test_a_time_cuts_a_run_of_so_many_iterations_and_the_same_call_goes_on(store, tmp_path):
    options = {"iterations": 6, "seed": 5, "scores": False, **SMALL}
    lines: list[str] = []
    model = train(store, out=tmp_path / "cut", minutes=1e-9, report=lines.append, **options)
    facts = model.card["training"]
    assert (facts["iterations"], facts["iterations_planned"], facts["finished"]) == (1, 6, False)
    assert "scores" not in model.card
    assert any("goes on" in line and "cut.state.npz" in line for line in lines)
    assert (tmp_path / "cut.state.npz").exists()
    with pytest.raises(InputError, match="run of 6 iterations"):
        train(store, out=tmp_path / "cut", **options | {"iterations": 9})
    shown = []
    model = train(store, out=tmp_path / "cut", progress=lambda *args: shown.append(args), **options)
    assert model.card["training"]["finished"]
    assert [done for done, _, _ in shown] == [1, 2, 3, 4, 5, 6]
    assert "loss" in shown[-1][2]
    assert "Dice" in shown[-1][2]
    assert not (tmp_path / "cut.state.npz").exists()
    assert same(model.weights, train(store, out=tmp_path / "whole", **options).weights)


def test_metrics_are_a_table_and_a_figure_and_tell_which_weights_were_kept(store, tmp_path):
    model = train(store, out=tmp_path / "net", iterations=12, seed=1, scores=False, **SMALL)
    rows = table(tmp_path / "net.metrics.csv")
    assert list(rows[0]) == ["iteration", "learning_rate", "loss", "validation_loss", *Simulated(
        *[open_dataset(store)] * 2).groups]
    assert rows[-1]["iteration"] == "12"
    best = min(rows, key=lambda row: float(row["validation_loss"]))
    assert model.card["training"]["kept_at"]["iteration"] == int(best["iteration"])
    assert (tmp_path / "net.metrics.png").read_bytes().startswith(b"\x89PNG")


def test_kept_are_the_averaged_weights_with_the_lowest_validation_loss(source, tmp_path):
    run = Run(settings_of(), source, tmp_path / "a.state.npz")
    run.learn(iterations=N)
    worker = Worker(run.settings, source)
    images = [worker.validation(k) for k in range(source.judged)]
    parameters = torch.nn.utils.parameters_to_vector(run.result().parameters()).detach().numpy()
    loss = np.mean([worker.judge(parameters, *image).loss for image in images])
    assert loss == pytest.approx(run.metrics.best["validation_loss"], abs=1e-5)
    assert loss == pytest.approx(min(r["validation_loss"] for r in run.metrics.rows), abs=1e-5)


def test_validation_images_are_of_other_fields_and_fixed(source, store):
    settings = settings_of()
    assert not set(source.data.indices) & set(source.other.indices)
    assert source.groups == ("dice_500", "dice_1000", "dice_2000")
    a, b = (source.validation(settings, 4) for _ in range(2))
    assert np.array_equal(a[0], b[0])
    assert a[0].mean() == pytest.approx(0, abs=1e-5)
    assert not np.array_equal(a[0], source.validation(settings, 7)[0])
    usual = replace(source.data, recipe=load_recipe(RECIPE | {"imaging": RECIPE["imaging"] | {"dose": [10, 5000]}}))
    assert Simulated(usual, usual).groups == ("dice_20", "dice_50", "dice_200")


def test_judgements_and_rows():
    truth = np.zeros((10, 10), bool)
    truth[:5] = True
    half = Judgement.of(0.5, truth & (np.arange(10) < 5), truth)
    assert half.dice == pytest.approx(2 / 3)
    metrics = Metrics(("a", "b"), 100)
    assert metrics.add([half, Judgement.of(0.1, truth, truth & False)], iteration=1)
    assert metrics.rows[0]["a"] == pytest.approx(0.6667)
    assert np.isnan(metrics.rows[0]["b"])  # nothing there to find
    assert not metrics.add([half, half], iteration=2)
    assert metrics.best["iteration"] == 1


def test_a_batch_on_a_device_has_the_gradient_of_its_examples(source, tmp_path):
    settings = settings_of(batch=3)
    worker, device = Worker(settings, source), OnDevice(settings, "cpu")
    torch.manual_seed(1)
    net = settings.build()
    torch.nn.init.normal_(net.final_weight, std=0.3)
    parameters = torch.nn.utils.parameters_to_vector(net.parameters()).detach().numpy()
    examples = [worker.draw(0, k) for k in range(3)]
    single = [worker.gradient(parameters, *example) for example in examples]
    loss, gradient = device.gradient(parameters, examples)
    assert loss == pytest.approx(np.mean([value for value, _ in single]), rel=1e-5)
    assert np.allclose(gradient, np.mean([g for _, g in single], axis=0), atol=1e-5 * np.abs(gradient).max())
    for a, b in zip(device.judge(parameters, examples), [worker.judge(parameters, *e) for e in examples], strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a[1:] == b[1:]
    runs = [Run(settings, source, tmp_path / f"{i}.state.npz", device=d) for i, d in enumerate(("cpu", "cpu", None))]
    for run in runs:
        run.learn(iterations=5)
    assert same(runs[0].result().to_weights(), runs[1].result().to_weights())
    assert runs[0].losses == pytest.approx(runs[2].losses, rel=2e-2)  # rounding turns the first eigenvectors


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named(store, tmp_path):
    with pytest.raises(InputError, match="no device 'cuda' here"):
        train(store, out=tmp_path / "net", iterations=1, device="cuda")


def test_the_unet_trains_by_the_same_call(store, tmp_path):
    model = train(store, out=tmp_path / "u", iterations=3, network="unet", depth=2, width=2, size=48, scores=False)
    assert model.card["architecture"] == {"kind": "unet", "levels": 2, "width": 2}
    assert isinstance(load_model(tmp_path / "u.safetensors").module(), UNet)
    assert model.card["effective_radius"] % 4 == 0
    assert "--network unet --depth 2 --width 2" in model.card["training"]["commands"][1]
    again = train(store, out=tmp_path / "v", iterations=1, network="unet", size=48, scores=False,
                  start=tmp_path / "u.safetensors")
    assert again.card["architecture"] == model.card["architecture"]
    with pytest.raises(InputError, match="'network': 'msdnet'"):
        train(store, out=tmp_path / "w", iterations=1, start=tmp_path / "u.safetensors")
    with pytest.raises(InputError, match="expected one of"):
        train(store, out=tmp_path / "w", iterations=1, network="resnet")


def test_the_optimiser_does_not_mind_a_change_of_basis():
    """Descent on a narrow, turned valley: as fast as on the same valley along the axes, which Adam is not."""
    rng = np.random.default_rng(0)
    turn = torch.tensor(np.linalg.qr(rng.normal(size=(6, 6)))[0], dtype=torch.float32)
    scale = torch.logspace(0, -2, 6)

    def left(basis, make):
        weight = torch.nn.Parameter(basis @ torch.ones(6) / scale.sqrt()[None].mean())
        layer = torch.nn.Parameter(weight.detach()[None].clone()), torch.nn.Parameter(torch.zeros(1))
        step = make(layer)
        value = float("nan")
        for i in range(300):
            loss = (scale * (layer[0][0] @ basis).square()).sum() + layer[1].square().sum()
            for p in layer:
                p.grad = None
            loss.backward()
            step(0.1 * (1 - i / 300))
            value = loss.item()
        return value

    def turned(layer):
        return TurnedAdam([layer]).step

    assert left(turn, turned) < 1e-3
    assert left(torch.eye(6), turned) < 1e-3


def test_the_optimiser_goes_on_to_the_bit_and_takes_wide_layers():
    torch.manual_seed(0)
    pairs = [(torch.nn.Parameter(torch.randn(3, 700, 1, 2)), torch.nn.Parameter(torch.zeros(3))),
             (torch.nn.Parameter(torch.randn(2, 5)), torch.nn.Parameter(torch.zeros(2)))]

    def gradients(i):
        for k, p in enumerate(p for pair in pairs for p in pair):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * i + k))

    optimiser = TurnedAdam(pairs, every=3)
    for i in range(8):
        if i == 4:
            kept = {k: v.copy() for k, v in optimiser.arrays().items()}
            begun = [p.detach().clone() for q in pairs for p in q]
        gradients(i)
        optimiser.step(0.01)
    assert kept["basis0"].shape == (3, 3)  # of the rows: 1401 columns are too many
    assert kept["basis1"].shape == (6, 6)
    found = [p.detach().clone() for q in pairs for p in q]
    assert all(torch.isfinite(p).all() for p in found)
    for p, value in zip([p for q in pairs for p in q], begun, strict=True):
        p.data.copy_(value)
    again = TurnedAdam(pairs, every=3)
    again.load(kept)
    for i in range(4, 8):
        gradients(i)
        again.step(0.01)
    assert all(torch.equal(p, value) for p, value in zip([p for q in pairs for p in q], found, strict=True))


def test_the_loss_of_a_batch_is_the_mean_of_its_images():
    torch.manual_seed(0)
    logits, truth = torch.randn(3, 2, 9, 7), torch.randint(0, 2, (3, 9, 7))
    truth[2] = 0
    single = [loss_of(logits[i:i + 1], truth[i:i + 1], 1.0) for i in range(3)]
    assert loss_of(logits, truth, 1.0) == pytest.approx(float(torch.stack(single).mean()), rel=1e-6)


def test_pairs_are_all_parameters():
    for net in (MSDNet(1, 2, 5), UNet(1, 2, width=2, levels=2)):
        assert {id(p) for pair in net.pairs() for p in pair} == {id(p) for p in net.parameters()}
