"""A pixel size from the lattice itself, for movies whose files do not say one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import xarray as xr

from ..core.errors import InputError
from ..kernels.rings import find_spots, log_likelihood, refine

__all__ = ["CRYSTALS", "PixelSizeGuess", "guess_pixel_size", "rings_of"]

#: crystal -> structure and cubic lattice constant [angstrom] at room temperature; others come from ASE
CRYSTALS = {
    "Au": ("fcc", 4.0782), "Ag": ("fcc", 4.0853), "Pt": ("fcc", 3.9242), "Pd": ("fcc", 3.8907), "Cu": ("fcc", 3.6149),
    "Ni": ("fcc", 3.5240), "Al": ("fcc", 4.0495), "Fe": ("bcc", 2.8665), "Si": ("diamond", 5.4310),
    "Ge": ("diamond", 5.6579), "CeO2": ("fluorite", 5.4110), "MgO": ("rocksalt", 4.2112),
}  # fmt: skip
#: structure -> reflections, and the share of the spots of randomly oriented particles expected on each
REFLECTIONS = {
    "fcc": {"111": 0.50, "200": 0.22, "220": 0.12, "311": 0.10, "222": 0.03, "400": 0.01, "331": 0.01, "420": 0.01},
    "bcc": {"110": 0.55, "200": 0.18, "211": 0.17, "220": 0.06, "310": 0.04},
    "diamond": {"111": 0.50, "220": 0.24, "311": 0.16, "400": 0.05, "331": 0.05},
    "fluorite": {"111": 0.48, "200": 0.14, "220": 0.20, "311": 0.14, "222": 0.02, "400": 0.02},
    "rocksalt": {"200": 0.50, "220": 0.30, "111": 0.08, "222": 0.08, "400": 0.04},
}  # fmt: skip
#: range of pixel sizes that is searched [angstrom]
SEARCHED = (0.05, 2.0)
#: the best pixel size must be this much more likely than any other that differs from it
ODDS = 100.0
#: two pixel sizes closer than this (relative) are the same answer
SAME = 0.03
LEAST_SPOTS = 3


@dataclass(frozen=True)
class PixelSizeGuess:
    """A pixel size that was inferred from lattice spots, and what speaks for it.

    Attributes
    ----------
    pixel_size, error : float [angstrom]
        The value and its standard error from the scatter of the spots. The temperature and the strain of
        the lattice, which are not known, are not in it.
    crystal : str
        The crystal that was assumed.
    rings : dict
        Reflection -> (number of spots, their mean radius [cycles/pixel]).
    n_spots : int
        Spots found in all frames, among them those that lie on no ring.
    log_odds : float
        Natural logarithm of how much more likely it is than the runner-up.
    runner_up : float [angstrom]
        The second best pixel size.
    n_frames : int
        Frames that were looked at.
    inferred : bool
        Always True: this is no calibration.
    """

    pixel_size: float
    error: float
    crystal: str
    rings: dict[str, tuple[int, float]]
    n_spots: int
    log_odds: float
    runner_up: float
    n_frames: int
    inferred: bool = True

    def __str__(self) -> str:
        found = ", ".join(f"{n} on {hkl} at {k:.4f} cycles/px" for hkl, (n, k) in self.rings.items())
        odds = np.exp(min(self.log_odds, 99))
        return (
            f"{self.pixel_size:.4f} ± {self.error:.4f} angstrom a pixel, inferred from {self.crystal} lattice spots in "
            f"{self.n_frames} frame(s): {found}; {self.n_spots} spots in all; {odds:.3g} times as likely as the "
            f"runner-up {self.runner_up:.3f}"
        )


def rings_of(crystal: str) -> dict[str, tuple[float, float]]:
    """Return the lattice rings of a cubic crystal: reflection -> (frequency [1/angstrom], expected share of spots).

    Raises
    ------
    InputError
        If the crystal is not known.

    Examples
    --------
    >>> round(1 / rings_of("Au")["111"][0], 3)
    2.355
    """
    structure, a = CRYSTALS.get(crystal) or _from_ase(crystal)
    return {
        hkl: (float(np.sqrt(sum(int(i) ** 2 for i in hkl))) / a, share) for hkl, share in REFLECTIONS[structure].items()
    }


def _from_ase(crystal: str) -> tuple[str, float]:
    from ase.data import atomic_numbers, reference_states

    state = (reference_states[atomic_numbers[crystal]] or {}) if crystal in atomic_numbers else {}
    if state.get("symmetry") not in REFLECTIONS:
        known = ", ".join(CRYSTALS)
        raise InputError(f"crystal is {crystal!r}; expected one of {known}, or a cubic element such as 'Rh'")
    return state["symmetry"], float(state["a"])


def guess_pixel_size(movie: xr.DataArray | Any, crystal: str = "Au", *, max_frames: int = 40) -> PixelSizeGuess:
    """Propose a pixel size from the lattice spots of a crystal. Computes.

    Spots are searched in the spectra of small windows of up to ``max_frames`` frames, against a background
    that follows Thon rings and noise. Each candidate pixel size is judged by the likelihood of the radii of
    all spots: every spot lies on a ring of the crystal, more often on a strong one, or is a stray.

    Parameters
    ----------
    movie : DataArray, dims (frame, y, x), or anything that `open_movie` takes
        A calibration that it already has is not used.
    crystal : str
        ``"Au"``, ``"Pt"``, ``"Pd"``, ``"Ag"``, ``"Cu"``, ``"Si"``, ``"CeO2"``, ... or a cubic element.
    max_frames : int
        Frames to look at, spread evenly over the movie.

    Returns
    -------
    PixelSizeGuess
        Marked ``inferred``.

    Raises
    ------
    InputError
        If the crystal is not known, or if the spots do not decide: too few, or two pixel sizes explain them.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:256, :256]
    >>> waves = [np.cos(2 * np.pi * 0.25 * r * (x * np.cos(t) + y * np.sin(t)))
    ...          for r, t in ((1, 0.3), (1, 1.4), (1.1547, 2.2), (1.1547, 0.8))]
    >>> guess = guess_pixel_size(sum(waves) + np.random.default_rng(0).normal(size=(256, 256)), "Au")
    >>> abs(guess.pixel_size - 0.25 * 4.0782 / 3**0.5) < 0.01, guess.inferred
    (True, True)
    """
    table = rings_of(crystal)
    if not isinstance(movie, xr.DataArray) or movie.dims[0] != "frame":
        from ..io.movie import open_movie

        movie = open_movie(movie)
    if "defocus" in movie.dims:
        movie = movie.isel(defocus=0)
    n = movie.sizes["frame"]
    chosen = np.unique(np.linspace(0, n - 1, min(n, max(1, max_frames))).round().astype(int))
    found = dask.compute(*(dask.delayed(find_spots)(movie.isel(frame=int(i)).data) for i in chosen))
    radii = np.concatenate([spots[:, 0] for spots in found])
    return _decide(radii, crystal, table, len(chosen), str(movie.attrs.get("source", "the movie")))


def _decide(radii: np.ndarray, crystal: str, table: dict, n_frames: int, source: str) -> PixelSizeGuess:
    ask = "Give the pixel size: --pixel-size 0.59, or open_movie(..., pixel_size=0.59)"
    looked = f"{source}: {radii.size} lattice spot(s) in {n_frames} frame(s)"
    if radii.size < LEAST_SPOTS:
        raise InputError(f"{looked}; expected at least {LEAST_SPOTS} to infer a pixel size. Use more frames. {ask}")
    q, share = (np.array(v) for v in zip(*table.values(), strict=True))
    candidates = np.geomspace(*SEARCHED, 3000)
    score = log_likelihood(radii, candidates, q, share)
    best = int(score.argmax())
    pixel_size, error, ring = refine(radii, float(candidates[best]), q)
    elsewhere = np.abs(np.log(candidates / pixel_size)) > SAME
    second = int(np.where(elsewhere, score, -np.inf).argmax())
    log_odds = float(score[best] - score[second])
    matched = int((ring >= 0).sum())
    if log_odds < np.log(ODDS) or matched < max(LEAST_SPOTS, radii.size / 2):
        raise InputError(
            f"{looked}, {matched} of them on rings of {crystal} at {pixel_size:.3f} angstrom a pixel, which is "
            f"{np.exp(min(log_odds, 99)):.3g} times as likely as {candidates[second]:.3f}; expected {ODDS:g} times, "
            f"and half of the spots. The rings do not decide: use more frames, or the right crystal. {ask}"
        )
    on = {hkl: radii[ring == j] for j, hkl in enumerate(table)}
    rings = {hkl: (len(k), float(k.mean())) for hkl, k in on.items() if len(k)}
    other = float(candidates[second])
    return PixelSizeGuess(pixel_size, error, crystal, rings, radii.size, log_odds, other, n_frames)
