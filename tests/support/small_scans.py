"""Scans that reconstruct in a moment, with the image that they were made from."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from ellipses import analytic_sinogram, pixelated

from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.scans import sample_files

SIZE = 48
"""Pixels along a side of the k-space scans."""

CT_SIZE = 32
CT_SPACING_MM = 3.5
MU_WATER_PER_MM = 0.02


def disc(size: int) -> np.ndarray:
    """A textured ellipse without a symmetry, in [0, 1], on a dark ground."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    inside = ((x - 0.1) / 0.7) ** 2 + ((y + 0.1) / 0.8) ** 2 < 1
    return (inside * (0.6 + 0.3 * np.sin(5 * x + 1) * np.cos(7 * y))).astype(np.float32)


def fft2c(image: np.ndarray) -> np.ndarray:
    """Centred orthonormal 2-D transform, by numpy alone."""
    axes = (-2, -1)
    shifted = np.fft.ifftshift(image, axes=axes)
    return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=axes)


def gaussian_maps(shape: tuple[int, int], n_coils: int) -> np.ndarray:
    """`(coils, H, W)` of coils on a circle, normalised to unit sum of squares."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    turn = 2 * np.pi * np.arange(n_coils)[:, None, None] / n_coils
    distance = (x - 1.2 * np.cos(turn)) ** 2 + (y - 1.2 * np.sin(turn)) ** 2
    maps = np.exp(-distance / 1.6 + 1j * (turn + x * np.cos(turn) - y * np.sin(turn)))
    return maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))


def coil_images(size: int = SIZE, n_coils: int = 4, scale: float = 3e-4) -> np.ndarray:
    """`(coils, size, size)` complex: the disc with a smooth phase, on fastMRI's tiny scale."""
    ramp = np.linspace(-1, 1, size)
    phase = np.exp(1j * (0.7 * ramp[None, :] - 0.4 * ramp[:, None] ** 2))
    return scale * gaussian_maps((size, size), n_coils) * disc(size) * phase


def oversampled_kspace(images: np.ndarray) -> np.ndarray:
    """`(slices, coils, 2n, n)` complex64 of `(slices, coils, n, n)`: readout twice as long."""
    n = images.shape[-2]
    padded = np.pad(images, ((0, 0), (0, 0), (n // 2, n - n // 2), (0, 0)))
    return fft2c(padded).astype(np.complex64)


def root_sum_of_squares(images: np.ndarray) -> np.ndarray:
    """`(slices, H, W)` float32."""
    return np.sqrt(np.sum(np.abs(images) ** 2, axis=1)).astype(np.float32)


def column_mask(size: int = SIZE, acceleration: int = 1, n_acs: int = 16) -> np.ndarray:
    """Every `acceleration`-th column and the centre, `(size,)` bool."""
    mask = np.arange(size) % acceleration == 0
    mask[(size - n_acs) // 2 : (size + n_acs) // 2] = True
    return mask


def write_fastmri(
    path: Path, *, acceleration: int = 1, n_slices: int = 1, size: int = SIZE, n_coils: int = 4
) -> np.ndarray:
    """Write a noiseless scan and give its `(slices, H, W)` root-sum-of-squares image."""
    images = np.stack([coil_images(size, n_coils) * (1 + 0.2 * i) for i in range(n_slices)])
    mask = column_mask(size, acceleration, min(16, size))
    reference = root_sum_of_squares(images)
    sample_files.write_fastmri(path, oversampled_kspace(images) * mask, reference, mask)
    return reference


def write_ismrmrd(path: Path, rng: np.random.Generator, *, noise: float = 1e-6) -> np.ndarray:
    """Write a full scan of correlated, unequal coils; gives `(1, H, W)` as it is delivered.

    The mixture of the channels is in signal and noise scan alike, so that whitening must both
    happen and be undone on the way to the root-sum-of-squares image.
    """
    n_coils = 4
    mixing = np.diag([1.0, 2.0, 0.5, 1.5]) + 0.2 * rng.standard_normal((n_coils, n_coils))
    images = np.einsum("dc,chw->dhw", mixing, coil_images(n_coils=n_coils))[None]
    white = rng.standard_normal((2, n_coils, 16 * 2 * SIZE)) * noise
    noise_scan = (mixing @ (white[0] + 1j * white[1])).astype(np.complex64)
    kspace = oversampled_kspace(images)
    sample_files.write_ismrmrd(path, kspace, np.ones(SIZE, np.bool_), noise_scan)
    # Readout runs along the columns of the image that is delivered.
    return np.ascontiguousarray(root_sum_of_squares(images).transpose(0, 2, 1))


def write_deadly_ismrmrd(path: Path) -> None:
    """Write a table of a float type with no machine's exponent bias: libhdf5 2.0.0 frees twice."""
    write_ismrmrd(path, np.random.default_rng(0))
    data = bytearray(path.read_bytes())
    bias = data.index(b"idx\0") - 4  # of the member before: the last property of its type
    assert data[bias : bias + 4] == (127).to_bytes(4, "little")
    data[bias] = 125
    path.write_bytes(data)


def write_sinogram(path: Path, kind: str = "parallel", n_views: int = 60) -> np.ndarray:
    """Write the ellipse phantom's closed-form sinogram; gives its `(1, H, W)` image in HU."""
    angles = np.arange(n_views) * (np.pi if kind == "parallel" else 2 * np.pi) / n_views
    attributes = {"detector_spacing_mm": 2.5, "detector_offset": 0.0}
    if kind != "parallel":
        attributes |= {
            "detector_spacing_mm": 5.0,
            "source_origin_mm": 180.0,
            "origin_detector_mm": 180.0,
        }
    geometry = RadonGeometry(kind=kind, angles_rad=angles, n_detectors=56, **attributes)
    hu = 1000 * (pixelated((CT_SIZE, CT_SIZE), CT_SPACING_MM) / MU_WATER_PER_MM - 1)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            format="ldmpir-sinogram",
            version=1,
            geometry=kind,
            recon_matrix=np.array([CT_SIZE, CT_SIZE]),
            pixel_spacing_mm=CT_SPACING_MM,
            photons=1e6,
            mu_water_per_mm=MU_WATER_PER_MM,
            **attributes,
        )
        file["sinogram"] = analytic_sinogram(geometry)[None].astype(np.float32)
        file["angles_rad"] = angles
        file["reference"] = hu[None].astype(np.float32)
    return hu[None].astype(np.float32)


def write_dicom(path: Path, rng: np.random.Generator, sigma: float = 0.05) -> np.ndarray:
    """Write one noisy MR image; gives the `(1, H, W)` noisy image, 1000 at disc value 1."""
    noisy = np.abs(disc(SIZE) + sigma * rng.standard_normal((SIZE, SIZE))).astype(np.float32)
    sample_files.write_dicom(path, noisy, seed_text="small")
    return np.round(1000 * noisy[None])
