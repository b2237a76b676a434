"""What ten labelled micrographs add to a network that learnt from simulations: the ceiling of zero-shot.

    python benchmarks/fine_tune.py FOLDER --pixel-size 0.59 --model au-particles --out fine_tune.json

FOLDER holds image_NN.png and label_NN.png. The network is fine-tuned on the even ones and scored
on the odd ones, and the other way round, so that every image is scored by a network that never
saw it, beside the Dice of the network as it is. The weights are thrown away: the shipped network
knows simulations only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pixel-size", type=float, default=0.59, help="angstrom")
    parser.add_argument("--model", default="au-particles", help="shipped name or .safetensors file")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--labels", type=int, help="fine-tune on so many of each half; by default on all of it")
    parser.add_argument("--workers", type=int, help="processes; by default threads")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    result = measure(options.folder, options.pixel_size, options.model, options.iterations, options.labels,
                     options.workers, print)
    for row in result["images"]:
        print(f"{row['image']:14} zero-shot {row['zero_shot']:.3f}  fine-tuned {row['fine_tuned']:.3f}")
    for key in ("zero_shot", "fine_tuned"):
        print(f"{key}: mean Dice {result[key]['mean']:.4f}, worst {result[key]['worst']:.4f}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, pixel_size: float, name: str, iterations: int, labels: int | None, workers: int | None,
            say: Callable[[str], None]) -> dict:
    """Fine-tune on each half and score the other one."""
    from imageio.v3 import imread

    from hrtem_dask import load_model, open_movie
    from hrtem_dask.networks import fine_tune

    paths = sorted(folder.glob("image_*.png"))
    masks = []
    for path in paths:
        label = imread(path.with_name(path.name.replace("image", "label")))
        masks.append((label if label.ndim == 2 else label[..., 0]) > 127)
    frames, masks = open_movie([str(p) for p in paths], pixel_size=pixel_size), np.stack(masks)
    begin = load_model(name)
    zero, tuned = dices(frames, masks, begin), [float("nan")] * len(paths)
    for odd in (0, 1):
        learn, test = np.arange(odd, len(paths), 2)[:labels], np.arange(1 - odd, len(paths), 2)
        with tempfile.TemporaryDirectory() as there:
            model = fine_tune(frames.isel(frame=learn), masks[learn], start=begin, out=Path(there) / "tuned",
                              iterations=iterations, workers=workers, report=say)
        for i, value in zip(test, dices(frames.isel(frame=test), masks[test], model), strict=True):
            tuned[i] = value
    rows = [{"image": p.name, "zero_shot": z, "fine_tuned": t} for p, z, t in zip(paths, zero, tuned, strict=True)]
    return {"model": begin.name, "sha256": begin.card["sha256"], "pixel_size": pixel_size, "iterations": iterations,
            "labels": len(learn), "images": rows,
            **{key: {"mean": round(float(np.mean([r[key] for r in rows])), 4), "worst": min(r[key] for r in rows)}
               for key in ("zero_shot", "fine_tuned")}}


def dices(frames, masks: np.ndarray, model) -> list[float]:
    """Dice of every frame at threshold 0.5, segmented as any user would do it."""
    from hrtem_dask.analysis.segment import segment
    from hrtem_dask.kernels.masks import dice

    found = segment(frames, model).sel({"class": "particle"}).compute().values > 0.5
    return [round(dice(f, m), 4) for f, m in zip(found, masks, strict=True)]


if __name__ == "__main__":
    main()
