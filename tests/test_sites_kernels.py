"""Lattices of points: vectors from differences, growth, fit, strain, zone axes, places."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from hrtem_dask.kernels.lattice_fit import (
    canonical,
    fit_lattice,
    misorientation,
    neighbour_offsets,
    reduced,
)
from hrtem_dask.kernels.lattice_growth import find_grains
from hrtem_dask.kernels.lattice_zone import name_zone, same_basis, turned_onto
from hrtem_dask.kernels.places import find_places
from hrtem_dask.kernels.sites import assign, position_errors
from hrtem_dask.kernels.strain import local_strain

A = 4.08
VECTORS = {"110": A * np.array([[0.5, 8**-0.5], [0.5, -(8**-0.5)]]), "100": A / 2 * np.eye(2),
           "111": A / 6**0.5 * np.array([[1.0, 0.0], [0.5, 0.75**0.5]])}


def turn(angle: float) -> np.ndarray:
    """Matrix that turns rows (y, x) from +y towards +x."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def disc(vectors: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices and positions of a round piece of a lattice."""
    ij = np.stack(np.meshgrid(*[np.arange(-40, 41)] * 2, indexing="ij"), -1).reshape(-1, 2)
    inside = np.hypot(*(ij @ vectors).T) < radius
    return ij[inside], ij[inside] @ vectors


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(VECTORS)), st.floats(-3.0, 3.0), st.integers(-3, 3), st.integers(-3, 3))
def test_one_basis_for_all_that_span_the_same_lattice(kind: str, angle: float, m: int, n: int) -> None:
    vectors = VECTORS[kind] @ turn(angle)
    other = np.array([[1, m], [0, 1]]) @ np.array([[1, 0], [n, 1]]) @ vectors
    found = canonical(other)
    change = found @ np.linalg.inv(vectors)
    assert np.allclose(change, np.rint(change), atol=1e-6)
    assert np.isclose(abs(np.linalg.det(change)), 1)
    assert np.allclose(np.hypot(*found.T), np.sort(np.hypot(*reduced(vectors).T)))
    # which of several equivalent bases is taken does not hang on the one that was given, but for exact ties
    assert abs(np.linalg.det(found)) == pytest.approx(abs(np.linalg.det(vectors)))
    assert np.linalg.det(found) > 0


def test_neighbours() -> None:
    assert [len(neighbour_offsets(canonical(VECTORS[k] @ turn(0.4)))) for k in ("110", "100", "111")] == [6, 4, 6]
    lengths = np.hypot(*(neighbour_offsets(VECTORS["110"]) @ VECTORS["110"]).T)
    assert np.sort(lengths).round(2).tolist() == [2.5] * 4 + [2.88] * 2


@pytest.mark.parametrize("kind", sorted(VECTORS))
def test_lattice_from_one_noisy_frame(kind: str) -> None:
    """Recall 0.9, noise 0.1 angstrom, and false columns beside the particle."""
    rng = np.random.default_rng(7)
    for angle in (0.2, 1.9):
        vectors = VECTORS[kind] @ turn(angle)
        _, at = disc(vectors, 20.0)
        at = at[rng.random(len(at)) < 0.9]
        at = at + rng.normal(0, 0.1, at.shape)
        false = rng.uniform(-45, 45, (30, 2))
        false = false[np.hypot(*false.T) > 23]
        points = np.concatenate([at, false])
        grains = find_grains(points, np.ones(len(points), bool))
        assert len(grains) == 1
        on = np.zeros(len(points), bool)
        on[grains[0].node] = True
        assert on[:len(at)].mean() > 0.98
        assert on[len(at):].mean() < 0.2
        fit = fit_lattice(grains[0].ij, points[grains[0].node])
        change = fit.vectors @ np.linalg.inv(vectors)
        assert np.allclose(change, np.rint(change), atol=0.01)


@pytest.mark.parametrize("n", [12, 50, 200])
def test_points_without_order_have_no_lattice(n: int) -> None:
    """As dense as columns, no two nearer than 1.8 angstrom, as a detector leaves them on a support."""
    rng = np.random.default_rng(n)
    found = 0
    for _ in range(8):
        points = rng.uniform(0, np.sqrt(n / 0.15), (8 * n, 2))
        keep = np.ones(len(points), bool)
        for first, second in sorted(cKDTree(points).query_pairs(1.8), key=lambda pair: pair[1]):
            keep[second] &= not keep[first]
        points = points[keep][:n]
        found += len(find_grains(points, np.ones(len(points), bool)))
    assert found == 0


def test_fit_has_errors_that_hold() -> None:
    rng = np.random.default_rng(3)
    ij, at = disc(VECTORS["110"], 15.0)
    pulls = []
    for _ in range(100):
        noisy = at + rng.normal(0, 0.1, at.shape)
        noisy[::40] += rng.normal(0, 3.0, noisy[::40].shape)  # some that are far off
        fit = fit_lattice(ij, noisy)
        pulls.append(np.concatenate([((fit.vectors - VECTORS["110"]) / fit.vector_errors).ravel(),
                                     fit.origin / fit.origin_error]))
    assert 0.9 < np.sqrt(np.mean(np.square(pulls))) < 1.12


def test_misorientation_of_a_twin() -> None:
    first = VECTORS["110"] @ turn(0.3)
    mirror = np.diag([1.0, -1.0])
    twin = VECTORS["110"] @ turn(np.arctan2(8**-0.5, 0.5)) @ mirror @ turn(0.3 - np.arctan2(8**-0.5, 0.5))
    assert abs(np.rad2deg(misorientation(first, twin))) == pytest.approx(70.53, abs=0.01)
    assert misorientation(first, first[::-1]) == pytest.approx(0, abs=1e-9)
    assert misorientation(VECTORS["111"], VECTORS["111"] @ turn(np.deg2rad(50))) == pytest.approx(np.deg2rad(-10))


@pytest.mark.parametrize("kind", sorted(VECTORS))
def test_zone_axis_is_named(kind: str) -> None:
    zone = name_zone(canonical(VECTORS[kind] * 1.02 @ turn(0.7)), "Au")
    assert zone is not None
    assert zone.name == f"[{kind}]"
    assert zone.mismatch == pytest.approx(0.02, abs=1e-3)
    assert np.allclose(zone.vectors, canonical(VECTORS[kind] @ turn(0.7)), atol=0.01)


def test_lattices_of_no_zone_axis() -> None:
    assert name_zone(np.array([[2.7, 0.0], [0.3, 3.1]]), "Au") is None
    assert same_basis(np.eye(2) * 2, np.eye(2) * 3) is None
    assert np.allclose(turned_onto(VECTORS["100"], VECTORS["100"] @ turn(0.3)), VECTORS["100"] @ turn(0.3))


@pytest.mark.parametrize("kind", sorted(VECTORS))
def test_strain_with_errors_that_hold(kind: str) -> None:
    """A strain that changes through the particle, by a formula; the reference is exact."""
    rng = np.random.default_rng(11)
    vectors, k = VECTORS[kind], 0.03 / 18
    ij, p = disc(vectors, 18.0)
    moved = p + np.stack([k * p[:, 0] * p[:, 1], 0.01 * p[:, 0] - k * p[:, 0] ** 2 / 2], 1)
    # d(y)/d(y), d(x)/d(x), half the sum and half the difference of d(x)/d(y) and d(y)/d(x)
    dxdy, dydx = 0.01 - k * p[:, 0], k * p[:, 0]
    truth = np.stack([k * p[:, 1], 0 * dxdy, (dxdy + dydx) / 2, (dxdy - dydx) / 2], 1)
    pulls = []
    for _ in range(6):
        sigma = rng.uniform(0.01, 0.03, p.shape)
        found = local_strain(ij, moved + rng.normal(0, sigma), sigma, vectors)
        pulls.append((found.value - truth) / found.error)
    pulls = np.concatenate(pulls)
    assert np.isfinite(pulls).all(1).mean() > 0.98
    rms = np.sqrt(np.nanmean(pulls**2, axis=0))
    assert (rms > 0.9).all()
    assert (rms < 1.15).all()
    assert np.median(found.error[:, 0]) < 0.006


def test_strain_of_a_turned_lattice_is_a_rotation() -> None:
    ij, p = disc(VECTORS["100"], 9.0)
    found = local_strain(ij, p @ turn(0.01), np.full(p.shape, 0.1), VECTORS["100"])
    assert np.allclose(found.value[:, 3], np.sin(0.01))
    assert np.abs(found.value[:, :3]).max() < 1e-4


def test_a_line_has_no_strain() -> None:
    ij = np.stack([np.arange(12), np.zeros(12, int)], 1)
    assert np.isnan(local_strain(ij, ij * 2.0, np.full((12, 2), 0.1), np.eye(2) * 2).value).all()


def test_places_are_those_where_columns_come_back() -> None:
    rng = np.random.default_rng(5)
    _, at = disc(VECTORS["111"], 12.0)
    frames = 60
    seen = np.concatenate([at[rng.random(len(at)) < 0.9] for _ in range(frames)])
    pooled = np.concatenate([seen + rng.normal(0, 0.12, seen.shape), rng.uniform(-30, 30, (8 * frames, 2))])
    found = find_places(pooled, frames)
    away = np.hypot(*(found.yx[:, None] - at[None]).transpose(2, 0, 1))
    assert (away.min(0) < 0.1).all()
    assert (away.min(1) < 0.1).mean() > 0.98


def test_places_do_not_depend_on_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    _, at = disc(VECTORS["110"], 15.0)
    pooled = np.concatenate([at + rng.normal(0, 0.1, at.shape) for _ in range(12)])
    whole = find_places(pooled, 12).yx
    monkeypatch.setattr("hrtem_dask.kernels.places.TILE", 70)
    tiled = find_places(pooled, 12).yx
    assert np.allclose(whole[np.lexsort(whole.T)], tiled[np.lexsort(tiled.T)])


def test_two_frames_give_one_place_each() -> None:
    """Two columns at one place make a density with two equal samples at its top."""
    rng = np.random.default_rng(1)
    _, at = disc(VECTORS["100"], 12.0)
    pooled = np.concatenate([at + rng.normal(0, 0.1, at.shape) for _ in range(2)])
    found = find_places(pooled, 2)
    assert len(found) == len(at)
    assert (found.seen == 2).all()


def test_one_to_one_is_that_of_the_hungarian_method() -> None:
    """Where every column is within reach of one site at most, the nearest pairs are the best assignment."""
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(8)
    _, sites = disc(VECTORS["110"], 10.0)
    columns = np.concatenate([sites, sites[::3]])
    columns = columns + rng.normal(0, 0.35, columns.shape)
    site, distance, double = assign(columns, np.zeros(len(columns), int), sites, 0.74)
    cost = np.hypot(*(columns[:, None] - sites[None]).transpose(2, 0, 1))
    gain = np.where(cost <= 0.74, 10 - cost, 0)
    a, b = linear_sum_assignment(-gain)
    best = {(int(i), int(j)) for i, j in zip(a, b, strict=True) if gain[i, j] > 0}
    assert {(int(i), int(site[i])) for i in np.flatnonzero(site >= 0)} == best
    assert np.unique(site[site >= 0]).size == (site >= 0).sum()
    assert double.any()
    assert np.isnan(distance[site < 0]).all()


def test_errors_of_mean_positions_hold() -> None:
    rng = np.random.default_rng(9)
    n, sigma = 3000, 0.1
    seen = rng.integers(1, 8, n)
    site = np.repeat(np.arange(n), seen)
    at = rng.normal(0, sigma, (len(site), 2))
    mean = np.stack([np.bincount(site, at[:, k], n) for k in (0, 1)], 1) / seen[:, None]
    pull = mean / position_errors(at - mean[site], site, seen, None)
    assert 0.95 < np.sqrt((pull**2).mean()) < 1.1
