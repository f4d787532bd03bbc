"""Smooth interpolation of tables that are known on a coarse grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=32)
def spline_matrix(size: int, n_knots: int) -> NDArray[np.float32]:
    """Build the `(size, n_knots)` cubic-spline matrix from evenly spaced knots to every index.

    The first knot sits on index 0 and the last on index size - 1.
    """
    from scipy.interpolate import CubicSpline  # slow to import, and seldom reached

    knots = np.linspace(0.0, size - 1.0, n_knots)
    matrix: NDArray[np.float32] = CubicSpline(knots, np.eye(n_knots))(np.arange(size)).astype(
        np.float32
    )
    matrix.flags.writeable = False
    return matrix


def upsample(coarse: NDArray[np.inexact], shape: tuple[int, int]) -> NDArray[np.inexact]:
    """Interpolate `(..., h, w)` knots to `(..., *shape)` by the separable cubic spline."""
    rows = spline_matrix(shape[0], coarse.shape[-2])
    columns = spline_matrix(shape[1], coarse.shape[-1])
    if not np.iscomplexobj(coarse):
        return rows @ (coarse @ columns.T)
    # A real matrix product is half the work of a complex one.
    fine = np.empty((*coarse.shape[:-2], *shape), coarse.dtype)
    fine.real = rows @ (np.ascontiguousarray(coarse.real) @ columns.T)
    fine.imag = rows @ (np.ascontiguousarray(coarse.imag) @ columns.T)
    return fine
