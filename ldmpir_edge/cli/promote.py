"""`ldmpir-edge promote`: put a fine-tuned bundle in service on the appliance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ldmpir_edge.cli.extras import need
from ldmpir_edge.cli.output import print_json, print_note, print_result, progress_bar
from ldmpir_edge.cli.parameters import ConfigOption, RouteOption


def promote(
    candidate: Annotated[Path, typer.Argument(help="A bundle that finetune has made and signed.")],
    config: ConfigOption,
    route: RouteOption,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Check a fine-tuned bundle and put it in service for a route of the appliance.

    [dim]ldmpir-edge promote brain.ldmpir --config appliance.toml --route brain[/dim]
    """
    with need("promote", "serve"):
        from ldmpir_edge.serve.candidate import open_candidate, try_candidate
        from ldmpir_edge.serve.config import load_config
        from ldmpir_edge.serve.promotions import Promotions

    from ldmpir_edge.bundle import open_bundle

    settings = load_config(config, {})
    chosen = settings.named_route(route)
    promotions = Promotions(settings.state)
    serving = open_bundle(promotions.in_service(chosen).bundle)
    bundle = open_candidate(candidate, chosen, serving)
    with progress_bar("golden pairs") as progress:
        bar = progress.task_ids[0]
        n_tests = try_candidate(
            bundle,
            chosen,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
    change = promotions.promote(chosen, bundle)
    model = bundle.manifest.model
    if as_json:
        print_json(
            {
                "route": route,
                "bundle": model.id,
                "bundle_version": model.version,
                "bundle_sha256": change.now,
                "replaces_sha256": change.was,
                "golden_pairs_passed": n_tests,
            }
        )
        return
    print_result(
        f"{model.id} {model.version} ({change.now[:12]}) is promoted for route {route}; "
        f"{n_tests} golden pairs passed here"
    )
    print_note(
        "a running appliance takes it once its own engines have passed; back with: ldmpir-edge "
        f"rollback --config {config} --route {route}"
    )
