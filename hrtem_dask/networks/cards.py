"""The card of a network: what it was made for, as JSON beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import InputError
from ..kernels.msdnet.weights import MSDWeights
from ..kernels.unet import UNetWeights

__all__ = ["DARK", "FORMAT", "KEYS", "MEASURED", "architecture_of", "check_card", "complete_card", "expected_dice",
           "network_pixel_size", "of_recipe", "outside"]

#: version of what a card and a file of weights hold; a later one is refused
FORMAT = 1

#: key of a card -> what it holds
KEYS = {
    "classes": "names of the classes in the order of the output, as ['background', 'particle']",
    "pixel_size": "pixel size [angstrom] the network works at, as 0.5, or the range it takes, as [0.1, 0.8]",
    "input_channels": "number of images an input holds: 1, or one per defocus",
    "dose_range": "doses [e/angstrom^2 a frame] it was trained for, as [50, 2000]",
    "normalisation": "what is done to an image first: {'kind': 'frame'} is the z-score of the whole resampled image",
    "receptive_field": "side of the square [network pixel] that can change an output pixel",
    "effective_radius": "halo [network pixel] beyond which the output does not change noticeably",
    "sha256": "of the file with the weights",
}
#: further keys, which a card holds where it is known or measured -> what they hold
MEASURED = {
    "format": "version of the card",
    "task": "what the network does, in words",
    "pixel_size_range": "pixel sizes [angstrom] of the images it was trained for, as [0.1, 0.8]",
    "defocus_range": "defocus [angstrom, positive is underfocus] of those images, lowest and highest",
    "voltage": "of those images [kV]",
    "contrast": "'dark': it knows dark columns, so that an image and its negative are evaluated, see kernels.contrast",
    "column_threshold": "least probability of a column, chosen on validation fields; the same at every dose",
    "label": "what it learnt to draw around a column: kind and sigma [angstrom]",
    "training": "recipe, seeds, commands and settings",
    "effective_receptive_field": "radii [network pixel] that hold the gradient of an output pixel, and the halo",
    "calibration": "temperature folded into the last layer, and the errors of the probabilities before and after",
    "scores": "figures on held-out simulated fields, on hard ones, and on real images",
    "expected_dice": "mean Dice for pixel sizes [angstrom] and doses [e/angstrom^2]",
    "known_failures": "where it is known to fail, as a list of sentences",
}
NORMALISATIONS = ("frame",)
#: contrast of a network that is shown an image and its negative
DARK = "dark"
#: a range that is left by less than this part is not left
SLACK = 0.02


def architecture_of(weights: MSDWeights | UNetWeights) -> dict[str, Any]:
    """Return what defines a network besides its parameters."""
    if isinstance(weights, UNetWeights):
        return {"kind": "unet", "levels": weights.levels, "width": weights.width}
    return {"kind": "msdnet", "depth": weights.depth, "width": weights.width,
            "dilations": list(weights.dilations), "padding": weights.padding}


def complete_card(card: Mapping[str, Any], weights: MSDWeights | UNetWeights, sha256: str) -> dict[str, Any]:
    """Return the card with everything filled in that follows from the weights, checked.

    Without a measured ``effective_radius`` the receptive radius stands in for it: slow, but right.
    """
    out = {"format": FORMAT, "effective_radius": weights.receptive_radius,
           "normalisation": {"kind": "frame"}} | dict(card)
    out |= {
        "input_channels": weights.in_channels,
        "receptive_field": 2 * weights.receptive_radius + 1,
        "architecture": architecture_of(weights),
        "sha256": sha256,
    }
    check_card(out, weights)
    return out


def check_card(card: Any, weights: MSDWeights | UNetWeights | None = None, where: str = "the card") -> None:
    """Check that a card is whole and fits the weights.

    Raises
    ------
    InputError
        Naming the key, what was found and what is expected.
    """
    if not isinstance(card, Mapping):
        raise InputError(f"{where} holds a {type(card).__name__}; expected a JSON object with the keys {list(KEYS)}")
    missing = [f"{key} ({meaning})" for key, meaning in KEYS.items() if key not in card]
    if missing:
        raise InputError(f"{where} lacks {'; '.join(missing)}")
    _check_values(card, where)
    if weights is not None:
        _check_fit(card, weights, where)


def _check_values(card: Mapping[str, Any], where: str) -> None:
    def expect(good: bool, key: str) -> None:
        if not good:
            raise InputError(f"{where} has {key} = {card[key]!r}; expected {KEYS[key]}")

    classes = card["classes"]
    expect(isinstance(classes, list | tuple) and len(classes) >= 2 and all(isinstance(c, str) for c in classes)
           and len(set(classes)) == len(classes), "classes")
    expect(_numbers(card["pixel_size"], (0, 2)) and np.min(card["pixel_size"]) > 0
           and np.all(np.diff(np.atleast_1d(card["pixel_size"])) >= 0), "pixel_size")
    expect(_numbers(card["dose_range"], (2,)) and card["dose_range"][0] <= card["dose_range"][1], "dose_range")
    for key in ("input_channels", "receptive_field"):
        expect(isinstance(card[key], int) and card[key] >= 1, key)
    expect(isinstance(card["effective_radius"], int) and card["effective_radius"] >= 0, "effective_radius")
    norm = card["normalisation"]
    expect(isinstance(norm, Mapping) and norm.get("kind") in NORMALISATIONS, "normalisation")
    expect(isinstance(card["sha256"], str), "sha256")
    if card.get("format", FORMAT) not in range(1, FORMAT + 1):
        raise InputError(f"{where} has the format {card['format']!r}; this version reads formats up to {FORMAT}. "
                         f"Install a newer hrtem-dask")
    if "pixel_size_range" in card and not (_numbers(card["pixel_size_range"], (2,))
                                           and 0 < card["pixel_size_range"][0] <= card["pixel_size_range"][1]):
        raise InputError(f"{where} has pixel_size_range = {card['pixel_size_range']!r}; expected "
                         f"{MEASURED['pixel_size_range']}")


def _numbers(value: Any, lengths: tuple[int, ...]) -> bool:
    """Whether value is a finite number (length 0) or a list of finite numbers of these lengths."""
    items = [value] if np.ndim(value) == 0 else list(value)
    length = 0 if np.ndim(value) == 0 else len(items)
    good = all(isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v) for v in items)
    return good and length in lengths


def _check_fit(card: Mapping[str, Any], weights: MSDWeights | UNetWeights, where: str) -> None:
    facts = {
        "number of classes": (len(card["classes"]), weights.out_channels),
        "input_channels": (card["input_channels"], weights.in_channels),
        "receptive_field": (card["receptive_field"], 2 * weights.receptive_radius + 1),
    }
    stated = card.get("architecture", {})
    facts |= {f"architecture {k}": (stated[k], v) for k, v in architecture_of(weights).items() if k in stated}
    for what, (said, found) in facts.items():
        if said != found:
            raise InputError(f"{where} says {what} = {said!r}, but the weights have {found!r}; card and weights do "
                             f"not belong together. Write both again with networks.save_model")


def network_pixel_size(card: Mapping[str, Any], pixel_size: tuple[float, float]) -> tuple[float, float]:
    """Pixel size (y, x) [angstrom] at which a network looks at a frame.

    A card with one number fixes it; with a range, a frame inside the range is left as it is and
    one outside is brought to the nearest bound, each axis by itself.

    Examples
    --------
    >>> network_pixel_size({"pixel_size": 0.5}, (0.59, 0.59))
    (0.5, 0.5)
    >>> network_pixel_size({"pixel_size": [0.1, 0.5]}, (0.2, 0.59))
    (0.2, 0.5)
    """
    low, high = np.broadcast_to(np.asarray(card["pixel_size"], dtype=np.float64), 2)
    return tuple(float(min(max(p, low), high)) for p in pixel_size)


def of_recipe(recipe: Any, columns: Sequence[str] = ()) -> dict[str, Any]:
    """What a card says of the images that a network was trained for.

    Parameters
    ----------
    recipe : hrtem_dask.simulate.Recipe
    columns : sequence of str
        Classes of columns that it learnt; none where it learnt particles.
    """
    imaging = recipe.imaging
    over = -imaging.defocus.high * imaging.overfocus_part if imaging.overfocus_fraction else imaging.defocus.low
    return {
        "task": f"Columns of atoms in projection: a hill of height 1 around each ({', '.join(columns)})" if columns
        else "Particles of metal on a support: the probability that a pixel shows one",
        "pixel_size_range": [imaging.pixel_size.low, imaging.pixel_size.high],
        "dose_range": [imaging.dose.low, imaging.dose.high],
        "defocus_range": [round(min(over, imaging.defocus.low), 1), imaging.defocus.high],
        "voltage": recipe.field.energy,
    }


def outside(card: Mapping[str, Any], pixel_size: tuple[float, float], dose: Any = None) -> list[str]:
    """Say where a movie lies outside of what a network was trained for.

    Parameters
    ----------
    card : mapping
    pixel_size : (float, float)
        Of the movie (y, x) [angstrom].
    dose : optional
        ``movie.attrs["dose"]`` [e/angstrom^2 a frame]; what is no positive number says nothing.

    Returns
    -------
    list of str
        One sentence for each; empty where all is well.

    Examples
    --------
    >>> card = {"pixel_size": 0.5, "pixel_size_range": [0.1, 0.8], "dose_range": [10, 5000]}
    >>> outside(card, (0.3, 0.3), 100), len(outside(card, (1.2, 1.2), 2))
    ([], 2)
    """
    found = []
    bounds = card.get("pixel_size_range", card["pixel_size"])
    if np.ndim(bounds):
        low, high = bounds
        if not all(low * (1 - SLACK) <= p <= high * (1 + SLACK) for p in pixel_size):
            said = " x ".join(f"{p:.4g}" for p in dict.fromkeys(pixel_size))
            found.append(f"the movie has {said} angstrom a pixel; the network was trained for {low:g} to {high:g}: its "
                         f"masks may be wrong. Check the calibration, or train for this microscope (hrtem-dask train)")
    low, high = card["dose_range"]
    if isinstance(dose, int | float | np.number) and not isinstance(dose, bool) and np.isfinite(dose) and dose > 0 \
            and not low * (1 - SLACK) <= dose <= high * (1 + SLACK):
        found.append(f"the movie has {dose:.4g} e/angstrom^2 a frame; the network was trained for {low:g} to {high:g}"
                     + (": sum frames, or expect wrong masks" if dose < low else ""))
    return found


def expected_dice(card: Mapping[str, Any], pixel_size: float, dose: float) -> float | None:
    """Mean Dice that the card promises for hard simulated scenes of this pixel size and dose.

    Interpolated linearly in the logarithms of both; the nearest measured value beyond the measured
    ones. None where it was not measured.

    Parameters
    ----------
    card : mapping
    pixel_size : float
        [angstrom]
    dose : float
        [e/angstrom^2 a frame]

    Examples
    --------
    >>> card = {"expected_dice": {"pixel_size": [0.1, 0.4], "dose": [10, 1000], "mean": [[0.4, 0.8], [0.6, 1.0]]}}
    >>> round(expected_dice(card, 0.2, 100), 6), round(expected_dice(card, 0.9, 5), 6)
    (0.7, 0.6)
    """
    grid = card.get("expected_dice")
    if not grid or any(v is None for row in grid["mean"] for v in row):
        return None
    by_size = [np.interp(np.log(dose), np.log(grid["dose"]), row) for row in grid["mean"]]
    return float(np.interp(np.log(pixel_size), np.log(grid["pixel_size"]), by_size))
