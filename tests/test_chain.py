"""From raw frames to the list of readable frames, on a small movie whose tilts are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from movie_scenes import one_particle

from benchmarks.chain_score import followed, frame_reasons, interval, observations, share, tables
from hrtem_dask import simulate
from hrtem_dask.campaign import Campaign, run_campaign
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import InputError
from hrtem_dask.io.store import write_movie
from hrtem_dask.simulate.camera import Camera
from hrtem_dask.simulate.gathered import Gathered
from hrtem_dask.simulate.microscope import Optics
from hrtem_dask.simulate.scenes import MovingParticles, Rock
from hrtem_dask.simulate.spoilt import spoil_frame, spoil_kinds, spoil_movie

TILTS = (0.0, 0.5, 6.5, 8.0)
EACH, SIDE, PIXEL = 4, 200, 0.25
OPTICS = Optics(defocus=110.0, cs=-1e5, focal_spread=30.0, absorption_length=300.0, blur=0.3)


@dataclass(frozen=True)
class Steps:
    """One particle that stands at one tilt after the other, about an axis that takes all of its fringes but one."""

    def scene(self, recipe, seed, n_frames, frame_time) -> MovingParticles:
        still = Rock(tilt=0.0, spin=0.0, wander=0.0, zone_axis="110").scene(recipe, seed, n_frames, frame_time)
        turns = np.zeros((len(TILTS), 1, 3))
        turns[:, 0, :2] = np.deg2rad(TILTS)[:, None] * [0.6, 0.8]
        return MovingParticles(still.recipe, seed, np.arange(n_frames) // EACH, turns, np.zeros((len(TILTS), 1, 2)))


@pytest.fixture(scope="module")
def known() -> tuple[xr.Dataset, np.ndarray]:
    recipe = one_particle(diameter=[32, 32], height=[0.8, 0.8], elongation=[1.0, 1.0])
    data = simulate.movie(recipe, n_frames=EACH * len(TILTS), seed=3, shape=(SIDE, SIDE), pixel_size=PIXEL, dose=500.0,
                          drift=0.1, optics=OPTICS, motion=Gathered(Steps()),
                          camera=Camera(PIXEL, 500.0, gain=10.0, read_noise=1.0, digitised=True))
    kinds = np.full(data.sizes["frame"], "", "U9")
    kinds[[1, 9]] = "saturated", "empty"
    return data, kinds


@pytest.fixture(scope="module")
def campaign(known: tuple[xr.Dataset, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    data, kinds = known
    folder = tmp_path_factory.mktemp("chain")
    write_movie(folder / "raw.zarr", spoil_movie(data.movie, kinds, 3))
    return run_campaign({"source": folder / "raw.zarr", "out": folder / "out", "crystal": "Au", "max_ratio": 8.0})


def test_the_list_holds_the_frames_on_the_zone_axis(campaign: Campaign, known: tuple) -> None:
    data, kinds = known
    tilt, verdicts = data.particle_tilt.values[:, 0], campaign.verdicts
    np.testing.assert_allclose(tilt, np.repeat(TILTS, EACH), atol=1e-3)
    good = (tilt <= 2) & (kinds == "")
    assert not (verdicts.keep & ~good).any()
    assert verdicts.keep[good].mean() > 0.7
    reasons = verdicts.reason.astype(str)
    assert [reasons[1], reasons[9]] == ["saturated", "empty"]
    assert set(reasons[(tilt > 2) & (kinds == "")]) <= {"one fringe", "no lattice"}
    fair = kinds == ""
    assert verdicts.score[good].min() > verdicts.score[fair & ~good].max()


def test_particles_are_matched_with_the_truth(campaign: Campaign, known: tuple) -> None:
    data, kinds = known
    table = observations(campaign.particles, data, kinds)
    assert len(table) == len(kinds)
    assert table[table.kind == ""].found.all()
    assert table[table.kind == ""].track.nunique() == 1
    assert not table.good[table.kind != ""].any()
    far = campaign.particles.assign(y=campaign.particles.y + 100)
    assert len(followed(far, data)) == 0


def test_the_tables_say_what_the_list_is_worth(campaign: Campaign, known: tuple) -> None:
    data, kinds = known
    parts = tables(campaign.particles, campaign.frame_quality, data, kinds)
    listed = {(r.how, r.particle): r for r in parts[0].rows}
    assert listed["ratio at most 3", "all"].frames == len(kinds)
    assert listed["ratio at most 3", "all"].good == 7
    assert next(r.against_off for r in parts[1].rows).startswith("1.000")
    called = {r.kind: r.reasons for r in frame_reasons(campaign.frame_quality, kinds)}
    assert called["saturated"] == "saturated 1"
    assert called["empty"] == "empty 1"


def test_intervals_resample_whole_blocks() -> None:
    keep = np.repeat([True, False], 50)
    table = pd.DataFrame({"keep": True, "good": keep, "block": np.repeat([0, 1], 50)})
    assert interval(table, share("keep", "good")) == "0.500 (0.000 to 1.000)"  # two blocks know next to nothing
    many = table.assign(block=np.arange(100))
    value, low, high = (float(t.strip("()")) for t in interval(many, share("keep", "good")).replace("to ", "").split())
    assert value == 0.5
    assert 0.38 < low < 0.44
    assert 0.56 < high < 0.62


def test_spoilt_frames_are_what_they_are_called() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128]
    counts = rng.poisson(40 * (1 + 0.4 * np.cos(2 * np.pi * x / 10) * np.cos(2 * np.pi * y / 10))) * 5 + 30
    about = {"pixel_size": 0.25, "gain": 5.0, "offset": 30.0}
    made = {k: spoil_frame(counts.astype(np.uint16), k, np.random.default_rng(1), **about)
            for k in ("blurred", "saturated", "empty")}

    def peak(image: np.ndarray) -> float:
        power = np.abs(np.fft.fft2(image - image.mean())) ** 2
        return power[12:14, 12:14].max() / np.median(power)

    assert peak(made["blurred"]) < 0.1 * peak(counts)
    assert abs(made["blurred"].mean() / counts.mean() - 1) < 0.02
    assert 0.1 <= (made["saturated"] == 65535).mean() <= 0.65
    assert abs(made["empty"].mean() - 30) < 1
    with pytest.raises(InputError, match="blurred"):
        spoil_frame(counts, "lost", rng, **about)


def test_a_movie_is_spoilt_alike_in_memory_and_lazily() -> None:
    counts = np.random.default_rng(0).poisson(100, (6, 40, 44)).astype(np.uint16)
    movie = make_movie(counts, pixel_size=0.3, attrs={"counts_per_electron": 2.0, "offset": 0.0})
    kinds = np.array(["", "blurred", "empty", "", "saturated", "blurred"])
    eager = spoil_movie(movie, kinds, 5)
    np.testing.assert_array_equal(eager.values, spoil_movie(movie.chunk({"frame": 4, "y": 20}), kinds, 5).values)
    np.testing.assert_array_equal(eager.values[kinds == ""], counts[kinds == ""])
    assert (spoil_kinds(50, 1) == spoil_kinds(50, 1)).all()


def test_gathered_particles_stand_in_the_frame() -> None:
    scene = Gathered(Rock(tilt=2.0, wander=0.0)).scene(one_particle(), 1, 4, 0.1)
    states = scene.states()
    np.testing.assert_allclose(states["particle_y"].values, scene.field.box / 2, atol=1e-9)
    np.testing.assert_allclose(states["particle_x"].values, scene.field.box / 2, atol=1e-9)
    with pytest.raises(InputError, match=r"Gathered\.radius"):
        Gathered(Rock(), radius=-1)
