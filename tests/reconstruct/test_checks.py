"""A bad image is told from a good one, by operators that are written again here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_scans import disc, fft2c, gaussian_maps

from ldmpir_edge.physics.image_problem import build_denoise_problem, build_inpaint_problem
from ldmpir_edge.physics.mri_problem import build_mri_problem
from ldmpir_edge.reconstruct.checks import check_slice, data_residual

SIZE = 32
MAPS = gaussian_maps((SIZE, SIZE), 3)
MASK = np.arange(SIZE) % 2 == 0


def ifft2c(kspace):
    axes = (-2, -1)
    shifted = np.fft.ifftshift(kspace, axes=axes)
    return np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=axes)


def adjoint(y):
    return np.sum(MAPS.conj() * ifft2c(y * MASK), axis=0)


def forward(x):
    return MASK * fft2c(MAPS * x)


def planes(x):
    return np.stack([x.real, x.imag]).astype(np.float32)


@pytest.fixture
def truth(rng):
    return disc(SIZE) * np.exp(1j * np.linspace(0, 1, SIZE))


@pytest.fixture
def problem(truth):
    kspace = forward(truth).astype(np.complex64)
    return build_mri_problem(
        kspace, MAPS.astype(np.complex64), MASK.astype(np.float32), 1e-4, hybrid=False
    )


def test_the_residual_of_the_truth_is_zero(problem, truth):
    assert data_residual(problem, planes(truth / problem.scale)) < 1e-5


def test_the_residual_is_that_of_the_normal_equations(problem, truth, rng):
    other = truth + 0.3 * (rng.standard_normal(truth.shape) + 1j * rng.standard_normal(truth.shape))
    y = forward(truth)
    expected = np.linalg.norm(adjoint(y - forward(other))) / np.linalg.norm(adjoint(y))
    assert expected > 0.1
    assert data_residual(problem, planes(other / problem.scale)) == pytest.approx(expected, 1e-4)
    assert data_residual(problem, np.zeros_like(problem.b)) == pytest.approx(1.0)


def test_unknown_pixels_do_not_count(rng):
    image, known = 1 + disc(SIZE), rng.random((SIZE, SIZE)) < 0.5
    problem = build_inpaint_problem(image, known, "mr")
    truth = planes(image / problem.scale + 0j)
    assert data_residual(problem, truth) < 1e-6
    assert data_residual(problem, truth + 5 * ~known * [[[1]], [[0]]]) < 1e-6
    shifted = data_residual(problem, truth + 0.1 * known * [[[1]], [[0]]])
    expected = 0.1 * np.sqrt(known.sum()) / np.linalg.norm((image / problem.scale)[known])
    assert shifted == pytest.approx(expected, 1e-4)


def test_a_measurement_of_nothing_has_no_residual(problem):
    assert data_residual(replace(problem, b=np.zeros_like(problem.b)), problem.x1) == 0.0


def test_a_good_image_passes(problem, truth):
    report = check_slice(problem, planes(truth / problem.scale))
    assert report["finite"] is True
    assert report["fallback"] is None
    assert report["max_value"] == pytest.approx(np.abs(planes(truth)).max() / problem.scale)
    assert report["residual"] < 1e-5
    assert report["residual_classical"] == data_residual(problem, problem.x1)
    assert report["noise_level"] == problem.noise_level


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_refused(problem, bad):
    image = problem.x1.copy()
    image[0, 3, 4] = bad
    report = check_slice(problem, image)
    assert report["finite"] is False
    assert "NaN or infinite" in report["fallback"]
    assert report["residual"] is None


def test_an_engine_without_an_image_is_refused(problem):
    report = check_slice(problem, None)
    assert report["finite"] is False
    assert report["fallback"]


def test_a_value_far_above_the_bright_end_is_refused(problem):
    image = problem.x1.copy()
    image[0, 3, 4] = 11.0
    assert "11 times the bright end" in check_slice(problem, image)["fallback"]


def test_an_image_of_something_else_is_refused(problem, truth):
    for other in (np.zeros_like(truth), truth[::-1], -truth):
        fallback = check_slice(problem, planes(other / problem.scale))["fallback"]
        assert "residual" in fallback


def test_noise_in_the_data_allows_as_much_residual(truth, rng):
    noisy = truth + 0.4 * (rng.standard_normal(truth.shape) + 1j * rng.standard_normal(truth.shape))
    kspace = forward(noisy).astype(np.complex64)
    maps, mask = MAPS.astype(np.complex64), MASK.astype(np.float32)
    clean = planes(truth)
    for level, refused in ((1e-4, True), (0.4, False)):
        problem = build_mri_problem(kspace, maps, mask, level, hybrid=False)
        # The denoised image cannot agree with data that are mostly noise, and must not have to.
        report = check_slice(problem, clean / np.float32(problem.scale))
        assert (report["fallback"] is not None) is refused


def test_a_black_image_of_a_noisy_one_is_refused(rng):
    """Noise counts once, though the classical image leaves as much of it out."""
    image = disc(SIZE) + 0.08 * rng.standard_normal((SIZE, SIZE))
    problem = build_denoise_problem(image.astype(np.float32), "mr")
    assert problem.noise_level * problem.scale == pytest.approx(0.08, rel=0.3)
    fallback = check_slice(problem, np.zeros_like(problem.b))["fallback"]
    assert fallback is not None
    assert "residual" in fallback
    assert check_slice(problem, planes(disc(SIZE) / problem.scale + 0j))["fallback"] is None
