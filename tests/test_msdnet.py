"""MSD-net: the module, the torch kernel and the plain reference agree, plane by plane."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_dask.core.errors import InputError
from hrtem_dask.kernels.msdnet import reference, torch_planes
from hrtem_dask.kernels.msdnet.weights import PADDINGS
from hrtem_dask.networks import MSDNet, evaluate
from hrtem_dask.networks import evaluation as module


def draw(c_in=1, c_out=2, depth=6, width=1, dilations=range(1, 11), padding="zeros", seed=0):
    """A network whose last layer and biases are random too: a fresh one gives zeros."""
    torch.manual_seed(seed)
    net = MSDNet(c_in, c_out, depth, width=width, dilations=tuple(dilations), padding=padding)
    with torch.no_grad():
        net.final_weight.normal_()
        net.final_bias.normal_()
        for b in net.biases:
            b.normal_(std=0.1)
    return net


def picture(shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(found, expected, tolerance=2e-6):
    assert np.abs(found - expected).max() <= tolerance * max(1, np.abs(expected).max())


CASES = [
    {"depth": 12, "c_in": 1, "width": 1},
    {"depth": 5, "c_in": 3, "width": 2, "c_out": 5},
    {"depth": 7, "c_in": 2, "width": 3, "dilations": (1, 2, 4, 8)},
    {"depth": 1, "c_in": 1, "width": 1, "c_out": 1},
    {"depth": 30, "c_in": 1, "width": 1, "c_out": 3},
]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("size", [(37, 53), (64, 64), (3, 17), (1, 1), (1, 40)])
def test_every_plane_agrees_with_the_reference(case, padding, size):
    net = draw(padding=padding, **case)
    weights = net.to_weights()
    image = picture((net.in_channels, *size))
    expected = reference.planes(weights, image)
    assert len(expected) == net.in_channels + net.depth * net.width
    for dtype, tolerance in (("float32", 2e-6), ("float64", 1e-13)):
        found = torch_planes.planes(weights, image, dtype=dtype)
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert np.abs(a - b).max() <= tolerance * max(1, np.abs(b).max()), f"plane {i}, {dtype}"
    logits = reference.evaluate(weights, image)
    assert np.ptp(logits) > 0.1 or size == (1, 1)
    assert_close(evaluate(net, image), logits)
    with torch.no_grad():
        assert_close(net(torch.as_tensor(image)[None])[0].numpy(), logits)


def test_planes_mean_what_the_definition_says():
    net = MSDNet(1, 1, 2, dilations=(1, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        net.weights[0][0, 0, 0, 1] = 1.0  # the pixel above
        net.weights[1][0, 1, 1, 2] = 2.0  # twice the first plane, three pixels to the right
        net.biases[1][0] = -1.0
        net.final_weight[0, 2] = 1.0
    image = np.zeros((1, 8, 8), np.float32)
    image[0, 4, 5] = 3.0
    expected = np.zeros((8, 8))
    expected[5, 2] = 5.0
    for backend in ("torch", "reference"):
        np.testing.assert_allclose(evaluate(net, image, backend=backend)[0], expected)


def test_a_fresh_network_gives_zeros_and_has_the_published_size():
    assert not evaluate(MSDNet(1, 2, 8), picture((1, 20, 20))).any()
    sizes = [sum(p.numel() for p in MSDNet(1, 1, d).parameters()) for d in (30, 50, 100)]
    assert sizes == [4247, 11577, 45652]


@settings(max_examples=25, deadline=None)
@given(data=st.data(), padding=st.sampled_from(PADDINGS))
def test_a_tile_with_its_whole_halo_is_exact(data, padding):
    net = draw(depth=4, width=2, dilations=(1, 2, 5), padding=padding, seed=4)
    weights = net.to_weights()
    ny, nx = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    image = picture((1, ny, nx), seed=ny)
    y0, x0 = data.draw(st.integers(0, ny - 1)), data.draw(st.integers(0, nx - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, ny)), data.draw(st.integers(x0 + 1, nx))
    r = weights.receptive_radius
    a, b, c, d = max(0, y0 - r), min(ny, y1 + r), max(0, x0 - r), min(nx, x1 + r)
    edges = (a == 0, b == ny, c == 0, d == nx)
    for dtype, tolerance in (("float64", 1e-13), ("float32", 1e-6)):
        whole = torch_planes.evaluate(weights, image, dtype=dtype)
        tile = torch_planes.evaluate(weights, image[:, a:b, c:d], dtype=dtype, edges=edges)
        assert_close(tile[:, y0 - a:y1 - a, x0 - c:x1 - c], whole[:, y0:y1, x0:x1], tolerance)


def test_tiles_of_a_usual_size_are_exact_bit_for_bit():
    net = draw(depth=8, dilations=(1, 2, 3))
    weights = net.to_weights()
    image = picture((1, 200, 160))
    r = weights.receptive_radius
    with module.one_thread():
        whole = torch_planes.evaluate(weights, image)
        tile = torch_planes.evaluate(weights, image[:, 64 - r:128 + r], edges=(False, False, True, True))
    np.testing.assert_array_equal(tile[:, r:-r], whole[:, 64:128])


def test_strips_do_not_show(monkeypatch):
    weights = draw(depth=12, padding="reflect").to_weights()
    image = picture((1, 300, 50))
    whole = torch_planes.evaluate(weights, image)
    monkeypatch.setattr(torch_planes, "STRIP", 1)
    assert len(torch_planes._strips(weights, (1, *image.shape), "cpu")) == 5
    assert_close(torch_planes.evaluate(weights, image), whole, 1e-6)


@pytest.mark.parametrize("strip", [1, 2**13, 2**18])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("fused", [(), ("cpu",)])
def test_a_batch_is_its_images(monkeypatch, strip, padding, fused):
    """Strips of one image, several images together, all of them together; and the sum that a GPU takes."""
    monkeypatch.setattr(torch_planes, "STRIP", strip)
    monkeypatch.setattr(torch_planes, "FUSED", fused)
    weights = draw(depth=12, c_in=2, c_out=3, width=2, padding=padding).to_weights()
    images = picture((5, 2, 70, 23))
    edges = (True, False, True, True)
    found = torch_planes.evaluate(weights, images, edges=edges)
    assert found.shape == (5, 3, 70, 23)
    assert len(torch_planes._strips(weights, images.shape, "cpu")) == {1: 10, 2**13: 3, 2**18: 1}[strip]
    if padding == "reflect":  # as an inner side is mirrored
        assert_close(found, [reference.evaluate(weights, image) for image in images])
    assert_close(found, [torch_planes.evaluate(weights, image, edges=edges) for image in images], 1e-6)


def test_parameters_stay_on_their_device_until_they_change():
    torch_planes._parameters.clear()
    weights, image = draw(depth=3).to_weights(), picture((1, 40, 40))
    first = torch_planes._parameters_on(weights, "cpu", "float32")
    assert torch_planes._parameters_on(draw(depth=3).to_weights(), "cpu", "float32") is first
    assert torch_planes._parameters_on(weights, "cpu", "float64") is not first
    before = torch_planes.evaluate(weights, image)
    weights.final[:] = 0
    assert np.ptp(before, axis=(1, 2)).all()
    assert not np.ptp(torch_planes.evaluate(weights, image), axis=(1, 2)).any()
    for seed in range(9):
        torch_planes._parameters_on(draw(depth=1, seed=seed).to_weights(), "cpu", "float32")
    assert len(torch_planes._parameters) == torch_planes.KEPT


def test_products_on_a_gpu_are_float32_and_the_setting_comes_back():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with torch_planes._no_tf32("cuda"):
            with torch_planes._no_tf32("cuda:1"):
                assert torch.get_float32_matmul_precision() == "highest"
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("backend", ["auto", "compiled", "torch", "reference"])
def test_many_images_are_evaluated_as_one_by_one(backend):
    if backend not in ("auto", *(b.name for b in module.BACKENDS.values() if b.available("cpu"))):
        pytest.skip("the compiled evaluation was not built")
    net = draw(depth=5, c_out=3)
    images = picture((3, 1, 45, 50))
    expected = [reference.evaluate(net.to_weights(), image) for image in images]
    for several in (images, list(images), images.astype(np.float64)):
        found = module.evaluate_many(net, several, backend=backend, batch=2)
        assert (found.dtype, found.flags.c_contiguous) == (np.float32, True)
        assert_close(found, expected)


def test_many_images_have_one_shape():
    net = draw(depth=2)
    for images in ([], [picture((1, 8, 8)), picture((1, 8, 9))]):
        with pytest.raises(InputError, match="all of the same shape"):
            module.evaluate_many(net, images)
    with pytest.raises(InputError, match="takes 1"):
        module.evaluate_many(net, picture((3, 2, 8, 8)))
    with pytest.raises(InputError, match="batch is 0"):
        module.evaluate_many(net, picture((3, 1, 8, 8)), batch=0)


@pytest.mark.parametrize("convert", [
    lambda a: a.astype(np.int16), lambda a: a.astype(np.uint8), lambda a: a.astype(np.float64),
    lambda a: a.astype(">f4"), lambda a: a.astype(">u2"), lambda a: a.astype(np.float16), np.asfortranarray,
    lambda a: np.repeat(a, 2, axis=2)[:, :, ::2], lambda a: a[:, ::-1].copy()[:, ::-1], lambda a: a.tolist(),
    lambda a: a.astype(">i8"), lambda a: a.swapaxes(1, 2).copy().swapaxes(1, 2), np.ma.masked_array, memoryview,
    lambda a: np.broadcast_to(a.astype(">f8"), (3, *a.shape))[1],
])
@pytest.mark.parametrize("size", [(12, 15), (40, 50)])
def test_any_real_dtype_and_layout(convert, size):
    net = draw(depth=4)
    image = np.random.default_rng(0).integers(0, 200, (1, *size)).astype(np.float32)
    image.flags.writeable = False
    expected = evaluate(net, image)
    assert_close(expected, reference.evaluate(net.to_weights(), image))
    np.testing.assert_array_equal(evaluate(net, convert(image)), expected)
    assert not np.isnan(expected).any()


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 31), (19, 32), (33, 7), (64, 1)])
def test_images_smaller_than_the_receptive_field(size, backend):
    net = draw(depth=30, padding="reflect", c_out=1)
    image = picture((1, *size))
    found = evaluate(net, image, backend=backend, edges=(True, True, True, True))
    assert_close(found, reference.evaluate(net.to_weights(), image))


def test_what_cannot_be_evaluated_is_refused():
    net = draw(depth=2)
    image = picture((1, 8, 8))
    for bad, message in [
        (image[0], r"\(channel, y, x\)"), (image[None], r"\(channel, y, x\)"), (image[:, :0], "at least one pixel"),
        (np.repeat(image, 3, 0), "takes 1"), (image.astype(complex), "real"), (image * np.nan, "64 of 64"),
        (np.where(image == image.max(), np.inf, image), "1 of 64"), (np.full((1, 2, 2), 1e300), "float32"),
    ]:
        with pytest.raises(InputError, match=message):
            evaluate(net, bad)
    with pytest.raises(InputError, match=r"no backend 'fast'.*reference.*torch"):
        evaluate(net, image, backend="fast")
    with pytest.raises(InputError, match="no device 'abacus'"):
        evaluate(net, image, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no device 'cuda'"):
            evaluate(net, image, device="cuda")
    with pytest.raises(InputError, match="found a str"):
        evaluate("au-particles", image)


def test_auto_takes_the_fastest_backend_there_is(monkeypatch):
    net, image = draw(depth=2), picture((1, 8, 8))

    def run(weights, image, device, edges):
        return np.full((weights.out_channels, *image.shape[1:]), 7.0)

    monkeypatch.setitem(module.BACKENDS, "compiled", module.Backend("compiled", run, 100, lambda device: True))
    assert (evaluate(net, image) == 7).all()
    assert_close(evaluate(net, image, backend="torch"), reference.evaluate(net.to_weights(), image))
    monkeypatch.setitem(module.BACKENDS, "compiled", module.Backend("compiled", run, 100, lambda device: False))
    assert not (evaluate(net, image) == 7).any()
    with pytest.raises(InputError, match="cannot run"):
        evaluate(net, image, backend="compiled")


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    with module.one_thread():
        assert torch.get_num_threads() == 1
        with module.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("padding", PADDINGS)
def test_cuda_agrees(padding):
    net = draw(depth=30, padding=padding)
    image = picture((1, 130, 90))
    assert_close(evaluate(net, image, device="cuda"), reference.evaluate(net.to_weights(), image), 1e-5)


@pytest.mark.parametrize("options", [{"halo": -5}, {"halo": "exact"}, {"halo": True}, {"edges": (1, 1)}, {"edges": 1}])
def test_impossible_halos_and_edges_are_refused(options):
    with pytest.raises(InputError, match="expected"):
        evaluate(MSDNet(1, 2, 3), np.ones((1, 30, 40)), **options)
