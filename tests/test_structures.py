"""Supports and sheets, whole fields, and what cannot be: stoichiometry, density, places, vacancies."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from plane_spacing import plane_spacing
from scipy.spatial import cKDTree

from hrtem_dask.core.errors import InputError
from hrtem_dask.simulate.films import draw_edge
from hrtem_dask.simulate.lattices import parse_zone_axis, zone_direction
from hrtem_dask.simulate.matter import Particles, Sheet, Support
from hrtem_dask.simulate.oxides import CERIA_LATTICE, ceria_slab
from hrtem_dask.simulate.recipe import Span, load_recipe
from hrtem_dask.simulate.sheets import LATTICE, disulphide_sheet, fitting_cells
from hrtem_dask.simulate.structures import build_specimen, film_blocks, place_clusters


def test_structures_depend_on_the_seed_alone():
    recipe = load_recipe("au-columns")
    blocks = film_blocks(recipe, 0)
    one, same, other = (build_specimen(recipe, np.random.default_rng([0, i]), blocks) for i in (0, 0, 1))
    for name in ("numbers", "positions", "particle", "column"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert one.particles == same.particles
    assert json.loads(json.dumps(one.particles)) == one.particles
    assert len(one) != len(other)


# supports


@pytest.mark.parametrize(("axis", "grains"), [("any", 1), ("111", 1), ("110", 3)])
def test_ceria_is_stoichiometric_dense_and_fluorite(axis, grains):
    box, rng = (45.0, 36.0), np.random.default_rng(7)
    slab = ceria_slab(box, 24.0, rng, zone_axis=axis, grains=grains)
    cerium = slab.numbers == 58
    assert (slab.numbers[~cerium] == 8).all()
    assert (~cerium).sum() == 2 * cerium.sum()
    density = cerium.sum() / (box[0] * box[1] * 24.0) * CERIA_LATTICE**3 / 4
    assert 0.8 < density < 1.06  # boundaries between grains are less dense
    p = slab.positions
    assert ((p[:, :2] >= 0) & (p[:, :2] < box)).all()
    tree = cKDTree(p - [0, 0, p[:, 2].min()], boxsize=[*box, 1e3])
    assert tree.query(tree.data, k=2)[0][:, 1].min() > 1.5
    inner = cerium & (p[:, 2] > 6) & (p[:, 2] < 18)
    bond = cKDTree(p[~cerium]).query(p[inner])[0]
    assert np.median(bond) == pytest.approx(CERIA_LATTICE * np.sqrt(3) / 4, abs=0.15)


def test_ceria_111_shows_its_planes():
    slab = ceria_slab((40.0, 40.0), 30.0, np.random.default_rng(0), zone_axis="111")
    cerium = slab.positions[slab.numbers == 58]
    assert plane_spacing(cerium, np.array([0, 0, 1.0])) == pytest.approx(CERIA_LATTICE / np.sqrt(3), rel=5e-3)


def test_an_edge_covers_its_part_and_repeats():
    rng = np.random.default_rng(3)
    for _ in range(8):
        edge = draw_edge((50.0, 70.0), 0.4, rng)
        p = rng.random((20000, 2)) * edge.box
        outside = edge.outside(p)
        assert (outside < 0).mean() == pytest.approx(0.4, abs=0.02)
        np.testing.assert_allclose(edge.outside(p + [50.0, -140.0]), outside, atol=1e-6)
        assert abs(edge.outside(edge.place(3.0, rng)) - 3.0) < 1.0


@pytest.mark.parametrize("kind", ["carbon", "CeO2", "none"])
def test_particles_lie_on_their_support_and_keep_off_its_atoms(kind):
    recipe = load_recipe({"name": "s", "field": {"box": 60}, "film": {"thickness": [20, 20], "absent_fraction": 0},
                          "support": {"kind": kind, "thickness": [20, 20], "edge_fraction": 0.5},
                          "particles": {"number": [2, 2], "diameter": [14, 20], "empty_fraction": 0,
                                        "coverage": [0.3, 0.3], "thermal_displacement": [0, 0]}})
    blocks, places = film_blocks(recipe, 1), []
    assert bool(blocks) == (kind == "carbon")
    for seed in range(6):
        s = build_specimen(recipe, np.random.default_rng(seed), blocks)
        assert s.support == kind
        assert s.film_thickness == (0 if kind == "none" else 20)
        assert len(s.particles) == s.particle.max() >= 1
        places += [q["place"] for q in s.particles]
        if kind == "none":
            assert not (s.particle == 0).any()
            continue
        support = s.positions[s.particle == 0]
        assert set(s.numbers[s.particle == 0]) == ({6} if kind == "carbon" else {58, 8})
        if kind == "CeO2":
            assert (s.numbers == 8).sum() == 2 * (s.numbers == 58).sum()
        gap = cKDTree(support).query(s.gold)[0]
        assert gap.min() > 2.0
        # wrapped images apart, every particle touches what carries it
        tree = cKDTree(np.concatenate([support + [i * 60, j * 60, 0] for i in (-1, 0, 1) for j in (-1, 0, 1)]))
        for k in range(1, len(s.particles) + 1):
            assert tree.query(s.positions[s.particle == k])[0].min() < 5.0
    assert set(places) == ({"free"} if kind == "none" else {"on", "under", "edge"})


def test_particles_sink_into_carbon_but_not_into_an_oxide():
    recipe = load_recipe({"name": "s", "field": {"box": 60}, "film": {"thickness": [20, 20], "absent_fraction": 0},
                          "support": {"kind": "carbon, CeO2", "thickness": [20, 20], "under_fraction": 0},
                          "particles": {"number": [1, 1], "diameter": [20, 20], "empty_fraction": 0,
                                        "height": [1, 1], "thermal_displacement": [0, 0]}})
    blocks, sunk = film_blocks(recipe, 1), {"carbon": [], "CeO2": []}
    for seed in range(12):
        s = build_specimen(recipe, np.random.default_rng(seed), blocks)
        sunk[s.support].append(s.carbon[:, 2].max() - s.gold[:, 2].min())
    assert min(map(len, sunk.values())) > 1
    assert max(sunk["carbon"]) > 3
    assert max(sunk["CeO2"]) < 2.5  # an oxygen reaches out above the last cerium


def test_a_field_may_be_vacuum():
    recipe = load_recipe({"name": "v", "field": {"box": 30}, "support": {"kind": "none"},
                          "particles": {"empty_fraction": 1, "number": [0, 0]}})
    s = build_specimen(recipe, np.random.default_rng(0), film_blocks(recipe, 0))
    assert (len(s), len(s.atoms()), s.film_thickness, s.support) == (0, 0, 0, "none")


def test_carbon_keeps_its_density_in_a_field():
    recipe = load_recipe({"name": "c", "field": {"box": 50}, "film": {"thickness": [30, 30], "absent_fraction": 0},
                          "particles": {"empty_fraction": 1}})
    s = build_specimen(recipe, np.random.default_rng(0), film_blocks(recipe, 0))
    grams = len(s.carbon) * 12.011 / 0.60221 / (50 * 50 * 30)
    assert grams == pytest.approx(0.09 * 12.011 / 0.60221, rel=0.1)
    assert 1.6 < grams < 2.2  # g/cm^3 of evaporated carbon


# sheets


@pytest.mark.parametrize("box", [(64.0, 64.0), (45.0, 58.0)])
def test_sheets_repeat_with_the_field_and_are_mos2(box):
    sheet = disulphide_sheet(box, np.random.default_rng(1), strain=0.02)
    assert sheet.info["strain"] <= 0.03
    mo = sheet.numbers == 42
    assert (sheet.numbers == 16).sum() == 2 * mo.sum()
    area = box[0] * box[1] / mo.sum()
    assert area == pytest.approx(LATTICE**2 * np.sqrt(3) / 2, rel=0.06)
    tree = cKDTree(sheet.positions[mo][:, :2] % box, boxsize=box)
    distance = tree.query(tree.data, k=7)[0]
    assert (distance[:, 1:] > 0.95 * LATTICE).all()
    assert (distance[:, 1:] < 1.05 * LATTICE).all()  # six neighbours everywhere, across the border too
    for c in np.unique(sheet.column):
        same = sheet.positions[sheet.column == c]
        metal = sheet.numbers[sheet.column == c][0] == 42
        assert len(same) == (1 if metal else 2)
        if not metal:
            np.testing.assert_allclose(np.ptp(same, axis=0), [0, 0, 3.19], atol=1e-6)


def test_vacancies_are_counted_and_tilt_moves_the_planes():
    sheet = disulphide_sheet((64.0, 64.0), np.random.default_rng(2), strain=0.02, single_vacancies=0.1,
                             double_vacancies=0.05, tilt=3.0)
    sulphur = [sheet.numbers[sheet.column == c] for c in np.unique(sheet.column[sheet.numbers != 42])]
    left = np.bincount([(n == 16).sum() for n in sulphur], minlength=3)
    assert left.sum() == (sheet.numbers == 42).sum()
    assert left[1] / left.sum() == pytest.approx(0.1, abs=0.05)
    assert left[0] / left.sum() == pytest.approx(0.05, abs=0.035)
    pair = sheet.positions[sheet.column == 2]
    assert np.hypot(*np.ptp(pair[:, :2], axis=0)) == pytest.approx(3.19 * np.sin(np.deg2rad(3)), abs=1e-6)


@pytest.mark.parametrize("outline", ["hole", "flake"])
def test_holes_and_flakes_end_cleanly(outline):
    box = (64.0, 64.0)
    whole = disulphide_sheet(box, np.random.default_rng(3), strain=0.02)
    cut = disulphide_sheet(box, np.random.default_rng(3), strain=0.02, outline=outline)
    assert 20 < len(cut) < len(whole) - 20
    xy = cut.positions[:, :2] % box
    metal = cut.numbers == 42
    near = cKDTree(xy[metal], boxsize=box).query(xy[~metal])[0]
    assert near.max() < 2.0
    for c in np.unique(cut.column[~metal]):
        assert (cut.column == c).sum() == 2


def test_fields_too_small_for_a_lattice_take_the_nearest():
    cells, strain = fitting_cells((25.0, 25.0), (0, 60), 0.0, np.random.default_rng(0))
    assert 0 < strain < 0.1
    assert np.linalg.det(cells) > 30


# what cannot be


@pytest.mark.parametrize(("content", "message"), [
    ({"particles": {"species": "Xx"}}, "no element"),
    ({"particles": {"species": "Si"}}, "fcc"),
    ({"particles": {"species": ""}}, "at least one"),
    ({"particles": {"zone_axis": "000"}}, "zone axis '000'"),
    ({"particles": {"zone_axis": "11"}}, "three digits"),
    ({"particles": {"zone_axis": "110, abc"}}, "zone axis 'abc'"),
    ({"particles": {"tilt": [3, 1]}}, "low not above high"),
    ({"particles": {"shape": "cube"}}, "ellipsoid"),
    ({"particles": {"diameter": [20, 250]}}, "larger than the field"),
    ({"particles": {"diameter": [20, 190], "elongation": [1, 2]}}, "larger than the field"),
    ({"support": {"kind": "gold"}}, "carbon, CeO2, none"),
    ({"support": {"zone_axis": "q"}}, "zone axis 'q'"),
    ({"sheet": {"material": "WS2"}}, "MoS2"),
    ({"sheet": {"single_vacancies": [0, 0.8], "double_vacancies": [0, 0.3]}}, "at most 1 together"),
])
def test_impossible_matter_is_refused(content, message):
    with pytest.raises(InputError, match=message):
        load_recipe({"name": "bad"} | content)


def test_sections_check_themselves_wherever_they_come_from():
    with pytest.raises(InputError, match="no element"):
        replace(Particles(), species="Aq")
    with pytest.raises(InputError, match="several"):
        Support(kind="")
    assert Sheet().material == "none"
    assert parse_zone_axis("[1-10]") == (1, -1, 0)
    with pytest.raises(InputError, match="direction such as"):
        zone_direction(np.eye(3), "any")


def test_particles_of_several_kinds_are_drawn():
    spec = Particles(species="Au, Pt", zone_axis="110, 100", number=Span(12, 12), diameter=Span(10, 12),
                     coverage=Span(0.8, 0.8), touching_fraction=1.0)
    placed = place_clusters(spec, (120.0, 90.0), 0.0, np.random.default_rng(0))
    assert {c.info["species"] for c in placed} == {"Au", "Pt"}
    assert {c.info["zone_axis"] for c in placed} == {"110", "100"}
    assert all(0 <= c.info["x"] < 120 and 0 <= c.info["y"] < 90 for c in placed)
