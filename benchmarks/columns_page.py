"""The page docs/columns.md: its text, and the figures that two commands have written.

    python -m benchmarks.columns_page COLUMNS.json REAL.json [--out docs/columns.md]

COLUMNS.json is what `python -m benchmarks.columns` wrote, REAL.json what `python -m benchmarks.real_columns` did.
The figure goes beside the page, as columns.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import columns_tables

TEXT = Path(__file__).with_name("columns_page.md")
PAGE = Path(__file__).parents[1] / "docs" / "columns.md"


def page(found: Mapping[str, Any], real: Mapping[str, Any], figure: str) -> str:
    """The page as Markdown."""
    title, *rest = columns_tables.markdown(found).splitlines()
    tables = "\n".join(f"#{line}" if line.startswith("## ") else line for line in rest).strip()
    picture = f"![F1, RMS error and recall of surface columns against the dose]({figure})"
    text = TEXT.read_text(encoding="utf-8").replace("@TABLES@", f"## {title.lstrip('# ')}\n\n{picture}\n\n{tables}")
    for name, value in numbers(real).items():
        text = text.replace(f"@{name}@", value)
    return text


def numbers(real: Mapping[str, Any]) -> dict[str, str]:
    """Figures of the real micrographs as the page names them."""
    g, gold = real["graphene"], real["gold"]
    out = {name: str(g[name]) for name in ("listed", "hits", "false", "missed")}
    out |= {name: f"{g[name]:.3f}" for name in ("f1", "precision", "recall", "rms")}
    # of a place cut off at whole pixels: the variance along either axis is 1/12
    out |= {"pixel_size": f"{g['pixel_size']:.4f}", "of_list": f"{g['pixel_size'] / 6**0.5:.2f}",
            "contrast": "bright" if g["contrast"] > 0 else "dark", "shift": f"{max(map(abs, g['shift'])):.3f}"}
    return out | {"spots": str(gold["columns"]), "settled": f"{gold['fitted']:.0%}"}


def main(arguments: Sequence[str] | None = None) -> Path:
    """Write the page; return its path."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.columns_page", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("found", type=Path, metavar="COLUMNS.json")
    parser.add_argument("real", type=Path, metavar="REAL.json")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    found, real = (json.loads(p.read_text(encoding="utf-8")) for p in (options.found, options.real))
    figure = options.out.with_suffix(".png")
    columns_tables.draw(found, figure)
    options.out.write_text(page(found, real, figure.name), encoding="utf-8")
    print(f"wrote {options.out}")
    return options.out


if __name__ == "__main__":
    main()
