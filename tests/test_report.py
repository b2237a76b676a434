"""The report: whole, self-contained, and honest about what it does not know."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from campaign_scenes import PIXEL, frames, movie, save_dark_model, write_pngs

from hrtem_dask.campaign import run_campaign
from hrtem_dask.core.errors import MissingInputError
from hrtem_dask.core.schema import FRAMES, PARTICLES, VERDICTS
from hrtem_dask.io.store import write_movie
from hrtem_dask.report import write_report
from hrtem_dask.report.build import caveats, choose, headline
from hrtem_dask.report.figures import four_panels, overlays, ratio_figure, sizes_figure
from hrtem_dask.report.pictures import Scene, outlines, scale_bar_length, shrink, stretch
from hrtem_dask.report.timeline import timeline_figure

pytestmark = pytest.mark.filterwarnings("ignore:none of")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_dark_model(tmp_path_factory.mktemp("model"))


def page(source: object, out: Path, model: str, **more: object) -> str:
    campaign = run_campaign({"source": source, "out": out, "model": model, **more})
    return write_report(campaign.out).read_text(encoding="utf-8")


def test_the_page_is_self_contained_and_says_everything(tmp_path: Path, model: str) -> None:
    write_movie(tmp_path / "m.zarr", movie(10))
    settings = dict(mpl.rcParams)
    text = page(tmp_path / "m.zarr", tmp_path / "out", model, title="Gold <on> film")
    assert dict(mpl.rcParams) == settings
    assert "Gold &lt;on&gt; film" in text
    links = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert all(u.startswith(("data:image/", "#")) or u in
               ("particles.csv", "particles.parquet", "frames.csv", "campaign.json", "verdicts.csv",
                "verdicts.parquet", "frame_quality.csv") for u in links)
    assert "http" not in re.sub(r"data:image/[^\"]+", "", text)
    assert len(re.findall("data:image/jpeg", text)) >= 6  # figure 1 three times, border of the list, figure 2, masks
    assert len(re.findall("data:image/png", text)) == 5
    for word in ("sha256", "Best zone axis", "Median", "Worst frame", "Look at these first", "xarray 20", "30",
                 "angstrom^2", "zone_axis_score", "label_particles", "Readable frames", "Peak ratio map",
                 "link_particles", "score at least 0.5 of track", "one fringe", "drift_y"):
        assert word in text
    assert 50_000 < len(text) < 10_000_000


@pytest.mark.parametrize("kind", ["image", "no time", "zero particles"])
def test_little_data_makes_a_page_too(tmp_path: Path, model: str, kind: str) -> None:
    if kind == "image":
        text = page(write_pngs(tmp_path / "in", 1)[0], tmp_path / "out", model, pixel_size=PIXEL)
        assert "1 frame of 144" in text
    elif kind == "no time":
        text = page(write_pngs(tmp_path / "in", 3), tmp_path / "out", model, pixel_size=PIXEL)
        assert "The time of the frames is not known" in text
        assert "given by the user" in text
    else:
        text = page(movie(2), tmp_path / "out", model, min_area=1e9)
        assert "No particle was found in any frame" in text


def test_large_and_non_square_frames_are_shrunk() -> None:
    image = np.arange(2000 * 1000, dtype=float).reshape(2000, 1000)
    small, factor = shrink(image)
    assert factor == 3
    assert small.shape == (667, 334)
    assert abs(small[10, 10] - image[30:33, 30:33].mean()) < 1


def test_a_movie_that_is_gone_costs_the_pictures_only(tmp_path: Path, model: str) -> None:
    paths = write_pngs(tmp_path / "in", 3)
    page(paths, tmp_path / "out", model, pixel_size=PIXEL)
    for p in paths:
        p.unlink()
    text = write_report(tmp_path / "out").read_text()
    assert "cannot be opened any more" in text
    assert "particles measured" in text


def test_no_campaign(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no finished campaign"):
        write_report(tmp_path)


def scene(labels: np.ndarray) -> Scene:
    return Scene(3, np.nan, frames(1)[0], (labels > 0).astype(np.float32), labels, (PIXEL, PIXEL))


def test_figure_one_finds_the_pairs_of_the_fringes() -> None:
    y, x = np.mgrid[:144, :150]
    labels = (np.hypot(y - 105, x - 70) < 24).astype(np.int32)
    picture, pairs = four_panels(scene(labels), 1)
    assert picture.uri.startswith("data:image/jpeg;base64,")
    assert pairs.detected.sum() == 2
    np.testing.assert_allclose(pairs[pairs.detected].d_spacing, 2.355, atol=0.03)
    nothing, none = four_panels(scene(labels * 0), None)
    assert len(none) == 0
    assert nothing.uri != picture.uri
    assert overlays([scene(labels)]).width > 100


def test_a_tiny_frame_has_no_spectrum_and_no_error() -> None:
    tiny = Scene(0, 0.0, np.ones((3, 3)), np.ones((3, 3)), np.ones((3, 3), np.int32), (0.1, 0.1))
    picture, pairs = four_panels(tiny, 1)
    assert picture.width > 100
    assert len(pairs) == 0


def test_figures_take_empty_tables() -> None:
    assert sizes_figure(PARTICLES.empty()).width > 100
    assert ratio_figure(PARTICLES.empty(), FRAMES.empty()).width > 100


def test_the_timeline_takes_empty_tables_and_a_truth() -> None:
    assert timeline_figure(VERDICTS.empty()).width > 100
    n = 6
    verdicts = VERDICTS.coerce(pd.DataFrame({
        "frame": np.arange(n), "time": np.arange(n) * 0.1, "keep": [True, False] * 3, "peak_ratio": [1.5, np.nan] * 3,
        "reason": ["aligned", "one fringe"] * 3, "score": 0.5, "particle": 1, "y": 1.0, "x": 1.0, "diameter": 30.0}))
    truth = pd.DataFrame({"frame": np.arange(n), "tilt": 3.0, "spoilt": ["", "blurred"] * 3})
    alone, beside = timeline_figure(verdicts), timeline_figure(verdicts, truth)
    assert beside.height > alone.height


def rows(ratios: list[float], border: list[bool] | None = None) -> pd.DataFrame:
    n = len(ratios)
    return PARTICLES.coerce(pd.DataFrame({
        "frame": np.arange(n), "time": np.nan, "particle": 1, "y": 0.0, "x": 0.0, "area": 100.0 + np.arange(n),
        "diameter": 30.0, "major_axis": 30.0, "minor_axis": 30.0, "orientation": 0.0, "probability": 0.9,
        "touches_border": border or [False] * n, "n_pairs": 2, "peak_ratio": ratios, "circularity": 1.0,
        "first_shell": 2, "first_shell_detected": 2, "g_angle": 0.0, "d_spacing": 2.35, "g_angle_2": 1.2,
        "d_spacing_2": 2.35, "zone_axis_score": np.nan_to_num(1 / np.array(ratios)), "zone_axis": "",
    }))


def status(certainty: list[float]) -> pd.DataFrame:
    n = len(certainty)
    return FRAMES.coerce(pd.DataFrame({"frame": np.arange(n), "time": np.nan, "status": "done", "n_particles": 1,
                                       "covered": 0.1, "certainty": certainty, "unknown_pixels": 0, "message": ""}))


def test_the_choice_of_frames() -> None:
    particles = rows([5.0, 1.2, 1.01, 2.0, np.nan], [False, False, True, False, False])
    picked = choose(status([0.9, 0.8, 0.9, 0.7, 0.2]), particles)
    assert [c.frame for c in picked] == [1, 3, 4]  # frame 2 has a lower ratio but is cut by the border
    assert [c.why.split(":")[0] for c in picked] == ["Best zone axis", "Median", "Worst frame"]
    assert choose(status([0.9, 0.9]), rows([1.0, 3.0]))[0].frame == 1  # 1.0 is one pair alone in the shell
    assert "no particle shows two" in choose(status([0.5]), rows([np.nan]))[0].why
    assert choose(status([0.5]), PARTICLES.empty())[0].particle is None


def test_headline_numbers() -> None:
    numbers = {name: value for value, name, _ in headline(status([0.9, 0.8]), rows([1.0, np.nan]), None)}
    assert numbers["frames analysed"] == "2"
    assert numbers["diameter"] == "3.00 nm"
    assert numbers["show a lattice"] == "50 %"
    assert "–" in {v for v, *_ in headline(status([1.0]), PARTICLES.empty(), None)}


def test_pieces_of_pictures() -> None:
    assert [scale_bar_length(f) for f in (4, 41, 300, 5000)] == [1, 10, 50, 1000]
    image = np.random.default_rng(0).normal(100, 5, (40, 40))
    np.testing.assert_allclose(stretch(image), stretch(image * 7 - 300), atol=1e-5)
    assert (stretch(np.full((3, 3), 5)) == 0).all()
    labels = np.zeros((20, 20), np.int32)
    labels[2:5, 2:5], labels[2:5, 5:9] = 1, 2  # touching particles have an outline each
    found = dict(outlines(labels))
    assert set(found) == {1, 2}
    assert found[1].min(0).tolist() == [1.5, 1.5]


def test_caveats_are_about_this_campaign(tmp_path: Path, model: str) -> None:
    write_pngs(tmp_path / "in", 2)
    campaign = run_campaign({"source": tmp_path / "in", "out": tmp_path / "out", "model": model,
                             "pixel_size": PIXEL, "frame_time": 1.0})
    notes = " ".join(caveats(campaign, campaign.frames, campaign.particles, None))
    assert "was given by the user" in notes
    assert "dose is not known" in notes
    assert "time of the frames is not known" not in notes
    assert "simulated" in caveats(campaign, campaign.frames, campaign.particles, pd.DataFrame({"dice": [1.0]}))[0]
