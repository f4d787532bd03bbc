"""The backends there are, the preferred first. Another backend is one more file and one line."""

from __future__ import annotations

from ldmpir_edge.errors import UsageError
from ldmpir_edge.runtimes.base import Backend
from ldmpir_edge.runtimes.onnxruntime_backend import OnnxRuntimeBackend
from ldmpir_edge.runtimes.openvino_backend import OpenVinoBackend
from ldmpir_edge.runtimes.tensorrt import TensorRtBackend, TensorRtRtxBackend
from ldmpir_edge.runtimes.torch_backend import TorchBackend

BACKENDS: tuple[Backend, ...] = (
    TensorRtBackend(),
    TensorRtRtxBackend(),
    OpenVinoBackend(),
    OnnxRuntimeBackend(),
    TorchBackend(),
)


def get_backend(name: str) -> Backend:
    """Answer the backend of that name, whether or not it can run here.

    Parameters
    ----------
    name
        As `--backend` takes it: `openvino`, or on a device of the library's `openvino:gpu`.

    Raises
    ------
    UsageError
        There is none of that name, or it knows no such device; the message lists those there are.
    """
    module, colon, device = name.partition(":")
    for backend in BACKENDS:
        if backend.name == module:
            return backend.on(device) if colon else backend
    known = ", ".join(backend.name for backend in BACKENDS)
    raise UsageError(f"no backend {name!r}; choose one of: {known}")
