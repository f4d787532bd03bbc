"""Image losses, taken after data consistency."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CHARBONNIER_EPSILON = 1e-3
SSIM_WINDOW = 7
LESION_WINDOW = 7
"""Pixels across what a small lesion covers."""
ERROR_FLOOR = 3e-3
"""Errors of x1 below this (about 50 dB) count no more than it."""
SSIM_K1, SSIM_K2 = 0.01, 0.03


def charbonnier(x: Tensor, target: Tensor) -> Tensor:
    """Return the mean of √(|x − target|² + ε²), complex modulus over the two planes.

    `x`, `target` are `(B, 2, H, W)`. Source: Charbonnier et al., ICIP 1994.
    """
    squared = ((x - target) ** 2).sum(dim=1)
    return (squared + CHARBONNIER_EPSILON**2).sqrt().mean()


def ssim(x: Tensor, target: Tensor) -> Tensor:
    """Return the mean structural similarity of the magnitudes, for a data range of 1.

    Uniform 7×7 window. Source: Wang et al., IEEE TIP 13(4), 2004.
    """
    a, b = _magnitude(x), _magnitude(target)

    def mean(v: Tensor) -> Tensor:
        return F.avg_pool2d(v, SSIM_WINDOW, stride=1)

    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2
    covariance = mean(a * b) - mu_a * mu_b
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    score = ((2 * mu_a * mu_b + c1) * (2 * covariance + c2)) / (
        (mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2)
    )
    return score.mean()


def root_mean_square(x: Tensor, target: Tensor) -> Tensor:
    """Return the root of the mean of |x − target|² + ε², complex modulus over the two planes.

    `x`, `target` are `(B, 2, H, W)`. It is what PSNR is the logarithm of.
    """
    squared = ((x - target) ** 2).sum(dim=1)
    return (squared.mean() + CHARBONNIER_EPSILON**2).sqrt()


def coherent_error(x: Tensor, target: Tensor) -> Tensor:
    """Return the root mean square of the error's means over squares of `LESION_WINDOW`.

    `x`, `target` are `(B, 2, H, W)`. Noise averages out of it; the lost contrast of a lesion, which
    is of one sign all over it, does not.
    """
    means = F.avg_pool2d(x - target, LESION_WINDOW, stride=1)
    return root_mean_square(means, torch.zeros_like(means))


def spot_error(x: Tensor, target: Tensor, spots: Tensor) -> Tensor:
    """Return the root mean square error over the pixels that `spots` `(B, 1, H, W)` weighs."""
    squared = ((x - target) ** 2).sum(dim=1, keepdim=True)
    return ((spots * squared).sum() / spots.sum() + CHARBONNIER_EPSILON**2).sqrt()


def image_loss(
    x: Tensor, target: Tensor, x1: Tensor, ssim_weight: float, spots: Tensor | None = None
) -> Tensor:
    """Return the mean of three errors of x, or four, each relative to that of x1.

    Charbonnier + `ssim_weight` · (1 − SSIM), the root mean square, that of local means, and that
    within the small discs that were put into the image, if `spots` has any.

    Without the division the hardest examples set the direction, and tasks whose starting image
    is already good get worse than it (inpainting lost 4 dB); decibels are ratios.

    Charbonnier alone is content with the median, which leaves out what is small and unsure; the
    root mean square counts the few large errors, as PSNR does. A mean over few lesions' pixels is
    nothing among those of an image; local means count what is wrong together.
    """
    absolute = charbonnier(x, target) + ssim_weight * (1 - ssim(x, target))
    relative = absolute / (charbonnier(x1, target) + ERROR_FLOOR)
    spread = root_mean_square(x, target) / (root_mean_square(x1, target) + ERROR_FLOOR)
    coherent = coherent_error(x, target) / (coherent_error(x1, target) + ERROR_FLOOR)
    errors = [relative, spread, coherent]
    if spots is not None and spots.any():
        errors.append(spot_error(x, target, spots) / (spot_error(x1, target, spots) + ERROR_FLOOR))
    return torch.stack(errors).mean()


def _magnitude(x: Tensor) -> Tensor:
    # The small constant keeps the gradient of the root finite where the image is zero.
    return torch.sqrt((x**2).sum(dim=1, keepdim=True) + 1e-8)


def psnr(x: Tensor, target: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of `(B, 2, H, W)` images, for a peak of 1."""
    squared = float(((x - target) ** 2).sum(dim=1).mean())
    return -10 * math.log10(max(squared, 1e-12))
