"""Small undersampled scans of every kind, none like another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from site_scans import write_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    """Give the files of five scans of a kind: `mri`, `ct` or `image`."""
    made: dict[str, list[Path]] = {}

    def give(kind: str) -> list[Path]:
        if kind not in made:
            made[kind] = write_site(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return give


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2026)
