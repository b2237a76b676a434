"""Cards: damage of every kind is named, movies outside of the card are, and the page says what the card says."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
from campaign_scenes import movie as small_movie
from campaign_scenes import save_dark_model
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_dask import load_model, run_campaign, segment
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import HrtemDaskError, InputError, MissingInputError, ReadError
from hrtem_dask.networks import MSDNet, save_model
from hrtem_dask.networks.cards import expected_dice, of_recipe, outside
from hrtem_dask.networks.foreign import what_it_is
from hrtem_dask.networks.models import update_card
from hrtem_dask.networks.unet import UNet
from hrtem_dask.simulate.recipe import load_recipe

CARD = {"classes": ["background", "particle"], "pixel_size": 0.5, "dose_range": [50, 2000],
        "pixel_size_range": [0.1, 0.8]}


def net_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(3)
    net = MSDNet(1, 2, 4) if kind == "msdnet" else UNet(1, 2, width=2, levels=2)
    for p in net.parameters():
        torch.nn.init.normal_(p)
    return net


@pytest.fixture(params=["msdnet", "unet"])
def saved(request, tmp_path) -> Path:
    return save_model(net_of(request.param), CARD, tmp_path / "tiny")


def rewritten(path: Path, data: bytes) -> None:
    """Write other weights, and a card that has their hash: what is wrong with them must be seen all the same."""
    path.write_bytes(data)
    card_path = path.with_suffix(".json")
    card_path.write_text(json.dumps(json.loads(card_path.read_text())
                                    | {"sha256": hashlib.sha256(data).hexdigest()}))


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for name, data in files.items():
            z.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


FOREIGN = {
    "npz": (npz(), "numpy archive"),
    "pt": (archive(net__data_dot_pkl=b"\x80\x02"), "PyTorch"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x01\xff" * 20, "unknown format"),
    "keras": (archive(model_dot_weights_dot_h5=b"", config_dot_json=b"{}"), "Keras"),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(500), "HDF5"),
    "empty": (b"", "empty"),
    "text": (b"these are no weights\n" * 40, "text"),
    "pickle": (b"\x80\x04\x95" + bytes(60), "pickle"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_under_our_name_are_refused(saved, kind):
    data, said = FOREIGN[kind]
    rewritten(saved, data)
    with pytest.raises(ReadError, match=said):
        load_model(saved)


@pytest.mark.parametrize(("suffix", "kind", "said"), [
    (".npz", "npz", "numpy archive"), (".onnx", "onnx", "ONNX"), (".keras", "keras", "Keras"), (".h5", "h5", "HDF5"),
    (".txt", "text", "is text"), (".weights", "empty", "is empty"), (".tflite", "onnx", "unknown format"),
])
def test_foreign_files_under_their_own_name_are_refused(tmp_path, suffix, kind, said):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(FOREIGN[kind][0])
    with pytest.raises(InputError, match=said):
        load_model(path)


def test_a_folder_and_a_folder_in_place_of_a_file_are_refused(tmp_path, saved):
    (tmp_path / "none").mkdir()
    with pytest.raises(MissingInputError, match="expected one"):
        load_model(tmp_path / "none")
    saved.unlink()
    saved.mkdir()
    with pytest.raises(MissingInputError, match="expected one"):
        load_model(saved)


@pytest.mark.parametrize("left", [1, 7, 8, 60, 0.5, -1])
def test_truncated_weights_are_refused(saved, left):
    data = saved.read_bytes()
    part = data[:int(left * len(data)) if isinstance(left, float) else left]
    saved.write_bytes(part)
    with pytest.raises(ReadError, match=r"tiny\.safetensors"):
        load_model(saved)
    rewritten(saved, part)
    with pytest.raises(ReadError, match=r"tiny\.safetensors"):
        load_model(saved)


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=60)
def test_a_flipped_bit_is_seen_wherever_it_is(tmp_path_factory, where, bit):
    path = save_model(net_of("msdnet"), CARD, tmp_path_factory.mktemp("flip") / "tiny")
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises((InputError, ReadError), match=r"tiny\.safetensors"):
        load_model(path)


def test_a_card_of_other_weights_is_refused(saved, tmp_path):
    other = save_model(net_of("msdnet"), CARD | {"name": "other"}, tmp_path / "more" / "other")
    net = MSDNet(1, 2, 4)
    third = save_model(net, CARD, tmp_path / "more" / "third")
    saved.with_suffix(".json").write_bytes(third.with_suffix(".json").read_bytes())
    with pytest.raises(InputError, match="sha256"):
        load_model(saved)
    assert load_model(other).card["name"] == "other"


@pytest.mark.parametrize("change", [
    {"classes": ["background", "vacuum"]}, {"classes": ["particle", "background"]}, {"pixel_size": 0.25},
])
def test_what_the_numbers_mean_cannot_be_renamed_on_the_card_alone(saved, change):
    path = saved.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="written for"):
        load_model(saved)


@pytest.mark.parametrize("future", [2, 99, "2", None, 0])
def test_a_later_format_is_refused(saved, future):
    path = saved.with_suffix(".json")
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | {"format": future}))
    with pytest.raises(InputError, match="newer hrtem-dask"):
        load_model(saved)
    path.write_text(good)
    data = saved.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = data[8:8 + n].replace(b'\\"format\\": 1', b'\\"format\\": 7')
    assert header != data[8:8 + n]
    rewritten(saved, data[:8] + header + data[8 + n:])
    with pytest.raises(InputError, match="newer hrtem-dask"):
        load_model(saved)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    net = net_of("msdnet")
    with torch.no_grad():
        net.weights[2][0, 0, 0, 0] = value
    path = save_model(net, CARD, tmp_path / "bad")
    with pytest.raises(InputError, match=r"layers\.2.* 1 values"):
        load_model(path)


@pytest.mark.parametrize("card", [b"\xff\xfe{}", b"{" * 100_000, b"[" * 100_000, b"null", b'"a"', b"{}"])
def test_a_card_that_is_none_is_refused(saved, card):
    saved.with_suffix(".json").write_bytes(card)
    with pytest.raises((InputError, ReadError)):
        load_model(saved)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_named_without_an_error(data):
    assert isinstance(what_it_is(data, "a.safetensors"), str)
    assert isinstance(what_it_is(b"PK\x03\x04" + data), str)


def test_measured_figures_are_put_on_the_card_of_the_weights_that_were_measured(saved):
    sha = load_model(saved).card["sha256"]
    update_card(saved, {"scores": {"a": 1}, "known_failures": ["none"]}, expect=sha)
    update_card(saved, {"scores": {"b": 2}}, expect=sha)
    card = load_model(saved).card
    assert card["scores"] == {"a": 1, "b": 2}
    assert card["known_failures"] == ["none"]
    assert card["sha256"] == sha
    before = saved.with_suffix(".json").read_bytes()
    with pytest.raises(InputError, match="measure again"):
        update_card(saved, {"scores": {}}, expect="0" * 64)
    with pytest.raises(HrtemDaskError):
        update_card(saved, {"classes": ["one"]})
    assert saved.with_suffix(".json").read_bytes() == before


@pytest.mark.parametrize(("pixel_size", "dose", "expected"), [
    ((0.5, 0.5), None, []), ((0.1, 0.8), 50, []), ((0.099, 0.81), 2030.0, []),
    ((0.09, 0.5), None, ["0.09 x 0.5 angstrom"]), ((1.2, 1.2), None, ["1.2 angstrom"]),
    ((0.5, 0.5), 20, ["20 e/angstrom"]), ((0.5, 0.5), np.float32(9000), ["9000 e/angstrom"]),
    ((2, 2), 1, ["2 angstrom", "1 e/angstrom"]),
    ((0.5, 0.5), "20", []), ((0.5, 0.5), float("nan"), []), ((0.5, 0.5), 0, []), ((0.5, 0.5), True, []),
    ((0.5, 0.5), [3], []),
])
def test_what_lies_outside_of_the_card_is_said(pixel_size, dose, expected):
    found = outside(CARD, pixel_size, dose)
    assert len(found) == len(expected)
    assert all(e in f for e, f in zip(expected, found, strict=True))


def test_a_card_with_a_range_and_one_without_any():
    assert outside({"pixel_size": [0.1, 0.8], "dose_range": [1, 9]}, (0.9, 0.9))
    assert not outside({"pixel_size": 0.5, "dose_range": [1, 9]}, (5, 5))


def messages(call) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in found if "trained for" in str(w.message)]


def test_segment_warns_once_a_movie(saved):
    rng = np.random.default_rng(0)
    counts = rng.poisson(9, (4, 40, 40))
    inside = make_movie(counts, pixel_size=0.5, attrs={"dose": 100.0}).chunk({"frame": 1, "y": 20})
    outside_ = make_movie(counts, pixel_size=1.2, attrs={"dose": 3.0}).chunk({"frame": 1, "y": 20})

    def run(movie, **options):
        with dask.config.set(scheduler="threads"):
            segment(movie, saved, **options).compute()

    assert messages(lambda: run(inside)) == []
    found = messages(lambda: run(outside_))
    assert len(found) == 2
    assert "tiny: the movie has 1.2 angstrom a pixel" in found[0]
    assert "3 e/angstrom^2 a frame" in found[1]
    assert messages(lambda: run(outside_, warn=False)) == []
    del outside_.attrs["dose"]
    assert len(messages(lambda: run(outside_))) == 1


def test_the_warning_points_at_the_caller(saved):
    movie = make_movie(np.ones((1, 20, 20)), pixel_size=3.0)
    with pytest.warns(UserWarning, match="trained for") as found:
        segment(movie, saved)
    assert found[0].filename == __file__


def test_a_campaign_warns_once(tmp_path):
    movie = small_movie(4)
    movie.attrs["dose"] = 3.0
    model = save_dark_model(tmp_path)
    found = messages(lambda: run_campaign({"source": movie, "model": model, "out": str(tmp_path / "out")}))
    assert len(found) == 1
    assert "3 e/angstrom^2" in found[0]


def test_a_recipe_on_a_card():
    facts = of_recipe(load_recipe("au-particles"))
    assert facts["pixel_size_range"] == [0.1, 0.8]
    assert facts["voltage"] == 300
    assert facts["defocus_range"][0] < 0 < facts["defocus_range"][1]
    corrected = of_recipe(load_recipe({"name": "a", "imaging": {"defocus": [100, 400], "overfocus_fraction": 0}}))
    assert corrected["defocus_range"] == [100, 400]


def test_expected_dice_is_read_off_the_card():
    grid = {"pixel_size": [0.1, 0.2, 0.4], "dose": [10.0, 100.0], "mean": [[0.2, 0.4], [0.3, 0.6], [0.4, 0.8]]}
    card = {"expected_dice": grid}
    for i, p in enumerate(grid["pixel_size"]):
        for k, d in enumerate(grid["dose"]):
            assert expected_dice(card, p, d) == pytest.approx(grid["mean"][i][k])
    assert expected_dice(card, 0.2, 10**1.5) == pytest.approx(0.45)
    assert expected_dice(card, 9, 1e9) == 0.8
    assert expected_dice({}, 0.2, 10) is None
    assert expected_dice({"expected_dice": grid | {"mean": [[None, 1]] * 3}}, 0.2, 10) is None
