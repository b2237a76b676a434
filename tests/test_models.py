"""Networks on disk: what is written is what is loaded, and damage is named."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from hrtem_dask.core.errors import InputError, MissingInputError, ReadError
from hrtem_dask.networks import MSDNet, load_model, save_model, shipped_models
from hrtem_dask.networks import models as module
from hrtem_dask.networks.cards import network_pixel_size
from hrtem_dask.networks.models import cached_weights, pack_weights

CARD = {"classes": ["background", "particle"], "pixel_size": 0.5, "dose_range": [50, 2000], "origin": "a test"}


@pytest.fixture
def net():
    torch.manual_seed(3)
    net = MSDNet(1, 2, 4, width=2, dilations=(1, 3), padding="reflect")
    torch.nn.init.normal_(net.final_weight)
    return net


@pytest.fixture
def saved(net, tmp_path):
    return save_model(net, CARD, tmp_path / "tiny")


def test_round_trip(net, saved, tmp_path):
    assert saved == tmp_path / "tiny.safetensors"
    for source in (saved, str(saved), tmp_path):
        model = load_model(source)
        assert model.name == "tiny"
        image = torch.randn(1, 1, 9, 8)
        torch.testing.assert_close(model.module()(image), net(image), rtol=0, atol=0)
        assert model.weights.padding == "reflect"
        assert model.weights.dilations == (1, 3)
    card = model.card
    assert card["receptive_field"] == 17
    assert card["effective_radius"] == 8
    assert card["architecture"] == {"kind": "msdnet", "depth": 4, "width": 2, "dilations": [1, 3], "padding": "reflect"}
    assert card["input_channels"] == 1
    assert card["origin"] == "a test"
    assert card["normalisation"] == {"kind": "frame"}
    assert "tiny" in repr(model)
    assert card["sha256"][:12] in repr(model)


def test_writing_is_deterministic(net, saved, tmp_path):
    again = save_model(net.to_weights(), CARD, tmp_path / "more" / "copy.safetensors")
    assert again.read_bytes() == saved.read_bytes()
    assert sorted(p.name for p in again.parent.iterdir()) == ["copy.json", "copy.safetensors"]


def test_loading_needs_no_torch(saved):
    code = ("import sys; from hrtem_dask.networks import load_model; load_model(sys.argv[1]); "
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True)


def test_unknown_names_list_what_is_shipped(tmp_path, monkeypatch, net):
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    save_model(net, CARD, tmp_path / "au-test")
    assert shipped_models() == ["au-test"]
    assert load_model("au-test").name == "au-test"
    with pytest.raises(MissingInputError, match=r"'gold'.*au-test"):
        load_model("gold")


def test_shipped_networks_load():
    for name in shipped_models():
        assert load_model(name).card["classes"][0] == "background"


def test_a_missing_card_is_named(saved):
    saved.with_suffix(".json").unlink()
    with pytest.raises(MissingInputError, match=r"tiny\.json"):
        load_model(saved)


def test_changed_weights_are_refused(saved):
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(InputError, match="sha256"):
        load_model(saved)


@pytest.mark.parametrize(("change", "message"), [
    ({"classes": ["background", "particle", "more"]}, "number of classes"),
    ({"classes": ["background"]}, "classes"),
    ({"input_channels": 3}, "input_channels"),
    ({"pixel_size": 0}, "pixel_size"),
    ({"pixel_size": [0.8, 0.1]}, "pixel_size"),
    ({"dose_range": 3}, "dose_range"),
    ({"normalisation": {"kind": "magic"}}, "normalisation"),
    ({"effective_radius": -1}, "effective_radius"),
    ({"architecture": {"depth": 5}}, "architecture depth"),
    ({"receptive_field": 3}, "receptive_field"),
])
def test_a_card_that_does_not_fit_is_refused(saved, change, message):
    path = saved.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_model(saved)


@pytest.mark.parametrize("key", ["classes", "pixel_size", "dose_range", "sha256", "effective_radius"])
def test_a_card_without_a_key_is_refused(saved, key):
    path = saved.with_suffix(".json")
    card = json.loads(path.read_text())
    del card[key]
    path.write_text(json.dumps(card))
    with pytest.raises(InputError, match=key):
        load_model(saved)


@pytest.mark.parametrize("text", ["[1, 2]", "{", ""])
def test_a_card_that_is_no_object_is_refused(saved, text):
    saved.with_suffix(".json").write_text(text)
    with pytest.raises((InputError, ReadError), match=r"JSON"):
        load_model(saved)


def test_a_truncated_file_is_named(saved):
    data = saved.read_bytes()[:50]
    saved.write_bytes(data)
    path = saved.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}))
    with pytest.raises(ReadError, match=r"tiny\.safetensors"):
        load_model(saved)


def test_foreign_arrays_are_refused():
    from safetensors.numpy import save

    with pytest.raises(InputError, match=r"layers\.0"):
        module.unpack_weights(save({"a": np.zeros(3)}))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".ckpt"])
def test_pickles_are_never_opened(tmp_path, suffix):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    path = tmp_path / f"net{suffix}"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"save_model"):
        load_model(path)


def test_a_folder_must_hold_one_network(tmp_path, net):
    with pytest.raises(MissingInputError, match="expected one"):
        load_model(tmp_path)
    save_model(net, CARD, tmp_path / "a")
    save_model(net, CARD, tmp_path / "b")
    with pytest.raises(MissingInputError, match=r"a\.safetensors"):
        load_model(tmp_path)


def test_weights_are_unpacked_once(net):
    payload = pack_weights(net.to_weights())
    sha = hashlib.sha256(payload).hexdigest()
    assert cached_weights(payload, sha) is cached_weights(bytes(payload), sha)
    with pytest.raises(InputError, match="sha256"):
        cached_weights(payload, "0" * 64)


def test_pixel_size_of_a_range():
    card = {"pixel_size": [0.1, 0.8]}
    assert network_pixel_size(card, (0.59, 0.2)) == (0.59, 0.2)
    assert network_pixel_size(card, (0.05, 1.2)) == (0.1, 0.8)
