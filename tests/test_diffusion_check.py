"""The counting tried on simulated images of particles whose events are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hrtem_dask import blob_probability, calibrate_diffusion, count_diffusion
from hrtem_dask.core.errors import InputError
from hrtem_dask.simulate.microscope import Optics

OPTICS = Optics(defocus=-60.0, cs=-1e5, focal_spread=35.0, convergence=1e-4, absorption_length=400.0, blur=0.3)


def bright(movie):
    return blob_probability(movie, size=0.45, sign="bright")


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory):
    return calibrate_diffusion(bright, dose=3000.0, pixel_size=0.25, optics=OPTICS, n_frames=40, diameter=14.0,
                               averages=(1, 2), rate=0.5, store=tmp_path_factory.mktemp("check"))


def test_images_of_high_dose_give_the_true_events(calibration) -> None:
    """From simulated images through drift and sites: hardly a change is missed, none is invented at rest."""
    first = calibration.table.iloc[0]
    assert first["true_events"] >= 5
    assert first["recall"] > 0.6
    assert first["precision"] > 0.7
    assert first["tpr"] > 0.9
    assert first["fpr"] < 0.05
    assert first["false_events"] == 0
    assert first["low"] < 1.3 * first["true_rate"]
    assert first["high"] > first["true_rate"]
    assert 0 < first["frozen_high"] < 0.5
    assert calibration.table["averaged"].tolist() == [1, 2]
    assert calibration.table["frame_time"].tolist() == pytest.approx([0.1, 0.2])


def test_what_it_says_of_columns_and_of_a_measurement(calibration) -> None:
    seen = calibration.by_atoms.set_index("atoms")
    assert seen.loc[0, "share"] < 0.05
    assert np.nansum(seen.loc[1:, "looks"]) > 100
    assert (seen["low"] <= seen["share"].fillna(0.5)).all()
    moving = calibration.moving[0]
    assert "above what misreads can make" in calibration.beside(moving)
    assert "not above" in calibration.beside(calibration.frozen[0])
    assert f"{calibration.table['recall'].iloc[0]:.0%}" in calibration.summary


def test_readings_are_taken_by_the_count(calibration) -> None:
    rng = np.random.default_rng(0)
    frame, site = np.nonzero(rng.random((60, 5)) < 0.97)
    table = {"frame": frame, "y": 0.0, "x": 3.0 * site}
    found = count_diffusion(pd.DataFrame(table), frame_time=0.1, drift=False, sites=[[0, 3.0 * i] for i in range(5)],
                            detection=calibration.detection)
    assert found.overall.limit


@pytest.mark.parametrize(("options", "says"), [({"dose": 0}, "dose"), ({"n_frames": 3}, "n_frames"),
                                               ({"averages": (2,)}, "first is 1"), ({"averages": (1, 9)}, "quarter")])
def test_bad_options(options: dict, says: str) -> None:
    usual = {"dose": 100.0, "pixel_size": 0.2, "optics": OPTICS, "n_frames": 20}
    with pytest.raises(InputError, match=says):
        calibrate_diffusion(bright, **(usual | options))
