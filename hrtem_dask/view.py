"""Layers for napari: movie, probabilities, particles, columns, tracks, sites and events on one another.

No part of napari is needed to make them: a layer is a tuple (data, options, kind), as napari's
readers return them. Images are handed over as the dask arrays they are, so nothing is computed
before a frame is shown.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr

from .core.calibration import grid_of, has_calibration
from .core.errors import HrtemDaskError, InputError, MissingInputError
from .kernels.rigid import move

__all__ = ["LayerData", "show_layers", "view_layers"]

log = logging.getLogger(__name__)
#: data, options of the layer, kind of layer
LayerData = tuple[Any, dict[str, Any], str]
#: what a folder of results may hold beside the images
TABLES = ("columns", "sites", "drift", "events", "particles")
#: columns of a drift table that carry a place
MOTION = ("drift_y", "drift_x", "rotation", "centre_y", "centre_x")
#: classes that are shown where there is something, else they would hide the movie
BACKGROUND = "background"
COLOURS = ("cyan", "magenta", "yellow", "green", "red", "blue")
EVENT_COLOURS = {"appear": "lime", "disappear": "red", "hop": "orange"}
#: sites are drawn in every frame unless that makes more points than this
MOST_POINTS = 500_000
#: diameter of a column, a site, an event and a particle's mark [angstrom]
COLUMN, SITE, EVENT, PARTICLE = 1.2, 0.5, 2.2, 4.0
#: names of a layer's axes
AXES = ("frame", "y", "x")


def view_layers(
    source: Any = None,
    *,
    movie: xr.DataArray | None = None,
    probability: xr.DataArray | None = None,
    labels: xr.DataArray | None = None,
    particles: pd.DataFrame | None = None,
    columns: pd.DataFrame | dd.DataFrame | None = None,
    sites: pd.DataFrame | None = None,
    drift: pd.DataFrame | None = None,
    events: pd.DataFrame | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    frame_time: float | None = None,
) -> list[LayerData]:
    """Make the layers that napari shows, without computing an image.

    Parameters
    ----------
    source : path, list of paths, DataArray or array, optional
        The folder of results of ``hrtem-dask run`` or `run_campaign`, or anything that `open_movie`
        takes. What is given by name below replaces what it holds, or is added.
    movie : DataArray, dims (frame, y, x) or (frame, defocus, y, x), optional
    probability : DataArray, dims (frame, class, y, x), optional
        From `segment`; each class but the background is a layer.
    labels : DataArray, dims (frame, y, x), optional
        From `label_particles`.
    particles, columns, sites, drift, events : DataFrame, optional
        From `link_particles` or `analyse_particles`, `find_columns` or `link_columns`, ``find_sites(...).table``,
        `estimate_drift` and ``count_diffusion(...).events``. Sites and events are drawn where the drift carries
        them in each frame; without a drift, where they are in the reference. A dask table is
        computed, as points are drawn from memory.
    pixel_size, frame_time
        As in `open_movie`, for a source that is a movie.

    Returns
    -------
    list of (data, dict, str)
        ``viewer.add_image(data, **options)`` and so on by the third word: image, labels, points or
        tracks. World coordinates are the number of the frame, and y and x [angstrom] where the movie is
        calibrated, so that a place in a table lies on its pixel. Of a movie whose frames are not
        evenly numbered, the first axis counts the frames that are there instead. A focal series has the
        defocus as an axis in front.

    Raises
    ------
    InputError
        If there is nothing to show, dims do not fit, or frames of images differ.

    Examples
    --------
    >>> from hrtem_dask.core.calibration import make_movie
    >>> movie = make_movie(np.zeros((3, 8, 8)), pixel_size=0.5)
    >>> columns = pd.DataFrame({"frame": [0, 2], "y": [1.0, 2.0], "x": [1.5, 3.0]})
    >>> [(kind, options["name"]) for _, options, kind in view_layers(movie=movie, columns=columns)]
    [('image', 'movie'), ('points', 'columns')]
    """
    given = {"movie": movie, "probability": probability, "labels": labels, "particles": particles,
             "columns": columns, "sites": sites, "drift": drift, "events": events}
    found = _opened(source, pixel_size, frame_time) if source is not None else {}
    found |= {name: value for name, value in given.items() if value is not None}
    images = [found[name] for name in ("movie", "probability", "labels") if name in found]
    tables = {name: _table(found[name]) for name in TABLES if name in found}
    if not images and not tables:
        raise InputError("there is nothing to show; expected a folder of results, a movie, or objects by their names, "
                         "as view_layers(movie=movie, columns=columns)")
    world = World.of(images, tables.values())
    layers = []
    if "movie" in found:
        layers.append(world.image(found["movie"], "image", name="movie", colormap="gray"))
    if "probability" in found:
        layers += _probabilities(found["probability"], world)
    if "labels" in found:
        whole = found["labels"].where(found["labels"] > 0, 0).astype(found["labels"].dtype)
        layers.append(world.image(whole, "labels", name="particle labels", opacity=0.4, visible=False))
    return layers + _drawn(tables, world)


class World:
    """Where frames and pixels lie: the first coordinate by the number of a frame, scale and shift of images."""

    def __init__(self, frames: np.ndarray, calibrated: bool) -> None:
        self.calibrated = calibrated
        self.frames = frames
        steps = np.diff(frames)
        self.even = not len(steps) or bool((steps == steps[0]).all() and steps[0] > 0)
        self.step = int(steps[0]) if self.even and len(steps) else 1
        self.first = int(frames[0]) if self.even and len(frames) else 0

    @staticmethod
    def of(images: list[xr.DataArray], tables: Iterable[pd.DataFrame]) -> World:
        """World of these images, which must have the same frames; without images that of the tables."""
        for image in images:
            if not isinstance(image, xr.DataArray) or not {"frame", "y", "x"} <= set(image.dims):
                raise InputError(f"found {getattr(image, 'dims', type(image).__name__)}; expected images as DataArrays "
                                 "with the dims frame, y and x, as open_movie, segment and label_particles return them")
            if not np.array_equal(image.frame.values, images[0].frame.values):
                raise InputError(f"an image has the frames {image.frame.values[:3]} ..., another one "
                                 f"{images[0].frame.values[:3]} ...; expected the same frames, as movie.sel(frame="
                                 "probability.frame)")
        if images:
            if len({has_calibration(image) for image in images}) > 1:
                raise InputError("some images have a pixel size and some have none; expected all or none. Give it: "
                                 "open_movie(..., pixel_size=0.59) in angstrom")
            return World(np.asarray(images[0].frame.values), has_calibration(images[0]))
        numbers = [table["frame"].to_numpy() for table in tables if "frame" in table]
        return World(np.arange(max((int(n.max()) for n in numbers if len(n)), default=0) + 1), True)

    def frame(self, numbers: np.ndarray) -> np.ndarray:
        """First coordinate of frames; -1 of those that are not there."""
        if self.even:
            return np.where(np.isin(numbers, self.frames), numbers, -1)
        order = np.argsort(self.frames, kind="stable")
        at = np.clip(np.searchsorted(self.frames, numbers, sorter=order), 0, len(self.frames) - 1)
        return np.where(self.frames[order[at]] == numbers, order[at], -1)

    def options(self, **more: Any) -> dict[str, Any]:
        """Options of a layer whose data are world coordinates already."""
        units = ("pixel", "angstrom", "angstrom") if self.calibrated else ("pixel",) * 3
        return {"axis_labels": AXES, "units": units, **more}

    def image(self, image: xr.DataArray, kind: str, **more: Any) -> LayerData:
        """Layer of an image; of a focal series the defocus comes first, as tables know nothing of it."""
        front = [str(d) for d in image.dims if d not in AXES]
        image = image.transpose(*front, *AXES)
        y0, x0, dy, dx = 0.0, 0.0, 1.0, 1.0
        if self.calibrated:
            grid = grid_of(image)
            y0, x0, dy, dx = grid.y0, grid.x0, grid.dy, grid.dx
        options = self.options(**more)
        n = len(front)
        options |= {"scale": (*(1.0,) * n, float(self.step), dy, dx),
                    "translate": (*(0.0,) * n, float(self.first), y0, x0),
                    "axis_labels": (*front, *AXES), "units": (*("pixel",) * n, *options["units"]),
                    "metadata": {"frame": self.frames.tolist()} if not self.even else {}}
        return image.data, options, kind


def _opened(source: Any, pixel_size: Any, frame_time: float | None) -> dict[str, Any]:
    """What a source holds, by name."""
    from .campaign.layout import ABOUT
    from .io.movie import open_movie

    path = Path(source).expanduser() if isinstance(source, str | os.PathLike) else None
    if path is None or not (path / ABOUT).is_file():
        return {"movie": open_movie(source, pixel_size=pixel_size, frame_time=frame_time)}
    from .campaign.results import load_campaign
    from .campaign.runner import open_source
    from .io.tables import read_table

    campaign = load_campaign(path)
    found: dict[str, Any] = {name: campaign.data[name] for name in ("probability", "labels")}
    try:
        found["movie"] = open_source(campaign.config)
    except HrtemDaskError as error:
        log.warning("the movie cannot be opened any more and is not shown: %s", error)
    for name in TABLES:
        try:
            found[name] = read_table(path / f"{name}.parquet")[0]
        except MissingInputError:
            continue  # not every campaign looks for columns
    return found


def _table(table: Any) -> pd.DataFrame:
    if isinstance(table, dd.DataFrame):
        table = table.compute()
    names = set(table.columns) if isinstance(table, pd.DataFrame) else set()
    if not names >= {"y", "x"} and not names >= {"frame", *MOTION}:
        raise InputError(f"found {sorted(map(str, names)) or type(table).__name__}; expected a table with y and x "
                         "[angstrom], as find_columns(...), find_sites(...).table, count_diffusion(...).events or "
                         "analyse_particles(...), or a drift, as estimate_drift(...)")
    return table


def _probabilities(probability: xr.DataArray, world: World) -> list[LayerData]:
    if "class" not in probability.dims:
        raise InputError(f"the probability has the dims {probability.dims}; expected (frame, class, y, x), as segment "
                         "returns it")
    names = [str(c) for c in probability["class"].values]
    shown = [n for n in names if n != BACKGROUND]
    look = {"blending": "additive", "opacity": 0.5, "contrast_limits": (0.0, 1.0)}
    return [world.image(probability.isel({"class": names.index(name)}, drop=True), "image", name=f"probability {name}",
                        colormap=COLOURS[k % len(COLOURS)], **look) for k, name in enumerate(shown)]


def _drawn(tables: dict[str, pd.DataFrame], world: World) -> list[LayerData]:
    """Layers of the tables: points, and tracks where rows say which one they belong to."""
    layers, drift = [], tables.get("drift")
    if "particles" in tables:
        layers.append(_points(tables["particles"], world, "particles", PARTICLE, "orange", visible=False))
        layers += _tracks(tables["particles"], world, "particle tracks")
    if "sites" in tables:
        layers.append(_sites(tables["sites"], drift, world))
    if "columns" in tables:
        layers.append(_points(tables["columns"], world, "columns", COLUMN, "cyan"))
        layers += _tracks(tables["columns"], world, "column tracks")
    if "events" in tables:
        layers.append(_events(tables["events"], drift, world))
    return layers


def _points(table: pd.DataFrame, world: World, name: str, size: float, colour: Any, **more: Any) -> LayerData:
    """Rings at the rows of a table whose frames are there; its other columns are features."""
    at = world.frame(table["frame"].to_numpy())
    keep = (at >= 0) & np.isfinite(table[["y", "x"]].to_numpy(np.float64)).all(axis=1)
    data = np.column_stack([at[keep], table.loc[keep, ["y", "x"]].to_numpy(np.float64)]).astype(np.float64)
    features = table.loc[keep, [c for c in table.columns if c not in ("frame", "y", "x")]].reset_index(drop=True)
    if isinstance(colour, np.ndarray):
        colour = colour[keep].tolist() or "white"
    return data, world.options(name=name, size=size, features=features, face_color="transparent", border_color=colour,
                               border_width=0.1, **more), "points"


def _tracks(table: pd.DataFrame, world: World, name: str) -> list[LayerData]:
    """Tracks of the rows that are on one; none where the table has no tracks."""
    if "track" not in table:
        return []
    at, track = world.frame(table["frame"].to_numpy()), table["track"].to_numpy(np.int64)
    keep = (at >= 0) & (track >= 0) & np.isfinite(table[["y", "x"]].to_numpy(np.float64)).all(axis=1)
    if not keep.any():
        return []
    data = np.column_stack([track[keep], at[keep], table.loc[keep, ["y", "x"]].to_numpy(np.float64)])
    data = data[np.lexsort((data[:, 1], data[:, 0]))]
    return [(data, world.options(name=name, tail_length=20, blending="translucent"), "tracks")]


def _sites(sites: pd.DataFrame, drift: pd.DataFrame | None, world: World) -> LayerData:
    """Sites where the drift carries them in every frame; where they are in the reference, if it is not known."""
    frames = None if drift is None else drift[world.frame(drift["frame"].to_numpy()) >= 0]
    if frames is None or len(frames) * len(sites) > MOST_POINTS:
        features = sites.drop(columns=["y", "x"]).reset_index(drop=True)
        options = world.options(name="sites (reference)", size=SITE, features=features, face_color="yellow")
        options |= {"axis_labels": AXES[1:], "units": options["units"][1:]}
        return sites[["y", "x"]].to_numpy(np.float64), options, "points"
    epoch = "epoch" if {"epoch"} <= set(sites) & set(frames) else None
    # a site has a rotation of its own, that of its lattice
    own = sites.rename(columns={c: f"site_{c}" for c in ("frame", *MOTION) if c in sites})
    both = own.merge(_motion(frames), on=epoch) if epoch else own.merge(_motion(frames), how="cross")
    data, options, kind = _points(_carried(both), world, "sites", SITE, "yellow")
    return data, options | {"face_color": "yellow"}, kind


def _events(events: pd.DataFrame, drift: pd.DataFrame | None, world: World) -> LayerData:
    if drift is not None:
        events = _carried(events.merge(_motion(drift).drop(columns="epoch", errors="ignore"), on="frame"))
    colour = events["kind"].astype(str).map(EVENT_COLOURS).fillna("white").to_numpy(object) if "kind" in events \
        else "white"
    return _points(events, world, "events", EVENT, colour)


def _motion(drift: pd.DataFrame) -> pd.DataFrame:
    return drift[[c for c in ("frame", "epoch", *MOTION) if c in drift]]


def _carried(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with their places carried from the reference into their frames."""
    motion = rows[list(MOTION)].to_numpy(np.float64)
    place = move(motion[:, :3], rows[["y", "x"]].to_numpy(np.float64), motion[:, 3:])
    return rows.drop(columns=list(MOTION)).assign(y=place[:, 0], x=place[:, 1])


def show_layers(layers: list[LayerData], *, title: str = "hrtem-dask") -> None:
    """Open napari with these layers, and return when its window is closed; computes what is looked at.

    Raises
    ------
    InputError
        If napari, or a Qt that it can draw with, is not installed.
    """
    viewer = make_viewer(title)
    for data, options, kind in layers:
        getattr(viewer, f"add_{kind}")(data, **options)
    if layers:
        viewer.dims.axis_labels = layers[0][1]["axis_labels"]
    import napari

    napari.run()


def make_viewer(title: str) -> Any:
    """Open an empty window of napari."""
    try:
        import napari

        return napari.Viewer(title=title)
    except ImportError as error:  # napari without any Qt says so only now
        raise InputError(f"the viewer needs napari, which cannot be loaded ({error}); expected it with a Qt to draw "
                         "with. Type: pip install 'hrtem-dask[viewer]'") from error
