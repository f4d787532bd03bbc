"""The gate: no variant leaves that changes the image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.bundle import GateResult, LoadedVariant
from ldmpir_edge.bundle.schema import Precision
from ldmpir_edge.errors import BackendError
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import Problem, Task
from ldmpir_edge.runtimes import get_backend
from ldmpir_edge.training.acquisitions import Example

if TYPE_CHECKING:
    from ldmpir_edge.models.ldmpir import LdmPir

Planes = NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """What a variant may differ from the PyTorch fp32 reference by.

    Parameters
    ----------
    mean_db, worst_db
        |ΔPSNR| over the slices of a task, and of its worst slice.
    max_abs_diff
        In engine units, where the bright end is about 1; None sets no limit.
    """

    mean_db: float
    worst_db: float
    max_abs_diff: float | None


LIMITS: dict[Precision, Limits] = {
    # One grey level of a 12-bit image is the smallest difference that DICOM can show.
    "fp32": Limits(0.001, 0.01, 1 / 4096),
    "fp16": Limits(0.05, 0.5, None),
    "int8": Limits(0.2, 0.5, None),
}


def reference_images(model: LdmPir, examples: Sequence[Example], n_steps: int) -> list[Planes]:
    """Run the PyTorch fp32 sampler on examples: `(2, H, W)` engine planes each."""
    return [reference_image(model, example.problem, n_steps) for example in examples]


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
    examples: Sequence[Example],
    references: Sequence[Planes],
) -> list[GateResult]:
    """Compare a variant on one backend with the reference, a result for each task.

    Parameters
    ----------
    variant
        On disk, as a bundle would deliver it.
    backend
        Name of the runtime.
    examples, references
        The slices and what `reference_images` made of them.
    """
    by_task: dict[Task, list[tuple[float, float]]] = defaultdict(list)
    with get_backend(backend).load(variant) as engine:
        for example, reference in zip(examples, references, strict=True):
            inputs = engine_arrays(example.problem, variant.n_steps)
            try:
                image = engine.run(inputs)["image"][0]
            except BackendError:
                by_task[example.problem.task].append((-np.inf, np.inf))
                continue
            delta = psnr_db(image, example.target) - psnr_db(reference, example.target)
            difference = float(np.abs(image - reference).max())
            by_task[example.problem.task].append((delta, difference))
    limits = LIMITS[variant.precision]
    return [_judge(task, backend, rows, limits) for task, rows in by_task.items()]


def psnr_db(image: Planes, target: Planes) -> float:
    """Return the PSNR of `(2, H, W)` planes in dB; the range is the target's largest modulus."""
    squared = float(np.mean(np.sum((image - target).astype(np.float64) ** 2, axis=0)))
    peak = float(np.sqrt(np.max(np.sum(target.astype(np.float64) ** 2, axis=0))))
    return 10 * float(np.log10(peak**2 / max(squared, 1e-20)))


def _judge(
    task: Task, backend: str, rows: Sequence[tuple[float, float]], limits: Limits
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
        task=task,
        backend=backend,
        n_slices=len(rows),
        psnr_delta_mean_db=mean,
        psnr_delta_worst_db=worst,
        max_abs_diff=difference if np.isfinite(difference) else 1e9,
        passed=passed,
    )
