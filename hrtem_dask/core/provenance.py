"""What was done to this data: a small JSON that travels in the attributes of every output."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

__all__ = ["history_of", "package_version", "record", "versions"]

#: the packages whose version can change a result
PACKAGES = ("hrtem-dask", "numpy", "scipy", "torch", "dask", "distributed", "zarr", "xarray", "rosettasciio")


@cache
def package_version(name: str = "hrtem-dask") -> str:
    """Version of an installed package, or "unknown" (a source tree that was never installed)."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose version can change a result."""
    return {"python": platform.python_version()} | {name: package_version(name) for name in PACKAGES}


def history_of(attrs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the list of steps recorded in the attributes, oldest first."""
    return json.loads(attrs["provenance"]) if "provenance" in attrs else []


def record(attrs: Mapping[str, Any], stage: str, **parameters: Any) -> dict[str, Any]:
    """Return a copy of the attributes with one more step in ``provenance``.

    Examples
    --------
    >>> attrs = record({}, "segment", model="au-particles")
    >>> history_of(attrs)[0]["stage"]
    'segment'
    """
    step = {"stage": stage, "parameters": parameters, "version": package_version()}
    return dict(attrs) | {"provenance": json.dumps([*history_of(attrs), step], default=str)}
