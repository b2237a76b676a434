"""What is added to an image besides the simulated field: more film, an uneven background, a veil."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hrtem_dask.core.errors import InputError
from hrtem_dask.simulate.clutter import Clutter, added_film, draw_clutter, film_spectrum, uneven
from hrtem_dask.simulate.draws import draw_example, draw_frame
from hrtem_dask.simulate.keys import Span
from hrtem_dask.simulate.microscope import Optics, expected_image
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.set_store import Sample

BOX = 60.0
QUIET = {"dose": [1e6, 1e6], "pixel_size": [0.5, 0.5], "blur": [0, 0], "drift": [0, 0], "hot_pixels": [0, 0],
         "illumination": [0, 0], "defocus": [600, 600], "overfocus_fraction": 0, "resolve": 0}


def recipe(**imaging):
    return load_recipe({"name": "test", "field": {"box": BOX}, "particles": {"diameter": [10, 20]},
                        "imaging": QUIET | imaging})


@pytest.fixture(scope="module")
def sample():
    """A wave of phase gratings with a disc of particle."""
    n = round(BOX / 0.5)
    x = np.arange(n) * 0.5
    wave = np.exp(0.1j * np.cos(2 * np.pi * x / 5)[None] * np.ones((n, 1))).astype(np.complex64)
    t = (np.arange(4 * round(BOX)) + 0.5) * 0.25 - BOX / 2
    truth = np.hypot(t[:, None], t[None]) < 12
    return Sample(wave, truth, np.zeros((60, 60), np.float32), {"index": 0, "box": BOX}, truth.astype(np.int32),
                  pd.DataFrame({"y": [30.0], "x": [30.0], "atoms": [1], "class": ["column"]}))


def spectrum_of(phase, box):
    n = len(phase)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(n, box / n), np.fft.fftfreq(n, box / n)))
    return k, np.abs(np.fft.fft2(phase)) ** 2 * (box / n) ** 4 / box**2


def test_scattering_of_carbon_is_that_of_abtem():
    from abtem.parametrizations import PengParametrization

    k = np.linspace(0, 2, 30)
    expected = PengParametrization().scattering_factor("C")(k**2)  # abTEM's argument is k^2
    ratio = film_spectrum(k, 10, 300) / expected**2
    np.testing.assert_allclose(ratio, ratio[0], rtol=0.02)
    # lambda gamma = 0.01969 * 1.587 at 300 kV
    assert ratio[0] == pytest.approx(0.09 * 10 * (0.01969 * 1.587) ** 2, rel=1e-3)


def test_an_added_film_has_the_spectrum_that_it_says_and_keeps_all_electrons():
    film = [added_film(240, 120.0, Clutter(film=40), 300, np.random.default_rng(i)) for i in range(6)]
    np.testing.assert_allclose(np.abs(film[0]), 1, atol=1e-6)
    for low, high in ((0.02, 0.1), (0.2, 0.3), (0.6, 0.8)):
        found = []
        for f in film:
            k, power = spectrum_of(np.angle(f), 120.0)
            found.append(power[(k > low) & (k < high)].mean())
        inside = k[(k > low) & (k < high)]
        assert np.mean(found) == pytest.approx(film_spectrum(inside, 40, 300).mean(), rel=0.08)
    high = added_film(240, 120.0, Clutter(film=40, height=300), 300, np.random.default_rng(0))
    intensity = np.abs(high) ** 2
    assert intensity.mean() == pytest.approx(1, abs=1e-5)
    assert intensity.std() > 0.1
    assert added_film(240, 120.0, Clutter(), 300, np.random.default_rng(0)) is None


@pytest.mark.parametrize("height", [-150, 250])
def test_a_film_at_another_height_is_in_focus_there(height):
    """Without other scattering, an image focused on the film shows none of it: a phase alone is invisible."""
    film = added_film(240, 120.0, Clutter(film=40, height=height), 300, np.random.default_rng(0))
    contrast = {d: expected_image(film, 0.5, Optics(defocus=d), energy=300).std() for d in (-height, 0, height)}
    assert min(contrast, key=contrast.get) == height
    assert contrast[height] < 0.015  # samples at the Nyquist frequency have no counterpart
    assert contrast[0] > 0.05


def test_unevenness_has_the_strength_and_the_length_that_it_says():
    fields = np.array([np.log(uneven(300, 0.5, Clutter(unevenness=0.2, length=20), np.random.default_rng(i))) / 0.2
                       for i in range(12)])
    assert fields.std() == pytest.approx(1, abs=0.1)
    assert fields[:, 0].std() == pytest.approx(fields[:, 150].std(), abs=0.4)
    for distance, expected in ((10, np.exp(-0.25)), (20, np.exp(-1)), (40, np.exp(-4))):
        assert (fields[:, :, :-2 * distance] * fields[:, :, 2 * distance:]).mean() == pytest.approx(expected, abs=0.12)
    assert uneven(300, 0.5, Clutter(), np.random.default_rng(0)) is None


def test_a_veil_takes_contrast_and_leaves_the_mean(sample):
    plain, veiled = (draw_frame(sample, recipe(veil=[v, v]), np.random.default_rng(3)) for v in (0, 0.6))
    assert veiled.clutter == Clutter(veil=0.6, length=veiled.clutter.length)
    assert veiled.optics == plain.optics
    assert veiled.origin == plain.origin
    assert veiled.counts.mean() == pytest.approx(plain.counts.mean(), rel=1e-3)
    assert veiled.counts.std() == pytest.approx(0.4 * plain.counts.std(), rel=0.03)


def test_without_clutter_nothing_is_drawn_and_with_it_all_else_stays(sample):
    bare = draw_frame(sample, recipe(), np.random.default_rng(1))
    assert replace(bare.clutter, length=0) == Clutter(length=0)
    full = draw_frame(sample, recipe(added_film=[50, 90], added_film_height=[-50, 50], veil=[0.1, 0.2],
                                     unevenness=[0.1, 0.2]), np.random.default_rng(1))
    assert (full.optics, full.camera, full.origin) == (bare.optics, bare.camera, bare.origin)
    assert 50 <= full.clutter.film <= 90
    assert full.counts.std() > bare.counts.std()
    drawn = [draw_clutter(recipe(veil=[0.1, 0.2]).imaging, np.random.default_rng(i)).veil for i in range(9)]
    assert 0.1 <= min(drawn) < max(drawn) <= 0.2


@pytest.mark.parametrize("error", [-0.2, 0.2])
def test_who_is_given_a_wrong_pixel_size_sees_everything_larger_or_smaller(sample, error):
    """The disc's 24 angstrom are 32 (1 + error) network pixels, and so is the grating of 5 angstrom."""
    widths, periods = [], []
    for seed in range(40):
        image, truth = draw_example(sample, recipe(magnification_error=[error, error]), np.random.default_rng(seed),
                                    size=60, pixel_size=0.75)
        assert image.shape == truth.shape == (60, 60)
        widths.append(min(truth.sum(0).max(), truth.sum(1).max()))
        power = np.abs(np.fft.fft2((image - image.mean()) * np.hanning(60)[:, None] * np.hanning(60), (480, 480)))
        ky, kx = np.unravel_index(power[:240].argmax(), (240, 480))
        periods.append(480 * 0.75 / np.hypot(ky, min(kx, 480 - kx)))
    assert np.median(periods) == pytest.approx(5 * (1 + error), rel=0.03)
    assert max(widths) == pytest.approx(32 * (1 + error), abs=1.5)


@pytest.mark.parametrize(("key", "value"), [("veil", [0, 1]), ("added_film", [-1, 5]), ("unevenness", [0.2, 0.1]),
                                            ("magnification_error", [-0.9, 0]), ("unevenness_length", ["soon", 9])])
def test_ranges_that_make_no_sense_are_refused(key, value):
    with pytest.raises(InputError, match=key):
        recipe(**{key: value})


def test_lengths_may_be_given_in_other_units():
    drawn = recipe(added_film=["2 nm", "30 angstrom"], veil=["10 %", "20 %"]).imaging
    assert (drawn.added_film.low, drawn.added_film.high) == (20, 30)
    assert (drawn.veil.low, drawn.veil.high) == (0.1, 0.2)


def test_evenness_makes_large_particles_no_higher_than_small_ones():
    """Heights follow the diameters with the power 1 - evenness; nothing else changes in the field."""
    from hrtem_dask.simulate.matter import Particles
    from hrtem_dask.simulate.structures import place_clusters

    common = {"diameter": Span(14, 56, "log"), "height": Span(0.8, 0.8), "elongation": Span(1, 1),
              "coverage": Span(0.3, 0.3), "number": Span(12, 12), "touching_fraction": 0.0, "twin_fraction": 0.0}
    power = {}
    for evenness in (0.0, 1.0):
        spec = Particles(**(common | {"evenness": Span(evenness, evenness)}))
        found = [c for seed in range(4) for c in place_clusters(spec, 200.0, 20.0, np.random.default_rng(seed))]
        size = np.array([c.info["diameter"] for c in found])
        height = np.array([np.ptp(c.positions[:, 2]) for c in found])
        middling = size > 28  # smaller ones would have to be higher than wide
        power[evenness] = np.polyfit(np.log(size[middling]), np.log(height[middling]), 1)[0]
        assert (height < 1.05 * size + 3).all()
    assert power[0.0] == pytest.approx(1, abs=0.3)
    assert power[1.0] == pytest.approx(0, abs=0.3)


def test_a_film_is_added_to_the_part_of_the_images_that_the_recipe_says():
    imaging = recipe(added_film=[30, 60], added_film_fraction=0.3).imaging
    films = np.array([draw_clutter(imaging, np.random.default_rng(i)).film for i in range(400)])
    assert (films > 0).mean() == pytest.approx(0.3, abs=0.08)
    assert (films[films > 0] >= 30).all()
