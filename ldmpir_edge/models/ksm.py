"""Krylov-subspace modules: the physics that enters and leaves the network at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ldmpir_edge.physics.conjugate_gradient import iterate
from ldmpir_edge.physics.normal import NORMAL_OPERATORS
from ldmpir_edge.physics.problem import Family


def normal_operator(family: Family, tables: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Bind the tables of a family to its normal operator x → AᴴA x on `(B, 2, H, W)`."""
    operator = NORMAL_OPERATORS[family]

    def apply(x: Tensor) -> Tensor:
        result: Tensor
        if torch.is_grad_enabled() and x.requires_grad:
            result = _SelfAdjoint.apply(x, lambda v: operator(v, tables))  # type: ignore[no-untyped-call]
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
    iterations, as in MoDL (Aggarwal et al., IEEE TMI 38(2), 2019).

    Parameters
    ----------
    x0_hat, b
        `(B, 2, H, W)`.
    lam
        `(B, 1, 1, 1)`, positive.

    Returns
    -------
        x and the residual of the data, b − AᴴA x, both `(B, 2, H, W)`. The residual comes from
        that of the solver, without another application of AᴴA.
    """
    target = b + lam * x0_hat
    gram = normal_operator(family, tables)
    if family == "pointwise":
        solved = target / (tables["mask"][:, None] + lam)
        return solved, b - gram(solved)
    x, residual = iterate(lambda v: gram(v) + lam * v, target, x0_hat, n_cg)
    return x, residual + lam * (x - x0_hat)
