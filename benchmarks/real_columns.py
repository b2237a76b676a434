"""Columns in real micrographs, found without a network, as tables and pictures.

    python -m benchmarks.real_columns FOLDER [--out runs/real_columns]

FOLDER holds ``columns/graphene_flower_raw.tif`` with ``graphene_flower_hexagon_centres.txt`` (graphene with a
defect; rhambach/TEMimage, MIT licence) and ``vendor/velox_haadf_au_2048.emd`` (HAADF of gold particles; example
data of temul-toolkit, GPL-3). Both go through `blob_probability` and `find_columns`, as any user would do it.

Graphene: what is bright in this micrograph are the centres of the hexagons, not the atoms, and it is they that are
listed. The pixel size is not stated; it follows from the three strongest spot pairs, whose spacing in graphene is
2.46 angstrom times the root of 3/4. The list is in whole pixels that were cut off, not rounded (found minus listed
is about half a pixel along both axes), so half a pixel is added. It leaves out what is nearer to the border than
about 2 angstrom; so does the score. Nothing was chosen by the list but these two.

Gold: nothing is known but the picture, by which its threshold was chosen; it is there to be looked at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hrtem_dask.kernels.matching import ColumnMatches, match_columns

GRAPHENE, CENTRES = "columns/graphene_flower_raw.tif", "columns/graphene_flower_hexagon_centres.txt"
GOLD = "vendor/velox_haadf_au_2048.emd"
LATTICE = 2.46  # angstrom: constant of graphene
ROUGH = 0.22  # angstrom: pixel size that the spots are searched with
THRESHOLD = 0.33  # 2.5 standard deviations of noise
GOLD_THRESHOLD = 0.45
MARGIN = 2.0  # angstrom


@dataclass(frozen=True, eq=False)
class Found:
    """A micrograph (y, x), its pixel size [angstrom], the table of its columns; of graphene the listed places too."""

    image: np.ndarray
    pixel_size: float
    columns: pd.DataFrame
    listed: np.ndarray | None = None
    matches: ColumnMatches | None = None


def infer_pixel_size(image: np.ndarray, *, rough: float = ROUGH, lattice: float = LATTICE) -> float:
    """Pixel size of a micrograph of graphene from its three strongest spot pairs [angstrom]."""
    from hrtem_dask import fourier_peak_pairs

    pairs = fourier_peak_pairs(image, pixel_size=rough)
    spacing = float(pairs.d_spacing.head(3).mean())
    return rough * lattice * np.sqrt(0.75) / spacing


def graphene(folder: Path, threshold: float = THRESHOLD) -> Found:
    """Find the bright spots of the graphene micrograph and match them with the list."""
    from hrtem_dask import blob_probability, find_columns, open_movie

    movie = open_movie(folder / GRAPHENE)
    step = infer_pixel_size(movie.values[0])
    movie = open_movie(folder / GRAPHENE, pixel_size=step)
    probability = blob_probability(movie)
    # two hexagons of a lattice are 2.46 angstrom apart, the heart of a defect may press them nearer
    columns = find_columns(probability, image=movie, threshold=threshold, min_distance=0.6 * LATTICE).compute()
    listed = (np.loadtxt(folder / CENTRES)[:, ::-1] + 0.5) * step
    matches = match_columns(columns[["y", "x"]].to_numpy(), listed, margin=MARGIN,
                            extent=(float(movie.y[-1]), float(movie.x[-1])))
    return Found(movie.values[0], step, columns, listed, matches)


def gold(folder: Path, threshold: float = GOLD_THRESHOLD) -> Found:
    """Find the columns of the HAADF micrograph."""
    from hrtem_dask import blob_probability, find_columns, open_movie

    movie = open_movie(folder / GOLD)
    probability = blob_probability(movie, sign="bright")
    columns = find_columns(probability, image=movie, threshold=threshold, crystal="Au").compute()
    return Found(movie.values[0], float(movie.attrs["pixel_size"]), columns)


def figures(one: Found) -> dict[str, Any]:
    """What is known of a micrograph in numbers."""
    out: dict[str, Any] = {"pixel_size": round(one.pixel_size, 5), "columns": len(one.columns),
                           "fitted": round(float(one.columns.fitted.mean()), 3),
                           "contrast": int(one.columns.contrast.iloc[0]) if len(one.columns) else 0}
    if one.matches is not None and one.listed is not None:
        m = one.matches
        shift = m.error.mean(0)
        stated = one.columns[["y_error", "x_error"]].to_numpy()
        out |= {"listed": len(one.listed), "hits": m.counts[0], "false": m.counts[1], "missed": m.counts[2],
                "f1": round(m.f1, 4), "precision": round(m.precision, 4), "recall": round(m.recall, 4),
                "rms": round(m.rms, 3), "shift": [round(float(s), 3) for s in shift],
                "median_stated_error": round(float(np.nanmedian(stated)), 3)}
    return out


def draw(one: Found, path: Path, window: tuple[float, float, float, float] | None = None) -> None:
    """Draw found columns over the micrograph, or over a window (y0, y1, x0, x1) [angstrom] of it.

    Found cyan; of a list, what it says red, false yellow, missed magenta.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    p, (ny, nx) = one.pixel_size, one.image.shape
    y0, y1, x0, x1 = window or (0.0, ny * p, 0.0, nx * p)
    part = one.image[int(y0 / p):int(y1 / p), int(x0 / p):int(x1 / p)]
    fig, ax = plt.subplots(figsize=(10, 10 * (y1 - y0) / (x1 - x0)), constrained_layout=True)
    ax.imshow(one.image, cmap="gray", vmin=np.percentile(part, 0.3), vmax=np.percentile(part, 99.7),
              extent=(-p / 2, (nx - 0.5) * p, (ny - 0.5) * p, -p / 2))
    at = one.columns[["y", "x"]].to_numpy()
    ax.plot(at[:, 1], at[:, 0], "c+", ms=6)
    if one.matches is not None and one.listed is not None:
        ax.plot(one.listed[:, 1], one.listed[:, 0], "rx", ms=4, mew=0.7)
        ax.plot(at[one.matches.false, 1], at[one.matches.false, 0], "yo", mfc="none", ms=11)
        ax.plot(one.listed[one.matches.missed, 1], one.listed[one.matches.missed, 0], "ms", mfc="none", ms=11)
    ax.set(xlim=(x0, x1), ylim=(y1, y0), xlabel="x [Å]", ylabel="y [Å]")
    fig.savefig(path, dpi=80)
    plt.close(fig)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Measure and draw what the folder holds; return the JSON file that was written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_columns", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("runs/real_columns"), help="folder to write into")
    options = parser.parse_args(arguments)
    missing = [name for name in (GRAPHENE, CENTRES, GOLD) if not (options.folder / name).is_file()]
    if missing:
        parser.error(f"{options.folder} lacks {', '.join(missing)}; the docstring says where they come from")
    options.out.mkdir(parents=True, exist_ok=True)
    found = {"graphene": graphene(options.folder), "gold": gold(options.folder)}
    draw(found["graphene"], options.out / "graphene.png")
    draw(found["gold"], options.out / "gold.png")
    draw(found["gold"], options.out / "gold_particle.png", (44.0, 92.0, 92.0, 140.0))
    text = json.dumps({name: figures(one) for name, one in found.items()}, indent=1)
    (options.out / "real_columns.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return options.out / "real_columns.json"


if __name__ == "__main__":
    main()
