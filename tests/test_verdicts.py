"""Which frames are kept and why: one particle, thresholds, targets, and tables that do not fit."""

from __future__ import annotations

import base64
import io
import json
import warnings

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hrtem_dask import filter_frames, verdict_rates
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import InputError
from hrtem_dask.core.schema import FRAME_QUALITY, PARTICLES, VERDICTS
from hrtem_dask.kernels.thresholds import expected_threshold, proven_threshold, share_limit
from hrtem_dask.report.verdicts import border_frames, verdict_figure


def particles(score, *, frame=None, ratio=None, pairs=None, track=0, particle=1, area=700.0) -> pd.DataFrame:
    score = np.asarray(score, dtype=float)
    return pd.DataFrame({
        "frame": np.arange(len(score)) if frame is None else frame, "time": 0.1 * np.arange(len(score)),
        "particle": particle, "y": 20.0, "x": 20.0, "area": area, "track": track,
        "n_pairs": 3 if pairs is None else pairs, "zone_axis_score": score,
        "peak_ratio": np.where(score > 0, 1 / np.maximum(score, 0.01), np.nan) if ratio is None else ratio})


def quality(reasons, first=0) -> pd.DataFrame:
    rows = pd.DataFrame({"frame": np.arange(first, first + len(reasons)), "time": 0.5, "reason": reasons})
    return FRAME_QUALITY.coerce(rows.reindex(columns=FRAME_QUALITY.names).fillna({"saturated": 0, "unknown": 0}))


def test_reasons_of_a_particle():
    table = particles([0.9, 0.2, 0, 0], pairs=[4, 2, 1, 0])
    out = filter_frames(table, min_score=0.5)
    assert out.reason.tolist() == ["aligned", "one fringe", "one fringe", "no lattice"]
    assert out.keep.tolist() == [True, False, False, False]
    assert list(out.columns) == VERDICTS.names
    assert out.dtypes.astype(str).to_dict() == {c.name: c.dtype for c in VERDICTS.columns}
    assert json.loads(json.dumps(out.attrs["threshold"])) == {"max_ratio": None, "min_score": 0.5, "track": 0}


def test_undefined_is_never_kept():
    table = particles([0.9, 0.9], ratio=[np.nan, 1.1])
    for asked in ({"min_score": 0.0}, {"max_ratio": 1e9}, {"max_false_keep": 1.0}):
        assert filter_frames(table, **asked).keep.tolist() == [False, True]


def test_all_criteria_must_hold():
    table = particles([0.9, 0.9, 0.2], ratio=[1.2, 4.0, 1.2])
    assert filter_frames(table, max_ratio=3, min_score=0.5).keep.tolist() == [True, False, False]


def test_reasons_of_frames_come_first():
    frames = quality(["usable", "blurred", "saturated", "empty", "quarantined", "usable"])
    out = filter_frames(particles([0.9] * 5), min_score=0.5, frames=frames)
    assert out.reason.tolist() == ["aligned", "blurred", "saturated", "empty", "quarantined", "empty"]
    assert out.time.tolist() == [0.5] * 6, "a frame without any particle is there, with its time"
    campaign = pd.DataFrame({"frame": [0, 1, 2], "status": ["done", "failed", "done"]})
    assert filter_frames(particles([0.9, 0.9, 0.9]), min_score=0.5, frames=campaign).reason.tolist() == [
        "aligned", "quarantined", "aligned"]


def test_frames_without_particle_are_filled_in_their_step():
    out = filter_frames(particles([0.9, 0.9, 0.9], frame=[10, 14, 20]), min_score=0.5)
    assert out.frame.tolist() == [10, 12, 14, 16, 18, 20]
    assert out.reason.tolist() == ["aligned", "empty", "aligned", "empty", "empty", "aligned"]
    assert out.particle.tolist() == [1, 0, 1, 0, 0, 1]


def test_the_largest_track_is_followed_unless_another_is_named():
    small = particles([0.1, 0.1, 0.1, 0.1], track=3, area=400.0)
    large = particles([0.9, 0.9], track=5, particle=2, area=900.0)  # seen in fewer frames, and more area x frames
    both = pd.concat([small, large], ignore_index=True).sort_values("frame", kind="stable")
    out = filter_frames(both, min_score=0.5)
    assert out.attrs["threshold"]["track"] == 5
    assert out.reason.tolist() == ["aligned", "aligned", "empty", "empty"]
    with pytest.warns(UserWarning, match="none of 4 frames is kept with min_score=0.5: 4 one fringe"):
        assert not filter_frames(both, min_score=0.5, track=3).keep.any()


def test_a_table_that_is_not_linked_is_linked_and_dask_is_computed():
    rows = PARTICLES.empty().reindex(range(6))
    rows = rows.assign(frame=[0, 0, 1, 1, 2, 2], particle=[1, 2, 2, 1, 1, 2], y=[20.0, 90, 20, 90, 20, 90], x=30.0,
                       area=[700.0, 300, 700, 300, 700, 300], touches_border=False, n_pairs=3, peak_ratio=1.5,
                       zone_axis_score=[0.9, 0.1, 0.9, 0.1, 0.9, 0.1])
    lazy = dd.from_pandas(rows, npartitions=1, sort=False)
    out = filter_frames(lazy, min_score=0.5)
    assert out.particle.tolist() == [1, 2, 1], "the large one, whatever its label"
    assert out.keep.all()


def test_the_order_of_rows_does_not_matter():
    table = particles(np.linspace(0, 1, 40))
    out = filter_frames(table.sample(frac=1, random_state=1), max_false_keep=0.2)
    pd.testing.assert_frame_equal(out, filter_frames(table, max_false_keep=0.2))


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=40), st.floats(0, 1))
def test_the_threshold_is_the_lowest_that_meets_the_target(scores, target):
    score = np.array(scores)
    level, rate = expected_threshold(score, target)
    expected = {t: (1 - score[score >= t]).mean() for t in score}  # all of them, one by one
    good = [t for t, r in expected.items() if r <= target + 1e-12]
    assert level == (min(good) if good else np.inf)
    assert not good or np.isclose(rate, expected[level])


def test_calibrated_scores_keep_the_promise():
    """Frames whose truth is drawn with their score: the rate of false keeps is what was asked for."""
    rng = np.random.default_rng(0)
    score = rng.beta(0.4, 0.6, 4000)
    truth = rng.random(4000) < score
    for target in (0.02, 0.05, 0.2):
        out = filter_frames(particles(score), max_false_keep=target, truth=None)
        rates = verdict_rates(out, truth)
        assert out.attrs["threshold"]["expected_false_keep"] <= target
        assert abs(rates["false_keep"] - target) < 3 * np.sqrt(target / rates["kept"]) + 0.002
        assert rates["bad_kept"] == (out.keep.to_numpy() & ~truth).sum() / (~truth).sum()


def test_truth_gives_a_bound_that_holds_where_scores_lie():
    """Scores that promise too much: only the truth finds the right threshold, and its bound holds in 95 of 100."""
    rng = np.random.default_rng(1)
    broken = 0
    for _ in range(100):
        score = rng.random(600)
        good = score**3  # the true probability
        level, limit = proven_threshold(score, rng.random(600) < good, 0.3)
        if np.isfinite(level):
            assert limit <= 0.3
            broken += (1 - good[score >= level]).mean() > 0.3
    assert broken <= 5
    assert (1 - good[score >= expected_threshold(score, 0.3)[0]]).mean() > 0.4, "the expectation alone is wrong here"


def test_the_bound_is_that_of_clopper_and_pearson():
    for k, n in ((0, 10), (3, 40), (39, 40)):
        reference = stats.binomtest(k, n, alternative="less").proportion_ci(0.95, method="exact").high
        assert np.isclose(share_limit(k, n), reference)


def test_a_target_that_cannot_be_met():
    with pytest.warns(UserWarning, match="max_false_keep=0.01.*highest score is 0.6"):
        out = filter_frames(particles([0.6, 0.5]), max_false_keep=0.01)
    assert out.attrs["threshold"]["min_score"] is None
    assert out.reason.tolist() == ["one fringe"] * 2


def test_empty_tables_and_single_frames():
    with pytest.warns(UserWarning, match="no frame at all"):
        assert len(filter_frames(PARTICLES.empty(), max_ratio=3)) == 0
    with pytest.warns(UserWarning, match="2 empty"):
        out = filter_frames(PARTICLES.empty(), max_ratio=3, frames=quality(["usable", "usable"], first=7))
    assert out.frame.tolist() == [7, 8]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert filter_frames(particles([0.9]), max_ratio=3).keep.tolist() == [True]


GOOD = particles([0.9, 0.2])


@pytest.mark.parametrize(("arguments", "said"), [
    ({}, "no criterion"),
    ({"max_ratio": 0.5}, "max_ratio is 0.5; expected a finite number of at least 1"),
    ({"max_ratio": float("nan")}, "max_ratio"),
    ({"min_score": 1.5}, "from 0 to 1"),
    ({"min_score": -0.1}, "at least 0"),
    ({"min_score": "0.5"}, "finite number"),
    ({"max_false_keep": 2}, "from 0 to 1"),
    ({"max_ratio": 3, "track": 9}, r"no track 9; found 1, the largest are \[0\]"),
    ({"max_ratio": 3, "truth": [True, False]}, "no max_false_keep"),
    ({"max_false_keep": 0.1, "truth": [True]}, "one value a frame"),
    ({"max_false_keep": 0.1, "truth": {0: True}}, r"truth lacks 1 of 2 frames, as \[1\]"),
    ({"max_false_keep": 0.1, "truth": [0.3, 2.0]}, "expected True"),
    ({"max_ratio": 3, "particles": GOOD.drop(columns=["area", "n_pairs"])}, r"lacks the columns \['area', 'n_pairs'\]"),
    ({"max_ratio": 3, "particles": pd.concat([GOOD, GOOD])}, "2 double row"),
    ({"max_ratio": 3, "particles": pd.concat([GOOD, GOOD.assign(particle=2)])}, "two particles in frame 0"),
    ({"max_ratio": 3, "particles": [1, 2]}, "is a list"),
    ({"max_ratio": 3, "frames": quality(["usable"] * 2, first=1)}, r"lacks 1 of the particles' frames, as \[0\]"),
    ({"max_ratio": 3, "frames": pd.concat([quality(["usable"] * 2)] * 2)}, "frame 0 twice"),
    ({"max_ratio": 3, "frames": pd.DataFrame({"frame": [0, 1]})}, "columns frame and reason"),
])
def test_bad_input(arguments, said):
    arguments = dict(arguments)
    table = arguments.pop("particles", GOOD)
    with pytest.raises(InputError, match=said):
        filter_frames(table, **arguments)


def test_rates_count_by_hand():
    out = filter_frames(particles([0.9, 0.8, 0.7, 0.1, 0.2]), min_score=0.5)
    rates = verdict_rates(out, pd.Series([True, True, False, True, False]))
    assert (rates["false_keep"], rates["good_kept"], rates["bad_kept"]) == (1 / 3, 2 / 3, 1 / 2)
    assert rates["good_kept_interval"][0] < 2 / 3 < rates["good_kept_interval"][1]


@pytest.mark.filterwarnings("ignore:none of")
@pytest.mark.parametrize("asked", [{"min_score": 0.5}, {"max_ratio": 3.0}, {"min_score": 0.999}])
def test_the_picture_shows_the_border_of_the_list(asked):
    from PIL import Image

    movie = make_movie(np.random.default_rng(0).poisson(50, (12, 80, 90)), pixel_size=0.5, time=np.arange(12) * 0.1)
    frames = quality(["blurred"] + ["usable"] * 11)
    verdicts = filter_frames(particles(np.linspace(0, 0.99, 12)), **asked, frames=frames)
    kept, dropped = border_frames(verdicts, 3)
    assert kept.frame.tolist() == verdicts.frame[verdicts.keep].tolist()[:3]
    assert dropped.frame.tolist() == verdicts.frame[~verdicts.keep].tolist()[:-4:-1]
    picture = verdict_figure(movie, verdicts, shown=3, truth=verdicts.score > 0.4)
    image = Image.open(io.BytesIO(base64.b64decode(picture.uri.split(",")[1])))
    assert image.size[0] > 1000
    assert np.asarray(image.convert("L")).std() > 10


def test_the_picture_refuses_another_movie():
    movie = make_movie(np.ones((2, 40, 40)), pixel_size=0.5, frame=[50, 51])
    with pytest.raises(InputError, match="no frame 0 of the verdicts"):
        verdict_figure(movie, filter_frames(GOOD, min_score=0.5))
    with pytest.raises(InputError, match="lack the columns"):
        verdict_figure(movie, GOOD)
