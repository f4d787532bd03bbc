"""`ldmpir-edge compare`: two bundles, engines or precisions on one scan."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldmpir_edge.cli.output import print_json, print_note, print_result, print_table, progress_bar

if TYPE_CHECKING:
    from ldmpir_edge.reconstruct.pair import Pair

SIDE = "BUNDLE, with @PRECISION or @BACKEND."


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=SIDE)],
    second: Annotated[str, typer.Argument(metavar="B", help=SIDE)],
    path: Annotated[
        Path, typer.Argument(metavar="SCAN", help="A file, or the folder of a DICOM series.")
    ],
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the middle slice in this PNG.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write this HTML page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Compare two bundles, engines or precisions on the middle slices of a scan.

    [dim]ldmpir-edge compare ldmpir-2m@fp32 ldmpir-2m@fp16 scan.h5 --report fp16.html[/dim]
    """
    from ldmpir_edge.atomic import make_folder
    from ldmpir_edge.reconstruct.pair import compare_pair, find_contender
    from ldmpir_edge.scans.detect import open_scan
    from ldmpir_edge.scans.write import refuse_input

    if report is not None:
        from ldmpir_edge.report.html import require_templates

        require_templates()
    one, other = find_contender(first), find_contender(second)
    outputs = [target for target in (figure, report) if target is not None]
    with open_scan(path) as scan:
        for target in outputs:
            refuse_input(target, scan.files)
            make_folder(target.parent)
        with progress_bar(f"comparing on {path.name}") as progress:
            pair = compare_pair(
                one,
                other,
                scan,
                lambda done, total: progress.update(
                    progress.task_ids[0], completed=done, total=total
                ),
            )
        if figure is not None:
            _draw(figure, pair, path, scan.info.pixel_spacing_mm)
        if report is not None:
            from ldmpir_edge.reconstruct.pair_report import pair_page
            from ldmpir_edge.report.html import write_page

            write_page(report, pair_page(pair, scan, datetime.now(UTC)))
    if as_json:
        print_json(
            {
                "scan": str(path),
                "task": pair.slices.task,
                "slices": list(pair.slices.indices),
                "results": [
                    {
                        "name": side.name,
                        "bundle_sha256": side.bundle.digest,
                        "steps": side.bundle.manifest.sampler.default_n_steps,
                        **asdict(result),
                    }
                    for side, result in zip(pair.contenders, pair.results, strict=True)
                ],
                "outputs": [str(target) for target in outputs],
            }
        )
        return
    _print(pair, path)
    for target in outputs:
        print_result(str(target))


def _draw(
    figure: Path, pair: Pair, path: Path, pixel_spacing_mm: tuple[float, float] | None
) -> None:
    from ldmpir_edge.report.figure import difference_figure

    slices = pair.slices
    middle = len(slices.indices) // 2
    one, other = pair.runs
    difference_figure(
        figure,
        (one.images[middle], other.images[middle]),
        (pair.contenders[0].name, pair.contenders[1].name),
        None if slices.references is None else slices.references[middle],
        f"{path.name}, slice {slices.indices[middle]}",
        slices.modality,
        pixel_spacing_mm,
    )


def _print(pair: Pair, path: Path) -> None:
    from ldmpir_edge.reconstruct.pair_report import COLUMNS, comparison_rows, describe_difference

    slices = pair.slices
    some = "slice" if len(slices.indices) == 1 else "slices"
    which = f"{some} {', '.join(map(str, slices.indices))} of {path.name}"
    first, second = pair.contenders
    print_table(
        f"{slices.task}, {which}; A is {first.name}, B is {second.name}",
        COLUMNS,
        comparison_rows(pair, ("A", "B")),
    )
    print_result(describe_difference(pair))
    for side, result in zip(pair.contenders, pair.results, strict=True):
        if result.reason:
            print_note(f"{side.name}: {result.reason}")
