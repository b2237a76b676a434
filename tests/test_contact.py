"""Atoms of different bodies never come closer than matter allows, and what is said of them follows the atoms left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.data import atomic_numbers
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from hrtem_dask.simulate.columns import column_table
from hrtem_dask.simulate.contact import CONTACT, apart
from hrtem_dask.simulate.crystals import Cluster, metal_particle
from hrtem_dask.simulate.films import amorphous_block, carbon_film
from hrtem_dask.simulate.labels import gold_thickness, instance_labels
from hrtem_dask.simulate.lattices import lattice_of
from hrtem_dask.simulate.matter import Particles
from hrtem_dask.simulate.oxides import ceria_slab
from hrtem_dask.simulate.recipe import Span, load_recipe
from hrtem_dask.simulate.scenes import Wander
from hrtem_dask.simulate.structures import assemble, build_specimen, film_blocks, place_clusters


def nearest(a, b, box):
    """Distance of every atom of a to the nearest of b, across the border of a periodic field too."""
    a, b = (np.column_stack([p[:, :2] % box, p[:, 2]]) for p in (a, b))
    images = [b + [i * box[0], j * box[1], 0] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return cKDTree(np.concatenate(images)).query(a)[0]


def crowd(**keys):
    """Return the recipe of a small field full of particles that may overlap."""
    particles = {"number": [5, 7], "coverage": [0.9, 0.9], "diameter": [12, 26], "touching_fraction": 1.0,
                 "empty_fraction": 0, "thermal_displacement": [0.05, 0.12]} | keys
    return load_recipe({"name": "crowd", "field": {"box": 56}, "particles": particles, "imaging": {"resolve": 0},
                        "film": {"absent_fraction": 0, "thickness": [5, 12], "roughness": [0, 6]},
                        "support": {"edge_fraction": 0.5}})


@pytest.mark.parametrize("keys", [
    {"shape": "ellipsoid"}, {"shape": "wulff", "zone_axis": "110", "adatoms": [0.1, 0.1], "steps": [2, 2]},
    {"shape": "ellipsoid", "species": "Au, Cu, Fe"}])
def test_particles_and_supports_keep_off_one_another(keys):
    recipe = crowd(**keys)
    blocks, touching = film_blocks(recipe, 1), 0
    bond = min(lattice_of(s).bond for s in recipe.particles.species.split(", "))
    for seed in range(15):
        s = build_specimen(recipe, np.random.default_rng(seed), blocks)
        for k in range(2, s.particle.max() + 1):
            d = nearest(s.positions[s.particle == k], s.positions[(s.particle > 0) & (s.particle < k)], s.box[:2])
            assert d.min() > CONTACT * bond - 1e-9
            touching += d.min() < 1.5 * bond
        assert nearest(s.carbon, s.gold, s.box[:2]).min() > 2.4 - 1e-9
    assert touching > 10


def test_what_is_said_of_a_particle_follows_the_atoms_left():
    recipe = crowd(shape="wulff", zone_axis="110")
    blocks, cut = film_blocks(recipe, 1), 0
    for seed in range(8):
        s = build_specimen(recipe, np.random.default_rng(seed), blocks)
        table, labels = column_table(s), instance_labels(s, 0.5)
        assert [q["atoms"] for q in s.particles] == np.bincount(s.particle)[1:].tolist()
        assert table["atoms"].sum() == ((s.column > 0) & (s.particle > 0)).sum()
        np.testing.assert_array_equal(labels > 0, instance_labels(replace(s, particle=(s.particle > 0).astype(int)),
                                                                  0.5) > 0)
        for k, q in enumerate(s.particles, 1):
            p = s.positions[s.particle == k].copy()
            p[:, :2] -= np.round((p[:, :2] - [q["x"], q["y"]]) / s.box[:2]) * s.box[:2]
            pairs = cKDTree(p).query_pairs(3.6, output_type="ndarray").T
            links = coo_array((np.ones(pairs.shape[1]), tuple(pairs)), shape=(len(p),) * 2)
            assert connected_components(links, directed=False)[0] == 1  # one piece, nothing floats
            cut += len(p) < 0.9 * np.pi / 6 * q["diameter"] ** 3 / lattice_of("Au").atom_volume
    assert cut > 3


def test_the_later_particle_gives_way_and_loses_what_hangs_on_nothing():
    p = metal_particle(24.0, np.random.default_rng(0), shape="wulff")
    q = p.moved(p.positions + [15.0, 3.0, 1.0])
    left = apart(q, [p], (80.0, 80.0))
    assert 0.3 * len(q) < len(left) < 0.95 * len(q)
    assert cKDTree(p.positions).query(left.positions)[0].min() > CONTACT * lattice_of("Au").bond
    neighbours = cKDTree(left.positions).query_ball_point(left.positions, 3.3, return_length=True) - 1
    assert neighbours.min() >= 3
    assert len(apart(q, [p.moved(p.positions + [15.0, 3.0, 1.0])], (80.0, 80.0))) == 0
    across = apart(q.moved(q.positions + [57.0, -40.0, 0]), [p.moved(p.positions + [-23.0, 40.0, 0])], (80.0, 80.0))
    np.testing.assert_allclose(across.positions - left.positions, np.tile([57.0, -40.0, 0], (len(left), 1)))


def test_a_particle_larger_than_its_field_does_not_run_into_its_own_image():
    p = metal_particle(40.0, np.random.default_rng(1))
    box = (36.0, 60.0)
    left = apart(p, [], box)
    assert 0.7 * len(p) < len(left) < len(p)
    assert nearest(left.positions, left.positions + [36.0, 0, 0], box).min() == pytest.approx(0)
    images = np.concatenate([left.positions + [i * 36.0, j * 60.0, 0] for i in (-1, 0, 1) for j in (-1, 0, 1)
                             if (i, j) != (0, 0)])
    assert cKDTree(images).query(left.positions)[0].min() > CONTACT * lattice_of("Au").bond


def test_particles_of_a_movie_do_not_wander_into_one_another():
    scene = Wander(turn=20.0, wander=4.0, frames_per_wave=1).scene(crowd(), 3, 12, 0.1)
    close = []
    for k in range(12):
        s = scene.specimen(k)
        close += [nearest(s.positions[s.particle == j], s.positions[(s.particle > 0) & (s.particle < j)],
                          s.box[:2]).min() for j in range(2, s.particle.max() + 1)]
        assert nearest(s.carbon, s.gold, s.box[:2]).min() > 2.4 - 1e-9
    assert 2.3 < min(close) < 2.6


def test_films_give_way_to_sheets_and_particles_lie_on_sheets():
    recipe = load_recipe({
        "name": "both", "field": {"box": 60, "wave_sampling": 0.2, "stored_sampling": 0.3},
        "sheet": {"material": "MoS2", "tilt": [3, 3], "strain": 0.03}, "imaging": {"resolve": 0},
        "film": {"absent_fraction": 0, "thickness": [3, 8], "roughness": [1.5, 1.5]},
        "particles": {"empty_fraction": 0, "number": [1, 1], "diameter": [14, 16], "coverage": [0.1, 0.1]}})
    blocks = film_blocks(recipe, 1)
    for seed in range(10):
        s = build_specimen(recipe, np.random.default_rng(seed), blocks)
        own = s.particle == 0
        sheet, film = (s.positions[own & np.isin(s.numbers, n)] for n in ((16, 42), (6,)))
        assert nearest(film, sheet, s.box[:2]).min() > 2.8 - 1e-9
        assert (s.numbers[own] == 16).sum() == 2 * (s.numbers[own] == 42).sum()  # a particle makes no hole
        assert nearest(s.gold, sheet, s.box[:2]).min() > 2.0


def test_seams_of_a_film_are_as_dense_and_hard_as_the_rest():
    blocks = [amorphous_block((40.0, 40.0, 40.0), 0.09, np.random.default_rng(i)) for i in range(2)]
    for seed in range(3):
        p = carbon_film(blocks, 40.0, 110.0, np.random.default_rng(seed), roughness=4.0)
        p[:, :2] %= 40.0
        d = cKDTree(p, boxsize=[40, 40, 0]).query(p, k=2)[0][:, 1]
        assert d.min() > 1.0
        assert np.percentile(d, 1) > 1.2
        inner = p[(p[:, 2] > 20) & (p[:, 2] < 90)]
        for axis in range(2):  # at the border of the field too
            density = np.histogram(inner[:, axis], 10, (0, 40))[0] / (4 * 40 * 70)
            np.testing.assert_allclose(density, 0.09, rtol=0.1)
        np.testing.assert_allclose(np.histogram(inner[:, 2], 14, (20, 90))[0] / (40 * 40 * 5), 0.09, rtol=0.1)


def test_cerium_of_two_grains_keeps_apart():
    slab = ceria_slab((50.0, 44.0), 20.0, np.random.default_rng(2), grains=3)
    cerium = slab.positions[slab.numbers == 58]
    d = cKDTree(np.concatenate([cerium + [50 * i, 44 * j, 0] for i in (-1, 0, 1) for j in (-1, 0, 1)])).query(cerium, 2)
    assert d[0][:, 1].min() > 2.6  # 3.0 before the thermal displacement


@pytest.mark.parametrize(("species", "volume"), [("Au", 4.078**3 / 4), ("Pt", 3.92**3 / 4), ("Pd", 3.89**3 / 4),
                                                 ("Cu", 3.61**3 / 4), ("Fe", 2.87**3 / 2)])
def test_thickness_counts_every_metal_with_its_own_density(species, volume):
    block = lattice_of(species).sites(60.0)
    inside = (np.abs(block - 0.01) < [40.0, 40.0, 15.0]).all(1)
    numbers = np.full(inside.sum(), atomic_numbers[species])
    t = gold_thickness(block[inside] + 50.0, (100.0, 100.0), 1.0, numbers=numbers)
    assert t.sum() == pytest.approx(inside.sum() * volume, rel=1e-3)
    assert ndimage.uniform_filter(t, 41)[50, 50] == pytest.approx(30.0, rel=0.06)  # as thick as it was cut
    assert gold_thickness(np.zeros((0, 3)), (9.0, 8.0), 1.0).max() == 0


def test_thickness_of_a_field_of_two_metals():
    clusters = [metal_particle(18.0, np.random.default_rng(i), species=s) for i, s in enumerate(("Pt", "Cu"))]
    s = assemble([c.moved(c.positions + [15.0 + 25 * i, 20.0, 0]) for i, c in enumerate(clusters)], [], (55.0, 40.0))
    t = gold_thickness(s.gold, (40.0, 55.0), 1.0, numbers=s.gold_numbers)
    for half, c, a in zip((t[:, :28], t[:, 28:]), clusters, (3.92, 3.61), strict=True):
        assert half.sum() == pytest.approx(len(c) * a**3 / 4, rel=0.01)


def test_bare_positions_keep_working():
    s = assemble([np.array([[5.0, 5.0, 0.0]])], np.array([[6.0, 5.0, 0.0], [9.0, 5.0, 0.0]]), (20.0, 20.0))
    assert (len(s.gold), len(s.carbon)) == (1, 1)
    assert len(assemble([Cluster.of(np.zeros((0, 3)), 79)], [], 20.0)) == 0


def test_polyhedra_that_touch_do_not_run_into_one_another():
    spec = Particles(shape="wulff", number=Span(8, 8), diameter=Span(14, 20), coverage=Span(0.9, 0.9),
                     touching_fraction=1.0, thermal_displacement=Span(0, 0))
    placed = place_clusters(spec, (50.0, 40.0), 0.0, np.random.default_rng(2))
    box = (50.0, 40.0)
    close = [nearest(p.positions, np.concatenate([q.positions for q in placed[:i]]), box).min()
             for i, p in enumerate(placed) if i]
    assert 2.3 < min(close) < 3.3
