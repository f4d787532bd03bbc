"""The CUDA runtime by its official bindings: every call checked, and memory for transfers."""

from __future__ import annotations

import ctypes
import importlib
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ldmpir_edge.errors import BackendError

_log = logging.getLogger(__name__)


def import_cuda() -> Any:
    """Import `cuda.bindings.runtime` (package `cuda-bindings`).

    Raises
    ------
    BackendError
        It is not installed, or broken.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as err:
        raise BackendError(
            f"the CUDA bindings cannot be imported ({err}); install those of your driver's CUDA: "
            "pip install cuda-bindings"
        ) from err


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the CUDA runtime and answer what it gives beside its error code.

    Raises
    ------
    BackendError
        The code is not that of success; the message names function and error.
    """
    error, *values = function(*arguments)
    if int(error):
        raise BackendError(f"CUDA: {function.__name__} failed with {error.name}")
    return values[0] if values else None


def release(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function that gives something back, and only note its failure.

    After a fault of the device every call fails, and the next backend should still get its turn.
    """
    try:
        call(function, *arguments)
    except BackendError as err:
        _log.debug("not given back: %s", err)


class TransferBuffer:
    """One tensor twice: in page-locked host memory, and on the device.

    Page-locked memory is what the device can copy from and to while the host goes on.

    Parameters
    ----------
    cuda
        The module `cuda.bindings.runtime`.
    shape, dtype
        Of the tensor.

    Attributes
    ----------
    host : array of that shape and dtype
    device : int
        Address on the device.

    Raises
    ------
    BackendError
        Memory is used up.
    """

    def __init__(self, cuda: Any, shape: Sequence[int], dtype: DTypeLike) -> None:
        self._cuda = cuda
        self._size = math.prod(shape) * np.dtype(dtype).itemsize
        self._address = int(call(cuda.cudaHostAlloc, self._size, cuda.cudaHostAllocDefault))
        block = (ctypes.c_byte * self._size).from_address(self._address)
        self.host: NDArray[Any] = np.ctypeslib.as_array(block).view(dtype).reshape(shape)
        try:
            self.device = int(call(cuda.cudaMalloc, self._size))
        except BackendError:
            release(cuda.cudaFreeHost, self._address)
            raise

    def upload(self, stream: Any) -> None:
        """Enqueue the copy to the device."""
        self._copy(self.device, self._address, "cudaMemcpyHostToDevice", stream)

    def download(self, stream: Any) -> None:
        """Enqueue the copy to the host."""
        self._copy(self._address, self.device, "cudaMemcpyDeviceToHost", stream)

    def free(self) -> None:
        """Give both memories back; `host` must not be touched afterwards."""
        del self.host
        release(self._cuda.cudaFree, self.device)
        release(self._cuda.cudaFreeHost, self._address)

    def _copy(self, target: int, source: int, direction: str, stream: Any) -> None:
        kind = getattr(self._cuda.cudaMemcpyKind, direction)
        call(self._cuda.cudaMemcpyAsync, target, source, self._size, kind, stream)
