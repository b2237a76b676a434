"""Build report.html: read what the campaign wrote, choose frames, draw, and fill the template."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..campaign.results import Campaign, load_campaign
from ..campaign.runner import open_source
from ..campaign.units import foreground
from ..core.calibration import pixel_size_of
from ..core.errors import HrtemDaskError
from ..core.provenance import history_of
from ..core.schema import EVENTS, FRAMES, PARTICLES, RATE, TRACKS, VERDICTS
from ..detector.mtf import MTF
from ..io.tables import atomic
from . import figures
from .diffusion import diffusion_card, diffusion_section
from .figures import compared
from .pictures import Scene
from .readable import readable_card, readable_section

__all__ = ["write_report"]

#: rows of the particle table that the page holds
ROWS = 60
#: frames in the overview, and among those that look worst
OVERVIEW, WORST = 8, 4


@dataclass(frozen=True)
class Choice:
    """A frame and a particle that figure 1 shows, and why."""

    why: str
    frame: int
    particle: int | None


def write_report(out: str | Path) -> Path:
    """Write ``report.html`` of a finished campaign; computes what a few frames need.

    Parameters
    ----------
    out : path
        Folder of the campaign.

    Returns
    -------
    Path
        The page: one file, all pictures inside, nothing loaded from elsewhere.

    Raises
    ------
    MissingInputError
        If there is no finished campaign in the folder.
    WriteError
        If the page cannot be written.
    """
    import jinja2

    campaign = load_campaign(out)
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html").render(_context(campaign))
    path = campaign.out / "report.html"
    with atomic(path) as partial:
        Path(partial).write_text(page, encoding="utf-8")
    return path


def _context(campaign: Campaign) -> dict[str, Any]:
    frames, particles = campaign.frames, campaign.particles
    truth = _truth(campaign.out)
    scenes = Scenes(campaign)
    return {
        "title": campaign.config.title or _source_name(campaign),
        "made": datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        "about": campaign.about,
        "model_name": Path(campaign.about["model"]["name"]).stem,
        "headline": headline(frames, particles, truth) + readable_card(campaign.verdicts)
        + diffusion_card(campaign),
        "caveats": caveats(campaign, frames, particles, truth),
        "figure_one": _figure_one(campaign, frames, particles, scenes),
        "readable": readable_section(campaign, scenes, truth, camera_of(campaign)),
        "diffusion": diffusion_section(campaign, scenes),
        "overview": _overview(frames, scenes),
        "worst": _worst(frames, scenes),
        "failed": frames[frames.status == "failed"].to_dict("records"),
        "counts": figures.counts_figure(frames),
        "sizes": figures.sizes_figure(particles),
        "ratios": figures.ratio_figure(particles, frames),
        "certainty": figures.certainty_figure(frames, truth),
        "truth": truth is not None,
        "over": "time" if len(frames) and frames.time.notna().all() else "frame number",
        "table": _table(particles),
        "n_particles": len(particles),
        "runs": campaign.about["runs"][::-1],
        "steps": history_of({"provenance": campaign.about["provenance"]}) if campaign.about.get("provenance") else [],
        "glossary": _glossary(campaign),
        "no_pictures": scenes.trouble,
    }


def _glossary(campaign: Campaign) -> list[Any]:
    tables = (PARTICLES, TRACKS, FRAMES, VERDICTS, *((EVENTS, RATE) if campaign.config.columns is not None else ()))
    found = {(c.name, c.meaning): c for t in tables for c in t.columns if c.name not in ("message", "status")}
    return list(found.values())


class Scenes:
    """Frames with their probabilities and labels, loaded one by one when a picture needs them."""

    def __init__(self, campaign: Campaign) -> None:
        self.data = campaign.data
        self.trouble = ""
        try:
            self.movie = open_source(campaign.config)
            self.pixel_size = pixel_size_of(self.movie)
        except HrtemDaskError as error:
            self.movie, self.trouble = None, f"The movie cannot be opened any more, so no frame is shown: {error}"

    def get(self, number: int) -> Scene | None:
        """Return a frame by its number; None where it cannot be read."""
        if self.movie is None:
            return None
        try:
            image = self.movie.sel(frame=number)
            if "defocus" in image.dims:
                image = image.isel(defocus=image.sizes["defocus"] // 2)
            counts = image.compute(scheduler="synchronous").values
        except Exception as error:  # noqa: BLE001 - a file that went bad costs its picture, not the report
            self.trouble = f"Frame {number} cannot be read any more: {error}"
            return None
        here = self.data.sel(frame=number).compute(scheduler="synchronous")
        time = float(image.time) if "time" in image.coords else math.nan
        return Scene(number, time, counts, foreground(here.probability).values.astype(np.float32),
                     here.labels.values, self.pixel_size)

    def many(self, numbers: list[int]) -> list[Scene]:
        """Return those of the frames that can be read."""
        return [s for s in map(self.get, numbers) if s is not None]


def choose(frames: pd.DataFrame, particles: pd.DataFrame) -> list[Choice]:
    """Choose what figure 1 shows: the particle most surely on a zone axis, a median one, and the worst frame.

    Particles cut by the border are only taken where there is no other.
    """
    done = frames[frames.status == "done"]
    whole = particles[~particles.touches_border.astype(bool)]
    pool = whole if len(whole) else particles
    seen = compared(pool).sort_values(["zone_axis_score", "peak_ratio", "area"], ascending=[False, True, False])
    chosen = []
    if len(seen):
        best, middle = seen.iloc[0], seen.iloc[len(seen) // 2]
        chosen.append(Choice("Best zone axis: the highest score of all particles",
                             int(best.frame), int(best.particle)))
        if len(seen) > 2:
            chosen.append(Choice("Median: half of the particles with a lattice have a higher score",
                                 int(middle.frame), int(middle.particle)))
    elif len(pool):
        best = pool.sort_values(["n_pairs", "area"]).iloc[-1]
        what = "The largest of those with a spot pair" if best.n_pairs else "The largest particle"
        chosen.append(Choice(f"{what}; no particle shows two in different directions", int(best.frame),
                             int(best.particle)))
    if len(done):
        number = int(done.sort_values(["certainty", "frame"]).frame.iloc[0])
        there = particles[particles.frame == number].sort_values("area")
        worst = Choice("Worst frame: the lowest certainty of the network, its largest particle", number,
                       int(there.particle.iloc[-1]) if len(there) else None)
        if not any((c.frame, c.particle) == (worst.frame, worst.particle) for c in chosen):
            chosen.append(worst)
    return chosen


def _figure_one(
    campaign: Campaign, frames: pd.DataFrame, particles: pd.DataFrame, scenes: Scenes
) -> list[dict[str, Any]]:
    shown = []
    for choice in choose(frames, particles):
        scene = scenes.get(choice.frame)
        if scene is None:
            continue
        picture, pairs = figures.four_panels(scene, choice.particle, crystal=campaign.config.crystal,
                                             mtf=camera_of(campaign))
        spacings = [f"{d:.2f}" for d in pairs[pairs.detected].d_spacing] if len(pairs) else []
        shown.append({"picture": picture, "why": choice.why, "frame": choice.frame, "particle": choice.particle,
                      "spacings": spacings})
    return shown


def camera_of(campaign: Campaign) -> MTF | None:
    """MTF that the campaign was given, None where there is none or its file is gone."""
    path = campaign.config.mtf
    try:
        return None if path is None else MTF.from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, HrtemDaskError):
        return None


def _overview(frames: pd.DataFrame, scenes: Scenes) -> Any:
    """Frames spread over the movie; None where so few are there that all are shown, worst first."""
    numbers = frames[frames.status == "done"].frame.to_list()
    if len(numbers) <= OVERVIEW:
        return None
    picked = np.unique(np.linspace(0, len(numbers) - 1, OVERVIEW).round().astype(int))
    found = scenes.many([int(numbers[i]) for i in picked])
    return figures.overlays(found) if found else None


def _worst(frames: pd.DataFrame, scenes: Scenes) -> Any:
    done = frames[frames.status == "done"].sort_values(["certainty", "frame"])
    found = scenes.many([int(n) for n in done.frame[:WORST if len(done) > OVERVIEW else OVERVIEW]])
    certain = done.set_index("frame").certainty
    return figures.overlays(found, [f"certainty {certain[s.frame]:.3f}" for s in found]) if found else None


def headline(frames: pd.DataFrame, particles: pd.DataFrame, truth: pd.DataFrame | None) -> list[tuple[str, str, str]]:
    """Numbers at the top of the page: value, name, and what it says."""
    done = frames[frames.status == "done"]
    lattice, ratios = particles.peak_ratio.notna(), compared(particles).peak_ratio
    whole = particles[~particles.touches_border.astype(bool)]
    out = [
        (f"{len(done):,}", "frames analysed" if len(done) != 1 else "frame analysed",
         f"{len(frames) - len(done)} failed" if len(done) < len(frames) else "none failed"),
        (f"{len(particles):,}", "particles measured", "counted in each frame anew, not followed from frame to frame"),
        (f"{done.n_particles.median():g}" if len(done) else "–", "particles in a frame", "median over the frames"),
        (f"{whole.diameter.median() / 10:.2f} nm" if len(whole) else "–", "diameter", "median of the whole particles"),
        (f"{100 * lattice.mean():.0f} %" if len(particles) else "–", "show a lattice",
         "spot pairs in two directions; " + (f"{100 * (particles.n_pairs > 0).mean():.0f} % show one pair or more"
                                             if len(particles) else "there is no particle")),
        (f"{ratios.median():.2f}" if len(ratios) else "–", "peak ratio",
         "median of those with a lattice; near 1 on a zone axis"),
    ]
    if truth is not None:
        worst = truth.dice.min()
        out.append((f"{truth.dice.mean():.3f}", "Dice", f"mean against the simulated truth, worst {worst:.3f}"))
    return out


def caveats(
    campaign: Campaign, frames: pd.DataFrame, particles: pd.DataFrame, truth: pd.DataFrame | None
) -> list[str]:
    """What a reader must know before using the numbers."""
    movie, model = campaign.about["movie"], campaign.about["model"]["card"]
    notes = []
    if truth is not None:
        notes.append("This movie is simulated. The agreement with its truth says nothing of real micrographs. "
                     "The truth covers all projected atoms; au-particles outlines the half-thickness line inside them, "
                     "which alone costs about a tenth of Dice.")
    where = movie.get("calibration_source")
    if where == "user":
        notes.append(f"The pixel size of {campaign.config.pixel_size} Å was given by the user, not read from the "
                     "files; all sizes and spacings scale with it.")
    elif where not in (None, "file"):
        notes.append(f"The pixel size is {where}; all sizes and spacings scale with it.")
    if not frames.time.notna().all():
        notes.append("The time of the frames is not known, so figures are drawn over the number of the frame; "
                     "give --frame-time to have seconds.")
    if "dose" not in movie:
        low, high = model.get("dose_range", (math.nan, math.nan))
        notes.append(f"The electron dose is not known. The network was trained for {low:g} to {high:g} e/Å² a frame; "
                     "outside of that range its masks can be wrong in ways that its certainty does not show.")
    notes.append("Certainty is the network's own opinion of itself: it ranks frames to look at and is no error bar.")
    if not len(particles):
        notes.append("No particle was found.")
    elif campaign.config.mtf is None:
        notes.append("No MTF of the camera was given, so peak intensities are as the camera blurred them.")
    notes.append("The zone-axis score was calibrated on simulated gold; for another material, a film much thicker or "
                 "another microscope take it as a rank, not as a probability.")
    small = particles[particles.touches_border.astype(bool)]
    if len(small):
        notes.append(f"{len(small)} of {len(particles)} particles touch the border of their frame: their size is a "
                     "lower bound, and they are left out of the median diameter.")
    return notes


def _truth(out: Path) -> pd.DataFrame | None:
    path = out / "truth.csv"
    return pd.read_csv(path) if path.is_file() else None


def _source_name(campaign: Campaign) -> str:
    source = campaign.config.source
    if isinstance(source, list):
        first = Path(source[0])
        return first.name if len(source) == 1 else f"{first.parent.name}: {first.name} and {len(source) - 1} more"
    return Path(source).name if isinstance(source, str) else "Movie"


def _table(particles: pd.DataFrame) -> list[dict[str, Any]]:
    def number(value: float, digits: int) -> str:
        return "–" if pd.isna(value) else f"{value:.{digits}f}"

    return [
        {"frame": r.frame, "particle": r.particle, "time": number(r.time, 2), "y": number(r.y, 1), "x": number(r.x, 1),
         "diameter": number(r.diameter, 1), "area": number(r.area, 0), "probability": number(r.probability, 3),
         "border": "yes" if r.touches_border else "", "n_pairs": r.n_pairs, "peak_ratio": number(r.peak_ratio, 2),
         "score": number(r.zone_axis_score, 2), "axis": r.zone_axis, "track": getattr(r, "track", "")}
        for r in particles.head(ROWS).itertuples()
    ]
