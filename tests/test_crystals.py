"""Metal particles: lattices, facets, orientation, columns, twins, steps, adatoms."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import atomic_numbers, reference_states
from plane_spacing import plane_spacing
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from hrtem_dask.simulate.crystals import column_ids, metal_particle
from hrtem_dask.simulate.lattices import lattice_of, structure_of, zone_direction

METALS = ("Au", "Pt", "Pd", "Ag", "Cu", "Ni", "Al", "Fe", "W", "Co")


def in_crystal_axes(particle):
    """Undo the orientation of a particle."""
    return Rotation.from_quat(particle.info["orientation"]).inv().apply(particle.positions)


@pytest.mark.parametrize("species", METALS)
def test_metals_have_the_lattice_of_ase(species, rng):
    state = reference_states[atomic_numbers[species]]
    a, structure = state["a"], state["symmetry"]
    p = metal_particle(30.0, rng, species=species, shape="wulff")
    assert (p.numbers == atomic_numbers[species]).all()
    assert structure_of(species) == structure
    bond = {"fcc": a / np.sqrt(2), "bcc": a * np.sqrt(3) / 2,
            "hcp": min(a, np.hypot(a / np.sqrt(3), a * state.get("c/a", 0) / 2))}[structure]
    nearest = cKDTree(p.positions).query(p.positions, k=2)[0][:, 1]
    np.testing.assert_allclose(nearest, bond, rtol=1e-3)
    volume = {"fcc": a**3 / 4, "bcc": a**3 / 2, "hcp": np.sqrt(3) / 4 * a**3 * state.get("c/a", 0)}[structure]
    assert len(p) * volume == pytest.approx(np.pi / 6 * 30.0**3, rel=0.03)


@pytest.mark.parametrize(("species", "hkl", "d"), [
    ("Au", (1, 1, 1), 4.08 / 3**0.5), ("Au", (2, 0, 0), 2.04), ("Au", (2, 2, 0), 4.08 / 8**0.5),
    ("Fe", (1, 1, 0), 2.87 / 2**0.5), ("Co", (0, 0, 2), 2.51 * 1.622 / 2)])
def test_planes_of_atoms_have_their_spacings(species, hkl, d):
    p = metal_particle(40.0, np.random.default_rng(3), species=species, shape="wulff")
    normal = np.array(hkl) @ np.linalg.inv(lattice_of(species).cell).T
    assert plane_spacing(in_crystal_axes(p), normal / np.linalg.norm(normal)) == pytest.approx(d, rel=2e-3)


@pytest.mark.parametrize("species", ["Au", "Fe", "Co"])
def test_every_surface_of_a_wulff_particle_is_a_low_index_plane(species):
    """A particle is all of the lattice inside the planes of the families that touch it, and nothing else."""
    rng = np.random.default_rng(5)
    for _ in range(3):
        particle, lattice = metal_particle(24.0, rng, species=species, shape="wulff", elongation=1.3), \
            lattice_of(species)
        p = in_crystal_axes(particle)
        normals = np.concatenate([n for n, *_ in lattice.facets])
        assert len(normals) >= 20
        reach = (p @ normals.T).max(0)
        sites = lattice.sites(50.0) + (p[0] - lattice.basis[0] @ lattice.cell)
        if lattice.structure == "hcp":  # p[0] may be either atom of the cell
            other = lattice.sites(50.0) + (p[0] - lattice.basis[1] @ lattice.cell)
            sites = min((sites, other), key=lambda s: cKDTree(s).query(p)[0].max())
        assert cKDTree(sites).query(p)[0].max() < 1e-3
        inside = (sites @ normals.T <= reach + 1e-3).all(1)
        # corners that hung on fewer than three atoms were taken away
        assert 0 <= inside.sum() - len(p) <= 3


@pytest.mark.parametrize(("species", "axis"), [("Au", "110"), ("Pt", "100"), ("Cu", "1-12"), ("Fe", "111"),
                                               ("Co", "001"), ("Co", "210")])
def test_zone_axis_lies_along_the_beam_within_the_tilt(species, axis):
    rng, spins = np.random.default_rng(1), []
    for _ in range(6):
        p = metal_particle(20.0, rng, species=species, zone_axis=axis, tilt=(1.0, 4.0))
        turn = Rotation.from_quat(p.info["orientation"])
        beam = turn.apply(zone_direction(lattice_of(species).cell, axis))
        angle = np.rad2deg(np.arccos(beam[2]))
        assert 1.0 <= angle <= 4.0
        assert angle == pytest.approx(p.info["tilt"], abs=1e-3)
        spins.append(np.arctan2(*turn.apply([1.0, 0.2, -0.7])[:2]))
        assert (p.column > 0).all() == (p.info["zone_axis"] == axis)  # closely spaced columns bear less tilt
        if axis in ("110", "100", "111", "001"):
            assert (p.column > 0).all()
        # independent of the orientation that is told: along the true axis the columns fall together
        for c in np.unique(p.column[p.column > 0])[:20]:
            q = p.positions[p.column == c]
            if len(q) > 2:
                line = np.linalg.svd(q - q.mean(0))[2][0]
                assert abs(line @ beam) == pytest.approx(1, abs=1e-6)
    assert np.ptp(spins) > 1.0


def test_columns_of_gold_110_have_the_right_neighbours():
    p = metal_particle(30.0, np.random.default_rng(2), zone_axis="110", shape="wulff")
    xy = np.array([p.positions[p.column == c, :2].mean(0) for c in np.unique(p.column)])
    nearest = cKDTree(xy).query(xy, k=3)[0][:, 1:]
    assert np.median(nearest) == pytest.approx(4.078 * np.sqrt(3) / (2 * np.sqrt(2)), abs=0.01)
    depth = np.diff(np.sort(p.positions[p.column == np.bincount(p.column).argmax(), 2]))
    np.testing.assert_allclose(depth, 4.078 / np.sqrt(2), atol=1e-5)


def test_a_random_orientation_has_columns_only_near_an_axis():
    rng, seen = np.random.default_rng(0), []
    for _ in range(150):
        p = metal_particle(10.0, rng)
        seen.append(p.info["zone_axis"])
        assert (p.column > 0).all() if p.info["zone_axis"] else (p.column == 0).all()
        if p.info["zone_axis"]:
            beam = Rotation.from_quat(p.info["orientation"]).apply(
                zone_direction(lattice_of("Au").cell, p.info["zone_axis"]))
            angle = np.arccos(beam[2])
            assert np.rad2deg(angle) < 6
            assert np.ptp(p.positions[:, 2]) / 2 * np.sin(angle) <= 1.0
    assert 10 <= sum(map(bool, seen)) < 100


def test_columns_end_where_tilt_smears_them():
    small, large, far = (metal_particle(d, np.random.default_rng(0), zone_axis="110", shape="wulff", tilt=(t, t))
                         for d, t in ((16.0, 4.0), (50.0, 4.0), (10.0, 7.0)))
    assert (small.column > 0).all()
    assert (large.column == 0).all()
    assert (far.column == 0).all()
    assert (large.info["zone_axis"], large.info["tilt"]) == ("", 4.0)


def mirror_planes(q):
    """Count the layers of atoms across [110] that the layers around them are mirrored at, near the centre."""
    lattice, count = lattice_of("Au"), 0
    normals = [n for n in lattice.facets[0][0] if abs(n @ zone_direction(lattice.cell, "110")) < 1e-6]
    assert len(normals) == 4  # two planes, from both sides
    for n in normals:
        along = (q - q.mean(0)) @ n
        across = np.linalg.norm(q - q.mean(0) - along[:, None] * n, axis=1)
        for plane in np.unique(along[np.abs(along) < 8].round(2)):
            near = (np.abs(along - plane) < 3) & (across < 6)
            image = q[near] + 2 * (plane - along[near])[:, None] * n
            count += cKDTree(q).query(image)[0].max() < 0.05
    return count / 2


def test_twins_share_a_plane_and_both_halves_show_columns():
    rng = np.random.default_rng(4)
    for twin in (True, True, True, False):
        p = metal_particle(32.0, rng, zone_axis="110", shape="wulff", twin=twin)
        assert p.info["twin"] == twin
        assert (p.column > 0).all()
        nearest = cKDTree(p.positions).query(p.positions, k=2)[0][:, 1]
        np.testing.assert_allclose(nearest, 4.078 / np.sqrt(2), rtol=1e-5)
        assert mirror_planes(in_crystal_axes(p)) == twin
    off = metal_particle(30.0, rng, zone_axis="100", twin=True)  # no {111} plane contains [100]
    assert 0.1 < (off.column == 0).mean() < 0.9


def test_adatoms_sit_on_the_surface_and_steps_take_away():
    for seed in range(3):
        plain = metal_particle(26.0, np.random.default_rng(seed), shape="wulff")
        rough = metal_particle(26.0, np.random.default_rng(seed), shape="wulff", adatoms=0.15)
        stepped = metal_particle(26.0, np.random.default_rng(seed), shape="wulff", steps=3)
        assert len(stepped) < len(plain)
        new = rough.positions[cKDTree(plain.positions).query(rough.positions)[0] > 0.1]
        assert len(rough) - len(new) == len(plain)
        surface = np.sum(coordination(plain.positions) < 12)
        assert len(new) == round(0.15 * surface)
        assert coordination(rough.positions).min() >= 3
        assert coordination(stepped.positions).min() >= 3
        assert cKDTree(rough.positions).query(rough.positions, k=2)[0][:, 1].min() > 2.88


def coordination(p):
    return cKDTree(p).query_ball_point(p, 3.3, return_length=True) - 1


def test_low_and_long_particles_are_low_and_long():
    rng = np.random.default_rng(2)
    for shape in ("wulff", "ellipsoid"):
        flat = np.array([np.ptp(metal_particle(40.0, rng, shape=shape, height=0.5).positions[:, 2])
                         for _ in range(4)]).mean()
        tall = np.array([np.ptp(metal_particle(40.0, rng, shape=shape, height=1.0).positions[:, 2])
                         for _ in range(4)]).mean()
        assert flat < 0.7 * tall
    long = metal_particle(40.0, rng, shape="wulff", elongation=2.0).positions[:, :2]
    axes = np.sqrt(np.linalg.eigvalsh(np.cov(long.T)))
    assert axes[1] / axes[0] > 1.4


def test_columns_find_themselves():
    grid = np.array([[x, y, z] for x in (0, 2.0) for y in (0, 3.0) for z in range(5)], float)
    assert np.unique(column_ids(grid, np.array([0, 0, 1.0])), return_counts=True)[1].tolist() == [5] * 4
    assert len(np.unique(column_ids(grid, np.array([1.0, 0, 0])))) == 10
