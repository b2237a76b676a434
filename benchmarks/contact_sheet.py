"""Simulated micrographs of a recipe beside real ones, to be looked at, and the numbers behind the looks.

    python -m benchmarks.contact_sheet RECIPE --out sheet.png [--real FOLDER] [--pixel-size 0.59]

draws one field of the recipe in rows of equal dose and columns of equal defocus, then a row of
frames as the recipe draws them, and, where ``--real`` names a folder of image_NN.png with
label_NN.png, as many real micrographs at the same pixel size and in the same grey scale: every
picture is shown from -3 to +3 standard deviations of its own film about the film's mean.

Beside the sheet it writes a figure of radial spectra (``..._spectra.png``) and a table that compares
random frames of the recipe with the real ones, cut to the same size, in numbers that do not depend on
gain and offset of the camera (`benchmarks.picture_figures`). Nothing is fitted: it tells where the
recipe and the real ones differ. ``--plain FILE ...`` shows real micrographs that have no masks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from .picture_figures import Picture, compare, corners, region_of, spectrum


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contact_sheet", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of a recipe or YAML file")
    parser.add_argument("--out", type=Path, required=True, help="PNG to draw")
    parser.add_argument("--real", type=Path, help="folder of image_NN.png and label_NN.png")
    parser.add_argument("--plain", type=Path, nargs="+", default=[], help="micrographs without masks, to be looked at")
    parser.add_argument("--set", type=Path, help="set that holds the fields; by default they are simulated")
    parser.add_argument("--pixel-size", type=float, help="angstrom, of the simulated and of the real ones; by default "
                        "the middle of the recipe's range")
    parser.add_argument("--doses", type=float, nargs="+", help="e/angstrom^2; by default over the recipe's range")
    parser.add_argument("--defoci", type=float, nargs="+", help="angstrom, positive is underfocus; by default as well")
    parser.add_argument("--fields", type=int, default=6, help="simulated fields to draw from")
    parser.add_argument("--frames", type=int, default=60, help="random frames for the statistics")
    parser.add_argument("--size", type=int, default=256, help="side of a picture [pixel]")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    recipe, samples = simulated(options.recipe, options.fields, options.seed, options.set)
    pixel = options.pixel_size or middle(recipe.imaging.pixel_size)
    doses, spread = recipe.imaging.dose, recipe.imaging.defocus
    over = [-spread.high / 3] if recipe.imaging.overfocus_fraction else []
    defoci = options.defoci or over + np.linspace(spread.low, spread.high, 5 - len(over)).tolist()
    rows = [[frame_of(samples[0], recipe, options.seed, pixel, options.size, dose=dose, defocus=defocus)
             for defocus in defoci] for dose in options.doses or np.geomspace(doses.low, doses.high, 4)]
    drawn = list(random_frames(samples, recipe, pixel, options.size, options.frames, options.seed))
    rows.append(drawn[:len(defoci)])
    real = real_pictures(options.real, pixel) if options.real else []
    real += [plain_picture(path, pixel) for path in options.plain]
    rows += [real[i:i + len(defoci)] for i in range(0, min(len(real), 2 * len(defoci)), len(defoci))]
    draw_sheet(rows, options.out, options.size, f"{recipe.name} at {pixel:.3g} angstrom per pixel")
    print(f"wrote {options.out}")
    print(compare(drawn, [part for p in real for part in corners(p, options.size)]))
    spectra = options.out.with_name(options.out.stem + "_spectra.png")
    draw_spectra(drawn, real, spectra)
    print(f"wrote {spectra}")


def middle(span: object) -> float:
    """Middle of a range, on the scale that it is drawn on."""
    return float(np.sqrt(span.low * span.high) if span.scale == "log" else (span.low + span.high) / 2)


def simulated(name: str, fields: int, seed: int, store: Path | None = None) -> tuple:
    """Load the recipe and simulate some of its fields, or read them."""
    from hrtem_dask.simulate.recipe import load_recipe
    from hrtem_dask.simulate.sets import open_dataset, simulate_structure

    recipe = load_recipe(name)
    if store:
        data = open_dataset(store)
        return recipe, [data[i] for i in range(min(fields, len(data)))]
    return recipe, [simulate_structure(recipe, seed, i) for i in range(fields)]


def frame_of(sample: object, recipe: object, seed: int, pixel: float, size: int, *, dose: float,
             defocus: float) -> Picture:
    """Draw a frame at this dose and defocus; all else is the same for the same seed."""
    from hrtem_dask.simulate.draws import draw_frame
    from hrtem_dask.simulate.recipe import Span

    fixed = replace(recipe.imaging, defocus=Span(abs(defocus) * (1 if defocus >= 0 else 3),
                                                 abs(defocus) * (1 if defocus >= 0 else 3)),
                    overfocus_fraction=float(defocus < 0))
    frame = draw_frame(sample, replace(recipe, imaging=fixed), np.random.default_rng([seed, 1]), dose=dose,
                       pixel_size=pixel, extent=size * pixel)
    return picture(frame, sample, size)


def random_frames(samples: list, recipe: object, pixel: float, size: int, count: int, seed: int) -> Iterator[Picture]:
    """Draw frames as the recipe says, but at this pixel size."""
    from hrtem_dask.simulate.draws import draw_frame

    for i in range(count):
        sample = samples[i % len(samples)]
        frame = draw_frame(sample, recipe, np.random.default_rng([seed, 2, i]), pixel_size=pixel, extent=size * pixel)
        yield picture(frame, sample, size)


def picture(frame: object, sample: object, size: int) -> Picture:
    """Cut a drawn frame to the size of a picture; of a focal series its first image."""
    from hrtem_dask.simulate.draws import truth_at

    counts = frame.counts.reshape(-1, *frame.counts.shape[-2:])[0][:size, :size]
    title = f"{frame.camera.dose:.3g} e/Å², {(frame.defocus or [frame.optics.defocus])[0]:.0f} Å"
    return Picture(counts, truth_at(sample, frame.origin, frame.pixel_size, counts.shape), frame.pixel_size, title)


def real_pictures(folder: Path, pixel: float) -> list[Picture]:
    """Read the real micrographs with the masks that were drawn by hand; none where there is no such folder."""
    from imageio.v3 import imread

    if not folder.is_dir():
        print(f"{folder} is not there: without real micrographs")
        return []
    out = []
    for path in sorted(folder.glob("image_*.png")):
        image, label = (a if a.ndim == 2 else a[..., 0] for a in
                        (imread(path), imread(path.with_name(path.name.replace("image", "label")))))
        out.append(Picture(image.astype(np.float32), label > 127, pixel, path.stem))
    return out


def plain_picture(path: Path, pixel: float) -> Picture:
    """Read a micrograph that has no mask."""
    from imageio.v3 import imread

    image = np.asarray(imread(path), np.float32)
    image = image if image.ndim == 2 else image[..., 0]
    return Picture(image, np.zeros(image.shape, bool), pixel, path.stem)


# pictures


def draw_sheet(rows: list[list[Picture]], path: Path, size: int, title: str) -> None:
    """Draw all pictures, each from -3 to +3 standard deviations of its own film."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = max(len(row) for row in rows)
    fig, axes = plt.subplots(len(rows), columns, figsize=(3 * columns, 3.2 * len(rows)), squeeze=False)
    for row, across in zip(rows, axes, strict=True):
        for ax in across:
            ax.axis("off")
        for p, ax in zip(row, across, strict=False):
            pixels = p.image[region_of(p)]
            z = (p.image - pixels.mean()) / max(pixels.std(), 1e-6)
            first = [(n - min(n, size)) // 2 for n in z.shape]
            ax.imshow(z[first[0]:first[0] + size, first[1]:first[1] + size], cmap="gray", vmin=-3, vmax=3,
                      interpolation="nearest")
            ax.set_title(p.title, fontsize=8)
    fig.suptitle(title)
    fig.tight_layout(rect=(0, 0, 1, 0.98))
    fig.savefig(path, dpi=80)
    plt.close(fig)


def draw_spectra(drawn: list[Picture], real: list[Picture], path: Path) -> None:
    """Draw the film's radial power, each curve with integral 1, and the histograms of its grey values."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 5))
    for pictures, colour, name in ((drawn, "C0", "simulated"), (real, "C3", "real")):
        if not pictures:
            continue
        side = min(min(p.image.shape) for p in pictures)
        bins = np.linspace(0.01, 0.5 / pictures[0].pixel_size, min(60, side // 4))
        curves = np.array([spectrum(p, bins) for p in pictures])
        curves /= np.nansum(curves * np.pi * np.diff(bins**2), axis=1, keepdims=True)
        low, mid, high = np.nanpercentile(curves, [5, 50, 95], axis=0)
        k = (bins[1:] + bins[:-1]) / 2
        left.semilogy(k, mid, colour, label=name)
        left.fill_between(k, low, high, color=colour, alpha=0.2)
        z = [np.histogram((p.image[f] - p.image[f].mean()) / p.image[f].std(), np.linspace(-5, 5, 81), density=True)[0]
             for p in pictures for f in [region_of(p)]]
        right.semilogy(np.linspace(-5, 5, 80), np.mean(z, 0), colour, label=name)
    left.set(xlabel="spatial frequency [1/Å]", ylabel="power of the film, integral 1", title="5 to 95 % shaded")
    right.set(xlabel="(value - mean) / std in film", ylabel="density", ylim=(1e-5, 1))
    right.legend()
    fig.tight_layout()
    fig.savefig(path, dpi=80)
    plt.close(fig)


if __name__ == "__main__":
    main()
