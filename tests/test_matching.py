"""Matching of found against true columns: against brute force, and the rules of what counts."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_dask.core.errors import InputError
from hrtem_dask.kernels.matching import (
    match_columns,
    match_points,
    neighbour_spacing,
    places_of_false,
    pulls,
    rms_error,
    surface_columns,
)


def best_of_all(found: np.ndarray, true: np.ndarray, radius: float) -> tuple[int, float]:
    """Most pairs and their least squared distances, by trying every assignment."""
    if len(found) > len(true):
        found, true = true, found
    d = np.hypot(*(found[:, None] - true[None]).transpose(2, 0, 1))
    best = (0, 0.0)
    for order in permutations(range(len(true)), len(found)):
        each = d[np.arange(len(found)), list(order)]
        each = each[each <= radius]
        best = max(best, (len(each), -float((each**2).sum())))
    return best[0], -best[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(0, 6))
def test_as_good_as_every_assignment_tried(seed, n, m):
    rng = np.random.default_rng(seed)
    found, true = rng.random((n, 2)) * 1.5, rng.random((m, 2)) * 1.5
    pairs = match_points(found, true, 0.5)
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
    d = np.hypot(*(found[pairs[:, 0]] - true[pairs[:, 1]]).T)
    number, cost = best_of_all(found, true, 0.5)
    assert (d <= 0.5).all()
    assert len(pairs) == number
    assert (d**2).sum() == pytest.approx(cost)


def lattice(n: int, spacing: float = 2.5) -> np.ndarray:
    return spacing * np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2).astype(float)


def test_thousands_of_columns_in_any_order():
    rng = np.random.default_rng(1)
    true = lattice(90)
    found = true + rng.normal(0, 0.1, true.shape)
    order = rng.permutation(len(true))
    m = match_columns(found[order], true)
    assert m.counts == (8100, 0, 0)
    assert m.f1 == m.precision == m.recall == 1
    assert np.array_equal(order[m.pairs[:, 0]], m.pairs[:, 1])
    assert m.rms == pytest.approx(0.1 * np.sqrt(2), rel=0.05)


def test_a_column_of_one_atom_is_neither_hit_nor_miss():
    true, atoms = lattice(2), np.array([1, 1, 5, 5])
    m = match_columns(true[[0, 2]], true, atoms)
    assert m.counts == (1, 0, 1)
    assert m.unasked.tolist() == [1]
    assert m.asked.tolist() == [False, True]
    assert match_columns(true[[0, 2]], true, atoms, least=1).counts == (2, 0, 2)


def test_nothing_found_and_nothing_there():
    none = np.zeros((0, 2))
    nothing = match_columns(none, none)
    assert nothing.counts == (0, 0, 0)
    assert np.isnan([nothing.f1, nothing.precision, nothing.recall, nothing.rms]).all()
    missed, invented = match_columns(none, lattice(2)), match_columns(lattice(2), none)
    assert missed.recall == 0
    assert missed.f1 == 0
    assert np.isnan(missed.precision)
    assert invented.precision == 0
    assert invented.f1 == 0
    assert np.isnan(invented.recall)


def test_the_border_tears_no_pair_apart():
    true = np.array([[5.0, 1.9], [5.0, 2.1], [5.0, 8.0]])
    found = np.array([[5.0, 2.2], [5.0, 1.8], [9.5, 5.0], [5.0, 7.6]])
    m = match_columns(found, true, extent=(10.0, 10.0), margin=2.0)
    # true 0 lies in the margin, with its pair inside; found 2 in the margin is not counted
    assert m.counts == (2, 0, 0)
    m = match_columns(found[[0]] + [0, -0.3], true[[1]], extent=(10.0, 10.0), margin=2.0)
    assert m.counts == (1, 0, 0)


def test_pulls_of_a_right_statement_spread_by_one():
    rng = np.random.default_rng(3)
    stated = rng.uniform(0.02, 0.2, (4000, 2))
    assert pulls(rng.normal(0, stated), stated).std() == pytest.approx(1, abs=0.03)
    assert np.isnan(rms_error(np.zeros((0, 2))))


@pytest.mark.parametrize(("vectors", "inside"), [
    ([[2.04, 1.4425], [2.04, -1.4425]], 6),  # [110] of gold
    ([[2.04, 0.0], [0.0, 2.04]], 4),  # [100]
    ([[1.6656, 0.0], [0.8328, 1.4425]], 6),  # [111]
])
def test_the_rim_of_each_zone_axis_is_its_surface(vectors, inside):
    n = np.arange(-30, 31)
    yx = np.stack(np.meshgrid(n, n, indexing="ij"), -1).reshape(-1, 2) @ np.array(vectors)
    yx = yx[np.hypot(*yx.T) < 14]
    yx += np.random.default_rng(0).normal(0, 0.05, yx.shape)
    surface, spacing = surface_columns(yx)
    reach = 1.3 * spacing[0]
    d = np.hypot(*(yx[:, None] - yx[None]).transpose(2, 0, 1))
    number = (d < reach).sum(1) - 1
    assert number.max() == inside
    assert np.array_equal(surface, number < inside)
    away = np.hypot(*yx.T)
    assert not surface[away < 14 - 1.6 * spacing[0]].any()
    assert 0.15 < surface.mean() < 0.6


def test_particles_do_not_shield_each_other_and_fields_repeat():
    square = lattice(5, 2.0)
    two = np.concatenate([square, square + [0, 10.0]])
    surface, _ = surface_columns(two, np.repeat([1, 2], 25))
    assert surface.reshape(2, 5, 5)[:, 1:-1, 1:-1].sum() == 0
    assert surface.sum() == 32
    surface, spacing = surface_columns(square, period=(10.0, 10.0))
    assert not surface.any()
    assert np.allclose(spacing, 2.0)
    assert surface_columns(np.zeros((1, 2)))[0].tolist() == [True]
    assert np.isnan(neighbour_spacing(np.zeros((1, 2))))


def test_false_columns_by_their_place():
    yx = lattice(6, 2.0)
    surface, spacing = surface_columns(yx)
    found = np.array([[5.0, 5.0], [-2.0, 4.0], [20.0, 20.0]])
    assert places_of_false(found, yx, surface, spacing).tolist() == ["inside", "surface", "away"]
    assert places_of_false(found, np.zeros((0, 2)), surface[:0], spacing[:0]).tolist() == ["away"] * 3


def test_bad_input_says_what_was_expected():
    with pytest.raises(InputError, match="positions"):
        match_points(np.zeros((3, 3)), np.zeros((2, 2)))
    with pytest.raises(InputError, match="not finite"):
        match_points(np.full((3, 2), np.nan), np.zeros((2, 2)))
    with pytest.raises(InputError, match="one a column"):
        match_columns(np.zeros((1, 2)), np.zeros((2, 2)), np.ones(3))
    with pytest.raises(InputError, match="last pixel"):
        match_columns(np.zeros((1, 2)), np.zeros((2, 2)), margin=1.0)
    with pytest.raises(InputError, match="radius"):
        match_points(np.zeros((1, 2)), np.zeros((2, 2)), 0)
