"""Sample scans of every input format, simulated from the analytic head phantom.

No inverse crime: k-space comes from a grid twice as fine as the one reconstructed, with phase,
coil sensitivities and noise that the reconstruction is not told; sinograms come from closed-form
line integrals with the width of the detector and photon noise. Written to a temporary file
first, then renamed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.atomic import atomic_file, make_folder
from ldmpir_edge.errors import UsageError
from ldmpir_edge.physics.fourier import centred_fft, centred_ifft
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.scans import sample_files
from ldmpir_edge.scans.coils import random_phase, simulate_coil_maps
from ldmpir_edge.scans.model import MU_WATER_PER_MM
from ldmpir_edge.scans.phantom import head_phantom, line_integrals, rasterise

SampleKind = Literal["mri", "ismrmrd", "ct", "ct-fan", "dicom"]
SAMPLE_KINDS: tuple[SampleKind, ...] = get_args(SampleKind)

_MATRIX = 256
_N_COILS = 8
_HEIGHTS = (-0.35, 0.0, 0.35)
_ACCELERATION = 4
_N_ACS = 20
_KSPACE_NOISE = 0.01
_CT_SPACING_MM = 0.9
_PHOTONS = 2.0e5
_SUBRAYS = 3


def write_sample(kind: SampleKind, folder: Path, seed: int = 0) -> Path:
    """Write one sample scan and give its path; the same seed gives the same content.

    Parameters
    ----------
    kind
        - `mri`: fastMRI HDF5, three slices of 256 × 256, 8 coils, readout oversampled twice,
          4-fold undersampled with 20 autocalibration lines, with mask and reference.
        - `ismrmrd`: the same acquisition as ISMRMRD HDF5, with a noise scan of correlated coils.
        - `ct`: sinogram HDF5, parallel beam, 120 views, three slices with reference.
        - `ct-fan`: the same with a fan beam, 160 views.
        - `dicom`: one noisy MR image.
    folder
        Created if missing.
    seed
        Of the head, the coils and the noise.

    Raises
    ------
    UsageError
        There is no such kind.
    OutputError
        The folder or the file cannot be written.
    """
    writers: dict[str, tuple[str, Callable[[Path, np.random.Generator], None]]] = {
        "mri": ("sample-mri.h5", _write_fastmri),
        "ismrmrd": ("sample-ismrmrd.h5", _write_ismrmrd),
        "ct": ("sample-ct.h5", _write_parallel),
        "ct-fan": ("sample-ct-fan.h5", _write_fan),
        "dicom": ("sample-dicom.dcm", _write_dicom),
    }
    if kind not in writers:
        raise UsageError(f"no sample of kind {kind!r}; choose one of {', '.join(SAMPLE_KINDS)}")
    name, write = writers[kind]
    make_folder(folder)
    target = folder / name
    with atomic_file(target) as temporary:
        write(temporary, np.random.default_rng(seed))
    return target


def write_mri_slice(path: Path, size: int, n_coils: int, seed: int = 0) -> None:
    """Write the middle slice of the sample `mri` in another size: `(size, size)` pixels.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    with atomic_file(path) as temporary:
        rng = np.random.default_rng(seed)
        _write_fastmri(temporary, rng, matrix=size, n_coils=n_coils, heights=(0.0,))


def _simulate_mri(
    rng: np.random.Generator,
    *,
    readout_is_x: bool,
    matrix: int | None = None,
    n_coils: int = _N_COILS,
    heights: Sequence[float] = _HEIGHTS,
) -> tuple[NDArray[np.complex64], NDArray[np.float32], NDArray[np.bool_]]:
    """Simulate k-space without noise: samples, root-sum-of-squares reference and mask."""
    head_state = int(rng.integers(2**32))
    matrix = matrix or _MATRIX
    # Both axes twice as fine, and readout twice as long: the scanner's oversampling.
    fine = (4 * matrix, 2 * matrix)
    maps = simulate_coil_maps(fine, n_coils, rng)
    samples, references = [], []
    for height in heights:
        head = head_phantom(np.random.default_rng(head_state), height)
        shape = (fine[1], fine[0]) if readout_is_x else fine
        magnitude = rasterise(head, shape, "mr", oversampling=2)
        image = (magnitude.T if readout_is_x else magnitude) * random_phase(fine, rng)
        spectrum = centred_fft(maps * image, (-2, -1))
        # Half the samples of each axis over the same view: amplitudes halve under unitarity.
        rows, columns = slice(matrix, 3 * matrix), slice(matrix // 2, 3 * matrix // 2)
        kspace = (spectrum[:, rows, columns] / 2).astype(np.complex64)
        coil_images = centred_ifft(kspace, (-2, -1))[:, matrix // 2 : 3 * matrix // 2]
        samples.append(kspace)
        references.append(np.sqrt(np.sum(np.abs(coil_images) ** 2, axis=0)))
    n_acs = min(_N_ACS, matrix)
    mask = np.zeros(matrix, np.bool_)
    mask[int(rng.integers(_ACCELERATION)) :: _ACCELERATION] = True
    mask[(matrix - n_acs) // 2 : (matrix + n_acs) // 2] = True
    return np.stack(samples), np.stack(references).astype(np.float32), mask


def _complex_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex64]:
    values = rng.standard_normal((*shape, 2), np.float32)
    noise: NDArray[np.complex64] = values.view(np.complex64)[..., 0]
    return noise


def _write_fastmri(path: Path, rng: np.random.Generator, **changes: Any) -> None:
    kspace, reference, mask = _simulate_mri(rng, readout_is_x=False, **changes)
    kspace = (kspace + _KSPACE_NOISE * _complex_noise(rng, kspace.shape)) * mask
    sample_files.write_fastmri(path, kspace.astype(np.complex64), reference, mask)


def _write_ismrmrd(path: Path, rng: np.random.Generator) -> None:
    kspace, _, mask = _simulate_mri(rng, readout_is_x=True)
    mixing = np.eye(_N_COILS) + 0.12 * rng.standard_normal((_N_COILS, _N_COILS))
    mixing = (_KSPACE_NOISE * mixing * rng.uniform(0.7, 1.4, (_N_COILS, 1))).astype(np.complex64)
    noise = np.einsum("dc,scxy->sdxy", mixing, _complex_noise(rng, kspace.shape))
    noise_scan = mixing @ _complex_noise(rng, (_N_COILS, 8 * kspace.shape[2]))
    sample_files.write_ismrmrd(path, (kspace + noise).astype(np.complex64), mask, noise_scan)


def _write_parallel(path: Path, rng: np.random.Generator) -> None:
    angles = np.pi * np.arange(120) / 120
    _write_ct(path, rng, {"kind": "parallel", "angles_rad": angles, "detector_spacing_mm": 0.9})


def _write_fan(path: Path, rng: np.random.Generator) -> None:
    angles = 2 * np.pi * np.arange(160) / 160
    fan = {"detector_spacing_mm": 1.6, "source_origin_mm": 540.0, "origin_detector_mm": 410.0}
    _write_ct(path, rng, {"kind": "fan-equidistant", "angles_rad": angles, **fan})


def _write_ct(path: Path, rng: np.random.Generator, geometry: dict[str, Any]) -> None:
    n_detectors = 367
    pitch = geometry["detector_spacing_mm"] / _SUBRAYS
    fine = {**geometry, "detector_spacing_mm": pitch}
    phi, s = RadonGeometry(n_detectors=n_detectors * _SUBRAYS, **fine).lines()
    unit_mm = _CT_SPACING_MM * _MATRIX / 2
    head_state = int(rng.integers(2**32))
    sinograms, references = [], []
    for height in _HEIGHTS:
        head = head_phantom(np.random.default_rng(head_state), height)
        # A detector averages the intensity, not the attenuation, over its width.
        transmitted = np.exp(-line_integrals(head, phi, s, unit_mm, MU_WATER_PER_MM))
        transmitted = transmitted.reshape(len(transmitted), n_detectors, _SUBRAYS).mean(axis=-1)
        counts = np.maximum(rng.poisson(_PHOTONS * transmitted), 1)
        sinograms.append(-np.log(counts / _PHOTONS))
        references.append(rasterise(head, (_MATRIX, _MATRIX), "hu"))
    attributes = {"geometry" if k == "kind" else k: v for k, v in geometry.items()}
    angles = attributes.pop("angles_rad")
    attributes |= {
        "format": "ldmpir-sinogram",
        "version": 1,
        "detector_offset": 0.0,
        "recon_matrix": np.array([_MATRIX, _MATRIX]),
        "pixel_spacing_mm": _CT_SPACING_MM,
        "photons": _PHOTONS,
        "mu_water_per_mm": MU_WATER_PER_MM,
    }
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        shape = (1, len(angles), n_detectors)
        file.create_dataset("sinogram", data=np.stack(sinograms).astype(np.float32), chunks=shape)
        file["angles_rad"] = angles
        file["reference"] = np.stack(references)


def _write_dicom(path: Path, rng: np.random.Generator) -> None:
    head = head_phantom(np.random.default_rng(int(rng.integers(2**32))))
    image = rasterise(head, (_MATRIX, _MATRIX), "mr") * random_phase((_MATRIX, _MATRIX), rng)
    # Noise enters before the magnitude: dark regions get the bias that real ones have.
    noisy = np.abs(image + 0.05 * _complex_noise(rng, image.shape))
    sample_files.write_dicom(path, noisy.astype(np.float32), seed_text=str(rng.integers(2**62)))
