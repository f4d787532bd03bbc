"""The log of a training: a CSV file with one row an update."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TypedDict

from ldmpir_edge.atomic import atomic_file, output_errors


class LogRow(TypedDict):
    """One update, with the task and PSNR (dB) of its last example.

    `psnr_x1` is that of the classical estimate; `seconds` includes the time `waited` for data.
    """

    update: int
    stage: int
    task: str
    family: str
    loss: float
    psnr: float
    psnr_x1: float
    seconds: float
    waited: float


def append_row(path: Path, row: LogRow) -> None:
    """Add a row; the first one brings the header.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    with output_errors(path):
        new = not path.exists()
        with path.open("a", newline="") as f:
            writer = csv.DictWriter(f, tuple(LogRow.__annotations__))
            if new:
                writer.writeheader()
            writer.writerow(row)


def cut_log(path: Path, n_updates: int) -> None:
    """Drop the rows after the first `n_updates`: a resumed run repeats those updates.

    Raises
    ------
    OutputError
        The file cannot be read or written.
    """
    with output_errors(path):
        if not path.exists():
            return
        lines = path.read_bytes().splitlines(keepends=True)
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"".join(lines[: 1 + n_updates]))
