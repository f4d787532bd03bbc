"""Whitened noise has unit covariance; the noise level matches the noise that was added."""

from __future__ import annotations

import numpy as np
import pytest

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics.fourier import centred_fft
from ldmpir_edge.physics.masks import column_mask
from ldmpir_edge.scans.phantom import head_phantom, rasterise
from ldmpir_edge.scans.whitening import (
    k_radius,
    noise_covariance,
    noise_level,
    whiten,
    whitening_factor,
)


@pytest.fixture
def mixing(rng):
    return rng.standard_normal((5, 5)) + 1j * rng.standard_normal((5, 5)) + 2 * np.eye(5)


def complex_normal(rng, shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def test_whitened_noise_is_white_and_of_unit_variance(rng, mixing):
    noise = (mixing @ complex_normal(rng, (5, 40000))).astype(np.complex64)
    white = whiten(noise, whitening_factor(noise_covariance(noise)))
    covariance = np.cov(white.astype(np.complex128)) / 2  # per real component
    np.testing.assert_allclose(covariance, np.eye(5), atol=1e-4)
    assert white.real.std() == pytest.approx(1.0, abs=0.01)


def test_covariance_matches_the_mixing_matrix(rng, mixing):
    noise = (mixing @ complex_normal(rng, (5, 200000))).astype(np.complex64)
    expected = mixing @ mixing.conj().T
    found = noise_covariance(noise)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_whitening_is_undone_by_the_factor(rng, mixing):
    samples = complex_normal(rng, (5, 6, 7)).astype(np.complex64)
    factor = whitening_factor(mixing @ mixing.conj().T)
    back = np.tensordot(factor, whiten(samples, factor), axes=1)
    np.testing.assert_allclose(back, samples, atol=1e-4)


def test_a_dead_coil_is_named(rng):
    noise = complex_normal(rng, (3, 100)).astype(np.complex64)
    noise[1] = 0
    with pytest.raises(ScanDataError, match="dead"):
        noise_covariance(noise)


def test_a_repeated_coil_is_refused():
    with pytest.raises(ScanDataError, match="singular"):
        whitening_factor(np.ones((2, 2), np.complex128) - 1e-9 * np.eye(2))


def test_too_few_noise_samples_are_refused(rng):
    with pytest.raises(ShapeError, match="3 noise samples for 4 coils"):
        noise_covariance(complex_normal(rng, (4, 3)).astype(np.complex64))


@pytest.mark.parametrize("level", [0.02, 0.2])
def test_noise_level_is_found_under_a_signal(acquisition, rng, level):
    kspace = acquisition.kspace + level * complex_normal(rng, acquisition.kspace.shape)
    sampled = np.zeros(kspace.shape[1:], bool)
    sampled[:, ::3] = True
    estimate = noise_level((kspace * sampled).astype(np.complex64), k_radius(*sampled.shape))
    assert estimate == pytest.approx(level, rel=0.15)


def one_coil(rng: np.random.Generator, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Scan a head at R = 4: most columns lie near the middle of k-space."""
    image = rasterise(head_phantom(np.random.default_rng(3), 0.1), (256, 256), "mr")
    sampled = np.zeros(image.shape, bool)
    sampled[:, column_mask(256, 4.0, 20, "random", rng) > 0] = True
    kspace = centred_fft(image[None].astype(np.complex64), (-2, -1))
    return (kspace + level * complex_normal(rng, kspace.shape)) * sampled, sampled


def test_noise_level_of_one_coil_is_hardly_its_signal():
    estimates, at_the_edge = [], []
    for seed in range(5):
        kspace, sampled = one_coil(np.random.default_rng(seed), 0.02)
        frequency = k_radius(*sampled.shape)
        estimates.append(noise_level(kspace.astype(np.complex64), frequency))
        edge = kspace[:, [*range(8), *range(248, 256)]][:, sampled[:16]]
        at_the_edge.append(1.4826 * np.median(np.abs([edge.real, edge.imag])))
    assert np.median(estimates) == pytest.approx(0.02, rel=0.25)
    assert np.median(at_the_edge) > 0.026


@pytest.mark.parametrize("width", [0.05, 0.1])
def test_filtered_corners_hide_little_of_the_noise(rng, width):
    kspace, sampled = one_coil(rng, 0.05)
    frequency = k_radius(*sampled.shape)
    fermi = 1 / (1 + np.exp((frequency - 1) / width))
    estimate = noise_level((kspace * fermi).astype(np.complex64), frequency)
    assert 0.02 < estimate < 0.06


def test_corners_that_were_filled_with_zeros_hide_no_noise(rng):
    kspace, sampled = one_coil(rng, 0.05)
    frequency = k_radius(*sampled.shape)
    kspace = kspace * (frequency < 1)
    estimate = noise_level(kspace.astype(np.complex64), frequency)
    assert estimate == pytest.approx(0.05, rel=0.15)
    assert noise_level(np.zeros((1, 256, 256), np.complex64), frequency) == 0


def test_radius_is_one_at_the_edges_and_root_two_in_the_corner():
    radius = k_radius(8, 6)
    assert radius[4, 3] == 0
    assert radius[0, 3] == radius[4, 0] == 1
    assert radius[0, 0] == pytest.approx(np.sqrt(2))
