"""Pairs of particles whose structure is known, from exit waves: positions, angles, a ratio that keeps with the dose."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hrtem_dask import fourier_peak_pairs, peak_ratio
from hrtem_dask.kernels.fourier_grid import fourier_resample
from hrtem_dask.simulate.crystals import metal_particle
from hrtem_dask.simulate.labels import particle_mask
from hrtem_dask.simulate.lattices import lattice_of
from hrtem_dask.simulate.microscope import Optics, expected_images
from hrtem_dask.simulate.multislice import exit_wave
from hrtem_dask.simulate.recipe import Field
from hrtem_dask.simulate.structures import Specimen

BOX, SAMPLES, POINTS = 60.0, 200, 150
PX = BOX / POINTS
DOSES = (100, 400, 5000)
#: where the first shell is transferred; near a zero of the transfer function a spot splits, and no one place is right
DEFOCI = (0.0, 25.0, 50.0)


class Particle:
    """Exit wave and mask of one particle on its zone axis, and the reflections that it shows."""

    def __init__(self, species: str, axis: str, diameter: float, seed: int) -> None:
        gold = metal_particle(diameter, np.random.default_rng(seed), species=species, zone_axis=axis)
        xyz = gold.positions + [BOX / 2, BOX / 2, 1 - gold.positions[:, 2].min()]
        n = len(gold)
        specimen = Specimen(gold.numbers, xyz, (BOX, BOX, float(xyz[:, 2].max() + 1)), np.ones(n, np.int32),
                            np.zeros(n, np.int32))
        self.wave = exit_wave(specimen, Field(box=BOX, wave_sampling=0.2, stored_sampling=BOX / SAMPLES))
        self.mask = particle_mask(xyz[:, :2], (BOX, BOX), PX)
        lattice, turn = lattice_of(species), Rotation.from_quat(gold.info["orientation"]).as_matrix()
        hkl = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
        hkl = hkl[(hkl % 2 == hkl[:, :1] % 2).all(1) & hkl.any(1)]
        g = hkl @ np.linalg.inv(lattice.cell).T @ turn.T
        self.g = g[np.abs(g[:, 2]) < 1e-3][:, 1::-1]  # (y, x) of those in the zone

    def image(self, defocus: float) -> np.ndarray:
        optics = Optics(defocus=defocus, cs=-5e4, focal_spread=30)
        image = expected_images(self.wave, BOX / SAMPLES, [optics])[0]
        return np.clip(fourier_resample(image, (POINTS, POINTS)).real, 0, None)

    def errors(self, pairs) -> tuple[list[float], list[float]]:
        """Relative errors of the spacings of the first shell, and errors of the angles among them [degree]."""
        g = pairs.loc[pairs.detected, ["g_y", "g_x"]].to_numpy()
        g = g[np.hypot(*g.T) < 0.6]
        nearest = self.g[np.hypot(*(self.g[None] - g[:, None]).transpose(2, 0, 1)).argmin(1)]
        turned = np.degrees(np.arctan2(g[:, 0], g[:, 1]) - np.arctan2(nearest[:, 0], nearest[:, 1]))
        between = [abs((a - b + 90) % 180 - 90) for a, b in combinations(turned, 2)]
        return list(np.abs(np.hypot(*nearest.T) / np.hypot(*g.T) - 1)), between


@pytest.fixture(scope="module")
def particles() -> list[Particle]:
    return [Particle("Au", "110", 32, 1), Particle("Pt", "100", 34, 3)]


@pytest.fixture(scope="module")
def tables(particles):
    """Pairs by (particle, defocus, dose), several draws of the noise each."""
    rng = np.random.default_rng(7)
    return {(i, df, dose): [fourier_peak_pairs(rng.poisson(image * dose * PX**2), p.mask, pixel_size=PX)
                            for _ in range(3 if dose > 1000 else 5)]
            for i, p in enumerate(particles) for df in DEFOCI for image in [p.image(df)] for dose in DOSES}


def test_the_ratio_on_a_zone_axis_does_not_rise_with_the_dose(particles, tables):
    for i in range(len(particles)):
        for defocus in DEFOCI:
            ratio = {dose: np.median([peak_ratio(p) for p in tables[i, defocus, dose]]) for dose in DOSES}
            assert 1 <= ratio[5000] <= 1.2 * ratio[100] < 5
            assert ratio[400] <= 1.2 * ratio[100]


def test_satellites_of_a_bright_spot_are_no_pairs(tables):
    """Along [100] two pairs make the first shell; facets and dynamical scattering give them satellites."""
    for defocus in DEFOCI:
        for pairs in tables[1, defocus, 5000]:
            assert (np.hypot(pairs.g_y, pairs.g_x) < 0.6).sum() == 2
            assert peak_ratio(pairs) < 1.1


def test_spacings_and_angles_are_those_of_the_structure(particles, tables):
    spacing, angle = [], []
    for (i, _, _), draws in tables.items():
        for pairs in draws:
            d, a = particles[i].errors(pairs)
            spacing += d
            angle += a
    assert len(spacing) > 100
    assert np.quantile(spacing, 0.95) <= 0.005
    assert np.quantile(angle, 0.95) <= 0.5
