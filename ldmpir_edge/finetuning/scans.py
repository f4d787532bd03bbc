"""From a site's files to measured slices, or one line that says what does not serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, UsageError
from ldmpir_edge.finetuning.kspace import MeasuredKspace
from ldmpir_edge.finetuning.measured import MeasuredSlice
from ldmpir_edge.finetuning.noisy_image import NoisyImage
from ldmpir_edge.finetuning.recipe import Loss
from ldmpir_edge.finetuning.sinogram import MeasuredSinogram
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import ImageScan, KspaceScan, Scan, SinogramScan
from ldmpir_edge.scans.prepare_mri import prepare_mri

MIN_SCANS = 3
"""Fewer say little about the next one; about five are wanted."""
MAX_SLICES = 15
"""Of all scans together: memory grows with them, and neighbours teach the same."""
MIN_ACS = 8
SETTINGS = ("kind", "modality", "matrix", "number of coils", "geometry", "pixel spacing")
FULLY_SAMPLED = 0.98


@dataclass(frozen=True)
class SiteSlice:
    """A slice to learn from.

    Parameters
    ----------
    measured
        What was measured.
    reference
        `(h, w)` on the scan's scale, turned as k-space is, or None.
    rss_scale
        What magnitudes are multiplied with on their way to that scale; 1 but for MRI.
    """

    measured: MeasuredSlice
    reference: NDArray[np.float32] | None = field(default=None, repr=False)
    rss_scale: NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SiteScans:
    """The slices of all scans, and the SHA-256 of each scan, sorted: no order tells a patient."""

    slices: tuple[SiteSlice, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True)
class ScanSource:
    """A scan that can be opened again: `open` does, `name` is what messages call it."""

    name: str
    open: Callable[[], AbstractContextManager[Scan]]


@dataclass(frozen=True)
class DescribedScan:
    """A scan that was looked into: what it is, and in which settings it was acquired.

    Scans of one protocol have equal settings, in the order of `SETTINGS`.
    """

    source: ScanSource
    digest: str
    n_slices: int
    is_image: bool
    settings: tuple[object, ...]


def load_scans(paths: Sequence[Path], loss: Loss, noise_level: float | None = None) -> SiteScans:
    """Read a site's scans: up to `MAX_SLICES` slices, spread about the middle of each.

    Parameters
    ----------
    paths
        Files or folders, one scan each.
    loss
        `supervised` reads the references.
    noise_level
        For images: standard deviation of their Gaussian noise; None estimates it.

    Raises
    ------
    UsageError
        The scans are too few or do not go together, or do not serve the loss.
    ScanError
        A scan cannot be read, or has nothing to learn from.
    """
    scans = [describe_scan(ScanSource(str(path), partial(open_scan, path))) for path in paths]
    _check_alike(scans)
    return read_scans(scans, loss, noise_level)


def describe_scan(source: ScanSource) -> DescribedScan:
    """Look into a scan.

    Raises
    ------
    ScanError
        It cannot be read.
    """
    with source.open() as scan:
        return describe_open_scan(source, scan)


def describe_open_scan(source: ScanSource, scan: Scan) -> DescribedScan:
    """Describe a scan that `source` has opened; as `describe_scan`."""
    is_image = isinstance(scan, ImageScan)
    return DescribedScan(source, scan.content_sha256, scan.n_slices, is_image, _settings(scan))


def read_scans(
    scans: Sequence[DescribedScan], loss: Loss, noise_level: float | None = None
) -> SiteScans:
    """Read slices of scans of one protocol, one scan after another; as `load_scans`."""
    digests = sorted({scan.digest for scan in scans})
    if len(digests) < MIN_SCANS:
        raise UsageError(
            f"{len(digests)} different scan{'s' if len(digests) != 1 else ''} given; "
            f"fine-tuning needs at least {MIN_SCANS}, better five, of as many patients"
        )
    if noise_level is not None and not scans[0].is_image:
        raise UsageError("--noise-level is for images; raw data carry their own noise")
    if loss == "split" and scans[0].is_image:
        raise UsageError(
            "an image has no lines or views to split; use the default loss, which for images "
            "estimates its error by SURE"
        )
    per_scan = max(1, MAX_SLICES // len(scans))
    slices: list[SiteSlice] = []
    for described in scans:
        with described.source.open() as scan:
            slices += [
                read_slice(scan, index, loss, noise_level)
                for index in middle_slices(scan.n_slices, per_scan)
            ]
    return SiteScans(tuple(slices), tuple(digests))


def middle_slices(n_slices: int, wanted: int) -> list[int]:
    """Choose indices spread over the middle half, where there is anatomy."""
    n = min(n_slices, wanted)
    return sorted({int(n_slices * (0.25 + 0.5 * (k + 0.5) / n)) for k in range(n)})


def _check_alike(scans: Sequence[DescribedScan]) -> None:
    first = scans[0]
    for scan in scans[1:]:
        for what, one, other in zip(SETTINGS, first.settings, scan.settings, strict=True):
            if one != other:
                raise UsageError(
                    f"{first.source.name} and {scan.source.name} differ in {what}"
                    f"{_both(one, other)}; fine-tune on scans of one protocol"
                )


def _settings(scan: Scan) -> tuple[object, ...]:
    coils = scan.n_coils if isinstance(scan, KspaceScan) else None
    geometry = scan.geometry if isinstance(scan, SinogramScan) else None
    spacing = scan.pixel_spacing_mm if isinstance(scan, SinogramScan) else None
    return scan.kind, scan.info.modality, scan.image_shape, coils, geometry, spacing


def _both(one: object, other: object) -> str:
    text = f" ({one} and {other})"
    return text if len(text) < 60 else ""


def read_slice(scan: Scan, index: int, loss: Loss, noise_level: float | None = None) -> SiteSlice:
    """Read one slice; as `load_scans`, which checks that slices go together."""
    reference = scan.reference(index) if loss == "supervised" else None
    if loss == "supervised" and reference is None:
        raise UsageError(
            f"{scan.path} holds no reference image; --loss supervised needs one in every scan: "
            "leave the option out"
        )
    if isinstance(scan, KspaceScan):
        return _read_kspace(scan, index, reference)
    if isinstance(scan, SinogramScan):
        return SiteSlice(MeasuredSinogram(scan.sinogram(index), scan), reference)
    if isinstance(scan, ImageScan):
        return SiteSlice(NoisyImage(scan.image(index), scan.info.modality, noise_level), reference)
    raise UsageError(f"no way to fine-tune on a {type(scan).__name__}")


def _read_kspace(scan: KspaceScan, index: int, reference: NDArray[np.float32] | None) -> SiteSlice:
    calibration = scan.calibration(index)
    prepared = prepare_mri(
        scan.kspace(index), scan.mask, scan.noise_samples, scan.recon_matrix, calibration
    )
    measured = MeasuredKspace(prepared)
    if measured.n_acs < MIN_ACS:
        raise ScanDataError(
            f"{scan.path} has {measured.n_acs} autocalibration lines at the centre of k-space; "
            f"fine-tuning needs {MIN_ACS} to know the coils: acquire them, or use the base as it is"
        )
    if measured.sampled_share >= FULLY_SAMPLED:
        raise ScanDataError(
            f"{scan.path} is fully sampled: no line is missing that could be learned; give scans "
            "undersampled as the site acquires them, or train on their images with "
            "'ldmpir-edge train'"
        )
    if reference is not None and scan.rows_are_phase:
        reference = np.ascontiguousarray(reference.T)
    top, left, height, width = prepared.crop
    if reference is not None and (height, width) != measured.grid:
        whole = np.zeros(measured.grid, np.float32)
        whole[top : top + height, left : left + width] = reference
        reference = whole
    return SiteSlice(measured, reference, prepared.rss_scale)
