"""How far planes of atoms lie apart, for the tests of crystals and supports."""

from __future__ import annotations

import numpy as np


def plane_spacing(p: np.ndarray, normal: np.ndarray) -> float:
    """Distance of the planes of atoms along a normal, from the sharpest peak of their structure factor."""
    k = np.arange(0.2, 0.75, 2e-4)
    amplitude = np.abs(np.exp(2j * np.pi * np.outer(k, p @ normal)).sum(1)) / len(p)
    return 1 / k[amplitude > 0.5][amplitude[amplitude > 0.5].argmax()]
