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
from ldmpir_edge.scans.coil_maps import (
    MIN_ESPIRIT_LINES,
    estimate_coil_maps,
    norm_over_coils,
)
from ldmpir_edge.scans.whitening import (
    k_radius,
    noise_covariance,
    noise_level,
    whiten,
    whitening_factor,
)

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
        `(C, H, W)` complex64, sum over coils of |S|² is 1 where there can be signal, else 0.
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
        corners of k-space and the coils are taken as equally noisy.
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
    n_coils, height, width = kspace.shape
    notes: list[str] = []
    if calibration is None:
        present = np.broadcast_to(sampled, (height, width))
        rows, columns = _calibration_region(present, n_coils, notes)
        lines = kspace[:, :, columns] * present[:, columns]
    else:
        calibration = _pad(calibration, recon_matrix)
        rows, columns = _calibration_region((calibration != 0).any(axis=0), n_coils, notes)
        lines = calibration[:, :, columns]

    # What whitening and compression do to the coils is found on the calibration lines, gathered
    # in one matrix and applied once to the samples.
    mixing = np.eye(n_coils, dtype=np.complex64)
    factor, matrix = None, mixing
    if noise_samples is not None:
        factor = whitening_factor(noise_covariance(noise_samples))
        mixing, lines = whiten(mixing, factor), whiten(lines, factor)
    if n_coils > MAX_VIRTUAL_COILS:
        matrix, kept = compression_matrix(lines[:, rows], MAX_VIRTUAL_COILS)
        notes.append(
            f"{n_coils} coils compressed to {MAX_VIRTUAL_COILS}, keeping {kept:.1%} of the "
            "calibration signal"
        )
        mixing, lines = compress(mixing, matrix), compress(lines, matrix)

    is_hybrid = sampled.ndim == 1
    # Columns that were not sampled stay zero whatever is done to them: they are left out.
    samples = compress(kspace[:, :, sampled] if is_hybrid else kspace * sampled, mixing)
    level = 1.0
    if factor is None:
        frequency = k_radius(height, width)
        level = noise_level(samples, frequency[:, sampled] if is_hybrid else frequency)

    readout = recon_matrix[0] if is_hybrid else height
    shape = (readout, width)
    data, block = samples, lines[:, rows]
    if is_hybrid:
        data = np.zeros((len(samples), *shape), np.complex64)
        data[:, :, sampled] = _image_of_readout(samples, readout)
        # The maps must live in the cropped view: k-space of the calibration lines is resampled.
        cropped = centred_fft(_image_of_readout(lines, readout), (1,))
        n_rows = (rows.stop - rows.start) * readout // height
        block = cropped[:, _centre(readout, max(1, min(n_rows, _MAX_CALIBRATION_READOUT)))]
    csm = estimate_coil_maps(block, shape)
    return MriMeasurement(
        data=data,
        csm=csm,
        mask=sampled.astype(np.float32),
        is_hybrid=is_hybrid,
        noise_level=level,
        rss_scale=_rss_scale(csm, matrix, factor),
        crop=_crop(shape, recon_matrix),
        notes=tuple(notes),
    )


def _calibration_region(
    present: NDArray[np.bool_], n_coils: int, notes: list[str]
) -> tuple[slice, slice]:
    """Find the autocalibration block, or settle for the low frequencies and say so."""
    height, width = present.shape
    rows, columns = central_block(present)
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
    # R of a QR decomposition has the norms of what it factors, and no more rows than columns.
    back = np.linalg.qr(factor @ matrix.conj().T).R
    return norm_over_coils(compress(csm, back.astype(np.complex64)))


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
