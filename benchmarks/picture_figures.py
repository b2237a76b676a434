"""Numbers that say how a micrograph of particles on a film looks, and how two groups of micrographs differ.

None depends on gain and offset of the camera. Where a picture shows too little film or too little of
particles, the figures that need them are left out, and those of the film are taken from what fills it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import ndimage, stats

__all__ = ["Picture", "compare", "corners", "film_of", "numbers", "region_of", "spectrum"]

#: edges of the bands in which the roughness is measured [1/angstrom]; the last one ends at Nyquist
BANDS = (0.01, 0.04, 0.08, 0.16, 0.3, 0.5, 0.8)
#: pixels this near a particle belong to neither side [angstrom]
MARGIN = 6.0
#: film that a frame must show for its statistics, and particles [part of the frame]
LEAST_FILM, LEAST_PARTICLE = 0.2, 0.02
#: where a bright or dark rim is looked for, outside a particle [angstrom]
RIM = (1.0, 8.0)
PERCENT = (10, 50, 90)
#: a figure is compared where so many of the pictures of both groups have it
LEAST_PICTURES = 3


@dataclass(frozen=True)
class Picture:
    """An image (y, x) with its mask of particles and its pixel size [angstrom]."""

    image: np.ndarray
    mask: np.ndarray
    pixel_size: float
    title: str = ""


def corners(p: Picture, size: int) -> Iterator[Picture]:
    """Cut a picture into the squares of its four corners; one that is no larger stays whole."""
    ny, nx = p.image.shape
    for y in sorted({0, max(ny - size, 0)}):
        for x in sorted({0, max(nx - size, 0)}):
            part = np.s_[y:y + size, x:x + size]
            yield replace(p, image=p.image[part], mask=p.mask[part])


def film_of(p: Picture) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that are surely film, and those that are surely particle."""
    reach = MARGIN / p.pixel_size
    everything = np.ones_like(p.mask)
    return (ndimage.distance_transform_edt(~p.mask) > reach if p.mask.any() else everything,
            ndimage.distance_transform_edt(p.mask) > reach / 2 if not p.mask.all() else everything)


def region_of(p: Picture) -> np.ndarray:
    """Film, where the picture shows enough of it; else the inside of particles; else all of it."""
    film, inside = film_of(p)
    if film.mean() >= LEAST_FILM:
        return film
    return inside if inside.mean() >= LEAST_FILM else np.ones_like(film)


def power_of(p: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power of the region at each frequency (ky, kx), all else replaced by its mean [1/angstrom]."""
    region = region_of(p)
    image = p.image - ndimage.gaussian_filter(p.image.astype(float), 60 / p.pixel_size)
    weight = ndimage.gaussian_filter(region.astype(float), 1.0)
    weight *= np.hanning(len(image))[:, None] * np.hanning(image.shape[1])[None]
    power = np.abs(np.fft.fft2((image - image[region].mean()) * weight)) ** 2 / (weight**2).sum() * p.pixel_size**2
    return (power, np.fft.fftfreq(len(image), p.pixel_size)[:, None],
            np.fft.fftfreq(image.shape[1], p.pixel_size)[None])


def spectrum(p: Picture, bins: np.ndarray) -> np.ndarray:
    """Radial power of the film, particles replaced by its mean; relative variance per (1/angstrom)^2."""
    power, ky, kx = power_of(p)
    i = np.digitize(np.hypot(ky, kx).ravel(), bins)
    return np.array([power.ravel()[i == j].mean() if (i == j).any() else np.nan for j in range(1, len(bins))])


def one_sidedness(p: Picture, low: float, high: float) -> float:
    """How far the power between two frequencies keeps to one direction: 0 for a round spectrum, 1 for a line."""
    power, ky, kx = power_of(p)
    k = np.hypot(ky, kx)
    inside = (k > low) & (k < high)
    turned = (power * np.exp(2j * np.arctan2(ky, kx)))[inside]
    return float(abs(turned.sum()) / power[inside].sum())


def numbers(p: Picture) -> dict[str, float]:
    """Figures of one picture; those that it shows too little for are left out."""
    region, (film, inside) = region_of(p), film_of(p)
    image = p.image.astype(float)
    scale = image[region].std()
    smooth, rough = (ndimage.gaussian_filter(image, length / p.pixel_size) for length in (2.5, 10))
    out = {}
    if film.mean() >= LEAST_FILM and inside.mean() >= LEAST_PARTICLE:
        out = contrast(p, film, inside, smooth)
    out |= {
        "std of film smoothed by 2.5 Å / std": smooth[region].std() / scale,
        "std of film smoothed by 10 Å / std": rough[region].std() / scale,
        "skewness of film": float(stats.skew(image[region])),
        "excess kurtosis of film": float(stats.kurtosis(image[region])),
        "neighbouring pixels' correlation": float(np.mean([correlation(image, region, a) for a in (0, 1)])),
        "direction in the film, 0.05 to 0.2 1/Å": one_sidedness(p, 0.05, 0.2),
        "direction in the film, 0.2 to 0.5 1/Å": one_sidedness(p, 0.2, 0.5),
    }
    # fixed bands: pixel sizes differ by some percent
    bins = np.array([*(k for k in BANDS if k < 0.45 / p.pixel_size), 0.5 / p.pixel_size])
    power = np.nan_to_num(spectrum(p, bins)) * np.pi * np.diff(bins**2)
    names = [f"{a:.2f} to {b:.2f}" for a, b in pairwise(bins[:-1])] + [f"above {bins[-2]:.2f}"]
    return out | {f"power of film, {name} 1/Å [%]": 100 * s
                  for name, s in zip(names, power / power.sum(), strict=True)}


def contrast(p: Picture, film: np.ndarray, inside: np.ndarray, smooth: np.ndarray) -> dict[str, float]:
    """Figures that need film and particles: how dark these are, how unlike one another, and their rim."""
    image = p.image.astype(float)
    dark, scale = image[film].mean() - image[inside].mean(), image[film].std()
    label, _ = ndimage.label(p.mask)
    ids, sizes = np.unique(label[inside], return_counts=True)
    means = ndimage.mean(image, np.where(inside, label, 0), ids[sizes > 100])
    away = ndimage.distance_transform_edt(~p.mask) * p.pixel_size
    near = (away > RIM[0]) & (away < RIM[1])
    out = {
        "contrast: (film - particle) / std of film": dark / scale,
        "the same, both smoothed by 2.5 Å": (smooth[film].mean() - smooth[inside].mean()) / smooth[film].std(),
        "std in particle / std in film": image[inside].std() / scale,
        "rim / contrast": (image[near].mean() - image[film].mean()) / dark,
    }
    if len(means) > 1:
        out["std among particles / their contrast"] = means.std() / abs(image[film].mean() - means.mean())
    return {name: float(value) for name, value in out.items()}


def correlation(image: np.ndarray, region: np.ndarray, axis: int) -> float:
    """Correlation of neighbouring pixels of a region, after what changes over 10 pixels is taken off."""
    high = image - ndimage.gaussian_filter(image, 10)
    both = region & np.roll(region, 1, axis)
    return float(np.corrcoef(high[both], np.roll(high, 1, axis)[both])[0, 1])


def separation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Probability that a value of the second group exceeds one of the first: 0.5 where they are alike."""
    return float(stats.mannwhitneyu(theirs, ours).statistic / len(ours) / len(theirs))


def compare(drawn: list[Picture], real: list[Picture]) -> str:
    """Say for each figure its 10, 50 and 90 % in both groups, and how well it tells them apart, as a table."""
    ours, theirs = [numbers(p) for p in drawn], [numbers(p) for p in real]
    lines = [f"{len(ours)} simulated frames" + (f", {len(theirs)} parts of real ones" if theirs else ""), "",
             "| figure | simulated: 10 / 50 / 90 % | real: 10 / 50 / 90 % | real inside 10-90 % | AUC |",
             "| --- | --- | --- | --- | --- |"]
    for name in dict.fromkeys(name for n in (*ours, *theirs) for name in n):
        a, b = (np.array([n[name] for n in group if name in n]) for group in (ours, theirs))
        if len(a) < min(LEAST_PICTURES, len(ours)) or (theirs and len(b) < min(LEAST_PICTURES, len(theirs))):
            continue
        low, high = np.percentile(a, PERCENT)[[0, 2]]
        tail = f"{shown(b)} | {np.mean((b >= low) & (b <= high)):.0%} | {separation(a, b):.2f}" if len(b) else " | |"
        lines.append(f"| {name} | {shown(a)} | {tail} |")
    return "\n".join(lines)


def shown(values: np.ndarray) -> str:
    return " / ".join(f"{v:.3g}" for v in np.percentile(values, PERCENT))
