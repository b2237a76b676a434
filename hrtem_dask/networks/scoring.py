"""How good a network is on simulated fields that it has never seen.

There are two truths. A network learns and is measured against the *half-thickness* outline, where
a particle is half as thick as at its thickest place nearby: contrast follows thickness, so this is
the line that an image shows and that a person draws. *atoms* is the union of all projected atoms,
some angstrom farther out, where the rim is a layer or two of atoms that no dose of these makes
stand out from a film ten times as thick. A perfect half-thickness mask has a Dice of about 0.87
against it; figures against both are given, and they must not be compared with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ..core.machine import as_task, available_cores
from ..kernels.labels import label_frame
from ..kernels.masks import MIN_AREA, Agreement, Matches, compare_masks, dice, match_objects, without_specks
from ..kernels.resample import resample
from ..kernels.tiles import softmax
from ..kernels.turns import evaluate_turned
from ..simulate.draws import Frame, draw_frame, truth_at
from ..simulate.sets import Dataset, Sample
from .evaluation import evaluate
from .msdnet import MSDNet
from .summaries import summarise, summary

__all__ = ["DOSES", "Condition", "Scene", "Score", "compare", "draw_scenes", "normalised",
           "predictor", "probability", "score_scenes", "scores_by_dose", "summary"]

DOSES = (10, 20, 50, 100, 200, 500, 2000)
SEEDS = 3  # of microscopes, cameras and noise
SCORED = 100  # fields, at most
EMPTY_BELOW = 1e-3  # covered fraction under which a frame counts as empty: Dice says nothing there
THRESHOLD = 0.5

#: counts (y, x) and their pixel size [angstrom] -> probability of a particle (y, x) on the same grid
Predictor = Callable[[np.ndarray, float], np.ndarray]


def normalised(image: np.ndarray) -> np.ndarray:
    """Z-score of a whole image, float32: the card's ``{"kind": "frame"}``."""
    image = np.asarray(image, dtype=np.float64)
    return ((image - image.mean()) / max(image.std(), 1e-30)).astype(np.float32)


def logits_of(net: torch.nn.Module, image: np.ndarray) -> torch.Tensor:
    """Logits (class, y, x) of a normalised image (y, x), without gradients."""
    if type(net) is MSDNet:
        return torch.from_numpy(evaluate(net, image[None], device="cpu"))
    with torch.no_grad():
        return net(torch.from_numpy(image)[None, None])[0]


def probability(net: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """Return the probability (y, x) of the last class for a normalised image (y, x)."""
    return torch.softmax(logits_of(net, image), 0)[-1].numpy()


def predictor(net: torch.nn.Module, pixel_size: float = 0.5, augment: int = 1) -> Predictor:
    """What a network with this pixel size [angstrom] makes of a recorded frame, as `segment` does it."""
    grid = net.to_weights().grid

    def logits(image: np.ndarray, _edges: tuple[bool, ...]) -> np.ndarray:
        return logits_of(net, image[0]).numpy()

    def predict(counts: np.ndarray, camera: float) -> np.ndarray:
        image = normalised(resample(counts, camera, pixel_size))
        found = evaluate_turned(logits, image[None], (True, True, True, True), augment, grid)
        return resample(softmax(found)[-1], pixel_size, camera, shape=counts.shape)

    return predict


@dataclass(frozen=True)
class Condition:
    """How a field is imaged, besides what is drawn for it.

    ``dose`` [electrons/angstrom^2]; ``refocus``, added to the drawn defocus [angstrom];
    ``pixel_size`` [angstrom] instead of the drawn one. The same field and seed have the same
    microscope and place under every condition.
    """

    dose: float
    refocus: float = 0.0
    pixel_size: float | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """A recorded frame with its truths (y, x): mask of each outline, single particles, another field's mask if any."""

    frame: Frame
    truth: np.ndarray
    atoms: np.ndarray
    particles: np.ndarray
    wrong: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Score:
    """One predictor on one scene.

    ``set_seed``, ``field`` and ``seed`` say which; ``agreement`` is with the outline of the set, ``particles`` with
    the single particles inside it, ``atoms`` with the union of all atoms, all None where the scene
    is empty; ``wrong_label`` is the Dice against another field's mask, ``false_area`` the part of an
    empty frame that was called particle; ``optics`` names what the microscope was.
    """

    set_seed: int
    field: int
    seed: int
    condition: Condition
    agreement: Agreement | None
    particles: Matches | None
    atoms: Agreement | None
    wrong_label: float
    false_area: float
    optics: Mapping[str, float]


def draw_scenes(data: Dataset, i: int, seed: int, conditions: Sequence[Condition]) -> Iterator[Scene]:
    """Draw field i of a set under some conditions; the set's own outline is the truth."""
    atoms, sample = replace(data, outline="atoms").read(i), data.read(i, instances=False)
    wrong = data.read((i + 1) % len(data), instances=False) if len(data) > 1 else None
    particles = atoms.instances * sample.truth
    for condition in conditions:
        frame = draw_frame(sample, data.recipe, np.random.default_rng([seed, 3, i]), dose=condition.dose,
                           pixel_size=condition.pixel_size, refocus=condition.refocus)
        yield _scene(frame, sample, atoms.truth, particles, wrong)


def _scene(frame: Frame, sample: Sample, atoms: np.ndarray, particles: np.ndarray, wrong: Sample | None) -> Scene:

    def at(of: Sample, mask: np.ndarray) -> np.ndarray:
        return truth_at(replace(of, truth=mask), frame.origin, frame.pixel_size, frame.counts.shape)

    return Scene(frame, at(sample, sample.truth), at(sample, atoms), at(sample, particles),
                 at(wrong, wrong.truth) if wrong else None)


def compare(scene: Scene, found: np.ndarray, which: tuple[int, int, int], condition: Condition) -> Score:
    """Score a found mask (y, x) on a scene of this set seed, field and seed."""
    frame = scene.frame
    o = frame.optics
    optics = {"defocus": o.defocus, "cs": o.cs, "aperture": o.aperture, "absorption_length": o.absorption_length,
              "pixel_size": frame.camera.pixel_size}
    if scene.truth.mean() < EMPTY_BELOW:
        return Score(*which, condition, None, None, None, float("nan"), float(found.mean()), optics)
    against = partial(compare_masks, found, pixel_size=frame.pixel_size)
    least = MIN_AREA / frame.pixel_size**2
    particles = match_objects(label_frame(found, least), without_specks(scene.particles, least))
    wrong = float("nan") if scene.wrong is None else dice(found, scene.wrong)
    return Score(*which, condition, against(scene.truth), particles, against(scene.atoms), wrong, float("nan"), optics)


def score_scenes(predictors: Mapping[str, Predictor], data: Dataset, conditions: Sequence[Condition], *,
                 seeds: Sequence[int], fields: Sequence[int] | None = None, workers: int | None = None,
                 progress: Callable[[int, int], None] | None = None) -> dict[str, list[Score]]:
    """Score predictors on the same recorded frames at threshold 0.5, on the camera's own grid.

    Parameters
    ----------
    predictors : mapping
        Name -> counts and pixel size [angstrom] to probabilities, see `predictor`.
    data : Dataset
        Fields that were not trained on, with the outline that was learnt.
    conditions : sequence of Condition
    seeds : sequence of int
        Microscope, camera, place and noise of a field are drawn once a seed.
    fields : sequence of int, optional
        Which of the set; by default all, 100 at most.
    workers : int, optional
        Threads; by default one for each processor.
    progress : callable, optional
        Called with (done, all) after each field and seed.

    Returns
    -------
    dict
        Name -> one `Score` for each field, seed and condition; `hrtem_dask.networks.summaries`
        makes figures of them.
    """
    which = [(i, s) for s in seeds for i in (range(min(len(data), SCORED)) if fields is None else fields)]

    def one(task: tuple[int, int]) -> dict[str, list[Score]]:
        out: dict[str, list[Score]] = {name: [] for name in predictors}
        for condition, scene in zip(conditions, draw_scenes(data, *task, conditions), strict=True):
            for name, predict in predictors.items():
                with as_task():
                    found = predict(scene.frame.counts, scene.frame.pixel_size) > THRESHOLD
                out[name].append(compare(scene, found, (data.seed, *task), condition))
        return out

    scores: dict[str, list[Score]] = {name: [] for name in predictors}
    with ThreadPoolExecutor(workers or available_cores()) as pool:
        for done, found in enumerate(pool.map(one, which), 1):
            for name in scores:
                scores[name] += found[name]
            if progress:
                progress(done, len(which))
    return scores


def scores_by_dose(net: torch.nn.Module, held_out: Dataset, *, seed: int, doses: Sequence[float] = DOSES,
                   pixel_size: float = 0.5, seeds: int = SEEDS) -> dict[str, dict[str, Any]]:
    """Score whole recorded frames against the dose, for a card.

    Parameters
    ----------
    net : torch.nn.Module
    held_out : Dataset
        Fields that were not trained on; microscope and pixel size are drawn from its recipe.
    seed : int
        The first of so many `seeds` of microscopes, cameras and noise.
    doses : sequence of float
        [electrons/angstrom^2]
    pixel_size : float
        Of the network [angstrom].
    seeds : int

    Returns
    -------
    dict
        dose -> what `hrtem_dask.networks.summaries.summarise` says.
    """
    conditions = [Condition(float(d)) for d in doses]
    scores = score_scenes({"": predictor(net, pixel_size)}, held_out, conditions,
                          seeds=range(seed, seed + seeds))[""]
    return {f"{c.dose:g}": summarise([s for s in scores if s.condition == c]) for c in conditions}
