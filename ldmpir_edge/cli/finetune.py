"""`ldmpir-edge finetune`: adapt a model to a site's own scans."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ldmpir_edge.cli.export import PRECISIONS
from ldmpir_edge.cli.extras import need
from ldmpir_edge.cli.names import split_names
from ldmpir_edge.cli.output import print_json, print_note, print_result, progress_bar
from ldmpir_edge.errors import GateError, ScanError, UsageError

if TYPE_CHECKING:
    from ldmpir_edge.cli.given_scans import GivenScans
    from ldmpir_edge.cli.queued_scans import QueuedScans

BASE_KEPT = 51
"""Exit code where nothing was gained and no bundle written."""


def finetune(
    scans: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SCANS...", help="About five undersampled scans of one protocol."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The bundle.")] = None,
    from_queue: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="In place of SCANS and -o: learn in idle time from what the appliance of this "
            "TOML file has collected.",
        ),
    ] = None,
    route: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --from-queue: the route.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Name in models/, or a folder of weights and model.toml; else ldmpir-2m, or the "
            "route's model."
        ),
    ] = None,
    loss: Annotated[
        str,
        typer.Option(
            help="equivariant, split (patented: see docs/finetuning.md) or supervised by the "
            "scans' references."
        ),
    ] = "equivariant",
    rank: Annotated[
        int, typer.Option(min=0, help="Of low-rank updates of all kernels; 0: only few weights.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    noise_level: Annotated[
        float | None,
        typer.Option(help="Of images: standard deviation of their noise; else estimated."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of fp32, fp16 and int8, separated by commas; else fp32, or the route's."
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="Device class, or a target's .toml file.")] = "cpu",
    key: Annotated[
        Path | None, typer.Option(help="The site's Ed25519 private key (PEM) to sign with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Fine-tune on a site's own scans, and keep the base where held-out data show no gain.

    [dim]ldmpir-edge finetune scans/*.h5 --base ldmpir-2m -o site.ldmpir[/dim]
    """
    if from_queue is None and (not scans or output is None or route is not None):
        raise UsageError(
            "give the SCANS to learn from and the bundle with -o, or --from-queue FILE --route NAME"
        )
    if from_queue is not None and (scans or output is not None or route is None or key is None):
        raise UsageError(
            "--from-queue takes its scans from the appliance and writes to its candidates: give "
            "--route and --key, which promote asks for, and neither SCANS nor -o"
        )
    if from_queue is not None:
        from ldmpir_edge.serve.background import give_way

        give_way()  # before the libraries start their threads
    with need("fine-tuning", "export"):
        import onnx  # noqa: F401
        import torch  # noqa: F401

        from ldmpir_edge.cli.given_scans import GivenScans
        from ldmpir_edge.export.cases import load_gate_images
        from ldmpir_edge.export.targets import read_target
        from ldmpir_edge.finetuning.loop import Finetuner
        from ldmpir_edge.finetuning.recipe import LOSSES, FinetuneRecipe
        from ldmpir_edge.finetuning.site_bundle import write_site_bundle
        from ldmpir_edge.models.weights import load_weights

    from ldmpir_edge.atomic import make_folder
    from ldmpir_edge.bundle import load_signing_key

    if loss not in LOSSES:
        raise UsageError(f"unknown loss {loss!r}; choose of {', '.join(LOSSES)}")
    source: GivenScans | QueuedScans
    if from_queue is not None and route is not None:
        with need("fine-tuning from a queue", "serve"):
            from ldmpir_edge.cli.queued_scans import QueuedScans

        options: dict[str, Any] = {"loss": loss, "rank": rank, "seed": seed}
        options |= {"noise_level": noise_level, "base": base}
        options |= {"precision": precision, "target": target}
        source = QueuedScans(from_queue, route, options)
    else:
        source = GivenScans(scans or [], cast("Path", output))
    wanted = split_names([precision or source.precision])
    if not wanted or set(wanted) - set(PRECISIONS):
        raise UsageError(f"unknown precision {precision!r}; choose of {', '.join(PRECISIONS)}")
    destination = read_target(target)
    signing_key = load_signing_key(key) if key else None
    folder = source.base_folder(base)
    model = load_weights(folder / "weights.safetensors")
    recipe = FinetuneRecipe(loss=loss, rank=rank, seed=seed, n_steps=destination.default_n_steps)
    with source.hold(), progress_bar("fine-tuning") as progress:
        bar = progress.task_ids[0]

        def show(what: str, done: int, total: int | None) -> None:
            source.wait(
                lambda n_jobs: progress.update(bar, description=f"waiting for {n_jobs} jobs")
            )
            progress.update(bar, description=what, completed=done, total=total)

        show("reading scans", 0, None)
        site = source.scans(loss, noise_level, show)
        make_folder(source.output.parent)
        checkpoint = source.output.with_suffix(".finetune.pt")
        try:
            tuner = Finetuner(model, site, recipe, checkpoint)
            show("fine-tuning", tuner.update, recipe.n_updates)

            def on_update(update: int, ratio: float | None) -> None:
                gained = "" if ratio is None else f", held-out error {ratio - 1:+.1%}"
                show(f"fine-tuning{gained}", update, recipe.n_updates)

            outcome = tuner.run(on_update)
            report: dict[str, Any] = {
                "improved": outcome.improved,
                "held_out": outcome.held_out,
                "updates": outcome.n_updates,
                "outputs": [],
            }
            if outcome.improved:
                manifest = write_site_bundle(
                    outcome,
                    folder,
                    source.output,
                    site,
                    recipe,
                    cast("Any", wanted),
                    destination,
                    load_gate_images([]),
                    created=datetime.now(UTC),
                    signing_key=signing_key,
                    on_progress=show,
                )
                report["outputs"] = [str(source.output)]
                report["manifest"] = manifest.model_dump(mode="json")
        except KeyboardInterrupt:
            if checkpoint.exists():
                print_note(f"stopped at {checkpoint}: the same command goes on from there")
            raise
        except (GateError, ScanError):
            source.end()  # the same scans would come to the same end
            raise
    source.end()
    checkpoint.unlink(missing_ok=True)
    if as_json:
        print_json(report)
    elif outcome.improved:
        print_result(
            f"{source.output}: held-out error {outcome.held_out - 1:+.1%} "
            f"after {outcome.n_updates} updates"
        )
    else:
        print_result(
            f"no improvement: base kept (held-out error {outcome.held_out - 1:+.1%}; "
            f"a bundle needs {-recipe.margin:.0%})"
        )
    if not outcome.improved:
        raise typer.Exit(BASE_KEPT)
