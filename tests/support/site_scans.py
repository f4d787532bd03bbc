"""Five small scans of one protocol, as a site that fine-tunes has them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from small_scans import (
    MU_WATER_PER_MM,
    coil_images,
    column_mask,
    disc,
    oversampled_kspace,
    root_sum_of_squares,
)

from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.noise import add_poisson_gaussian
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.scans import sample_files

SIZE = 48


def write_site(
    folder: Path,
    kind: str,
    n_scans: int = 5,
    *,
    acceleration: int = 3,
    n_acs: int = 12,
    size: int = SIZE,
    n_coils: int = 4,
    nan: bool = False,
    n_views: int = 24,
) -> list[Path]:
    """Write `n_scans` scans of `kind` that differ in anatomy and noise; gives their files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(n_scans):
        rng = np.random.default_rng([11, k])
        if kind == "mri":
            path = folder / f"scan{k}.h5"
            _write_kspace(path, rng, k, acceleration, n_acs, size, n_coils, nan)
        elif kind == "ct":
            path = folder / f"scan{k}.h5"
            _write_sinogram(path, rng, k, n_views)
        else:
            path = folder / f"scan{k}.dcm"
            noisy = np.abs(_anatomy(k, size) + 0.2 * rng.standard_normal((size, size)))
            sample_files.write_dicom(path, noisy.astype(np.float32), seed_text=f"site {k}")
        paths.append(path)
    return paths


def _anatomy(k: int, size: int) -> np.ndarray:
    return np.roll(disc(size), (2 * k - 4, 3 - k), (0, 1)) * (1 - 0.05 * k)


def _write_kspace(
    path: Path,
    rng: np.random.Generator,
    k: int,
    acceleration: int,
    n_acs: int,
    size: int,
    n_coils: int,
    nan: bool,
) -> None:
    scale = 3e-4
    plain = disc(size)
    ratio = np.where(plain > 0, _anatomy(k, size) / np.where(plain > 0, plain, 1), 0)
    images = coil_images(size, n_coils, scale)[None] * ratio
    mask = column_mask(size, acceleration, n_acs)
    kspace = oversampled_kspace(images)
    noise = rng.standard_normal((2, *kspace.shape)) * 0.01 * scale
    kspace = ((kspace + noise[0] + 1j * noise[1]) * mask).astype(np.complex64)
    if nan:
        kspace[0, 0, 3, size // 2] = np.nan
    sample_files.write_fastmri(path, kspace, root_sum_of_squares(images), mask)


def _write_sinogram(path: Path, rng: np.random.Generator, k: int, n_views: int) -> None:
    spacing_mm, n, photons = 3.5, 32, 2e4
    angles = np.arange(n_views) * np.pi / n_views
    geometry = RadonGeometry(
        kind="parallel", angles_rad=angles, n_detectors=48, detector_spacing_mm=spacing_mm
    )
    attenuation = (_anatomy(k, n) * MU_WATER_PER_MM).astype(np.float32)
    ideal = RadonOp(geometry, (n, n), spacing_mm).forward(attenuation)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            format="ldmpir-sinogram",
            version=1,
            geometry="parallel",
            recon_matrix=np.array([n, n]),
            pixel_spacing_mm=spacing_mm,
            photons=photons,
            mu_water_per_mm=MU_WATER_PER_MM,
            detector_spacing_mm=spacing_mm,
            detector_offset=0.0,
        )
        file["sinogram"] = add_poisson_gaussian(ideal, photons, 0.0, rng)[None].astype(np.float32)
        file["angles_rad"] = angles
        file["reference"] = (1000 * (attenuation / MU_WATER_PER_MM - 1))[None].astype(np.float32)
