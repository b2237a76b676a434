"""Spot pairs of the particles of real micrographs: which show any, and at which spacings.

The pixel size of these images is not stated: it was inferred from lattice spots themselves, so the spacings here say
how well they agree with gold and with one another, not what the magnification was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from hrtem_dask.kernels.crop import masked_crop
from hrtem_dask.kernels.net import peak_ratio, span_plane
from hrtem_dask.kernels.peaks import find_pairs_many
from hrtem_dask.kernels.zone import zone_axis_score
from hrtem_dask.kernels.zone_identify import identify

from .common import Table, head

__all__ = ["measure_real", "picture", "tables"]

GOLD = {"111": 2.355, "200": 2.039, "220": 1.442}
#: smallest particle that is looked at [angstrom]
SMALLEST = 15.0


@dataclass(frozen=True)
class Image:
    """What the particles of one micrograph show."""

    name: str = field(metadata=head("image"))
    particles: int = field(metadata=head("particles"))
    some: int = field(metadata=head("with a significant pair"))
    two: int = field(metadata=head("with two non-collinear"))
    spacings: str = field(metadata=head("spacings [Å] of detected pairs, most significant first"))
    ratios: str = field(metadata=head("finite ratios"))
    best: str = field(metadata=head("highest score, its axis"))


def measure_real(folder: Path, pixel_size: float) -> list[dict[str, Any]]:
    """Pairs of every particle of every image, by the masks drawn by hand."""
    from imageio.v3 import imread

    rows = []
    for path in sorted(folder.glob("image_*.png")):
        image, mask = (a if a.ndim == 2 else a[..., 0] for a in
                       (imread(path), imread(path.with_name(path.name.replace("image", "label")))))
        labels, count = ndimage.label(mask > 127)
        image = image.astype(np.float32)
        for number in range(1, count + 1):
            part = labels == number
            diameter = 2 * float(np.sqrt(part.sum() / np.pi)) * pixel_size
            if diameter < SMALLEST:
                continue
            crop = masked_crop(image, part, (pixel_size, pixel_size))
            for crystal in (None, "Au"):
                pairs = find_pairs_many([crop], crystal=crystal)[0]
                rows.append({"image": path.stem, "particle": number, "diameter": diameter, "crystal": crystal,
                             "pairs": pairs, "ratio": peak_ratio(pairs),
                             "score": zone_axis_score(pairs, diameter=diameter, crystal=crystal),
                             "axis": identify(pairs, "Au").axis})
    return rows


def tables(rows: list[dict[str, Any]], pixel_size: float) -> list[Table]:
    """A row an image, for the search without a crystal; and the sums."""
    free = [r for r in rows if r["crystal"] is None]
    images = [_image(name, [r for r in free if r["image"] == name]) for name in sorted({r["image"] for r in free})]
    notes = []
    for crystal, label in ((None, "searched from 3.6 Å to 0.9 Nyquist"), ("Au", "on the rings of gold alone")):
        mine = [r for r in rows if r["crystal"] == crystal]
        some, two = (sum(map(test, mine)) for test in (_some, _two))
        notes.append(f"{label}: {some} of {len(mine)} particles show a significant pair, {two} two non-collinear ones, "
                     f"in {len({r['image'] for r in mine if _some(r)})} of {len(images)} images; "
                     f"{sum(np.isfinite(r['ratio']) for r in mine)} finite ratios; one in a hundred particles of bare "
                     f"film would show a pair by chance")
    spacing = _spacings(free)
    for name, d in GOLD.items():
        near = np.abs(spacing / d - 1) < 0.04
        if near.any():
            notes.append(f"{near.sum()} of {len(spacing)} pairs within 4 % of {name} of gold ({d} Å); median "
                         f"{np.median(spacing[near]):.3f} Å at the assumed {pixel_size:g} Å a pixel")
    return [Table("Real micrographs: spot pairs of the particles drawn by hand", images, notes)]


def _some(row: dict[str, Any]) -> bool:
    return bool(row["pairs"].detected.any())


def _two(row: dict[str, Any]) -> bool:
    pairs = row["pairs"]
    return span_plane(pairs.loc[pairs.detected, ["g_y", "g_x"]].to_numpy())


def _spacings(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.concatenate([r["pairs"].d_spacing[r["pairs"].detected].to_numpy() for r in rows] or [np.zeros(0)])


def _image(name: str, rows: list[dict[str, Any]]) -> Image:
    found = [(s, d) for r in rows for s, d, seen in
             zip(r["pairs"].significance, r["pairs"].d_spacing, r["pairs"].detected, strict=True) if seen]
    best = max(rows, key=lambda r: r["score"])
    shown = ", ".join(f"{d:.2f}" for _, d in sorted(found, reverse=True)[:8])
    return Image(name, len(rows), sum(map(_some, rows)), sum(map(_two, rows)),
                 shown + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "–",
                 ", ".join(f"{r['ratio']:.1f}" for r in rows if np.isfinite(r["ratio"])) or "–",
                 f"{best['score']:.2f} {best['axis']}" if best["score"] else "–")


def picture(rows: list[dict[str, Any]], path: Path, pixel_size: float) -> None:
    """Histogram of the spacings of all detected pairs, with gold's; no micrograph is shown."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    d = _spacings([r for r in rows if r["crystal"] is None])
    axis.hist(1 / d, bins=np.arange(0.27, 0.78, 0.01), color="0.45")
    for name, spacing in GOLD.items():
        axis.axvline(1 / spacing, color="tab:red", lw=1)
        axis.text(1 / spacing, axis.get_ylim()[1], f" {name}", color="tab:red", va="top", fontsize=8)
    axis.set(xlabel=f"frequency of a significant pair [1/Å] at {pixel_size:g} Å a pixel", ylabel="pairs")
    figure.savefig(path, dpi=110)
    plt.close(figure)
