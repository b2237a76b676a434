"""fit_mtf against films: frames that are no vacuum although they look like noise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import ndimage, special

from hrtem_dask.core.errors import InputError
from hrtem_dask.detector import MTF, fit_mtf
from hrtem_dask.detector.judging import _shift_limit, judge
from hrtem_dask.detector.vacuum import Noise
from hrtem_dask.kernels.camera import mtf_curve
from hrtem_dask.kernels.film_test import search_film
from hrtem_dask.kernels.mtf_fit import ReadNoise, fit_power
from hrtem_dask.kernels.noise_power import Rings

K = np.linspace(0, 1, 101)
WAVELENGTH = 0.0197  # angstrom, 300 kV
TRUTH = (0.5, 2.4, 0.04)


def film(contrast: float, defocus: float, *, cs: float = 1.2e7, pixel: float = 0.5, n: int = 256,
         seed: int = 0) -> np.ndarray:
    """Image of a thin amorphous film: white noise as phase, transferred by a lens with partial coherence."""
    k = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, pixel),) * 2, indexing="ij"))
    chi = np.pi * WAVELENGTH * defocus * k**2 - 0.5 * np.pi * cs * WAVELENGTH**3 * k**4
    envelope = np.exp(-0.5 * (np.pi * WAVELENGTH * 40 * k**2) ** 2 - 0.5 * k**2) / (1 + (k / 0.5) ** 2)
    phase = np.random.default_rng(seed).normal(size=(n, n))
    image = np.fft.ifft2(np.fft.fft2(phase) * np.sin(chi - 0.08) * envelope).real
    return np.clip(1 + contrast * image / image.std(), 0, None)


def shifted(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    spectrum = np.fft.fft2(image)
    return np.stack([np.clip(np.fft.ifft2(ndimage.fourier_shift(spectrum, a)).real, 0, None) for a in at])


def recorded(scene: np.ndarray, seed: int, *, dose: float = 50.0, gain: float = 4.0, read: float = 0.5,
             truth: tuple[float, float, float] = TRUTH) -> np.ndarray:
    """Frames of an integrating camera, by numpy's full transforms in double precision."""
    rng, shape = np.random.default_rng(seed), scene.shape[-2:]
    response = mtf_curve(2 * np.hypot(*np.meshgrid(*(np.fft.fftfreq(s) for s in shape), indexing="ij")), *truth)
    blurred = np.stack([np.fft.ifft2(np.fft.fft2(rng.poisson(dose * s)) * response).real for s in scene])
    return gain * (blurred + rng.normal(0, read, scene.shape))


def dark(n: int = 256, *, gain: float = 4.0, read: float = 0.5) -> np.ndarray:
    return np.random.default_rng(99).normal(0, read * gain, (4, n, n))


def quiet_fit(*args, **options) -> MTF:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit_mtf(*args, **options)


def error(mtf: MTF, truth: tuple[float, float, float] = TRUTH) -> np.ndarray:
    return np.abs(mtf(K) - mtf_curve(K, *truth))


@pytest.mark.parametrize(("contrast", "defocus", "cs"), [(0.05, 1500, 1.2e7), (0.04, 800, 1.2e7), (0.035, 300, 1e5),
                                                         (0.05, 3000, 1.2e7), (0.035, -400, 1e5)])
def test_one_frame_of_a_film_is_refused(contrast: float, defocus: float, cs: float) -> None:
    frame = recorded(film(contrast, defocus, cs=cs)[None], 3, dose=100)
    with pytest.raises(InputError, match=r"not vacuum.*several raw frames") as said:
        quiet_fit(frame, dark=dark())
    assert "structure" in str(said.value)
    assert "dark frames" in str(said.value)


@pytest.mark.parametrize("seed", range(4))
def test_one_frame_of_vacuum_is_taken_with_wide_errors_and_a_note(seed: int) -> None:
    rng = np.random.default_rng([seed, 1])
    truth = (2 * rng.uniform(0.15, 0.6), rng.uniform(2, 3), rng.uniform(0, 0.1))
    frame = recorded(np.ones((1, 256, 256)), seed, dose=float(rng.uniform(5, 150)), truth=truth)
    mtf = quiet_fit(frame, dark=dark())
    assert any("one frame cannot tell a weak film from vacuum" in n for n in mtf.notes)
    assert np.mean(error(mtf, truth) <= 1.96 * mtf.error(K) + 1e-6) > 0.9
    many = quiet_fit(recorded(np.ones((8, 256, 256)), seed, truth=truth), dark=dark())
    assert not any("weak film" in n for n in many.notes)
    assert mtf.error(0.5) > 3 * many.error(0.5)


def test_a_film_too_weak_to_show_stays_within_the_errors() -> None:
    for seed, defocus in enumerate((0, 500, 1500)):
        mtf = quiet_fit(recorded(film(0.02, defocus, seed=seed)[None], seed, dose=20), dark=dark())
        assert np.mean(error(mtf) <= 1.96 * mtf.error(K) + 1e-6) > 0.9


@pytest.mark.parametrize("n", [2, 6])
@pytest.mark.parametrize("step", [2.0, 7.0])
def test_a_film_that_drifts_fast_is_refused(n: int, step: float) -> None:
    at = np.cumsum(np.random.default_rng(4).normal(0, step, (n, 2)), axis=0)
    frames = recorded(shifted(film(0.08, 1500), at), 5)
    with pytest.raises(InputError, match="not vacuum: something moves from frame to frame"):
        quiet_fit(frames, offset=0, box=(0, 256, 0, 256))


def test_a_film_that_drifts_slowly_is_refused() -> None:
    at = np.arange(8)[:, None] * np.array([0.3, 0.4])
    frames = recorded(shifted(film(0.08, 400, cs=1e5), at), 6)
    with pytest.raises(InputError, match="not vacuum"):
        quiet_fit(frames, offset=0, box=(0, 256, 0, 256))


def test_a_film_that_stands_still_and_a_gain_pattern_do_no_harm() -> None:
    pattern = 1 + 0.03 * np.random.default_rng(1).normal(size=(256, 256))
    for scene in (film(0.05, 1500), np.ones((256, 256))):
        frames = recorded(np.broadcast_to(scene, (4, 256, 256)), 7) * pattern
        assert error(quiet_fit(frames, dark=dark(), box=(0, 256, 0, 256))).max() < 0.025


def test_two_doses_tell_a_film_from_vacuum() -> None:
    """A low-pass noise without Thon rings, of which one frame alone says nothing."""
    grain = ndimage.gaussian_filter(np.random.default_rng(7).normal(size=(256, 256)), 1.2, mode="wrap")
    scene = (1 + 0.04 * grain / grain.std())[None]
    first, second = (recorded(scene, seed, dose=dose) for seed, dose in ((1, 20), (2, 100)))
    assert quiet_fit(first, dark=dark()) is not None
    with pytest.raises(InputError, match="does not grow with the dose"):
        quiet_fit(first, dark=dark(), second=second)
    vacuum = [recorded(np.ones((1, 256, 256)), seed, dose=dose) for seed, dose in ((1, 20), (2, 100))]
    mtf = quiet_fit(vacuum[0], dark=dark(), second=vacuum[1])
    assert error(mtf).max() < 0.05
    assert not any("weak film" in n for n in mtf.notes)
    assert mtf.counts_per_electron == pytest.approx(4, rel=0.1)


def test_a_second_exposure_at_the_same_dose_is_not_used_and_said_so() -> None:
    first, second = (recorded(np.ones((4, 128, 128)), seed, dose=dose) for seed, dose in ((1, 50), (2, 53)))
    with pytest.warns(UserWarning, match=r"the second exposure was not used: its mean is 21.* within 10%"):
        mtf = fit_mtf(first, second=second)
    assert np.isnan(mtf.counts_per_electron)
    assert any("without dark frames or a second exposure" in n for n in mtf.notes)
    assert mtf.parameters == quiet_fit(first).parameters
    # with dark frames the counts per electron come from the first exposure
    assert quiet_fit(first, second=second, dark=dark(128)).counts_per_electron == pytest.approx(4, rel=0.05)


def test_curves_of_no_detector_are_refused() -> None:
    grain = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(256, 256)), 2, mode="wrap")
    scene = np.clip(1 + 0.3 * grain / grain.std(), 0, None)[None]
    with pytest.raises(InputError, match="not vacuum"):
        quiet_fit(recorded(scene, 1), offset=0)


def test_a_poor_fit_beside_structure_is_refused_and_elsewhere_said() -> None:
    k = np.linspace(0.02, 1, 120)
    power = 50 * mtf_curve(k, *TRUTH) ** 2 * (1 + 0.15 * np.exp(-(((k - 0.4) / 0.05) ** 2))) + 1
    rings = [Rings(k, power, np.full(k.size, 2e4))]
    fit = fit_power(rings, ReadNoise(1.0, 1e-3), levels=(3,))
    notes: list[str] = []
    with pytest.warns(UserWarning, match="departs from the noise power"):
        judge(fit, rings, notes, white=False, found=None)
    with pytest.raises(InputError, match=r"Structure up to 2 times the noise.*box="):
        judge(fit, rings, notes, white=False, found="structure up to 2 times the noise")


def test_the_search_finds_films_and_none_in_noise() -> None:
    rng, k = np.random.default_rng(0), np.linspace(0.04, 1, 128)
    noise = 40 * mtf_curve(k, *TRUTH) ** 2
    modes, known = 400 * k, ReadNoise(1.0, 0.01)
    scores = []
    for part in [0.0] * 20 + [0.5]:
        power = (noise * (1 + part * np.sin(12 * k**2) ** 2 * np.exp(-((k / 0.6) ** 2))) + 1)
        rings = Rings(k, power * rng.gamma(modes) / modes, modes)
        scores.append(search_film(rings, fit_power([rings], known, levels=(3,)), known).score)
    assert max(scores[:-1]) < 4.2 < scores[-1]


def test_the_notes_of_a_picture_are_whole() -> None:
    long = "word " * 80
    figure = MTF(0.5, 2.5, notes=(long,)).plot()
    assert " ".join(figure._supxlabel.get_text().split()) == "– " + long.strip()
    assert max(map(len, figure._supxlabel.get_text().splitlines())) <= 120
    assert figure.get_figheight() > MTF(0.5, 2.5).plot().get_figheight()


def test_a_film_that_moves_too_far_to_be_followed_shows_in_the_spectrum() -> None:
    frames = recorded(np.stack([film(0.05, 900, seed=i) for i in range(4)]), 8, dose=60)
    with pytest.raises(InputError, match="not vacuum"):
        quiet_fit(frames, dark=dark(), box=(0, 256, 0, 256))


@pytest.mark.parametrize(("n", "step", "contrast", "defocus"), [(4, 1.0, 0.05, 900), (4, 2.0, 0.04, -400),
                                                                (2, 0.4, 0.05, 300)])
def test_a_weak_film_in_few_frames_is_within_the_errors_and_said(n: int, step: float, contrast: float,
                                                                  defocus: float) -> None:
    at = np.cumsum(np.random.default_rng(n).normal(0, step, (n, 2)), axis=0)
    frames = recorded(shifted(film(contrast, defocus, seed=3), at), 5, dose=20)
    mtf = quiet_fit(frames, dark=dark())
    assert any("weak film that moves" in note for note in mtf.notes)
    assert (error(mtf) <= 1.96 * mtf.error(K) + 2e-3).all()


def test_a_camera_that_is_not_quite_round_is_taken() -> None:
    """The MTF stretched by 2 % along y and shrunk along x: a peak of 3 % at a shift of a pixel or so."""
    rng, n = np.random.default_rng(0), 768
    ky, kx = np.meshgrid(*(2 * np.fft.fftfreq(n),) * 2, indexing="ij")
    response = mtf_curve(np.hypot(ky / 1.02, 1.02 * kx), *TRUTH)
    frames = np.stack([np.fft.ifft2(np.fft.fft2(rng.poisson(50, (n, n))) * response).real for _ in range(2)])
    frames += rng.normal(0, 0.5, frames.shape)
    assert error(quiet_fit(frames, offset=0, box=(0, n, 0, n))).max() < 0.03


def test_more_frames_and_pixels_need_a_higher_peak() -> None:
    blank = np.zeros((4, 3))
    small, large = (Noise(blank, 1, 1.0, 1.0, blank, 2, shape, (), None, pairs)
                    for shape, pairs in (((128, 128), 1), ((4096, 4096), 99)))
    assert _shift_limit(small) == 6.5
    tries = 4096**2 / 2 * 99 * 3
    assert tries * special.erfc(_shift_limit(large) / np.sqrt(2)) < 1e-3  # a false alarm in a thousand stacks


def test_an_afterglow_is_named_as_a_cause() -> None:
    frames = recorded(np.ones((9, 256, 256)), 2)
    with pytest.raises(InputError, match="afterglow of the frame before, or many X-rays"):
        quiet_fit(frames[1:] + 0.1 * frames[:-1], offset=0, box=(0, 256, 0, 256))


@pytest.mark.slow
def test_few_frames_of_vacuum_are_refused_and_few_films_are_missed() -> None:
    """The table behind the limits: 42 vacuums and 42 films, one, four and eight frames."""
    refused, covered, missed, films = 0, [], [], 0
    for i in range(42):
        rng, n = np.random.default_rng([i, 8]), (1, 4, 8)[i % 3]
        truth = (2 * rng.uniform(0.15, 0.6), rng.uniform(2, 3), rng.uniform(0, 0.1))
        dose, gain, read = float(np.exp(rng.uniform(np.log(2), np.log(200)))), rng.uniform(0.5, 20), rng.uniform(0.2, 2)
        pattern = 1 + (0.003 if n == 1 else 0.02) * rng.normal(size=(256, 256))
        scene = np.broadcast_to(1 + rng.uniform(-0.1, 0.1) * np.linspace(-1, 1, 256), (n, 256, 256))
        frames = recorded(scene, i, dose=dose, gain=gain, read=read, truth=truth) * pattern
        known = {"dark": dark(gain=gain, read=read)}
        try:
            mtf = quiet_fit(frames, **known)
            covered.append(np.mean(error(mtf, truth) <= 1.96 * mtf.error(K) + 2e-3))
        except InputError:
            refused += 1
        at = np.cumsum(rng.normal(0, rng.choice([0.3, 1, 3]), (n, 2)), axis=0)
        scene = shifted(film(rng.uniform(0.03, 0.1), rng.uniform(-500, 3000), cs=rng.choice([1e5, 1.2e7]), seed=i), at)
        try:
            mtf = quiet_fit(recorded(scene, i, dose=dose, gain=gain, read=read, truth=truth), **known)
            films += error(mtf, truth).max() > 0.015
            if error(mtf, truth).max() > 0.03 and (error(mtf, truth) / (1.96 * mtf.error(K) + 1e-3)).max() > 1.5:
                missed.append((i, n, float(error(mtf, truth).max())))
        except InputError:
            films += 1
    assert refused <= 1
    assert np.mean(covered) > 0.9
    assert not [m for m in missed if m[1] < 8], missed
    assert len(missed) <= 1, missed
    assert films > 20
