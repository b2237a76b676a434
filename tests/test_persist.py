"""Persisted movies: blocks that a cluster or this process holds give what lazy ones give, bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from hrtem_dask import analyse_particles, connect, label_particles, segment
from hrtem_dask.analysis import particles, tiling
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.kernels import tally
from hrtem_dask.networks import Model, MSDNet
from hrtem_dask.networks.cards import complete_card

CARD = {"classes": ["background", "particle"], "pixel_size": 0.5, "dose_range": [1, 1e4]}


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    net = MSDNet(1, 2, 4, dilations=(1, 2, 3))
    with torch.no_grad():
        net.final_weight.normal_()
    weights = net.to_weights()
    return Model("random", complete_card(CARD, weights, "0" * 64), weights)


@pytest.fixture(params=["threads", "nothing"])
def workers(request: pytest.FixtureRequest) -> Iterator[None]:
    """A cluster, where blocks are futures, or the local scheduler, where they are arrays in the graph."""
    with connect("threads", workers=2) if request.param == "threads" else contextlib.nullcontext():
        yield


def movie_of(shape: tuple[int, int, int], chunks: tuple[int, int, int]) -> xr.DataArray:
    counts = np.random.default_rng(3).poisson(30, shape).astype(np.float32)
    return make_movie(da.from_array(counts, chunks=chunks), pixel_size=0.5)


@pytest.mark.parametrize("chunks", [(1, 50, 45), (2, 50, 45), (1, 100, 90)])
@pytest.mark.parametrize("limit", [tiling.LARGE, 0])
@pytest.mark.parametrize("then", ["nothing", "a task", "a slice"])
def test_segment(workers: None, model: Model, monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, int, int],
                 limit: int, then: str) -> None:
    monkeypatch.setattr(tiling, "LARGE", limit)
    after = {"nothing": lambda m: m, "a task": lambda m: m + 1, "a slice": lambda m: m[:, 7:]}[then]
    movie = movie_of((3, 100, 90), chunks)
    expected = segment(after(movie), model, tile=40).compute(scheduler="sync")
    persisted = movie.persist()
    for _ in range(2):
        np.testing.assert_array_equal(segment(after(persisted), model, tile=40).compute(), expected)


@pytest.mark.parametrize("chunks", [(1, 100, 100), (1, 60, 70), (1, 50, 50), (2, 100, 100)])
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("side", [100, 170])
def test_particles_of_large_frames(workers: None, monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, int, int],
                                   frames: int, side: int) -> None:
    monkeypatch.setattr(particles, "PARTITION_PIXELS", 10)
    monkeypatch.setattr(tally, "TILE", 100)
    movie = movie_of((frames, side, side), chunks)
    y, x = np.mgrid[:side, :side]
    mask = (np.hypot(y - 40, x - 40) < 22) | (np.hypot(y - 97, x - 90) < 12)
    probability = movie.copy(data=da.from_array(np.stack([mask * np.float32(0.9)] * frames), chunks=chunks))
    labels = label_particles(probability)
    expected = analyse_particles(movie, probability).compute(scheduler="sync")
    assert len(expected) == 2 * frames
    held = [a.persist() for a in (movie, probability, labels)]
    for given in ((held[0], probability), (movie, held[1]), (held[0], held[1]), (held[0], held[1], held[2])):
        table = analyse_particles(given[0], given[1], labels=given[2] if len(given) > 2 else None)
        pd.testing.assert_frame_equal(table.compute(), expected, check_exact=True)
