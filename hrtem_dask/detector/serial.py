"""An MTF and the data of its fit as JSON, and back without a change."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError, MissingInputError
from ..core.provenance import package_version

__all__ = ["NoiseSpectrum", "decode", "encode"]

#: fields that are nan where they are not known, which JSON writes as null
UNKNOWN = ("scale", "power", "counts_per_electron", "counts_per_electron_error", "read_noise")


@dataclass(frozen=True)
class NoiseSpectrum:
    """The data of a fit: noise power averaged over rings.

    Attributes
    ----------
    k : tuple of float
        Frequency [Nyquist].
    power, error, model : tuple of float
        Measured power, its error, and the fit [counts^2].
    amplitude, read : float
        Power of the quantum noise at k = 0, and of the read-out noise [counts^2].
    fitted : (float, float)
        Range of frequencies of the fit [Nyquist].
    """

    k: tuple[float, ...]
    power: tuple[float, ...]
    error: tuple[float, ...]
    model: tuple[float, ...]
    amplitude: float
    read: float
    fitted: tuple[float, float]


def _plain(value: Any) -> Any:
    """Turn arrays, tuples and nan into what JSON knows."""
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return value


def encode(name: str, values: Mapping[str, Any]) -> str:
    """Return the fields as JSON, with the name of the format and the version of the package."""
    content: dict[str, Any] = {"format": name, "version": package_version()}
    for key, value in values.items():
        if isinstance(value, NoiseSpectrum):
            content[key] = {k: _plain(v) for k, v in asdict(value).items()}
        else:
            content[key] = json.loads(value) if key == "history" else _plain(value)
    return json.dumps(content, allow_nan=False)


def decode(name: str, source: str | Path, known: Sequence[str]) -> dict[str, Any]:
    """Return the fields from the JSON of `encode`, or from the path of a file with it."""
    text = str(source)
    if isinstance(source, Path) or not text.lstrip().startswith("{"):
        path = Path(source)
        if not path.is_file():
            raise MissingInputError(f"there is no file {text[:200]!r}; expected the JSON of an MTF, or its path")
        text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"the text is not JSON ({error}); expected what MTF.to_json() returns") from error
    if not isinstance(content, Mapping) or content.get("format") != name:
        found = content.get("format") if isinstance(content, Mapping) else type(content).__name__
        raise InputError(f"the JSON is of the format {found!r}; expected {name!r}, as MTF.to_json() writes it")
    values = {k: v for k, v in content.items() if k in known}
    values |= {k: math.nan for k in UNKNOWN if values.get(k) is None}
    values |= {"history": json.dumps(values.get("history", [])), "notes": tuple(values.get("notes", ()))}
    if values.get("covariance") is not None:
        values["covariance"] = np.asarray(values["covariance"], dtype=np.float64)
    if values.get("table") is not None:
        values["table"] = tuple(map(tuple, values["table"]))
    if values.get("spectrum") is not None:
        values["spectrum"] = NoiseSpectrum(**{k: tuple(v) if isinstance(v, list) else v
                                              for k, v in values["spectrum"].items()})
    return values
