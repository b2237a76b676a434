"""A recipe for the own microscope: a shipped one, its ranges narrowed to what the user's data are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

from ..core.errors import InputError, MissingInputError, WriteError
from ..core.provenance import package_version
from ..detector.mtf import MTF
from .keys import Span
from .recipe import SECTIONS, Recipe, crystals_of, load_recipe

__all__ = ["OwnRecipe", "own_recipe"]

#: relative width, to both sides, of the range about a single pixel size: calibrations are not better
PIXEL_MARGIN = 0.05
VOLTAGES = (20.0, 1500.0)  # kV
#: a camera whose counts are fewer than this an electron does not count in whole numbers
WHOLE_COUNTS = 1.0
EXAMPLE = {"voltage": "300", "pixel_size": "0.2", "dose_range": "20 500", "defocus_range": "100 500"}


@dataclass(frozen=True)
class OwnRecipe:
    """A recipe and how it differs from the one that it was made of.

    ``changed`` has for each key, as ``imaging.dose``, the value before and where the new one is from.
    """

    recipe: Recipe
    base: Recipe
    changed: Mapping[str, tuple[Any, str]]

    def to_yaml(self) -> str:
        """Return the recipe as YAML: every key with its unit, and what it was where it was changed.

        Examples
        --------
        >>> text = own_recipe("au-particles", name="mine", voltage=200).to_yaml()
        >>> next(line for line in text.splitlines() if "energy" in line)
        '  energy: 200.0  # CHANGED, was 300.0: --voltage [kV] of the electrons'
        """
        lines = [f"# Recipe {self.recipe.name!r}: {self.base.name!r} for one microscope, by hrtem-dask "
                 f"{package_version()}.",
                 "# Every value stands here, so that other defaults of a later version change nothing.",
                 f"# {len(self.changed)} differ from {self.base.name!r}: look for CHANGED.",
                 f"name: {_scalar(self.recipe.name)}"]
        for section in SECTIONS:
            content = getattr(self.recipe, section)
            lines += ["", f"{section}:"]
            for f in fields(content):
                was = self.changed.get(f"{section}.{f.name}")
                note = f"CHANGED, was {_short(was[0])}: {was[1]} " if was else ""
                units = f"[{f.metadata['units']}] " if f.metadata["units"] not in ("", "1") else ""
                lines.append(f"  {f.name}: {_value(getattr(content, f.name))}  # {note}{units}{f.metadata['about']}")
        return "\n".join(lines) + "\n"

    def write(self, path: str | Path) -> Path:
        """Write the YAML file and read it back; a file that says the same already is left alone.

        Raises
        ------
        InputError
            If there is another recipe in that file already.
        WriteError
            If the file cannot be written.
        """
        path = Path(path)
        if path.is_file() and load_recipe(path) != self.recipe:
            raise InputError(f"{path} is there already with other values; expected the recipe that these options make. "
                             f"Choose another --out, or remove it and the sets beside it")
        if not path.is_file():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self.to_yaml(), encoding="utf-8")
            except OSError as error:
                raise WriteError(f"the recipe could not be written: {error}") from error
        if load_recipe(path) != self.recipe:
            raise WriteError(f"{path} reads back as another recipe; this is an error of hrtem-dask, please report it")
        return path

    def summary(self) -> list[str]:
        """Say in a line each what was changed."""
        rows = []
        for key, (was, why) in self.changed.items():
            section, name = key.split(".")
            rows.append(f"{key}: {_short(getattr(getattr(self.recipe, section), name))} (was {_short(was)}; {why})")
        return rows

    def notes(self) -> list[str]:
        """Say what of the new values a user should look at twice."""
        imaging, said = self.recipe.imaging, []
        if "imaging.defocus" in self.changed and imaging.defocus.high < 0:
            low, high = -imaging.defocus.high, -imaging.defocus.low
            said.append(f"the defocus is overfocus by {low:g} to {high:g} angstrom, for positive is underfocus here; "
                        f"where your microscope calls underfocus negative, type --defocus-range {low:g} {high:g}")
        if "imaging.mtf" in self.changed:
            mtf = MTF.from_json(imaging.mtf)
            if not mtf.counts_per_electron >= WHOLE_COUNTS:
                found = f"{mtf.counts_per_electron:.3g}" if math.isfinite(mtf.counts_per_electron) else "unknown"
                said.append(f"the counts per electron of the MTF are {found}: the simulated counts are not digitised")
            said += [f"of the MTF: {note}" for note in mtf.notes]
        return said


def own_recipe(
    base: str | Path | Mapping[str, Any] | Recipe = "au-particles",
    *,
    name: str,
    mtf: MTF | str | Path | None = None,
    voltage: float | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    dose_range: tuple[float, float] | None = None,
    defocus_range: tuple[float, float] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> OwnRecipe:
    """Adapt a recipe to one microscope and camera.

    Parameters
    ----------
    base : str, Path, mapping or Recipe
        What `load_recipe` takes.
    name : str
        Name of the new recipe.
    mtf : MTF, str or Path, optional
        Of the camera, or its file from ``hrtem-dask fit-mtf``. Where it tells the counts an electron
        (1 or more) and the read-out noise, the simulated camera has them too.
    voltage : float, optional
        [kV]
    pixel_size : float or (float, float), optional
        [angstrom], of the camera in the specimen; one number stands for a range of 5 % to both sides.
    dose_range : (float, float), optional
        [electrons/angstrom^2], of one frame.
    defocus_range : (float, float), optional
        [angstrom], positive is underfocus: (-500, -100) is overfocus by 100 to 500 angstrom.
    changes : mapping, optional
        Any other keys, as ``{"imaging.cs": [1.1, 1.3]}``.

    Returns
    -------
    OwnRecipe

    Raises
    ------
    InputError
        If a value is impossible, in another unit, an inverted range, or pixels are too coarse for
        the lattice; the message says what to give instead.
    MissingInputError
        If there is no such recipe or file.

    Examples
    --------
    >>> own = own_recipe("au-particles", name="mine", voltage=200, dose_range=(20, 500), defocus_range=(-500, -100))
    >>> own.recipe.imaging.dose, own.recipe.field.energy
    (Span(low=20.0, high=500.0, scale='log'), 200.0)
    >>> own.recipe.imaging.defocus, own.recipe.imaging.overfocus_fraction
    (Span(low=-500.0, high=-100.0, scale='linear'), 0.0)
    """
    base = load_recipe(base)
    new: dict[str, tuple[Any, str]] = {}
    if voltage is not None:
        new["field.energy"] = (checked_voltage(voltage), "--voltage")
    if pixel_size is not None:
        low, high = _pixel_range(pixel_size)
        new["imaging.pixel_size"] = ({"low": low, "high": high, "scale": "log"}, "--pixel-size")
    if dose_range is not None:
        low, high = _ordered("dose_range", dose_range, "electrons/angstrom^2 a frame", positive=True)
        new["imaging.dose"] = ({"low": low, "high": high, "scale": "log"}, "--dose-range")
    if defocus_range is not None:
        low, high = _ordered("defocus_range", defocus_range, "angstrom, positive is underfocus")
        new["imaging.defocus"] = ({"low": low, "high": high, "scale": "linear"}, "--defocus-range, positive is "
                                  "underfocus")
        new["imaging.overfocus_fraction"] = (0.0, "--defocus-range says the sign")
    if mtf is not None:
        new |= _camera(mtf)
    for key, value in (changes or {}).items():
        section = key.partition(".")[0]
        if section not in SECTIONS or not key.partition(".")[2]:
            raise InputError(f"found the key {key!r}; expected SECTION.KEY as imaging.cs, with a section of "
                             f"{list(SECTIONS)}. All keys: hrtem-dask simulate {base.name} --describe")
        new[key] = (value, f"--set {key}")
    return _changed(base, name, new)


def checked_voltage(value: Any) -> float:
    """Return an acceleration voltage [kV]; refuse what can only be another unit.

    Examples
    --------
    >>> checked_voltage(300)
    300.0
    >>> checked_voltage(300_000)
    Traceback (most recent call last):
        ...
    hrtem_dask.core.errors.InputError: voltage is 300000; expected kilovolt, from 20 to 1500. This looks like volt: type --voltage 300
    """  # noqa: E501
    low, high = VOLTAGES
    if not _is_number(value) or not low <= value <= high:
        hint = ""
        if _is_number(value) and low <= value / 1000 <= high:
            hint = f". This looks like volt: type --voltage {value / 1000:g}"
        elif _is_number(value) and low <= value * 1000 <= high:
            hint = f". This looks like megavolt: type --voltage {value * 1000:g}"
        raise InputError(f"voltage is {_plain(value)}; expected kilovolt, from {low:g} to {high:g}{hint}")
    return float(value)


def _pixel_range(value: Any) -> tuple[float, float]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        low, high = _ordered("pixel_size", value, "angstrom", positive=True)
    else:
        if not _is_number(value) or value <= 0:
            raise InputError(f"pixel_size is {_plain(value)}; expected a number of angstrom above 0, as --pixel-size "
                             f"{EXAMPLE['pixel_size']}")
        low, high = (float(f"{value * f:.6g}") for f in (1 - PIXEL_MARGIN, 1 + PIXEL_MARGIN))
    if high > 2 or low < 0.02:
        near = [(f, unit) for f, unit in ((0.01, "picometre"), (10, "nanometre")) if 0.05 <= high * f <= 1.2]
        hint = f". This looks like {near[0][1]}: type --pixel-size {high * near[0][0]:.3g}" if near else ""
        raise InputError(f"pixel_size is {_plain(value)}; expected angstrom, from 0.02 to 2{hint}")
    return low, high


def _ordered(name: str, value: Any, units: str, *, positive: bool = False) -> tuple[float, float]:
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2 or not all(map(_is_number, value)):
        raise InputError(f"{name} is {_plain(value)}; expected two numbers [{units}], as {option} "
                         f"{EXAMPLE.get(name, '')}")
    low, high = map(float, value)
    if low > high:
        raise InputError(f"{name} is {low:g} to {high:g}, an inverted range; expected the lower end first "
                         f"[{units}]: type {option} {high:g} {low:g}")
    if positive and low <= 0:
        raise InputError(f"{name} is {low:g} to {high:g}; expected numbers above 0 [{units}], as {option} "
                         f"{EXAMPLE.get(name, '')}")
    return low, high


def _camera(source: MTF | str | Path) -> dict[str, tuple[Any, str]]:
    """Keys of the recipe that a fitted MTF tells."""
    if isinstance(source, MTF):
        mtf, where = source, "--mtf"
    else:
        path = Path(source)
        where = f"--mtf {path.name}"
        if not path.is_file():
            raise MissingInputError(f"there is no file {path}; expected what hrtem-dask fit-mtf VACUUM... --out "
                                    f"mtf.json writes")
        mtf = read_mtf(path)
    new: dict[str, tuple[Any, str]] = {
        "imaging.mtf": (replace(mtf, spectrum=None, covariance=None).to_json(), where)}
    counts, read = mtf.counts_per_electron, mtf.read_noise
    if math.isfinite(counts) and counts >= WHOLE_COUNTS:
        new["imaging.gain"] = ([counts, counts], f"counts per electron of {where}")
    if math.isfinite(counts) and counts > 0 and math.isfinite(read) and read > 0:
        new["imaging.read_noise"] = ([read / counts] * 2, f"read-out noise of {where}")
    return new


def read_mtf(path: Path) -> MTF:
    """Read the file of an MTF; whatever is wrong with it, say so with the name of the file.

    Raises
    ------
    InputError
        If the file is not the JSON that ``hrtem-dask fit-mtf`` writes.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if not text.lstrip().startswith("{"):
            raise InputError(f"it begins with {text.lstrip()[:20]!r}")
        return MTF.from_json(text)
    except (InputError, TypeError, ValueError, KeyError, OSError) as error:
        raise InputError(f"{path} cannot be read as an MTF ({error}); expected the JSON that 'hrtem-dask fit-mtf "
                         f"VACUUM... --out mtf.json' writes") from error


def _changed(base: Recipe, name: str, new: Mapping[str, tuple[Any, str]]) -> OwnRecipe:
    content = base.to_dict() | {"name": name}
    changed = {}
    for key, (value, why) in new.items():
        section, entry = key.split(".", 1)
        kinds = {f.name for f in fields(getattr(base, section))}
        if entry in kinds:  # load_recipe refuses the others and names the nearest
            changed[key] = (getattr(getattr(base, section), entry), why)
        content[section] = content[section] | {entry: value}
    resolve = content["imaging"]["resolve"]
    # checked without the pixel size first, so that the message about it can be our own
    loose = load_recipe(content | {"imaging": content["imaging"] | {"resolve": 0}})
    recipe = replace(loose, imaging=replace(loose.imaging, resolve=resolve))
    _check_pixels(recipe)
    recipe = load_recipe(content)
    same = {k for k, (was, _) in changed.items() if getattr(getattr(recipe, k.split(".")[0]), k.split(".")[1]) == was}
    return OwnRecipe(recipe, base, {k: v for k, v in changed.items() if k not in same})


def _check_pixels(recipe: Recipe) -> None:
    """Refuse pixels too coarse for the lattices that the recipe says must be held, naming what is lost."""
    largest = recipe.imaging.pixel_size.high
    lost = {crystal: [d for d in spacings[: recipe.imaging.resolve] if d <= 2 * largest]
            for crystal, spacings in crystals_of(recipe).items()}
    gone = [d for spacings in lost.values() for d in spacings]
    if gone:
        said = "; ".join(f"{crystal} d = {', '.join(f'{d:.3f}' for d in ds)} angstrom"
                         for crystal, ds in lost.items() if ds)
        raise InputError(f"pixels of up to {largest:.4g} angstrom (a single --pixel-size stands for 5 % to both sides) "
                         f"are too coarse for the lattice: Nyquist is d = {2 * largest:.4g} angstrom, and these "
                         f"spacings are lost: {said}. Expected a --pixel-size below "
                         f"{min(gone) / 2 / (1 + PIXEL_MARGIN):.3f}, or --set imaging.resolve=0 to find particles "
                         f"without any lattice")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> str:
    return f"{value:.10g}" if _is_number(value) else repr(value)


def _value(value: Any) -> str:
    if isinstance(value, Span):
        return f"{{low: {value.low!r}, high: {value.high!r}, scale: {value.scale}}}"
    return _scalar(value) if isinstance(value, str) else repr(value)


def _scalar(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _short(value: Any) -> str:
    text = str(value)
    return "none" if text == "" else "a fitted MTF" if text.startswith("{") else text
