"""``hrtem-dask train --fine-tune``: a network that goes on learning with labelled frames of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from click.core import ParameterSource

__all__ = ["fine_tune_option", "fine_tune_with"]

#: options of ``train`` that fine-tuning takes
TAKEN = ("out", "minutes", "iterations", "seed", "workers", "device", "batch", "size", "learning_rate", "start",
         "pixel_size", "fine_tune")

fine_tune_option = click.option(
    "--fine-tune", nargs=2, metavar="FRAMES MASKS",
    help="Instead of a set: go on with labelled frames of your own, beginning with --start (au-particles). Files, "
         "folders or quoted globs; masks hold 0 and 1 (or 255), in the order of the frames.")


def fine_tune_with(context: click.Context, show: Callable[..., None]) -> None:
    """Run ``train --fine-tune`` with the options that were given; refuse those that mean nothing here."""
    from .networks.fine_tuning import fine_tune

    given = {k: v for k, v in context.params.items()
             if context.get_parameter_source(k) is ParameterSource.COMMANDLINE and v not in (None, ())}
    names = {p.name: p.opts[0] for p in context.command.params}
    wrong = [names[k] if names[k].startswith("-") else str(v) for k, v in given.items() if k not in TAKEN]
    if wrong:
        raise click.UsageError(f"{', '.join(wrong)} means nothing with --fine-tune, which learns from the given frames "
                               f"alone; expected FRAMES MASKS and {', '.join(names[k] for k in TAKEN[:-1])}")
    frames, masks = given.pop("fine_tune")
    out: Path = given.pop("out")
    model = fine_tune(frames, masks, out=out, report=click.echo, progress=show,
                      **given | {"workers": context.params["workers"]})
    click.echo(f"{model!r}")
