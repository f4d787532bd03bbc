"""Krylov-subspace modules: the physics that enters and leaves the network at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ldmpir_edge.physics.conjugate_gradient import conjugate_gradient
from ldmpir_edge.physics.normal import NORMAL_OPERATORS
from ldmpir_edge.physics.problem import Family


def normal_operator(family: Family, tables: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Bind the tables of a family to its normal operator x → AᴴA x on `(B, 2, H, W)`."""
    operator = NORMAL_OPERATORS[family]

    def apply(x: Tensor) -> Tensor:
        result: Tensor = operator(x, tables)
        return result

    return apply


def krylov_features(x: Tensor, b: Tensor, gram: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the Krylov vectors r = b − AᴴA x and AᴴA r as `(B, 4, H, W)`."""
    residual = b - gram(x)
    return torch.cat([residual, gram(residual)], dim=1)


def data_consistency(
    x0_hat: Tensor,
    b: Tensor,
    lam: Tensor,
    family: Family,
    tables: Mapping[str, Tensor],
    n_cg: int,
) -> Tensor:
    """Solve (AᴴA + λ) x = b + λ x0_hat, starting from x0_hat.

    In closed form where AᴴA is diagonal (`pointwise`), else by `n_cg` conjugate-gradient
    iterations, as in MoDL (Aggarwal et al., IEEE TMI 38(2), 2019).

    Parameters
    ----------
    x0_hat, b
        `(B, 2, H, W)`.
    lam
        `(B, 1, 1, 1)`, positive.
    """
    target = b + lam * x0_hat
    if family == "pointwise":
        return target / (tables["mask"][:, None] + lam)
    gram = normal_operator(family, tables)
    solved: Tensor = conjugate_gradient(lambda v: gram(v) + lam * v, target, x0_hat, n_cg)
    return solved
