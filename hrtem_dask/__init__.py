"""hrtem_dask: noisy HRTEM movies into numbers that hold, on Dask.

The public names load on first use (PEP 562): importing the package loads neither torch nor
abTEM nor CUDA.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core.provenance import package_version

#: public name -> module that holds it
_WHERE = {
    "MTF": "detector.mtf",
    "analyse_particles": "analysis.particles",
    "blob_probability": "analysis.blobs",
    "column_contrast": "analysis.atoms",
    "calibrate_diffusion": "analysis.diffusion_check",
    "connect": "cluster",
    "correct_drift": "analysis.registration",
    "estimate_drift": "analysis.registration",
    "estimate_drift_images": "analysis.image_registration",
    "count_diffusion": "analysis.diffusion",
    "estimate_atoms": "analysis.atoms",
    "filter_frames": "analysis.verdicts",
    "find_columns": "analysis.columns",
    "find_sites": "analysis.sites",
    "fit_dose_rate": "analysis.diffusion_series",
    "fit_mtf": "detector.fitting",
    "fourier_peak_pairs": "analysis.fourier",
    "frame_quality": "analysis.frames",
    "guess_pixel_size": "analysis.rings",
    "identify_zone_axis": "analysis.zone_axis",
    "label_particles": "analysis.labels",
    "link_columns": "analysis.links",
    "link_particles": "analysis.tracks",
    "load_model": "networks.models",
    "open_movie": "io.movie",
    "peak_ratio": "analysis.fourier",
    "peak_ratio_map": "analysis.ratio_map",
    "pool_diffusion": "analysis.diffusion_series",
    "run_campaign": "campaign.runner",
    "segment": "analysis.segment",
    "train": "networks.training",
    "train_for_microscope": "networks.own",
    "verdict_rates": "analysis.verdicts",
    "view_layers": "view",
    "zone_axis_score": "analysis.zone_axis",
}
_MODULES = ("analysis", "campaign", "cluster", "core", "detector", "io", "kernels", "networks", "report", "simulate")

__all__ = sorted([*_WHERE, *_MODULES, "__version__"])
__version__ = package_version()

if TYPE_CHECKING:
    from .analysis.atoms import column_contrast, estimate_atoms
    from .analysis.blobs import blob_probability
    from .analysis.columns import find_columns
    from .analysis.diffusion import count_diffusion
    from .analysis.diffusion_check import calibrate_diffusion
    from .analysis.diffusion_series import fit_dose_rate, pool_diffusion
    from .analysis.fourier import fourier_peak_pairs, peak_ratio
    from .analysis.frames import frame_quality
    from .analysis.image_registration import estimate_drift_images
    from .analysis.labels import label_particles
    from .analysis.links import link_columns
    from .analysis.particles import analyse_particles
    from .analysis.ratio_map import peak_ratio_map
    from .analysis.registration import correct_drift, estimate_drift
    from .analysis.rings import guess_pixel_size
    from .analysis.segment import segment
    from .analysis.sites import find_sites
    from .analysis.tracks import link_particles
    from .analysis.verdicts import filter_frames, verdict_rates
    from .analysis.zone_axis import identify_zone_axis, zone_axis_score
    from .campaign.runner import run_campaign
    from .cluster import connect
    from .detector.fitting import fit_mtf
    from .detector.mtf import MTF
    from .io.movie import open_movie
    from .networks.models import load_model
    from .networks.own import train_for_microscope
    from .networks.training import train
    from .view import view_layers


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names are {__all__}")


def __dir__() -> list[str]:
    return __all__
