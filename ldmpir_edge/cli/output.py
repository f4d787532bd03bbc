"""Where the commands write: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

# Paths and messages are printed as they are: no :name: becomes a picture.
results = Console(emoji=False)
messages = Console(stderr=True, emoji=False)
_errors = Console(stderr=True, emoji=False)

OURS = "ldmpir_edge"


def set_loudness(*, quiet: bool, verbose: bool) -> None:
    """Choose what standard error gets beside errors: nothing, remarks and progress, or all."""
    messages.quiet = quiet
    logger = logging.getLogger(OURS)
    logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.NOTSET)
    if verbose and not logger.handlers:
        logger.addHandler(_Remarks())


class _Remarks(logging.Handler):
    """Log records as remarks of one line, which a progress bar makes room for."""

    def emit(self, record: logging.LogRecord) -> None:
        messages.print(
            record.getMessage(), style="dim", markup=False, highlight=False, soft_wrap=True
        )


def print_error(text: str) -> None:
    """Print one line to standard error."""
    line = " ".join(text.split())
    _errors.print(f"error: {line}", style="bold red", markup=False, highlight=False, soft_wrap=True)


def print_note(text: str) -> None:
    """Print a remark to standard error."""
    messages.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def print_result(text: str) -> None:
    """Print a line of the result."""
    results.print(text, markup=False, highlight=False, soft_wrap=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON object to standard output, and nothing else."""
    typer.echo(json.dumps(document, indent=1, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; cells are plain text."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    results.print(table)


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """Show progress on standard error while a block runs; silent where that is no terminal."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=messages,
        transient=True,
        disable=messages.quiet or not messages.is_terminal,
    ) as progress:
        progress.add_task(description, total=None)
        yield progress
