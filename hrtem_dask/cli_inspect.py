"""What ``hrtem-dask inspect`` says of a source: what it is, and whether a network can find particles in it."""

from __future__ import annotations

import glob
import math
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import xarray as xr

from .cli_run import counted, seconds
from .core.calibration import has_calibration, pixel_size_of
from .core.errors import HrtemDaskError

if TYPE_CHECKING:
    from .analysis.outlook import Dose
    from .detector import MTF
    from .networks.models import Model

__all__ = ["Question", "describe", "propose", "question"]

#: a frame whose sides are fewer network pixels than this shows no particle with its surroundings
SMALLEST = 32
#: beyond this [angstrom] a pixel is no longer that of a lattice image, whatever network is trained
COARSEST = 1.9
#: pixels [angstrom] beyond which a recipe with gold says that its lattice is lost
COARSE_LATTICE = 0.97
MOST_NAMES = 3
#: mean Dice from which on a network finds particles well, and from which on it finds most of them
WELL, MOSTLY = 0.9, 0.7
#: words in the title of an image that was not made with a parallel beam
SCANNED = ("HAADF", "STEM", "BF-S", "DF-S", "SI SURVEY")
INDENT = " " * 16
#: rows that hold a command
COMMANDS = ("next", "or")


@dataclass(frozen=True)
class Question:
    """What is asked of each source: calibration as given, dose [electrons/angstrom^2], MTF, network, crystal.

    ``network`` is how the user calls the model.
    """

    pixel_size: float | None = None
    frame_time: float | None = None
    dose: float | None = None
    mtf: MTF | None = None
    offset: float = 0.0
    model: Model | None = None
    network: str = "au-particles"
    crystal: str = "Au"
    device: str = "auto"
    timing: bool = True


def question(*, mtf: Path | None, model: str, crystal: str, **asked: Any) -> Question:
    """Make the question of the options of the command; refuse a network, an MTF or a crystal that is none."""
    from .kernels.crystal import reflections
    from .networks.models import load_model
    from .simulate.own import read_mtf

    reflections(crystal, 1.0)
    return Question(mtf=read_mtf(mtf) if mtf is not None else None, model=load_model(model), network=model,
                    crystal=crystal, **asked)


def describe(sources: Sequence[str], question: Question) -> bool:
    """Print what sources are and what can be done with them, those that are alike once; False where one cannot be read.

    Files are alike where format, shape, dtype and calibration agree.
    """
    found = [(source, _opened(source, question)) for source in sources]
    for facts, group in groupby(found, key=lambda pair: _facts(pair[1])):
        names, movies = zip(*group, strict=True)
        if isinstance(movies[0], HrtemDaskError):
            click.echo(f"{names[0]}\n  cannot be read: {movies[0]}\n")
            continue
        files = len(movies) if len(movies) > 1 else 0
        click.echo(names[0] if not files else f"{files} files alike: {names[0]} ... {Path(names[-1]).name}")
        rows = [*facts, ("", ""), *_outlook(movies[0], files or 1, question, names)]
        click.echo("\n".join(_row(*row) for row in rows) + "\n")
    return not any(isinstance(movie, HrtemDaskError) for _, movie in found)


def propose(source: str | list[str], crystal: str) -> bool:
    """Print a pixel size proposed from the lattice rings of all files together; False where they do not decide."""
    from .analysis.rings import guess_pixel_size
    from .io.movie import open_movie

    try:
        found = guess_pixel_size(open_movie(source), crystal)
    except HrtemDaskError as error:
        click.echo(f"no pixel size can be proposed: {error}")
        return False
    value = float(f"{found.pixel_size:.4g}")
    click.echo(f"proposed pixel size: {found}\ninferred, not measured; if you agree: --pixel-size {value:g}")
    return True


def _opened(source: str, question: Question) -> xr.DataArray | HrtemDaskError:
    from .io.movie import open_movie

    try:
        return open_movie(source, pixel_size=question.pixel_size, frame_time=question.frame_time)
    except HrtemDaskError as error:
        return error


def _facts(movie: xr.DataArray | HrtemDaskError) -> tuple[tuple[str, str], ...]:
    """Rows of what a movie is; files whose rows agree are alike."""
    if isinstance(movie, HrtemDaskError):
        return (("", str(movie)),)
    rows = [("movie", f"{movie.attrs.get('format', 'array')}, {_shape(movie)}"), ("pixel size", _calibration(movie))]
    if movie.sizes["frame"] > 1 or "time" in movie.coords:
        rows.append(("time", _time(movie)))
    return (*rows, *_microscope(movie))


def _shape(movie: xr.DataArray) -> str:
    size = movie.nbytes
    told = f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB" if size >= 1e5 else f"{size / 1e3:.3g} kB"
    series = f" in focal series of {movie.sizes['defocus']}" if "defocus" in movie.dims else ""
    sides = f"{movie.sizes['y']} x {movie.sizes['x']} pixels (y, x)"
    return f"{counted(movie.sizes['frame'], 'frame')}{series} of {sides}, {movie.dtype}, {told}"


def _calibration(movie: xr.DataArray) -> str:
    if not has_calibration(movie):
        return ("none in the file; give it in angstrom, as --pixel-size 0.59, "
                "or have one proposed: --guess-pixel-size Au")
    py, px = pixel_size_of(movie)
    size = f"{py:.5g} angstrom" if "pixel_size" in movie.attrs else f"{py:.5g} x {px:.5g} angstrom (y, x)"
    where = {"file": "from the file", "user": "given by you"}.get(movie.attrs.get("calibration_source"), "")
    field = f"field of view {py * movie.sizes['y'] / 10:.4g} x {px * movie.sizes['x'] / 10:.4g} nm"
    return ", ".join(t for t in (size, where, field) if t)


def _time(movie: xr.DataArray) -> str:
    if "time" not in movie.coords:
        return "unknown" + ("" if movie.sizes["frame"] == 1 else "; give the time between frames, as --frame-time 0.25")
    time = movie.time.values
    return f"{time[0]:.6g} to {time[-1]:.6g} s" if len(time) > 1 else f"{time[0]:.6g} s"


def _microscope(movie: xr.DataArray) -> list[tuple[str, str]]:
    a = movie.attrs
    energy = f"{a['beam_energy']:g} kV" if isinstance(a.get("beam_energy"), int | float) else ""
    title = f"titled {a['title']!r}" if a.get("title") else ""
    said = [str(t) for t in (a.get("microscope"), energy, title, a.get("date")) if t]
    return [("microscope", ", ".join(said))] if said else []


def _row(name: str, value: str) -> str:
    """One line of the description, folded under itself where it is long; commands are left whole, to be copied."""
    head = f"  {name} " if name.endswith("?") else f"  {name:<14}"
    if name in COMMANDS or not value:
        return (head + value).rstrip()
    return click.wrap_text(value, width=100, initial_indent=head, subsequent_indent=INDENT)


def _outlook(movie: xr.DataArray, files: int, question: Question, names: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Rows that answer "can my data do this?"."""
    from .analysis.outlook import dose_of

    dose = dose_of(movie, dose=question.dose, mtf=question.mtf, offset=question.offset)
    hurdles, fatal = _hurdles(movie, question.model)
    yield f"can {question.model.name} do this?", _verdict(movie, dose, hurdles, fatal, question.model)
    yield "lattice", _lattice(movie, question)
    if not fatal:
        yield "dose", _dose(dose)
        yield "expected Dice", _dice(movie, dose, hurdles, question.model)
    if not fatal and question.timing and has_calibration(movie):
        yield "takes", _takes(movie, files, question)
    yield from _next(movie, dose, hurdles, question, names)


def _hurdles(movie: xr.DataArray, model: Model) -> tuple[dict[str, str], bool]:
    """What keeps a network from doing well here, by its kind, and whether there is no point in trying."""
    from .networks.cards import outside

    card, found = model.card, {}
    title = str(movie.attrs.get("title", "")).upper()
    if any(word in title for word in SCANNED):
        found["scanned"] = (f"the title {movie.attrs['title']!r} says a scanned image; the network learnt bright-field "
                            "TEM")
    channels = movie.sizes.get("defocus", 1)
    if channels != model.weights.in_channels:
        found["series"] = f"a frame has {counted(channels, 'image')} and the network takes {model.weights.in_channels}"
    if has_calibration(movie):
        pixels = pixel_size_of(movie)
        beyond = outside(card, pixels)
        if max(pixels) > COARSEST:
            said = " x ".join(f"{p:.4g}" for p in dict.fromkeys(pixels))
            found["coarse"] = f"pixels of {said} angstrom show no lattice, and particles only as blots"
        elif beyond:
            found["pixels"] = beyond[0]
        side = min(n * p for n, p in zip((movie.sizes["y"], movie.sizes["x"]), pixels, strict=True))
        if side < SMALLEST * float(np.max(card["pixel_size"])):
            found["small"] = (f"the frame is only {side:.3g} angstrom high or wide, fewer than {SMALLEST} pixels of "
                              f"the network")
    return found, bool({"series", "coarse", "small"} & set(found))


def _verdict(movie: xr.DataArray, dose: Dose, hurdles: dict[str, str], fatal: bool, model: Model) -> str:
    from .analysis.outlook import expected_at

    why = "; ".join(hurdles.values())
    if fatal:
        return f"no: {why}"
    if not has_calibration(movie):
        return "cannot be said without the pixel size" + (f"; {why}" if why else "")
    if hurdles:
        return f"doubtful: {why}"
    if math.isnan(dose.value):
        return "yes by its pixel size; how well depends on the dose"
    found = expected_at(model.card, dose.value, max(pixel_size_of(movie)))
    if found is None:
        return "its pixel size fits; the card of the network has no scores"
    if found.outside == "below":
        return f"not reliably: the dose is below {found.dose:g} e/angstrom^2, the lowest that was measured"
    if found.least >= WELL:
        return "yes"
    return ("in part: expect some missing or ragged particles" if found.least >= MOSTLY
            else "not reliably: expect many missing or misshapen particles")


def _lattice(movie: xr.DataArray, question: Question) -> str:
    from .analysis.outlook import resolution_of

    if not has_calibration(movie):
        largest = resolution_of(1e-3, question.crystal).kept[:2]
        return (f"needs the pixel size: {question.crystal} " + " and ".join(
            f"{name} needs pixels below {d / 2:.3g}" for name, d, _ in largest) + " angstrom")
    found = resolution_of(pixel_size_of(movie), question.crystal, mtf=question.mtf)
    head = f"Nyquist is d = {found.nyquist:.4g} angstrom; {question.crystal}: "
    kept = ", ".join(f"{n} ({d:.3f}{'' if math.isnan(m) else f', MTF {m:.2f}'})" for n, d, m in found.kept)
    lost = ", ".join(f"{n} ({d:.3f})" for n, d, _ in found.lost)
    if not kept:
        return head + (f"none is kept, not even {lost.split(',')[0]}" if lost else "no spacing from 1 to 4 angstrom")
    return f"{head}keeps {kept}" + (f"; loses {lost}" if lost else "")


def _dose(dose: Dose) -> str:
    if math.isnan(dose.value):
        return f"unknown: {dose.source}"
    return f"{dose.value:.3g} e/angstrom^2 a frame, {dose.source}"


def _dice(movie: xr.DataArray, dose: Dose, hurdles: dict[str, str], model: Model) -> str:
    from .analysis.outlook import expected_at, score_table

    table, real = score_table(model.card), (model.card.get("scores") or {}).get("real") or {}
    if not table:
        return "not on the card of this network"
    if math.isnan(dose.value):
        text = ", ".join(f"{row[0]:.2f} at {d:g}" for d, row in table.items())
        text = f"mean of simulated frames {text} e/angstrom^2"
    else:
        e = expected_at(model.card, dose.value, max(pixel_size_of(movie)) if has_calibration(movie) else None)
        band = "" if math.isnan(e.low) else f" (95 % interval of the mean {e.low:.2f} to {e.high:.2f})"
        worst = "" if math.isnan(e.worst) else f", the worst {e.worst:.2f}"
        hard = "" if math.isnan(e.hard) else f"; {e.hard:.2f} on hard ones of this pixel size"
        text = f"{e.mean:.2f}{band}, mean of simulated frames{worst}{hard}"
        if e.outside:
            text = (f"{'less than' if e.outside == 'below' else 'about as'} at {e.dose:g} e/angstrom^2, where the "
                    f"card's table ends: {text}")
    if real.get("mean_dice"):
        text += (f"; {real['mean_dice']:.2f} on {len(real.get('images', ())) or 'some'} real micrographs of "
                 f"{real.get('pixel_size', '?')} angstrom a pixel")
    return f"where it was trained: {text}" if hurdles else text


def _takes(movie: xr.DataArray, files: int, question: Question) -> str:
    from .analysis.outlook import computing_time
    from .cluster import local_workers

    cost = computing_time(movie, question.model, frames=files * movie.sizes["frame"],
                          workers=_workers(question.device, local_workers), device=question.device)
    parts = [(cost.network, "network"), (cost.lattices, "lattices"), (cost.reading, "reading")]
    said = ", ".join(f"{name} {_duration(value)}" for value, name in parts if not math.isnan(value))
    return (f"about {_duration(cost.total)} for {counted(cost.frames, 'frame')} on {counted(cost.workers, 'worker')} "
            f"({cost.device}) of this machine, and some seconds to start; a frame takes {said}. An estimate from a "
            f"piece of the first frame")


def _workers(device: str, local_workers: Any) -> int:
    from .networks.evaluation import resolve_device

    if resolve_device(device) == "cpu":
        return local_workers()[0]
    import torch

    return max(1, torch.cuda.device_count())


def _duration(value: float) -> str:
    """Say a duration, short ones too.

    Examples
    --------
    >>> _duration(0.034), _duration(7.26), _duration(4000)
    ('0.03 s', '7.3 s', '1 h 6 min')
    """
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 10 else seconds(value)


def _next(movie: xr.DataArray, dose: Dose, hurdles: dict[str, str], question: Question,
          names: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Rows with the commands to go on with."""
    files = _files(names)
    if not has_calibration(movie):
        yield "next", f"hrtem-dask inspect {files} --guess-pixel-size {question.crystal}"
        yield "or", f"hrtem-dask inspect {files} --pixel-size ANGSTROM"
        return
    if "coarse" in hurdles:
        yield "next", f"hrtem-dask inspect {files} --pixel-size ANGSTROM    (where the file is wrong)"
        return
    if "small" in hurdles:
        yield "next", "a larger field of view"
        return
    if "series" in hurdles:
        yield "next", f"hrtem-dask inspect {files} --model NAME    (another network)"
        return
    pixel = f" --pixel-size {question.pixel_size:g}" if question.pixel_size else ""
    network = "" if question.network == "au-particles" else f" --model {shlex.quote(question.network)}"
    yield "next", f"hrtem-dask run {files} --out results{pixel}{network}"
    if "scanned" not in hurdles and ("pixels" in hurdles or dose.value < question.model.card["dose_range"][0]):
        yield "or", _training(movie, dose)


def _files(names: Sequence[str]) -> str:
    """Files as one types them: their names, or a pattern that finds just these."""
    if len(names) <= MOST_NAMES:
        return shlex.join(names)
    first, last = os.path.commonprefix(names), os.path.commonprefix([n[::-1] for n in names])[::-1]  # noqa: RUF071
    pattern = f"{first}*{last}"
    found = glob.glob(pattern)  # noqa: PTH207 - names as they were typed
    return shlex.quote(pattern) if sorted(found) == sorted(names) else f"{shlex.quote(names[0])} ..."


def _training(movie: xr.DataArray, dose: Dose) -> str:
    """Command that trains a network for what is known of the microscope of a movie."""
    energy, pixel = movie.attrs.get("beam_energy"), max(pixel_size_of(movie))
    known = [f"--voltage {energy:g}"] if isinstance(energy, int | float) else []
    known.append(f"--pixel-size {pixel:.3g}")
    if pixel > COARSE_LATTICE:
        known.append("--set imaging.resolve=0")
    if not math.isnan(dose.value):
        known.append(f"--dose-range {dose.value / 3:.2g} {dose.value * 3:.2g}")
    return f"hrtem-dask train au-particles {' '.join(known)} --out mine.safetensors"
