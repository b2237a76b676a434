"""Many images of one wave: equal to single ones and to abTEM's, focal series, cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hrtem_dask.detector import MTF
from hrtem_dask.kernels.fourier_grid import fourier_resample, fourier_shift
from hrtem_dask.simulate.camera import MTF_MARGIN, Camera, draw_camera, record
from hrtem_dask.simulate.draws import draw_example, draw_frame, draw_frames, quick_size
from hrtem_dask.simulate.microscope import Optics, draw_optics, expected_image, expected_images
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.sets import Sample

BOX = 36.0
STILL = {"illumination": [0, 0], "hot_pixels": [0, 0], "aperture_fraction": 0, "absorption_fraction": 0}


def recipe(**imaging):
    return load_recipe({"name": "a", "field": {"box": BOX}, "particles": {"diameter": [8, 12]}, "imaging": imaging})


@pytest.fixture(scope="module")
def sample() -> Sample:
    """A phase object with features of all sizes, and one thick disc."""
    rng = np.random.default_rng(3)
    noise = fourier_resample(rng.normal(size=(48, 48)).astype(np.float32), (72, 72))
    t = np.arange(144) * 0.25
    disc = np.hypot(t[:, None] - 12, t - 20) < 7
    columns = pd.DataFrame({"y": [12.0, 30.0], "x": [20.0, 5.0], "class": ["column", "mo"]})
    return Sample(np.exp(0.3j * noise).astype(np.complex64), disc, 30 * disc[::4, ::4].astype(np.float32),
                  {"box": BOX}, columns=columns)


def test_a_batch_is_what_the_single_images_are(sample):
    lenses = [Optics(defocus=300, focal_spread=40), Optics(defocus=-80, absorption_length=100.0),
              Optics(cs=1e7, aperture=0.5, blur=0.4, drift=(1.0, 2.0)), Optics(coma=800, coma_angle=1.0)]
    shapes = [(144, 144), (90, 96), (60, 60), (144, 150)]
    batch = expected_images(sample.wave, 0.5, lenses, gold_thickness=sample.thickness, shapes=shapes)
    for image, lens, shape in zip(batch, lenses, shapes, strict=True):
        assert image.shape == shape
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, expected_image(sample.wave, 0.5, lens, shape=shape,
                                                            gold_thickness=sample.thickness))


def test_leaving_out_what_an_aperture_stops_changes_nothing(sample):
    """The band that is let through is all that is transformed: against the whole spectrum in float64."""
    lens = Optics(defocus=400, cs=0.5e7, focal_spread=40, convergence=2e-4, aperture=0.45, blur=0.3, drift=(0.5, 1.0))
    assert lens.limit(300, 1.4) < 0.6
    ky, kx = np.fft.fftfreq(72, 0.5)[:, None], np.fft.fftfreq(72, 0.5)[None]
    spectrum = np.fft.fft2(sample.wave.astype(complex)) * lens.envelope(ky**2 + kx**2, 300) \
        * np.exp(-1j * lens.phase(ky, kx, 300))
    big = np.zeros((144, 144), complex)
    i = np.fft.fftfreq(72, 1 / 72).astype(int)
    big[np.ix_(i, i)] = spectrum * 4
    image = np.abs(np.fft.ifft2(big)) ** 2
    ky, kx = np.fft.fftfreq(144, 0.25)[:, None], np.fft.fftfreq(144, 0.25)[None]
    factor = np.exp(-2 * (np.pi * 0.3) ** 2 * (ky**2 + kx**2)) * np.sinc(0.5 * ky + 1.0 * kx)
    image = np.fft.ifft2(np.fft.fft2(image) * factor).real
    np.testing.assert_allclose(expected_image(sample.wave, 0.5, lens), image, atol=3e-5)


@pytest.mark.parametrize("energy", [80.0, 300.0])
def test_coma_and_astigmatism_are_those_of_abtem(energy):
    import abtem

    rng = np.random.default_rng(5)
    wave = np.exp(0.4j * fourier_resample(rng.normal(size=(30, 40)).astype(np.float32), (60, 90))).astype(np.complex64)
    lens = Optics(defocus=150, cs=-0.2e7, coma=700, coma_angle=0.7, astigmatism=60, astigmatism_angle=-0.3,
                  focal_spread=25)
    mine = expected_image(wave, (0.4, 0.3), lens, energy=energy)
    waves = abtem.Waves(wave.T.copy(), energy=energy * 1e3, sampling=(0.3, 0.4))
    ctf = abtem.CTF(energy=energy * 1e3, defocus=150, Cs=-0.2e7, C21=700, phi21=0.7, C12=60, phi12=-0.3,
                    focal_spread=25)
    theirs = np.abs(np.asarray(waves.apply_ctf(ctf).array)) ** 2
    np.testing.assert_allclose(mine[::2, ::2], theirs.T, atol=1e-4)


def test_frames_of_a_batch_depend_on_their_own_generator_only(sample):
    r = recipe(coma=[0, 500])
    batch = draw_frames(sample, r, [np.random.default_rng([7, i]) for i in range(3)], extent=15)
    for i, frame in enumerate(batch):
        alone = draw_frame(sample, r, np.random.default_rng([7, i]), extent=15)
        np.testing.assert_array_equal(frame.counts, alone.counts)
        assert frame.optics == alone.optics
        assert frame.camera.mtf(0.5) == alone.camera.mtf(0.5)
        assert frame.origin == alone.origin
    assert len({f.optics.defocus for f in batch}) == 3
    assert len({f.optics.coma for f in batch}) == 3


def test_new_draws_leave_the_old_ones_as_they_were():
    """Coma and read noise are drawn from a child generator: the rest is what it was without them."""
    old, new = recipe().imaging, recipe(coma=[5, 900], read_noise=[1, 2], gain=[3, 9], counting_fraction=0.5).imaging
    a, b = (draw_optics(i, np.random.default_rng(1)) for i in (old, new))
    assert replace(b, coma=0.0, coma_angle=a.coma_angle) == a
    assert b.coma > 0
    c, d = (draw_camera(i, np.random.default_rng(1)) for i in (old, new))
    assert (c.pixel_size, c.dose, c.mtf, c.hot_pixels) == (d.pixel_size, d.dose, d.mtf, d.hot_pixels)
    assert (c.gain, c.read_noise, c.digitised, c.counting) == (1, 0, False, False)
    assert 3 <= d.gain <= 9
    assert d.digitised


def test_a_focal_series_shares_dose_field_and_place(sample):
    imaging = STILL | {"series": 3, "series_step": [70, 70], "defocus": [100, 100], "overfocus_fraction": 0,
                       "dose": [9e5, 9e5], "pixel_size": [0.5, 0.5], "blur": [0, 0], "drift": [0, 0],
                       "mtf_floor": [0.1, 0.1]}
    frame = draw_frame(sample, recipe(**imaging), np.random.default_rng(2))
    assert frame.defocus == (30.0, 100.0, 170.0)
    assert frame.counts.shape[0] == 3
    n = frame.counts.shape[1]
    first = np.round(np.array(frame.origin) / frame.pixel_size).astype(int)
    for counts, defocus in zip(frame.counts, frame.defocus, strict=True):
        lens = replace(frame.optics, defocus=defocus)
        noise_free = frame.camera.mtf.apply(np.roll(expected_image(sample.wave, 0.5, lens, shape=(n, n)), -first,
                                                    (0, 1)))
        assert counts.mean() == pytest.approx(9e5 / 3 * frame.pixel_size**2 * noise_free.mean(), rel=1e-3)
        difference = counts / counts.mean() - noise_free / noise_free.mean()
        assert difference.std() < 0.05 * noise_free.std()
    noise = [frame.counts[i] - draw_frame(sample, recipe(**imaging), np.random.default_rng(9)).counts[i]
             for i in range(3)]
    assert abs(np.corrcoef(noise[0].ravel(), noise[2].ravel())[0, 1]) < 0.9
    single = draw_frame(sample, recipe(**(imaging | {"series": 1})), np.random.default_rng(2))
    assert single.counts.ndim == 2
    image, truth = draw_example(sample, recipe(**imaging), np.random.default_rng(2), size=40, pixel_size=0.5)
    assert image.shape == (3, 40, 40)
    assert truth.shape == (40, 40)


def test_images_of_a_series_are_displaced_as_much_as_it_says(sample):
    imaging = STILL | {"series": 5, "series_step": [1, 1], "series_shift": [0.8, 0.8], "defocus": [300, 300],
                       "overfocus_fraction": 0, "dose": [1e6, 1e6], "pixel_size": [0.5, 0.5], "blur": [0, 0],
                       "drift": [0, 0]}
    shifts = []
    for seed in range(6):
        frame = draw_frame(sample, recipe(**imaging), np.random.default_rng(seed))
        spectra = np.fft.fft2(frame.counts - frame.counts.mean((1, 2), keepdims=True))
        k = np.fft.fftfreq(frame.counts.shape[-1])[1:4]
        for i in range(1, 5):  # phases of low frequencies against the first image
            phase = np.angle(spectra[i, 0, 1:4] / spectra[0, 0, 1:4])
            shifts.append(-(phase * k).sum() / (k**2).sum() / (2 * np.pi) * frame.pixel_size)
    assert np.std(shifts) == pytest.approx(0.8 * np.sqrt(2), rel=0.4)


def test_columns_are_labelled_where_the_image_shows_them(sample):
    r = recipe(**STILL)
    for seed in range(6):
        image, label = draw_example(sample, r, np.random.default_rng(seed), size=71, pixel_size=0.5,
                                    classes=("column", "mo"))
        assert image.shape == (71, 71)
        assert label.shape == (3, 71, 71)
        np.testing.assert_allclose(label.sum(0), 1, atol=1e-6)
        _, mask = draw_example(sample, r, np.random.default_rng(seed), size=71, pixel_size=0.5)
        y, x = np.unravel_index(label[1].argmax(), (71, 71))
        if label[1].max() > 0.9 and 8 < y < 62 and 8 < x < 62:
            assert mask[y, x]  # the column is the middle of the disc
            assert mask[y - 8:y + 9, x - 8:x + 9].mean() > 0.9


def test_a_fitted_mtf_and_a_counting_camera_are_used():
    mtf = MTF(scale=0.3, power=2.0)
    drawn = draw_camera(recipe(mtf=mtf.to_json()).imaging, np.random.default_rng(0))
    assert drawn.mtf(0.3) == pytest.approx(0.5)
    n = 192
    flat = np.ones((n + 2 * MTF_MARGIN,) * 2, np.float32)
    white = record(flat, Camera(1.0, 30.0, mtf, counting=True), np.random.default_rng(1))
    coloured = record(flat, Camera(1.0, 30.0, mtf), np.random.default_rng(1))
    assert white.var() == pytest.approx(30, rel=0.05)
    assert coloured.var() < 8
    assert (white == np.rint(white)).all()


def test_read_noise_and_gain_add_to_the_variance_as_they_should():
    flat = np.ones((220, 220), np.float32)
    camera = Camera(1.0, 16.0, None, gain=5.0, read_noise=3.0, digitised=True)
    counts = record(flat, camera, np.random.default_rng(4))
    assert camera.pedestal == 6 * 3 * 5
    assert counts.mean() == pytest.approx(90 + 80, rel=0.01)
    assert counts.var() == pytest.approx(25 * (16 + 9) + 1 / 12, rel=0.04)
    bare = record(flat, replace(camera, offset=0), np.random.default_rng(4))
    np.testing.assert_allclose(counts - bare, 90, atol=1.01)  # 0 is a pedestal that was asked for, not a missing one
    twice = record(flat, camera, np.random.default_rng(4), binned=2)
    assert twice.mean() == pytest.approx(4 * (90 + 80), rel=0.01)  # four pixels, four pedestals
    assert twice.var() == pytest.approx(4 * 25 * (16 + 9), rel=0.04)
    assert (counts == np.rint(counts)).all()


def test_shifting_and_quick_sizes():
    image = np.random.default_rng(0).normal(size=(24, 31)).astype(np.float32)
    np.testing.assert_allclose(fourier_shift(image, (3, -5)), np.roll(image, (3, -5), (0, 1)), atol=1e-5)
    assert all(abs(quick_size(n) / n - 1) < 0.04 for n in range(60, 1200))
