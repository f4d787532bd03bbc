"""Centred orthonormal Fourier transforms and their dense blocks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ldmpir_edge.physics.linear_op import Array


def centred_fft(x: Array, axes: tuple[int, ...]) -> Array:
    """Transform `x` along `axes`: orthonormal, with the zero frequency at index n // 2."""
    xp = array_namespace(x)
    shifted = xp.fft.ifftshift(x, axes=axes)
    return xp.fft.fftshift(xp.fft.fftn(shifted, axes=axes, norm="ortho"), axes=axes)


def centred_ifft(x: Array, axes: tuple[int, ...]) -> Array:
    """Invert `centred_fft`."""
    xp = array_namespace(x)
    shifted = xp.fft.ifftshift(x, axes=axes)
    return xp.fft.fftshift(xp.fft.ifftn(shifted, axes=axes, norm="ortho"), axes=axes)


@lru_cache(maxsize=8)
def dft_matrix(n: int) -> NDArray[np.complex64]:
    """Return the centred orthonormal DFT as an `(n, n)` complex64 matrix, frequency by position.

    A thin block of its rows is what an engine takes in place of an FFT: on the CPU engines a
    MatMul beats the DFT op, and TensorRT before 11.2 has no DFT at all.
    """
    centred = np.arange(n) - n // 2
    # The product is reduced modulo n as integers, so that no phase loses digits for large n.
    phase = np.outer(centred, centred) % n
    exact = np.exp(-2j * np.pi * phase / n) / np.sqrt(n)
    matrix: NDArray[np.complex64] = exact.astype(np.complex64)
    matrix.flags.writeable = False
    return matrix
