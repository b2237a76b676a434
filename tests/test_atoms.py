"""Atoms of a column from its intensity: intervals that hold the truth, and refusals where contrast does not tell."""

from __future__ import annotations

from dataclasses import replace

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

from hrtem_dask import column_contrast, estimate_atoms
from hrtem_dask.core.errors import InputError
from hrtem_dask.core.schema import ATOMS
from hrtem_dask.detector.mtf import MTF
from hrtem_dask.kernels.atom_count import Curves, interval_of, monotonic_range, weigh, weigh_settings
from hrtem_dask.kernels.columns import fit_columns
from hrtem_dask.simulate.camera import MTF_MARGIN, Camera, record
from hrtem_dask.simulate.columns import column_table
from hrtem_dask.simulate.crystals import metal_particle
from hrtem_dask.simulate.microscope import Optics, expected_image
from hrtem_dask.simulate.multislice import exit_wave
from hrtem_dask.simulate.recipe import Field
from hrtem_dask.simulate.structures import assemble
from hrtem_dask.simulate.terraces import atom_spacing, terrace

#: dark columns whose contrast grows over many atoms; and bright ones whose contrast turns after three
DARK = Optics(defocus=-5.0, cs=-2e5, focal_spread=30.0, convergence=1e-4, blur=0.2)
BRIGHT = Optics(defocus=-50.0, cs=-1e5, focal_spread=30.0, convergence=1e-4, blur=0.2)
CAMERA = MTF(scale=0.5, power=2.5)
PIXEL, BOX, MOST = 0.12, 36.0, 6
#: one calibration serves several tests: waves and contrasts are remembered
OPTIONS = {"zone_axis": "100", "pixel_size": PIXEL, "mtf": CAMERA, "max_atoms": MOST, "max_tilt": 1.0,
           "defocus_error": 5.0}


class Particle:
    """A particle of gold near [100] that no calibration has seen: facets, steps, adatoms, vibrating atoms."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 5])
        cut = metal_particle(rng.uniform(15, 20), rng, shape="wulff", zone_axis="100", tilt=(0, 1), height=0.9, steps=2,
                             adatoms=0.05)
        at = cut.positions + [BOX / 2, BOX / 2, 0] + rng.normal(0, 0.08, cut.positions.shape)
        specimen = assemble([cut.moved(at)], [], (BOX, BOX))
        n = round(BOX / 0.1)
        self.seed, self.columns = seed, column_table(specimen)
        self.wave = exit_wave(specimen, Field(), points=(n, n), stored=(n // 2, n // 2))
        self.height = specimen.box[2] - specimen.positions[:, 2].mean()

    def measured(self, optics: Optics, *, dose: float = 3000.0, contrast: float = 1.0) -> pd.DataFrame:
        """Columns as they are measured in a frame of the camera, with their true number of atoms."""
        n = round(BOX / PIXEL)
        lens = replace(optics, defocus=optics.defocus + self.height)
        image = 1 + contrast * (expected_image(self.wave, BOX / len(self.wave), lens, shape=(n, n)) - 1)
        rng = np.random.default_rng(self.seed)
        counts = record(np.pad(image, MTF_MARGIN, mode="wrap"), Camera(BOX / n, dose, CAMERA), rng)
        place = self.columns[["y", "x"]].to_numpy() + rng.normal(0, 0.05, (len(self.columns), 2))
        return fit_columns(counts, place, (BOX / n,) * 2).assign(true=self.columns["atoms"].to_numpy())


@pytest.fixture(scope="module")
def particles() -> list[Particle]:
    return [Particle(seed) for seed in range(4)]


def counted(found: pd.DataFrame) -> pd.DataFrame:
    return found[found["atoms_status"] == "counted"]


def test_intervals_hold_the_truth(particles: list[Particle]) -> None:
    found = pd.concat([estimate_atoms(p.measured(DARK, contrast=0.93), optics=DARK, **OPTIONS) for p in particles])
    given = counted(found)
    assert len(given) > 0.5 * len(found)
    inside = (given["atoms_low"] <= given["true"]) & (given["true"] <= given["atoms_high"])
    assert inside.mean() > 0.85
    assert ((given["atoms"] - given["true"]).abs() <= 1).mean() > 0.9
    assert (given["atoms_high"] - given["atoms_low"]).mean() < 2.5
    assert (given["atoms_reason"] == "").all()


def test_contrast_that_turns_is_refused_with_the_reason(particles: list[Particle]) -> None:
    table = particles[0].measured(BRIGHT)
    found = estimate_atoms(table, optics=BRIGHT, **OPTIONS)
    refused = found[found["atoms_status"] == "not monotonic"]
    assert len(refused) > 0.6 * len(found)
    assert refused[["atoms", "atoms_low", "atoms_high"]].isna().all(axis=None)
    assert refused["atoms_reason"].str.contains("contrast grows up to").all()
    assert found.attrs["atoms"]["countable"] < 5
    # where nothing thicker can be there, the same intensities tell
    thin = table[table["true"] <= 2]
    assert (estimate_atoms(thin, optics=BRIGHT, **OPTIONS | {"max_atoms": 2})["atoms_status"] == "counted").mean() > 0.5


def test_contrast_of_an_optics() -> None:
    dark = column_contrast("100", optics=DARK, pixel_size=PIXEL, mtf=CAMERA, max_atoms=MOST)
    assert dark["counts"].all()
    assert (np.diff(dark["intensity"]) < 0).all()
    bright = column_contrast("100", optics=BRIGHT, pixel_size=PIXEL, mtf=CAMERA, max_atoms=MOST)
    assert bright["intensity"][0] > 0
    assert not bright["counts"].all()
    blurred = column_contrast("100", optics=replace(DARK, blur=0.6), pixel_size=PIXEL, mtf=CAMERA, max_atoms=MOST)
    assert (blurred["intensity"].abs() < dark["intensity"].abs()).all()


def test_rows_order_and_index_are_kept(particles: list[Particle]) -> None:
    table = particles[0].measured(DARK).assign(note="x")
    table.loc[3, "intensity"] = np.nan
    mixed = table.sample(frac=1, random_state=0)
    found = estimate_atoms(mixed, optics=DARK, **OPTIONS)
    assert found.index.equals(mixed.index)
    assert list(found.columns) == [*mixed.columns, *ATOMS.names]
    assert found.loc[3, "atoms_status"] == "no intensity"
    assert np.isnan(found.loc[3, "atoms"])
    lazily = estimate_atoms(dd.from_pandas(table, npartitions=2), optics=DARK, **OPTIONS)
    assert lazily["atoms"].equals(found["atoms"].sort_index())
    again = estimate_atoms(found, optics=DARK, **OPTIONS)
    assert list(again.columns) == list(found.columns)
    assert not len(estimate_atoms(table.iloc[:0], optics=DARK, **OPTIONS))


def test_intensities_of_another_optics_match_nothing(particles: list[Particle]) -> None:
    table = particles[0].measured(DARK)
    found = estimate_atoms(table.assign(intensity=-table["intensity"]), optics=DARK, **OPTIONS)
    assert found["atoms_status"].isin(["no match", "not resolved"]).all()
    assert found["atoms_reason"].str.contains("optics").all()


@pytest.mark.parametrize(("change", "message"), [
    ({"optics": "defocus 5"}, "expected hrtem_dask.simulate.microscope.Optics"),
    ({"level": 1.0}, "level is 1.0"),
    ({"max_atoms": 0}, "max_atoms is 0"),
    ({"max_atoms": 300}, "at most 40"),
    ({"pixel_size": 0}, "pixel_size is 0"),
    ({"max_tilt": -1}, "max_tilt is -1"),
    ({"crystal": "gold"}, "no element"),
    ({"zone_axis": "eleven"}, "no direction"),
])
def test_options_that_make_no_sense(change: dict, message: str) -> None:
    table = pd.DataFrame({"y": [1.0, 3.0], "x": [1.0, 3.0], "intensity": [-0.2, -0.3], "intensity_error": [0.05, 0.05]})
    with pytest.raises(InputError, match=message):
        estimate_atoms(table, **{"optics": DARK} | OPTIONS | change)


def test_tables_that_are_none() -> None:
    table = pd.DataFrame({"y": [1.0], "x": [1.0], "intensity": [np.nan], "intensity_error": [0.1]})
    with pytest.raises(InputError, match="no row has an intensity"):
        estimate_atoms(table, optics=DARK, **OPTIONS)
    with pytest.raises(InputError, match=r"columns is a list; .*find_sites\(\.\.\.\)\.table"):
        estimate_atoms([table], optics=DARK, **OPTIONS)
    with pytest.raises(InputError, match=r"lacks the columns \['intensity_error'\]"):
        estimate_atoms(table.drop(columns="intensity_error"), optics=DARK, **OPTIONS)


def test_the_hills_that_calibrate_hold_all_numbers() -> None:
    for axis, most in (("110", 8), ("111", 3)):
        hill = column_table(terrace("Au", axis, most, np.random.default_rng(1)))
        assert sorted(hill["atoms"].unique()) == list(range(1, most + 1))
        assert hill["atoms"].value_counts().min() >= 3
    assert atom_spacing("Fe", "111") == pytest.approx(2.87 * np.sqrt(3) / 2, abs=0.01)


def levels(n: int = 8) -> Curves:
    """Two settings: contrast that grows to the end, or turns after five atoms."""
    k = np.arange(1, n + 1)
    mean = np.stack([1.2 * (1 - np.exp(-k / 5)), 0.9 * np.sin(np.pi * k / 10)])
    return Curves(mean, np.full(mean.shape, 0.02), np.array([0.5, 0.5]))


@pytest.mark.parametrize("noise", [0.03, 0.08])
def test_coverage_of_known_levels(noise: float) -> None:
    """Intervals of 90 % hold 90 %, with setting and scale to be found, numbers as uneven as those of a particle."""
    rng, curves, hits, total, right = np.random.default_rng(2), levels(), 0, 0, 0
    for _ in range(30):
        atoms = np.minimum(1 + rng.binomial(7, rng.uniform(0.3, 0.7), 150), 8)
        scale = np.exp(0.1 * np.clip(rng.normal(), -2, 2))
        spread = np.hypot(scale * np.hypot(0.02, 0.05 * curves.mean[0, atoms - 1]), noise)
        value = scale * curves.mean[0, atoms - 1] + rng.normal(0, spread)
        deviations = np.linspace(-2, 2, 13)
        weight = np.exp(-0.5 * deviations**2)
        found = weigh_settings(value, np.full(150, noise), curves, np.exp(0.1 * deviations), weight)
        right += found.weight[found.setting == 0].sum() > 0.5
        chance, _, _ = weigh(value, np.full(150, noise), found, np.array([8, 5]))
        _, low, high = interval_of(chance, 0.9)
        hits, total = hits + ((low <= atoms) & (atoms <= high)).sum(), total + 150
    assert 0.87 < hits / total < 0.99
    assert right >= (27 if noise < 0.05 else 18)


def test_what_could_be_thicker_is_told() -> None:
    curves = levels()
    turned = Curves(curves.mean[1:], curves.scatter[1:], np.ones(1))
    value = np.array([0.28, turned.mean[0, 3]])  # one atom; four, or as well six
    found = weigh_settings(np.repeat(value, 20), np.full(40, 0.02), turned, np.ones(1), np.ones(1))
    chance, beyond, distance = weigh(np.append(value, 3.0), np.full(3, 0.02), found, np.array([5]))
    assert chance.sum(1) == pytest.approx([1, 1, 1])
    assert beyond[0] < 0.05 < 0.2 < beyond[1]
    assert distance[2] > 10 > 3 > distance[:2].max()


def test_range_of_growth() -> None:
    small = np.full(4, 0.01)
    assert monotonic_range(np.array([-0.1, -0.3, -0.4, -0.5]), small) == 4
    assert monotonic_range(np.array([0.3, 0.5, 0.505, 0.9]), small) == 2
    assert monotonic_range(np.array([0.3, 0.2, -0.4, -0.9]), small) == 0  # bright, then dark


def test_intervals_hold_the_best_number() -> None:
    rng = np.random.default_rng(0)
    chance = rng.dirichlet(np.full(7, 0.4), 200)
    best, low, high = interval_of(chance, 0.8)
    held = np.array([c[a - 1:b].sum() for c, a, b in zip(chance, low, high, strict=True)])
    assert (held >= 0.8 - 1e-12).all()
    assert ((low <= best) & (best <= high)).all()
    assert (best == chance.argmax(1) + 1).all()
    shorter = [c[a:b].sum() < 0.8 or c[a - 1:b - 1].sum() < 0.8 for c, a, b in zip(chance, low, high, strict=True)]
    assert all(shorter)
