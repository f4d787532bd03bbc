"""`ldmpir-edge rollback`: take back the last promotion."""

from __future__ import annotations

from typing import Annotated

import typer

from ldmpir_edge.cli.extras import need
from ldmpir_edge.cli.output import print_json, print_result
from ldmpir_edge.cli.parameters import ConfigOption, RouteOption


def rollback(
    config: ConfigOption,
    route: RouteOption,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Put the bundle back in service that served a route before the last promotion.

    [dim]ldmpir-edge rollback --config appliance.toml --route brain[/dim]
    """
    with need("rollback", "serve"):
        from ldmpir_edge.serve.config import load_config
        from ldmpir_edge.serve.promotions import Promotions

    settings = load_config(config, {})
    chosen = settings.named_route(route)
    promotions = Promotions(settings.state)
    change = promotions.rollback(chosen)
    bundle = promotions.in_service(chosen).bundle
    if as_json:
        print_json({"route": route, "bundle_sha256": change.now, "replaces_sha256": change.was})
        return
    print_result(f"{bundle} ({change.now[:12]}) serves route {route} again")
