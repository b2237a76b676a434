"""`fit_mtf`: the MTF of the detector that was really used, from its noise in vacuum."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.errors import InputError
from ..core.provenance import record as provenance
from ..kernels.camera import CORNER, mtf_curve
from ..kernels.mtf_fit import LEVELS, PARAMETERS, PowerFit, ReadNoise, fit_power
from ..kernels.noise_power import Rings, mask_spots, noise_power, ring_average, usable_modes
from .mtf import MTF
from .serial import NoiseSpectrum
from .vacuum import Noise, check_box, find_box, measure, opened

__all__ = ["fit_mtf"]

#: lowest frequency of a fit [Nyquist]: below it illumination and its drift; a single frame keeps more of these
LOW, LOW_SINGLE = 0.02, 0.05
#: below this frequency the fit goes without the data where these do not follow the rest
DRIFT = 0.12
#: excess there that is a specimen in a single frame, whose slow change in space is removed
SPECIMEN = 2.5
#: part of the modes that may stand out of the noise
SPOTS = 0.3
#: departure of the noise power from the fit, over several rings, that no detector explains; and
#: the one that is worth a word
NO_FIT, POOR_FIT = 0.25, 0.05
RINGS = 7
#: power of what stands still over that of the noise, in the middle band, that is worth a word
STILL = 1.0
#: modes of a spectrum that chance may lift out of their rings, with their neighbours
FEW = 60
#: power near Nyquist over that at low frequencies from which noise is white
WHITE = 0.93
#: error of the MTF from which it says so
UNSURE = 0.1
UPPER_ESTIMATE = ("from noise: where the detector is a scintillator this is an upper estimate of its MTF, since "
                  "electrons that scatter differently blur the image more than the noise (Niermann 2012)")


@dataclass(frozen=True)
class Spectra:
    """Ring averages of a recording, and the modes they are of."""

    noise: Noise
    use: np.ndarray
    rings: Rings


def fit_mtf(vacuum: Any, *, dark: Any = None, second: Any = None, box: Sequence[int] | None = None,
            offset: float | None = None) -> MTF:
    """Fit the MTF of a detector to its noise in frames of vacuum.

    In vacuum all that varies is noise. Its quantum part has the spectrum ``A MTF^2``, since the
    detector spreads every electron's signal; the noise of the read-out adds a part R that it has
    not blurred. What stands still or changes slowly from frame to frame is removed, fringes and
    spots are left out of the spectrum, and ``A MTF(k)^2 + R`` is fitted to its ring averages.

    Computes: reads up to 8 frames to find the vacuum (not with ``box``), then every frame once, a
    few at a time.

    Parameters
    ----------
    vacuum : DataArray (frame, y, x), array, path, or whatever `open_movie` takes
        Frames of vacuum, or ordinary frames with some: the smoothest part is found. 16 frames of
        512 x 512 pixels at 20 electrons a pixel give the MTF to better than 0.01. A single frame works
        with larger errors.
    dark : the same, optional
        Frames without beam: they hold R to its value (else it trades against the floor of the
        MTF), and give the offset.
    second : the same, optional
        Vacuum at another dose; it tells R from the floor too, and counts per electron without dark frames.
    box : (y0, y1, x0, x1), optional
        Where the vacuum is [pixel], the ends not included.
    offset : float, optional
        Counts without electrons where no dark frames are given; 0 where they were subtracted.

    Returns
    -------
    MTF
        With covariance, data, and notes. ``counts_per_electron`` is A over the mean above the
        offset, so nan without ``dark``, ``offset`` or ``second``.

    Raises
    ------
    InputError
        If there is structure in all of the frames, or more of it than noise allows; if frames are
        blank, saturated, too small, in colour; if shapes differ.

    Warns
    -----
    UserWarning
        If only a part of the frames is vacuum, if there is one frame only, if the noise is white,
        if frames were left out.

    Notes
    -----
    Three parameters where these describe the data, up to six where not (`kernels.mtf_fit`).
    A counting detector has white noise, which says nothing of its MTF.

    Examples
    --------
    >>> from hrtem_dask.detector import MTF, record
    >>> truth = MTF(scale=0.6, power=2.5, floor=0.02)
    >>> mtf = fit_mtf(record(np.full((8, 256, 256), 50.0), truth, gain=3.0, seed=1), offset=0)
    >>> bool(abs(mtf(0.5) - truth(0.5)) < 0.02), round(mtf.counts_per_electron, 1)
    (True, 3.0)
    """
    movie = opened(vacuum, "vacuum")
    others = {name: opened(source, name) for name, source in (("dark", dark), ("second", second)) if source is not None}
    for name, other in others.items():
        if other.shape[1:] != movie.shape[1:]:
            raise InputError(f"the {name} frames are {other.shape[1]} x {other.shape[2]} pixels and those of vacuum "
                             f"{movie.shape[1]} x {movie.shape[2]}; expected the same camera, binning and crop")
    notes = [UPPER_ESTIMATE]
    box, remark = (check_box(box, movie.shape[1:]), None) if box is not None else find_box(movie.data)
    if remark is not None:
        _say(notes, remark)
    crop = (slice(None), slice(box[0], box[1]), slice(box[2], box[3]))
    darkness, offset = _darkness(others["dark"].data[crop] if "dark" in others else None, offset)
    sources = [movie, *([others["second"]] if "second" in others else [])]
    exposures = []
    for source in sources:
        exposures.append(_spectra(measure(source.data[crop], "vacuum", offset=offset), notes))  # noqa: PERF401
    read = _read_noise(darkness, exposures[0], LOW)
    white = _is_white(exposures[0].rings, read)
    if white:
        _say(notes, "the noise is white: a counting detector, whose MTF vacuum cannot show, or noise of the read-out "
                    "alone")
        read = ReadNoise(0.0, 0.0) if read is None and second is None else read
    low = _lowest(exposures, read, notes)
    fit, high = _fit(exposures, read, low)
    _judge(fit, exposures, low, high, notes, white)
    counts, error = _counts_per_electron(fit, exposures, offset, notes)
    if darkness is None and second is None:
        notes.append("without dark frames or a second exposure the noise of the read-out is known by the shape of the "
                     "spectrum alone, and trades against the floor of the MTF")
    said = provenance(movie.attrs, "fit_mtf", box=box, frames=exposures[0].noise.frames, dark=dark is not None,
                      second=second is not None, offset=offset, fitted=(low, high), misfit=round(fit.misfit, 3))
    mtf = MTF(**dict(zip(PARAMETERS, map(float, fit.curve), strict=True)),
              covariance=fit.covariance, counts_per_electron=counts, counts_per_electron_error=error,
              read_noise=float(np.sqrt(fit.read)), spectrum=_data(fit, exposures[0], darkness, (low, high)),
              history=said["provenance"])
    if (unsure := float(mtf.error([0.5, 1.0]).max())) > UNSURE:
        _say(notes, f"the MTF is known to ± {unsure:.2g} only; give more frames, dark frames or a second exposure")
    return replace(mtf, notes=tuple(notes))


def _say(notes: list[str], text: str, *, level: int = 3) -> None:
    """Keep a remark with the result and warn of it."""
    notes.append(text)
    warnings.warn(text, stacklevel=level)


def _darkness(data: Any, offset: float | None) -> tuple[Noise | None, float | None]:
    """Measure dark frames; return their noise, where they have any, and the offset."""
    if data is None:
        return None, None if offset is None else float(offset)
    first = np.asarray(data[0].compute())
    if first.size and np.isfinite(first).all() and first.min() == first.max():  # a constant was subtracted as dark
        return None, float(first.flat[0])
    noise = measure(data, "dark")
    return noise, noise.mean if offset is None else float(offset)


def _spectra(noise: Noise, notes: list[str]) -> Spectra:
    if noise.frames == 1:
        _say(notes, "one frame only: errors are larger, and what stands still (the gain pattern) counts as noise; "
                    "16 frames give the MTF to better than 0.01", level=4)
    notes.extend(noise.remarks)
    use = mask_spots(noise.power, noise.shape, frames=noise.spectra, shared=noise.shared)
    usable = usable_modes(noise.shape)
    masked = 1 - use.sum() / usable.sum()
    if masked > SPOTS:
        raise InputError(f"this is not vacuum: structure stands out of the noise in {masked:.0%} of the spectrum. "
                         "Expected noise, and a few spots or fringes at most; give frames of vacuum, or its place as "
                         "box=(y0, y1, x0, x1)")
    if masked > 0.002:
        notes.append(f"{masked:.1%} of the spectrum stands out of its rings (fringes, spots, streaks) and was left out")
    if noise.frames > 1:
        _still(noise, use, notes)
    return Spectra(noise, use, ring_average(noise.power, noise.shape, use, frames=noise.spectra / noise.shared))


def _still(noise: Noise, use: np.ndarray, notes: list[str]) -> None:
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
        _say(notes, f"structure that stands still, {' and '.join(found)}: a gain pattern, or no vacuum. It was "
                    "removed; what of it moves was not", level=5)


def _read_noise(dark: Noise | None, vacuum: Spectra, low: float) -> ReadNoise | None:
    """Power of the read-out noise from dark frames, and its shape where it is not white."""
    if dark is None:
        return None
    use = mask_spots(dark.power, dark.shape, frames=dark.spectra, shared=dark.shared) & vacuum.use
    all_rings = ring_average(dark.power, dark.shape, use, frames=dark.spectra / dark.shared)
    rings = all_rings.up_to(low, CORNER)
    power = float(np.average(rings.power, weights=rings.modes))
    error = power / np.sqrt(rings.modes.sum())
    smooth, sigma = _smooth(rings.power / power, rings.modes)
    departs = (np.abs(smooth - 1) > np.maximum(5 * sigma, 0.03)).any()
    return ReadNoise(power, error, (rings.k, smooth) if departs else None)


def _smooth(ratio: np.ndarray, modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of every ring and its neighbours, and its relative deviation."""
    kernel = np.ones(min(RINGS, ratio.size))
    weight = np.convolve(modes, kernel, "same")
    return np.convolve(ratio * modes, kernel, "same") / weight, 1 / np.sqrt(weight)


def _is_white(rings: Rings, dark: ReadNoise | None) -> bool:
    """Whether the noise near Nyquist is as strong as that at low frequencies."""
    bands = [rings.up_to(0.06, 0.35), rings.up_to(0.85, 1.1)]
    low, high = (float(np.average(b.power, weights=b.modes)) - (0 if dark is None else dark.power) for b in bands)
    return high > WHITE * low


def _levels(exposures: list[Spectra]) -> tuple[int, ...]:
    # one frame cannot tell a detector of many parameters from a specimen
    return LEVELS[:2] if any(e.noise.frames == 1 for e in exposures) else LEVELS


def _lowest(exposures: list[Spectra], dark: ReadNoise | None, notes: list[str]) -> float:
    """Lowest frequency of the fit: above what drifting illumination adds to the noise, if it does."""
    low = LOW_SINGLE if any(e.noise.frames == 1 for e in exposures) else LOW
    fit = fit_power([e.rings.up_to(DRIFT, 1.0) for e in exposures], dark, levels=_levels(exposures))
    for exposure, a, error in zip(exposures, fit.amplitudes, fit.amplitude_errors, strict=True):
        rings = exposure.rings.up_to(low, DRIFT)
        if rings.k.size == 0:
            continue
        model = a * mtf_curve(rings.k, *fit.curve) ** 2 + fit.read * (1.0 if dark is None else dark.at(rings.k))
        weight = rings.modes / model
        ratio = float(np.sum(rings.power * weight) / np.sum(model * weight))
        sigma = float(np.hypot(error / a, 1 / np.sqrt(rings.modes.sum())))
        if ratio > 1 + max(5 * sigma, 0.3):
            if exposure.noise.frames == 1 and ratio > SPECIMEN:
                raise InputError(f"this is not vacuum: below {DRIFT} Nyquist the one frame has {ratio:.2g} times the "
                                 "power of noise. Expected noise; give frames of vacuum, or its place as "
                                 "box=(y0, y1, x0, x1)")
            _say(notes, f"below {DRIFT} Nyquist the power is {ratio:.2g} times that of the fit, and was left out: "
                        "illumination that changes, structure, or light scattered far in the detector, which the MTF "
                        "then lacks", level=4)
            return DRIFT
    return low


def _fit(exposures: list[Spectra], dark: ReadNoise | None, low: float) -> tuple[PowerFit, float]:
    """Fit up to Nyquist, and up to the corners of the plane where these follow the same curve.

    The pixels of real detectors are squares, whose own MTF is not radial in the corners.
    """
    inner = [e.rings.up_to(low, 1.0) for e in exposures]
    levels = _levels(exposures)
    fit = fit_power(inner, dark, levels=levels)
    whole = [e.rings.up_to(low, CORNER) for e in exposures]
    wide = fit_power(whole, dark, levels=[n for n in levels if n <= fit.free])
    chi = [float(np.sum(i.modes * (i.power / m[: i.k.size] - 1) ** 2)) for models in (fit.models, wide.models)
           for i, m in zip(inner, models, strict=True)]
    inside, outside = sum(chi[: len(inner)]), sum(chi[len(inner) :])
    outer = sum(float(np.sum(w.modes * (w.power / m - 1) ** 2)) for w, m in zip(whole, wide.models, strict=True))
    n = max(sum(w.k.size - i.k.size for w, i in zip(whole, inner, strict=True)), 1)
    agree = outside - inside < 12 and (outer - outside) / n < 1 + 4 * np.sqrt(2 / n)
    return (wide, CORNER) if agree else (fit, 1.0)


def _judge(fit: PowerFit, exposures: list[Spectra], low: float, high: float, notes: list[str],
           white: bool) -> None:
    """Refuse what is not noise; say where the curve is poor."""
    for exposure, model in zip(exposures, fit.models, strict=True):
        rings = exposure.rings.up_to(low, high)
        smooth, sigma = _smooth(rings.power / model, rings.modes)
        smooth, sigma, k = smooth[3:-3], sigma[3:-3], rings.k[3:-3]
        departs = np.where(np.abs(smooth - 1) > 6 * sigma, np.abs(smooth - 1), 0.0)
        worst = int(np.argmax(departs))
        if departs[worst] > NO_FIT:
            raise InputError(f"this is not vacuum: the spectrum has structure, {smooth[worst]:.2g} times the noise of "
                             f"a detector at {k[worst]:.2f} Nyquist (or the frames were filtered). Expected noise "
                             "that falls off smoothly; give raw frames of vacuum, or its place as box=(y0, y1, x0, x1)")
        if departs[worst] > POOR_FIT:
            _say(notes, f"the curve departs from the noise power by {departs[worst]:.0%} at {k[worst]:.2f} Nyquist, "
                        "more than chance: structure, or a detector of another form", level=4)
    if fit.at_bound and not white:
        _say(notes, f"the curve falls as that of no detector does (half way at {fit.curve[0]:.2f} Nyquist with the "
                    f"power {fit.curve[1]:.1f}): this looks like structure, not vacuum", level=4)


def _counts_per_electron(fit: PowerFit, exposures: list[Spectra], offset: float | None,
                         notes: list[str]) -> tuple[float, float]:
    means = [e.noise.mean for e in exposures]
    a, da = fit.amplitudes, fit.amplitude_errors
    if len(means) > 1 and abs(means[1] - means[0]) > 0.1 * max(abs(m) for m in means):
        rise = means[1] - means[0]
        return float((a[1] - a[0]) / rise), float(np.hypot(*da) / abs(rise))
    if offset is None:
        notes.append("counts per electron need dark frames, the offset, or a second exposure")
        return np.nan, np.nan
    if means[0] <= offset:
        _say(notes, f"the mean of {means[0]:g} counts is not above that of the dark frames, {offset:g}: counts per "
                    "electron are unknown. Were dark frames subtracted already? Then give offset=0", level=4)
        return np.nan, np.nan
    return float(a[0] / (means[0] - offset)), float(da[0] / (means[0] - offset))


def _data(fit: PowerFit, exposure: Spectra, dark: Noise | None, fitted: tuple[float, float]) -> NoiseSpectrum:
    """Return the first exposure's data for a picture."""
    rings = exposure.rings
    shape = _read_noise(dark, exposure, fitted[0])
    read = fit.read * (1.0 if shape is None else shape.at(rings.k))
    model = fit.amplitudes[0] * mtf_curve(rings.k, *fit.curve) ** 2 + read
    return NoiseSpectrum(tuple(rings.k.tolist()), tuple(rings.power.tolist()),
                         tuple((rings.power / np.sqrt(rings.modes)).tolist()), tuple(model.tolist()),
                         float(fit.amplitudes[0]), float(fit.read), fitted)
