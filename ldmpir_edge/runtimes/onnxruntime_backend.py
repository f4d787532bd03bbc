"""ONNX Runtime: comes with the bare package and runs everywhere, at least on the CPU."""

from __future__ import annotations

from typing import Any

from ldmpir_edge.bundle import LoadedVariant
from ldmpir_edge.errors import LdmpirError, UsageError
from ldmpir_edge.runtimes.base import Arrays, Backend, Engine
from ldmpir_edge.runtimes.onnxruntime_providers import (
    AUTOMATIC,
    PROVIDERS,
    open_session,
    present_providers,
    require_provider,
)


class OnnxRuntimeEngine(Engine):
    """One inference session."""

    def __init__(self, backend: str, variant: LoadedVariant, session: Any) -> None:
        super().__init__(backend, variant)
        self._session = session
        self._output_names = [output.name for output in session.get_outputs()]

    def close(self) -> None:
        """Drop the session."""
        self._session = None

    def _run(self, inputs: Arrays) -> Arrays:
        results = self._session.run(self._output_names, inputs)
        return dict(zip(self._output_names, results, strict=True))


class OnnxRuntimeBackend(Backend):
    """The `onnxruntime` package; its devices are execution providers."""

    name = "onnxruntime"
    extra = None

    @property
    def install_command(self) -> str:
        """The one command that brings the library, or the provider that was named."""
        return f"pip install {PROVIDERS[self.device or 'cpu'].install}"

    def on(self, device: str) -> Backend:
        """Answer this backend on one execution provider.

        Raises
        ------
        UsageError
            There is no such provider; the message lists those there are.
        """
        if device not in PROVIDERS:
            raise UsageError(
                f"{self.name} has no provider {device!r}; choose one of: {', '.join(PROVIDERS)}"
            )
        named = OnnxRuntimeBackend()
        named.name = f"{self.name}:{device}"
        return named

    def choices(self) -> tuple[Backend, ...]:
        """Answer this backend on each provider that is taken unasked, the CPU's last."""
        if self.device:
            return (self,)
        try:
            present = present_providers(self._import())
        except LdmpirError:  # which `availability` explains
            return (self,)
        found = [key for key in AUTOMATIC if key in present]
        return tuple(map(self.on, found)) if len(found) > 1 else (self,)

    def _devices(self, library: Any) -> tuple[str, ...]:
        if self.device:
            require_provider(library, self.device)
        return present_providers(library)

    def _load(self, library: Any, variant: LoadedVariant, threads: int | None) -> Engine:
        options = library.SessionOptions()
        options.log_severity_level = 3  # errors only: warnings concern graph authors, not users
        if threads is not None:
            options.intra_op_num_threads = threads
        device = self.device or self.choices()[0].device or "cpu"
        session = open_session(library, variant.graph, device, options)
        return OnnxRuntimeEngine(self.name, variant, session)
