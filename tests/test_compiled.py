"""The compiled evaluation against the plain float64 reference."""

from __future__ import annotations

import concurrent.futures
import itertools
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
    {"depth": 22, "size": (1, 1)}, {"depth": 22, "size": (1, 300)}, {"depth": 12, "size": (300, 2)},
    {"depth": 31, "c_in": 2, "size": (9, 11)}, {"depth": 31, "size": (17, 31)},
    {"depth": 4, "width": 30, "size": (40, 41)}, {"depth": 9, "dilations": (1, 2, 4, 8, 16, 20), "size": (80, 90)},
], ids=str)
def test_agrees_with_the_reference(case, padding, instruction_set):
    size = case["size"]
    weights = draw(padding=padding, **{k: v for k, v in case.items() if k != "size"})
    assert error(weights, size, instruction_set=instruction_set) <= 2e-6


@there
@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 400), depth=st.integers(1, 45), planes=st.integers(1, 3),
       channels=st.integers(1, 3), padding=st.sampled_from(PADDINGS), threads=st.integers(1, 4))
def test_agrees_for_any_shape(height, width, depth, planes, channels, padding, threads):
    weights = draw(c_in=channels, depth=depth, width=planes, padding=padding)
    assert error(weights, (height, width), threads=threads) <= 2e-6


@there
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(60, 90), (7, 5)])
def test_sides_inside_the_frame_are_mirrored_by_every_backend(padding, size):
    weights = draw(depth=13, padding=padding)
    image = np.random.default_rng(2).normal(size=(1, *size)).astype(np.float32)
    seen = []
    for edges in itertools.product((True, False), repeat=4):
        expected = reference.evaluate(weights, image, edges)
        for name in ("compiled", "torch"):
            found = evaluate(weights, image, backend=name, edges=edges)
            assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max(), (name, edges)
        seen.append(expected)
    assert len(np.unique(seen, axis=0)) == (1 if padding == "reflect" else 16)


@there
def test_the_number_of_threads_changes_nothing():
    weights = draw(depth=45, padding="reflect")
    image = np.random.default_rng(3).normal(size=(1, 300, 700)).astype(np.float32)
    first = compiled.evaluate(weights, image, threads=1)
    for threads in (2, 3, 8):
        assert np.array_equal(first, compiled.evaluate(weights, image, threads=threads))


@there
def test_auto_takes_it():
    assert module._backend("auto", "cpu").name == "compiled"


@there
@pytest.mark.parametrize("padding", PADDINGS)
def test_what_the_last_image_left_behind_does_not_show(padding):
    # a thread keeps its planes for the next image of the same kind, with all that is in them
    weights = draw(depth=23, padding=padding)
    rng = np.random.default_rng(5)
    images = [rng.normal(size=(1, *size)).astype(np.float32) for size in ((50, 70), (50, 70), (49, 70), (50, 70))]
    with concurrent.futures.ThreadPoolExecutor(1) as fresh:
        expected = [fresh.submit(compiled.evaluate, weights, image).result() for image in images[:1]]
    for image in images:
        compiled.evaluate(weights, 1e30 * image)
        compiled.evaluate(weights, image)
    assert np.array_equal(compiled.evaluate(weights, images[0]), expected[0])


@there
def test_threads_of_python_do_not_share_planes():
    weights = draw(depth=23)
    images = [np.random.default_rng(i).normal(size=(1, 80, 90)).astype(np.float32) for i in range(12)]
    expected = [compiled.evaluate(weights, image) for image in images]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda image: compiled.evaluate(weights, image, threads=2), images * 5))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected * 5, strict=True))


@there
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_tile_with_the_whole_receptive_field_has_the_same_bits(padding):
    weights = draw(depth=13, padding=padding)
    image = np.random.default_rng(6).normal(size=(1, 150, 230)).astype(np.float32)
    whole, r = compiled.evaluate(weights, image), weights.receptive_radius
    for y0, y1, x0, x1 in ((0, 40, 0, 33), (70, 71, 100, 101), (10, 150, 130, 230), (63, 97, 17, 200)):
        a, b, c, d = max(0, y0 - r), min(150, y1 + r), max(0, x0 - r), min(230, x1 + r)
        part = compiled.evaluate(weights, image[:, a:b, c:d])[:, y0 - a:y1 - a, x0 - c:x1 - c]
        assert np.array_equal(part, whole[:, y0:y1, x0:x1])


@there
@pytest.mark.parametrize("size", [(300, 400), (1, 3000), (3000, 1)])
def test_the_memory_that_is_counted_is_what_is_taken_and_kept(size):
    weights = draw(depth=23)
    with concurrent.futures.ThreadPoolExecutor(1) as fresh:
        assert fresh.submit(compiled.kept_bytes).result() == 0
        fresh.submit(compiled.evaluate, weights, np.ones((1, *size), np.float32)).result()
        kept = fresh.submit(compiled.kept_bytes).result()
    counted = compiled.planes_bytes(weights, size)
    # huge pages round up by 4 MiB at most; strides round up by less than a tenth
    assert 0.9 * counted <= kept <= counted + 2**22


@there
def test_the_peak_is_a_rate_of_this_machine():
    assert compiled.fma_peak(1) > 1  # GFLOP/s; any processor with AVX2 does more than ten


@there
def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="cannot run sse9"):
        compiled.evaluate(draw(), np.zeros((1, 40, 40), np.float32), instruction_set="sse9")


@there
@pytest.mark.parametrize("shape", [(2, 40, 40), (40, 40), (1, 40, 0)])
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
