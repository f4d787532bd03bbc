"""Acquisition models that act on the image itself: identity and missing pixels."""

from __future__ import annotations

from ldmpir_edge.errors import ShapeError
from ldmpir_edge.physics.linear_op import Array, LinearOp


class IdentityOp(LinearOp):
    """y = x: the model of denoising, for images of `shape`."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.domain_shape = shape
        self.range_shape = shape

    def _forward(self, x: Array) -> Array:
        return x

    def _adjoint(self, y: Array) -> Array:
        return y


class InpaintingOp(LinearOp):
    """y = M x for a real `(H, W)` mask with 1 at known pixels.

    Raises
    ------
    ShapeError
        The mask is not two-dimensional.
    """

    def __init__(self, mask: Array) -> None:
        if len(mask.shape) != 2:
            raise ShapeError(f"mask has shape {tuple(mask.shape)}; expected (H, W)")
        self.mask = mask
        self.domain_shape = self.range_shape = (int(mask.shape[0]), int(mask.shape[1]))

    def _forward(self, x: Array) -> Array:
        return x * self.mask

    def _adjoint(self, y: Array) -> Array:
        return y * self.mask
