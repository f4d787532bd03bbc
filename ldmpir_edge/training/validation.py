"""Held-out examples, looked at while a model trains: the validation curve."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch

from ldmpir_edge.atomic import atomic_file, output_errors
from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.training.dataset import SimulatedScans, reconstruct
from ldmpir_edge.training.images import ImageStack
from ldmpir_edge.training.losses import psnr
from ldmpir_edge.training.recipe import Recipe

SEED = 20_000_003
"""Of the examples: the same for every recipe's seed, so that runs can be compared."""
N_EXAMPLES = 4
N_STEPS = 4
COLUMNS = ("update", "task", "psnr", "psnr_x1")


class Validation:
    """Measures a model on `N_EXAMPLES` examples of each task, the same ones at every look.

    Parameters
    ----------
    stacks
        Images that the training does not see.
    recipe
        Names the tasks; its last stage the size of the examples, the largest it draws.
    path
        A CSV file: a row a look and task, with the means of the PSNR (dB) of the reconstruction
        at `N_STEPS` steps and of the classical image.

    Raises
    ------
    ScanDataError
        The images can serve none of the recipe's tasks.
    """

    def __init__(self, stacks: Sequence[ImageStack], recipe: Recipe, path: Path) -> None:
        self.path = path
        size = max(recipe.stages[-1].size)
        self._examples = {}
        for task in recipe.tasks:
            alone = recipe.model_copy(update={"seed": SEED, "tasks": {task: 1.0}})
            try:
                scans = SimulatedScans(stacks, alone, (size,), 0, N_EXAMPLES)
            except ScanDataError:
                # No image of the task's modality is held out.
                continue
            self._examples[task] = [scans[k] for k in range(N_EXAMPLES)]
        if not self._examples:
            raise ScanDataError(
                f"none of the {len(stacks)} validation volumes can serve the recipe's tasks; "
                "MRI tasks need MR images and CT tasks HU images"
            )

    @torch.no_grad()
    def look(self, model: LdmPir, update: int) -> None:
        """Measure a model and add its rows to the file.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        rows = []
        for task, items in self._examples.items():
            images = [reconstruct(model, item, N_STEPS) for item in items]
            reached = fmean(psnr(x, item["target"]) for x, item in zip(images, items, strict=True))
            start = fmean(psnr(item["x1"], item["target"]) for item in items)
            rows.append((update, task, round(reached, 3), round(start, 3)))
        with output_errors(self.path):
            new = not self.path.exists()
            with self.path.open("a", newline="") as f:
                writer = csv.writer(f)
                writer.writerows([COLUMNS, *rows] if new else rows)

    def cut(self, n_updates: int) -> None:
        """Drop the looks after the first `n_updates`: a resumed run repeats them.

        Raises
        ------
        OutputError
            The file cannot be read or written.
        """
        with output_errors(self.path):
            if not self.path.exists():
                return
            header, *lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if int(line.partition(b",")[0]) <= n_updates]
        with atomic_file(self.path) as temporary:
            temporary.write_bytes(b"".join([header, *kept]))
