"""Comparing masks: pixels, objects matched one to one, outlines, sizes."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from hrtem_dask.kernels.masks import (
    boundary_distance,
    boundary_distances,
    compare_masks,
    diameter_errors,
    dice,
    match_objects,
    without_specks,
)

LABELS = hnp.arrays(np.int32, (4, 7), elements=st.integers(0, 3))


def disc(n: int, y: float, x: float, r: float) -> np.ndarray:
    i = np.arange(n)
    return (i[:, None] - y) ** 2 + (i[None] - x) ** 2 <= r**2


def best_assignment(found: np.ndarray, true: np.ndarray, iou: float) -> tuple[int, float]:
    """Most pairs, then greatest sum of overlaps, by trying all assignments."""
    a, b = ([n for n in np.unique(x) if n] for x in (found, true))
    overlap = {(p, q): ((found == p) & (true == q)).sum() / ((found == p) | (true == q)).sum() for p in a for q in b}
    small, large = (a, b) if len(a) <= len(b) else (b, a)
    results = [(0, 0.0)]
    for some in permutations(large, len(small)):
        pairs = list(zip(small, some, strict=True)) if small is a else list(zip(some, small, strict=True))
        values = [overlap[p] for p in pairs if overlap[p] >= iou]
        results.append((len(values), sum(values)))
    return max(results)


@given(LABELS, LABELS, st.sampled_from([0.1, 0.3, 0.5, 0.9]))
def test_objects_are_matched_as_well_as_can_be(found, true, iou):
    m = match_objects(found, true, iou=iou)
    assert (m.found, m.true) == (len(set(found.ravel().tolist()) - {0}), len(set(true.ravel().tolist()) - {0}))
    assert len(set(m.pairs[:, 0].tolist())) == len(set(m.pairs[:, 1].tolist())) == m.matched
    overlaps = [((found == f) & (true == t)).sum() / ((found == f) | (true == t)).sum() for f, t in m.pairs]
    assert all(o >= iou for o in overlaps)
    count, total = best_assignment(found, true, iou)
    assert m.matched == count
    assert sum(overlaps) == pytest.approx(total)


def test_one_region_over_two_particles_counts_once():
    true = np.zeros((10, 21), int)
    true[:, :10], true[:, 11:] = 1, 2
    both = np.ones((10, 21), int)
    assert match_objects(both, true).matched == 0  # 100 of 210
    assert match_objects(both[:, :20], true[:, :20]).matched == 1  # 100 of 200: a half is enough, and one is one


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3)])
def test_nothing_matches_nothing(shape):
    found, true = (np.arange(n).reshape(1, -1) if n else np.zeros((1, 1), int) for n in shape)
    found, true = (np.pad(x, ((0, 0), (0, 4 - x.shape[1]))) for x in (found, true))
    m = match_objects(found, true)
    assert m.matched == min(m.found, m.true) == 0 or shape == (0, 0)


@given(hnp.arrays(bool, (9, 12)), hnp.arrays(bool, (9, 12)), st.floats(0.1, 3))
def test_distances_are_those_of_the_distance_transform(a, b, pixel_size):
    outlines = [m & ~ndimage.binary_erosion(m, border_value=1) for m in (a, b)]
    found = boundary_distances(a, b, pixel_size)
    if not all(o.any() for o in outlines):
        assert not found.size
        assert np.isnan(boundary_distance(a, b, pixel_size))
        return
    to_a, to_b = (ndimage.distance_transform_edt(~o, sampling=pixel_size) for o in outlines)
    expected = np.concatenate([to_b[outlines[0]], to_a[outlines[1]]])
    np.testing.assert_allclose(np.sort(found), np.sort(expected))
    np.testing.assert_allclose(np.sort(boundary_distances(b, a, pixel_size)), np.sort(found))


def test_the_border_of_the_frame_is_no_outline():
    half = np.zeros((30, 30), bool)
    half[:, :10] = True
    wider = np.zeros((30, 30), bool)
    wider[:, :14] = True
    assert boundary_distance(half, wider, 0.25) == 1.0
    assert np.isnan(boundary_distance(half, np.ones_like(half)))


@pytest.mark.parametrize("pixel_size", [0.2, 0.5])
def test_discs_of_known_size(pixel_size):
    true = disc(200, 100, 60, 40) | disc(200, 100, 150, 30)
    found = disc(200, 100, 60, 44) | disc(200, 100, 150, 33)
    a = compare_masks(found, true, pixel_size)
    assert (a.matched, a.found, a.true) == (2, 2, 2)
    assert 3 * pixel_size <= a.distance <= 4 * pixel_size
    np.testing.assert_allclose(a.diameter_errors, 0.1, atol=0.01)
    assert a.dice == pytest.approx(2 / (1 + 1.1**2), abs=0.01)


def test_particles_that_the_border_cuts_have_no_diameter_but_count():
    true = disc(100, 0, 50, 20) | disc(100, 60, 50, 15)
    labels, _ = ndimage.label(true)
    m = match_objects(labels, labels)
    assert m.matched == 2
    assert diameter_errors(labels, labels, m.pairs).tolist() == [0.0]


def test_specks_count_on_neither_side():
    true, found = disc(100, 50, 50, 20), disc(100, 50, 50, 20)
    found[2:4, 2:4] = True
    true[95:98, 2:4] = True
    a = compare_masks(found, true, 1.0)
    assert (a.matched, a.found, a.true) == (1, 1, 1)
    assert a.dice < 1
    fine = compare_masks(found, true, 10.0)  # 400 and 600 angstrom^2 are no specks
    assert (fine.matched, fine.found, fine.true) == (1, 2, 2)
    assert without_specks(np.array([[1, 1, 2, 0, 0, 0]]), 2).tolist() == [[1, 1, 0, 0, 0, 0]]


def test_empty_masks_agree():
    empty, full = np.zeros((20, 20), bool), np.ones((20, 20), bool)
    assert dice(empty, empty) == 1
    assert dice(empty, full) == 0
    a = compare_masks(empty, empty, 1.0)
    assert (a.dice, a.matched, a.found, a.true, a.diameter_errors.size) == (1, 0, 0, 0, 0)
    assert np.isnan(a.distance)
