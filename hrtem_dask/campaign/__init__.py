"""Campaigns: units of work, the runner, the ledger; resumable, keyed by settings."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Campaign", "CampaignConfig", "load_campaign", "run_campaign"]

_WHERE = {"Campaign": "results", "CampaignConfig": "config", "load_campaign": "results", "run_campaign": "runner"}

if TYPE_CHECKING:
    from .config import CampaignConfig
    from .results import Campaign, load_campaign
    from .runner import run_campaign


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names are {__all__}")
