"""What the writers take: a volume slice by slice, with the scan it came from and its history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import OutputError, ShapeError
from ldmpir_edge.physics.problem import Task
from ldmpir_edge.scans.geometry import VolumeGeometry, resolve_geometry
from ldmpir_edge.scans.model import ScanInfo


@dataclass(frozen=True)
class Provenance:
    """How a reconstruction was made: what a reader needs to make it again.

    Parameters
    ----------
    input_sha256
        Hexadecimal SHA-256 of the scan's content: `Scan.content_sha256`.
    bundle_name, bundle_sha256
        The bundle's model name and the hexadecimal SHA-256 of the whole file.
    precision, backend, n_steps
        The variant that ran, the engine that ran it and the number of sampler steps.
    task
        What the model was asked for.
    software_version
        Version of ldmpir-edge.
    created
        When the reconstruction was made: the clock of every written date.
    seed
        Seed of the sampler's noise; None for the deterministic mean.
    factor
        How many times as fine super-resolution made the pixels; 1 for other tasks.
    """

    input_sha256: str
    bundle_name: str
    bundle_sha256: str
    precision: str
    backend: str
    n_steps: int
    task: Task
    software_version: str
    created: datetime
    seed: int | None = None
    factor: int = 1

    @property
    def purpose(self) -> str:
        """The task in words, with the factor of super-resolution."""
        return self.task if self.factor == 1 else f"{self.task} x{self.factor}"

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON values; the date in ISO 8601."""
        return {**asdict(self), "created": self.created.isoformat()}


@dataclass(frozen=True)
class VolumeHeader:
    """What is known of a reconstruction before its first slice.

    Parameters
    ----------
    shape
        (slices, H, W) of the volume.
    info
        The scan's geometry, identity and sequence.
    stem
        Outputs are named after it; a plain file name without its suffix.
    input_files
        The files of the scan, `Scan.files`: no writer may replace them.

    Raises
    ------
    ShapeError
        `shape` is not (slices, H, W), is empty, or `info.planes`, `info.echoes` or
        `info.source_datasets` count another number of slices.
    OutputError
        `stem` is not a plain name.
    """

    shape: tuple[int, int, int]
    info: ScanInfo
    stem: str
    input_files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or 0 in self.shape:
            raise ShapeError(f"a reconstruction has shape {self.shape}; it must be (slices, H, W)")
        for name, per_slice in (
            ("planes", self.info.planes),
            ("echoes", self.info.echoes),
            ("source data sets", self.info.source_datasets),
        ):
            if per_slice and len(per_slice) != self.n_slices:
                raise ShapeError(
                    f"{len(per_slice)} {name} for {self.n_slices} slices; give one a slice, or none"
                )
        if PurePath(self.stem).name != self.stem or self.stem in {"", ".", ".."}:
            raise OutputError(f"outputs cannot be named after {self.stem!r}; give a plain name")

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return self.shape[0]

    @cached_property
    def geometry(self) -> VolumeGeometry:
        """Where the volume lies, completed by stated assumptions."""
        return resolve_geometry(self.info, self.shape)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on reading and geometry, which hold for every slice."""
        return (*self.info.notes, *self.geometry.assumptions)


@dataclass(frozen=True)
class ReconstructedSlice:
    """One finished slice of a volume.

    Parameters
    ----------
    index
        Its place in the volume, from 0.
    image
        `(H, W)` float32 on the scan's scale: MR magnitude, or HU for CT. Finite.
    provenance
        How it was made.
    checks
        JSON values of the reconstruction's own checks. A slice that was delivered as the
        classical image says why under `fallback`.
    notes
        Remarks on its reconstruction for the person who reads it; those of the header go with
        them.

    Raises
    ------
    OutputError
        `image` is not float32, or holds NaN or infinite values.
    """

    index: int
    image: NDArray[np.float32] = field(repr=False)
    provenance: Provenance
    checks: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.image.dtype != np.float32:
            raise OutputError(f"a reconstruction is {self.image.dtype}; convert it to float32")
        if not np.isfinite(self.image).all():
            raise OutputError(
                f"slice {self.index} holds NaN or infinite values and is not written; run again "
                "with --precision fp32"
            )

    @property
    def fallback(self) -> str | None:
        """Why this is the classical image, or None where the model's was kept."""
        reason = self.checks.get("fallback")
        return str(reason) if reason else None


@dataclass(frozen=True)
class Reconstruction:
    """A reconstructed volume in memory.

    Parameters
    ----------
    image
        `(slices, H, W)` float32 on the scan's scale: MR magnitude, or HU for CT. Finite.
    info, stem, input_files
        As in `VolumeHeader`.
    provenance
        How the volume was made.
    checks
        One dictionary of JSON values a slice, or none at all; as in `ReconstructedSlice`.
    notes
        Remarks on the reconstruction of any slice.

    Raises
    ------
    ShapeError
        As `VolumeHeader`, or `checks` count another number of slices.
    OutputError
        As `VolumeHeader` and `ReconstructedSlice`.
    """

    image: NDArray[np.float32] = field(repr=False)
    info: ScanInfo
    stem: str
    provenance: Provenance
    checks: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    input_files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        n_slices = self.header.n_slices
        if self.checks and len(self.checks) != n_slices:
            raise ShapeError(
                f"{len(self.checks)} checks for {n_slices} slices; give one a slice, or none"
            )
        for _ in self.slices():
            pass  # each is checked as it is made

    @cached_property
    def header(self) -> VolumeHeader:
        """What its outputs have in common."""
        return VolumeHeader(self.image.shape, self.info, self.stem, self.input_files)

    def slices(self) -> Iterator[ReconstructedSlice]:
        """Give the slices one by one, as a writer takes them."""
        for index, image in enumerate(self.image):
            checks = self.checks[index] if self.checks else {}
            yield ReconstructedSlice(index, image, self.provenance, checks, self.notes)
