"""`ldmpir-edge doctor`: show what this machine can run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ldmpir_edge.cli.output import print_json, print_result, print_table, progress_bar

if TYPE_CHECKING:
    from ldmpir_edge.runtimes import Availability, Conformance

MAX_FAILURES = 8
"""Operators listed of a backend: an old library may lack many."""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Show what this machine can run, and the one command that brings what is missing.

    [dim]ldmpir-edge doctor --json[/dim]
    """
    from ldmpir_edge.runtimes import examine

    with progress_bar("checking the engines' operators"):
        report = examine()
    document = report.to_dict()
    if as_json:
        print_json(document)
        return
    print_table(
        "This machine",
        ("", ""),
        [(name.replace("_", " "), str(value)) for name, value in document["machine"].items()],
    )
    print_table(
        "Backends",
        ("backend", "runs", "version", "devices", "operators", "reason or remedy"),
        [
            (
                backend.name,
                "yes" if backend.availability.ok else "no",
                backend.availability.version,
                ", ".join(backend.availability.devices),
                _count(backend.conformance),
                backend.availability.reason
                if backend.availability.ok
                else _remedy(backend.availability),
            )
            for backend in report.backends
        ],
    )
    for backend in report.backends:
        failures = backend.conformance.failures if backend.conformance else ()
        for failure in failures[:MAX_FAILURES]:
            kind = "" if failure.relied_on else ", which our graphs do without"
            print_result(f"{backend.name} {failure}{kind}")
        if len(failures) > MAX_FAILURES:
            n_more = len(failures) - MAX_FAILURES
            print_result(f"{backend.name}: {n_more} more operators, which --json lists")
    choice = report.choice
    print_result(f"run would choose {choice.backend or 'none'}: {choice.reason}")


def _remedy(state: Availability) -> str:
    return f"{state.reason}: {state.install_command}" if state.install_command else state.reason


def _count(conformance: Conformance | None) -> str:
    if conformance is None:
        return ""
    return f"{conformance.n_conforming} of {conformance.n_operators} conform"
