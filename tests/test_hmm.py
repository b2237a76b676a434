"""Hidden chains against all paths written out, and rates with intervals against the truth."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from hrtem_dask.kernels.event_rates import exact_interval, rate_interval, scan_rate
from hrtem_dask.kernels.hmm import (
    likelihood_ratio,
    log_evidence,
    most_probable_path,
    moves,
    path_moments,
    smooth,
)
from hrtem_dask.kernels.occupancy_fit import expectations, fit_chain, profile_rates, shrunk
from hrtem_dask.kernels.occupancy_model import Reading, Record
from hrtem_dask.kernels.telegraph import read_sites, simulate_sites


def all_paths(seen: np.ndarray, time: np.ndarray, appear: float, disappear: float, tpr: float,
              fpr: float) -> tuple[np.ndarray, np.ndarray]:
    """Every path of one site and its joint probability with what was seen."""
    generator = np.array([[-appear, appear], [disappear, -disappear]])
    steps = [expm(generator * gap) for gap in np.diff(time)]
    paths = np.array(list(product((0, 1), repeat=len(seen))))
    weight = np.full(len(paths), 0.5)
    for t, value in enumerate(seen):
        if t:
            weight *= steps[t - 1][paths[:, t - 1], paths[:, t]]
        if value >= 0:
            p = np.where(paths[:, t] == 1, tpr, fpr)
            weight *= p if value else 1 - p
    return paths, weight


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=2, max_size=9), st.floats(0.02, 5), st.floats(0.02, 5),
       st.floats(0.55, 0.999), st.floats(0.001, 0.4), st.integers(0, 2**31))
def test_against_all_paths(seen: list[int], appear: float, disappear: float, tpr: float, fpr: float,
                           seed: int) -> None:
    time = np.cumsum(np.random.default_rng(seed).choice([0.1, 0.2, 0.7], len(seen)))
    paths, weight = all_paths(np.array(seen), time, appear, disappear, tpr, fpr)
    column = np.array(seen, np.int8)[:, None]
    ratio = likelihood_ratio(column, np.array([tpr]), np.array([fpr]))
    gaps, which = np.unique(np.diff(time), return_inverse=True)
    step = moves(gaps[:, None], appear, disappear)
    found = smooth(ratio, step, which)
    np.testing.assert_allclose(found.occupied[:, 0], weight @ paths / weight.sum(), atol=1e-9)
    total = found.log_likelihood + log_evidence(column, np.array([fpr]))
    assert total[0] == pytest.approx(np.log(weight.sum()), abs=1e-9)
    both = np.array([[[weight[(paths[:, t] == a) & (paths[:, t + 1] == b)].sum() for t in range(len(seen) - 1)]
                      for b in (0, 1)] for a in (0, 1)]) / weight.sum()
    np.testing.assert_allclose(found.moved(step, which)[..., 0], both, atol=1e-9)
    best = most_probable_path(ratio, step, which)[:, 0]
    mine = weight[(paths == best).all(1)][0]
    assert mine == pytest.approx(weight.max(), rel=1e-9)


@pytest.mark.parametrize(("appear", "disappear", "gap"), [(0.3, 0.3, 0.1), (2.0, 0.5, 1.3), (1e-7, 1e-7, 0.1)])
def test_moments_between_frames(appear: float, disappear: float, gap: float) -> None:
    """Against a fine chain of small steps."""
    n = 4000
    one = np.array([[1 - appear * gap / n, appear * gap / n], [disappear * gap / n, 1 - disappear * gap / n]])
    ahead = np.stack([np.linalg.matrix_power(one, n - i - 1) for i in range(0, n, 40)])
    behind = np.stack([np.linalg.matrix_power(one, i) for i in range(0, n, 40)])
    ends = np.linalg.matrix_power(one, n)
    found = path_moments(np.array(gap), np.array(appear), np.array(disappear))
    for a, b in product((0, 1), repeat=2):
        up = (behind[:, a, 0] * one[0, 1] * ahead[:, 1, b]).sum() * 40 / ends[a, b]
        on = (behind[:, a, 1] * ahead[:, 1, b]).sum() * 40 * gap / n / ends[a, b]
        assert found.appeared[a, b] == pytest.approx(up, rel=0.03, abs=1e-6)
        assert found.occupied[a, b] == pytest.approx(on, rel=0.03, abs=0.03 * gap)


def test_gaps_are_no_news() -> None:
    """A frame in which nothing is known changes nothing, whether it is listed or left out."""
    rng = np.random.default_rng(1)
    seen = rng.integers(0, 2, (40, 7)).astype(np.int8)
    dark = rng.random(40) < 0.4
    dark[[0, -1]] = False
    seen[dark] = -1
    time = np.arange(40) * 0.1
    fit = fit_chain([Record(seen, time, np.arange(7))], Reading(np.zeros(7, int), np.array([0.9]), np.array([0.05])))
    whole = expectations([Record(seen, time, np.arange(7))], fit.chain)
    without = expectations([Record(seen[~dark], time[~dark], np.arange(7))], fit.chain)
    for one, other in zip(whole, without, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_long_and_sure_records_stay_finite() -> None:
    seen = np.ones((3000, 2), np.int8)
    seen[1500:, 1] = 0
    ratio = likelihood_ratio(seen, np.full(2, 1 - 1e-6), np.full(2, 1e-6))
    step, which = moves(np.array([[0.1]]), 1e-8, 1e-8), np.zeros(2999, int)
    found = smooth(ratio, step, which)
    assert np.isfinite(found.occupied).all()
    assert np.isfinite(found.log_likelihood).all()
    np.testing.assert_array_equal(found.occupied.round(), seen)
    np.testing.assert_array_equal(most_probable_path(ratio, step, which), seen)


def test_rates_and_readings_are_found() -> None:
    """Without being told any of them; sites differ in how well they are seen."""
    rng = np.random.default_rng(2)
    tpr = rng.choice([0.85, 0.98], 60)
    time = np.arange(1500) * 0.1
    states = simulate_sites(rng, time, np.full(60, 0.1), np.full(60, 0.2))
    seen = read_sites(rng, states, tpr, 0.02)
    fit = fit_chain([Record(seen, time, np.arange(60))], Reading(np.zeros(60, int)))
    assert fit.chain.appear[0] == pytest.approx(0.1, rel=0.2)
    assert fit.chain.disappear[0] == pytest.approx(0.2, rel=0.2)
    assert np.abs(fit.chain.tpr - tpr).mean() < 0.02
    assert fit.chain.fpr.mean() == pytest.approx(0.02, abs=0.005)


def test_static_sites_do_not_dilute() -> None:
    rng = np.random.default_rng(3)
    time = np.arange(600) * 0.1
    states = np.concatenate([simulate_sites(rng, time, np.full(15, 0.2), np.full(15, 0.2)),
                             np.tile(np.repeat([1, 0], 30), (600, 1))], axis=1)
    seen = read_sites(rng, states, 0.92, 0.02)
    fit = fit_chain([Record(seen, time, np.arange(75))], Reading(np.zeros(75, int)), shares=[[0.34, 0.33, 0.33]])
    np.testing.assert_array_equal(fit.kinds.argmax(0), np.repeat([0, 1, 2], [15, 30, 30]))
    assert fit.chain.appear[0] == pytest.approx(0.2, rel=0.35)


def test_pools_keep_what_differs_and_share_what_does_not() -> None:
    rng = np.random.default_rng(4)
    pool = np.repeat([0, 1], 40)
    looks = np.full(80, 400.0)
    alike, apart = rng.binomial(400, 0.95, 40), rng.binomial(400, rng.choice([0.8, 0.99], 40))
    found = shrunk(np.append(alike, apart).astype(float), looks, pool)
    assert np.ptp(found[:40]) < 0.01
    assert np.ptp(found[40:]) > 0.15


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 400), st.floats(0.1, 1e4))
def test_sure_counts_have_the_exact_interval(events: int, exposure: float) -> None:
    found = scan_rate(lambda s: events * np.log(s) - max(events, 1) * s, np.array([float(max(events, 1))]))[0]
    low, high = (float(v) * exposure / max(events, 1) for v in exact_interval(events, exposure))
    assert found.high == pytest.approx(high, rel=0.02)
    assert found.low == pytest.approx(low, rel=0.02, abs=1e-9)


def test_no_event_gives_a_limit() -> None:
    rates = np.append(1e-6, np.geomspace(1e-3, 1, 80))
    found = rate_interval(rates, -100 * rates)
    assert found.low == 0
    assert found.rate < 1e-4
    assert found.high == pytest.approx(3.69 / 100, rel=0.03)


def test_limit_of_a_frozen_particle_uses_the_exposure() -> None:
    """Sites that never change, read badly: three events in all that was seen, about, could have escaped."""
    rng = np.random.default_rng(5)
    states = np.tile(np.repeat([0, 1], 10), (400, 1))
    record = Record(read_sites(rng, states, 0.93, 0.02), np.arange(400) * 0.1, np.arange(20))
    fit = fit_chain([record], Reading(np.zeros(20, int)))
    base = fit.chain.appear[0], fit.chain.disappear[0]
    found = scan_rate(lambda s: profile_rates([record], fit.chain, fit.totals, s), np.array([0.3]))[0]
    assert found.high * np.mean(base) * 20 * 40 == pytest.approx(3.7, abs=1.5)


def test_intervals_cover() -> None:
    """Small movies with missing blocks: nearly all intervals at 95 % hold the truth, and the estimate is not biased."""
    rng, movies, sites, rate = np.random.default_rng(6), 120, 12, 0.15
    kept = np.ones(250, bool)
    kept[40:60] = kept[150:185] = False
    time, pool = np.arange(250) * 0.1, np.repeat(np.arange(movies), sites)
    states = simulate_sites(rng, time, np.full(movies * sites, rate), np.full(movies * sites, rate))
    record = Record(read_sites(rng, states, 0.93, 0.02)[kept], time[kept], np.arange(movies * sites))
    fit = fit_chain([record], Reading(pool), group=pool, stratum=pool, rounds=25)
    sums = [np.bincount(pool, v) for v in (fit.totals.appeared + fit.totals.disappeared, fit.totals.occupied,
                                           fit.totals.duration)]
    base = (fit.chain.appear * (sums[2] - sums[1]) + fit.chain.disappear * sums[1]) / sums[2]
    found = np.array(scan_rate(lambda s: profile_rates([record], fit.chain, fit.totals, s), sums[0]))[:, :3]
    found *= base[:, None]
    covered = (found[:, 1] <= rate) & (rate <= found[:, 2])
    assert covered.mean() > 0.89  # 95 % in many; this is three standard errors below
    assert found[:, 0].mean() == pytest.approx(rate, rel=0.08)
