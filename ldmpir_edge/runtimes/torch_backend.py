"""PyTorch, the reference: runs the model's own code and weights, not the bundle's graph."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ldmpir_edge.bundle import LoadedVariant, Precision
from ldmpir_edge.errors import BackendError
from ldmpir_edge.runtimes.base import Arrays, Backend, Engine

WEIGHTS = "weights.safetensors"
"""File of a model's folder, and its key in the manifest's `source_hashes`."""

MODEL_ZOO = Path(__file__).resolve().parents[2] / "models"
"""The released models of a checkout; an installed package has none."""


class TorchEngine(Engine):
    """The traced module itself, in fp32 on the CPU."""

    def __init__(
        self,
        variant: LoadedVariant,
        torch: Any,
        module: Any,
        names: tuple[str, ...],
        threads: int | None,
    ) -> None:
        super().__init__(TorchBackend.name, variant)
        self._torch = torch
        self._module = module
        self._names = names
        self._threads = threads

    def close(self) -> None:
        """Drop the module."""
        self._module = None

    def _run(self, inputs: Arrays) -> Arrays:
        torch = self._torch
        # The number of threads is one for the process; others may rely on theirs.
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads or before)
        try:
            with torch.inference_mode():
                # Copies, since torch warns about arrays that it must not write to.
                image = self._module(*(torch.tensor(inputs[name]) for name in self._names))
        finally:
            torch.set_num_threads(before)
        return {self.variant.outputs[0].name: image.numpy()}


class TorchBackend(Backend):
    """The `torch` package with `ldmpir_edge.models`."""

    name = "torch"
    extra = "export"
    runs_graphs = False

    def takes(self, precision: Precision) -> bool:
        """Answer whether it is fp32: the reference has no other precision."""
        return precision == "fp32"

    def _devices(self, library: Any) -> tuple[str, ...]:
        return ("cpu",)

    def _load(self, library: Any, variant: LoadedVariant, threads: int | None) -> Engine:
        from ldmpir_edge.models.engine import EngineModule, engine_inputs
        from ldmpir_edge.models.weights import load_weights

        if not self.takes(variant.precision):
            raise BackendError(
                f"torch is the fp32 reference and does not run {variant.precision}; "
                "use --precision fp32 or another --backend"
            )
        model = load_weights(_find_weights(variant))
        module = EngineModule(model, variant.family, variant.n_steps).eval()
        names = engine_inputs(variant.family, variant.n_steps)
        if set(names) != {spec.name for spec in variant.inputs}:
            raise BackendError(
                "this bundle is of another version of the model than the code that torch would "
                "run; export it again or use --backend onnxruntime"
            )
        return TorchEngine(variant, library, module, names, threads)


def _find_weights(variant: LoadedVariant) -> Path:
    path = MODEL_ZOO / variant.model.id / WEIGHTS
    if not path.is_file():
        raise BackendError(
            f"torch needs the trained weights at {path}, which a checkout has and a bundle has "
            "not; use --backend onnxruntime"
        )
    wanted = variant.source_hashes.get(WEIGHTS)
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != wanted:
        raise BackendError(
            f"{path} is not what this bundle was exported from (SHA-256 {actual[:12]}…, not "
            f"{(wanted or 'stated')[:12]}…); export the bundle again or use --backend onnxruntime"
        )
    return path
