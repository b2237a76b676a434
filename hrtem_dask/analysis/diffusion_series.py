"""Rates of several particles together, and rates against the dose rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..core.checks import check_number
from ..core.errors import InputError
from ..kernels.dwell import Dispersion, RateLaw, bootstrap_rate, dispersion, dose_rate_law
from ..kernels.event_rates import exact_interval
from .diffusion_result import Diffusion

__all__ = ["PooledRate", "fit_dose_rate", "pool_diffusion"]

NEEDED = ("events_worth", "exposure_worth")


class PooledRate(NamedTuple):
    """Rate of several particles.

    Attributes
    ----------
    rate, low, high : float
        Events a site-second, with the interval at 95 %: that of counts, or, where particles differ by more than chance
        makes them, that of drawing whole particles.
    particles : pandas.DataFrame
        A row a particle: ``rate, low, high, limit, events_worth, exposure_worth``.
    dispersion : Dispersion
        Variance over mean of the counts among particles.
    overdispersed : bool
        Whether whole particles were drawn.
    """

    rate: float
    low: float
    high: float
    particles: pd.DataFrame
    dispersion: Dispersion
    overdispersed: bool


def pool_diffusion(results: Sequence[Diffusion]) -> PooledRate:
    """Put the rates of several particles together.

    Parameters
    ----------
    results : sequence of Diffusion
        From `count_diffusion`, one a particle; those that could count nothing are left out.

    Returns
    -------
    PooledRate

    Raises
    ------
    InputError
        If there is none that could count.

    Notes
    -----
    Each particle counts with the number of surely seen events and the exposure that its likelihood is worth. The
    interval of counts (Garwood) holds where all particles have one rate. Where variance over mean exceeds 1 by more
    than chance (5 %), events are not independent or rates differ, and the wider of that and the bootstrap over
    particles is given.

    Examples
    --------
    >>> import hrtem_dask
    >>> pooled = hrtem_dask.pool_diffusion([first, second, third])  # doctest: +SKIP
    """
    table = _worth(results)
    events, exposure = table["events_worth"].to_numpy(), table["exposure_worth"].to_numpy()
    rate = events.sum() / exposure.sum()
    low, high = (float(v) for v in exact_interval(events.sum(), exposure.sum()))
    scatter = dispersion(events, exposure)
    over = bool(scatter.ratio > 1 and scatter.p_value < 0.05)
    if over:
        wide = bootstrap_rate(events, exposure)
        low, high = min(low, wide[0]), max(high, wide[1])
    return PooledRate(float(rate), low, high, table, scatter, over)


def fit_dose_rate(results: Sequence[Diffusion] | pd.DataFrame, dose_rate: Sequence[float] | None = None) -> RateLaw:
    """Fit ``rate = thermal + slope * dose_rate`` to several movies, to see whether the beam drives the events.

    Parameters
    ----------
    results : sequence of Diffusion, or DataFrame
        One a movie; or a table with ``events``, ``exposure`` [site-seconds] and ``dose_rate``.
    dose_rate : sequence of float
        Of each movie [e/angstrom^2/s].

    Returns
    -------
    RateLaw
        ``thermal``, ``slope`` (both at least 0) with their intervals, ``p_value`` of the slope, ``dispersion``.

    Raises
    ------
    InputError
        If there are not two different dose rates: one alone cannot tell the beam from the temperature.

    Notes
    -----
    Weighted regression of Poisson counts, by maximum likelihood; intervals where the profile of the likelihood falls
    off by 1.92, times variance over mean about the line where that is above 1.

    Examples
    --------
    >>> table = pd.DataFrame({"events": [30, 52, 110], "exposure": 100.0, "dose_rate": [100.0, 200, 500]})
    >>> law = fit_dose_rate(table)
    >>> round(law.slope, 4), law.slope_low > 0, law.p_value < 1e-6
    (0.002, True, True)
    """
    if isinstance(results, pd.DataFrame):
        missing = [c for c in ("events", "exposure", "dose_rate") if c not in results]
        if missing:
            raise InputError(f"the table lacks {missing}; expected events, exposure [site-seconds] and dose_rate "
                             f"[e/angstrom^2/s], a row a movie")
        events, exposure, dose = (results[c].to_numpy(np.float64) for c in ("events", "exposure", "dose_rate"))
    else:
        if dose_rate is None or len(dose_rate) != len(results):
            found = "none" if dose_rate is None else len(dose_rate)
            raise InputError(f"there are {len(results)} results and {found} dose rates; expected one for each: "
                             f"fit_dose_rate(results, [200, 400, 800])")
        counted = [i for i, r in enumerate(results) if r.reason is None]
        table = _worth(results)
        events, exposure = (table[c].to_numpy(np.float64) for c in NEEDED)
        dose = np.asarray(dose_rate, np.float64)[counted]
    for value in dose:
        check_number("dose_rate", float(value), "e/angstrom^2/s", least=0)
    if len(np.unique(dose)) < 2:
        raise InputError(f"the dose rates are {dose.tolist()}; expected at least two different ones, since one alone "
                         f"cannot tell what the beam does from what happens without it")
    if not (np.isfinite(events).all() and (exposure > 0).all() and (events >= 0).all()):
        raise InputError("events or exposure are no numbers, or below 0; expected counts and site-seconds")
    return dose_rate_law(events, exposure, dose)


def _worth(results: Any) -> pd.DataFrame:
    """What each result that could count is worth."""
    good = [r for r in results if isinstance(r, Diffusion) and r.reason is None]
    if not good:
        why = "; ".join(str(getattr(r, "reason", type(r).__name__)) for r in results) or "the list is empty"
        raise InputError(f"none of {len(results)} results has a rate: {why}. Expected results of count_diffusion")
    names = ["rate", "low", "high", "limit", *NEEDED]
    return pd.DataFrame([r.overall[names] for r in good]).reset_index(drop=True).astype(
        {n: "bool" if n == "limit" else "float64" for n in names})
