"""Results for other software: TIFF stacks for Fiji, a movie for talks, CSV for Origin."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .campaign.results import Campaign, load_campaign
from .campaign.runner import open_source
from .campaign.units import foreground
from .core.calibration import grid_of, pixel_size_of
from .core.errors import InputError
from .io.tables import atomic, writing
from .report.pictures import Scene, draw_outlines, draw_scale_bar, new_figure, shrink, stretch, styled

__all__ = ["KINDS", "export_campaign", "overlay_frames"]

#: the tables of a campaign; one of an older version has the first two only, one with columns has all
LISTS = ("particles.csv", "frames.csv", "frame_quality.csv", "verdicts.csv", "drift.csv", "sites.csv", "events.csv",
         "rate.csv")
#: what can be exported -> file it makes
KINDS = {"labels": "labels.tif", "probability": "probability.tif", "overlay": "overlay.mp4", "tables": "*.csv"}
#: longest side of the movie [pixel]
MOVIE_SIDE = 1024


def export_campaign(
    out: str | Path, to: str | Path, *, what: Sequence[str] = tuple(KINDS), fps: float = 10
) -> list[Path]:
    """Write a campaign's results in formats that other software reads; computes frame by frame.

    Parameters
    ----------
    out : path
        Folder of a finished campaign.
    to : path
        Folder to write into.
    what : sequence of str
        Some of ``"labels"`` (TIFF stack, 16 bit), ``"probability"`` (TIFF stack, 32 bit float),
        ``"overlay"`` (MP4 with outlines), ``"tables"`` (CSV).
    fps : float
        Frames a second of the MP4.

    Returns
    -------
    list of Path
        Files written. The TIFF stacks carry the pixel size [nm] and the time between frames
        the way ImageJ and Fiji read them.

    Raises
    ------
    InputError
        If something unknown is asked for.
    MissingInputError
        If there is no finished campaign.
    WriteError
        If the folder cannot be written.
    """
    unknown = sorted(set(what) - set(KINDS))
    if unknown:
        raise InputError(f"what holds {unknown}; expected some of {list(KINDS)}")
    if not fps > 0:
        raise InputError(f"fps is {fps!r}; expected a positive number of frames a second, as 10")
    campaign, to = load_campaign(out), Path(to)
    with writing(to):
        to.mkdir(parents=True, exist_ok=True)
    written = []
    if "labels" in what:
        written.append(_labels(campaign, to / KINDS["labels"]))
    if "probability" in what:
        written.append(_probability(campaign, to / KINDS["probability"]))
    if "overlay" in what:
        written.append(_overlay(campaign, to / KINDS["overlay"], fps))
    if "tables" in what:
        with writing(to):
            written += [Path(shutil.copy(campaign.out / name, to / name)) for name in LISTS
                        if (campaign.out / name).is_file()]
    return written


def _labels(campaign: Campaign, path: Path) -> Path:
    labels = campaign.data.labels
    particles = campaign.particles
    most = int(particles.particle.max()) if len(particles) else 0
    dtype = np.dtype(np.uint16 if most < 2**16 else np.float32)
    # ImageJ knows no negative label: frames without result are empty there
    frames = (np.maximum(_frame(labels, i), 0).astype(dtype) for i in range(labels.sizes["frame"]))
    return _tiff(path, frames, labels, dtype)


def _probability(campaign: Campaign, path: Path) -> Path:
    shown = foreground(campaign.data.probability)
    frames = (_frame(shown, i).astype(np.float32) for i in range(shown.sizes["frame"]))
    return _tiff(path, frames, shown, np.dtype(np.float32))


def _frame(data: Any, i: int) -> np.ndarray:
    return data.isel(frame=i).compute(scheduler="synchronous").values


def _tiff(path: Path, frames: Iterator[np.ndarray], data: Any, dtype: np.dtype) -> Path:
    import tifffile

    py, px = pixel_size_of(data)
    shape = (data.sizes["frame"], data.sizes["y"], data.sizes["x"])
    metadata: dict[str, Any] = {"axes": "TYX", "unit": "nm"}
    if "time" in data.coords and shape[0] > 1:
        interval = float(np.median(np.diff(data.time.values)))
        if math.isfinite(interval) and interval > 0:
            metadata |= {"finterval": interval, "tunit": "s"}
    # ImageJ's own format ends at 4 GB
    imagej = int(np.prod(shape)) * dtype.itemsize < 2**32 - 2**20
    with atomic(path) as partial:
        tifffile.imwrite(partial, frames, shape=shape, dtype=dtype, imagej=imagej, bigtiff=not imagej,
                         resolution=(10 / px, 10 / py), metadata=metadata)
    return path


def _overlay(campaign: Campaign, path: Path, fps: float) -> Path:
    import imageio_ffmpeg

    frames = overlay_frames(campaign)
    first = next(frames)
    size = (first.shape[1], first.shape[0])
    with atomic(path) as partial:
        moving = Path(partial).with_suffix(".partial.mp4")  # ffmpeg chooses the format by the ending
        writer = imageio_ffmpeg.write_frames(str(moving), size, fps=fps, codec="libx264", quality=7,
                                             macro_block_size=2, ffmpeg_log_level="error")
        try:
            writer.send(None)
            writer.send(np.ascontiguousarray(first))
            for picture in frames:
                writer.send(np.ascontiguousarray(picture))
        finally:
            writer.close()
        moving.replace(partial)
    return path


def overlay_frames(campaign: Campaign) -> Iterator[np.ndarray]:
    """Yield each frame as a picture (y, x, rgb) with outlines, scale bar, and number and time.

    Sides are even, as video formats want them. A frame that cannot be read is black.
    """
    movie, data = open_source(campaign.config), campaign.data
    pixel_size = grid_of(movie).pixel_size
    failed = campaign.failed
    for i, number in enumerate(movie.frame.values.tolist()):
        image = movie.isel(frame=i)
        if "defocus" in image.dims:
            image = image.isel(defocus=image.sizes["defocus"] // 2)
        counts = np.zeros(image.shape) if number in failed else image.compute(scheduler="synchronous").values
        labels = np.maximum(_frame(data.labels, i), 0)
        time = float(image.time) if "time" in image.coords else math.nan
        yield _picture(Scene(number, time, counts, labels * 0.0, labels, pixel_size), failed=number in failed)


@styled
def _picture(scene: Scene, *, failed: bool) -> np.ndarray:
    small, factor = shrink(scene.image, MOVIE_SIDE)
    ny, nx = small.shape
    scale = max(1.0, 512 / max(ny, nx))  # tiny frames get room for the text
    height, width = (2 * math.ceil(n * scale / 2) for n in (ny, nx))
    figure = new_figure(width / 100, height / 100)
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow(stretch(small), cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    draw_outlines(ax, scene.labels, factor)
    draw_scale_bar(ax, small.shape, scene.pixel_size[1] * factor, text=scene.label + (" · failed" if failed else ""))
    ax.set_axis_off()
    figure.set_dpi(100)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[:height, :width, :3].copy()
