"""What a file is that was given as weights and is none; looks at its first bytes and opens nothing that could run."""

from __future__ import annotations

import io
import zipfile
from pathlib import PurePath

__all__ = ["what_it_is"]

#: first bytes -> what such a file is
MAGIC = {
    b"\x93NUMPY": "a numpy array (.npy)", b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes it",
    b"\x1f\x8b": "gzip-compressed", b"GIF8": "a picture", b"\x89PNG": "a picture", b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle", b"\x80\x04": "a pickle", b"\x80\x05": "a pickle", b"TFL3": "a TensorFlow Lite model",
}
#: part of the name of a file in a zip archive -> what the archive is
ARCHIVES = {"data.pkl": "a PyTorch file (.pt), which holds a pickle", ".npy": "a numpy archive (.npz)",
            "model.weights.h5": "a Keras model"}


def what_it_is(payload: bytes, name: str = "") -> str:
    """Say in words what a file is that is no safetensors file.

    Parameters
    ----------
    payload : bytes
        Its content.
    name : str
        Its name.

    Examples
    --------
    >>> what_it_is(b""), what_it_is(bytes([8, 7, 18]), "net.onnx")
    ('empty', 'an ONNX model by its name')
    """
    if not payload:
        return "empty"
    if payload.startswith(b"PK"):
        return archive(payload)
    for magic, what in MAGIC.items():
        if payload.startswith(magic):
            return what
    if PurePath(name).suffix.lower() in (".onnx", ".ort"):
        return "an ONNX model by its name"
    if payload[4:8] == b"TFL3":
        return MAGIC[b"TFL3"]
    try:
        payload[:4096].decode("ascii")
    except UnicodeDecodeError:
        return "of an unknown format, cut off, or damaged"
    return "text"


def archive(payload: bytes) -> str:
    """Say what a zip archive is by the names in it."""
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as z:
            names = z.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return "a damaged zip archive"
    return next((what for part, what in ARCHIVES.items() if any(n.endswith(part) for n in names)), "a zip archive")
