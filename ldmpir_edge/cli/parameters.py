"""Parameters that several commands take, and what the shell offers for their values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer


def complete_bundle(incomplete: str) -> list[str]:
    """Offer the installed bundles, and the `.ldmpir` files and folders that begin so."""
    from ldmpir_edge.bundle import packaged_bundles

    start = Path(incomplete)
    folder = start if incomplete.endswith("/") else start.parent
    found = sorted(folder.glob("*")) if folder.is_dir() else []
    files = [str(path) for path in found if path.suffix == ".ldmpir"]
    folders = [f"{path}/" for path in found if path.is_dir()]
    return _beginning(incomplete, [*packaged_bundles(), *files, *folders])


def complete_backend(incomplete: str) -> list[str]:
    """Offer the backends, installed or not: one that is not says how it comes."""
    from ldmpir_edge.runtimes import BACKENDS

    return _beginning(incomplete, (backend.name for backend in BACKENDS))


def complete_formats(incomplete: str) -> list[str]:
    """Offer the formats that a list, separated by commas, does not hold yet."""
    from ldmpir_edge.scans.write import FORMATS

    *given, _ = incomplete.split(",")
    so_far = "".join(f"{name}," for name in given)
    return _beginning(incomplete, (so_far + name for name in FORMATS if name not in given))


def _beginning(incomplete: str, offered: Iterable[str]) -> list[str]:
    return [text for text in offered if text.startswith(incomplete)]


BUNDLE = "Installed bundle, or a .ldmpir file."
BundleArgument = Annotated[str, typer.Argument(help=BUNDLE, autocompletion=complete_bundle)]
BundleOption = Annotated[str, typer.Option(help=BUNDLE, autocompletion=complete_bundle)]
BackendOption = Annotated[
    str | None,
    typer.Option(
        help="openvino, onnxruntime:cuda, …, of those doctor lists; else the best.",
        autocompletion=complete_backend,
    ),
]
FactorOption = Annotated[
    int | None,
    typer.Option(help="Of super-resolve: 2 or 4 times as many rows and columns; else 2."),
]
ConfigOption = Annotated[
    Path, typer.Option("--config", help="The appliance's TOML file.", metavar="FILE")
]
RouteOption = Annotated[
    str, typer.Option("--route", help="Name of one of its routes.", metavar="NAME")
]
