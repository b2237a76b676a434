"""Crystals, limits of the search, and images with defects: what `fourier_peak_pairs` makes of what users give it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from hrtem_dask import fourier_peak_pairs, peak_ratio
from hrtem_dask.core.errors import InputError, MissingInputError, ReadError
from hrtem_dask.kernels.crop import masked_crop
from hrtem_dask.kernels.crystal import d_spacings, reflections, unit_cell
from hrtem_dask.kernels.defects import mend
from hrtem_dask.kernels.peaks import find_pairs, find_pairs_many, peak_pairs
from hrtem_dask.kernels.spectrum import power_spectrum

PX = 0.4


def fringes(shape, g, amplitude, px=PX) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]] * px
    return sum(a * np.cos(2 * np.pi * (gy * y + gx * x)) for (gy, gx), a in zip(g, amplitude, strict=True))


def disc(n: int, radius: float) -> np.ndarray:
    return np.hypot(*(np.mgrid[:n, :n] - n / 2)) < radius


SQUARE = [(0.4245, 0.0), (0.0, 0.4245)]


class TestCrystals:
    @pytest.mark.parametrize(("name", "expected"), [
        ("Pt", 3.92 / np.sqrt([3, 4, 8, 11, 12])),
        ("CeO2", 5.411 / np.sqrt([3, 4, 8, 11, 12, 16])),
        ("SrTiO3", 3.905 / np.sqrt([2, 3, 4, 5, 6, 8, 9])),
    ])
    def test_named_crystals_have_the_spacings_of_the_tables(self, name, expected):
        np.testing.assert_allclose(d_spacings(name, 1.13, 3.6)[: len(expected)], expected, rtol=1e-6)

    def test_structure_factors_leave_out_what_a_structure_lacks(self):
        # 2H-MoS2, P6_3/mmc: 00l and hhl need an even l; International Tables A, no. 194
        names = [name for name, _ in reflections("MoS2", 1.0, 7.0)]
        assert {"002", "004", "006", "100", "101", "103", "110", "112"} <= set(names)
        assert not {"001", "003", "005", "111", "113"} & set(names)
        # diamond lacks 200 and 222, hcp lacks 001 and 003
        assert not {"200", "222"} & {n for n, _ in reflections("Si", 1.0)}
        assert not {"001", "003"} & {n for n, _ in reflections("Co", 1.0)}

    def test_a_structure_of_ase_and_its_file_are_the_crystal_by_name(self, tmp_path):
        from ase.build import bulk, mx2

        ceria = bulk("CeO2", "fluorite", a=5.411)
        ceria.write(tmp_path / "ceria.cif")
        expected = d_spacings("CeO2", 1.0, 3.6)
        for given in (ceria, ceria * (2, 1, 1), tmp_path / "ceria.cif", str(tmp_path / "ceria.cif")):
            np.testing.assert_allclose(d_spacings(given, 1.0, 3.6), expected, rtol=1e-5)
        # a sheet has no reflections but those in its plane
        np.testing.assert_allclose(d_spacings(mx2("MoS2", a=3.16), 1.0, 3.6),
                                   3.16 * np.sqrt(0.75) / np.sqrt([1, 3, 4, 7]), rtol=1e-6)

    def test_a_file_that_changed_is_read_again(self, tmp_path):
        from ase.build import bulk

        path = tmp_path / "metal.cif"
        for a in (4.08, 3.92):
            bulk("Au", a=a).write(path)
            assert d_spacings(path, 2.1, 2.5)[0] == pytest.approx(a / np.sqrt(3), rel=1e-4)

    def test_what_is_no_crystal_is_an_error_that_says_what_to_give(self, tmp_path):
        from ase.cluster import Octahedron

        image = np.zeros((64, 64))
        wrong = tmp_path / "notes.cif"
        wrong.write_text("not a structure")
        for crystal, error, match in (("Unobtainium", InputError, "'Au'"), ("a.cif", MissingInputError, "no such file"),
                                      (wrong, ReadError, "notes.cif"), (Octahedron("Au", 5), InputError, "unit cell"),
                                      (object(), InputError, "expected a name"), ([-2.0], InputError, "positive")):
            with pytest.raises(error, match=match):
                fourier_peak_pairs(image, pixel_size=0.4, crystal=crystal)

    def test_a_structure_restricts_the_search_as_its_name_does(self, rng):
        from ase.build import bulk

        image = rng.poisson(40 + fringes((110, 110), [(1 / 2.356, 0), (0, 1 / 3.124)], [12, 12]))
        by_name = fourier_peak_pairs(image, pixel_size=PX, crystal="Au")
        assert by_name.d_spacing.round(1).tolist() == [2.4]
        pd.testing.assert_frame_equal(by_name, fourier_peak_pairs(image, pixel_size=PX, crystal=bulk("Au", a=4.08)))

    def test_planes_obey_the_reciprocal_lattice(self):
        cell = unit_cell("MoS2")
        hkl, g, factor = cell.planes(1.2)
        np.testing.assert_allclose(g @ cell.cell.T, hkl, atol=1e-9)
        assert factor.max() <= 1
        assert len(hkl) == len(np.unique(np.vstack([hkl, -hkl]), axis=0))


class TestLimits:
    def test_a_range_beyond_nyquist_is_an_error_and_a_default_or_a_crystal_is_clipped(self, rng):
        image = rng.poisson(20, (80, 80))
        with pytest.raises(InputError, match=r"below 2\.67 angstrom \(0\.9 of Nyquist\)"):
            fourier_peak_pairs(image, pixel_size=1.2, d_range=(1.0, 2.5))
        assert fourier_peak_pairs(image, pixel_size=1.2, d_range=(1.0, 3.6)).empty
        for crystal in (None, "Au", [1.4, 2.0]):
            assert fourier_peak_pairs(image, pixel_size=2.0, crystal=crystal).empty
        for wrong in ((0, 3), (2, 2), (2,), 3.0):
            with pytest.raises(InputError, match="d_range"):
                fourier_peak_pairs(image, pixel_size=0.4, d_range=wrong)

    def test_nothing_finer_than_the_information_limit_is_searched(self, rng):
        image = rng.poisson(40 + fringes((120, 120), [(0.42, 0.0), (0.0, 0.8)], [12, 12]))
        assert fourier_peak_pairs(image, pixel_size=PX).detected.sum() == 2
        pairs = fourier_peak_pairs(image, pixel_size=PX, information_limit=1.5)
        assert pairs.d_spacing.round(2).tolist() == [2.38]
        for wrong in (4.0, 0.0, -1.0, float("nan")):
            with pytest.raises(InputError, match="information_limit"):
                fourier_peak_pairs(image, pixel_size=PX, information_limit=wrong)

    def test_masks_that_cover_all_or_meet_the_border_or_hold_three_fringes_at_most(self, rng):
        n = 120
        image = rng.poisson(60 + fringes((n, n), SQUARE, [15, 12]))
        for mask in (np.ones((n, n), bool), np.roll(disc(n, 36), (45, 45), (0, 1)) & (np.mgrid[:n, :n].sum(0) > n)):
            pairs = fourier_peak_pairs(image, mask, pixel_size=PX)
            np.testing.assert_allclose(pairs.d_spacing[pairs.detected], 2.356, rtol=0.01)
            assert peak_ratio(pairs) == pytest.approx((15 / 12) ** 2, rel=0.2)
        small = disc(n, 0.5 * 2.9 * 3.6 / PX)
        assert fourier_peak_pairs(image, small, pixel_size=PX).empty
        for empty in (np.zeros((n, n), bool), np.zeros((n, n))):
            with pytest.raises(InputError, match="mask is empty"):
                fourier_peak_pairs(image, empty, pixel_size=PX)
        lost = np.full((n, n), np.nan)
        with pytest.raises(InputError, match="no finite pixel"):
            fourier_peak_pairs(lost, disc(n, 30), pixel_size=PX)


class TestDefects:
    def broken(self, image, rng, part=0.003):
        out = image.astype(float).copy()
        at = [tuple(rng.integers(0, n, int(part * image.size)) for n in image.shape) for _ in range(3)]
        out[at[0]], out[at[1]], out[at[2]] = 0, 30 * image.max(), np.nan
        out[70:110, 55] = 20 * image.max()  # a piece of a hot column: a streak in Fourier space
        return out

    def crossed(self, image, rows, columns):
        out = image.copy()
        out[rows] = 0
        out[:, columns] = 65535
        return out

    def test_defects_neither_hide_spots_nor_become_some(self):
        rng = np.random.default_rng(5)
        n, mask, hidden, wrong = 140, disc(140, 45), 0, 0
        for _ in range(6):
            image = rng.poisson(50 + fringes((n, n), SQUARE, [6, 5]) * mask)
            clean, broken = (fourier_peak_pairs(i, mask, pixel_size=PX) for i in (image, self.broken(image, rng)))
            assert clean.detected.sum() == 2
            hidden += broken.detected.sum() < 2
            np.testing.assert_allclose(broken.intensity[:2], clean.intensity[:2], rtol=0.15)
            noise = self.broken(rng.poisson(50, (n, n)), rng)
            wrong += bool(len(fourier_peak_pairs(noise, mask, pixel_size=PX)))
        assert hidden == 0
        assert wrong == 0

    def test_sound_images_are_left_as_they_are(self):
        rng = np.random.default_rng(6)
        n, px = 200, 0.5
        # sharp atom columns in vacuum at a high dose; single electrons; a noise-free lattice
        columns = np.zeros((n, n))
        columns[60:140:5, 60:140:4] = 1
        columns = ndimage.gaussian_filter(columns, 0.55 / px) * 6
        images = [rng.poisson(1250 * (1 + columns)), rng.poisson(0.1, (n, n)), rng.poisson(3.0, (n, n)),
                  100 + fringes((n, n), SQUARE, [9, 9])]
        for image in images:
            filled, lost = mend(image.astype(float), np.ones((n, n), bool))
            assert (filled != image).sum() <= 2
            assert not lost.any()

    def test_dead_rows_and_columns_do_not_become_spots(self, rng):
        inside = disc(160, 45)
        noise = rng.poisson(50.0, (160, 160))
        signal = rng.poisson(50 + fringes((160, 160), SQUARE, (10, 6)) * inside)
        expected = fourier_peak_pairs(signal, inside, pixel_size=PX)
        for rows, columns in (([80], []), ([], [70, 71]), ([60], [90])):
            empty, pairs = (fourier_peak_pairs(self.crossed(image, rows, columns), inside, pixel_size=PX)
                            for image in (noise, signal))
            assert empty.empty
            np.testing.assert_allclose(pairs.d_spacing, expected.d_spacing, rtol=0.005)
            assert peak_ratio(pairs) == pytest.approx(peak_ratio(expected), rel=0.1)
        sound = fringes((160, 160), SQUARE[:1], (10,))  # every row holds one value
        few = rng.poisson(0.01, (160, 160)).astype(float)
        for image in (sound, few):
            np.testing.assert_array_equal(mend(image, inside)[0], image)

    def test_a_patch_that_is_lost_gets_no_weight(self, rng):
        image = rng.poisson(50 + fringes((120, 120), SQUARE, [12, 12])).astype(float)
        image[50:60, 50:62] = np.nan
        crop = masked_crop(image, disc(120, 40), (PX, PX))
        i, j = 50 - crop.origin[0], 50 - crop.origin[1]
        assert (crop.weight[i + 2: i + 8, j + 2: j + 10] == 0).all()
        assert fourier_peak_pairs(image, disc(120, 40), pixel_size=PX).detected.sum() == 2

    def test_a_constant_image_with_a_hot_pixel_is_empty(self):
        image = np.full((90, 90), 7.0)
        image[40, 41] = 4000
        assert fourier_peak_pairs(image, disc(90, 35), pixel_size=PX).empty


def test_many_crops_at_once_give_what_each_gives_alone(rng):
    images = [rng.poisson(40 + fringes((130, 130), SQUARE, [a, 8])) for a in (3, 8, 12)]
    masks = [disc(130, r) for r in (50, 50, 22)]
    crops = [masked_crop(i, m, (PX, PX)) for i, m in zip(images, masks, strict=True)]
    crops.append(masked_crop(np.full((40, 40), 3), None, (0.8, 0.8)))
    together = find_pairs_many(crops, crystal="Au")
    for table, image, mask, crop in zip(together, images, masks, crops, strict=False):
        pd.testing.assert_frame_equal(table, peak_pairs(image, mask, (PX, PX), crystal="Au"), rtol=1e-5)
        full = find_pairs(crop, power_spectrum(crop), crystal="Au")
        pd.testing.assert_frame_equal(table, full, rtol=1e-3, atol=1e-3)
    assert together[3].empty


def test_the_ratio_of_a_shell_with_one_direction_is_no_number():
    rows = pd.DataFrame({"g_y": [0.0, 0.69, 0.05], "g_x": [0.425, 0.0, 0.43], "intensity": [9.0, 4.0, 1.0],
                         "detected": True})
    assert np.isnan(peak_ratio(rows[:2]))
    assert np.isnan(peak_ratio(rows))  # two arcs of one smeared spot
    assert peak_ratio(rows[:2], shell=1.7) == 2.25
    assert peak_ratio(rows[:2], shell=1.7, of="amplitude") == 1.5
    with pytest.raises(InputError, match="'amplitude'"):
        peak_ratio(rows, of="power")
