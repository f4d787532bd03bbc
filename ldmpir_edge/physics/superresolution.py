"""Super-resolution: separable Gaussian blur followed by decimation."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from ldmpir_edge.errors import ShapeError
from ldmpir_edge.physics.linear_op import Array, LinearOp

BLUR_PER_FACTOR = 0.4
"""Standard deviation of the blur in fine pixels, per unit of the factor: the slice or voxel
profile whose full width at half maximum is close to one coarse pixel (2.355 x 0.4 = 0.94)."""


@lru_cache(maxsize=32)
def decimation_matrix(n: int, factor: int) -> NDArray[np.float64]:
    """Return the `(n // factor, n)` float64 matrix that blurs and decimates one axis.

    Row j is a Gaussian centred on the middle of coarse pixel j, cut at the image's edge and
    normalised to sum 1, so that a constant image keeps its value.

    Raises
    ------
    ShapeError
        `n` is not a multiple of `factor`, or `factor` is below 2.
    """
    if factor < 2 or n % factor:
        raise ShapeError(f"size {n} cannot be decimated by {factor}: give a multiple of it")
    centres = (np.arange(n // factor) + 0.5) * factor - 0.5
    distance = (np.arange(n) - centres[:, None]) / (BLUR_PER_FACTOR * factor)
    # Cutting at 4 standard deviations keeps the operator local; what is lost is below 1e-4.
    weight = np.where(np.abs(distance) <= 4, np.exp(-0.5 * distance**2), 0.0)
    matrix: NDArray[np.float64] = weight / weight.sum(axis=1, keepdims=True)
    matrix.flags.writeable = False
    return matrix


class BlurDecimateOp(LinearOp):
    """y = D_h x D_wᵀ: a fine image of `shape` seen by a system with `factor` larger pixels."""

    def __init__(self, shape: tuple[int, int], factor: int) -> None:
        self.left = decimation_matrix(shape[0], factor)
        self.right = decimation_matrix(shape[1], factor)
        self.domain_shape = shape
        self.range_shape = (self.left.shape[0], self.right.shape[0])

    def _matrices(self, like: Array) -> tuple[Array, Array]:
        xp = array_namespace(like)
        kind = {"dtype": like.dtype, "device": device(like)}
        return (
            xp.asarray(np.array(self.left), **kind),
            xp.asarray(np.array(self.right), **kind),
        )

    def _forward(self, x: Array) -> Array:
        left, right = self._matrices(x)
        return left @ x @ right.T

    def _adjoint(self, y: Array) -> Array:
        left, right = self._matrices(y)
        return left.T @ y @ right
