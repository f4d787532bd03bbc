"""Fixtures that several test packages share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(2026)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans beside the checkout, or a skip that says how to get it."""
    folder = Path(os.environ.get("LDMPIR_SHARED_DATA", SHARED_DATA))
    if not folder.is_dir():
        pytest.skip(f"real scans not found at {folder}; set LDMPIR_SHARED_DATA to their folder")
    return folder
