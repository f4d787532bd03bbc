"""The losses of fine-tuning, each of one slice.

`equivariant`: an image that the base reconstructed is moved, measured again with the scan's own
sampling and noise, and the model learns to get the moved image back (Chen, Tachella and Davies,
"Equivariant imaging", ICCV 2021, and "Robust equivariant imaging", CVPR 2022, here with the
target detached). Noisy images add SURE of the measured one. `split`: the image from some of the
lines or views predicts others (Yaman et al., MRM 84(6), 2020; Millard and Chiew, IEEE TCI 9, 2023;
for CT Hendriksen et al., "Noise2Inverse", IEEE TCI 6, 2020); patented, see docs/finetuning.md.
`supervised`: the scan's own reference.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ldmpir_edge.finetuning.measured import DividedSlice, MeasuredSlice, Parts, Planes
from ldmpir_edge.finetuning.moves import random_move
from ldmpir_edge.finetuning.noisy_image import NoisyImage, with_image
from ldmpir_edge.finetuning.sure import sure
from ldmpir_edge.models.ksm import normal_operator
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.training.acquisitions import Example
from ldmpir_edge.training.dataset import reconstruct, to_tensors
from ldmpir_edge.training.losses import image_loss

SSIM_WEIGHT = 0.05
SURE_WEIGHT = 10.0
"""Of SURE relative to the noise's variance, beside an image loss relative to the error of x1."""
SHOWN = 0.7
"""Share of the parts that a split reconstructs from; the others are predicted."""


def equivariant_loss(
    model: LdmPir, slice_: MeasuredSlice, planes: Planes, n_steps: int, rng: np.random.Generator
) -> Tensor:
    """Return the loss of a moved and remeasured image `(2, H, W)`, in units of `slice_.problem`."""
    move = random_move(slice_.grid, rng)
    loss = _image_loss(model, slice_.remeasure(planes, move, rng), n_steps)
    if isinstance(slice_, NoisyImage):
        loss = loss + _sure_loss(model, slice_, n_steps, rng)
    return loss


def split_loss(
    model: LdmPir, slice_: DividedSlice, usable: Parts, n_steps: int, rng: np.random.Generator
) -> Tensor:
    """Return ‖A₂ x(y₁) − y₂‖² / ‖y₂‖² for a random division of the usable parts in y₁ and y₂."""
    where = np.flatnonzero(usable)
    first = np.zeros_like(usable)
    first[rng.choice(where, size=round(SHOWN * where.size), replace=False)] = True
    shown, rest = slice_.shown(first), slice_.only(usable & ~first)
    image = reconstruct(model, to_tensors(Example(shown, shown.x1)), n_steps)
    image = image * (shown.scale / rest.scale)
    item = to_tensors(Example(rest, rest.x1))
    gram = normal_operator(item["family"], item["tables"])
    energy = float(rest.measurement_energy or 1.0)
    left = (image * gram(image)).sum() - 2 * (image * item["b"]).sum() + energy
    return left / energy


def supervised_loss(
    model: LdmPir, slice_: MeasuredSlice, planes: Planes, n_steps: int, rng: np.random.Generator
) -> Tensor:
    """Return the loss against a reference, of the scan itself or of a remeasured move of it."""
    if rng.random() < 0.5:
        example = slice_.remeasure(planes, random_move(slice_.grid, rng), rng)
    else:
        example = Example(slice_.problem, planes)
    return _image_loss(model, example, n_steps)


def _image_loss(model: LdmPir, example: Example, n_steps: int) -> Tensor:
    item = to_tensors(example)
    image = reconstruct(model, item, n_steps)
    return image_loss(image, item["target"], item["x1"], SSIM_WEIGHT)


def _sure_loss(model: LdmPir, slice_: NoisyImage, n_steps: int, rng: np.random.Generator) -> Tensor:
    height, width = slice_.grid
    y = torch.from_numpy(np.ascontiguousarray(slice_.y))[None, None]

    def denoise(noisy: Tensor) -> Tensor:
        problem = with_image(slice_.problem, noisy[0, 0].numpy())
        item = to_tensors(Example(problem, problem.x1))
        return reconstruct(model, item, n_steps)[:, :1, :height, :width]

    draws = torch.Generator().manual_seed(int(rng.integers(2**62)))
    variance = float(slice_.noise.variance(y).mean())
    return SURE_WEIGHT / max(variance, 1e-6) * sure(denoise, y, slice_.noise, draws)
