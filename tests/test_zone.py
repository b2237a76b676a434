"""Zone axes: nets of crystals against crystallography, the axis of pairs, and the score against simulated tilts."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.zone_fit import area, fit
from benchmarks.zone_measure import tilts_of
from benchmarks.zone_sets import PARTICLE, microscopes, shoot
from benchmarks.zone_tables import calibration
from hrtem_dask import fourier_peak_pairs, identify_zone_axis, zone_axis_score
from hrtem_dask.core.errors import InputError
from hrtem_dask.kernels.zone import COEFFICIENTS, Logistic, shipped
from hrtem_dask.kernels.zone_features import zone_features
from hrtem_dask.kernels.zone_net import rank_zones, zone_nets
from hrtem_dask.simulate import load_recipe
from hrtem_dask.simulate.sets import simulate_structure

NETS = {net.name: net for net in zone_nets("Au")}


def pairs_at(g, intensity=None, significance=None, detected=True):
    g = np.asarray(g, float)
    flip = (g[:, 0] < 0) | ((g[:, 0] == 0) & (g[:, 1] < 0))
    g = np.where(flip[:, None], -g, g)
    intensity = np.full(len(g), 5.0) if intensity is None else np.asarray(intensity, float)
    return pd.DataFrame({"g_y": g[:, 0], "g_x": g[:, 1], "d_spacing": 1 / np.hypot(*g.T), "intensity": intensity,
                         "significance": 100 * intensity if significance is None else significance,
                         "detected": detected})


def turned(g, angle, mirror=False):
    c, s = np.cos(angle), np.sin(angle)
    return (np.asarray(g) * [1, -1 if mirror else 1]) @ np.array([[c, s], [-s, c]])


# --- nets -----------------------------------------------------------------------------------------------------------


def angle_between(net, a, b):
    """Angles between the reflections of two families in a net, as lines [degree]."""
    kinds = [np.sort(np.abs(net.hkl), axis=1)[:, ::-1].tolist()] * 2
    one, two = (net.spots[[list(f) == k for k in kind]] for f, kind in zip((a, b), kinds, strict=True))
    cosine = np.abs(one @ two.T) / np.hypot(*one.T)[:, None] / np.hypot(*two.T)
    return np.degrees(np.arccos(np.clip(cosine, 0, 1)))


@pytest.mark.parametrize(("axis", "first", "second", "expected"), [
    ("[110]", (1, 1, 1), (1, 1, 1), 70.53), ("[110]", (1, 1, 1), (2, 0, 0), 54.74),
    ("[100]", (2, 0, 0), (2, 0, 0), 90.0), ("[100]", (2, 0, 0), (2, 2, 0), 45.0),
    ("[111]", (2, 2, 0), (2, 2, 0), 60.0), ("[112]", (1, 1, 1), (2, 2, 0), 90.0),
])
def test_angles_of_textbooks(axis, first, second, expected):
    assert np.abs(angle_between(NETS[axis], first, second) - expected).min() < 0.01


def test_every_reflection_is_in_its_zone():
    for crystal in ("Au", "CeO2", "Fe", "Co", "MoS2"):
        for net in zone_nets(crystal):
            assert not (net.hkl @ np.array(net.uvw)).any()
            assert np.linalg.matrix_rank(net.spots) == 2


def test_lengths_are_those_of_the_crystal():
    a = 4.08
    for net in NETS.values():
        assert np.allclose(np.hypot(*net.spots.T), np.sqrt((net.hkl**2).sum(1)) / a, rtol=1e-3)


def test_a_sheet_has_one_axis():
    assert [n.name for n in zone_nets("graphene")] == ["[001]"]


# --- which axis -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", sorted(NETS))
@settings(max_examples=15, deadline=None)
@given(angle=st.floats(0, 2 * np.pi), mirror=st.booleans(), seed=st.integers(0, 99))
def test_a_whole_net_is_recognised_in_any_position(axis, angle, mirror, seed):
    spots = turned(NETS[axis].spots, angle, mirror)[:6]
    spots = spots + np.random.default_rng(seed).normal(0, 0.0015, spots.shape)
    found = identify_zone_axis(pairs_at(spots), "Au")
    assert found.axis == axis
    assert found.indexed == len(spots)
    assert found.d_error < 0.02
    assert found.angle_error < 1.5
    assert found.residual < 0.006


def test_indices_obey_the_zone_law_and_add_up():
    found = identify_zone_axis(pairs_at(turned(NETS["[110]"].spots[:4], 0.7)), "Au")
    hkl = found.pairs[["h", "k", "l"]].to_numpy(int)
    assert not (hkl @ np.array(found.uvw)).any()
    assert np.allclose(4.08 / np.sqrt((hkl**2).sum(1)), found.pairs.d_spacing, rtol=0.01)


def test_ambiguity_is_said():
    """Two pairs that lie on two nets: every such case of two short spots names both."""
    shared = []
    for name, net in NETS.items():
        for i in range(min(3, len(net.spots))):
            for j in range(i):
                g = net.spots[[j, i]]
                if abs(np.linalg.det(g)) < 0.05:
                    continue
                fits = rank_zones(g, "Au")
                complete = {f.net.name for f in fits if f.indexed == 2 and f.residual < 0.002 and f.missing == 0}
                found = identify_zone_axis(pairs_at(g), "Au")
                assert complete <= {found.axis, *found.others}
                assert name in {f.net.name for f in fits if f.indexed == 2}
                shared.append(len(found.others))
    assert max(shared) >= 1
    assert min(shared) == 0


def test_what_is_no_net_of_the_crystal_has_no_axis():
    assert identify_zone_axis(pairs_at([[0.33, 0.0], [0.0, 0.31]]), "Au").axis == ""
    assert "no zone axis" in str(identify_zone_axis(pairs_at([[0.33, 0.0], [0.0, 0.31]]), "Au"))


@pytest.mark.parametrize("g", [np.zeros((0, 2)), [[0.4247, 0.0]], [[0.4247, 0.0], [0.8494, 0.0]]])
def test_one_direction_has_no_axis(g):
    table = pairs_at(np.reshape(g, (-1, 2)))
    assert identify_zone_axis(table, "Au").axis == ""
    assert zone_axis_score(table, diameter=40.0, crystal="Au") == 0.0


def test_a_stray_pair_does_not_hide_the_axis():
    g = np.concatenate([NETS["[110]"].spots[:3], [[0.6, 0.61]]])
    found = identify_zone_axis(pairs_at(g, significance=[900, 800, 700, 20]), "Au")
    assert (found.axis, found.indexed, found.detected) == ("[110]", 3, 4)
    assert found.pairs["h"].isna().sum() == 1


def test_a_structure_of_ase_is_a_crystal_and_spacings_are_none():
    from ase.build import bulk

    spots = NETS["[100]"].spots[:4]
    assert identify_zone_axis(pairs_at(spots), bulk("Au", cubic=True, a=4.08)).axis == "[100]"
    with pytest.raises(InputError, match="spacings alone"):
        identify_zone_axis(pairs_at(spots), [2.35, 2.04])
    with pytest.raises(InputError, match="lacks"):
        identify_zone_axis(pairs_at(spots).drop(columns="detected"), "Au")


# --- score ----------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused():
    table = pairs_at(NETS["[110]"].spots[:3])
    with pytest.raises(InputError, match="diameter"):
        zone_axis_score(table, diameter=0.0)
    with pytest.raises(InputError, match="lacks"):
        zone_axis_score(table.drop(columns="intensity"), diameter=30.0)
    assert 0 < zone_axis_score(table, diameter=30.0, crystal=[2.35, 2.04]) < 1  # spacings: as without a crystal


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(0, np.pi), scale=st.floats(1e-6, 1e6), mirror=st.booleans())
def test_neither_rotation_nor_counts_matter(angle, scale, mirror):
    g, intensity = NETS["[110]"].spots[:4], np.array([9.0, 5.0, 4.0, 1.0])
    plain = pairs_at(g, intensity)
    other = pairs_at(turned(g, angle, mirror), intensity * scale, 100 * intensity)
    for crystal in (None, "Au"):
        one, two = (zone_features(p, diameter=35.0, crystal=crystal) for p in (plain, other))
        assert one.keys() == two.keys()
        steady = [k for k in one if k not in ("decline",)]  # this looks at 12 directions
        assert np.allclose([one[k] for k in steady], [two[k] for k in steady], atol=1e-6)
        assert zone_axis_score(plain, diameter=35.0, crystal=crystal) == pytest.approx(
            zone_axis_score(other, diameter=35.0, crystal=crystal), abs=0.05)


def test_coefficients_say_what_made_them():
    content = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    assert set(content["models"]) == {"plain", "crystal"}
    assert {"command", "versions", "sets", "shrinkage"} <= set(content["made"])
    assert all(s["structures"] > 0 and s["seed"] > 0 for s in content["made"]["sets"].values())
    features = zone_features(pairs_at(NETS["[110]"].spots[:4]), diameter=30.0, crystal="Au")
    for model in shipped().values():
        assert {f for t in model.terms for f in t.split("*")} <= set(features)


#: on and off an axis: family, tilt from it [degree]
SCENES = [(axis, tilt) for axis in ("110", "100", "111") for tilt in (0.4, 1.2, 5.5, 7.0)]


@pytest.fixture(scope="module")
def tilt_series():
    """Scores, ratios and true tilts of two images of each of 12 particles that nothing was fitted on."""
    rows = []
    for i, (axis, tilt) in enumerate(SCENES):
        recipe = load_recipe({
            "name": "quick", "field": {"box": 52, "wave_sampling": 0.3, "stored_sampling": 0.4, "slice_thickness": 3},
            "particles": PARTICLE | {"zone_axis": axis, "tilt": [tilt, tilt], "diameter": [34, 40],
                                     "elongation": [1, 1.1], "height": [0.9, 1.0]},
            "support": {"kind": "none"}})
        sample = simulate_structure(recipe, 70001, i)
        for j in range(2):
            shot = shoot(sample, microscopes()["corrected"], np.random.default_rng([i, j]), dose=1000.0,
                         pixel_size=0.32)
            truth = tilts_of(sample.info["particles"][0], ("110", "100", "111", "112")).min()
            for crystal in (None, "Au"):
                pairs = fourier_peak_pairs(shot.counts, shot.mask, pixel_size=shot.pixel_size, crystal=crystal)
                rows.append({"crystal": crystal or "", "asked": tilt, "truth": truth, "zone": axis,
                             "axis": identify_zone_axis(pairs, "Au").axis,
                             "score": zone_axis_score(pairs, diameter=36.0, crystal=crystal)})
    return pd.DataFrame(rows)


def test_truth_is_the_tilt_that_was_asked_for(tilt_series):
    assert np.allclose(tilt_series.truth, tilt_series.asked, atol=0.01)


@pytest.mark.parametrize("crystal", ["", "Au"])
def test_shipped_coefficients_tell_on_from_off(tilt_series, crystal):
    """No constant score passes this: its area is 0.5 and its means are equal."""
    mine = tilt_series[tilt_series.crystal == crystal]
    on, off = (mine.score[mine.truth < 2].to_numpy(), mine.score[mine.truth > 4].to_numpy())
    assert area(on, off) > 0.9
    assert on.mean() > off.mean() + 0.3


def test_the_axis_of_particles_on_one_is_found(tilt_series):
    on = tilt_series[(tilt_series.truth < 2) & (tilt_series.score > 0)]
    assert len(on) >= 16
    assert (on.axis.str.strip("[]") == on.zone).mean() >= 0.9


# --- the fit --------------------------------------------------------------------------------------------------------


def test_the_fit_finds_the_coefficients_that_made_the_data():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 40000))
    truth = Logistic(("a", "a*b"), (1.5, -0.7), -0.4)
    on = rng.random(40000) < truth.probability({"a": x, "b": y})
    found = fit(pd.DataFrame({"a": x, "b": y, "evenness": 0.0, "tilt": np.where(on, 1.0, 5.0)}), truth.terms)
    assert np.allclose(found.weight, truth.weight, atol=0.06)
    assert found.bias == pytest.approx(truth.bias, abs=0.05)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_area_is_the_chance_that_a_positive_is_above_a_negative(positive, negative):
    direct = np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
    assert area(np.array(positive), np.array(negative)) == pytest.approx(direct)


def test_the_calibration_error_is_that_of_the_bias():
    rng = np.random.default_rng(5)
    p = rng.random(100000)
    right, low = (calibration({"x": (s, rng.random(p.size) < p)})[1]["x"] for s in (p, p * 0.5))
    assert right < 0.01
    assert low == pytest.approx(0.25, abs=0.01)
