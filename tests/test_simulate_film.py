"""The film is as thick and as rough as it says."""

from __future__ import annotations

import numpy as np
import pytest

from hrtem_dask.simulate.films import BLOCK_HEIGHT, amorphous_block, carbon_film, rough_surface


@pytest.mark.parametrize(("thickness", "roughness"), [(15.0, 0.0), (30.0, 3.0), (95.0, 4.0)])
def test_film_has_the_density_and_the_thickness(thickness, roughness):
    rng = np.random.default_rng(1)
    blocks = [amorphous_block((60.0, 60.0, BLOCK_HEIGHT), 0.09, rng) for _ in range(2)]
    film = carbon_film(blocks, 60.0, thickness, rng, roughness=roughness, roughness_length=12.0)
    assert len(film) == pytest.approx(0.09 * 60 * 60 * thickness, rel=0.04)
    assert film[:, 2].mean() == pytest.approx(thickness / 2, abs=0.6)
    assert (film[:, :2] >= 0).all()
    assert (film[:, :2] <= 60).all()


def test_rough_surface_has_its_rms_and_no_mean():
    for length in (5.0, 20.0, 60.0):
        h = rough_surface(40, 60.0, 3.0, length, np.random.default_rng(2))
        assert h.std() == pytest.approx(3.0)
        assert abs(h.mean()) < 1e-9
