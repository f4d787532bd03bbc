"""The one error of the peers, and the import that raises it."""

from __future__ import annotations

import importlib
from typing import Any

from ldmpir_edge.errors import LdmpirError


class MissingPeerError(LdmpirError):
    """A method to compare with is not installed; the message says how to get it."""


def library(name: str, remedy: str = "pip install 'ldmpir-edge[bench]'") -> Any:
    """Import a module, or raise `MissingPeerError`."""
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise MissingPeerError(f"{name} is not installed: {remedy}") from err
