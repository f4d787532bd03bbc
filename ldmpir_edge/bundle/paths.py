"""Where things are cached and which folders hold keys; the environment is read here.

`LDMPIR_CACHE_DIR` and `LDMPIR_TRUSTED_KEYS` name folders; the defaults follow the XDG Base
Directory Specification 0.8.
"""

from __future__ import annotations

import os
from pathlib import Path

_APP = "ldmpir-edge"


def cache_root() -> Path:
    """Answer the folder that holds one folder a bundle and the sealed files; it may not exist."""
    named = os.environ.get("LDMPIR_CACHE_DIR")
    return Path(named) if named else _xdg("XDG_CACHE_HOME", ".cache") / _APP


def seal_key_file() -> Path:
    """Answer the file of the user's secret for sealing cached files; it may not exist yet.

    It lies beside the user's trusted keys, not in the cache: who may write there may already
    decide which bundles are trusted.
    """
    return _xdg("XDG_CONFIG_HOME", ".config") / _APP / "cache-seal.key"


def trusted_key_folders() -> tuple[Path, ...]:
    """Answer the folders with trusted publishers' public keys (`*.pem`), the packaged first."""
    folders = [
        Path(__file__).parent / "trusted_keys",
        _xdg("XDG_CONFIG_HOME", ".config") / _APP / "trusted_keys",
    ]
    if named := os.environ.get("LDMPIR_TRUSTED_KEYS"):
        folders.append(Path(named))
    return tuple(folders)


def _xdg(variable: str, default: str) -> Path:
    named = os.environ.get(variable)
    # The specification says to ignore relative paths.
    if named and Path(named).is_absolute():
        return Path(named)
    return Path("~").expanduser() / default
