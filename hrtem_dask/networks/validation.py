"""Fixed images that a run is judged by, what it made of them as CSV and figure, and which weights are kept."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .scoring import EMPTY_BELOW

__all__ = ["RULE", "Judgement", "Metrics"]

RULE = "the running average of the weights, at the validation with the lowest loss"


class Judgement(NamedTuple):
    """What a network made of one image: loss, pixels found and true, found, and true."""

    loss: float
    both: int
    found: int
    true: int

    @classmethod
    def of(cls, loss: float, found: np.ndarray, truth: np.ndarray) -> Judgement:
        """Compare a found mask with the truth."""
        return cls(float(loss), int((found & truth).sum()), int(found.sum()), int(truth.sum()))

    @property
    def dice(self) -> float:
        """Dice coefficient."""
        return 2 * self.both / max(self.found + self.true, 1)


class Metrics:
    """The rows of a run, one a validation, and the lowest loss so far.

    Parameters
    ----------
    names : sequence of str
        What the groups of validation images are called, as "dice_20"; image k is of group
        k % len(names).
    pixels : int
        Of an image: one that is covered by less than a thousandth has no Dice.
    """

    def __init__(self, names: Sequence[str], pixels: int) -> None:
        self.names, self.pixels = tuple(names), pixels
        self.rows: list[dict[str, float]] = []

    def add(self, judged: Sequence[Judgement], **values: float) -> bool:
        """Add a row; whether its loss is the lowest so far."""
        row = dict(values) | {"validation_loss": round(float(np.mean([j.loss for j in judged])), 6)}
        for g, name in enumerate(self.names):
            scores = [j.dice for j in judged[g::len(self.names)] if j.true >= EMPTY_BELOW * self.pixels]
            row[name] = round(float(np.mean(scores)), 4) if scores else float("nan")
        best = min((r["validation_loss"] for r in self.rows), default=math.inf)
        self.rows.append(row)
        return row["validation_loss"] < best

    @property
    def best(self) -> Mapping[str, float]:
        """The row with the lowest validation loss, the first of equal ones."""
        return min(self.rows, key=lambda row: row["validation_loss"]) if self.rows else {}

    def said(self) -> str:
        """Say the last row in a few words."""
        if not self.rows:
            return ""
        row = self.rows[-1]
        return f"validation loss {row['validation_loss']:.3f}, Dice " + " / ".join(
            f"{row[name]:.2f}" for name in self.names)

    def write(self, path: Path) -> None:
        """Write all rows as CSV."""
        if not self.rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        part = path.with_name(path.name + ".part")
        part.write_text(text.getvalue(), encoding="utf-8")
        part.replace(path)

    def draw(self, path: Path, title: str = "") -> None:
        """Draw loss and Dice against the iteration; the kept weights are marked."""
        if not self.rows:
            return
        from matplotlib.figure import Figure

        def column(key: str) -> list[float]:
            return [row[key] for row in self.rows]

        x, best = column("iteration"), self.best["iteration"]
        fig = Figure(figsize=(9, 3.6), layout="constrained")
        loss, dice = fig.subplots(1, 2)
        loss.plot(x, column("loss"), label="training")
        loss.plot(x, column("validation_loss"), label="validation, averaged weights")
        for name in self.names:
            dice.plot(x, column(name), label=name.removeprefix("dice_") + " e/Å²" if name != "dice" else name)
        for axes, label in ((loss, "loss"), (dice, "Dice on validation images")):
            axes.axvline(best, color="0.6", linewidth=0.8, linestyle="--")
            axes.set(xlabel="iteration", ylabel=label)
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize=8)
        loss.set_yscale("log")
        dice.set_ylim(min(0.5, *(v for n in self.names for v in column(n) if v == v), 1), 1)
        fig.suptitle(title, fontsize=10)
        part = path.with_name(path.name + ".part")
        fig.savefig(part, dpi=120, format="png")
        part.replace(path)
