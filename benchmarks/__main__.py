"""The command: ``python -m benchmarks``; see the docstring of the package."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import benchmarks

from .common import Options, Table, machine, versions

#: in the order of the file that is written; the last takes long and is not part of --quick
NAMES = ("kernel", "tiling", "scaling", "graph", "start", "simulation", "low_dose", "gigapixel")
HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run what the command line asks for; return the file that was written."""
    from hrtem_dask.core.machine import available_cores

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"some of {', '.join(NAMES)}; by default all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all works; no figures to quote")
    parser.add_argument("--threads", type=int, default=available_cores(), help="cores to use; by default all")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of timings for each ratio")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", help="Markdown file to write")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown or options.threads < 1 or options.repeats < 1:
        parser.error(f"found names {unknown}, {options.threads} threads, {options.repeats} repeats; expected names "
                     f"out of {', '.join(NAMES)}, and numbers of at least 1")
    names = options.names or [n for n in NAMES if not (options.quick and n == "gigapixel")]
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if arguments is None else arguments)])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for text in reports(names, Options(options.threads, options.repeats, options.quick), command):
        options.out.write_text(text, encoding="utf-8")  # after each one, so that an interrupted run leaves something
    print(f"wrote {options.out}")
    return options.out


def reports(names: Sequence[str], options: Options, command: str) -> Iterator[str]:
    """Run benchmarks one after the other; after each give the whole file so far."""
    when = datetime.datetime.now(datetime.UTC)
    lines = ["# Benchmarks", "", f"Measured on {when:%Y-%m-%d at %H:%M} UTC by `{command}`; "
             "`benchmarks/__init__.py` says how to read the tables.", "",
             *[f"- {line}" for line in (*machine(), versions())], ""]
    if options.quick:
        lines += ["**Quick run at tiny sizes: the figures mean nothing.**", ""]
    for name in names:
        print(f"{name} ...", flush=True)
        started = time.perf_counter()
        tables = _tables(name, options)
        lines += [f"## {name}", "", *[t.markdown() for t in tables],
                  f"Took {time.perf_counter() - started:.0f} s.", ""]
        print("\n".join(t.markdown() for t in tables), flush=True)
        yield "\n".join(lines)


def _tables(name: str, options: Options) -> list[Table]:
    # gigapixel.py is a command of its own with more options
    module = import_module(f"{__package__}.{'gigapixel_tables' if name == 'gigapixel' else name}")
    return module.tables(options)


if __name__ == "__main__":
    main()
