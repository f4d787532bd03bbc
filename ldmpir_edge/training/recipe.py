"""The training recipe: the `[training]` table of a model.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ldmpir_edge.errors import UsageError
from ldmpir_edge.models.config import ModelConfig


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
        Image sizes to draw from.
    batch
        Examples of one update, drawn from one after the other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_updates: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=50, ge=0)
    n_steps: tuple[int, ...] = ()
    size: tuple[int, ...] = (256,)
    batch: int = Field(default=1, gt=0)


class Recipe(BaseModel):
    """Everything that decides the outcome of a training, but the images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    ssim_weight: float = Field(default=0.05, ge=0)
    ema_decay: float = Field(default=0.999, gt=0, lt=1)
    gradient_clip: float = Field(default=1.0, gt=0)
    tasks: dict[str, float] = Field(
        default={
            "mri-columns": 0.45,
            "mri-2d": 0.08,
            "ct": 0.17,
            "denoise": 0.12,
            "inpaint": 0.08,
            "super-resolve": 0.10,
        }
    )
    stages: tuple[Stage, ...]


def read_recipe(path: Path) -> tuple[ModelConfig, Recipe]:
    """Read `[architecture]` and `[training]` from a model.toml.

    Raises
    ------
    UsageError
        The file is missing, is not TOML or has a wrong or unknown entry.
    """
    try:
        document = tomllib.loads(path.read_text())
        return ModelConfig(**document["architecture"]), Recipe(**document["training"])
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError, ValidationError) as err:
        reason = str(err).replace("\n", " ")
        raise UsageError(f"{path} is not a training recipe: {reason}") from err
