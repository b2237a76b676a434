"""Recipes, structures, labels, the microscope and sets."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree

from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.detector import MTF
from hrtem_dask.kernels.fourier_grid import fourier_resample
from hrtem_dask.kernels.resample import resample
from hrtem_dask.simulate.camera import MTF_MARGIN, Camera, record
from hrtem_dask.simulate.crystals import metal_particle
from hrtem_dask.simulate.draws import draw_example, draw_frame, truth_at
from hrtem_dask.simulate.films import amorphous_block
from hrtem_dask.simulate.labels import gold_thickness, particle_mask
from hrtem_dask.simulate.microscope import Optics, expected_image, wavelength
from hrtem_dask.simulate.multislice import exit_wave
from hrtem_dask.simulate.recipe import Span, load_recipe, shipped_recipes
from hrtem_dask.simulate.sets import Sample
from hrtem_dask.simulate.structures import (
    Specimen,
    assemble,
    build_specimen,
    film_blocks,
    is_free,
    place_clusters,
)

TINY = {
    "name": "tiny",
    "field": {"box": 40, "wave_sampling": 0.35, "slice_thickness": 4},
    "particles": {"number": [1, 2], "coverage": [0.1, 0.2], "diameter": [10, 14], "empty_fraction": 0},
    "film": {"thickness": [8, 12], "absent_fraction": 0},
}


# recipes


def test_shipped_recipes_load():
    assert "au-particles" in shipped_recipes()
    for name in shipped_recipes():
        assert load_recipe(name).name == name


def test_recipe_from_file_and_back(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nimaging:\n  dose: {low: 5, high: 50, scale: linear}\n  defocus: [100, 200]\n")
    recipe = load_recipe(path)
    assert recipe.imaging.dose == Span(5, 50, "linear")
    assert recipe.imaging.defocus == Span(100, 200)
    assert recipe.field == load_recipe({"name": "other"}).field
    assert load_recipe(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert load_recipe(recipe.to_dict()).digest == recipe.digest != load_recipe({"name": "mine"}).digest


@pytest.mark.parametrize(("content", "message"), [
    ({}, "name"),
    ({"name": "a", "imagin": {}}, "did you mean 'imaging'"),
    ({"name": "a", "imaging": {"dosis": [1, 2]}}, "did you mean 'dose'"),
    ({"name": "a", "imaging": {"dose": [20, 10]}}, "low not above high"),
    ({"name": "a", "imaging": {"dose": [0, 10]}}, "within 0.01"),
    ({"name": "a", "imaging": {"dose": [1, 2, 3]}}, r"expected \[low, high\]"),
    ({"name": "a", "imaging": {"dose": [1, "two"]}}, r"expected \[low, high\]"),
    ({"name": "a", "imaging": {"dose": {"low": 1, "high": 2, "scale": "cubic"}}}, "cubic"),
    ({"name": "a", "imaging": {"blur": {"low": 0, "high": 2, "scale": "log"}}}, "above 0"),
    ({"name": "a", "field": {"box": -4}}, "angstrom"),
    ({"name": "a", "field": {"box": True}}, "angstrom"),
    ({"name": "a", "film": [1, 2]}, "expected keys"),
])
def test_bad_recipes_say_what_is_wrong(content, message):
    with pytest.raises(InputError, match=message):
        load_recipe(content)


def test_missing_and_broken_recipe_files(tmp_path):
    with pytest.raises(MissingInputError, match="au-particles"):
        load_recipe("no-such-recipe")
    path = tmp_path / "bad.yaml"
    path.write_text("name: [unclosed")
    with pytest.raises(InputError, match="YAML"):
        load_recipe(path)
    path.write_text("just text")
    with pytest.raises(InputError, match="keys"):
        load_recipe(path)


# structures


@pytest.mark.parametrize("twin", [False, True])
def test_gold_keeps_its_bond_length_and_density(rng, twin):
    for _ in range(4):
        p = metal_particle(36.0, rng, twin=twin).positions
        nearest = cKDTree(p).query(p, k=2)[0][:, 1]
        assert nearest.min() == pytest.approx(4.078 / np.sqrt(2), abs=0.01)
        assert np.percentile(nearest, 99) == pytest.approx(4.078 / np.sqrt(2), abs=0.01)
        sphere = np.pi / 6 * 36**3 * 4 / 4.078**3
        assert 0.5 * sphere < len(p) < 1.15 * sphere


def test_gold_takes_any_orientation(rng):
    directions = []
    for _ in range(12):
        p = metal_particle(14.0, rng).positions
        pairs = cKDTree(p).query_pairs(3.0, output_type="ndarray")
        bond = p[pairs[0, 0]] - p[pairs[0, 1]]
        directions.append(np.abs(bond[2]) / np.linalg.norm(bond))
    assert np.ptp(directions) > 0.3


def test_amorphous_block_is_periodic_and_hard(rng):
    box = (20.0, 24.0, 16.0)
    p = amorphous_block(box, 0.09, rng)
    assert len(p) == round(0.09 * np.prod(box))
    assert (p >= 0).all()
    assert (p <= box).all()
    nearest = cKDTree(p % box, boxsize=box).query(p % box, k=2)[0][:, 1]
    assert np.percentile(nearest, 2) > 1.25  # a few pairs stay closer, random points would have 30 %


def test_particles_keep_their_distance(rng):
    spec = replace(load_recipe("au-particles").particles, touching_fraction=0.0, coverage=Span(0.3, 0.3))
    placed = [c.info for c in place_clusters(spec, 150.0, 20.0, rng)]
    assert len(placed) > 2
    for i, q in enumerate(placed):
        assert is_free(np.array([q["x"], q["y"]]), q["diameter"], 0.99, placed[:i] + placed[i + 1:], 150.0)


def test_specimen_lies_in_its_cell_and_keeps_gold_and_carbon_apart():
    recipe = load_recipe(TINY)
    blocks = film_blocks(recipe, 3)
    for seed in range(4):
        s = build_specimen(recipe, np.random.default_rng(seed), blocks)
        atoms = np.concatenate([s.gold, s.carbon])
        assert len(s.gold) > 0
        assert len(s.carbon) > 0
        assert (atoms >= 0).all()
        assert (atoms <= np.array(s.box)).all()
        assert cKDTree(s.gold).query(s.carbon)[0].min() > 2.3


def test_empty_fields_hold_film_only():
    recipe = load_recipe(TINY | {"particles": {"empty_fraction": 1}, "film": {"absent_fraction": 1}})
    s = build_specimen(recipe, np.random.default_rng(0), film_blocks(recipe, 0))
    assert len(s.gold) == 0
    assert len(s.carbon) > 0


# labels


def test_mask_is_yx_and_not_square():
    mask = particle_mask(np.array([[30.0, 8.0, 1.0]]), (20.0, 50.0), 0.1)
    assert mask.shape == (200, 500)
    assert np.argwhere(mask).mean(0) == pytest.approx([80, 300])
    assert mask.sum() * 0.01 == pytest.approx(np.pi * 1.4**2, rel=0.05)


def test_mask_wraps_only_where_it_should():
    atom = np.array([[0.0, 0.0, 0.0]])
    assert particle_mask(atom, (20, 20), 0.5)[-1, -1]
    alone = particle_mask(atom, (20, 20), 0.5, periodic=False)
    assert alone[0, 0]
    assert not alone[-1, -1]


def test_mask_closes_gaps_and_fills_holes():
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ring = np.stack([20 + 10 * np.cos(angle), 20 + 10 * np.sin(angle), 0 * angle], 1)
    assert particle_mask(ring, (40, 40), 0.25)[80, 80]
    two = np.array([[10.0, 10.0, 0], [13.4, 10.0, 0]])  # 3.4 apart: discs of 1.4 leave 0.6, closed by 1.2
    assert ndimage.label(particle_mask(two, (20, 25), 0.1))[1] == 1
    far = np.array([[10.0, 10.0, 0], [16.0, 10.0, 0]])
    assert ndimage.label(particle_mask(far, (20, 25), 0.1))[1] == 2
    assert not particle_mask(np.zeros((0, 3)), (10, 10), 0.5).any()


def test_gold_thickness_is_the_volume_over_the_area(rng):
    p = metal_particle(30.0, rng).positions + 30.0
    t = gold_thickness(p, (60, 60), 1.0)
    assert t.sum() == pytest.approx(len(p) * 4.078**3 / 4, rel=1e-4)
    assert t.max() == pytest.approx(30, rel=0.3)


# microscope


@pytest.mark.parametrize(("energy", "expected"), [(80, 0.041757), (200, 0.025079), (300, 0.019687)])
def test_wavelength(energy, expected):
    assert wavelength(energy) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(8, 24), m=st.integers(8, 40), order=st.integers(0, 3), axis=st.integers(0, 1))
def test_fourier_resampling_keeps_what_both_grids_hold(n, m, order, axis):
    def wave(k: int) -> np.ndarray:
        x = np.cos(2 * np.pi * order * np.arange(k) / k + 0.3)
        return x[:, None] * np.ones(k) if axis == 0 else x[None] * np.ones((k, 1))

    np.testing.assert_allclose(fourier_resample(wave(n), (m, m)), wave(m), atol=1e-5)


def gold_atom(x: float, y: float, box: tuple[float, float]) -> Specimen:
    atom = assemble([np.array([[x, y, 2.0]])], [], (box[1], box[0]))
    assert atom.box == (box[1], box[0], 4.0)
    return atom


def test_exit_wave_and_contrast_follow_the_conventions():
    """Positions (x, y) become images (y, x), and an atom is dark at underfocus near Scherzer."""
    field = load_recipe(TINY).field
    wave = exit_wave(gold_atom(30.0, 8.0, (24.0, 42.0)), field, points=(80, 140), stored=(48, 84))
    assert wave.shape == (48, 84)
    assert np.unravel_index(np.angle(wave).argmax(), wave.shape) == (16, 60)
    under = expected_image(wave, 0.5, Optics(defocus=400, cs=0.5e7))
    over = expected_image(wave, 0.5, Optics(defocus=-400, cs=0.5e7))
    assert np.unravel_index(under.argmin(), under.shape) == (32, 120)
    assert under[32, 120] < 0.9 < 1.05 < over[32, 120]


def test_transfer_agrees_with_abtem():
    import abtem

    field = load_recipe(TINY).field
    wave = exit_wave(gold_atom(12.0, 7.0, (20.0, 30.0)), field, points=(60, 90), stored=(60, 90))
    mine = expected_image(wave, 1 / 3, Optics(defocus=350, cs=0.4e7, focal_spread=60, astigmatism=80,
                                              astigmatism_angle=0.4))
    waves = abtem.Waves(wave.T.copy(), energy=300e3, sampling=(1 / 3, 1 / 3))
    ctf = abtem.CTF(energy=300e3, defocus=350, Cs=0.4e7, focal_spread=60, C12=80, phi12=0.4)
    theirs = np.abs(np.asarray(waves.apply_ctf(ctf).array)) ** 2
    np.testing.assert_allclose(mine[::2, ::2], theirs.T, atol=2e-5)


def test_absorption_aperture_and_motion_do_what_they_say():
    flat = np.ones((32, 32), np.complex64)
    t = np.full((16, 16), 100.0, np.float32)
    image = expected_image(flat, 0.5, Optics(absorption_length=200.0), gold_thickness=t)
    np.testing.assert_allclose(image, np.exp(-0.5), rtol=1e-3)
    k = np.array([[0.0, 0.3, 0.5, 0.6]])
    assert np.abs(Optics(aperture=0.45).transfer(0 * k, k, 300))[0] == pytest.approx([1, 1, 0, 0], abs=1e-4)
    assert Optics(drift=(0, 4.0)).motion(0 * k, k)[0, 2] == pytest.approx(0, abs=1e-6)
    assert Optics(blur=0.7).motion(0 * k, k)[0, 1] == pytest.approx(np.exp(-2 * (np.pi * 0.7 * 0.3) ** 2))


def test_recording_keeps_the_mean_and_colours_the_noise(rng):
    camera = Camera(0.4, 200.0, MTF(0.5, 2.5, 0.05))
    n = 128
    frames = np.stack([record(np.ones((n + 2 * MTF_MARGIN,) * 2), camera, rng) for _ in range(20)])
    assert frames.mean() == pytest.approx(32, rel=2e-3)
    power = (np.abs(np.fft.fft2(frames - frames.mean((1, 2), keepdims=True))) ** 2).mean(0) / n**2 / 32
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(n), np.fft.fftfreq(n))) * 2
    for low, high in ((0.1, 0.2), (0.5, 0.6), (0.9, 1.0)):
        ring = (k >= low) & (k < high)
        assert power[ring].mean() == pytest.approx((camera.mtf(k[ring]) ** 2).mean(), rel=0.06)


def test_binned_drawing_gives_the_network_the_same_noise(rng):
    """Pixels of 0.1 angstrom, or 3 x 3 of them drawn as one: the same spectrum at 0.5 angstrom."""
    camera = Camera(0.1, 50.0, MTF(0.4, 2.5))
    assert camera.binned == 3
    spectra = []
    for binned, n in ((1, 600), (3, 200)):
        images = [resample(record(np.ones((n + 2 * MTF_MARGIN,) * 2), camera, rng, binned=binned), 0.1 * binned, 0.5,
                           shape=(100, 100)) / binned**2 for _ in range(12)]
        assert np.mean(images) == pytest.approx(0.5, rel=0.01)
        power = (np.abs(np.fft.fft2(np.stack(images) - np.mean(images))) ** 2).mean(0)
        k = np.hypot(*np.meshgrid(np.fft.fftfreq(100), np.fft.fftfreq(100)))
        spectra.append([power[(k >= a) & (k < a + 0.1)].mean() for a in (0.05, 0.15, 0.25, 0.35)])
    np.testing.assert_allclose(spectra[0], spectra[1], rtol=0.1)


# images of stored fields


def blob_sample(box: float, y: float, x: float, radius: float = 6.0) -> Sample:
    """A field with one absorbing disc at a known place."""
    def disc(step: float) -> np.ndarray:
        t = np.arange(round(box / step)) * step
        return (t[:, None] - y) ** 2 + (t[None] - x) ** 2 <= radius**2

    wave = np.where(ndimage.gaussian_filter(disc(0.5).astype(float), 1) > 0.5, 0.6, 1.0).astype(np.complex64)
    return Sample(wave, disc(0.25), np.zeros((round(box),) * 2, np.float32), {})


PLAIN = {"defocus": [0, 0], "cs": [0, 0], "cs_corrected": [0, 0], "focal_spread": [30, 30], "astigmatism": [0, 0],
         "convergence": [0, 0], "drift": [0, 0], "blur": [0.5, 0.5], "hot_pixels": [0, 0], "illumination": [0, 0],
         "aperture_fraction": 0}


@pytest.mark.parametrize("pixel_size", [0.1, 0.37, 0.59, 0.8])
def test_truth_lies_under_the_particle_at_any_pixel_size(pixel_size, rng):
    recipe = load_recipe({"name": "plain", "field": {"box": 60}, "particles": {"diameter": [10, 20]}, "imaging": PLAIN})
    sample = blob_sample(60.0, 22.0, 35.0)
    for _ in range(3):
        frame = draw_frame(sample, recipe, rng, dose=1e5, pixel_size=pixel_size)
        image = resample(frame.counts, frame.pixel_size, 0.5)
        truth = truth_at(sample, frame.origin, 0.5, image.shape)
        level = (image[truth].mean() + image[~truth].mean()) / 2
        found = image < level
        inner = slice(8, -8)  # at the edges of the frame nothing is known beyond
        assert (found[inner, inner] != truth[inner, inner]).mean() < 0.01
        if truth[inner, inner].sum() == truth.sum():
            difference = np.subtract(ndimage.center_of_mass(found[inner, inner]),
                                     ndimage.center_of_mass(truth[inner, inner]))
            assert np.abs(difference).max() * 0.5 < 0.25


def test_examples_are_turned_with_their_truth(rng):
    recipe = load_recipe({"name": "plain", "field": {"box": 60}, "particles": {"diameter": [10, 20]}, "imaging": PLAIN})
    sample = blob_sample(60.0, 22.0, 35.0)
    for _ in range(8):
        image, truth = draw_example(sample, recipe, rng, size=64)
        assert image.shape == truth.shape == (64, 64)
        if 0.1 < truth.mean() < 0.9:
            assert image[truth].mean() < 0.7 * image[~truth].mean()
