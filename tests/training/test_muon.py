"""Muon against the singular value decomposition, and against torch's own on matrices."""

from __future__ import annotations

import pytest
import torch

from ldmpir_edge.training.muon import RMS, Muon, orthogonalise


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16), (1, 9)])
def test_an_update_keeps_the_singular_vectors_and_levels_the_values(shape):
    matrix = draw(*shape)
    made = orthogonalise(matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ made @ v.T
    values = torch.diagonal(inner)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    assert float((inner - torch.diag(values)).abs().max()) < 5e-3


def test_a_step_is_that_of_torchs_muon():
    """Torch's works in bfloat16, hence the tolerance: 1 % of an update."""
    ours, theirs = (torch.nn.Parameter(draw(24, 40)) for _ in range(2))
    theirs_step = torch.optim.Muon(
        [theirs], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    ours_step = Muon([ours], lr=0.01)
    for k in range(4):
        ours.grad = draw(24, 40, seed=k + 1)
        theirs.grad = ours.grad.clone()
        ours_step.step()
        theirs_step.step()
    moved = (theirs - draw(24, 40)).detach()
    assert float((ours - theirs).detach().norm()) < 0.02 * float(moved.norm())


def test_a_kernel_is_a_matrix_of_its_outputs():
    kernel = torch.nn.Parameter(draw(6, 4, 3, 3))
    matrix = torch.nn.Parameter(kernel.detach().reshape(6, 36).clone())
    kernel.grad = draw(6, 4, 3, 3, seed=1)
    matrix.grad = kernel.grad.reshape(6, 36)
    before = kernel.detach().clone()
    Muon([kernel], lr=0.1).step()
    Muon([matrix], lr=0.1).step()
    assert torch.equal(kernel.detach().reshape(6, 36), matrix.detach())
    # Every singular value is about 1, times √(largest side), of 36 entries a row.
    rms = float((kernel.detach() - before).square().mean().sqrt())
    assert rms == pytest.approx(0.1 * RMS, rel=0.25)


def test_parameters_without_a_gradient_stay():
    kernel = torch.nn.Parameter(draw(4, 4))
    Muon([kernel], lr=0.1).step()
    assert torch.equal(kernel.detach(), draw(4, 4))


def test_a_zero_gradient_moves_nothing_and_stays_finite():
    kernel = torch.nn.Parameter(draw(4, 4))
    kernel.grad = torch.zeros(4, 4)
    Muon([kernel], lr=0.1).step()
    assert torch.equal(kernel.detach(), draw(4, 4))
