"""Fitness of frames from their raw pixels: what is wrong is named, what is not is left alone."""

from __future__ import annotations

import importlib

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from frame_scenes import CAMERA, PIXEL, film_movie

import hrtem_dask
from hrtem_dask import frame_quality
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import InputError
from hrtem_dask.core.schema import FRAME_QUALITY
from hrtem_dask.kernels.frame_quality import bins_of, measure_part, pair_noise

MOVED = {5: (3.0, 0.0), 12: (2.1, 2.1), 19: (0.0, 3.0)}
LATTICE = tuple(range(8, 16))


@pytest.fixture(scope="module")
def movie() -> xr.DataArray:
    """One frame of vacuum, three that moved, one of a third of the dose; a lattice comes and goes."""
    return film_movie(26, moved=MOVED, vacuum=(2,), doses={20: 130.0}, lattice=LATTICE)


@pytest.fixture(scope="module")
def table(movie):
    return frame_quality(movie)


def test_every_frame_has_its_reason(table, movie):
    assert table.frame.tolist() == list(range(26))
    assert list(table.columns) == FRAME_QUALITY.names
    wrong = {i: r for i, r in zip(table.frame, table.reason.astype(str), strict=True) if r != "usable"}
    assert wrong == dict.fromkeys(MOVED, "blurred") | {2: "empty"}
    assert np.array_equal(table.time, movie.time)


def test_motion_is_measured_in_angstrom_and_has_a_direction(table):
    moved = table.set_index("frame").loc[list(MOVED)]
    # a steady drift over the length L has the variance L^2 / 12
    assert np.allclose(moved.blur, 3 / 12**0.5, rtol=0.35)
    off = np.abs((moved.blur_angle - np.deg2rad([0, 45, 90]) + np.pi / 2) % np.pi - np.pi / 2)
    assert (off < 0.2).all()
    still = table[~table.frame.isin([*MOVED, 2])]
    assert still.sharpness.min() > 0.6


def test_a_known_mtf_gives_the_same_verdicts(table, movie):
    known = frame_quality(movie, mtf=CAMERA)
    assert known.reason.tolist() == table.reason.tolist()
    assert np.isclose(known.contrast.median(), table.contrast.median(), rtol=0.25)
    assert np.allclose(known.blur[list(MOVED)], 3 / 12**0.5, rtol=0.35)


def test_noise_of_neighbours_is_that_of_the_camera(movie):
    bins = bins_of((256, 256), (PIXEL, PIXEL))
    known = bins_of((256, 256), (PIXEL, PIXEL), CAMERA)
    counts = movie.values
    found = np.median([pair_noise(counts[i], counts[i + 1], (256, 256), bins) for i in range(6, 11)], axis=0)
    true = np.array([known.floor[known.ring == r].mean() for r in range(len(found))])
    assert np.allclose(found, true, rtol=0.2)
    far = film_movie(2, seed=9).values
    assert np.isnan(pair_noise(movie.values[6], far[0], (256, 256), bins)).all(), "unrelated frames tell nothing"


def test_neither_chunks_nor_scale_nor_offset_matter(table, movie):
    cut = frame_quality(movie.chunk({"frame": 5, "y": 100, "x": 77}))
    assert cut.equals(table)
    scaled = frame_quality(movie.copy(data=movie.values * 0.004 - 11.0))
    assert scaled.reason.tolist() == table.reason.tolist()
    for name in ("contrast", "sharpness", "blur"):
        assert np.allclose(scaled[name], table[name], rtol=1e-6, atol=1e-9, equal_nan=True), name


def test_a_slow_change_of_the_defocus_is_no_blur():
    movie = film_movie(20, defocus=600 + 60 * np.sin(np.arange(20) / 3), moved={7: (3.0, 1.0)}, seed=3)
    assert frame_quality(movie).query("reason == 'blurred'").frame.tolist() == [7]


def test_pixels_that_are_wrong(movie):
    counts = movie.isel(frame=slice(5, 17)).values.astype(np.float64)
    counts[1] = np.minimum(counts[1], np.percentile(counts[1], 97))  # clipped below the maximum of the dtype
    counts[3, :160] = np.nan
    counts[4] = 17.0
    counts[6, 100] = np.nan
    rng = np.random.default_rng(0)
    counts[:, rng.integers(0, 256, 20), rng.integers(0, 256, 20)] = 60000.0  # hot
    counts[9] = np.nan
    table = frame_quality(make_movie(counts, pixel_size=PIXEL, frame=range(5, 17)))
    assert table.reason.tolist() == ["blurred", "saturated", "usable", "quarantined", "empty", "usable", "usable",
                                     "blurred", "usable", "quarantined", "usable", "usable"]
    assert table.unknown.tolist()[3] >= 160 * 256 - 20
    assert table.unknown.tolist()[6] >= 255
    whole = movie.isel(frame=slice(6, 9)).copy(deep=True)
    whole.values[1, :40] = 65535
    assert frame_quality(whole).reason.tolist() == ["usable", "saturated", "usable"]
    assert frame_quality(whole).saturated.tolist() == [0, 40 * 256, 0]


def test_counts_of_single_electrons_are_not_saturated():
    counts = np.random.default_rng(0).poisson(0.4, (3, 128, 128)).astype(np.uint8)
    assert frame_quality(make_movie(counts, pixel_size=PIXEL)).saturated.tolist() == [0, 0, 0]


def test_frames_alone_and_without_calibration():
    movie = film_movie(4, moved={1: (4.0, 0.0)})
    assert frame_quality(movie.isel(frame=[1])).reason.tolist() == ["usable"], "a frame alone is not called blurred"
    assert frame_quality(film_movie(1, vacuum=(0,))).reason.tolist() == ["empty"]
    plain = movie.drop_vars(["y", "x"])
    plain.attrs = {}
    table = frame_quality(plain)
    assert table.reason.tolist() == ["usable"] * 4
    assert table.blur.isna().all()


def test_only_vacuum_is_empty_throughout():
    assert set(frame_quality(film_movie(6, vacuum=tuple(range(6)))).reason) == {"empty"}


def test_a_frame_of_many_blocks_is_the_sum_of_its_parts():
    counts = np.random.default_rng(0).poisson(80, (512, 768)).astype(np.float32)
    counts[3, 5] = np.nan
    whole = measure_part(counts, (128, 128))
    parts = [measure_part(counts[i:i + 256, j:j + 256], (128, 128)) for i in (0, 256) for j in (0, 256, 512)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    assert (total.pixels, total.unknown, total.windows) == (whole.pixels, 1, 24)
    assert (total.top, total.low) == (whole.top, whole.low)
    assert np.allclose([total.mean, total.m2], [whole.mean, whole.m2], rtol=1e-12)
    assert np.allclose(total.power, whole.power)


def test_no_task_reads_more_than_its_share_and_each_pixel_once(monkeypatch):
    read = []

    def block(block_info=None):
        (y, x) = block_info[None]["array-location"][1:]
        read.append((block_info[None]["array-location"][0][0], y[0], x[0]))
        shape = block_info[None]["chunk-shape"]
        return np.random.default_rng(len(read)).poisson(50, shape).astype(np.uint16)

    lazy = da.map_blocks(block, chunks=((1,) * 3, (256,) * 5, (256,) * 4), dtype=np.uint16)
    sizes = []
    frames = importlib.import_module("hrtem_dask.analysis.frames")
    monkeypatch.setattr(frames, "BLOCK", 512)
    monkeypatch.setattr(frames, "TASK_PIXELS", 2**18)
    monkeypatch.setattr(frames, "measure_part", lambda b, w: (sizes.append(b.size), measure_part(b, w))[1])
    with dask.config.set(scheduler="synchronous"):
        table = frame_quality(make_movie(lazy, pixel_size=PIXEL))
    assert len(read) == len(set(read)) == 3 * 20
    assert max(sizes) <= 1024**2
    assert len(sizes) == 3 * 4
    assert set(table.reason) == {"empty"}


@pytest.mark.parametrize(("change", "said"), [
    (lambda m: frame_quality(m.values), "expected a movie"),
    (lambda m: frame_quality(m.expand_dims(defocus=[1.0], axis=1)), "isel\\(defocus=0\\)"),
    (lambda m: frame_quality(m.isel(frame=[])), "at least one frame"),
    (lambda m: frame_quality(m.astype(complex)), "real numbers"),
    (lambda m: frame_quality(m, spacing=0), "spacing"),
    (lambda m: frame_quality(m, min_sharpness=1.5), "from 0 to 1"),
    (lambda m: frame_quality(m, max_saturated=-1), "max_saturated"),
])
def test_bad_input(movie, change, said):
    with pytest.raises(InputError, match=said):
        change(movie.isel(frame=[0, 1]))


@pytest.mark.real
def test_single_micrographs_are_not_taken_for_a_movie(shared_data):
    movie = hrtem_dask.open_movie(str(shared_data / "nanoparticles" / "image_*.png"), pixel_size=0.3)
    assert set(frame_quality(movie).reason) == {"usable"}
