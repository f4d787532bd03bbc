"""Fine-tuning's view of one noisy image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ldmpir_edge.finetuning.measured import HeldOut, MeasuredSlice, Planes, Reconstruct
from ldmpir_edge.finetuning.moves import Move
from ldmpir_edge.finetuning.sure import Noise, estimate_noise, sure
from ldmpir_edge.physics.image_problem import build_denoise_problem, non_local_means
from ldmpir_edge.physics.padding import pad_image, to_planes
from ldmpir_edge.physics.problem import Modality, Problem
from ldmpir_edge.training.acquisitions import Example

N_DIRECTIONS = 4
"""Random directions that a held-out image's divergence is averaged over."""


class NoisyImage(MeasuredSlice):
    """An `(H, W)` image to be denoised.

    Parameters
    ----------
    image
        Noisy, in the scan's unit.
    modality
        Sets the scale.
    noise_level
        Standard deviation of white Gaussian noise, in the scan's unit; None estimates the noise,
        Gaussian and Poisson, from the image.
    """

    def __init__(
        self, image: NDArray[np.float32], modality: Modality, noise_level: float | None = None
    ) -> None:
        self.problem = build_denoise_problem(image, modality, noise_level)
        _, _, height, width = self.problem.crop or (0, 0, *image.shape)
        self.y = self.problem.b[0, :height, :width]
        level = self.problem.noise_level
        self.noise = Noise(level) if noise_level is not None else estimate_noise(self.y, level)

    @property
    def grid(self) -> tuple[int, int]:
        """The (H, W) of the image, without padding."""
        height, width = self.y.shape
        return height, width

    def remeasure(self, planes: Planes, move: Move | None, rng: np.random.Generator) -> Example:
        """Move the image, and add noise as the scan has it."""
        height, width = self.grid
        real = planes[0, :height, :width]
        if move is not None:
            real = move.image(real).astype(np.float32)
        deviation = np.sqrt(self.noise.gain * np.maximum(real, 0) + self.noise.level**2)
        noisy = (real + deviation * rng.standard_normal(real.shape)).astype(np.float32)
        return Example(with_image(self.problem, noisy), self._planes(real))

    def held_out(self, rng: np.random.Generator) -> HeldOut:
        """Estimate the image's error by SURE; the image is one that no update sees."""
        seeds = [int(seed) for seed in rng.integers(2**62, size=N_DIRECTIONS)]
        y = torch.from_numpy(np.ascontiguousarray(self.y))[None, None]
        noise_share = float(self.noise.variance(y).mean())
        height, width = self.grid

        def error(reconstruct: Reconstruct) -> float:
            def denoise(noisy: torch.Tensor) -> torch.Tensor:
                planes = reconstruct(with_image(self.problem, noisy[0, 0].numpy()))
                return torch.from_numpy(planes)[None, :1, :height, :width]

            draws = [torch.Generator().manual_seed(seed) for seed in seeds]
            estimates = [float(sure(denoise, y, self.noise, draw)) for draw in draws]
            # SURE estimates the error without the noise: it is put back, as elsewhere.
            return float(np.mean(estimates)) + noise_share

        return HeldOut(error, noise_share)

    def _planes(self, image: NDArray[np.float32]) -> Planes:
        planes = np.zeros_like(self.problem.b)
        planes[0, : image.shape[0], : image.shape[1]] = image
        return planes


def with_image(problem: Problem, image: NDArray[np.float32]) -> Problem:
    """Return a denoising problem with another noisy `(H, W)` image, padded as the first was."""
    smooth = non_local_means(image, problem.noise_level)
    return replace(problem, b=pad_image(to_planes(image)), x1=pad_image(to_planes(smooth)))
