"""Toy variants on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_bundle import toy_variant

from ldmpir_edge.bundle import LoadedVariant


@pytest.fixture
def variant(tmp_path: Path) -> LoadedVariant:
    """A one-step toy variant whose answer `toy_answer` gives."""
    return toy_variant(tmp_path)
