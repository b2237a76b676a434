"""The sheet of simulated beside real micrographs, and the figures that it compares them by."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import contact_sheet, picture_figures
from benchmarks.picture_figures import Picture, compare, corners, numbers, region_of, separation, spectrum

TINY = """
name: tiny
field: {box: 40, wave_sampling: 0.35, slice_thickness: 4}
particles: {number: [1, 2], coverage: [0.1, 0.2], diameter: [10, 14], empty_fraction: 0}
film: {thickness: [8, 12], absent_fraction: 0}
"""


def micrograph(seed=0, *, n=200, dark=(30.0, 30.0), rim=0.0, film=10.0, width=0.0, blur=None):
    """Two dark discs on a film of noise, at 0.5 angstrom a pixel."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((n, n))
    image = rng.normal(200, film, (n, n))
    if width or blur:
        image = 200 + film * (soft := ndimage.gaussian_filter(image - 200, blur or width)) / soft.std()
    mask = np.zeros((n, n), bool)
    for depth, (cy, cx) in zip(dark, ((60, 60), (140, 130)), strict=True):
        r = np.hypot(y - cy, x - cx)
        mask |= r < 30
        image[r < 30] -= depth
        image[(r > 32) & (r < 46)] += rim
    return Picture(image, mask, 0.5)


def test_figures_say_what_was_put_in():
    found = numbers(micrograph())
    assert found["contrast: (film - particle) / std of film"] == pytest.approx(3, rel=0.03)
    assert found["std in particle / std in film"] == pytest.approx(1, rel=0.05)
    assert found["std among particles / their contrast"] < 0.03
    assert abs(found["rim / contrast"]) < 0.02
    assert found["direction in the film, 0.2 to 0.5 1/Å"] < 0.1
    assert abs(found["neighbouring pixels' correlation"]) < 0.05
    shares = [v for k, v in found.items() if k.startswith("power")]
    assert sum(shares) == pytest.approx(100)
    other = numbers(micrograph(dark=(20.0, 40.0), rim=6.0, blur=(2.0, 0.0)))
    assert other["std among particles / their contrast"] == pytest.approx(10 / 30, rel=0.05)
    assert other["rim / contrast"] == pytest.approx(6 / 30, rel=0.25)
    assert other["direction in the film, 0.2 to 0.5 1/Å"] > 0.3


def test_figures_depend_on_neither_gain_nor_offset():
    p = micrograph()
    for name, value in numbers(replace(p, image=p.image * 7.5 - 300)).items():
        assert value == pytest.approx(numbers(p)[name], abs=1e-6, rel=1e-6), name


@pytest.mark.parametrize("covered", [0.0, 1.0])
def test_a_picture_without_film_or_without_particles_has_the_other_figures(covered):
    p = micrograph()
    p = replace(p, mask=np.full(p.mask.shape, bool(covered)))
    assert region_of(p).all()
    found = numbers(p)
    assert not any("particle" in name for name in found)
    assert "excess kurtosis of film" in found
    assert np.isfinite(list(found.values())).all()
    assert "excess kurtosis" in compare([p], [])


def test_the_spectrum_is_normalised_to_the_variance():
    p = replace(micrograph(), mask=np.zeros((200, 200), bool), image=np.random.default_rng(1).normal(5, 3, (200, 200)))
    # white noise of variance 9 on samples of 0.25 angstrom^2
    np.testing.assert_allclose(spectrum(p, np.array([0.2, 0.5, 0.9])), 9 * 0.25, rtol=0.1)


def test_real_ones_are_cut_to_the_same_size():
    p = micrograph()
    parts = list(corners(p, 120))
    assert [part.image.shape for part in parts] == [(120, 120)] * 4
    np.testing.assert_array_equal(parts[3].mask, p.mask[80:, 80:])
    assert [part.image.shape for part in corners(p, 500)] == [(200, 200)]


def test_the_table_tells_groups_apart():
    ours, same, darker = ([micrograph(i + start, dark=(d, d)) for i in range(4)]
                          for start, d in ((0, 30.0), (100, 30.0), (200, 60.0)))
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in compare(ours, darker).splitlines()[4:]}
    assert float(rows["contrast: (film - particle) / std of film"][3]) == 1
    assert rows["contrast: (film - particle) / std of film"][2].strip() == "0%"
    alike = {line.split("|")[1].strip(): line.split("|")[2:] for line in compare(ours, same).splitlines()[4:]}
    assert 0.2 < float(alike["contrast: (film - particle) / std of film"][3]) < 0.8
    assert separation(np.arange(5), np.arange(5)) == 0.5


def test_the_command_draws_a_sheet_of_a_small_recipe(tmp_path, monkeypatch, capsys):
    """Frames so small that none shows film far from particles have statistics too."""
    from imageio.v3 import imread, imwrite

    (tmp_path / "tiny.yaml").write_text(TINY)
    real = tmp_path / "real"
    real.mkdir()
    p = micrograph(n=200)
    imwrite(real / "image_00.png", np.clip(p.image, 0, 255).astype(np.uint8))
    imwrite(real / "label_00.png", p.mask.astype(np.uint8) * 255)
    imwrite(tmp_path / "plain.png", np.clip(p.image, 0, 255).astype(np.uint8))
    out = tmp_path / "sheet.png"
    arguments = [str(tmp_path / "tiny.yaml"), "--out", str(out), "--fields", "1", "--frames", "4", "--size", "40",
                 "--pixel-size", "0.4", "--real", str(real), "--plain", str(tmp_path / "plain.png")]
    monkeypatch.setattr(sys, "argv", ["contact_sheet", *arguments])
    contact_sheet.main()
    said = capsys.readouterr().out
    assert "4 simulated frames, 8 parts of real ones" in said
    assert "| power of film, above 0.80 1/Å [%] |" in said
    for name in ("sheet.png", "sheet_spectra.png"):
        assert imread(tmp_path / name).std() > 10
    assert "no statistics" not in said
    assert picture_figures.__doc__
