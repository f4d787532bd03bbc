"""Which weights a fine-tuning moves."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.unet import KERNEL_AXES

FEW = ("log_error.", "contrast", "modulation.", "unet.up.0.", "unet.decoder.0.", "unet.head.")
"""λ's error and exponents, the modulation of every block, and the last stage."""


class LowRank(nn.Module):
    """W ↦ W + B A, a kernel `(out, in, h, w)` with an update of low rank.

    B starts at zero, so that the model does. Source: Hu et al., "LoRA", ICLR 2022.
    """

    def __init__(self, kernel: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = kernel.shape[0], kernel[0].numel()
        self.down = nn.Parameter(torch.randn(rank, columns, generator=generator) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, kernel: Tensor) -> Tensor:
        """Return the kernel with the update added."""
        return kernel + (self.up @ self.down).view_as(kernel)


def choose_parameters(model: LdmPir, rank: int, seed: int) -> dict[str, Tensor]:
    """Freeze a model but for `FEW`, and give the other kernels low-rank updates.

    Parameters
    ----------
    model
        Changed in place.
    rank
        Of the updates; 0 adds none.
    seed
        Of the updates' first factors.

    Returns
    -------
        The tensors that move, by name.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in list(model.named_parameters()):
        few = any(part in name for part in FEW)
        parameter.requires_grad_(few)
        if rank and not few and parameter.ndim == KERNEL_AXES:
            owner, _, attribute = name.rpartition(".")
            update = LowRank(parameter, rank, generator)
            parametrize.register_parametrization(model.get_submodule(owner), attribute, update)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def merge_updates(model: LdmPir) -> None:
    """Add every low-rank update to its kernel: the model is then like any other."""
    for module in model.modules():
        for name in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, name)
    model.requires_grad_(True)
