"""What ``hrtem-dask inspect`` says of a source."""

from __future__ import annotations

import click
import xarray as xr

from .core.calibration import has_calibration, pixel_size_of
from .core.errors import HrtemDaskError

__all__ = ["describe", "propose"]


def describe(source: str, pixel_size: float | None, frame_time: float | None) -> bool:
    """Print what a source is; False where it cannot be opened."""
    from .io.movie import open_movie

    try:
        movie = open_movie(source, pixel_size=pixel_size, frame_time=frame_time)
    except HrtemDaskError as error:
        click.echo(f"{source}\n  error         {error}\n")
        return False
    rows = [("format", movie.attrs.get("format", "unknown")), ("shape", _shape(movie)), ("dtype", str(movie.dtype)),
            ("pixel size", _calibration(movie)), ("time", _time(movie)), ("chunks", _chunks(movie))]
    extra = ("dose", "beam_energy", "microscope", "date")
    rows += [(name, str(movie.attrs[name])) for name in extra if name in movie.attrs]
    click.echo(source)
    for name, value in rows:
        click.echo(f"  {name:<13} {value}")
    click.echo()
    return True


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


def _shape(movie: xr.DataArray) -> str:
    return ", ".join(f"{movie.sizes[d]} {d}" for d in movie.dims) + f" ({movie.nbytes / 1e6:.1f} MB)"


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


def _chunks(movie: xr.DataArray) -> str:
    if movie.chunks is None:
        return "in memory"
    return " x ".join(str(c[0]) if len(set(c)) == 1 else f"{min(c)}-{max(c)}" for c in movie.chunks)
