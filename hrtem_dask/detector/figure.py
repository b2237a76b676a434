"""Picture of an MTF and of the noise it was fitted to."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .mtf import MTF

__all__ = ["draw_mtf"]

BLUE, RED, GREY = "#0072B2", "#D55E00", "#6b7280"
#: deviations on either side that hold 95 %
BAND = 1.96
#: size of the notes [point], their letters an inch, and height of a line [inch]
SMALL, LETTERS, LINE = 6.5, 20, 0.12


def draw_mtf(mtf: MTF, k_max: float) -> Figure:
    """Draw the MTF, and beside it the noise power with the fit where there are data."""
    from matplotlib.figure import Figure

    spectrum = mtf.spectrum
    width = 10.0 if spectrum else 5.5
    notes = [line for note in mtf.notes for line in wrap(note, int(width * LETTERS), initial_indent="– ",
                                                         subsequent_indent="   ")]
    figure = Figure(figsize=(width, 4.2 + LINE * len(notes)), layout="constrained")
    axes = figure.subplots(1, 2 if spectrum else 1, squeeze=False)[0]
    _curve(axes[0], mtf, k_max)
    if spectrum:
        _power(axes[1], mtf)
    for ax in axes:
        ax.set_xlabel("frequency (Nyquist)")
        ax.set_xlim(0, k_max)
        ax.axvline(1, color=GREY, lw=0.7, ls=":")
        ax.grid(color="#e5e7eb", lw=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    if notes:
        figure.supxlabel("\n".join(notes), x=0.02, ha="left", fontsize=SMALL, color=GREY)
    return figure


def _curve(ax: Axes, mtf: MTF, k_max: float) -> None:
    k = np.linspace(0, k_max, 400)
    value, error = mtf(k), mtf.error(k)
    if mtf.spectrum:
        s = mtf.spectrum
        at, power, sigma = (np.asarray(v) for v in (s.k, s.power, s.error))
        read = np.asarray(s.model) - s.amplitude * mtf(at) ** 2
        squared = (power - read) / s.amplitude
        root = np.sqrt(np.maximum(squared, 0))
        # where the power is below that of the read-out the root is 0, and its error that of the square's root
        bars = sigma / s.amplitude / (2 * np.maximum(root, np.sqrt(sigma / s.amplitude) / 2))
        ax.errorbar(at, root, bars, fmt="o", ms=2, lw=0.6, color=GREY, alpha=0.7, label="data", zorder=1)
    if np.isfinite(error).all():
        ax.fill_between(k, value - BAND * error, value + BAND * error, color=BLUE, alpha=0.25, lw=0, label="95 % band")
    ax.plot(k, value, color=BLUE, lw=1.5, label="table" if mtf.table else "MTF", zorder=3)
    ax.set_ylim(0, max(1.1, float(value.max()) * 1.05))
    ax.set_ylabel("amplitude MTF")


def _power(ax: Axes, mtf: MTF) -> None:
    s = mtf.spectrum
    assert s is not None
    at = np.asarray(s.k)
    ax.errorbar(at, s.power, s.error, fmt="o", ms=2, lw=0.6, color=GREY, alpha=0.7, label="noise power", zorder=1)
    ax.plot(at, s.model, color=RED, lw=1.5, label=f"fit, {s.fitted[0]:.2f} to {s.fitted[1]:.2f}", zorder=3)
    if s.read > 0:
        ax.plot(at, np.asarray(s.model) - s.amplitude * mtf(at) ** 2, color=RED, lw=1, ls="--", label="read-out noise")
    low = min(v for v in s.power if v > 0)
    ax.set_yscale("log")
    ax.set_ylim(low * 0.5, 2 * max(max(s.power), max(s.model)))
    ax.set_ylabel("noise power (counts$^2$)")
