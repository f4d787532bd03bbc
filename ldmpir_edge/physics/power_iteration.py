"""The largest eigenvalue of a normal operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def largest_eigenvalue(
    operator: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    shape: tuple[int, ...],
    n_iterations: int,
) -> float:
    """Estimate the largest eigenvalue of a symmetric, non-negative operator from below.

    Power iteration from a fixed random start, so that the same geometry always gets the same
    scaling.
    """
    x = np.random.default_rng(0).standard_normal(shape)
    value = 0.0
    for _ in range(n_iterations):
        x = operator(x / np.linalg.norm(x))
        value = float(np.linalg.norm(x))
    return value
