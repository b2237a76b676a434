"""One self-contained HTML page a campaign, and the pictures in it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["figure_one", "write_report"]

_WHERE = {"figure_one": "lazy", "write_report": "build"}

if TYPE_CHECKING:
    from .build import write_report
    from .lazy import figure_one


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names are {__all__}")
