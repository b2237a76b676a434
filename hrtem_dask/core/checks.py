"""Numbers given by a user, checked before they are used."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from .errors import InputError

__all__ = ["check_frames", "check_mtf", "check_number"]


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


def check_frames(what: str, frames: pd.Series) -> None:
    """Refuse a column of frames that are not all whole numbers.

    Raises
    ------
    InputError
        Which names the first of them.

    Examples
    --------
    >>> check_frames("the table", pd.Series([3.0, float("nan")]))
    Traceback (most recent call last):
    ...
    hrtem_dask.core.errors.InputError: the table has 1 row(s) whose frame is no whole number, the first is nan; \
expected the index of the frame in the movie
    """
    values = pd.to_numeric(frames, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = ~np.isfinite(values) | (values != np.floor(values))
    if bad.any():
        raise InputError(f"{what} has {int(bad.sum())} row(s) whose frame is no whole number, the first is "
                         f"{frames.iloc[int(bad.argmax())]!s}; expected the index of the frame in the movie")


def check_mtf(mtf: Any) -> None:
    """Refuse what is neither None nor a function.

    Raises
    ------
    InputError
        Which says what was found and what was expected.

    Examples
    --------
    >>> check_mtf(None)
    >>> check_mtf("camera.json")
    Traceback (most recent call last):
    ...
    hrtem_dask.core.errors.InputError: mtf is 'camera.json'; expected a function of the frequency in units of Nyquist, \
as fit_mtf(vacuum) or MTF.from_json(path) returns it, or None
    """
    if mtf is not None and not callable(mtf):
        raise InputError(f"mtf is {mtf!r}; expected a function of the frequency in units of Nyquist, as "
                         f"fit_mtf(vacuum) or MTF.from_json(path) returns it, or None")
