"""What ``hrtem-dask run`` does around a campaign: gather files, find workers, show progress, say the end."""

from __future__ import annotations

import contextlib
import glob
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from .io.natural import natural_key

if TYPE_CHECKING:
    from .campaign.config import CampaignConfig
    from .campaign.results import Campaign
    from .campaign.runner import Progress

__all__ = ["finish", "gather", "run_visibly", "seconds", "showing"]

#: time between two log lines where there is no terminal [second]
LOG_EVERY = 5.0
OK, SOME_FAILED = 0, 3


def gather(sources: Sequence[str]) -> str | list[str]:
    """Make one source of the arguments: one path as it is, many files as a list in natural order.

    Examples
    --------
    >>> gather(["b10.png", "b9.png"]), gather(["folder"])
    (['b9.png', 'b10.png'], 'folder')
    """
    if len(sources) == 1:
        return sources[0]
    files: list[str] = []
    for source in sources:
        found = glob.glob(source, recursive=True) if glob.has_magic(source) else []  # noqa: PTH207
        files += found or [source]
    return sorted(dict.fromkeys(files), key=natural_key)


def run_visibly(config: CampaignConfig, where: str, workers: int | None) -> Campaign:
    """Run a campaign on workers that exist only for it, with progress on the terminal or in the log."""
    from .campaign.runner import plan_campaign, run_campaign

    config, plan = plan_campaign(config)
    click.echo(f"{counted(plan.n_frames, 'frame')} of {plan.movie.sizes['y']} x {plan.movie.sizes['x']} pixels, "
               f"{plan.todo_frames} to compute", err=True)
    if not plan.todo:
        return run_campaign(config)
    with _workers(where, workers, len(plan.todo)) as client, showing("frames") as progress:
        return run_campaign(config, client=client, progress=progress)


@contextlib.contextmanager
def _workers(where: str, workers: int | None, units: int) -> Iterator[object]:
    from .cluster import connect, dashboard_link
    from .core.machine import available_cores

    if workers is None and where in ("local", "threads"):
        workers = min(available_cores(), units)  # more would only have to be started
    if where == "local" and workers == 1:
        where = "threads"
    click.echo(f"starting workers ({where}) ...", err=True)
    with connect(where, workers=workers) as client:
        link = dashboard_link(client)
        click.echo(f"dashboard: {link}" if link else "no dashboard", err=True)
        yield client


@contextlib.contextmanager
def showing(what: str) -> Iterator[Callable[[Progress], None]]:
    """Yield a callback that draws a bar on a terminal, and writes a line now and then elsewhere."""
    if sys.stderr.isatty():
        with _bar(what) as draw:
            yield draw
    else:
        yield _log_lines(what)


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[Progress], None]]:
    bars: list = []

    def draw(now: Progress) -> None:
        if not bars:
            bars.append(click.progressbar(length=now.total, label=what, file=sys.stderr, show_pos=True, width=0))
            bars[0].__enter__()
            bars[0].update(now.reused)
        bars[0].update(now.finished - bars[0].pos)

    try:
        yield draw
    finally:
        for bar in bars:
            bar.__exit__(None, None, None)


def _log_lines(what: str) -> Callable[[Progress], None]:
    last = [-LOG_EVERY]

    def draw(now: Progress) -> None:
        done = now.finished == now.total
        if done or time.monotonic() - last[0] >= LOG_EVERY:
            last[0] = time.monotonic()
            left = now.seconds / now.computed * (now.total - now.finished) if now.computed else None
            click.echo(f"{now.finished} of {now.total} {what} done, {now.failed} failed, {seconds(now.seconds)}"
                       + (f", about {seconds(left)} left" if left else ""), err=True)

    return draw


def seconds(value: float) -> str:
    """Say a duration for people.

    Examples
    --------
    >>> seconds(4.2), seconds(200), seconds(8000)
    ('4 s', '3 min 20 s', '2 h 13 min')
    """
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(n: int, what: str) -> str:
    """Say how many.

    Examples
    --------
    >>> counted(1, "frame"), counted(20, "frame")
    ('1 frame', '20 frames')
    """
    return f"{n} {what}{'' if n == 1 else 's'}"


def readable(campaign: Campaign) -> str:
    """Say how many frames can be read, which, and why the others cannot."""
    from .campaign.verdicts import listing

    verdicts = campaign.verdicts
    kept = verdicts.frame[verdicts.keep].to_numpy()
    counts = verdicts.reason[~verdicts.keep].astype(str).value_counts()
    which = f" ({listing(kept)})" if len(kept) else ""
    rest = f"; the others: {', '.join(f'{n} {reason}' for reason, n in counts.items())}" if len(counts) else ""
    return (f"readable: {len(kept)} of {counted(len(verdicts), 'frame')}{which}{rest}. "
            f"List: {campaign.out / 'verdicts.csv'}")


def counted_events(campaign: Campaign) -> list[str]:
    """Say what is known of diffusion events; nothing where no columns were asked for."""
    said = campaign.diffusion
    if campaign.config.columns is None or said is None:
        return []
    lines = ["", "diffusion events of surface columns:", *(f"  {line}" for line in said["text"].splitlines())]
    left = ", ".join(f"{n} {reason}" for reason, n in said["frames_dropped"].items())
    if left:
        lines.append(f"  Frames left out before counting: {left}.")
    return [*lines, f"  Tables: {campaign.out / 'rate.csv'}, events.csv, sites.csv, drift.csv", ""]


def finish(campaign: Campaign) -> int:
    """Write the report, say what happened, and return the exit code."""
    from .report import write_report

    if campaign.computed or not (campaign.out / "report.html").exists():
        click.echo("making the report ...", err=True)
        write_report(campaign.out)
    failed = campaign.failed
    for number, message in list(failed.items())[:5]:
        click.echo(f"frame {number} failed: {message}", err=True)
    if campaign.computed:
        click.echo(f"computed {counted(campaign.computed, 'frame')}, {campaign.reused} were done before, "
                   f"{len(failed)} failed; {counted(len(campaign.particles), 'particle')}")
    else:
        click.echo(f"nothing to compute: all {campaign.reused} frames were done before with these settings")
    click.echo(readable(campaign))
    for line in counted_events(campaign):
        click.echo(line)
    click.echo(f"report: {campaign.out / 'report.html'}")
    return SOME_FAILED if failed else OK
