"""The compiled evaluation against the plain float64 reference."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_dask.core.errors import InputError
from hrtem_dask.kernels.msdnet import compiled, reference
from hrtem_dask.kernels.msdnet.weights import PADDINGS
from hrtem_dask.networks import MSDNet, evaluate
from hrtem_dask.networks import evaluation as module

there = pytest.mark.skipif(not compiled.instruction_sets(), reason=compiled.why_not() or "built")


def draw(c_in=1, c_out=2, depth=6, width=1, padding="zeros", seed=0, dilations=range(1, 11)):
    torch.manual_seed(seed)
    net = MSDNet(c_in, c_out, depth, width=width, padding=padding, dilations=tuple(dilations))
    with torch.no_grad():
        net.final_weight.normal_(std=(c_in + depth * width) ** -0.5)
        net.final_bias.normal_(std=0.1)
        for b in net.biases:
            b.normal_(std=0.02)
    return net.to_weights()


def error(weights, size, threads=1, instruction_set="", seed=1):
    image = np.random.default_rng(seed).normal(size=(weights.in_channels, *size)).astype(np.float32)
    expected = reference.evaluate(weights, image)
    found = compiled.evaluate(weights, image, threads=threads, instruction_set=instruction_set)
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_it_is_built_where_a_compiler_is():
    if shutil.which("g++") is None:
        pytest.skip("no g++ on this machine")
    assert compiled._msdnet is not None, compiled.why_not()


@there
@pytest.mark.parametrize("instruction_set", compiled.instruction_sets())
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("case", [
    {"depth": 50, "size": (100, 333)}, {"depth": 35, "size": (70, 517)},
    {"depth": 30, "c_in": 3, "c_out": 5, "size": (130, 50)},
    {"depth": 12, "width": 3, "size": (101, 67)}, {"depth": 23, "width": 7, "size": (64, 65)},
    {"depth": 1, "size": (40, 300)},
    {"depth": 4, "width": 30, "size": (40, 41)}, {"depth": 9, "dilations": (1, 2, 4, 8, 16, 20), "size": (80, 90)},
], ids=str)
def test_agrees_with_the_reference(case, padding, instruction_set):
    size = case["size"]
    weights = draw(padding=padding, **{k: v for k, v in case.items() if k != "size"})
    assert error(weights, size, instruction_set=instruction_set) <= 2e-6


@there
@settings(max_examples=15, deadline=None)
@given(height=st.integers(32, 200), width=st.integers(32, 400), depth=st.integers(1, 45), planes=st.integers(1, 3),
       channels=st.integers(1, 3), padding=st.sampled_from(PADDINGS), threads=st.integers(1, 4))
def test_agrees_for_any_shape(height, width, depth, planes, channels, padding, threads):
    weights = draw(c_in=channels, depth=depth, width=planes, padding=padding)
    assert error(weights, (height, width), threads=threads) <= 2e-6


@there
def test_the_number_of_threads_changes_nothing():
    weights = draw(depth=45, padding="reflect")
    image = np.random.default_rng(3).normal(size=(1, 300, 700)).astype(np.float32)
    first = compiled.evaluate(weights, image, threads=1)
    for threads in (2, 3, 8):
        assert np.array_equal(first, compiled.evaluate(weights, image, threads=threads))


@there
def test_auto_takes_it_and_leaves_tiny_images_to_torch():
    weights = draw(depth=12)
    assert module._backend("auto", "cpu").name == "compiled"
    for size in ((1, 1), (5, 40), (31, 31), (32, 32)):
        image = np.random.default_rng(0).normal(size=(1, *size))
        expected = reference.evaluate(weights, image.astype(np.float32))
        assert np.abs(evaluate(weights, image) - expected).max() <= 2e-6 * max(1, np.abs(expected).max())


@there
def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="cannot run sse9"):
        compiled.evaluate(draw(), np.zeros((1, 40, 40), np.float32), instruction_set="sse9")


@there
@pytest.mark.parametrize("shape", [(2, 40, 40), (40, 40), (1, 40, 20)])
def test_images_that_do_not_fit_never_reach_the_extension(shape):
    with pytest.raises(InputError, match="the shape"):
        compiled.evaluate(draw(), np.zeros(shape, np.float32))


def test_its_absence_falls_back_with_one_clear_line(monkeypatch, caplog):
    monkeypatch.setattr(compiled, "instruction_sets", lambda: ())
    module._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert evaluate(draw(), np.ones((1, 40, 40))).shape == (2, 40, 40)
    assert len(caplog.records) == 1
    assert "pip install" in caplog.text
