"""The errors that a user meets, in one place.

Every message says what was found, what was expected, and what to type instead.
"""

from __future__ import annotations

__all__ = ["CalibrationError", "HrtemDaskError", "InputError", "MissingInputError", "ReadError", "WriteError"]


class HrtemDaskError(Exception):
    """Base of all errors that this package raises on purpose."""


class InputError(HrtemDaskError, ValueError):
    """An argument or a data set is not what the function can work with."""


class CalibrationError(InputError):
    """The pixel size is missing, impossible, or contradicts the coordinates."""


class ReadError(HrtemDaskError, OSError):
    """A file could not be read; the message names it."""


class MissingInputError(ReadError, FileNotFoundError):
    """There is no such path, or a folder or pattern without any image."""


class WriteError(HrtemDaskError, OSError):
    """A result could not be written (disk full, no permission, not a folder); the message names the path."""
