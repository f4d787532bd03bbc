"""The gate: no variant leaves that changes the image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.bundle import GateResult, GoldenPair, LoadedVariant
from ldmpir_edge.bundle.limits import LIMITS, Limits, psnr_db
from ldmpir_edge.errors import BackendError
from ldmpir_edge.export.cases import GateSlice
from ldmpir_edge.export.extremes import extreme_inputs
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import Problem, Task
from ldmpir_edge.runtimes import get_backend

if TYPE_CHECKING:
    from ldmpir_edge.models.ldmpir import LdmPir

Planes = NDArray[np.float32]


def reference_images(model: LdmPir, slices: Sequence[GateSlice], n_steps: int) -> list[Planes]:
    """Run the PyTorch fp32 sampler on slices: `(2, H, W)` engine planes each."""
    return [reference_image(model, entry.problem, n_steps) for entry in slices]


def reference_image(model: LdmPir, problem: Problem, n_steps: int) -> Planes:
    """Run the PyTorch fp32 sampler on one problem: `(2, H, W)` engine planes."""
    import torch

    from ldmpir_edge.models.engine import EngineModule, engine_inputs

    arrays = engine_arrays(problem, n_steps)
    names = engine_inputs(problem.family, n_steps)
    tensors = [torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in names]
    with torch.no_grad():
        image: Planes = EngineModule(model, problem.family, n_steps)(*tensors)[0].numpy()
    return image


def run_gate(
    variant: LoadedVariant,
    backend: str,
    slices: Sequence[GateSlice],
    references: Sequence[Planes],
) -> list[GateResult]:
    """Compare a variant on one backend with the reference, a result for each case.

    The first slice of a case is also run as bright as the manifest allows: the image must be
    finite.

    Parameters
    ----------
    variant
        On disk, as a bundle would deliver it.
    backend
        Name of the runtime.
    slices, references
        The slices and what `reference_images` made of them.
    """
    by_case: dict[str, list[tuple[float, float]]] = defaultdict(list)
    tasks: dict[str, Task] = {}
    with get_backend(backend).load(variant) as engine:
        for entry, reference in zip(slices, references, strict=True):
            rows = by_case[entry.case]
            try:
                if entry.case not in tasks:
                    tasks[entry.case] = entry.problem.task
                    engine.run(extreme_inputs(entry.problem, variant.n_steps))
                image = engine.run(engine_arrays(entry.problem, variant.n_steps))["image"][0]
            except BackendError:
                rows.append((-np.inf, np.inf))
                continue
            delta = psnr_db(image, entry.target) - psnr_db(reference, entry.target)
            rows.append((delta, float(np.abs(image - reference).max())))
    limits = LIMITS[variant.precision]
    return [_judge(case, tasks[case], backend, rows, limits) for case, rows in by_case.items()]


def golden_margins_db(variant: LoadedVariant, pairs: Sequence[GoldenPair]) -> list[float]:
    """Return by how many dB a variant is nearer to each golden image than it must be.

    In ONNX Runtime; −inf where it gives no image.
    """
    margins = []
    with get_backend("onnxruntime").load(variant) as engine:
        for pair in pairs:
            try:
                image = engine.run(pair.inputs)["image"][0]
            except BackendError:
                margins.append(-np.inf)
                continue
            golden = pair.outputs["image"][0]
            largest = float(np.abs(image - golden).max())
            spare = LIMITS[variant.precision].to_spare_db(psnr_db(image, golden), largest)
            margins.append(min(spare.values()))
    return margins


def _judge(
    case: str, task: Task, backend: str, rows: Sequence[tuple[float, float]], limits: Limits
) -> GateResult:
    deltas = np.array([delta for delta, _ in rows])
    difference = max(difference for _, difference in rows)
    failed = not np.isfinite(deltas).all()
    # The manifest holds JSON numbers: a slice with NaN counts as a loss of all its decibels.
    deltas = np.where(np.isfinite(deltas), deltas, -1000.0)
    worst = float(deltas[np.argmax(np.abs(deltas))])
    mean = float(deltas.mean())
    passed = (
        not failed
        and abs(mean) <= limits.mean_db
        and abs(worst) <= limits.worst_db
        and (limits.max_abs_diff is None or difference <= limits.max_abs_diff)
    )
    return GateResult(
        case=case,
        task=task,
        backend=backend,
        n_slices=len(rows),
        psnr_delta_mean_db=mean,
        psnr_delta_worst_db=worst,
        max_abs_diff=difference if np.isfinite(difference) else 1e9,
        passed=passed,
    )
