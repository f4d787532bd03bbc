"""`ldmpir-edge run`: reconstruct scans."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldmpir_edge.cli.output import print_json, print_note, print_result, progress_bar
from ldmpir_edge.errors import UsageError

if TYPE_CHECKING:
    from ldmpir_edge.reconstruct import Reconstructor

DEFAULT_FORMAT = "dicom"
HERE = Path()


class ImageTask(StrEnum):
    """What to do with images."""

    denoise = "denoise"
    inpaint = "inpaint"
    super_resolve = "super-resolve"


class PrecisionName(StrEnum):
    """Arithmetic of the network."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


def run(
    scans: Annotated[
        list[Path], typer.Argument(metavar="SCAN...", help="Files, or folders of a DICOM series.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the outputs.")] = HERE,
    bundle: Annotated[str, typer.Option(help="Installed bundle, or a .ldmpir file.")] = "ldmpir-2m",
    backend: Annotated[
        str | None, typer.Option(help="openvino, onnxruntime or torch; else the best here.")
    ] = None,
    precision: Annotated[PrecisionName | None, typer.Option(help="Of those in the bundle.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampler steps: 1 preview, 4 default, 8 quality.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Draw one sample instead of the mean.")
    ] = None,
    task: Annotated[ImageTask | None, typer.Option(help="For image input.")] = None,
    formats: Annotated[
        str, typer.Option("--format", help="dicom, h5, nii, npy, png; separated by commas.")
    ] = DEFAULT_FORMAT,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Reconstruct MRI from k-space and CT from sinograms; denoise, inpaint or enlarge images.

    [dim]ldmpir-edge run scan.h5 -o out --format dicom,png[/dim]
    """
    from ldmpir_edge.reconstruct import load
    from ldmpir_edge.scans.write import FORMATS

    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown or not wanted:
        given = ", ".join(unknown) if unknown else "nothing"
        raise UsageError(f"unknown output format {given}; choose of {', '.join(FORMATS)}")
    reconstructor = load(
        bundle,
        backend=backend,
        precision=precision.value if precision else None,
        n_steps=steps,
    )
    report: dict[str, Any] = {
        "outputs": [],
        "backend": "",
        "precision": reconstructor.precision,
        "steps": reconstructor.n_steps,
        "seconds": {},
        "checks": [],
        "notes": [],
    }
    if not reconstructor.bundle.manifest.verified:
        print_note("this bundle was exported with --no-gate: nobody checked its image")
    for group in _group(scans):
        _run_one(reconstructor, group, output, wanted, task, seed, report)
    report["backend"] = reconstructor.backend
    reason = reconstructor.reason
    reconstructor.close()
    if as_json:
        print_json(report)
        return
    total = sum(report["seconds"].values())
    print_result(
        f"{len(report['checks'])} slices in {total:.1f} s on {report['backend']}, "
        f"{report['precision']}, {report['steps']} steps ({reason})"
    )
    for path in report["outputs"]:
        print_result(path)


def _run_one(
    reconstructor: Reconstructor,
    group: list[Path],
    output: Path,
    formats: Sequence[str],
    task: ImageTask | None,
    seed: int | None,
    report: dict[str, Any],
) -> None:
    import time

    from ldmpir_edge.scans.write import write_outputs

    with progress_bar(f"reconstructing {group[0].name}") as progress:

        def on_slice(done: int, total: int) -> None:
            progress.update(progress.task_ids[0], completed=done, total=total)

        recon = reconstructor(
            group if len(group) > 1 else group[0],
            task=task.value if task else None,
            seed=seed,
            on_slice=on_slice,
        )
    started = time.perf_counter()
    outputs = write_outputs(recon, output, formats)
    if "png" in formats:
        outputs.append(_write_comparison(reconstructor, recon.stem, output, recon.info.modality))
    reconstructor.seconds["write"] += time.perf_counter() - started
    report["outputs"] += [str(path) for path in outputs]
    for stage, seconds in reconstructor.seconds.items():
        report["seconds"][stage] = report["seconds"].get(stage, 0.0) + round(seconds, 4)
    for index, checks in enumerate(recon.checks):
        report["checks"].append({"scan": str(group[0]), "slice": index, **checks})
        if checks["fallback"]:
            print_note(
                f"{group[0]}, slice {index}: the classical image is delivered, since "
                f"{checks['fallback']}"
            )
    report["notes"] += [note for note in recon.all_notes if note not in report["notes"]]


def _write_comparison(reconstructor: Reconstructor, stem: str, output: Path, modality: Any) -> Path:
    from ldmpir_edge.report.figure import comparison_figure

    comparison = reconstructor.comparison
    if comparison is None:
        raise UsageError("there is no slice to draw")
    unreconstructed, reference = comparison.unreconstructed, comparison.reference
    if reference is not None and reference.shape != comparison.ours.shape:
        reference = None
    if unreconstructed.shape != comparison.ours.shape:
        unreconstructed = comparison.ours
    path = output / f"{stem}-comparison.png"
    title = (
        f"{stem}: {reconstructor.bundle.manifest.model.id}, {reconstructor.n_steps} steps, "
        f"{reconstructor.precision}, {reconstructor.backend}"
    )
    comparison_figure(path, unreconstructed, comparison.ours, reference, title, modality)
    return path


def _group(scans: Sequence[Path]) -> list[list[Path]]:
    """Take DICOM files as one series, and everything else as a scan of its own."""
    from ldmpir_edge.scans.dicom_in import is_dicom

    series: list[Path] = []
    groups: list[list[Path]] = []
    for path in scans:
        try:
            with path.open("rb") as stream:
                dicom = is_dicom(stream.read(512))
        except OSError:
            # Reading it will say what is wrong; a folder also comes this way.
            dicom = False
        if dicom:
            series.append(path)
        else:
            groups.append([path])
    return [*([series] if series else []), *groups]
