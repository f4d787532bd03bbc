"""`ldmpir-edge doctor`: show what this machine can run."""

from __future__ import annotations

from typing import Annotated

import typer

from ldmpir_edge.cli.output import print_json, print_result, print_table
from ldmpir_edge.errors import LdmpirError


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Show what this machine can run, and the one command that brings what is missing."""
    from ldmpir_edge.runtimes import choose_backend, examine

    report = examine()
    try:
        chosen, reason = choose_backend()
        choice = {"backend": chosen.name, "reason": reason}
    except LdmpirError as err:
        choice = {"backend": "", "reason": str(err)}
    if as_json:
        print_json({**report.to_dict(), "choice": choice})
        return
    document = report.to_dict()
    print_table(
        "This machine",
        ("", ""),
        [(name.replace("_", " "), str(value)) for name, value in document["machine"].items()],
    )
    print_table(
        "Backends",
        ("backend", "runs", "version", "devices", "reason or remedy"),
        [
            (
                backend.name,
                "yes" if backend.availability.ok else "no",
                backend.availability.version,
                ", ".join(backend.availability.devices),
                backend.availability.reason
                if backend.availability.ok
                else f"{backend.availability.reason}: {backend.availability.install_command}",
            )
            for backend in report.backends
        ],
    )
    print_result(f"run would choose {choice['backend'] or 'none'}: {choice['reason']}")
