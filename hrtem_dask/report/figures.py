"""The figures of the report, each a function from data to one encoded picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..analysis.fourier import fourier_peak_pairs, peak_ratio
from ..kernels.crop import masked_crop
from ..kernels.spectrum import Spectrum, display, image_spectrum, power_spectrum
from .pictures import (
    COLOURS,
    Encoded,
    Scene,
    draw_outlines,
    draw_scale_bar,
    encode,
    new_figure,
    shrink,
    stretch,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["certainty_figure", "compared", "counts_figure", "four_panels", "overlays", "ratio_figure", "sizes_figure"]

#: highest frequency shown [1/angstrom]; the gold 220 pairs at 0.69 are still inside
K_MAX = 0.85
#: shortest side of a frame whose spectrum is worth a picture [pixel]
SMALLEST = 16


@styled
def four_panels(scene: Scene, particle: int | None, *, crystal: Any = None,
                mtf: Any = None) -> tuple[Encoded, pd.DataFrame]:
    """Figure 1 of the abstract: frame, inference, Fourier domain of the frame and of the masked crop.

    Parameters
    ----------
    scene : Scene
        One frame.
    particle : int, optional
        Label of the particle that is cropped out; None where the frame has none.
    crystal, mtf
        As for `fourier_peak_pairs`.

    Returns
    -------
    (Encoded, pandas.DataFrame)
        The picture, and the peak pairs that are circled in it.
    """
    figure = new_figure(12.4, 3.45)
    axes = figure.subplots(1, 4)
    k_max = min(K_MAX, 0.5 / max(scene.pixel_size))
    _frame_panel(axes[0], scene, particle)
    image = axes[1].imshow(shrink(scene.probability)[0], cmap="viridis", vmin=0, vmax=1, interpolation="none")
    bar = figure.colorbar(image, ax=axes[1], fraction=0.046, pad=0.02, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    _bare(axes[1], "b  network inference")
    if min(scene.image.shape) < SMALLEST:
        _note(axes[2], "the frame is too small\nfor a spectrum", "c  Fourier domain of a")
        _note(axes[3], "the frame is too small\nfor a spectrum", "d  Fourier domain of the crop")
        return encode(figure, photo=True, dpi=125), pd.DataFrame()
    _spectrum_panel(axes[2], image_spectrum(scene.image, scene.pixel_size), k_max, "c  Fourier domain of a")
    pairs = pd.DataFrame()
    if particle is None:
        _note(axes[3], "no particle\nin this frame", "d  Fourier domain of the crop")
    else:
        mask = scene.labels == particle
        pairs = fourier_peak_pairs(scene.image, mask, pixel_size=scene.pixel_size, crystal=crystal, mtf=mtf)
        crop = masked_crop(scene.image, mask, scene.pixel_size)
        _spectrum_panel(axes[3], power_spectrum(crop), k_max, "d  Fourier domain of the crop")
        _circle(axes[3], pairs)
    return encode(figure, photo=True, dpi=125), pairs


def _frame_panel(ax: Axes, scene: Scene, particle: int | None) -> None:
    small, factor = shrink(scene.image)
    ax.imshow(stretch(small), cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
    if particle is not None:
        draw_outlines(ax, np.where(scene.labels == particle, 1, 0), factor)
    draw_scale_bar(ax, small.shape, scene.pixel_size[1] * factor, text=scene.label)
    ax.set_title("a  HRTEM frame")


def _bare(ax: Axes, title: str) -> None:
    ax.set(xticks=[], yticks=[], title=title)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _note(ax: Axes, text: str, title: str) -> None:
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color=COLOURS["grey"])
    _bare(ax, title)


def _spectrum_panel(ax: Axes, spectrum: Spectrum, k_max: float, title: str) -> None:
    shown, cut = display(spectrum, k_max=k_max)
    low, high = np.percentile(shown, [35, 99.97])
    ax.imshow(shown, extent=cut.extent, cmap="magma", vmin=low, vmax=max(high, low + 1e-6), interpolation="antialiased",
              aspect="equal")
    ax.set_title(title)
    ax.set(xlim=(-k_max, k_max), ylim=(k_max, -k_max), yticks=[], xticks=[-0.5, 0, 0.5],
           xlabel="spatial frequency (1/Å)")
    ax.grid(visible=False)
    ax.tick_params(length=2, labelsize=8)


def _circle(ax: Axes, pairs: pd.DataFrame) -> None:
    for row in pairs.itertuples():
        for sign in (1, -1):
            ax.plot(sign * row.g_x, sign * row.g_y, "o", ms=11, mfc="none", mew=1.3 if row.detected else 1.0,
                    mec="white" if row.detected else COLOURS["sky"], ls="none")
    ratio = peak_ratio(pairs) if len(pairs) else float("nan")
    detected = int(pairs.detected.sum()) if len(pairs) else 0
    text = f"{detected} pair{'' if detected == 1 else 's'}"
    text += "" if np.isnan(ratio) else f" · peak ratio {ratio:.2g}"
    ax.text(0.03, 0.97, text, color="white", fontsize=8, va="top", transform=ax.transAxes,
            bbox={"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 2.2})


@styled
def overlays(scenes: Sequence[Scene], notes: Sequence[str] | None = None, *, columns: int = 4) -> Encoded:
    """Frames with the outlines of their particles, a scale bar, and number and time of the frame."""
    rows = -(-len(scenes) // columns)
    shape = scenes[0].image.shape
    edge = 12.4 / columns
    across = min(columns, len(scenes))
    figure = new_figure(edge * across, rows * (edge * shape[0] / shape[1] + (0.22 if notes else 0)))
    axes = np.atleast_1d(figure.subplots(rows, across)).ravel()
    for i, ax in enumerate(axes):
        if i >= len(scenes):
            ax.set_visible(False)
            continue
        small, factor = shrink(scenes[i].image, 640)
        ax.imshow(stretch(small), cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
        draw_outlines(ax, scenes[i].labels, factor)
        draw_scale_bar(ax, small.shape, scenes[i].pixel_size[1] * factor, text=scenes[i].label)
        if notes:
            ax.set_title(notes[i], fontsize=8.5, fontweight="normal")
    return encode(figure, photo=True, dpi=110)


def _over(frames: pd.DataFrame) -> tuple[str, str]:
    """What the horizontal axis is: time where every frame has one, else the number of the frame."""
    return ("time", "time (s)") if len(frames) and frames.time.notna().all() else ("frame", "frame")


def _whole_frames(ax: Axes, column: str) -> None:
    if column == "frame":
        ax.xaxis.get_major_locator().set_params(integer=True)


def _marker(n: int) -> dict[str, Any]:
    return {"marker": "o", "ms": 4 if n < 80 else 2, "lw": 1.2}


@styled
def counts_figure(frames: pd.DataFrame) -> Encoded:
    """Particles in each frame, and the fraction of the frame they cover, over time."""
    column, label = _over(frames)
    done = frames[frames.status == "done"]
    figure = new_figure(6.1, 3.1)
    ax = figure.subplots()
    ax.plot(done[column], done.n_particles, color=COLOURS["blue"], **_marker(len(done)))
    most = done.n_particles.max() if len(done) else 1
    ax.set(xlabel=label, ylabel="particles in the frame", ylim=(0, max(1, most) * 1.15))
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.yaxis.label.set_color(COLOURS["blue"])
    _whole_frames(ax, column)
    other = ax.twinx()
    other.plot(done[column], 100 * done.covered, color=COLOURS["orange"], ls="--", lw=1.2)
    other.set_ylabel("covered by particles (%)", color="#9a6700")
    other.set_ylim(0, max(1.0, 115 * done.covered.max() if len(done) else 1.0))
    other.grid(visible=False)
    failed = frames[frames.status == "failed"]
    ax.plot(failed[column], np.zeros(len(failed)), "x", color=COLOURS["red"], label="failed", clip_on=False)
    if len(failed):
        ax.legend()
    return encode(figure)


@styled
def sizes_figure(particles: pd.DataFrame) -> Encoded:
    """Distribution of the diameters; particles cut by the border are shown apart."""
    figure = new_figure(6.1, 3.1)
    ax = figure.subplots()
    border = particles.touches_border.to_numpy(bool)
    diameters = particles.diameter.to_numpy() / 10
    if len(diameters):
        edges = np.histogram_bin_edges(diameters, bins=min(30, max(6, int(2 * np.sqrt(len(diameters))))))
        ax.hist([diameters[~border], diameters[border]], edges, stacked=True, color=[COLOURS["blue"], "#a8c8dd"],
                label=["whole", "cut by the border"], edgecolor="white", linewidth=0.5)
        ax.legend()
        ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="diameter of the disc of equal area (nm)", ylabel="particles")
    return encode(figure)


def compared(particles: pd.DataFrame) -> pd.DataFrame:
    """Particles whose peak ratio compares two pairs: exactly 1 is one pair alone in the first shell."""
    return particles[particles.peak_ratio > 1]


@styled
def ratio_figure(particles: pd.DataFrame, frames: pd.DataFrame) -> Encoded:
    """Peak ratio of every particle over time, and the median; particles without a lattice below."""
    column, label = _over(frames)
    figure = new_figure(6.1, 3.1)
    ax, low = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1.15])
    seen = compared(particles)
    size = 14 if len(seen) < 500 else 4
    ax.scatter(seen[column], seen.peak_ratio, s=size, color=COLOURS["blue"], alpha=0.55, lw=0, label="particle")
    if len(seen):
        median = seen.groupby(column).peak_ratio.median()
        ax.plot(median.index, median.to_numpy(), color=COLOURS["red"], lw=1.2, label="median of the frame")
        ax.legend(fontsize=8)
    else:
        ax.text(0.5, 0.5, "no particle shows two spot pairs", ha="center", va="center", transform=ax.transAxes,
                color=COLOURS["grey"])
    top = max(5.0, 1.3 * (seen.peak_ratio.max() if len(seen) else 1))
    ticks = [t for t in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if t <= top]
    ax.set(yscale="log", ylabel="peak ratio", ylim=(0.9, top))
    ax.set_yticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    share = particles.peak_ratio.notna().groupby(particles[column]).mean()
    low.plot(share.index, 100 * share.to_numpy(), color=COLOURS["green"], **_marker(len(share)))
    _whole_frames(low, column)
    low.set(xlabel=label, ylabel="with\nlattice (%)", ylim=(-5, 108), yticks=[0, 50, 100])
    return encode(figure)


@styled
def certainty_figure(frames: pd.DataFrame, truth: pd.DataFrame | None = None) -> Encoded:
    """Certainty of the network in every frame, and Dice against the truth where the movie is simulated."""
    column, label = _over(frames)
    done = frames[frames.status == "done"]
    figure = new_figure(6.1, 3.1)
    ax = figure.subplots()
    ax.plot(done[column], done.certainty, color=COLOURS["blue"], label="certainty", **_marker(len(done)))
    low = done.certainty.min() if len(done) else 0.0
    if truth is not None:
        both = frames.merge(truth, on="frame")
        ax.plot(both[column], both.dice, color=COLOURS["red"], ls="--", label="Dice against the truth",
                **_marker(len(both)))
        low = min(low, truth.dice.min())
    ax.legend(loc="lower right")
    _whole_frames(ax, column)
    ax.set(xlabel=label, ylabel="certainty, Dice" if truth is not None else "certainty",
           ylim=(max(0.0, min(0.8, low - 0.1)), 1.01))
    return encode(figure)
