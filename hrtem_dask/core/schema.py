"""One schema a table: names, dtypes, units and meaning of every column that users see."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from .errors import InputError

__all__ = ["ATOMS", "COLUMNS", "DIFFUSION_FRAMES", "DIFFUSION_SITES", "DRIFT", "DWELL", "EVENTS", "FRAMES",
           "FRAME_QUALITY", "LATTICES", "OCCUPANCY", "PARTICLES", "PEAK_PAIRS", "RATE", "SITES", "TABLES", "TRACKS",
           "VERDICTS", "Column", "Table"]


@dataclass(frozen=True)
class Column:
    """One column: name, pandas dtype, unit as a word, and what it means."""

    name: str
    dtype: str
    units: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """A table that the package returns or writes."""

    name: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [c.name for c in self.columns]

    def empty(self) -> pd.DataFrame:
        """Return a table without rows and with the right dtypes (the ``meta`` of a dask table)."""
        return pd.DataFrame({c.name: pd.Series(dtype=c.dtype) for c in self.columns})

    def coerce(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Bring a table into this order and these dtypes; extra columns stay at the end.

        Raises
        ------
        InputError
            If a column is missing; the message names it.
        """
        missing = [n for n in self.names if n not in rows.columns]
        if missing:
            raise InputError(
                f"the table {self.name!r} lacks the columns {missing}; found {list(rows.columns)}, "
                f"expected {self.names}"
            )
        extra = [n for n in rows.columns if n not in self.names]
        return rows[[*self.names, *extra]].astype({c.name: c.dtype for c in self.columns})

    def describe(self) -> pd.DataFrame:
        """Return a table of the columns themselves: name, dtype, units, meaning."""
        return pd.DataFrame([(c.name, c.dtype, c.units, c.meaning) for c in self.columns],
                            columns=["column", "dtype", "units", "meaning"])


PEAK_PAIRS = Table("peak_pairs", (
    Column("g_y", "float64", "1/angstrom", "y component of the spatial frequency of the pair, in the half plane"),
    Column("g_x", "float64", "1/angstrom", "x component of the spatial frequency of the pair"),
    Column("d_spacing", "float64", "angstrom", "lattice spacing 1 / abs(g)"),
    Column("intensity", "float64", "counts^2", "integrated power above the local background"),
    Column("significance", "float64", "1", "peak power over the local mean of the noise power"),
    Column("detected", "bool", "", "whether the pair itself is significant (else measured where the net predicts it)"),
))

PARTICLES = Table("particles", (
    Column("frame", "int64", "", "index of the frame in the original movie"),
    Column("time", "float64", "second", "time of the frame; nan where unknown"),
    Column("particle", "int64", "", "label of the particle in its frame, from 1"),
    Column("y", "float64", "angstrom", "centroid"),
    Column("x", "float64", "angstrom", "centroid"),
    Column("area", "float64", "angstrom^2", "area of the mask"),
    Column("diameter", "float64", "angstrom", "diameter of the disc of the same area"),
    Column("major_axis", "float64", "angstrom", "major axis of the ellipse of the same second moments"),
    Column("minor_axis", "float64", "angstrom", "minor axis of the ellipse of the same second moments"),
    Column("orientation", "float64", "radian", "angle of the major axis from +y towards +x"),
    Column("circularity", "float64", "1", "4 pi area / perimeter^2: 1 for a disc, 0.75 to 0.9 for a square"),
    Column("probability", "float64", "1", "mean probability inside the mask"),
    Column("touches_border", "bool", "", "whether the mask meets the border of the frame"),
    Column("n_pairs", "int64", "", "number of significant peak pairs in the spectrum of the crop"),
    Column("first_shell", "int64", "", "pairs of the first shell, detected or predicted by the net of the others"),
    Column("first_shell_detected", "int64", "", "pairs of the first shell that are significant themselves"),
    Column("g_angle", "float64", "radian", "direction of the brightest pair from +y towards +x, modulo pi; else nan"),
    Column("d_spacing", "float64", "angstrom", "lattice spacing of the brightest pair; nan where there is none"),
    Column("g_angle_2", "float64", "radian", "of the brightest pair that is not collinear with that; else nan"),
    Column("d_spacing_2", "float64", "angstrom", "lattice spacing of that pair"),
    Column("peak_ratio", "float64", "1", "brightest over dimmest pair of the first shell; nan where undefined"),
    Column("zone_axis_score", "float64", "1", "probability of being within 2 degree of a zone axis"),
    Column("zone_axis", "string", "", "such as [110]; empty where no crystal was given or none of its axes fits"),
))

TRACKS = Table("tracks", (
    Column("track", "int64", "", "number of the track, from 0 in the order of first frames; the same particle"),
    Column("drift_y", "float64", "angstrom", "drift of the whole field since the first frame with particles"),
    Column("drift_x", "float64", "angstrom", "drift of the whole field"),
    Column("y_field", "float64", "angstrom", "centroid without drift: y - drift_y"),
    Column("x_field", "float64", "angstrom", "centroid without drift: x - drift_x"),
    Column("rotation", "float64", "radian", "in-plane rotation of the lattice since it was first seen on this track, "
           "from +y towards +x; nan where no known pair is seen"),
))

FRAMES = Table("frames", (
    Column("frame", "int64", "", "index of the frame in the original movie"),
    Column("time", "float64", "second", "time of the frame; nan where unknown"),
    Column("status", "string", "", "done or failed"),
    Column("n_particles", "int64", "", "number of particles"),
    Column("covered", "float64", "1", "fraction of the frame that is particle"),
    Column("certainty", "float64", "1", "mean of abs(2 p - 1) where a particle could be (p > 0.1); low looks worst"),
    Column("unknown_pixels", "int64", "", "pixels that are not finite; they are left out"),
    Column("message", "string", "", "what went wrong, where something did"),
))

FRAME_QUALITY = Table("frame_quality", (
    Column("frame", "int64", "", "index of the frame in the original movie"),
    Column("time", "float64", "second", "time of the frame; nan where unknown"),
    Column("reason", "category", "", "usable, blurred, empty, saturated or quarantined"),
    Column("mean", "float64", "counts", "mean of the known pixels"),
    Column("spread", "float64", "counts", "standard deviation of the known pixels"),
    Column("noise", "float64", "counts^2", "power of the noise near Nyquist"),
    Column("contrast", "float64", "1", "power of the image over that of the noise, in the band of the lattice"),
    Column("contrast_error", "float64", "1", "its standard error; nan where the noise is not known"),
    Column("sharpness", "float64", "1", "amplitude that fringes keep, relative to the typical frame of the movie"),
    Column("blur", "float64", "angstrom", "root mean square motion within the exposure along its worst direction, "
                                          "beyond that of the typical frame"),
    Column("blur_deviations", "float64", "1", "variance of that motion over its standard error"),
    Column("blur_angle", "float64", "radian", "direction of the motion from +y towards +x, modulo pi"),
    Column("saturated", "int64", "", "pixels cut off at the highest value"),
    Column("unknown", "int64", "", "pixels that are not finite"),
))

VERDICTS = Table("verdicts", (
    Column("frame", "int64", "", "index of the frame in the original movie"),
    Column("time", "float64", "second", "time of the frame; nan where unknown"),
    Column("keep", "bool", "", "whether the frame can be read"),
    Column("reason", "category", "", "aligned, one fringe, no lattice, blurred, empty, saturated or quarantined"),
    Column("peak_ratio", "float64", "1", "of the particle that is followed; nan where undefined"),
    Column("score", "float64", "1", "probability that this particle is on a zone axis; nan where it was not found"),
    Column("particle", "int64", "", "label of this particle in the frame; 0 where it was not found"),
    Column("y", "float64", "angstrom", "centroid of this particle; nan where it was not found"),
    Column("x", "float64", "angstrom", "centroid of this particle"),
    Column("diameter", "float64", "angstrom", "diameter of the disc of the same area"),
))

DRIFT = Table("drift", (
    Column("frame", "int64", "", "index of the frame in the original movie"),
    Column("time", "float64", "second", "time of the frame; nan where unknown"),
    Column("epoch", "int64", "", "number of the epoch, from 0; within one, reference coordinates are comparable"),
    Column("drift_y", "float64", "angstrom", "p_frame = R(rotation) (p_ref - centre) + centre + drift, 0 in the first "
                                             "registered frame; nan where the frame is not registered"),
    Column("drift_x", "float64", "angstrom", "the same along x"),
    Column("rotation", "float64", "radian", "rotation in the plane, from +y towards +x"),
    Column("drift_y_error", "float64", "angstrom", "standard error against the mean of all frames"),
    Column("drift_x_error", "float64", "angstrom", "the same along x"),
    Column("rotation_error", "float64", "radian", "standard error of the rotation"),
    Column("centre_y", "float64", "angstrom", "centre of the rotations, the same in all rows"),
    Column("centre_x", "float64", "angstrom", "the same along x"),
    Column("matched", "int64", "", "columns that carry the registration; 0 where images do"),
    Column("residual", "float64", "angstrom", "root mean square of what they are off their mean places, along one "
                                              "axis; nan where images carry the registration"),
    Column("status", "category", "", "registered, too few (columns), lost (not recognised, or out of view) or empty"),
))

COLUMNS = Table("columns", (
    Column("frame", "int64", "", "index of the frame in the original movie"),
    Column("time", "float64", "second", "time of the frame; nan where unknown"),
    Column("column", "int64", "", "number of the column in its frame, from 1"),
    Column("y", "float64", "angstrom", "centre"),
    Column("x", "float64", "angstrom", "centre"),
    Column("y_error", "float64", "angstrom", "standard error of the centre along y"),
    Column("x_error", "float64", "angstrom", "standard error of the centre along x"),
    Column("probability", "float64", "1", "that there is a column: the posterior summed over a disc of 0.5 angstrom, "
                                          "over what a sure column gives"),
    Column("class", "category", "", "class of the largest posterior in that disc"),
    Column("intensity", "float64", "1", "height over the local background, in units of the mean of the image above its "
                                        "offset; negative for a dark column; nan where no image was given"),
    Column("intensity_error", "float64", "1", "standard error of the intensity"),
    Column("width", "float64", "angstrom", "sigma of the fitted Gaussian; nan where the fit did not hold"),
    Column("fitted", "bool", "", "whether the centre is that of the fitted Gaussian; else it is the maximum of the "
                                  "probability"),
    Column("contrast", "int8", "", "of the frame: 1 columns are bright, -1 dark, 0 not significant or no image given"),
))

EVENTS = Table("events", (
    Column("frame", "int64", "", "first frame of the new state"),
    Column("time", "float64", "second", "time of that frame"),
    Column("kind", "category", "", "appear, disappear or hop"),
    Column("site", "int64", "", "site that changed; of a hop the one that was left"),
    Column("y", "float64", "angstrom", "place of that site in the drift-corrected coordinates of the first frame"),
    Column("x", "float64", "angstrom", "the same along x"),
    Column("site_to", "int64", "", "site that a hop went to; else -1"),
    Column("y_to", "float64", "angstrom", "place of that site; else nan"),
    Column("x_to", "float64", "angstrom", "the same along x"),
    Column("probability", "float64", "1", "that the state changed within three steps of that frame, by all frames"),
    Column("gap", "float64", "second", "since the site was last looked at; the time from frame to frame where no frame "
                                       "is missing"),
    Column("epoch", "int64", "", "number of the epoch"),
))

RATE = Table("rate", (
    Column("time", "float64", "second", "middle of the part of the time"),
    Column("start", "float64", "second", "its begin"),
    Column("stop", "float64", "second", "its end"),
    Column("events", "int64", "", "events of the most probable path; a hop is one"),
    Column("exposure", "float64", "second", "site-seconds in which sites that can change were looked at"),
    Column("rate_raw", "float64", "1/second", "events over exposure"),
    Column("rate", "float64", "1/second", "most likely rate a site, corrected for detection; nan where nothing "
                                          "was looked at"),
    Column("low", "float64", "1/second", "lower end of the interval at 95 %"),
    Column("high", "float64", "1/second", "upper end"),
    Column("limit", "bool", "", "whether only the upper end means something: no event is sure"),
    Column("appear", "int64", "", "events of this kind"),
    Column("disappear", "int64", "", "events of this kind"),
    Column("hop", "int64", "", "events of this kind"),
    Column("flips", "int64", "", "changes from look to look of what was seen at these sites, misreads and all"),
))

DIFFUSION_SITES = Table("diffusion_sites", (
    Column("site", "int64", "", "number of the site"),
    Column("epoch", "int64", "", "number of the epoch"),
    Column("y", "float64", "angstrom", "place in the drift-corrected coordinates of the first frame"),
    Column("x", "float64", "angstrom", "the same along x"),
    Column("edge", "bool", "", "whether it lies at the edge of the particle"),
    Column("changes", "bool", "", "whether it counts as a site that can change"),
    Column("probability", "float64", "1", "that it can change"),
    Column("occupancy", "float64", "1", "part of the time in which it is occupied"),
    Column("tpr", "float64", "1", "probability that a column there is seen in a frame"),
    Column("fpr", "float64", "1", "probability that one is seen where there is none"),
    Column("looks", "int64", "", "frames in which it was looked at"),
    Column("exposure", "float64", "second", "time in which it was looked at"),
    Column("events", "int64", "", "times it changed, on the most probable path"),
    Column("expected", "float64", "", "times it changed, as expected by all frames"),
))

OCCUPANCY = Table("occupancy", (
    Column("frame", "int64", "", "index of the frame in the original movie"),
    Column("site", "int64", "", "number of the site"),
    Column("seen", "int8", "", "1 where a column was seen there, 0 where none was"),
    Column("occupancy", "float32", "1", "probability that the site is occupied, by all frames"),
))

DIFFUSION_FRAMES = Table("diffusion_frames", (
    Column("frame", "int64", "", "index of the frame in the original movie"),
    Column("time", "float64", "second", "time of the frame"),
    Column("epoch", "int64", "", "number of the epoch"),
    Column("status", "category", "", "used, left out, no columns, not registered or unreadable"),
))

DWELL = Table("dwell", (
    Column("state", "category", "", "occupied or empty"),
    Column("time", "float64", "second", "time since the site got into that state"),
    Column("share", "float64", "1", "part of the dwells that last longer (Kaplan and Meier)"),
    Column("low", "float64", "1", "lower end of its interval at 95 %"),
    Column("high", "float64", "1", "upper end"),
    Column("at_risk", "int64", "", "dwells that were watched so long"),
    Column("ended", "int64", "", "dwells that ended at that time"),
))

ATOMS = Table("atoms", (
    Column("atoms", "float64", "", "most probable number of atoms of the column; nan where none is given"),
    Column("atoms_low", "float64", "", "lower end of the shortest interval with the stated probability"),
    Column("atoms_high", "float64", "", "upper end of that interval"),
    Column("atoms_status", "category", "", "counted, not monotonic, not resolved, no match or no intensity"),
    Column("atoms_reason", "category", "", "why no number is given; empty where one is"),
))

SITES = Table("sites", (
    Column("site", "int64", "", "number of the site, from 0; sites of different epochs have different numbers"),
    Column("epoch", "int64", "", "number of the epoch"),
    Column("grain", "int64", "", "number of its lattice in the epoch, 0 is the one with most sites"),
    Column("i", "int64", "", "index along the first vector of the lattice"),
    Column("j", "int64", "", "index along the second vector"),
    Column("y", "float64", "angstrom", "mean of its columns in reference coordinates; where it is not occupied, where "
                                       "its neighbours put it"),
    Column("x", "float64", "angstrom", "the same along x"),
    Column("y_error", "float64", "angstrom", "standard error of that mean; nan where it is not occupied"),
    Column("x_error", "float64", "angstrom", "the same along x"),
    Column("seen", "int64", "", "frames with a column there"),
    Column("frames", "int64", "", "frames in which it could be seen"),
    Column("occupancy", "float64", "1", "seen over frames; nan where it could not be seen"),
    Column("occupied", "bool", "", "whether columns come back there, more than by chance; else it is an empty lattice "
                                   "point next to such a site"),
    Column("neighbours", "int64", "", "occupied ones among the next sites of its lattice (six, or four of a square)"),
    Column("surface", "bool", "", "whether it is next to the outside, or lies there itself; a vacancy inside is not"),
    Column("intensity", "float64", "1", "mean intensity of its columns; nan where unknown"),
    Column("intensity_error", "float64", "1", "standard error of that mean"),
    Column("e_yy", "float64", "1", "strain along y against the reference lattice; nan without enough neighbours"),
    Column("e_xx", "float64", "1", "strain along x"),
    Column("e_yx", "float64", "1", "shear strain"),
    Column("rotation", "float64", "radian", "rotation of the local lattice, from +y towards +x"),
    Column("e_yy_error", "float64", "1", "standard error, from those of the positions"),
    Column("e_xx_error", "float64", "1", "the same"),
    Column("e_yx_error", "float64", "1", "the same"),
    Column("rotation_error", "float64", "radian", "the same"),
    Column("residual", "float64", "angstrom", "distance from the rigid lattice of its grain; nan where not occupied"),
))

LATTICES = Table("lattices", (
    Column("epoch", "int64", "", "number of the epoch"),
    Column("grain", "int64", "", "number of the lattice in the epoch"),
    Column("u_y", "float64", "angstrom", "first vector"),
    Column("u_x", "float64", "angstrom", "first vector"),
    Column("v_y", "float64", "angstrom", "second vector"),
    Column("v_x", "float64", "angstrom", "second vector"),
    Column("origin_y", "float64", "angstrom", "where i = j = 0, in reference coordinates"),
    Column("origin_x", "float64", "angstrom", "the same along x"),
    Column("u_y_error", "float64", "angstrom", "standard error of the fit, strain taken as noise"),
    Column("u_x_error", "float64", "angstrom", "the same"),
    Column("v_y_error", "float64", "angstrom", "the same"),
    Column("v_x_error", "float64", "angstrom", "the same"),
    Column("origin_y_error", "float64", "angstrom", "the same"),
    Column("origin_x_error", "float64", "angstrom", "the same"),
    Column("length_u", "float64", "angstrom", "of the first vector, the shortest of the lattice"),
    Column("length_v", "float64", "angstrom", "of the second vector"),
    Column("angle", "float64", "radian", "between them"),
    Column("n", "int64", "", "occupied sites"),
    Column("rms", "float64", "angstrom", "root mean square distance of these from the rigid lattice"),
    Column("misorientation", "float64", "radian", "smallest turn that brings the lattice of grain 0 to this one, from "
                                                  "+y towards +x"),
    Column("zone_axis", "string", "", "such as [110]; empty where no crystal was given or none of its axes fits"),
    Column("mismatch", "float64", "1", "length over that of the ideal lattice of the axis, less 1; else nan"),
))

#: every table by name
TABLES = {t.name: t for t in (ATOMS, PEAK_PAIRS, PARTICLES, TRACKS, FRAMES, FRAME_QUALITY, VERDICTS, DRIFT, COLUMNS,
                               EVENTS, RATE, DIFFUSION_SITES, DWELL, SITES, LATTICES, OCCUPANCY,
                               DIFFUSION_FRAMES)}
