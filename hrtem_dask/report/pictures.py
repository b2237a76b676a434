"""Pieces that every picture shares: contrast, outlines, scale bars, encoding. No global state."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "Encoded", "Scene", "draw_outlines", "draw_scale_bar", "encode", "new_figure", "outlines",
           "scale_bar_length", "shrink", "stretch", "styled"]

P = ParamSpec("P")
R = TypeVar("R")

#: of Okabe and Ito, told apart with any colour vision
COLOURS = {"blue": "#0072B2", "orange": "#E69F00", "red": "#D55E00", "green": "#009E73", "sky": "#56B4E9",
           "grey": "#6b7280"}
#: longest side of a frame in a picture [pixel]
SIDE = 900
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9.5,
         "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelcolor": "#374151",
         "xtick.color": "#374151", "ytick.color": "#374151", "axes.edgecolor": "#9ca3af", "axes.grid": True,
         "grid.color": "#e5e7eb", "grid.linewidth": 0.7, "axes.axisbelow": True, "legend.frameon": False}


@dataclass(frozen=True)
class Scene:
    """One frame as pictures need it.

    Parameters
    ----------
    frame : int
        Number of the frame.
    time : float
        Its time [second]; nan where unknown.
    image, probability, labels : ndarray, shape (y, x)
        Counts, probability of a particle, labels.
    pixel_size : (float, float)
        Pixel size (y, x) [angstrom].
    """

    frame: int
    time: float
    image: np.ndarray
    probability: np.ndarray
    labels: np.ndarray
    pixel_size: tuple[float, float]

    @property
    def label(self) -> str:
        """What stands on the picture of this frame."""
        return f"frame {self.frame}" + ("" if np.isnan(self.time) else f" · {self.time:.4g} s")


@dataclass(frozen=True)
class Encoded:
    """A picture as the page holds it: data URI and size [pixel]."""

    uri: str
    width: int
    height: int

    def _repr_html_(self) -> str:
        """Show the picture in a notebook."""
        return f'<img src="{self.uri}" style="max-width:100%" alt="figure">'


def new_figure(width: float, height: float) -> Figure:
    """Return a figure with its own Agg canvas, width and height in inch; pyplot is never touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.07, w_pad=0.05)
    FigureCanvasAgg(figure)
    return figure


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw under the style of the report; the settings of the process are as before afterwards."""
    @functools.wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inner


def encode(figure: Figure, *, dpi: int = 130, photo: bool = False) -> Encoded:
    """Encode a figure as a data URI: JPEG for micrographs, PNG for lines."""
    buffer = io.BytesIO()
    kind = "jpeg" if photo else "png"
    figure.savefig(buffer, format=kind, dpi=dpi, **({"pil_kwargs": {"quality": 86}} if photo else {}))
    width, height = (round(v * dpi) for v in figure.get_size_inches())
    return Encoded(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", width, height)


def shrink(image: np.ndarray, side: int = SIDE) -> tuple[np.ndarray, int]:
    """Average blocks of pixels until the longest side fits; return the image and the factor.

    Examples
    --------
    >>> shrink(np.ones((2000, 1000)), 900)[0].shape
    (667, 334)
    """
    factor = -(-max(image.shape) // side)
    if factor <= 1:
        return image, 1
    ny, nx = (-(-n // factor) * factor for n in image.shape)
    padded = np.pad(image.astype(np.float32), ((0, ny - image.shape[0]), (0, nx - image.shape[1])), mode="edge")
    return padded.reshape(ny // factor, factor, nx // factor, factor).mean((1, 3)), factor


def stretch(image: np.ndarray, low: float = 0.5, high: float = 99.5) -> np.ndarray:
    """Map the percentiles of an image to 0 ... 1; scale and offset of the counts drop out."""
    finite = image[np.isfinite(image)]
    if finite.size == 0:
        return np.zeros(image.shape, np.float32)
    lo, hi = np.percentile(finite, [low, high])
    scaled = (image.astype(np.float64) - lo) / (hi - lo if hi > lo else 1.0)
    return np.clip(np.nan_to_num(scaled), 0, 1).astype(np.float32)


def outlines(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield label and outline of each particle; an outline is (n, 2) points (y, x) [pixel]."""
    from skimage.measure import find_contours

    for k, box in enumerate(ndimage.find_objects(np.maximum(labels, 0)), start=1):
        if box is None:
            continue
        mask = np.pad(labels[box] == k, 1).astype(np.float32)
        origin = np.array([box[0].start - 1, box[1].start - 1])
        for line in find_contours(mask, 0.5):
            yield k, line + origin


def draw_outlines(ax: Axes, labels: np.ndarray, factor: int = 1, *, colour: str = COLOURS["orange"],
                  width: float = 1.2) -> None:
    """Draw the outlines of all particles on an image that was shrunk by a factor."""
    from matplotlib.collections import LineCollection

    lines = [(line[:, ::-1] + 0.5) / factor - 0.5 for _, line in outlines(labels)]
    ax.add_collection(LineCollection(lines, colors=colour, linewidths=width), autolim=False)


def scale_bar_length(field: float) -> float:
    """Length of a scale bar [angstrom] for a field of view [angstrom]: 1, 2 or 5 times ten to something.

    Examples
    --------
    >>> scale_bar_length(302), scale_bar_length(40)
    (50.0, 10.0)
    """
    target = field / 4
    decade = 10.0 ** np.floor(np.log10(target))
    return float(max(m * decade for m in (1, 2, 5) if m * decade <= target * 1.0001))


def draw_scale_bar(ax: Axes, shape: tuple[int, int], pixel_size: float, *, text: str = "") -> None:
    """Draw a scale bar into the lower left corner, and a text into the upper left one."""
    ny, nx = shape
    length = scale_bar_length(nx * pixel_size)
    name = f"{length / 10:g} nm" if length >= 10 else f"{length:g} Å"
    x0, y0 = 0.05 * nx, 0.94 * ny
    box: dict[str, Any] = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 2.2}
    ax.plot([x0, x0 + length / pixel_size], [y0, y0], color="black", lw=4.6, solid_capstyle="butt", alpha=0.6)
    ax.plot([x0, x0 + length / pixel_size], [y0, y0], color="white", lw=2.6, solid_capstyle="butt")
    ax.text(x0, y0 - 0.035 * ny, name, color="white", fontsize=8, va="bottom", bbox=box)
    if text:
        ax.text(0.03 * nx, 0.035 * ny, text, color="white", fontsize=8, va="top", bbox=box)
    ax.set(xlim=(-0.5, nx - 0.5), ylim=(ny - 0.5, -0.5), xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
