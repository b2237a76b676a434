"""One simulated frame of columns: its truth, what a detector finds in it, and how the two agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from hrtem_dask.analysis.columns import NEAREST
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.kernels.blobs import SIZE, blob_probability_block, blob_response, scale_of
from hrtem_dask.kernels.matching import ColumnMatches, match_columns, places_of_false, surface_columns

MARGIN = 2.0  # angstrom: columns nearer to the border are left out
LOW = 0.1  # threshold that the curves begin at
THRESHOLDS = tuple(float(t) for t in np.round(np.arange(0.1, 0.801, 0.05), 2))
UNLISTED = 3.0  # angstrom from every true column
BRIGHTEST = 5000.0  # electrons/angstrom^2: of the frame whose contrast is measured
ON_COLUMN, BETWEEN = 0.35, (0.6, 1.2)  # angstrom from the nearest column
LEFT_OUT = "left out"
LOG = "Laplacian of a Gaussian"
LOG_TOLD, LOG_FOUND = f"{LOG}, sign told", f"{LOG}, sign found"


@dataclass(frozen=True)
class Setting:
    """How a field is imaged besides what is drawn for it: dose [electrons/angstrom^2] and added defocus [angstrom]."""

    dose: float
    refocus: float = 0.0


@dataclass(frozen=True)
class Detector:
    """What finds columns: a network by name, or the classical one of this ``size`` [angstrom].

    ``told``: the classical detector is told the sign of the contrast, as it is on average at the true columns.
    """

    network: str = ""
    weights: str = ""
    size: float | None = None
    told: bool = True

    @property
    def name(self) -> str:
        """Of a row of the tables."""
        return self.network or (LOG_TOLD if self.told else LOG_FOUND)

    @property
    def text(self) -> str:
        """Name with its options."""
        return self.network or f"{self.name}, size {'found' if self.size is None else f'{self.size:g} Å'}"


@dataclass(frozen=True, eq=False)
class Scene:
    """A recorded frame as a movie of one frame, with the table of its true columns and the mask of its particles."""

    movie: Any
    truth: pd.DataFrame
    mask: np.ndarray
    contrast: float = float("nan")

    @property
    def extent(self) -> tuple[float, float]:
        """Place of the last pixel (y, x) [angstrom]."""
        return float(self.movie.y[-1]), float(self.movie.x[-1])


def judged(sample: Any) -> bool:
    """Whether all particles near a zone axis have columns in the truth.

    Some are so thick that their tilt smears the columns into one another; what a detector makes of those is
    neither right nor wrong.
    """
    return not any(p["zone_axis"] == "" and p["tilt"] < 5 for p in sample.info["particles"])


def column_truth(sample: Any) -> pd.DataFrame:
    """True columns of a field with what they are counted by."""
    table = sample.columns[["y", "x", "atoms", "particle"]].copy()
    at = table[["y", "x"]].to_numpy(float)
    table["surface"], table["spacing"] = surface_columns(at, table.particle.to_numpy(), period=(sample.box,) * 2)
    of = {i + 1: p for i, p in enumerate(sample.info["particles"])}
    table["zone"] = [of[p]["zone_axis"] for p in table.particle]
    table["tilt"] = [of[p]["tilt"] for p in table.particle]
    return table


def draw_scene(data: Any, i: int, setting: Setting, truth: pd.DataFrame, sample: Any) -> Scene:
    """Draw field i of a set; microscope, camera and place are the same at every dose and defocus."""
    from hrtem_dask.simulate.columns import repeated
    from hrtem_dask.simulate.draws import draw_frame, truth_at

    frame = draw_frame(sample, data.recipe, np.random.default_rng([data.seed, 3, i]), dose=setting.dose,
                       refocus=setting.refocus)
    size = np.array(frame.counts.shape) * frame.pixel_size
    yx, row = repeated(truth[["y", "x"]].to_numpy(float) - frame.origin, np.arange(len(truth)),
                       np.array([sample.box] * 2), size, 0.0)
    there = truth.iloc[row].assign(y=yx[:, 0], x=yx[:, 1]).reset_index(drop=True)
    mask = truth_at(sample, frame.origin, frame.pixel_size, frame.counts.shape)
    return Scene(make_movie(frame.counts[None], pixel_size=frame.pixel_size, attrs={"dose": setting.dose}), there, mask)


def contrast_of(scene: Scene) -> float:
    """Mean of the pixels on columns of two atoms and more over that of the pixels between them, less 1."""
    from scipy.spatial import cKDTree

    yx = scene.truth.loc[scene.truth.atoms >= 2, ["y", "x"]].to_numpy()
    if not len(yx):
        return float("nan")
    grid = np.stack(np.meshgrid(scene.movie.y, scene.movie.x, indexing="ij"), -1)
    distance = cKDTree(yx).query(grid, distance_upper_bound=BETWEEN[1])[0]
    counts = scene.movie.values[0]
    on, off = counts[distance < ON_COLUMN], counts[(distance > BETWEEN[0]) & (distance < BETWEEN[1])]
    return float(on.mean() / off.mean() - 1) if len(on) and len(off) else float("nan")


def unlisted(at: np.ndarray, scene: Scene) -> np.ndarray:
    """Which found places (n, 2) are on a particle, but far from all true columns: neither right nor wrong.

    The mirrored half of some twins shows a lattice of spots that are no columns of the named zone axis,
    and so are none in the truth.
    """
    true = scene.truth[["y", "x"]].to_numpy(float)
    pixel = np.round(at / scene.movie.attrs["pixel_size"]).astype(int)
    on_particle = scene.mask[tuple(np.clip(pixel, 0, np.array(scene.mask.shape) - 1).T)] > 0
    return on_particle & (_distance(at, true)[0] > UNLISTED)


def _distance(points: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the nearest true column [angstrom], and its row."""
    from scipy.spatial import cKDTree

    if not len(points) or not len(true):
        return np.full(len(points), np.inf), np.zeros(len(points), int)
    return cKDTree(true).query(points)


def told_sign(scene: Scene, size: float) -> str:
    """Sign of the response at the true columns."""
    step = scene.movie.attrs["pixel_size"]
    at = np.round(scene.truth[["y", "x"]].to_numpy() / step).astype(int)
    at = at[((at >= 0) & (at < scene.mask.shape)).all(1)]
    response = blob_response(scene.movie.values[0], size, (step, step))
    return "bright" if not len(at) or response[tuple(at.T)].mean() >= 0 else "dark"


def probability_of(detector: Detector, scene: Scene, *, quick: bool = False) -> Any:
    """Probability on the camera's pixels, computed; ``quick`` goes past Dask for the classical detector."""
    import dask

    from hrtem_dask import blob_probability, segment

    sign = "auto" if detector.weights or not detector.told else told_sign(scene, detector.size or SIZE)
    if quick and not detector.weights:
        step, counts = (scene.movie.attrs["pixel_size"],) * 2, scene.movie.values[0]
        return blob_probability_block(counts, scale_of([counts], step, size=detector.size, sign=sign), step)
    with dask.config.set(scheduler="synchronous"):
        found = segment(scene.movie, network(detector.weights), device="cpu", warn=False) if detector.weights else \
            blob_probability(scene.movie, size=detector.size, sign=sign)
        return found.sel({"class": ["background", "column"]}).values[0] if quick else found.compute()


NETWORKS: dict[str, Any] = {}


def network(weights: str) -> Any:
    """A network, loaded once a process."""
    from hrtem_dask import load_model

    if weights not in NETWORKS:
        NETWORKS[weights] = load_model(weights)
    return NETWORKS[weights]


def found_columns(detector: Detector, scene: Scene, probability: Any, threshold: float) -> pd.DataFrame:
    """The table that any user gets: `find_columns` with the image."""
    import dask

    from hrtem_dask import find_columns

    card = network(detector.weights).card if detector.weights else None
    with dask.config.set(scheduler="synchronous"):
        return find_columns(probability, image=scene.movie, threshold=threshold, crystal="Au", card=card).compute()


def maxima(probability: np.ndarray, scene: Scene) -> pd.DataFrame:
    """The maxima that `find_columns` begins with, at their places in the probability: quick, for curves."""
    from hrtem_dask.kernels.column_peaks import column_spacing, find_peaks, thin_out

    step = (scene.movie.attrs["pixel_size"],) * 2
    found = thin_out(find_peaks(probability[1:], step, LOW), NEAREST * column_spacing("Au"))
    return pd.DataFrame({"y": found.place[:, 0], "x": found.place[:, 1], "probability": found.presence})


def matched(at: np.ndarray, scene: Scene) -> ColumnMatches:
    """Match found places (n, 2) with the truth of a scene."""
    return match_columns(at, scene.truth[["y", "x"]].to_numpy(float), scene.truth.atoms.to_numpy(),
                         extent=scene.extent, margin=MARGIN)


def counts_by_threshold(found: pd.DataFrame, scene: Scene, thresholds: Sequence[float] = THRESHOLDS) -> np.ndarray:
    """Hits, false columns and misses (threshold, 3) of what is surer than each threshold.

    Found columns keep a distance of more than twice the radius, so none takes the place of another:
    the pairs of all of them hold at every threshold.
    """
    at, p = found[["y", "x"]].to_numpy(float), found.probability.to_numpy()
    m = matched(at, scene)
    hit, false = np.sort(p[m.pairs[m.asked, 0]]), np.sort(p[m.false[~unlisted(at[m.false], scene)]])
    hits, wrong = (len(q) - np.searchsorted(q, thresholds) for q in (hit, false))
    return np.stack([hits, wrong, len(hit) + len(m.missed) - hits], 1)


def rows_of(found: pd.DataFrame, scene: Scene) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a true column, with whether it was found and how far off; and a row a false one, with its place."""
    m, truth = matched(found[["y", "x"]].to_numpy(float), scene), scene.truth
    rows = np.concatenate([m.pairs[:, 1], m.missed, m.unasked])
    columns = truth.loc[rows, ["atoms", "surface", "zone", "tilt"]].reset_index(drop=True)
    n = len(m.pairs)
    columns["hit"] = np.arange(len(rows)) < n
    error, stated = np.full((2, len(rows), 2), np.nan)
    error[:n] = m.error
    stated[:n] = found[["y_error", "x_error"]].to_numpy(float)[m.pairs[:, 0]]
    columns[["dy", "dx"]], columns[["y_error", "x_error"]] = error, stated
    at, true = found[["y", "x"]].to_numpy(float)[m.false], truth[["y", "x"]].to_numpy(float)
    place = places_of_false(at, true, truth.surface.to_numpy(bool), truth.spacing.to_numpy(float)).astype(object)
    near = np.isin(place.astype(str), ("surface", "inside"))
    place[~near] = "film or vacuum"
    place[unlisted(at, scene)] = LEFT_OUT
    zone = np.where(near, truth.zone.to_numpy(object)[_distance(at, true)[1]] if len(true) else "", "")
    return columns, pd.DataFrame({"place": place, "zone": zone})


def score_field(data: Any, i: int, jobs: Mapping[Setting, Sequence[tuple[Detector, float | None]]],
                contrast: bool = False) -> list[dict[str, Any]]:
    """Score detectors on one field: with a threshold the rows of `rows_of`, without one the counts by threshold."""
    sample = data.read(i)
    if not judged(sample):
        return []
    truth, out = column_truth(sample), []
    measured = contrast_of(draw_scene(data, i, Setting(BRIGHTEST), truth, sample)) if contrast else float("nan")
    for setting, detectors in jobs.items():
        scene = replace(draw_scene(data, i, setting, truth, sample), contrast=measured)
        for detector, threshold in detectors:
            p = probability_of(detector, scene, quick=threshold is None)
            one: dict[str, Any] = {"seed": data.seed, "field": i, "setting": setting, "detector": detector}
            if threshold is None:
                one["counts"] = counts_by_threshold(maxima(p, scene), scene)
            else:
                one["columns"], one["false"] = rows_of(found_columns(detector, scene, p, threshold), scene)
                one["contrast"], one["area"] = measured, float(np.prod(scene.extent))
            out.append(one)
    return out
