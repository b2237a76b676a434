"""Simulated training sets and movies, with the truth beside them.

The names load on first use: reading a recipe needs neither abTEM nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["dataset", "describe_recipe", "load_recipe", "movie", "open_dataset"]

#: public name -> module; no module bears the name of a function, which would hide it once imported
_WHERE = {"dataset": "sets", "describe_recipe": "recipe", "load_recipe": "recipe", "movie": "movies",
          "open_dataset": "sets"}

if TYPE_CHECKING:
    from .movies import movie
    from .recipe import describe_recipe, load_recipe
    from .sets import dataset, open_dataset


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names are {__all__}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
