"""Options of ``hrtem-dask train`` for the own microscope, and what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from .core.errors import InputError, MissingInputError

__all__ = ["own_options", "split_own", "train_own"]

#: what of the own microscope goes into the recipe
MICROSCOPE = ("mtf", "voltage", "pixel_size", "dose_range", "defocus_range", "changes")
#: what else makes a training one for the own microscope
CURVE = ("target", "test_fields")

OPTIONS = (
    click.option("--mtf", type=click.Path(path_type=Path), help="Own microscope: MTF of the camera, from hrtem-dask "
                                                                "fit-mtf."),
    click.option("--voltage", type=float, help="Own microscope: [kV]."),
    click.option("--pixel-size", type=float, help="Own microscope: pixel size in the specimen [angstrom], +- 5 %."),
    click.option("--dose-range", type=float, nargs=2, metavar="LOW HIGH",
                 help="Own microscope: dose of a frame [electrons/angstrom^2]."),
    click.option("--defocus-range", type=float, nargs=2, metavar="LOW HIGH",
                 help="Own microscope: [angstrom], positive is underfocus."),
    click.option("--set", "changes", multiple=True, metavar="KEY=VALUE",
                 help="Own microscope: any key of the recipe, as imaging.cs=[1.1,1.3]; may be given several times."),
    click.option("--target", type=click.FloatRange(0, 1, min_open=True, max_open=True),
                 help="Own microscope: mean Dice that is enough, 0.9 by default."),
    click.option("--fields", type=click.IntRange(2), help="Structures simulated from a recipe, 480 by default."),
    click.option("--test-fields", type=click.IntRange(5),
                 help="Own microscope: other structures, on which the dose curve is measured, 24 by default."),
)


def own_options(command: Callable) -> Callable:
    """Give a command the options of the own microscope."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def split_own(store: str, options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of the own microscope out of all options; empty where none was given.

    Raises
    ------
    click.UsageError
        If they are given together with a ready set, whose recipe they cannot change any more.
    """
    own = {k: options.pop(k) for k in (*MICROSCOPE, *CURVE)}
    own = {k: v for k, v in own.items() if v is not None and v != ()}
    fields = options.pop("fields")
    given = [f"--{'set' if k == 'changes' else k.replace('_', '-')}" for k in own] + ["--fields"] * (fields is not None)
    if given and Path(store).is_dir():
        raise click.UsageError(f"{store} is a ready set, but {', '.join(given)} change{'s' * (len(given) == 1)} the "
                               f"recipe that sets are made from; give the recipe instead, as hrtem-dask train "
                               f"au-particles {given[0]} ..., or leave {'it' if len(given) == 1 else 'them'} out")
    if fields is not None:
        (own or options)["fields"] = fields
    return own


def train_own(recipe: str, out: Path, own: dict[str, Any], training: dict[str, Any],
              showing: Callable[[str], Callable[..., None]]) -> None:
    """Adapt the recipe, simulate, train, and print the dose curve and which dose is enough."""
    from .networks.own import train_for_microscope
    from .simulate.own import own_recipe

    own = own | {"changes": parse_changes(own.get("changes", ()))}
    try:
        own_recipe(recipe, name=out.stem, **{k: own[k] for k in MICROSCOPE if k in own})
    except (InputError, MissingInputError) as error:
        raise click.UsageError(str(error)) from error
    training.pop("scores", None)  # the dose curve is the score
    found = train_for_microscope(recipe, out=out, report=click.echo, showing=showing, **own, **training)
    click.echo(f"{found.model!r}")
    click.echo("\n".join(found.said()))
    if found.curve:
        weights = found.recipe_file.with_suffix(".safetensors")
        click.echo(f"next: hrtem-dask run FRAMES... --model {weights} --out results")


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE, the value as YAML.

    Examples
    --------
    >>> parse_changes(["imaging.cs=[1.1, 1.3]", "imaging.resolve=0", "particles.species=Au, Pt"])
    {'imaging.cs': [1.1, 1.3], 'imaging.resolve': 0, 'particles.species': 'Au, Pt'}
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise click.UsageError(f"--set is {text!r}; expected KEY=VALUE, as --set imaging.cs=[1.1,1.3]")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise click.UsageError(f"--set {text!r} cannot be read: {' '.join(str(error).split())}") from error
    return found
