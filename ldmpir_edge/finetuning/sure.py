"""Stein's unbiased risk estimate: the error of a denoised image, known without the clean one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldmpir_edge.physics.image_noise import noise_response
from ldmpir_edge.physics.noise import NORMAL_MEDIAN

PROBE = 0.1
"""Step of the finite difference, of the noise: non-local means weigh patches by theirs, and a step
of its size would be a change of what is alike."""
BLOCK = 8
"""Side of the blocks whose means and variances tell the two parts of the noise apart."""


@dataclass(frozen=True)
class Noise:
    """Variance of a pixel of mean m: `gain` · m + `level`².

    A `gain` of zero is Gaussian noise, a `level` of zero scaled Poisson counts.
    """

    level: float
    gain: float = 0.0

    def variance(self, y: Tensor) -> Tensor:
        """Estimate each pixel's variance from the noisy image itself; unbiased where y ≥ 0."""
        return self.gain * y.clamp(min=0) + self.level**2


def sure(
    denoise: Callable[[Tensor], Tensor], y: Tensor, noise: Noise, generator: torch.Generator
) -> Tensor:
    """Estimate the mean squared error of `denoise(y)` against the clean image.

    SURE = ‖f(y) − y‖²/n − mean(v) + 2/n Σ v ∂f/∂y, with v the pixel's variance; the divergence is
    taken along one random direction of signs. For Poisson noise this is the first order of its
    own estimate (PG-URE), which is exact for f of curvature zero over a pixel's noise.

    Parameters
    ----------
    denoise
        Maps `(B, 1, H, W)` to the same shape, differentiably.
    y
        `(B, 1, H, W)`, noisy.
    noise
        In the unit of y.
    generator
        Draws the direction.

    Source: Stein, Annals of Statistics 9(6), 1981; Ramani et al., IEEE TIP 17(9), 2008 (the
    divergence); Le Montagner et al., IEEE TIP 23(3), 2014 (Poisson-Gaussian).
    """
    variance = noise.variance(y)
    signs = torch.randint(0, 2, y.shape, generator=generator, dtype=y.dtype) * 2 - 1
    image = denoise(y)
    step = PROBE * math.sqrt(float(variance.mean()))
    change = (denoise(y + step * signs) - image) / step
    risk: Tensor = ((image - y) ** 2 - variance + 2 * variance * signs * change).mean()
    return risk


def estimate_noise(image: NDArray[np.float32], level: float) -> Noise:
    """Tell Poisson from Gaussian noise in a real `(H, W)` image whose mean noise is `level`.

    The variance of the noise in blocks, from the response to a filter that locally planar
    structure does not pass, is fitted as a line over their means; half of the blocks, those with
    the least variance at their brightness, count, since edges only ever add.

    Source: Foi et al., IEEE TIP 17(10), 2008 (the model and its fit).
    """
    from scipy import optimize

    response = noise_response(image)
    height, width = (n // BLOCK * BLOCK for n in image.shape)

    def blocks(x: NDArray[np.float64]) -> NDArray[np.float64]:
        tiles = x[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
        return tiles.transpose(0, 2, 1, 3).reshape(-1, BLOCK * BLOCK)

    mean = blocks(image.astype(np.float64)).mean(axis=1)
    variance = (np.median(np.abs(blocks(response)), axis=1) / NORMAL_MEDIAN) ** 2
    alive = variance > 0
    if alive.sum() < 2 * BLOCK:
        return Noise(level)
    mean, variance = np.maximum(mean[alive], 0), variance[alive]
    # Least absolute deviation, by reweighting: edges are outliers.
    design = np.stack([mean, np.ones_like(mean)], axis=1)
    weight = np.ones_like(mean)
    for _ in range(20):
        fit, _ = optimize.nnls(design * weight[:, None], variance * weight)
        weight = 1 / np.sqrt(np.maximum(np.abs(variance - design @ fit), 1e-3 * variance.mean()))
    return Noise(float(np.sqrt(fit[1])), float(fit[0]))
