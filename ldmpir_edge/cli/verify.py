"""`ldmpir-edge verify`: does every engine here still make the bundle's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldmpir_edge.cli.extras import need
from ldmpir_edge.cli.names import split_names
from ldmpir_edge.cli.output import print_json, print_note, print_result, print_table, progress_bar
from ldmpir_edge.cli.parameters import BundleArgument
from ldmpir_edge.errors import BackendError, GateError, UsageError

if TYPE_CHECKING:
    from ldmpir_edge.bundle import Bundle
    from ldmpir_edge.export.divergence import Divergence
    from ldmpir_edge.physics.problem import Task
    from ldmpir_edge.reconstruct.combinations import Combination
    from ldmpir_edge.reconstruct.scan_comparison import ScanResult
    from ldmpir_edge.reconstruct.verify import Difference, GoldenResult


def verify(
    bundle: BundleArgument,
    backend: Annotated[
        list[str] | None, typer.Option(help="Engine; repeat for several. Else all that run here.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="Repeat for several; else all in the bundle.")
    ] = None,
    scan: Annotated[
        Path | None, typer.Option(help="Also compare the engines on this scan's middle slices.")
    ] = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Find the first node that two engines compute differently."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Replay the golden pairs on every engine, and compare engines and precisions on a scan.

    [dim]ldmpir-edge verify ldmpir-2m --scan scan.h5[/dim]
    """
    from ldmpir_edge.bundle import open_bundle
    from ldmpir_edge.reconstruct.combinations import list_combinations

    opened = open_bundle(bundle)
    named = split_names(backend)
    combinations = list_combinations(opened, named, split_names(precision))
    pair = _choose_pair(combinations) if layers else None
    results = _replay(opened, combinations)
    document: dict[str, Any] = {"golden": [asdict(result) for result in results]}
    if not as_json:
        _print_golden(opened, results)
    if scan is not None:
        document["scan"] = _compare_on_scan(opened, scan, combinations, show=not as_json)
    if pair is not None:
        document["layers"] = _compare_layers(opened, results, pair, show=not as_json)
    if as_json:
        print_json(document)
    _conclude(results, named)


def _replay(bundle: Bundle, combinations: Sequence[Combination]) -> list[GoldenResult]:
    from ldmpir_edge.reconstruct.verify import replay_golden

    results = []
    total = len(bundle.manifest.families) * len(combinations)
    with progress_bar("replaying the golden pairs") as progress:
        bar = progress.task_ids[0]
        progress.update(bar, completed=0, total=total)
        for result in replay_golden(bundle, combinations):
            results.append(result)
            progress.update(bar, completed=len(results))
    return results


def _print_golden(bundle: Bundle, results: Sequence[GoldenResult]) -> None:
    manifest = bundle.manifest
    print_table(
        f"Golden pairs of {manifest.model.id} {manifest.model.version}, "
        f"{manifest.sampler.default_n_steps} steps, beside PyTorch fp32",
        ("family", "backend", "precision", "largest", "99.9 %", "PSNR", ""),
        [
            (
                result.family,
                result.backend,
                result.precision,
                *_columns(result.difference),
                {True: "passed", False: "FAILED", None: "not run"}[result.passed],
            )
            for result in results
        ],
    )
    for result in results:
        if not result.passed:
            print_note(
                f"{result.family} on {result.backend} in {result.precision}: {result.reason}"
            )


def _columns(apart: Difference | None) -> tuple[str, str, str]:
    if apart is None:
        return "", "", ""
    return f"{apart.max_abs:.1e}", f"{apart.p999_abs:.1e}", f"{apart.psnr_db:.1f}"


def _compare_on_scan(
    bundle: Bundle, path: Path, combinations: Sequence[Combination], *, show: bool
) -> dict[str, Any]:
    from ldmpir_edge.reconstruct.scan_comparison import compare_on_scan, prepare_slices
    from ldmpir_edge.scans.detect import open_scan

    results: list[ScanResult] = []
    with progress_bar(f"preparing {path.name}") as progress:
        bar = progress.task_ids[0]
        with open_scan(path) as scan:
            slices = prepare_slices(bundle, scan)
        progress.update(bar, description="comparing", completed=0, total=len(combinations))
        for result in compare_on_scan(bundle, slices, combinations):
            results.append(result)
            progress.update(bar, completed=len(results))
    if show:
        some = "slice" if len(slices.indices) == 1 else "slices"
        which = f"{some} {', '.join(map(str, slices.indices))} of {path.name}"
        _print_scan(which, slices.task, results)
    return {
        "scan": str(path),
        "task": slices.task,
        "slices": list(slices.indices),
        "results": [asdict(result) for result in results],
    }


def _print_scan(which: str, task: Task, results: Sequence[ScanResult]) -> None:
    print_table(
        f"{task}, {which}: beside the first that ran",
        ("backend", "precision", "PSNR, dB", "SSIM", "largest", "99.9 %"),
        [
            (
                result.backend,
                result.precision,
                "equal" if result.is_equal else _number(result.psnr_db, ".2f"),
                _number(result.ssim, ".4f"),
                *_columns(result.difference)[:2],
            )
            for result in results
        ],
    )
    print_table(
        f"{task}, {which}: beside the scan's own reference and its data",
        ("backend", "precision", "PSNR, dB", "SSIM", "residual", "s a slice"),
        [
            (
                result.backend,
                result.precision,
                _number(result.reference_psnr_db, ".2f"),
                _number(result.reference_ssim, ".4f"),
                _number(result.residual, ".4f"),
                _number(result.seconds, ".3f"),
            )
            for result in results
        ],
    )
    for result in results:
        if result.reason:
            print_note(f"{result.backend} in {result.precision}: {result.reason}")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _choose_pair(combinations: Sequence[Combination]) -> tuple[str, str]:
    from ldmpir_edge.runtimes import get_backend

    with need("verify --layers", "export"):
        import onnx  # noqa: F401
        import polygraphy  # noqa: F401
    names = [c.backend for c in combinations if get_backend(c.backend).runs_graphs]
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise UsageError(
            "--layers compares two engines that run the bundle's graph, and there is "
            f"{', '.join(names) or 'none'} here: name two with --backend, or install another"
        )
    return names[0], names[1]


def _compare_layers(
    bundle: Bundle, results: Sequence[GoldenResult], pair: tuple[str, str], *, show: bool
) -> dict[str, Any]:
    """Look into the graph whose golden image one of the two comes closest to failing."""
    from ldmpir_edge.export.divergence import TOLERANCES, compare_layers

    worst = min((r for r in results if r.backend in pair), key=lambda result: result.margin_db)
    with progress_bar(f"comparing {worst.family} {worst.precision}") as progress:
        bar = progress.task_ids[0]
        found = compare_layers(
            bundle,
            worst.family,
            worst.precision,
            pair,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if show:
        same = [r for r in results if (r.family, r.precision) == (worst.family, worst.precision)]
        parted = len({r.passed for r in same if r.backend in pair}) > 1
        where = f"{worst.family} in {worst.precision}, {pair[1]} beside {pair[0]}"
        print_result(f"{where}: {_summarise(found, TOLERANCES[worst.precision], parted)}")
    return {
        "family": worst.family,
        "precision": worst.precision,
        "backends": list(pair),
        "tolerance": TOLERANCES[worst.precision],
        "divergences": [asdict(divergence) for divergence in found],
    }


def _summarise(found: Sequence[Divergence], tolerance: float, parted: bool) -> str:
    """Put what `--layers` found into words; `parted` where only one engine's image passed."""
    if not found:
        text = f"every node agrees to {tolerance:g} of its largest number"
        if parted:
            text += "; their images do not, so a kernel that one of them fuses is wrong"
        return text
    first, *others = found
    text = (
        f"the first node that diverges is {first.op_type} {first.node}: given the same, its output "
        f"differs by {_number(first.difference, '.1e') or 'NaN'} of its largest number"
    )
    return f"{text}; {len(others)} more do" if others else text


def _conclude(results: Sequence[GoldenResult], named: Sequence[str]) -> None:
    failed = [result for result in results if result.passed is False]
    if failed:
        worst = min(failed, key=lambda result: result.margin_db)
        raise GateError(
            f"{len(failed)} of {len(results)} golden images are not what PyTorch made, the worst "
            f"that of {worst.family} on {worst.backend} in {worst.precision} ({worst.reason}); use "
            "another --backend or --precision for scans, and report it"
        )
    for result in results:
        if result.passed is None and (
            result.backend in named or not any(r.passed for r in results)
        ):
            raise BackendError(f"{result.backend} was not compared: {result.reason}")
