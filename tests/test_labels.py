"""`label_particles`: right, lazy, and equal for any chunks."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask._task_spec import convert_legacy_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hrtem_dask.analysis import labels as module
from hrtem_dask.analysis.labels import label_particles
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.core.provenance import history_of
from hrtem_dask.kernels import labels as kernel
from hrtem_dask.kernels.runs import fill_runs, find_runs, relabel_runs


def maps(data, **kwargs):
    return make_movie(data, name="probability", **kwargs)


@pytest.fixture
def blocks(monkeypatch):
    """Frames of any size are labelled in blocks, and small chunks are blocks."""
    monkeypatch.setattr(module, "PIECE", 0)
    monkeypatch.setattr(module, "NARROW", 1)


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
        patch.setattr(module, "NARROW", data.draw(st.sampled_from([1, 5])))
        patch.setattr(module, "WIDE", data.draw(st.sampled_from([6, 11])))
        labels = label_particles(movie, min_area=None if least is None else least * 0.25)
    found = labels.compute(scheduler="sync")
    assert found.dtype == np.int32
    for frame in range(2):
        np.testing.assert_array_equal(found[frame], slow(p[frame] > 0.5, least or 0))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_blocks_of_any_size_agree_with_scipy_on_the_whole_frame(data):
    shape = data.draw(st.integers(30, 150)), data.draw(st.integers(30, 150))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    # 0.4 is where regions of 8 neighbours begin to percolate: they wind through many blocks
    mask = rng.random(shape) < data.draw(st.sampled_from([0.05, 0.35, 0.4, 0.45]))
    if data.draw(st.booleans()):
        mask = ndimage.binary_dilation(mask & (rng.random(shape) < 0.05), iterations=3)
    chunks = tuple(data.draw(st.integers(5, 60)) for _ in shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", 0)
        patch.setattr(module, "NARROW", 1)
        labels = label_particles(maps(da.from_array(mask[None], chunks=(1, *chunks))))
    expected = ndimage.label(mask, structure=np.ones((3, 3)))[0]  # scipy numbers in raster order too
    np.testing.assert_array_equal(labels.data.compute(scheduler="sync")[0], expected)


@pytest.mark.parametrize("on", [[(6, 6), (7, 7)], [(6, 7), (7, 6)], [(6, 6), (7, 6), (6, 7), (7, 7)], [(6, 6), (8, 8)]])
def test_a_corner_where_four_blocks_meet(blocks, on):
    mask = np.zeros((14, 14), bool)
    mask[tuple(np.transpose(on))] = True
    labels = label_particles(maps(da.from_array(mask[None], chunks=(1, 7, 7))))
    np.testing.assert_array_equal(labels[0], ndimage.label(mask, structure=np.ones((3, 3)))[0])


def test_a_spiral_through_many_blocks_is_one_particle(blocks):
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


def test_only_small_summaries_of_a_whole_frame_meet_in_a_task():
    data = da.full((1, 20000, 30000), np.float32(0.9), chunks=(1, 512, 30000))
    labels = label_particles(maps(data)).data
    assert max(labels.chunks[1]) <= 4096
    assert max(labels.chunks[2]) <= 4096
    graph = convert_legacy_graph(dict(labels.dask))
    users = {}
    for key, task in graph.items():
        for needed in task.dependencies:
            users.setdefault(needed, set()).add(key)
    stages = {stage: [k for k in graph if isinstance(k, tuple) and k[0].startswith(f"labels-{stage}-")]
              for stage in ("survey", "runs", "summary", "merge", "final")}
    assert len(stages["merge"]) == 1
    assert len(graph) < 30 * labels.npartitions  # a share of the graph for each block
    (merge,) = stages["merge"]
    assert graph[merge].dependencies == set(stages["summary"])
    for key in stages["final"]:  # pixels wait for the merge as runs only
        assert {k[0].split("-")[1] for k in graph[key].dependencies} == {"runs", "merge"}
    for key in stages["survey"]:
        assert {k[0].split("-")[1] for k in users[key]} == {"runs", "summary"}


def test_runs_of_particles_are_small_and_come_back():
    rng = np.random.default_rng(2)
    mask = ndimage.gaussian_filter(rng.normal(size=(600, 500)), 8) > 0.02
    labels = ndimage.label(mask, structure=np.ones((3, 3)), output=np.int32)[0]
    runs = find_runs(labels)
    np.testing.assert_array_equal(fill_runs(runs), labels)
    assert sum(a.nbytes for a in (runs.start, runs.length, runs.label)) < 0.05 * labels.nbytes
    for edge in (np.zeros((3, 4), int), np.ones((3, 4), int), np.full((1, 5), -1), np.arange(6).reshape(2, 3)):
        np.testing.assert_array_equal(fill_runs(find_runs(edge)), np.maximum(edge, 0))


def test_more_particles_than_int32_counts_are_refused(monkeypatch):
    monkeypatch.setattr(kernel, "MOST", 3)
    mask = np.array([[1, 0, 1, 0, 1]], bool)
    assert kernel.label_frame(mask).max() == 3
    with pytest.raises(InputError, match="4 particles"):
        kernel.label_frame(np.array([[1, 0, 1, 0, 1, 0, 1]], bool))


def test_many_regions_merge_without_slow_loops():
    """A hundred thousand specks in 64 blocks: one merge, numbered as scipy numbers the whole frame."""
    n, block = 1536, 192
    mask = np.random.default_rng(0).random((n, n)) < 0.12
    expected, count = ndimage.label(mask, structure=np.ones((3, 3)))
    assert count > 1e5
    surveys = [[kernel.survey_block(mask[i:i + block, j:j + block]) for j in range(0, n, block)]
               for i in range(0, n, block)]
    final = kernel.merge([[summary for _, summary in row] for row in surveys])
    whole = np.block([[fill_runs(relabel_runs(runs, f)) for (runs, _), f in zip(row, line, strict=True)]
                      for row, line in zip(surveys, final, strict=True)])
    np.testing.assert_array_equal(whole, expected)


def test_processes_agree(blocks):
    p = np.random.default_rng(0).random((2, 40, 40)) * 0.8
    labels = label_particles(maps(da.from_array(p, chunks=(1, 13, 40))))
    np.testing.assert_array_equal(labels.compute(scheduler="processes", num_workers=2), label_particles(maps(p)))
