"""Columns of a campaign: what they depend on, those of one frame, and which are of the particle that is followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from ..core.errors import InputError
from ..core.schema import COLUMNS
from .ledger import ALGORITHM, fingerprint

__all__ = ["check_movie", "column_key", "columns_of_frame", "contents"]

#: what the numbers of a network's columns depend on, beside its weights
OF_CARD = ("classes", "pixel_size", "normalisation", "contrast", "column_threshold", "column_distance")


def contents(crystal: Any) -> dict[str, Any]:
    """What a crystal's file says: the path alone would hide that it changed."""
    if not isinstance(crystal, str) or not Path(crystal).is_file():
        return {}
    return {"crystal_file": Path(crystal).read_text(encoding="utf-8", errors="replace")}


def column_key(common: Mapping[str, Any], model: Any, settings: Mapping[str, Any], crystal: Any,
               times: Sequence[float]) -> str:
    """Fingerprint of the columns of a unit; ``common`` is what that of its segmentation holds."""
    return fingerprint(**{k: v for k, v in common.items() if k not in ("weights", "algorithm")},
                       weights=model.card["sha256"], card={k: model.card.get(k) for k in OF_CARD},
                       threshold=settings["columns"]["threshold"], crystal=repr(crystal), times=list(times),
                       mtf=settings["mtf"].to_json() if settings["mtf"] else None, algorithm=ALGORITHM["columns"],
                       **contents(crystal))


def columns_of_frame(image: xr.DataArray, model: Any, settings: Mapping[str, Any],
                     options: Mapping[str, Any]) -> pd.DataFrame:
    """Segment one frame and find its columns; ``options`` are those of `segment`."""
    return COLUMNS.coerce(_lazy(image.chunk(), model, settings, options).compute(scheduler="synchronous"))


def _lazy(image: xr.DataArray, model: Any, settings: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    from ..analysis.columns import find_columns
    from ..analysis.segment import segment

    probability = segment(image, model, warn=False, **options)
    return find_columns(probability, image=image, threshold=settings["columns"]["threshold"], card=model.card,
                        crystal=settings["crystal"], mtf=settings["mtf"])


def check_movie(movie: xr.DataArray, model: Any, settings: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse at once what would fail in every frame.

    Raises
    ------
    InputError
        If the network finds no columns or takes other images, or the time of the frames is not known.
    CalibrationError
        If the pixels are too coarse for columns.
    """
    if "time" not in movie.coords or not bool(movie["time"].notnull().all()):
        raise InputError("the time between the frames is not known, and a rate of diffusion events needs it; give it "
                         "with --frame-time 0.1 [second], or --frame-time 1 for rates per frame")
    _lazy(movie.isel(frame=slice(0, 1)), model, settings, options)
