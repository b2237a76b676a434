"""The command that fits the MTF of a detector to frames of vacuum."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from .core.errors import WriteError

__all__ = ["fit_mtf"]


@click.command(name="fit-mtf")
@click.argument("files", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File NAME.json to write.")
@click.option("--dark", multiple=True, help="Frames without beam; may be given several times, or as a pattern.")
@click.option("--second", multiple=True, help="Vacuum at another dose; may be given several times, or as a pattern.")
@click.option("--box", nargs=4, type=int, metavar="Y0 Y1 X0 X1",
              help="Where the vacuum is [pixel], the ends not included. By default the smoothest part is found.")
@click.option("--offset", type=float, help="Counts without electrons; 0 where dark frames were subtracted.")
@click.option("--plot", type=click.Path(path_type=Path), help="Picture of data and fit to write, as mtf.png.")
def fit_mtf(files: tuple[str, ...], out: Path, dark: tuple[str, ...], second: tuple[str, ...],
            box: tuple[int, int, int, int] | None, offset: float | None, plot: Path | None) -> None:
    """Fit the MTF of a detector to FILES with frames of vacuum.

    FILES is a folder, a pattern, a stack, or many files of one camera at one dose. 16 frames of
    512 x 512 pixels and some dark frames give the MTF to better than 0.01.
    """
    from .cli_run import gather
    from .detector import fit_mtf as fit

    for path in (out, plot):
        if path is not None and not path.absolute().parent.is_dir():
            raise click.UsageError(f"there is no folder {path.absolute().parent}, where {path.name} is to be written")
    mtf = fit(gather(files), dark=gather(dark) if dark else None, second=gather(second) if second else None,
              box=box or None, offset=offset)
    try:
        mtf.to_json(out)
        if plot is not None:
            mtf.plot().savefig(plot, dpi=150)
    except (OSError, ValueError) as error:  # matplotlib says ValueError of a suffix that it does not know
        raise WriteError(f"the result could not be written: {error}") from error
    counts = mtf.counts_per_electron
    click.echo(f"counts per electron: {counts:.4g} ± {mtf.counts_per_electron_error:.2g}" if np.isfinite(counts) else
               "counts per electron: unknown (give --dark, --second or --offset)")
    for k in (0.5, 1.0):
        click.echo(f"MTF at {k:g} Nyquist: {float(mtf(k)):.3f} ± {float(mtf.error(k)):.3f}")
    for note in mtf.notes:
        click.echo(f"note: {note}")
    click.echo(f"MTF: {out}" + (f", picture: {plot}" if plot else ""))
