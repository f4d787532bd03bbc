"""What a fine-tuning does: frozen, and part of its checkpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Loss = Literal["equivariant", "split", "supervised"]
LOSSES: tuple[Loss, ...] = ("equivariant", "split", "supervised")


class FinetuneRecipe(BaseModel):
    """Settings of a run.

    Parameters
    ----------
    loss
        What the updates minimise; see `ldmpir_edge.finetuning.losses`.
    rank
        Of low-rank updates of the kernels that else stay; 0 for none.
    seed
        Of everything that is drawn.
    n_updates, learning_rate
        The rate falls as a cosine from its peak to its tenth.
    check_every
        Updates between two looks at the held-out measurements.
    patience
        Looks without a better one after which the run ends.
    margin
        Part of the base's held-out error that must go, or the base is kept.
    n_steps
        Sampler steps that are trained and judged: those of the default preset.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Loss = "equivariant"
    rank: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    n_updates: int = Field(default=120, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    check_every: int = Field(default=20, gt=0)
    patience: int = Field(default=4, gt=0)
    margin: float = Field(default=0.02, ge=0, lt=1)
    n_steps: int = Field(default=4, gt=0)
