"""`ldmpir-edge run`: reconstruct scans."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldmpir_edge.cli.output import print_json, print_note, print_result, progress_bar
from ldmpir_edge.cli.parameters import (
    BackendOption,
    BundleOption,
    FactorOption,
    complete_formats,
)
from ldmpir_edge.errors import LdmpirError, UsageError

if TYPE_CHECKING:
    from ldmpir_edge.physics.problem import Task
    from ldmpir_edge.reconstruct import Reconstructor
    from ldmpir_edge.reconstruct.scan_report import ScanReport
    from ldmpir_edge.scans.model import Scan
    from ldmpir_edge.scans.reconstruction import VolumeHeader

_log = logging.getLogger(__name__)

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
        list[Path], typer.Argument(metavar="SCAN", help="Files, or folders of a DICOM series.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the outputs.")] = HERE,
    bundle: BundleOption = "ldmpir-2m",
    backend: BackendOption = None,
    precision: Annotated[PrecisionName | None, typer.Option(help="Of those in the bundle.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampler steps: 1 preview, 4 default, 8 quality.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Draw one sample instead of the mean.")
    ] = None,
    task: Annotated[ImageTask | None, typer.Option(help="For image input.")] = None,
    factor: FactorOption = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            autocompletion=complete_formats,
            help="dicom, h5, nii, npy, png, viewer; separated by commas.",
        ),
    ] = DEFAULT_FORMAT,
    with_page: Annotated[
        bool, typer.Option("--report", help="Also write NAME-report.html, to be looked at.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Reconstruct MRI from k-space and CT from sinograms; denoise, inpaint or enlarge images.

    [dim]ldmpir-edge run scan.h5 -o out --format dicom,png[/dim]
    """
    from ldmpir_edge.scans.detect import expect_scans

    expect_scans(scans)
    from ldmpir_edge.reconstruct import load

    if with_page:
        from ldmpir_edge.report.html import require_templates

        require_templates()
    wanted = [name.strip() for name in formats.split(",") if name.strip()]
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
    groups = group_scans(scans)
    if len(groups) > 1:
        _keep_apart(reconstructor, groups, output, wanted, task, factor)
    for group in groups:
        _run_one(
            reconstructor, group, output, wanted, task, factor, seed, report, with_page=with_page
        )
    report["backend"] = reconstructor.backend
    reason = reconstructor.reason
    reconstructor.close()
    _log.debug("seconds by stage, which overlap: %s", report["seconds"])
    if as_json:
        print_json(report)
        return
    print_result(
        f"{len(report['checks'])} slices in {report['seconds']['wall']:.1f} s on "
        f"{report['backend']}, {report['precision']}, {report['steps']} steps ({reason})"
    )
    for path in report["outputs"]:
        print_result(path)


def _keep_apart(
    reconstructor: Reconstructor,
    groups: Sequence[list[Path]],
    output: Path,
    formats: Sequence[str],
    task: ImageTask | None,
    factor: int | None,
) -> None:
    """Refuse scans of which an output would replace another's, or another scan.

    One that cannot be read is left for its turn to say so: those before it are reconstructed.
    """
    from ldmpir_edge.scans.detect import open_scan
    from ldmpir_edge.scans.write import output_paths, refuse_input

    headers: dict[str, VolumeHeader] = {}
    for group in groups:
        try:
            with open_scan(group) as scan:
                header = reconstructor.header(
                    scan, task=task.value if task else None, factor=factor
                )
        except LdmpirError:
            continue
        if header.stem in headers:
            other = headers[header.stem].input_files[0]
            raise UsageError(
                f"the outputs of {other} and {group[0]} would have the same names; run them one "
                "at a time, into folders of their own"
            )
        headers[header.stem] = header
    every = [path for header in headers.values() for path in header.input_files]
    for stem in headers:
        for path in output_paths(stem, output, formats):
            refuse_input(path, every)


def _run_one(
    reconstructor: Reconstructor,
    group: list[Path],
    output: Path,
    formats: Sequence[str],
    task: ImageTask | None,
    factor: int | None,
    seed: int | None,
    report: dict[str, Any],
    *,
    with_page: bool,
) -> None:
    from ldmpir_edge.scans.detect import open_scan
    from ldmpir_edge.scans.write import open_outputs

    started = time.perf_counter()
    wanted: Task | None = task.value if task else None
    notes: dict[str, None] = {}
    fallbacks: list[str] = []
    with open_scan(group) as scan:
        header = reconstructor.header(scan, task=wanted, factor=factor)
        seen = _open_report(scan, header) if with_page else None
        observe = seen.observe if seen else None
        with (
            closing(
                reconstructor.stream(scan, task=wanted, factor=factor, seed=seed, observe=observe)
            ) as slices,
            open_outputs(header, output, formats) as outputs,
            progress_bar(f"reconstructing {group[0].name}") as progress,
        ):
            notes.update(dict.fromkeys(outputs.header.notes))
            for piece in slices:
                outputs.add(piece)
                checks = {"scan": str(group[0]), "slice": piece.index, **piece.checks}
                report["checks"].append(checks)
                notes.update(dict.fromkeys(piece.notes))
                if piece.fallback:
                    fallbacks.append(
                        f"{group[0]}, slice {piece.index}: the classical image is delivered, since "
                        f"{piece.fallback}"
                    )
                bar = progress.task_ids[0]
                progress.update(bar, completed=piece.index + 1, total=scan.n_slices)
    paths = outputs.paths
    writing = time.perf_counter()
    if "png" in formats:
        paths = [*paths, _write_comparison(reconstructor, header, output)]
    if seen is not None:
        so_far = {"write": outputs.seconds, "wall": writing - started}
        paths = [*paths, _write_report(seen, reconstructor, header, output, so_far)]
    finished = time.perf_counter()
    seconds = {
        **reconstructor.seconds,
        "write": outputs.seconds + finished - writing,
        "wall": finished - started,
    }
    for stage, spent in seconds.items():
        report["seconds"][stage] = round(report["seconds"].get(stage, 0.0) + spent, 4)
    report["outputs"] += [str(path) for path in paths]
    report["notes"] += [note for note in notes if note not in report["notes"]]
    for text in fallbacks:
        print_note(text)


def _open_report(scan: Scan, header: VolumeHeader) -> ScanReport:
    from ldmpir_edge.reconstruct.scan_report import ScanReport, spread_slices

    return ScanReport(scan, header, spread_slices(header.shape))


def _write_report(
    seen: ScanReport,
    reconstructor: Reconstructor,
    header: VolumeHeader,
    output: Path,
    spent: Mapping[str, float],
) -> Path:
    from ldmpir_edge.report.html import write_page

    path = output / f"{header.stem}-report.html"
    write_page(path, seen.page(reconstructor, {**reconstructor.seconds, **spent}))
    return path


def _write_comparison(reconstructor: Reconstructor, header: VolumeHeader, output: Path) -> Path:
    from ldmpir_edge.report.figure import comparison_figure

    comparison = reconstructor.comparison
    if comparison is None:
        raise UsageError("there is no slice to draw")
    unreconstructed, reference = comparison.unreconstructed, comparison.reference
    if reference is not None and reference.shape != comparison.ours.shape:
        reference = None
    if unreconstructed.shape != comparison.ours.shape:
        unreconstructed = comparison.ours
    path = output / f"{header.stem}-comparison.png"
    title = (
        f"{header.stem}: {reconstructor.bundle.manifest.model.id}, {reconstructor.n_steps} steps, "
        f"{reconstructor.precision}, {reconstructor.backend}"
    )
    comparison_figure(
        path,
        unreconstructed,
        comparison.ours,
        reference,
        title,
        header.info.modality,
        header.info.pixel_spacing_mm,
    )
    return path


def group_scans(scans: Sequence[Path]) -> list[list[Path]]:
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
