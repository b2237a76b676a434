"""The keys of a recipe: ranges, numbers and words with their units, read, checked and explained.

A section of a recipe is a frozen dataclass whose fields are declared with `span`, `scalar` or
`choice`; `read_section` fills one from a mapping, `describe_section` lists what may be written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..core.errors import InputError
from ..core.units import length_to_angstrom, tidy_unit

__all__ = ["Span", "choice", "describe_section", "read_section", "scalar", "span", "unknown"]

SCALES = ("linear", "log")
TEXT = 30  # characters of a text that a description shows
#: other ways to write a unit, and how many of the unit they are; lengths are left to core.units
SPELLINGS = {
    "kV": {"kv": 1.0, "kev": 1.0, "v": 1e-3, "ev": 1e-3, "mv": 1e3, "mev": 1e3},
    "milliradian": {"mrad": 1.0, "milliradian": 1.0, "milliradians": 1.0, "rad": 1e3, "radian": 1e3, "radians": 1e3,
                    "urad": 1e-3, "deg": 1e3 * np.pi / 180, "degree": 1e3 * np.pi / 180, "°": 1e3 * np.pi / 180},
    "degree": {"deg": 1.0, "degree": 1.0, "degrees": 1.0, "°": 1.0, "rad": 180 / np.pi, "mrad": 0.18 / np.pi},
    "nyquist": {"nyquist": 1.0, "ny": 1.0},
    "electron": {"e": 1.0, "e-": 1.0, "electron": 1.0, "electrons": 1.0},
    "1": {"%": 0.01, "percent": 0.01},
}


@dataclass(frozen=True)
class Span:
    """A range that a parameter is drawn from, uniformly in itself or in its logarithm."""

    low: float
    high: float
    scale: str = "linear"

    def draw(self, rng: np.random.Generator) -> float:
        """Draw one value."""
        if self.scale == "log":
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def draw_integer(self, rng: np.random.Generator) -> int:
        """Draw one whole number, both ends included."""
        return int(rng.integers(int(self.low), int(self.high) + 1))

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (" (log)" if self.scale == "log" else "")


def span(low: float, high: float, units: str, about: str = "", *, scale: str = "linear",
         bounds: tuple[float, float], whole: bool = False) -> Any:
    """Declare a range: default, unit, meaning, how it is drawn, what is allowed, and whether it holds whole numbers."""
    return field(default=Span(low, high, scale),
                 metadata={"units": units, "bounds": bounds, "about": about, "whole": whole})


def scalar(value: float, units: str, about: str = "", *, bounds: tuple[float, float]) -> Any:
    """Declare a single number: its default, its unit, what it means, and what is allowed.

    A default that is an int, not a float, asks for a whole number.
    """
    return field(default=value, metadata={"units": units, "bounds": bounds, "about": about})


def choice(value: str, options: tuple[str, ...], about: str = "", *, many: bool = False) -> Any:
    """Declare a word out of a few; with no options, any text; with `many`, a list of words is one text with commas."""
    return field(default=value, metadata={"units": "", "options": options, "about": about, "many": many})


def read_section(kind: type, content: Any, where: str) -> Any:
    """Fill one section of a recipe.

    Parameters
    ----------
    kind : type
        Dataclass whose fields `span`, `scalar` and `choice` declare.
    content : mapping
        Keys and values as YAML gives them.
    where : str
        Name of the section, for messages.

    Returns
    -------
    object
        An instance of `kind`.

    Raises
    ------
    InputError
        If a key is unknown, a unit does not fit, a range is empty, or a number out of bounds.

    Examples
    --------
    >>> @dataclass(frozen=True)
    ... class Lens:
    ...     defocus: Span = span(0, 100, "angstrom", "underfocus", bounds=(0, 1e4))
    >>> read_section(Lens, {"defocus": ["10 nm", "20 nm"]}, "lens").defocus
    Span(low=100.0, high=200.0, scale='linear')
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{where} is {content!r}; expected keys such as {[f.name for f in fields(kind)][:3]} "
                         f"below it, or no line {where!r} at all")
    unknown(content, [f.name for f in fields(kind)], where)
    values = {}
    for f in fields(kind):
        value, place = content.get(f.name, f.default), f"{where}.{f.name}"
        if "options" in f.metadata:
            values[f.name] = _word(listed(value) if f.metadata["many"] else value, f.metadata["options"], place)
        elif isinstance(f.default, Span):
            values[f.name] = _span(value, f.default, f.metadata, place)
        else:
            values[f.name] = _scalar(value, f.default, f.metadata, place)
    return kind(**values)


def describe_section(section: Any, where: str) -> list[tuple[str, str, str, str, str]]:
    """Say of every key of a section what it is called, its value, unit, allowed values and meaning."""
    rows = []
    for f in fields(section):
        value, meta = getattr(section, f.name), f.metadata
        words = ", ".join(meta.get("options", ())) or "text"
        allowed = "{:g} to {:g}".format(*meta["bounds"]) if "bounds" in meta else words
        shown = str(value) if isinstance(value, Span | str) else f"{value:g}"
        shown = shown if len(shown) <= TEXT else shown[: TEXT - 3] + "..."
        rows.append((f"{where}.{f.name}", shown or "-", meta["units"], allowed, meta["about"]))
    return rows


def unknown(content: Mapping[str, Any], known: list[str], where: str) -> None:
    """Refuse keys that mean nothing, and name the nearest that does."""
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {known}"
            raise InputError(f"{where} has the unknown key {key!r}; {hint}")


def in_units(value: Any, units: str, where: str) -> Any:
    """Turn a text such as "30 nm" into a number of `units`; leave all else to the checks that follow.

    Examples
    --------
    >>> in_units("30 nm", "angstrom", "here"), in_units("2 1/nm", "1/angstrom", "here"), in_units(3, "1", "here")
    (300.0, 0.2, 3)
    """
    found = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*", value) \
        if isinstance(value, str) else None
    if not found:
        return value
    number, unit = float(found[1]), found[2]
    # YAML 1.1 reads 1e3 as text
    factor = 1.0 if not unit or unit == units else _factor(unit, units)
    if factor is None:
        raise InputError(f"{where} is {value!r}, whose unit {unit!r} is none that [{units}] can be made of; expected a "
                         f"number in [{units}]")
    return round(number * factor, 12) if factor != 1 else number


def _factor(unit: str, units: str) -> float | None:
    """How many of `units` one `unit` is; None where that makes no sense."""
    if units in ("angstrom", "millimetre"):
        length = length_to_angstrom(1.0, unit)
        return length if length is None or units == "angstrom" else length * 1e-7
    text = unit.replace("²", "^2").replace("³", "^3").replace("⁻¹", "^-1")
    power = re.search(r"/\s*(.+?)\s*(?:\^?([23]))?$|^(.+?)\s*\^-1$", text)
    if units in ("1/angstrom", "electrons/angstrom^2", "atoms/angstrom^3") and power:
        order = {"1": 1, "e": 2, "a": 3}[units[0]]
        length = length_to_angstrom(1.0, power[1] or power[3])
        return length**-order if length and int(power[2] or 1) == order else None
    table = SPELLINGS.get(units, {})
    return table.get(unit.lower()) or table.get(tidy_unit(unit))


def listed(value: Any) -> Any:
    """Turn what YAML makes of a list of words or directions without quotes into a text; leave all else as it is.

    Examples
    --------
    >>> listed(["Au", "Pt"]), listed(110), listed([1, -1, 0]), listed([[1, 1, 0], "100"]), listed(None)
    ('Au, Pt', '110', '1-10', '110, 100', None)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, list | tuple) or not value:
        return value
    if len(value) == 3 and all(isinstance(v, int) and not isinstance(v, bool) and abs(v) < 10 for v in value):
        return "".join(map(str, value))
    texts = [listed(v) for v in value]
    return ", ".join(texts) if all(isinstance(t, str) for t in texts) else value


def _word(value: Any, options: tuple[str, ...], where: str) -> str:
    if not isinstance(value, str):
        read = "YAML reads no, off, yes, on and an empty value as no text; " if value is None or \
            isinstance(value, bool) else ""
        wanted = f"one of {options}" if options else "a text in quotes"
        raise InputError(f"{where} is {value!r}; {read}expected {wanted}")
    if options and value not in options:
        near = difflib.get_close_matches(value, options, 1)
        raise InputError(f"{where} is {value!r}; expected one of {options}"
                         + (f"; did you mean {near[0]!r}?" if near else ""))
    return value


def _scalar(value: Any, default: float, meta: Mapping[str, Any], where: str) -> float:
    (low, high), value = meta["bounds"], in_units(value, meta["units"], where)
    whole = isinstance(default, int)
    if not _is_number(value) or not low <= value <= high or (whole and value != int(value)):
        raise InputError(f"{where} is {value!r}; expected one {'whole ' if whole else ''}number from {low} to {high} "
                         f"[{meta['units']}]")
    return int(value) if whole else float(value)


def _span(value: Any, default: Span, meta: Mapping[str, Any], where: str) -> Span:
    """Read [low, high] or {low, high, scale}."""
    low, high = meta["bounds"]
    expected = f"expected [low, high] within {low} to {high} [{meta['units']}], low not above high, or one number"
    if isinstance(value, Span):
        value = {"low": value.low, "high": value.high, "scale": value.scale}
    if isinstance(value, Mapping):
        unknown(value, ["low", "high", "scale"], where)
    else:
        if isinstance(value, str | int | float) and _is_number(_alone(value, meta["units"], where)):
            value = [value, value]  # always the same
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise InputError(f"{where} is {value!r}; {expected}")
        value = {"low": value[0], "high": value[1]}
    scale = value.get("scale", default.scale)
    ends = [in_units(value.get(end), meta["units"], where) for end in ("low", "high")]
    if not all(map(_is_number, ends)) or not low <= ends[0] <= ends[1] <= high:
        empty = "an empty range, its low end above its high one; " if all(map(_is_number, ends)) \
            and ends[0] > ends[1] else ""
        raise InputError(f"{where} is {ends!r}, {empty}{expected}" if empty else f"{where} is {ends!r}; {expected}")
    if scale not in SCALES or (scale == "log" and ends[0] <= 0):
        raise InputError(f"{where} is drawn with scale {scale!r} from {ends[0]!r}; expected one of {SCALES}, "
                         f"and a range above 0 for 'log'")
    if meta.get("whole") and any(end != int(end) for end in ends):
        raise InputError(f"{where} is {ends!r}; expected whole numbers, such as [{int(ends[0])}, {int(ends[1]) + 1}]")
    return Span(float(ends[0]), float(ends[1]), scale)


def _alone(value: Any, units: str, where: str) -> Any:
    """Read one number in place of a range."""
    try:
        return in_units(value, units, where)
    except InputError as error:
        raise InputError(f"{error}, or two of them as [low, high]") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
