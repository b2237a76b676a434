"""Columns dark or bright: a network that knows dark ones is shown a frame and its negative."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from segment_scenes import CARD, compute, network, threshold_network

from hrtem_dask.analysis.segment import layout_of, segment
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.kernels.contrast import choice_reach, evaluate_either
from hrtem_dask.networks import Model
from hrtem_dask.networks.cards import complete_card
from hrtem_dask.networks.contrast import contrast_sign, turned_dark
from hrtem_dask.networks.unet import UNet

SHAPE = (260, 300)


def dark(model):
    """The same network, said to know dark columns."""
    return replace(model, card=model.card | {"contrast": "dark"})


def spot_network():
    """Finds what is darker than 1.05 standard deviations below the mean."""
    model = threshold_network()
    return replace(model, weights=replace(model.weights, layers=tuple(-a for a in model.weights.layers)))


def spots(sign: int, noise: float = 0.1) -> np.ndarray:
    """Spots on a square lattice 4 angstrom apart at 0.5 angstrom a pixel, in the middle of a frame."""
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]] * 0.5
    hills = np.exp(-(((y + 2) % 4 - 2) ** 2 + ((x + 2) % 4 - 2) ** 2) / 0.5)
    inside = np.hypot(y - 65, x - 75) < 40
    return 100 + 40 * sign * hills * inside + np.random.default_rng(0).normal(size=SHAPE) * noise


@pytest.mark.parametrize("sign", [-1, 1])
def test_spots_are_found_dark_or_bright(sign):
    movie = make_movie(spots(sign)[None], pixel_size=0.5)
    p = compute(segment(movie, dark(spot_network())))[0, 1].values
    hit = np.abs(spots(1, 0) - 100) > 30
    assert p[hit].min() > 0.5
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]] * 0.5
    gaps = (np.hypot(y % 4 - 2, x % 4 - 2) < 1) & (np.hypot(y - 65, x - 75) < 36)
    assert p[gaps].max() < 0.5
    alone = compute(segment(movie, spot_network()))[0, 1].values
    assert (alone[hit].min() > 0.5) == (sign == -1)


def test_either_sign_gives_the_same_and_tiles_do_too():
    torch.manual_seed(0)
    net = UNet(1, 2, width=2, levels=3)
    with torch.no_grad():
        net.weights[-1].normal_()
    weights = net.to_weights()
    model = Model("random", complete_card(CARD | {"contrast": "dark"}, weights, "0" * 64), weights)
    counts = np.random.default_rng(1).normal(100, 5, (1, 530, 612))
    movie, negative = (make_movie(c, pixel_size=0.5) for c in (counts, 200 - counts))
    whole = compute(segment(movie, model, tile=4096))
    np.testing.assert_allclose(compute(segment(negative, model, tile=4096)), whole, atol=1e-5)
    tiled = segment(movie, model, tile=160, halo="exact")
    assert tiled.data.npartitions > 1
    np.testing.assert_allclose(compute(tiled), whole, atol=1e-5)  # torch sums in another order in another size


def test_the_halo_holds_what_the_choice_looks_at():
    model = network(depth=5)
    movie = make_movie(np.zeros((1, 64, 64)), pixel_size=0.5)
    more = choice_reach(0.5)
    assert more == 120
    for halo in ("auto", "exact"):
        assert layout_of(movie, dark(model), halo=halo).y.halo == layout_of(movie, model, halo=halo).y.halo + more


def test_a_batch_is_chosen_image_by_image():
    def nets(image, _edges):
        return np.concatenate([0 * image, -2 - image], axis=-3)

    images = np.zeros((2, 1, 40, 50), np.float32)
    images[0, 0, 20, 25], images[1, 0, 20, 25] = -9, 9
    both = evaluate_either(nets, images, (True,) * 4, 0.5)
    assert both.shape == (2, 2, 40, 50)
    assert both[:, 1, 20, 25].tolist() == [7, 7]
    for one, image in zip(both, images, strict=True):
        np.testing.assert_array_equal(evaluate_either(nets, image, (True,) * 4, 0.5), one)


def test_examples_are_turned_dark_and_wrong_ones_hold_nothing():
    y, x = np.mgrid[:64, :64]
    hills = np.exp(-(((y + 8) % 16 - 8.0) ** 2 + ((x + 8) % 16 - 8.0) ** 2) / 8).astype(np.float32)
    label = np.stack([1 - hills, hills])
    noise = np.random.default_rng(0).normal(0, 0.5, hills.shape)
    for sign in (-1, 1):
        image, same = turned_dark(sign * hills + noise, label, 2.0)
        assert contrast_sign(image, hills, 2.0) == -1
        assert same is label
        wrong, nothing = turned_dark(sign * hills + noise, label, 2.0, wrong=True)
        np.testing.assert_array_equal(wrong, -image)
        assert nothing[0].min() == 1
        assert nothing[1].max() == 0
    empty, _ = turned_dark(noise, np.stack([1 + 0 * hills, 0 * hills]), 2.0)
    np.testing.assert_array_equal(empty, noise.astype(np.float32))
