"""`ldmpir-edge models`: list the installed bundles."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ldmpir_edge.cli.output import print_json, print_table


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """List the bundles that are installed.

    [dim]ldmpir-edge models --json[/dim]
    """
    from ldmpir_edge.bundle import open_bundle, packaged_bundles

    rows: list[dict[str, Any]] = []
    for name, path in sorted(packaged_bundles().items()):
        manifest = open_bundle(path).manifest
        rows.append(
            {
                "name": name,
                "version": manifest.model.version,
                "parameters": manifest.model.n_parameters,
                "tasks": sorted({task for family in manifest.families for task in family.tasks}),
                "precisions": [precision.name for precision in manifest.precisions],
                "steps": [preset.n_steps for preset in manifest.sampler.presets],
                "path": str(path),
            }
        )
    if as_json:
        print_json({"models": rows})
        return
    print_table(
        "Installed bundles",
        ("name", "version", "tasks", "precisions", "steps"),
        [
            (
                row["name"],
                row["version"],
                ", ".join(row["tasks"]),
                ", ".join(row["precisions"]),
                ", ".join(map(str, row["steps"])),
            )
            for row in rows
        ],
    )
