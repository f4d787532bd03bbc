"""`ldmpir-edge sample`: write a simulated scan."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ldmpir_edge.cli.output import print_json, print_result

HERE = Path()


class Kind(StrEnum):
    """Kinds of sample scans."""

    mri = "mri"
    ismrmrd = "ismrmrd"
    ct = "ct"
    ct_fan = "ct-fan"
    dicom = "dicom"


def sample(
    kind: Annotated[Kind, typer.Argument(help="What to simulate.")] = Kind.mri,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the file.")] = HERE,
    seed: Annotated[int, typer.Option(min=0, help="Of the head, the coils and the noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Write a simulated scan to try things on, with its reference image.

    [dim]ldmpir-edge sample mri -o demo[/dim]
    """
    from ldmpir_edge.scans.sample import write_sample

    path = write_sample(kind.value, output, seed)
    if as_json:
        print_json({"outputs": [str(path)]})
    else:
        print_result(str(path))
