"""`ldmpir-edge finetune`: adapt a model to a site's own scans."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ldmpir_edge.cli.export import PRECISIONS, ZOO
from ldmpir_edge.cli.extras import need
from ldmpir_edge.cli.names import split_names
from ldmpir_edge.cli.output import print_json, print_note, print_result, progress_bar
from ldmpir_edge.errors import UsageError

BASE_KEPT = 51
"""Exit code where nothing was gained and no bundle written."""


def finetune(
    scans: Annotated[
        list[Path],
        typer.Argument(metavar="SCANS...", help="About five undersampled scans of one protocol."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle.")],
    base: Annotated[
        str, typer.Option(help="Name in models/, or a folder of weights and model.toml.")
    ] = "ldmpir-2m",
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
        str, typer.Option(help="Of fp32, fp16 and int8, separated by commas.")
    ] = "fp32",
    target: Annotated[str, typer.Option(help="Device class, or a target's .toml file.")] = "cpu",
    key: Annotated[
        Path | None, typer.Option(help="The site's Ed25519 private key (PEM) to sign with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Fine-tune on a site's own scans, and keep the base where held-out data show no gain.

    [dim]ldmpir-edge finetune scans/*.h5 --base ldmpir-2m -o site.ldmpir[/dim]
    """
    with need("fine-tuning", "export"):
        import onnx  # noqa: F401
        import torch  # noqa: F401

        from ldmpir_edge.export.cases import load_gate_images
        from ldmpir_edge.export.targets import read_target
        from ldmpir_edge.finetuning.loop import Finetuner
        from ldmpir_edge.finetuning.recipe import LOSSES, FinetuneRecipe
        from ldmpir_edge.finetuning.scans import load_scans
        from ldmpir_edge.finetuning.site_bundle import write_site_bundle
        from ldmpir_edge.models.weights import load_weights

    from ldmpir_edge.atomic import make_folder
    from ldmpir_edge.bundle import load_signing_key

    if loss not in LOSSES:
        raise UsageError(f"unknown loss {loss!r}; choose of {', '.join(LOSSES)}")
    wanted = split_names([precision])
    if not wanted or set(wanted) - set(PRECISIONS):
        raise UsageError(f"unknown precision {precision!r}; choose of {', '.join(PRECISIONS)}")
    destination = read_target(target)
    signing_key = load_signing_key(key) if key else None
    folder = Path(base) if Path(base).is_dir() else ZOO / base
    model = load_weights(folder / "weights.safetensors")
    site = load_scans(scans, loss, noise_level)
    recipe = FinetuneRecipe(loss=loss, rank=rank, seed=seed, n_steps=destination.default_n_steps)
    make_folder(output.parent)
    checkpoint = output.with_suffix(".finetune.pt")
    with progress_bar("fine-tuning") as progress:
        bar = progress.task_ids[0]
        tuner = Finetuner(model, site, recipe, checkpoint)
        progress.update(bar, total=recipe.n_updates, completed=tuner.update)

        def on_update(update: int, ratio: float | None) -> None:
            gained = "" if ratio is None else f", held-out error {ratio - 1:+.1%}"
            progress.update(bar, completed=update, description=f"fine-tuning{gained}")

        try:
            outcome = tuner.run(on_update)
        except KeyboardInterrupt:
            print_note(f"stopped at {checkpoint}: the same command goes on from there")
            raise
        report: dict[str, Any] = {
            "improved": outcome.improved,
            "held_out": outcome.held_out,
            "updates": outcome.n_updates,
            "outputs": [],
        }
        if outcome.improved:

            def on_progress(what: str, done: int, total: int) -> None:
                progress.update(bar, description=what, completed=done, total=total)

            manifest = write_site_bundle(
                outcome,
                folder,
                output,
                site,
                recipe,
                cast("Any", wanted),
                destination,
                load_gate_images([]),
                created=datetime.now(UTC),
                signing_key=signing_key,
                on_progress=on_progress,
            )
            report |= {"outputs": [str(output)], "manifest": manifest.model_dump(mode="json")}
    checkpoint.unlink(missing_ok=True)
    if as_json:
        print_json(report)
    elif outcome.improved:
        print_result(
            f"{output}: held-out error {outcome.held_out - 1:+.1%} "
            f"after {outcome.n_updates} updates"
        )
    else:
        print_result(
            f"no improvement: base kept (held-out error {outcome.held_out - 1:+.1%}; "
            f"a bundle needs {-recipe.margin:.0%})"
        )
    if not outcome.improved:
        raise typer.Exit(BASE_KEPT)
