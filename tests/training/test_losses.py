"""Losses against their closed forms and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from skimage.metrics import structural_similarity

from ldmpir_edge.training.losses import (
    charbonnier,
    coherent_error,
    image_loss,
    psnr,
    root_mean_square,
    ssim,
)


def planes(magnitude: np.ndarray, phase: float | np.ndarray = 0.0) -> torch.Tensor:
    both = np.stack([magnitude * np.cos(phase), magnitude * np.sin(phase)])
    return torch.from_numpy(both.astype(np.float32))[None]


def test_charbonnier_is_the_smoothed_modulus():
    target = torch.zeros(1, 2, 4, 6)
    x = target.clone()
    x[:, 0], x[:, 1] = 0.3, 0.4
    x[..., 3:] = 0
    expected = (math.sqrt(0.5**2 + 1e-6) + 1e-3) / 2
    assert float(charbonnier(x, target)) == pytest.approx(expected, rel=1e-5)


def test_charbonnier_has_the_gradient_of_a_modulus():
    x = torch.zeros(1, 2, 1, 1, requires_grad=True)
    charbonnier(x, torch.zeros(1, 2, 1, 1)).backward()
    assert not x.grad.any()
    far = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1).requires_grad_()
    charbonnier(far, torch.zeros(1, 2, 1, 1)).backward()
    np.testing.assert_allclose(far.grad.ravel(), [0.6, 0.8], rtol=1e-5)


@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_ssim_is_that_of_scikit_image(noise, rng):
    target = 0.3 + 0.5 * rng.random((40, 33))
    x = np.abs(target + noise * rng.standard_normal(target.shape))
    phase = rng.uniform(0, 6, target.shape)
    # skimage averages over the windows inside the image, as ours does.
    expected = structural_similarity(
        x, target, win_size=7, use_sample_covariance=False, data_range=1.0
    )
    assert 0.05 < expected < 0.99
    assert float(ssim(planes(x, phase), planes(target))) == pytest.approx(expected, abs=2e-5)


def test_image_loss_is_relative_to_the_starting_image(rng):
    target = planes(rng.random((16, 16)))
    x, x1 = target + 0.05, target - 0.2
    # A shift by s on both planes has the modulus √2 s everywhere, so that the mean modulus and both
    # root mean squares are the same; ε² = 1e-6, floor 3e-3.
    error, start = (math.sqrt(2 * s**2 + 1e-6) for s in (0.05, 0.2))
    expected = error / (start + 3e-3)
    assert float(image_loss(x, target, x1, 0.0)) == pytest.approx(expected, rel=1e-4)
    with_ssim = expected + 0.1 * (1 - float(ssim(x, target))) / (start + 3e-3)
    assert float(image_loss(x, target, x1, 0.3)) == pytest.approx(with_ssim, rel=1e-4)


def test_one_large_error_costs_more_than_the_same_sum_in_many_small_ones(rng):
    target = planes(rng.random((16, 16)))
    spread, single = target.clone(), target.clone()
    spread[:, 0] += 0.01
    single[:, 0, 3, 5] += 0.01 * 256
    x1 = target + 0.1
    assert float(image_loss(single, target, x1, 0.0)) > 5 * float(
        image_loss(spread, target, x1, 0.0)
    )


def test_coherent_error_is_that_of_local_means(rng):
    target = planes(rng.random((20, 30)))
    x = target + torch.from_numpy(rng.normal(0, 0.1, target.shape).astype(np.float32))
    inner = (..., slice(3, -3), slice(3, -3))
    means = uniform_filter((x - target).numpy(), (1, 1, 7, 7))[inner]
    expected = math.sqrt(float(np.mean(np.sum(means.astype(np.float64) ** 2, axis=1))) + 1e-6)
    assert float(coherent_error(x, target)) == pytest.approx(expected, rel=1e-5)


def test_a_lost_lesion_costs_more_than_as_much_noise(rng):
    """Of equal energy and modulus at each pixel."""
    target = planes(rng.random((32, 32)))
    lost, noisy, x1 = target.clone(), target.clone(), target + 0.1
    lost[0, 0, 10:17, 10:17] -= 0.05
    noisy[0, 0, 10:17, 10:17] -= 0.05 * torch.from_numpy(rng.choice([-1, 1], (7, 7)))
    assert float(root_mean_square(lost, target)) == pytest.approx(
        float(root_mean_square(noisy, target))
    )
    assert float(image_loss(lost, target, x1, 0.0)) > 1.2 * float(
        image_loss(noisy, target, x1, 0.0)
    )


def test_discs_count_for_themselves(rng):
    target = planes(rng.random((32, 32)))
    spots = torch.zeros(1, 1, 32, 32)
    x, x1 = target.clone(), target - 0.1
    x[0, 0, 5:9, 5:9] += 0.05
    assert float(image_loss(x, target, x1, 0.1, spots)) == float(image_loss(x, target, x1, 0.1))
    spots[..., 5:9, 5:9], spots[..., 20, 20] = 1, 0.5
    # 16 pixels are wrong by 0.05 and half a pixel by nothing; x1 by √2 · 0.1 everywhere.
    error = math.sqrt(16 * 0.05**2 / 16.5 + 1e-6)
    start = math.sqrt(2 * 0.1**2 + 1e-6) + 3e-3
    expected = (3 * float(image_loss(x, target, x1, 0.1)) + error / start) / 4
    assert float(image_loss(x, target, x1, 0.1, spots)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n", [2, 40])
def test_root_mean_square_is_what_psnr_is_made_of(n, rng):
    target = planes(rng.random((n, n)))
    x = target + torch.from_numpy(rng.normal(0, 0.1, target.shape).astype(np.float32))
    expected = math.sqrt(10 ** (-psnr(x, target) / 10) + 1e-6)
    assert float(root_mean_square(x, target)) == pytest.approx(expected, rel=1e-4)


def test_a_perfect_start_does_not_blow_up_the_loss(rng):
    target = planes(rng.random((16, 16)))
    # √2 · 1e-3 of error against ε + floor: below one, not infinite.
    assert float(image_loss(target + 1e-3, target, target, 0.05)) < 1


def test_an_empty_image_has_a_finite_gradient():
    x = torch.zeros(1, 2, 16, 16, requires_grad=True)
    empty = torch.zeros(1, 2, 16, 16)
    image_loss(x, empty, empty, 0.05).backward()
    assert torch.isfinite(x.grad).all()
