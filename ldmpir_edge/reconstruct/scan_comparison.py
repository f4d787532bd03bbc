"""Hold engines and precisions against each other on a scan, which has no golden image.

The first combination that runs is what the others are compared with; where the scan carries
reference images, all are compared with these too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ldmpir_edge.bundle import Bundle, Precision
from ldmpir_edge.errors import BackendError, MissingExtraError
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import Family, Modality, Task
from ldmpir_edge.reconstruct.checks import check_slice
from ldmpir_edge.reconstruct.combinations import Combination
from ldmpir_edge.reconstruct.slices import (
    PreparedSlice,
    least_grid,
    prepare_slice,
    resolve_task,
)
from ldmpir_edge.reconstruct.verify import Difference, measure_difference
from ldmpir_edge.report.metrics import psnr, ssim
from ldmpir_edge.runtimes import Engine, get_backend
from ldmpir_edge.scans.model import Scan

MAX_SLICES = 3
"""Slices of a volume that are compared: they are held in memory, and every engine runs them."""


@dataclass(frozen=True)
class SlicesToCompare:
    """The middle slices of a scan.

    Parameters
    ----------
    indices
        Their places in the scan.
    prepared
        One each.
    references
        `(slices, H, W)` of the scan's own reference, or None.
    """

    task: Task
    modality: Modality
    indices: tuple[int, ...]
    prepared: tuple[PreparedSlice, ...] = field(repr=False)
    references: NDArray[np.float32] | None = field(repr=False)


@dataclass(frozen=True)
class ScanResult:
    """One engine in one precision on the slices of a scan.

    Parameters
    ----------
    difference, psnr_db, ssim
        From the images of the first combination, over all slices: in engine units, and in the
        scan's. None for that one itself; `psnr_db` also where the images are equal.
    reference_psnr_db, reference_ssim
        Against the scan's own reference images; None where it has none.
    residual
        The largest ‖b − AᴴA x‖ / ‖b‖ of the slices.
    seconds
        Median time of the engine for a slice, of which a run before does not count.
    reason
        Why there is no result, or why a slice would not be delivered; else empty.
    """

    backend: str
    precision: Precision
    difference: Difference | None = None
    psnr_db: float | None = None
    ssim: float | None = None
    reference_psnr_db: float | None = None
    reference_ssim: float | None = None
    residual: float | None = None
    seconds: float | None = None
    reason: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether its images are those of the first combination, bit for bit."""
        return self.difference is not None and self.psnr_db is None


@dataclass(frozen=True)
class CombinationRun:
    """What one combination made of the slices.

    `planes` are `(2, pixels)` in engine units, slice after slice: their grids may differ. `images`
    are `(slices, H, W)` on the scan's scale.
    """

    planes: NDArray[np.float32] = field(repr=False)
    images: NDArray[np.float32] = field(repr=False)
    seconds: list[float]
    residuals: list[float]
    fallbacks: list[str]


def prepare_slices(bundle: Bundle, scan: Scan) -> SlicesToCompare:
    """Prepare the middle slices of a scan, at most `MAX_SLICES`; images are to be denoised.

    Raises
    ------
    ScanError, UnsupportedSizeError
        As the reconstruction of these slices would.
    """
    task = resolve_task(scan, None)
    bundle.manifest.limits.check(*least_grid(scan, task))
    n_taken = min(MAX_SLICES, scan.n_slices)
    first = (scan.n_slices - n_taken) // 2
    indices = tuple(range(first, first + n_taken))
    # One thread, as where slices are reconstructed: with more the last bits differ.
    with threadpool_limits(1, user_api="blas"):
        prepared = tuple(prepare_slice(scan, index, task) for index in indices)
    check_limits(bundle, prepared)
    found = [image for index in indices if (image := scan.reference(index)) is not None]
    references = np.stack(found) if len(found) == n_taken else None
    return SlicesToCompare(task, scan.info.modality, indices, prepared, references)


def check_limits(bundle: Bundle, prepared: Sequence[PreparedSlice]) -> None:
    """Refuse slices that a bundle does not take.

    Raises
    ------
    UnsupportedSizeError
        One is larger or smaller than the bundle states.
    """
    for piece in prepared:
        _, height, width = piece.problem.b.shape
        bundle.manifest.limits.check(height, width, piece.n_coils, piece.n_views)


def compare_on_scan(
    bundle: Bundle, slices: SlicesToCompare, combinations: Sequence[Combination]
) -> Iterator[ScanResult]:
    """Run the combinations one after the other, with the default number of steps.

    Raises
    ------
    BundleError
        The bundle lacks a variant.
    ScanDataError
        A reference image holds no signal, so that nothing can be scored against it.
    """
    first: CombinationRun | None = None
    for combination in combinations:
        try:
            run = run_combination(bundle, slices, combination)
        except (BackendError, MissingExtraError) as err:
            yield ScanResult(combination.backend, combination.precision, reason=str(err))
            continue
        yield score_run(combination, slices, run, first)
        first = first or run


def run_combination(
    bundle: Bundle, slices: SlicesToCompare, combination: Combination
) -> CombinationRun:
    """Run one engine on the slices, with the default number of steps.

    Raises
    ------
    BackendError, MissingExtraError
        The engine cannot be loaded, or fails.
    BundleError
        The bundle lacks the variant.
    """
    n_steps = bundle.manifest.sampler.default_n_steps
    engines: dict[Family, Engine] = {}
    planes, images, seconds, residuals, fallbacks = [], [], [], [], []
    with ExitStack() as stack:
        for index, piece in zip(slices.indices, slices.prepared, strict=True):
            problem = piece.problem
            if problem.family not in engines:
                variant = bundle.extract(problem.family, n_steps, combination.precision)
                engine = get_backend(combination.backend).load(variant)
                engines[problem.family] = stack.enter_context(engine)
            inputs = engine_arrays(problem, n_steps)
            # An engine may compile for every new shape: the first run does not count.
            engines[problem.family].run(inputs)
            started = time.perf_counter()
            image = engines[problem.family].run(inputs)["image"][0]
            seconds.append(time.perf_counter() - started)
            checks = check_slice(problem, image)
            residuals.append(checks["residual"])
            if checks["fallback"]:
                fallbacks.append(
                    f"slice {index} would be the classical image: {checks['fallback']}"
                )
            planes.append(image.reshape(2, -1))
            images.append(piece.to_scan(image))
    return CombinationRun(
        np.concatenate(planes, axis=1), np.stack(images), seconds, residuals, fallbacks
    )


def score_run(
    combination: Combination,
    slices: SlicesToCompare,
    run: CombinationRun,
    first: CombinationRun | None,
) -> ScanResult:
    """Hold what a combination made against what the first one made, and against the references.

    Raises
    ------
    ScanDataError
        A reference image holds no signal.
    """

    def against(images: NDArray[np.float32] | None) -> tuple[float | None, float | None]:
        if images is None:
            return None, None
        decibels = psnr(run.images, images, slices.modality)
        similarity = ssim(run.images, images, slices.modality)
        return decibels if np.isfinite(decibels) else None, similarity

    psnr_db, similarity = against(None if first is None else first.images)
    reference_psnr_db, reference_ssim = against(slices.references)
    return ScanResult(
        combination.backend,
        combination.precision,
        difference=None if first is None else measure_difference(run.planes, first.planes),
        psnr_db=psnr_db,
        ssim=similarity,
        reference_psnr_db=reference_psnr_db,
        reference_ssim=reference_ssim,
        residual=max(run.residuals),
        seconds=statistics.median(run.seconds),
        reason="; ".join(run.fallbacks),
    )
