"""Which files a source means, and in which order: paths, patterns, folders and lists."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..core.errors import InputError, MissingInputError

__all__ = ["FAMILIES", "family_of", "find_files", "is_zarr_store", "natural_key"]

#: suffix -> family; files of one family can be frames of one movie
FAMILIES = {
    ".dm3": "DigitalMicrograph", ".dm4": "DigitalMicrograph", ".mrc": "MRC", ".mrcs": "MRC", ".ali": "MRC",
    ".ser": "TIA", ".emi": "TIA", ".tvips": "TVIPS", ".mib": "MIB", ".emd": "EMD", ".hspy": "HyperSpy",
    ".zspy": "HyperSpy (Zarr)", ".hdf5": "HDF5", ".h5": "HDF5", ".tif": "TIFF", ".tiff": "TIFF", ".png": "image",
    ".jpg": "image", ".jpeg": "image", ".bmp": "image", ".npy": "NumPy",
}  # fmt: skip
KNOWN = ".dm3 .dm4 .mrc .ser .emi .tvips .mib .emd .hspy .zspy .hdf5 .tif .tiff .png .jpg .bmp .npy, or a Zarr store"


def natural_key(path: str | os.PathLike[str]) -> tuple:
    """Sort key that counts numbers as numbers, folder by folder.

    Examples
    --------
    >>> sorted(["b10.tif", "b9.tif", "a/2.tif"], key=natural_key)
    ['a/2.tif', 'b9.tif', 'b10.tif']
    """
    return tuple(
        tuple((0, int(piece), "") if piece.isdigit() else (1, 0, piece.casefold())
              for piece in re.split(r"([0-9]+)", part) if piece)
        for part in Path(path).parts
    )  # fmt: skip


def is_zarr_store(path: Path) -> bool:
    """Whether a folder is a Zarr array or group, of format 2 or 3."""
    return path.is_dir() and any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))


def family_of(path: Path) -> str:
    """Return the format family of a file by its suffix.

    Raises
    ------
    InputError
        If the suffix is not one that is read.
    """
    family = FAMILIES.get(path.suffix.lower())
    if family is None:
        raise InputError(f"{path}: unknown format {path.suffix or '(no suffix)'!r}; expected one of {KNOWN}")
    return family


def find_files(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the files that a path, pattern, folder or list means, in the order of the frames.

    A list keeps its own order; a pattern and a folder (searched recursively) are in natural order.

    Raises
    ------
    MissingInputError
        If a path does not exist, a pattern matches nothing, or a folder holds no image.
    InputError
        If a folder mixes formats, or a file is of none that is known.
    """
    if not isinstance(source, (str, os.PathLike)):
        listed = [Path(p).expanduser() for p in source]
        if not listed:
            raise MissingInputError("the list of files is empty; expected at least one path")
        files = [_existing(p) for p in listed]
    else:
        path = Path(source).expanduser()
        if path.is_dir() and not is_zarr_store(path) and path.suffix.lower() != ".zspy":
            files = _in_folder(path)
        elif not path.exists() and glob.has_magic(str(path)):
            files = _matching(str(path))
        else:
            files = [_existing(path)]
    families = Counter("Zarr" if is_zarr_store(p) and p.suffix != ".zspy" else family_of(p) for p in files)
    if len(families) > 1:
        found = ", ".join(f"{n} x {name}" for name, n in families.items())
        raise InputError(f"{source}: several formats ({found}); expected one. Choose by a pattern, as 'dir/**/*.tif'")
    return files


def _existing(path: Path) -> Path:
    if not path.exists():
        raise MissingInputError(f"{path}: no such file or folder; check the path (in a shell, quote patterns)")
    if path.is_dir() and not is_zarr_store(path):
        raise InputError(f"{path}: a folder inside a list or pattern; give the folder alone, or a pattern of files")
    return path


def _matching(pattern: str) -> list[Path]:
    found = [Path(p) for p in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - absolute patterns too
    files = [p for p in found if _is_image(p) or is_zarr_store(p)]
    if not files:
        more = f" ({len(found)} other files match, none of a known format)" if found else ""
        raise MissingInputError(f"{pattern}: no image matches this pattern{more}; expected {KNOWN}")
    return _without_companions(sorted(files, key=natural_key))


def _in_folder(folder: Path) -> list[Path]:
    files: list[Path] = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        stores = [d for d in folders if d.lower().endswith(".zspy")]
        files += [here / d for d in stores]
        folders[:] = [d for d in folders if not d.startswith(".") and d not in stores and not is_zarr_store(here / d)]
        files += [here / n for n in names if _is_image(here / n)]
    if not files:
        raise MissingInputError(f"{folder}: no image in this folder or below; expected {KNOWN}")
    files = _without_companions(sorted(files, key=lambda p: natural_key(p.relative_to(folder))))
    kinds = Counter(re.sub(r"\d+", "#", p.name) for p in files)
    if len(kinds) > 1 and len(kinds) < len(files):
        found = ", ".join(f"{name} ({n})" for name, n in kinds.most_common(5))
        warnings.warn(
            f"{folder}: file names of {len(kinds)} patterns become one movie: {found}. "
            f"If they do not belong together choose by a pattern, as '{kinds.most_common(1)[0][0].replace('#', '*')}'",
            stacklevel=4,
        )
    return files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in FAMILIES and not path.name.startswith((".", "~"))


def _without_companions(files: list[Path]) -> list[Path]:
    """Leave out an .emi beside its .ser, and the later parts of a TVIPS recording, which its reader finds."""
    series = [p for p in files if p.suffix.lower() == ".ser"]
    if series:
        return [p for p in files if p.suffix.lower() != ".emi"]
    first = {p.name[:-9] for p in files if p.name.lower().endswith("_000.tvips")}
    return [p for p in files if p.suffix.lower() != ".tvips" or p.name[:-9] not in first
            or p.name.lower().endswith("_000.tvips")]  # fmt: skip
