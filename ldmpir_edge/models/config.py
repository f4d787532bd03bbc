"""Architecture of a model: what model.toml states and weights must fit."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from ldmpir_edge.errors import UsageError


class ModelConfig(BaseModel):
    """Shape of the network and constants of the bridge.

    Parameters
    ----------
    widths
        Channels of each level, finest (half the image size) first. Four levels divide the image
        by 16, which is what preparation pads to.
    embedding
        Channels of the embedding of time, noise level and task.
    n_krylov
        Krylov vectors r, AᴴA r, … that the network sees; the first is free.
    n_cg
        Conjugate-gradient iterations of the sampler's last step; the first of several makes none,
        those between ever more.
    lambda_min
        λ of a measurement without noise, for tissue of mean brightness.
    t_last
        Bridge time of the sampler's last step; the times before it are a geometric series from 1.
    sigma_bridge
        Noise of the bridge, in image units, at its middle (times 1/2).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: tuple[PositiveInt, ...] = Field(default=(32, 48, 104, 192), min_length=1, max_length=4)
    embedding: int = Field(default=64, gt=0)
    n_krylov: int = Field(default=1, gt=0)
    n_cg: int = Field(default=5, gt=0)
    lambda_min: float = Field(default=0.01, gt=0)
    t_last: float = Field(default=0.001, gt=0, lt=1)
    sigma_bridge: float = Field(default=0.08, ge=0)


PRESETS: dict[str, ModelConfig] = {"ldmpir-2m": ModelConfig()}


def preset(name: str) -> ModelConfig:
    """Return the named architecture.

    Raises
    ------
    UsageError
        There is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"no model preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
