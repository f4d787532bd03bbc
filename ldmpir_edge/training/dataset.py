"""Endless simulated examples, each a function of the seed and its index alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ldmpir_edge.physics.normal import BATCHED_TABLES
from ldmpir_edge.training.acquisitions import SIMULATORS, Example
from ldmpir_edge.training.augment import random_contrast, random_view
from ldmpir_edge.training.images import ImageStack
from ldmpir_edge.training.recipe import Recipe

CT_TASKS = {"ct"}
MR_TASKS = {"mri-columns", "mri-2d"}
AIR_HU = -1000.0


class SimulatedScans(Dataset[dict[str, Any]]):
    """Example i is drawn with a generator seeded by (seed, i), so that a run can be resumed.

    Parameters
    ----------
    stacks
        The images; a stack is drawn with a weight of √n for its n slices, so that one long
        volume does not drown the others.
    recipe
        Gives the seed and the mix of tasks.
    sizes
        Image sizes to draw from.
    start, length
        First index and number of examples.
    """

    def __init__(
        self,
        stacks: Sequence[ImageStack],
        recipe: Recipe,
        sizes: Sequence[int],
        start: int,
        length: int,
    ) -> None:
        self.stacks = list(stacks)
        self.recipe = recipe
        self.sizes = tuple(sizes)
        self.start, self.length = start, length
        weights = np.sqrt([len(s.slices) for s in self.stacks])
        self._stack_weights = weights
        modalities = {s.modality for s in self.stacks}
        possible = {
            task: weight
            for task, weight in recipe.tasks.items()
            if not (task in CT_TASKS and "ct" not in modalities)
            and not (task in MR_TASKS and "mr" not in modalities)
        }
        self._tasks = list(possible)
        self._task_weights = np.array(list(possible.values())) / sum(possible.values())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return to_tensors(self.example(self.start + index))

    def example(self, index: int) -> Example:
        """Draw example `index`."""
        rng = np.random.default_rng([self.recipe.seed, index])
        task = self._tasks[rng.choice(len(self._tasks), p=self._task_weights)]
        size = int(rng.choice(self.sizes))
        image, modality = self._image(task, size, rng)
        return SIMULATORS[task](image, modality, rng)

    def _image(
        self, task: str, size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Any]:
        fits = [
            (task not in CT_TASKS or s.modality == "ct")
            and (task not in MR_TASKS or s.modality == "mr")
            for s in self.stacks
        ]
        weights = np.where(fits, self._stack_weights, 0)
        for _ in range(10):
            stack = self.stacks[rng.choice(len(self.stacks), p=weights / weights.sum())]
            raw = stack.slices[rng.integers(len(stack.slices))].astype(np.float32)
            if stack.modality == "ct":
                image = np.maximum(random_view(np.maximum(raw, AIR_HU), size, AIR_HU, rng), AIR_HU)
            else:
                view = np.maximum(random_view(raw, size, 0.0, rng), 0)
                image = random_contrast(view, rng)
            # A view may miss the object altogether: draw again.
            if np.ptp(image) > 0 and np.mean(image > np.min(image) + 0.1 * np.ptp(image)) > 0.05:
                break
        return image, stack.modality


def to_tensors(example: Example) -> dict[str, Any]:
    """Turn an example into a batch of one."""
    problem = example.problem
    tables = {
        name: torch.from_numpy(np.ascontiguousarray(table))
        for name, table in problem.tables.items()
    }
    return {
        "family": problem.family,
        "task": problem.task,
        "b": torch.from_numpy(problem.b)[None],
        "x1": torch.from_numpy(problem.x1)[None],
        "target": torch.from_numpy(example.target)[None],
        "noise_level": torch.tensor([problem.noise_level], dtype=torch.float32),
        "condition": torch.from_numpy(problem.condition)[None],
        "tables": {k: v[None] if k in BATCHED_TABLES else v for k, v in tables.items()},
    }
