from __future__ import annotations

import numpy as np
import pytest
from ellipses import pixelated
from scipy.optimize import minimize

from ldmpir_edge.physics import mri_problem
from ldmpir_edge.physics.cartesian import CartesianOp
from ldmpir_edge.physics.masks import column_mask, variable_density_mask
from ldmpir_edge.physics.mri_problem import reweighted_sense
from ldmpir_edge.physics.noise import add_gaussian
from ldmpir_edge.physics.total_variation import SMOOTHING, EdgePenalty, lagged_diffusivity


def total_variation(x, edge):
    """Σ √(|∇x|² + ε²), written out pixel by pixel."""
    total = 0.0
    height, width = x.shape
    for i in range(height):
        for j in range(width):
            down = abs(x[i + 1, j] - x[i, j]) if i + 1 < height else 0.0
            right = abs(x[i, j + 1] - x[i, j]) if j + 1 < width else 0.0
            total += np.sqrt(down**2 + right**2 + edge**2)
    return total


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_penalty_is_the_gradient_of_total_variation_where_it_touches(dtype, rng):
    x = rng.standard_normal((5, 7)).astype(dtype)
    if dtype is np.complex128:
        x = x + 1j * rng.standard_normal(x.shape)
    penalty = EdgePenalty(x, 0.3, 0.1)
    direction = rng.standard_normal(x.shape).astype(dtype)
    step = 1e-5
    rise = total_variation(x + step * direction, 0.1) - total_variation(x - step * direction, 0.1)
    expected = 0.3 * rise / (2 * step)
    assert np.vdot(direction, penalty(x)).real == pytest.approx(expected, rel=1e-5)


def test_the_penalty_is_symmetric_and_knows_its_diagonal(rng):
    x = rng.standard_normal((4, 5))
    penalty = EdgePenalty(x, 0.3, 0.1)
    units = np.eye(x.size).reshape(-1, *x.shape)
    matrix = np.array([penalty(unit).reshape(-1) for unit in units])
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(matrix), penalty.diagonal.reshape(-1), rtol=1e-6)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-9


def test_the_passes_come_to_what_another_solver_finds(rng, monkeypatch):
    """Against scipy's quasi-Newton minimiser of the same sum."""
    shape = (8, 9)
    matrix = rng.standard_normal((50, 72)) / 12
    truth = np.zeros(shape)
    truth[2:6, 3:7] = 1
    y = matrix @ truth.reshape(-1) + 0.01 * rng.standard_normal(50)
    b = (matrix.T @ y).reshape(shape).astype(np.float32)
    gram = (matrix.T @ matrix).astype(np.float32)
    weight, edge = 0.01, SMOOTHING[-1]
    monkeypatch.setattr("ldmpir_edge.physics.total_variation.SMOOTHING", (*SMOOTHING, *[edge] * 20))

    def objective(x):
        return 0.5 * np.sum((matrix @ x - y) ** 2) + weight * total_variation(
            x.reshape(shape), edge
        )

    solved = lagged_diffusivity(
        lambda v: (gram @ v.reshape(-1)).reshape(shape),
        b,
        np.zeros(shape, np.float32),
        weight,
        n_iterations=60,
    )
    best = minimize(objective, np.zeros(72), method="L-BFGS-B", options={"maxfun": 10**6})
    assert objective(solved.reshape(-1).astype(float)) < 1.001 * best.fun
    assert np.abs(solved - best.x.reshape(shape)).max() < 0.01


def test_no_value_is_below_the_lowest(rng):
    b = rng.standard_normal((8, 8)).astype(np.float32)
    solved = lagged_diffusivity(lambda v: v, b, b, 1e-3, n_iterations=3, lowest=0.25)
    assert solved.min() == 0.25


def phantom_acquisition(mask, noise_level, rng):
    truth = pixelated((96, 96), 1.0).astype(np.float32)
    truth /= truth.max()
    op = CartesianOp(np.ones((1, 96, 96), np.complex64), mask)
    kspace = op.mask * add_gaussian(op.forward(truth.astype(np.complex64)), noise_level, rng)
    return op, op.adjoint(kspace).astype(np.complex64), truth


@pytest.mark.parametrize("kind", ["columns", "2-D"])
def test_few_edges_are_expected_of_an_mr_image_too(kind, monkeypatch, rng):
    mask = (
        column_mask(96, 3, 12, "random", rng)
        if kind == "columns"
        else variable_density_mask((96, 96), 3, 12, rng)
    )
    op, adjoint, truth = phantom_acquisition(mask, 1e-3, rng)

    def error():
        return np.linalg.norm(reweighted_sense(op, adjoint, 1e-3) - truth)

    with_edges = error()
    monkeypatch.setattr(mri_problem, "EDGE_SMOOTHING", ())
    assert with_edges < 0.8 * error()


def test_more_weight_is_given_in_more_noise(monkeypatch, rng):
    """Each part of λ earns its place, on a fully sampled scan of one coil."""
    op, adjoint, truth = phantom_acquisition(np.ones(96, np.float32), 0.09, rng)

    def error():
        return np.linalg.norm(reweighted_sense(op, adjoint, 0.09) - truth)

    whole = error()
    monkeypatch.setattr(mri_problem, "EDGE_NOISE_SQUARED", 0.0)
    without_square = error()
    monkeypatch.setattr(mri_problem, "EDGE_NOISE", 0.0)
    assert whole < 0.95 * without_square < 0.95**2 * error()


def test_a_slice_of_noise_alone_does_not_fade_away(monkeypatch, rng):
    noise = add_gaussian(np.zeros((1, 96, 96), np.complex64), 1.0, rng).astype(np.complex64)
    op = CartesianOp(np.ones((1, 96, 96), np.complex64), np.ones(96, np.float32))
    image = reweighted_sense(op, op.adjoint(noise), 1.0)
    monkeypatch.setattr(mri_problem, "EDGE_SMOOTHING", ())
    prior_alone = reweighted_sense(op, op.adjoint(noise), 1.0)
    assert np.percentile(np.abs(image), 99.5) > 0.5 * np.percentile(np.abs(prior_alone), 99.5)
