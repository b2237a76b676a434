"""The U-Net baseline: a reference of its own, files, tiles, training by the same command."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hrtem_dask import load_model, segment
from hrtem_dask.analysis.segment import layout_of
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import InputError
from hrtem_dask.kernels.parts import evaluate_in_parts
from hrtem_dask.kernels.unet import UNetWeights, mirrored
from hrtem_dask.networks import Model, evaluate, save_model
from hrtem_dask.networks.cards import complete_card
from hrtem_dask.networks.unet import UNet

CARD = {"classes": ["background", "particle"], "pixel_size": 0.5, "dose_range": [10, 100]}


def fresh(seed: int, **shape: int) -> UNet:
    torch.manual_seed(seed)
    net = UNet(1, 2, **shape)
    with torch.no_grad():
        for b in net.biases:
            b.normal_(0, 0.1)
        net.weights[-1].normal_(0, 0.5)
    return net


def by_hand(weights: UNetWeights, image: np.ndarray) -> np.ndarray:
    """The same network by scipy, in float64, for sides that are multiples of the coarsest pixel."""
    steps = iter(zip(weights.layers, weights.biases, strict=True))

    def convolved(x, w, b):
        return np.stack([b[o] + sum(ndimage.correlate(x[i], w[o, i].astype(float), mode="constant")
                                    for i in range(len(x))) for o in range(len(w))])

    def two(x):
        for _ in range(2):
            x = np.maximum(convolved(x, *next(steps)), 0)
        return x

    x, kept = image.astype(float), []
    for _ in range(weights.levels):
        x = two(x)
        kept.append(x)
        x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4))
    x = two(x)
    while kept:
        x = two(np.concatenate([kept.pop(), x.repeat(2, 1).repeat(2, 2)]))
    return convolved(x, *next(steps))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 99), width=st.integers(1, 4), levels=st.integers(1, 3), rows=st.integers(1, 3),
       columns=st.integers(1, 3))
def test_equals_the_network_by_hand(seed, width, levels, rows, columns):
    net = fresh(seed, width=width, levels=levels)
    image = np.random.default_rng(seed).normal(size=(1, rows * 2**levels, columns * 2**levels)).astype(np.float32)
    assert np.allclose(evaluate(net, image), by_hand(net.to_weights(), image), atol=1e-4)
    assert torch.equal(UNet.from_weights(net.to_weights()).weights[0], net.weights[0])


def test_reaches_no_farther_than_the_receptive_radius():
    net = fresh(3, width=3, levels=3)
    r = net.to_weights().receptive_radius
    assert r % 8 == 0
    image = np.random.default_rng(0).normal(size=(1, 2 * r + 41, 2 * r + 57)).astype(np.float32)
    for y, x in ((r + 20, r + 28), (r + 13, r + 9)):
        far = image + 5
        far[:, y - r:y + r + 1, x - r:x + r + 1] = image[:, y - r:y + r + 1, x - r:x + r + 1]
        assert np.allclose(evaluate(net, far)[:, y, x], evaluate(net, image)[:, y, x], atol=1e-5)
    near = image.copy()
    near[:, r + 20, r + 20] += 50
    assert np.abs(evaluate(net, near) - evaluate(net, image))[:, r + 20 - r // 2, r + 20].max() > 0


def test_sides_that_are_no_multiple_are_mirrored():
    assert mirrored(6, 4) == [0, 1, 2, 3, 4, 5, 4, 3]
    net = fresh(1, width=2, levels=2)
    image = np.random.default_rng(1).normal(size=(1, 9, 13)).astype(np.float32)
    padded = np.pad(image, ((0, 0), (0, 3), (0, 3)), mode="reflect")
    assert np.allclose(evaluate(net, image), evaluate(net, padded)[:, :9, :13], atol=1e-6)
    assert evaluate(net, image[:, :1, :1]).shape == (2, 1, 1)


def test_a_file_loads_and_segments_the_same_in_tiles(tmp_path, rng):
    net = fresh(2, width=3, levels=3)
    save_model(net, CARD, tmp_path / "u")
    model = load_model(tmp_path / "u.safetensors")
    assert model.card["architecture"] == {"kind": "unet", "levels": 3, "width": 3}
    assert "U-Net of 3 halvings" in repr(model)
    assert all(torch.equal(p, q) for p, q in zip(model.module().parameters(), net.parameters(), strict=True))
    movie = make_movie(rng.poisson(9, (2, 150, 260)), pixel_size=0.5)
    whole = segment(movie, model).compute()
    tiles = segment(movie.chunk({"y": 70, "x": 33}), model, halo="exact", tile=128).compute()
    assert float(whole.sel({"class": "particle"}).std()) > 0.02
    assert np.allclose(whole, tiles, atol=1e-5)


@pytest.mark.parametrize(("pixel_size", "tile"), [(0.5, 100), (0.41, 90), (0.8, 75)])
def test_tiles_halve_the_frame_in_the_same_places_wherever_they_begin(rng, pixel_size, tile):
    weights = fresh(2, width=3, levels=3).to_weights()
    model = Model("u", complete_card(CARD, weights, "0" * 64), weights)
    movie = make_movie(rng.poisson(9, (1, 250, 410)), pixel_size=pixel_size)
    layout = layout_of(movie, model, halo="exact", tile=tile)
    assert any(span.need[0] % 8 for span in layout.y.spans[1:])
    assert not any(span.window[0] % 8 for axis in (layout.y, layout.x) for span in axis.spans)
    whole = segment(movie, model).compute()
    assert np.allclose(whole, segment(movie, model, halo="exact", tile=tile).compute(), atol=1e-5)


def test_an_image_halved_for_lack_of_memory_gives_the_same():
    weights = fresh(4, width=2, levels=3).to_weights()
    image = np.random.default_rng(1).normal(size=(1, 333, 270)).astype(np.float32)
    sizes = []

    def little(part, edges):
        sizes.append(part.shape[1:])
        if part.size > 0.6 * image.size:
            raise MemoryError
        return evaluate(weights, part)

    parts = evaluate_in_parts(little, image, (True,) * 4, weights.receptive_radius, grid=weights.grid)
    assert len(sizes) > 2
    assert np.allclose(parts, evaluate(weights, image), atol=1e-5)


def test_what_is_no_unet_is_refused(tmp_path):
    weights = fresh(0, width=2, levels=1).to_weights()
    with pytest.raises(InputError, match="expected 4 a halving"):
        UNetWeights(weights.layers[:-1], weights.biases[:-1])
    with pytest.raises(InputError, match="and a bias for each plane"):
        UNetWeights((weights.layers[0].repeat(2, 0), *weights.layers[1:]), weights.biases)
    with pytest.raises(InputError, match="at least 1"):
        UNet(1, 2, width=0)
    with pytest.raises(InputError, match="'torch' or 'auto'"):
        evaluate(weights, np.zeros((1, 8, 8)), backend="reference")
    save_model(weights, CARD, tmp_path / "u")
    card = (tmp_path / "u.json").read_text().replace('"levels": 1', '"levels": 2')
    (tmp_path / "u.json").write_text(card)
    with pytest.raises(InputError, match="levels"):
        load_model(tmp_path / "u.safetensors")
