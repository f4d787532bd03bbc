"""What every reader delivers: a scan whose slices are read one at a time.

A scan is valid only inside the `open_scan` block that gave it. Each public method checks the slice
index and the values that it returns; a format's reader implements the `_read_*` methods only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, UsageError
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.problem import Modality

ScanKind = Literal["mri", "ct", "image"]
Number = TypeVar("Number", np.float32, np.complex64)
Vector = tuple[float, float, float]

MU_WATER_PER_MM = 0.0192
"""Attenuation of water at 70 keV, the effective energy of a 120 kV beam (NIST XCOM)."""


class EmptySliceError(ScanDataError):
    """In k-space of one slice nothing was measured."""


@dataclass(frozen=True)
class SlicePlane:
    """Where a delivered image lies in the patient, in DICOM's LPS coordinates.

    Parameters
    ----------
    position_mm
        Centre of the first pixel (row 0, column 0).
    row_direction
        Unit vector along a row: towards growing column index.
    column_direction
        Unit vector along a column: towards growing row index.
    """

    position_mm: Vector
    row_direction: Vector
    column_direction: Vector


@dataclass(frozen=True)
class ScanInfo:
    """What is known of a scan beside its samples; nothing here identifies the patient.

    Parameters
    ----------
    modality
        `mr` or `ct`; conditions the network and selects the DICOM class.
    pixel_spacing_mm
        (Row spacing, column spacing) of the delivered images, as DICOM orders them.
    slice_thickness_mm, slice_spacing_mm
        Thickness, and distance of neighbouring slice centres.
    planes
        One for each slice, or empty when the position is unknown.
    field_strength_t, echo_time_ms, repetition_time_ms, inversion_time_ms, flip_angle_deg
        Acquisition parameters, where the file states them.
    echoes
        Number, from 1, and echo time in ms of the echo that each slice is of; empty for scans of
        one echo. The time is None where the file does not state one for each.
    source_datasets
        For DICOM input, one pydicom data set without pixels for each slice, in slice order.
        These do carry patient data; they exist so that the output can name its source.
    notes
        Facts about the reading that the user should know.
    """

    modality: Modality
    pixel_spacing_mm: tuple[float, float] | None = None
    slice_thickness_mm: float | None = None
    slice_spacing_mm: float | None = None
    planes: tuple[SlicePlane, ...] = ()
    protocol_name: str | None = None
    manufacturer: str | None = None
    model_name: str | None = None
    patient_position: str | None = None
    sequence_type: str | None = None
    field_strength_t: float | None = None
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_deg: float | None = None
    echoes: tuple[tuple[int, float | None], ...] = ()
    source_datasets: tuple[Any, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    def of_slice(self, index: int) -> ScanInfo:
        """Describe one slice as a scan of its own."""
        part = slice(index, index + 1)
        return replace(
            self,
            planes=self.planes[part],
            echoes=self.echoes[part],
            source_datasets=self.source_datasets[part],
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Scan(ABC):
    """One scan on disk.

    Parameters
    ----------
    path
        The file or folder that was opened.
    files
        The files that hold the samples, in slice order where there are several.
    n_slices
        Number of images that the scan gives.
    info
        Geometry and description.
    """

    kind: ClassVar[ScanKind]
    path: Path
    files: tuple[Path, ...]
    n_slices: int
    info: ScanInfo

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int]:
        """(Rows, columns) of the images that a reconstruction delivers."""

    @cached_property
    def content_sha256(self) -> str:
        """Hex digest of the files' bytes, for unique identifiers that a rerun repeats."""
        digest = sha256()
        for path in self.files:
            with path.open("rb") as stream:
                digest.update(file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def reference(self, index: int) -> NDArray[np.float32] | None:
        """Read the reference image `(H, W)` float32 that the file carries, or None.

        Raises
        ------
        UsageError
            No such slice.
        ScanDataError
            The reference holds NaN or infinity, or cannot be read.
        """
        self._check_index(index)
        image = self._read_reference(index)
        return None if image is None else self._finite(image, f"reference of slice {index}")

    def _read_reference(self, index: int) -> NDArray[np.float32] | None:
        return None

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.n_slices:
            raise UsageError(
                f"{self.path} has no slice {index}; choose one of 0 to {self.n_slices - 1}"
            )

    def _finite(self, values: NDArray[Number], what: str) -> NDArray[Number]:
        if not np.isfinite(values).all():
            bad = values.size - int(np.count_nonzero(np.isfinite(values)))
            raise ScanDataError(
                f"{self.path}: {what} holds {bad} NaN or infinite values; export the scan again"
            )
        return values


@dataclass(frozen=True, eq=False, kw_only=True)
class KspaceScan(Scan):
    """Cartesian MRI raw data.

    Parameters
    ----------
    n_coils
        Receive channels of every slice.
    recon_matrix
        (Readout, phase encode) size of the image inside the encoded field of view: crop to it,
        around index n // 2, after reconstruction.
    rows_are_phase
        The delivered image has phase encoding along its rows' index and readout along its
        columns', that is, transposed relative to k-space (ISMRMRD). Otherwise the image keeps
        the order of k-space, as fastMRI's reconstructions do.
    mask
        `(phase_encode,)` bool, the columns that the file declares sampled, or None: then the
        samples that are not zero count as measured.
    noise_samples
        `(coils, n)` complex64 of a noise scan, scaled to the imaging bandwidth, or None.
    """

    kind: ClassVar[ScanKind] = "mri"
    n_coils: int
    recon_matrix: tuple[int, int]
    rows_are_phase: bool
    mask: NDArray[np.bool_] | None = None
    noise_samples: NDArray[np.complex64] | None = None

    @property
    def image_shape(self) -> tuple[int, int]:
        """(Rows, columns) of the delivered images: `recon_matrix`, transposed for ISMRMRD."""
        readout, phase = self.recon_matrix
        return (phase, readout) if self.rows_are_phase else (readout, phase)

    def kspace(self, index: int) -> NDArray[np.complex64]:
        """Read the samples of slice `index`: `(coils, readout, phase_encode)` complex64.

        Raises
        ------
        UsageError
            No such slice.
        EmptySliceError
            The samples are all zero.
        ScanDataError
            They hold NaN or infinity.
        """
        self._check_index(index)
        samples = self._finite(self._read_kspace(index), f"k-space of slice {index}")
        if not samples.any():
            raise EmptySliceError(
                f"{self.path}: k-space of slice {index} holds only zeros; nothing was measured"
            )
        return samples

    def calibration(self, index: int) -> NDArray[np.complex64] | None:
        """Read the separate calibration scan of slice `index`, or None.

        Returns
        -------
            Like `kspace`, zero where not sampled; serves the coil maps only.
        """
        self._check_index(index)
        samples = self._read_calibration(index)
        return None if samples is None else self._finite(samples, f"calibration of slice {index}")

    @abstractmethod
    def _read_kspace(self, index: int) -> NDArray[np.complex64]: ...

    def _read_calibration(self, index: int) -> NDArray[np.complex64] | None:
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class SinogramScan(Scan):
    """CT projections as line integrals −ln(I/I₀).

    Parameters
    ----------
    geometry
        Where the rays run, the same for every slice.
    recon_matrix
        (H, W) of the image.
    pixel_spacing_mm
        Pitch of its square pixels.
    photons
        I₀ for each ray, or None when unknown.
    mu_water_per_mm
        Attenuation that stands for 0 HU.
    """

    kind: ClassVar[ScanKind] = "ct"
    geometry: RadonGeometry
    recon_matrix: tuple[int, int]
    pixel_spacing_mm: float
    photons: float | None = None
    mu_water_per_mm: float = MU_WATER_PER_MM

    @property
    def image_shape(self) -> tuple[int, int]:
        """(Rows, columns) of the delivered images."""
        return self.recon_matrix

    def sinogram(self, index: int) -> NDArray[np.float32]:
        """Read the projections of slice `index`: `(views, detectors)` float32.

        Raises
        ------
        UsageError
            No such slice.
        ScanDataError
            The projections hold NaN or infinity.
        """
        self._check_index(index)
        return self._finite(self._read_sinogram(index), f"sinogram of slice {index}")

    @abstractmethod
    def _read_sinogram(self, index: int) -> NDArray[np.float32]: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageScan(Scan):
    """Images that another reconstruction made, to be denoised, completed or enlarged.

    Parameters
    ----------
    shape
        (H, W) of every image.
    """

    kind: ClassVar[ScanKind] = "image"
    shape: tuple[int, int]

    @property
    def image_shape(self) -> tuple[int, int]:
        """(Rows, columns) of the input images."""
        return self.shape

    def image(self, index: int, *, missing: bool = False) -> NDArray[np.float32]:
        """Read image `index`: `(H, W)` float32 in the input's unit (HU for CT).

        Parameters
        ----------
        index
            Which slice.
        missing
            NaN marks a missing pixel and is let through.

        Raises
        ------
        UsageError
            No such slice.
        ScanDataError
            The image holds NaN or infinity, or its pixels cannot be decoded.
        """
        self._check_index(index)
        image = self._read_image(index)
        self._finite(np.nan_to_num(image) if missing else image, f"image {index}")
        return image

    @abstractmethod
    def _read_image(self, index: int) -> NDArray[np.float32]: ...
