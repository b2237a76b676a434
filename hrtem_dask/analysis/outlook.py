"""Can my data do this? Dose, lattice, expected Dice and computing time of a movie, before anything is run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr

from ..core.calibration import has_calibration, make_movie, pixel_size_of
from ..core.errors import InputError
from ..detector.mtf import MTF
from ..kernels.crystal import reflections
from ..kernels.tiles import Axis, Layout
from ..networks.cards import expected_dice
from ..networks.models import Model
from .segment import layout_of
from .tiling import Network, assemble

__all__ = ["Cost", "Dose", "Expected", "Resolution", "computing_time", "dose_of", "expected_at", "resolution_of",
           "score_table"]

#: reflections that are looked at: spacings [angstrom], and how many
SPACINGS, MOST = (1.0, 4.0), 6
#: frames that the mean counts are taken of
LOOKED_AT = 3
#: sides of the tiles that are timed [network pixel]: to warm up, and the largest
FIRST, LARGEST = 96, 512
#: a larger frame is not read to time anything [byte]
READ_AT_MOST = 2**28
PIECE = 512  # camera pixels: side of the piece whose particles are measured
SPECK = 50.0  # angstrom^2: what a campaign drops by default


@dataclass(frozen=True)
class Dose:
    """Dose of a frame [electrons/angstrom^2] and where it is from; nan where it is not known, and why.

    ``per_pixel`` [electrons] may be known without a pixel size.
    """

    value: float
    source: str
    per_pixel: float = math.nan


def dose_of(movie: xr.DataArray, *, dose: float | None = None, mtf: MTF | None = None, offset: float = 0.0) -> Dose:
    """Dose of a frame: as given, as the movie says, or from its counts.

    Parameters
    ----------
    movie : DataArray, dims (frame, ..., y, x)
        Counts; with `mtf`, three frames of it are read.
    dose : float, optional
        [electrons/angstrom^2]; believed.
    mtf : MTF, optional
        Of the camera; its counts per electron turn mean counts into electrons.
    offset : float
        Counts without electrons.

    Returns
    -------
    Dose

    Raises
    ------
    InputError
        If the dose or the offset is no number that makes sense.

    Examples
    --------
    >>> movie = make_movie(np.full((2, 8, 8), 50.0), pixel_size=0.5)
    >>> dose_of(movie, mtf=MTF(scale=0.5, power=2.0, counts_per_electron=4.0)).value
    50.0
    """
    if dose is not None:
        if not 0 < dose < math.inf:
            raise InputError(f"dose is {dose!r}; expected electrons/angstrom^2 a frame, above 0, as 100")
        return Dose(float(dose), "given by you")
    if not math.isfinite(offset):
        raise InputError(f"offset is {offset!r}; expected counts, as 100")
    said = movie.attrs.get("dose")
    if isinstance(said, int | float | np.number) and math.isfinite(said) and said > 0:
        return Dose(float(said), "from the file")
    if mtf is None:
        return Dose(math.nan, "give it in e/angstrom^2 a frame, as --dose 100, or the camera's --mtf mtf.json, as "
                              "hrtem-dask fit-mtf writes it")
    if not mtf.counts_per_electron > 0:
        return Dose(math.nan, "this MTF does not know the counts per electron; fit it with --dark or --second frames, "
                              "or give the dose, as --dose 100")
    return _counted(movie, mtf.counts_per_electron, offset)


def _counted(movie: xr.DataArray, gain: float, offset: float) -> Dose:
    n = movie.sizes["frame"]
    picked = movie.isel(frame=sorted({0, n // 2, n - 1})[:LOOKED_AT])
    counts = float(picked.astype(np.float64).mean(skipna=True))
    electrons = (counts - offset) / gain
    how = (f"{counts:.4g} counts a pixel" + (f", {offset:g} of them without electrons" if offset else "")
           + f", {gain:.4g} counts an electron")
    if not electrons > 0:
        return Dose(math.nan, f"the counts say none ({how}); give --offset, the counts without electrons, or --dose")
    if not has_calibration(movie):
        return Dose(math.nan, f"{electrons:.3g} electrons a pixel ({how}); the dose needs the pixel size", electrons)
    py, px = pixel_size_of(movie)
    assumed = "" if offset else "; taking 0 counts without electrons, else give --offset"
    return Dose(electrons / (py * px), f"from {how}{assumed}", electrons)


@dataclass(frozen=True)
class Resolution:
    """Nyquist spacing [angstrom], and reflections as (name, spacing [angstrom], MTF or nan) kept and lost."""

    nyquist: float
    kept: tuple[tuple[str, float, float], ...]
    lost: tuple[tuple[str, float, float], ...]


def resolution_of(pixel_size: float | Sequence[float], crystal: str = "Au", *, mtf: MTF | None = None) -> Resolution:
    """Say which lattice spacings pixels of this size can hold.

    Parameters
    ----------
    pixel_size : float or (float, float)
        [angstrom]; of pixels that are not square the longer side counts.
    crystal : str
        What `hrtem_dask.kernels.crystal.d_spacings` knows.
    mtf : MTF, optional
        What the camera leaves of the amplitude of each reflection.

    Returns
    -------
    Resolution
        Of the six largest spacings from 1 to 4 angstrom.

    Examples
    --------
    >>> found = resolution_of(0.59)
    >>> found.nyquist, [name for name, *_ in found.kept][:3], resolution_of(1.1).lost[0][0]
    (1.18, ['111', '200', '220'], '200')
    """
    nyquist = 2 * float(np.max(pixel_size))
    rows = [(name, d, float(mtf(nyquist / d)) if mtf is not None else math.nan)
            for name, d in reflections(crystal, *SPACINGS)[:MOST]]
    return Resolution(nyquist, tuple(r for r in rows if r[1] > nyquist), tuple(r for r in rows if r[1] <= nyquist))


@dataclass(frozen=True)
class Expected:
    """Mean Dice on simulated frames at a dose, its 95 % interval (nan where the card has none), the worst frame.

    ``hard`` is the mean on hard scenes of the movie's pixel size, nan where the card has none.
    ``outside`` is "" within the card's table, else "below" or "above" it: the values are then those
    at the end of the table, and ``dose`` is that end.
    """

    dose: float
    mean: float
    low: float
    high: float
    worst: float
    hard: float = math.nan
    outside: str = ""

    @property
    def least(self) -> float:
        """The lower of the means."""
        return float(np.nanmin([self.mean, self.hard]))


def score_table(card: Mapping[str, Any]) -> dict[float, tuple[float, float, float, float]]:
    """Dose -> mean, low, high and worst Dice of a card, rising; empty where it has no such table.

    Examples
    --------
    >>> score_table({"scores": {"held_out_simulated": {"50": {"mean": 0.9, "worst": 0.5}}}})
    {50.0: (0.9, nan, nan, 0.5)}
    """
    rows = (card.get("scores") or {}).get("held_out_simulated") or {}
    found = {}
    for dose, s in rows.items():
        if isinstance(s, Mapping) and s.get("mean") is not None:
            low, high = s.get("interval") or (math.nan, math.nan)
            worst = s["worst"] if s.get("worst") is not None else math.nan
            found[float(dose)] = (float(s["mean"]), float(low), float(high), float(worst))
    return dict(sorted(found.items()))


def expected_at(card: Mapping[str, Any], dose: float, pixel_size: float | None = None) -> Expected | None:
    """Dice that a network's card promises at a dose, between its doses along their logarithm.

    Parameters
    ----------
    card : mapping
        Of a network, with ``scores.held_out_simulated``.
    dose : float
        [electrons/angstrom^2]
    pixel_size : float, optional
        [angstrom], for the hard scenes (`hrtem_dask.networks.cards.expected_dice`).

    Returns
    -------
    Expected or None
        None where the card has no table.

    Examples
    --------
    >>> card = {"scores": {"held_out_simulated": {"10": {"mean": 0.6, "interval": [0.5, 0.7], "worst": 0.1},
    ...                                           "1000": {"mean": 0.9, "interval": [0.8, 1.0], "worst": 0.5}}}}
    >>> found = expected_at(card, 100)
    >>> round(found.mean, 3), round(found.low, 3), found.outside, expected_at(card, 2).outside
    (0.75, 0.65, '', 'below')
    """
    table = score_table(card)
    if not table:
        return None
    doses, rows = np.array(list(table)), np.array(list(table.values()))
    at = float(np.clip(dose, doses[0], doses[-1]))
    values = [float(np.interp(np.log(at), np.log(doses), column)) for column in rows.T]
    hard = None if pixel_size is None else expected_dice(card, pixel_size, at)
    return Expected(at, *values, hard=math.nan if hard is None else hard,
                    outside="below" if dose < doses[0] else "above" if dose > doses[-1] else "")


@dataclass(frozen=True)
class Cost:
    """What frames take [second]: all of them on so many `workers`, and one of them on one core or GPU.

    A frame takes its time in the ``network``, and for ``reading`` and ``lattices``, nan where those were
    not timed; ``timed`` is the side of the tile that was timed [network pixel].
    """

    total: float
    network: float
    reading: float
    lattices: float
    frames: int
    workers: int
    timed: int
    device: str

    @property
    def per_frame(self) -> float:
        """Everything that was timed of one frame [second]."""
        return float(np.nansum([self.network, self.reading, self.lattices]))


def computing_time(movie: xr.DataArray, model: Model, *, frames: int | None = None, workers: int = 1,
                   device: str = "auto", budget: float = 0.6) -> Cost:
    """Estimate how long particles take to find in a movie on this machine, from a small part of it.

    Computes for about a second: the kernel of `segment` on noise, for `budget` seconds; then, where the
    first frame is below 256 MB, that is read, and the particles in a piece of its middle are
    measured as `analyse_particles` does it. Writing is not counted.

    Parameters
    ----------
    movie : DataArray, dims (frame, y, x) or (frame, defocus, y, x)
        Calibrated.
    model : Model
    frames : int, optional
        How many; by default those of the movie.
    workers : int
        Frames that are computed at once, where there are as many.
    device : str
        As `segment` takes it.
    budget : float
        [second]

    Returns
    -------
    Cost

    Raises
    ------
    InputError
        If the network does not take such a movie.
    CalibrationError
        If the movie has no pixel size.
    """
    from ..networks.evaluation import resolve_device

    device = resolve_device(device)
    channels = movie.sizes.get("defocus", 1)
    if channels != model.weights.in_channels:
        raise InputError(f"a frame of this movie has {channels} image(s); {model.name!r} takes "
                         f"{model.weights.in_channels}")
    layout = layout_of(movie, model)
    ratio = tuple(float(f"{r:.3g}") for r in layout.ratio)  # files of one microscope differ in later digits
    each, timed = _seconds_a_pixel(model.card["sha256"], ratio, device, budget, _Held(model))
    reading = lattices = math.nan
    if channels == 1 and movie.nbytes / movie.sizes["frame"] <= READ_AT_MOST:
        reading, lattices = _time_rest(movie, model, layout, timed, device)
    n = movie.sizes["frame"] if frames is None else frames
    together = max(1, min(workers, n))
    cost = Cost(math.nan, each * evaluated(layout), reading, lattices, n, together, timed, device)
    return replace(cost, total=cost.per_frame * math.ceil(n / together))


def _time_rest(movie: xr.DataArray, model: Model, layout: Layout, side: int, device: str) -> tuple[float, float]:
    """Seconds to read a frame, and to measure its particles, by those of a piece of its middle."""
    from .particles import analyse_particles

    began = time.perf_counter()
    frame = movie.isel(frame=slice(0, 1)).compute(scheduler="synchronous")
    reading = time.perf_counter() - began
    sides = [min(n, PIECE, max(1, round(side * r))) for n, r in zip(layout.shape, layout.ratio, strict=True)]
    rows, columns = (slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(layout.shape, sides, strict=True))
    piece = frame.isel(y=rows, x=columns)
    task = assemble(piece, layout_of(piece, model), Network.of(model, device, "auto"))
    at = model.classes.index("particle") if "particle" in model.classes else -1
    likely = piece.copy(data=task.compute(scheduler="synchronous")[:, at])
    corner = {"y": slice(0, 16), "x": slice(0, 16)}
    analyse_particles(piece.isel(corner), likely.isel(corner)).compute(scheduler="synchronous")  # loads what it needs
    began = time.perf_counter()
    analyse_particles(piece, likely, min_area=SPECK).compute(scheduler="synchronous")
    return reading, (time.perf_counter() - began) * np.prod(layout.shape) / np.prod(sides)


def evaluated(layout: Layout) -> int:
    """Network pixels that are evaluated for a frame, halos included."""
    rows, columns = (sum(s.window[1] - s.window[0] for s in axis.spans) for axis in (layout.y, layout.x))
    return rows * columns


class _Held:
    """A model as an argument that a cache does not look at."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=64)
def _seconds_a_pixel(sha256: str, ratio: tuple[float, float], device: str, budget: float,
                     held: _Held) -> tuple[float, int]:
    """Seconds a network pixel, and the side of the tile that was timed; once a network, ratio and device."""
    network = Network.of(held.model, device, "auto")
    began = time.monotonic()
    side, each = FIRST, math.inf
    _time_tile(held.model, network, side, ratio)  # loads what has to be loaded
    while True:
        seconds = _time_tile(held.model, network, side, ratio)
        each, timed = seconds / side**2, side
        left = budget - (time.monotonic() - began)
        larger = min(LARGEST, int(math.sqrt(max(left, 0) / 2 / each)) // 32 * 32)
        if larger <= side:
            return each, timed
        side = larger


def _time_tile(model: Model, network: Network, side: int, ratio: tuple[float, float]) -> float:
    layout = Layout(*(Axis(max(1, round(side * r)), r, 2 * side, 0) for r in ratio))
    channels = model.weights.in_channels
    noise = np.random.default_rng(0).normal(size=(1, *([channels] if channels > 1 else []), *layout.shape))
    movie = make_movie(noise.astype(np.float32), defocus=list(range(channels)) if channels > 1 else None)
    task = assemble(movie, layout, network)
    began = time.perf_counter()
    task.compute(scheduler="synchronous")
    return time.perf_counter() - began
