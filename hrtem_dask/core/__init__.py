"""Schema, errors, units, calibration and provenance: what every other room builds on."""
