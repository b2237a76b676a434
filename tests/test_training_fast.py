"""The fast training function is the network itself, gradients too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_dask.networks.fast import fast_forward
from hrtem_dask.networks.msdnet import MSDNet


def fresh(seed: int, *args: object, **kwargs: object) -> MSDNet:
    torch.manual_seed(seed)
    net = MSDNet(*args, **kwargs)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.3)
    return net


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), channels=st.integers(1, 3), classes=st.integers(1, 3), depth=st.integers(1, 23),
       width=st.integers(1, 2), padding=st.sampled_from(["zeros", "reflect", "symmetric"]), batch=st.integers(1, 2),
       height=st.integers(3, 25), length=st.integers(3, 25))
def test_equals_the_module_and_its_gradients(seed, channels, classes, depth, width, padding, batch, height, length):
    net = fresh(seed, channels, classes, depth, width=width, padding=padding).double()
    x = torch.randn(batch, channels, height, length, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(batch, classes, height, length, dtype=torch.float64)
    inputs = [x, *net.parameters()]
    plain, fast = net(x), fast_forward(net, x)
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9 * float(plain.detach().abs().max()))
    expected, found = (torch.autograd.grad(out, inputs, upstream) for out in (plain, fast))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-9 * float(a.abs().max()) + 1e-12)


@pytest.mark.parametrize("padding", ["zeros", "reflect", "symmetric"])
def test_single_precision_without_input_gradient(padding):
    torch.manual_seed(3)
    net = MSDNet(1, 2, 32, padding=padding)
    torch.nn.init.normal_(net.final_weight, std=0.3)
    x = torch.randn(2, 1, 48, 40)
    plain, fast = net(x), fast_forward(net, x)
    assert (plain - fast).abs().max() <= 1e-5 * plain.abs().max()
    parameters = list(net.parameters())
    a = torch.autograd.grad(plain.square().mean(), parameters)
    b = torch.autograd.grad(fast.square().mean(), parameters)
    assert max(float((p - q).abs().max() / p.abs().max()) for p, q in zip(a, b, strict=True)) < 1e-5
