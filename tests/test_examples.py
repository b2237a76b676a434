"""The PyTorch data set of drawn examples: the same for any number of workers, within a bounded memory."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from hrtem_dask.core.errors import InputError
from hrtem_dask.networks.examples import Examples, SampleCache, size_of
from hrtem_dask.networks.sources import Simulated
from hrtem_dask.networks.steps import Settings, Worker
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.set_store import begin, gather, write_sample
from hrtem_dask.simulate.sets import Sample, open_dataset

BOX, FIELDS = 32.0, 6
RECIPE = {"name": "blobs", "field": {"box": BOX}, "particles": {"diameter": [8, 12]},
          "imaging": {"pixel_size": [0.3, 0.6], "dose": [500, 2000], "defocus": [0, 100]}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Fields of one absorbing disc each, whose column is its middle; field i absorbs more than field i - 1."""
    path = tmp_path_factory.mktemp("examples") / "set.zarr"
    begin(load_recipe(RECIPE), path, FIELDS, 1)
    for i in range(FIELDS):
        y, x = 12 + i, 20 - i

        def disc(n: int, y: float = y, x: float = x) -> np.ndarray:
            t = np.arange(n) * BOX / n
            return np.hypot(t[:, None] - y, t - x) < 6

        wave = (1 - 0.1 * (i + 1) * disc(64)).astype(np.complex64)
        columns = pd.DataFrame({"y": [float(y)], "x": [float(x)], "class": ["column"]})
        write_sample(path, i, Sample(wave, disc(128), 20 * disc(32).astype(np.float32), {"box": BOX}, columns=columns))
    gather(path)
    return open_dataset(path)


def batches(data, workers, **options):
    examples = Examples(data, length=7, size=32, batch=2, **options)
    return list(DataLoader(examples, batch_size=2, num_workers=workers,
                           multiprocessing_context="spawn" if workers else None))


def test_batches_are_the_same_for_any_number_of_loading_processes(data):
    here, there = batches(data, 0), batches(data, 2)
    assert [tuple(x.shape) for x, _ in here] == [(2, 1, 32, 32)] * 3 + [(1, 1, 32, 32)]
    for (x, y), (u, v) in zip(here, there, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert here[0][1].dtype == torch.int64


def test_every_example_is_new_and_follows_from_seed_and_step(data):
    examples = Examples(data, length=10**9, size=32, batch=4)
    first = examples[5][0]
    assert torch.equal(first, examples[5][0])
    assert torch.equal(first, torch.from_numpy(examples.draw(1, 1)[0])[None])
    assert not torch.equal(first, examples[6][0])
    assert not torch.equal(first, Examples(data, length=9, size=32, batch=4, seed=2)[5][0])
    assert examples[10**9 - 1][0].shape == (1, 32, 32)
    with pytest.raises(IndexError):
        examples[10**9]


def test_training_draws_what_the_data_set_gives(data):
    worker = Worker(Settings(size=32, batch=2, seed=9), Simulated(data, data))
    examples = Examples(data, length=8, size=32, batch=2, seed=9)
    image, truth = worker.draw(3, 1)
    np.testing.assert_array_equal(examples[7][0][0], image)
    np.testing.assert_array_equal(examples[7][1], truth)


def test_the_cache_keeps_what_fits_and_changes_nothing(data):
    one = size_of(data.read(0, instances=False))
    tight = Examples(data, length=40, size=32, cache=int(2.5 * one))
    roomy = Examples(data, length=40, size=32)
    for i in range(40):
        assert torch.equal(tight[i][0], roomy[i][0])
        assert tight.samples.held <= 2.5 * one
    assert roomy.samples.reads == FIELDS
    assert FIELDS < tight.samples.reads <= 40
    assert Examples(data, length=1, size=32, cache=0)[0][0].shape == (1, 32, 32)


def test_the_cache_forgets_the_oldest_and_travels_empty(data):
    one = size_of(data.read(0, instances=False))
    cache = SampleCache(data, 2 * one)
    for i in (0, 1, 0, 2, 0):
        assert abs(cache[i].wave).min() == pytest.approx(1 - 0.1 * (i + 1), abs=1e-3)
    assert (list(cache.kept), cache.reads) == ([2, 0], 3)
    again = pickle.loads(pickle.dumps(cache))
    assert (again.reads, again.limit, len(again.kept)) == (0, 2 * one, 0)


def test_columns_can_be_learnt_instead_of_particles(data):
    image, label = Examples(data, length=3, size=32, classes=("column",))[1]
    assert label.shape == (2, 32, 32)
    assert label.dtype == torch.float32
    assert torch.allclose(label.sum(0), torch.ones(32, 32))
    assert image.shape == (1, 32, 32)


def test_what_makes_no_sense_is_refused(data):
    with pytest.raises(InputError, match="length = 0"):
        Examples(data, length=0)
    with pytest.raises(InputError, match="pixel_size = 0"):
        Examples(data, length=1, pixel_size=0)
