"""What `count_diffusion` found, and how it says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..kernels.dwell import Dispersion
from ..kernels.self_check import SelfCheck

__all__ = ["Diffusion", "HopRate"]


@dataclass(frozen=True)
class HopRate:
    """Hops of a column to a neighbouring site, and the diffusion coefficient that they are worth.

    Attributes
    ----------
    hops : int
        Hops of the most probable path.
    by_chance : float
        Of these, how many a column that vanishes and another that appears next to it make by chance.
    rate, low, high : float
        Hops of a column that can hop, corrected like all events, with the interval at 95 % [1/second].
    length : float
        Root mean square length of a hop [angstrom]; nan without a hop.
    coefficient, coefficient_low, coefficient_high : float
        D = rate * length^2 / 4 [cm^2/s].
    """

    hops: int
    by_chance: float
    rate: float
    low: float
    high: float
    length: float

    @property
    def coefficient(self) -> float:
        """D [cm^2/s]."""
        return self.rate * self.length**2 / 4 * 1e-16

    @property
    def coefficient_low(self) -> float:
        """Lower end of its interval [cm^2/s]."""
        return self.low * self.length**2 / 4 * 1e-16

    @property
    def coefficient_high(self) -> float:
        """Upper end of its interval [cm^2/s]."""
        return self.high * self.length**2 / 4 * 1e-16


@dataclass(frozen=True, repr=False)
class Diffusion:
    """Diffusion events of a movie and their rate; ``print`` it to read them in words.

    Attributes
    ----------
    events : pandas.DataFrame
        `core.schema.EVENTS`: transitions of the most probable path. Lower bounds, since a column holds several
        atoms and one of them that leaves need not be seen.
    rate : pandas.DataFrame
        `core.schema.RATE`, a row for each part of the time.
    sites : pandas.DataFrame
        `core.schema.DIFFUSION_SITES`, a row a site, with what was known of it before.
    occupancy : xarray.DataArray
        Probability (frame, site) that a site is occupied, float32; nan in frames that were not used and outside the
        epoch of the site. Coordinates ``time``, ``y``, ``x``.
    seen : xarray.DataArray
        What was seen (frame, site), int8: 1 a column, 0 none, -1 unknown.
    overall : pandas.Series
        ``events, exposure, rate_raw, rate, low, high, limit`` of the whole movie; ``low_sites, high_sites``: interval
        by drawing whole sites; ``events_worth, exposure_worth``: surely seen events, and site-seconds, that would
        say as much (for `fit_dose_rate`).
    frames : pandas.DataFrame
        ``frame, time, epoch, status`` of every frame: used, left out, no columns, not registered or unreadable.
    dwell : pandas.DataFrame
        `core.schema.DWELL`: how long sites stay occupied and empty.
    dwell_rates : dict
        ``occupied`` and ``empty``: rate of leaving that state [1/second] with its interval, as of exponential dwells.
    hopping : HopRate
        Hops and what they say of diffusion.
    between_sites, in_time : Dispersion
        Whether events scatter among sites, and among equal parts of the time, as chance alone makes them.
    check : SelfCheck
        What counting on the most probable path makes of simulated sites that are read as these are.
    definition : str
        Which sites count as sites that can change.
    reason : str or None
        Why nothing was counted; the tables then are empty.
    attrs : dict
        Provenance.
    """

    events: pd.DataFrame
    rate: pd.DataFrame
    sites: pd.DataFrame
    occupancy: xr.DataArray
    seen: xr.DataArray
    overall: pd.Series
    frames: pd.DataFrame
    dwell: pd.DataFrame
    dwell_rates: dict[str, tuple[float, float, float]]
    hopping: HopRate
    between_sites: Dispersion
    in_time: Dispersion
    check: SelfCheck
    definition: str
    reason: str | None = None
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """All of it in words."""
        if self.reason is not None:
            return f"Nothing was counted: {self.reason}. This is not a rate of zero."
        lines = [self._looked(), self.definition, self._events(), self._rate(), self._detection(), self._scatter()]
        if self.hopping.hops:
            lines.append(self._hops())
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary

    def __repr__(self) -> str:
        what = self.reason or f"{len(self.events)} events of {int(self.sites['changes'].sum())} sites that can change"
        return f"<Diffusion: {what}>"

    def _looked(self) -> str:
        counts = self.frames["status"].value_counts()
        others = ", ".join(f"{n} {name}" for name, n in counts.items() if n and name != "used")
        epochs = self.frames.loc[self.frames["status"] == "used", "epoch"].nunique()
        others = f" ({others})" if others else ""
        return (f"{int(counts.get('used', 0))} of {len(self.frames)} frames are used{others}"
                f", {epochs} epoch{'s' if epochs != 1 else ''}, {len(self.sites)} sites.")

    def _events(self) -> str:
        count = self.events["kind"].value_counts()
        what = ", ".join(f"{int(count.get(k, 0))} {k}" for k in ("appear", "disappear", "hop"))
        return (f"Events: at least {len(self.events)} ({what}) in {self.overall['exposure']:.4g} site-seconds. Lower "
                f"bounds: a column holds several atoms.")

    def _rate(self) -> str:
        o = self.overall
        flips = self.rate["flips"].sum() / o["exposure"] if o["exposure"] else np.nan
        raw = f"uncorrected: {o['rate_raw']:.3g} on the most probable path, {flips:.3g} from look to look"
        if o["limit"]:
            return f"Rate: no event is sure; below {o['high']:.3g} events a site-second (95 %). {raw}."
        return (f"Rate, corrected for detection: {o['rate']:.3g} events a site-second (95 %: {o['low']:.3g} to "
                f"{o['high']:.3g}); {raw}.")

    def _detection(self) -> str:
        mine = self.sites[self.sites["changes"]]
        tpr, fpr = mine["tpr"].mean(), mine["fpr"].mean()
        text = f"A column there is seen in {tpr:.1%} of the frames, one that is not in {fpr:.2%}."
        if np.isfinite(self.check.false_rate):
            text += (f" Simulated sites read like these: {self.check.efficiency:.0%} of the changes are found, "
                     f"{self.check.precision:.0%} of those found are true, and frozen sites show "
                     f"{self.check.false_rate:.2g} a site-second.")
        return text

    def _scatter(self) -> str:
        out = []
        for name, d in (("among sites", self.between_sites), ("in time", self.in_time)):
            if np.isfinite(d.ratio):
                out.append(f"{name} {d.ratio:.2g}" + (" (more than chance)" if d.p_value < 0.01 else ""))
        if not out:
            return "Variance over mean of the counts: unknown, too few events."
        text = f"Variance over mean of the counts: {', '.join(out)}."
        if self.between_sites.p_value < 0.01:
            text += (f" Sites differ: for sites in general the interval is {self.overall['low_sites']:.3g} to "
                     f"{self.overall['high_sites']:.3g}.")
        if self.in_time.p_value < 0.01:
            text += " The rate changes with time, or events come in bursts: look at .rate."
        return text

    def _hops(self) -> str:
        h = self.hopping
        return (f"Hops: {h.hops}, of which {h.by_chance:.2g} are expected by chance; {h.rate:.3g} a second for a "
                f"column at the edge (95 %: {h.low:.3g} to {h.high:.3g}), D = {h.coefficient:.2g} cm^2/s "
                f"({h.coefficient_low:.2g} to {h.coefficient_high:.2g}).")
