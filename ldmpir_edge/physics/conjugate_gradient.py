"""Conjugate gradients with a fixed number of iterations, fit for an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable

from array_api_compat import array_namespace

from ldmpir_edge.physics.linear_op import Array

TINY = 1e-20
"""Added to denominators: a solved system then takes steps of zero instead of 0/0."""


def iterate(
    normal: Callable[[Array], Array],
    b: Array,
    x0: Array | None,
    n_iterations: int,
    precondition: Callable[[Array], Array] = lambda residual: residual,
) -> tuple[Array, Array]:
    """Solve N x = b for a positive definite N, from x0, in exactly `n_iterations` steps.

    There is no data-dependent stop, so that the unrolled graph is the same for every scan.
    Inner products are real, over all axes but the first (real and imaginary planes together).

    Parameters
    ----------
    normal
        The map x → N x on `(B, 2, H, W)` arrays.
    b
        `(B, 2, H, W)` real.
    x0
        Like `b`, or None for zero: the first residual is then b and costs no application.
    n_iterations
        Number of applications of `normal` after the first residual.
    precondition
        Applies a symmetric positive definite map near the inverse of N.

    Returns
    -------
        The last iterate x and its residual b − N x, both `(B, 2, H, W)`. The residual costs no
        further application of `normal`.

    Source: Hestenes and Stiefel, J. Res. NBS 49(6), 1952; with preconditioning, Saad, "Iterative
    Methods for Sparse Linear Systems", 2nd ed., algorithm 9.1.
    """
    x = b * 0 if x0 is None else x0
    residual = b if x0 is None else b - normal(x)
    scaled = precondition(residual)
    direction = scaled
    energy = _dot(residual, scaled)
    for i in range(n_iterations):
        image = normal(direction)
        step = energy / (_dot(direction, image) + TINY)
        x = x + step * direction
        residual = residual - step * image
        if i + 1 == n_iterations:
            break
        scaled = precondition(residual)
        new_energy = _dot(residual, scaled)
        direction = scaled + (new_energy / (energy + TINY)) * direction
        energy = new_energy
    return x, residual


def _dot(a: Array, b: Array) -> Array:
    return array_namespace(a).sum(a * b, axis=(1, 2, 3), keepdims=True)
