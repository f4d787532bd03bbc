"""Noise of the acquisitions: Gaussian (complex for MRI) and photon counting (CT)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COUNT_FLOOR = 0.5
"""Counts are lifted to this before the logarithm: half a photon, below any real count."""

NORMAL_MEDIAN = 0.6744897501960817
"""Median of |z| for a standard normal z, by which a spread is told past outliers: Rousseeuw and
Croux, JASA 88(424), 1993."""

MAX_LINE_INTEGRAL = 12.0
"""Beyond exp(−12) no photon is left to count; larger values only reflect the floor."""


def add_gaussian(
    x: NDArray[np.inexact], noise_level: float, rng: np.random.Generator
) -> NDArray[np.inexact]:
    """Add white Gaussian noise of standard deviation `noise_level` per real component.

    A complex `x` gets circular noise: its magnitude is then Rician. Shape and dtype stay.
    """
    noise = rng.standard_normal(x.shape)
    if np.iscomplexobj(x):
        noise = noise + 1j * rng.standard_normal(x.shape)
    return (x + noise_level * noise).astype(x.dtype)


def add_poisson_gaussian(
    line_integrals: NDArray[np.floating],
    photons: float,
    electronic_std: float,
    rng: np.random.Generator,
) -> NDArray[np.floating]:
    """Pass line integrals through a photon-counting detector with electronic noise.

    Parameters
    ----------
    line_integrals
        Any shape, −ln(I/I₀), not negative.
    photons
        I₀, expected count without an object.
    electronic_std
        Standard deviation of the electronic noise, in photons.
    rng
        Source of randomness.

    Returns
    -------
        Noisy line integrals, shape and dtype of the input, at most ln(2 I₀) (`COUNT_FLOOR`).
    """
    counts = rng.poisson(photons * np.exp(-line_integrals.astype(np.float64)))
    measured = counts + electronic_std * rng.standard_normal(counts.shape)
    noisy = -np.log(np.maximum(measured, COUNT_FLOOR) / photons)
    return noisy.astype(line_integrals.dtype)


def line_integral_variance(
    line_integrals: NDArray[np.floating], photons: float
) -> NDArray[np.float64]:
    """Return the variance exp(p)/I₀ that photon counting gives each line integral p.

    First order in 1/counts (the delta method), any shape.
    """
    p = np.clip(line_integrals.astype(np.float64), 0.0, MAX_LINE_INTEGRAL)
    return np.exp(p) / photons


def estimate_photons(sinogram: NDArray[np.floating]) -> float:
    """Estimate I₀ from the sinogram `(views, detectors)` alone.

    The second difference along the detectors removes what is smooth; of white noise with
    variance exp(p)/I₀ it leaves 6 exp(p)/I₀. Divided by exp(p/2) its spread is the same on every
    ray, and the median over all rays reads it past the edges of the object.

    A sinogram without noise yields a very large count, never infinity.
    """
    p = sinogram.astype(np.float64)
    if p.shape[-1] < 3:
        return _MOST_PHOTONS
    difference = p[:, :-2] - 2 * p[:, 1:-1] + p[:, 2:]
    spread = np.exp(-np.clip(p[:, 1:-1], 0.0, MAX_LINE_INTEGRAL) / 2)
    size = np.abs(difference * spread)
    # Exact zeros come from rays that were set to a value, such as those through air.
    alive = size[size > 0]
    if alive.size == 0:
        return _MOST_PHOTONS
    deviation = np.median(alive) / NORMAL_MEDIAN
    return float(min(6.0 / max(deviation**2, 1e-300), _MOST_PHOTONS))


_MOST_PHOTONS = 1e12
