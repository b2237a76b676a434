"""The simulation against physics: each number beside a formula that the package does not use.

Formulas here are written out again in float64 from the constants of nature; lattices are built
here; abTEM's own contrast transfer is called where it has one. Images are (y, x), atoms (x, y, z).
"""

from __future__ import annotations

import numpy as np
import pytest
from gold_scenes import gold_crystal, on_grid
from scipy import constants, fft, ndimage, optimize, stats

from hrtem_dask.detector import MTF
from hrtem_dask.simulate.camera import MTF_MARGIN, Camera, record
from hrtem_dask.simulate.films import BLOCK_HEIGHT, amorphous_block, carbon_film
from hrtem_dask.simulate.microscope import Optics, expected_image
from hrtem_dask.simulate.multislice import exit_wave
from hrtem_dask.simulate.recipe import Field
from hrtem_dask.simulate.structures import assemble

NO_MTF = {"mtf": None}


def electron_wavelength(energy: float) -> float:
    """[angstrom] from the relativistic momentum at this energy [kV]."""
    e = energy * 1e3 * constants.e
    momentum = np.sqrt(2 * constants.m_e * e * (1 + e / (2 * constants.m_e * constants.c**2)))
    return constants.h / momentum * 1e10


def phase(k: np.ndarray, energy: float, defocus: float, cs: float) -> np.ndarray:
    """Aberration phase chi(k), positive defocus is underfocus; lengths in angstrom."""
    lam = electron_wavelength(energy)
    return np.pi * lam * defocus * k**2 - 0.5 * np.pi * cs * lam**3 * k**4


def vacuum(camera: Camera, n: int, rng: np.random.Generator) -> np.ndarray:
    return record(np.ones((n + 2 * MTF_MARGIN,) * 2, np.float32), camera, rng)


def rings(power: np.ndarray, sampling: float, width: float, top: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over rings of a power spectrum (y, x): k [1/angstrom], mean, number of samples."""
    ky, kx = (np.fft.fftfreq(n, sampling) for n in power.shape)
    i = (np.hypot(ky[:, None], kx[None]) / width).round().astype(int)
    n = np.bincount(i.ravel())
    mean = np.bincount(i.ravel(), power.ravel()) / np.maximum(n, 1)
    k = np.bincount(i.ravel(), np.hypot(ky[:, None], kx[None]).ravel()) / np.maximum(n, 1)
    keep = (np.arange(len(n)) > 0) & (n > 0) & (np.arange(len(n)) * width < top)
    return k[keep], mean[keep], n[keep]


# vacuum


@pytest.mark.parametrize("dose", [2.0, 60.0])
def test_vacuum_has_poisson_statistics(dose):
    """Mean, variance and the whole distribution of the counts before the detector blurs them."""
    camera = Camera(0.5, dose, **NO_MTF)
    n, mean = 512, dose * 0.25
    counts = np.round(vacuum(camera, n, np.random.default_rng(1)))
    assert counts.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean) / n)
    assert counts.var() == pytest.approx(mean, rel=4 * np.sqrt(2 + 1 / mean) / n)
    law = stats.poisson(mean)
    low, high = (int(law.ppf(q)) for q in (1e-3, 1 - 1e-3))
    expected = np.r_[law.cdf(low), law.pmf(np.arange(low + 1, high)), law.sf(high - 1)]
    found = np.bincount(np.clip(counts.astype(int), low, high).ravel() - low, minlength=len(expected))
    assert stats.chisquare(found, expected * n * n).pvalue > 1e-3


def test_spectrum_of_vacuum_is_white_before_and_the_square_of_the_mtf_after_the_detector():
    n, frames, dose = 256, 12, 40.0
    shape = {"mtf": MTF(scale=0.45, power=2.6, floor=0.04)}
    for keys in (NO_MTF, shape):
        rng, camera = np.random.default_rng(2), Camera(0.5, dose, **keys)
        stack = np.stack([vacuum(camera, n, rng) for _ in range(frames)])
        power = (np.abs(np.fft.fft2(stack - stack.mean((1, 2), keepdims=True))) ** 2).mean(0) / n**2
        k, found, number = rings(power, 1.0, 0.02, 0.7)
        q = 2 * k  # in units of Nyquist, up to the corners
        mtf = 1.0 if keys is NO_MTF else 0.04 + 0.96 / (1 + (q / 0.45) ** 2.6)
        error = 1 / np.sqrt(number / 2 * frames)  # every value comes twice in the spectrum of a real image
        ratio = found / (dose * 0.25 * mtf**2)
        # 3 permille beside the noise: the curve bends within a ring, and the frame is a cut of a larger one
        assert (np.abs(ratio - 1) < 4.5 * error + (0 if keys is NO_MTF else 0.02)).all()
        assert ratio.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("defocus", [-900.0, 0.0, 2500.0])
def test_vacuum_stays_flat_through_any_lens(defocus):
    lens = Optics(defocus=defocus, cs=1.2e7, focal_spread=60, convergence=4e-4, astigmatism=80, aperture=0.6, blur=0.7,
                  drift=(1.0, 2.0))
    image = expected_image(np.ones((60, 84), np.complex64), 0.4, lens)
    np.testing.assert_allclose(image, 1, atol=2e-6)


# dose


def test_counts_rise_with_the_dose_and_signal_to_noise_with_its_root():
    wave = exit_wave(on_grid(gold_crystal(20.0, (1, 1, 0), (0, 0, 1)), (32.0, 32.0)), Field(box=32, wave_sampling=0.25))
    image = expected_image(wave, 32 / len(wave), Optics(defocus=500, cs=0.5e7))
    image = np.tile(image, (3, 3))
    doses, ratios, means = np.array([20.0, 80.0, 320.0, 1280.0]), [], []
    for dose in doses:
        rng, camera = np.random.default_rng(3), Camera(0.25, dose, MTF(scale=0.5, power=2.5))
        one, two = (record(image, camera, rng).astype(float) for _ in range(2))
        means.append(one.mean() / image[MTF_MARGIN:-MTF_MARGIN, MTF_MARGIN:-MTF_MARGIN].mean() / 0.0625)
        # what two exposures share is the signal, what they do not is the noise
        ratios.append(np.sqrt(np.cov(one.ravel(), two.ravel())[0, 1] / (one - two).var() * 2))
    np.testing.assert_allclose(means, doses, rtol=0.01)
    assert np.polyfit(np.log(doses), np.log(ratios), 1)[0] == pytest.approx(0.5, abs=0.02)


# intensity


def test_no_electron_is_lost_without_an_aperture_and_none_is_made_with_one():
    gold = gold_crystal(22.0, (1, 1, 0), (0, 0, 1))
    wave = exit_wave(on_grid(gold, (36.0, 48.0)), Field(box=48), points=(720, 960), stored=(720, 960))
    incident = float((np.abs(wave.astype(complex)) ** 2).mean())
    # multislice keeps 2/3 of Nyquist: what gold scatters beyond 6.7 1/angstrom is gone, nothing is added
    assert 0.997 < incident < 1 + 1e-5
    for lens in (Optics(), Optics(defocus=800, cs=1.2e7, astigmatism=90, astigmatism_angle=0.7)):
        assert expected_image(wave, 0.05, lens).mean() == pytest.approx(incident, rel=1e-5)
    passed = [float(expected_image(wave, 0.05, Optics(defocus=800, aperture=a)).mean()) for a in (0.3, 0.6, 1.2, 4.0)]
    assert 0.5 < passed[0] < passed[1] < passed[2] < passed[3] <= incident * (1 + 1e-5)
    # Parseval: what passes is the power inside the circle
    power = np.abs(fft.fft2(wave.astype(complex)) / wave.size) ** 2
    k = np.hypot(np.fft.fftfreq(720, 0.05)[:, None], np.fft.fftfreq(960, 0.05)[None])
    for a, found in zip((0.6, 1.2), passed[1:3], strict=True):
        assert found == pytest.approx(power[k < a].sum(), rel=2e-3)


# contrast transfer


@pytest.mark.parametrize("lens", [
    {"defocus": 700.0}, {"defocus": -450.0}, {"cs": 1.2e7}, {"defocus": 350.0, "cs": -1.5e5},
    {"defocus": 300.0, "focal_spread": 70.0}, {"defocus": 250.0, "astigmatism": 90.0, "astigmatism_angle": 0.35},
    {"defocus": 900.0, "cs": 0.6e7, "focal_spread": 40.0, "astigmatism": 60.0, "astigmatism_angle": 2.4},
], ids=lambda d: "+".join(d))
@pytest.mark.parametrize("energy", [80.0, 300.0])
def test_transfer_is_that_of_abtem(lens, energy, small_wave):
    """Signs and sizes of defocus, Cs, astigmatism and focal spread, on a grid that is not square."""
    import abtem

    wave, sampling = small_wave
    names = {"defocus": "defocus", "cs": "Cs", "focal_spread": "focal_spread", "astigmatism": "C12",
             "astigmatism_angle": "phi12"}
    with abtem.config.set({"precision": "float64", "diagnostics.progress_bar": False, "device": "cpu"}):
        waves = abtem.Waves(wave.T.astype(np.complex128), energy=energy * 1e3, sampling=(sampling, sampling))
        ctf = abtem.CTF(energy=energy * 1e3, **{names[k]: v for k, v in lens.items()})
        theirs = np.abs(np.asarray(waves.apply_ctf(ctf).compute().array)) ** 2
    mine = expected_image(wave, sampling, Optics(**lens), energy=energy)[::2, ::2]
    assert mine.shape == (45, 70)
    assert np.abs(mine - theirs.T).max() <= 1e-5 * theirs.max()


@pytest.fixture(scope="module")
def small_wave() -> tuple[np.ndarray, float]:
    """Exit wave of a few atoms without any symmetry, 45 x 70 samples of 0.4 angstrom."""
    rng = np.random.default_rng(5)
    gold = rng.random((30, 3)) * [26, 10, 12] + [1, 4, 2]
    return exit_wave(assemble([gold], [], (28.0, 18.0)), Field(box=28, wave_sampling=0.1), points=(216, 336),
                     stored=(45, 70)), 0.4


@pytest.mark.parametrize(("defocus", "cs", "energy"), [(-1500.0, 0.0, 300.0), (400.0, 1.2e7, 80.0)])
def test_phase_holds_where_it_turns_thousands_of_times(defocus, cs, energy):
    """Fine sampling, low voltage and a large Cs: the phase is 20,000 radian at the edge, and still right."""
    rng = np.random.default_rng(9)
    wave = np.exp(0.2j * ndimage.gaussian_filter(rng.normal(size=(96, 120)), 0.7, mode="wrap")).astype(np.complex64)
    k = np.hypot(np.fft.fftfreq(96, 0.25)[:, None], np.fft.fftfreq(120, 0.25)[None])
    spectrum = np.fft.fft2(wave.astype(complex)) * np.exp(1j * phase(k, energy, defocus, cs))
    mine = expected_image(wave, 0.25, Optics(defocus=defocus, cs=cs), energy=energy)[::2, ::2]
    np.testing.assert_allclose(mine, np.abs(np.fft.ifft2(spectrum)) ** 2, atol=5e-6)


def test_focal_spread_is_an_average_over_defocus():
    """A weak object's image under focal spread is the mean of its images over a Gaussian of defocus.

    The spread is the 1/e width of the distribution in defocus: weights exp(-(d / spread)^2).
    """
    rng = np.random.default_rng(6)
    potential = ndimage.gaussian_filter(rng.normal(size=(96, 120)), 1.0, mode="wrap")
    wave = np.exp(1j * 0.002 * potential / potential.std()).astype(np.complex64)
    spread, defocus = 80.0, 600.0
    d = np.linspace(-3, 3, 61) * spread
    weights = np.exp(-(d / spread) ** 2)
    mean = np.average([expected_image(wave, 0.4, Optics(defocus=defocus + s)) - 1 for s in d], axis=0, weights=weights)
    spread_image = expected_image(wave, 0.4, Optics(defocus=defocus, focal_spread=spread)) - 1
    still = expected_image(wave, 0.4, Optics(defocus=defocus)) - 1
    assert np.abs(mean - spread_image).std() < 0.02 * spread_image.std()
    assert np.abs(still - spread_image).std() > 0.1 * spread_image.std()


@pytest.fixture(scope="module")
def film_wave() -> tuple[np.ndarray, float]:
    """Exit wave of a thin amorphous film, 160 angstrom wide and 16 angstrom thick."""
    rng, box = np.random.default_rng(7), 160.0
    block = amorphous_block((box, box, BLOCK_HEIGHT), 0.09, rng)
    film = assemble([], carbon_film([block], box, 16.0, rng), box, thickness=16.0)
    wave = exit_wave(film, Field(box=box, wave_sampling=0.3, stored_sampling=0.5, slice_thickness=2.0))
    return wave, box / len(wave)


@pytest.mark.parametrize(("defocus", "cs"), [(1500.0, 1.2e7), (-700.0, 0.5e7), (1200.0, 0.0), (-1200.0, 0.0),
                                               (600.0, 0.0)])
def test_thon_rings_lie_where_the_transfer_is_zero(film_wave, defocus, cs):
    """Minima of the spectrum of a film at sin(chi) = 0; over- and underfocus differ through Cs."""
    wave, sampling = film_wave
    image = expected_image(wave, sampling, Optics(defocus=defocus, cs=cs)).astype(float)
    power = np.abs(np.fft.fft2(image / image.mean() - 1)) ** 2
    width = 1 / 160.0
    k, mean, _ = rings(power, sampling / 2, width, 0.75)
    mean /= ndimage.gaussian_filter1d(mean, 12)  # without the decay of the scattering
    # underfocus images a plane before the specimen; the film's middle lies 8 angstrom before the exit plane
    fine = np.linspace(0.08, 0.7, 200_000)
    chi = phase(fine, 300.0, defocus - 8.0, cs)
    zeros = fine[1:][np.diff(np.floor(chi / np.pi)) != 0]
    # rings closer than six samples are not resolved in a field of this size
    gap = np.minimum(np.diff(zeros, prepend=0), np.diff(zeros, append=1))
    zeros = zeros[gap > 6 * width]
    assert len(zeros) >= 5
    for zero in zeros:
        near = np.abs(k - zero) < 3.01 * width
        lowest = near & (mean == mean[near].min())
        i = int(np.flatnonzero(lowest)[0])
        a, b, c = np.log(mean[i - 1:i + 2])
        found = k[i] + 0.5 * width * (a - c) / (a - 2 * b + c)
        assert found == pytest.approx(zero, abs=1.0 * width), (defocus, cs, zero)
        assert mean[near].min() < 0.35


def test_defocus_can_be_read_from_the_rings(film_wave):
    """The defocus whose sin^2(chi) fits the rings best is the one that was set, to 4 angstrom."""
    wave, sampling = film_wave
    for defocus in (-1100.0, 1800.0):
        image = expected_image(wave, sampling, Optics(defocus=defocus, cs=0.9e7)).astype(float)
        k, mean, _ = rings(np.abs(np.fft.fft2(image / image.mean() - 1)) ** 2, sampling / 2, 1 / 160.0, 0.6)
        mean, k = (mean / ndimage.gaussian_filter1d(mean, 15))[10:], k[10:]

        def misfit(d: float, k: np.ndarray = k, mean: np.ndarray = mean) -> float:
            return -float(np.corrcoef(np.sin(phase(k, 300.0, d, 0.9e7)) ** 2, mean)[0, 1])

        start = min(np.linspace(-3000, 3000, 1201), key=misfit)
        best = optimize.minimize_scalar(misfit, bounds=(start - 20, start + 20), method="bounded")
        assert best.x == pytest.approx(defocus - 8.0, abs=4.0)
        assert best.fun < -0.8


# lattice
