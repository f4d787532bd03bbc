"""ONNX Runtime with a fault put in: it computes one operator wrongly, or does not know it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ldmpir_edge.bundle import LoadedVariant
from ldmpir_edge.runtimes import Engine
from ldmpir_edge.runtimes.onnxruntime_backend import OnnxRuntimeBackend
from ldmpir_edge.runtimes.probes import packaged_probes


class WrongBackend(OnnxRuntimeBackend):
    """Alters the results of the probes whose names start with `operator`.

    `fault` is `value` (one value is off by a hundredth of the largest), `nan`, `shape`, `dtype`,
    or `unknown`, which fails to load every graph with such an operator in it. `n_loads` counts
    the graphs it was given.
    """

    def __init__(self, operator: str, fault: str = "value") -> None:
        probes = [p for p in packaged_probes() if p.name.startswith(operator)]
        assert probes, f"no probe of {operator}"
        self.outputs = {name for probe in probes for name in probe.outputs}
        self.fault = fault
        self.n_loads = 0

    def _load(self, library: Any, variant: LoadedVariant, threads: int | None) -> Engine:
        self.n_loads += 1
        if self.fault == "unknown" and self.outputs & {spec.name for spec in variant.outputs}:
            raise RuntimeError("unknown operator")
        engine = super()._load(library, variant, threads)
        return _WrongEngine(engine, self.outputs, self.fault)


class _WrongEngine(Engine):
    def __init__(self, inner: Engine, outputs: set[str], fault: str) -> None:
        super().__init__(inner.backend, inner.variant)
        self.inner = inner
        self.outputs = outputs
        self.fault = fault

    def close(self) -> None:
        self.inner.close()

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        results = self.inner._run(inputs)
        for name in self.outputs & results.keys():
            results[name] = _spoil(results[name], self.fault)
        return results


def _spoil(array: np.ndarray, fault: str) -> np.ndarray:
    if fault == "shape":
        return array[..., None]
    if fault == "dtype":
        return array.astype(np.float64)
    spoilt = array.copy()
    spoilt.flat[-1] = np.nan if fault == "nan" else spoilt.flat[-1] + np.abs(array).max() / 100
    return spoilt
