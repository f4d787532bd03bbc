"""Simulated receive arrays and image phase, for sample scans and for training data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.scans.interpolation import upsample

_KNOTS = 28
_SEGMENTS = 24


def simulate_coil_maps(
    shape: tuple[int, int], n_coils: int, rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Simulate the sensitivities of circular loops around the object by Biot-Savart.

    Every call draws another array: its radius, ellipticity, rotation, loop size, one or two rings,
    the slice's distance from it and its orientation (axial or longitudinal).

    Parameters
    ----------
    shape
        `(H, W)` of the field of view, which is two units wide in the array's geometry.
    n_coils
        Number of loops, at least 1.
    rng
        Source of the geometry.

    Returns
    -------
        `(n_coils, H, W)` complex64, smooth; the mean over the image of the root of sum |S|² is 1.

    Source: Roemer et al., MRM 16(2), 1990 (the field of a loop is its receive sensitivity).
    """
    rows = np.linspace(-1.0, 1.0, _KNOTS)
    y, x = np.meshgrid(rows, rows, indexing="ij")
    z = np.full_like(x, rng.uniform(-0.5, 0.5))
    # An axial slice lies across the bore (z = B0); a longitudinal one contains it.
    points = np.stack((x, y, z) if rng.random() < 0.6 else (x, z, y), axis=-1)
    start, current = _loops(n_coils, rng)
    field = _biot_savart(points, start, current)
    # Only the field across B0 induces a signal; the receive field is its counter-rotating part.
    maps = field[..., 0] - 1j * field[..., 1]
    maps = maps * np.exp(2j * np.pi * rng.random((n_coils, 1, 1)))
    full = upsample(maps.astype(np.complex64), shape)
    scale = np.sqrt(np.sum(np.abs(full) ** 2, axis=0)).mean()
    return np.asarray(full / scale, np.complex64)


def random_phase(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.complex64]:
    """Draw a smooth image phase as B0 offsets, eddy currents and the transmit field leave it.

    Parameters
    ----------
    shape
        `(H, W)` of the image.
    rng
        Source of the phase.

    Returns
    -------
        `(H, W)` complex64 of modulus 1: exp(iφ), φ a random plane plus a smooth random field.
    """
    n_knots = int(rng.integers(4, 8))
    phase = rng.uniform(0.2, 1.0) * upsample(
        rng.standard_normal((n_knots, n_knots)).astype(np.float32), shape
    )
    rows = np.linspace(-1.0, 1.0, shape[0])[:, None]
    columns = np.linspace(-1.0, 1.0, shape[1])[None, :]
    slope = rng.normal(0.0, 1.0, 2)
    phase = phase + slope[0] * rows + slope[1] * columns + rng.uniform(0.0, 2.0 * np.pi)
    return np.asarray(np.exp(1j * phase), np.complex64)


def _loops(
    n_coils: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Place the loops: midpoints and current elements of their segments, `(n_coils, S, 3)`."""
    n_rings = 2 if n_coils >= 8 and rng.random() < 0.5 else 1
    ring = np.arange(n_coils) % n_rings
    per_ring = -(-n_coils // n_rings)
    angle = 2.0 * np.pi * (np.arange(n_coils) // n_rings + 0.5 * ring) / per_ring
    angle = angle + rng.uniform(0.0, 2.0 * np.pi) + rng.normal(0.0, 0.08, n_coils)
    distance = rng.uniform(1.2, 1.7)
    ellipse = rng.uniform(0.85, 1.15)
    centre = np.stack(
        [
            distance * ellipse * np.cos(angle),
            distance / ellipse * np.sin(angle),
            (ring - 0.5 * (n_rings - 1)) * rng.uniform(0.6, 1.2) + rng.normal(0.0, 0.1, n_coils),
        ],
        axis=-1,
    )
    radius = rng.uniform(0.35, 0.8) * rng.uniform(0.9, 1.1, n_coils)
    tangent = np.stack([-np.sin(angle), np.cos(angle), np.zeros(n_coils)], axis=-1)
    axial = np.array([0.0, 0.0, 1.0])
    turn = 2.0 * np.pi * (np.arange(_SEGMENTS) + 0.5) / _SEGMENTS
    cos, sin = np.cos(turn)[None, :, None], np.sin(turn)[None, :, None]
    size = radius[:, None, None]
    midpoint = centre[:, None, :] + size * (cos * tangent[:, None, :] + sin * axial)
    current = size * (-sin * tangent[:, None, :] + cos * axial) * (2.0 * np.pi / _SEGMENTS)
    return midpoint, current


def _biot_savart(
    points: NDArray[np.float64], midpoint: NDArray[np.float64], current: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum dI × r / |r|³ over the segments: `(n_coils, h, w, 3)`."""
    separation = points[None, :, :, None, :] - midpoint[:, None, None, :, :]
    # A wire of finite thickness: the field stays bounded where a corner of the view touches it.
    distance = np.sqrt(np.sum(separation**2, axis=-1) + 0.15**2)
    elements = np.cross(current[:, None, None, :, :], separation) / distance[..., None] ** 3
    return np.asarray(elements.sum(axis=-2))
