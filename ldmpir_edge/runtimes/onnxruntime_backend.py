"""ONNX Runtime on the CPU: comes with the bare package and runs everywhere."""

from __future__ import annotations

from typing import Any

from ldmpir_edge.bundle import LoadedVariant
from ldmpir_edge.runtimes.base import Arrays, Backend, Engine


class OnnxRuntimeEngine(Engine):
    """One inference session."""

    def __init__(self, variant: LoadedVariant, session: Any) -> None:
        super().__init__(OnnxRuntimeBackend.name, variant)
        self._session = session
        self._output_names = [output.name for output in session.get_outputs()]

    def close(self) -> None:
        """Drop the session."""
        self._session = None

    def _run(self, inputs: Arrays) -> Arrays:
        results = self._session.run(self._output_names, inputs)
        return dict(zip(self._output_names, results, strict=True))


class OnnxRuntimeBackend(Backend):
    """The `onnxruntime` package."""

    name = "onnxruntime"
    extra = None

    def _devices(self, library: Any) -> tuple[str, ...]:
        return (str(library.get_device()),)

    def _load(self, library: Any, variant: LoadedVariant, threads: int | None) -> Engine:
        options = library.SessionOptions()
        options.log_severity_level = 3  # errors only: warnings concern graph authors, not users
        if threads is not None:
            options.intra_op_num_threads = threads
        session = library.InferenceSession(
            str(variant.graph), options, providers=["CPUExecutionProvider"]
        )
        return OnnxRuntimeEngine(variant, session)
