"""`ldmpir-edge export`: turn a trained model into a bundle."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ldmpir_edge.cli.extras import need
from ldmpir_edge.cli.output import print_json, print_note, print_result, progress_bar
from ldmpir_edge.errors import UsageError

ZOO = Path(__file__).resolve().parents[2] / "models"
PRECISIONS = ("fp32", "fp16", "int8")
AUTO = "auto"


def export(
    model: Annotated[
        str, typer.Argument(help="Name in models/, or a folder of weights and model.toml.")
    ] = "ldmpir-2m",
    precision: Annotated[
        str,
        typer.Option(help="Of fp32, fp16 and int8, separated by commas; or auto: the fastest."),
    ] = "fp32",
    target: Annotated[str, typer.Option(help="Device class, or a target's .toml file.")] = "cpu",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The bundle; else MODEL.ldmpir here.")
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Compare every variant with PyTorch.")
    ] = True,
    gate_images: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of held-out MR and CT images; repeat for several."),
    ] = None,
    calibration_images: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of MR and CT images that int8 takes its ranges from."),
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(help="Ed25519 private key (PEM) to sign the bundle with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Trace a model with its physics, change its precision, gate it and write a bundle.

    [dim]ldmpir-edge export ldmpir-2m --precision fp16 --target cpu -o out.ldmpir[/dim]
    """
    with need("export", "export"):
        import onnx  # noqa: F401
        import torch  # noqa: F401

        from ldmpir_edge.export.bundle_writer import export_bundle
        from ldmpir_edge.export.cases import load_gate_images
        from ldmpir_edge.export.targets import read_target

    from ldmpir_edge.atomic import make_folder
    from ldmpir_edge.bundle import load_signing_key

    wanted = _precisions(precision)
    if precision == AUTO and not gate:
        raise UsageError("auto chooses by the gate: leave out --no-gate, or name a precision")
    folder = Path(model) if Path(model).is_dir() else ZOO / model
    path = output or Path(f"{folder.resolve().name}.ldmpir")
    key = load_signing_key(sign) if sign else None
    destination = read_target(target)
    held_out = load_gate_images(gate_images or [])
    calibration = load_gate_images(calibration_images) if calibration_images else None
    make_folder(path.parent)
    with progress_bar("exporting") as progress:
        bar = progress.task_ids[0]

        def on_progress(what: str, done: int, total: int) -> None:
            progress.update(bar, description=what, completed=done, total=total)

        manifest = export_bundle(
            folder,
            path,
            wanted,
            destination,
            held_out,
            created=datetime.now(UTC),
            calibration_images=calibration,
            gate=gate,
            fastest_only=precision == AUTO,
            signing_key=key,
            on_progress=on_progress,
        )
    if not gate:
        print_note("the gate was skipped: the bundle is marked as unverified")
    if as_json:
        print_json({"outputs": [str(path)], "manifest": manifest.model_dump(mode="json")})
        return
    worst = max(
        (abs(r.psnr_delta_worst_db) for v in manifest.variants for r in v.gate), default=None
    )
    verdict = "not gated" if worst is None else f"worst |ΔPSNR| {worst:.4f} dB"
    print_result(f"{path}: {len(manifest.variants)} variants, {verdict}")
    print_result(manifest.notes)


def _precisions(given: str) -> list[Any]:
    if given == AUTO:
        return list(PRECISIONS)
    wanted = list(dict.fromkeys(p.strip() for p in given.split(",") if p.strip()))
    unknown = [name for name in wanted if name not in PRECISIONS]
    if unknown or not wanted:
        said = ", ".join(unknown) if unknown else "nothing"
        raise UsageError(f"unknown precision {said}; choose of {', '.join(PRECISIONS)}, or {AUTO}")
    return wanted
