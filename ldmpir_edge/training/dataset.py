"""Endless simulated examples, each a function of the seed and its index alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ldmpir_edge.errors import ScanDataError
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.sampler import sample
from ldmpir_edge.physics.normal import batch_of_one
from ldmpir_edge.physics.problem import SIZE_MULTIPLE, Family, Modality, Task
from ldmpir_edge.training.acquisitions import FINER, SIMULATORS, Example, on_grid
from ldmpir_edge.training.augment import (
    AIR,
    above_air,
    block_means,
    native_view,
    random_contrast,
    random_discs,
    random_view,
    shorter_kspace,
    square_part,
)
from ldmpir_edge.training.images import ImageStack
from ldmpir_edge.training.recipe import Recipe, TrainingTask

P_NATIVE = 0.65
"""Share of the images that are not resampled; of MR images to super-resolve it is all."""
P_SHORTER = 0.75
"""Share of the MR images not resampled that lose the outer part of k-space, which may be zero; of
those to super-resolve it is all."""
P_DISCS = 0.5
"""Share of the images that get discs."""
DISC_HU = 400.0
"""Contrast of a disc of 100 %: 5 to 40 % of it is what tells a lesion from its tissue."""
ECHO_BLOCK = 32
"""Examples among which the uses of an echoed one are spread; a worker keeps them in memory."""
N_VIEWS = 10
"""Views to draw before one that shows almost nothing is taken as it is."""

REQUIRED_MODALITY: dict[TrainingTask, Modality] = {
    "mri-columns": "mr",
    "mri-2d": "mr",
    "ct": "ct",
    "ct-fan": "ct",
}
"""Tasks that only images of one modality can serve; the others take any."""


class TrainingItem(TypedDict):
    """An example as a batch of one: the sampler's inputs, `target` `(1, 2, H, W)` and `spots`.

    `spots` `(1, 1, H, W)` is 1 where small discs changed the image, or a share of the pixel.
    """

    family: Family
    task: Task
    b: Tensor
    x1: Tensor
    target: Tensor
    spots: Tensor
    noise_level: Tensor
    condition: Tensor
    tables: dict[str, Tensor]


class SimulatedScans(Dataset[TrainingItem]):
    """Example i is drawn with a generator seeded by (seed, i), so that a run can be resumed.

    Parameters
    ----------
    stacks
        The images; a stack is drawn with a weight of √n for its n slices, so that one long
        volume does not drown the others, and a modality with the root of its stacks' weights.
    recipe
        Gives the seed and the mix of tasks; a task that no image can serve is left out.
    sizes
        Image sizes to draw from. What has been cut in k-space to fewer pixels gets fewer.
    start, length
        First index and number of examples.
    echo
        Times that each example is used, in an order that is a function of the seed. Each worker
        keeps the examples that it made: one worker saves most.
    offset
        Added to the indices of the examples, which sets those of a stage of training apart.

    Raises
    ------
    ScanDataError
        The images can serve none of the recipe's tasks.
    """

    def __init__(
        self,
        stacks: Sequence[ImageStack],
        recipe: Recipe,
        sizes: Sequence[int],
        start: int,
        length: int,
        echo: int = 1,
        offset: int = 0,
    ) -> None:
        self.echo, self.offset = echo, offset
        self._kept: dict[int, TrainingItem] = {}
        self.stacks = tuple(stacks)
        self.recipe = recipe
        self.sizes = tuple(sizes)
        self.start, self.length = start, length
        roots = np.sqrt([len(s.slices) for s in self.stacks])
        modalities = np.array([s.modality for s in self.stacks])
        of_modality = {m: roots[modalities == m].sum() for m in set(modalities)}
        self._stack_weights = roots / np.sqrt([of_modality[m] for m in modalities])
        possible = {
            task: weight
            for task, weight in recipe.tasks.items()
            if any(_serves(stack, task) for stack in self.stacks)
        }
        total = sum(possible.values())
        if total == 0:
            raise ScanDataError(
                f"none of the {len(self.stacks)} image volumes can serve the recipe's tasks "
                f"({', '.join(recipe.tasks)}); MRI tasks need MR images and CT tasks HU images"
            )
        self._tasks = list(possible)
        self._task_weights = np.array(list(possible.values())) / total

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TrainingItem:
        source = self.source(self.start + index)
        if self.echo == 1:
            return to_tensors(self.example(self.offset + source))
        if source not in self._kept:
            block = source // ECHO_BLOCK
            self._kept = {k: v for k, v in self._kept.items() if k // ECHO_BLOCK == block}
            self._kept[source] = to_tensors(self.example(self.offset + source))
        # A copy: a worker hands over what it answers in shared memory, where it would stay.
        return copy.deepcopy(self._kept[source])

    def source(self, place: int) -> int:
        """Return which example, but for the offset, is used at a place of the echoed sequence."""
        if self.echo == 1:
            return place
        block, within = divmod(place, self.echo * ECHO_BLOCK)
        rng = np.random.default_rng([self.recipe.seed, block, self.echo, ECHO_BLOCK])
        order = rng.permutation(self.echo * ECHO_BLOCK)
        return block * ECHO_BLOCK + int(order[within]) % ECHO_BLOCK

    def example(self, index: int) -> Example:
        """Draw example `index`.

        Raises
        ------
        ScanDataError
            The drawn slices are constant: there is nothing to learn from them.
        """
        rng = np.random.default_rng([self.recipe.seed, index])
        task = self._tasks[rng.choice(len(self._tasks), p=self._task_weights)]
        size, finer = int(rng.choice(self.sizes)), FINER.get(task, 1)
        image, spots, modality = self._image(task, size * finer, rng)
        example = SIMULATORS[task](image, modality, rng)
        return replace(example, spots=on_grid(block_means(spots, finer), example.problem))

    def _image(
        self, task: TrainingTask, size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Modality]:
        """Draw a view of a slice; return it, what of it discs cover, and its modality."""
        weights = np.where([_serves(s, task) for s in self.stacks], self._stack_weights, 0)
        for _ in range(N_VIEWS):
            stack = self.stacks[rng.choice(len(self.stacks), p=weights / weights.sum())]
            raw = stack.slices[rng.integers(len(stack.slices))].astype(np.float32)
            is_mr = stack.modality == "mr"
            # Who asks for a finer grid wants what it can hold, not an empty top of the spectrum.
            is_full = is_mr and task == "super-resolve"
            view = native_view if is_full or rng.random() < P_NATIVE else random_view
            side = size
            # Resampling would only enlarge it again.
            if view is native_view and is_mr and (is_full or rng.random() < P_SHORTER):
                raw = square_part(shorter_kspace(raw, rng), rng)
                # A border of zeros round it would be learned, too: that background without signal
                # has no noise, either.
                fitting = len(raw) // SIZE_MULTIPLE * SIZE_MULTIPLE
                side = min(size, max(fitting, SIZE_MULTIPLE))
            image = above_air(view, raw, stack.modality, side, rng)
            if is_mr:
                image = random_contrast(image, rng)
            plain = image
            if rng.random() < P_DISCS:
                unit = DISC_HU if stack.modality == "ct" else image
                image = np.maximum(random_discs(image, unit, rng), AIR[stack.modality])
            # A view may miss the object altogether: draw again.
            if np.ptp(image) > 0 and np.mean(image > np.min(image) + 0.1 * np.ptp(image)) > 0.05:
                break
        if np.ptp(image) == 0:
            raise ScanDataError(
                f"{N_VIEWS} views in a row, the last of {stack.name}, show a constant image; "
                "remove empty volumes from the training images"
            )
        return image, (image != plain).astype(np.float32), stack.modality


def _serves(stack: ImageStack, task: TrainingTask) -> bool:
    return REQUIRED_MODALITY.get(task, stack.modality) == stack.modality


def to_tensors(example: Example) -> TrainingItem:
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
        "spots": torch.zeros(1, 1, *example.target.shape[1:])
        if example.spots is None
        else torch.from_numpy(example.spots)[None, None],
        "noise_level": torch.tensor([problem.noise_level], dtype=torch.float32),
        "condition": torch.from_numpy(problem.condition)[None],
        "tables": batch_of_one(tables),
    }


def reconstruct(model: LdmPir, item: TrainingItem, n_steps: int) -> Tensor:
    """Run the deterministic sampler on an example; returns `(1, 2, H, W)`."""
    return sample(
        model,
        item["x1"],
        item["b"],
        item["noise_level"],
        item["condition"],
        item["family"],
        item["tables"],
        n_steps,
    )
