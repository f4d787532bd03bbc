"""Exact padding to the sizes that the network's halvings need."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.physics.problem import SIZE_MULTIPLE


def padded_size(n: int) -> int:
    """Return the next multiple of `SIZE_MULTIPLE` at or above `n`."""
    return -(-n // SIZE_MULTIPLE) * SIZE_MULTIPLE


def pad_image(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero-pad the last two axes of `x` at their ends to multiples of `SIZE_MULTIPLE`."""
    sizes = x.shape[-2:]
    widths = [(0, 0)] * (x.ndim - 2) + [(0, padded_size(n) - n) for n in sizes]
    return np.pad(x, widths)


def to_planes(x: NDArray[np.generic]) -> NDArray[np.float32]:
    """Turn `(..., H, W)` real or complex into `(..., 2, H, W)` float32 planes."""
    return np.stack([x.real, x.imag], axis=-3).astype(np.float32)


def from_planes(x: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Turn `(..., 2, H, W)` planes into `(..., H, W)` complex64."""
    return (x[..., 0, :, :] + 1j * x[..., 1, :, :]).astype(np.complex64)
