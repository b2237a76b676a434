"""Pictures of `benchmarks.low_dose`: Dice against the dose, and the worst scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .low_dose_tables import HEADLINE, REFOCUS

#: goals of the mean Dice on such scenes: dose -> Dice
GOALS = {20: 0.70, 50: 0.85, 200: 0.94}
WORST = 4  # scenes a dose


def draw_dice(reports: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw mean Dice with its interval, and F1, against the dose."""
    plt = _pyplot()
    fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharex=True, sharey=True, constrained_layout=True)
    for k, (who, found) in enumerate(reports.items()):
        dose = np.array([float(d) for d in found["dose"]])
        for ax, key, bounds in ((axes[0], "mean", "interval"), (axes[1], "f1", "f1_interval")):
            rows = list(found["dose"].values())
            middle, low, high = ([r[key] for r in rows], [r[bounds][0] for r in rows], [r[bounds][1] for r in rows])
            ax.plot(dose, middle, "o-", color=f"C{k}", label=who)
            ax.fill_between(dose, low, high, color=f"C{k}", alpha=0.2, lw=0)
            for r in REFOCUS:
                other = found["refocus"][f"{r:g}"]
                ax.plot([float(d) for d in other], [row[key] for row in other.values()], ":", color=f"C{k}", lw=1)
    axes[0].plot(list(GOALS), list(GOALS.values()), "kx", label="goal")
    for ax, title in zip(axes, ("Dice", "F1 of objects"), strict=True):
        ax.set(xscale="log", ylim=(0, 1), xlabel="dose [e/Å²]", title=title)
        ax.grid(alpha=0.3)
    axes[0].legend()
    fig.suptitle("bands: 95 % over fields; dotted: 50 Å more and less defocus", fontsize=9)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def draw_worst(model: Any, scores: Sequence[Any], data: Sequence[Any], path: Path) -> None:
    """Draw the worst scenes of a network at the headline doses: truth red, network cyan."""
    from hrtem_dask.kernels.resample import resample
    from hrtem_dask.networks.scoring import draw_scenes, predictor

    plt = _pyplot()
    predict = predictor(model.module(), float(np.max(model.card["pixel_size"])))
    fig, axes = plt.subplots(len(HEADLINE), WORST, figsize=(3.4 * WORST, 3.6 * len(HEADLINE)), squeeze=False,
                             constrained_layout=True)
    sets = {d.seed: d for d in data}
    for row, dose in zip(axes, HEADLINE, strict=True):
        mine = [s for s in scores if s.condition.dose == dose and s.condition.pixel_size is None
                and s.condition.refocus == 0 and s.agreement is not None]
        for ax in row:
            ax.axis("off")
        for ax, s in zip(row, sorted(mine, key=lambda s: s.agreement.dice)[:WORST], strict=False):
            scene = next(draw_scenes(sets[s.set_seed], s.field, s.seed, [s.condition]))
            found = predict(scene.frame.counts, scene.frame.pixel_size)
            p = scene.frame.pixel_size
            image = resample(scene.frame.counts, p, 0.8)
            extent = (0, scene.frame.counts.shape[1] * p, scene.frame.counts.shape[0] * p, 0)
            low, high = np.percentile(image, (0.5, 99.5))
            ax.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent)
            where = (np.arange(scene.truth.shape[1]) + 0.5) * p, (np.arange(scene.truth.shape[0]) + 0.5) * p
            ax.contour(*where, scene.truth, [0.5], colors="r", linewidths=0.8)
            if found.max() > 0.5 > found.min():
                ax.contour(*where, found, [0.5], colors="c", linewidths=0.8)
            o = s.optics
            ax.set_title(f"Dice {s.agreement.dice:.2f}, {dose} e/Å², defocus {o['defocus']:.0f} Å\n"
                         f"Cs {o['cs'] * 1e-7:.2f} mm, aperture {o['aperture']:.2g}, seed {s.set_seed}, "
                         f"field {s.field}", fontsize=7)
    fig.savefig(path, dpi=75)
    plt.close(fig)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
