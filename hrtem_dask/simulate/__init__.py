"""Simulated training sets and movies, with the truth beside them.

The names load on first use: reading a recipe needs neither abTEM nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Hopping", "Rock", "Wander", "dataset", "describe_recipe", "load_recipe", "movie", "open_dataset",
           "open_truth", "own_recipe", "true_columns", "true_events"]

#: public name -> module; no module bears the name of a function, which would hide it once imported
_WHERE = {"Hopping": "hopping", "Rock": "scenes", "Wander": "scenes", "dataset": "sets", "describe_recipe": "recipe",
          "load_recipe": "recipe", "movie": "movies", "open_dataset": "sets", "open_truth": "movie_store",
          "own_recipe": "own", "true_columns": "movie_store", "true_events": "hopping"}

if TYPE_CHECKING:
    from .hopping import Hopping, true_events
    from .movie_store import open_truth, true_columns
    from .movies import movie
    from .own import own_recipe
    from .recipe import describe_recipe, load_recipe
    from .scenes import Rock, Wander
    from .sets import dataset, open_dataset


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names are {__all__}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
