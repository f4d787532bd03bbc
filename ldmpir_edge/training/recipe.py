"""The training recipe: the `[training]` table of a model.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ldmpir_edge.errors import UsageError
from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.physics.problem import SIZE_MULTIPLE

TrainingTask = Literal[
    "mri-columns", "mri-2d", "ct", "ct-fan", "denoise", "inpaint", "super-resolve"
]
"""What can be simulated; see `ldmpir_edge.training.acquisitions`."""

MIN_SIZE = 2 * SIZE_MULTIPLE
"""Smaller images have no room for the autocalibration block of a 2-D mask."""


class Stage(BaseModel):
    """One stage of training.

    Parameters
    ----------
    n_updates
        Optimiser steps.
    learning_rate
        Peak of a linear warm-up over the first `warmup` updates and a cosine decay to a tenth.
    n_steps
        Sampler steps to draw from, unrolled; empty trains single steps at random bridge times.
    size
        Image sizes to draw from, multiples of 16 from 32.
    batch
        Examples of one update; they are worked on side by side where there are cores for it.
    echo
        Times that each example is used, its uses spread over 32 examples. Simulating an example
        takes as long as half an update (Choi et al., "Faster neural network training with
        data echoing", arXiv:1907.05550, 2019).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_updates: int = Field(gt=0)
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    warmup: int = Field(default=50, ge=0)
    n_steps: tuple[Annotated[int, Field(gt=0)], ...] = ()
    size: tuple[Annotated[int, Field(ge=MIN_SIZE, multiple_of=SIZE_MULTIPLE)], ...] = Field(
        default=(256,), min_length=1
    )
    batch: int = Field(default=1, gt=0)
    echo: int = Field(default=1, gt=0)


class Recipe(BaseModel):
    """Everything that decides the outcome of a training, but the images.

    Parameters
    ----------
    seed
        Of the initial weights, the examples and the bridge's draws.
    ssim_weight
        Weight of 1 − SSIM in the loss.
    ema_decay
        Decay of the average of the weights that is kept as the model.
    gradient_clip
        Largest norm of a gradient.
    bf16
        Compute the network in bfloat16; see `ldmpir_edge.training.mixed_precision`.
    tasks
        Relative frequency of each task.
    stages
        Run one after the other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, lt=2**32)
    ssim_weight: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    ema_decay: float = Field(default=0.999, gt=0, lt=1)
    gradient_clip: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    bf16: bool = False
    tasks: dict[TrainingTask, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default={
            "mri-columns": 0.45,
            "mri-2d": 0.08,
            "ct": 0.17,
            "denoise": 0.12,
            "inpaint": 0.08,
            "super-resolve": 0.10,
        }
    )
    stages: tuple[Stage, ...] = Field(min_length=1)

    @field_validator("tasks")
    @classmethod
    def _some_task(cls, tasks: dict[TrainingTask, float]) -> dict[TrainingTask, float]:
        if not sum(tasks.values()) > 0:
            raise ValueError("no task has a weight above zero")
        return tasks


class _ModelToml(BaseModel):
    """The two tables of a model.toml that training reads; the others describe the model."""

    architecture: ModelConfig
    training: Recipe


def read_recipe(path: Path) -> tuple[ModelConfig, Recipe]:
    """Read `[architecture]` and `[training]` from a model.toml.

    Raises
    ------
    UsageError
        The file is missing, is not TOML or has a wrong, missing or unknown entry; the message
        names each.
    """
    try:
        with path.open("rb") as f:
            document = _ModelToml.model_validate(tomllib.load(f))
    except ValidationError as err:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors())
        raise UsageError(f"{path} is not a training recipe: {faults}") from err
    except (OSError, ValueError) as err:
        reason = " ".join(str(err).split())
        raise UsageError(f"cannot read the training recipe {path}: {reason}") from err
    return document.architecture, document.training
