"""Simulated arrays obey the physics of a loop, and phases are phases."""

from __future__ import annotations

import numpy as np
import pytest

from ldmpir_edge.scans.coils import _biot_savart as biot_savart
from ldmpir_edge.scans.coils import random_phase, simulate_coil_maps


def test_field_on_the_axis_of_a_loop_follows_the_closed_form():
    # B(z) is proportional to 2 pi R^2 / (R^2 + z^2)^(3/2); the wire's thickness adds to R^2 + z^2.
    radius, n = 0.5, 400
    turn = 2 * np.pi * (np.arange(n) + 0.5) / n
    zeros = np.zeros(n)
    wire = radius * np.stack([np.cos(turn), np.sin(turn), zeros], axis=-1)
    current = radius * 2 * np.pi / n * np.stack([-np.sin(turn), np.cos(turn), zeros], axis=-1)
    z = np.linspace(0, 2, 9)
    points = np.stack([0 * z, 0 * z, z], axis=-1)[None]
    field = biot_savart(points, wire[None], current[None])[0, 0]
    expected = 2 * np.pi * radius**2 / (radius**2 + z**2 + 0.15**2) ** 1.5
    np.testing.assert_allclose(field[:, 2], expected, rtol=1e-6)
    np.testing.assert_allclose(field[:, :2], 0.0, atol=1e-9)


@pytest.mark.parametrize("n_coils", [1, 5, 8, 16])
def test_maps_are_smooth_and_of_unit_mean(rng, n_coils):
    maps = simulate_coil_maps((64, 96), n_coils, rng)
    assert maps.shape == (n_coils, 64, 96)
    assert maps.dtype == np.complex64
    assert np.sqrt(np.sum(np.abs(maps) ** 2, axis=0)).mean() == pytest.approx(1.0, rel=1e-4)
    spectrum = np.abs(np.fft.fft2(maps * np.outer(np.hanning(64), np.hanning(96)))) ** 2
    low = (np.abs(np.fft.fftfreq(64))[:, None] < 0.15) & (np.abs(np.fft.fftfreq(96)) < 0.15)
    assert spectrum[:, low].sum() > 0.999 * spectrum.sum()


def test_coils_see_different_regions(rng):
    maps = simulate_coil_maps((64, 64), 8, rng).reshape(8, -1)
    values = np.linalg.svd(maps, compute_uv=False)
    # R=4 along one axis needs several independent coils.
    assert values[5] > 0.02 * values[0]


def test_a_seed_repeats_and_another_differs():
    first, again, other = (
        simulate_coil_maps((32, 32), 4, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_phase_has_modulus_one_and_varies_smoothly(rng):
    phase = random_phase((128, 96), rng)
    np.testing.assert_allclose(np.abs(phase), 1.0, atol=1e-5)
    step = np.angle(phase[1:] * phase[:-1].conj())
    assert np.abs(step).max() < 0.5
    assert np.std(np.angle(phase)) > 0.05
