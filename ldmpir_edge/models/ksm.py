"""Krylov-subspace modules: the physics that enters and leaves the network at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ldmpir_edge.models.sparse_rays import gram_rays_sparse
from ldmpir_edge.physics.conjugate_gradient import iterate
from ldmpir_edge.physics.normal import (
    NORMAL_OPERATORS,
    SOLVER_OPERATORS,
    from_solver,
    to_solver,
)
from ldmpir_edge.physics.preconditioner import circulant, diagonal
from ldmpir_edge.physics.problem import Family

Gram = Callable[[Tensor], Tensor]
Operators = Mapping[Family, Callable[[Tensor, Mapping[str, Tensor]], Tensor]]

TRAINING_OPERATORS: Operators = {"rays": gram_rays_sparse}
"""In place of a family's own operator where gradients are wanted: the same function, faster."""


def normal_operator(family: Family, tables: Mapping[str, Tensor]) -> Gram:
    """Bind the tables of a family to its normal operator x → AᴴA x on `(B, 2, H, W)`."""
    return _bind(NORMAL_OPERATORS, family, tables)


def _bind(operators: Operators, family: Family, tables: Mapping[str, Tensor]) -> Gram:
    operator = operators[family]
    in_training = TRAINING_OPERATORS.get(family, operator)

    def apply(x: Tensor) -> Tensor:
        result: Tensor
        if torch.is_grad_enabled() and x.requires_grad:
            result = _SelfAdjoint.apply(x, lambda v: in_training(v, tables))  # type: ignore[no-untyped-call]
        else:
            result = operator(x, tables)
        return result

    return apply


class _SelfAdjoint(torch.autograd.Function):
    """AᴴA is its own derivative and adjoint: nothing is kept for the backward pass.

    Recording its elementwise parts instead made an update three times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.operator = operator
        return operator(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.operator(gradients[0]), None


def krylov_features(
    residual: Tensor, gram: Callable[[Tensor], Tensor], n_vectors: int
) -> tuple[Tensor, ...]:
    """Return r, AᴴA r, … : `n_vectors` of the Krylov sequence of r = b − AᴴA x.

    The first costs nothing, since the sampler carries r along from the conjugate gradients of
    the step before; each further one costs an application of AᴴA.
    """
    vectors = [residual]
    for _ in range(n_vectors - 1):
        vectors.append(gram(vectors[-1]))
    return tuple(vectors)


def data_consistency(
    x0_hat: Tensor,
    b: Tensor,
    lam: Tensor,
    family: Family,
    tables: Mapping[str, Tensor],
    n_cg: int,
) -> tuple[Tensor, Tensor]:
    """Solve (AᴴA + λ) x = b + λ x0_hat, starting from x0_hat.

    In closed form where AᴴA is diagonal (`pointwise`), else by `n_cg` conjugate-gradient
    iterations, as in MoDL (Aggarwal et al., IEEE TMI 38(2), 2019), preconditioned by λ, as pixels
    with a large one would else hold up the others, and for 1-D masks by the sampling density, too.

    Parameters
    ----------
    x0_hat, b
        `(B, 2, H, W)`.
    lam
        `(B, 1, H, W)` or `(B, 1, 1, 1)`, positive.
    n_cg
        Iterations; none leave x0_hat as it is, if there is no closed form.

    Returns
    -------
        x and the residual of the data, b − AᴴA x, both `(B, 2, H, W)`. The residual comes from
        that of the solver, without another application of AᴴA.
    """
    if family == "pointwise":
        solved = (b + lam * x0_hat) / (tables["mask"][:, None] + lam)
        return solved, b - normal_operator(family, tables)(solved)
    if n_cg == 0:
        return x0_hat, b - normal_operator(family, tables)(x0_hat)
    gram = _bind(SOLVER_OPERATORS, family, tables)
    both = lam * torch.ones_like(x0_hat)
    start, data, weight = (to_solver(image, family, tables) for image in (x0_hat, b, both))
    # Constants to the gradient, which is exact for that at the solution: it is what they do not
    # change.
    with torch.no_grad():
        precondition = (
            circulant(weight, start, tables["density"], tables["all_cos"], tables["all_sin"])
            if family == "cartesian1d"
            else diagonal(weight)
        )
    x, residual = iterate(
        lambda v: gram(v) + weight * v, data + weight * start, start, n_cg, precondition
    )
    residual = residual + weight * (x - start)
    return from_solver(x, family), from_solver(residual, family)
