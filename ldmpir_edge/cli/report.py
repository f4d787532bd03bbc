"""`ldmpir-edge report`: one HTML page to look at a reconstruction."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldmpir_edge.cli.output import print_json, print_note, print_result, progress_bar
from ldmpir_edge.cli.parameters import BackendOption, BundleOption, FactorOption
from ldmpir_edge.cli.run import ImageTask, PrecisionName, group_scans
from ldmpir_edge.errors import UsageError

if TYPE_CHECKING:
    from ldmpir_edge.physics.problem import Task


def report(
    scans: Annotated[
        list[Path],
        typer.Argument(metavar="SCAN", help="A file, or files or a folder of a DICOM series."),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="HTML file; else NAME-report.html here.")
    ] = None,
    bundle: BundleOption = "ldmpir-2m",
    backend: BackendOption = None,
    precision: Annotated[PrecisionName | None, typer.Option(help="Of those in the bundle.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampler steps: 1 preview, 4 default, 8 quality.")
    ] = None,
    task: Annotated[ImageTask | None, typer.Option(help="For image input.")] = None,
    factor: FactorOption = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Draw so many samples for a map of uncertainty.")
    ] = 0,
    slices: Annotated[
        str | None, typer.Option(help="For example 3,7,10-20; else as many as fit, spread evenly.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Reconstruct a scan into one HTML page: images, errors, checks and provenance.

    [dim]ldmpir-edge report scan.h5 --samples 8[/dim]
    """
    from ldmpir_edge.atomic import make_folder
    from ldmpir_edge.reconstruct import load
    from ldmpir_edge.reconstruct.scan_report import ScanReport, check_fits, spread_slices
    from ldmpir_edge.report.html import require_templates, write_page
    from ldmpir_edge.scans.detect import open_scan
    from ldmpir_edge.scans.write import refuse_input

    require_templates()
    group, *others = group_scans(scans)
    if others:
        raise UsageError(
            f"{group[0]} and {others[0][0]} are two scans, and a report is of one; "
            "ldmpir-edge run --report writes one for each"
        )
    started = time.perf_counter()
    wanted: Task | None = task.value if task else None
    reconstructor = load(
        bundle, backend=backend, precision=precision.value if precision else None, n_steps=steps
    )
    checks: list[dict[str, Any]] = []
    with open_scan(group) as scan:
        header = reconstructor.header(scan, task=wanted, factor=factor)
        path = output or Path(f"{header.stem}-report.html")
        refuse_input(path, scan.files)
        if slices is None:
            shown = spread_slices(header.shape)
        else:
            shown = parse_slices(slices, scan.n_slices)
            check_fits(shown, header.shape)
        seen = ScanReport(scan, header, shown, samples)
        stream = reconstructor.stream(
            scan,
            task=wanted,
            factor=factor,
            slices=shown,
            n_samples=samples,
            observe=seen.observe,
        )
        make_folder(path.parent)
        with closing(stream), progress_bar(f"reconstructing {group[0].name}") as progress:
            for piece in stream:
                checks.append({"slice": piece.index, **piece.checks})
                if piece.fallback:
                    print_note(
                        f"slice {piece.index} is the classical image, since {piece.fallback}"
                    )
                bar = progress.task_ids[0]
                progress.update(bar, completed=len(checks), total=len(shown))
    seconds = {**reconstructor.seconds, "wall": time.perf_counter() - started}
    write_page(path, seen.page(reconstructor, seconds))
    chosen = reconstructor.backend
    reconstructor.close()
    if as_json:
        print_json(
            {
                "outputs": [str(path)],
                "backend": chosen,
                "precision": reconstructor.precision,
                "steps": reconstructor.n_steps,
                "samples": samples,
                "seconds": {stage: round(spent, 4) for stage, spent in seconds.items()},
                "checks": checks,
            }
        )
    else:
        print_result(str(path))


def parse_slices(text: str, n_slices: int) -> tuple[int, ...]:
    """List the slices that `3,7,10-20` names, in order and each once.

    Raises
    ------
    UsageError
        It is not of this form, or names none or one that a scan of `n_slices` does not have.
    """
    found: set[int] = set()
    for word in text.split(","):
        first, dash, last = word.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise UsageError(f"--slices {text!r} is not a list like 3,7,10-20")
        if int(last or first) >= n_slices:
            raise UsageError(f"there is no slice {last or first}; choose of 0 to {n_slices - 1}")
        found.update(range(int(first), int(last or first) + 1))
    if not found:
        raise UsageError(f"--slices {text!r} names no slice; give a list like 3,7,10-20")
    return tuple(sorted(found))
