"""Scores on simulated scenes: what a perfect, a shrunken and a blind predictor get, and how sure it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from hrtem_dask.networks.msdnet import MSDNet
from hrtem_dask.networks.scoring import Condition, draw_scenes, score_scenes, scores_by_dose
from hrtem_dask.networks.summaries import interval, summarise
from hrtem_dask.simulate.draws import truth_at
from hrtem_dask.simulate.recipe import load_recipe
from hrtem_dask.simulate.set_store import begin, write_sample
from hrtem_dask.simulate.sets import Dataset, Sample, open_dataset

RECIPE = {
    "name": "discs", "field": {"box": 64}, "particles": {"diameter": [16, 24]},
    "imaging": {"pixel_size": [0.4, 0.5], "dose": [500, 2000], "defocus": [0, 100], "mtf_scale": [0.5, 0.5]},
}
DOSES = [Condition(20.0), Condition(1000.0)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    """Five fields of two balls that touch in projection; a sixth holds none."""
    path = tmp_path_factory.mktemp("set")
    begin(load_recipe(RECIPE), path, 6, 5)
    rng = np.random.default_rng(0)
    for i in range(6):
        y, x = rng.uniform(20, 44, 2)
        some = i < 5

        def thick(step: float, dx: float, y: float = y, x: float = x, some: bool = some) -> np.ndarray:
            t = np.arange(round(64 / step)) * step
            d2 = (t[:, None] - y) ** 2 + (t[None] - x - dx) ** 2
            return some * 2 * np.sqrt(np.clip(100 - d2, 0, None))

        ball, other = thick(0.25, -9), thick(0.25, 9)
        instances = np.where(ball >= other, 1 * (ball > 0), 2 * (other > 0)).astype(np.int32)
        wave = (1 - 0.02 * (thick(0.5, -9) + thick(0.5, 9))).astype(np.complex64)
        thickness = (thick(1.0, -9) + thick(1.0, 9)).astype(np.float32)
        write_sample(path, i, Sample(wave, instances > 0, thickness, {"particles": []}, instances))
    return replace(open_dataset(path), outline="half-thickness")


def oracle(data: Dataset):
    """A predictor that knows the truth: it finds out where the frame was drawn from by looking at the scenes."""
    known = {}
    for seed in (1, 2):
        for i in range(len(data)):
            for scene in draw_scenes(data, i, seed, DOSES):
                known[scene.frame.counts.tobytes()] = scene.truth
    return lambda counts, _: known[counts.tobytes()]


def of(scores, condition, **options):
    return summarise([s for s in scores if s.condition == condition], **options)


def test_a_perfect_and_a_shrunken_predictor(data):
    shrink = ndimage.binary_erosion
    perfect = oracle(data)
    scores = score_scenes({"perfect": perfect, "small": lambda c, p: shrink(perfect(c, p), iterations=2),
                           "blind": lambda counts, _: np.zeros(counts.shape)}, data, DOSES, seeds=[1, 2])
    best = of(scores["perfect"], DOSES[0])
    assert (best["mean"], best["worst"], best["f1"], best["distance"], best["diameter_bias"]) == (1, 1, 1, 0, 0)
    assert best["interval"] == best["f1_interval"] == [1, 1]
    assert best["by_seed"] == {"1": 1, "2": 1}
    assert (best["images"], best["empty_images"], best["false_area"]) == (10, 2, 0)
    assert best["wrong_label"] < 0.9
    # the half-thickness line lies inside the outermost atoms
    assert 0.75 < best["atoms"]["mean"] < 0.97
    assert best["atoms"]["diameter_bias"] is None or best["atoms"]["diameter_bias"] < -3
    # two particles that touch are one region: found as such, but not singly
    assert best["particles"]["f1"] < 1
    assert best["particles"]["recall"] < 1

    small = of(scores["small"], DOSES[1])
    assert small["mean"] < 0.95
    assert 0.4 < small["distance"] < 1.5  # two pixels of 0.4 to 0.5 angstrom, less where the corner is
    assert small["diameters"] == 0 or small["diameter_bias"] < -4

    blind = of(scores["blind"], DOSES[1])
    assert (blind["mean"], blind["f1"], blind["recall"], blind["precision"]) == (0, 0, 0, None)
    assert (blind["distance"], blind["nothing_found"], blind["diameter_bias"]) == (None, 10, None)


def test_conditions_share_the_microscope_and_the_place(data):
    conditions = [Condition(20.0), Condition(500.0), Condition(500.0, 50.0), Condition(500.0, 0.0, 0.3)]
    low, high, moved, fine = (s.frame for s in draw_scenes(data, 0, 1, conditions))
    assert low.optics == high.optics
    assert low.origin == high.origin == moved.origin
    assert low.pixel_size == high.pixel_size
    assert replace(high.optics, defocus=high.optics.defocus + 50) == moved.optics
    assert not np.array_equal(high.counts, moved.counts)
    assert fine.pixel_size == pytest.approx(0.3, rel=0.05)
    assert low.counts.mean() / high.counts.mean() == pytest.approx(20 / 500, rel=0.05)
    again = next(draw_scenes(data, 0, 2, conditions))
    assert again.frame.optics != low.optics


def test_the_truth_lies_where_the_frame_was_drawn(data):
    scene = next(draw_scenes(data, 1, 1, [Condition(1e6)]))
    inside = scene.frame.counts[scene.truth].mean()
    assert inside < 0.9 * scene.frame.counts[~scene.atoms].mean()
    sample = data.read(1)
    again = truth_at(sample, scene.frame.origin, scene.frame.pixel_size, scene.truth.shape)
    np.testing.assert_array_equal(again, scene.truth)
    assert (scene.atoms >= scene.truth).all()
    assert set(np.unique(scene.particles[scene.truth])) <= {1, 2}
    assert not scene.particles[~scene.truth].any()


def test_workers_change_nothing(data):
    def predict(counts: np.ndarray, _: float) -> np.ndarray:
        return ndimage.gaussian_filter(counts, 3) < counts.mean()

    one, three = (score_scenes({"a": predict}, data, DOSES, seeds=[1], workers=n)["a"] for n in (1, 3))
    assert [(s.field, s.condition) for s in one] == [(s.field, s.condition) for s in three]
    assert of(one, DOSES[1]) == of(three, DOSES[1])


def test_scores_of_a_card(data):
    net = MSDNet(1, 2, 3)
    net.final_bias.data[0] = 1
    scores = scores_by_dose(net, data, seed=3, doses=(100,), seeds=3)["100"]
    assert scores["images"] == 15
    assert list(scores["by_seed"]) == ["3", "4", "5"]
    assert scores["mean"] == 0


def test_a_set_of_empty_fields_has_no_dice(data):
    empty = replace(data, indices=data.indices[-1:])
    found = of(score_scenes({"a": lambda counts, _: np.ones(counts.shape)}, empty, DOSES, seeds=[1])["a"], DOSES[0])
    assert (found["mean"], found["images"], found["empty_images"], found["false_area"]) == (None, 0, 1, 1)


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(120):
        low, high = interval(rng.normal(0.5, 0.1, 30), range(30), resamples=200)
        hits += low <= 0.5 <= high
    assert 0.86 <= hits / 120 <= 0.99


def test_frames_of_one_field_are_not_independent():
    values = np.random.default_rng(2).normal(0.5, 0.1, 12)
    low, high = interval(values, range(12))
    more_low, more_high = interval(np.repeat(values, 5), np.repeat(range(12), 5))
    assert more_high - more_low == pytest.approx(high - low, rel=0.15)
    assert interval(values, range(12)) == [low, high]
