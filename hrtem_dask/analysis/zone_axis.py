"""The zone axis of a particle from its spot pairs: whether it is on one, and on which."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..core.checks import check_number
from ..core.errors import InputError
from ..kernels import zone
from ..kernels.zone_identify import NEEDED, ZoneAxis, identify

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["ZoneAxis", "identify_zone_axis", "zone_axis_score"]


def zone_axis_score(pairs: pd.DataFrame, *, diameter: float, crystal: str | Path | Atoms | None = None) -> float:
    """Probability that a particle is within 2 degree of a zone axis.

    A logistic regression on what the pairs say: how even the first shell is, how much of it is detected and how
    surely, how far the detected pairs reach in all directions, and the size of the particle; with a
    crystal also how well the nets of its zone axes fit, and how even equivalent spots are. The coefficients stand in
    a file beside the kernel; ``docs/zone_axis.md`` says what they were fitted on and how well they hold.

    Zone axes are the four of an fcc metal along which its columns are resolved: [110], [100], [111], [112].
    As any probability it holds for particles as they were simulated: gold of 20 to 56 angstrom, three quarters of
    them tilted by 0 to 12 degree from such an axis, one quarter in any orientation.

    Parameters
    ----------
    pairs : pandas.DataFrame
        From `fourier_peak_pairs`, found with the same ``crystal``.
    diameter : float
        Of the disc that has the area of the particle's mask [angstrom].
    crystal : str, path or ase.Atoms, optional
        The crystal, where it is known.

    Returns
    -------
    float
        Between 0 and 1; 0 where fewer than two non-collinear pairs are detected.

    Raises
    ------
    InputError
        If the table lacks a column, the diameter is not positive, or the crystal is unknown.

    Examples
    --------
    >>> even = pd.DataFrame({"g_y": [0.0, 0.49, 0.35], "g_x": [0.49, 0.0, 0.35], "d_spacing": [2.04, 2.04, 2.0],
    ...                      "intensity": [6.0, 5.0, 0.0], "significance": [900.0, 800.0, 1.0],
    ...                      "detected": [True, True, False]})[:2]
    >>> tilted = even.assign(intensity=[6.0, 0.05], significance=[900.0, 20.0])
    >>> zone_axis_score(even, diameter=40) > zone_axis_score(tilted, diameter=40)
    True
    >>> zone_axis_score(even[:1], diameter=40)
    0.0
    """
    lacking = [c for c in (*NEEDED, "intensity") if c not in getattr(pairs, "columns", ())]
    if lacking:
        raise InputError(f"the table of pairs lacks {lacking}; expected the table that fourier_peak_pairs returns")
    check_number("the particle's diameter", diameter, "angstrom", above=0)
    return zone.zone_axis_score(pairs, diameter=float(diameter), crystal=crystal)


def identify_zone_axis(pairs: pd.DataFrame, crystal: str | Path | Atoms) -> ZoneAxis:
    """Find the zone axis of a crystal whose net of spots the detected pairs lie on.

    Every axis up to index 4 (3 where the crystal is not cubic) with two non-collinear reflections of
    at least 1 angstrom is turned over the pairs, from both sides. Its cost sums the squared deviations, in units of
    the error of a place, and counts pairs off the net and spots of the net that were not found.
    A tilted particle shows a part of a net, and two pairs may lie on several: ``others`` names them.

    Parameters
    ----------
    pairs : pandas.DataFrame
        From `fourier_peak_pairs`; only detected pairs are used.
    crystal : str, path or ase.Atoms
        A name ("Au", "CeO2"), a structure file, or an ASE structure; indices are those of its cell.

    Returns
    -------
    ZoneAxis
        ``axis`` is "" where fewer than two non-collinear pairs are detected or no axis has most of them on its net.

    Raises
    ------
    InputError
        If the table lacks a column, or the crystal is unknown or only a list of spacings.

    Examples
    --------
    >>> pairs = pd.DataFrame({"g_y": [0.4247, -0.1416, 0.2832], "g_x": [0.0, 0.4004, 0.4004],
    ...                       "d_spacing": [2.355, 2.355, 2.039], "significance": [300.0, 200.0, 90.0],
    ...                       "detected": True})
    >>> found = identify_zone_axis(pairs, "Au")
    >>> found.axis, found.others, found.indexed, round(found.angle_error, 1)
    ('[110]', (), 3, 0.0)
    """
    if not zone.has_structure(crystal):
        raise InputError(f"crystal is {crystal!r}; expected a name such as 'Au', a structure file or an ASE structure: "
                         f"spacings alone have no zone axes")
    return identify(pairs, crystal)
