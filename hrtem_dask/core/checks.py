"""Numbers given by a user, checked before they are used."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np

from .errors import InputError

__all__ = ["check_number"]


def check_number(name: str, value: Any, units: str = "", *, least: float = -np.inf, above: float = -np.inf,
                 whole: bool = False) -> None:
    """Refuse what is no finite number, or no whole one, or too small.

    Raises
    ------
    InputError
        Which says what was found and what was expected.

    Examples
    --------
    >>> check_number("turn", 4.0, "degree", least=0)
    >>> check_number("turn", -1, "degree", least=0)
    Traceback (most recent call last):
    ...
    hrtem_dask.core.errors.InputError: turn is -1; expected a finite number of at least 0 [degree]
    """
    kind = Integral if whole else Real
    real = isinstance(value, kind) and not isinstance(value, bool | np.bool_) and np.isfinite(value)
    if real and value >= least and value > above:
        return
    what = "a whole number" if whole else "a finite number"
    limit = f" of at least {least:g}" if np.isfinite(least) else f" above {above:g}" if np.isfinite(above) else ""
    raise InputError(f"{name} is {value!r}; expected {what}{limit}" + (f" [{units}]" if units else ""))
