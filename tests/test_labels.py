"""`label_particles`: right, lazy, and equal for any chunks."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hrtem_dask.analysis import labels as module
from hrtem_dask.analysis.labels import label_particles
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.core.provenance import history_of


def maps(data, **kwargs):
    return make_movie(data, name="probability", **kwargs)


def slow(mask, min_pixels=0):
    """Flood fill from each pixel in reading order: the definition."""
    labels, count = np.zeros(mask.shape, int), 0
    for start in np.argwhere(mask):
        if labels[tuple(start)]:
            continue
        stack, members = [tuple(start)], {tuple(start)}
        while stack:
            i, j = stack.pop()
            for a in range(max(0, i - 1), min(mask.shape[0], i + 2)):
                for b in range(max(0, j - 1), min(mask.shape[1], j + 2)):
                    if mask[a, b] and (a, b) not in members:
                        members.add((a, b))
                        stack.append((a, b))
        good = len(members) >= min_pixels
        count += good
        for m in members:
            labels[m] = count if good else -1
    return np.maximum(labels, 0)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), large=st.booleans())
def test_any_chunks_give_the_definition(data, large):
    ny, nx = data.draw(st.integers(1, 24)), data.draw(st.integers(1, 24))
    density = data.draw(st.sampled_from([0.1, 0.3, 0.45, 0.7, 0.0, 1.0]))
    least = data.draw(st.sampled_from([None, 2, 5]))
    p = np.random.default_rng(ny * 25 + nx).random((2, ny, nx))
    p = np.where(p < density, 0.9, 0.1).astype("f4")

    def chunks_of(n):
        cuts = data.draw(st.lists(st.integers(1, n), max_size=4, unique=True))
        return tuple(np.diff(sorted({0, n, *cuts})).tolist())

    movie = maps(da.from_array(p, chunks=tuple(chunks_of(n) for n in p.shape)), pixel_size=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", 0 if large else 10**9)
        labels = label_particles(movie, min_area=None if least is None else least * 0.25)
    found = labels.compute(scheduler="sync")
    assert found.dtype == np.int32
    for frame in range(2):
        np.testing.assert_array_equal(found[frame], slow(p[frame] > 0.5, least or 0))


def test_a_spiral_through_many_blocks_is_one_particle(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 0)
    n = 61
    mask = np.zeros((n, n), bool)
    for k in range(0, n // 2, 4):
        mask[k, k:n - k] = mask[n - 1 - k, k:n - k] = mask[k:n - k, n - 1 - k] = mask[k + 4:n - k, k] = True
        mask[k + 4, k:k + 5] = True
    expected, count = ndimage.label(mask, structure=np.ones((3, 3)))
    assert count == 1
    labels = label_particles(maps(da.from_array(mask[None], chunks=(1, 7, 11))))
    assert labels.data.numblocks == (1, 9, 6)
    np.testing.assert_array_equal(labels[0], expected)


def test_the_class_particle_is_taken():
    p = np.zeros((2, 3, 4, 5), "f4")
    p[1, 2, 1, 1] = 0.9
    p[:, 0] = 1
    dims = ("frame", "class", "y", "x")
    data = xr.DataArray(p, dims=dims, coords={"class": ["background", "column", "particle"], "frame": [4, 7]})
    labels = label_particles(data)
    assert labels.dims == ("frame", "y", "x")
    assert "class" not in labels.coords
    assert labels.frame.values.tolist() == [4, 7]
    assert labels.values.sum() == 1
    assert labels.values[1, 1, 1] == 1
    with pytest.raises(InputError, match=r"'background', 'column'"):
        label_particles(data[:, :2])
    with pytest.raises(InputError, match="particle"):
        label_particles(data.drop_vars("class"))


def test_threshold_area_and_nan():
    p = np.array([[[0.5, 0.2, 0.51, 0.6], [0.2, 0.2, 0.2, 0.2], [np.nan, 0.2, 0.2, 0.9]]])
    assert label_particles(maps(p)).values.tolist() == [[[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 2]]]
    assert label_particles(maps(p), threshold=0.55).values[0, 0].tolist() == [0, 0, 0, 1]
    calibrated = maps(p, pixel_size=(0.5, 0.2))
    assert label_particles(calibrated, min_area=0.2).values.max() == 1  # two pixels are 0.2 square angstrom
    assert label_particles(calibrated, min_area=0.21).values.max() == 0
    with pytest.raises(CalibrationError, match="no pixel size"):
        label_particles(maps(p), min_area=1)


@pytest.mark.parametrize("bad", [{"threshold": np.nan}, {"threshold": "half"}, {"min_area": -1}, {"min_area": "big"}])
def test_options_that_make_no_sense(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        label_particles(maps(np.zeros((1, 4, 4)), pixel_size=1), **bad)


def test_other_dims_are_refused():
    with pytest.raises(InputError, match="dims"):
        label_particles(maps(np.zeros((1, 4, 4)))[0])
    with pytest.raises(InputError, match="DataArray"):
        label_particles(np.zeros((1, 4, 4)))


@pytest.mark.parametrize("piece", [0, 10**9])
def test_nothing_is_computed_and_coordinates_stay(monkeypatch, piece):
    def explode(*args, **kwargs):
        raise AssertionError("computed")

    monkeypatch.setattr(module, "PIECE", piece)
    movie = maps(da.zeros((3, 20, 20), chunks=(1, 7, 20)), pixel_size=0.5, time=[0, 1, 3])
    with dask.config.set(scheduler=explode):
        labels = label_particles(movie, min_area=10)
    for name in ("frame", "time", "y", "x"):
        xr.testing.assert_identical(labels[name], movie[name])
    assert history_of(labels.attrs)[-1]["parameters"] == {"threshold": 0.5, "min_area": 10}
    assert label_particles(movie, min_area=10).data.name == labels.data.name


def test_processes_agree(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 0)
    p = np.random.default_rng(0).random((2, 40, 40)) * 0.8
    labels = label_particles(maps(da.from_array(p, chunks=(1, 13, 40))))
    np.testing.assert_array_equal(labels.compute(scheduler="processes", num_workers=2), label_particles(maps(p)))
