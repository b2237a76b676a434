"""Networks, frames and masks that the tests of `segment` share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hrtem_dask.kernels.msdnet import compiled
from hrtem_dask.networks import Model, MSDNet
from hrtem_dask.networks.cards import complete_card

CARD = {"classes": ["background", "particle"], "pixel_size": 0.5, "dose_range": [1, 1e4]}


def network(c_in=1, depth=4, dilations=(1, 2, 3), padding="zeros", seed=0, width=1, **card):
    torch.manual_seed(seed)
    net = MSDNet(c_in, 2, depth, dilations=dilations, padding=padding, width=width)
    with torch.no_grad():
        net.final_weight.normal_()
        net.final_bias.normal_()
    weights = net.to_weights()
    return Model("random", complete_card(CARD | card, weights, "0" * 64), weights)


def threshold_network():
    """A net that smooths over 3 x 3 pixels and calls particle what is above 1.05 standard deviations."""
    net = MSDNet(1, 2, 1)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        net.weights[0][:] = 1 / 9
        net.biases[0][:] = 10.0  # keeps the ReLU open
        net.final_weight[1, 1] = 20.0
        net.final_bias[1] = -221.0
    weights = net.to_weights()
    return Model("threshold", complete_card(CARD, weights, "0" * 64), weights)


def discs(shape, pixel, centres, radius):
    y, x = (np.arange(n) * p for n, p in zip(shape, pixel, strict=True))
    return np.any([(y[:, None] - a) ** 2 + (x - b) ** 2 <= radius**2 for a, b in centres], axis=0)


def compute(array):
    return array.compute(scheduler="sync")


BACKENDS = ["torch", pytest.param("compiled", marks=pytest.mark.skipif(
    not compiled.instruction_sets(), reason="the compiled evaluation is not there"))]
