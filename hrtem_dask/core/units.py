r"""Units as microscopes and other programs spell them, turned into angstrom and seconds.

Files say ``nm``, ``n_m``, ``A``, ``Å`` (U+00C5 and U+212B), ``micron``, ``\u00B5m`` or, where a Japanese
code page was read as Western text, ``ƒÊm``. Whatever is not a length (reciprocal lengths, angles) is
answered with None, never with a guess.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

__all__ = ["is_reciprocal_length", "length_to_angstrom", "tidy_unit", "time_to_second"]

_LENGTHS = {
    "a": 1.0, "å": 1.0, "ang": 1.0, "angstrom": 1.0, "angstroem": 1.0, "ångström": 1.0, "ångstrom": 1.0,
    "fm": 1e-5, "pm": 1e-2, "picometer": 1e-2, "nm": 10.0, "nanometer": 10.0,
    "um": 1e4, "micron": 1e4, "micrometer": 1e4, "mm": 1e7, "millimeter": 1e7,
    "cm": 1e8, "centimeter": 1e8, "m": 1e10, "meter": 1e10, "inch": 2.54e8,
}  # fmt: skip
_TIMES = {
    "ns": 1e-9, "nanosecond": 1e-9, "us": 1e-6, "microsecond": 1e-6, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3,
    "s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0,
}  # fmt: skip
#: text that was encoded in one code page and read in another: what it says, what it meant
_MISREAD = {
    "ƒÊ": "u",  # Shift-JIS bytes of mu read as Western
    "Âµ": "u", "Î¼": "u",  # UTF-8 bytes of the two micro signs read as Western
    "Ã…": "å", "Ã\x85": "å", "â„«": "å",  # UTF-8 bytes of the two angstrom signs read as Western
    "\\u00b5": "u", "\\u00B5": "u", "\\u00c5": "å", "\\u00C5": "å",  # escapes that ImageJ writes as text
}  # fmt: skip


def tidy_unit(unit: Any) -> str:
    """Bring a unit into one spelling: lower case, no blanks, one micro and one angstrom sign.

    Examples
    --------
    >>> tidy_unit("ƒÊm"), tidy_unit("[n_m]"), tidy_unit("Nanometres"), tidy_unit(None)
    ('um', 'nm', 'nanometer', '')
    """
    if isinstance(unit, bytes):
        try:
            unit = unit.decode("utf-8")
        except UnicodeDecodeError:
            unit = unit.decode("latin-1")
    if not isinstance(unit, str):
        return ""
    for wrong, right in _MISREAD.items():
        unit = unit.replace(wrong, right)
    unit = unicodedata.normalize("NFKC", unit).replace("µ", "u").replace("μ", "u").casefold()
    unit = re.sub(r"[\s_\[\]()\x00]", "", unit).replace("−", "-")
    unit = unit.replace("metre", "meter")
    return unit[:-1] if len(unit) > 3 and unit.endswith("s") and unit[:-1] in (_LENGTHS | _TIMES) else unit


def length_to_angstrom(value: float, unit: Any) -> float | None:
    """Convert a length to angstrom.

    Parameters
    ----------
    value : float
        The number.
    unit : str or None
        Its unit in any common or broken spelling.

    Returns
    -------
    float or None
        The length [angstrom]; None where the unit is missing, unknown or no length.

    Examples
    --------
    >>> length_to_angstrom(0.059, "nm"), length_to_angstrom(5, "1/nm"), length_to_angstrom(1.0, "")
    (0.59, None, None)
    """
    factor = _LENGTHS.get(tidy_unit(unit))
    return None if factor is None else float(value) * factor


def time_to_second(value: float, unit: Any) -> float | None:
    """Convert a time to seconds; None where the unit is missing, unknown or no time.

    Examples
    --------
    >>> time_to_second(250, "ms"), time_to_second(3, "nm")
    (0.25, None)
    """
    factor = _TIMES.get(tidy_unit(unit))
    return None if factor is None else float(value) * factor


def is_reciprocal_length(unit: Any) -> bool:
    """Whether the unit is one over a length, or an angle: the unit of a diffraction pattern.

    Examples
    --------
    >>> [is_reciprocal_length(u) for u in ("1/nm", "1 / Å", "nm^-1", "n_m⁻1", "mrad", "nm")]
    [True, True, True, True, True, False]
    """
    text = tidy_unit(unit)
    if text in ("mrad", "rad", "deg", "°"):
        return True
    found = re.fullmatch(r"1/(.+)|(.+?)(?:\^|\*\*)?-1", text)
    return bool(found) and (found[1] or found[2]) in _LENGTHS
