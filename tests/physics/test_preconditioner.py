"""The preconditioner of 1-D masks against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phantom_scan import phantom_scan

from ldmpir_edge.models.ksm import data_consistency
from ldmpir_edge.physics import preconditioner
from ldmpir_edge.physics.cartesian import CartesianOp
from ldmpir_edge.physics.mri_problem import build_mri_problem
from ldmpir_edge.physics.normal import batch_of_one, fold_rows, unfold_rows
from ldmpir_edge.physics.preconditioner import (
    circulant,
    density_of_halves,
    half_transforms,
    sampling_density,
)
from ldmpir_edge.scans.coils import simulate_coil_maps

WIDTH, ROWS = 24, 3


def maps(n_coils: int, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    csm = simulate_coil_maps(shape, n_coils, rng)
    return (csm / np.sqrt(np.sum(np.abs(csm) ** 2, axis=0))).astype(np.complex64)


@pytest.mark.parametrize("width", [WIDTH, 21])
def test_the_density_is_the_diagonal_of_the_normal_operator_in_k_space(width, rng):
    csm = maps(4, (8, width), rng)[:, :1]
    mask = (rng.random(width) < 0.4).astype(np.float32)
    op = CartesianOp(csm, mask)
    waves = np.fft.ifft(np.eye(width), norm="ortho")
    diagonal = [np.vdot(wave, op.gram(wave[None])[0]).real for wave in waves]
    density = sampling_density(csm, mask)
    np.testing.assert_allclose(density, diagonal, atol=1e-5)
    assert density.min() < 0.3 < density.max()


def test_the_density_of_a_fully_sampled_scan_is_one_and_of_no_maps_zero(rng):
    full = np.ones(WIDTH, np.float32)
    np.testing.assert_allclose(sampling_density(maps(2, (8, WIDTH), rng), full), 1, atol=1e-5)
    assert not sampling_density(np.zeros((2, 8, WIDTH), np.complex64), full).any()


def test_frequencies_keep_their_place_and_sign_on_a_padded_grid():
    """One coil of ones: the density is the mask, here of the three frequencies about +5."""
    width, padded = 40, 80
    mask = np.zeros(width, np.float32)
    mask[width // 2 + 4 : width // 2 + 7] = 1
    density = sampling_density(np.ones((1, 8, width), np.complex64), mask)
    assert list(np.flatnonzero(density > 0.5)) == [4, 5, 6]
    plus, minus = density_of_halves(density, padded)
    # Twice as many pixels: frequencies 4 to 6 are 8 to 12 of the padded grid.
    assert list(np.flatnonzero(plus > 0.9)) == [8, 9, 10, 11]
    assert minus.max() < 1e-6


def test_it_is_the_inverse_of_a_circulant_between_two_scalings(rng):
    density = rng.random((2, WIDTH // 2)).astype(np.float32)
    cosines, sines = half_transforms(WIDTH)
    weight = rng.uniform(0.05, 2, (1, 1, ROWS, WIDTH)) * np.ones((1, 2, 1, 1))
    light = rng.random(weight.shape)
    residual = rng.standard_normal(weight.shape)
    geometry = {"cos": cosines}
    apply = circulant(
        fold_rows(weight, geometry), fold_rows(light, geometry), density[None], cosines, sines
    )
    got = unfold_rows(apply(fold_rows(residual, geometry)))
    typical = np.sum(weight * light) / np.sum(light)
    scale = np.sqrt(
        (preconditioner.TYPICAL_DIAGONAL + typical)
        / (preconditioner.TYPICAL_DIAGONAL + weight[0, 0])
    )
    # The DFT at half frequencies of pixels at half positions, both about the middle.
    place = np.arange(WIDTH) - (WIDTH - 1) / 2
    dft = np.exp(-2j * np.pi / WIDTH * np.outer(place, place)) / np.sqrt(WIDTH)
    at_place = np.concatenate([density[1, ::-1], density[0]]) + typical
    image = scale * (residual[0, 0] + 1j * residual[0, 1])
    expected = scale * ((image @ dft.T / at_place) @ dft.conj())
    np.testing.assert_allclose(got[0, 0] + 1j * got[0, 1], expected, atol=1e-5)


def test_three_iterations_come_nearer_than_four_with_the_diagonal_alone(monkeypatch):
    """For λ as the model has it, which falls with the brightness."""
    kspace, csm, mask, _ = phantom_scan()
    problem = build_mri_problem(kspace, csm, mask, 0.005, hybrid=False)
    tables = {k: torch.from_numpy(v) for k, v in batch_of_one(problem.tables).items()}
    b, x1 = torch.from_numpy(problem.b)[None], torch.from_numpy(problem.x1)[None]
    lam = 0.02 * x1.norm(dim=1, keepdim=True).clamp(min=0.05) ** -1.5

    def after(n_cg: int) -> torch.Tensor:
        solved, _ = data_consistency(x1, b, lam, "cartesian1d", tables, n_cg)
        return solved

    solution = after(100)
    ours = float((after(3) - solution).norm())
    monkeypatch.setattr(
        "ldmpir_edge.models.ksm.circulant", lambda weight, *_: preconditioner.diagonal(weight)
    )
    torch.testing.assert_close(after(200), solution, atol=1e-4, rtol=0)
    assert ours < float((after(4) - solution).norm())
