"""What the writers take: a finished volume with the scan that it came from and its history."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
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

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON values; the date in ISO 8601."""
        return {**asdict(self), "created": self.created.isoformat()}


@dataclass(frozen=True)
class Reconstruction:
    """A reconstructed volume, ready to be written.

    Parameters
    ----------
    image
        `(slices, H, W)` float32 on the scan's scale: MR magnitude, or HU for CT. Finite.
    info
        The scan's geometry, identity and sequence.
    stem
        Outputs are named after it; a plain file name without its suffix.
    provenance
        How the volume was made.
    checks
        One dictionary of JSON values a slice, from the reconstruction's own checks. A slice that
        was delivered as the classical image says why under `fallback`.
    notes
        Remarks on the reconstruction for the person who reads it; those of `info` go with them.
    input_files
        The files of the scan, `Scan.files`: no writer may replace them.

    Raises
    ------
    ShapeError
        `image` is not `(slices, H, W)`, is empty, or `checks`, `info.planes` or
        `info.source_datasets` count another number of slices.
    OutputError
        `image` is not float32, holds NaN or infinite values, or `stem` is not a plain name.
    """

    image: NDArray[np.float32] = field(repr=False)
    info: ScanInfo
    stem: str
    provenance: Provenance
    checks: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    input_files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or 0 in self.image.shape:
            raise ShapeError(
                f"a reconstruction has shape {self.image.shape}; it must be (slices, H, W)"
            )
        if self.image.dtype != np.float32:
            raise OutputError(f"a reconstruction is {self.image.dtype}; convert it to float32")
        for name, per_slice in (
            ("checks", self.checks),
            ("planes", self.info.planes),
            ("source data sets", self.info.source_datasets),
        ):
            if per_slice and len(per_slice) != self.n_slices:
                raise ShapeError(
                    f"{len(per_slice)} {name} for {self.n_slices} slices; give one a slice, or none"
                )
        _check_finite(self.image)
        if PurePath(self.stem).name != self.stem or self.stem in {"", ".", ".."}:
            raise OutputError(f"outputs cannot be named after {self.stem!r}; give a plain name")

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return int(self.image.shape[0])

    @property
    def geometry(self) -> VolumeGeometry:
        """Where the volume lies, completed by stated assumptions."""
        n_slices, rows, columns = self.image.shape
        return resolve_geometry(self.info, (n_slices, rows, columns))

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Every remark that a reader should see: on reading, geometry and reconstruction."""
        return (*self.info.notes, *self.geometry.assumptions, *self.notes)

    def fallback_reason(self, index: int) -> str | None:
        """Why slice `index` holds the classical image, or None where the model's was kept."""
        reason = self.checks[index].get("fallback") if self.checks else None
        return str(reason) if reason else None


def _check_finite(image: NDArray[np.float32]) -> None:
    bad = np.flatnonzero(~np.isfinite(image).all(axis=(1, 2)))
    if bad.size:
        raise OutputError(
            f"slice {bad[0]} ({bad.size} of {len(image)}) holds NaN or infinite values and is not "
            "written; run again with --precision fp32"
        )
