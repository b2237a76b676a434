"""Networks on disk: weights as safetensors, a JSON card beside them; nothing is ever unpickled.

Loading needs no torch. The same bytes travel to Dask workers, where each process reads them once.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..core.errors import InputError, MissingInputError, ReadError
from ..kernels.msdnet.weights import MSDWeights
from ..kernels.unet import UNetWeights
from .cards import FORMAT, architecture_of, check_card, complete_card
from .foreign import what_it_is

if TYPE_CHECKING:
    from .msdnet import MSDNet
    from .unet import UNet

__all__ = ["Model", "cached_weights", "load_model", "pack_weights", "save_model", "shipped_models", "unpack_weights",
           "update_card"]

SHIPPED = Path(__file__).parent / "weights"
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin")
#: what of a card is written into the file of the weights too: another value would give their numbers another meaning
CONTRACT = ("classes", "pixel_size", "normalisation")

_cache: dict[str, MSDWeights | UNetWeights] = {}
_cache_lock = threading.Lock()


@dataclass(frozen=True)
class Model:
    """A trained network and its card.

    Parameters
    ----------
    name : str
        Shipped name, or the name of the file without its ending.
    card : dict
        What the network was made for, with the keys of `hrtem_dask.networks.cards.KEYS`.
    weights : MSDWeights or UNetWeights
        The parameters as arrays.
    """

    name: str
    card: dict[str, Any]
    weights: MSDWeights | UNetWeights

    def __post_init__(self) -> None:
        check_card(self.card, self.weights, f"the card of {self.name!r}")

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of the output."""
        return list(self.card["classes"])

    def module(self) -> MSDNet | UNet:
        """Return the torch module with these parameters."""
        if isinstance(self.weights, UNetWeights):
            from .unet import UNet

            return UNet.from_weights(self.weights)
        from .msdnet import MSDNet

        return MSDNet.from_weights(self.weights)

    def __repr__(self) -> str:
        w = self.weights
        kind = f"U-Net of {w.levels} halvings" if isinstance(w, UNetWeights) else f"MSD-net of depth {w.depth}"
        return (f"Model({self.name!r}: {kind}, width {w.width}, {w.in_channels} input channel(s), "
                f"classes {', '.join(self.classes)}, pixel size {self.card['pixel_size']} angstrom, "
                f"sha256 {self.card['sha256'][:12]})")


def pack_weights(weights: MSDWeights | UNetWeights, card: Mapping[str, Any] | None = None) -> bytes:
    """Write the parameters, the architecture and what a card says they mean as the bytes of a safetensors file."""
    tensors = {f"layers.{i}": a for i, a in enumerate(weights.layers)}
    tensors |= {f"biases.{i}": a for i, a in enumerate(weights.biases)}
    if isinstance(weights, MSDWeights):
        tensors |= {"final": weights.final, "final_bias": weights.final_bias}
    tensors = {k: np.ascontiguousarray(a, dtype=np.float32) for k, a in tensors.items()}
    architecture = architecture_of(weights)
    kind = architecture["kind"]
    if card is not None:
        architecture |= {"format": FORMAT} | {k: card[k] for k in CONTRACT if k in card}
    # one entry, because safetensors writes several in random order and the sha256 has to be a function of the weights
    return save(tensors, metadata={kind: json.dumps(architecture)})


def unpack_weights(payload: bytes, where: str = "the weights") -> MSDWeights | UNetWeights:
    """Read what `pack_weights` wrote.

    Raises
    ------
    ReadError
        If this is not a safetensors file, or it was cut off.
    InputError
        If the arrays are not those of an MSD-net or a U-Net.
    """
    said, meta = metadata_of(payload, where)
    arrays = load(payload)
    depth = sum(k.startswith("layers.") for k in arrays)
    _check_numbers(arrays, where)
    if "unet" in said and set(arrays) == {f"{kind}.{i}" for kind in ("layers", "biases") for i in range(depth)}:
        return UNetWeights(*(tuple(arrays[f"{kind}.{i}"] for i in range(depth)) for kind in ("layers", "biases")))
    keys = [f"{kind}.{i}" for kind in ("layers", "biases") for i in range(depth)] + ["final", "final_bias"]
    dilations = meta.get("dilations")
    whole = isinstance(dilations, list) and dilations and all(type(d) is int and d > 0 for d in dilations)
    if not depth or set(keys) != set(arrays) or not whole or "padding" not in meta:
        raise InputError(f"{where} holds the arrays {sorted(arrays)[:8]} and the metadata {sorted(meta)}; expected "
                         f"layers.0, biases.0, ..., final, final_bias and dilations, padding, as "
                         f"networks.save_model writes them")
    return MSDWeights(
        layers=tuple(arrays[f"layers.{i}"] for i in range(depth)),
        biases=tuple(arrays[f"biases.{i}"] for i in range(depth)),
        final=arrays["final"], final_bias=arrays["final_bias"],
        dilations=tuple(dilations), padding=meta["padding"],
    )


def _check_numbers(arrays: Mapping[str, np.ndarray], where: str) -> None:
    for key, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise InputError(f"{where} holds {array.dtype} in {key}, with {int((~np.isfinite(array)).sum())} values "
                             f"that are not finite; expected layers.0, biases.0, ... of finite float32 numbers, as "
                             f"networks.save_model writes them")


def metadata_of(payload: bytes, where: str = "the weights") -> tuple[list[str], dict[str, Any]]:
    """Kinds of network that a safetensors file names, and what it says of the first.

    Raises
    ------
    ReadError
        If this is no safetensors file, or a damaged one.
    InputError
        If a later version of the package wrote it.
    """
    try:
        load(payload)
        header = json.loads(payload[8:8 + int.from_bytes(payload[:8], "little")])
        said = header.get("__metadata__") or {}
        meta = json.loads(next((said[k] for k in ("msdnet", "unet") if k in said), "{}"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ReadError(f"{where} cannot be read as safetensors ({error}): it is {what_it_is(payload, where)}; "
                        f"expected a whole file written by networks.save_model") from error
    meta = meta if isinstance(meta, dict) else {}
    if meta.get("format", FORMAT) not in range(1, FORMAT + 1):
        raise InputError(f"{where} has the format {meta['format']!r}; this version reads formats up to {FORMAT}. "
                         f"Install a newer hrtem-dask")
    return list(said), meta


def cached_weights(payload: bytes, sha256: str) -> MSDWeights | UNetWeights:
    """Unpack weights once per process; later calls with the same sha256 give the same object."""
    with _cache_lock:
        if sha256 not in _cache:
            found = hashlib.sha256(payload).hexdigest()
            if found != sha256:
                raise InputError(f"weights with the sha256 {found} came under the name {sha256}; send them again")
            _cache[sha256] = unpack_weights(payload)
        return _cache[sha256]


def shipped_models() -> list[str]:
    """Names of the networks that come with the package."""
    return sorted(p.stem for p in SHIPPED.glob("*.safetensors"))


def save_model(weights: MSDWeights | UNetWeights | MSDNet | UNet, card: Mapping[str, Any],
               path: str | os.PathLike[str]) -> Path:
    """Write a network: ``NAME.safetensors`` and beside it the card ``NAME.json``.

    Parameters
    ----------
    weights : MSDWeights, UNetWeights, MSDNet or UNet
        The parameters.
    card : mapping
        At least ``classes``, ``pixel_size`` and ``dose_range``. The rest is filled in:
        ``input_channels``, ``receptive_field``, ``architecture`` and ``sha256`` from the weights,
        ``normalisation`` as {"kind": "frame"} and ``effective_radius`` as the receptive radius
        where they are not given. Other keys are kept.
    path : path
        File to write; the ending .safetensors is added where it is missing.

    Returns
    -------
    Path
        The file with the weights.

    Raises
    ------
    InputError
        If the card is not whole or does not fit the weights.
    """
    weights = weights if isinstance(weights, MSDWeights | UNetWeights) else weights.to_weights()
    path = Path(path)
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    payload = pack_weights(weights, complete_card(card, weights, ""))
    card = complete_card(card, weights, hashlib.sha256(payload).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, payload)
    _write(path.with_suffix(".json"), _text(card))
    return path


def _text(card: Mapping[str, Any]) -> bytes:
    return (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode()


def _write(target: Path, data: bytes) -> None:
    part = target.with_name(target.name + ".part")
    part.write_bytes(data)
    part.replace(target)


def update_card(name_or_path: str | os.PathLike[str], changes: Mapping[str, Any], *, expect: str | None = None) -> Path:
    """Write measured figures on the card of a network; its weights stay as they are.

    Parameters
    ----------
    name_or_path : str or path
        What `load_model` takes.
    changes : mapping
        New values; a mapping is merged one level deep with what is there, so that one set of scores
        does not remove another.
    expect : str, optional
        sha256 of the weights that were measured.

    Returns
    -------
    Path
        The card.

    Raises
    ------
    InputError
        If the weights are others than those that were measured, or the card would not be whole.
    """
    path = _path_of(name_or_path).with_suffix(".json")
    model = load_model(name_or_path)
    if expect not in (None, model.card["sha256"]):
        raise InputError(f"{path} belongs to weights with the sha256 {model.card['sha256']}, but {expect} were "
                         f"measured; measure again")
    card = dict(model.card)
    for key, value in changes.items():
        there = card.get(key)
        card[key] = {**there, **value} if isinstance(value, Mapping) and isinstance(there, Mapping) else value
    check_card(card, model.weights, str(path))
    _write(path, _text(card))
    return path


def load_model(name_or_path: str | os.PathLike[str]) -> Model:
    """Load a network by its name or from a file.

    Parameters
    ----------
    name_or_path : str or path
        A shipped name, as "au-particles"; a .safetensors file with its card beside it; or a
        folder that holds one.

    Returns
    -------
    Model
        Card and weights; ``model.module()`` is the torch module.

    Raises
    ------
    MissingInputError
        If there is no such name or path, or no card; the message lists the shipped names.
    InputError
        If the file holds pickled objects, or card and weights do not fit together.
    ReadError
        If a file is damaged.
    """
    path = _path_of(name_or_path)
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        raise MissingInputError(f"{path} has no card; expected {card_path} beside it, as networks.save_model writes it")
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{card_path} is not JSON ({error}); expected what networks.save_model wrote") from error
    check_card(card, where=str(card_path))
    payload = path.read_bytes()
    meta = metadata_of(payload, str(path))[1]
    found = hashlib.sha256(payload).hexdigest()
    if found != card["sha256"]:
        raise InputError(f"{path} has the sha256 {found}, but its card {card_path} was written for {card['sha256']}; "
                         f"copy both files again, or write both with networks.save_model")
    weights = unpack_weights(payload, str(path))
    check_card(card, weights, str(card_path))
    for key in CONTRACT:
        if key in meta and meta[key] != card[key]:
            raise InputError(f"{card_path} says {key} = {card[key]!r}, but the weights were written for {meta[key]!r}; "
                             f"restore the card, or write both again with networks.save_model")
    return Model(path.stem, card, weights)


def _path_of(name_or_path: str | os.PathLike[str]) -> Path:
    text = os.fspath(name_or_path)
    return SHIPPED / f"{text}.safetensors" if text in shipped_models() else _weights_file(Path(text))


def _weights_file(path: Path) -> Path:
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run anything when it is opened; expected a .safetensors file. "
            f"Where you trust it, put its arrays into a networks.MSDNet and write that with networks.save_model"
        )
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise MissingInputError(f"the folder {path} holds {[f.name for f in files]}; expected one .safetensors "
                                    f"file, or give the file itself")
        return files[0]
    if not path.is_file():
        raise MissingInputError(f"there is no network {str(path)!r}; shipped are {shipped_models()}, "
                                f"or give the path of a .safetensors file")
    if path.suffix != ".safetensors":
        with path.open("rb") as file:
            what = what_it_is(file.read(1 << 20) if not zipfile.is_zipfile(path) else path.read_bytes(), path.name)
        raise InputError(f"{path} ends in {path.suffix!r} and is {what}; expected a .safetensors file that "
                         f"networks.save_model wrote, or one of {shipped_models()}")
    return path
