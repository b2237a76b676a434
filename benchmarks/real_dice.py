"""Dice of a particle network on micrographs with masks drawn by hand.

    python benchmarks/real_dice.py FOLDER --pixel-size 0.59 --out dice.json [--card] [--overlays PNG]

FOLDER holds image_NN.png and label_NN.png. The images are opened and segmented as any user
would do it, at threshold 0.5. They are a measure only: no network was trained on them, nor was
a checkpoint or a threshold chosen by them. What the recipe owes to looking at them is said in
the recipe.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pixel-size", type=float, default=0.59, help="angstrom")
    parser.add_argument("--model", default="au-particles", help="shipped name or .safetensors file")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--card", action="store_true", help="write the result on the card of the model, as 'real'")
    parser.add_argument("--overlays", type=Path, help="PNG to draw: hand labels red, network cyan")
    parser.add_argument("--note", help="what a reader of the card must know")
    options = parser.parse_args()
    result, pictures = measure(options.folder, options.pixel_size, options.model)
    if options.note:
        result["note"] = options.note
    for row in result["images"]:
        print(f"{row['image']:14} Dice {row['dice']:.3f}  precision {row['precision']:.3f}  recall {row['recall']:.3f}")
    print(f"mean Dice {result['mean_dice']:.4f}, worst {result['worst_dice']:.4f}, {len(result['images'])} images")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    if options.overlays:
        draw(pictures, options.overlays)
    if options.card:
        write_on_card(options.model, result)


def measure(folder: Path, pixel_size: float, name: str) -> tuple[dict, list]:
    """Segment every image and compare it with its label."""
    from imageio.v3 import imread

    from hrtem_dask import load_model, open_movie
    from hrtem_dask.analysis.segment import segment

    model = load_model(name)
    paths = sorted(folder.glob("image_*.png"))
    rows, pictures = [], []
    for path in paths:
        movie = open_movie(path, pixel_size=pixel_size)
        p = segment(movie, model).sel({"class": "particle"}).isel(frame=0).compute().values
        label = imread(path.with_name(path.name.replace("image", "label")))
        label = (label if label.ndim == 2 else label[..., 0]) > 127
        found = p > 0.5
        both, total = int((found & label).sum()), int(found.sum()) + int(label.sum())
        rows.append({"image": path.name, "dice": round(2 * both / max(total, 1), 4),
                     "precision": round(both / max(int(found.sum()), 1), 4),
                     "recall": round(both / max(int(label.sum()), 1), 4)})
        pictures.append((path.name, movie.isel(frame=0).values, label, p, rows[-1]["dice"]))
    scores = [r["dice"] for r in rows]
    return {"model": model.name, "sha256": model.card["sha256"], "pixel_size": pixel_size, "threshold": 0.5,
            "data": "20 micrographs with hand-drawn masks, doi 10.69761/HDTA8338 (CC-BY-4.0)",
            "command": f"python benchmarks/real_dice.py FOLDER --pixel-size {pixel_size:g} --model {model.name} --card",
            "mean_dice": round(float(np.mean(scores)), 4), "worst_dice": min(scores), "images": rows}, pictures


def draw(pictures: list, path: Path) -> None:
    """Draw both outlines on every image."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(-(-len(pictures) // 5), 5, figsize=(25, 5 * -(-len(pictures) // 5)), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (name, image, label, p, score) in zip(axes.flat, pictures, strict=False):
        ax.imshow(image, cmap="gray")
        ax.contour(label, [0.5], colors="r", linewidths=0.8)
        ax.contour(p, [0.5], colors="c", linewidths=0.8)
        ax.set_title(f"{name}  {score:.3f}")
    fig.tight_layout()
    fig.savefig(path, dpi=60)


def write_on_card(name: str, result: dict) -> None:
    """Put the measured figures on the card; the weights stay as they are."""
    from hrtem_dask.networks import models

    path = Path(name) if Path(name).is_file() else models.SHIPPED / f"{name}.safetensors"
    card_path = path.with_suffix(".json")
    card = json.loads(card_path.read_text(encoding="utf-8"))
    card.setdefault("scores", {})["real"] = {k: v for k, v in result.items() if k != "sha256"}
    card_path.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
