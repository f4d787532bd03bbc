"""Make one variant after another, and let none pass that changes the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldmpir_edge.bundle import GateResult, LoadedVariant, ModelInfo, Precision, VariantSpec
from ldmpir_edge.errors import GateError
from ldmpir_edge.export.blame import rank_layers
from ldmpir_edge.export.cases import SLICES_PER_CASE, GateSlice
from ldmpir_edge.export.gate import Planes, run_gate
from ldmpir_edge.export.lowering import lower
from ldmpir_edge.export.short_names import shorten_values
from ldmpir_edge.export.targets import Target
from ldmpir_edge.export.tensors import OUTPUTS, family_inputs
from ldmpir_edge.export.trace import OPSET
from ldmpir_edge.export.weight_pool import WeightPool, locations
from ldmpir_edge.models.engine import engine_inputs
from ldmpir_edge.physics.problem import Family
from ldmpir_edge.runtimes import get_backend

if TYPE_CHECKING:
    import onnx

GRAPHS = "graphs"


class VariantBuilder:
    """The variants of one bundle, in a folder.

    Parameters
    ----------
    folder
        Receives `graphs/`.
    target
        States the backends of the gate.
    on_retry
        Called with words for the user when a variant fell short and layers are put back.
    shared
        Whether other precisions may refer to fp32's weights. Not where fp32 may be dropped.

    Attributes
    ----------
    variants : list[VariantSpec]
        Those that passed, or all without a gate.
    kept : dict[str, frozenset[str]]
        By variant, the layers that had to stay in fp32.
    """

    def __init__(
        self,
        folder: Path,
        target: Target,
        on_retry: Callable[[str], None],
        *,
        shared: bool = False,
    ) -> None:
        self._folder, self._target, self._on_retry = folder, target, on_retry
        self._shared = shared
        self._pools: dict[Precision, WeightPool] = {}
        self.variants: list[VariantSpec] = []
        self.kept: dict[str, frozenset[str]] = {}
        (folder / GRAPHS).mkdir()

    def add(
        self,
        graph: onnx.ModelProto,
        family: Family,
        n_steps: int,
        precision: Precision,
        calibration: Sequence[GateSlice],
        slices: Sequence[GateSlice],
        references: Sequence[Planes],
    ) -> None:
        """Write a variant and gate it; put damaging layers back to fp32 until it passes.

        Parameters
        ----------
        graph, family, n_steps
            From `trace`, in fp32.
        precision
            Wanted.
        calibration
            Slices that int8 takes its ranges from.
        slices, references
            Of the gate, and what PyTorch made of them; without references nothing is judged.

        Raises
        ------
        GateError
            The variant changes the image and no mixture with fp32 layers helps.
        """
        lowering = lower(
            graph,
            precision,
            n_steps,
            calibration=[entry.problem for entry in calibration],
            judged_on=[entry.problem for entry in slices] if references else [],
        )
        label = f"{family}-{n_steps}-{precision}"
        base = self._pools.get("fp32") if self._shared and precision != "fp32" else None
        pool = self._pools.setdefault(precision, WeightPool(f"weights-{precision}.bin", base))
        keep = lowering.barred
        damage: list[tuple[str, float]] = []
        before = pool.mark()
        while True:
            pool.rewind(before)  # of a refused attempt, nothing stays
            variant = self._write(lowering.rewrite(keep), family, n_steps, precision, pool)
            results = self._gate(variant, slices, references) if references else []
            failed = [result for result in results if not result.passed]
            if not failed:
                self.variants.append(variant.model_copy(update={"gate": tuple(results)}))
                if keep:
                    self.kept[label] = keep
                return
            damage = damage or rank_layers(graph, lowering, slices[0].problem, n_steps)
            worst = next((layer for layer, _ in damage if layer not in keep), None)
            if worst is None or lowering.is_pointless(keep | {worst}):
                raise GateError(_refusal(variant, failed, damage))
            keep |= {worst}
            self._on_retry(f"{label}: {worst} back to fp32")

    def drop(self, precision: Precision) -> None:
        """Forget a precision's variants and files."""
        self.variants = [v for v in self.variants if v.precision != precision]
        self._pools.pop(precision, None)
        for path in (self._folder / GRAPHS).glob(f"*-{precision}.*"):
            path.unlink()
        self.kept = {k: v for k, v in self.kept.items() if not k.endswith(f"-{precision}")}

    def load(self, variant: VariantSpec) -> LoadedVariant:
        """Describe a variant as a bundle would deliver it."""
        return LoadedVariant(
            graph=self._folder / variant.graph,
            family=variant.family,
            n_steps=variant.n_steps,
            precision=variant.precision,
            inputs=tuple(s for s in family_inputs(variant.family) if s.name in variant.inputs),
            outputs=OUTPUTS,
            model=ModelInfo(id="candidate", version="0", n_parameters=1, licence="none"),
            source_hashes={},
        )

    def _write(
        self,
        graph: onnx.ModelProto,
        family: Family,
        n_steps: int,
        precision: Precision,
        pool: WeightPool,
    ) -> VariantSpec:
        name = f"{GRAPHS}/{family}-{n_steps}-{precision}.onnx"
        data = pool.externalise(shorten_values(graph))
        (self._folder / name).write_bytes(data)
        (self._folder / GRAPHS / pool.location).write_bytes(pool.to_bytes())
        return VariantSpec(
            family=family,
            n_steps=n_steps,
            precision=precision,
            graph=name,
            weights=tuple(f"{GRAPHS}/{blob}" for blob in locations(data)),
            inputs=engine_inputs(family, n_steps),
            opset=OPSET,
            gate=(),
        )

    def _gate(
        self, variant: VariantSpec, slices: Sequence[GateSlice], references: Sequence[Planes]
    ) -> list[GateResult]:
        loaded = self.load(variant)
        results: list[GateResult] = []
        for number, backend in enumerate(self._target.gate_backends):
            if number and variant.n_steps != self._target.default_n_steps:
                continue
            if number and not get_backend(backend).availability().ok:
                continue
            # OpenVINO compiles for each shape: one slice of each case is enough to see a wrong op.
            every = SLICES_PER_CASE if number else 1
            results += run_gate(loaded, backend, slices[::every], references[::every])
        return results


def _refusal(
    variant: VariantSpec, failed: Sequence[GateResult], damage: Sequence[tuple[str, float]]
) -> str:
    worst = max(failed, key=lambda r: abs(r.psnr_delta_worst_db))
    text = (
        f"{variant.family} with {variant.n_steps} steps in {variant.precision} on "
        f"{worst.backend} changes the image of {worst.case}: mean {worst.psnr_delta_mean_db:+.3f} "
        f"dB, worst {worst.psnr_delta_worst_db:+.3f} dB, largest difference "
        f"{worst.max_abs_diff:.2e}"
    )
    if damage:
        names = ", ".join(f"{layer} ({change:.1e})" for layer, change in damage[:3])
        return f"{text}; most damaging layers: {names}; export fp32, or --no-gate to look at it"
    return f"{text}; the graph does not compute what PyTorch does: report it, or use --no-gate"
