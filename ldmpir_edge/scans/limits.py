"""The sizes that a reader accepts, checked before anything is allocated."""

from __future__ import annotations

import math
from pathlib import Path

from ldmpir_edge.errors import ScanDataError

MAX_SIDE = 8192
"""Samples along one axis of a slice: twice the largest readout that a scanner delivers."""

MAX_COILS = 512
MAX_SLICES = 16384
MAX_VIEWS = 65536
MAX_ACQUISITIONS = 4_000_000

MAX_SLICE_ELEMENTS = 2**27
"""Samples of one slice over all coils: 1 GiB of complex64."""


def check_count(path: Path, what: str, count: int, largest: int) -> None:
    """Refuse `count` unless it lies in 1 … `largest`.

    Raises
    ------
    ScanDataError
        The count is zero, negative or absurd; the message names `what` and the limit.
    """
    if not 1 <= count <= largest:
        raise ScanDataError(
            f"{path}: {what} is {count}, outside 1 to {largest}; check how the file was written"
        )


def check_slice_size(path: Path, what: str, shape: tuple[int, ...]) -> None:
    """Refuse a slice of more than `MAX_SLICE_ELEMENTS` samples.

    Raises
    ------
    ScanDataError
        The product of `shape` exceeds the limit.
    """
    if math.prod(shape) > MAX_SLICE_ELEMENTS:
        raise ScanDataError(
            f"{path}: one slice of {what} has shape {shape}, more than "
            f"{MAX_SLICE_ELEMENTS} samples; crop or split the scan"
        )
