"""fit_mtf where the beam changes from frame to frame, or was off."""

from __future__ import annotations

import numpy as np
import pytest
from test_detector_films import K, dark, error, quiet_fit, recorded

from hrtem_dask.core.errors import InputError
from hrtem_dask.detector import MTF, fit_mtf
from hrtem_dask.kernels.frame_group import group_noise

GAIN = 4.0


def flickering(doses: list[float], seed: int = 8) -> np.ndarray:
    """256 x 256 pixels of vacuum behind a gain pattern of 2 %, every frame with its part of 50 electrons a pixel."""
    pattern = 1 + 0.02 * np.random.default_rng(0).normal(size=(256, 256))
    return recorded(np.ones((len(doses), 256, 256)) * np.reshape(doses, (-1, 1, 1)) * pattern, seed, read=2.0)


@pytest.mark.parametrize("doses", [[1] * 4 + [0.5] * 4, [0.5, 0.6, 0.8, 1, 1, 1, 1, 1], [1, 0.7] * 4],
                         ids=["halved", "rising", "flickering"])
def test_a_changing_dose_leaves_counts_per_electron_and_curve_right(doses: list[float]) -> None:
    found = [quiet_fit(flickering(doses, seed), dark=dark(read=2.0)) for seed in range(3)]
    wrong = np.mean([m.counts_per_electron for m in found]) / GAIN - 1
    assert abs(wrong) < 0.03  # frames scaled to one mean: 0.10 where the dose is halved
    for mtf in found:
        assert mtf.read_noise == pytest.approx(2 * GAIN, rel=0.02)
        assert (error(mtf) <= 3 * mtf.error(K) + 1e-3).all()


def test_the_noise_of_a_group_is_that_of_its_mean_dose() -> None:
    """Without a detector: Poisson noise has the variance that the weighted mean says, to a fraction of a per cent."""
    rng, doses = np.random.default_rng(0), np.array([1, 1, 1, 1, 0.6, 0.6, 0.6, 0.6]) * 400.0
    noise = group_noise(rng.poisson(doses[:, None, None], (8, 256, 256)) + 100.0, 0, 100.0)
    assert noise.spectra == 6
    assert np.mean(noise.power) / (noise.dose - 100 * noise.spectra) == pytest.approx(1, abs=0.01)
    assert np.mean(noise.near) / (noise.near_dose - 100 * noise.pairs) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("known", "dose"), [("dark", 0.3), ("dark", 0.0), ("offset", 0.3), ("offset", 0.0),
                                             ("nothing", 0.0)])  # dim, or the beam off
def test_a_dim_frame_is_named_and_left_out(known: str, dose: float) -> None:
    frames = flickering([dose] + [1] * 7)
    options = {"dark": {"dark": dark(read=2.0)}, "offset": {"offset": 0}, "nothing": {}}[known]
    with pytest.warns(UserWarning, match="left out 1 of 8 vacuum frames: frame 0 is dim, with .* of the usual"):
        mtf = fit_mtf(frames, **options)
    expected: MTF = quiet_fit(frames[1:], **options)
    assert mtf.parameters == expected.parameters
    assert any("frame 0 is dim" in n for n in mtf.notes)
    assert error(mtf).max() < (0.02 if known == "dark" else 0.04)


@pytest.mark.parametrize(("options", "pedestal", "says"), [
    ({"dark": dark(read=0.5)}, 0.0, "noise of the dark frames"), ({"offset": 0}, 0.0, "is that without electrons"),
    ({"offset": 100}, 100.0, "is that without electrons"), ({}, 0.0, "is that without electrons"),
])
def test_frames_without_beam_are_refused(options: dict, pedestal: float, says: str) -> None:
    frames = np.random.default_rng(3).normal(pedestal, 2, (8, 256, 256))
    with pytest.raises(InputError, match=f"{says}.*the beam was off"):
        quiet_fit(frames, **options)
