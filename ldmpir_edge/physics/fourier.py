"""Centred orthonormal Fourier transforms and their dense blocks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array
from numpy.typing import NDArray

from ldmpir_edge.physics.linear_op import Array


def centred_fft(x: Array, axes: tuple[int, ...]) -> Array:
    """Transform `x` along `axes`: orthonormal, with the zero frequency at index n // 2."""
    xp = array_namespace(x)
    shifted = xp.fft.ifftshift(x, axes=axes)
    return xp.fft.fftshift(fft_module(x).fftn(shifted, axes=axes, norm="ortho"), axes=axes)


def centred_ifft(x: Array, axes: tuple[int, ...]) -> Array:
    """Invert `centred_fft`."""
    xp = array_namespace(x)
    shifted = xp.fft.ifftshift(x, axes=axes)
    return xp.fft.fftshift(fft_module(x).ifftn(shifted, axes=axes, norm="ortho"), axes=axes)


def fft_module(x: Array) -> Any:
    """Give the module whose `fftn` transforms `x`: SciPy's for numpy arrays, else x's own.

    SciPy's takes a quarter of the time of numpy's and stays in single precision in every
    version. It runs in the calling thread, or in as many as `scipy.fft.set_workers` allows.
    """
    if not is_numpy_array(x):
        return array_namespace(x).fft
    import scipy.fft  # slow to import, and needed by scans and enlargements only

    return scipy.fft


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
