"""From a slice as the scanner wrote it to what the reconstruction works on.

In order: which samples were measured; noise prewhitening; coil compression; readout oversampling
off; sensitivity maps. Transforms are centred and orthonormal, as in fastMRI, so images keep the
scale of the input's root-sum-of-squares image and noise keeps its level between domains.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ShapeError
from ldmpir_edge.physics.fourier import centred_fft, centred_ifft
from ldmpir_edge.scans.calibration import central_block, sampled_positions
from ldmpir_edge.scans.coil_compression import MAX_VIRTUAL_COILS, compress, compression_matrix
from ldmpir_edge.scans.coil_maps import MIN_ESPIRIT_LINES, estimate_coil_maps
from ldmpir_edge.scans.whitening import noise_covariance, noise_level, whiten, whitening_factor

_FALLBACK_LINES = 12
_MAX_CALIBRATION_READOUT = 64


@dataclass(frozen=True, eq=False)
class MriMeasurement:
    """One prepared slice.

    Parameters
    ----------
    data
        `(C, H, W)` complex64, zero where not sampled. Transformed along readout (axis H is an
        image axis) when `is_hybrid`, otherwise k-space.
    csm
        `(C, H, W)` complex64, sum over coils of |S|² is 1.
    mask
        `(W,)` float32 when `is_hybrid`, otherwise `(H, W)`; 1 where sampled.
    is_hybrid
        The mask is the same for all readout positions.
    noise_level
        Standard deviation of the noise per real component of `data`; 1 after whitening.
    rss_scale
        `(H, W)` float32: a reconstructed |x| times this is on the scale of the input's
        root-sum-of-squares image. 1 without whitening.
    crop
        (top, left, height, width) of the wanted image in the grid of `data`.
    notes
        What was done for want of something better, in words.
    """

    data: NDArray[np.complex64] = field(repr=False)
    csm: NDArray[np.complex64] = field(repr=False)
    mask: NDArray[np.float32] = field(repr=False)
    is_hybrid: bool
    noise_level: float
    rss_scale: NDArray[np.float32] = field(repr=False)
    crop: tuple[int, int, int, int]
    notes: tuple[str, ...] = ()


def prepare_mri(
    kspace: NDArray[np.complex64],
    mask: NDArray[np.generic] | None,
    noise_samples: NDArray[np.complex64] | None,
    recon_matrix: tuple[int, int],
    calibration: NDArray[np.complex64] | None = None,
) -> MriMeasurement:
    """Prepare one slice of Cartesian k-space.

    Parameters
    ----------
    kspace
        `(coils, readout, phase_encode)` complex64, zero where not sampled.
    mask
        What the file says was sampled, or None; see `sampled_positions`.
    noise_samples
        `(coils, n)` complex64 of a noise scan, or None: the level is then estimated from the
        edge of k-space and the coils are taken as equally noisy.
    recon_matrix
        (readout, phase encode) size of the wanted image; a larger one than was encoded is
        reached by zero filling.
    calibration
        Separate calibration scan, like `kspace`, or None.

    Raises
    ------
    ShapeError
        The arrays do not fit together.
    ScanDataError
        Nothing was sampled, or the noise scan is unusable.
    """
    _check_shapes(kspace, noise_samples, recon_matrix, calibration)
    sampled = _pad_sampled(sampled_positions(kspace, mask), kspace.shape, recon_matrix)
    kspace = _pad(kspace, recon_matrix)
    grid = np.broadcast_to(sampled, kspace.shape[1:])
    kspace = np.where(grid, kspace, np.complex64(0))
    source = kspace if calibration is None else _pad(calibration, recon_matrix)
    notes: list[str] = []

    factor = None
    if noise_samples is not None:
        factor = whitening_factor(noise_covariance(noise_samples))
        kspace = whiten(kspace, factor)
        source = kspace if calibration is None else whiten(source, factor)
    rows, columns = _calibration_region(source, notes)
    matrix = np.eye(len(kspace), dtype=np.complex64)
    if len(kspace) > MAX_VIRTUAL_COILS:
        matrix, kept = compression_matrix(source[:, rows, columns], MAX_VIRTUAL_COILS)
        notes.append(
            f"{len(kspace)} coils compressed to {MAX_VIRTUAL_COILS}, keeping {kept:.1%} of the "
            "calibration signal"
        )
        kspace = compress(kspace, matrix)
        source = kspace if calibration is None else compress(source, matrix)
    level = 1.0 if factor is not None else noise_level(kspace, grid)

    is_hybrid = sampled.ndim == 1
    readout = recon_matrix[0] if is_hybrid else kspace.shape[1]
    shape = (readout, kspace.shape[2])
    block = source[:, rows, columns]
    if is_hybrid:
        # The maps must live in the cropped view: k-space of the calibration lines is resampled.
        cropped = centred_fft(_image_of_readout(source[:, :, columns], readout), (1,))
        n_rows = (rows.stop - rows.start) * readout // kspace.shape[1]
        block = cropped[:, _centre(readout, max(1, min(n_rows, _MAX_CALIBRATION_READOUT)))]
    csm = estimate_coil_maps(block, shape)
    return MriMeasurement(
        data=_image_of_readout(kspace, readout) if is_hybrid else kspace,
        csm=csm,
        mask=sampled.astype(np.float32),
        is_hybrid=is_hybrid,
        noise_level=level,
        rss_scale=_rss_scale(csm, matrix, factor),
        crop=_crop(shape, recon_matrix),
        notes=tuple(notes),
    )


def _calibration_region(source: NDArray[np.complex64], notes: list[str]) -> tuple[slice, slice]:
    """Find the autocalibration block, or settle for the low frequencies and say so."""
    n_coils, height, width = source.shape
    rows, columns = central_block((source != 0).any(axis=0))
    lines = min(rows.stop - rows.start, columns.stop - columns.start)
    if lines == 0:
        notes.append(
            "the centre of k-space is not fully sampled: coil maps come from undersampled low "
            "frequencies and are unreliable"
        )
        return _centre(height, min(height, _FALLBACK_LINES)), _centre(
            width, min(width, _FALLBACK_LINES)
        )
    if n_coils > 1 and lines < MIN_ESPIRIT_LINES:
        notes.append(
            f"only {lines} autocalibration lines: coil maps by Walsh's method, less accurate than "
            f"ESPIRiT, which needs {MIN_ESPIRIT_LINES}"
        )
    return rows, columns


def _image_of_readout(kspace: NDArray[np.complex64], readout: int) -> NDArray[np.complex64]:
    """Transform along readout and keep the central part: readout oversampling off."""
    image = centred_ifft(kspace, (1,))
    cropped: NDArray[np.complex64] = image[:, _centre(kspace.shape[1], readout)]
    return np.ascontiguousarray(cropped, np.complex64)


def _rss_scale(
    csm: NDArray[np.complex64],
    matrix: NDArray[np.complex64],
    factor: NDArray[np.complex128] | None,
) -> NDArray[np.float32]:
    """Undo in magnitude what whitening did: ‖L Vᴴ S‖ at each pixel, with Σ|S|² = 1."""
    if factor is None:
        return np.ones(csm.shape[1:], np.float32)
    back = (factor @ matrix.conj().T).astype(np.complex64)
    received = np.tensordot(back, csm, axes=1)
    norm: NDArray[np.float32] = np.sqrt(np.sum(received.real**2 + received.imag**2, axis=0))
    return norm


def _crop(shape: tuple[int, int], recon_matrix: tuple[int, int]) -> tuple[int, int, int, int]:
    rows, columns = (_centre(n, wanted) for n, wanted in zip(shape, recon_matrix, strict=True))
    return (rows.start, columns.start, *recon_matrix)


def _centre(size: int, wanted: int) -> slice:
    """Give the slice of `wanted` samples that keeps index n // 2 at its middle."""
    start = size // 2 - wanted // 2
    return slice(start, start + wanted)


def _pad(kspace: NDArray[np.complex64], recon_matrix: tuple[int, int]) -> NDArray[np.complex64]:
    """Zero fill k-space up to the wanted matrix where that is larger."""
    height, width = (max(n, m) for n, m in zip(kspace.shape[1:], recon_matrix, strict=True))
    if (height, width) == kspace.shape[1:]:
        return kspace
    padded = np.zeros((len(kspace), height, width), np.complex64)
    padded[:, _centre(height, kspace.shape[1]), _centre(width, kspace.shape[2])] = kspace
    return padded


def _pad_sampled(
    sampled: NDArray[np.bool_], shape: tuple[int, ...], recon_matrix: tuple[int, int]
) -> NDArray[np.bool_]:
    """Extend the sampled positions as `_pad` extends k-space; the new ones are not measured."""
    height, width = (max(n, m) for n, m in zip(shape[1:], recon_matrix, strict=True))
    if (height, width) == shape[1:]:
        return sampled
    if sampled.ndim == 1 and height == shape[1]:
        padded = np.zeros(width, np.bool_)
        padded[_centre(width, shape[2])] = sampled
        return padded
    full = np.zeros((height, width), np.bool_)
    full[_centre(height, shape[1]), _centre(width, shape[2])] = sampled
    return full


def _check_shapes(
    kspace: NDArray[np.complex64],
    noise_samples: NDArray[np.complex64] | None,
    recon_matrix: tuple[int, int],
    calibration: NDArray[np.complex64] | None,
) -> None:
    if kspace.ndim != 3 or 0 in kspace.shape:
        raise ShapeError(
            f"k-space has shape {kspace.shape}; give (coils, readout, phase_encode), none empty"
        )
    if min(recon_matrix) < 1:
        raise ShapeError(f"the wanted image has shape {recon_matrix}; it needs pixels")
    if noise_samples is not None and (noise_samples.ndim != 2 or len(noise_samples) != len(kspace)):
        raise ShapeError(
            f"noise samples have shape {noise_samples.shape} for {len(kspace)} coils; give "
            "(coils, n)"
        )
    if calibration is not None and calibration.shape != kspace.shape:
        raise ShapeError(
            f"calibration has shape {calibration.shape} and k-space {kspace.shape}; they must agree"
        )
