"""The detector that was really used: its MTF, from vacuum frames or the literature, and recording with it.

The names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["MTF", "fit_mtf", "record"]

#: public name -> module; no module bears the name of a function, which would hide it once imported
_WHERE = {"MTF": "mtf", "fit_mtf": "fitting", "record": "recording"}

if TYPE_CHECKING:
    from .fitting import fit_mtf
    from .mtf import MTF
    from .recording import record


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names are {__all__}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
