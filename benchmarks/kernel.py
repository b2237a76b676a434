"""The compiled evaluation against our torch backend and against PyTorch, onnxruntime and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hrtem_dask.kernels.msdnet import compiled, reference, torch_planes
from hrtem_dask.kernels.msdnet.weights import MSDWeights

from . import peers as others
from .common import Options, Spread, Table, draw, head, paired, timed, torch_threads

__all__ = ["Row", "tables"]

#: halo [pixel] that tiles need for the whole image's answer to about 1e-5, for the rate with halo
HALO = 64
#: image on which every evaluation is compared with float64; odd, and larger than the dilations
CHECKED = (90, 101)
#: relative error beyond which something else was evaluated
WRONG = 1e-4


@dataclass(frozen=True)
class Row:
    """One evaluation at one depth and number of threads."""

    depth: int = field(metadata=head("depth"))
    threads: int = field(metadata=head("threads"))
    what: str = field(metadata=head("evaluation"))
    form: str | None = field(metadata=head("graph or form"))
    way: str | None = field(metadata=head("best tiles"))
    rate: float = field(metadata=head("Mpx/s"))
    peak: float | None = field(metadata=head("% of peak"))
    halo_rate: float | None = field(metadata=head(f"Mpx/s with a halo of {HALO}"))
    ratio: Spread | None = field(metadata=head("compiled is faster by: min / median / max"))
    error: float = field(metadata=head("max relative error"))


def tables(options: Options) -> list[Table]:
    """Measure all evaluations at depth 50 and 100, on all threads and on one."""
    side = options.size(1024, 96)
    notes = [
        f"Image {side} x {side} float32, one input, two classes, width 1, dilations 1 to 10, zero padding, weights "
        "drawn at random; best of the tiles tried, and the ratio counts every pixel that a peer evaluates, without "
        f"halo. The rate with halo is calculated from the rates without: windows of the tile's side that cover the "
        f"image with {HALO} pixels of halo inside of it.",
        f"max relative error: against float64 on an image of {CHECKED[0]} x {CHECKED[1]}, over the largest logit.",
    ]
    if not compiled.instruction_sets():
        return [Table("MSD-net, one image", [], [f"left out: {compiled.why_not()}"])]
    present = []
    for peer in others.PEERS:
        reason = others.absent(peer)
        if reason:
            notes.append(reason)
        else:
            present.append(peer)
    rows = []
    for threads in dict.fromkeys((options.threads, 1)):
        peak = _peak(threads, options)
        notes.append(f"FMA peak on {threads} thread(s): {peak} GFLOP/s (min / median / max)" if peak else
                     f"FMA peak on {threads} thread(s) not measured: this build has no fma_peak")
        for depth in options.size((50, 100), (12,)):
            rows += _setting(draw(depth), side, threads, peak, present, options)
    return [Table("MSD-net, one image", rows, notes + _summary(rows))]


def _summary(rows: list[Row]) -> list[str]:
    """Say for each setting how the better of the two inference runtimes compares, by graph."""
    lines = []
    for depth, threads in dict.fromkeys((r.depth, r.threads) for r in rows):
        for form in (others.FORMS[0], None):
            best = max((r for r in rows if (r.depth, r.threads) == (depth, threads) and r.what in others.RUNTIMES
                        and form in (r.form, None)), key=lambda r: r.rate, default=None)
            if best:
                lines.append(f"depth {depth}, {threads} thread(s), against the better of onnxruntime and OpenVINO, "
                             f"{'graph as exported' if form else 'any graph'}: {best.ratio} times "
                             f"({best.what}, {best.form}, {best.way})")
    return lines


def _peak(threads: int, options: Options) -> Spread | None:
    """Floating-point operations a second that the cores can do, GFLOP/s."""
    measure = getattr(compiled, "fma_peak", None)
    return Spread.of([float(measure(threads=threads)) for _ in range(options.repeats)]) if measure else None


def _setting(weights: MSDWeights, side: int, threads: int, peak: Spread | None, present: list[others.Peer],
             options: Options) -> list[Row]:
    """All rows of one depth and one number of threads; the compiled evaluation is the A of every pair."""
    rng = np.random.default_rng(1)
    image = rng.standard_normal((1, side, side), dtype=np.float32)
    small = rng.standard_normal((1, *CHECKED), dtype=np.float32)
    truth = reference.evaluate(weights, small)
    flops = 9 * weights.depth * (weights.depth + 1)

    def ours() -> np.ndarray:
        return compiled.evaluate(weights, image, threads=threads)

    def row(what: str, form: str | None, way: str | None, seconds: float, found: np.ndarray,
            ratio: Spread | None = None, halo: float | None = None) -> Row:
        share = 100e-9 * flops / seconds / peak.median if peak else None
        error = float(np.abs(found - truth).max() / np.abs(truth).max())
        return Row(weights.depth, threads, what, form, way, 1e-6 / seconds, share, halo, ratio, error)

    timed(ours)
    own = [timed(ours, 0.3) / image.size for _ in range(options.repeats)]
    rows = [row("hrtem_dask, compiled", None, None, Spread.of(own).median,
                compiled.evaluate(weights, small, threads=threads))]
    with torch_threads(threads):
        torch_planes.evaluate(weights, image[:, :64])
        pairs = paired(ours, lambda: torch_planes.evaluate(weights, image), options.repeats,
                       per=(image.size, image.size))
        rows.append(row("hrtem_dask, torch", None, None, pairs.b.median, torch_planes.evaluate(weights, small),
                        pairs.ratio))
    for peer in present:
        for form in peer.forms:
            found = _answer(peer, form, weights, small, threads)
            if np.abs(found - truth).max() > WRONG * np.abs(truth).max():
                raise RuntimeError(f"{peer.name}, {form}: another answer than the reference; not worth timing")
            way, rates = others.best_way(peer, weights, form, threads, side, options.size(others.TILES, ((48, 2),)))
            seconds, ratio = _against(peer, form, way, weights, ours, image.size, threads, options)
            halo = max(rate / 1e6 * kept(w.side, side) for w, rate in rates.items())
            rows.append(row(peer.name, form, str(way), seconds, found, ratio, halo or None))
            print(rows[-1], flush=True)
    return rows


def _against(peer: others.Peer, form: str, way: others.Way, weights: MSDWeights, ours: Callable[[], object],
             size: int, threads: int, options: Options) -> tuple[float, Spread]:
    """Seconds a pixel of a peer, and how many times ours that is in each pair."""
    images, shape = others.sample(way, threads), (way.batch, 1, way.side, way.side)
    with peer.open(weights, form, shape, threads, way.apart) as run:
        run(images)
        pairs = paired(ours, lambda: run(images), options.repeats, per=(size, others.pixels(way, threads)))
    return pairs.b.median, pairs.ratio


def _answer(peer: others.Peer, form: str, weights: MSDWeights, image: np.ndarray, threads: int) -> np.ndarray:
    with peer.open(weights, form, (1, *image.shape), threads, False) as run:
        return np.array(run(image[None])[0])


def kept(tile: int, side: int, halo: int = HALO) -> float:
    """Part of the evaluated pixels that is kept, where windows of a side cover an image with halo inside of it.

    Examples
    --------
    >>> kept(1024, 1024), kept(128, 1024), round(kept(512, 1024), 2)
    (1.0, 0.0, 0.44)
    """
    if tile >= side:
        return 1.0
    inner = tile - 2 * halo
    if inner <= 0:
        return 0.0
    # the windows at the borders need no halo on that side: n windows reach n * inner + 2 * halo pixels
    windows = -(-(side - 2 * halo) // inner)
    return side ** 2 / (windows * tile) ** 2
