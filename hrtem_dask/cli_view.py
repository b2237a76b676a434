"""The command that shows a movie or the results of a campaign in napari."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from .core.errors import InputError

__all__ = ["view"]


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="PATH...")
@click.option("--pixel-size", type=float, help="Pixel size [angstrom] of a movie, instead of what the files say.")
@click.option("--frame-time", type=float, help="Time between frames [second].")
def view(sources: tuple[str, ...], pixel_size: float | None, frame_time: float | None) -> None:
    """Show a movie or results in napari.

    PATH is the folder of results of hrtem-dask run, or a movie: a folder, a pattern, a stack, a store,
    or many files. Frames are computed as they are looked at. Needs napari: pip install
    'hrtem-dask[viewer]'.
    """
    from .cli_run import gather
    from .view import show_layers, view_layers

    if find_spec("napari") is None:
        raise click.UsageError("napari is not installed. Type: pip install 'hrtem-dask[viewer]'")
    layers = view_layers(gather(sources), pixel_size=pixel_size, frame_time=frame_time)
    try:
        show_layers(layers, title=f"hrtem-dask: {Path(sources[0]).name}")
    except InputError as error:
        raise click.UsageError(str(error)) from error
