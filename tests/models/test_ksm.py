"""The Krylov-subspace modules against dense linear algebra."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tiny_problems import disc, mri_problem, tables, tensors, unit_maps

from ldmpir_edge.models.ksm import data_consistency, krylov_features, normal_operator
from ldmpir_edge.physics.conjugate_gradient import iterate
from ldmpir_edge.physics.normal import (
    NORMAL_OPERATORS,
    SOLVER_OPERATORS,
    from_solver,
    to_solver,
)
from ldmpir_edge.physics.problem import FAMILIES

SMALL = 16


def to_complex(planes: torch.Tensor) -> np.ndarray:
    return (planes[0, 0] + 1j * planes[0, 1]).numpy()


def dense_mri(two_d: bool, rng: np.random.Generator):
    """A problem, and its acquisition written down as a matrix from numpy.fft alone."""
    shape = (SMALL, SMALL)
    csm = unit_maps(2, shape, rng)
    mask = (rng.random(shape if two_d else SMALL) < 0.5).astype(np.float32)
    mask[..., SMALL // 2] = 1
    problem = mri_problem(mask, csm, SMALL)
    basis = np.eye(SMALL * SMALL).reshape(-1, 1, *shape) * csm
    shifted = np.fft.ifftshift(basis, axes=(-2, -1))
    kspace = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1)) * mask
    return problem, kspace.reshape(SMALL * SMALL, -1).T


@pytest.mark.parametrize("two_d", [False, True])
def test_krylov_features_are_the_residual_and_its_image(two_d, rng):
    problem, matrix = dense_mri(two_d, rng)
    given = tensors(problem)
    x = torch.from_numpy(rng.standard_normal((1, 2, SMALL, SMALL)).astype(np.float32))
    apply = normal_operator(problem.family, tables(problem, given))
    features = torch.cat(krylov_features(given["b"] - apply(x), apply, 2), dim=1)
    assert features.shape == (1, 4, SMALL, SMALL)
    gram = matrix.conj().T @ matrix
    residual = to_complex(given["b"]).ravel() - gram @ to_complex(x).ravel()
    np.testing.assert_allclose(to_complex(features[:, :2]).ravel(), residual, atol=1e-5)
    np.testing.assert_allclose(to_complex(features[:, 2:]).ravel(), gram @ residual, atol=1e-5)


@pytest.mark.parametrize("two_d", [False, True])
def test_lambda_may_be_a_map(two_d, rng):
    problem, matrix = dense_mri(two_d, rng)
    given = tensors(problem, torch.float64)
    x0_hat = torch.from_numpy(rng.standard_normal((1, 2, SMALL, SMALL)))
    lam = torch.from_numpy(rng.uniform(0.05, 5.0, (1, 1, SMALL, SMALL)))
    solved, residual = data_consistency(
        x0_hat, given["b"], lam, problem.family, tables(problem, given), 80
    )
    weight = lam.numpy().ravel()
    gram = matrix.conj().T @ matrix
    data = to_complex(given["b"]).ravel()
    expected = np.linalg.solve(gram + np.diag(weight), data + weight * to_complex(x0_hat).ravel())
    np.testing.assert_allclose(to_complex(solved).ravel(), expected, atol=2e-6)
    np.testing.assert_allclose(to_complex(residual).ravel(), data - gram @ expected, atol=1e-5)


@pytest.mark.parametrize("two_d", [False, True])
@pytest.mark.parametrize("lam", [0.05, 2.0])
def test_data_consistency_solves_the_regularised_normal_equations(two_d, lam, rng):
    problem, matrix = dense_mri(two_d, rng)
    given = tensors(problem, torch.float64)
    x0_hat = torch.from_numpy(rng.standard_normal((1, 2, SMALL, SMALL)))
    solved, _ = data_consistency(
        x0_hat,
        given["b"],
        torch.full((1, 1, 1, 1), lam, dtype=torch.float64),
        problem.family,
        tables(problem, given),
        80,
    )
    expected = np.linalg.solve(
        matrix.conj().T @ matrix + lam * np.eye(SMALL * SMALL),
        (to_complex(given["b"]) + lam * to_complex(x0_hat)).ravel(),
    )
    np.testing.assert_allclose(to_complex(solved).ravel(), expected, atol=2e-6)


@pytest.mark.parametrize("n_cg", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_that_comes_with_it_is_that_of_the_data(family, n_cg, problems, rng):
    problem = problems[family]
    given = tensors(problem, torch.float64)
    x0_hat = given["x1"] + 0.1 * torch.from_numpy(rng.standard_normal(given["x1"].shape))
    lam = torch.from_numpy(rng.uniform(0.05, 0.5, (1, 1, *given["x1"].shape[2:])))
    x, residual = data_consistency(x0_hat, given["b"], lam, family, tables(problem, given), n_cg)
    expected = given["b"] - normal_operator(family, tables(problem, given))(x)
    assert not torch.allclose(x, x0_hat, atol=1e-3)
    np.testing.assert_allclose(residual, expected, atol=1e-9)


def test_few_iterations_approach_the_solution_from_x0_hat(rng):
    problem, matrix = dense_mri(True, rng)
    given = tensors(problem, torch.float64)
    x0_hat = torch.from_numpy(rng.standard_normal((1, 2, SMALL, SMALL)))
    system = matrix.conj().T @ matrix + 0.1 * np.eye(SMALL * SMALL)
    target = (to_complex(given["b"]) + 0.1 * to_complex(x0_hat)).ravel()
    solution = np.linalg.solve(system, target)

    def energy_error(n_cg: int) -> float:
        lam = torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64)
        x, _ = data_consistency(
            x0_hat, given["b"], lam, problem.family, tables(problem, given), n_cg
        )
        error = to_complex(x).ravel() - solution
        return float(np.vdot(error, system @ error).real)

    start = to_complex(x0_hat).ravel() - solution
    errors = [float(np.vdot(start, system @ start).real), *(energy_error(n) for n in (1, 2, 4, 8))]
    # The error in the operator's own norm never grows in conjugate gradients.
    assert all(after < before for before, after in itertools.pairwise(errors))
    # The spectrum is in [0.1, 1.1]: the Chebyshev bound after 8 iterations.
    rate = (np.sqrt(11) - 1) / (np.sqrt(11) + 1)
    assert errors[-1] <= (2 * rate**8) ** 2 * errors[0]


def test_pointwise_data_consistency_is_the_weighted_mean(problems, rng):
    problem = problems["pointwise"]
    given = tensors(problem)
    x0_hat = torch.from_numpy(rng.standard_normal(problem.b[None].shape).astype(np.float32))
    solved, _ = data_consistency(
        x0_hat,
        given["b"],
        torch.full((1, 1, 1, 1), 0.25),
        "pointwise",
        tables(problem, given),
        1,
    )
    known = problem.tables["mask"] == 1
    assert known.any()
    assert not known.all()
    expected = np.where(known, (problem.b + 0.25 * x0_hat.numpy()[0]) / 1.25, x0_hat.numpy()[0])
    np.testing.assert_allclose(solved[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_true_image_is_a_fixed_point(family, problems):
    problem = problems[family]
    given = tensors(problem)
    x0 = torch.from_numpy(np.stack([disc(32), 0.3 * disc(32).T])[None])
    consistent = normal_operator(family, tables(problem, given))(x0)
    solved, _ = data_consistency(
        x0, consistent, torch.full((1, 1, 1, 1), 0.1), family, tables(problem, given), 4
    )
    np.testing.assert_allclose(solved.numpy(), x0.numpy(), atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_input_gives_zero_and_finite_gradients(family, problems):
    problem = problems[family]
    given = tensors(problem)
    x0_hat = torch.zeros(1, 2, 32, 32, requires_grad=True)
    lam = torch.full((1, 1, 1, 1), 0.02, requires_grad=True)
    solved, _ = data_consistency(
        x0_hat, torch.zeros(1, 2, 32, 32), lam, family, tables(problem, given), 6
    )
    assert not solved.any()
    solved.sum().backward()
    assert torch.isfinite(x0_hat.grad).all()
    assert torch.isfinite(lam.grad).all()


def test_float32_conjugate_gradient_stays_put_once_solved():
    b = torch.linspace(-1, 1, 32).reshape(1, 2, 4, 4)
    diagonal = torch.linspace(0.5, 1.5, 32).reshape(1, 2, 4, 4)
    solved, _ = iterate(lambda v: diagonal * v, b, torch.zeros_like(b), 200)
    np.testing.assert_allclose(solved.numpy(), (b / diagonal).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_the_recorded_operations(family, problems, rng):
    """The operator is taken to be self-adjoint in the backward pass; autograd checks it."""
    problem = problems[family]
    given = tables(problem, tensors(problem, torch.float64))
    x, weight = (torch.from_numpy(rng.standard_normal((1, 2, 32, 32))) for _ in range(2))
    x.requires_grad_()
    (recorded,) = torch.autograd.grad((NORMAL_OPERATORS[family](x, given) * weight).sum(), x)
    (ours,) = torch.autograd.grad((normal_operator(family, given)(x) * weight).sum(), x)
    assert recorded.any()
    np.testing.assert_allclose(ours, recorded, atol=1e-7)
    # The solver's layout holds the same operator.
    laid_out = from_solver(SOLVER_OPERATORS[family](to_solver(x, family, given), given), family)
    np.testing.assert_allclose(
        laid_out.detach(), NORMAL_OPERATORS[family](x, given).detach(), atol=1e-9
    )
    (through,) = torch.autograd.grad((laid_out * weight).sum(), x)
    np.testing.assert_allclose(through, recorded, atol=1e-7)
