"""Dwells, scatter, several particles and dose rates."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from diffusion_scenes import scene

from hrtem_dask import count_diffusion, fit_dose_rate, pool_diffusion
from hrtem_dask.core.errors import InputError
from hrtem_dask.kernels.dwell import bootstrap_rate, dispersion, dose_rate_law, exponential_rate, survival
from hrtem_dask.kernels.hops import Changes, hysteresis, pair_hops


@pytest.fixture(scope="module")
def three():
    """Movies of three particles at three rates."""
    scenes = [scene(seed, frames=200, rate=rate, side=5) for seed, rate in ((1, 0.1), (2, 0.2), (3, 0.4))]
    return [count_diffusion(s.columns, drift=False, sites=s.place) for s in scenes]


def test_survival_of_exponential_dwells_that_are_cut_off() -> None:
    rng = np.random.default_rng(0)
    length, watched = rng.exponential(3.0, 4000), rng.uniform(0, 8, 4000)
    found = survival(np.minimum(length, watched), length <= watched)
    at = np.searchsorted(found.time, [1.0, 3.0, 5.0]) - 1
    np.testing.assert_allclose(found.share[at], np.exp(-np.array([1.0, 3.0, 5.0]) / 3), atol=0.03)
    assert ((found.low <= found.share) & (found.share <= found.high))[:-1].all()
    naive = (np.minimum(length, watched)[length <= watched] > 3).mean()
    assert naive < 0.8 * np.exp(-1)  # those that ended alone would be too short
    rate, low, high = exponential_rate(np.minimum(length, watched), length <= watched)
    assert low < 1 / 3 < high
    assert rate == pytest.approx(1 / 3, rel=0.06)


def test_late_entry_is_no_long_dwell() -> None:
    rng = np.random.default_rng(1)
    length, entry = rng.exponential(2.0, 6000), rng.uniform(0, 3, 6000)
    there = length > entry
    found = survival(length[there], np.ones(there.sum(), bool), entry[there])
    at = np.searchsorted(found.time, 3.0) - 1
    base = np.searchsorted(found.time, 0.3) - 1
    assert found.share[at] / found.share[base] == pytest.approx(np.exp(-2.7 / 2), abs=0.05)


def test_dwells_of_a_movie_follow_its_rates(three) -> None:
    for result, rate in zip(three, (0.1, 0.2, 0.4), strict=True):
        for state in ("occupied", "empty"):
            found, low, high = result.dwell_rates[state]
            assert 0.4 * rate < found < 2.2 * rate
            assert low < found < high
    assert set(three[2].dwell["state"]) == {"occupied", "empty"}
    assert three[2].dwell["share"].between(0, 1).all()


def test_scatter_is_told_from_chance() -> None:
    rng = np.random.default_rng(2)
    even = [dispersion(rng.poisson(8, 40), np.ones(40)).p_value for _ in range(200)]
    assert 0.005 < np.mean(np.array(even) < 0.05) < 0.12
    bursts = dispersion(5 * rng.poisson(2, 40), np.ones(40))
    assert bursts.ratio > 3
    assert bursts.p_value < 1e-6
    held = 0
    for _ in range(150):
        counts = rng.poisson(rng.gamma(4, 2, 15))  # rates differ by half
        low, high = bootstrap_rate(counts, np.ones(15), draws=400)
        held += low <= 8 <= high
    assert held > 0.87 * 150


def test_particles_together(three) -> None:
    one = pool_diffusion([three[0], three[0]])
    assert not one.overdispersed
    assert one.rate == pytest.approx(three[0].overall.events_worth / three[0].overall.exposure_worth)
    assert one.high - one.low < three[0].overall.high - three[0].overall.low
    several = pool_diffusion(three)
    assert several.overdispersed
    assert several.low < 0.23 < several.high
    assert len(several.particles) == 3
    with pytest.raises(InputError, match="the list is empty"):
        pool_diffusion([])


def test_rate_against_dose_rate(three) -> None:
    law = fit_dose_rate(three, [100, 200, 400])
    assert law.slope == pytest.approx(1e-3, rel=0.4)
    assert law.slope_low > 0
    assert law.thermal_low <= law.thermal <= law.thermal_high
    with pytest.raises(InputError, match="two different"):
        fit_dose_rate(three, [100, 100, 100])
    with pytest.raises(InputError, match="2 dose rates"):
        fit_dose_rate(three, [100, 200])
    with pytest.raises(InputError, match="dose_rate"):
        fit_dose_rate(pd.DataFrame({"events": [1], "exposure": [2.0]}))


def test_dose_rate_law_covers() -> None:
    rng = np.random.default_rng(3)
    dose, exposure = np.array([50.0, 100, 200, 400]), np.array([300.0, 300, 200, 100])
    held = np.zeros(2)
    for _ in range(25):
        law = dose_rate_law(rng.poisson((0.05 + 5e-4 * dose) * exposure), exposure, dose)
        held += [law.thermal_low <= 0.05 <= law.thermal_high, law.slope_low <= 5e-4 <= law.slope_high]
    assert (held > 0.8 * 25).all()
    none = dose_rate_law(np.array([30.0, 28, 22, 9]), exposure, dose)
    assert none.slope_low == 0
    assert none.p_value > 0.05


def test_hysteresis_is_slower_and_falser() -> None:
    """The plain rule against the truth: it needs its dwell, and misreads in a row deceive it."""
    rng = np.random.default_rng(4)
    still = (rng.random((20000, 4)) < 0.85).astype(np.int8)
    assert (np.diff(hysteresis(still, 2), axis=0) != 0).sum() > 100
    assert (np.diff(hysteresis(still, 6), axis=0) != 0).sum() < 10
    clear = np.repeat([[1], [0], [-1], [0], [1]], 10, axis=0).astype(np.int8)
    assert hysteresis(clear, 3).ravel().tolist() == [1] * 10 + [0] * 30 + [1] * 10


def test_hops_pair_most_and_nearest_in_time() -> None:
    """Two columns leave, two neighbours fill: both are hops, whichever way round they are listed."""
    changes = Changes(np.array([5, 5, 5, 6, 9]), np.array([4, 4, 4, 5, 8]), np.array([0, 1, 2, 3, 4]),
                      np.array([False, False, True, True, True]))
    near = np.array([[0, 2], [2, 0], [1, 2], [2, 1], [0, 3], [3, 0], [3, 4], [4, 3], [1, 4], [4, 1]])
    pairs = pair_hops(changes, near)
    assert {tuple(p) for p in pairs.tolist()} == {(1, 2), (0, 3)}
    assert len(pair_hops(changes, near, within=0)) == 1
    assert len(pair_hops(changes, np.zeros((0, 2), int))) == 0
