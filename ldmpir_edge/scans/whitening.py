"""Noise prewhitening, and the noise level of a scan without a noise measurement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.errors import ScanDataError, ShapeError
from ldmpir_edge.physics.noise import NORMAL_MEDIAN

_OUTERMOST = 0.03
"""Share of the samples, those of highest frequency, that the noise is told from."""
_FILTERED = 0.5
"""Corners with less than this share of the noise inside the circle were filtered."""


def noise_covariance(noise_samples: NDArray[np.complex64]) -> NDArray[np.complex128]:
    """Estimate the noise covariance between coils, `(coils, coils)`, per real component.

    Parameters
    ----------
    noise_samples
        `(coils, n)` complex, signal-free, n at least twice the coils.

    Raises
    ------
    ShapeError
        Too few samples for a covariance of full rank.
    ScanDataError
        A coil carries no noise at all (switched off), or the noise is not finite.
    """
    n_coils, n_samples = noise_samples.shape
    if n_samples < 2 * n_coils:
        raise ShapeError(
            f"{n_samples} noise samples for {n_coils} coils; a covariance needs at least "
            f"{2 * n_coils}"
        )
    samples = noise_samples.astype(np.complex128)
    samples = samples - samples.mean(axis=1, keepdims=True)
    covariance: NDArray[np.complex128] = np.asarray(
        samples @ samples.conj().T / (2.0 * (n_samples - 1)), np.complex128
    )
    variances = covariance.diagonal().real
    if not np.isfinite(covariance).all() or variances.min() <= 1e-12 * variances.max():
        raise ScanDataError(
            f"the noise scan has variances from {variances.min():.3g} to {variances.max():.3g}; "
            "a coil is dead, remove it or leave the noise scan out"
        )
    return covariance


def whitening_factor(covariance: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Give the lower Cholesky factor L of a `(coils, coils)` covariance, C = L Lᴴ.

    Whitened samples are L⁻¹ y: noise of unit variance per real component, uncorrelated.

    Raises
    ------
    ScanDataError
        The covariance is singular: two channels carry the same signal.

    Source: Kellman & McVeigh, MRM 54(6), 2005; Pruessmann et al., MRM 46(4), 2001.
    """
    try:
        return np.asarray(np.linalg.cholesky(covariance), np.complex128)
    except np.linalg.LinAlgError as err:
        raise ScanDataError(
            "the noise covariance is singular: channels repeat one another; remove the copies or "
            "leave the noise scan out"
        ) from err


def whiten(samples: NDArray[np.complex64], factor: NDArray[np.complex128]) -> NDArray[np.complex64]:
    """Apply L⁻¹ to `(coils, ...)` samples; same shape, complex64."""
    from scipy.linalg import solve_triangular  # slow to import, and for scans with noise samples

    inverse = solve_triangular(factor, np.eye(len(factor)), lower=True)
    flat = inverse.astype(np.complex64) @ samples.reshape(len(samples), -1)
    whitened: NDArray[np.complex64] = flat.reshape(samples.shape)
    return whitened


def noise_level(kspace: NDArray[np.complex64], frequency: NDArray[np.float64]) -> float:
    """Estimate the noise's standard deviation per real component from the corners of k-space.

    The median absolute deviation over the samples of highest frequency is robust against the
    little signal that reaches them; it overestimates the noise of a nearly noise-free scan.
    The edge of the readout alone would, with one coil at R = 4, be read as one and a half to two
    times the noise: most columns lie near the middle, where there is signal to the last row.
    Where corners were filtered off, the samples just inside the inscribed circle are asked.

    Parameters
    ----------
    kspace
        `(coils, readout, phase_encode)` complex, zero where nothing was sampled.
    frequency
        `(readout, phase_encode)`, distance from the middle of k-space; see `k_radius`.

    Returns
    -------
        In the unit of `kspace`.
    """
    # A scanner that fills corners with zeros measured nothing there, either.
    there = (kspace != 0).any(axis=0)
    corners = _outermost(kspace, there, frequency)
    inside = _outermost(kspace, there & (frequency <= 1), frequency)
    return inside if corners < _FILTERED * inside else corners


def _outermost(
    kspace: NDArray[np.complex64], there: NDArray[np.bool_], frequency: NDArray[np.float64]
) -> float:
    if not there.any():
        return 0.0
    outermost = there & (frequency >= np.quantile(frequency[there], 1.0 - _OUTERMOST))
    values = kspace[:, outermost]
    deviations = np.abs(np.concatenate([values.real.ravel(), values.imag.ravel()]))
    return float(np.median(deviations) / NORMAL_MEDIAN)


def k_radius(height: int, width: int) -> NDArray[np.float64]:
    """Give each sample's distance from the middle of k-space, `(height, width)`; edges are at 1."""
    rows, columns = ((np.arange(n) - n // 2) / (n / 2) for n in (height, width))
    return np.hypot(rows[:, None], columns)
