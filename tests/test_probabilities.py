"""Calibration: temperatures of networks whose miscalibration is known, and what folding one in changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from hrtem_dask.core.errors import InputError
from hrtem_dask.networks.calibration import (
    Reliability,
    calibrated,
    fit_temperature,
    negative_log_likelihood,
    with_temperature,
)
from hrtem_dask.networks.msdnet import MSDNet
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.set_store import begin, write_sample
from hrtem_dask.simulate.sets import Dataset, Sample, open_dataset

RECIPE = {
    "name": "noise", "field": {"box": 48}, "particles": {"diameter": [10, 20]},
    "imaging": {"pixel_size": [0.5, 0.5], "dose": {"low": 20, "high": 2000}, "defocus": [0, 0],
                "mtf_scale": [0.5, 0.5]},
}


def honest(n: int = 100_000, seed: int = 0, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn with exactly the probabilities that they stand for."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (classes, n))
    p = np.exp(logits) / np.exp(logits).sum(0)
    return logits, (rng.random(n)[None] > np.cumsum(p, 0)).sum(0).clip(0, classes - 1)


@pytest.mark.parametrize("true", [0.3, 1.0, 1.7, 6.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_known_temperature_is_found(true, classes):
    logits, labels = honest(classes=classes)
    assert fit_temperature(logits * true, labels) == pytest.approx(true, rel=0.03)
    fitted = fit_temperature(logits * true, labels)
    at = negative_log_likelihood(logits * true, labels, fitted)
    assert at <= negative_log_likelihood(logits * true, labels, fitted * 1.05)
    assert at <= negative_log_likelihood(logits * true, labels, fitted / 1.05)


def test_logits_that_know_nothing_are_cooled_to_the_bound_and_perfect_ones_sharpened():
    rng = np.random.default_rng(0)
    noise, labels = 5 * rng.normal(size=(2, 20_000)), rng.integers(0, 2, 20_000)
    assert fit_temperature(noise, labels) > 15
    perfect = np.where(labels == np.arange(2)[:, None], 1.0, -1.0)
    assert fit_temperature(perfect, labels) < 0.06


@pytest.mark.parametrize("logits", [np.zeros((2, 0)), np.full((2, 3), np.nan), np.zeros(3), np.zeros((2, 4))])
def test_what_cannot_be_fitted_is_refused(logits):
    with pytest.raises(InputError, match="finite logits"):
        fit_temperature(logits, np.zeros(min(logits.shape[-1], 3), int))


def test_the_error_of_known_miscalibration():
    logits, labels = honest()
    margin = logits[1] - logits[0]
    good = Reliability.of(expit(margin), labels == 1)
    assert good.error < 0.005
    bold = Reliability.of(expit(3 * margin), labels == 1)
    assert bold.error > 0.1
    # everything is called 0.8, and a half of it is true
    flat = Reliability.of(np.full(10_000, 0.8), np.arange(10_000) % 2 == 0)
    assert flat.error == pytest.approx(0.3)
    assert flat.to_dict() == {"predicted": [0.8], "true": [0.5], "pixels": [10_000]}


def test_groups_add_up_and_give_an_interval():
    rng = np.random.default_rng(3)
    parts = []
    for k in range(12):
        p = rng.random(2000)
        parts.append(Reliability.of(p, rng.random(2000) < np.clip(p + 0.1 * (k % 2), 0, 1)))
    both = Reliability.together(parts)
    assert both.counts.sum() == 24_000
    low, high = both.interval()
    assert low < both.error < high
    assert Reliability.of(np.array([0.0, 1.0]), np.array([False, True])).error == 0


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_folding_in_divides_the_logits_and_keeps_the_mask(temperature):
    torch.manual_seed(1)
    net = MSDNet(1, 2, 5)
    torch.nn.init.normal_(net.final_weight)
    torch.nn.init.normal_(net.final_bias)
    folded = MSDNet.from_weights(with_temperature(net.to_weights(), temperature))
    x = torch.randn(1, 1, 40, 50)
    before, after = net(x), folded(x)
    torch.testing.assert_close(after, before / temperature, rtol=1e-5, atol=1e-6)
    assert torch.equal(before.argmax(1), after.argmax(1))
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="temperature"):
            with_temperature(net.to_weights(), bad)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    """Fields of an absorbing disc each."""
    path = tmp_path_factory.mktemp("set")
    begin(load_recipe(RECIPE), path, 6, 5)
    for i in range(6):
        t = np.arange(96) / 2
        inside = (t[:, None] - 20 - i) ** 2 + (t[None] - 25 + i) ** 2 < 100
        fine = np.repeat(np.repeat(inside, 2, 0), 2, 1)
        write_sample(Path(path), i, Sample((1 - 0.3 * inside).astype(np.complex64), fine,
                                           20 * inside[::2, ::2].astype(np.float32), {}, fine.astype(np.int32)))
    return open_dataset(path)


class Bold(MSDNet):
    """Says what a slightly smoothed image says, many times too loudly; its last layer is a real one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dark = -torch.nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
        return torch.cat([torch.zeros_like(dark), dark], 1) * self.final_weight[1, 0] + self.final_bias[None, :, None,
                                                                                                      None]


def test_a_network_that_is_too_sure_is_mended(data):
    net = Bold(1, 2, 1)
    with torch.no_grad():
        net.final_weight[1, 0], net.final_bias[1] = 40.0, -30.0
    mended, card = calibrated(net, replace(data, indices=data.indices[:3]), replace(data, indices=data.indices[3:]),
                              seed=1)
    assert card["temperature"] > 3
    assert card["folded"]
    assert (card["fields_fitted"], card["fields_checked"]) == (3, 3)
    assert card["after"]["nll"] < 0.5 * card["before"]["nll"]
    assert card["after"]["ece_undecided"] < card["before"]["ece_undecided"] or card["before"]["ece_undecided"] == 0
    assert mended.final_weight[1, 0].item() == pytest.approx(40 / card["temperature"], rel=1e-3)
    _, second = calibrated(mended, data, data, seed=1)
    assert second["temperature"] == pytest.approx(1, abs=0.25)
    assert (second["fields_fitted"], second["fields_checked"]) == (3, 3)
    assert sum(second["reliability"]["pixels"]) == 3 * 3 * 32**2
    assert set(second["after"]["ece_by_dose"]) <= {"0 to 50", "50 to 500", "500 to inf"}
