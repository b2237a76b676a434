"""Blending of overlapping windows: against a plain sum over the whole frame, and equal for any rectangle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import windows as scipy_windows

from hrtem_dask.core.errors import InputError
from hrtem_dask.kernels.blend import Windows, blend, taper

KINDS = ("hamming", "hann", "gaussian")
#: frames and windows: not square, odd, smaller than a window on one side or both, and of one pixel
CASES = (((40, 64), 16), ((37, 53), 16), ((37, 53), 15), ((9, 50), 16), ((50, 9), 16), ((7, 5), 16), ((1, 1), 8),
         ((1, 30), 8), ((33, 16), 16), ((17, 24), 16))


def opinion(window, edges=None):
    """Probabilities of two classes that depend on where in its window a pixel lies, so that windows disagree."""
    ny, nx = window.shape[1:]
    y, x = np.mgrid[:ny, :nx]
    p = 1 / (1 + np.exp(-window.sum(0) - np.sin(y * 0.7) - np.cos(x * 0.9)))
    return np.stack([1 - p, p]).astype(np.float32)


def scipy_taper(kind, n):
    if kind == "gaussian":
        return scipy_windows.gaussian(n, n / 8)
    return getattr(scipy_windows, kind)(2 * n, sym=False)[1::2]


def plain(image, size, kind, evaluate):
    """Sum w * p and w over all windows of the frame in float64, and divide."""
    ny, nx = image.shape[1:]
    total = weight = 0
    for y in begins(ny, size):
        for x in begins(nx, size):
            part = evaluate(image[:, y:y + size, x:x + size])
            w = np.zeros((ny, nx))
            h, v = part.shape[1:]
            w[y:y + h, x:x + v] = np.outer(scipy_taper(kind, h), scipy_taper(kind, v))
            p = np.zeros((len(part), ny, nx))
            p[:, y:y + h, x:x + v] = part
            total, weight = total + w * p, weight + w
    assert weight.min() > 0
    return total / weight


def begins(n, size):
    if n <= size:
        return [0]
    found, y = [], 0
    while y + size < n:
        found.append(y)
        y += size // 2
    return [*found, n - size]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "size"), CASES)
def test_blending_is_the_weighted_mean_over_windows(kind, shape, size, rng):
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    both = tuple(Windows(n, size, kind) for n in shape)
    found = blend(image, (0, 0), both, (0, shape[0]), (0, shape[1]), opinion)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain(image, size, kind, opinion), atol=2e-6)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_rectangle_gives_the_same_bits(data):
    shape = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    size, kind = data.draw(st.integers(2, 40)), data.draw(st.sampled_from(KINDS))
    image = np.random.default_rng(shape[0]).normal(size=(1, *shape)).astype(np.float32)
    both = tuple(Windows(n, size, kind) for n in shape)
    whole = blend(image, (0, 0), both, (0, shape[0]), (0, shape[1]), opinion)
    ranges = []
    for n in shape:
        a = data.draw(st.integers(0, n - 1))
        ranges.append((a, data.draw(st.integers(a + 1, n))))
    (a, b), (c, d) = (w.reach(*r) for w, r in zip(both, ranges, strict=True))
    part = blend(image[:, a:b, c:d], (a, c), both, *ranges, opinion)
    np.testing.assert_array_equal(part, whole[:, slice(*ranges[0]), slice(*ranges[1])])


@pytest.mark.parametrize("kind", KINDS)
def test_tapers_are_those_of_scipy_and_never_0(kind):
    for size in (1, 2, 9, 64, 513):
        np.testing.assert_allclose(taper(kind, size), scipy_taper(kind, size), rtol=1e-9, atol=1e-15)
        assert taper(kind, size).min() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "size"), [(1, 8), (8, 8), (9, 8), (500, 64), (501, 63), (257, 256), (1000, 512)])
def test_weights_sum_to_1_at_every_pixel(kind, n, size):
    w = Windows(n, size, kind)
    total, seen = np.zeros(n), np.zeros(n, int)
    for i, a in enumerate(w.starts):
        assert 0 <= a <= n - w.width
        total[a:a + w.width] += w.weights(i)
        seen[a:a + w.width] += 1
        assert w.weights(i).min() > 0
    np.testing.assert_allclose(total, 1, atol=2e-7)
    assert seen.min() >= 1
    if n > 2 * size:  # away from the first half window and the shifted last ones, two windows meet
        assert set(seen[w.step:-2 * size or None]) <= {2, 3}


def test_a_pixel_lies_a_quarter_inside_one_of_its_windows_or_at_the_edge_of_the_frame():
    w = Windows(1003, 64, "hann")
    for pixel in range(w.n):
        inside = max(min(pixel - a if a else 10**6, a + 63 - pixel if a + 64 < w.n else 10**6)
                     for a in (w.starts[i] for i in w.meeting(pixel, pixel + 1)))
        assert inside >= 15


def test_windows_are_evaluated_once_in_raster_order_and_know_the_edges():
    calls = []

    def evaluate(window, edges):
        calls.append((int(window[0, 0, 0]), edges, window.shape))
        return window

    image = np.arange(20 * 30, dtype=np.float32).reshape(1, 20, 30)
    both = Windows(20, 8, "hann"), Windows(30, 8, "hann")
    blend(image, (0, 0), both, (0, 20), (0, 30), evaluate)
    assert [c[0] for c in calls] == [y * 30 + x for y in (0, 4, 8, 12) for x in (0, 4, 8, 12, 16, 20, 22)]
    assert {c[2] for c in calls} == {(1, 8, 8)}
    assert [c[1] for c in calls[:7]] == [(True, False, x == 0, x == 6) for x in range(7)]
    assert calls[-1][1] == (False, True, False, True)
    calls.clear()
    blend(image, (0, 0), both, (8, 12), (8, 12), evaluate)  # a core of one step meets two windows an axis
    assert len(calls) == 4


def test_there_is_no_such_window():
    with pytest.raises(InputError, match=r"'tukey'.*hamming"):
        taper("tukey", 8)
