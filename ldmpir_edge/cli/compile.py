"""`ldmpir-edge compile`: build the engines of a bundle on the device that will run them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ldmpir_edge.cli.names import split_names
from ldmpir_edge.cli.output import print_json, print_result, print_table, progress_bar
from ldmpir_edge.cli.parameters import BundleArgument

PERCENT = 100


def compile_engines(
    bundle: BundleArgument,
    backend: Annotated[
        str | None,
        typer.Option(help="tensorrt or tensorrt_rtx; else the bundle's, or the one here."),
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="Of those in the bundle; else the one that run takes.")
    ] = None,
    steps: Annotated[
        list[int] | None, typer.Option(min=1, help="Sampler steps; else the bundle's default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Compile a bundle for this machine's NVIDIA GPU, once; run uses the engines from then on.

    [dim]ldmpir-edge compile ldmpir-2m --precision fp16[/dim]
    """
    from ldmpir_edge.bundle import open_bundle
    from ldmpir_edge.runtimes.tensorrt.install import choose_compiler, install_engines

    opened = open_bundle(bundle)
    manifest = opened.manifest
    compiler = choose_compiler(opened, backend)
    precisions: list[Any] = split_names(precision) or [manifest.default_precision]
    n_steps = list(dict.fromkeys(steps or [manifest.sampler.default_n_steps]))
    with progress_bar("compiling") as progress:
        bar = progress.task_ids[0]
        progress.update(bar, total=PERCENT)

        def on_progress(what: str, part: float) -> None:
            progress.update(bar, description=f"compiling {what}", completed=PERCENT * part)

        installed = list(install_engines(opened, compiler, precisions, n_steps, on_progress))
    if as_json:
        print_json({"backend": compiler.name, "engines": [asdict(engine) for engine in installed]})
        return
    print_table(
        f"Engines of {manifest.model.id} for {compiler.name}",
        ("family", "steps", "precision", "from", "seconds", "MB"),
        [
            (
                engine.family,
                str(engine.n_steps),
                engine.precision,
                engine.origin,
                f"{engine.seconds:.1f}",
                f"{engine.size / 1e6:.1f}",
            )
            for engine in installed
        ],
    )
    print_result(f"run takes them with --precision {', '.join(precisions)}")
