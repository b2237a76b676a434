"""fit_mtf against detectors that are known, made without the package's own camera."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from scipy import ndimage

from hrtem_dask.cli import main
from hrtem_dask.core.errors import InputError
from hrtem_dask.core.provenance import history_of
from hrtem_dask.detector import MTF, fit_mtf
from hrtem_dask.kernels.frame_group import group_noise
from hrtem_dask.kernels.noise_power import mask_spots, ring_average, usable_modes
from hrtem_dask.kernels.smooth_box import largest_rectangle, structure_of

K = np.linspace(0, 1, 101)
Curve = Callable[[np.ndarray], np.ndarray]


def literature(c1: float, c2: float, c3: float) -> Curve:
    return lambda k: (1 - c1) / (1 + (k / (2 * c2)) ** c3) + c1


def frames_of(curve: Curve, n: int, shape: tuple[int, int], rng: np.random.Generator, *, dose: float = 20.0,
              read: float = 1.0, gain: float = 1.0, offset: float = 0.0,
              scene: np.ndarray | None = None) -> np.ndarray:
    """Frames of an integrating camera, by numpy's full transforms in double precision."""
    k = 2 * np.hypot(*np.meshgrid(*(np.fft.fftfreq(s) for s in shape), indexing="ij"))
    response = curve(k)
    out = np.empty((n, *shape))
    for i in range(n):
        light = dose * (np.ones(shape) if scene is None else scene[i] if scene.ndim == 3 else scene)
        out[i] = np.fft.ifft2(np.fft.fft2(rng.poisson(light)) * response).real
    return (out + rng.normal(0, read, out.shape)) * gain + offset


def dark_of(n: int, shape: tuple[int, int], rng: np.random.Generator, *, gain: float = 1.0, offset: float = 0.0,
            read: float = 1.0) -> np.ndarray:
    return rng.normal(offset, read * gain, (n, *shape))


def random_detector(seed: int) -> tuple[float, float, float, float, float]:
    """Draw c1, c2, c3 in units of Nyquist (design values and beyond), gain [counts/e] and offset."""
    rng = np.random.default_rng([seed, 99])
    return (rng.uniform(0, 0.1), rng.uniform(0.15, 0.6), rng.uniform(2, 3), rng.uniform(0.5, 20),
            rng.uniform(0, 1000))  # fmt: skip


def error_of(seed: int) -> tuple[float, float, MTF]:
    """Largest error of the MTF up to Nyquist, relative error of the counts per electron, and the fit."""
    c1, c2, c3, gain, offset = random_detector(seed)
    rng, shape = np.random.default_rng(seed), (512, 512)
    curve = literature(c1, c2, c3)
    pattern = 1 + 0.02 * rng.normal(size=shape)  # a gain that was not corrected
    frames = frames_of(curve, 16, shape, rng, gain=gain, scene=1 + 0.05 * np.linspace(-1, 1, 512)[:, None] * pattern)
    frames = frames * pattern + offset
    mtf = fit_mtf(frames.astype(np.float32), dark=dark_of(4, shape, rng, gain=gain, offset=offset))
    return float(np.abs(mtf(K) - curve(K)).max()), abs(mtf.counts_per_electron / gain - 1), mtf


def check(errors: list[float]) -> None:
    assert np.mean(np.array(errors) <= 0.007) >= 0.9, np.sort(errors)
    assert max(errors) <= 0.015


def test_random_detectors_are_recovered() -> None:
    found = [error_of(seed) for seed in range(4)]
    check([e for e, _, _ in found])
    assert max(c for _, c, _ in found) < 0.02
    mtf = found[0][2]
    c1, c2, c3, gain, _ = random_detector(0)
    error = np.abs(mtf(K) - literature(c1, c2, c3)(K))
    assert (error[1:] < 4 * mtf.error(K)[1:] + 1e-3).all()
    assert mtf.read_noise == pytest.approx(gain, rel=0.02)
    assert "upper estimate" in repr(mtf)
    assert history_of({"provenance": mtf.history})[-1]["parameters"]["frames"] == 16
    assert MTF.from_json(mtf.to_json()) == mtf
    figure = mtf.plot()
    assert len(figure.axes) == 2
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert set(labels) == {"data", "95 % band", "MTF"}


@pytest.mark.slow
def test_more_random_detectors_are_recovered() -> None:
    found = [error_of(seed) for seed in range(100, 124)]
    check([e for e, _, _ in found])
    assert max(c for _, c, _ in found) < 0.02


@pytest.mark.parametrize(("curve", "limit"), [
    (lambda k: 0.7 * np.exp(-((k / 0.7) ** 2)) + 0.3 * np.exp(-((k / 0.2) ** 2)), 0.02),
    (lambda k: 0.6 / (1 + (k / 0.3) ** 2) + 0.4 / (1 + k**2), 0.02),
    (lambda k: np.exp(-((k / 0.8) ** 2)) * np.sinc(k / 2), 0.01),
], ids=["gaussians", "lorentzians", "gaussian and pixel"])
def test_detectors_of_another_form(curve: Curve, limit: float) -> None:
    """With three parameters these would come out wrong by up to 0.2."""
    rng, shape = np.random.default_rng(5), (256, 256)
    mtf = fit_mtf(frames_of(curve, 32, shape, rng, dose=50), dark=dark_of(8, shape, rng))
    assert np.abs(mtf(K) - curve(K)).max() < limit


def small(n: int = 8, seed: int = 0, **options) -> np.ndarray:
    return frames_of(literature(0.02, 0.3, 2.5), n, (128, 128), np.random.default_rng(seed), **options)


def quiet_fit(*args, **options) -> MTF:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit_mtf(*args, **options)


def test_chunks_containers_and_scale_do_not_matter() -> None:
    frames = small(20)
    expected = fit_mtf(frames)
    for chunks in ((1, 128, 128), (7, 50, 128), (20, 128, 128)):
        got = fit_mtf(da.from_array(frames, chunks=chunks))
        assert got.parameters == expected.parameters
    movie = xr.DataArray(frames, dims=("frame", "y", "x"))
    assert fit_mtf(movie).parameters == expected.parameters
    assert fit_mtf(list(frames)).parameters == expected.parameters
    scaled = fit_mtf(frames * 37 + 5000)
    assert np.allclose(scaled(K), expected(K), atol=2e-3)
    assert np.isnan(scaled.counts_per_electron)


def test_two_exposures_give_counts_per_electron_and_the_read_noise() -> None:
    rng, shape = np.random.default_rng(2), (256, 256)
    curve = literature(0.05, 0.35, 2.4)
    options = {"gain": 3.0, "offset": 70.0, "read": 1.5}
    first, second = (frames_of(curve, 8, shape, rng, dose=d, **options) for d in (10, 40))
    mtf = fit_mtf(first, second=second)
    assert np.abs(mtf(K) - curve(K)).max() < 0.015
    assert mtf.counts_per_electron == pytest.approx(3.0, rel=0.03)
    assert mtf.read_noise == pytest.approx(4.5, rel=0.05)
    known = fit_mtf(first, offset=70)
    assert known.counts_per_electron == pytest.approx(3.0, abs=4 * known.counts_per_electron_error)


def test_coloured_read_noise_is_taken_from_the_dark_frames() -> None:
    rng, shape = np.random.default_rng(3), (256, 256)
    curve = literature(0.02, 0.3, 2.5)

    def readout(n: int) -> np.ndarray:
        return ndimage.gaussian_filter(rng.normal(0, 4, (n, *shape)), (0, 0.7, 0.7), mode="wrap")

    frames = frames_of(curve, 16, shape, rng, read=0.3) + readout(16)
    dark = dark_of(16, shape, rng, read=0.3) + readout(16)
    assert np.abs(fit_mtf(frames, dark=dark)(K) - curve(K)).max() < 0.02


def test_one_frame_works_with_larger_errors() -> None:
    one, curve = small(1, gain=2.0)[0], literature(0.02, 0.3, 2.5)
    with pytest.warns(UserWarning, match="one frame only"):
        single = fit_mtf(one, dark=np.random.default_rng(1).normal(0, 2, (4, 128, 128)))
    many = fit_mtf(small(16, gain=2.0), dark=np.random.default_rng(1).normal(0, 2, (4, 128, 128)))
    assert np.abs(single(K) - curve(K)).max() < 0.15
    assert float(single.error(0.5)) > 2 * float(many.error(0.5))


def test_drifting_illumination_and_a_gain_pattern_are_removed() -> None:
    rng, curve = np.random.default_rng(4), literature(0.02, 0.3, 2.5)
    x = np.linspace(-1, 1, 256)
    light = np.stack([(1 + 0.3 * x * np.cos(i / 6)) * np.ones((256, 1)) for i in range(16)])
    pattern = 1 + 0.1 * ndimage.gaussian_filter(rng.normal(size=(256, 256)), 1) * 3
    frames = frames_of(curve, 16, (256, 256), rng, scene=light, dose=50) * pattern
    mtf = quiet_fit(frames, dark=dark_of(4, (256, 256), rng), box=(0, 256, 0, 256))
    assert np.abs(mtf(K) - curve(K)).max() < 0.02


def test_the_vacuum_beside_a_specimen_is_found() -> None:
    rng, shape = np.random.default_rng(6), (256, 256)
    scene = np.ones(shape)
    grain = ndimage.gaussian_filter(rng.normal(size=shape), 1.2)
    scene[:, 110:] *= np.clip(0.8 + 0.3 * (grain / grain.std())[:, 110:], 0, None)
    curve = literature(0.02, 0.3, 2.5)
    drifting = np.stack([np.concatenate([scene[:, :110], np.roll(scene[:, 110:], i, 0)], axis=1) for i in range(8)])
    for frames in (frames_of(curve, 1, shape, rng, scene=scene), frames_of(curve, 8, shape, rng, scene=drifting)):
        with pytest.warns(UserWarning, match=r"structure up to .* times the noise \(most in y") as said:
            mtf = fit_mtf(frames, dark=dark_of(4, shape, rng))
        box = history_of({"provenance": mtf.history})[-1]["parameters"]["box"]
        assert box[3] <= 110 + 16
        assert any("smoothest part" in str(w.message) for w in said)
        assert np.abs(mtf(K) - curve(K)).max() < 0.2
    given = quiet_fit(frames, dark=dark_of(4, shape, rng), box=(0, 256, 0, 96))
    assert np.abs(given(K) - curve(K)).max() < 0.04


def test_fringes_are_left_out() -> None:
    rng, shape = np.random.default_rng(7), (256, 256)
    y, x = np.mgrid[:256, :256]
    scene = 1 + 0.4 * np.cos(2 * np.pi * (0.07 * y + 0.11 * x))
    curve = literature(0.02, 0.3, 2.5)
    mtf = quiet_fit(frames_of(curve, 1, shape, rng, scene=scene, dose=100), dark=dark_of(4, shape, rng))
    assert any("left out" in n for n in mtf.notes)
    assert np.abs(mtf(K) - curve(K)).max() < 0.06


def test_structure_that_drifts_through_all_of_the_field_is_refused() -> None:
    rng = np.random.default_rng(8)
    grain = ndimage.gaussian_filter(rng.normal(size=(128, 128)), 1.5, mode="wrap")
    scene = np.clip(1 + 0.3 * grain / grain.std(), 0, None)
    moving = small(8, scene=np.stack([np.roll(scene, 5 * i * i, 1) for i in range(8)]))
    with pytest.raises(InputError, match="not vacuum"):
        quiet_fit(moving)


def test_white_noise_says_that_vacuum_cannot_show_the_mtf() -> None:
    with pytest.warns(UserWarning, match="the noise is white"):
        mtf = fit_mtf(np.random.default_rng(0).poisson(20, (8, 128, 128)))
    assert float(mtf(1.0)) > 0.9


def test_bad_pixels_and_x_rays_do_not_spoil_the_fit() -> None:
    frames, rng = small(16), np.random.default_rng(1)
    dark, clean = dark_of(4, (128, 128), rng), fit_mtf(frames, dark=dark_of(4, (128, 128), np.random.default_rng(2)))
    frames[rng.random(frames.shape) < 5e-5] = 5000
    frames[rng.random(frames.shape) < 1e-3] = np.nan
    mtf = fit_mtf(frames, dark=dark)
    assert np.abs(mtf(K) - clean(K)).max() < 0.02
    assert any("not finite or no noise" in n for n in mtf.notes)


def test_blank_and_saturated_frames_are_left_out() -> None:
    frames = small(8)
    frames[3], frames[5] = 0, np.minimum(frames[5], np.median(frames[5]))
    with pytest.warns(UserWarning, match="left out 2 of 8 vacuum frames: frame 3 is constant.*frame 5 is saturated"):
        mtf = fit_mtf(frames)
    assert float(mtf(0.5)) == pytest.approx(float(literature(0.02, 0.3, 2.5)(0.5)), abs=0.15)


@pytest.mark.parametrize(("vacuum", "options", "says"), [
    (np.zeros((4, 128, 128)), {}, "constant, every pixel is 0"),
    (np.minimum(small(2), 20), {}, "saturated"),
    (small(2)[:, :40], {}, "at least 64 x 64"),
    (np.where(np.arange(128) < 50, np.nan, small(2)), {}, "not finite"),
    (np.zeros((128, 128, 3), np.uint8), {}, "colour"),
    (np.zeros((2, 128, 128, 4), np.uint8), {}, "colour"),
    (small(2), {"dark": np.zeros((2, 64, 128))}, "dark frames are 64 x 128"),
    (small(2), {"second": np.zeros((2, 64, 128))}, "second frames are 64 x 128"),
    (small(2), {"box": (0, 200, 0, 100)}, "a part of them"),
    (small(2), {"box": (0, 30, 0, 100)}, "30 x 100"),
    (small(2), {"box": (0, 1.5, 0, 100)}, "four whole numbers"),
    ([np.zeros((80, 80)), np.zeros((90, 80))], {}, "one shape"),
])
def test_bad_input_says_what_was_expected(vacuum, options, says) -> None:
    with pytest.raises(InputError, match=says):
        quiet_fit(vacuum, **options)


def test_dark_frames_above_the_vacuum_leave_counts_unknown() -> None:
    with pytest.warns(UserWarning, match="counts per electron are unknown"):
        mtf = fit_mtf(small(8), dark=dark_of(4, (128, 128), np.random.default_rng(0), offset=500))
    assert np.isnan(mtf.counts_per_electron)


def test_noise_power_of_groups_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    pattern = rng.normal(50, 20, (96, 80))
    for n, spectra in ((2, 1), (3, 2), (8, 6)):
        noise = [group_noise(rng.normal(pattern * 1.0, 3, (n, 96, 80))) for _ in range(6)]
        total = sum(noise[1:], noise[0])
        assert total.spectra == 6 * spectra
        rings = ring_average(total.power / total.spectra, (96, 80), usable_modes((96, 80)))
        assert np.average(rings.power, weights=rings.modes) == pytest.approx(9, rel=0.03)


def test_spots_are_found_and_noise_is_not() -> None:
    rng, shape = np.random.default_rng(0), (128, 100)
    image = rng.normal(0, 1, shape)
    power = np.abs(np.fft.rfft2(image)) ** 2 / image.size
    usable = usable_modes(shape)
    assert (usable & ~mask_spots(power, shape)).sum() <= 40
    y, x = np.mgrid[:128, :100]
    fringes = image + 2 * np.cos(2 * np.pi * (20 * y / 128 + 15 * x / 100))
    use = mask_spots(np.abs(np.fft.rfft2(fringes)) ** 2 / image.size, shape)
    assert not use[20, 15]


def test_smooth_blocks() -> None:
    rng = np.random.default_rng(0)
    assert all(structure_of(rng.normal(0, 1, (2, 256, 256))).smooth.all() for _ in range(5))
    assert largest_rectangle(np.zeros((3, 3), bool)) == (0, 0, 0, 0)
    allowed = rng.random((9, 11)) < 0.8
    i0, i1, j0, j1 = largest_rectangle(allowed)
    spans = [[(a, b) for a in range(n) for b in range(a + 1, n + 1)] for n in allowed.shape]
    best = max((b - a) * (d - c) for a, b in spans[0] for c, d in spans[1] if allowed[a:b, c:d].all())
    assert allowed[i0:i1, j0:j1].all()
    assert (i1 - i0) * (j1 - j0) == best


def test_command_line(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for i, frame in enumerate(small(8, gain=3.0, offset=100)):
        np.save(tmp_path / f"vacuum_{i}.npy", frame.astype(np.float32))
    np.save(tmp_path / "dark.npy", dark_of(4, (128, 128), rng, gain=3.0, offset=100))
    out, plot = tmp_path / "mtf.json", tmp_path / "mtf.png"
    run = CliRunner()
    done = run.invoke(main, ["fit-mtf", str(tmp_path / "vacuum_*.npy"), "--dark", str(tmp_path / "dark.npy"), "--out",
                             str(out), "--plot", str(plot)])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "counts per electron: 3." in done.output or "counts per electron: 2.9" in done.output
    assert "MTF at 0.5 Nyquist: 0." in done.output
    assert "MTF at 1 Nyquist: 0." in done.output
    assert "upper estimate" in done.output
    assert MTF.from_json(out).counts_per_electron == pytest.approx(3, rel=0.05)
    assert plot.read_bytes().startswith(b"\x89PNG")
    np.save(tmp_path / "blank.npy", np.zeros((128, 128)))
    failed = run.invoke(main, ["fit-mtf", str(tmp_path / "blank.npy"), "--out", str(out)])
    assert failed.exit_code == 4
    assert "constant" in failed.output
    assert run.invoke(main, ["fit-mtf", str(tmp_path / "dark.npy")]).exit_code == 2
    nowhere = ["fit-mtf", str(tmp_path / "dark.npy"), "--out", str(tmp_path / "no" / "mtf.json")]
    assert run.invoke(main, nowhere).exit_code == 2


@pytest.mark.real
def test_real_hologram_of_vacuum(shared_data) -> None:
    """Fringes at 0.132 and 0.264 cycles a pixel are left out, and the curve falls smoothly."""
    mtf = quiet_fit(shared_data / "vacuum" / "reference_hologram_512.hdf5", offset=0)
    assert any("fringes" in n for n in mtf.notes)
    assert 0.55 < float(mtf(0.5)) < 0.9
    assert 0.3 < float(mtf(1.0)) < 0.7
    s = mtf.spectrum
    k, ratio = np.asarray(s.k), np.asarray(s.power) / np.asarray(s.model)
    for fringe in (0.264, 0.528):
        assert ratio[np.abs(k - fringe) < 0.02].max() < 1.5  # unmasked, the first is a hundred times the noise
    assert 1 < mtf.counts_per_electron < 20


@pytest.mark.real
def test_real_vacuum_beside_soot(shared_data) -> None:
    mtf = quiet_fit(shared_data / "vacuum" / "soot_with_vacuum_512.tif")
    _, y1, _, x1 = history_of({"provenance": mtf.history})[-1]["parameters"]["box"]
    assert y1 <= 350
    assert x1 <= 200  # the vacuum is at the upper left
    assert 0.3 < float(mtf(0.5)) < 0.95


@pytest.mark.real
@pytest.mark.parametrize("name", ["thon/amorphous_1006.tif", "nanoparticles/image_05.png"])
def test_real_films_are_refused(shared_data, name: str) -> None:
    with pytest.raises(InputError, match="not vacuum"):
        quiet_fit(shared_data / name)
