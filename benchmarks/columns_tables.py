"""Figures and tables of `benchmarks.columns`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .columns_score import LEFT_OUT

REFOCUS = (-50.0, 50.0)  # angstrom
REFOCUSED = (100.0, 1000.0)  # electrons/angstrom^2
#: contrast of columns, from the mean on them over that between them
FLAT = 0.03
CONTRASTS = {"dark columns": lambda c: c < -FLAT, "near zero": lambda c: abs(c) <= FLAT,
             "bright columns": lambda c: c > FLAT}
ZONES = ("110", "100", "111")
TILTS = ((0.0, 1.0), (1.0, 2.0), (2.0, 3.01))  # degree
ATOMS = {"1": (1, 1), "2": (2, 2), "3": (3, 3), "4-6": (4, 6), "7+": (7, 10**6)}
PLACES = ("surface", "inside", "film or vacuum")
GOALS = {100.0: 0.95, 1000.0: 0.99}
RESAMPLES = 1000
FAILS = 0.03  # of F1, from which on a kind of scene is called a failure
WORST = 6  # frames that are named

Row = Mapping[str, Any]


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 of counts (..., 3): hits, false, missed."""
    hits, false, missed = np.moveaxis(np.asarray(counts, float), -1, 0)
    return 2 * hits / np.maximum(2 * hits + false + missed, 1)


def sums_of(row: Row) -> np.ndarray:
    """What all figures of a frame follow from, so that frames add up.

    Hits, false and missed columns of two atoms and more; squares of the distances of the hits, and of
    those about the frame's own mean displacement; number, sum and squares of the pulls, and the squares
    about the frame's displacement.
    """
    columns, asked = row["columns"], row["columns"].atoms >= 2
    hits = columns[asked & columns.hit]
    error, stated = hits[["dy", "dx"]].to_numpy(float), hits[["y_error", "x_error"]].to_numpy(float)
    about = error - error.mean(0) if len(error) else error
    good = (np.isfinite(stated) & (stated > 0)).all(1)
    pull, inner = error[good] / stated[good], about[good] / stated[good]
    false = int((row["false"].place != LEFT_OUT).sum())
    return np.array([len(hits), false, int(asked.sum()) - len(hits), (error**2).sum(), (about**2).sum(),
                     pull.size, pull.sum(), (pull**2).sum(), (inner**2).sum()], float)


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "f1": lambda s: _ratio(2 * s[0], 2 * s[0] + s[1] + s[2]),
    "precision": lambda s: _ratio(s[0], s[0] + s[1]),
    "recall": lambda s: _ratio(s[0], s[0] + s[2]),
    "rms": lambda s: np.sqrt(_ratio(s[3], s[0])),
    "rms_about_shift": lambda s: np.sqrt(_ratio(s[4], s[0])),
    "pull_sd": lambda s: np.sqrt(np.maximum(_ratio(s[7], s[5]) - _ratio(s[6], s[5]) ** 2, 0)),
    "pull_sd_about_shift": lambda s: np.sqrt(_ratio(s[8], s[5])),
}


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)


def resampled(table: np.ndarray) -> np.ndarray:
    """Sums (resample, number) over fields (field, number) drawn with replacement, the same on every call."""
    rng = np.random.default_rng(0)
    return rng.multinomial(len(table), np.full(len(table), 1 / len(table)), RESAMPLES) @ table


def bounds(values: np.ndarray) -> list[float]:
    """Percentiles that hold 95 %."""
    return [round(float(q), 4) for q in np.nanquantile(values, [0.025, 0.975])]


def by_field(rows: Sequence[Row], numbers: Callable[[Row], np.ndarray]) -> np.ndarray:
    """Sum of the numbers of all frames of a field (field, number)."""
    names = [(r["seed"], r["field"]) for r in rows]
    at = {name: k for k, name in enumerate(sorted(set(names)))}
    table = np.zeros((len(at), len(numbers(rows[0]))))
    for name, row in zip(names, rows, strict=True):
        table[at[name]] += numbers(row)
    return table


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """All statistics of some frames, with 95 % intervals over fields drawn with replacement."""
    if not rows:
        return {"frames": 0} | dict.fromkeys(STATISTICS)
    table = by_field(rows, sums_of)
    total, drawn = table.sum(0), resampled(table).T
    out: dict[str, Any] = {"frames": len(rows), "hits": int(total[0]), "false": int(total[1]), "missed": int(total[2])}
    for name, statistic in STATISTICS.items():
        value = float(statistic(total))
        out[name] = round(value, 4) if np.isfinite(value) else None
        if out[name] is not None:
            out[f"{name}_interval"] = bounds(statistic(drawn))
    return out


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """All figures of one detector."""
    drawn = [r for r in rows if not r["setting"].refocus]
    by_dose = {f"{d:g}": [r for r in drawn if r["setting"].dose == d]
               for d in sorted({r["setting"].dose for r in drawn})}

    def moved(refocus: float, dose: float) -> list[Row]:
        return [r for r in rows if (r["setting"].dose, r["setting"].refocus) == (dose, refocus)]

    return {
        "dose": {d: summary(some) for d, some in by_dose.items()},
        "refocus": {f"{x:+g}": {f"{d:g}": summary(moved(x, d)) for d in REFOCUSED} for x in REFOCUS},
        "kinds": {name: {d: kind(some, test) for d, some in by_dose.items()} for name, test in kinds().items()},
        "surface": {d: surface(some) for d, some in by_dose.items()},
        "false": {d: false_columns(some) for d, some in by_dose.items()},
        "worst": {d: worst(some) for d, some in by_dose.items()},
    }


def failures(one: Mapping[str, Any]) -> list[str]:
    """Say in words where a detector is worse than elsewhere."""
    out = []
    for dose, goal in GOALS.items():
        d = f"{dose:g}"
        if d not in one["dose"]:
            continue
        all_, low = one["dose"][d]["f1"], one["worst"][d]["below_half"]
        if all_ < goal:
            out.append(f"At {d} e/angstrom^2 the F1 of columns is {all_:.3f}, below the goal of {goal:g}.")
        out += [f"At {d} e/angstrom^2, {kind}: F1 {row[d]['f1']:.2f}, against {all_:.2f} over all."
                for kind, row in one["kinds"].items() if not kind.startswith("tilt")
                and row[d]["f1"] is not None and row[d]["f1"] < all_ - FAILS]
        if low:
            out.append(f"At {d} e/angstrom^2, {low} of {one['dose'][d]['frames']} frames have an F1 below 0.5.")
        moved = [by[d]["f1"] for by in one["refocus"].values() if by.get(d, {}).get("f1") is not None]
        if moved and min(moved) < all_ - FAILS:
            out.append(f"At {d} e/angstrom^2 and 50 angstrom away from the focus of these scenes, where many columns "
                       f"have hardly any contrast: F1 {min(moved):.2f}.")
    return out


def worst(rows: Sequence[Row]) -> dict[str, Any]:
    """The frames with the lowest F1, and how many have one below one half."""
    f1 = np.array([float(STATISTICS["f1"](sums_of(r))) for r in rows])
    order = np.argsort(f1, kind="stable")[:WORST]
    frames = [{"seed": int(rows[k]["seed"]), "field": int(rows[k]["field"]), "f1": round(f1[k], 3),
               "contrast": round(float(rows[k]["contrast"]), 3), "zones": sorted(set(rows[k]["columns"].zone))}
              for k in order]
    return {"below_half": int((f1 < 0.5).sum()), "frames": frames}


def kinds() -> dict[str, Callable[[Row], Row | None]]:
    """Name -> the part of a frame that is of this kind, None where there is nothing of it."""
    out: dict[str, Callable[[Row], Row | None]] = {
        name: (lambda r, test=test: r if test(r["contrast"]) else None) for name, test in CONTRASTS.items()}
    for zone in ZONES:
        out[f"[{zone}]"] = lambda r, z=zone: _part(r, lambda c: c.zone == z, lambda f: f.zone == z)
    for low, high in TILTS:
        out[f"tilt {low:.0f} to {high:.0f} degree"] = lambda r, a=low, b=high: _part(
            r, lambda c: (c.tilt >= a) & (c.tilt < b), None)
    return out


def _part(row: Row, columns: Callable[[pd.DataFrame], pd.Series],
          false: Callable[[pd.DataFrame], pd.Series] | None) -> Row | None:
    there = row["columns"][columns(row["columns"])]
    wrong = row["false"][false(row["false"])] if false else row["false"].iloc[:0]
    return dict(row) | {"columns": there, "false": wrong} if len(there) else None


def kind(rows: Sequence[Row], part: Callable[[Row], Row | None]) -> dict[str, Any]:
    """F1, recall and RMS error of a kind of frames or columns."""
    found = summary([p for p in map(part, rows) if p is not None])
    keys = ("frames", "f1", "f1_interval", "recall", "recall_interval", "rms", "rms_interval")
    return {k: found.get(k) for k in keys}


def surface(rows: Sequence[Row]) -> dict[str, Any]:
    """Recall of surface and interior columns by their number of atoms, with the number of columns."""

    def counts(row: Row) -> np.ndarray:
        c = row["columns"]
        some = [(c.surface == here) & (c.atoms >= low) & (c.atoms <= high) for here in (True, False)
                for low, high in ATOMS.values()]
        return np.array([x for s in some for x in ((s & c.hit).sum(), s.sum())], float)

    table = by_field(rows, counts)
    total, drawn = table.sum(0), resampled(table)
    out: dict[str, Any] = {"surface": {}, "interior": {}}
    for k, (place, atoms) in enumerate((p, a) for p in out for a in ATOMS):
        hits, number = total[2 * k:2 * k + 2]
        out[place][atoms] = {"columns": int(number), "recall": round(hits / number, 4) if number else None}
        if number:
            out[place][atoms]["interval"] = bounds(_ratio(drawn[:, 2 * k], drawn[:, 2 * k + 1]))
    return out


def false_columns(rows: Sequence[Row]) -> dict[str, Any]:
    """False columns by their place, and those near the surface for each true surface column of any number of atoms."""
    places = pd.concat([r["false"] for r in rows]).place.value_counts() if rows else pd.Series(dtype=int)
    true = sum(int(r["columns"].surface.sum()) for r in rows)
    out: dict[str, Any] = {p: int(places.get(p, 0)) for p in (*PLACES, LEFT_OUT)}
    area = sum(r["area"] for r in rows)
    return out | {"surface_columns": true, "per_surface_column": round(out["surface"] / true, 5) if true else None,
                  "film_or_vacuum_per_100_nm2": round(out["film or vacuum"] / area * 1e4, 3) if area else None}


def markdown(found: Mapping[str, Any]) -> str:
    """The report as a file."""
    left = "" if found["judged"] == found["fields"] else (
        "; the others hold a particle near a zone axis whose columns are smeared into one another and have no truth")
    lines = ["# Columns of atoms in hard simulated scenes", "", f"By `{found['command']}`.", "",
             f"Recipe {found['recipe']} ({found['recipe_sha256'][:12]}), seeds {', '.join(map(str, found['seeds']))}: "
             f"{found['judged']} of {found['fields']} fields{left}. {found['versions']}.", ""]
    for name, one in found["detectors"].items():
        lines += [f"## {name}", ""]
        if "threshold" in one:
            lines += [f"Threshold {one['threshold']:g} at every dose.", ""]
        if "best" in one:
            lines += ["Best size and threshold on these frames at each dose: " + "; ".join(
                f"{d} e/Å²: {'found' if b['size'] is None else b['size']} Å, {b['threshold']:g}"
                for d, b in one["best"].items()) + ".", ""]
        lines += [*_dose_table(one), *_worst_lines(one), *_kind_table(one), *_surface_table(one), *_false_table(one)]
    lines += _curve_table(found)
    return "\n".join(lines)


def _dose_table(one: Row) -> list[str]:
    out = [_row("dose, e/Å²", "F1 (95 %)", "precision", "recall", "RMS error, Å (95 %)", "about the frame's shift, Å",
                "sd of pulls (95 %)", "about the frame's shift", "F1 at -50 / +50 Å of defocus"), _rule(9)]
    for dose, s in one["dose"].items():
        moved = " / ".join(_three(by.get(dose, {}).get("f1")) for by in one["refocus"].values())
        out.append(_row(dose, _with(s, "f1"), _three(s["precision"]), _three(s["recall"]), _with(s, "rms"),
                        _three(s["rms_about_shift"]), _with(s, "pull_sd", 2), _three(s["pull_sd_about_shift"], 2),
                        moved))
    return [*out, ""]


def _worst_lines(one: Row) -> list[str]:
    out = []
    for dose, w in one["worst"].items():
        if float(dose) in GOALS:
            names = "; ".join(f"{f['f1']:.2f} (seed {f['seed']}, field {f['field']}, [{'], ['.join(f['zones'])}], "
                              f"contrast {f['contrast']:+.2f})" for f in w["frames"])
            out += [f"Lowest F1 at {dose} e/Å²: {names}. Frames below 0.5: {w['below_half']}.", ""]
    return out


def _kind_table(one: Row) -> list[str]:
    doses = list(one["dose"])
    out = ["F1 by contrast and zone axis, recall by tilt (false columns off particles count by contrast only):", "",
           _row("kind", "frames", *(f"{d} e/Å²" for d in doses)), _rule(len(doses) + 2)]
    for name, by in one["kinds"].items():
        key = "recall" if name.startswith("tilt") else "f1"
        out.append(_row(name, str(by[doses[0]]["frames"]), *(_with(by[d], key) for d in doses)))
    return [*out, ""]


def _surface_table(one: Row) -> list[str]:
    doses = list(one["dose"])
    out = ["Recall by atoms per column:", "", _row("place", "atoms", "columns", *(f"{d} e/Å²" for d in doses)),
           _rule(len(doses) + 3)]
    for place in ("surface", "interior"):
        for atoms in ATOMS:
            cells = [one["surface"][d][place][atoms] for d in doses]
            out.append(_row(place, atoms, str(cells[0]["columns"]),
                            *(_with(c, "recall", key="interval") for c in cells)))
    return [*out, ""]


def _false_table(one: Row) -> list[str]:
    doses = list(one["dose"])
    out = ["False columns:", "", _row("where", *(f"{d} e/Å²" for d in doses)), _rule(len(doses) + 1)]
    out += [_row(p, *(str(one["false"][d][p]) for d in doses)) for p in PLACES]
    out.append(_row("left out: on a particle, 3 Å and more from every true column",
                    *(str(one["false"][d][LEFT_OUT]) for d in doses)))
    for text, key, digits in (("near the surface, per true surface column", "per_surface_column", 4),
                              ("on film or vacuum, per 100 nm² of frame", "film_or_vacuum_per_100_nm2", 2)):
        out.append(_row(text, *(_three(one["false"][d][key], digits) for d in doses)))
    out.append("")
    return out


def _curve_table(found: Row) -> list[str]:
    doses = [d for d in next(iter(found["curves"].values())) if " " not in d]
    at = [i for i, t in enumerate(found["thresholds"]) if round(t * 1000) % 100 == 0]
    out = ["## F1 against the threshold", ""]
    for name, by in found["curves"].items():
        out += [f"{name}:", "", _row("dose, e/Å²", *(f"{found['thresholds'][i]:g}" for i in at)), _rule(len(at) + 1)]
        out += [*[_row(d, *(_three(by[d][i]) for i in at)) for d in doses], ""]
    return out


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(n: int) -> str:
    return _row(*["---"] * n)


def _three(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _with(row: Row, name: str, digits: int = 3, key: str | None = None) -> str:
    limits = row.get(key or f"{name}_interval")
    if row[name] is None or limits is None:
        return "–"
    return f"{row[name]:.{digits}f} ({limits[0]:.{digits}f} to {limits[1]:.{digits}f})"


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw F1, the RMS error and the recall of surface columns against the dose."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(13, 4.2), constrained_layout=True)
    first = next(iter(found["detectors"]))
    for k, (name, one) in enumerate(found["detectors"].items()):
        dose = np.array([float(d) for d in one["dose"]])
        for ax, key in ((axes[0], "f1"), (axes[1], "rms")):
            rows = [r for r in one["dose"].values() if r[key] is not None]
            x = dose[[r[key] is not None for r in one["dose"].values()]]
            ax.plot(x, [r[key] for r in rows], "o-", color=f"C{k}", label=name)
            ax.fill_between(x, *np.array([r[f"{key}_interval"] for r in rows]).T, color=f"C{k}", alpha=0.2, lw=0)
        for j, atoms in enumerate(ATOMS):
            recall = np.array([one["surface"][d]["surface"][atoms]["recall"] for d in one["dose"]], float)
            if k == 0:
                axes[2].plot(dose, recall, "o-", color=f"C{j}", label=f"{atoms} atom{'s' * (atoms != '1')}")
    axes[0].plot(list(GOALS), list(GOALS.values()), "kx", label="goal")
    for ax, title in zip(axes, ("F1", "RMS error [Å]", f"recall of surface columns, {first}"), strict=True):
        ax.set(xscale="log", xlabel="dose [e/Å²]", title=title)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    axes[0].set_ylim(0, 1)
    axes[1].set_ylim(0)
    fig.suptitle("bands: 95 % over fields", fontsize=9)
    fig.savefig(path, dpi=110)
    plt.close(fig)
