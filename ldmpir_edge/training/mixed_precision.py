"""The model as it trains on CPUs with bfloat16 arithmetic: 1.1 to 2 times as fast."""

from __future__ import annotations

import torch
from torch import Tensor

from ldmpir_edge.models.ldmpir import LdmPir


class Bf16LdmPir(LdmPir):
    """`LdmPir` whose network computes in bfloat16; weights, physics and loss stay in float32.

    Where the CPU multiplies bfloat16 in tiles (Intel AMX), convolutions are three times as fast,
    with channels last; with AVX-512's bfloat16 twice; elsewhere they are slower. Gradients point
    where those in float32 do (cosine 0.96 to 1.00 on the examples measured). The averaged weights,
    which are the model, are an `LdmPir`.
    """

    def correct(self, images: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Answer as `LdmPir.correct`, in float32."""
        with torch.autocast("cpu", torch.bfloat16):
            channels_last = images.to(memory_format=torch.channels_last)
            correction, trust = super().correct(channels_last, embedding)
        return correction.float().contiguous(), trust.float().contiguous()
