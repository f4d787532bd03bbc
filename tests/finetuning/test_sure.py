"""SURE against the error that a clean image tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_scans import disc

from ldmpir_edge.finetuning.sure import Noise, estimate_noise, sure
from ldmpir_edge.physics.image_problem import non_local_means

CLEAN = torch.from_numpy(disc(128))[None, None] + 0.1


def blur(y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(y, 3, 1, 1, count_include_pad=False)


def noisy(noise: Noise, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    clean = CLEAN.numpy()
    counts = rng.poisson(clean / noise.gain) * noise.gain if noise.gain else clean
    return torch.from_numpy((counts + noise.level * rng.standard_normal(clean.shape)).astype("f4"))


@pytest.mark.parametrize("noise", [Noise(0.2), Noise(0.0, 0.04), Noise(0.1, 0.02)])
@pytest.mark.parametrize("denoise", [blur, lambda y: y, lambda y: 0.7 * y])
def test_sure_is_the_mean_squared_error(noise, denoise):
    estimates, truths = [], []
    for seed in range(12):
        y = noisy(noise, seed)
        estimates.append(float(sure(denoise, y, noise, torch.Generator().manual_seed(seed))))
        truths.append(float(((denoise(y) - CLEAN) ** 2).mean()))
    scale = float(noise.variance(CLEAN).mean())
    assert np.mean(estimates) == pytest.approx(np.mean(truths), abs=0.03 * scale)


@pytest.mark.parametrize("noise", [Noise(0.2), Noise(0.0, 0.04), Noise(0.1, 0.02)])
def test_gaussian_and_poisson_noise_are_told_apart(noise):
    y = noisy(noise, 1)
    found = estimate_noise(y[0, 0].numpy(), float(noise.variance(CLEAN).mean().sqrt()))
    for brightness in (0.1, 0.4, 0.9):
        wanted = noise.gain * brightness + noise.level**2
        assert found.gain * brightness + found.level**2 == pytest.approx(wanted, rel=0.3)


@pytest.mark.parametrize("level", [0.005, 0.02])
def test_sure_knows_the_risk_of_comparing_patches(level):
    """Non-local means weigh by the noise level: a step that is not small beside it misleads."""
    noise = Noise(level)

    def means(y: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(non_local_means(y[0, 0].numpy(), level))[None, None]

    estimates, truths = [], []
    for seed in range(8):
        y = noisy(noise, seed)
        estimates.append(float(sure(means, y, noise, torch.Generator().manual_seed(seed))))
        truths.append(float(((means(y) - CLEAN) ** 2).mean()))
    assert np.mean(estimates) == pytest.approx(np.mean(truths), abs=0.03 * level**2)
