"""Noise levels against the noise that was added, and the bias that it leaves in a magnitude."""

from __future__ import annotations

import numpy as np
import pytest

from ldmpir_edge.physics.image_noise import (
    estimate_noise_level,
    rician_noise_level,
    without_rician_bias,
)
from ldmpir_edge.physics.image_problem import build_denoise_problem
from ldmpir_edge.physics.noise import add_gaussian


def head(size: int = 128) -> np.ndarray:
    """Draw a disc of signal with a slope in it, over nothing."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return np.where(x**2 + y**2 < 0.5, 0.7 + 0.2 * x, 0.0).astype(np.float32)


def rician(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    return np.abs(add_gaussian(image.astype(np.complex64), level, rng))


def test_noise_estimate_is_that_of_the_noise(rng):
    smooth = np.add.outer(np.arange(128.0), np.arange(128.0)) / 10
    noisy = smooth + 3 * rng.standard_normal((128, 128))
    assert estimate_noise_level(noisy) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("level", [0.01, 0.05, 0.1])
def test_a_magnitude_tells_the_noise_of_its_components(level, rng):
    magnitude = rician(head(), level, rng)
    assert rician_noise_level(magnitude) == pytest.approx(level, rel=0.05)
    assert rician_noise_level(1000 * magnitude) == pytest.approx(1000 * level, rel=0.05)


def test_the_background_is_brought_to_zero_and_the_object_stays(rng):
    image, level = head(), 0.05
    magnitude = rician(image, level, rng)
    mended = without_rician_bias(magnitude, level)
    outside = image == 0
    assert magnitude[outside].mean() == pytest.approx(1.253 * level, rel=0.02)
    assert abs(mended[outside].mean()) < 0.25 * level
    assert abs((mended - image)[~outside].mean()) < 0.1 * level


@pytest.mark.parametrize("brightness", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_the_bias_left_is_a_third_of_the_noise_at_most(brightness, rng):
    magnitude = rician(np.full((400, 400), brightness, np.float32), 1.0, rng)
    assert abs(without_rician_bias(magnitude, 1.0).mean() - brightness) < 0.33


def test_pixels_that_were_blanked_stay_zero():
    magnitude = np.array([[0.0, 0.01], [0.5, 1.0]], np.float32)
    mended = without_rician_bias(magnitude, 0.1)
    assert mended[0, 0] == 0
    assert mended[0, 1] < 0
    assert mended[1, 1] == pytest.approx(np.sqrt(1 - 1.4 * 0.01))


def test_what_is_no_magnitude_over_noise_has_no_rician_level(rng):
    with_negatives = add_gaussian(head(), 0.05, rng)
    blanked = np.where(head() > 0, rician(head(), 0.05, rng), 0)
    # A background of tissue, of four times the noise.
    tissue = rician(head() + 0.2, 0.05, rng)
    assert rician_noise_level(with_negatives) is None
    assert rician_noise_level(blanked) is None
    assert rician_noise_level(tissue) is None
    # The modulus of real noise is darker than that of complex noise.
    assert rician_noise_level(np.abs(with_negatives)) is None
    uniform = np.where(head() > 0, 0.6, rng.random(head().shape)).astype(np.float32)
    assert rician_noise_level(uniform) is None
    assert rician_noise_level(np.zeros((64, 64), np.float32)) is None


def test_air_alone_is_told_as_well_so_that_the_ends_of_a_volume_are_like_the_rest(rng):
    air = rician(np.zeros((128, 128), np.float32), 0.05, rng)
    assert rician_noise_level(air) == pytest.approx(0.05, rel=0.05)


def test_denoising_starts_without_the_bias_in_mr_alone(rng):
    image = rician(head(), 0.05, rng).astype(np.float32)
    mr = build_denoise_problem(image, "mr")
    assert mr.b[0].min() < 0
    assert mr.noise_level * mr.scale == pytest.approx(0.05, rel=0.05)
    # What it starts from in the dark, where noise is all there is, is as dark.
    dark = head() == 0
    assert abs(mr.x1[0][dark].mean()) * mr.scale < 0.35 * 0.05
    hu = 2000 * image - 1000  # what the engine sees of it is the same
    ct = build_denoise_problem(hu, "ct")
    np.testing.assert_allclose(ct.b[0], image, atol=1e-6)
