"""One self-contained HTML page a campaign, and the pictures in it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["write_report"]

if TYPE_CHECKING:
    from .build import write_report


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".build", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names are {__all__}")
