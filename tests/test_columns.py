"""Instances and columns: where the atoms are, at any pixel size, in fields that are not square."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hrtem_dask.core.errors import InputError
from hrtem_dask.simulate.columns import COLUMN_CLASSES, column_image, column_table
from hrtem_dask.simulate.crystals import Cluster, metal_particle
from hrtem_dask.simulate.labels import instance_labels, particle_mask
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.sheets import disulphide_sheet
from hrtem_dask.simulate.structures import assemble, build_specimen, film_blocks


def one_particle(centre=(20.0, 30.0), box=(40.0, 60.0), seed=0, **more):
    p = metal_particle(22.0, np.random.default_rng(seed), shape="wulff", zone_axis="110", **more)
    return assemble([p.moved(p.positions + [*centre, 0.0])], [], box)


# instances


def test_instances_cover_the_mask_and_nothing_else():
    recipe = load_recipe({"name": "many", "field": {"box": 90},
                          "particles": {"number": [8, 8], "coverage": [0.6, 0.6], "diameter": [14, 24],
                                        "touching_fraction": 0.7, "empty_fraction": 0}})
    for seed in range(2):
        s = build_specimen(recipe, np.random.default_rng(seed), film_blocks(recipe, 0))
        labels, mask = instance_labels(s, 0.5), particle_mask(s.gold, s.box[:2], 0.5)
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels > 0, mask)
        for k, q in enumerate(s.particles, 1):
            own = labels == k
            assert own.any()
            ij = np.round(s.positions[s.particle == k][:, 1::-1] / 0.5).astype(int) % mask.shape
            others = np.concatenate([s.positions[(s.particle != k) & (s.particle > 0)][:, :2]])
            d = np.abs(others - [q["x"], q["y"]])
            if np.hypot(*np.minimum(d, 90 - d).T).min() > q["diameter"] * 0.75:  # nobody near: all atoms are its own
                assert own[tuple(ij.T)].mean() > 0.99
            # one piece on the torus: the pieces of the plane meet across the border
            pieces = ndimage.label(np.tile(own, (3, 3)))[0]
            sizes = np.bincount(pieces.ravel())[1:]
            assert np.sort(sizes)[-1] >= 0.9 * own.sum()


def test_the_thicker_particle_owns_the_overlap():
    thin = metal_particle(20.0, np.random.default_rng(0), height=0.3)
    thick = metal_particle(20.0, np.random.default_rng(0), height=1.0)
    parts = [thin.moved(thin.positions + [18, 20, 0]), thick.moved(thick.positions + [28, 20, 40])]
    labels = instance_labels(assemble(parts, [], (50.0, 40.0)), 0.25)
    assert labels.shape == (160, 200)
    assert labels[80, int(24 / 0.25)] == 2
    assert labels[80, int(12 / 0.25)] == 1
    alone = instance_labels(assemble(parts[:1], [], (50.0, 40.0)), 0.25)
    assert (labels == 1).sum() < (alone == 1).sum()


def test_a_particle_across_the_border_is_one():
    s = one_particle(centre=(0.0, 0.0))
    middle = one_particle(centre=(20.0, 30.0))
    labels = np.roll(instance_labels(s, 0.5), (60, 40), (0, 1))
    np.testing.assert_array_equal(labels, instance_labels(middle, 0.5))
    assert set(np.unique(labels)) == {0, 1}


# columns


def test_columns_average_their_atoms_wherever_the_border_is():
    middle, moved = column_table(one_particle()), column_table(one_particle(centre=(1.0, 59.0)))
    assert len(middle) == len(moved) > 30
    np.testing.assert_allclose((moved[["y", "x"]] - middle[["y", "x"]] - [29.0, -19.0] + 10) % [60, 40], 10, atol=1e-6)
    assert (middle["class"] == "column").all()
    assert (middle["species"] == 79).all()
    assert (middle["particle"] == 1).all()
    assert middle["spread"].max() < 1e-6


def test_columns_hold_all_atoms_and_tilt_spreads_them():
    p = metal_particle(24.0, np.random.default_rng(1), zone_axis="110", tilt=(3.0, 3.0), shape="wulff")
    s = assemble([p.moved(p.positions + [30.0, 30.0, 0.0])], [], (60.0, 60.0))
    table = column_table(s)
    assert table["atoms"].sum() == len(p)
    tallest = table.loc[table["atoms"].idxmax()]
    length = (tallest["atoms"] - 1) * 4.078 / np.sqrt(2)
    assert tallest["spread"] == pytest.approx(length / 2 * np.sin(np.deg2rad(3)), rel=0.02)
    flat = metal_particle(24.0, np.random.default_rng(1), zone_axis="110", shape="wulff")
    assert len(np.unique(flat.column)) == len(table)


def test_off_axis_particles_have_no_columns():
    p = metal_particle(24.0, np.random.default_rng(0), zone_axis="110", tilt=(8.0, 12.0))
    assert p.info["zone_axis"] == ""
    table = column_table(assemble([p], [], (60.0, 60.0)))
    assert len(table) == 0
    assert column_image(table, (20, 30), 0.5)[0].min() == 1


def test_columns_of_two_particles_are_counted_apart():
    clusters = [metal_particle(16.0, np.random.default_rng(i), zone_axis="100") for i in range(2)]
    s = assemble([c.moved(c.positions + [15.0 + 25 * i, 20.0, 0]) for i, c in enumerate(clusters)], [], (60.0, 40.0))
    table = column_table(s)
    assert table["column"].is_unique
    for k, c in enumerate(clusters, 1):
        assert (table["particle"] == k).sum() == len(np.unique(c.column))


def test_sites_of_a_sheet_are_what_was_left_of_them():
    sheet = disulphide_sheet((64.0, 50.0), np.random.default_rng(0), strain=0.03, single_vacancies=0.15,
                             double_vacancies=0.1, tilt=2.0)
    s = assemble([], [sheet], (64.0, 50.0))
    table = column_table(s)
    counts = table["class"].value_counts()
    assert len(s.atoms()) == counts["mo"] + 2 * counts["s2"] + counts["s1"]
    assert counts["mo"] == counts["s2"] + counts["s1"] + counts["empty"]
    assert counts["column"] == 0
    assert min(counts["s1"], counts["empty"]) > 5
    assert table.loc[table["class"] == "empty", "species"].eq(0).all()
    assert table.loc[table["class"] == "empty", "atoms"].eq(0).all()
    assert set(s.atoms().numbers) == {42, 16}
    # a column of one atom lies where that atom is, half the shift of the planes from the pair's middle
    one = table.index[table["class"] == "s1"][0]
    atom = s.positions[(s.column == table.at[one, "column"]) & (s.numbers == 16)]
    np.testing.assert_allclose(table.loc[one, ["x", "y"]].to_numpy(float), atom[0, :2] % [64, 50], atol=1e-9)


def test_waves_know_nothing_of_vacant_sites():
    from hrtem_dask.simulate.multislice import exit_wave

    field = load_recipe({"name": "f", "field": {"wave_sampling": 0.2, "stored_sampling": 0.4, "box": 20},
                         "particles": {"number": [0, 0]}}).field
    atom, site = np.array([[10.0, 6.0, 2.0]]), np.array([[4.0, 15.0, 2.0]])
    both = Cluster(np.array([42, 0]), np.concatenate([atom, site]), np.array([1, 2], np.int32))
    waves = [exit_wave(assemble([], [c], (20.0, 20.0)), field)
             for c in (both, Cluster(np.array([42]), atom, np.array([1], np.int32)))]
    np.testing.assert_array_equal(*waves)
    phase = np.angle(waves[0])
    assert np.unravel_index(phase.argmax(), phase.shape) == (15, 25)


def test_columns_lie_where_the_exit_wave_peaks():
    """Independent of all labels: multislice of a tilted particle in a field that is not square."""
    from hrtem_dask.simulate.multislice import exit_wave

    field = load_recipe({"name": "f", "field": {"wave_sampling": 0.1, "stored_sampling": 0.1, "box": 24},
                         "particles": {"number": [0, 0]}}).field
    p = metal_particle(12.0, np.random.default_rng(4), zone_axis="110", tilt=(1.0, 1.0), shape="wulff")
    s = assemble([p.moved(p.positions + [9.0, 19.0, 0.0])], [], (20.0, 26.0))
    table = column_table(s)
    wave = exit_wave(s, field, points=(260, 200), stored=(260, 200))
    image = ndimage.gaussian_filter(np.abs(wave - wave[0, 0]), 3, mode="wrap")
    peaks = np.argwhere((image == ndimage.maximum_filter(image, 15, mode="wrap")) & (image > 0.2 * image.max())) * 0.1
    d = np.abs(peaks[:, None] - table[["y", "x"]].to_numpy()[None])
    d = np.hypot(*np.moveaxis(np.minimum(d, [26, 20] - d), -1, 0))
    assert len(peaks) == len(table) > 10
    assert d.min(0).max() < 0.3
    assert np.median(d.min(0)) < 0.12


@pytest.mark.parametrize("pixel", [0.1, 0.23, (0.2, 0.31)])
def test_gaussian_labels_have_their_centre_and_width(pixel):
    table = pd.DataFrame({"y": [4.03, 9.3], "x": [7.71, 15.0], "class": ["column", "column"]})
    shape = (60, 140) if pixel != 0.1 else (140, 250)
    label = column_image(table, shape, pixel, size=0.5)
    assert label.shape == (2, *shape)
    assert label.dtype == np.float32
    np.testing.assert_allclose(label.sum(0), 1, atol=1e-6)
    step = np.broadcast_to(pixel, 2)
    y, x = np.arange(shape[0]) * step[0], np.arange(shape[1]) * step[1]
    near = label[1] * ((y[:, None] - 4.03) ** 2 + (x - 7.71) ** 2 < 9)
    total = near.sum()
    assert (near * y[:, None]).sum() / total == pytest.approx(4.03, abs=0.01)
    assert (near * x).sum() / total == pytest.approx(7.71, abs=0.01)
    assert (near * (x - 7.71) ** 2).sum() / total == pytest.approx(0.25, rel=0.05)
    assert label[1].max() <= 1


@settings(max_examples=25, deadline=None)
@given(y=st.floats(-30, 60), x=st.floats(-30, 60), oy=st.floats(-20, 40), ox=st.floats(-20, 40))
def test_labels_of_a_periodic_field_are_a_window_of_the_plane(y, x, oy, ox):
    table = pd.DataFrame({"y": [y], "x": [x], "class": ["mo"]})
    period = (14.0, 18.0)
    label = column_image(table, (40, 50), 0.5, classes=("s2", "mo"), origin=(oy, ox), period=period)
    yy, xx = oy + np.arange(40)[:, None] * 0.5, ox + np.arange(50) * 0.5
    dy, dx = (yy - y + 7) % 14 - 7, (xx - x + 9) % 18 - 9
    r2 = dy**2 + dx**2
    expected = np.where(r2 <= (4 * 0.4) ** 2, np.exp(-r2 / 2 / 0.16), 0)
    np.testing.assert_allclose(label[2], expected, atol=5e-4)  # 3e-4 where the Gaussian is cut
    assert not label[1].any()


def test_discs_belong_to_the_nearest_and_classes_keep_their_order():
    table = pd.DataFrame({"y": [5.0, 5.0], "x": [5.0, 6.0], "class": ["mo", "s2"]})
    label = column_image(table, (100, 120), 0.1, classes=("mo", "s2", "s1", "empty"), size=0.8, kind="disc")
    assert set(np.unique(label)) == {0, 1}
    np.testing.assert_array_equal(label.sum(0), 1)
    assert label[1, 50, 52] == 1
    assert label[2, 50, 58] == 1
    assert label[1].sum() == pytest.approx(label[2].sum(), rel=0.08)  # samples halfway go one way
    lone = column_image(table[:1], (100, 120), 0.1, classes=("mo",), size=0.8, kind="disc")
    assert lone[1].sum() * 0.01 == pytest.approx(np.pi * 0.64, rel=0.05)
    only = column_image(table, (100, 120), 0.1, classes=("s2",), size=0.8, kind="disc")
    assert only[1].sum() > label[2].sum()


def test_overlapping_classes_never_exceed_one():
    table = pd.DataFrame({"y": [5.0, 5.0, 5.1], "x": [5.0, 5.2, 5.1], "class": ["mo", "s2", "s1"]})
    label = column_image(table, (50, 50), 0.2, classes=COLUMN_CLASSES, size=0.4)
    assert label.min() >= 0
    np.testing.assert_allclose(label.sum(0), 1, atol=1e-6)


@pytest.mark.parametrize("options", [{"kind": "square"}, {"size": 0.0}, {"classes": ("gold",)}, {"classes": ()}])
def test_labels_refuse_what_they_do_not_know(options):
    table = pd.DataFrame({"y": [5.0], "x": [5.0], "class": ["mo"]})
    with pytest.raises(InputError, match="gaussian"):
        column_image(table, (10, 10), 0.2, **options)


def test_the_recipes_give_what_they_promise():
    au = load_recipe("au-columns")
    s = build_specimen(au, np.random.default_rng(3), film_blocks(au, 0))
    table = column_table(s)
    on_axis = [k for k, q in enumerate(s.particles, 1) if q["zone_axis"]]
    assert set(table["particle"]) == set(on_axis)
    assert table["spread"].max() < 2.5
    mask = particle_mask(s.gold, s.box[:2], 0.25)
    at = np.round(table[["y", "x"]].to_numpy() / 0.25).astype(int) % mask.shape
    assert mask[tuple(at.T)].all()
    mos2 = load_recipe("mos2-columns")
    assert (mos2.field.energy, mos2.sheet.material) == (80, "MoS2")
    s = build_specimen(mos2, np.random.default_rng(1), film_blocks(mos2, 0))
    assert s.sheet["strain"] <= 0.02
    assert not len(s.gold)
    assert set(column_table(s)["class"]) <= set(COLUMN_CLASSES[1:])
