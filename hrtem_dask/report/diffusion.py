"""The section of the report on diffusion events: its pictures, and a table of the numbers with what they rest on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..campaign.results import Campaign
from ..core.calibration import grid_of
from ..core.errors import HrtemDaskError
from ..io.tables import read_json
from ..kernels.carried import carried_back
from ..kernels.rigid import move
from .diffusion_figures import Ground, columns_figure, events_figure

if TYPE_CHECKING:
    from .build import Scenes

__all__ = ["TRUE_EVENTS", "TRUTH", "diffusion_card", "diffusion_section", "number_rows"]

#: frames in the mean image, at most, and what is shown around the sites [angstrom]
MOST, AROUND = 60, 5.0
#: what a simulated movie lays beside its results: the true rate, and the true events
TRUTH, TRUE_EVENTS = "true_diffusion.json", "true_events.csv"


def diffusion_card(campaign: Campaign) -> list[tuple[str, str, str]]:
    """Number for the top of the page: value, name, and what it says."""
    said = campaign.diffusion if campaign.config.columns is not None else None
    if said is None:
        return []
    if said["rate"] is None:
        return [("–", "no rate of events", "nothing could be counted: see Diffusion events")]
    if said["limit"]:
        return [(f"< {said['high']:.2g}/s", "events a site", f"no event is sure; 95 %, from {said['exposure']:.0f} "
                                                              f"site-seconds")]
    return [(f"{said['rate']:.2g}/s", "events a site", f"95 %: {said['low']:.2g} to {said['high']:.2g}; at least "
                                                       f"{said['events']} events")]


def diffusion_section(campaign: Campaign, scenes: Scenes) -> dict[str, Any] | None:
    """What the template needs; None for a campaign without columns."""
    said = campaign.diffusion if campaign.config.columns is not None else None
    if said is None:
        return None
    truth = read_json(campaign.out / TRUTH)
    out = {"text": said["text"].splitlines(), "reason": said["reason"], "numbers": number_rows(said, truth),
           "truth": truth is not None, "columns": None, "events": None, "frame": None, "mean_frames": 0}
    tables = {n: campaign.table(n) for n in ("columns", "drift", "sites", "events", "rate", "occupancy",
                                             "diffusion_frames")}
    if not len(tables["sites"]):
        return out
    # sites of one epoch only lie on one picture: those of the longest
    registered = tables["drift"][tables["drift"]["drift_y"].notna()]
    epoch = int(registered["epoch"].mode().iloc[0])
    registered = registered[registered["epoch"] == epoch]
    sites = tables["sites"][tables["sites"]["epoch"] == epoch]
    frame, mean, number, count = _grounds(campaign, scenes, registered, sites)
    there = _carried(sites, registered, number)
    shown = tables["columns"].query("followed and frame == @number") if number is not None else tables["columns"][:0]
    out |= {"columns": columns_figure(frame, shown, there, mean, sites, _known(sites)), "frame": number,
            "mean_frames": count, "epochs": len(said["epochs"]), "epoch": epoch}
    if len(tables["rate"]):
        out["events"] = events_figure(
            tables["diffusion_frames"], tables["occupancy"], tables["sites"], tables["events"], tables["rate"],
            truth=_true_events(campaign.out), true_rate=None if truth is None else truth.get("rate"))
    return out


def number_rows(said: dict[str, Any], truth: dict[str, Any] | None) -> list[tuple[str, str, str, str]]:
    """Rows of the table: what, value, truth where it is known, and what to keep in mind."""
    if said["rate"] is None:
        return []
    truth = truth or {}
    kinds, true_kinds = said["kinds"], truth.get("kinds", {})

    def true(name: str, form: str = ".3g") -> str:
        return "" if truth.get(name) is None else f"{truth[name]:{form}}"

    rate = f"{said['rate']:.3g} ({said['low']:.3g} to {said['high']:.3g})"
    if said["limit"]:
        rate = f"below {said['high']:.3g}: no event is sure"
    rows = [
        ("events a site and second, corrected", rate, true("rate"),
         "95 % interval; knows of columns that were missed and invented"),
        ("the same, uncorrected", f"{said['rate_raw']:.3g}", "", "events of the most probable path over the exposure"),
        ("flips of what was seen", f"{said['flips'] / said['exposure']:.3g}", "",
         "what counting from frame to frame would give"),
        ("events", f"≥ {said['events']}", true("events", "d"),
         "a lower bound: a column holds several atoms, and one of them that leaves need not be seen"),
        *((f"… {kind}", f"≥ {n}", "" if kind not in true_kinds else f"{true_kinds[kind]}", "a lower bound")
          for kind, n in kinds.items()),
        ("exposure", f"{said['exposure']:.4g} site-seconds", true("exposure", ".4g"),
         f"of {said['sites_changing']} sites that can change, in the frames that were used"),
        ("a column is seen in", _share(said["tpr"]), "", "of the frames in which it is there (sites that can change)"),
        ("one is seen that is not there in", _share(said["fpr"], 2), "", "of the frames in which the site is empty"),
        ("changes that are found", _share(said["efficiency"], 0), true("recall", ".0%"),
         "of simulated sites that are read like these"),
        ("events of a frozen particle", _number(said["false_rate"]), "",
         "a site and second, of simulated frozen sites that are read like these"),
    ]
    if kinds.get("hop"):
        rows.append(("hops of a column and second", f"{_number(said['hop_rate'])} ({_number(said['hop_low'])} to "
                     f"{_number(said['hop_high'])})", "", f"≥, D = Γa²/4 ≥ {_number(said['coefficient'])} cm²/s"))
    left = {**said["frames_dropped"], **{k: n for k, n in said["used"].items() if k not in ("used", "left out")}}
    rows.append(("frames used", f"{said['used'].get('used', 0)} of {said['frames']}", "",
                 "left out: " + (", ".join(f"{n} {why}" for why, n in left.items()) or "none")))
    return rows


def _share(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _known(sites: pd.DataFrame) -> np.ndarray:
    return sites["occupancy"].fillna(0).to_numpy(np.float64)


def _grounds(campaign: Campaign, scenes: Scenes, registered: pd.DataFrame,
             sites: pd.DataFrame) -> tuple[Ground | None, Ground | None, int | None, int]:
    """The best frame around the particle, the mean image, the number of that frame, and of the frames in the mean."""
    verdicts = campaign.verdicts.set_index("frame")
    order = registered.assign(score=verdicts["score"].reindex(registered["frame"]).to_numpy()).sort_values(
        ["score", "frame"], ascending=[False, True], kind="stable", na_position="last")
    number = int(order["frame"].iloc[0])
    if scenes.movie is None:
        return None, None, number, 0
    movie = scenes.movie
    if "defocus" in movie.dims:
        movie = movie.isel(defocus=movie.sizes["defocus"] // 2, drop=True)
    try:
        return *_drawn(movie, registered, sites, number), number, min(MOST, len(registered))
    except HrtemDaskError as error:
        scenes.trouble = f"Columns cannot be shown: {error}"
    except Exception as error:  # noqa: BLE001 - a file that went bad costs its picture, not the report
        scenes.trouble = f"Columns cannot be shown, a frame cannot be read any more: {error}"
    return None, None, number, 0


def _drawn(movie: Any, registered: pd.DataFrame, sites: pd.DataFrame, number: int) -> tuple[Ground, Ground]:
    grid = grid_of(movie)
    pixel, step, origin = np.array(grid.pixel_size), np.array([grid.dy, grid.dx]), np.array([grid.y0, grid.x0])
    there = _carried(sites, registered, number)[["y", "x"]].to_numpy()
    # of a flipped frame the coordinates run downwards: pixels do not
    ends = np.sort((np.stack([there.min(0) - AROUND, there.max(0) + AROUND]) - origin) / step, axis=0)
    (top, left), (bottom, right) = np.clip(np.rint(ends), 0, [grid.ny - 1, grid.nx - 1]).astype(int)
    best = movie.sel(frame=number).isel(y=slice(top, bottom + 1), x=slice(left, right + 1))
    best = best.compute(scheduler="synchronous").values.astype(np.float64)
    frame = Ground(best, tuple(origin + step * [top, left]), tuple(step), f"frame {number}")
    place = sites[["y", "x"]].to_numpy()
    low, high = place.min(0) - AROUND, place.max(0) + AROUND
    axes = [np.arange(a, b, p) for a, b, p in zip(low, high, pixel, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    chosen = registered.iloc[np.unique(np.linspace(0, len(registered) - 1, MOST).round().astype(int))]
    total, known = np.zeros(places.shape[:2]), np.zeros(places.shape[:2])
    centre = registered[["centre_y", "centre_x"]].to_numpy()[0]
    for row in chosen.itertuples():
        image = movie.sel(frame=row.frame).compute(scheduler="synchronous").values.astype(np.float64)
        image = image / np.nanmean(image)
        back = carried_back(image, origin, step, np.array([row.drift_y, row.drift_x, row.rotation]), centre, places)
        good = np.isfinite(back)
        total[good] += back[good]
        known += good
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known > 0, total / known, np.nan)
    return frame, Ground(mean, tuple(low), tuple(pixel), f"mean of {len(chosen)} frames")


def _carried(sites: pd.DataFrame, registered: pd.DataFrame, number: int | None) -> pd.DataFrame:
    """Sites where they are in a frame."""
    row = registered[registered["frame"] == number].iloc[0]
    motion, centre = (row[list(names)].to_numpy(float) for names in (("drift_y", "drift_x", "rotation"),
                                                                     ("centre_y", "centre_x")))
    at = move(motion, sites[["y", "x"]].to_numpy(), centre)
    return sites.assign(y=at[:, 0], x=at[:, 1])


def _true_events(out: Path) -> pd.DataFrame | None:
    path = out / TRUE_EVENTS
    return pd.read_csv(path) if path.is_file() else None
