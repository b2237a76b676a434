"""The section of the report on readable frames: the verdicts, the frames at the border, figure 2."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..campaign.results import Campaign
from ..campaign.verdicts import listing
from ..core.errors import HrtemDaskError
from ..detector.mtf import MTF
from .figure2 import figure_two
from .pictures import Encoded
from .timeline import timeline_figure
from .verdicts import verdict_figure

if TYPE_CHECKING:
    from .build import Scenes

__all__ = ["readable_card", "readable_section"]


def readable_card(verdicts: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Number for the top of the page: value, name, and what it says."""
    kept = int(verdicts.keep.sum())
    return [(f"{kept:,}", "readable frame" if kept == 1 else "readable frames",
             f"of {len(verdicts):,}; {asked(verdicts)}")]


def asked(verdicts: pd.DataFrame) -> str:
    """What a frame had to meet, in words.

    Examples
    --------
    >>> table = pd.DataFrame({"keep": [True]})
    >>> table.attrs["threshold"] = {"max_ratio": 3.0, "min_score": None, "track": 2}
    >>> asked(table)
    'peak ratio at most 3 of track 2'
    """
    limits = verdicts.attrs.get("threshold", {})
    said = []
    if limits.get("max_ratio") is not None:
        said.append(f"peak ratio at most {limits['max_ratio']:.3g}")
    if limits.get("min_score") is not None:
        level = limits["min_score"]
        said.append(f"score at least {level:.3g}" if math.isfinite(level) else "no score is high enough")
    if limits.get("max_false_keep") is not None:
        said[-1:] = [f"{' '.join(said[-1:])} for at most {limits['max_false_keep']:.2g} false ones among them"]
    track = f" of track {limits['track']:g}" if limits.get("track") is not None else ""
    return ", ".join(said) + track


def readable_section(campaign: Campaign, scenes: Scenes, truth: pd.DataFrame | None,
                     mtf: MTF | None) -> dict[str, Any]:
    """What the template needs; pictures that need pixels are left out where the movie is gone."""
    verdicts = campaign.verdicts
    kept = verdicts.frame[verdicts.keep].to_numpy()
    counts = verdicts.reason[~verdicts.keep].astype(str).value_counts()
    rest = f" The others: {', '.join(f'{n} {reason}' for reason, n in counts.items())}." if len(counts) else ""
    which = f" ({listing(kept)})" if len(kept) else ""
    known = truth is not None and {"tilt", "spoilt"} <= set(truth.columns)
    border = _border(verdicts, scenes, truth if known else None)
    number, picture = _map(campaign, verdicts, scenes, mtf)
    return {
        "lead": f"{len(kept)} of {len(verdicts)} frames are kept{which}: {asked(verdicts)}.{rest}",
        "truth": known, "border": border, "map": picture, "map_frame": number,
        "timeline": timeline_figure(verdicts, truth if known else None) if len(verdicts) > 1 else None,
    }


def _border(verdicts: pd.DataFrame, scenes: Scenes, truth: pd.DataFrame | None) -> Encoded | None:
    if scenes.movie is None or len(verdicts) < 2:
        return None
    movie = scenes.movie
    if "defocus" in movie.dims:
        movie = movie.isel(defocus=movie.sizes["defocus"] // 2, drop=True)
    good = None
    if truth is not None:
        good = verdicts[["frame"]].merge(truth[["frame", "good"]], on="frame", how="left").good.fillna(False).to_numpy()
    try:
        return verdict_figure(movie, verdicts, truth=good)
    except HrtemDaskError as error:
        scenes.trouble = f"Frames at the border of the list cannot be shown: {error}"
    except Exception as error:  # noqa: BLE001 - a file that went bad costs its picture, not the report
        scenes.trouble = f"Frames at the border of the list cannot be read any more: {error}"
    return None


def _map(campaign: Campaign, verdicts: pd.DataFrame, scenes: Scenes,
         mtf: MTF | None) -> tuple[int | None, Encoded | None]:
    """Figure 2 of the frame whose verdict is surest; of the first one where no particle was followed."""
    order = verdicts.sort_values(["keep", "score"], ascending=False, kind="stable", na_position="last")
    for number in order.frame[:1]:
        scene = scenes.get(int(number))
        if scene is not None:
            try:
                return int(number), figure_two(scene, crystal=campaign.config.crystal, mtf=mtf,
                                               threshold=campaign.config.threshold)
            except HrtemDaskError as error:
                scenes.trouble = f"The peak ratio map cannot be shown: {error}"
    return None, None
