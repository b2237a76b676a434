"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Other people's micrographs beside the checkout; tests that use them are marked `real`."""
    if not SHARED.is_dir():
        pytest.skip(f"the real data is not beside the checkout ({SHARED})")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)


@pytest.fixture
def stack(rng):
    return rng.integers(0, 4000, (6, 20, 30), dtype=np.uint16)
