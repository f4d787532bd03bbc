"""`ldmpir-edge train`: train a model, or go on where it stopped."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldmpir_edge.cli.extras import need
from ldmpir_edge.cli.output import print_json, print_result, progress_bar

if TYPE_CHECKING:
    from ldmpir_edge.training.log import LogRow


def train(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGES...", help="Folders of images or fastMRI HDF5 files."),
    ],
    recipe: Annotated[
        Path, typer.Option("--recipe", help="A model.toml with [architecture] and [training].")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of checkpoint, log and weights.")
    ],
    initial: Annotated[
        Path | None,
        typer.Option("--initial", help="Weights (safetensors) that a new run starts from."),
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(
            "--validation", help="Folder of held-out images for a validation curve; repeatable."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that simulate scans.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Train on simulated scans of real images; run again to go on from the last checkpoint.

    [dim]ldmpir-edge train images/ --recipe models/ldmpir-2m/model.toml -o runs/mine[/dim]
    """
    with need("training", "train"):
        import torch  # noqa: F401

        from ldmpir_edge.training.images import load_folder
        from ldmpir_edge.training.loop import Trainer
        from ldmpir_edge.training.recipe import read_recipe

    config, plan = read_recipe(recipe)
    trainer = Trainer(
        config,
        plan,
        load_folder(*images),
        output,
        n_workers=workers,
        initial=initial,
        held_out=load_folder(*validation) if validation else (),
    )
    recent: deque[float] = deque(maxlen=100)
    with progress_bar("training") as progress:
        bar = progress.task_ids[0]
        progress.update(bar, total=trainer.n_updates, completed=trainer.update)

        def on_update(row: LogRow) -> None:
            recent.append(row["psnr"] - row["psnr_x1"])
            gain = sum(recent) / len(recent)
            progress.update(
                bar,
                completed=row["update"],
                description=f"training, {gain:+.2f} dB over the classical image",
            )

        weights = trainer.run(on_update)
    if as_json:
        print_json({"outputs": [str(weights)], "updates": trainer.update})
    else:
        print_result(str(weights))
