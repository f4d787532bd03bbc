"""`ldmpir-edge inspect`: show what a bundle holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldmpir_edge.cli.extras import need
from ldmpir_edge.cli.output import print_json, print_result, print_table, progress_bar
from ldmpir_edge.cli.parameters import BundleArgument
from ldmpir_edge.errors import BackendError

if TYPE_CHECKING:
    from ldmpir_edge.bundle import Bundle
    from ldmpir_edge.export.lint import LintReport

MAX_FINDINGS = 40


def inspect(
    bundle: BundleArgument,
    lint: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Check every node against the target's TensorRT."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Check a bundle's hashes and signature, and show what it holds.

    [dim]ldmpir-edge inspect ldmpir-2m --lint jetson-orin[/dim]
    """
    from ldmpir_edge.bundle import open_bundle

    opened = open_bundle(bundle)
    manifest = opened.manifest
    document: dict[str, Any] = {
        "path": str(opened.path),
        "size": opened.path.stat().st_size,
        "sha256": opened.digest,
        "signature": str(opened.trust),
        "manifest": manifest.model_dump(mode="json"),
    }
    report = _lint(opened, lint) if lint else None
    if report is not None:
        document["lint"] = asdict(report)
    if as_json:
        print_json(document)
    else:
        _print_manifest(opened)
        if report is not None:
            _print_findings(report)
    if report is not None and report.failures:
        first = report.failures[0]
        raise BackendError(
            f"{sum(finding.n_nodes for finding in report.failures)} nodes would fail on "
            f"{report.parser}, the first {first.node} ({first.operator}) in {first.graph}: "
            f"{first.reason}; rewrite it with operators of the list, or choose another target"
        )


def _lint(bundle: Bundle, target: str) -> LintReport:
    with need("checking graphs", "export"):
        import onnx  # noqa: F401

        from ldmpir_edge.export.lint import lint_bundle
        from ldmpir_edge.export.targets import read_target

    with progress_bar("checking graphs") as progress:
        bar = progress.task_ids[0]

        def on_progress(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        return lint_bundle(bundle, read_target(target), on_progress)


def _print_findings(report: LintReport) -> None:
    checked = f"{report.n_nodes:,} nodes of {report.n_graphs} graphs on {report.parser}"
    if not report.findings:
        print_result(f"{checked}: every node is supported")
        return
    print_table(
        checked,
        ("fails", "graph", "node", "operator", "nodes", "reason"),
        [
            (
                "yes" if finding.fails else "no",
                finding.graph,
                finding.node,
                finding.operator,
                str(finding.n_nodes),
                finding.reason,
            )
            for finding in report.findings[:MAX_FINDINGS]
        ],
    )
    if len(report.findings) > MAX_FINDINGS:
        print_result(f"and {len(report.findings) - MAX_FINDINGS} more; --json lists all")


def _print_manifest(opened: Bundle) -> None:
    manifest = opened.manifest
    limits = manifest.limits
    print_table(
        f"{manifest.model.id} {manifest.model.version}",
        ("", ""),
        [
            ("file", f"{opened.path} ({opened.path.stat().st_size / 1e6:.1f} MB)"),
            ("signature", str(opened.trust)),
            ("licence", manifest.model.licence),
            ("parameters", f"{manifest.model.n_parameters:,}"),
            ("created", manifest.created.isoformat(timespec="seconds")),
            ("gate", "passed" if manifest.verified else "NOT RUN: unverified"),
            (
                "image size",
                f"{limits.min_height} × {limits.min_width} to "
                f"{limits.max_height} × {limits.max_width}",
            ),
            ("coils, views", f"up to {limits.max_coils}, {limits.max_views}"),
            ("default steps", str(manifest.sampler.default_n_steps)),
        ],
    )
    if manifest.engines:
        print_table(
            "Engines compiled ahead of time",
            (
                "family",
                "steps",
                "precision",
                "library",
                "platform",
                "compute capability",
                "checked",
            ),
            [
                (
                    engine.family,
                    str(engine.n_steps),
                    engine.precision,
                    f"{engine.backend} {engine.version}",
                    engine.platform,
                    ", ".join(engine.compute_capabilities),
                    engine.validity,
                )
                for engine in manifest.engines
            ],
        )
    print_table(
        "Variants, each beside PyTorch fp32",
        ("family", "steps", "precision", "case", "backend", "ΔPSNR mean", "worst", "largest"),
        [
            (
                variant.family,
                str(variant.n_steps),
                variant.precision,
                result.case or result.task,
                result.backend,
                f"{result.psnr_delta_mean_db:+.4f} dB",
                f"{result.psnr_delta_worst_db:+.4f} dB",
                f"{result.max_abs_diff:.1e}",
            )
            for variant in manifest.variants
            for result in variant.gate
        ],
    )
    if manifest.notes:
        print_result(manifest.notes)
