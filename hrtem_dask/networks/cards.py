"""The card of a network: what it was made for, as JSON beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import InputError
from ..kernels.msdnet.weights import MSDWeights
from ..kernels.unet import UNetWeights

__all__ = ["KEYS", "architecture_of", "check_card", "complete_card", "network_pixel_size"]

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
NORMALISATIONS = ("frame",)


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
    out = {"effective_radius": weights.receptive_radius, "normalisation": {"kind": "frame"}} | dict(card)
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
