"""Turn a missing optional package into the command that brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ldmpir_edge.errors import MissingExtraError


@contextmanager
def need(feature: str, extra: str) -> Iterator[None]:
    """Import the packages of an extra inside this block.

    Raises
    ------
    MissingExtraError
        One of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] == "ldmpir_edge":
            raise
        raise MissingExtraError(feature, extra) from err
