from __future__ import annotations

import numpy as np
import pytest

from ldmpir_edge.physics.noise import (
    COUNT_FLOOR,
    add_gaussian,
    add_poisson_gaussian,
    estimate_photons,
    line_integral_variance,
)

N = 200_000


def test_gaussian_noise_has_the_stated_deviation(rng):
    noisy = add_gaussian(np.full(N, 3.0, np.float32), 0.2, rng)
    assert noisy.dtype == np.float32
    assert noisy.mean() == pytest.approx(3.0, abs=4 * 0.2 / np.sqrt(N))
    assert noisy.std() == pytest.approx(0.2, rel=0.01)


def test_complex_noise_is_circular_and_its_magnitude_rician(rng):
    noisy = add_gaussian(np.full(N, 1.5 + 0j, np.complex64), 0.5, rng)
    assert noisy.dtype == np.complex64
    assert noisy.real.std() == pytest.approx(0.5, rel=0.01)
    assert noisy.imag.std() == pytest.approx(0.5, rel=0.01)
    assert np.mean((noisy.real - 1.5) * noisy.imag) == pytest.approx(0, abs=0.005)
    # Rice: E|z|² = ν² + 2σ², E|z|⁴ = ν⁴ + 8σ²ν² + 8σ⁴.
    assert np.mean(np.abs(noisy) ** 2) == pytest.approx(1.5**2 + 2 * 0.25, rel=0.01)
    fourth = 1.5**4 + 8 * 0.25 * 1.5**2 + 8 * 0.25**2
    assert np.mean(np.abs(noisy) ** 4) == pytest.approx(fourth, rel=0.02)


def test_same_seed_same_noise():
    x = np.zeros(50)
    first, second = (add_gaussian(x, 1.0, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("p", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("electronic_std", [0.0, 20.0])
def test_photon_noise_has_its_closed_form_moments(p, electronic_std, rng):
    photons = 1e5
    noisy = add_poisson_gaussian(np.full(N, p), photons, electronic_std, rng)
    counts = photons * np.exp(-p)
    # −ln of a count n + e with mean m and variance v = m + s² : mean p + v/(2m²), variance v/m².
    variance = (counts + electronic_std**2) / counts**2
    assert noisy.mean() - p == pytest.approx(variance / 2, abs=4 * np.sqrt(variance / N))
    assert noisy.var() == pytest.approx(variance, rel=0.03)
    if electronic_std == 0:
        assert line_integral_variance(np.array(p), photons) == pytest.approx(noisy.var(), rel=0.03)


def test_starved_rays_stay_finite(rng):
    noisy = add_poisson_gaussian(np.full(1000, 30.0, np.float32), 1e4, 5.0, rng)
    assert noisy.dtype == np.float32
    assert np.isfinite(noisy).all()
    assert noisy.max() <= np.log(1e4 / COUNT_FLOOR) + 1e-4
    assert np.isfinite(line_integral_variance(np.array([800.0]), 1e4)).all()


@pytest.mark.parametrize("photons", [3e3, 1e5])
def test_photons_are_read_back_from_the_noise(photons, rng):
    bow = 4 * np.sqrt(np.maximum(0, 1 - np.linspace(-1.2, 1.2, 500) ** 2))
    noisy = add_poisson_gaussian(np.tile(bow, (90, 1)), photons, 0.0, rng)
    assert estimate_photons(noisy) == pytest.approx(photons, rel=0.1)


def test_rays_that_were_set_to_zero_say_nothing_of_the_noise(rng):
    bow = 4 * np.sqrt(np.maximum(0, 1 - np.linspace(-3, 3, 900) ** 2))
    noisy = add_poisson_gaussian(np.tile(bow, (90, 1)), 1e4, 0.0, rng)
    noisy[:, bow == 0] = 0.0
    assert estimate_photons(noisy) == pytest.approx(1e4, rel=0.1)


def test_a_noiseless_sinogram_counts_as_many_photons():
    assert 1e9 < estimate_photons(np.ones((4, 32))) < np.inf
    assert 1e9 < estimate_photons(np.ones((4, 2))) < np.inf
