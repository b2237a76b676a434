"""`fit_mtf`: the MTF of the detector that was really used, from its noise in vacuum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.errors import InputError
from ..core.provenance import record as provenance
from ..kernels.camera import CORNER, mtf_curve
from ..kernels.mtf_fit import LEVELS, PARAMETERS, PowerFit, ReadNoise, fit_power
from ..kernels.noise_power import Rings, mask_spots, ring_average, smooth_rings, usable_modes
from .judging import beam_is_on, hidden_film, judge, judge_doses, moving, say, standing_still
from .mtf import MTF
from .serial import NoiseSpectrum
from .vacuum import Noise, check_box, find_box, measure, opened

__all__ = ["fit_mtf"]

#: lowest frequency of a fit [Nyquist]: below it illumination and its drift; a single frame keeps more of these
LOW, LOW_SINGLE = 0.02, 0.05
#: that of a single frame in periods a side at least: its window mixes them with what was removed
PERIODS = 5
#: below this frequency the fit goes without the data where these do not follow the rest
DRIFT = 0.12
#: excess there that is a specimen in a single frame, whose slow change in space is removed
SPECIMEN = 2.5
#: part of the modes that may stand out of the noise
SPOTS = 0.3
#: power near Nyquist over that at low frequencies from which noise is white
WHITE = 0.93
#: part by which the means of two exposures must differ
SAME_DOSE = 0.1
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
        512 x 512 pixels at 20 electrons a pixel give the MTF to better than 0.01. Fewer than 8 frames
        work with larger errors, as these must hold a weak film that moves.
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
        blank, saturated, too small, in colour, or taken with the beam off; if shapes differ.

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
        say(notes, remark)
    crop = (slice(None), slice(box[0], box[1]), slice(box[2], box[3]))
    darkness, offset = _darkness(others["dark"].data[crop] if "dark" in others else None, offset)
    exposures = [_spectra(measure(movie.data[crop], "vacuum", offset=offset), notes, offset)]
    if "second" in others:
        more = measure(others["second"].data[crop], "vacuum", offset=offset)
        exposures += _second(more, exposures[0], notes, offset)
    two = len(exposures) > 1
    read = _read_noise(darkness, exposures[0], LOW)
    white = _is_white(exposures[0].rings, read)
    beam_is_on(exposures[0].rings, exposures[0].noise, offset, read, white=white)
    if white:
        say(notes, "the noise is white: a counting detector, whose MTF vacuum cannot show, or noise of the read-out "
                   "alone")
        read = ReadNoise(0.0, 0.0) if read is None and not two else read
    low = _lowest(exposures, read, notes)
    fit, high = _fit(exposures, read, low)
    rings = [e.rings.up_to(low, high) for e in exposures]
    judge(fit, rings, notes, white=white, found=remark)
    hidden, remarks = (0.0, []) if white else hidden_film(fit, rings[0], read, exposures[0].noise)
    if two:
        judge_doses(fit, rings, [e.noise.mean for e in exposures], offset, read)
        hidden, remarks = 0.0, []  # what is left of a film would have shown
    notes += remarks
    counts, error = _counts_per_electron(fit, exposures, offset, notes)
    if darkness is None and not two:
        notes.append("without dark frames or a second exposure the noise of the read-out is known by the shape of the "
                     "spectrum alone, and trades against the floor of the MTF")
    said = provenance(movie.attrs, "fit_mtf", box=box, frames=exposures[0].noise.frames, dark=dark is not None,
                      second=two, offset=offset, fitted=(low, high), misfit=round(fit.misfit, 3))
    mtf = MTF(**dict(zip(PARAMETERS, map(float, fit.curve), strict=True)),
              covariance=fit.covariance + hidden, counts_per_electron=counts, counts_per_electron_error=error,
              read_noise=float(np.sqrt(fit.read)), spectrum=_data(fit, exposures[0], darkness, (low, high)),
              history=said["provenance"])
    if (unsure := float(mtf.error([0.5, 1.0]).max())) > UNSURE:
        say(notes, f"the MTF is known to ± {unsure:.2g} only; give more frames, dark frames or a second exposure")
    return replace(mtf, notes=tuple(notes))


def _darkness(data: Any, offset: float | None) -> tuple[Noise | None, float | None]:
    """Measure dark frames; return their noise, where they have any, and the offset."""
    if data is None:
        return None, None if offset is None else float(offset)
    first = np.asarray(data[0].compute())
    if first.size and np.isfinite(first).all() and first.min() == first.max():  # a constant was subtracted as dark
        return None, float(first.flat[0])
    noise = measure(data, "dark")
    return noise, noise.mean if offset is None else float(offset)


def _spectra(noise: Noise, notes: list[str], offset: float | None) -> Spectra:
    if noise.frames == 1:
        say(notes, "one frame only: errors are larger, and what stands still (the gain pattern) counts as noise; "
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
        standing_still(noise, use, notes)
        moving(noise, use, offset)
    return Spectra(noise, use, ring_average(noise.power, noise.shape, use, frames=noise.spectra / noise.shared))


def _second(noise: Noise, first: Spectra, notes: list[str], offset: float | None) -> list[Spectra]:
    """Return the second exposure, or nothing where its dose is that of the first."""
    means = first.noise.mean, noise.mean
    if abs(means[1] - means[0]) > SAME_DOSE * max(map(abs, means)):
        return [_spectra(noise, notes, offset)]
    say(notes, f"the second exposure was not used: its mean is {means[1]:.5g} counts and that of the first "
               f"{means[0]:.5g}, within {SAME_DOSE:.0%}, so that it says nothing of the read-out noise or of counts "
               "per electron; give one at half or double the dose", level=4)
    return []


def _read_noise(dark: Noise | None, vacuum: Spectra, low: float) -> ReadNoise | None:
    """Power of the read-out noise from dark frames, and its shape where it is not white."""
    if dark is None:
        return None
    use = mask_spots(dark.power, dark.shape, frames=dark.spectra, shared=dark.shared) & vacuum.use
    all_rings = ring_average(dark.power, dark.shape, use, frames=dark.spectra / dark.shared)
    rings = all_rings.up_to(low, CORNER)
    power = float(np.average(rings.power, weights=rings.modes))
    error = power / np.sqrt(rings.modes.sum())
    smooth, sigma = smooth_rings(rings.power / power, rings.modes)
    departs = (np.abs(smooth - 1) > np.maximum(5 * sigma, 0.03)).any()
    return ReadNoise(power, error, (rings.k, smooth) if departs else None)


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
    low = max(max(LOW_SINGLE, 2 * PERIODS / min(e.noise.shape)) if e.noise.frames == 1 else LOW for e in exposures)
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
            say(notes, f"below {DRIFT} Nyquist the power is {ratio:.2g} times that of the fit, and was left out: "
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


def _counts_per_electron(fit: PowerFit, exposures: list[Spectra], offset: float | None,
                         notes: list[str]) -> tuple[float, float]:
    means = [e.noise.mean for e in exposures]
    a, da = fit.amplitudes, fit.amplitude_errors
    if len(means) > 1:
        rise = means[1] - means[0]
        return float((a[1] - a[0]) / rise), float(np.hypot(*da) / abs(rise))
    if offset is None:
        notes.append("counts per electron need dark frames, the offset, or a second exposure")
        return np.nan, np.nan
    if means[0] <= offset:
        say(notes, f"the mean of {means[0]:g} counts is not above that of the dark frames, {offset:g}: counts per "
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
