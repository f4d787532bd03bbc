"""Reconstructions of every origin, for the writers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_validator import dciodvfy_errors

from ldmpir_edge.scans.model import ScanInfo, SlicePlane
from ldmpir_edge.scans.reconstruction import Provenance, Reconstruction

Validator = Callable[[Path], list[str]]


@pytest.fixture
def provenance() -> Provenance:
    return Provenance(
        input_sha256="ab" * 32,
        bundle_name="ldmpir-2m",
        bundle_sha256="cd" * 32,
        precision="fp16",
        backend="onnxruntime",
        n_steps=4,
        task="mri",
        software_version="0.1.0",
        created=datetime(2026, 11, 22, 14, 30, 5),
    )


@pytest.fixture
def mr(rng: np.random.Generator, provenance: Provenance) -> Reconstruction:
    """Two oblique slices from k-space, on the tiny scale of fastMRI, with uneven pixels."""
    row, column = (0.8, 0.6, 0.0), (-0.36, 0.48, 0.8)
    normal = np.cross(row, column)
    first = np.array([-40.0, 12.5, 7.25])
    planes = tuple(
        SlicePlane(tuple(float(x) for x in first + 5.5 * i * normal), row, column) for i in range(2)
    )
    info = ScanInfo(
        modality="mr",
        pixel_spacing_mm=(0.6875, 0.75),
        slice_thickness_mm=5.0,
        slice_spacing_mm=5.5,
        planes=planes,
        protocol_name="AXT2 Köpfe",
        manufacturer="SIEMENS",
        model_name="Prisma",
        patient_position="HFS",
        sequence_type="TurboSpinEcho",
        field_strength_t=2.8936,
        echo_time_ms=107.0,
        repetition_time_ms=5660.0,
        flip_angle_deg=160.0,
    )
    image = rng.gamma(2.0, 3.1e-5, (2, 20, 24)).astype(np.float32)
    return Reconstruction(image=image, info=info, stem="brain", provenance=provenance)


@pytest.fixture
def ct(rng: np.random.Generator, provenance: Provenance) -> Reconstruction:
    """Three slices from projections whose position nobody stated."""
    image = rng.uniform(-1000, 1500, (3, 32, 30)).astype(np.float32)
    return Reconstruction(
        image=image,
        info=ScanInfo(modality="ct", pixel_spacing_mm=(0.8, 0.8)),
        stem="chest",
        provenance=provenance,
        checks=[{"residual": 1.0}, {"residual": 9.0, "fallback": "residual 9.0 above 3.0"}, {}],
        notes=("photons unknown",),
    )


@pytest.fixture(params=["mr-datalad", "ct-lidc0003"])
def denoised(
    request: pytest.FixtureRequest, shared_data: Path, provenance: Provenance
) -> Reconstruction:
    """Two real DICOM slices, shifted by half a grey level less a bit, as a denoiser's output."""
    files = tuple(sorted((shared_data / "dicom" / request.param).glob("*.dcm"))[:2])
    sources = [pydicom.dcmread(path) for path in files]
    slopes = [float(ds.get("RescaleSlope", 1)) for ds in sources]
    intercepts = [float(ds.get("RescaleIntercept", 0)) for ds in sources]
    image = np.stack(
        [
            ds.pixel_array * slope + intercept + 0.4
            for ds, slope, intercept in zip(sources, slopes, intercepts, strict=True)
        ]
    ).astype(np.float32)
    for ds in sources:
        del ds.PixelData
    info = ScanInfo(
        modality="mr" if sources[0].Modality == "MR" else "ct",
        pixel_spacing_mm=tuple(float(x) for x in sources[0].PixelSpacing),
        source_datasets=tuple(sources),
    )
    return Reconstruction(
        image=image, info=info, stem=request.param, provenance=provenance, input_files=files
    )


@pytest.fixture
def dciodvfy() -> Validator:
    """Run dciodvfy on a file and give its lines that start with Error."""
    return dciodvfy_errors
