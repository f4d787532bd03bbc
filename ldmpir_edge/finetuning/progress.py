"""A fine-tuning's checkpoint: a folder beside the output that a resumed run reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict, cast

from torch import Tensor

from ldmpir_edge.errors import UsageError
from ldmpir_edge.training.checkpoint import damaged_checkpoint, read_checkpoint

Weights = dict[str, Tensor]


class Progress(TypedDict):
    """Where a run stands.

    `identity` tells base, scans and recipe; `best` are the averaged weights with the least
    held-out error, `ratios` the held-out errors of all looks, relative to the base's.
    """

    identity: dict[str, Any]
    update: int
    weights: Weights
    average: Weights
    best: Weights
    ratios: list[float]
    optimizer: dict[str, Any]


def read_progress(path: Path, identity: dict[str, Any]) -> Progress | None:
    """Read the checkpoint of the same run; None where there is none.

    Raises
    ------
    UsageError
        The file is damaged, or of another base, other scans or another recipe.
    """
    if not path.exists():
        return None
    progress = cast("Progress", read_checkpoint(path))
    try:
        theirs = progress["identity"]
    except (KeyError, TypeError, IndexError) as err:  # a tensor raises the last
        raise damaged_checkpoint(path, err) from err
    if theirs != identity:
        raise UsageError(
            f"{path} is of another base, other scans or other options; remove it to start anew, "
            "or choose another output with -o"
        )
    return progress
