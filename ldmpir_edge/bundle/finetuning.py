"""What a bundle says of the fine-tuning that made its weights."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from ldmpir_edge.bundle.schema import Frozen, ModelInfo, Sha256, Word


class FinetuningSpec(Frozen):
    """Where fine-tuned weights come from; nothing of a patient beyond a scan's hash.

    `base` and `base_weights` are the model that was started from and the SHA-256 of its weights,
    `base_bundle` the digest of the packaged bundle of these weights, where there is one. `scans`
    are the SHA-256 of the scans' files, sorted. `held_out` is the error of predicting
    measurements that no update saw, without their noise, relative to the base's. `residual` and
    `base_residual` are the largest data-consistency residuals of the scans, ‖b − AᴴA x‖ / ‖b‖.
    `golden_rms` is the largest root mean square difference from the base's golden images, in
    engine units.
    """

    base: ModelInfo
    base_weights: Sha256
    base_bundle: Sha256 | None = None
    scans: Annotated[tuple[Sha256, ...], Field(min_length=1)]
    loss: Word
    seed: NonNegativeInt
    rank: NonNegativeInt
    n_updates: PositiveInt
    held_out: Annotated[float, Field(lt=1)]
    residual: Annotated[float, Field(ge=0)]
    base_residual: Annotated[float, Field(ge=0)]
    golden_rms: Annotated[float, Field(ge=0)]
