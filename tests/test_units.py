from __future__ import annotations

import numpy as np
import pytest

from hrtem_dask.core.units import is_reciprocal_length, length_to_angstrom, tidy_unit, time_to_second


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("nm", 10), ("n_m", 10), ("[n_m]", 10), ("Nanometer", 10), ("nanometres", 10), (b"nm", 10), (" nm ", 10),
        ("pm", 0.01), ("[pm]", 0.01), ("A", 1), ("\u00c5", 1), ("\u212b", 1), ("angstrom", 1),
        ("Angstroms", 1), ("Ångström", 1), ("A\u030a", 1), (b"\xc5", 1), ("Ã…", 1), ("â„«", 1), ("\\u00C5", 1),
        ("\u00b5m", 1e4), ("\u03bcm", 1e4), ("um", 1e4), ("micron", 1e4), ("microns", 1e4),
        ("micrometer", 1e4), ("ƒÊm", 1e4), ("Âµm", 1e4), ("Î¼m", 1e4), ("\\u00B5m", 1e4), (b"\xb5m", 1e4),
        ("m", 1e10), ("meters", 1e10), ("mm", 1e7), ("cm", 1e8), ("inch", 2.54e8),
    ],
)  # fmt: skip
def test_spellings_of_a_length(unit, factor):
    assert length_to_angstrom(2.5, unit) == pytest.approx(2.5 * factor, rel=1e-12)


@pytest.mark.parametrize("unit", [None, "", "1/nm", "1 / Å", "nm^-1", "mrad", "s", "pixel", "e-", 3, np.nan, "<no>"])
def test_what_is_no_length_is_not_guessed(unit):
    assert length_to_angstrom(1.0, unit) is None


@pytest.mark.parametrize("unit", ["1/nm", "1 / nm", "1/Å", "nm^-1", "nm-1", "nm⁻¹", "Å**-1", "n_m^-1", "1/m", "mrad"])
def test_reciprocal_lengths(unit):
    assert is_reciprocal_length(unit)
    assert length_to_angstrom(1.0, unit) is None


@pytest.mark.parametrize("unit", ["nm", "", None, "s", "1/s", "pixel", "um"])
def test_not_reciprocal(unit):
    assert not is_reciprocal_length(unit)


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("Sec", 1), ("seconds", 1), ("ms", 1e-3), ("µs", 1e-6),
                                              ("us", 1e-6), ("min", 60), ("hours", 3600)])  # fmt: skip
def test_times(unit, factor):
    assert time_to_second(3, unit) == pytest.approx(3 * factor)


def test_a_time_is_no_length_and_the_other_way_round():
    assert time_to_second(1, "nm") is None
    assert length_to_angstrom(1, "s") is None
    assert tidy_unit(None) == ""
