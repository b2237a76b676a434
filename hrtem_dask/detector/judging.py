"""Whether what was fitted is noise: what `fit_mtf` refuses, and what it says of the rest."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ..core.errors import InputError
from ..kernels.camera import radial_frequency
from ..kernels.film_test import HIDDEN, search_film
from ..kernels.moving import BANDS as SHIFT_BANDS
from ..kernels.moving import LOWEST, NEAR_PART
from ..kernels.mtf_fit import PowerFit, ReadNoise
from ..kernels.noise_power import Rings, mask_spots, noise_power, ring_average, smooth_rings, usable_modes
from .vacuum import Noise

__all__ = ["beam_is_on", "hidden_film", "judge", "judge_doses", "moving", "say", "standing_still"]

#: departure of the noise power from the fit, over several rings, that no detector explains; and
#: the one that is worth a word
NO_FIT, POOR_FIT = 0.25, 0.05
#: power of what stands still over that of the noise, in the middle band, that is worth a word
STILL = 1.0
#: modes of a spectrum that chance may lift out of their rings, with their neighbours
FEW = 60
#: peak of a shift in the difference of two frames [deviations], at least; chance brings 5.6 in 200 pairs. Over what
#: chance brings in so many shifts and pairs it is this
MOVED, MOVED_OVER = 6.5, 1.0
#: from so many frames on a film that moves shows in what frames far apart differ by
MANY = 8
#: noise above that of dark frames, over it, and mean over the deviation of a pixel, that are no beam
EMPTY = 0.02
#: change of the power from frames one apart to all frames [deviations], and least part of the power, of a drift
DRIFTS, DRIFTS_LEAST = 5.0, 0.02
#: bands in which that is looked for [Nyquist]
BANDS = ((0.12, 0.25), (0.25, 0.5), (0.5, 0.8))
#: score of a film in one frame [deviations] of so many forms; chance brings 3.7 in 100 frames
FILM = 4.2
#: that and the part of the noise in several frames, of which a detector of another form has 4.3 and 0.09
FILM_IN_FRAMES, FILM_PART = 5.0, 0.12
#: chi^2 by degrees of freedom in one frame: what the window leaves of 1, and its deviation for one ring
MISFIT, MISFIT_SPREAD, MISFIT_LIMIT = 0.5, 2.0, 4.6
#: how steep and how slow the curve of one frame may be, how early it may have fallen to one half
STEEP, SLOW, EARLY = 3.5, 1.0, 0.2
#: departure from a growth with the dose that no detector has, and the bands in which it is looked for [Nyquist]
DOSES, DOSE_BANDS = 0.1, ((0.03, 0.12), (0.12, 0.25), (0.25, 0.45), (0.45, 0.7))
GIVE = ("Give several raw frames of the same place, vacuum at two doses (second=) with dark frames, or the place "
        "of the vacuum as box=(y0, y1, x0, x1)")
ONE_FRAME = ("one frame cannot tell a weak film from vacuum: a film without Thon rings adds power that looks like a "
             "detector's. Films that show were excluded, and the errors hold one that adds a fifth to the noise; that "
             "the frame is of vacuum must be known from elsewhere. Eight frames, or a second exposure with dark "
             "frames, tell")
FEW_FRAMES = ("fewer than {many} frames cannot tell a weak film that moves from vacuum: the errors hold one that adds "
              "up to {part:.0%} to the noise. More frames, or a second exposure with dark frames, tell")


def say(notes: list[str], text: str, *, level: int = 3) -> None:
    """Keep a remark with the result and warn of it."""
    notes.append(text)
    warnings.warn(text, stacklevel=level)


def standing_still(noise: Noise, use: np.ndarray, notes: list[str]) -> None:
    """Say how much of the frames stands still, and is neither noise nor slow illumination."""
    power = noise_power(noise.image - noise.image.mean())
    rings, floor = (ring_average(p, noise.shape, use) for p in (power, noise.power))
    at = (rings.k > 0.06) & (rings.k < 0.5)
    found = []
    if at.any() and (ratio := float(np.mean(rings.power[at] / floor.power[at]) - 1 / noise.frames)) > STILL:
        found.append(f"{ratio:.2g} times the noise between 0.06 and 0.5 Nyquist")
    spots = int((usable_modes(noise.shape) & ~mask_spots(power, noise.shape)).sum())
    if spots > FEW:
        found.append("spots or fringes")
    if found:
        say(notes, f"structure that stands still, {' and '.join(found)}: a gain pattern, or no vacuum. It was "
                   "removed; what of it moves was not", level=6)


def moving(noise: Noise, use: np.ndarray, offset: float | None = None) -> None:
    """Refuse frames in which something moves.

    A shift from frame to frame writes fringes into their difference; a slower drift makes frames
    far apart differ by more than neighbours, a fast one the other way round as a trend was removed.
    Where the dose changes, the two have other weights of the frames, and so other quantum noise.
    """
    score, part = noise.moved
    if score > _shift_limit(noise):
        raise InputError(f"this is not vacuum: something moves from frame to frame, with {part:.0%} of the noise's "
                         "power. Expected frames of vacuum, whose noise is new in every frame; give its place as "
                         "box=(y0, y1, x0, x1), or frames without a specimen")
    if noise.near is None or noise.pairs < 2:
        return
    k = radial_frequency(noise.shape)
    zero = 0.0 if offset is None else offset
    doses = (noise.mean - zero) / (noise.near_mean - zero) - 1 if min(noise.mean, noise.near_mean) > zero else 0.0
    for low, high in BANDS:
        at = use & (k > low) & (k < high)
        near = float(noise.near[at].mean()) if at.any() else 0.0
        if near <= 0:
            continue
        change = float(noise.power[at].mean()) / near - 1
        # quantum noise follows the dose, that of the read-out does not
        change -= float(np.clip(change, min(doses, 0.0), max(doses, 0.0)))
        if abs(change) > max(DRIFTS / np.sqrt(at.sum() * noise.pairs), DRIFTS_LEAST):
            raise InputError(f"this is not vacuum: from {low:g} to {high:g} Nyquist the noise of neighbouring "
                             f"frames and that of all of them differ by {abs(change):.0%}. Expected noise that is new "
                             "in every frame: a specimen drifts or changes, frames were averaged, the camera keeps an "
                             "afterglow of the frame before, or many X-rays hit it. Give raw frames of vacuum, or "
                             "its place as box=(y0, y1, x0, x1); wait between frames where the camera glows, and "
                             "take out X-rays")


def _shift_limit(noise: Noise) -> float:
    """Peak of a shift that chance does not bring in so many shifts, pairs of frames, and bands."""
    tries = noise.shape[0] * noise.shape[1] / 2 * max(noise.pairs, 1) * len(SHIFT_BANDS)
    return max(MOVED, float(np.sqrt(2 * np.log(tries))) + MOVED_OVER)


def beam_is_on(rings: Rings, noise: Noise, offset: float | None, dark: ReadNoise | None, *, white: bool) -> None:
    """Refuse frames without electrons: with the noise of dark frames, or with a mean that is the offset."""
    band = rings.up_to(0.06, 0.35)
    power = float(np.average(band.power, weights=band.modes))
    if dark is not None:
        read = float(np.average(np.broadcast_to(dark.power * dark.at(band.k), band.k.shape), weights=band.modes))
        sigma = float(np.hypot(power / np.sqrt(band.modes.sum()), dark.error))
        if power - read < max(3 * sigma, EMPTY * read):
            raise InputError(f"the frames of vacuum have the noise of the dark frames ({power:.4g} and {read:.4g} "
                             "counts^2), so the beam was off. Expected frames with the beam on, without a specimen")
        return
    level, spread = noise.mean - (0.0 if offset is None else offset), np.sqrt(power)
    pixels = noise.shape[0] * noise.shape[1] * noise.frames
    if (white or offset is not None) and abs(level) < spread * max(5 / np.sqrt(pixels), EMPTY):
        raise InputError(f"the mean of the frames of vacuum, {noise.mean:.4g} counts, is that without electrons "
                         f"({0.0 if offset is None else offset:g}), so the beam was off. Expected raw frames with the "
                         "beam on, without a specimen; offset= is their counts without electrons")


def judge(fit: PowerFit, rings: Sequence[Rings], notes: list[str], *, white: bool, found: str | None) -> None:
    """Refuse what is not noise; say where the curve is poor.

    Parameters
    ----------
    fit : PowerFit
    rings : sequence of Rings
        Those that were fitted, of each exposure.
    notes : list of str
        Remarks are added.
    white : bool
        Whether the noise is white.
    found : str, optional
        Structure that was found elsewhere in the frames.
    """
    elsewhere = "" if found is None else f" {found[0].upper()}{found[1:]}."
    for each, model in zip(rings, fit.models, strict=True):
        smooth, sigma = smooth_rings(each.power / model, each.modes)
        smooth, sigma, k = smooth[3:-3], sigma[3:-3], each.k[3:-3]
        departs = np.where(np.abs(smooth - 1) > 6 * sigma, np.abs(smooth - 1), 0.0)
        worst = int(np.argmax(departs))
        if departs[worst] > (NO_FIT if found is None else POOR_FIT):
            raise InputError(f"this is not vacuum: the spectrum has structure, {smooth[worst]:.2g} times the noise of "
                             f"a detector at {k[worst]:.2f} Nyquist (or the frames were filtered). Expected noise "
                             f"that falls off smoothly.{elsewhere} {GIVE}")
        if departs[worst] > POOR_FIT:
            say(notes, f"the curve departs from the noise power by {departs[worst]:.0%} at {k[worst]:.2f} Nyquist, "
                       "more than chance: structure, or a detector of another form", level=4)
    if fit.at_bound and not white:
        raise InputError(f"this is not vacuum: the noise falls as that of no detector does (to half way at "
                         f"{fit.curve[0]:.2f} Nyquist with the power {fit.curve[1]:.1f}), so there is structure, or "
                         f"the frames were filtered.{elsewhere} {GIVE}")


def hidden_film(fit: PowerFit, rings: Rings, dark: ReadNoise | None, noise: Noise) -> tuple[np.ndarray | float,
                                                                                             list[str]]:
    """Refuse frames that show a film; return the covariance that one which does not show adds, and what to say of it.

    The strongest film that few frames can hide is what the difference of two does not show: two deviations.
    """
    part = 2 * HIDDEN
    if noise.frames > 1:
        modes = 0.5 * np.pi * (SHIFT_BANDS[0]**2 - LOWEST**2) * noise.shape[0] * noise.shape[1] / 4
        part = float(np.clip(_shift_limit(noise) * np.sqrt(2 / modes), NEAR_PART, part))
    film = search_film(rings, fit, dark, hidden=part / 2)
    if noise.frames > 1:
        if film.score > FILM_IN_FRAMES and film.part > FILM_PART:
            raise InputError("this is not vacuum: the spectrum rises and falls as behind a film that moves, by "
                             f"{film.part:.0%} of the noise. Expected noise that falls off smoothly. {GIVE}")
        if noise.frames >= MANY:
            return 0.0, []
        return film.covariance, [FEW_FRAMES.format(many=MANY, part=part)]
    allowed = MISFIT * (1 + MISFIT_LIMIT * MISFIT_SPREAD / np.sqrt(2 * rings.k.size))
    misfit = float(np.mean(rings.modes * (rings.power / fit.models[0] - 1) ** 2))
    scale, power = fit.curve[:2]
    errors = np.sqrt(np.diag(fit.covariance)[:2])
    said = None
    if film.score > FILM:
        said = f"it rises and falls as behind a film, by {film.part:.0%} of the noise"
    elif misfit > allowed:
        said = f"it departs from the curve of a detector, with {misfit / MISFIT:.1f} times the scatter of noise"
    elif power > STEEP + 2 * errors[1] or power < SLOW - 2 * errors[1] or scale < EARLY - 2 * errors[0]:
        said = f"it falls to half way at {scale:.2f} Nyquist with the power {power:.1f}, as that of no detector does"
    if said is not None:
        raise InputError(f"this is not vacuum: the spectrum of the one frame has structure, {said}. Expected noise "
                         f"that falls off smoothly. {GIVE}")
    return film.covariance, [ONE_FRAME]


def judge_doses(fit: PowerFit, rings: Sequence[Rings], means: Sequence[float], offset: float | None,
                read: ReadNoise | None) -> None:
    """Refuse two exposures whose noise does not grow with the dose: that of a film grows with its square.

    Quantum noise grows alike at all frequencies, and as the mean does where the offset is known.
    """
    quantum, errors, at = [], [], []
    for low, high in DOSE_BANDS:
        band = [r.up_to(low, high) for r in rings]
        if min(len(r.k) for r in band) == 0:
            continue
        rest = [r.power - fit.read * (1.0 if read is None else read.at(r.k)) for r in band]
        part = [float(np.average(v, weights=r.modes)) for v, r in zip(rest, band, strict=True)]
        if min(part) <= 0:
            continue
        spread = [np.hypot(np.average(r.power, weights=r.modes) / np.sqrt(r.modes.sum()), fit.read_error) / p
                  for r, p in zip(band, part, strict=True)]
        quantum.append(part[1] / part[0])
        errors.append(float(np.hypot(*spread)))
        at.append(f"{low:g} to {high:g} Nyquist")
    if len(quantum) < 2:
        return
    growth, sigma = np.array(quantum), np.array(errors)
    known = offset is not None and min(means) > offset
    expected = (means[1] - offset) / (means[0] - offset) if known else np.average(growth, weights=sigma**-2)
    departs = np.abs(growth / expected - 1) - np.maximum(5 * sigma, DOSES)
    if departs.max() > 0:
        worst = int(np.argmax(departs))
        raise InputError(f"the noise does not grow with the dose: from {at[worst]} its power in the second exposure is "
                         f"{growth[worst]:.3g} times that in the first, and {expected:.3g} was expected "
                         f"{'of the mean counts' if known else 'of other frequencies'}. There is a specimen, or the "
                         "offset is not that of these frames: give frames of vacuum and dark frames of the same camera")
