"""`ldmpir-edge inspect`: show what a bundle holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ldmpir_edge.cli.output import print_json, print_result, print_table


def inspect(
    bundle: Annotated[str, typer.Argument(help="Installed bundle, or a .ldmpir file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Check a bundle's hashes and signature, and show what it holds.

    [dim]ldmpir-edge inspect ldmpir-2m[/dim]
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
    if as_json:
        print_json(document)
        return
    limits = manifest.limits
    print_table(
        f"{manifest.model.id} {manifest.model.version}",
        ("", ""),
        [
            ("file", f"{opened.path} ({document['size'] / 1e6:.1f} MB)"),
            ("signature", document["signature"]),
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
    print_table(
        "Variants, each beside PyTorch fp32",
        ("family", "steps", "precision", "task", "backend", "ΔPSNR mean", "worst", "largest"),
        [
            (
                variant.family,
                str(variant.n_steps),
                variant.precision,
                result.task,
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
