"""The MTF as an object, its converters, and recording with it against theory."""

from __future__ import annotations

import json
import math
import pickle
from itertools import pairwise

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import hrtem_dask
from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.core.provenance import history_of
from hrtem_dask.detector import MTF, fit_mtf, record
from hrtem_dask.kernels.camera import expose, mtf_curve, radial_frequency
from hrtem_dask.simulate.camera import MTF_MARGIN, Camera
from hrtem_dask.simulate.camera import record as simulate_record

K = np.linspace(0, math.sqrt(2), 60)


def plane(shape: tuple[int, int]) -> np.ndarray:
    """Distance of every sample of the full transform from its origin [Nyquist]."""
    return 2 * np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij"))


@given(scale=st.floats(0.1, 3), power=st.floats(0.7, 5), floor=st.floats(0, 0.5), tail=st.floats(0, 2),
       halo=st.floats(0, 0.9), halo_scale=st.floats(0.05, 2), exponent=st.sampled_from([1.0, 0.5]))
@settings(max_examples=40, deadline=None)
def test_curve_starts_at_one_falls_and_survives_json(**values: float) -> None:
    mtf = MTF(**values)
    y = mtf(K)
    assert y[0] == 1
    assert (np.diff(y) <= 1e-12).all()
    assert (y >= 0).all()
    again = MTF.from_json(mtf.to_json())
    assert again == mtf
    assert np.array_equal(again(K), y)


def test_call_returns_a_float_array_of_any_shape() -> None:
    mtf = MTF(0.5, 2.0)
    assert isinstance(mtf(1), np.ndarray)
    assert mtf(1).dtype == np.float64
    assert mtf([[0, 1]]).shape == (1, 2)
    assert float(mtf(-0.5)) == float(mtf(0.5)) == 0.5


@pytest.mark.parametrize("shape", [(64, 64), (63, 64), (65, 48), (31, 97)])
def test_apply_is_the_radial_filter(shape: tuple[int, int], rng: np.random.Generator) -> None:
    mtf, image = MTF(0.4, 2.3, 0.05), rng.poisson(9, shape)
    expected = np.fft.ifft2(np.fft.fft2(image) * mtf(plane(shape))).real
    assert np.allclose(mtf.apply(image), expected, atol=1e-10)
    assert mtf.apply(image).sum() == pytest.approx(image.sum())
    assert mtf.apply(image.astype(np.float32)).dtype == np.float32


def test_apply_takes_stacks_lazy_arrays_and_binned_samples(rng: np.random.Generator) -> None:
    mtf, stack = MTF(0.4, 2.3), rng.normal(9, 1, (3, 2, 40, 30))
    done = mtf.apply(stack)
    assert np.allclose(done[2, 1], mtf.apply(stack[2, 1]))
    lazy = mtf.apply(da.from_array(stack, chunks=(1, 1, 17, 30)))
    assert isinstance(lazy, da.Array)
    assert np.array_equal(lazy.compute(), done)
    movie = xr.DataArray(stack[:, 0], dims=("frame", "y", "x"), coords={"x": np.arange(30) * 0.5})
    assert mtf.apply(movie).dims == ("frame", "y", "x")
    assert np.allclose(mtf.apply(movie.transpose("y", "x", "frame")).transpose("frame", "y", "x"), done[:, 0])
    assert history_of(mtf.apply(movie).attrs)[-1]["stage"] == "MTF.apply"
    k = np.hypot(2 * np.fft.fftfreq(40)[:, None] / 1, 2 * np.fft.fftfreq(30)[None] / 2)
    expected = np.fft.ifft2(np.fft.fft2(stack[0, 0]) * mtf(k)).real
    assert np.allclose(mtf.apply(stack[0, 0], pixel=(1, 2)), expected)


def test_reflecting_keeps_opposite_borders_apart() -> None:
    step = np.ones((64, 64)) * np.linspace(0, 1, 64)[:, None]
    mtf = MTF(0.3, 2.0)
    assert abs(mtf.apply(step)[0, 5]) > 0.05
    assert abs(mtf.apply(step, boundary="reflect")[0, 5]) < 0.05


@pytest.mark.parametrize(("call", "says"), [
    (lambda m: m.apply(np.full((8, 8), np.nan)), "not finite"),
    (lambda m: m.apply(np.zeros(8)), r"\(\.\.\., y, x\)"),
    (lambda m: m.apply(np.zeros((8, 8), complex)), "complex"),
    (lambda m: m.apply(np.zeros((8, 8)), pixel=0), "pixel is 0"),
    (lambda m: m.apply(np.zeros((8, 8)), boundary="mirror"), "'reflect'"),
    (lambda _: MTF(), "scale is nan"),
    (lambda _: MTF(scale=-1, power=2), "scale is -1"),
    (lambda _: MTF.from_json("{}"), "format"),
    (lambda _: MTF.from_json("{"), "not JSON"),
    (lambda _: MTF.from_c_values(0, -1, 2), "c2 is -1"),
    (lambda _: MTF.from_table([0, 1], [1, 0.5]), "3 or more"),
    (lambda _: MTF.from_table([0, 0.2, 0.5], [1, 0.9, 0.5], unit="1/angstrom"), "pixel size"),
    (lambda _: MTF.from_table([0, 0.2, 0.5], [1, 0.9, 0.5], unit="1/nm"), "unit is"),
    (lambda _: MTF.from_table([0.1, 0.2, 0.5], [9, 7, 5]), "Divide"),
])
def test_wrong_arguments_say_what_to_type(call, says) -> None:
    with pytest.raises(InputError, match=says):
        call(MTF(0.5, 2.0))


def test_missing_file_is_named() -> None:
    with pytest.raises(MissingInputError, match=r"nowhere\.json"):
        MTF.from_json("nowhere.json")


def test_conventions_of_the_literature() -> None:
    """The same camera said in Nyquist and 1/angstrom, as amplitude and as power."""
    pixel, (c1, c2, c3) = 0.21, (0.02, 0.4897, 2.346)
    k = np.linspace(0, 1 / (2 * pixel), 50)  # 1/angstrom
    f = (1 - c1) / (1 + (k / (2 * c2)) ** c3) + c1
    nyquist = k * 2 * pixel
    amplitude = MTF.from_c_values(c1, c2, c3, pixel_size=pixel)
    power = MTF.from_c_values(c1, c2, c3, pixel_size=pixel, squared=True)
    assert np.allclose(amplitude(nyquist), f)
    assert np.allclose(power(nyquist), np.sqrt(f))
    assert np.allclose(MTF.from_c_values(3 * c1, c2, c3, c0=3, pixel_size=pixel)(nyquist), f)
    for mtf in (MTF.from_table(k, f, unit="1/angstrom", pixel_size=pixel),
                MTF.from_table(k * pixel, 5 * f, unit="1/pixel"),
                MTF.from_table(nyquist[::-1], f[::-1] ** 2, squared=True)):
        assert np.allclose(mtf(nyquist), f, atol=1e-12)
        assert MTF.from_json(mtf.to_json()) == mtf
        assert np.abs(mtf.closest()(nyquist) - f).max() < 1e-4
    sheet = MTF.from_table([0.5, 1, 1.3], [0.7, 0.4, 0.3])
    assert float(sheet(0)) == 1
    assert float(sheet(1.4)) == pytest.approx(0.3)
    closest = power.closest()  # the root of the form is not of the form
    assert 1e-4 < np.abs(closest(nyquist) - np.sqrt(f)).max() < 0.03
    assert "within 0.0" in closest.notes[-1]


def test_an_mtf_is_written_read_pickled_and_tokenised(tmp_path) -> None:
    mtf = MTF(0.5, 2.5, 0.01, covariance=np.eye(6) * 1e-4 / 3, counts_per_electron=1 / 3, notes=("a", "b"))
    mtf.to_json(tmp_path / "mtf.json")
    json.loads((tmp_path / "mtf.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    again = MTF.from_json(tmp_path / "mtf.json")
    assert again == mtf
    assert again.counts_per_electron == 1 / 3
    assert np.array_equal(again.error(K), mtf.error(K))
    assert MTF.from_json(str(tmp_path / "mtf.json")) == pickle.loads(pickle.dumps(mtf)) == mtf
    assert dask.base.tokenize(mtf) == dask.base.tokenize(again) != dask.base.tokenize(MTF(0.5, 2.5))
    assert hrtem_dask.MTF is MTF
    assert hrtem_dask.fit_mtf is fit_mtf


def test_error_band_follows_the_covariance(rng: np.random.Generator) -> None:
    cov = np.zeros((6, 6))
    cov[:3, :3] = [[4e-4, 1e-4, 0], [1e-4, 1e-2, 0], [0, 0, 1e-6]]
    mtf = MTF(0.6, 2.5, 0.05, covariance=cov)
    draws = rng.multivariate_normal([0.6, 2.5, 0.05], cov[:3, :3], 4000)
    spread = np.std([mtf_curve(K, *d) for d in draws], axis=0)
    assert np.allclose(mtf.error(K), spread, rtol=0.1, atol=2e-4)
    assert np.isnan(MTF(0.6, 2.5).error(K)).all()


def measured_power(frames: np.ndarray) -> np.ndarray:
    """Power of the frames' noise in every mode, independent of the package's kernels."""
    return (np.abs(np.fft.fft2(frames - frames.mean(axis=0))) ** 2).sum(0) / (len(frames) - 1) / frames[0].size


def banded(power: np.ndarray, edges: np.ndarray) -> np.ndarray:
    k = plane(power.shape)
    return np.array([power[(k >= a) & (k < b)].mean() for a, b in pairwise(edges)])


def test_recorded_noise_has_the_power_that_theory_says() -> None:
    mtf, dose, gain, read = MTF(0.6, 2.5, 0.05), 30.0, 4.0, 1.5
    frames = record(np.full((24, 128, 96), dose), mtf, gain=gain, offset=200, read_noise=read, dtype="uint16", seed=3)
    assert frames.dtype == np.uint16
    assert frames.mean() == pytest.approx(200 + gain * dose, rel=1e-3)
    edges = np.array([0.05, 0.3, 0.5, 0.7, 0.9, 1.1, 1.4])
    expected = banded(gain**2 * (dose * mtf(plane((128, 96))) ** 2 + read**2) + 1 / 12, edges)
    assert np.allclose(banded(measured_power(frames), edges), expected, rtol=0.025)


def test_a_counting_camera_has_white_noise_and_a_blurred_image() -> None:
    mtf = MTF(0.4, 2.5)
    x = np.arange(128)
    scene = 40 * (1 + 0.5 * np.sin(2 * np.pi * x / 4)) * np.ones((128, 1))  # k = 0.5 Nyquist
    frames = record(np.broadcast_to(scene, (32, 128, 128)), mtf, counting=True, seed=5)
    assert np.array_equal(frames, np.rint(frames))
    edges = np.array([0.05, 0.4, 0.8, 1.4])
    assert np.allclose(banded(measured_power(frames), edges), 40, rtol=0.03)
    contrast = 2 * np.abs(np.fft.fft(frames.mean((0, 1)))[32]) / 128
    assert contrast == pytest.approx(20 * float(mtf(0.5)), rel=0.05)


def test_records_do_not_depend_on_chunks_and_saturate() -> None:
    scene = np.random.default_rng(0).uniform(1, 50, (5, 40, 30))
    options = {"mtf": MTF(0.5, 2), "gain": 3.0, "read_noise": 1.0, "seed": 7}
    whole = record(scene, **options)
    assert not np.array_equal(whole[0], whole[1])
    for chunks in ((1, 40, 30), (2, 13, 30), (5, 7, 7)):
        assert np.array_equal(record(da.from_array(scene, chunks=chunks), **options).compute(), whole)
    movie = xr.DataArray(scene, dims=("frame", "y", "x"))
    assert np.array_equal(record(movie, **options).values, whole)
    assert record(scene, dtype="uint8", gain=50, seed=1).max() == 255
    assert record(scene, saturation=100, seed=1).max() <= 100
    one = record(scene[0], seed=np.random.default_rng(4))
    assert np.array_equal(one, np.random.default_rng(4).poisson(scene[0]))


@pytest.mark.parametrize(("options", "says"), [
    ({"expectation": -np.ones((4, 4))}, "below 0"), ({"expectation": np.full((4, 4), np.nan)}, "not finite"),
    ({"gain": 0}, "gain is 0"), ({"read_noise": -1}, "read_noise is -1"), ({"dtype": "complex64"}, "dtype"),
    ({"expectation": np.ones(4)}, "expectations"), ({"mtf": 3}, "mtf is 3"),
    ({"offset": 100, "saturation": 50}, "offset is 100 counts, and float32 with this saturation holds -inf to 50"),
    ({"offset": 70000, "dtype": "uint16"}, "holds 0 to 65535"), ({"offset": -5, "dtype": "uint16"}, "offset is -5"),
    ({"offset": np.nan}, "offset is nan"), ({"saturation": 0}, "saturation is 0"), ({"gain": "4"}, "gain is '4'"),
    ({"expectation": da.ones((4, 4)), "seed": np.random.default_rng(0)}, "integer seed"),
])
def test_impossible_cameras_are_refused(options, says) -> None:
    with pytest.raises(InputError, match=says):
        record(**({"expectation": np.ones((4, 4))} | options))


def test_the_simulation_blurs_as_this_detector_does() -> None:
    """The camera of the simulation and the exposure kernel draw the same image."""
    mtf = MTF(0.45, 2.4, 0.03)
    camera = Camera(pixel_size=0.5, dose=80.0, mtf=mtf)
    scene = np.random.default_rng(1).uniform(0.5, 1.5, (64, 80))
    response = mtf(radial_frequency(scene.shape)).astype(np.float32)
    mine = expose(scene * camera.dose * camera.pixel_size**2, response, np.random.default_rng(2))
    m = MTF_MARGIN
    assert np.allclose(simulate_record(scene, camera, np.random.default_rng(2)), mine[m:-m, m:-m], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_read_noise_does_not_clip_integers_unless_asked(dtype) -> None:
    """At half an electron a pixel half of the noise is below 0; mean and variance are the analytic ones."""
    dose, gain, read = 0.5, 2.0, 3.0
    frames = record(np.full((8, 128, 128), dose), gain=gain, read_noise=read, dtype=dtype, seed=1).astype(float)
    assert frames.mean() == pytest.approx(36 + gain * dose, abs=0.08)  # standard error 0.018
    assert frames.var() == pytest.approx(gain**2 * (dose + read**2) + 1 / 12, rel=0.02)
    assert frames.min() > 0
    clipped = record(np.full((8, 128, 128), dose), gain=gain, read_noise=read, offset=0, dtype="uint16", seed=1)
    assert clipped.mean() > gain * dose + 1
    assert record(np.full((64, 64), dose), gain=gain, read_noise=read, seed=1).mean() == pytest.approx(1, abs=0.4)
    assert not record(np.zeros((4, 4)), gain=gain, dtype=dtype, seed=1).any()  # no read noise, no pedestal


def test_the_largest_number_of_an_integer_is_its_own() -> None:
    for dtype in ("uint8", "int16", "uint16", "int32"):
        counts = record(np.full((4, 4), 1e6), gain=1e5, dtype=dtype, seed=1)
        assert (counts == np.iinfo(dtype).max).all()


def test_plot_shows_curve_and_band() -> None:
    cov = np.zeros((6, 6))
    cov[0, 0] = 1e-4
    figure = MTF(0.5, 2.5, covariance=cov).plot()
    assert len(figure.axes) == 1
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["95 % band", "MTF"]
    assert "upper" not in repr(MTF(0.5, 2.5))
