"""MSD-nets and the U-Net baseline: torch modules, their evaluation, training, and the shipped weights.

The names load on first use, so that the weights of a network can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["MSDNet", "Model", "UNet", "evaluate", "fine_tune", "load_model", "save_model", "shipped_models"]

_WHERE = {
    "MSDNet": "msdnet",
    "Model": "models",
    "UNet": "unet",
    "evaluate": "evaluation",
    "fine_tune": "fine_tuning",
    "load_model": "models",
    "save_model": "models",
    "shipped_models": "models",
}

if TYPE_CHECKING:
    from .evaluation import evaluate
    from .fine_tuning import fine_tune
    from .models import Model, load_model, save_model, shipped_models
    from .msdnet import MSDNet
    from .unet import UNet


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names are {__all__}")
