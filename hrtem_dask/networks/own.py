"""A network for the own microscope: its recipe, simulated sets, training, and the dose that is enough."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import InputError
from ..detector.mtf import MTF
from ..simulate.own import OwnRecipe, own_recipe
from ..simulate.recipe import Recipe, load_recipe
from ..simulate.sets import Dataset, dataset
from .models import Model, load_model, update_card

__all__ = ["OwnNetwork", "dose_steps", "enough_dose", "enough_said", "train_for_microscope"]

#: added to the seed of the set to learn from: structures of the set to test with are others
OTHER_SEED = 1_000_003
LEAST_FIELDS = 5  # to test with: a bootstrap over fewer says nothing
Curve = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class OwnNetwork:
    """What `train_for_microscope` made.

    ``curve`` has for each dose [electrons/angstrom^2] what `hrtem_dask.networks.summaries.summarise`
    says of the test fields; ``recipe_file`` is the YAML file beside the weights.
    """

    model: Model
    recipe: OwnRecipe
    recipe_file: Path
    curve: Curve
    target: float

    @property
    def enough(self) -> float | None:
        """Lowest dose that is enough for the target; None where none is."""
        return enough_dose(self.curve, self.target)

    def said(self) -> list[str]:
        """Return the dose curve, one line a dose, and the sentence about which dose is enough."""
        return [*curve_lines(self.curve), enough_said(self.curve, self.target)]


def train_for_microscope(
    recipe: str | Path | Mapping[str, Any] | Recipe = "au-particles",
    *,
    out: str | os.PathLike[str],
    mtf: MTF | str | Path | None = None,
    voltage: float | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    dose_range: tuple[float, float] | None = None,
    defocus_range: tuple[float, float] | None = None,
    changes: Mapping[str, Any] | None = None,
    target: float = 0.9,
    fields: int = 480,
    test_fields: int = 24,
    doses: Sequence[float] | None = None,
    seed: int = 1,
    workers: int | None = None,
    report: Callable[[str], None] | None = None,
    showing: Callable[[str], Callable[..., None]] | None = None,
    **training: Any,
) -> OwnNetwork:
    """Train a network for one microscope and camera, and find the dose that is enough there.

    Computes at once. Writes the adapted recipe ``NAME.yaml`` beside the weights, simulates a set to
    learn from (``NAME-set.zarr``) and one of other structures to test with (``NAME-test.zarr``),
    trains, and measures Dice against the dose. The same call again continues where it was stopped;
    a training that was cut (``minutes`` with ``iterations``) has no curve yet.

    Parameters
    ----------
    recipe : str, Path, mapping or Recipe
        What is adapted: a shipped name, a YAML file, its content.
    out : path
        File NAME.safetensors to write.
    mtf, voltage, pixel_size, dose_range, defocus_range, changes
        What the own microscope is, see `hrtem_dask.simulate.own.own_recipe`: file or MTF, [kV],
        [angstrom], [electrons/angstrom^2], [angstrom, positive is underfocus], other keys.
    target : float
        Mean Dice that is enough.
    fields, test_fields : int
        Simulated structures to learn from, and to test with.
    doses : sequence of float, optional
        Where the curve is measured [electrons/angstrom^2]; by default the steps 1, 2, 5, 10, ... of
        the recipe's range, its ends included.
    seed : int
        Of the sets and the training; the test set has another one.
    workers : int, optional
        Processes to simulate and train with; by default threads.
    report : callable, optional
        Called with a line of text now and then.
    showing : callable, optional
        Called with "structures" or "iterations" where such work begins; returns what is called with
        (done, all) then, and with a third word on loss and Dice after iterations.
    **training
        Other parameters of `hrtem_dask.train`, as ``minutes`` and ``depth``.

    Returns
    -------
    OwnNetwork
        The model, also `load_model` of the file; its card holds the curve and the recipe.

    Raises
    ------
    InputError
        If a value is impossible; before anything is computed.

    Examples
    --------
    >>> mine = train_for_microscope(out="mine.safetensors", voltage=200, pixel_size=0.2,
    ...                             dose_range=(20, 500), minutes=60)  # doctest: +SKIP
    >>> mine.enough  # doctest: +SKIP
    100.0
    """
    out, say = Path(out), report or (lambda _line: None)
    out = out if out.suffix == ".safetensors" else out.with_name(out.name + ".safetensors")
    check_numbers(target, fields, test_fields)
    own = own_recipe(recipe, name=out.stem, mtf=mtf, voltage=voltage, pixel_size=pixel_size, dose_range=dose_range,
                     defocus_range=defocus_range, changes=changes)
    dose = own.recipe.imaging.dose
    steps = dose_steps(dose.low, dose.high) if doses is None else checked_doses(doses)
    path = own.write(out.with_suffix(".yaml"))
    for line in (f"recipe: {path}", *own.summary(), *(f"note: {n}" for n in own.notes())):
        say(line)
    learn, test = (simulated(own.recipe, out.with_name(f"{out.stem}-{kind}.zarr"), n, s, workers, say, showing)
                   for kind, n, s in (("set", fields, seed), ("test", test_fields, seed + OTHER_SEED)))
    model = trained(learn, out, say, showing, seed=seed, workers=workers, report=report, **training)
    if not model.card["training"].get("finished", True):
        return OwnNetwork(model, own, path, {}, target)
    say(f"measuring {len(steps)} doses on {len(test)} other structures")
    curve = measured_curve(model, test, steps, seed + OTHER_SEED)
    command = command_of(recipe, out, voltage=voltage, pixel_size=pixel_size, dose_range=dose_range,
                         defocus_range=defocus_range, mtf=mtf, changes=changes, seed=seed, fields=fields,
                         test_fields=test_fields, training=training)
    update_card(out, {
        "scores": {"held_out_simulated": curve}, "training": {"commands": [command]},
        "own_microscope": {"base_recipe": own.base.name, "changes": own.summary(), "recipe": own.recipe.to_dict(),
                           "target": target, "enough_dose": enough_dose(curve, target),
                           "test_seed": seed + OTHER_SEED, "test_fields": len(test)},
    }, expect=model.card["sha256"])
    return OwnNetwork(load_model(out), own, path, curve, target)


def trained(learn: Dataset, out: Path, say: Callable[[str], None], showing: Callable[[str], Callable] | None,
            **options: Any) -> Model:
    """Train, unless the file holds a finished network of this recipe whose curve was not measured any more."""
    from .training import train

    if out.is_file():
        model = load_model(out)
        said = model.card.get("training", {})
        if said.get("finished") and said.get("recipe_sha256") == learn.recipe.digest and \
                "own_microscope" not in model.card:
            say(f"{out} is trained already; remove it to train anew")
            return model
    return train(learn, out=out, scores=False, progress=showing and showing("iterations"), **options)


def check_numbers(target: float, fields: int, test_fields: int) -> None:
    """Refuse a target that no Dice can reach and sets that are too small to learn from or to judge by."""
    if not 0 < target < 1:
        raise InputError(f"target is {target!r}; expected a mean Dice between 0 and 1, as 0.9")
    if fields < 2 or test_fields < LEAST_FIELDS:
        raise InputError(f"found fields = {fields} and test_fields = {test_fields}; expected at least 2 and "
                         f"{LEAST_FIELDS}, as --fields 480 --test-fields 24")


def checked_doses(doses: Sequence[float]) -> list[float]:
    """Return doses in rising order, each once."""
    found = sorted({float(d) for d in doses})
    if not found or not all(0 < d < np.inf for d in found):
        raise InputError(f"doses are {list(doses)!r}; expected numbers above 0 [electrons/angstrom^2], as 20 50 100")
    return found


def dose_steps(low: float, high: float) -> list[float]:
    """Doses at which a range is measured: its ends, and 1, 2, 5, 10, ... between them.

    Examples
    --------
    >>> dose_steps(20, 500), dose_steps(15, 300), dose_steps(70, 70)
    ([20.0, 50.0, 100.0, 200.0, 500.0], [15.0, 20.0, 50.0, 100.0, 200.0, 300.0], [70.0])
    """
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    between = {m * 10.0**p for p in powers for m in (1, 2, 5)}
    return sorted({float(low), float(high)} | {float(f"{d:g}") for d in between if low < d < high})


def simulated(recipe: Recipe, store: Path, n: int, seed: int, workers: int | None, say: Callable[[str], None],
              showing: Callable[[str], Callable] | None) -> Dataset:
    """Make or continue a set, saying how long it took."""
    say(f"simulating {n} structures: {store}")
    found = dataset(recipe, store, n, seed=seed, workers=workers, progress=showing and showing("structures"))
    if found.effort and found.effort.done:
        say(str(found.effort))
    return replace(found, indices=found.indices[:n])


def measured_curve(model: Model, test: Dataset, doses: Sequence[float], seed: int) -> dict[str, dict[str, Any]]:
    """Scores of a network at these doses, on the outline that it learnt."""
    from .scoring import scores_by_dose

    settings = model.card.get("training", {}).get("settings", {})
    test = replace(test, outline=settings.get("outline", "half-thickness"))
    return scores_by_dose(model.module(), test, seed=seed, doses=doses,
                          pixel_size=float(np.min(model.card["pixel_size"])))


def enough_dose(curve: Curve, target: float) -> float | None:
    """Lowest dose at which the lower end of the interval of the mean Dice reaches the target.

    Parameters
    ----------
    curve : mapping
        Dose [electrons/angstrom^2] as text -> ``mean`` Dice and its ``interval``.
    target : float

    Returns
    -------
    float or None
        None where no dose of the curve does.

    Examples
    --------
    >>> curve = {"50": {"mean": 0.9, "interval": [0.86, 0.93]}, "100": {"mean": 0.93, "interval": [0.91, 0.95]}}
    >>> enough_dose(curve, 0.9), enough_dose(curve, 0.85), enough_dose(curve, 0.95)
    (100.0, 50.0, None)
    """
    good = [dose for dose, low in lower_ends(curve).items() if low >= target]
    return min(good, default=None)


def lower_ends(curve: Curve) -> dict[float, float]:
    """Lower end of the interval of each dose that has one."""
    return {float(d): float(s["interval"][0]) for d, s in curve.items() if s.get("interval")}


def enough_said(curve: Curve, target: float) -> str:
    """Say which dose is enough, or that none is.

    Examples
    --------
    >>> curve = {"50": {"mean": 0.9, "interval": [0.86, 0.93]}, "100": {"mean": 0.93, "interval": [0.91, 0.95]}}
    >>> print(enough_said(curve, 0.9))
    enough here: 100 e/angstrom^2 a frame; mean Dice 0.930, the lower end of its 95 % interval (0.910) reaches 0.9
    """
    ends = lower_ends(curve)
    if not curve:
        return "which dose is enough was not measured: the training is not at its end, give the same command again"
    if not ends:
        return "which dose is enough cannot be said: no test field holds a particle"
    dose = enough_dose(curve, target)
    if dose is None:
        best = max(ends, key=ends.__getitem__)
        return (f"no dose from {min(ends):g} to {max(ends):g} e/angstrom^2 is enough: the lower end of the 95 % "
                f"interval of the mean Dice reaches {ends[best]:.3f} at {best:g}, not {target:g}. Train longer "
                f"(--minutes), with more --fields, at higher doses, or ask for less (--target)")
    text = (f"enough here: {dose:g} e/angstrom^2 a frame; mean Dice {curve[f'{dose:g}']['mean']:.3f}, the lower end of "
            f"its 95 % interval ({ends[dose]:.3f}) reaches {target:g}")
    below = [d for d, low in ends.items() if d > dose and low < target]
    if below:
        text += (f"; but at {', '.join(f'{d:g}' for d in below)} it does not: give more --test-fields before you rely "
                 f"on it")
    return text + ("; lower doses were not measured" if dose == min(ends) and len(ends) > 1 else "")


def curve_lines(curve: Curve) -> list[str]:
    """Show a dose curve, one line a dose: mean Dice, its interval, the worst image, F1 of objects.

    Examples
    --------
    >>> print(curve_lines({"50": {"mean": 0.9, "interval": [0.86, 0.93], "worst": 0.5, "f1": 0.8, "images": 24}})[1])
              50  0.900  0.860 to 0.930  0.500  0.800      24
    """
    rows = ["e/angstrom^2   Dice  95 % interval   worst     F1  images"]
    for dose, s in curve.items():
        if not s.get("interval"):
            rows.append(f"{float(dose):>12g}  no test field holds a particle")
            continue
        f1 = f"{s['f1']:.3f}" if s.get("f1") is not None else "-"
        rows.append(f"{float(dose):>12g}  {s['mean']:.3f}  {s['interval'][0]:.3f} to {s['interval'][1]:.3f}  "
                    f"{s['worst']:.3f}  {f1:>5}  {s['images']:>6}")
    return rows


def command_of(recipe: Any, out: Path, *, training: Mapping[str, Any], mtf: Any, changes: Mapping[str, Any] | None,
               **given: Any) -> str:
    """Return the command that does the same, for the card.

    Examples
    --------
    >>> command_of("au-particles", Path("me.safetensors"), training={"minutes": 9.0}, mtf=None, changes=None,
    ...            voltage=200, dose_range=(20, 500), pixel_size=None)
    'hrtem-dask train au-particles --out me.safetensors --voltage 200 --dose-range 20 500 --minutes 9.0'
    """
    name = str(recipe) if isinstance(recipe, str | Path) else load_recipe(recipe).name
    words = ["hrtem-dask", "train", name, "--out", out.name]
    if mtf is not None:
        words += ["--mtf", "mtf.json" if isinstance(mtf, MTF) else str(mtf)]
    for key, value in {**given, **training}.items():
        if value is not None:
            words += [f"--{key.replace('_', '-')}", *map(str, np.atleast_1d(value).tolist())]
    for key, value in (changes or {}).items():
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)
