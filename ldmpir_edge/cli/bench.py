"""`ldmpir-edge bench`: time, memory and image quality of engines and precisions, side by side."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldmpir_edge.cli.names import split_names
from ldmpir_edge.cli.output import print_json, print_note, print_result, print_table, progress_bar
from ldmpir_edge.cli.parameters import BundleArgument
from ldmpir_edge.errors import BackendError, UsageError

if TYPE_CHECKING:
    from ldmpir_edge.bundle import Bundle
    from ldmpir_edge.reconstruct.bench import BenchPlan, BenchRow
    from ldmpir_edge.reconstruct.combinations import Combination
    from ldmpir_edge.runtimes import Machine

PROCESS = [sys.executable, "-m", "ldmpir_edge.cli.bench_process"]
SIZE, N_COILS = 256, 8
THREADS = "each engine's own choice"


def bench(
    bundle: BundleArgument,
    backends: Annotated[
        list[str] | None, typer.Option(help="Engines, by commas; else all that run here.")
    ] = None,
    precisions: Annotated[
        list[str] | None, typer.Option(help="By commas; else all in the bundle.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=32, help="Rows and columns of the simulated MR slice.")
    ] = None,
    coils: Annotated[int | None, typer.Option(min=1, help="Its receive coils.")] = None,
    scan: Annotated[
        Path | None, typer.Option(help="Take this scan's middle slice instead.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampler steps; else the bundle's default.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Slices that count, of each.")] = 20,
    plot: Annotated[Path | None, typer.Option(help="Also draw the results in this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Measure time by stage, cold start, peak memory and PSNR, each in a process of its own.

    [dim]ldmpir-edge bench ldmpir-2m --plot bench.png[/dim]
    """
    from ldmpir_edge.atomic import make_folder
    from ldmpir_edge.bundle import open_bundle
    from ldmpir_edge.reconstruct.bench import BenchPlan
    from ldmpir_edge.reconstruct.combinations import list_combinations
    from ldmpir_edge.runtimes import this_machine

    if scan is not None and (size is not None or coils is not None):
        raise UsageError("--size and --coils are for the simulated slice: leave them out of --scan")
    opened = open_bundle(bundle)
    combinations = list_combinations(opened, split_names(backends), split_names(precisions))
    n_steps = steps or opened.manifest.sampler.default_n_steps
    if plot is not None:
        make_folder(plot.parent)
    with tempfile.TemporaryDirectory(prefix="ldmpir-bench-") as folder:
        path = scan or _simulate(opened, Path(folder), size or SIZE, coils or N_COILS)
        what = _describe(opened, path, combinations, n_steps)
        rows = _measure(BenchPlan(opened.path, path, n_steps, repeats), combinations)
    machine = this_machine()
    model = opened.manifest.model
    title = f"{model.id} {model.version}, {n_steps} steps: {what}"
    if plot is not None and any(row.seconds for row in rows):
        _plot(plot, f"{title}; {machine.cpu}, {machine.n_cores} cores", rows)
    if as_json:
        print_json(
            {
                "machine": asdict(machine),
                "threads": THREADS,
                "versions": _versions(rows),
                "bundle": {"id": model.id, "version": model.version, "sha256": opened.digest},
                "scan": what,
                "steps": n_steps,
                "repeats": repeats,
                "rows": [asdict(row) for row in rows],
            }
        )
    else:
        _print(title, machine, repeats, rows)
    if not any(row.seconds for row in rows):
        raise BackendError(f"nothing could be measured: {rows[0].reason}")


def _simulate(bundle: Bundle, folder: Path, size: int, n_coils: int) -> Path:
    from ldmpir_edge.scans.sample import write_mri_slice

    bundle.manifest.limits.check(size, size, n_coils)
    path = folder / "simulated-mri.h5"
    write_mri_slice(path, size, n_coils)
    return path


def _describe(bundle: Bundle, path: Path, combinations: Sequence[Combination], n_steps: int) -> str:
    """Say what is measured; refuse what no process could reconstruct, before one is started."""
    from ldmpir_edge.reconstruct import Reconstructor
    from ldmpir_edge.scans.detect import open_scan
    from ldmpir_edge.scans.model import KspaceScan

    with open_scan(path) as scan:
        for precision in dict.fromkeys(combination.precision for combination in combinations):
            Reconstructor(bundle, precision=precision, n_steps=n_steps).header(scan)
        rows, columns = scan.image_shape
        coils = f", {scan.n_coils} coils" if isinstance(scan, KspaceScan) else ""
        return f"slice {scan.n_slices // 2} of {path.name}, {rows} × {columns}{coils}"


def _measure(plan: BenchPlan, combinations: Sequence[Combination]) -> list[BenchRow]:
    from ldmpir_edge.reconstruct.bench import run_bench

    with progress_bar("measuring") as progress:
        bar = progress.task_ids[0]

        def on_progress(what: str, done: int, total: int) -> None:
            progress.update(bar, description=f"measuring {what}", completed=done, total=total)

        return list(run_bench(plan, combinations, PROCESS, on_progress))


def _versions(rows: Sequence[BenchRow]) -> dict[str, str]:
    engines = {row.backend: row.version for row in rows if row.version}
    return {"ldmpir-edge": version("ldmpir-edge"), "numpy": version("numpy"), **engines}


def _print(title: str, machine: Machine, repeats: int, rows: Sequence[BenchRow]) -> None:
    print_result(f"{machine.cpu}, {machine.n_cores} cores; threads: {THREADS}")
    print_result(", ".join(f"{name} {number}" for name, number in _versions(rows).items()))
    measured = [row for row in rows if row.seconds]
    print_table(
        f"{title}; seconds a slice, of {repeats}",
        ("backend", "precision", "p50", "p90", "p99", "first", "cold", "MiB", "PSNR"),
        [
            (
                row.backend,
                row.precision,
                *(f"{value:.3f}" for value in asdict(row.seconds["slice"]).values()),
                "" if row.first_start_s is None else f"{row.first_start_s:.2f}",
                f"{row.cold_start_s:.2f}",
                f"{row.peak_memory_mib:.0f}",
                "" if row.psnr_db is None else f"{row.psnr_db:.2f}",
            )
            for row in measured
        ],
    )
    stages = [name for name in measured[0].seconds if name != "slice"] if measured else []
    print_table(
        "Median milliseconds by stage",
        ("backend", "precision", *stages),
        [
            (
                row.backend,
                row.precision,
                *(f"{1e3 * row.seconds[stage].p50:.1f}" for stage in stages),
            )
            for row in measured
        ],
    )
    for row in rows:
        if row.reason:
            print_note(f"{row.backend} in {row.precision}: {row.reason}")


def _plot(path: Path, title: str, rows: Sequence[BenchRow]) -> None:
    from ldmpir_edge.reconstruct.bench_worker import STAGES
    from ldmpir_edge.report.bench_figure import Timing, bench_figure

    timings = [
        Timing(
            f"{row.backend} {row.precision}",
            {stage: row.seconds[stage].p50 for stage in STAGES},
            row.seconds["slice"].p50,
            row.seconds["slice"].p90,
            row.psnr_db,
        )
        for row in rows
        if row.seconds
    ]
    bench_figure(path, timings, title)
