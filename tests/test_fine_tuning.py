"""Fine-tuning: a network that learnt dark discs learns bright ones from five frames; what cannot be used is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from imageio.v3 import imwrite
from scipy import ndimage
from training_sets import same, write_discs

from hrtem_dask import load_model, segment, train
from hrtem_dask.cli_train import train as train_command
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.kernels.masks import dice
from hrtem_dask.networks.fine_tuning import LabelledFrames, fine_tune, masks_of, source_of
from hrtem_dask.networks.settings import Settings

SHAPE, PIXEL = (90, 110), 0.4
QUICK = {"iterations": 60, "size": 48, "batch": 2, "learning_rate": 2e-2}


def bright_frames(n, seed=0):
    """Frames with bright discs where the network to begin with knows dark ones, and their masks."""
    rng = np.random.default_rng(seed)
    frames, masks = [], []
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]]
    for _ in range(n):
        mask = np.zeros(SHAPE, bool)
        for _ in range(2):
            cy, cx = rng.uniform(20, 70), rng.uniform(20, 90)
            mask |= (y - cy)**2 + (x - cx)**2 < 14**2
        counts = rng.poisson(100 * (1 + 0.5 * ndimage.gaussian_filter(mask.astype(float), 1)))
        frames.append(counts.astype(np.uint16))
        masks.append(mask)
    return np.stack(frames), np.stack(masks)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start")
    train(write_discs(path / "set"), out=path / "dark", iterations=40, depth=6, size=48, batch=2, scores=False)
    return path / "dark.safetensors"


def mean_dice(model, frames, masks):
    found = segment(make_movie(frames, pixel_size=PIXEL), model).sel({"class": "particle"}).values > 0.5
    return np.mean([dice(f, m) for f, m in zip(found, masks, strict=True)])


def test_five_frames_teach_what_the_start_got_wrong(start, tmp_path):
    frames, masks = bright_frames(5)
    others = bright_frames(4, seed=9)
    lines: list[str] = []
    model = fine_tune(frames, masks, start=start, out=tmp_path / "mine", pixel_size=PIXEL, report=lines.append, **QUICK)
    assert mean_dice(load_model(start), *others) < 0.6
    assert mean_dice(model, *others) > 0.85
    facts = json.loads((tmp_path / "mine.json").read_text())["training"]
    assert facts["real_images_used"] == "5 labelled frames, 1 of them held out"
    assert facts["start_sha256"] == load_model(start).card["sha256"]
    assert facts["start"]["real_images_used"] == "none"
    assert facts["frames_pixel_size"] == [PIXEL, PIXEL]
    scores = model.card["scores"]["labelled_frames"]
    assert scores["held_out"]
    assert scores["after"] > scores["before"]
    assert any(f"{scores['after']:.3f} after" in line for line in lines)
    again = fine_tune(frames, masks * np.uint8(255), start=start, out=tmp_path / "again", pixel_size=PIXEL, **QUICK)
    assert same(model.weights, again.weights)


def test_the_scale_and_offset_of_the_frames_do_not_matter():
    frames, masks = bright_frames(2)
    one, two = (source_of(make_movie(f, pixel_size=PIXEL), masks, 0, 0.5) for f in (frames, frames * 8.0 + 1024))
    assert one.images[0].shape == (72, 88)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(one.images, two.images, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(one.truths, two.truths, strict=True))
    assert one.truths[0].mean() == pytest.approx(masks[0].mean(), rel=0.03)


def test_a_single_frame_is_judged_on_itself(start, tmp_path):
    model = fine_tune(*bright_frames(1), start=start, out=tmp_path / "a", pixel_size=PIXEL, **QUICK | {"iterations": 2})
    assert not model.card["scores"]["labelled_frames"]["held_out"]


def test_the_command_takes_files(start, tmp_path):
    frames, masks = bright_frames(3)
    for name, images in (("frames", frames), ("masks", masks * np.uint8(255))):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            imwrite(tmp_path / name / f"{i}.png", image)
    options = ["--start", str(start), "--out", str(tmp_path / "mine.safetensors"), "--iterations", "2", "--size", "48",
               "--workers", "1"]
    pair = ["--fine-tune", str(tmp_path / "frames"), str(tmp_path / "masks")]
    done = CliRunner().invoke(train_command, [*pair, "--pixel-size", "0.4", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Dice on held-out frames" in done.output
    assert load_model(tmp_path / "mine.safetensors").card["training"]["frames"] == 3
    wrong = CliRunner().invoke(train_command, [*pair, "--depth", "7", "--voltage", "200", *options])
    assert wrong.exit_code == 2
    assert "--depth, --voltage mean" in wrong.output.replace("\n", " ")
    assert CliRunner().invoke(train_command, options).exit_code == 2


@pytest.mark.parametrize(("change", "kind", "match"), [
    ({"masks": np.zeros((4, *SHAPE), bool)}, InputError, "a mask for each frame"),
    ({"masks": np.zeros((5, 90, 100), bool)}, InputError, "a mask for each frame"),
    ({"masks": np.arange(5 * 90 * 110).reshape(5, *SHAPE) % 3}, InputError, "mask 0 holds 3 values"),
    ({"masks": np.zeros((5, *SHAPE), np.uint8)}, InputError, "none of the 5 masks shows a particle"),
    ({"pixel_size": None}, CalibrationError, "pixel_size=0.5"),
    ({"pixel_size": 0.05}, InputError, "network pixels"),
    ({"held_out": 5}, InputError, "at least one frame to learn from"),
    ({"minutes": -1}, InputError, "more than zero"),
])
def test_what_cannot_be_used_is_named(start, tmp_path, change, kind, match):
    frames, masks = bright_frames(5)
    with pytest.raises(kind, match=match):
        fine_tune(**{"frames": frames, "masks": masks, "start": start, "out": tmp_path / "x", "pixel_size": PIXEL}
                  | QUICK | change)


def test_frames_with_holes_and_frames_without_particles(start, tmp_path):
    frames, masks = bright_frames(5)
    holes = frames.astype(float)
    holes[1, 3, 4] = np.nan
    with pytest.raises(InputError, match="frame 1 holds 1 pixel"):
        fine_tune(holes, masks, start=start, out=tmp_path / "x", pixel_size=PIXEL, **QUICK)
    only_last = masks & (np.arange(5) == 4)[:, None, None]
    with pytest.raises(InputError, match="the only ones that show a particle"):
        fine_tune(frames, only_last, start=start, out=tmp_path / "x", pixel_size=PIXEL, **QUICK)
    assert masks_of(only_last, make_movie(frames, pixel_size=PIXEL)).sum() == only_last.sum()


def test_examples_are_new_and_turned_with_their_masks():
    rng = np.random.default_rng(0)
    mask = np.zeros((60, 80), bool)
    mask[5:30, 40:70] = True
    image = (4.0 * mask + 0.1 * rng.normal(size=mask.shape)).astype(np.float32)
    source = LabelledFrames([image, image * 0], [mask, ~mask], 1, "x")
    draw = source.drawer(Settings(size=50, scale=(1, 1), offset=0, seed=3))
    shapes, covered = set(), set()
    for k in range(20):
        cut, label = draw(0, k)
        assert np.array_equal(cut > 2, label)  # the frame held out, all zeros, never comes
        assert np.array_equal(cut, draw(0, k)[0])
        shapes.add(cut.shape)
        covered.add((int(label.sum()), *np.round(ndimage.center_of_mass(label))))
    assert shapes == {(50, 50)}
    assert len(covered) > 8
