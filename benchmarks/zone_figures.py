"""Pictures of the zone-axis score: calibration, and ratio and score against tilt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from .zone_tables import BINS

__all__ = ["calibration_curve", "tilt_curve"]


def calibration_curve(sets: dict[str, tuple[np.ndarray, np.ndarray]], errors: dict[str, float], path: Path) -> None:
    """Part of the particles that are within 2 degree against the score, with binomial errors, and histograms."""
    plt = _pyplot()
    figure, (top, low) = plt.subplots(2, 1, figsize=(5.2, 5.6), height_ratios=(3, 1), sharex=True,
                                      layout="constrained")
    top.plot([0, 1], [0, 1], color="0.7", lw=1)
    for label, (score, on) in sets.items():
        which = np.clip(np.digitize(score, BINS) - 1, 0, len(BINS) - 2)
        used = [b for b in np.unique(which) if (which == b).sum() >= 10]
        x = np.array([score[which == b].mean() for b in used])
        y = np.array([on[which == b].mean() for b in used])
        n = np.array([(which == b).sum() for b in used])
        top.errorbar(x, y, np.sqrt(np.maximum(y * (1 - y), 0.25 / n) / n), marker="o", ms=4, capsize=2,
                     label=f"{label} (error {errors[label]:.3f})")
        low.hist(score, bins=BINS, histtype="step")
    top.set(ylabel="particles within 2° of a zone axis", xlim=(0, 1), ylim=(0, 1))
    top.legend(fontsize=8)
    low.set(xlabel="zone_axis_score", ylabel="particles", yscale="log")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def tilt_curve(t: pd.DataFrame, path: Path) -> None:
    """Median and quartiles of ratio and score against the tilt, for doses apart; undefined ones are left out."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    edges = np.array([0, 1, 2, 3, 4, 5, 6, 8, 10, 12.0])
    middle = (edges[:-1] + edges[1:]) / 2
    for (low, high), colour in zip(((20, 100), (100, 400), (400, 5000)), ("C0", "C1", "C2"), strict=True):
        part = t[(t.dose >= low) & (t.dose < high)]
        which = np.digitize(part.tilt, edges) - 1
        by = [part[which == b] for b in range(len(middle))]
        label = f"{low} to {high} e/Å²"
        for axis, values in zip(axes, ([b.ratio_plain.dropna() for b in by], [b.score[b.score > 0] for b in by]),
                                strict=False):
            quartile = np.array([np.quantile(v, (0.25, 0.5, 0.75)) if len(v) > 3 else (np.nan,) * 3 for v in values])
            axis.plot(middle, quartile[:, 1], color=colour, marker="o", ms=3, label=label)
            axis.fill_between(middle, quartile[:, 0], quartile[:, 2], color=colour, alpha=0.15, lw=0)
        axes[2].plot(middle, [(b.score > 0).mean() if len(b) else np.nan for b in by], color=colour, marker="o", ms=3)
    axes[0].set(ylabel="peak ratio", yscale="log")
    axes[1].set(ylabel="zone_axis_score", ylim=(0, 1))
    axes[2].set(ylabel="two directions found", ylim=(0, 1))
    axes[0].legend(fontsize=8)
    for axis in axes:
        axis.axvline(2, color="0.7", lw=1)
        axis.set_xlabel("tilt from the nearest axis [°]")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
