"""Checks that every linear operator must pass."""

from __future__ import annotations

import numpy as np

from ldmpir_edge.physics.linear_op import LinearOp


def draw(shape: tuple[int, ...], complex_: bool, rng: np.random.Generator) -> np.ndarray:
    values = rng.standard_normal(shape)
    return values + 1j * rng.standard_normal(shape) if complex_ else values


def assert_adjoint(
    op: LinearOp,
    rng: np.random.Generator,
    *,
    complex_: bool,
    batch: tuple[int, ...] = (),
    tolerance: float = 1e-10,
) -> None:
    """⟨Ax, y⟩ = ⟨x, Aᴴy⟩ relative to ‖Ax‖‖y‖, on random float64 vectors."""
    x = draw((*batch, *op.domain_shape), complex_, rng)
    y = draw((*batch, *op.range_shape), complex_, rng)
    ax, ahy = op.forward(x), op.adjoint(y)
    assert ax.shape == (*batch, *op.range_shape)
    assert ahy.shape == (*batch, *op.domain_shape)
    gap = abs(np.vdot(ax, y) - np.vdot(x, ahy))
    assert gap <= tolerance * np.linalg.norm(ax) * np.linalg.norm(y)


def assert_linear(op: LinearOp, rng: np.random.Generator, *, complex_: bool) -> None:
    """A(ax + z) = a Ax + Az, and the normal operator is Aᴴ after A."""
    x, z = (draw(op.domain_shape, complex_, rng) for _ in range(2))
    np.testing.assert_allclose(
        op.forward(2.5 * x + z), 2.5 * op.forward(x) + op.forward(z), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(op.gram(x), op.adjoint(op.forward(x)), rtol=1e-12)
