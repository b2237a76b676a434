"""Columns in real micrographs: graphene whose hexagons are listed, and a gold particle in dark field."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import real_columns
from hrtem_dask.kernels.matching import neighbour_spacing

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def graphene(shared_data):
    return real_columns.graphene(shared_data)


def test_hexagons_of_graphene(graphene):
    found = real_columns.figures(graphene)
    assert found["pixel_size"] == pytest.approx(0.2192, abs=0.001)
    assert found["contrast"] == 1  # the centres are bright, and nobody said so
    assert found["f1"] > 0.97
    assert found["precision"] > 0.99
    # listed are whole pixels: 0.22 / sqrt(6) of the error is theirs
    assert found["rms"] < 0.15
    assert np.abs(found["shift"]).max() < 0.03


def test_most_of_what_is_missed_of_graphene_is_in_the_defect_or_under_contamination(graphene):
    missed = graphene.listed[graphene.matches.missed]
    in_defect = (np.abs(missed - [23.0, 22.0]) < 13).all(1)
    at_contamination = missed[:, 1] < 12
    assert (in_defect | at_contamination).mean() > 0.6  # the others where the contrast fades, lower right


def test_columns_of_a_gold_particle(shared_data, tmp_path):
    one = real_columns.gold(shared_data)
    at = one.columns[["y", "x"]].to_numpy()
    particle = at[np.hypot(*(at - [70.0, 112.0]).T) < 18]
    assert 90 < len(particle) < 170
    assert 1.9 < neighbour_spacing(particle) < 2.7  # 2.04 along [100], 2.50 along [110]; the scan distorts
    vacuum = (at[:, 0] > 95) & (at[:, 0] < 110) & (at[:, 1] > 60) & (at[:, 1] < 130)
    assert not vacuum.any()
    real_columns.draw(one, tmp_path / "gold.png", (44.0, 92.0, 92.0, 140.0))
    assert (tmp_path / "gold.png").stat().st_size > 50_000
