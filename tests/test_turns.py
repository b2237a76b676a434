"""Averages over turned images: the same in tiles, and as far from a preferred direction as they can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hrtem_dask import segment
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import InputError
from hrtem_dask.kernels.turns import evaluate_turned
from hrtem_dask.networks import Model, MSDNet, evaluate
from hrtem_dask.networks.cards import complete_card
from hrtem_dask.networks.unet import UNet

CARD = {"classes": ["background", "particle"], "pixel_size": 0.5, "dose_range": [10, 100]}
ALL = (True, True, True, True)


def fresh(kind: str) -> Model:
    torch.manual_seed(1)
    net = MSDNet(1, 2, 6, padding="reflect") if kind == "msdnet" else UNet(1, 2, width=2, levels=2)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.3)
    weights = net.to_weights()
    return Model(kind, complete_card(CARD, weights, "0" * 64), weights)


@pytest.mark.parametrize("kind", ["msdnet", "unet"])
@pytest.mark.parametrize("turns", [4, 8])
def test_an_average_by_hand(kind, turns):
    net = fresh(kind).module()
    image = np.random.default_rng(0).normal(size=(1, 24, 40)).astype(np.float32)
    wanted = []
    for mirrored in (image, image[:, ::-1])[:turns // 4]:
        for k in range(4):
            back = np.rot90(evaluate(net, np.rot90(mirrored, k, (1, 2))), -k, (1, 2))
            wanted.append(back if mirrored is image else back[:, ::-1])
    found = evaluate_turned(lambda part, edges: evaluate(net, part, edges=edges), image, ALL, turns, 4)
    assert np.allclose(found, np.mean(wanted, 0), atol=1e-5)
    assert not np.allclose(found, evaluate(net, image), atol=1e-3)


@pytest.mark.parametrize("turns", [4, 8])
def test_the_average_turns_with_the_image(turns):
    net = fresh("msdnet").module()
    image = np.random.default_rng(0).normal(size=(1, 31, 22)).astype(np.float32)

    def average(image):
        return evaluate_turned(lambda part, edges: evaluate(net, part, edges=edges), image, ALL, turns)

    assert np.allclose(average(np.rot90(image, 1, (1, 2))), np.rot90(average(image), 1, (1, 2)), atol=1e-5)
    flipped = np.allclose(average(image[:, ::-1]), average(image)[:, ::-1], atol=1e-5)
    assert flipped == (turns == 8)


@pytest.mark.parametrize("edges", [(True, False, False, False), (False, True, False, True),
                                   (False, False, True, False)])
def test_sides_of_the_frame_turn_too(edges):
    seen = []

    def marks(part, sides):  # which sides are edges, as the pixels at them say: those hold a 1
        seen.append(sides)
        lines = part[0, 0], part[0, -1], part[0, :, 0], part[0, :, -1]
        assert tuple(bool((line[1:-1] == 1).all()) for line in lines) == sides
        return part

    image = np.zeros((1, 5, 7), np.float32)
    for at, edge in zip((np.s_[0, 0], np.s_[0, -1], np.s_[0, :, 0], np.s_[0, :, -1]), edges, strict=True):
        image[at] = np.maximum(image[at], edge)
    evaluate_turned(marks, image, edges, 8)
    assert len(seen) == 8


@pytest.mark.parametrize("kind", ["msdnet", "unet"])
def test_tiles_and_chunks_change_nothing(rng, kind):
    model = fresh(kind)
    movie = make_movie(rng.poisson(9, (1, 183, 270)), pixel_size=0.41)
    whole = segment(movie, model, augment=8).compute()
    tiles = segment(movie.chunk({"y": 70, "x": 33}), model, halo="exact", tile=90, augment=8).compute()
    assert np.allclose(whole, tiles, atol=1e-5)
    assert not np.allclose(whole, segment(movie, model).compute(), atol=1e-3)


@pytest.mark.parametrize("augment", [0, 2, 3, 16, True, "4", None])
def test_other_numbers_are_refused(augment):
    movie = make_movie(np.ones((1, 20, 20)), pixel_size=0.5)
    with pytest.raises(InputError, match="expected one of"):
        segment(movie, fresh("msdnet"), augment=augment)
