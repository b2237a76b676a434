"""Lattices, axes, slices and waves of the simulation against crystallography and abTEM."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gold_scenes import GOLD, gold_crystal, on_grid
from scipy import optimize

from hrtem_dask.simulate.draws import draw_frame
from hrtem_dask.simulate.microscope import Optics, expected_image
from hrtem_dask.simulate.multislice import exit_wave
from hrtem_dask.simulate.recipe import Field, load_recipe
from hrtem_dask.simulate.sets import Sample
from hrtem_dask.simulate.structures import assemble


def spots(image: np.ndarray, pixel: float, guesses: np.ndarray) -> np.ndarray:
    """Refine peaks (y, x) [1/angstrom] of the spectrum of a windowed image, near guesses."""
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])[None]
    y, x = (np.arange(n) * pixel for n in image.shape)
    values = (image - image.mean()) * window

    def minus_power(g: np.ndarray) -> float:
        return -abs(np.exp(-2j * np.pi * g[0] * y) @ values @ np.exp(-2j * np.pi * g[1] * x)) ** 2

    step = 0.5 / (len(y) * pixel)
    found = []
    for guess in guesses:
        around = [guess + [i * step, j * step] for i in range(-3, 4) for j in range(-3, 4)]
        start = min(around, key=minus_power)
        simplex = [start, start + [step / 3, 0], start + [0, step / 3]]
        found.append(optimize.minimize(minus_power, start, method="Nelder-Mead",
                                       options={"initial_simplex": simplex, "xatol": 1e-6}).x)
    return np.array(found)


def reflections(zone: tuple[int, int, int], x: tuple[int, int, int],
                families: list[tuple[int, int, int]]) -> dict[tuple[int, int, int], np.ndarray]:
    """Reciprocal vectors (y, x) [1/angstrom] of all members of these families in a zone, one of each pair."""
    z, x = np.array(zone) / np.linalg.norm(zone), np.array(x) / np.linalg.norm(x)
    y = np.cross(z, x)
    out = {}
    for family in families:
        for order in set(itertools.permutations(family)):
            for signs in itertools.product((1, -1), repeat=3):
                g = tuple(int(a * b) for a, b in zip(order, signs, strict=True))
                if abs(np.dot(g, zone)) == 0 and tuple(-v for v in g) not in out:
                    out[g] = np.array([np.dot(g, y), np.dot(g, x)]) / GOLD
    return out


@pytest.mark.parametrize(("zone", "x", "families"), [
    ((1, 1, 0), (0, 0, 1), [(1, 1, 1), (2, 0, 0), (2, 2, 0)]),
    ((0, 0, 1), (1, 2, 0), [(2, 0, 0), (2, 2, 0)]),
])
def test_lattice_spots_lie_where_the_spacings_say(zone, x, families):
    """Spacings of gold to 1 % and directions to 1 degree, in a wave's image and in a recorded frame."""
    gold = gold_crystal(60.0, zone, x, 16.0)
    box = 81.0
    specimen = on_grid(gold, (box, box))
    f = Field(box=box, wave_sampling=0.2, stored_sampling=0.3, slice_thickness=2.0)
    wave = exit_wave(specimen, f)
    lens = {"defocus": [60, 60], "overfocus_fraction": 0, "corrected_fraction": 1, "cs_corrected": [-5e-4, -5e-4],
            "focal_spread": [30, 30], "convergence": [0, 0], "astigmatism": [0, 0], "aperture_fraction": 0,
            "absorption_fraction": 0, "blur": [0.2, 0.2], "drift": [0, 0], "hot_pixels": [0, 0], "illumination": [0, 0]}
    recipe = load_recipe({"name": "spots", "field": {"box": box}, "particles": {"number": [0, 0]}, "imaging": lens})
    sample = Sample(wave, np.zeros((324, 324), bool), np.zeros((81, 81), np.float32), {})
    frame = draw_frame(sample, recipe, np.random.default_rng(8), dose=4000.0, pixel_size=0.31)
    image = expected_image(wave, box / len(wave), Optics(defocus=60, cs=-5e3, focal_spread=30))
    expected = reflections(zone, x, families)
    assert len(expected) >= 4
    # a frame begins anywhere in the periodic field
    counts = np.roll(frame.counts, [round(o / frame.pixel_size) for o in frame.origin], (0, 1))
    for pixels, pixel in ((image, box / len(image)), (counts, frame.pixel_size)):
        found = spots(pixels, pixel, np.array(list(expected.values())))
        for (index, g), seen in zip(expected.items(), found, strict=True):
            d = GOLD / np.linalg.norm(index)
            assert 1 / np.hypot(*seen) == pytest.approx(d, rel=0.01), index
            cosine = np.dot(g, seen) / np.hypot(*g) / np.hypot(*seen)
            assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) < 1.0, index


# axes and grids that are not square


def test_x_and_y_are_what_they_say():
    """A row of atoms along x is a row along the last axis, through wave, lens, drift and detector.

    If any step swapped y and x once more, or left it out, the long side or the row would lie the other way.
    """
    row = np.stack([np.linspace(4, 40, 13), np.full(13, 8.0), np.zeros(13)], 1)
    field = Field(box=44, wave_sampling=0.2)
    wave = exit_wave(assemble([row], [], (44.0, 20.0)), field, points=(100, 220), stored=(50, 110))
    assert wave.shape == (50, 110)
    phases = np.angle(wave)
    assert np.abs(phases).sum(1).argmax() == 20
    assert np.ptp(np.abs(phases).sum(1)) > 4 * np.ptp(np.abs(phases).sum(0)[15:95])
    image = expected_image(wave, 0.4, Optics(defocus=300), shape=(40, 88))
    assert image.shape == (40, 88)
    assert image.mean(1).argmin() == 16
    # a drift along y washes the row out, a drift along x does not
    along_x, along_y = (expected_image(wave, 0.4, Optics(defocus=300, drift=d), shape=(40, 88))
                        for d in ((0.0, 6.0), (6.0, 0.0)))
    assert np.ptp(along_x.mean(1)) > 0.95 * np.ptp(image.mean(1)) > 1.5 * np.ptp(along_y.mean(1))
    # two-fold astigmatism along x changes the defocus of what varies along x
    stretched = expected_image(wave, 0.4, Optics(defocus=300, astigmatism=300.0, astigmatism_angle=0.0))
    focused = expected_image(wave, 0.4, Optics(defocus=0.0))
    weak = expected_image(wave, 0.4, Optics(defocus=600.0))
    ky = np.abs(np.fft.fft(stretched.mean(1) - 1))[1:20]
    assert np.abs(ky - np.abs(np.fft.fft(weak.mean(1) - 1))[1:20]).max() < 0.02 * ky.max()
    kx = np.abs(np.fft.fft(stretched.mean(0) - 1))[1:20]
    assert np.abs(kx - np.abs(np.fft.fft(focused.mean(0) - 1))[1:20]).max() < 0.02 * ky.max()


# multislice


@pytest.mark.parametrize(("zone", "limits"), [((1, 1, 0), {1.0: 0.04, 2.0: 0.04, 3.0: 0.09}),
                                              ((1, 2, 0.3), {1.0: 0.01, 2.0: 0.02, 3.0: 0.03})])
def test_thinner_slices_change_little(zone, limits):
    """Images converge with the slice: the rms difference to slices of 0.5 angstrom, in standard deviations.

    Along a zone axis atoms lie behind one another and channel: there slices matter most.
    """
    gold = on_grid(gold_crystal(26.0, zone, (0, 0, 1)), (36.0, 40.0))
    images = {}
    for thickness in (0.5, *limits):
        wave = exit_wave(gold, Field(box=40, slice_thickness=thickness), points=(240, 270), stored=(180, 200))
        images[thickness] = expected_image(wave, 0.2, Optics(defocus=120, cs=-5e4, focal_spread=30))
    for thickness, limit in limits.items():
        assert np.corrcoef(images[thickness].ravel(), images[0.5].ravel())[0, 1] > 1 - limit**2
        assert (images[thickness] - images[0.5]).std() < limit * images[0.5].std()


def test_waves_are_those_of_abtem():
    """Our loop over abTEM's potentials against abTEM's own multislice, on a grid that is not square."""
    import abtem

    gold = gold_crystal(20.0, (1, 1, 0), (0, 0, 1))
    specimen = on_grid(gold, (24.0, 30.0))
    field = Field(box=30, slice_thickness=2.0, energy=200.0)
    wave = exit_wave(specimen, field, points=(150, 120), stored=(150, 120))
    with abtem.config.set({"precision": "float32", "diagnostics.progress_bar": False}):
        potential = abtem.Potential(specimen.atoms(), gpts=(120, 150), slice_thickness=2.0)
        theirs = abtem.PlaneWave(energy=2e5).multislice(potential, lazy=False).array.T
    assert np.ptp(np.abs(theirs)) > 1
    np.testing.assert_allclose(wave, theirs, atol=1e-4)
