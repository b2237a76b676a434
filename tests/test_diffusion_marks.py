"""Columns that a network invents, weak columns and flicker: what looks like events and is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from diffusion_scenes import scene, true_changes

from hrtem_dask import count_diffusion
from hrtem_dask.kernels.occupancy_fit import fit_chain
from hrtem_dask.kernels.occupancy_model import Reading, Record
from hrtem_dask.kernels.telegraph import read_sites, simulate_sites


def with_ghosts(columns: pd.DataFrame, place: np.ndarray, occupied: np.ndarray, share: float,
                seed: int) -> pd.DataFrame:
    """Add unsure columns anywhere near empty sites, in a share of the looks; true ones are sure."""
    rng = np.random.default_rng(seed)
    frame, site = np.nonzero(~occupied & (rng.random(occupied.shape) < share))
    y, x = (place[site] + rng.uniform(-0.8, 0.8, (len(site), 2))).T
    ghosts = pd.DataFrame({"frame": frame, "time": frame * 0.1, "y": y, "x": x,
                           "probability": rng.uniform(0.4, 0.9, len(frame))})
    sure = columns.assign(probability=np.clip(rng.normal(0.92, 0.06, len(columns)), 0.5, 1))
    return pd.concat([sure, ghosts], ignore_index=True)


def test_invented_columns_are_known_by_their_places_and_doubts() -> None:
    """At every empty site one column in five looks is invented; alone by being seen, they would hide the events."""
    found = scene(11, frames=250, rate=0.2, fpr=0.0)
    table = with_ghosts(found.columns, found.place, found.occupied, 0.2, 1)
    result = count_diffusion(table, drift=False, sites=found.place)
    true = true_changes(found.occupied, np.arange(250))
    mine = {(f, s) for f, s in zip(result.events["frame"], result.events["site"], strict=True)}
    near = sum(any((f + d, s) in true for d in (-2, -1, 0, 1, 2)) for f, s in mine)
    assert near > 0.93 * len(mine)
    assert len(result.events) + (result.events["kind"] == "hop").sum() > 0.85 * len(true)
    assert result.overall.low < found.true_rate() < result.overall.high


def test_marks_are_evidence() -> None:
    """Readings that hardly differ, marks that do: the rate is found by them, and not without them."""
    rng, sites = np.random.default_rng(12), 30
    time = np.arange(600) * 0.1
    states = simulate_sites(rng, time, np.full(sites, 0.15), np.full(sites, 0.15))
    seen = read_sites(rng, states, 0.9, 0.3)
    mark = np.where(rng.random(states.shape) < 0.9, states, 1 - states).astype(np.int8)
    reading, here = Reading(np.zeros(sites, int), np.array([0.9]), np.array([0.3])), np.arange(sites)
    marked = fit_chain([Record(seen, time, here, mark)], reading)
    np.testing.assert_allclose(marked.chain.marks[:, 0], [[0.9, 0.1], [0.1, 0.9]], atol=0.03)
    assert marked.chain.appear[0] == pytest.approx(0.15, rel=0.2)
    assert marked.totals.marked.sum() == pytest.approx(marked.totals.hits.sum())  # by mark they add up to columns


def test_weak_columns_at_rest_are_no_movers() -> None:
    """Static columns that are seen in half of the frames, at random: no event, and no rate that they make."""
    still = scene(13, frames=300, rate=0.0, tpr=0.97, fpr=0.003)
    rng = np.random.default_rng(1)
    site = np.hypot(*(still.columns[["y", "x"]].to_numpy()[:, None] - still.place[None]).T).argmin(0)
    weak = np.isin(site, still.mobile[:4]) & (rng.random(len(site)) < 0.5)
    result = count_diffusion(still.columns[~weak], drift=False, sites=still.place)
    assert len(result.events) == 0
    assert result.overall.limit
    assert result.overall.high < 0.02
