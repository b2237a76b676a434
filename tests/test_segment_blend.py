"""`segment` in blended windows."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.special
from segment_scenes import compute, network

from hrtem_dask.analysis.segment import layout_of, segment
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.kernels.msdnet import reference
from hrtem_dask.kernels.resample import resample
from hrtem_dask.kernels.tiles import segment_tile


def blended(model, counts, pixel, kind, size):
    """One frame (channel, y, x) step by step: the whole image, window by window, in float64.

    Sides of a window inside the frame are mirrored, its others are padded as the network says.
    """
    image = np.stack([resample(plane.astype(float), pixel, 0.5).astype(np.float64) for plane in counts])
    image = np.stack([(plane - plane.mean()) / plane.std() for plane in image]).astype(np.float32)
    total = weight = 0
    starts = [sorted({*range(0, max(1, n - size), size // 2), max(0, n - size)}) for n in image.shape[1:]]
    for y in starts[0]:
        for x in starts[1]:
            part = image[:, y:y + size, x:x + size].astype(np.float64)
            edges = y == 0, y + size >= image.shape[1], x == 0, x + size >= image.shape[2]
            p = scipy.special.softmax(reference.evaluate(model.weights, part, edges), axis=0)
            edge = [{"hann": 0.5 - 0.5 * np.cos(2 * np.pi * t), "hamming": 0.54 - 0.46 * np.cos(2 * np.pi * t),
                     "gaussian": np.exp(-32 * (t - 0.5) ** 2)}[kind] for t in
                    ((np.arange(n) + 0.5) / n for n in p.shape[1:])]
            w = np.zeros(image.shape[1:])
            w[y:y + size, x:x + size] = np.outer(*edge)
            part = np.zeros((len(p), *w.shape))
            part[:, y:y + size, x:x + size] = p
            total, weight = total + w * part, weight + w
    p = total / weight
    if pixel != 0.5:
        p = np.clip(resample(p, 0.5, pixel, shape=counts.shape[1:]), 0, 1)
    return p / p.sum(0)


@pytest.mark.parametrize(("shape", "pixel", "kind", "size", "c_in"), [
    ((83, 61), 0.5, "hann", 32, 1), ((60, 95), 0.37, "hamming", 24, 1), ((40, 41), 1.1, "gaussian", 32, 1),
    ((20, 90), 0.5, "hann", 32, 1), ((13, 17), 0.5, "hamming", 32, 1), ((50, 47), 0.59, "gaussian", 16, 3),
])
def test_blended_windows_equal_a_plain_sum_over_the_frame(shape, pixel, kind, size, c_in):
    model = network(c_in=c_in)
    counts = np.random.default_rng(6).poisson(30, (2, c_in, *shape))
    movie = (make_movie(counts[:, 0], pixel_size=pixel) if c_in == 1 else
             make_movie(counts, pixel_size=pixel, defocus=[-50, 0, 50]))
    whole = compute(segment(movie, model, window=kind, window_size=size)).values
    for frame, image in zip(whole, counts, strict=True):
        np.testing.assert_allclose(frame, blended(model, image, pixel, kind, size), atol=2e-5)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-6)
    chunks = {"frame": 1, "y": 17, "x": 23} | ({"defocus": 2} if c_in == 3 else {})
    for tile in (7, 16, 25, 48):
        tiled = segment(movie.chunk(chunks), model, window=kind, window_size=size, tile=tile)
        np.testing.assert_array_equal(compute(tiled).values, whole)


@pytest.mark.parametrize("padding", ["zeros", "reflect", "symmetric"])
def test_backends_agree_about_blended_windows(padding):
    movie = make_movie(np.random.default_rng(9).poisson(30, (1, 90, 70)), pixel_size=0.5)
    model = network(padding=padding)
    found = [compute(segment(movie, model, window="hamming", window_size=32, backend=b))
             for b in ("auto", "torch", "reference")]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=2e-5)


def test_windows_wide_enough_for_the_network_by_default():
    movie = make_movie(da.zeros((1, 3000, 3000)), pixel_size=0.5)
    for radius, size in ((3, 256), (65, 320), (80, 320), (1000, 1024)):
        model = network(depth=300, dilations=(10,), effective_radius=radius)
        axis = layout_of(movie, model, window="hann").y
        assert axis.window == size
        assert axis.tile % (size // 2) == 0
    assert layout_of(movie, network(), window="hann", window_size=100).y.windows.step == 50


@pytest.mark.parametrize("how", [{}, {"window": "hann"}])
def test_tiles_of_finely_sampled_frames_stay_small_on_the_camera(how):
    movie = make_movie(da.zeros((1, 20_000, 20_000)), pixel_size=(0.08, 0.1))
    layout = layout_of(movie, network(), **how)
    assert max(b - a for axis in (layout.y, layout.x) for s in axis.spans for a, b in (s.core,)) <= 1.25 * 4096 + 32


@pytest.mark.parametrize("pixel", [0.5, 0.37, 0.77])
def test_tiles_of_blended_windows_share_few_of_them(pixel):
    """A tile of 16 steps meets 17 windows an axis, or 18 where it is resampled."""
    movie = make_movie(da.zeros((1, 20_000, 9_000)), pixel_size=pixel)
    layout = layout_of(movie, network(), window="hann", window_size=256)
    for axis in (layout.y, layout.x):
        met = [len(axis.windows.meeting(*s.need)) for s in axis.spans]
        assert len(met) > 1
        assert max(met[:-1]) <= (17 if pixel == 0.5 else 18)


def test_one_window_at_a_time_is_held():
    largest, calls = 0, 0

    def count(image, edges):
        nonlocal largest, calls
        largest, calls = max(largest, image[0].size), calls + 1
        return np.zeros((2, *image.shape[1:]), np.float32)

    movie = make_movie(np.ones((1, 200, 300)), pixel_size=0.5)
    tile = layout_of(movie, network(), window="hann", window_size=40, tile=100).tiles[0][1]
    segment_tile(movie.values[:, slice(*tile.y.read), slice(*tile.x.read)], tile, count, np.array([[2.0, 1, 1]]))
    assert largest == 40 * 40
    assert calls == 5 * 6
