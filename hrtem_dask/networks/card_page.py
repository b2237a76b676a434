"""The page of a card: everything that the JSON says, as Markdown and two small figures; no figure is typed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cards import KEYS, MEASURED

if TYPE_CHECKING:
    from .models import Model

__all__ = ["page_of", "write_page"]

NONE = "not measured"
UNSAID = "not stated"
#: names of the scores of a card -> how the page calls them
SCORES = {"held_out_simulated": "Held-out simulated fields", "hard_simulated": "Hard simulated scenes"}


def write_page(model: Model, folder: str | os.PathLike[str]) -> Path:
    """Write the page of a network: NAME.md, and NAME-dose.png and NAME-reliability.png where they were measured.

    Parameters
    ----------
    model : Model
    folder : path
        Such as docs/cards.

    Returns
    -------
    Path
        The page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{model.name}.md"
    page.write_text(page_of(model), encoding="utf-8")
    card = model.card
    if curves(card):
        draw_doses(card, folder / f"{model.name}-dose.png")
    if "calibration" in card:
        draw_reliability(card["calibration"], folder / f"{model.name}-reliability.png")
    return page


def page_of(model: Model) -> str:
    """Text of the page of a network, Markdown.

    Examples
    --------
    >>> from hrtem_dask import load_model
    >>> page_of(load_model("au-particles")).splitlines()[0]
    '# au-particles'
    """
    card = model.card
    measured = [*(scores(card, key, model.name) for key in SCORES), hard(card), expected(card), real(card),
                calibration(card, model.name)]
    parts = [
        [f"# {model.name}", "", "Made from the card beside the weights by `python -m benchmarks.cards page`; "
         "the figures are what was measured, none is typed by hand.", ""],
        purpose(model), reach(card), training(card), *([columns(card)] if finds_columns(card) else measured),
        failures(card),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)] + [""]


def said(value: Any) -> str:
    """One value of a card as text."""
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " to ".join(said(v) for v in value) if len(value) == 2 and not any(isinstance(v, str) for v in value) \
            else ", ".join(said(v) for v in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {said(v)}" for k, v in value.items())
    return str(value)


def interval(row: Mapping[str, Any], key: str, bounds: str, digits: int = 3) -> str:
    """A figure with its interval."""
    if row.get(key) is None:
        return "–"
    text = f"{row[key]:.{digits}f}"
    return text if not row.get(bounds) else f"{text} ({row[bounds][0]:.{digits}f} to {row[bounds][1]:.{digits}f})"


def purpose(model: Model) -> list[str]:
    """What the network does, and with which images."""
    card = model.card
    arrays = [*model.weights.layers, *model.weights.biases]
    arrays += [getattr(model.weights, k) for k in ("final", "final_bias") if hasattr(model.weights, k)]
    shape = {k: v for k, v in card.get("architecture", {}).items() if k != "dilations"}
    rows = [("task", card.get("task", UNSAID)), ("classes", said(card["classes"])),
            ("network", f"{said(shape)}; {sum(a.size for a in arrays):,} parameters"),
            ("works at", f"{said(card['pixel_size'])} Å a pixel; other frames are resampled"),
            ("images a frame", str(card["input_channels"]))]
    units = {"pixel_size_range": "Å", "dose_range": "e/Å² a frame", "defocus_range": "Å (positive is underfocus)",
             "voltage": "kV"}
    rows += [(f"trained for {key.removesuffix('_range').replace('_', ' ')}",
              f"{said(card[key])} {unit}" if key in card else UNSAID) for key, unit in units.items()]
    rows += [("normalisation", f"{said(card['normalisation'])} ({KEYS['normalisation']})"),
             ("file format", said(card.get("format", 1))), ("sha256 of the weights", f"`{card['sha256']}`")]
    return ["## What it is for", "", *table(("", ""), rows)]


def reach(card: Mapping[str, Any]) -> list[str]:
    """Receptive field: what can matter, and what does."""
    field = card.get("effective_receptive_field", {})
    gradient = field.get("gradient")
    rows = [("can change an output pixel", f"{card['receptive_field']} network pixels across"),
            ("changes a probability by more than 0.001", f"halo of {card['effective_radius']} network pixels")]
    if gradient:
        rows += [(f"holds {part} % of the gradient", f"square of {2 * radius + 1} network pixels")
                 for part, radius in gradient.items()]
    else:
        rows.append(("gradient", NONE))
    return ["## How far it looks", "", *table(("", ""), rows)]


def training(card: Mapping[str, Any]) -> list[str]:
    """Recipe, seeds and commands."""
    made = card.get("training")
    if not made:
        return ["## How it was made", "", NONE, ""]
    wanted = ("recipe", "recipe_sha256", "set_seed", "fields", "fields_validation", "fields_held_out", "iterations",
              "minutes", "device", "workers", "weights", "start_sha256", "real_images_used", "revision", "date",
              "outline_note")
    rows = [(k.replace("_", " "), said(made[k])) for k in wanted if made.get(k) is not None]
    settings = made.get("settings", {})
    rows += [(k.replace("_", " "), said(settings[k])) for k in ("seed", "outline", "batch", "size", "learning_rate")
             if k in settings]
    rows.append(("versions", said(made.get("versions", {}))))
    return ["## How it was made", "", *table(("", ""), rows), "```", *made.get("commands", []), "```", ""]


def scores(card: Mapping[str, Any], key: str, name: str) -> list[str]:
    """Scores against the dose of one kind of scene."""
    found = by_dose(card, key)
    lines = [f"## {SCORES[key]}", ""]
    if not found:
        return [*lines, NONE, ""]
    about = card["scores"][key]
    if "recipe" in about:
        lines += [f"Recipe {about['recipe']}, {about['fields']} fields for each of the seeds {said(about['seeds'])}; "
                  f"by `{about.get('command', '')}`.", ""]
    elif key == next((k for k in SCORES if by_dose(card, k)), None):
        lines += [f"![Dice against the dose]({name}-dose.png)", ""]
    head = ("dose, e/Å²", "mean Dice (95 %)", "by seed", "worst", "wrong label", "object F1 (95 %)", "precision",
            "recall", "boundary, Å (95 %)", "diameter: bias ± scatter, %", "Dice against all atoms", "images",
            "area called particle in empty frames")
    return [*lines, *table(head, (dose_row(d, row) for d, row in found.items())),
            "Intervals: bootstrap over fields. Wrong label: Dice against the mask of another field.", ""]


def dose_row(dose: str, row: Mapping[str, Any]) -> list[str]:
    """Cells of one dose."""
    bias = "–" if row.get("diameter_bias") is None else f"{row['diameter_bias']:+.1f} ± {row['diameter_scatter']:.1f}"
    seeds = " ".join(f"{v:.3f}" for v in row.get("by_seed", {}).values()) or "–"
    return [dose, interval(row, "mean", "interval"), seeds, interval(row, "worst", ""),
            interval(row, "wrong_label", ""), interval(row, "f1", "f1_interval"), interval(row, "precision", ""),
            interval(row, "recall", ""), interval(row, "distance", "distance_interval", 2), bias,
            interval(row.get("atoms", {}), "mean", "interval"), str(row["images"]), interval(row, "false_area", "", 4)]


def hard(card: Mapping[str, Any]) -> list[str]:
    """Defocus, kinds of scenes and the peer on hard scenes."""
    found = card.get("scores", {}).get("hard_simulated")
    if not found:
        return []
    doses = list(found["dose"])
    rows = [(f"{float(r):+g} Å of defocus", *(interval(row.get(d, {}), "mean", "interval") for d in doses))
            for r, row in found.get("refocus", {}).items()]
    rows += [(f"{kind} ({row[doses[0]]['images']} scenes)", *(interval(row[d], "mean", "") for d in doses))
             for kind, row in found.get("kinds", {}).items()]
    peer = found.get("peer")
    if peer:
        rows.append((f"{peer['name']} instead of a network",
                     *(interval(peer["dose"][d], "mean", "interval") for d in doses)))
    return ["Mean Dice on the same scenes at another defocus, by kind of scene, and of a method without training:", "",
            *table(("", *(f"{d} e/Å²" for d in doses)), rows)]


def finds_columns(card: Mapping[str, Any]) -> bool:
    """Whether a network finds columns of atoms: there is no mask to measure then."""
    return card.get("label", {}).get("kind") in ("gaussian", "disc") or "column_threshold" in card


def columns(card: Mapping[str, Any]) -> list[str]:
    """Columns of atoms found and missed on hard scenes, and the peer without training."""
    found = card.get("scores", {}).get("hard_columns")
    lines = ["## Columns in hard simulated scenes", ""]
    if not found:
        return [*lines, NONE, ""]
    doses = list(found["dose"])
    chosen = found.get("chosen_on", {})
    on = f", chosen on {chosen['fields']} fields of {chosen['recipe']}, seed {chosen['seed']}" if chosen else ""
    head = [f"{found['judged']} fields of {found['recipe']}, seeds {', '.join(map(str, found['seeds']))}, by "
            f"`{found['command']}`; docs/columns.md says how they are judged. Threshold {found['threshold']:g}{on}.",
            ""]
    rows = [(d, *(interval(r, k, f"{k}_interval") for k in ("f1", "precision", "recall")),
             *(interval(r, k, f"{k}_interval", 2) for k in ("rms", "pull_sd"))) for d, r in found["dose"].items()]
    lines += [*head, *table(("dose, e/Å²", "F1 (95 %)", "precision (95 %)", "recall (95 %)", "RMS error, Å (95 %)",
                             "sd of pulls (95 %)"), rows)]
    rows = [(name, *(interval(by[d], "f1" if by[d]["f1"] is not None else "recall", "") for d in doses))
            for name, by in found["kinds"].items() if not name.startswith("tilt")]
    rows += [(name, *(interval(by[d], "f1", "f1_interval") for d in doses))
             for name, by in found.get("peers", {}).items()]
    lines += ["F1 by kind, and of a method without training with the best size and threshold for each dose:", "",
              *table(("", *(f"{d} e/Å²" for d in doses)), rows)]
    rows = [(f"{place}, {atoms} atom{'s' * (atoms != '1')}",
             *(interval(found["surface"][d][place][atoms], "recall", "interval") for d in doses))
            for place, by in found["surface"][doses[0]].items() for atoms in by]
    rows.append(("false near the surface, per true surface column",
                 *(interval(found["false"][d], "per_surface_column", "", 4) for d in doses)))
    return [*lines, "Recall by place and atoms per column:", "", *table(("", *(f"{d} e/Å²" for d in doses)), rows)]


def expected(card: Mapping[str, Any]) -> list[str]:
    """Expected Dice for pixel sizes and doses."""
    grid = card.get("expected_dice")
    lines = ["## Expected Dice", ""]
    if not grid:
        return [*lines, NONE, ""]
    rows = [[f"{p:g}", *("–" if v is None else f"{v:.3f}" for v in row)]
            for p, row in zip(grid["pixel_size"], grid["mean"], strict=True)]
    return [*lines, f"Mean Dice on scenes of the recipe {grid.get('recipe', 'unknown')}, by pixel size of the camera.",
            "", *table(("Å a pixel", *(f"{d:g} e/Å²" for d in grid["dose"])), rows)]


def real(card: Mapping[str, Any]) -> list[str]:
    """Dice on real images."""
    found = card.get("scores", {}).get("real")
    lines = ["## Real micrographs", ""]
    if not found:
        return [*lines, NONE, ""]
    head = [f"Mean Dice {found['mean_dice']:.3f}, worst {found['worst_dice']:.3f}, at {found['pixel_size']:g} Å a "
            f"pixel and threshold {found['threshold']:g}: {found['data']}; by `{found['command']}`.", ""]
    rows = [(r["image"], f"{r['dice']:.3f}", f"{r['precision']:.3f}", f"{r['recall']:.3f}") for r in found["images"]]
    return [*lines, *head, *([found["note"], ""] if found.get("note") else []),
            *table(("image", "Dice", "precision", "recall"), rows)]


def calibration(card: Mapping[str, Any], name: str) -> list[str]:
    """Temperature and errors of the probabilities."""
    found = card.get("calibration")
    lines = ["## Are the probabilities right?", ""]
    if not found:
        return [*lines, NONE, ""]
    rows = [(when, f"{q['nll']:.4f}", f"{q['ece']:.4f} ({q['ece_interval'][0]:.4f} to {q['ece_interval'][1]:.4f})",
             f"{q['ece_undecided']:.4f}", *(f"{v:.4f}" for v in q["ece_by_dose"].values()))
            for when, q in (("before", found["before"]), ("after", found["after"]))]
    doses = [f"error at {d} e/Å²" for d in found["after"]["ece_by_dose"]]
    return [*lines, f"![Reliability]({name}-reliability.png)", "",
            f"A temperature of {found['temperature']:g}, fitted to {found['fields_fitted']} fields that the gradient "
            f"never saw, is folded into the last layer; masks at threshold 0.5 are the same with and without it. "
            f"Looked at on {found['fields_checked']} other fields, {found['images_a_field']} images each, drawn as for "
            f"training:", "",
            *table(("", "negative log-likelihood, nat a pixel", "expected calibration error (95 %)",
                    "the same, probabilities from 0.05 to 0.95", *doses), rows)]


def failures(card: Mapping[str, Any]) -> list[str]:
    """Where the network is known to fail."""
    found = card.get("known_failures")
    return ["## Known failures", "", *([f"- {text}" for text in found] if found else [NONE if found is None else
            f"None that the measurement calls one ({MEASURED['known_failures']})."]), ""]


def by_dose(card: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Scores of one kind, dose -> row."""
    found = card.get("scores", {}).get(key, {})
    return found.get("dose", found) if found else {}


def curves(card: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Scores of all kinds that were measured."""
    return {name: by_dose(card, key) for key, name in SCORES.items() if by_dose(card, key)}


def draw_doses(card: Mapping[str, Any], path: Path) -> None:
    """Draw mean Dice with its interval against the dose."""
    plt = pyplot()
    fig, ax = plt.subplots(figsize=(6, 3.6), constrained_layout=True)
    for k, (name, rows) in enumerate(curves(card).items()):
        some = {float(d): r for d, r in rows.items() if r.get("mean") is not None}
        ax.plot(list(some), [r["mean"] for r in some.values()], "o-", color=f"C{k}", label=name)
        bounds = [r.get("interval") or (r["mean"],) * 2 for r in some.values()]
        ax.fill_between(list(some), *np.transpose(bounds), color=f"C{k}", alpha=0.2, lw=0)
    ax.set(xscale="log", ylim=(0, 1), xlabel="dose [e/Å²]", ylabel="mean Dice")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    fig.savefig(path, dpi=90)
    plt.close(fig)


def draw_reliability(found: Mapping[str, Any], path: Path) -> None:
    """Draw how often what was predicted with some probability is true."""
    plt = pyplot()
    bins = found["reliability"]
    fig, (ax, below) = plt.subplots(2, 1, figsize=(4, 4.6), sharex=True, height_ratios=(3, 1), constrained_layout=True)
    ax.plot([0, 1], [0, 1], color="0.7", lw=1)
    ax.plot(bins["predicted"], bins["true"], "o-")
    ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="part that is particle")
    below.bar(bins["predicted"], bins["pixels"], width=0.04)
    below.set(yscale="log", xlabel="predicted probability", ylabel="pixels")
    fig.savefig(path, dpi=90)
    plt.close(fig)


def pyplot() -> Any:
    """Pyplot, without a display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
