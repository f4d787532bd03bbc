"""`ldmpir-edge serve`: run the appliance."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldmpir_edge.cli.extras import need
from ldmpir_edge.cli.output import print_json, print_note, print_result, print_table
from ldmpir_edge.errors import UsageError

if TYPE_CHECKING:
    from ldmpir_edge.serve.config import Route, ServeConfig


def serve(
    config: Annotated[Path | None, typer.Option(help="TOML file; the flags override it.")] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the queue and its scans.")
    ] = None,
    mrd: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Listen for MRD streams.")
    ] = None,
    dicom: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Listen for DICOM images.")
    ] = None,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Listen for HTTP; the status page.")
    ] = None,
    watch: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take the scans that appear here.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the outputs.")] = None,
    allow_unsigned: Annotated[
        bool, typer.Option("--allow-unsigned", help="Take bundles that no trusted key signed.")
    ] = False,
    new_token: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Make an API token, print it and its hash, and end."),
    ] = None,
    new_collection_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Make the key that collected scans need, and end."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Print what would run, and run nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --check, print one JSON object.")
    ] = False,
) -> None:
    """Receive scans, reconstruct them and deliver the images, until stopped.

    [dim]ldmpir-edge serve --state state --watch in --out out --http 127.0.0.1:8080[/dim]
    """
    if new_token is not None:
        _print_token(new_token)
        return
    if new_collection_key is not None:
        _make_key(new_collection_key)
        return
    if as_json and not check:
        raise UsageError("--json prints what --check finds; add --check")
    flags: dict[str, Any] = {
        "state": state,
        "mrd": {"listen": mrd} if mrd else None,
        "dicom": {"listen": dicom} if dicom else None,
        "http": {"listen": http} if http else None,
        "watch": {"folder": watch} if watch else None,
        "out": out,
        "allow_unsigned": allow_unsigned or None,
    }
    flags = {name: flag for name, flag in flags.items() if flag is not None}
    if check:
        with need("serve", "serve"):
            from ldmpir_edge.serve.config import load_config
        _check(load_config(config, flags), as_json)
        return
    _serve(config, flags)


def _serve(file: Path | None, flags: Mapping[str, Any]) -> None:
    with need("serve", "serve"):
        from ldmpir_edge.serve.logs import configure_logs
        from ldmpir_edge.serve.worker_process import WorkerProcess
    with ExitStack() as stack:
        # It imports the engines' side while this process imports the doors'.
        first_worker = WorkerProcess()
        stack.callback(first_worker.end)
        with need("serve", "serve"):
            from ldmpir_edge.serve.config import load_config
        settings = load_config(file, flags)
        if not settings.doors:
            raise UsageError("no door is open; add --http, --mrd, --dicom or --watch")
        with need("serve", "serve"):
            from ldmpir_edge.serve.appliance import Appliance
        configure_logs()
        with need("serve", "serve"), Appliance(settings, first_worker) as appliance:
            appliance.run()


def _print_token(name: str) -> None:
    from ldmpir_edge.serve.tokens import new_token

    token, hashed = new_token()
    print_note("give this to the client; it is kept nowhere:")
    print_result(token)
    print_note("add this to the configuration:")
    print_result(f'[http.tokens]\n{name} = "{hashed}"')


def _make_key(path: Path) -> None:
    from ldmpir_edge.serve.sealing import new_key

    new_key(path)
    print_note("keep a copy elsewhere: without it the collected scans are lost; add this to the")
    print_note("configuration, and collect = true to the routes whose scans may be kept:")
    print_result(f'[collection]\nkey = "{path.resolve()}"')


def _check(settings: ServeConfig, as_json: bool) -> None:
    from ldmpir_edge.serve.bundles import open_route_bundle, variants
    from ldmpir_edge.serve.promotions import Promotions
    from ldmpir_edge.serve.sealing import read_key

    if settings.collection is not None:
        read_key(settings.collection.key)
    in_service = Promotions(settings.state).in_service
    bundles = {
        route.name: open_route_bundle(in_service(route), allow_unsigned=settings.allow_unsigned)
        for route in settings.routes
    }
    if as_json:
        document = settings.model_dump(mode="json")
        for route, entry in zip(settings.routes, document["routes"], strict=True):
            bundle = bundles[route.name]
            entry["targets"] = list(settings.targets(route))
            entry["steps"] = list(dict.fromkeys(steps for steps, _ in variants(route, bundle)))
            entry["bundle_in_service"] = str(bundle.path)
            entry["bundle_sha256"] = bundle.digest
            entry["bundle_signature"] = str(bundle.trust)
        print_json(document)
        return
    print_table(f"Doors; state in {settings.state}", ("door", "where"), [*settings.doors.items()])
    for route in settings.routes:
        bundle = bundles[route.name]
        is_promoted = in_service(route).bundle != route.bundle
        on = [name for name in route.sources if name in settings.doors]
        choice = [f"{steps} steps {precision}" for steps, precision in variants(route, bundle)]
        print_table(
            f"Route {route.name}",
            ("", ""),
            [
                ("takes from", ", ".join(on) or "no door that is on"),
                ("label", route.label),
                ("bundle", f"{bundle.path} ({bundle.trust})"),
                ("promoted", f"in place of {route.bundle}" if is_promoted else "no"),
                ("task", _task(route)),
                ("variants", ", else ".join(choice)),
                ("deadline", f"{route.deadline_s:g} s" if route.deadline_s else "none"),
                ("collects", _collects(route, settings)),
                ("delivers to", ", ".join(settings.targets(route)) or "HTTP download only"),
            ],
        )


def _task(route: Route) -> str:
    by = f" by {route.factor}" if route.factor else ""
    return f"{route.task or 'by the scan'}{by}"


def _collects(route: Route, settings: ServeConfig) -> str:
    kept = settings.collection
    if kept is None or not route.collect:
        return "nothing"
    return f"scans to fine-tune on: {kept.max_scans} at most, for {kept.keep_days:g} days"
