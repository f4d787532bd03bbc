"""Exact padding to the sizes that the network's halvings need."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.problem import SIZE_MULTIPLE

Number = TypeVar("Number", bound=np.number)


def padded_size(n: int) -> int:
    """Return the next multiple of `SIZE_MULTIPLE` at or above `n`."""
    return -(-n // SIZE_MULTIPLE) * SIZE_MULTIPLE


def pad_image(x: NDArray[Number]) -> NDArray[Number]:
    """Zero-pad the last two axes of `x` at their ends to multiples of `SIZE_MULTIPLE`.

    An `x` of such a size is returned as it is.
    """
    height, width = x.shape[-2:]
    if (height, width) == (padded_size(height), padded_size(width)):
        return x
    padded = np.zeros((*x.shape[:-2], padded_size(height), padded_size(width)), x.dtype)
    padded[..., :height, :width] = x
    return padded


def to_planes(x: NDArray[np.generic]) -> NDArray[np.float32]:
    """Turn `(..., H, W)` real or complex into `(..., 2, H, W)` float32 planes."""
    return np.stack([x.real, x.imag], axis=-3, dtype=np.float32)


def from_planes(x: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Turn `(..., 2, H, W)` planes into `(..., H, W)` complex64."""
    image = np.empty((*x.shape[:-3], *x.shape[-2:]), np.complex64)
    image.real, image.imag = x[..., 0, :, :], x[..., 1, :, :]
    return image
