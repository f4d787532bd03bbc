"""Least squares with total variation, for classical estimates: an image that has few edges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.conjugate_gradient import iterate
from ldmpir_edge.physics.linear_op import Array
from ldmpir_edge.physics.preconditioner import diagonal

SMOOTHING = (0.05, 0.02, 0.01, 0.005)
"""ε of each pass, in units of the scaling contract: differences far above it count as edges. It
falls, since the streaks of the start would be taken for edges else."""
OF_GRAM = 0.5
"""Taken for the diagonal of AᵀA by the preconditioner."""


class EdgePenalty:
    """x → ∇ᵀ(c ∇x) with c = λ / √(|∇x₀|² + ε²): the parabola that touches λ TV at x₀.

    Source: Rudin, Osher and Fatemi, Physica D 60, 1992; Vogel and Oman, "Iterative methods for
    total variation denoising", SIAM J. Sci. Comput. 17(1), 1996 (lagged diffusivity).

    Parameters
    ----------
    x
        x₀, `(H, W)` float32 or complex64.
    weight, edge
        λ and ε, in units of the image.

    Attributes
    ----------
    diagonal
        That of the map, `(H, W)` float32.
    """

    def __init__(self, x: NDArray[np.inexact], weight: float, edge: float) -> None:
        down, right = differences(x)
        slope = np.abs(down) ** 2 + np.abs(right) ** 2
        self._conductance = np.float32(weight) / np.sqrt(slope + np.float32(edge**2))
        self.diagonal: NDArray[np.float32] = np.zeros_like(self._conductance)
        # Each difference changes with both of its pixels.
        self.diagonal[:-1] += self._conductance[:-1]
        self.diagonal[1:] += self._conductance[:-1]
        self.diagonal[:, :-1] += self._conductance[:, :-1]
        self.diagonal[:, 1:] += self._conductance[:, :-1]

    def __call__(self, x: Array) -> Array:
        """Apply the map to an image like x₀."""
        return differences_adjoint(*(self._conductance * part for part in differences(x)))


def lagged_diffusivity(
    normal: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    b: NDArray[np.float32],
    start: NDArray[np.float32],
    weight: float,
    *,
    n_iterations: int,
    lowest: float = -np.inf,
) -> NDArray[np.float32]:
    """Minimise ½ xᵀAᵀA x − bᵀx + λ Σ √(|∇x|² + ε²) by passes of conjugate gradients.

    Parameters
    ----------
    normal
        x → AᵀA x on `(H, W)` float32 images, of norm about 1.
    b
        Aᵀy, `(H, W)` float32.
    start
        x of before the first pass, `(H, W)` float32.
    weight
        λ, in units of the image; for a scan it goes with the variance of the noise of y.
    n_iterations
        Of each pass.
    lowest
        Values below it are raised to it behind each pass.

    Returns
    -------
        x, `(H, W)` float32.
    """
    x = np.maximum(start, np.float32(lowest))
    for edge in SMOOTHING:
        penalty = EdgePenalty(x, weight, edge)

        def system(v: Array, penalty: EdgePenalty = penalty) -> Array:
            return (normal(v[0, 0]) + penalty(v[0, 0]))[None, None]

        solved, _ = iterate(
            system, b[None, None], x[None, None], n_iterations, diagonal(penalty.diagonal, OF_GRAM)
        )
        x = np.maximum(solved[0, 0], np.float32(lowest))
    return x


def differences(x: Array) -> tuple[Array, Array]:
    """Return the differences to the next pixel down and to the right, 0 at the edges."""
    down, right = np.zeros_like(x), np.zeros_like(x)
    np.subtract(x[1:], x[:-1], out=down[:-1])
    np.subtract(x[:, 1:], x[:, :-1], out=right[:, :-1])
    return down, right


def differences_adjoint(down: Array, right: Array) -> Array:
    """Apply the adjoint of `differences`; behind them it is minus the Laplacian.

    The last row of `down` and the last column of `right` must be 0, as those of `differences` are.
    """
    x = -down - right
    x[1:] += down[:-1]
    x[:, 1:] += right[:, :-1]
    return x
