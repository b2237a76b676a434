"""Figure 2 of the report: a frame, and its inference scaled by how near each particle is to a zone axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

from ..analysis.ratio_map import WIDEST, peak_ratio_map
from ..core.calibration import make_movie
from .pictures import Encoded, Scene, draw_outlines, draw_scale_bar, encode, new_figure, shrink, stretch, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["figure_two"]


@styled
def figure_two(
    scene: Scene,
    *,
    crystal: Any = None,
    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
    window: float = 100.0,
    threshold: float = 0.5,
) -> Encoded:
    """Figure 2 of the abstract: frame, and inference scaled by the peak ratio, by window and by particle.

    Computes, for this frame, on the threads of this process.

    Parameters
    ----------
    scene : Scene
        One frame.
    crystal, mtf, window, threshold
        As for `hrtem_dask.peak_ratio_map`; a window of more than 2048 pixels is made smaller.

    Returns
    -------
    Encoded
        The picture.
    """
    from matplotlib.colors import PowerNorm

    movie = make_movie(np.asarray(scene.image)[None], pixel_size=scene.pixel_size)
    probability = movie.copy(data=np.asarray(scene.probability)[None])
    window = min(window, WIDEST * min(scene.pixel_size))
    options = {"crystal": crystal, "mtf": mtf, "threshold": threshold}
    with dask.config.set(scheduler="threads"):
        maps = dask.compute(*(peak_ratio_map(movie, probability, window=window, by=by, **options)
                              for by in ("window", "particle")))
    figure = new_figure(12.4, 12.4 / 3 * scene.image.shape[0] / scene.image.shape[1] + 0.25)
    axes = figure.subplots(1, 3)
    small, factor = shrink(scene.image)
    axes[0].imshow(stretch(small), cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
    draw_outlines(axes[0], scene.labels, factor, width=0.8)
    draw_scale_bar(axes[0], small.shape, scene.pixel_size[1] * factor, text=scene.label)
    axes[0].set_title("a  HRTEM frame")
    side = min(window, max(n * d for n, d in zip(scene.image.shape, scene.pixel_size, strict=True)))
    for ax, one, title in zip(axes[1:], maps, (f"b  inference × 1 / ratio, windows of {side / 10:.3g} nm",
                                               "c  the same, one ratio a particle"), strict=True):
        # most factors are small: on a linear scale a tilted particle is as dark as the film
        picture = ax.imshow(shrink(one.values[0])[0], cmap="viridis", norm=PowerNorm(0.5, 0, 1), interpolation="none")
        _bare(ax, title)
    bar = figure.colorbar(picture, ax=axes[2], fraction=0.046, pad=0.02, ticks=[0, 0.02, 0.1, 0.25, 0.5, 1],
                          format="{x:g}")
    bar.outline.set_visible(False)
    return encode(figure, photo=True, dpi=125)


def _bare(ax: Axes, title: str) -> None:
    ax.set(xticks=[], yticks=[], title=title)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
