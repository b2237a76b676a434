"""Training that goes on with labelled frames of the user's own: a few frames, a few minutes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..core.calibration import calibrated, has_calibration, make_movie, pixel_size_of
from ..core.errors import CalibrationError, InputError
from ..io.movie import open_movie
from ..kernels.masks import dice
from ..kernels.resample import resample
from .evaluation import resolve_device
from .models import Model, load_model
from .reach import effective_radius
from .scoring import normalised, probability
from .settings import Settings
from .sources import Example
from .steps import Run
from .training import check_numbers, command_options, facts, one_torch_thread, settings_of, state_of, step_of, write

__all__ = ["LabelledFrames", "fine_tune"]

ITERATIONS = 300
HELD_OUT = 0.2  # part of the frames, where there are at least three
JUDGED = 512  # side of the middle of a frame that is judged [network pixel]
NOISE = 0.3  # largest sigma of the added noise, in standard deviations of a frame
SMALLEST = 32  # side of an example [network pixel]


@dataclass(frozen=True, eq=False)
class LabelledFrames:
    """Examples cut out of labelled frames, turned, mirrored, scaled, shifted and made noisier.

    Parameters
    ----------
    images : list of ndarray, float32, shape (y, x)
        Frames at the network's pixel size, normalised as a whole, as `segment` does it.
    truths : list of ndarray, bool, shape (y, x)
    held_out : int
        So many of the last frames are judged only; 0: the first ones are judged that are learnt too.
    identity_ : str
        What tells these frames from others.
    """

    images: list[np.ndarray]
    truths: list[np.ndarray]
    held_out: int
    identity_: str

    groups = ("dice",)

    @property
    def judged(self) -> int:
        """Number of validation images: one a frame."""
        return self.held_out or len(self.images)

    def drawer(self, settings: Settings) -> Callable[[int, int], Example]:
        """Return a function that draws example k of a step."""
        n = len(self.images) - self.held_out

        def draw(step: int, k: int) -> Example:
            rng = np.random.default_rng([settings.seed, 5, step, k])
            i = int(rng.integers(n))
            image, truth = self.images[i], self.truths[i]
            y, x = (int(rng.integers(m - settings.size + 1)) for m in image.shape)
            window = np.s_[y:y + settings.size, x:x + settings.size]
            turns, mirror = int(rng.integers(4)), rng.random() < 0.5
            cut, label = (np.rot90(a[window], turns)[:, ::-1 if mirror else 1] for a in (image, truth))
            cut = cut + rng.uniform(0, NOISE) * rng.standard_normal(cut.shape)
            scale = np.exp(rng.uniform(*np.log(settings.scale)))
            cut = cut * scale + rng.uniform(-settings.offset, settings.offset)
            return np.ascontiguousarray(cut, dtype=np.float32), np.ascontiguousarray(label)

        return draw

    def validation(self, settings: Settings, k: int) -> Example:
        """Middle of frame k of those that are judged."""
        i = len(self.images) - self.judged + k
        image, truth = self.images[i], self.truths[i]
        window = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in ((n, min(n, JUDGED)) for n in image.shape))
        return np.ascontiguousarray(image[window]), np.ascontiguousarray(truth[window])

    def identity(self) -> Any:
        """What tells these frames from others, for JSON."""
        return self.identity_


def fine_tune(
    frames: Any,
    masks: Any,
    *,
    out: str | os.PathLike[str],
    start: Model | str | os.PathLike[str] = "au-particles",
    pixel_size: float | None = None,
    held_out: int | None = None,
    minutes: float | None = None,
    iterations: int | None = None,
    seed: int = 1,
    batch: int = 3,
    size: int = 256,
    learning_rate: float = 3e-3,
    workers: int | None = None,
    device: str = "auto",
    report: Callable[[str], None] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Model:
    """Train a network further on labelled frames of one's own, and write it with its card.

    Computes at once; five frames and a few minutes are what it is made for. Examples are cut out of
    the frames, turned, mirrored, scaled, shifted and made noisier. Of three frames or more, a fifth
    of them, the last ones, is held out: the weights are chosen by them, and their Dice before and
    after is on the card.

    Parameters
    ----------
    frames : DataArray, or what `open_movie` takes
        Frames of one size (frame, y, x): files, a folder, an array.
    masks : array (frame, y, x), or what `open_movie` takes
        1 (or 255) where there is a particle, 0 elsewhere; in the order of the frames.
    out : path
        File NAME.safetensors to write.
    start : Model, str or path
        The network to begin with: a shipped name or a file.
    pixel_size : float, optional
        [angstrom], where the files do not say it.
    held_out : int, optional
        Number of frames to hold out instead of a fifth.
    minutes, iterations, seed, batch, size, workers, device, report, progress
        As in `hrtem_dask.train`; 300 iterations by default. Frames smaller than ``size`` network
        pixels are taken whole.
    learning_rate : float
        Highest learning rate.

    Returns
    -------
    Model
        What `load_model` gives for the file. Its card says that real images were used.

    Raises
    ------
    InputError
        If frames and masks differ in number or size, a mask holds more than two values, no mask
        shows a particle, or the frames are too small.
    CalibrationError
        If there is no pixel size.

    Examples
    --------
    >>> mine = fine_tune("five_frames/*.dm4", "five_masks/*.png", out="mine.safetensors")  # doctest: +SKIP
    """
    out, say = Path(out), report or (lambda _line: None)
    out = out if out.suffix == ".safetensors" else out.with_name(out.name + ".safetensors")
    check_numbers(minutes, iterations)
    device, begin = resolve_device(device), start if isinstance(start, Model) else load_model(start)
    settings = settings_of(begin, begin.name, network=begin.card["architecture"]["kind"], depth=None, width=None,
                           batch=batch, size=size, learning_rate=learning_rate, seed=seed, warm_up=20, validations=10)
    movie = frames_of(frames, pixel_size)
    truths = masks_of(masks, movie)
    n = count_held_out(held_out, len(truths))
    source = source_of(movie, truths, n, settings.pixel_size)
    settings = fitting(settings, source)
    out.parent.mkdir(parents=True, exist_ok=True)
    run = Run(settings, source, state_of(out), begin.module(), None if device == "cpu" else device)
    say(f"{len(truths) - n} frames to learn from, {n} held out" + ("" if n else ": Dice is on what was learnt"))
    with one_torch_thread():
        before = dice_on(source, settings, begin.module())
        run.learn(60 * minutes if minutes else None,
                  iterations or (None if minutes else ITERATIONS), workers, say, progress)
        after = dice_on(source, settings, run.result())
        card = card_of(run, begin, movie, {"before": before, "after": after, "frames": source.judged,
                                           "held_out": bool(n)}, out)
        card["effective_radius"] = max(begin.card["effective_radius"], radius_of(run, source))
        write(run, card, out, say)
    say(f"Dice on {'held-out' if n else 'the same'} frames: {before:.3f} before, {after:.3f} after")
    if run.finished:
        run.state.unlink(missing_ok=True)
    return load_model(out)


def frames_of(frames: Any, pixel_size: float | None) -> xr.DataArray:
    """Open the frames; they must have a pixel size."""
    if isinstance(frames, xr.DataArray):
        movie = calibrated(frames, pixel_size) if pixel_size else frames
    elif isinstance(frames, np.ndarray):
        if pixel_size is None:
            raise CalibrationError("an array has no pixel size; give it, as pixel_size=0.5 [angstrom]")
        movie = make_movie(frames if frames.ndim == 3 else frames[None], pixel_size=pixel_size)
    else:
        movie = open_movie(frames, pixel_size=pixel_size)
    if movie.dims != ("frame", "y", "x"):
        raise InputError(f"the frames have the dims {movie.dims}; expected (frame, y, x), as open_movie gives them")
    if not has_calibration(movie):
        raise CalibrationError("the frames have no pixel size; give it, as pixel_size=0.5 or --pixel-size 0.5 "
                               "[angstrom]")
    return movie


def masks_of(masks: Any, movie: xr.DataArray) -> np.ndarray:
    """Read masks as bool (frame, y, x), checked against the frames."""
    if not isinstance(masks, xr.DataArray | np.ndarray):
        masks = open_movie(masks)
    found = np.asarray(masks)
    found = found[None] if found.ndim == 2 else found
    if found.shape != movie.shape:
        raise InputError(f"found masks of the shape {found.shape} and frames of {movie.shape}; expected a mask for "
                         f"each frame, in the same order and of the same size")
    for i, mask in enumerate(found):
        values = np.unique(mask)
        if not set(values.tolist()) <= {0, 1} and not set(values.tolist()) <= {0, 255}:
            raise InputError(f"mask {i} holds {len(values)} values, {values[:6].tolist()}...; expected 0 and 1, or 0 "
                             f"and 255 (1 or 255 where there is a particle), as (labels > 0) gives them")
    if not found.any():
        raise InputError(f"none of the {len(found)} masks shows a particle; expected 1 or 255 where there is one")
    return found > 0


def count_held_out(held_out: int | None, n: int) -> int:
    """Frames to hold out: a fifth of three or more."""
    if held_out is None:
        return max(1, round(HELD_OUT * n)) if n >= 3 else 0
    if not 0 <= held_out < n:
        raise InputError(f"held_out is {held_out} of {n} frames; expected at least one frame to learn from")
    return held_out


def source_of(movie: xr.DataArray, truths: np.ndarray, held_out: int, pixel_size: float) -> LabelledFrames:
    """Bring the frames to the network's pixel size and normalise them."""
    camera = pixel_size_of(movie)
    images, labels, digest = [], [], sha256(f"{camera} {held_out}".encode())
    for i, truth in enumerate(truths):
        frame = np.asarray(movie.isel(frame=i).values, dtype=np.float64)
        if not np.isfinite(frame).all():
            raise InputError(f"frame {i} holds {np.count_nonzero(~np.isfinite(frame))} pixels that are not finite; "
                             f"expected counts. Leave the frame out, or fill them")
        digest.update(frame.tobytes() + truth.tobytes())
        images.append(normalised(resample(frame, camera, pixel_size)))
        labels.append(resample(truth.astype(np.float32), camera, pixel_size) > 0.5)
    if not any(label.any() for label in labels[:len(labels) - held_out]):
        raise InputError(f"the {held_out} frames held out are the only ones that show a particle; put others last, or "
                         f"hold out fewer")
    return LabelledFrames(images, labels, held_out, digest.hexdigest())


def fitting(settings: Settings, source: LabelledFrames) -> Settings:
    """Take examples no larger than the frames."""
    side = min(min(image.shape) for image in source.images)
    if side < SMALLEST:
        raise InputError(f"the frames are {side} network pixels of {settings.pixel_size:g} angstrom wide; expected at "
                         f"least {SMALLEST}")
    return replace(settings, size=min(settings.size, side))


def radius_of(run: Run, source: LabelledFrames) -> int:
    """Measure how far the network looks, on pieces of the frames of one size."""
    side = min(min(min(image.shape) for image in source.images), JUDGED)
    images = [np.ascontiguousarray(image[:side, :side]) for image in source.images[:4]]
    if len(images) == 1:
        images += [np.ascontiguousarray(images[0][::-1])]
    return effective_radius(run.result(), images, step=step_of(run.settings))


def dice_on(source: LabelledFrames, settings: Settings, net: Any) -> float:
    """Mean Dice of a network on the frames that are judged and show a particle."""
    pairs = [source.validation(settings, k) for k in range(source.judged)]
    scores = [dice(probability(net, image) > 0.5, truth) for image, truth in pairs if truth.any()]
    return round(float(np.mean(scores)), 4) if scores else float("nan")


def card_of(run: Run, begin: Model, movie: xr.DataArray, scores: dict[str, Any], out: Path) -> dict[str, Any]:
    """Card of a network that saw real frames."""
    card = {k: v for k, v in begin.card.items() if k not in ("scores", "sha256", "temperature", "calibration")}
    sizes = [float(s) for s in pixel_size_of(movie)]
    old: Sequence[float] = card.get("pixel_size_range", sizes)
    n, held_out = movie.sizes["frame"], run.source.held_out
    return card | {
        "name": out.stem,
        "pixel_size_range": [min(*old, *sizes), max(*old, *sizes)],
        "training": {
            "commands": [f"hrtem-dask train --fine-tune FRAMES MASKS --start {begin.name} {command_options(run, out)}"],
            "real_images_used": f"{n} labelled frames, {held_out} of them held out",
            "frames": n, "frames_held_out": held_out, "frames_source": str(movie.attrs.get("source", "an array")),
            "frames_pixel_size": sizes, "frames_sha256": run.source.identity(), "start": begin.card.get("training"),
        } | facts(run),
        "scores": {"labelled_frames": scores},
    }
