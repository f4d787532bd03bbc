"""The largest eigenvalue of a normal operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh_tridiagonal


def largest_eigenvalue(
    operator: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    shape: tuple[int, ...],
    n_iterations: int,
) -> float:
    """Estimate the largest eigenvalue of a symmetric, non-negative operator from below.

    Lanczos' method from a fixed random start, so that the same geometry always gets the same
    scaling. Each iteration applies the operator once; 6 of them give what 12 power iterations
    gave, and 10 what 30 gave (CT, within 1 %).

    Source: Golub and Van Loan, Matrix Computations, section 10.1.
    """
    x = np.random.default_rng(0).standard_normal(shape)
    x /= np.linalg.norm(x)
    before = np.zeros(shape)
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(n_iterations):
        image = operator(x)
        diagonal.append(float(np.vdot(x, image)))
        rest = image - diagonal[-1] * x - (beside[-1] * before if beside else 0.0)
        beside.append(float(np.linalg.norm(rest)))
        if beside[-1] <= np.finfo(np.float32).eps * diagonal[-1]:
            break
        before, x = x, rest / beside[-1]
    return float(eigvalsh_tridiagonal(diagonal, beside[: len(diagonal) - 1])[-1])
