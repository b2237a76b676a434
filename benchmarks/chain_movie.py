"""The movie of `benchmarks.chain`: particles that rock through zone axes, and some frames that nobody can read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

__all__ = ["Plan", "write_raw"]


@dataclass(frozen=True)
class Plan:
    """What is simulated: a field of three gold particles of 3 to 5 nm on thin carbon, in a corrected microscope.

    ``tilt`` and ``time`` are those of `hrtem_dask.simulate.scenes.Rock`, whose ``n_waves`` configurations the movie
    runs through back and forth; ``shift`` is the drift from frame to frame [angstrom].
    """

    n_frames: int = 3000
    seed: int = 1
    side: int = 480
    pixel_size: float = 0.25
    dose: float = 200.0
    frame_time: float = 0.05
    frames_per_wave: int = 6
    tilt: float = 5.0
    time: float = 8.0
    n_waves: int | None = 250
    zone_axis: str = "110, 100"
    shift: float = 0.06
    diameter: tuple[float, float] = (30, 46)
    number: int = 3

    def recipe(self) -> dict[str, Any]:
        """What the field holds."""
        return {
            "name": "chain",
            "field": {"wave_sampling": 0.3, "stored_sampling": 0.45, "slice_thickness": 3.0},
            "particles": {"number": [self.number] * 2, "coverage": [0.3, 0.3], "diameter": list(self.diameter),
                          "elongation": [1.0, 1.25], "height": [0.6, 0.9], "touching_fraction": 0.0,
                          "twin_fraction": 0.0, "thermal_displacement": [0.08, 0.1]},
            "film": {"absent_fraction": 0.0, "thickness": [25, 30], "roughness": [1, 3]},
        }

    def mtf(self) -> Any:
        """Of the camera."""
        from hrtem_dask.detector import MTF

        return MTF(scale=0.5, power=2.3, floor=0.03)

    def movie(self, **more: Any) -> xr.Dataset:
        """Simulate it; see `hrtem_dask.simulate.movie`."""
        from hrtem_dask import simulate
        from hrtem_dask.simulate.camera import Camera
        from hrtem_dask.simulate.gathered import Gathered
        from hrtem_dask.simulate.microscope import Optics
        from hrtem_dask.simulate.scenes import Rock

        optics = Optics(defocus=120.0, cs=-1e5, focal_spread=35.0, convergence=1e-4, astigmatism=10.0,
                        astigmatism_angle=0.7, absorption_length=300.0, blur=0.4)
        camera = Camera(self.pixel_size, self.dose, mtf=self.mtf(), gain=20.0, read_noise=1.0, hot_pixels=1,
                        digitised=True)
        rock = Rock(tilt=self.tilt, time=self.time, spin=1.0, wander=0.2, frames_per_wave=self.frames_per_wave,
                    n_waves=self.n_waves, zone_axis=self.zone_axis)
        return simulate.movie(self.recipe(), n_frames=self.n_frames, seed=self.seed, shape=(self.side, self.side),
                              pixel_size=self.pixel_size, dose=self.dose, frame_time=self.frame_time,
                              drift=self.shift, optics=optics, motion=Gathered(rock, 31.0), camera=camera, **more)


def write_raw(simulated: Path, raw: Path, plan: Plan) -> int:
    """Write the movie that is analysed, spoilt frames and all, beside the simulated one; return how many are spoilt."""
    from hrtem_dask import open_movie
    from hrtem_dask.io.store import write_movie
    from hrtem_dask.simulate.spoilt import spoil_kinds, spoil_movie

    kinds = spoil_kinds(plan.n_frames, plan.seed)
    write_movie(raw, spoil_movie(open_movie(simulated), kinds, plan.seed, mtf=plan.mtf()))
    return int((kinds != "").sum())
