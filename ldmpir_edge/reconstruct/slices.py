"""State one slice of any scan as an engine problem, and bring the engine's image back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import UsageError
from ldmpir_edge.physics.ct_problem import build_ct_problem, needs_rebinning, view_note
from ldmpir_edge.physics.image_problem import (
    build_denoise_problem,
    build_inpaint_problem,
    build_superresolution_problem,
)
from ldmpir_edge.physics.mri_problem import build_mri_problem
from ldmpir_edge.physics.padding import padded_size
from ldmpir_edge.physics.problem import Family, Problem, Task
from ldmpir_edge.scans.coil_compression import compress_rows
from ldmpir_edge.scans.model import (
    EmptySliceError,
    ImageScan,
    KspaceScan,
    Scan,
    ScanInfo,
    SinogramScan,
)
from ldmpir_edge.scans.prepare_mri import prepare_mri
from ldmpir_edge.scans.reconstruction import ReconstructedSlice

FACTORS = (2, 4)
"""How many times as fine super-resolution makes the pixels; the first unless told."""
EMPTY_NOTE = "a slice whose k-space holds only zeros is black"
BLANK_NOTE = "a slice that is the same everywhere is delivered as it is"
RICIAN_NOTE = "what noise adds to a magnitude (the Rician bias) was taken off before denoising"

ToScan = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class PreparedSlice:
    """A problem, and the way back from engine planes to the scan's image.

    Parameters
    ----------
    problem
        For the engine.
    to_scan
        Maps `(2, H, W)` engine planes to the `(h, w)` float32 image on the scan's scale.
    unreconstructed
        `(2, H, W)` engine planes of what the scan shows untreated: zero-filled, FBP or the input.
    n_coils, n_views
        For the bundle's limits; 1 where there are none.
    notes
        Remarks of the preparation.
    measured
        What was measured, to be looked at: 1 where k-space was sampled or a pixel is known, else
        0, turned as the image is; for CT the line integrals `(views, detectors)`. None where the
        input is complete.
    blank
        Whether the slice is the same everywhere: then x1 is the answer, and no engine is asked.
    """

    problem: Problem
    to_scan: ToScan = field(repr=False)
    unreconstructed: NDArray[np.float32] = field(repr=False)
    n_coils: int = 1
    n_views: int = 1
    notes: tuple[str, ...] = ()
    measured: NDArray[np.float32] | None = field(default=None, repr=False)
    blank: bool = False


@dataclass(frozen=True)
class Comparison:
    """The middle slice beside what it was made from, for a figure; `(H, W)` on the scan's scale.

    Parameters
    ----------
    unreconstructed
        Zero-filled image, filtered back-projection, or the input image.
    ours
        What is delivered.
    reference
        The scan's own reference, or None.
    """

    unreconstructed: NDArray[np.float32] = field(repr=False)
    ours: NDArray[np.float32] = field(repr=False)
    reference: NDArray[np.float32] | None = field(repr=False)


@dataclass(frozen=True)
class FinishedSlice:
    """A slice as it is delivered, with what it was made from, for those who report on it.

    Parameters
    ----------
    prepared
        What the engine was given.
    planes
        `(2, H, W)` engine planes of the image that is delivered.
    piece
        That image on the scan's scale, with its checks.
    deviation
        `(h, w)` uncertainty as a standard deviation on the scan's scale, from samples and the
        image's detail (see `samples`); None where no samples were drawn.
    """

    prepared: PreparedSlice
    planes: NDArray[np.float32] = field(repr=False)
    piece: ReconstructedSlice
    deviation: NDArray[np.float32] | None = field(default=None, repr=False)


def resolve_task(scan: Scan, task: Task | None) -> Task:
    """Return the task that a scan is reconstructed for; images are denoised unless told.

    Raises
    ------
    UsageError
        The task does not go with the kind of scan.
    """
    if isinstance(scan, ImageScan):
        if task in {"mri", "ct"}:
            raise UsageError(f"{scan.path} holds images; --task {task} needs raw data")
        return task or "denoise"
    own: Task = "mri" if isinstance(scan, KspaceScan) else "ct"
    if task not in {None, own}:
        raise UsageError(
            f"{scan.path} holds raw {own.upper()} data; --task {task} takes images: "
            "reconstruct first, then pass the result"
        )
    return own


def resolve_factor(task: Task, factor: int | None) -> int:
    """Return how many times as fine the pixels of the output are: 1 unless super-resolved.

    Raises
    ------
    UsageError
        The factor is none of `FACTORS`, or is given for another task.
    """
    if task != "super-resolve":
        if factor is not None:
            raise UsageError(f"--factor {factor} goes with --task super-resolve, not with {task}")
        return 1
    if factor is not None and factor not in FACTORS:
        allowed = " or ".join(map(str, FACTORS))
        raise UsageError(f"images are enlarged by {allowed}; --factor is {factor}")
    return factor or FACTORS[0]


def prepare_slice(scan: Scan, index: int, task: Task, factor: int | None = None) -> PreparedSlice:
    """Read slice `index` and state its reconstruction for `task`, enlarged by `factor`.

    Raises
    ------
    ScanError
        The slice cannot be read or its values cannot be used.
    UsageError
        As `resolve_factor`.
    """
    if isinstance(scan, KspaceScan):
        try:
            return _prepare_kspace(scan, index)
        except EmptySliceError:
            if scan.n_slices == 1:
                raise
            return _empty_slice(scan)
    if isinstance(scan, SinogramScan):
        return _prepare_sinogram(scan, index)
    if isinstance(scan, ImageScan):
        return _prepare_image(scan, index, task, resolve_factor(task, factor))
    raise UsageError(f"no way to reconstruct a {type(scan).__name__}")


def likely_family(scan: Scan, task: Task) -> Family:
    """Guess the family of a scan's problems before anything is read.

    A mask that the file does not state may turn out to be 2-D, and a stated one to be the same
    for all readout positions.
    """
    if isinstance(scan, KspaceScan):
        return "separable" if scan.mask is not None and scan.mask.ndim > 1 else "cartesian1d"
    if isinstance(scan, SinogramScan):
        exact = scan.geometry.is_fan and not needs_rebinning(scan.geometry, scan.recon_matrix)
        return "rays" if exact else "toeplitz"
    return "separable" if task == "super-resolve" else "pointwise"


def least_grid(scan: Scan, task: Task, factor: int | None = None) -> tuple[int, int]:
    """Return the smallest grid, `(H, W)`, that a scan's slices can be reconstructed on.

    Known before anything is read, so that a scan beyond the bundle's limits is refused before it
    fills the memory; the grid of a slice may be larger.
    """
    rows, columns = output_shape(scan, task, factor)
    if isinstance(scan, KspaceScan) and scan.rows_are_phase:
        rows, columns = columns, rows
    return padded_size(rows), padded_size(columns)


def output_shape(scan: Scan, task: Task, factor: int | None = None) -> tuple[int, int]:
    """Return the (rows, columns) of the images that come out."""
    finer = resolve_factor(task, factor)
    rows, columns = scan.image_shape
    return rows * finer, columns * finer


def output_info(info: ScanInfo, task: Task, factor: int | None = None) -> ScanInfo:
    """Return the geometry of the output: that of the scan, with smaller pixels if enlarged."""
    finer = resolve_factor(task, factor)
    if finer == 1 or info.pixel_spacing_mm is None:
        return info
    row, column = info.pixel_spacing_mm
    # Fine pixels tile the coarse one: the first one's centre lies before the coarse one's.
    shift = (1 / finer - 1) / 2
    planes = tuple(
        replace(
            plane,
            position_mm=(
                plane.position_mm[0]
                + shift * (column * plane.row_direction[0] + row * plane.column_direction[0]),
                plane.position_mm[1]
                + shift * (column * plane.row_direction[1] + row * plane.column_direction[1]),
                plane.position_mm[2]
                + shift * (column * plane.row_direction[2] + row * plane.column_direction[2]),
            ),
        )
        for plane in info.planes
    )
    return replace(info, pixel_spacing_mm=(row / finer, column / finer), planes=planes)


def _prepare_kspace(scan: KspaceScan, index: int) -> PreparedSlice:
    measured = prepare_mri(
        scan.kspace(index),
        scan.mask,
        scan.noise_samples,
        scan.recon_matrix,
        scan.calibration(index),
    )
    data, csm = measured.data, measured.csm
    if measured.is_hybrid:
        data, csm = compress_rows(data, csm)
    problem = build_mri_problem(
        data,
        csm,
        measured.mask,
        measured.noise_level,
        hybrid=measured.is_hybrid,
    )
    top, left, height, width = measured.crop
    view = (slice(top, top + height), slice(left, left + width))

    def to_scan(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        grid_height, grid_width = measured.rss_scale.shape
        inside = planes[:, :grid_height, :grid_width]
        magnitude = np.hypot(inside[0], inside[1]) * measured.rss_scale * problem.scale
        image = magnitude[view]
        return np.ascontiguousarray(image.T if scan.rows_are_phase else image, np.float32)

    mask = np.broadcast_to(measured.mask, measured.csm.shape[1:])
    return PreparedSlice(
        problem,
        to_scan,
        problem.b,
        n_coils=len(measured.csm),
        notes=measured.notes,
        measured=mask.T if scan.rows_are_phase else mask,
    )


def _empty_slice(scan: KspaceScan) -> PreparedSlice:
    """Stand for a slice of a volume in which nothing was measured: it is black."""
    problem = build_denoise_problem(np.zeros(scan.image_shape, np.float32), "mr")
    return PreparedSlice(problem, _real_part(problem), problem.x1, blank=True, notes=(EMPTY_NOTE,))


def _prepare_sinogram(scan: SinogramScan, index: int) -> PreparedSlice:
    sinogram = scan.sinogram(index)
    problem = build_ct_problem(
        sinogram,
        scan.geometry,
        scan.recon_matrix,
        scan.pixel_spacing_mm,
        mu_water_per_mm=scan.mu_water_per_mm,
        photons=scan.photons,
    )
    note = view_note(scan.geometry, scan.recon_matrix, scan.pixel_spacing_mm)
    return PreparedSlice(
        problem,
        _real_part(problem),
        _unreconstructed(problem),
        n_views=scan.geometry.n_views,
        notes=() if note is None else (note,),
        measured=sinogram,
    )


def _prepare_image(scan: ImageScan, index: int, task: Task, factor: int) -> PreparedSlice:
    modality = scan.info.modality
    image = scan.image(index, missing=task == "inpaint")
    known = np.isfinite(image) if task == "inpaint" else None
    if known is not None:
        problem = build_inpaint_problem(image, known, modality)
    elif task == "super-resolve":
        problem = build_superresolution_problem(image, factor, modality)
    else:
        problem = build_denoise_problem(image, modality)
    # A magnitude has no negative values, and must not get any.
    is_magnitude = modality == "mr" and not (image < 0).any()
    to_scan = _real_part(problem, lowest=0.0 if is_magnitude else -np.inf)
    measured = None if known is None else known.astype(np.float32)
    prepared = PreparedSlice(problem, to_scan, _unreconstructed(problem), measured=measured)
    if np.ptp(image if known is None else image[known]) == 0:
        return replace(prepared, blank=True, notes=(BLANK_NOTE,))
    if task == "denoise" and not np.array_equal(problem.b, prepared.unreconstructed):
        return replace(prepared, notes=(RICIAN_NOTE,))
    return prepared


def _unreconstructed(problem: Problem) -> NDArray[np.float32]:
    return problem.x1 if problem.unreconstructed is None else problem.unreconstructed


def _real_part(problem: Problem, lowest: float = -np.inf) -> ToScan:
    _, height, width = problem.b.shape
    top, left, rows, columns = problem.crop or (0, 0, height, width)

    def to_scan(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        image = planes[0, top : top + rows, left : left + columns]
        scaled = image * np.float32(problem.scale) + np.float32(problem.offset)
        bounded: NDArray[np.float32] = np.maximum(scaled, np.float32(lowest))
        return bounded

    return to_scan
