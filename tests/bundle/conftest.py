"""A small bundle for the tests of this package, and an environment of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_bundle import toy_files, toy_manifest

from ldmpir_edge.bundle import write_bundle


@pytest.fixture(autouse=True)
def private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache and keys out of the tests, and the tests out of them."""
    monkeypatch.setenv("LDMPIR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("LDMPIR_TRUSTED_KEYS", raising=False)


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    """An unsigned toy bundle."""
    path = tmp_path / "toy.ldmpir"
    files = toy_files()
    write_bundle(path, toy_manifest(files), files)
    return path
