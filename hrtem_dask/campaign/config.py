"""What a campaign is asked to do: one validated, serialisable object."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.segment import check_augment, check_window
from ..core.errors import InputError

__all__ = ["CampaignConfig", "as_config", "parse_frames"]

#: what is of no use without columns
COLUMN_SETTINGS = ("columns", "column_threshold", "column_margin", "time_bin")


@dataclass(frozen=True)
class CampaignConfig:
    """Settings of a campaign.

    Parameters
    ----------
    source : path, pattern, folder, list of paths, or array
        The movie, as `hrtem_dask.open_movie` takes it.
    out : path
        Folder for everything that is written.
    pixel_size : float or (float, float), optional
        Pixel size (y, x) [angstrom], where the files do not say it or say it wrongly.
    frame_time : float, optional
        Time between frames [second], where the files do not say it.
    model : str, path or Model
        Network, as `hrtem_dask.load_model` takes it.
    threshold : float
        Probability above which a pixel is particle, between 0 and 1.
    min_area : float or None
        Smallest particle that is kept [angstrom^2]. The default is a disc of 8 angstrom: nothing
        smaller holds enough fringes to show a lattice. None keeps every pixel.
    crystal : str, path or sequence of float, optional
        Crystal that limits the lattice spacings searched and whose zone axes are named: "Au", the
        path of a CIF file, or spacings [angstrom].
    mtf : path, optional
        File of the camera's MTF, as ``hrtem-dask fit-mtf`` writes it: spot pairs are judged without
        the blur of the camera.
    max_ratio, min_score, max_false_keep, track
        Which frames are listed as readable, as `hrtem_dask.filter_frames` takes them: a particle's
        peak ratio at most, its zone axis score at least, or a share of bad frames among those that
        are kept, and the track that is judged, by default the largest. Without any of the three,
        ``min_score=0.5``.
    columns : str, path or Model, optional
        Network of columns, as "au-columns": columns are found in every frame, and those of the particle that is
        followed end in a rate of diffusion events, see `hrtem_dask.count_diffusion`. Without it, neither.
    column_threshold : float, optional
        Least probability of a column, as `hrtem_dask.find_columns` takes it.
    column_margin : float
        Columns so far outside the mask of the particle that is followed are its own too [angstrom].
    time_bin : float, optional
        Length of the parts of the time that get a rate [second], as `hrtem_dask.count_diffusion` takes it.
    halo : int, "auto" or "exact"
        Margin that a tile sees beyond its border [network pixel], as `hrtem_dask.segment` takes it.
    window : str, optional
        "hamming", "hann" or "gaussian": blend overlapping windows, as `hrtem_dask.segment` does.
    window_size : int, optional
        Their side [network pixel].
    augment : int
        1, or 4 or 8 turned and mirrored images of which `hrtem_dask.segment` takes the mean.
    device : str
        Torch device: "auto", "cpu" or "cuda".
    frames : str or sequence of int, optional
        Part of the movie, as "0:100" or "0:100:2" (the end is not included), or frame numbers.
    title : str, optional
        Heading of the report.
    frames_per_unit : int, optional
        Frames in one unit of work and one shard; by default what makes shards of about 4 MB.
    retry_failed : bool
        Try frames again that failed before and whose files did not change.

    Raises
    ------
    InputError
        If a setting is not possible.

    Examples
    --------
    >>> CampaignConfig(source="movie", out="results", threshold=0.4).model
    'au-particles'
    """

    source: Any
    out: Any
    pixel_size: float | tuple[float, float] | None = None
    frame_time: float | None = None
    model: Any = "au-particles"
    threshold: float = 0.5
    min_area: float | None = 50.0
    crystal: Any = None
    mtf: Any = None
    max_ratio: float | None = None
    min_score: float | None = None
    max_false_keep: float | None = None
    track: int | None = None
    columns: Any = None
    column_threshold: float | None = None
    column_margin: float = 6.0
    time_bin: float | None = None
    halo: int | str = "auto"
    window: str | None = None
    window_size: int | None = None
    augment: int = 1
    device: str = "auto"
    frames: Any = None
    title: str | None = None
    frames_per_unit: int | None = None
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.source, (list, tuple)) and not self.source:
            raise InputError("source is an empty list; expected at least one path")
        _check_number("threshold", self.threshold, 0, 1, "a probability between 0 and 1, as 0.5")
        if self.min_area is not None:
            _check_number("min_area", self.min_area, -1e-300, math.inf, "an area in angstrom^2, as 100")
        if self.frame_time is not None:
            _check_number("frame_time", self.frame_time, 0, math.inf, "a time between frames in seconds, as 0.25")
        if self.frames_per_unit is not None and (int(self.frames_per_unit) != self.frames_per_unit
                                                 or self.frames_per_unit < 1):
            raise InputError(f"frames_per_unit is {self.frames_per_unit!r}; expected a whole number of at least 1")
        check_window(self.window, self.window_size, self.halo)
        check_augment(self.augment)
        check_list(self)
        check_columns(self)
        if hasattr(self.crystal, "get_scaled_positions"):
            raise InputError("crystal is an ASE structure; a campaign keeps its settings as text, so expected a name "
                             "or a path: write it with crystal.write('crystal.cif') and give crystal='crystal.cif'")
        if isinstance(self.frames, str):
            parse_frames(self.frames)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON takes them, paths as absolute text."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        frames = values["frames"]
        values |= {
            "source": source_text(self.source),
            "out": str(Path(self.out).resolve()),
            "model": self.model if isinstance(self.model, str) else _model_text(self.model),
            "frames": frames if frames is None or isinstance(frames, str) else [int(i) for i in frames],
            "crystal": str(self.crystal) if isinstance(self.crystal, os.PathLike) else self.crystal,
            "mtf": None if self.mtf is None else str(Path(self.mtf).absolute()),
        }
        if self.columns is None:  # without columns a campaign is what it was before there were any
            return {k: v for k, v in values.items() if k not in COLUMN_SETTINGS}
        columns = self.columns if isinstance(self.columns, str) else _model_text(self.columns)
        return values | {"columns": columns}


def as_config(config: CampaignConfig | Mapping[str, Any], **changes: Any) -> CampaignConfig:
    """Return a `CampaignConfig` from one or from a mapping; unknown names are refused with a hint."""
    if isinstance(config, CampaignConfig):
        return replace(config, **changes)
    if not isinstance(config, Mapping):
        raise InputError(f"config is a {type(config).__name__}; expected a CampaignConfig or a mapping, "
                         'as {"source": "frames/", "out": "results", "pixel_size": 0.59}')
    values = dict(config) | changes
    known = [f.name for f in fields(CampaignConfig)]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(f"config has no setting {name!r}; {hint}expected some of {known}")
    for name in ("source", "out"):
        if values.get(name) is None:
            raise InputError(f"config lacks {name!r}; expected at least source and out")
    return CampaignConfig(**values)


def parse_frames(text: str) -> slice:
    """Turn "0:100", ":50", "10:" or "0:100:2" into a slice of positions.

    Examples
    --------
    >>> parse_frames("0:100:2")
    slice(0, 100, 2)
    >>> parse_frames("7")
    slice(7, 8, None)
    """
    parts = text.split(":")
    try:
        numbers = [int(p) if p.strip() else None for p in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] is not None:
        return slice(numbers[0], numbers[0] + 1 or None)
    if len(numbers) not in (2, 3) or (len(numbers) == 3 and numbers[2] is not None and numbers[2] < 1):
        raise InputError(f"frames is {text!r}; expected start:stop or start:stop:step, as 0:100 (the end not included)")
    return slice(*numbers)


def source_text(source: Any) -> str | list[str] | None:
    """Return the source as absolute text, or None where it is an array that no path names."""
    if isinstance(source, (str, os.PathLike)):
        return str(Path(source).expanduser().absolute())
    if isinstance(source, (list, tuple)) and all(isinstance(p, (str, os.PathLike)) for p in source):
        return [str(Path(p).expanduser().absolute()) for p in source]
    return None


def _model_text(model: Any) -> str:
    return str(Path(model).absolute()) if isinstance(model, os.PathLike) else getattr(model, "name", repr(model))


def check_list(config: CampaignConfig) -> None:
    """Refuse thresholds of the list of readable frames that make no sense [InputError]."""
    if config.max_ratio is not None:
        _check_number("max_ratio", config.max_ratio, np.nextafter(1, 0), math.inf, "a ratio of at least 1, as 2.5")
    if config.min_score is not None:
        _check_number("min_score", config.min_score, -1e-300, np.nextafter(1, 2), "a score from 0 to 1, as 0.5")
    if config.max_false_keep is not None:
        _check_number("max_false_keep", config.max_false_keep, 0, 1, "a share between 0 and 1, as 0.05")
    if config.track is not None and (isinstance(config.track, bool) or int(config.track) != config.track
                                     or config.track < 0):
        raise InputError(f"track is {config.track!r}; expected the number of a track, 0 or more")


def check_columns(config: CampaignConfig) -> None:
    """Refuse settings of the columns that make no sense [InputError]."""
    if config.column_threshold is not None:
        _check_number("column_threshold", config.column_threshold, 0, np.nextafter(1, 2), "a probability, as 0.3")
    if config.time_bin is not None:
        _check_number("time_bin", config.time_bin, 0, math.inf, "a time in seconds, as 10")
    _check_number("column_margin", config.column_margin, -1e-300, math.inf, "a distance in angstrom, as 6")
    if config.columns is None and (config.column_threshold is not None or config.time_bin is not None):
        raise InputError("column_threshold or time_bin is given, but no network of columns; expected columns="
                         "'au-columns' with it (--columns)")


def _check_number(name: str, value: Any, low: float, high: float, expected: str) -> None:
    number = float(value) if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) else math.nan
    if not low < number < high:
        raise InputError(f"{name} is {value!r}; expected {expected}")
