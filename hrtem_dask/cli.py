"""The command line: ``hrtem-dask inspect | run | report | export | demo | view | simulate | train | fit-mtf``.

Exit codes: 0 ok, 2 wrong usage, 3 finished but frames failed, 4 failed, 130 and 143 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from .core.errors import CalibrationError, HrtemDaskError, InputError
from .core.provenance import package_version

__all__ = ["main"]

OK, USAGE, SOME_FAILED, FAILED = 0, 2, 3, 4
#: commands that live elsewhere and load only when they are called (training needs torch and abTEM)
ELSEWHERE = {"view": ("cli_view", "Show a movie or results in napari."),
             "simulate": ("cli_train", "Simulate a labelled training set."),
             "train": ("cli_train", "Train a network on a simulated set."),
             "fit-mtf": ("cli_fit_mtf", "Fit the MTF of a detector to frames of vacuum.")}


class Commands(click.Group):
    """Group that loads some commands late, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of a piece of work."""
        return ["inspect", "run", "report", "export", "demo", *ELSEWHERE]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a command by its name, importing it if it lives elsewhere."""
        if name in ELSEWHERE:
            return getattr(import_module(f".{ELSEWHERE[name][0]}", __package__), name.replace("-", "_"))
        return super().get_command(ctx, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing those that live elsewhere."""
        rows = [(n, ELSEWHERE[n][1] if n in ELSEWHERE else self.commands[n].get_short_help_str(80))
                for n in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; errors end in one line and an exit code."""
        try:
            with ending_when_told():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("stopped; finished frames are kept, give the same command again to go on", err=True)
            ctx.exit(130)
        except Terminated:
            click.echo("told to end; what is finished is kept, give the same command again to go on", err=True)
            ctx.exit(143)
        except Exception as error:  # noqa: BLE001 - the last resort: whatever it was, say it in one line
            _say(error, debug=ctx.params.get("debug", False))
            ctx.exit(USAGE if isinstance(error, CalibrationError) else FAILED)


class Terminated(SystemExit):
    """The process was told to end by SIGTERM."""


@contextmanager
def ending_when_told() -> Iterator[None]:
    """End by SIGTERM as by an error: pools are closed and temporary folders removed, which Python would not do."""
    def end(*_: Any) -> None:
        raise Terminated(143)

    # signals belong to the main thread, and to whoever took this one already
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _say(error: Exception, *, debug: bool) -> None:
    if debug:
        click.echo("".join(traceback.format_exception(error)), err=True)
    text = " ".join(str(error).split())
    if isinstance(error, HrtemDaskError):
        click.echo(f"Error: {text}", err=True)
    else:
        click.echo(f"Error: unexpected {type(error).__name__}: {text}. See where: hrtem-dask --debug ...", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show the traceback of an error, and detailed log lines.")
@click.version_option(package_version(), prog_name="hrtem-dask")
def main(debug: bool) -> None:
    """From noisy HRTEM movies to particles, lattices and a report.

    Exit codes: 0 ok, 2 wrong usage, 3 finished but some frames failed, 4 failed.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger(__package__).setLevel(logging.DEBUG if debug else logging.WARNING)
    said: set[str] = set()

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in said:  # a source is opened more than once; its user is told once
            said.add(str(message))
            click.echo(f"Warning: {' '.join(str(message).split())}", err=True)

    warnings.showwarning = warn


@main.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--pixel-size", type=float, help="Pixel size [angstrom] to use instead of what the files say.")
@click.option("--frame-time", type=float, help="Time between frames [second].")
@click.option("--guess-pixel-size", "guess", metavar="CRYSTAL",
              help="Propose a pixel size from the lattice rings of a crystal, as Au.")
@click.option("--dose", type=click.FloatRange(0, min_open=True), help="Dose of a frame [electrons/angstrom^2].")
@click.option("--mtf", type=click.Path(path_type=Path), help="MTF of the camera (hrtem-dask fit-mtf), whose counts per "
                                                             "electron tell the dose.")
@click.option("--offset", type=float, default=0.0, help="Counts without electrons, for --mtf.")
@click.option("--model", default="au-particles", show_default=True, help="Network that is to find particles.")
@click.option("--crystal", default="Au", show_default=True, help="Crystal whose reflections are looked for.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--timing/--no-timing", default=True, show_default=True,
              help="Time a small tile, for about a second, to say how long all would take.")
def inspect(sources: tuple[str, ...], guess: str | None, **asked: Any) -> None:
    """Say what a source is, and whether a network can find particles in it.

    Shown are calibration, dose, the lattice spacings that the pixels hold, the Dice that the card of
    the network promises there, the time it takes on this machine, and what to type next.
    """
    from .cli_inspect import describe, propose, question
    from .cli_run import gather

    good = [describe(sources, question(**asked))]
    if guess and all(good):
        good.append(propose(gather(sources), guess))
    if not all(good):
        sys.exit(FAILED)


@main.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(), help="Folder for everything that is written.")
@click.option("--pixel-size", type=float, help="Pixel size [angstrom], where the files do not say it.")
@click.option("--frame-time", type=float, help="Time between frames [second], where the files do not say it.")
@click.option("--model", default="au-particles", show_default=True, help="Name of a shipped network, or a file.")
@click.option("--threshold", type=float, default=0.5, show_default=True, help="Probability above which is particle.")
@click.option("--min-area", type=float, default=50.0, show_default=True,
              help="Smallest particle that is kept [angstrom^2]; 0 keeps all.")
@click.option("--crystal", help="Search spots on the rings of this crystal only, as Au.")
@click.option("--frames", help="Part of the movie, as 0:100 or 0:1000:10 (the end is not included).")
@click.option("--halo", default="auto", show_default=True, help="Margin of a tile: auto, exact, or pixels.")
@click.option("--window", type=click.Choice(["hamming", "hann", "gaussian"]),
              help="Blend windows that overlap by half instead of trimming a halo; four times the work.")
@click.option("--window-size", type=click.IntRange(1), help="Side of these windows [network pixel].")
@click.option("--augment", type=click.Choice(["1", "4", "8"]), default="1", show_default=True,
              help="Mean over so many turned and mirrored images: steadier, so many times the work.")
@click.option("--mtf", type=click.Path(), help="MTF of the camera (hrtem-dask fit-mtf), for the spot pairs.")
@click.option("--max-ratio", type=float, help="List frames as readable whose particle has at most this peak ratio.")
@click.option("--min-score", type=float, help="List frames as readable whose particle has at least this zone axis "
                                              "score; without other thresholds 0.5.")
@click.option("--max-false-keep", type=float, help="Choose the least score so that at most this share of the frames "
                                                   "that are listed is off the zone axis, as 0.05.")
@click.option("--track", type=int, help="Track of the particle that is judged; by default the largest.")
@click.option("--columns", metavar="[MODEL]", is_flag=False, flag_value="au-columns",
              help="Find the columns of atoms too, and count their diffusion events in the readable frames; without a "
                   "MODEL by the network au-columns. Give it after SOURCES.")
@click.option("--column-threshold", type=float, help="Least probability of a column; by default that of the network.")
@click.option("--time-bin", type=float, help="Length of the parts of the time that get a rate of their own [second].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--title", help="Heading of the report.")
@click.option("--where", default="local", show_default=True,
              help="local, threads, cuda, slurm:FILE.yaml, tcp://HOST:PORT or scheduler-file:PATH.")
@click.option("--workers", type=click.IntRange(1), help="Number of workers; by default what the machine offers.")
@click.option("--retry-failed", is_flag=True, help="Try frames again that failed before.")
def run(sources: tuple[str, ...], where: str, workers: int | None, **options: Any) -> None:
    """Find particles and their lattices, and write a report.

    With --columns also the columns of atoms, and the rate of their diffusion events with its interval.

    SOURCES is a folder, a pattern, a stack, a Zarr store, or many files, which make one movie in
    natural order. A second call with the same --out goes on where the first one was; with another
    --threshold or --min-area it makes new labels from the probabilities that are there.
    """
    from .campaign.config import CampaignConfig
    from .cli_run import finish, gather, run_visibly

    if options["halo"] not in ("auto", "exact"):
        options["halo"] = _whole("--halo", options["halo"])
    options["augment"] = int(options["augment"])
    try:
        config = CampaignConfig(source=gather(sources), **options)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    sys.exit(finish(run_visibly(config, where, workers)))


def _whole(name: str, text: str) -> int:
    if not text.isdigit():
        raise click.UsageError(f"{name} is {text!r}; expected auto, exact, or a whole number of pixels, as 64")
    return int(text)


@main.command()
@click.argument("folder", type=click.Path())
def report(folder: str) -> None:
    """Make report.html of a finished campaign anew."""
    from .report import write_report

    click.echo(f"report: {write_report(folder)}")


@main.command()
@click.argument("folder", type=click.Path())
@click.option("--to", required=True, type=click.Path(), help="Folder to write into.")
@click.option("--what", multiple=True, metavar="KIND",
              help="labels, probability, overlay or tables; may be given several times. By default all.")
@click.option("--fps", type=float, default=10, show_default=True, help="Frames a second of the overlay.")
def export(folder: str, to: str, what: tuple[str, ...], fps: float) -> None:
    """Write TIFF for Fiji, an MP4 overlay, and CSV."""
    from .export import KINDS, export_campaign

    unknown = sorted(set(what) - set(KINDS))
    if unknown:
        raise click.UsageError(f"--what {', '.join(unknown)} is not known; expected some of {', '.join(KINDS)}")
    for path in export_campaign(folder, to, what=what or tuple(KINDS), fps=fps):
        click.echo(path)


@main.command()
@click.option("--out", default="demo", show_default=True, type=click.Path(), help="Folder for movie and results.")
@click.option("--workers", type=click.IntRange(1), help="Number of workers; by default one a core.")
def demo(out: str, workers: int | None) -> None:
    """Simulate a movie, analyse it, compare with the truth."""
    from .cli_demo import run_demo

    sys.exit(run_demo(out, workers))


if __name__ == "__main__":
    main()
