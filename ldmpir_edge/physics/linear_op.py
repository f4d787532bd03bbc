"""The contract of an acquisition model: a linear map, its adjoint and its normal operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ldmpir_edge.errors import ShapeError

Array = Any
"""A numpy array or torch tensor; operators answer in the kind, dtype and device they are given."""


class LinearOp(ABC):
    """A linear acquisition model A from images to measurements.

    Any leading axes of the input are batch axes. Subclasses implement `_forward` and `_adjoint`;
    shapes are checked here.

    Attributes
    ----------
    domain_shape
        Shape of an image, without batch axes.
    range_shape
        Shape of a measurement, without batch axes.
    """

    domain_shape: tuple[int, ...]
    range_shape: tuple[int, ...]

    def forward(self, x: Array) -> Array:
        """Apply A to `x` of shape `(..., *domain_shape)`.

        Raises
        ------
        ShapeError
            The trailing axes of `x` differ from `domain_shape`.
        """
        _check_trailing(x, self.domain_shape, "image")
        return self._forward(x)

    def adjoint(self, y: Array) -> Array:
        """Apply Aᴴ to `y` of shape `(..., *range_shape)`.

        Raises
        ------
        ShapeError
            The trailing axes of `y` differ from `range_shape`.
        """
        _check_trailing(y, self.range_shape, "measurement")
        return self._adjoint(y)

    def gram(self, x: Array) -> Array:
        """Apply the normal operator AᴴA to `x` of shape `(..., *domain_shape)`."""
        return self.adjoint(self.forward(x))

    @abstractmethod
    def _forward(self, x: Array) -> Array: ...

    @abstractmethod
    def _adjoint(self, y: Array) -> Array: ...


def _check_trailing(array: Array, shape: tuple[int, ...], what: str) -> None:
    actual = tuple(array.shape)
    if actual[len(actual) - len(shape) :] != shape or len(actual) < len(shape):
        raise ShapeError(f"{what} has shape {actual}; its trailing axes must be {shape}")
