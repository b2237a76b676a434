"""Cards of networks: what is measured once the weights are there, and their pages in docs/cards.

    python -m benchmarks.cards finish WEIGHTS --set SET [--seed 1]
    python -m benchmarks.cards page [NAMES ...] [--out docs/cards]

``finish`` does for weights that are there already what `hrtem_dask.train` does at its end: it fits
a temperature to the fields of SET that the weights were chosen by, checks it on the held-out ones,
folds it into the last layer, measures how far the network looks, and writes both files anew. SET
is the set that the network was trained with. ``page`` writes the pages of networks, by default of
those that are shipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs" / "cards"


def finish(weights: str, store: Path, seed: int) -> dict[str, Any]:
    """Calibrate and measure a network that is trained; return its new card."""
    from hrtem_dask import load_model
    from hrtem_dask.networks.calibration import calibrated
    from hrtem_dask.networks.cards import of_recipe
    from hrtem_dask.networks.models import SHIPPED, save_model, shipped_models
    from hrtem_dask.networks.reach import reach_of
    from hrtem_dask.networks.training import one_torch_thread, split
    from hrtem_dask.simulate import open_dataset

    model = load_model(weights)
    card = dict(model.card)
    settings = card.get("training", {}).get("settings", {})
    data = replace(open_dataset(store), outline=settings.get("outline", "half-thickness"))
    _, other, held_out = split(data)
    pixel_size = float(card["pixel_size"])
    with one_torch_thread():
        net, found = calibrated(model.module(), other, held_out, seed=seed, pixel_size=pixel_size)
        old = card.get("calibration")
        if old:  # the weights have a temperature in them already: say the whole of it, and what was before
            found |= {"temperature": round(found["temperature"] * old["temperature"], 4), "before": old["before"]}
        step = 8 if card["architecture"]["kind"] == "msdnet" else 2 ** card["architecture"]["levels"]
        card |= {"calibration": found} | reach_of(net, held_out, seed, step=step, pixel_size=pixel_size)
    card |= {k: v for k, v in of_recipe(data.recipe).items() if k not in card}
    path = SHIPPED / f"{weights}.safetensors" if weights in shipped_models() else Path(weights)
    return load_model(save_model(net, card, path)).card


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Run what the command line asks for; return the pages that were written."""
    from hrtem_dask import load_model
    from hrtem_dask.networks import shipped_models
    from hrtem_dask.networks.card_page import write_page

    parser = argparse.ArgumentParser(prog="python -m benchmarks.cards", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    finishing = commands.add_parser("finish", help="fit the temperature and measure the reach of trained weights")
    finishing.add_argument("weights", metavar="WEIGHTS", help="shipped name or .safetensors file")
    finishing.add_argument("--set", dest="store", type=Path, required=True, help="the set it was trained with")
    finishing.add_argument("--seed", type=int, default=1)
    page = commands.add_parser("page", help="write the pages of cards")
    page.add_argument("names", nargs="*", metavar="NAMES", help="shipped names or files; by default all shipped")
    page.add_argument("--out", type=Path, default=DOCS, help="folder")
    options = parser.parse_args(arguments)
    if options.command == "finish":
        card = finish(options.weights, options.store, options.seed)
        print(f"temperature {card['calibration']['temperature']}, {card['calibration']['before']} before and "
              f"{card['calibration']['after']} after; reach {card['effective_receptive_field']}")
        return []
    pages = [write_page(load_model(name), options.out) for name in options.names or shipped_models()]
    print("\n".join(map(str, pages)))
    return pages


if __name__ == "__main__":
    main()
