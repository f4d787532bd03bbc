"""The engine's real-pair normal operators against the complex operators they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from operator_battery import draw
from phantom_scan import phantom_scan

from ldmpir_edge.physics import mri_problem
from ldmpir_edge.physics.cartesian import CartesianOp
from ldmpir_edge.physics.conjugate_gradient import iterate
from ldmpir_edge.physics.fourier import centred_ifft
from ldmpir_edge.physics.image_problem import (
    build_denoise_problem,
    build_inpaint_problem,
    build_superresolution_problem,
)
from ldmpir_edge.physics.mri_problem import PASSES, build_mri_problem, reweighted_sense
from ldmpir_edge.physics.noise import add_gaussian
from ldmpir_edge.physics.normal import BATCHED_TABLES, NORMAL_OPERATORS
from ldmpir_edge.physics.padding import from_planes, to_planes
from ldmpir_edge.physics.problem import Problem
from ldmpir_edge.physics.superresolution import BlurDecimateOp


def engine_gram(problem: Problem, planes: np.ndarray) -> np.ndarray:
    tables = {k: v[None] if k in BATCHED_TABLES else v for k, v in problem.tables.items()}
    operator = NORMAL_OPERATORS[problem.family]
    result = operator(planes[None], tables)
    as_torch = operator(
        torch.from_numpy(planes[None]), {k: torch.from_numpy(v) for k, v in tables.items()}
    )
    np.testing.assert_allclose(as_torch.numpy(), result, atol=2e-5)
    return result[0]


def unit_maps(n_coils: int, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    csm = draw((n_coils, *shape), True, rng)
    return (csm / np.sqrt((np.abs(csm) ** 2).sum(0))).astype(np.complex64)


@pytest.mark.parametrize("shape", [(32, 48), (19, 21)])
@pytest.mark.parametrize("two_d", [False, True])
@pytest.mark.parametrize("hybrid", [False, True])
def test_mri_problem_is_the_sense_normal_equation(shape, two_d, hybrid, rng):
    if two_d and hybrid:
        pytest.skip("a 2-D mask has no hybrid form")
    csm = unit_maps(4, shape, rng)
    mask = (rng.random(shape if two_d else shape[1]) < 0.5).astype(np.float32)
    mask[..., shape[1] // 2] = 1
    op = CartesianOp(csm, mask)
    x = draw(shape, True, rng).astype(np.complex64)
    kspace = op.forward(x)
    given = centred_ifft(kspace, (-2,)) if hybrid else kspace
    problem = build_mri_problem(given, csm, mask, 0.1, hybrid=hybrid)
    height, width = shape
    assert problem.b.shape[-2] % 16 == problem.b.shape[-1] % 16 == 0
    inside = from_planes(problem.b)[:height, :width] * problem.scale
    np.testing.assert_allclose(inside, op.adjoint(kspace), atol=2e-5)
    planes = np.zeros_like(problem.b)
    planes[:, :height, :width] = to_planes(x)
    gram = from_planes(engine_gram(problem, planes))
    np.testing.assert_allclose(gram[:height, :width], op.gram(x), atol=2e-5)
    assert not gram[height:].any()
    assert not gram[:, width:].any()
    # ‖y‖² and the normal equations give the residual of any image without y.
    energy = np.linalg.norm(kspace) ** 2 / problem.scale**2
    assert problem.measurement_energy == pytest.approx(energy, rel=1e-4)


def test_the_classical_estimate_leaves_a_fully_sampled_scan_as_it_is(rng):
    csm = unit_maps(3, (32, 32), rng)
    x = (2 + draw((32, 32), True, rng)).astype(np.complex64)
    op = CartesianOp(csm, np.ones(32, np.float32))
    solved = reweighted_sense(op, op.adjoint(op.forward(x)), 0.0)
    # λ / m² is about 0.1 % of the data's weight where the image is bright.
    assert np.linalg.norm(solved - x) < 5e-3 * np.linalg.norm(x)
    problem = build_mri_problem(op.forward(x), csm, np.ones(32, np.float32), 0.0, hybrid=False)
    np.testing.assert_allclose(problem.x1, to_planes(solved) / problem.scale, atol=1e-5)


def test_the_classical_estimate_scales_with_the_scan(rng):
    csm = unit_maps(4, (32, 32), rng)
    op = CartesianOp(csm, (np.arange(32) % 2 == 0).astype(np.float32))
    adjoint = op.adjoint(op.forward(draw((32, 32), True, rng).astype(np.complex64)))
    once = reweighted_sense(op, adjoint, 0.01)
    for factor in (np.float32(1e-10), np.float32(1e-6), np.float32(1e6)):
        scaled = reweighted_sense(op, factor * adjoint, 0.01 * float(factor))
        np.testing.assert_allclose(scaled / factor, once, atol=2e-4 * np.abs(once).max())


@pytest.mark.parametrize("noise_level", [0.3, 1.0])
def test_an_image_of_more_noise_than_tissue_does_not_fade_away(noise_level, rng):
    csm = np.ones((1, 32, 32), np.complex64)
    image = np.zeros((32, 32), np.complex64)
    image[8:24, 8:24] = 1
    op = CartesianOp(csm, np.ones(32, np.float32))
    noisy = add_gaussian(op.forward(image), noise_level, rng)
    solved = reweighted_sense(op, op.adjoint(noisy).astype(np.complex64), noise_level)
    inside = np.abs(np.mean(solved[10:22, 10:22]))
    assert 0.4 < inside < 1.2


def test_a_magnitude_prior_puts_aliasing_back_to_the_bright_rim(monkeypatch):
    """Against the same number of iterations of plain CG-SENSE, on the analytic phantom."""
    kspace, csm, mask, truth = phantom_scan()
    op = CartesianOp(csm, mask)
    adjoint = op.adjoint(kspace)

    def normal(v):
        image = (v[:, 0] + 1j * v[:, 1])[0]
        return to_planes(op.gram(image) + 0.01 * image)[None]

    planes = to_planes(adjoint)[None]
    plain = from_planes(iterate(normal, planes, None, sum(PASSES))[0][0])
    monkeypatch.setattr(mri_problem, "EDGE_SMOOTHING", ())
    ours = reweighted_sense(op, adjoint, 0.005)
    inside = np.any(csm != 0, axis=0)
    error, error_plain = (np.linalg.norm(np.abs(image) - truth * inside) for image in (ours, plain))
    assert error < 0.6 * error_plain


def test_preconditioned_conjugate_gradient_solves_the_same_system_sooner(rng):
    diagonal = np.geomspace(1.0, 1e4, 32).reshape(1, 2, 4, 4)
    b = rng.standard_normal(diagonal.shape)
    solved, residual = iterate(lambda v: diagonal * v, b, None, 1, lambda v: v / diagonal)
    np.testing.assert_allclose(solved, b / diagonal, rtol=1e-9)
    np.testing.assert_allclose(residual, 0, atol=1e-9)
    plain, left = iterate(lambda v: diagonal * v, b, None, 5)
    np.testing.assert_allclose(left, b - diagonal * plain, atol=1e-9)
    assert np.linalg.norm(left) > 0.1


def test_conjugate_gradient_matches_a_direct_solve(rng):
    a = rng.standard_normal((18, 18))
    matrix = a @ a.T + np.eye(18)
    b = rng.standard_normal((1, 2, 3, 3))
    solved, _ = iterate(
        lambda v: (matrix @ v.reshape(-1)).reshape(v.shape), b, np.zeros_like(b), 40
    )
    np.testing.assert_allclose(solved.ravel(), np.linalg.solve(matrix, b.ravel()), rtol=1e-6)


def test_conjugate_gradient_stays_finite_at_the_solution():
    zero = np.zeros((1, 2, 4, 4), np.float32)
    assert not iterate(lambda v: 2 * v, zero, zero, 5)[0].any()


@pytest.mark.parametrize("factor", [2, 3])
def test_superresolution_problem_is_the_normalised_operator(factor, rng):
    image = rng.random((20, 24)).astype(np.float32)
    problem = build_superresolution_problem(image, factor, "mr")
    height, width = 20 * factor, 24 * factor
    op = BlurDecimateOp((height, width), factor)
    norm = np.linalg.norm(op.left, 2) * np.linalg.norm(op.right, 2)
    x = rng.random((height, width))
    planes = np.zeros_like(problem.b)
    planes[0, :height, :width] = x
    gram = engine_gram(problem, planes)
    np.testing.assert_allclose(gram[0, :height, :width], op.gram(x) / norm**2, atol=1e-5)
    expected_b = op.adjoint(image / problem.scale) / norm**2
    np.testing.assert_allclose(problem.b[0, :height, :width], expected_b, atol=1e-5)


def test_denoise_and_inpaint_problems(rng):
    image = (500 + rng.random((30, 20)) * 100).astype(np.float32)
    denoise = build_denoise_problem(image, "mr", noise_level=5.0)
    np.testing.assert_allclose(denoise.b[0, :30, :20] * denoise.scale, image, rtol=1e-5)
    assert denoise.noise_level == pytest.approx(5.0 / denoise.scale)
    known = rng.random(image.shape) < 0.6
    inpaint = build_inpaint_problem(image, known, "mr")
    inside = inpaint.x1[0, :30, :20] * inpaint.scale
    np.testing.assert_allclose(inside[known], image[known], rtol=1e-5)
    assert np.all(inside[~known] <= image.max() * 1.001)
    assert not inpaint.b[0, :30, :20][~known].any()
    ct = build_denoise_problem(image - 500, "ct")
    np.testing.assert_allclose(ct.b[0, :30, :20], (image + 500) / 2000, rtol=1e-5)
