"""A training's checkpoint on disk: written whole, and read without trust."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from ldmpir_edge.atomic import atomic_file
from ldmpir_edge.errors import UsageError


class Checkpoint(TypedDict):
    """What a run needs to go on: `update` is the number of updates done."""

    config: dict[str, Any]
    recipe: dict[str, Any]
    update: int
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizers: list[dict[str, Any]]


def write_checkpoint(path: Path, checkpoint: Mapping[str, object]) -> None:
    """Write or replace a checkpoint; an interruption leaves the old one.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    with atomic_file(path) as temporary, temporary.open("wb") as f:
        torch.save(checkpoint, f)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; its entries are for the caller to check.

    Raises
    ------
    UsageError
        The file is damaged or holds more than tensors and plain values.
    """
    try:
        # weights_only: a checkpoint holds data, and a hostile one must not run code.
        checkpoint: Checkpoint = torch.load(path, weights_only=True)
    except Exception as err:
        # Unpickling a damaged file may raise anything, says its documentation.
        raise damaged_checkpoint(path, err) from err
    return checkpoint


def damaged_checkpoint(path: Path, err: Exception) -> UsageError:
    """Say in one line why a run cannot go on from `path`, and the way out."""
    reason = (str(err).splitlines() or [type(err).__name__])[0]
    return UsageError(
        f"cannot resume from {path}: {reason}; remove the file to train from the start, "
        "or choose a new folder"
    )
